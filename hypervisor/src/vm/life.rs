//! The life of a VM, led by the housekeeping core: load and start, stop, restart, report.
//!
//! A vCPU is asked by request and kick and answers with its [`super::Lifecycle`]; nothing here
//! touches a vCPU's private half.
//!
//! A VM that stops settles before anything else becomes of it: its functions are reset, all side by side, and taken out of
//! its address space, and only then another run is loaded into its memory. Nobody waits for that: [`serve`] looks.

use super::{Ask, Lifecycle, Vm};
use crate::assignment;
use crate::console;
use crate::interrupt::kick::Requests;
use crate::interrupt::post::request;
use crate::memory::Loader;
use crate::sync::Ordering;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch::boot::Module;
use arch::virt::StartState;
use guest_loader::entry::CpuEntry;
use guest_loader::image::{GuestSpec, Module as GuestModule, Platform};

/// How long to wait for a vCPU to stop, in ticks per tsc_hz: one second. A kick takes
/// microseconds; an emulator on a busy host may take longer.
const STOP_PATIENCE: u64 = 1;

/// Loads a VM's images into its cleared memory and starts its first vCPU; the others wait for
/// their start-up IPIs. Its functions are at rest: they were reset, and nothing has spoken to them since.
///
/// # Errors
/// What is wrong with the image, naming its field.
pub fn start(vm: &'static Vm, modules: &[Module]) -> Result<(), String> {
    vm.devices.reset();
    let entry = load(vm, modules)?;
    assignment::connect(vm)?;
    vm.set_up();
    console::line(format_args!("BEELINE vm-start vm={} vcpus={}", vm.config.name, vm.vcpus.len()));
    // The first vCPU goes last: it may send start-up IPIs at once.
    for vcpu in vm.vcpus.iter().rev() {
        vcpu.set_start((vcpu.id == 0).then_some(entry));
        request(vcpu, Requests::START);
    }
    Ok(())
}

fn load(vm: &Vm, modules: &[Module]) -> Result<StartState, String> {
    let find = |name: &str| {
        let found = modules.iter().find(|module| module.name == name);
        found.map(|module| module.data).ok_or_else(|| format!("module \"{name}\" is missing"))
    };
    let config = &vm.config;
    let kernel = find(&config.kernel)?;
    let initrd = config.initrd.as_deref().map(find).transpose()?;
    let extra: Vec<(&[u8], &str)> = config
        .modules
        .iter()
        .map(|module| Ok((find(&module.name)?, module.cmdline.as_str())))
        .collect::<Result<_, String>>()?;
    let extra: Vec<GuestModule<'_>> =
        extra.iter().map(|&(data, cmdline)| GuestModule { data, cmdline }).collect();
    vm.ram.clear();
    let mut memory = Loader(&vm.ram);
    let vcpus = vm.vcpus.len() as u32;
    let rsdp = guest_loader::acpi::build(&mut memory, vcpus, &vm.devices.pci_routing())
        .map_err(|e| format!("{e}"))?;
    let spec = GuestSpec {
        kernel,
        initrd,
        modules: &extra,
        cmdline: &config.cmdline,
        platform: &Platform { vcpus, rsdp },
    };
    let entry = guest_loader::image::load(&mut memory, &spec)
        .map_err(|e| format!("kernel \"{}\": {e}", config.kernel))?;
    Ok(start_state(entry))
}

fn start_state(entry: CpuEntry) -> StartState {
    match entry {
        CpuEntry::Long64 { rip, rsi, rsp, cr3, gdt_base, gdt_limit } => {
            StartState::Long64 { rip, rsp, rsi, cr3: cr3.0, gdt_base: gdt_base.0, gdt_limit }
        }
        CpuEntry::Protected32 { eip, eax, ebx } => StartState::Protected32 { eip, eax, ebx },
    }
}

/// Stops all vCPUs of a VM and waits for them.
///
/// # Errors
/// The first vCPU that did not stop in time: a bug of ours.
fn stop(vm: &Vm, tsc_hz: u64) -> Result<(), u32> {
    for vcpu in &vm.vcpus {
        request(vcpu, Requests::STOP);
    }
    let begin = arch::cpu::rdtsc();
    for vcpu in &vm.vcpus {
        while vcpu.lifecycle() != Lifecycle::Off {
            if arch::cpu::rdtsc().wrapping_sub(begin) > STOP_PATIENCE * tsc_hz {
                return Err(vcpu.id);
            }
            arch::cpu::pause();
        }
    }
    Ok(())
}

/// What became of a VM that asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It asked for nothing, or runs again.
    GoesOn,
    /// It is off for good, as it wished.
    Off,
    /// It is off for good, and should not be.
    Failed,
}

/// Serves what a VM asked for.
pub fn serve(vm: &'static Vm, modules: &[Module], tsc_hz: u64) -> Served {
    if vm.is_up() && vm.asked() != Ask::Nothing && !end(vm, tsc_hz) {
        vm.set_down();
        return Served::Failed;
    }
    if vm.is_settling() && !vm.devices.attend_pci() { settled(vm, modules) } else { Served::GoesOn }
}

/// Ends a VM's run; its functions begin to settle. False if its memory may still be in use: never load another run over it.
fn end(vm: &Vm, tsc_hz: u64) -> bool {
    let name = &vm.config.name;
    let stopped = stop(vm, tsc_hz);
    if let Err(vcpu) = stopped {
        log::error!("vm {name}: vCPU {vcpu} does not answer to its kick");
    }
    // A line of a vCPU that does not answer would still lead to its core.
    vm.devices.close_lines();
    vm.devices.rest_pci();
    report(vm);
    console::line(format_args!("BEELINE vm-stop vm={name} reason={}", vm.asked().word()));
    vm.set_settling();
    stopped.is_ok()
}

/// Goes on with a VM whose functions are at rest.
fn settled(vm: &'static Vm, modules: &[Module]) -> Served {
    let asked = vm.asked();
    // Whatever a function does in spite of its silence or its reset, nothing reaches the memory of the next run.
    let disconnected = assignment::disconnect(vm);
    vm.set_down();
    let next = match (disconnected, asked) {
        (Err(why), _) => Err(why),
        (Ok(()), Ask::Refused) => return Served::Failed,
        (Ok(()), Ask::Reset) => start(vm, modules),
        (Ok(()), _) => return Served::Off,
    };
    match next {
        Ok(()) => Served::GoesOn,
        Err(why) => {
            log::error!("vm {}: cannot restart: {why}", vm.config.name);
            Served::Failed
        }
    }
}

/// The totals of the run that ends.
fn report(vm: &Vm) {
    let now = arch::cpu::rdtsc();
    for vcpu in &vm.vcpus {
        let span = crate::stats::Span { from: vcpu.stats.origin(), to: vcpu.stats.snapshot(now) };
        console::line(format_args!("BEELINE exits vm={} vcpu={} {span}", vm.config.name, vcpu.id));
    }
    let unclaimed = vm.unclaimed.swap(0, Ordering::Relaxed);
    if unclaimed > 0 {
        let name = &vm.config.name;
        log::info!("vm {name}: {unclaimed} accesses to ports and memory that nobody answers");
    }
}
