//! Each core's own descriptor tables (GDT, TSS, IDT) and the area behind its GS base. SDM volume
//! 3, chapters 3, 6 and 8.
//!
//! A guest never shares these: a hypervisor that keeps its guest's IDT in root mode is owned by
//! the guest. NMI, double fault and machine check have stacks of their own (IST).

#![expect(unsafe_code, reason = "loads descriptor tables")]

mod idt;
mod trap;
mod window;

pub use trap::{TrapFrame, set_fatal_handler, set_nmi_handler, set_vector_handler};
pub use window::drain_pending;

use crate::cpu;
use crate::heap;
use crate::paging;
use crate::virt::Unusable;
use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU64};

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Selector of the TSS.
pub const TSS_SELECTOR: u16 = 0x18;

/// Bytes of a core's run stack and of each IST stack; each has a guard page below.
const STACK: u64 = 32 * 1024;
const IST_STACK: u64 = 16 * 1024;

/// IST numbers, as the IDT stores them.
const IST_NMI: u8 = 1;
const IST_DOUBLE_FAULT: u8 = 2;
const IST_MACHINE_CHECK: u8 = 3;

/// What GS points at in root mode. Only this core touches its area, but its NMI handler does so
/// in the middle of anything: hence the atomics.
#[repr(C)]
pub struct CoreArea {
    /// Index of this core; `cpu::core_index` reads it at offset 0.
    index: u32,
    /// Address of this area, for [`area`].
    this: u64,
    /// A vCPU's VMCS is current on this core.
    pub vmcs_live: AtomicBool,
    /// SVM: GIF is 0, as it is while a vCPU is loaded.
    pub gif_held: AtomicBool,
    /// SVM: the NMI that comes next has been told of as an exit; the handler has nothing to do.
    pub nmi_exited: AtomicBool,
    /// SVM: address of the VMCB with this core's own segment state, 0 before SVM is on.
    pub host_vmcb: AtomicU64,
    gdt: [u64; 5],
    tss: Tss,
}

/// 64-bit TSS, SDM volume 3 figure 8-11.
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

const _: () = assert!(size_of::<Tss>() == 104);

/// Addresses that a VMCS host state needs.
#[derive(Clone, Copy, Debug)]
pub struct DescriptorTables {
    /// GDT base.
    pub gdt: u64,
    /// IDT base.
    pub idt: u64,
    /// TSS base.
    pub tss: u64,
}

/// This core's area.
#[inline(always)]
pub fn area() -> &'static CoreArea {
    let this: *const CoreArea;
    // SAFETY: `install` set GS to an area that lives for good and knows its address.
    unsafe {
        asm!("mov {}, gs:[{offset}]", out(reg) this, offset = const offset_of!(CoreArea, this),
             options(nostack, readonly, preserves_flags));
        &*this
    }
}

/// This core's tables.
pub fn descriptor_tables() -> DescriptorTables {
    let area = area();
    DescriptorTables {
        gdt: area.gdt.as_ptr() as u64,
        idt: idt::host_idt_address(),
        tss: (&raw const area.tss) as u64,
    }
}

/// A stack of `size` bytes (a power of two) over a guard page; returns its top.
pub fn new_stack(size: u64) -> Option<u64> {
    // Twice the size, so that the guard page below has an address of its own.
    let block = heap::block(size * 2)?;
    let guard = block.address() + size - heap::FRAME;
    paging::guard_page(guard);
    Some(block.address() + size * 2)
}

/// A run stack for an application processor.
pub fn new_run_stack() -> Option<u64> {
    new_stack(STACK)
}

/// Gives this core its GDT, TSS, IDT and area.
///
/// # Errors
/// If memory ran out.
pub fn install(index: u32) -> Result<(), Unusable> {
    let no_memory = Unusable {
        missing: "no memory for a core's stacks",
        hint: "give the machine more memory",
        bits: 0,
    };
    let mut ist = [0; 7];
    for number in [IST_NMI, IST_DOUBLE_FAULT, IST_MACHINE_CHECK] {
        let top = new_stack(IST_STACK).ok_or(no_memory)?;
        ist[usize::from(number) - 1] = top;
    }
    let block = heap::frame().ok_or(no_memory)?;
    let area = block.address() as *mut CoreArea;
    let tss_base = block.address() + offset_of!(CoreArea, tss) as u64;
    // SAFETY: the frame is ours for good, zeroed and larger than the area.
    unsafe {
        area.write(CoreArea {
            index,
            this: block.address(),
            vmcs_live: AtomicBool::new(false),
            gif_held: AtomicBool::new(false),
            nmi_exited: AtomicBool::new(false),
            host_vmcb: AtomicU64::new(0),
            gdt: gdt(tss_base),
            tss: Tss {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist,
                reserved2: 0,
                reserved3: 0,
                io_map_base: size_of::<Tss>() as u16,
            },
        });
    }
    let pointer = Pointer {
        limit: (5 * 8 - 1) as u16,
        base: block.address() + offset_of!(CoreArea, gdt) as u64,
    };
    // SAFETY: the new GDT has the same flat code and data segments at the selectors in use, and
    // GS gets its base after the selector load cleared it.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {t}, [rip + 2f]",
            "push {t}",
            "retfq",
            "2:",
            "mov ds, {data:x}",
            "mov es, {data:x}",
            "mov ss, {data:x}",
            "mov fs, {zero:x}",
            "mov gs, {zero:x}",
            "ltr {tss:x}",
            pointer = in(reg) &pointer,
            code = const CODE_SELECTOR,
            data = in(reg) DATA_SELECTOR,
            zero = in(reg) 0_u16,
            tss = in(reg) TSS_SELECTOR,
            t = out(reg) _,
        );
        cpu::wrmsr(cpu::MSR_FS_BASE, 0);
        cpu::wrmsr(cpu::MSR_GS_BASE, block.address());
    }
    idt::load_host();
    Ok(())
}

/// Operand of LGDT and LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

const fn gdt(tss: u64) -> [u64; 5] {
    let limit = (size_of::<Tss>() - 1) as u64;
    // Available 64-bit TSS descriptor, SDM volume 3 figure 8-4.
    let low = limit | (tss & 0xFF_FFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56;
    [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, low, tss >> 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tss_descriptor_splits_its_base() {
        let gdt = gdt(0x1234_5678_9ABC_DEF0);
        assert_eq!(gdt[3], 0x9A00_89BC_DEF0_0067);
        assert_eq!(gdt[4], 0x1234_5678);
    }
}
