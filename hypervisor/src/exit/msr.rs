//! RDMSR and WRMSR exits: the table of [`super::msr_policy`] carried out.

use super::msr_policy::{Kind, Once, Read, Row, Write, common_row, lookup};
use crate::interrupt::ipi;
use crate::stats::ExitKind;
use crate::vcpu::Vcpu;
use arch::apic::ValidatedRegister;
use arch::virt::{Backend, Event};
use arch_defs::apic::{ApicMode, LvtRegister, msr};

/// The access faults.
struct Gp;

/// EFER bits that a guest may set: SCE, LME, LMA (kept by the CPU), NXE, and FFXSR-free.
const EFER_ALLOWED: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;

/// WRMSR.
#[inline(always)]
pub fn write<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::MsrWrite);
    let regs = vcpu.backend.regs();
    let (index, value) = (regs.rcx as u32, regs.edx_eax());
    // The ICR is the one register that a busy guest exits for.
    let done = if index == msr::ICR && vcpu.apic.mode == ApicMode::X2apic {
        ipi::x2apic_icr(vcpu, value).map_err(|_| Gp)
    } else {
        write_by_table(vcpu, index, value)
    };
    finish(vcpu, done);
}

/// RDMSR.
#[inline(never)]
pub fn read<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::MsrRead);
    let index = vcpu.backend.regs().rcx as u32;
    let done = match read_by_table(vcpu, index) {
        Ok(value) => {
            vcpu.backend.regs().set_edx_eax(value);
            Ok(())
        }
        Err(gp) => Err(gp),
    };
    finish(vcpu, done);
}

#[inline(always)]
fn finish<B: Backend>(vcpu: &mut Vcpu<B>, done: Result<(), Gp>) {
    match done {
        Ok(()) => vcpu.backend.skip_instruction(),
        Err(Gp) => vcpu.backend.inject(Event::GENERAL_PROTECTION),
    }
}

#[inline(always)]
fn row(index: u32) -> Option<&'static Row> {
    common_row(index).or_else(|| lookup_here(index))
}

#[cold]
fn lookup_here(index: u32) -> Option<&'static Row> {
    lookup(crate::boot::vendor(), index)
}

/// x2APIC registers exist in x2APIC mode only.
fn hidden<B: Backend>(vcpu: &Vcpu<B>, index: u32) -> bool {
    (msr::X2APIC_FIRST..=msr::X2APIC_LAST).contains(&index) && vcpu.apic.mode != ApicMode::X2apic
}

#[inline(never)]
fn write_by_table<B: Backend>(vcpu: &mut Vcpu<B>, index: u32, value: u64) -> Result<(), Gp> {
    if hidden(vcpu, index) {
        return Err(Gp);
    }
    let Some(row) = row(index) else {
        unknown(vcpu, "WRMSR", index);
        return Err(Gp);
    };
    match row.write {
        Write::Ignore => Ok(()),
        Write::IgnoreLogOnce(what) => {
            if vcpu.msrs.log_now(what) {
                dropped(vcpu, what);
            }
            Ok(())
        }
        Write::Emulated(kind) => emulated_write(vcpu, kind, index, value),
        // A row that passes does not exit, unless the backend has no bitmap for it.
        Write::Pass | Write::Gp => Err(Gp),
    }
}

fn emulated_write<B: Backend>(
    vcpu: &mut Vcpu<B>,
    kind: Kind,
    index: u32,
    value: u64,
) -> Result<(), Gp> {
    match kind {
        Kind::ApicBase => {
            let mode = vcpu.apic.mode.write(value).map_err(|_| Gp)?;
            vcpu.set_apic_mode(mode);
            Ok(())
        }
        Kind::Icr => ipi::x2apic_icr(vcpu, value).map_err(|_| Gp),
        Kind::Svr => {
            let hardware = vcpu.apic.write_svr(value).map_err(|_| Gp)?;
            vcpu.write_svr(hardware);
            Ok(())
        }
        Kind::Lvt(register) => {
            let hardware = vcpu.apic.write_lvt(register, value).map_err(|_| Gp)?;
            // The other entries stay masked in the hardware: their sources are the machine's.
            if register == LvtRegister::Error {
                arch::apic::write_validated(ValidatedRegister::LvtError, hardware);
            }
            Ok(())
        }
        Kind::Efer => write_efer(vcpu, value),
        Kind::Held(held) => vcpu.msrs.write(held, index, value).map_err(|_| Gp),
        Kind::SystemTime => vcpu.clock.write_system_time(&vcpu.vm.ram, value).map_err(|_| Gp),
        Kind::WallClock => vcpu.clock.write_wall_clock(&vcpu.vm.ram, value).map_err(|_| Gp),
        Kind::ApicId | Kind::Version | Kind::Ldr => Err(Gp),
    }
}

#[inline(never)]
fn write_efer<B: Backend>(vcpu: &mut Vcpu<B>, value: u64) -> Result<(), Gp> {
    let now = vcpu.backend.control_registers();
    let paging = now.cr0 & arch::cpu::CR0_PG != 0;
    let toggles_lme = (value ^ now.efer) & arch::cpu::EFER_LME != 0;
    if value & !EFER_ALLOWED != 0 || paging && toggles_lme {
        return Err(Gp);
    }
    vcpu.backend.set_efer(value);
    Ok(())
}

fn read_by_table<B: Backend>(vcpu: &mut Vcpu<B>, index: u32) -> Result<u64, Gp> {
    if hidden(vcpu, index) {
        return Err(Gp);
    }
    let Some(row) = row(index) else {
        unknown(vcpu, "RDMSR", index);
        return Err(Gp);
    };
    match row.read {
        Read::Value(value) => Ok(value),
        Read::Emulated(kind) => match kind {
            Kind::ApicBase => Ok(vcpu.apic.mode.read(vcpu.shared.id == 0)),
            Kind::ApicId => Ok(vcpu.apic.id.0.into()),
            Kind::Version => Ok(crate::interrupt::apic_state::version()),
            Kind::Ldr => Ok(vcpu.apic.ldr().into()),
            Kind::Icr => Ok(vcpu.apic.icr),
            Kind::Svr => Ok(u32::from(vcpu.apic.svr).into()),
            Kind::Lvt(register) => Ok(vcpu.apic.lvt(register)),
            Kind::Efer => Ok(vcpu.backend.control_registers().efer),
            Kind::Held(held) => vcpu.msrs.read(held, index).map_err(|_| Gp),
            Kind::SystemTime | Kind::WallClock => Err(Gp),
        },
        Read::Pass | Read::Gp => Err(Gp),
    }
}

#[cold]
fn dropped<B: Backend>(vcpu: &Vcpu<B>, what: Once) {
    // The caller's flag starts anew with each INIT, which a guest can send as often as it likes.
    if !crate::rate_limit::UNKNOWN_MSR.allow() {
        return;
    }
    let (register, why) = match what {
        Once::Tsc => ("the TSC", "offset 0 keeps deadlines right"),
        Once::TscAdjust => ("TSC_ADJUST", "offset 0 keeps deadlines right"),
        Once::DebugCtl => ("DEBUGCTL", "there are no branch records"),
    };
    let (vm, id) = (&vcpu.vm.config.name, vcpu.shared.id);
    log::info!("vm {vm} vCPU {id}: its write to {register} is dropped ({why})");
}

#[cold]
fn unknown<B: Backend>(vcpu: &Vcpu<B>, what: &str, index: u32) {
    if crate::rate_limit::UNKNOWN_MSR.allow() {
        log::info!(
            "vm {} vCPU {}: {what} of unknown MSR {index:#x} gets #GP",
            vcpu.vm.config.name,
            vcpu.shared.id
        );
    }
}
