//! The housekeeping core's loop: it prints, receives input, and leads the lives of the VMs. It
//! runs no guest; the LAPIC timer, the serial port's interrupt and the wake IPI are its own.
//!
//! Sleeping: it says so in [`ASLEEP`], looks once more, and halts; who leaves work for it looks at
//! that word after leaving it. So no work waits for a sleeper.

use crate::boot::Machine;
use crate::console::{self, GuestOutput, LogRing, Pump};
use crate::cores;
use crate::debug_hooks;
use crate::fatal;
use crate::monitor::{Input, Monitor};
use crate::sync::{AtomicBool, Ordering, fence};
use crate::vm::life::{self, Served};
use crate::vm::{self, Vm};
use alloc::string::{String, ToString};
use arch::{apic, cpu, ioapic, serial, tables};

/// Vectors of the housekeeping core.
const WAKE_VECTOR: u8 = 0xF0;
const SERIAL_VECTOR: u8 = 0xE0;
const TIMER_VECTOR: u8 = 0xEF;
/// The passed-through PIT's pin in NMI mode.
pub const PIT_NMI_VECTOR: u8 = 0xE1;
/// ISA interrupt of COM1.
const COM1_IRQ: u8 = 4;
/// Bytes that the transmitter's FIFO takes at once.
const FIFO: usize = 16;

/// The housekeeping core.
pub const CORE: usize = 0;

static ASLEEP: AtomicBool = AtomicBool::new(false);

/// Makes the housekeeping core look for work, if it sleeps.
pub fn wake() {
    // Orders the caller's work before the look at `ASLEEP`; `sleep` has the mirror of it.
    fence(Ordering::SeqCst);
    if ASLEEP.swap(false, Ordering::AcqRel) {
        apic::send_fixed(cores::core(CORE).apic_id(), WAKE_VECTOR);
    }
}

/// Runs until every VM has stopped; true if all of them ended well.
///
/// # Errors
/// If no VM could be started at all.
pub fn run(machine: &Machine) -> Result<bool, String> {
    for vector in [WAKE_VECTOR, TIMER_VECTOR] {
        // Their arrival is all that matters: the loop looks at everything.
        tables::set_vector_handler(vector, || {});
    }
    tables::set_vector_handler(SERIAL_VECTOR, serial::acknowledge);
    crate::device::pit::init(&machine.platform);
    let (gsi, trigger) = ioapic::isa_gsi(COM1_IRQ, &machine.platform.overrides);
    let route =
        ioapic::PinRoute { vector: SERIAL_VECTOR, target: cores::core(CORE).apic_id(), trigger };
    if cfg!(debug_assertions) {
        crate::audit::pin_route(CORE, crate::audit::PinPurpose::Host);
    }
    if let Err(e) = crate::interrupt::route::pin(gsi, route) {
        log::warn!("COM1's interrupt cannot be routed ({e:?}): input is polled");
    }
    serial::enable_interrupts();
    console::defer();
    debug_hooks::set_clock(machine.rates.tsc_hz);
    let mut pump = Pump::new(machine.rates.tsc_hz);
    let mut monitor = Monitor::default();
    let mut well = true;
    let mut running = vm::all().len();
    rest_functions(&mut pump);
    start_all(machine, &mut running, &mut well);
    if running == 0 {
        return Err("no VM could be started; the reasons stand above".to_string());
    }
    loop {
        let mut busy = print(&mut pump);
        busy |= receive(&mut monitor);
        busy |= debug_hooks::drive();
        cores::online().for_each(cores::CoreShared::look_again);
        crate::interrupt::faults::report();
        for vm in vm::all() {
            vm::window::print(vm);
            vm.devices.attend_pci();
            match life::serve(vm, &machine.modules, machine.rates.tsc_hz) {
                Served::GoesOn => {}
                Served::Off => running -= 1,
                Served::Failed => {
                    running -= 1;
                    well = false;
                }
            }
        }
        // However busy this core is, its interrupts get their moment: a passed-through pin in NMI
        // mode is among them.
        cpu::take_interrupts();
        if running == 0 && !busy && !pump.holding() && idle() {
            drain(&mut pump);
            return Ok(well);
        }
        if !busy {
            sleep(machine, &pump);
        }
    }
}

/// Resets the functions of all VMs, side by side: about a tenth of a second, a second if one does not come back.
fn rest_functions(pump: &mut Pump) {
    vm::all().iter().for_each(|vm| vm.devices.rest_pci());
    // Each is looked at, also if one before it is not through.
    while vm::all().iter().filter(|vm| vm.devices.attend_pci()).count() > 0 {
        print(pump);
        cpu::pause();
    }
}

fn start_all(machine: &Machine, running: &mut usize, well: &mut bool) {
    for vm in vm::all() {
        if let Err(why) = life::start(vm, &machine.modules) {
            log::error!("vm {}: cannot start: {why}", vm.config.name);
            console::line(format_args!("BEELINE vm-stop vm={} reason=refused", vm.config.name));
            *running -= 1;
            *well = false;
        }
    }
}

fn outputs() -> impl Iterator<Item = &'static GuestOutput> + Clone {
    vm::all().iter().map(|vm| &vm.output)
}

/// Feeds the serial port as far as it takes bytes without waiting. True if it took some.
fn print(pump: &mut Pump) -> bool {
    if !serial::ready() {
        // Its interrupt tells when the transmitter is empty.
        return false;
    }
    let mut sent = 0;
    while sent < FIFO && !fatal::reporting() {
        let Some(byte) = pump.next(cpu::rdtsc(), outputs()) else { break };
        serial::put_ready(byte);
        sent += 1;
    }
    if sent > 0 {
        // Room has come up in the rings: a UART that was full can go on.
        vm::all().iter().for_each(|vm| vm.devices.output_drained(vm));
    }
    sent > 0
}

fn receive(monitor: &mut Monitor) -> bool {
    let Some(byte) = serial::get() else { return false };
    match monitor.sort(byte) {
        Input::Guest(byte) => {
            let takes = |vm: &&Vm| vm.is_up() && vm.config.console;
            let chosen = vm::all().get(monitor.input).filter(takes);
            // A VM that is off leaves the console to the first one that is not.
            if let Some(vm) = chosen.or_else(|| vm::all().iter().find(takes)) {
                vm.devices.receive(vm, byte);
            }
        }
        Input::Command(command) => monitor.command(command),
        Input::Taken => {}
    }
    true
}

fn work_waits() -> bool {
    LogRing::waiting()
        || outputs().any(|ring| !ring.is_empty())
        || vm::all().iter().any(|vm: &Vm| vm.window.is_waiting())
        || vm::all().iter().any(|vm: &Vm| vm.is_up() && vm.asked() != vm::Ask::Nothing)
        || cores::online().any(cores::CoreShared::wants_to_look_again)
        || debug_hooks::running()
}

fn idle() -> bool {
    !work_waits()
}

/// Sleeps until somebody wakes this core. While the serial port is sending, or a line is held
/// back, a timer of a millisecond stands behind the port's interrupt.
fn sleep(machine: &Machine, pump: &Pump) {
    ASLEEP.store(true, Ordering::Release);
    fence(Ordering::SeqCst);
    let waits = work_waits() || serial::has_input();
    let sending = !serial::ready();
    if waits && !sending && !pump.holding() {
        ASLEEP.store(false, Ordering::Release);
        return;
    }
    if waits || sending {
        apic::start_timer(TIMER_VECTOR, (machine.rates.lapic_hz / 1000) as u32);
    } else if crate::interrupt::route::remaps()
        || vm::all().iter().any(|vm| vm.devices.resets_pci())
    {
        // Nobody interrupts for a fault of the IOMMU, or for a function that is through with its reset.
        apic::start_timer(TIMER_VECTOR, (machine.rates.lapic_hz / 100) as u32);
    }
    cpu::halt_until_interrupt();
    ASLEEP.store(false, Ordering::Release);
}

/// Prints what is left, waiting for the port.
fn drain(pump: &mut Pump) {
    while let Some(byte) = pump.next(u64::MAX / 2, outputs()) {
        serial::put(byte);
    }
}
