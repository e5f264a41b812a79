//! The table a person reads at the end of a run.

use super::boot::{Boot, Span};
use super::compare::{Comparison, Pool, compare};
use super::verdict::{BOOTS_FOR_COMPARISON, Check, per_interrupt};
use super::{Mode, Report, Run, devices};
use std::fmt::Write;

const HEAD: [&str; 10] = [
    "mode",
    "vCPU",
    "min us",
    "median",
    "avg us",
    "max us",
    "timer irqs",
    "exits",
    "exits/irq",
    "in guest",
];

/// The whole report as text.
#[must_use]
pub fn text(report: &Report, checks: &[Check]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report, checks);
    out
}

fn write(out: &mut String, report: &Report, checks: &[Check]) -> std::fmt::Result {
    writeln!(out, "\nBed {}, CPU backend {}", report.bed, report.backend)?;
    if let Some(ips) = report.ips {
        writeln!(out, "1 us is {} instructions; the emulator has no cycle model", ips / 1_000_000)?;
    }
    for run in &report.runs {
        if let Some(boot) = run.boots.first() {
            facts(out, run, boot)?;
        }
    }
    let measured = report.runs.iter().flat_map(|run| &run.boots).any(|b| !b.cyclictest.is_empty());
    let latencies = if measured { "cyclictest over its whole run; " } else { "" };
    writeln!(out, "\n{latencies}timer interrupts, exits and time in the window")?;
    if measured && report.ips.is_none() {
        writeln!(
            out,
            "not a claim: latencies on this bed follow the host's clock and its other work"
        )?;
    }
    let mut rows = vec![HEAD.map(String::from)];
    for run in &report.runs {
        for boot in &run.boots {
            rows.extend(boot_rows(run, boot));
        }
        if run.boots.len() > 1 {
            rows.extend((0..run.vcpus).filter_map(|cpu| pooled_row(run, cpu)));
        }
    }
    align(out, &rows)?;
    for run in report.runs.iter().filter(|run| run.mode != Mode::Bare) {
        for boot in &run.boots {
            reasons(out, boot)?;
        }
    }
    for boot in report.runs.iter().flat_map(|run| &run.boots) {
        devices::text(out, boot)?;
    }
    comparison(out, report)?;
    if !checks.is_empty() {
        writeln!(out)?;
    }
    for check in checks {
        writeln!(out, "{}  {}", if check.holds { "ok    " } else { "FAILED" }, check.what)?;
    }
    Ok(())
}

fn facts(out: &mut String, run: &Run, boot: &Boot) -> std::fmt::Result {
    let fact = |key: &str| boot.facts.get(key).map_or("unknown", String::as_str);
    writeln!(
        out,
        "{:<7} kernel {}, clock source {}, clock events {} (mode {}), idle driver {}, up at {} s, {:.0} s of wall time",
        run.mode.name(),
        fact("kernel"),
        fact("clocksource"),
        fact("clockevent"),
        fact("mode"),
        fact("idle"),
        boot.uptime.as_deref().unwrap_or("?"),
        boot.wall.as_secs_f64()
    )
}

fn boot_rows(run: &Run, boot: &Boot) -> Vec<[String; 10]> {
    let row = |vcpu: u32| {
        let test = boot.cyclictest.iter().find(|test| test.vcpu == vcpu);
        let us = |ns: Option<u64>| ns.map_or("-".into(), |ns| format!("{:.3}", ns as f64 / 1e3));
        let one = Run { boots: vec![boot.clone()], ..*run };
        let median = Pool::of(&one, |cpu| cpu == vcpu).and_then(|pool| pool.median);
        let timer = boot.timer_interrupts.get(vcpu as usize).copied();
        let span = boot.window.iter().find(|span| span.vcpu == vcpu);
        let exits = |f: &dyn Fn(&Span) -> String| span.map_or("-".into(), f);
        [
            name(run, boot),
            vcpu.to_string(),
            us(test.map(|test| test.min)),
            us(median),
            us(test.map(|test| test.avg)),
            us(test.map(|test| test.max)),
            timer.map_or("-".into(), |count| count.to_string()),
            exits(&|span| span.exits().to_string()),
            exits(&|span| format!("{:.4}", per_interrupt(span.exits(), timer.unwrap_or(0)))),
            exits(&|span| format!("{:.4} %", span.time_in_guest() * 100.0)),
        ]
    };
    (0..run.vcpus).map(row).collect()
}

fn name(run: &Run, boot: &Boot) -> String {
    if run.boots.len() > 1 {
        format!("{} #{}", run.mode.name(), boot.seed)
    } else {
        run.mode.name().into()
    }
}

fn pooled_row(run: &Run, cpu: u32) -> Option<[String; 10]> {
    let pool = Pool::of(run, |vcpu| vcpu == cpu)?;
    let us = |ns: f64| format!("{:.3}", ns / 1e3);
    let mut row = [""; 10].map(String::from);
    row[0] = format!("{} pooled", run.mode.name());
    row[1] = cpu.to_string();
    row[2] = us(pool.min as f64);
    row[3] = pool.median.map_or("-".into(), |median| us(median as f64));
    row[4] = us(pool.mean);
    row[5] = us(pool.max as f64);
    Some(row)
}

fn align(out: &mut String, rows: &[[String; 10]]) -> std::fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 10] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            if column == 0 {
                write!(line, "{cell:<width$}")?;
            } else {
                write!(line, "  {cell:>width$}")?;
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn reasons(out: &mut String, boot: &Boot) -> std::fmt::Result {
    let list = |span: &Span| {
        let items: Vec<String> = span.exits.iter().map(|(r, n)| format!("{r} {n}")).collect();
        if items.is_empty() { "none".into() } else { items.join(", ") }
    };
    for (what, spans) in [("in the window", &boot.window), ("in its whole life", &boot.total)] {
        for span in spans {
            writeln!(out, "exits of vCPU {} {what}: {}", span.vcpu, list(span))?;
        }
    }
    Ok(())
}

fn comparison(out: &mut String, report: &Report) -> std::fmt::Result {
    match compare(report) {
        Some(Comparison::Limits(limits)) => {
            let boots = report.runs.iter().map(|run| run.boots.len()).min().unwrap_or(0);
            writeln!(out, "\ndirect beside bare, {boots} boot(s) of each, all CPUs pooled")?;
            for l in &limits {
                let judged = match (boots >= BOOTS_FOR_COMPARISON, l.holds) {
                    (_, true) => "holds",
                    (true, false) => "EXCEEDED",
                    (false, false) => "exceeded; judged from 5 boots on (--boots 5)",
                };
                writeln!(
                    out,
                    "{:<7} bare {:>8.3} us  direct {:>8.3} us  {:>+8.3} %  {}: {judged}",
                    l.what,
                    l.bare / 1e3,
                    l.direct / 1e3,
                    (l.direct - l.bare) / l.bare * 100.0,
                    l.limit
                )?;
            }
        }
        Some(Comparison::Refused(why)) => {
            writeln!(out, "\ndirect and bare are not compared: {why}")?
        }
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::boot::tests::CONSOLE;
    use super::*;

    #[test]
    fn latencies_of_other_beds_are_marked() {
        let text = |console: &str| {
            let boots = vec![Boot::read(console.lines(), "rt")];
            let run = Run { mode: Mode::Direct, vcpus: 2, boots };
            text(
                &Report {
                    bed: "qemu",
                    backend: "svm",
                    exits_per_timer: 0.1,
                    ips: None,
                    runs: vec![run],
                },
                &[],
            )
        };
        assert!(text(CONSOLE).contains("not a claim"));
        assert!(!text(devices::tests::CONSOLE).contains("cyclictest"));
        // More than half of the samples over the bound: nobody knows their median.
        let over = CONSOLE.replace("loops=1000 over=0", "loops=3000 over=2000");
        assert!(text(&over).contains("17.700       -  18.800  26.100"), "{}", text(&over));
    }

    #[test]
    fn every_figure_is_in_the_table() {
        let boots = vec![Boot::read(CONSOLE.lines(), "rt")];
        let run = |mode| Run { mode, vcpus: 2, boots: boots.clone() };
        let report = Report {
            bed: "bochs",
            backend: "vmx",
            exits_per_timer: 0.01,
            ips: Some(200_000_000),
            runs: vec![run(Mode::Bare), run(Mode::Direct)],
        };
        let text = text(&report, &[Check { what: "all".into(), holds: false }]);
        for part in [
            "1 us is 200 instructions",
            "clock source tsc, clock events lapic-deadline",
            "17.700  18.800  18.800  26.100         610      4     0.0066   99.9000 %",
            "exits of vCPU 0 in the window: cpuid 3, io 1",
            "exits of vCPU 1 in the window: none",
            "within 5 instructions: holds",
            "FAILED  all",
        ] {
            assert!(text.contains(part), "{part} is missing from\n{text}");
        }
    }
}
