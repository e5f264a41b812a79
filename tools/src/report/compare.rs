//! Bare against direct, as requirement M2 says.

use super::{Mode, Report, Run};
use std::collections::BTreeMap;

/// What must be equal before two runs are compared.
const SAME: [&str; 5] = ["kernel", "clocksource", "clockevent", "mode", "idle"];

/// The latencies of several boots and CPUs together, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// Smallest.
    pub min: u64,
    /// Half of all are at most this; `None` where it lies beyond a histogram.
    pub median: Option<u64>,
    /// Mean.
    pub mean: f64,
    /// Largest.
    pub max: u64,
    /// How many.
    pub count: u64,
}

impl Pool {
    /// Pools every boot and CPU of `run` that `which` takes; `None` without measurements.
    #[must_use]
    pub fn of(run: &Run, which: impl Fn(u32) -> bool) -> Option<Self> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut min, mut max, mut over, mut sum) = (u64::MAX, 0, 0, 0.0);
        let tests = run.boots.iter().flat_map(|boot| &boot.cyclictest);
        for test in tests.filter(|test| which(test.vcpu)) {
            for (value, count) in &test.histogram {
                *counts.entry(*value).or_default() += count;
                (min, max) = (min.min(*value), max.max(*value));
            }
            let exact = test.histogram.iter().map(|(value, n)| *value as f64 * *n as f64).sum();
            // What the histogram did not hold is in cyclictest's rounded mean only.
            sum += if test.over == 0 { exact } else { test.avg as f64 * test.loops as f64 };
            over += test.over;
            if test.over > 0 {
                (min, max) = (min.min(test.min), max.max(test.max));
            }
        }
        let count = counts.values().sum::<u64>() + over;
        if count == 0 {
            return None;
        }
        // Every histogram ends at the same bound, and what is over lies behind it.
        let mut below = 0;
        let median = counts.iter().find_map(|(value, n)| {
            below += n;
            (below * 2 >= count).then_some(*value)
        });
        Some(Self { min, median, mean: sum / count as f64, max, count })
    }
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// What is compared.
    pub what: &'static str,
    /// Bare, in nanoseconds.
    pub bare: f64,
    /// Direct, in nanoseconds.
    pub direct: f64,
    /// The limit in words.
    pub limit: &'static str,
    /// Does it hold?
    pub holds: bool,
}

/// The comparison of requirement M2.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// Both runs measured the same way.
    Limits(Vec<Limit>),
    /// They did not, for this reason.
    Refused(String),
}

/// Compares the two runs of `report`; `None` when one is missing.
#[must_use]
pub fn compare(report: &Report) -> Option<Comparison> {
    let (bare, direct) = (report.run(Mode::Bare)?, report.run(Mode::Direct)?);
    if let Some(why) = different(bare, direct) {
        return Some(Comparison::Refused(why));
    }
    let all = |run| Pool::of(run, |_| true);
    let (Some(bare), Some(direct)) = (all(bare), all(direct)) else {
        return Some(Comparison::Refused("one of the runs has no histogram".into()));
    };
    let Some(ips) = report.ips else {
        return Some(Comparison::Refused("latencies mean nothing on this bed".into()));
    };
    let instructions = |ns: f64| ns * ips as f64 / 1e9;
    let within = |bare: f64, direct: f64, share: f64| (direct - bare).abs() <= bare * share;
    let line =
        |what, bare: f64, direct: f64, limit, holds| Limit { what, bare, direct, limit, holds };
    let (low, high) = (bare.min as f64, bare.max as f64);
    let min_apart = instructions((direct.min as f64 - low).abs());
    let (Some(median), Some(of_direct)) = (bare.median, direct.median) else {
        return Some(Comparison::Refused("a median lies beyond the histogram".into()));
    };
    let (median, of_direct) = (median as f64, of_direct as f64);
    Some(Comparison::Limits(vec![
        // The clock has whole nanoseconds, an instruction takes five: allow one of rounding.
        line("min", low, direct.min as f64, "within 5 instructions", min_apart <= 5.2),
        line("median", median, of_direct, "within 1 %", within(median, of_direct, 0.01)),
        line("mean", bare.mean, direct.mean, "within 3 %", within(bare.mean, direct.mean, 0.03)),
        line("max", high, direct.max as f64, "at most 1.1 x bare", direct.max as f64 <= high * 1.1),
    ]))
}

/// Why the runs were not measured the same way, if so.
fn different(bare: &Run, direct: &Run) -> Option<String> {
    let mut facts = bare.boots.iter().chain(&direct.boots).map(|boot| &boot.facts);
    let first = facts.next()?;
    for other in facts {
        for key in SAME {
            let (a, b) = (first.get(key), other.get(key));
            if a != b || a.is_none() {
                let word = |v: Option<&String>| v.map_or("unknown".into(), Clone::clone);
                return Some(format!("{key} differs: {} and {}", word(a), word(b)));
            }
        }
    }
    if bare.vcpus != direct.vcpus {
        return Some(format!("CPUs differ: {} and {}", bare.vcpus, direct.vcpus));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::boot::{Boot, tests::CONSOLE};
    use super::*;

    fn report(direct: &str) -> Report {
        let run =
            |mode, text: &str| Run { mode, vcpus: 2, boots: vec![Boot::read(text.lines(), "rt")] };
        Report {
            bed: "bochs",
            backend: "vmx",
            exits_per_timer: 0.01,
            ips: Some(200_000_000),
            runs: vec![run(Mode::Bare, CONSOLE), run(Mode::Direct, direct)],
        }
    }

    #[test]
    fn pooling_weighs_every_measurement() {
        let run = report(CONSOLE).runs.remove(0);
        let pool = Pool::of(&run, |_| true).unwrap();
        assert_eq!((pool.min, pool.median), (17700, Some(17705)));
        assert_eq!((pool.max, pool.count), (26100, 2000));
        let exact = (17700.0 * 300.0 + 18800.0 * 600.0 + 26100.0 * 100.0 + 17_705_000.0) / 2000.0;
        assert!((pool.mean - exact).abs() < 1e-6);
        assert_eq!(Pool::of(&run, |cpu| cpu == 7), None);
    }

    #[test]
    fn a_median_beyond_the_histogram_is_unknown() {
        let pool = |over: u64| {
            let text = format!(
                "GUEST cyclictest cpu=0 min_ns=10 avg_ns=70 max_ns=900 loops={} over={over}\n\
                 GUEST hist cpu=0 10:40,20:60\n",
                100 + over
            );
            let boots = vec![Boot::read(text.lines(), "rt")];
            Pool::of(&Run { mode: Mode::Direct, vcpus: 1, boots }, |_| true).unwrap()
        };
        let few = pool(100);
        assert_eq!((few.min, few.median, few.max, few.count), (10, Some(20), 900, 200));
        assert!((few.mean - 70.0).abs() < 1e-9);
        assert_eq!(pool(101).median, None);
    }

    #[test]
    fn r_m2_limits_and_refusals() {
        let holds = |text: &str| match compare(&report(text)) {
            Some(Comparison::Limits(limits)) => limits.iter().map(|l| l.holds).collect(),
            _ => Vec::new(),
        };
        assert_eq!(holds(CONSOLE), [true; 4]);
        // 10 instructions more at the minimum, and a maximum of 1.15 times the bare one.
        let slow = CONSOLE.replace("17700:300", "17755:300").replace("17705:1000", "17755:1000");
        assert_eq!(holds(&slow.replace("26100:100", "30100:100")), [false, true, true, false]);
        let other = CONSOLE.replace("clocksource=tsc", "clocksource=hpet");
        let Some(Comparison::Refused(why)) = compare(&report(&other)) else { panic!() };
        assert_eq!(why, "clocksource differs: tsc and hpet");
    }
}
