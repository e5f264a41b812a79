//! Resetting one function without its neighbours. PCIe 5.0, section 6.6.2; PCI Advanced Capabilities ECN.
//!
//! A reset clears the function's configuration: its BARs, command register and PCI Express settings are put back as they
//! were, bus mastering excepted. MSI and MSI-X are off and every table entry is masked afterwards.

use super::access::ConfigAccess;
use super::{Function, Why};
use alloc::vec::Vec;
use arch_defs::pci::capability::id;
use arch_defs::pci::express::{self, DeviceCapabilities, DeviceControl, DeviceStatus, advanced};
use arch_defs::pci::header::{HeaderType, bar_count, offset};
use arch_defs::pci::{ConfigSpace, find};

/// How a function is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// PCI Express, whose capability is at this byte offset.
    Express(u16),
    /// Advanced features of conventional PCI, at this byte offset.
    Advanced(u16),
}

/// How long a function may take before it is spoken to again, in microseconds.
const QUIET: u64 = 100_000;
/// How long it may take until it answers, in steps of [`STEP`].
const PATIENCE: u32 = 100;
/// Microseconds between two looks.
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

/// Resets a function and waits until it answers, 100 ms to about a second.
///
/// # Errors
/// [`Why::Lost`] if it does not.
pub fn reset<A: ConfigAccess + ?Sized>(function: Function<'_, A>, way: Way) -> Result<(), Why> {
    let layout = HeaderType::from_bits(function.read_u8(offset::HEADER_TYPE)).layout();
    let registers = (0..bar_count(layout)).map(|index| offset::BARS + 4 * u16::from(index));
    let kept: Vec<(u16, u32)> = registers.map(|at| (at, function.read_u32(at))).collect();
    let command = function.command().with_bus_master(false);
    // Nothing new leaves the function; what is under way gets its time.
    function.set_command(command);
    settle(function, way);
    let control = match way {
        Way::Express(at) => {
            let at = at + express::offset::DEVICE_CONTROL;
            let control = DeviceControl::from_bits(function.read_u16(at));
            function.write_u16(at, control.with_reset_function(true).into_bits());
            Some((at, control.with_reset_function(false).into_bits()))
        }
        Way::Advanced(at) => {
            function.write_u8(at + advanced::CONTROL, advanced::RESET);
            None
        }
    };
    function.access.wait(QUIET);
    let mut tries = 0;
    while !function.answers() {
        if tries == PATIENCE {
            return Err(Why::Lost);
        }
        function.access.wait(STEP);
        tries += 1;
    }
    for (at, value) in kept {
        function.write_u32(at, value);
    }
    if let Some((at, value)) = control {
        function.write_u16(at, value);
    }
    function.set_command(command);
    Ok(())
}

/// Waits up to 100 ms for the answers to the function's requests.
fn settle<A: ConfigAccess + ?Sized>(function: Function<'_, A>, way: Way) {
    let pending = || match way {
        Way::Express(at) => {
            let status = function.read_u16(at + express::offset::DEVICE_STATUS);
            DeviceStatus::from_bits(status).transactions_pending()
        }
        Way::Advanced(at) => function.read_u8(at + advanced::STATUS) & advanced::PENDING != 0,
    };
    for _ in 0..QUIET / STEP {
        if !pending() {
            return;
        }
        function.access.wait(STEP);
    }
    log::warn!("PCI {}: requests still pend before its reset", function.bdf);
}
