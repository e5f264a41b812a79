//! Resetting one function without its neighbours. PCIe 5.0, section 6.6.2; PCI Advanced Capabilities ECN.
//!
//! A [`Reset`] waits for nothing: it is begun, and looked at until it is through, by whoever speaks to the function or
//! by the housekeeping core. So neither a guest's exit nor a lock lasts as long as it does, and many go on side by side.
//! [`reset`] alone waits, at boot.
//!
//! A reset clears the function's configuration: its BARs, command register and PCI Express settings are put back as they
//! were, bus mastering excepted. MSI and MSI-X are off and every table entry is masked afterwards.

use super::access::ConfigAccess;
use super::{Function, Why};
use alloc::vec::Vec;
use arch_defs::pci::capability::id;
use arch_defs::pci::express::{self, DeviceCapabilities, DeviceControl, DeviceStatus, advanced};
use arch_defs::pci::header::{Command, HeaderType, bar_count, offset};
use arch_defs::pci::{ConfigSpace, find};

/// How a function is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// PCI Express, whose capability is at this byte offset.
    Express(u16),
    /// Advanced features of conventional PCI, at this byte offset.
    Advanced(u16),
}

/// How long the requests of a function may wait for their answers before its reset, in microseconds.
const DRAIN: u64 = 100_000;
/// How long a function may take before it is spoken to again, in microseconds.
const QUIET: u64 = 100_000;
/// How long it may take from then on until it answers, in microseconds.
const PATIENCE: u64 = 1_000_000;
/// Microseconds between two looks of who waits.
const STEP: u64 = 10_000;

/// The way to reset a function.
///
/// # Errors
/// [`Why::NoReset`], or what is wrong with its capabilities.
pub fn way<A: ConfigAccess + ?Sized>(function: Function<'_, A>) -> Result<Way, Why> {
    if let Some(found) = find(&function, id::EXPRESS)? {
        let at = u16::from(found.offset);
        let register = function.read_u32(at + express::offset::DEVICE_CAPABILITIES);
        if DeviceCapabilities::from_bits(register).function_reset() {
            return Ok(Way::Express(at));
        }
    }
    if let Some(found) = find(&function, id::ADVANCED)? {
        let at = u16::from(found.offset);
        if function.read_u8(at + advanced::FEATURES) & advanced::FUNCTION_RESET != 0 {
            return Ok(Way::Advanced(at));
        }
    }
    Err(Why::NoReset)
}

/// Where a function says that its requests wait for answers.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Express(u16),
    Advanced(u16),
}

/// How far a reset is. Times are those of [`ConfigAccess::now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// None is under way.
    Idle,
    /// Nothing new leaves the function; its requests have until then to be answered.
    Draining { until: u64 },
    /// It must not be spoken to until then.
    Quiet { until: u64 },
    /// It has until then to answer.
    Awaited { until: u64 },
}

/// What a look at a reset gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// None is under way.
    Idle,
    /// Nobody may speak to the function yet.
    Waits,
    /// It is over, and the function is as it was found but for bus mastering, MSI and MSI-X, which are off.
    Done,
    /// The function did not come back.
    Lost,
}

/// One function's resets, one after the other.
#[derive(Debug)]
pub struct Reset {
    way: Option<Way>,
    pending: Option<Pending>,
    /// What a reset clears: BARs by their byte offsets, PCI Express settings, the command register.
    bars: Vec<(u16, u32)>,
    control: Option<(u16, DeviceControl)>,
    command: Command,
    stage: Stage,
}

impl Reset {
    /// For a function at rest, whose registers are read here to be put back. Without a `way` there is no reset: the
    /// function is silenced, and its requests get their answers.
    pub fn of<A: ConfigAccess + ?Sized>(function: Function<'_, A>, way: Option<Way>) -> Self {
        let layout = HeaderType::from_bits(function.read_u8(offset::HEADER_TYPE)).layout();
        let registers = (0..bar_count(layout)).map(|index| offset::BARS + 4 * u16::from(index));
        let bars = registers.map(|at| (at, function.read_u32(at))).collect();
        let express = find(&function, id::EXPRESS).ok().flatten();
        let control = express.map(|found| {
            let at = u16::from(found.offset) + express::offset::DEVICE_CONTROL;
            (at, DeviceControl::from_bits(function.read_u16(at)).with_reset_function(false))
        });
        let pending = match (express, way) {
            (_, Some(Way::Advanced(at))) => Some(Pending::Advanced(at)),
            (_, Some(Way::Express(at))) => Some(Pending::Express(at)),
            (express, None) => express.map(|found| Pending::Express(found.offset.into())),
        };
        let command = function.command().with_bus_master(false);
        Self { way, pending, bars, control, command, stage: Stage::Idle }
    }

    /// Whether one is under way.
    pub fn is_under_way(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Silences the function and begins its reset, if none is under way.
    pub fn begin<A: ConfigAccess + ?Sized>(&mut self, function: Function<'_, A>) {
        if self.stage != Stage::Idle {
            return;
        }
        // Nothing new leaves the function; what is under way gets its time. Its memory is gone at once, as it will be.
        let memory = self.command.memory() && self.way.is_none();
        function.set_command(self.command.with_memory(memory));
        self.stage = Stage::Draining { until: function.access.now().saturating_add(DRAIN) };
    }

    /// Looks whether the next step is due, and takes it. Short: some configuration accesses.
    pub fn advance<A: ConfigAccess + ?Sized>(&mut self, function: Function<'_, A>) -> Progress {
        if self.stage == Stage::Idle {
            return Progress::Idle;
        }
        let now = function.access.now();
        match self.stage {
            Stage::Idle => {}
            Stage::Draining { until } => {
                let pending = self.is_pending(function);
                if pending && now < until {
                    return Progress::Waits;
                }
                if pending {
                    log::warn!("PCI {}: requests still pend before its reset", function.bdf);
                }
                let Some(way) = self.way else {
                    self.stage = Stage::Idle;
                    return Progress::Done;
                };
                initiate(function, way);
                // From the write on, not from the look at the clock before it.
                let until = function.access.now().saturating_add(QUIET);
                self.stage = Stage::Quiet { until };
            }
            Stage::Quiet { until } if now < until => {}
            Stage::Quiet { .. } => {
                self.stage = Stage::Awaited { until: now.saturating_add(PATIENCE) };
                return self.await_answer(function, now.saturating_add(PATIENCE));
            }
            Stage::Awaited { until } => return self.await_answer(function, until),
        }
        Progress::Waits
    }

    fn await_answer<A: ConfigAccess + ?Sized>(
        &mut self,
        function: Function<'_, A>,
        until: u64,
    ) -> Progress {
        if function.answers() {
            self.put_back(function);
            self.stage = Stage::Idle;
            return Progress::Done;
        }
        if function.access.now() < until {
            return Progress::Waits;
        }
        self.stage = Stage::Idle;
        Progress::Lost
    }

    fn put_back<A: ConfigAccess + ?Sized>(&self, function: Function<'_, A>) {
        for &(at, value) in &self.bars {
            function.write_u32(at, value);
        }
        if let Some((at, control)) = self.control {
            function.write_u16(at, control.into_bits());
        }
        function.set_command(self.command);
    }

    fn is_pending<A: ConfigAccess + ?Sized>(&self, function: Function<'_, A>) -> bool {
        match self.pending {
            Some(Pending::Express(at)) => {
                let status = function.read_u16(at + express::offset::DEVICE_STATUS);
                DeviceStatus::from_bits(status).transactions_pending()
            }
            Some(Pending::Advanced(at)) => {
                function.read_u8(at + advanced::STATUS) & advanced::PENDING != 0
            }
            None => false,
        }
    }
}

fn initiate<A: ConfigAccess + ?Sized>(function: Function<'_, A>, way: Way) {
    match way {
        Way::Express(at) => {
            let at = at + express::offset::DEVICE_CONTROL;
            let control = DeviceControl::from_bits(function.read_u16(at));
            function.write_u16(at, control.with_reset_function(true).into_bits());
        }
        Way::Advanced(at) => function.write_u8(at + advanced::CONTROL, advanced::RESET),
    }
}

/// Resets a function and waits until it answers, 100 ms to about a second. At boot.
///
/// # Errors
/// [`Why::Lost`] if it does not.
pub fn reset<A: ConfigAccess + ?Sized>(function: Function<'_, A>, way: Way) -> Result<(), Why> {
    let mut reset = Reset::of(function, Some(way));
    reset.begin(function);
    loop {
        match reset.advance(function) {
            Progress::Waits => function.access.wait(STEP),
            Progress::Lost => return Err(Why::Lost),
            Progress::Idle | Progress::Done => return Ok(()),
        }
    }
}
