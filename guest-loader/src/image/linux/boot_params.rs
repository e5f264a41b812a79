//! The zero page and the setup header in it (Linux arch/x86/include/uapi/asm/bootparam.h,
//! Documentation/arch/x86/zero-page.rst). Only fields that are read or written have a name.

use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Offset of the setup header, in the file and in the zero page.
pub const HEADER_AT: usize = 0x1F1;
/// In the zero page the setup header ends here at the latest (`edd_mbr_sig_buffer`).
pub const HEADER_LIMIT: usize = 0x290;
/// Entries in the memory map of the zero page.
pub const E820_MAX: usize = 128;

/// `struct setup_header` up to `init_size`, which is as far as protocol 2.12 must reach.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupHeader {
    /// Real-mode sectors after the boot sector.
    pub setup_sects: u8,
    root_flags: U16,
    /// Size of the protected-mode part, in units of 16 bytes.
    pub syssize: U32,
    ram_size: U16,
    vid_mode: U16,
    root_dev: U16,
    /// 0xAA55.
    pub boot_flag: U16,
    jump: u8,
    /// Distance of the jump over the header, from offset 0x202.
    pub jump_offset: u8,
    magic: [u8; 4],
    /// Protocol version, major in the high byte.
    pub version: U16,
    realmode_switch: U32,
    start_sys_seg: U16,
    kernel_version: U16,
    /// Who loads.
    pub type_of_loader: u8,
    /// Bit 0: the protected-mode part goes to 1 MiB or above.
    pub loadflags: u8,
    setup_move_size: U16,
    /// The 32-bit entry; a hint here.
    pub code32_start: U32,
    /// Address of the initial RAM disk.
    pub ramdisk_image: U32,
    /// Its size in bytes.
    pub ramdisk_size: U32,
    bootsect_kludge: U32,
    heap_end_ptr: U16,
    ext_loader: [u8; 2],
    /// Address of the command line.
    pub cmd_line_ptr: U32,
    /// Highest byte the RAM disk may use.
    pub initrd_addr_max: U32,
    /// Alignment of a relocatable kernel, in bytes.
    pub kernel_alignment: U32,
    /// Whether the kernel may be loaded elsewhere.
    pub relocatable_kernel: u8,
    min_alignment: u8,
    /// Bit 0: there is a 64-bit entry at 0x200.
    pub xloadflags: U16,
    /// Longest command line in bytes, without its NUL.
    pub cmdline_size: U32,
    hardware_subarch: U32,
    hardware_subarch_data: U64,
    payload_offset: U32,
    payload_length: U32,
    setup_data: U64,
    /// Where the kernel wants to be loaded.
    pub pref_address: U64,
    /// Bytes it needs from there until it knows the memory map.
    pub init_size: U32,
}

/// One entry of the memory map.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct E820Entry {
    /// First byte.
    pub start: U64,
    /// Length in bytes.
    pub size: U64,
    /// [`crate::layout::MapKind`] as a number.
    pub kind: U32,
}

/// `struct boot_params`, the zero page.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootParams {
    unused_0: [u8; 0x70],
    /// Address of the ACPI root pointer.
    pub acpi_rsdp_addr: U64,
    unused_78: [u8; 0x1E8 - 0x78],
    /// Number of entries used in `e820_table`.
    pub e820_entries: u8,
    unused_1e9: [u8; HEADER_AT - 0x1E9],
    /// The setup header; more of the kernel's own follows it.
    pub header: SetupHeader,
    rest_of_header: [u8; 0x2D0 - HEADER_AT - size_of::<SetupHeader>()],
    /// The memory map.
    pub e820_table: [E820Entry; E820_MAX],
    unused_cd0: [u8; 0x1000 - 0xCD0],
}

const _: () = {
    assert!(size_of::<BootParams>() == 4096);
    assert!(offset_of!(BootParams, e820_table) == 0x2D0);
    assert!(HEADER_AT + offset_of!(SetupHeader, boot_flag) == 0x1FE);
    assert!(HEADER_AT + offset_of!(SetupHeader, version) == 0x206);
    assert!(HEADER_AT + offset_of!(SetupHeader, type_of_loader) == 0x210);
    assert!(HEADER_AT + offset_of!(SetupHeader, code32_start) == 0x214);
    assert!(HEADER_AT + offset_of!(SetupHeader, cmd_line_ptr) == 0x228);
    assert!(HEADER_AT + offset_of!(SetupHeader, kernel_alignment) == 0x230);
    assert!(HEADER_AT + offset_of!(SetupHeader, xloadflags) == 0x236);
    assert!(HEADER_AT + offset_of!(SetupHeader, pref_address) == 0x258);
    assert!(HEADER_AT + size_of::<SetupHeader>() == 0x264);
};
