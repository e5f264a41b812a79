//! The Intel VMX backend. SDM volume 3, chapters 24 to 28.
//!
//! [`VmxVcpu`] owns one VMCS. Between `load` and `unload` the VMCS is current on this core and the
//! core's area says so (`vmcs_live`): the host's NMI handler writes VMCS fields only then.

#![expect(unsafe_code, reason = "drives VMX")]

mod capability;
mod decode;
mod entry;
mod insn;
mod setup;

use crate::cpu;
use crate::heap::Block;
use crate::stage2::Format;
use crate::tables::area;
use crate::virt::{
    Backend, CodeSegment, ControlRegisters, EntryControls, Event, Exit, ExitInfo, FetchState,
    GuestRegs, IoAccess, MsrAccess, Report, SoftwareEvent, StartState, Unusable, VcpuConfig,
};
use arch_defs::vmx::control::{Pin, Proc};
use arch_defs::vmx::{Field, VectoringInfo};
use core::fmt;
use core::sync::atomic::Ordering;
use entry::EntryFrame;
use insn::{vmread, vmwrite};

/// Interruptibility state, SDM volume 3 table 25-3.
const BLOCKED_BY_STI: u64 = 1 << 0;
const BLOCKED_BY_MOV_SS: u64 = 1 << 1;
const BLOCKED_BY_NMI: u64 = 1 << 3;

/// L and D bits of the code segment's access rights, SDM volume 3 table 25-2.
const CS_LONG: u64 = 1 << 13;
const CS_DEFAULT_32: u64 = 1 << 14;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
/// BS bit of the pending debug exceptions.
const PENDING_SINGLE_STEP: u64 = 1 << 14;

/// A vCPU on VMX.
pub struct VmxVcpu {
    frame: EntryFrame,
    cr4_allowed: u64,
    vmcs: Block,
    msr_bitmap: Block,
    msr_access: fn(u32) -> MsrAccess,
    eptp: u64,
    tag: u16,
}

impl VmxVcpu {
    fn set_bit(field: Field, bit: u32, on: bool) {
        let old = vmread(field);
        let new = if on { old | u64::from(bit) } else { old & !u64::from(bit) };
        vmwrite(field, new);
    }

    /// Slow path of `skip_instruction`: the new RIP left the range that the mode allows.
    #[cold]
    fn wrap_rip(&self, rip: u64) -> u64 {
        if self.code_segment().long { rip } else { rip & 0xFFFF_FFFF }
    }
}

impl Backend for VmxVcpu {
    const NAME: &'static str = "vmx";

    const STAGE2: Format = Format::Ept;
    const HOLDS_NMIS: bool = false;

    fn enable_core() -> Result<(), Unusable> {
        capability::enable()
    }

    fn largest_page() -> usize {
        capability::largest_page()
    }

    fn new(config: &VcpuConfig<'_>) -> Result<Self, Unusable> {
        setup::new(config)
    }

    fn load(&mut self) {
        // SAFETY: this VMCS is ours and active on no other core: `unload` cleared it.
        let loaded = unsafe { insn::vmptrld(self.vmcs.address()) };
        assert!(loaded.is_ok(), "VMPTRLD of our own VMCS");
        // Only now may the NMI handler write fields: before, they would hit another VMCS.
        area().vmcs_live.store(true, Ordering::Relaxed);
    }

    fn flush_stage2(&mut self) {
        insn::invept(self.eptp);
    }

    fn unload(&mut self) {
        area().vmcs_live.store(false, Ordering::Relaxed);
        // SAFETY: the VMCS is ours and current on this core.
        let cleared = unsafe { insn::vmclear(self.vmcs.address()) };
        assert!(cleared.is_ok(), "VMCLEAR of our own VMCS");
        self.frame.launched = false;
        // HOST_RSP is compared, not rewritten, at entry: another core has another stack.
        self.frame.host_rsp = 0;
    }

    fn reset(&mut self, state: StartState) {
        self.frame.regs = GuestRegs::default();
        setup::reset(self, state);
    }

    #[inline(always)]
    fn run(&mut self) -> Exit {
        // SAFETY: between `load` and `unload` the VMCS is current on this core; root mode runs
        // with IF=0. The one call of `run` for this vCPU is inlined in one place.
        decode::exit(unsafe { entry::enter(&raw mut self.frame) })
    }

    #[inline(always)]
    fn event(&mut self) -> ExitInfo {
        decode::event_exit(self)
    }

    #[inline(always)]
    fn io_access(&mut self) -> IoAccess {
        decode::io_access()
    }

    #[inline(always)]
    fn regs(&mut self) -> &mut GuestRegs {
        &mut self.frame.regs
    }

    #[inline(always)]
    fn skip_instruction(&mut self) {
        self.advance(vmread(Field::ExitInstructionLength));
    }

    #[inline(always)]
    fn advance(&mut self, len: u64) {
        let old = vmread(Field::GuestRip);
        let mut rip = old.wrapping_add(len);
        if (rip ^ old) >> 32 != 0 {
            rip = self.wrap_rip(rip);
        }
        vmwrite(Field::GuestRip, rip);
        let blocking = vmread(Field::GuestInterruptibility);
        if blocking & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0 {
            vmwrite(Field::GuestInterruptibility, blocking & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS));
        }
        // A single-stepped instruction that we emulated owes its #DB all the same.
        if vmread(Field::GuestRflags) & RFLAGS_TF != 0 {
            let pending = vmread(Field::GuestPendingDebug);
            vmwrite(Field::GuestPendingDebug, pending | PENDING_SINGLE_STEP);
        }
    }

    fn inject(&mut self, event: Event) {
        let info = VectoringInfo::new().with_valid(true);
        let info = match event {
            Event::External { vector } => {
                info.with_vector(vector).with_kind(VectoringInfo::TYPE_EXTERNAL)
            }
            Event::Nmi => {
                // The entry may refuse an NMI in an STI shadow (SDM volume 3, section 27.3.1.5),
                // and the CPU need not make an NMI window wait for its end: the NMI ends it.
                let blocking = vmread(Field::GuestInterruptibility);
                vmwrite(Field::GuestInterruptibility, blocking & !BLOCKED_BY_STI);
                info.with_vector(2).with_kind(VectoringInfo::TYPE_NMI)
            }
            Event::Exception { vector, error_code } => {
                // Real mode has no error codes, and the entry refuses one there (SDM volume 3,
                // section 27.2.1.3).
                let protected = vmread(Field::GuestCr0) & cpu::CR0_PE != 0;
                let error_code = error_code.filter(|_| protected);
                if let Some(code) = error_code {
                    vmwrite(Field::EntryExceptionErrorCode, u64::from(code));
                }
                if event == Event::DEBUG {
                    setup::allow_debug_in_shadow();
                }
                info.with_vector(vector)
                    .with_kind(VectoringInfo::TYPE_EXCEPTION)
                    .with_has_error_code(error_code.is_some())
            }
            Event::Software { vector, kind, insn_len } => {
                vmwrite(Field::EntryInstructionLength, u64::from(insn_len));
                info.with_vector(vector).with_kind(match kind {
                    SoftwareEvent::Int => VectoringInfo::TYPE_SOFTWARE_INTERRUPT,
                    SoftwareEvent::Icebp => VectoringInfo::TYPE_PRIVILEGED_EXCEPTION,
                    SoftwareEvent::Breakpoint => VectoringInfo::TYPE_SOFTWARE_EXCEPTION,
                })
            }
        };
        // An event makes the vCPU active: HLT ends (Bochs 2.7 reports it active already).
        vmwrite(Field::GuestActivity, 0);
        vmwrite(Field::EntryInterruptionInfo, u64::from(u32::from(info)));
    }

    fn wake(&mut self) {
        vmwrite(Field::GuestActivity, 0);
    }

    fn injecting(&self) -> Option<Event> {
        let info = VectoringInfo::from(vmread(Field::EntryInterruptionInfo) as u32);
        decode::event(
            info,
            vmread(Field::EntryExceptionErrorCode) as u32,
            vmread(Field::EntryInstructionLength) as u8,
        )
    }

    fn nmi_open(&self) -> bool {
        let blocked = BLOCKED_BY_MOV_SS | BLOCKED_BY_NMI;
        vmread(Field::GuestInterruptibility) & blocked == 0
    }

    fn interrupt_open(&self) -> bool {
        vmread(Field::GuestRflags) & RFLAGS_IF != 0
            && vmread(Field::GuestInterruptibility) & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) == 0
    }

    fn set_nmi_window(&mut self, on: bool) -> bool {
        Self::set_bit(Field::ProcControls, Proc::NMI_WINDOW.bits(), on);
        true
    }

    fn set_interrupt_window(&mut self, on: bool) {
        Self::set_bit(Field::ProcControls, Proc::INTERRUPT_WINDOW.bits(), on);
    }

    fn request_immediate_exit() {
        // Without a live VMCS there is nothing to write to, and no entry that could miss the
        // request: whoever loads a VMCS looks at the requests afterwards.
        if area().vmcs_live.load(Ordering::Relaxed) {
            vmwrite(Field::PreemptionTimer, 0);
            Self::set_bit(Field::PinControls, Pin::PREEMPTION_TIMER.bits(), true);
        }
    }

    fn clear_immediate_exit(&mut self) {
        Self::set_bit(Field::PinControls, Pin::PREEMPTION_TIMER.bits(), false);
    }

    fn entry_controls(&self) -> EntryControls {
        let pin = Pin::from_bits_retain(vmread(Field::PinControls) as u32);
        let proc = Proc::from_bits_retain(vmread(Field::ProcControls) as u32);
        EntryControls {
            external_interrupts: pin.contains(Pin::EXTERNAL_INTERRUPT_EXITING),
            nmis: pin.contains(Pin::NMI_EXITING),
            halt: proc.contains(Proc::HLT_EXITING),
        }
    }

    fn set_rsp(&mut self, value: u64) {
        vmwrite(Field::GuestRsp, value);
    }

    fn rip(&self) -> u64 {
        vmread(Field::GuestRip)
    }

    fn linear_rip(&self) -> u64 {
        let rip = vmread(Field::GuestRip);
        if self.code_segment().long {
            rip
        } else {
            rip.wrapping_add(vmread(Field::GuestCsBase)) & 0xFFFF_FFFF
        }
    }

    fn cpl(&self) -> u8 {
        // The DPL of SS is the CPL (SDM volume 3, section 25.4.1).
        (vmread(Field::GuestSsAccess) >> 5 & 3) as u8
    }

    fn code_segment(&self) -> CodeSegment {
        let access = vmread(Field::GuestCsAccess);
        let lma = vmread(Field::GuestEfer) & cpu::EFER_LMA != 0;
        CodeSegment {
            base: vmread(Field::GuestCsBase),
            long: lma && access & CS_LONG != 0,
            default_32: access & CS_DEFAULT_32 != 0,
        }
    }

    fn fetch_state(&self) -> FetchState {
        let access = vmread(Field::GuestCsAccess);
        let control = ControlRegisters {
            cr0: vmread(Field::GuestCr0),
            cr3: vmread(Field::GuestCr3),
            cr4: vmread(Field::GuestCr4),
            efer: vmread(Field::GuestEfer),
        };
        let long = control.efer & cpu::EFER_LMA != 0 && access & CS_LONG != 0;
        let rip = vmread(Field::GuestRip);
        let linear_rip =
            if long { rip } else { rip.wrapping_add(vmread(Field::GuestCsBase)) & 0xFFFF_FFFF };
        FetchState { linear_rip, control, long, default_32: access & CS_DEFAULT_32 != 0 }
    }

    fn control_registers(&self) -> ControlRegisters {
        let merge = |real, shadow, mask| {
            let mask = vmread(mask);
            (vmread(real) & !mask) | (vmread(shadow) & mask)
        };
        ControlRegisters {
            cr0: merge(Field::GuestCr0, Field::Cr0Shadow, Field::Cr0Mask),
            cr3: vmread(Field::GuestCr3),
            cr4: merge(Field::GuestCr4, Field::Cr4Shadow, Field::Cr4Mask),
            efer: vmread(Field::GuestEfer),
        }
    }

    #[inline(always)]
    fn cr4(&self) -> u64 {
        vmread(Field::GuestCr4)
    }

    fn set_cr2(&mut self, value: u64) {
        // VMX does not switch it, and root mode takes no page fault that it survives.
        cpu::set_cr2(value);
    }

    fn rflags(&self) -> u64 {
        vmread(Field::GuestRflags)
    }

    fn set_rflags(&mut self, value: u64) {
        vmwrite(Field::GuestRflags, value);
    }

    fn set_cr0(&mut self, value: u64) {
        setup::set_cr0(value);
        // The CPU drops translations when paging bits change; an emulated change must as well.
        insn::invvpid(self.tag);
    }

    fn set_cr4(&mut self, value: u64) {
        setup::set_cr4(value, self.cr4_allowed);
        insn::invvpid(self.tag);
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        let fields =
            [Field::GuestPdpte0, Field::GuestPdpte1, Field::GuestPdpte2, Field::GuestPdpte3];
        for (field, entry) in fields.into_iter().zip(entries) {
            vmwrite(field, entry);
        }
    }

    fn set_efer(&mut self, value: u64) {
        let lma = vmread(Field::GuestEfer) & cpu::EFER_LMA;
        vmwrite(Field::GuestEfer, (value & !cpu::EFER_LMA) | lma);
        insn::invvpid(self.tag);
    }

    fn set_x2apic_passthrough(&mut self, on: bool) {
        setup::fill_x2apic_part(&self.msr_bitmap, if on { self.msr_access } else { setup::NO_MSR });
    }

    fn describe_exit(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        decode::describe_exit(self, out)
    }

    fn report(&mut self) -> Report {
        decode::report(self)
    }
}
