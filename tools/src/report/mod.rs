//! What a run of the Linux guest showed: read from its console, judged, printed.

pub mod boot;
pub mod compare;
pub mod devices;
pub mod json;
pub mod table;
pub mod verdict;
pub mod witness;

pub use boot::Boot;

/// How interrupts reached the kernel that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// No hypervisor.
    Bare,
    /// Beeline, direct delivery.
    Direct,
}

impl Mode {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Direct => "direct",
        }
    }
}

/// What the guest measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measures {
    /// Nothing: it only has to end well.
    Nothing,
    /// Latencies by cyclictest, driven by its timers.
    Timer,
    /// Interrupts of the PCI functions that it owns.
    Devices,
}

/// All boots of one mode.
#[derive(Clone, Debug)]
pub struct Run {
    /// The mode.
    pub mode: Mode,
    /// CPUs the kernel used.
    pub vcpus: u32,
    /// In the order of their seeds.
    pub boots: Vec<Boot>,
}

/// Everything a report shows.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the bed.
    pub bed: &'static str,
    /// CPU backend of the hypervisor.
    pub backend: &'static str,
    /// Exits per timer interrupt must stay below this.
    pub exits_per_timer: f64,
    /// Emulated instructions per second, where a latency is a number of instructions.
    pub ips: Option<u64>,
    /// Bare first.
    pub runs: Vec<Run>,
}

impl Report {
    /// The run of `mode`.
    #[must_use]
    pub fn run(&self, mode: Mode) -> Option<&Run> {
        self.runs.iter().find(|run| run.mode == mode)
    }
}
