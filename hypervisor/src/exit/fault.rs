//! What ends a VM: exits that the hypervisor refuses, each with a decoded report (exit,
//! qualification, instruction, registers, what to try). The other VMs keep running.

use crate::stats::ExitKind;
use crate::vcpu::Vcpu;
use crate::vm::Ask;
use crate::vm::walk::{PagingState, fetch};
use arch::virt::{Backend, SecondStageFault};
use core::fmt::Write;

/// A triple fault.
#[cold]
pub fn triple<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::TripleFault);
    refuse(
        vcpu,
        format_args!("the guest shut down (triple fault)"),
        "an exception was raised while the guest delivered a double fault: look at its IDT, its \
         stack, and the last lines of its console",
    );
}

/// The CPU refused to enter the guest.
#[cold]
pub fn entry<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::EntryFailure);
    let report = vcpu.backend.report();
    refuse(
        vcpu,
        format_args!(
            "the CPU refused to enter the guest: {} (error {})",
            report.entry_error_name, report.entry_error
        ),
        "the guest brought itself into a state that the CPU cannot run; if it should be legal, \
         this is a bug of Beeline",
    );
}

/// An exit that nobody handles.
#[cold]
pub fn unknown<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::Unknown);
    refuse(
        vcpu,
        format_args!("the guest did something that Beeline does not emulate"),
        "task switches through gates and the like are not supported; see docs/src/limits.md",
    );
}

/// An instruction whose memory access cannot be emulated.
#[cold]
pub fn memory<B: Backend>(vcpu: &mut Vcpu<B>, fault: SecondStageFault, why: &str) {
    let kind = match (fault.fetch, fault.page_walk, fault.write) {
        (true, ..) => "executed",
        (_, true, _) => "walked page tables in",
        (.., true) => "wrote to",
        _ => "read from",
    };
    refuse(
        vcpu,
        format_args!("the guest {kind} guest-physical {:#x}, which is not RAM: {why}", fault.gpa),
        "give the VM more memory if the address should be RAM",
    );
}

/// INS or OUTS whose memory is not there.
#[cold]
pub fn string_io<B: Backend>(vcpu: &mut Vcpu<B>, linear: u64) {
    refuse(
        vcpu,
        format_args!("the guest made INS or OUTS with memory at {linear:#x} that is not RAM"),
        "Beeline moves string I/O between ports and RAM only",
    );
}

/// A machine check while the guest ran.
#[cold]
pub fn machine_check<B: Backend>(vcpu: &mut Vcpu<B>) {
    refuse(
        vcpu,
        format_args!("a machine check hit the core while the guest ran"),
        "this is a hardware error: look at the machine's error log",
    );
}

/// Stops the VM with a report.
fn refuse<B: Backend>(vcpu: &mut Vcpu<B>, what: core::fmt::Arguments<'_>, hint: &str) {
    let report = vcpu.backend.report();
    let mut text = alloc::string::String::new();
    // Writing to a string cannot fail.
    let _ = render(&mut text, vcpu, &report, what, hint);
    for line in text.lines() {
        log::error!("{line}");
    }
    vcpu.stop_vm(Ask::Refused);
}

fn render<B: Backend>(
    out: &mut impl Write,
    vcpu: &mut Vcpu<B>,
    report: &arch::virt::Report,
    what: core::fmt::Arguments<'_>,
    hint: &str,
) -> core::fmt::Result {
    let (vm, id) = (vcpu.vm.config.name.as_str(), vcpu.shared.id);
    writeln!(out, "vm {vm} vCPU {id} is stopped: {what}")?;
    write!(out, "  exit: ")?;
    vcpu.backend.describe_exit(out)?;
    writeln!(out)?;
    let c = report.control;
    let code = vcpu.backend.code_segment();
    let mode = match (code.long, code.default_32, c.cr0 & arch::cpu::CR0_PE != 0) {
        (true, ..) => "64-bit",
        (_, _, false) => "real mode",
        (_, true, _) => "32-bit",
        _ => "16-bit",
    };
    writeln!(
        out,
        "  at {:04x}:{:016x} ({mode}), flags {:#x}, interruptibility {:#x}",
        report.cs, report.rip, report.rflags, report.interruptibility
    )?;
    writeln!(out, "  cr0 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}", c.cr0, c.cr3, c.cr4, c.efer)?;
    let paging = PagingState::from(c);
    let mut bytes = [0; 15];
    let got = fetch(&vcpu.vm.ram, &paging, vcpu.backend.linear_rip(), &mut bytes);
    write!(out, "  instruction bytes:")?;
    for byte in bytes.iter().take(got) {
        write!(out, " {byte:02x}")?;
    }
    writeln!(out, "{}", if got == 0 { " (not readable)" } else { "" })?;
    let r = *vcpu.backend.regs();
    let rows = [
        [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
        [("rsi", r.rsi), ("rdi", r.rdi), ("rbp", r.rbp), ("rsp", report.rsp)],
        [("r8 ", r.r8), ("r9 ", r.r9), ("r10", r.r10), ("r11", r.r11)],
        [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
    ];
    for row in rows {
        for (name, value) in row {
            write!(out, "  {name} {value:016x}")?;
        }
        writeln!(out)?;
    }
    writeln!(out, "  what to try: {hint}")
}
