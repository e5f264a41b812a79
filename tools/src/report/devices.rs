//! The interrupts of PCI functions that a guest owns, counted by the guest, beside the exits that the
//! hypervisor counted in the same window.

use super::boot::Boot;
use super::verdict::{Check, per_interrupt};
use super::witness::Witness;
use serde_json::{Value, json};
use std::fmt::Write;

/// Exits per device interrupt must stay below this.
pub(super) const EXITS_PER_INTERRUPT: f64 = 0.01;
/// Interrupts of each device in the window, at least: fewer would show little.
const ENOUGH: u64 = 100;

/// A PCI function of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its address in the guest.
    pub function: String,
    /// The driver's name.
    pub driver: String,
    /// Its interrupts in the window, by CPU.
    pub interrupts: Vec<u64>,
}

/// What ping saw, over its whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Requests.
    pub sent: u64,
    /// Of these answered.
    pub answered: u64,
    /// Shortest round trip in microseconds.
    pub min_us: u64,
    /// Mean.
    pub avg_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// Reads past the page cache, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Bytes of each.
    pub block: u64,
    /// How many.
    pub count: u64,
    /// Time for all, in microseconds.
    pub us: u64,
}

impl Device {
    /// On all CPUs.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.interrupts.iter().sum()
    }
}

impl Reads {
    fn per_second(self) -> f64 {
        self.count as f64 * 1e6 / self.us.max(1) as f64
    }
}

/// All device interrupts and all exits in the window.
fn totals(boot: &Boot) -> (u64, u64) {
    (boot.devices.iter().map(Device::total).sum(), boot.exits().values().sum())
}

/// What must hold of one boot, called `name`.
pub(super) fn checks(checks: &mut Vec<Check>, name: &str, boot: &Boot) {
    let mut check = |what: String, holds| {
        checks.push(Check { what: format!("{name}: {what}"), holds });
    };
    check(format!("the guest used {} PCI functions (at least 2)", boot.devices.len()), {
        boot.devices.len() >= 2
    });
    for device in &boot.devices {
        let (driver, function, count) = (&device.driver, &device.function, device.total());
        let what =
            format!("{driver} {function}: {count} interrupts in the window (at least {ENOUGH})");
        check(what, count >= ENOUGH);
    }
    let (interrupts, exits) = totals(boot);
    let ratio = per_interrupt(exits, interrupts);
    check(
        format!(
            "{exits} exits in {interrupts} device interrupts: {ratio:.4} (below {EXITS_PER_INTERRUPT})"
        ),
        ratio < EXITS_PER_INTERRUPT,
    );
    let (sent, answered) = boot.ping.map_or((0, 0), |ping| (ping.sent, ping.answered));
    // The last request is under way when ping is told to end.
    check(format!("ping: {answered} of {sent} answered"), answered > 0 && answered + 1 >= sent);
    if let Some(witness) = boot.witness {
        witness.checks(checks, name);
    }
}

/// The section of the table.
pub(super) fn text(out: &mut String, boot: &Boot) -> std::fmt::Result {
    if boot.devices.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nPCI functions of the guest: interrupts in the window, by CPU")?;
    for device in &boot.devices {
        let list: Vec<String> = device.interrupts.iter().map(ToString::to_string).collect();
        let (driver, function) = (&device.driver, &device.function);
        writeln!(out, "{driver:<6} {function}  {:>7} ({})", device.total(), list.join(" + "))?;
    }
    let (interrupts, exits) = totals(boot);
    let ratio = per_interrupt(exits, interrupts);
    writeln!(
        out,
        "all            {interrupts:>12}, with {exits} exits of the VM: {ratio:.4} each"
    )?;
    if let Some(Witness { interrupts, exits, .. }) = boot.witness {
        writeln!(out, "QEMU's log    {interrupts:>12}, with {exits} exits of all VMs")?;
    }
    if let Some(Ping { sent, answered, min_us, avg_us, max_us }) = boot.ping {
        writeln!(
            out,
            "ping: {answered} of {sent} answered, round trip min/avg/max {min_us}/{avg_us}/{max_us} us"
        )?;
    }
    if let Some(reads) = boot.reads {
        let Reads { block, count, us } = reads;
        writeln!(
            out,
            "disk: {count} reads of {block} bytes in {:.2} s, {:.0} per second",
            us as f64 / 1e6,
            reads.per_second()
        )?;
    }
    Ok(())
}

/// The same for programs, summed over `boots`.
pub(super) fn list(boots: &[Boot]) -> Value {
    let mut all: Vec<Device> = Vec::new();
    for device in boots.iter().flat_map(|boot| &boot.devices) {
        match all.iter_mut().find(|known| known.function == device.function) {
            None => all.push(device.clone()),
            Some(known) => {
                for (sum, count) in known.interrupts.iter_mut().zip(&device.interrupts) {
                    *sum += count;
                }
            }
        }
    }
    let item = |device: &Device| {
        json!({"function": device.function, "driver": device.driver,
               "interrupts": device.total(), "interrupts_by_vcpu": device.interrupts})
    };
    all.iter().map(item).collect()
}

/// The loads of one boot.
pub(super) fn loads(boot: &Boot) -> (Value, Value) {
    let ping = boot.ping.map(|ping| {
        json!({"sent": ping.sent, "answered": ping.answered, "min_us": ping.min_us,
               "avg_us": ping.avg_us, "max_us": ping.max_us})
    });
    let reads = boot.reads.map(|reads| {
        json!({"block": reads.block, "count": reads.count, "per_second": reads.per_second()})
    });
    (ping.into(), reads.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The console of a guest with a network card and a disk.
    pub const CONSOLE: &str = "GUEST up uptime=3.21\n\
BEELINE window vm=rt vcpu=0 ticks=1000000 root_ticks=1000 exits=msr_write:30\n\
BEELINE window vm=rt vcpu=1 ticks=1000000 root_ticks=0 exits=none:0\n\
GUEST ping sent=812 answered=811 min_us=301 avg_us=1020 max_us=12004\n\
GUEST window timer_interrupts cpu0=61 cpu1=60\n\
GUEST device pci=0000:00:01.0 driver=igb cpu0=0 cpu1=1000\n\
GUEST device pci=0000:00:02.0 driver=nvme cpu0=5000 cpu1=1\n\
GUEST reads block=4096 count=5000 us=2500000\n\
GUEST done\n\
BEELINE vm-stop vm=rt reason=power-off\n\
BEELINE done\n";

    #[test]
    fn the_lines_become_figures() {
        let boot = Boot::read(CONSOLE.lines(), "rt");
        assert_eq!(totals(&boot), (6001, 30));
        let mut out = String::new();
        text(&mut out, &boot).unwrap();
        for part in [
            "igb    0000:00:01.0     1000 (0 + 1000)",
            "6001, with 30 exits of the VM: 0.0050 each",
            "811 of 812 answered, round trip min/avg/max 301/1020/12004 us",
            "5000 reads of 4096 bytes in 2.50 s, 2000 per second",
        ] {
            assert!(out.contains(part), "{part} is missing from\n{out}");
        }
    }

    #[test]
    fn boots_are_summed_for_programs() {
        let boot = Boot::read(CONSOLE.lines(), "rt");
        let all = list(&[boot.clone(), boot.clone()]);
        assert_eq!(all[1]["driver"], "nvme");
        assert_eq!(all[1]["interrupts"], 10_002);
        assert_eq!(all[1]["interrupts_by_vcpu"][1], 2);
        let (ping, reads) = loads(&boot);
        assert_eq!(ping["max_us"], 12004);
        assert_eq!(reads["per_second"], 2000.0);
    }
}
