//! Bring-up, in the order it happens: serial, heap, boot information, ACPI, page tables, cores,
//! configuration, VMs; then the housekeeping loop. Read it top to bottom.
//!
//! A machine or a configuration that cannot be used gets a message that says what is missing and
//! what to change, and a `BEELINE fatal` line.

mod command_line;
mod other_cores;

use crate::assignment::{self, Pci};
use crate::console;
use crate::exit::cpuid::Vendor;
use crate::memory::GuestRam;
use crate::sync::Once;
use crate::vcpu::{self, MachineRates};
use crate::vm::{self, Memory, Vm};
use crate::{fatal, housekeeping};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::acpi::Platform;
use arch::boot::{BootInfo, Module};
use arch::machine::ExitPort;
use arch::stage2::Stage2;
use arch::virt::Backend;
use arch::virt::svm::SvmVcpu;
use arch::virt::vmx::VmxVcpu;
use arch::{acpi, apic, cpu, heap, ioapic, tables, time};
use command_line::CommandLine;
use core::ops::Range;
use guest_loader::config::{self, Config, MachineFacts};

/// The machine and what the boot loader brought.
pub struct Machine {
    /// What firmware says.
    pub platform: Platform,
    /// Clock rates and vendor.
    pub rates: MachineRates,
    /// Images and the configuration.
    pub modules: Vec<Module>,
}

static EXIT_PORT: Once<ExitPort> = Once::new();
static VENDOR: Once<Vendor> = Once::new();

/// Whose rules CPUID and MSRs follow.
#[inline]
pub fn vendor() -> Vendor {
    VENDOR.get().copied().unwrap_or(Vendor::Intel)
}

/// Ends the machine as the command line says.
pub fn end_machine(success: bool) -> ! {
    let port = EXIT_PORT.get().copied().unwrap_or_default();
    // A machine that cannot boot must not do so for ever.
    if success || port != ExitPort::Reboot {
        arch::machine::exit(port, success);
    }
    cpu::halt_forever()
}

/// The boot core's way, from the entry point to the housekeeping loop.
pub fn main(magic: u32, info: u64) -> ! {
    console::init();
    match bring_up(magic, info) {
        Ok(well) => {
            console::flush_now();
            console::line(format_args!("BEELINE done"));
            end_machine(well)
        }
        Err(why) => {
            console::flush_now();
            log::error!("{why}");
            console::line(format_args!("BEELINE fatal {why}"));
            end_machine(false)
        }
    }
}

fn bring_up(magic: u32, info: u64) -> Result<bool, String> {
    let image = arch::boot::Image::here();
    let first = arch::boot::first_heap(magic, info, &image.all).map_err(ToString::to_string)?;
    // The span was checked to be free RAM below 4 GiB, which the boot page tables map.
    heap::give(first.clone());
    let boot = arch::boot::parse(magic, info)?;
    let line = CommandLine::parse(&boot.cmdline);
    EXIT_PORT.call_once(|| line.exit);
    let mut files: Vec<Range<u64>> = boot.modules.iter().map(Module::range).collect();
    files.push(boot.info.clone());
    console::preserve(&boot.ram, &files);
    line.report();
    log::info!(
        "Beeline {} ({} build), {} MiB of RAM",
        env!("CARGO_PKG_VERSION"),
        build(),
        boot.ram.iter().map(|r| r.end - r.start).sum::<u64>() >> 20
    );
    let platform = acpi::read(boot.acpi)?;
    check_places(&boot, &platform)?;
    build_address_space(&image, &boot, &first);
    check_cpu()?;
    tables::set_fatal_handler(fatal::exception);
    tables::install(0).map_err(|e| e.to_string())?;
    apic::enable();
    ioapic::init(&platform.io_apics);
    let rates = measure_clocks(&platform, &line)?;
    let machine = Machine { platform, rates, modules: boot.modules };
    log::info!(
        "TSC {} kHz, LAPIC timer {} kHz, {} processors, {} PCI windows, {} IOMMUs",
        rates.tsc_hz / 1000,
        rates.lapic_hz / 1000,
        machine.platform.processors.len(),
        machine.platform.ecam.len(),
        machine.platform.dmar.as_ref().map_or(0, |dmar| dmar.units.len())
    );
    let pci = assignment::start(&machine.platform, &boot.ram, rates.tsc_hz)?;
    // The one place where the vendor is chosen.
    match (cpu::has_vmx(), cpu::has_svm()) {
        (true, _) => with_backend::<VmxVcpu>(&machine, pci),
        (_, true) => with_backend::<SvmVcpu>(&machine, pci),
        _ => Err("this CPU has neither Intel VMX (CPUID.1:ECX bit 5) nor AMD SVM (CPUID 8000_0001:ECX bit 2): use \
                  a CPU with one of them, switch virtualisation on in the firmware, or pass `-cpu host` and nesting \
                  to the outer QEMU/KVM"
            .to_string()),
    }
}

const fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}

/// Everything that depends on the CPU's vendor.
fn with_backend<B: Backend>(machine: &Machine, mut pci: Pci) -> Result<bool, String> {
    tables::set_nmi_handler(vcpu::nmi_in_root::<B>);
    B::enable_core().map_err(|e| e.to_string())?;
    let cores = other_cores::start::<B>(machine)?;
    // Nothing is writable and executable from here on.
    arch::paging::set_access(
        arch::boot::TRAMPOLINE..arch::boot::TRAMPOLINE + 0x1000,
        arch::paging::Access::WRITE,
    );
    console::line(format_args!(
        "BEELINE ready cpus={cores} backend={} build={} tsc_hz={}",
        B::NAME,
        build(),
        machine.rates.tsc_hz
    ));
    let config = read_config(&machine.modules)?;
    let names: Vec<&str> = machine.modules.iter().map(|m| m.name.as_str()).collect();
    let (total, used) = heap::usage();
    let facts = MachineFacts {
        cores: Some(cores),
        memory: Some((total - used) as u64),
        modules: Some(&names),
    };
    config::check(&config, &facts).map_err(|e| format!("configuration: {e}"))?;
    pci.enable_virtual_functions(&config.vms)?;
    pci.survey(&config.vms);
    pci.check_isolation(&config.vms)?;
    pci.wire(&config.vms, &machine.platform);
    vm::publish(build_vms::<B>(config, &pci)?);
    housekeeping::run(machine)
}

/// W^X, guard pages, everything else of RAM writable and not executable.
fn build_address_space(image: &arch::boot::Image, boot: &BootInfo, first: &Range<u64>) {
    use arch::paging::{Access, activate};
    let mut map: Vec<(Range<u64>, Access)> = Vec::new();
    // Conventional memory: the trampoline is written, then executed; nothing else lives there.
    map.push((0x1000..0xA_0000, Access::WRITE));
    map.push((
        arch::boot::TRAMPOLINE..arch::boot::TRAMPOLINE + 0x1000,
        Access::WRITE | Access::EXECUTE,
    ));
    for range in &boot.ram {
        let start = range.start.max(0x10_0000).next_multiple_of(4096);
        let end = range.end & !4095;
        if start < end {
            map.push((start..end, Access::WRITE));
        }
    }
    map.push((image.text.clone(), Access::EXECUTE));
    map.push((image.rodata.clone(), Access::empty()));
    map.push((image.data.clone(), Access::WRITE));
    for module in &boot.modules {
        let range = module.range();
        if !range.is_empty() {
            map.push((range, Access::empty()));
        }
    }
    activate(&map);
    arch::paging::guard_page(image.guard.start);
    // What the boot loader left free becomes heap, but for the span that is heap already.
    let mut used: Vec<Range<u64>> = boot.modules.iter().map(Module::range).collect();
    used.extend([image.all.clone(), boot.info.clone(), first.clone(), arch::log_memory::RANGE]);
    for range in arch::boot::free(&boot.ram, &used) {
        heap::give(range);
    }
}

/// The fixed places of low memory must be RAM that the boot loader left alone, and device registers
/// must not lie in RAM.
fn check_places(boot: &BootInfo, platform: &Platform) -> Result<(), String> {
    let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    let trampoline = arch::boot::TRAMPOLINE..arch::boot::TRAMPOLINE + 0x1000;
    let is_ram = |span: &Range<u64>| {
        boot.ram.iter().any(|ram| ram.start <= span.start && span.end <= ram.end)
    };
    if !is_ram(&trampoline) {
        return Err(format!("the page at {:#x}, where cores start, is not RAM", trampoline.start));
    }
    let mut files = boot.modules.iter().map(Module::range).chain([boot.info.clone()]);
    if let Some(file) = files.find(|file| overlap(file, &trampoline)) {
        return Err(format!(
            "the boot loader put a module or its information at {:#x}, over the page at {:#x} where \
             cores start",
            file.start, trampoline.start
        ));
    }
    for chip in &platform.io_apics {
        let registers = u64::from(chip.address)..u64::from(chip.address) + 0x1000;
        if chip.address == 0 || boot.ram.iter().any(|ram| overlap(ram, &registers)) {
            return Err(format!(
                "ACPI APIC table: the I/O APIC address {:#x} lies in RAM",
                chip.address
            ));
        }
    }
    for unit in platform.dmar.iter().flat_map(|dmar| &dmar.units) {
        // The page that every unit has; how many more it uses, only its registers say.
        let registers = unit.base..unit.base + 0x1000;
        if boot.ram.iter().any(|ram| overlap(ram, &registers)) {
            return Err(format!(
                "ACPI DMAR table: the register base address {:#x} lies in RAM",
                unit.base
            ));
        }
    }
    Ok(())
}

fn check_cpu() -> Result<(), String> {
    if !cpu::has_x2apic() {
        return Err("this CPU has no x2APIC (CPUID.1:ECX bit 21): switch x2APIC on in the \
                    firmware, or give the outer QEMU `-cpu host,+x2apic`"
            .to_string());
    }
    if !cpu::has_xsave() {
        return Err(
            "this CPU has no XSAVE (CPUID.1:ECX bit 26): use a newer CPU, or give the outer \
                    QEMU `-cpu host`"
                .to_string(),
        );
    }
    VENDOR.call_once(|| match &cpu::vendor() {
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Intel,
    });
    Ok(())
}

fn measure_clocks(platform: &Platform, line: &CommandLine) -> Result<MachineRates, String> {
    let measured = time::measure(platform.pm_timer).ok_or(
        "neither the ACPI PM timer nor the PIT counts: the TSC frequency cannot be measured; give \
         it as tsc-hz=N on the command line",
    );
    let (tsc_hz, lapic_hz) = match (measured, line.tsc_hz) {
        (Ok(rates), Some(given)) => (given, scale(rates.lapic_hz, given, rates.tsc_hz)),
        (Ok(rates), None) => (rates.tsc_hz, rates.lapic_hz),
        (Err(_), Some(given)) => (given, given),
        (Err(why), None) => return Err(why.to_string()),
    };
    let wall = arch::rtc::read().map_or(0, |now| now.saturating_sub(cpu::rdtsc() / tsc_hz.max(1)));
    Ok(MachineRates { tsc_hz, lapic_hz, wall_at_tsc_0: wall, vendor: vendor() })
}

fn scale(value: u64, to: u64, from: u64) -> u64 {
    (u128::from(value) * u128::from(to) / u128::from(from.max(1))) as u64
}

fn read_config(modules: &[Module]) -> Result<Config, String> {
    let module = modules.iter().find(|m| m.name == "config").ok_or(
        "the boot loader brought no module named \"config\": pack one with `beeline pack` and \
         load it with `module2`",
    )?;
    config::unpack(module.data).map_err(|e| format!("module \"config\": {e}"))
}

fn build_vms<B: Backend>(config: Config, pci: &Pci) -> Result<Vec<Vm>, String> {
    let mut vms = Vec::new();
    for (index, config) in config.vms.into_iter().enumerate() {
        let no_memory = format!(
            "vm {}: memory = {} MiB is not there in pieces of 2 MiB and more",
            config.name,
            config.memory >> 20
        );
        let ram = match pci.is_unprotected(&config) {
            true => GuestRam::identity(config.memory),
            false => GuestRam::new(config.memory),
        };
        let ram = ram.map_err(|_| no_memory.clone())?;
        let mut space = Stage2::new(B::STAGE2, B::largest_page()).map_err(|_| no_memory.clone())?;
        ram.map(&mut space).map_err(|_| no_memory)?;
        let (bus, lines) = pci.bus(&config)?;
        let dma = assignment::confine(&bus, &ram, &mut space)
            .map_err(|why| format!("vm {}: devices: {why}", config.name))?;
        vms.push(Vm::new(index, config, Memory { ram, stage2: space, dma }, bus, lines));
    }
    Ok(vms)
}
