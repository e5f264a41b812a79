//! The AMD SVM backend. APM volume 2, chapter 15.
//!
//! [`SvmVcpu`] owns one VMCB. Between `load` and `unload` root mode runs with GIF = 0: an NMI waits until the entry and
//! exits at once, so no kick can be lost between the last look at the requests and the entry (requirement D2) and
//! `request_immediate_exit` has nothing to do. GIF is 1 only where an NMI exit is acknowledged ([`entry::take_nmi`]) and in
//! the drain window.
//!
//! Without NMI virtualisation the CPU does not know that a guest is in its NMI handler: an injected NMI masks nothing. So
//! [`NmiState`] remembers it, and the IRET intercept tells its end. A kick exits from the handler all the same
//! (requirement D4).

#![expect(unsafe_code, reason = "drives SVM")]

mod capability;
mod decode;
mod entry;
mod setup;

use crate::cpu;
use crate::heap::Block;
use crate::stage2::Format;
use crate::tables::area;
use crate::virt::{
    Backend, CodeSegment, ControlRegisters, EntryControls, Event, Exit, ExitInfo, FetchState,
    GuestRegs, IoAccess, MsrAccess, ReadCode, Report, StartState, Unusable, VcpuConfig,
};
use arch_defs::svm::intercept::{First, cr_read, cr_write};
use arch_defs::svm::{EventInfo, Segment, Vmcb};
use capability::Features;
use core::fmt;
use core::sync::atomic::Ordering;
use entry::EntryFrame;
pub(crate) use entry::{hold_nmis, release_nmis};

/// VMCB interrupt state: the instruction after STI or MOV SS.
const INTERRUPT_SHADOW: u64 = 1 << 0;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const DR6_BS: u64 = 1 << 14;
/// Bits of CR0 that are shadowed: an uncached core would slow its neighbours.
const CR0_SHADOWED: u64 = cpu::CR0_CD | cpu::CR0_NW;
/// TLB control: everything of every guest; this guest's entries (APM table 15-9).
const FLUSH_ALL: u32 = 1;
const FLUSH_GUEST: u32 = 3;

/// Where the guest stands with its NMIs, as far as the CPU does not track it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NmiState {
    /// It can take one.
    Open,
    /// It is in its handler; the IRET intercept is on.
    Masked,
    /// It stands at the IRET at this address, which ends its handler.
    Returning(u64),
}

/// A vCPU on SVM.
pub struct SvmVcpu {
    frame: EntryFrame,
    vmcb: Block,
    msrpm: Block,
    msr_access: fn(u32) -> MsrAccess,
    code: &'static dyn ReadCode,
    features: Features,
    cr4_allowed: u64,
    /// CR0 and CR4 as the guest wrote them: their shadowed bits count.
    cr0_shadow: u64,
    cr4_shadow: u64,
    nmi: NmiState,
}

impl SvmVcpu {
    fn vmcb(&self) -> &Vmcb {
        // SAFETY: the block is a page of its own, aligned, and every bit pattern is a VMCB; the CPU writes it during the
        // entry only, whose assembly the compiler takes to change memory.
        unsafe { &*(self.vmcb.address() as *const Vmcb) }
    }

    fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { &mut *(self.vmcb.address() as *mut Vmcb) }
    }

    fn intercept(&mut self, bits: First, on: bool) {
        let word = &mut self.vmcb_mut().control.intercept_first;
        *word = if on { *word | bits.bits() } else { *word & !bits.bits() };
    }

    /// Drops the guest's translations at the next entry.
    fn flush(&mut self) {
        let how = if self.features.flush_by_asid { FLUSH_GUEST } else { FLUSH_ALL };
        self.vmcb_mut().control.tlb_control = how;
    }

    /// A register whose shadow differs from the hardware's exits at each read, and at each write, since the selective
    /// intercept would miss a write that restores the hardware's value.
    fn update_control_intercepts(&mut self) {
        let mut bits = cr_write(4);
        if self.cr0_shadow & CR0_SHADOWED != 0 {
            bits |= cr_read(0) | cr_write(0);
        }
        if self.cr4_shadow & cpu::CR4_MCE == 0 {
            bits |= cr_read(4);
        }
        self.vmcb_mut().control.intercept_cr = bits;
    }

    fn is_long(&self) -> bool {
        let save = &self.vmcb().save;
        save.efer & cpu::EFER_LMA != 0 && save.cs.attributes & Segment::LONG != 0
    }

    fn in_shadow(&self) -> bool {
        self.vmcb().control.interrupt_state & INTERRUPT_SHADOW != 0
    }
}

impl Backend for SvmVcpu {
    const NAME: &'static str = "svm";
    const STAGE2: Format = Format::Npt;
    const HOLDS_NMIS: bool = true;

    fn enable_core() -> Result<(), Unusable> {
        capability::enable()
    }

    fn largest_page() -> usize {
        if cpu::has_1g_pages() { 2 } else { 1 }
    }

    fn new(config: &VcpuConfig<'_>) -> Result<Self, Unusable> {
        setup::new(config)
    }

    fn load(&mut self) {
        self.frame.host_vmcb = area().host_vmcb.load(Ordering::Relaxed);
        // This core may hold translations of an earlier stay here.
        self.flush();
        entry::hold_nmis();
        area().gif_held.store(true, Ordering::Relaxed);
    }

    fn flush_stage2(&mut self) {
        self.flush();
    }

    fn unload(&mut self) {
        area().gif_held.store(false, Ordering::Relaxed);
        entry::release_nmis();
    }

    fn reset(&mut self, state: StartState) {
        setup::reset(self, state);
    }

    #[inline(always)]
    fn run(&mut self) -> Exit {
        // SAFETY: between `load` and `unload` GIF is 0, IF is 0, and the frame names this vCPU's VMCB and this core's
        // saved state.
        let code = unsafe { entry::enter(&raw mut self.frame) };
        decode::exit(code, self)
    }

    fn event(&mut self) -> ExitInfo {
        decode::event_exit(self)
    }

    fn io_access(&mut self) -> IoAccess {
        decode::io_access(self)
    }

    #[inline(always)]
    fn regs(&mut self) -> &mut GuestRegs {
        &mut self.frame.regs
    }

    fn skip_instruction(&mut self) {
        let len = decode::instruction_length(self);
        self.advance(len);
    }

    fn advance(&mut self, len: u64) {
        let long = self.is_long();
        let save = &mut self.vmcb_mut().save;
        let rip = save.rip.wrapping_add(len);
        save.rip = if long { rip } else { rip & 0xFFFF_FFFF };
        let stepping = save.rflags & RFLAGS_TF != 0;
        self.vmcb_mut().control.interrupt_state &= !INTERRUPT_SHADOW;
        // A single-stepped instruction that we emulated owes its #DB all the same.
        if stepping && self.injecting().is_none() {
            self.vmcb_mut().save.dr6 |= DR6_BS;
            self.inject(Event::DEBUG);
        }
    }

    fn inject(&mut self, event: Event) {
        let info = EventInfo::new().with_valid(true);
        let info = match event {
            Event::External { vector } => {
                info.with_vector(vector).with_kind(EventInfo::TYPE_EXTERNAL)
            }
            Event::Nmi if self.features.virtual_nmi => {
                // The CPU delivers it when its mask allows, and keeps the mask.
                let control = &mut self.vmcb_mut().control;
                control.interrupt_control = control.interrupt_control.with_nmi(true);
                return;
            }
            Event::Nmi => {
                self.nmi = NmiState::Masked;
                self.intercept(First::IRET, true);
                info.with_vector(2).with_kind(EventInfo::TYPE_NMI)
            }
            Event::Exception { vector, error_code } => {
                // Real mode has no error codes.
                let protected = self.vmcb().save.cr0 & cpu::CR0_PE != 0;
                let error_code = error_code.filter(|_| protected);
                info.with_vector(vector)
                    .with_kind(EventInfo::TYPE_EXCEPTION)
                    .with_has_error_code(error_code.is_some())
                    .with_error_code(error_code.unwrap_or(0))
            }
            // Never cut short here: RIP stays at the instruction, which is executed again.
            Event::Software { .. } => return,
        };
        self.vmcb_mut().control.event_injection = info.into_bits();
    }

    fn wake(&mut self) {
        // An exit ends HLT: the saved RIP lies behind it.
    }

    fn injecting(&self) -> Option<Event> {
        decode::event(EventInfo::from(self.vmcb().control.event_injection))
    }

    fn nmi_open(&self) -> bool {
        if self.features.virtual_nmi {
            return !self.vmcb().control.interrupt_control.nmi();
        }
        let open = match self.nmi {
            NmiState::Open => true,
            NmiState::Masked => false,
            // Once it has moved on, the IRET is done. One that faulted has ended the mask as well.
            NmiState::Returning(rip) => self.vmcb().save.rip != rip,
        };
        open && !self.in_shadow()
    }

    fn interrupt_open(&self) -> bool {
        self.vmcb().save.rflags & RFLAGS_IF != 0 && !self.in_shadow()
    }

    fn set_nmi_window(&mut self, on: bool) -> bool {
        // The end of the handler exits by itself. Nothing tells the end of a shadow, of another event's delivery or of
        // the IRET itself.
        !on || self.nmi == NmiState::Masked && !self.features.virtual_nmi
    }

    fn set_interrupt_window(&mut self, on: bool) {
        // A virtual interrupt that exits when the guest would take it (APM section 15.21.4).
        self.intercept(First::VINTR, on);
        let control = &mut self.vmcb_mut().control;
        control.interrupt_control = control
            .interrupt_control
            .with_irq(on)
            .with_ignore_tpr(on)
            .with_priority(if on { 0xF } else { 0 });
    }

    fn request_immediate_exit() {
        // With GIF = 0 no NMI comes between the last look and the entry; one that came before has left its request.
    }

    fn clear_immediate_exit(&mut self) {}

    fn entry_controls(&self) -> EntryControls {
        let first = First::from_bits_retain(self.vmcb().control.intercept_first);
        EntryControls {
            external_interrupts: first.contains(First::INTR)
                || self.vmcb().control.interrupt_control.masking(),
            nmis: first.contains(First::NMI),
            halt: first.contains(First::HLT),
        }
    }

    fn set_rsp(&mut self, value: u64) {
        self.vmcb_mut().save.rsp = value;
    }

    fn rip(&self) -> u64 {
        self.vmcb().save.rip
    }

    fn linear_rip(&self) -> u64 {
        self.fetch_state().linear_rip
    }

    fn cpl(&self) -> u8 {
        self.vmcb().save.cpl
    }

    fn code_segment(&self) -> CodeSegment {
        let cs = self.vmcb().save.cs;
        CodeSegment {
            base: cs.base,
            long: self.is_long(),
            default_32: cs.attributes & Segment::DEFAULT_32 != 0,
        }
    }

    fn fetch_state(&self) -> FetchState {
        let save = &self.vmcb().save;
        let long = self.is_long();
        let linear_rip =
            if long { save.rip } else { save.rip.wrapping_add(save.cs.base) & 0xFFFF_FFFF };
        FetchState {
            linear_rip,
            control: ControlRegisters {
                cr0: save.cr0,
                cr3: save.cr3,
                cr4: save.cr4,
                efer: save.efer,
            },
            long,
            default_32: save.cs.attributes & Segment::DEFAULT_32 != 0,
        }
    }

    fn control_registers(&self) -> ControlRegisters {
        let save = &self.vmcb().save;
        let shadowed = |real: u64, shadow: u64, mask: u64| real & !mask | shadow & mask;
        ControlRegisters {
            cr0: shadowed(save.cr0, self.cr0_shadow, CR0_SHADOWED),
            cr3: save.cr3,
            cr4: shadowed(save.cr4, self.cr4_shadow, cpu::CR4_MCE),
            efer: save.efer & !capability::EFER_SVME,
        }
    }

    fn cr4(&self) -> u64 {
        self.vmcb().save.cr4
    }

    fn set_cr2(&mut self, value: u64) {
        self.vmcb_mut().save.cr2 = value;
    }

    fn rflags(&self) -> u64 {
        self.vmcb().save.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.vmcb_mut().save.rflags = value;
    }

    fn set_cr0(&mut self, value: u64) {
        setup::set_cr0(self, value);
        // The CPU drops translations when paging bits change; an emulated change must as well.
        self.flush();
    }

    fn set_cr4(&mut self, value: u64) {
        setup::set_cr4(self, value);
        self.flush();
    }

    fn set_pdptes(&mut self, _entries: [u64; 4]) {
        // The CPU reads them from memory (APM section 15.25.10).
    }

    fn set_efer(&mut self, value: u64) {
        let lma = self.vmcb().save.efer & cpu::EFER_LMA;
        self.vmcb_mut().save.efer = value & !cpu::EFER_LMA | lma | capability::EFER_SVME;
        self.flush();
    }

    fn set_x2apic_passthrough(&mut self, on: bool) {
        setup::fill_msrs(
            &self.msrpm,
            setup::X2APIC,
            if on { self.msr_access } else { setup::NO_MSR },
        );
    }

    fn describe_exit(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        decode::describe_exit(self, out)
    }

    fn report(&mut self) -> Report {
        decode::report(self)
    }
}
