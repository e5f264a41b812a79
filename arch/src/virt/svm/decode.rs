//! From SVM exit codes to the neutral [`Exit`] and [`EventExit`]. APM volume 2, sections 15.7 to 15.13 and appendix C.

use super::{NmiState, SvmVcpu, entry};
use crate::apic;
use crate::cpu;
use crate::virt::{
    Backend, CrAccess, Event, EventExit, Exit, ExitInfo, IoAccess, Reg, Report, SecondStageFault,
    StringIo,
};
use arch_defs::insn::{CodeSize, SystemInsn, SystemOp, decode_system};
use arch_defs::svm::exit::{IoInfo, NpfInfo, Words};
use arch_defs::svm::intercept::First;
use arch_defs::svm::{EventInfo, ExitCode, Segment};
use core::fmt;

const DEBUG: u8 = 1;
const DR7_GD: u64 = 1 << 13;
const CR0_TS: u64 = 1 << 3;
/// PE, MP, EM and TS: what LMSW writes; it cannot clear PE.
const LMSW_BITS: u64 = 0xF;
/// Segment numbers of a prefix.
const DS: u8 = 3;

/// Names the exit that just happened.
#[inline(always)]
pub fn exit(code: u64, vcpu: &SvmVcpu) -> Exit {
    match ExitCode(code) {
        ExitCode::CPUID => Exit::Cpuid,
        ExitCode::MSR if vcpu.vmcb().control.exit_info_1 & 1 != 0 => Exit::MsrWrite,
        ExitCode::MSR => Exit::MsrRead,
        ExitCode::IOIO => Exit::Io,
        ExitCode::VMMCALL => Exit::Hypercall,
        _ => Exit::Event,
    }
}

/// Decodes an exit that is none of the common instructions.
pub fn event_exit(vcpu: &mut SvmVcpu) -> ExitInfo {
    let control = &vcpu.vmcb().control;
    let code = ExitCode(control.exit_code);
    let (info_1, info_2) = (control.exit_info_1, control.exit_info_2);
    if code.is_invalid() {
        return ExitInfo { exit: EventExit::EntryFailure, cut_short: None };
    }
    let cut_short = cut_short(vcpu);
    vcpu.frame.regs.rsp = vcpu.vmcb().save.rsp;
    let exit = match code {
        ExitCode::NPF => {
            let npf = NpfInfo::from(info_1);
            EventExit::SecondStageFault(SecondStageFault {
                gpa: info_2,
                write: npf.write(),
                fetch: npf.fetch(),
                page_walk: npf.page_walk(),
            })
        }
        ExitCode::NMI => {
            entry::take_nmi();
            EventExit::Nmi
        }
        ExitCode::IRET => {
            // The handler ends with this IRET, which is still to be executed.
            vcpu.nmi = NmiState::Returning(vcpu.vmcb().save.rip);
            vcpu.intercept(First::IRET, false);
            EventExit::NmiWindow
        }
        ExitCode::INTR => EventExit::ExternalInterrupt,
        ExitCode::VINTR => EventExit::InterruptWindow,
        ExitCode::HLT => EventExit::Halt,
        ExitCode::XSETBV => EventExit::Xsetbv,
        ExitCode::INVD => EventExit::CacheFlush,
        ExitCode::RDPMC => EventExit::Rdpmc,
        ExitCode::SHUTDOWN => EventExit::TripleFault,
        ExitCode::CR0_SELECTIVE => control_register(vcpu),
        ExitCode(0x00..=0x1F) => control_register(vcpu),
        ExitCode(exception @ 0x40..=0x5F) => {
            exception_exit(vcpu, (exception - ExitCode::EXCEPTION_FIRST) as u8, info_1)
        }
        ExitCode::INVLPGA
        | ExitCode::VMRUN
        | ExitCode::VMLOAD
        | ExitCode::VMSAVE
        | ExitCode::STGI
        | ExitCode::CLGI
        | ExitCode::SKINIT
        | ExitCode::MONITOR
        | ExitCode::MWAIT
        | ExitCode::MWAIT_ARMED
        | ExitCode::RDPRU => EventExit::UndefinedInstruction,
        _ => EventExit::Other,
    };
    ExitInfo { exit, cut_short }
}

/// The delivery that the exit cut short.
fn cut_short(vcpu: &mut SvmVcpu) -> Option<Event> {
    let info = EventInfo::from(vcpu.vmcb().control.exit_interrupt_info);
    if !info.valid() {
        return None;
    }
    let event = event(info.repaired(apic::in_service(info.vector())));
    if event == Some(Event::Nmi) {
        // Its delivery had begun to mask NMIs; the one that is delivered again must not find itself masked.
        vcpu.nmi = NmiState::Open;
        vcpu.intercept(First::IRET, false);
        let control = &mut vcpu.vmcb_mut().control;
        control.interrupt_control = control.interrupt_control.with_nmi_mask(false);
    }
    event
}

/// The event that an information field describes. INT n, INT3 and INTO are none: RIP is still at the instruction, which
/// is executed again.
pub fn event(info: EventInfo) -> Option<Event> {
    const BREAKPOINT: u8 = 3;
    const OVERFLOW: u8 = 4;
    if !info.valid() {
        return None;
    }
    let vector = info.vector();
    match (info.kind(), vector) {
        (EventInfo::TYPE_EXTERNAL, _) => Some(Event::External { vector }),
        (EventInfo::TYPE_NMI, _) => Some(Event::Nmi),
        (EventInfo::TYPE_SOFTWARE, _) | (_, BREAKPOINT | OVERFLOW) => None,
        _ => Some(Event::Exception {
            vector,
            error_code: info.has_error_code().then(|| info.error_code()),
        }),
    }
}

fn exception_exit(vcpu: &mut SvmVcpu, vector: u8, error_code: u64) -> EventExit {
    if vector == DEBUG {
        // The CPU has put the reason into DR6 (APM section 15.12.2). A delivery ends general detection.
        vcpu.vmcb_mut().save.dr7 &= !DR7_GD;
    }
    // #AC is the only intercepted exception with an error code.
    EventExit::Exception { vector, error_code: (vector == 17).then_some(error_code as u32) }
}

/// The instruction at RIP, if it is one that exits.
fn instruction(vcpu: &SvmVcpu) -> Option<SystemInsn> {
    let state = vcpu.fetch_state();
    let mut bytes = [0; 15];
    let got = vcpu.code.read_code(&state, &mut bytes);
    let size = match (state.long, state.default_32) {
        (true, _) => CodeSize::Bits64,
        (_, true) => CodeSize::Bits32,
        _ => CodeSize::Bits16,
    };
    decode_system(bytes.get(..got)?, size)
}

/// Length in bytes of the instruction that exited.
pub fn instruction_length(vcpu: &SvmVcpu) -> u64 {
    let control = &vcpu.vmcb().control;
    let rip = vcpu.vmcb().save.rip;
    let code = ExitCode(control.exit_code);
    if code == ExitCode::IOIO {
        // EXITINFO2 is the address of the next instruction on every CPU (APM section 15.10.2).
        return control.exit_info_2.wrapping_sub(rip);
    }
    if vcpu.features.next_rip && control.next_rip != 0 {
        return control.next_rip.wrapping_sub(rip);
    }
    match instruction(vcpu) {
        Some(insn) => insn.len.into(),
        // Another vCPU changed the code meanwhile: the length without prefixes.
        None if matches!(code, ExitCode::VMMCALL | ExitCode::XSETBV)
            || code.0 < ExitCode::EXCEPTION_FIRST =>
        {
            3
        }
        None => 2,
    }
}

/// The operands of an I/O instruction.
pub fn io_access(vcpu: &mut SvmVcpu) -> IoAccess {
    let info = IoInfo::from(vcpu.vmcb().control.exit_info_1);
    let string = info.string().then(|| string_io(vcpu, info));
    IoAccess { port: info.port(), size: info.size().clamp(1, 4), is_in: info.is_in(), string }
}

#[cold]
fn string_io(vcpu: &SvmVcpu, info: IoInfo) -> StringIo {
    let (address_size, mask) = match info.address_size() {
        1 => (2, 0xFFFF),
        2 => (4, 0xFFFF_FFFF),
        _ => (8, u64::MAX),
    };
    let save = &vcpu.vmcb().save;
    // INS always uses ES; OUTS uses DS or what a prefix names.
    let (offset, segment) = if info.is_in() {
        (vcpu.frame.regs.rdi, 0)
    } else {
        (vcpu.frame.regs.rsi, instruction(vcpu).and_then(|insn| insn.segment).unwrap_or(DS))
    };
    let segments: [&Segment; 6] = [&save.es, &save.cs, &save.ss, &save.ds, &save.fs, &save.gs];
    let long = vcpu.is_long();
    // In 64-bit mode only FS and GS have a base.
    let base =
        segments.get(usize::from(segment)).filter(|_| !long || segment > DS).map_or(0, |s| s.base);
    let linear = base.wrapping_add(offset & mask);
    StringIo {
        linear: if long { linear } else { linear & 0xFFFF_FFFF },
        rep: info.rep(),
        address_size,
    }
}

fn control_register(vcpu: &mut SvmVcpu) -> EventExit {
    let Some(insn) = instruction(vcpu) else { return EventExit::Other };
    let gpr = |n: u8| vcpu.frame.regs.get(Reg(n));
    let now = vcpu.control_registers();
    let write = |register, value| EventExit::ControlRegister(CrAccess { register, value });
    match insn.op {
        SystemOp::WriteControl { register: register @ (0 | 4), gpr: n } => {
            let value = gpr(n);
            write(register, if vcpu.is_long() { value } else { value & 0xFFFF_FFFF })
        }
        SystemOp::ClearTaskSwitched => write(0, now.cr0 & !CR0_TS),
        SystemOp::LoadStatusWord { gpr: n } => {
            write(0, now.cr0 & !(LMSW_BITS & !cpu::CR0_PE) | gpr(n) & LMSW_BITS)
        }
        SystemOp::ReadControl { register: register @ (0 | 4), gpr } => {
            EventExit::ControlRegisterRead { register, gpr, word: false }
        }
        SystemOp::ReadControl { register, gpr } => unshadowed(vcpu, register, gpr, false),
        SystemOp::WriteControl { register, gpr } => unshadowed(vcpu, register, gpr, true),
        SystemOp::StoreStatusWord { gpr, word } => {
            EventExit::ControlRegisterRead { register: 0, gpr, word }
        }
        _ => EventExit::Other,
    }
}

/// CR2, CR3 and CR8 are the guest's own. QEMU 10's TCG asks CR0's intercept about every MOV of a control register.
fn unshadowed(vcpu: &mut SvmVcpu, register: u8, gpr: u8, write: bool) -> EventExit {
    /// Bit 63 of a value for CR3: keep the translations.
    const NO_FLUSH: u64 = 1 << 63;
    let value = vcpu.frame.regs.get(Reg(gpr));
    let save = &mut vcpu.vmcb_mut().save;
    let old = match register {
        2 => save.cr2,
        3 => save.cr3,
        8 => cpu::cr8(),
        _ => return EventExit::Other,
    };
    match (register, write) {
        (_, false) => {
            vcpu.frame.regs.set(Reg(gpr), old);
            vcpu.vmcb_mut().save.rsp = vcpu.frame.regs.rsp;
        }
        (2, true) => save.cr2 = value,
        (3, true) => {
            save.cr3 = value & !NO_FLUSH;
            vcpu.flush();
        }
        _ => cpu::set_cr8(value & 0xF),
    }
    vcpu.skip_instruction();
    EventExit::Emulated
}

/// The last exit in words.
pub fn describe_exit(vcpu: &SvmVcpu, out: &mut dyn fmt::Write) -> fmt::Result {
    let control = &vcpu.vmcb().control;
    let code = ExitCode(control.exit_code);
    let (info_1, info_2) = (control.exit_info_1, control.exit_info_2);
    write!(out, "{} ({:#x}), information {info_1:#x} {info_2:#x}", code.name(), code.0)?;
    write!(out, "{}", Words { code, info_1, info_2 })
}

/// The decoded picture of a vCPU.
pub fn report(vcpu: &SvmVcpu) -> Report {
    let save = &vcpu.vmcb().save;
    let invalid = ExitCode(vcpu.vmcb().control.exit_code).is_invalid();
    Report {
        entry_error: u64::from(invalid),
        entry_error_name: if invalid {
            "illegal guest state (APM volume 2, section 15.5.1)"
        } else {
            "none"
        },
        rsp: save.rsp,
        rip: save.rip,
        rflags: save.rflags,
        cs: save.cs.selector,
        control: vcpu.control_registers(),
        interruptibility: vcpu.vmcb().control.interrupt_state,
    }
}
