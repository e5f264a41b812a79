//! The other cores: how boot starts them, and their own way from the trampoline to their loops.

use super::Machine;
use crate::console;
use crate::cores::{self, CoreShared, MAX_CORES};
use crate::sync::Once;
use crate::vcpu::{self, MachineRates, Vcpu};
use crate::vm;
use alloc::format;
use alloc::string::{String, ToString};
use arch::stage2::{Format, Stage2};
use arch::virt::Backend;
use arch::{apic, cpu, heap, tables};

/// Where the parked cores' page lies, and how cores find their work.
struct Shared {
    parking: Stage2,
    rates: MachineRates,
}

static SHARED: Once<Shared> = Once::new();

/// A guest-physical space of one page, with the code that a parked core runs.
fn parking_space(format: Format) -> Option<Stage2> {
    let page = heap::frame()?;
    page.write_bytes(0, &vcpu::PARKING_CODE);
    let mut space = Stage2::new(format, 0).ok()?;
    space.map(0..heap::FRAME, page.address()).ok()?;
    Some(space)
}

/// Starts every other core; returns how many cores there are now.
///
/// # Errors
/// A core that does not start, or cannot run guests.
pub fn start<B: Backend>(machine: &Machine) -> Result<u32, String> {
    let parking = parking_space(B::STAGE2).ok_or("no memory for the parking page")?;
    SHARED.call_once(|| Shared { parking, rates: machine.rates });
    let me = apic::id();
    cores::core(0).set_apic_id(me);
    cores::core(0).set_online();
    let mut count = 1;
    for processor in machine.platform.other_processors(me) {
        if count as usize >= MAX_CORES {
            log::warn!("more than {MAX_CORES} processors: the others stay off");
            break;
        }
        let id = apic::PhysicalApicId(processor.apic_id);
        cores::core(count as usize).set_apic_id(id);
        arch::boot::start_core(count, id, machine.rates.tsc_hz, core_main::<B>)
            .map_err(|e| format!("core with APIC id {}: {e}", processor.apic_id))?;
        await_core(cores::core(count as usize), machine.rates.tsc_hz)
            .map_err(|e| format!("core with APIC id {}: {e}", processor.apic_id))?;
        count += 1;
    }
    Ok(count)
}

/// How often a TSC out of step is looked at again.
const TSC_TRIES: u32 = 16;

/// Waits until a started core is ready, and checks that its TSC is in step with this core's: guests
/// read it with offset 0 on any core (requirement C5).
fn await_core(core: &CoreShared, tsc_hz: u64) -> Result<(), String> {
    let begin = cpu::rdtsc();
    while !core.online() {
        if cpu::rdtsc().wrapping_sub(begin) > tsc_hz {
            return Err("it started but cannot run guests; its reason stands above".to_string());
        }
        cpu::pause();
    }
    let (mut before, mut there, mut after) = (0, 0, 0);
    for _ in 0..TSC_TRIES {
        before = cpu::rdtsc_ordered();
        there = core.ask_tsc();
        after = cpu::rdtsc_ordered();
        if (before..=after).contains(&there) {
            return Ok(());
        }
    }
    Err(format!(
        "its TSC reads {there} while the boot core's goes from {before} to {after}: guests need TSCs \
         in step; reset the TSC_ADJUST registers (a power cycle or a firmware update)"
    ))
}

/// The other cores' way, from the trampoline to their loops.
fn core_main<B: Backend>(index: u32) -> ! {
    match prepare_core::<B>(index) {
        Ok(parking) => {
            cores::this().set_online();
            while !vm::published() {
                cores::this().answer_tsc();
                cpu::pause();
            }
            // Drops what this core still holds of the trampoline's rights.
            arch::paging::join();
            vcpu::core_loop(parking, my_vcpu::<B>(index as usize))
        }
        Err(why) => {
            console::line(format_args!("[beeline] error: core {index}: {why}"));
            cpu::halt_forever()
        }
    }
}

fn prepare_core<B: Backend>(index: u32) -> Result<B, String> {
    tables::install(index).map_err(|e| e.to_string())?;
    apic::enable();
    // Leave the LAPIC as INIT leaves it: that is how a guest expects to find it.
    apic::reset().map_err(|left| format!("its LAPIC is not empty: {left:?}"))?;
    B::enable_core().map_err(|e| e.to_string())?;
    let shared = SHARED.get().ok_or("started before boot was ready")?;
    vcpu::parking(&shared.parking).map_err(|e| e.to_string())
}

fn my_vcpu<B: Backend>(index: usize) -> Option<Vcpu<B>> {
    let rates = SHARED.get()?.rates;
    let (vm, shared) = vm::all()
        .iter()
        .flat_map(|vm| vm.vcpus.iter().map(move |vcpu| (vm, vcpu)))
        .find(|(_, vcpu)| vcpu.core == index)?;
    match Vcpu::new(vm, shared, rates) {
        Ok(vcpu) => Some(vcpu),
        Err(why) => {
            log::error!("vm {} vCPU {}: {why}", vm.config.name, shared.id);
            vm.ask(vm::Ask::Refused);
            None
        }
    }
}
