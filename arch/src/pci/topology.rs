//! Which functions there are, and behind which bridges: a walk over the buses that firmware has numbered.

use super::access::ConfigAccess;
use super::{Function, Why};
use alloc::vec::Vec;
use arch_defs::pci::header::{Bridge, HeaderType, NO_VENDOR, offset};
use arch_defs::pci::{Bdf, ConfigSpace};

/// A function that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which one.
    pub bdf: Bdf,
    /// The bridge before it; `None` on a root bus.
    pub parent: Option<Bdf>,
    /// It is a bridge itself.
    pub bridge: Option<Bridge>,
}

/// All functions of the machine.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// In the order of the walk: bridges before what is behind them.
    pub functions: Vec<Found>,
}

impl Topology {
    /// Looks at every bus.
    pub fn read(access: &(impl ConfigAccess + ?Sized)) -> Self {
        let mut found = Self::default();
        for (segment, first, last) in access.buses() {
            let mut seen = [false; 256];
            for bus in first..=last {
                // A bus that no bridge leads to may be the root of its own host bridge.
                found.walk(access, segment, bus, &mut seen);
            }
        }
        found
    }

    fn walk(
        &mut self,
        access: &(impl ConfigAccess + ?Sized),
        segment: u16,
        root: u8,
        seen: &mut [bool; 256],
    ) {
        // Bridges come from firmware: a bus is looked at once, whatever they say.
        let mut waiting = alloc::vec![(root, None)];
        while let Some((bus, parent)) = waiting.pop() {
            match seen.get_mut(usize::from(bus)) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            for bdf in functions(access, segment, bus) {
                let bridge = Bridge::read(&Function::new(access, bdf));
                self.functions.push(Found { bdf, parent, bridge });
                if let Some(bridge) = bridge.filter(|bridge| bridge.secondary > bus) {
                    waiting.push((bridge.secondary, Some(bdf)));
                }
            }
        }
    }

    /// A function by its name.
    ///
    /// # Errors
    /// [`Why::Absent`].
    pub fn find(&self, bdf: Bdf) -> Result<&Found, Why> {
        self.functions.iter().find(|found| found.bdf == bdf).ok_or(Why::Absent)
    }

    /// The bridges before `bdf`, the nearest first.
    pub fn bridges(&self, bdf: Bdf) -> impl Iterator<Item = (Bdf, Bridge)> + '_ {
        let parent = |bdf| self.find(bdf).ok().and_then(|found| found.parent);
        core::iter::successors(parent(bdf), move |&bridge| parent(bridge))
            .filter_map(|bridge| Some((bridge, self.find(bridge).ok()?.bridge?)))
    }

    /// The functions on the bus of `bdf`, with it.
    pub fn siblings(&self, bdf: Bdf) -> impl Iterator<Item = &Found> + '_ {
        let same = move |other: Bdf| other.segment == bdf.segment && other.bus() == bdf.bus();
        self.functions.iter().filter(move |found| same(found.bdf))
    }
}

/// The functions that answer on a bus. Those of ARI devices beyond number 7 are not looked for.
fn functions(access: &(impl ConfigAccess + ?Sized), segment: u16, bus: u8) -> Vec<Bdf> {
    let mut found = Vec::new();
    for device in 0..32 {
        for number in 0..8 {
            let Some(bdf) = Bdf::new(segment, bus, device, number) else { continue };
            let function = Function::new(access, bdf);
            let there = function.read_u16(offset::ID) != NO_VENDOR;
            if there {
                found.push(bdf);
            }
            let header = HeaderType::from_bits(function.read_u8(offset::HEADER_TYPE));
            if number == 0 && !(there && header.multifunction()) {
                break;
            }
        }
    }
    found
}
