//! From VMX exit reasons to the neutral [`Exit`] and [`EventExit`]. SDM volume 3, sections 28.2 and appendix C.

use super::entry::unblock_nmis;
use super::insn::{vmread, vmwrite};
use super::{BLOCKED_BY_NMI, VmxVcpu};
use crate::cpu;
use crate::virt::{
    Backend, CrAccess, Event, EventExit, Exit, ExitInfo, GuestRegs, IoAccess, Reg, Report,
    SecondStageFault, SoftwareEvent, StringIo,
};
use arch_defs::vmx::exit::{CrQualification, EptQualification, IoQualification, Words};
use arch_defs::vmx::{ExitReason, Field, VectoringInfo};
use core::fmt;

const DEBUG: u8 = 1;
/// DR6 bits that a #DB reports: B0-B3, BD, BS, BT. RTM (bit 16) is inverted and left alone.
const DR6_REPORTED: u64 = 0xE00F;
/// General detect enable.
const DR7_GD: u64 = 1 << 13;
/// Bit 31 of the exit reason: the entry failed after its checks began.
const ENTRY_FAILURE_BIT: u64 = 1 << 31;

/// Names the exit that just happened.
#[inline(always)]
pub fn exit(reason: u64) -> Exit {
    // An entry failure has bit 31 set, or all, and matches none of these.
    match reason {
        reason if reason == code(ExitReason::CPUID) => Exit::Cpuid,
        reason if reason == code(ExitReason::WRMSR) => Exit::MsrWrite,
        reason if reason == code(ExitReason::RDMSR) => Exit::MsrRead,
        reason if reason == code(ExitReason::IO) => Exit::Io,
        reason if reason == code(ExitReason::VMCALL) => Exit::Hypercall,
        _ => Exit::Event,
    }
}

const fn code(reason: ExitReason) -> u64 {
    reason.0 as u64
}

/// Decodes an exit that is none of the common instructions. Inlined where it is matched on, so that
/// the decoded exit is not built in memory first.
#[inline(always)]
pub fn event_exit(vcpu: &mut VmxVcpu) -> ExitInfo {
    let reason = vmread(Field::ExitReason);
    if vcpu.frame.failed || reason & ENTRY_FAILURE_BIT != 0 {
        return ExitInfo { exit: EventExit::EntryFailure, cut_short: None };
    }
    let vectoring = VectoringInfo::from(vmread(Field::IdtVectoringInfo) as u32);
    let cut_short = if vectoring.valid() { cut_short(vectoring) } else { None };
    let regs = &mut vcpu.frame.regs;
    let exit = match ExitReason(reason as u16) {
        ExitReason::EXCEPTION_OR_NMI => exception_or_nmi(vectoring.valid()),
        ExitReason::EPT_VIOLATION => {
            regs.rsp = vmread(Field::GuestRsp);
            second_stage_fault(vectoring.valid())
        }
        ExitReason::PREEMPTION_TIMER => EventExit::Quantum,
        ExitReason::HLT => EventExit::Halt,
        ExitReason::EXTERNAL_INTERRUPT => EventExit::ExternalInterrupt,
        ExitReason::INTERRUPT_WINDOW => EventExit::InterruptWindow,
        ExitReason::NMI_WINDOW => EventExit::NmiWindow,
        ExitReason::CR_ACCESS => control_register(regs),
        ExitReason::XSETBV => EventExit::Xsetbv,
        ExitReason::INVD | ExitReason::WBINVD => EventExit::CacheFlush,
        ExitReason::RDPMC => EventExit::Rdpmc,
        ExitReason::TRIPLE_FAULT => EventExit::TripleFault,
        ExitReason::GETSEC
        | ExitReason::VMCLEAR
        | ExitReason::VMLAUNCH
        | ExitReason::VMPTRLD
        | ExitReason::VMPTRST
        | ExitReason::VMREAD
        | ExitReason::VMRESUME
        | ExitReason::VMWRITE
        | ExitReason::VMXOFF
        | ExitReason::VMXON
        | ExitReason::INVEPT
        | ExitReason::INVVPID
        | ExitReason::VMFUNC
        | ExitReason::MWAIT
        | ExitReason::MONITOR
        | ExitReason::ENCLS
        | ExitReason::XSAVES
        | ExitReason::XRSTORS => EventExit::UndefinedInstruction,
        _ => EventExit::Other,
    };
    ExitInfo { exit, cut_short }
}

/// The delivery that the exit cut short.
#[cold]
fn cut_short(vectoring: VectoringInfo) -> Option<Event> {
    let event = event(
        vectoring,
        vmread(Field::IdtVectoringErrorCode) as u32,
        vmread(Field::ExitInstructionLength) as u8,
    );
    if event == Some(Event::Nmi) {
        // Its delivery had begun to block NMIs; the one that is delivered again must not find
        // itself blocked (SDM volume 3, section 32.7.1.2).
        let blocking = vmread(Field::GuestInterruptibility);
        vmwrite(Field::GuestInterruptibility, blocking & !BLOCKED_BY_NMI);
    }
    event
}

/// The event that an information field describes. NMIs come back as [`Event::Nmi`].
pub fn event(info: VectoringInfo, error_code: u32, insn_len: u8) -> Option<Event> {
    if !info.valid() {
        return None;
    }
    let vector = info.vector();
    let software = |kind| Event::Software { vector, kind, insn_len };
    Some(match info.kind() {
        VectoringInfo::TYPE_EXTERNAL => Event::External { vector },
        VectoringInfo::TYPE_NMI => Event::Nmi,
        VectoringInfo::TYPE_SOFTWARE_INTERRUPT => software(SoftwareEvent::Int),
        VectoringInfo::TYPE_PRIVILEGED_EXCEPTION => software(SoftwareEvent::Icebp),
        VectoringInfo::TYPE_SOFTWARE_EXCEPTION => software(SoftwareEvent::Breakpoint),
        _ => Event::Exception { vector, error_code: info.has_error_code().then_some(error_code) },
    })
}

/// An IRET that faulted after it had ended NMI blocking must find it on again when it is
/// restarted (SDM volume 3, section 28.2.3), unless the exit cut a delivery short.
fn restore_nmi_blocking(unblocked_by_iret: bool, cut_short: bool) {
    if unblocked_by_iret && !cut_short {
        let blocking = vmread(Field::GuestInterruptibility);
        vmwrite(Field::GuestInterruptibility, blocking | BLOCKED_BY_NMI);
    }
}

fn exception_or_nmi(cut_short: bool) -> EventExit {
    let info = VectoringInfo::from(vmread(Field::ExitInterruptionInfo) as u32);
    if info.kind() == VectoringInfo::TYPE_NMI {
        unblock_nmis();
        return EventExit::Nmi;
    }
    restore_nmi_blocking(info.nmi_unblocking(), cut_short);
    if info.kind() == VectoringInfo::TYPE_PRIVILEGED_EXCEPTION {
        // INT1 exits before it completes; its #DB is a trap, which returns behind it.
        let rip = vmread(Field::GuestRip).wrapping_add(vmread(Field::ExitInstructionLength));
        vmwrite(Field::GuestRip, rip);
    }
    if info.vector() == DEBUG {
        complete_debug_exception(vmread(Field::ExitQualification));
    }
    EventExit::Exception {
        vector: info.vector(),
        error_code: info.has_error_code().then(|| vmread(Field::ExitInterruptionErrorCode) as u32),
    }
}

/// The exit left DR6 and DR7 as they were; a handler expects the reason in DR6 (SDM volume 3, section
/// 28.2.1, table 28-1), and a delivery ends general detection, or it could not touch the registers.
fn complete_debug_exception(reason: u64) {
    // B0-B3 say what this exception was; the others add up.
    let old = cpu::dr6() & !0xF;
    cpu::set_dr6(old | reason & DR6_REPORTED);
    let dr7 = vmread(Field::GuestDr7);
    if dr7 & DR7_GD != 0 {
        vmwrite(Field::GuestDr7, dr7 & !DR7_GD);
    }
}

#[inline(always)]
fn second_stage_fault(cut_short: bool) -> EventExit {
    let q = EptQualification::from(vmread(Field::ExitQualification));
    restore_nmi_blocking(q.nmi_unblocking(), cut_short);
    EventExit::SecondStageFault(SecondStageFault {
        gpa: vmread(Field::GuestPhysicalAddress),
        write: q.write(),
        fetch: q.fetch(),
        page_walk: q.linear_valid() && !q.final_translation(),
    })
}

/// The operands of an I/O instruction.
#[inline(always)]
pub fn io_access() -> IoAccess {
    let q = IoQualification::from(vmread(Field::ExitQualification));
    let string = if q.string() { Some(string_io(q.rep())) } else { None };
    IoAccess { port: q.port(), size: q.size_minus_one() + 1, is_in: q.is_in(), string }
}

#[cold]
fn string_io(rep: bool) -> StringIo {
    // Bits 9:7 of the instruction information are the address size (SDM table 28-8).
    let address_size = match vmread(Field::ExitInstructionInfo) >> 7 & 7 {
        0 => 2,
        1 => 4,
        _ => 8,
    };
    StringIo { linear: vmread(Field::GuestLinearAddress), rep, address_size }
}

fn control_register(regs: &mut GuestRegs) -> EventExit {
    let q = CrQualification::from(vmread(Field::ExitQualification));
    regs.rsp = vmread(Field::GuestRsp);
    match (q.register(), q.access()) {
        (register @ (0 | 4), 0) => {
            EventExit::ControlRegister(CrAccess { register, value: regs.get(Reg(q.gpr())) })
        }
        _ => EventExit::Other,
    }
}

/// The last exit in words.
pub fn describe_exit(vcpu: &VmxVcpu, out: &mut dyn fmt::Write) -> fmt::Result {
    if vcpu.frame.failed {
        return write!(out, "VM entry refused");
    }
    let number = vmread(Field::ExitReason);
    let reason = ExitReason(number as u16);
    let qualification = vmread(Field::ExitQualification);
    write!(out, "{} ({number:#x}), qualification {qualification:#x}", reason.name())?;
    write!(out, "{}", Words { reason, qualification })?;
    if reason == ExitReason::EPT_VIOLATION || reason == ExitReason::EPT_MISCONFIGURATION {
        write!(out, ", guest-physical {:#x}", vmread(Field::GuestPhysicalAddress))?;
    }
    Ok(())
}

/// The decoded picture of a vCPU.
pub fn report(vcpu: &VmxVcpu) -> Report {
    let entry_error = if vcpu.frame.failed { vmread(Field::InstructionError) } else { 0 };
    Report {
        entry_error,
        entry_error_name: entry_error_name(entry_error),
        rsp: vmread(Field::GuestRsp),
        rip: vmread(Field::GuestRip),
        rflags: vmread(Field::GuestRflags),
        cs: vmread(Field::GuestCs) as u16,
        control: vcpu.control_registers(),
        interruptibility: vmread(Field::GuestInterruptibility),
    }
}

/// VM-instruction errors that an entry can meet, SDM volume 3 section 31.4.
const fn entry_error_name(error: u64) -> &'static str {
    match error {
        0 => "none",
        4 => "VMLAUNCH with a VMCS that is not clear",
        5 => "VMRESUME with a VMCS that was not launched",
        7 => "invalid control fields",
        8 => "invalid host-state fields",
        26 => "events blocked by MOV SS",
        _ => "see the table of VM-instruction errors",
    }
}
