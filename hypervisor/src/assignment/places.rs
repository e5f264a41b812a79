//! What answers where on the machine's memory bus, and whether a function's BAR lies over something else (requirement S9):
//! mapping it would give the guest that. Pure. PCI 3.0, section 6.2.5.1; PCI-to-PCI Bridge Architecture 1.2, section 4.3.
//!
//! BARs are compared by the byte. A BAR of a page or more has its pages for itself if it overlaps nothing, since its address
//! is a multiple of its size; a smaller one is never mapped for a guest (see `device::pci::bars`).

use alloc::vec::Vec;
use arch_defs::pci::header::Bridge;
use arch_defs::pci::{Bar, Bdf};
use core::fmt;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// A BAR of a function.
    Bar {
        /// The function.
        function: Bdf,
        /// Its number.
        bar: u8,
    },
    /// What a bridge passes to the buses behind it.
    Window {
        /// The bridge.
        bridge: Bdf,
    },
    /// Registers of the machine.
    Registers(&'static str),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar { function, bar } => write!(f, "BAR {bar} of {function}"),
            Self::Window { bridge } => write!(f, "the memory window of the bridge {bridge}"),
            Self::Registers(what) => f.write_str(what),
        }
    }
}

/// A stretch of addresses that somebody answers at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
    /// Who.
    pub who: Who,
}

impl Place {
    /// Registers of the machine.
    pub const fn registers(span: &core::ops::Range<u64>, what: &'static str) -> Self {
        Self { first: span.start, last: span.end.saturating_sub(1), who: Who::Registers(what) }
    }
}

/// The memory BARs of a function that have a place.
pub fn of_bars(function: Bdf, bars: &[Bar]) -> impl Iterator<Item = Place> + '_ {
    bars.iter().filter(|bar| bar.kind.is_memory() && bar.address != 0).map(move |bar| Place {
        first: bar.address,
        last: bar.address.saturating_add(bar.size.saturating_sub(1)),
        who: Who::Bar { function, bar: bar.index },
    })
}

/// The windows of a bridge.
pub fn of_bridge(bridge: Bdf, windows: &Bridge) -> impl Iterator<Item = Place> {
    let who = Who::Window { bridge };
    let windows = [windows.memory, windows.prefetchable];
    windows.into_iter().flatten().map(move |(first, last)| Place { first, last, who })
}

/// A BAR that lies over something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The BAR.
    pub bar: u8,
    /// Its first byte.
    pub address: u64,
    /// What it lies over.
    pub other: Place,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "firmware put BAR {} at {:#x}, over {} at {:#x}",
            self.bar, self.address, self.other.who, self.other.first
        )
    }
}

/// The first overlap of a function's BARs with `places`, or with each other. `before` are the bridges before it, whose
/// windows its BARs lie in.
pub fn overlap(function: Bdf, bars: &[Bar], before: &[Bdf], places: &[Place]) -> Option<Overlap> {
    let own: Vec<Place> = of_bars(function, bars).collect();
    let others = || {
        places.iter().filter(|place| match place.who {
            Who::Bar { function: other, .. } => other != function,
            Who::Window { bridge } => !before.contains(&bridge),
            Who::Registers(_) => true,
        })
    };
    own.iter().enumerate().find_map(|(index, place)| {
        let Who::Bar { bar, .. } = place.who else { return None };
        let mut others = others().chain(own.iter().skip(index + 1));
        let other = others.find(|other| other.first <= place.last && place.first <= other.last)?;
        Some(Overlap { bar, address: place.first, other: *other })
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use arch_defs::pci::BarKind;
    use std::string::ToString;

    const CARD: &str = "0000:03:00.0";
    const PORT: &str = "0000:00:01.0";

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    fn bar(index: u8, address: u64, size: u64) -> Bar {
        Bar { index, kind: BarKind::Memory32 { prefetchable: false }, address, size }
    }

    fn window(memory: (u64, u64), prefetchable: Option<(u64, u64)>) -> Bridge {
        Bridge { secondary: 3, subordinate: 3, memory: Some(memory), prefetchable }
    }

    /// A port with the card's window, another beside it, a neighbour of the card, and the platform's registers.
    fn machine() -> Vec<Place> {
        let other = window((0xFEB0_0000, 0xFEBF_FFFF), Some((0x8_0000_0000, 0x8_0FFF_FFFF)));
        of_bridge(bdf(PORT), &window((0xFE80_0000, 0xFEAF_FFFF), None))
            .chain(of_bridge(bdf("0000:00:02.0"), &other))
            .chain(of_bars(bdf("0000:03:00.1"), &[bar(2, 0xFE90_0000, 0x1_0000), bar(3, 0, 16)]))
            .chain([
                Place::registers(&(0xFEC0_0000..0xFEC0_1000), "an I/O APIC"),
                Place::registers(&(0xFEE0_0000..0xFEF0_0000), "the local APICs"),
            ])
            .collect()
    }

    fn check(bars: &[Bar]) -> Option<Overlap> {
        overlap(bdf(CARD), bars, &[bdf(PORT)], &machine())
    }

    #[test]
    fn r_s9_a_bar_in_a_gap_of_its_bridge_is_fine() {
        assert_eq!(check(&[bar(0, 0xFE8F_0000, 0x1_0000), bar(1, 0xFE91_0000, 0x1_0000)]), None);
        // Ports are not passed on, and what has no address is refused elsewhere.
        let ports = Bar { kind: BarKind::Io, ..bar(0, 0xFEC0_0000, 0x20) };
        assert_eq!(check(&[ports, bar(1, 0, 0x1000)]), None);
        // Its own BARs stand among the places.
        let own = [bar(0, 0xFE80_0000, 0x1000)];
        let places: Vec<Place> = of_bars(bdf(CARD), &own).collect();
        assert_eq!(overlap(bdf(CARD), &own, &[], &places), None);
    }

    #[test]
    fn r_s9_r_s10_an_overlap_names_both() {
        for (address, size, other) in [
            (0xFE90_F000, 0x1000, "BAR 2 of 0000:03:00.1 at 0xfe900000"),
            (0xFE80_0000, 0x20_0000, "BAR 2 of 0000:03:00.1 at 0xfe900000"),
            // Below a page, and at the last byte.
            (0xFE90_FFF0, 0x10, "BAR 2 of 0000:03:00.1 at 0xfe900000"),
            (0xFEBF_F000, 0x1000, "the memory window of the bridge 0000:00:02.0 at 0xfeb00000"),
            (0x8_0000_0000, 0x1000, "the memory window of the bridge 0000:00:02.0 at 0x800000000"),
            (0xFEC0_0000, 0x1000, "an I/O APIC at 0xfec00000"),
            (0xFEE0_0000, 0x1000, "the local APICs at 0xfee00000"),
            (0, u64::MAX, "nothing"),
        ] {
            let found = check(&[bar(1, 0xFEA0_0000, 0x1000), bar(4, address, size)]);
            let text = found.map_or("nothing".into(), |overlap| overlap.to_string());
            let expected = match other {
                "nothing" => "nothing".to_string(),
                other => std::format!("firmware put BAR 4 at {address:#x}, over {other}"),
            };
            assert_eq!(text, expected);
        }
        let twice = check(&[bar(0, 0xFEA0_0000, 0x4000), bar(1, 0xFEA0_2000, 0x1000)]).unwrap();
        assert!(twice.to_string().ends_with("over BAR 1 of 0000:03:00.0 at 0xfea02000"));
    }

    #[test]
    fn r_s10_a_bar_at_the_end_of_all_addresses() {
        let high = bar(0, u64::MAX - 0xFFF, 0x1000);
        let places = [Place { first: u64::MAX, last: u64::MAX, who: Who::Registers("x") }];
        assert!(overlap(bdf(CARD), &[high], &[], &places).is_some());
        assert_eq!(check(&[high]), None);
    }
}
