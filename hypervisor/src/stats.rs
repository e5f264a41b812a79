//! Exit counters and time in root mode, per vCPU. Written by the vCPU's core alone, with plain
//! stores; read by anyone at run time.

use crate::sync::{AtomicU64, Ordering};
use core::fmt;

/// Why a vCPU left its core, as counted. The numbers are those of the guest interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it; docs/src/guest-interface.md lists them")]
pub enum ExitKind {
    Cpuid,
    MsrRead,
    MsrWrite,
    Io,
    Mmio,
    Nmi,
    Quantum,
    Hypercall,
    Halt,
    ExternalInterrupt,
    InterruptWindow,
    NmiWindow,
    CrAccess,
    Xsetbv,
    Exception,
    Instruction,
    TripleFault,
    EntryFailure,
    Unknown,
}

/// Number of kinds.
pub const KINDS: usize = 19;

/// Names in reports, by kind.
pub const NAMES: [&str; KINDS] = [
    "cpuid",
    "msr_read",
    "msr_write",
    "io",
    "mmio",
    "nmi",
    "quantum",
    "hypercall",
    "halt",
    "external_interrupt",
    "interrupt_window",
    "nmi_window",
    "cr_access",
    "xsetbv",
    "exception",
    "instruction",
    "triple_fault",
    "entry_failure",
    "unknown",
];

/// The counters of one vCPU.
pub struct VcpuStats {
    exits: [AtomicU64; KINDS],
    root_ticks: AtomicU64,
    /// TSC when the vCPU last began to run guest code from a stopped state; 0: stopped.
    since: AtomicU64,
    /// External interrupts injected again because an exit cut their delivery short.
    pub redelivered: AtomicU64,
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Exits by kind.
    pub exits: [u64; KINDS],
    /// TSC ticks in root mode.
    pub root_ticks: u64,
    /// TSC now, or 0 in a fresh snapshot.
    pub now: u64,
}

impl VcpuStats {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            exits: [const { AtomicU64::new(0) }; KINDS],
            root_ticks: AtomicU64::new(0),
            since: AtomicU64::new(0),
            redelivered: AtomicU64::new(0),
        }
    }

    /// Counts an exit (the vCPU's core only).
    #[inline(always)]
    pub fn count(&self, kind: ExitKind) {
        add(&self.exits[kind as usize], 1);
    }

    /// Adds time in root mode, in ticks (the vCPU's core only).
    #[inline(always)]
    pub fn add_root_ticks(&self, ticks: u32) {
        add(&self.root_ticks, ticks.into());
    }

    /// Exits of one kind, or of all.
    pub fn exits(&self, kind: Option<usize>) -> u64 {
        match kind {
            Some(kind) => self.exits.get(kind).map_or(0, |c| c.load(Ordering::Relaxed)),
            None => self.exits.iter().map(|c| c.load(Ordering::Relaxed)).sum(),
        }
    }

    /// TSC ticks in root mode.
    pub fn root_ticks(&self) -> u64 {
        self.root_ticks.load(Ordering::Relaxed)
    }

    /// The vCPU starts (its VM starts or restarts): totals begin here.
    pub fn start(&self, now: u64) {
        self.exits.iter().for_each(|c| c.store(0, Ordering::Relaxed));
        self.root_ticks.store(0, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
    }

    /// All counters now.
    pub fn snapshot(&self, now: u64) -> Snapshot {
        Snapshot {
            exits: core::array::from_fn(|kind| self.exits[kind].load(Ordering::Relaxed)),
            root_ticks: self.root_ticks(),
            now,
        }
    }

    /// The counters' values at the start, for totals.
    pub fn origin(&self) -> Snapshot {
        Snapshot { exits: [0; KINDS], root_ticks: 0, now: self.since.load(Ordering::Relaxed) }
    }
}

impl Default for VcpuStats {
    fn default() -> Self {
        Self::new()
    }
}

/// A load and a store: there is one writer, so no locked instruction is needed.
#[inline(always)]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

/// What happened between two snapshots, as `ticks=… root_ticks=… exits=cpuid:3,io:1`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The earlier one.
    pub from: Snapshot,
    /// The later one.
    pub to: Snapshot,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticks = self.to.now.wrapping_sub(self.from.now);
        let root = self.to.root_ticks.wrapping_sub(self.from.root_ticks);
        write!(f, "ticks={ticks} root_ticks={root} exits=")?;
        let mut first = true;
        for (kind, name) in NAMES.iter().enumerate() {
            let count = self.to.exits[kind].wrapping_sub(self.from.exits[kind]);
            if count != 0 {
                write!(f, "{}{name}:{count}", if first { "" } else { "," })?;
                first = false;
            }
        }
        if first { write!(f, "none:0") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_span_lists_what_happened_in_it() {
        let stats = VcpuStats::new();
        stats.start(100);
        stats.count(ExitKind::Cpuid);
        let from = stats.snapshot(200);
        stats.count(ExitKind::Cpuid);
        stats.count(ExitKind::Unknown);
        stats.add_root_ticks(7);
        let to = stats.snapshot(300);
        assert_eq!(Span { from, to }.to_string(), "ticks=100 root_ticks=7 exits=cpuid:1,unknown:1");
        assert_eq!(Span { from, to: from }.to_string(), "ticks=0 root_ticks=0 exits=none:0");
        assert_eq!(stats.exits(None), 3);
        assert_eq!(stats.exits(Some(99)), 0);
    }
}
