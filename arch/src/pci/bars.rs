//! Sizes of BARs, read with decoding off, and gaps for those that nobody has placed.

use super::access::ConfigAccess;
use super::{Function, Why};
use alloc::vec::Vec;
use arch_defs::pci::header::{HeaderType, bar_count, offset};
use arch_defs::pci::{Bar, ConfigSpace, bars};
use core::ops::Range;

/// The BARs of a function. Its decoding is off meanwhile, so nobody may be using it; firmware's addresses stay.
///
/// # Errors
/// [`Why::Bar`].
pub fn read<A: ConfigAccess + ?Sized>(function: Function<'_, A>) -> Result<Vec<Bar>, Why> {
    let layout = HeaderType::from_bits(function.read_u8(offset::HEADER_TYPE)).layout();
    let command = function.command();
    function.set_command(command.with_io(false).with_memory(false));
    let found = probe(function, offset::BARS, bar_count(layout));
    function.set_command(command);
    found
}

/// Whether the memory BARs may be mapped for a guest: each has a place, and that is no RAM (requirement S9).
///
/// # Errors
/// [`Why::Misplaced`].
pub fn check(bars: &[Bar], ram: &[Range<u64>]) -> Result<(), Why> {
    let misplaced = |bar: &&Bar| {
        let last = bar.address.saturating_add(bar.size - 1);
        bar.address == 0 || ram.iter().any(|ram| ram.start <= last && bar.address < ram.end)
    };
    match bars.iter().filter(|bar| bar.kind.is_memory()).find(misplaced) {
        Some(bar) => Err(Why::Misplaced { index: bar.index, address: bar.address }),
        None => Ok(()),
    }
}

/// The BARs in `count` registers from `first`, whose decoding the caller has switched off.
///
/// # Errors
/// [`Why::Bar`].
pub(super) fn probe<A: ConfigAccess + ?Sized>(
    function: Function<'_, A>,
    first: u16,
    count: u8,
) -> Result<Vec<Bar>, Why> {
    let register = |index: u8| first + 4 * u16::from(index);
    let mut now = Vec::new();
    let mut stuck = Vec::new();
    for index in 0..count {
        let value = function.read_u32(register(index));
        function.write_u32(register(index), u32::MAX);
        stuck.push(function.read_u32(register(index)));
        function.write_u32(register(index), value);
        now.push(value);
    }
    Ok(bars(&now, &stuck).collect::<Result<_, _>>()?)
}

/// Writes the address of a BAR to its registers, of which the first is at `first`.
pub(super) fn place<A: ConfigAccess + ?Sized>(function: Function<'_, A>, first: u16, bar: &Bar) {
    let register = first + 4 * u16::from(bar.index);
    function.write_u32(register, bar.address as u32 | bar.kind.bits());
    if bar.kind.registers() == 2 {
        function.write_u32(register + 4, (bar.address >> 32) as u32);
    }
}

/// The lowest address in `window` (first and last byte) where `len` bytes fit, aligned, without touching `taken`
/// (first and last bytes).
pub fn gap(window: (u64, u64), taken: &[(u64, u64)], len: u64, align: u64) -> Option<u64> {
    let mut at = window.0.checked_next_multiple_of(align)?;
    loop {
        let last = at.checked_add(len.checked_sub(1)?)?;
        if last > window.1 {
            return None;
        }
        match taken.iter().find(|taken| taken.0 <= last && at <= taken.1) {
            // Each step leaves one of them behind, so this ends.
            Some(taken) => at = taken.1.checked_add(1)?.checked_next_multiple_of(align)?,
            None => return Some(at),
        }
    }
}
