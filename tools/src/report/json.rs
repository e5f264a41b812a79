//! The report for programs.
//!
//! `{"bed", "backend", "runs": [{"mode", "vcpus", "cyclictest": [{"vcpu", "min_us", "avg_us",
//! "max_us"}], "window": {"timer_interrupts", "exits": {REASON: N}, "exits_per_timer_interrupt",
//! "time_in_guest"}, "devices": [{"function", "driver", "interrupts"}]}]}`; the other keys may change. With several boots the top figures are pooled
//! (sums and means of the windows) and `boots` holds each of them.

use super::boot::{Boot, Span};
use super::compare::{Comparison, Pool, compare};
use super::verdict::{Check, per_interrupt};
use super::{Mode, Report, Run, devices};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The report as a JSON value.
#[must_use]
pub fn value(report: &Report, checks: &[Check]) -> Value {
    let comparison = match compare(report) {
        Some(Comparison::Limits(limits)) => limits
            .iter()
            .map(|l| {
                json!({"what": l.what, "bare_ns": l.bare, "direct_ns": l.direct,
                       "limit": l.limit, "holds": l.holds})
            })
            .collect(),
        Some(Comparison::Refused(why)) => json!({"refused": why}),
        None => Value::Null,
    };
    let checks: Vec<Value> =
        checks.iter().map(|check| json!({"what": check.what, "holds": check.holds})).collect();
    json!({
        "bed": report.bed,
        "backend": report.backend,
        "instructions_per_us": report.ips.map(|ips| ips / 1_000_000),
        "runs": report.runs.iter().map(run).collect::<Vec<_>>(),
        "comparison": comparison,
        "checks": checks,
    })
}

fn run(run: &Run) -> Value {
    let cyclictest: Vec<Value> = (0..run.vcpus).filter_map(|vcpu| cyclictest(run, vcpu)).collect();
    let boots: Vec<Value> = run.boots.iter().map(|boot| one(run, boot)).collect();
    let facts = run.boots.first().map(|boot| boot.facts.clone()).unwrap_or_default();
    json!({
        "mode": run.mode.name(),
        "vcpus": run.vcpus,
        "cyclictest": cyclictest,
        "window": window(run.mode, &run.boots),
        "devices": devices::list(&run.boots),
        "facts": facts,
        "boots": boots,
    })
}

/// One CPU over all boots. cyclictest's own mean is weighed by its loops.
fn cyclictest(run: &Run, vcpu: u32) -> Option<Value> {
    let tests: Vec<_> =
        run.boots.iter().flat_map(|b| &b.cyclictest).filter(|test| test.vcpu == vcpu).collect();
    let loops: u64 = tests.iter().map(|test| test.loops).sum();
    let sum: f64 = tests.iter().map(|test| test.avg as f64 * test.loops as f64).sum();
    let us = |ns: u64| ns as f64 / 1e3;
    Some(json!({
        "vcpu": vcpu,
        "min_us": us(tests.iter().map(|test| test.min).min()?),
        "avg_us": sum / loops.max(1) as f64 / 1e3,
        "max_us": us(tests.iter().map(|test| test.max).max()?),
        "median_us": Pool::of(run, |cpu| cpu == vcpu).and_then(|pool| pool.median).map(us),
        "loops": loops,
    }))
}

fn one(run: &Run, boot: &Boot) -> Value {
    let alone = Run { boots: vec![boot.clone()], ..*run };
    let (ping, reads) = devices::loads(boot);
    let histograms: Map<String, Value> =
        boot.cyclictest.iter().map(|t| (t.vcpu.to_string(), json!(t.histogram))).collect();
    json!({
        "seed": boot.seed,
        "offset_us": boot.offset_us,
        "finished": boot.done,
        "problems": boot.problems,
        "wall_s": boot.wall.as_secs_f64(),
        "uptime_s": boot.uptime,
        "cyclictest": (0..run.vcpus).filter_map(|v| cyclictest(&alone, v)).collect::<Vec<_>>(),
        "window": window(run.mode, std::slice::from_ref(boot)),
        "devices": devices::list(std::slice::from_ref(boot)),
        "ping": ping,
        "reads": reads,
        "witness": boot.witness.map(|seen| json!({
            "interrupts": seen.interrupts, "exits": seen.exits,
            "exits_for_interrupts": seen.external})),
        "window_by_vcpu": boot.window.iter().map(span).collect::<Vec<_>>(),
        "total_by_vcpu": boot.total.iter().map(span).collect::<Vec<_>>(),
        "timer_interrupts_by_vcpu": boot.timer_interrupts,
        "histogram_ns": histograms,
    })
}

/// A bare machine takes no exits and spends all its time in the "guest".
fn window(mode: Mode, boots: &[Boot]) -> Value {
    let timer: u64 = boots.iter().flat_map(|boot| &boot.timer_interrupts).sum();
    let mut exits: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in boots.iter().flat_map(Boot::exits) {
        *exits.entry(reason).or_default() += count;
    }
    let spans = || boots.iter().flat_map(|boot| &boot.window);
    let all = Span {
        ticks: spans().map(|span| span.ticks).sum(),
        root_ticks: spans().map(|span| span.root_ticks).sum(),
        ..Span::default()
    };
    let in_guest = match mode {
        Mode::Bare => json!(1.0),
        Mode::Direct if all.ticks == 0 => Value::Null,
        Mode::Direct => json!(all.time_in_guest()),
    };
    json!({
        "timer_interrupts": timer,
        "exits": exits,
        "exits_per_timer_interrupt": per_interrupt(exits.values().sum(), timer),
        "time_in_guest": in_guest,
    })
}

fn span(span: &Span) -> Value {
    json!({"vcpu": span.vcpu, "ticks": span.ticks, "root_ticks": span.root_ticks,
           "exits": span.exits})
}

#[cfg(test)]
mod tests {
    use super::super::boot::tests::CONSOLE;
    use super::*;

    #[test]
    fn the_promised_keys_are_there() {
        let boots = vec![Boot::read(CONSOLE.lines(), "rt"); 2];
        let runs = vec![Run { mode: Mode::Direct, vcpus: 2, boots }];
        let report = Report {
            bed: "bochs",
            backend: "vmx",
            exits_per_timer: 0.01,
            ips: Some(200_000_000),
            runs,
        };
        let v = value(&report, &[]);
        assert_eq!((v["bed"].as_str(), v["backend"].as_str()), (Some("bochs"), Some("vmx")));
        let run = &v["runs"][0];
        assert_eq!(run["mode"], "direct");
        assert_eq!(run["cyclictest"][1]["vcpu"], 1);
        assert_eq!(run["cyclictest"][0]["min_us"], 17.7);
        assert_eq!(run["cyclictest"][0]["max_us"], 26.1);
        assert!((run["cyclictest"][0]["avg_us"].as_f64().unwrap() - 18.8).abs() < 1e-9);
        let window = &run["window"];
        assert_eq!(window["timer_interrupts"], 2420);
        assert_eq!(window["exits"]["cpuid"], 6);
        let ratio = window["exits_per_timer_interrupt"].as_f64().unwrap();
        assert!((ratio - 8.0 / 2420.0).abs() < 1e-9);
        assert!((window["time_in_guest"].as_f64().unwrap() - 0.9995).abs() < 1e-9);
        assert_eq!(run["boots"].as_array().unwrap().len(), 2);
        assert_eq!(run["devices"], json!([]));
    }

    #[test]
    fn a_bare_machine_has_no_exits() {
        let v = window(Mode::Bare, &[Boot::read(["GUEST window timer_interrupts cpu0=5"], "rt")]);
        assert_eq!(v["time_in_guest"], 1.0);
        assert_eq!(v["exits_per_timer_interrupt"], 0.0);
        assert_eq!(v["exits"], json!({}));
    }
}
