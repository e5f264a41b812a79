//! One boot of the Linux guest, read from the lines of its console.
//!
//! `GUEST …` lines come from the initramfs (`initramfs/init.sh` and `window`), `PF …` lines from the
//! owner of physical functions, `BEELINE …` lines from the hypervisor (docs/src/guest-interface.md).

use super::devices::{Device, Ping, Reads};
use super::witness::Witness;
use std::collections::BTreeMap;
use std::time::Duration;

/// cyclictest on one CPU of the guest. Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cyclictest {
    /// The CPU, as the guest numbers it.
    pub vcpu: u32,
    /// Smallest latency.
    pub min: u64,
    /// Mean, as cyclictest rounds it.
    pub avg: u64,
    /// Largest.
    pub max: u64,
    /// Measurements.
    pub loops: u64,
    /// Measurements beyond the histogram.
    pub over: u64,
    /// Latency and how often it was seen, ascending.
    pub histogram: Vec<(u64, u64)>,
}

/// A span of one vCPU as the hypervisor counted it. Times in ticks of the TSC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The vCPU.
    pub vcpu: u32,
    /// Length.
    pub ticks: u64,
    /// Of these in the hypervisor.
    pub root_ticks: u64,
    /// Exits by reason.
    pub exits: BTreeMap<String, u64>,
}

/// What one boot showed.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// Number of the boot, the seed of its start offset.
    pub seed: u64,
    /// How far behind the full second cyclictest started, in microseconds.
    pub offset_us: u64,
    /// The guest said that it finished.
    pub done: bool,
    /// What went wrong, in the words of the console or ours.
    pub problems: Vec<String>,
    /// Wall time of the machine.
    pub wall: Duration,
    /// The guest's uptime when its first program ran, in emulated seconds.
    pub uptime: Option<String>,
    /// Kernel, clock source, clock-event device and mode, idle driver.
    pub facts: BTreeMap<String, String>,
    /// By CPU.
    pub cyclictest: Vec<Cyclictest>,
    /// Timer interrupts in the window, by CPU.
    pub timer_interrupts: Vec<u64>,
    /// The PCI functions that the guest put to work.
    pub devices: Vec<Device>,
    /// Requests to a neighbour on the network.
    pub ping: Option<Ping>,
    /// Reads of a disk in the window.
    pub reads: Option<Reads>,
    /// What QEMU saw in the window.
    pub witness: Option<Witness>,
    /// The measured window, by vCPU; empty without a hypervisor.
    pub window: Vec<Span>,
    /// Whole life of the VM, by vCPU.
    pub total: Vec<Span>,
}

impl Boot {
    /// Reads all lines. Of several VMs, `vm` is the one whose exits matter.
    #[must_use]
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a str>, vm: &str) -> Self {
        let mut boot = Self::default();
        for line in lines {
            if let Some(rest) = line.strip_prefix("GUEST ") {
                boot.guest(rest);
            } else if let Some(rest) = line.strip_prefix("BEELINE ") {
                boot.beeline(rest, vm);
            } else if line.starts_with("PF ") && line.contains(" FAILED ") {
                boot.problems.push(format!("the owner of the physical functions said: {line}"));
            } else if line.contains("Kernel panic - not syncing:") {
                boot.problems.push(format!("the guest's kernel said: {line}"));
            }
        }
        boot
    }

    fn guest(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pairs = pairs(rest);
        let number = |key: &str| pairs.get(key).and_then(|v| v.parse().ok()).unwrap_or(0);
        match word {
            "up" => self.uptime = pairs.get("uptime").map(|v| (*v).to_string()),
            "facts" => {
                self.facts = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            }
            "cyclictest" => self.cyclictest.push(Cyclictest {
                vcpu: number("cpu") as u32,
                min: number("min_ns"),
                avg: number("avg_ns"),
                max: number("max_ns"),
                loops: number("loops"),
                over: number("over"),
                histogram: Vec::new(),
            }),
            "hist" => {
                let cpu = number("cpu") as u32;
                let values = rest.split_whitespace().nth(1).unwrap_or("");
                if let Some(test) = self.cyclictest.iter_mut().find(|test| test.vcpu == cpu) {
                    test.histogram = histogram(values);
                }
            }
            "window" => {
                self.timer_interrupts = by_cpu(&pairs);
            }
            "device" => self.devices.push(Device {
                function: pairs.get("pci").map_or(String::new(), |v| (*v).into()),
                driver: pairs.get("driver").map_or(String::new(), |v| (*v).into()),
                interrupts: by_cpu(&pairs),
            }),
            "ping" => {
                self.ping = Some(Ping {
                    sent: number("sent"),
                    answered: number("answered"),
                    min_us: number("min_us"),
                    avg_us: number("avg_us"),
                    max_us: number("max_us"),
                });
            }
            "reads" => {
                self.reads = Some(Reads {
                    block: number("block"),
                    count: number("count"),
                    us: number("us"),
                });
            }
            "done" => self.done = true,
            "failed" | "error" => self.problems.push(format!("the guest said: {rest}")),
            _ => {}
        }
    }

    fn beeline(&mut self, line: &str, vm: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let of_another = pairs(rest).get("vm").is_some_and(|name| *name != vm);
        match word {
            "window" | "exits" if of_another => {}
            // A window that is opened twice counts once, the last time.
            "window" => replace(&mut self.window, span(rest)),
            "exits" => replace(&mut self.total, span(rest)),
            "fatal" | "panic" => self.problems.push(format!("the hypervisor said: {line}")),
            "vm-stop" if rest.contains("reason=refused") => {
                self.problems.push(format!("the hypervisor stopped the VM: {rest}"));
            }
            _ => {}
        }
    }

    /// Exits by reason in the window, all vCPUs.
    #[must_use]
    pub fn exits(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (reason, count) in self.window.iter().flat_map(|span| &span.exits) {
            *all.entry(reason.as_str()).or_default() += count;
        }
        all
    }
}

impl Span {
    /// Share of the span spent in the guest, 0 to 1.
    #[must_use]
    pub fn time_in_guest(&self) -> f64 {
        if self.ticks == 0 {
            return 0.0;
        }
        1.0 - self.root_ticks as f64 / self.ticks as f64
    }

    /// All exits.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.exits.values().sum()
    }
}

fn replace(spans: &mut Vec<Span>, span: Span) {
    spans.retain(|old| old.vcpu != span.vcpu);
    spans.push(span);
    spans.sort_by_key(|span| span.vcpu);
}

fn span(line: &str) -> Span {
    let pairs = pairs(line);
    let number = |key: &str| pairs.get(key).and_then(|v| v.parse().ok()).unwrap_or(0);
    let counts = pairs.get("exits").copied().unwrap_or("").split(',');
    let exits = counts
        .filter_map(|item| item.split_once(':'))
        .filter_map(|(reason, count)| Some((reason.to_string(), count.parse().ok()?)))
        .filter(|(_, count)| *count > 0)
        .collect();
    Span {
        vcpu: number("vcpu") as u32,
        ticks: number("ticks"),
        root_ticks: number("root_ticks"),
        exits,
    }
}

fn histogram(values: &str) -> Vec<(u64, u64)> {
    let item = |item: &str| {
        let (value, count) = item.split_once(':')?;
        Some((value.parse().ok()?, count.parse().ok()?))
    };
    values.split(',').filter_map(item).collect()
}

/// The values of `cpu0=N cpu1=N`, in the order of the CPUs.
fn by_cpu(pairs: &BTreeMap<&str, &str>) -> Vec<u64> {
    let mut counts: Vec<(u32, u64)> = pairs
        .iter()
        .filter_map(|(k, v)| Some((k.strip_prefix("cpu")?.parse().ok()?, v.parse().ok()?)))
        .collect();
    counts.sort_unstable();
    counts.into_iter().map(|(_, count)| count).collect()
}

fn pairs(text: &str) -> BTreeMap<&str, &str> {
    text.split_whitespace().filter_map(|word| word.split_once('=')).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const CONSOLE: &str = "[beeline] up\n\
BEELINE vm-start vm=rt vcpus=2\n\
GUEST up uptime=3.21\n\
GUEST facts kernel=6.1.0-9-rt-amd64 clocksource=tsc clockevent=lapic-deadline mode=3 resolution=1 idle=none online=0-1\n\
BEELINE window vm=rt vcpu=0 ticks=1000000 root_ticks=1000 exits=cpuid:3,io:1\n\
BEELINE window vm=rt vcpu=1 ticks=1000000 root_ticks=0 exits=\n\
GUEST window timer_interrupts cpu0=610 cpu1=600\n\
GUEST cyclictest cpu=0 min_ns=17700 avg_ns=18800 max_ns=26100 loops=1000 over=0\n\
GUEST hist cpu=0 17700:300,18800:600,26100:100\n\
GUEST cyclictest cpu=1 min_ns=17705 avg_ns=18805 max_ns=26105 loops=1000 over=0\n\
GUEST hist cpu=1 17705:1000\n\
GUEST done\n\
BEELINE exits vm=rt vcpu=0 ticks=9000000 root_ticks=1000 exits=cpuid:3,io:10\n\
BEELINE vm-stop vm=rt reason=power-off\n\
BEELINE done\n";

    #[test]
    fn a_whole_console() {
        let boot = Boot::read(CONSOLE.lines(), "rt");
        assert!(boot.done && boot.problems.is_empty());
        assert_eq!(boot.timer_interrupts, [610, 600]);
        assert_eq!(boot.cyclictest[1].min, 17705);
        assert_eq!(boot.cyclictest[0].histogram, [(17700, 300), (18800, 600), (26100, 100)]);
        assert_eq!(boot.exits(), BTreeMap::from([("cpuid", 3), ("io", 1)]));
        assert!((boot.window[0].time_in_guest() - 0.999).abs() < 1e-9);
        assert_eq!(boot.window[1].exits(), 0);
        assert_eq!(boot.facts["clockevent"], "lapic-deadline");
        assert_eq!(boot.total[0].exits(), 13);
    }

    #[test]
    fn the_exits_of_another_vm_are_not_this_ones() {
        let mut lines: Vec<&str> = CONSOLE.lines().collect();
        lines.push("BEELINE exits vm=pf vcpu=0 ticks=1 root_ticks=1 exits=mmio:99");
        assert_eq!(Boot::read(lines, "rt").total[0].exits(), 13);
    }

    #[test]
    fn what_went_wrong_is_kept() {
        let lines = [
            "GUEST failed cyclictest",
            "BEELINE vm-stop vm=a reason=refused",
            "PF igb ready vfs=2",
            "PF 10c9:8086 FAILED no link",
            "[    0.032000] Kernel panic - not syncing: timer doesn't work through IO-APIC",
        ];
        let boot = Boot::read(lines, "rt");
        assert_eq!(boot.problems.len(), 4);
        assert!(!boot.done);
    }
}
