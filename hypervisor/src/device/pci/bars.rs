//! Where a function's memory lies for its guest: places that are fixed when the VM is built.
//!
//! A guest sizes a BAR as on hardware, and may write its address back; moving it has no effect but a word in the log.
//! Linux keeps what firmware has placed. PCI 3.0, section 6.2.5.1.

use super::action::{Action, Actions, Report};
use super::function::Function;
use alloc::vec::Vec;
use arch_defs::pci::{Bar, Bdf};
use core::fmt;
use core::ops::Range;
use guest_loader::layout::{PAGE, PCI_WINDOW_END, PCI_WINDOW_START};

/// A BAR that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// More functions than a bus has device numbers.
    TooMany {
        /// The first of them that is too much.
        function: Bdf,
    },
    /// The machine's BAR has no address: mapping it would give the guest what lies at 0.
    Nowhere {
        /// Whose BAR.
        function: Bdf,
        /// Which one.
        bar: u8,
    },
    /// The window is full.
    NoRoom {
        /// Whose BAR.
        function: Bdf,
        /// Which one.
        bar: u8,
        /// Its bytes.
        size: u64,
    },
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { function } => {
                write!(f, "pci:{function} is one too many: a VM has room for 31 functions")
            }
            Self::Nowhere { function, bar } => {
                write!(f, "pci:{function}: BAR {bar} has no address on this machine")
            }
            Self::NoRoom { function, bar, size } => write!(
                f,
                "pci:{function}: BAR {bar} of {} KiB does not fit: the BARs of a VM's functions have {} MiB together",
                size >> 10,
                (PCI_WINDOW_END - PCI_WINDOW_START) >> 20
            ),
        }
    }
}

/// A BAR as the guest sees it.
#[derive(Clone, Debug)]
pub struct VirtualBar {
    /// The hardware's.
    pub real: Bar,
    /// Where it lies for the guest.
    pub guest: u64,
    /// The guest has written ones to the lower and the upper register.
    sizing: [bool; 2],
    /// The guest has been told that it stays.
    told: bool,
}

impl VirtualBar {
    /// A BAR that has no place yet.
    pub const fn new(real: Bar) -> Self {
        Self { real, guest: 0, sizing: [false; 2], told: false }
    }

    /// As after a reset; its place stays.
    pub const fn reset(&mut self) {
        self.sizing = [false; 2];
    }

    /// Bytes that it takes of the guest's window: at least a page of its own.
    pub const fn footprint(&self) -> u64 {
        if self.real.size < PAGE { PAGE } else { self.real.size }
    }

    /// The half of it that register `register` of the function is.
    pub fn half(&self, register: u8) -> Option<usize> {
        let half = register.checked_sub(self.real.index)?;
        (half < self.real.kind.registers()).then_some(half.into())
    }

    fn parts(value: u64) -> [u32; 2] {
        [value as u32 & !0xF, (value >> 32) as u32]
    }

    /// A register of it.
    pub fn read(&self, half: usize) -> u32 {
        let sizing = self.sizing.get(half).is_some_and(|&sizing| sizing);
        let value = Self::parts(if sizing { !(self.real.size - 1) } else { self.guest });
        let kind = if half == 0 { self.real.kind.bits() } else { 0 };
        value.get(half).copied().unwrap_or(0) | kind
    }

    /// The guest writes a register of it.
    pub fn write(&mut self, half: usize, value: u32, actions: &mut Actions) {
        let ones = Self::parts(!(self.real.size - 1));
        let (Some(&ones), Some(&place), Some(sizing)) =
            (ones.get(half), Self::parts(self.guest).get(half), self.sizing.get_mut(half))
        else {
            return;
        };
        let value = value & ones;
        *sizing = value == ones;
        if value != ones && value != place && !self.told {
            self.told = true;
            let to = if half == 0 { u64::from(value) } else { u64::from(value) << 32 };
            actions.push(Action::Report(Report::BarMoved { bar: self.real.index, to }));
        }
    }
}

/// A stretch of a BAR in the guest's address space, a whole number of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where the guest finds it.
    pub gpa: Range<u64>,
    /// Where the machine has it, in bytes; a multiple of a page if it is mapped.
    pub host: u64,
    /// The BAR.
    pub bar: u8,
    /// Byte offset in that BAR.
    pub offset: u64,
    /// The guest's accesses go to the device by themselves; else they exit.
    pub mapped: bool,
}

/// The regions of a BAR; `hole` (whole pages) holds what the guest may not touch by itself.
pub fn regions(bar: &VirtualBar, hole: Option<Range<u64>>) -> impl Iterator<Item = Region> {
    let size = bar.footprint();
    // A page that the BAR shares with others on the machine must not be mapped.
    let own_pages = bar.real.size >= PAGE && bar.real.address.is_multiple_of(PAGE);
    let hole = if own_pages { hole.unwrap_or(size..size) } else { 0..size };
    let hole = hole.start.min(size)..hole.end.min(size);
    let (guest, host, index) = (bar.guest, bar.real.address, bar.real.index);
    [(0..hole.start, true), (hole.clone(), false), (hole.end..size, true)]
        .into_iter()
        .filter(|(part, _)| !part.is_empty())
        .map(move |(part, mapped)| Region {
            gpa: guest + part.start..guest + part.end,
            host: host + part.start,
            bar: index,
            offset: part.start,
            mapped,
        })
}

/// Gives every BAR a place in the guest's window: the largest first, so that each lies at a multiple of its size.
///
/// # Errors
/// The BAR that does not fit.
pub fn place<'a>(functions: impl Iterator<Item = &'a mut Function>) -> Result<(), PlaceError> {
    let mut all: Vec<(Bdf, &mut VirtualBar)> = functions
        .flat_map(|function| {
            let name = function.name();
            function.bars_mut().iter_mut().map(move |bar| (name, bar))
        })
        .collect();
    all.sort_by_key(|(_, bar)| core::cmp::Reverse(bar.footprint()));
    let mut at = PCI_WINDOW_START;
    for (function, bar) in all {
        let size = bar.footprint();
        let end = at.checked_add(size).filter(|&end| end <= PCI_WINDOW_END);
        let (bar_index, bytes) = (bar.real.index, bar.real.size);
        if bar.real.address == 0 {
            return Err(PlaceError::Nowhere { function, bar: bar_index });
        }
        bar.guest = at;
        at = end.ok_or(PlaceError::NoRoom { function, bar: bar_index, size: bytes })?;
    }
    Ok(())
}
