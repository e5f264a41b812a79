//! The virtual machine control block. APM volume 2, appendix B.

use bitfield_struct::bitfield;

/// A segment register in the save area. For GDTR and IDTR only limit and base count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Descriptor bits 55:52 and 47:40, packed into 12 bits.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base address.
    pub base: u64,
}

impl Segment {
    /// L: 64-bit code.
    pub const LONG: u16 = 1 << 9;
    /// D/B: 32-bit code.
    pub const DEFAULT_32: u16 = 1 << 10;

    /// A segment register.
    #[must_use]
    pub const fn new(selector: u16, base: u64, limit: u32, attributes: u16) -> Self {
        Self { selector, attributes, limit, base }
    }
}

/// Virtual-interrupt control at offset 0x60.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct InterruptControl {
    /// Virtual TPR, used with virtual masking only.
    pub tpr: u8,
    /// V_IRQ: a virtual interrupt is pending.
    pub irq: bool,
    /// VGIF.
    pub gif: bool,
    __: bool,
    /// V_NMI: a virtual NMI is pending.
    pub nmi: bool,
    /// V_NMI_MASK: virtual NMIs are masked.
    pub nmi_mask: bool,
    #[bits(3)]
    __: u8,
    /// Priority of the virtual interrupt.
    #[bits(4)]
    pub priority: u8,
    /// V_IGN_TPR: the virtual interrupt ignores TPR.
    pub ignore_tpr: bool,
    #[bits(3)]
    __: u8,
    /// V_INTR_MASKING: RFLAGS.IF and TPR of the guest mask virtual interrupts only. Off in direct mode.
    pub masking: bool,
    /// AMD virtual GIF.
    pub gif_enable: bool,
    /// V_NMI_ENABLE: NMI virtualisation.
    pub nmi_enable: bool,
    #[bits(3)]
    __: u8,
    /// x2AVIC.
    pub x2avic: bool,
    /// AVIC.
    pub avic: bool,
    /// Vector of the virtual interrupt.
    pub vector: u8,
    #[bits(24)]
    __: u32,
}

/// Control area.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the manual's")]
pub struct Control {
    /// Reads of CR0 to CR15 in the low half, writes in the high half.
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_exceptions: u32,
    /// [`super::intercept::First`].
    pub intercept_first: u32,
    /// [`super::intercept::Second`].
    pub intercept_second: u32,
    pub intercept_third: u32,
    reserved_18: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    /// Host-physical address of 12 KiB: one bit per port.
    pub iopm_base: u64,
    /// Host-physical address of 8 KiB: two bits per MSR.
    pub msrpm_base: u64,
    /// Ticks added to the guest's TSC.
    pub tsc_offset: u64,
    /// TLB tag, not 0.
    pub asid: u32,
    /// What VMRUN flushes; the CPU does not reset it.
    pub tlb_control: u32,
    pub interrupt_control: InterruptControl,
    /// Bit 0: interrupt shadow.
    pub interrupt_state: u64,
    pub exit_code: u64,
    pub exit_info_1: u64,
    pub exit_info_2: u64,
    /// The event whose delivery the exit cut short ([`super::EventInfo`]).
    pub exit_interrupt_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    pub avic_bar: u64,
    pub ghcb: u64,
    /// The event that VMRUN delivers ([`super::EventInfo`]).
    pub event_injection: u64,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
    /// LBR and VMSAVE virtualisation.
    pub virtual_extensions: u64,
    /// Parts that the CPU may take from its cache; 0: none.
    pub clean: u64,
    /// Address of the next instruction, where the CPU saves it.
    pub next_rip: u64,
    reserved_d0: [u8; 0x330],
}

/// State save area.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers")]
pub struct Save {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    reserved_a0: [u8; 0x2B],
    pub cpl: u8,
    reserved_cc: u32,
    pub efer: u64,
    reserved_d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u8; 0x58],
    pub rsp: u64,
    reserved_1e0: [u8; 0x18],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    pub guest_pat: u64,
    pub debug_control: u64,
    reserved_278: [u8; 0x988],
}

/// The whole block: one page.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What exits, and what exited.
    pub control: Control,
    /// The guest's registers.
    pub save: Save,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Control, iopm_base) == 0x40);
    assert!(offset_of!(Control, tlb_control) == 0x5C);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, event_injection) == 0xA8);
    assert!(offset_of!(Control, next_rip) == 0xC8);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Save, cpl) == 0xCB);
    assert!(offset_of!(Save, efer) == 0xD0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1D8);
    assert!(offset_of!(Save, rax) == 0x1F8);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, guest_pat) == 0x268);
};
