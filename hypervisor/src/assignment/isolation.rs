//! Which functions can reach each other without passing the IOMMU, and what follows when they have different owners
//! (requirement S9). Pure: the facts are `arch::pci::acs`'s. PCIe 5.0, section 6.12; PCIe to PCI Bridge 1.0, section 2.3.
//!
//! | between the two | | |
//! |---|---|---|
//! | a conventional PCI bridge before both | one requester id: the IOMMU cannot tell them apart | refused |
//! | ports of a switch that do not redirect | the switch passes requests from one to the other | refused |
//! | one device or root complex without ACS | the specification wants ACS where peers can be reached, but devices differ | a warning |
//!
//! Functions of different root ports, and of different devices on a root bus, are apart, as for Linux.

use alloc::vec::Vec;
use arch::pci::acs::{Kind, Peer};
use arch_defs::pci::Bdf;
use core::fmt;

/// A way between two functions past the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They share a requester id, behind this bridge.
    SharedId {
        /// The bridge.
        bridge: Bdf,
    },
    /// This port of a switch does not redirect requests.
    Switch {
        /// The port.
        port: Bdf,
    },
    /// Nothing says that this device or root port keeps them apart.
    Unknown {
        /// The device or port.
        at: Bdf,
    },
}

impl Way {
    /// Whether it is certain that the functions cannot have different owners.
    pub const fn is_certain(self) -> bool {
        matches!(self, Self::SharedId { .. } | Self::Switch { .. })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedId { bridge } => write!(
                f,
                "share one requester id behind the conventional PCI bridge {bridge}, so the IOMMU cannot tell them apart"
            ),
            Self::Switch { port } => write!(
                f,
                "reach each other past the IOMMU: the switch port {port} does not redirect peer requests (no ACS)"
            ),
            Self::Unknown { at } => {
                write!(f, "may reach each other past the IOMMU: {at} has no access control (ACS)")
            }
        }
    }
}

/// Two functions with a way between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// One, which a VM owns.
    pub one: Bdf,
    /// The other, which another VM owns or nobody.
    pub other: Bdf,
    /// How.
    pub way: Way,
}

/// The functions that two VMs own (`owner` gives a VM's number) and that have a way between them, each pair once; and those
/// that nobody owns with a certain way to one of a VM's.
pub fn pairs(peers: &[Peer], owner: impl Fn(Bdf) -> Option<usize>) -> Vec<Pair> {
    let mut found = Vec::new();
    for (index, one) in peers.iter().enumerate() {
        let Some(first) = owner(one.bdf) else { continue };
        for (second, other) in peers.iter().enumerate().filter(|&(second, _)| second != index) {
            let second_owner = owner(other.bdf);
            let pair = match second_owner {
                Some(vm) => vm != first && index < second,
                // Bridges are nobody's and pass requests on; they begin none.
                None => other.kind == Kind::Endpoint,
            };
            if pair
                && let Some(way) = way(peers, one, other)
                && (second_owner.is_some() || way.is_certain())
            {
                found.push(Pair { one: one.bdf, other: other.bdf, way });
            }
        }
    }
    found
}

/// The bridge whose id the requests of a function carry, if they do not carry its own: the outermost to conventional PCI.
pub fn alias(peers: &[Peer], function: Bdf) -> Option<Bdf> {
    let first = peers.iter().find(|peer| peer.bdf == function)?;
    outermost(&line(peers, first))
}

fn outermost(line: &[&Peer]) -> Option<Bdf> {
    line.iter().skip(1).rev().find(|peer| peer.kind == Kind::Bridge).map(|peer| peer.bdf)
}

/// The way between two functions, if there is one.
fn way(peers: &[Peer], one: &Peer, other: &Peer) -> Option<Way> {
    let (up, other_up) = (line(peers, one), line(peers, other));
    match (outermost(&up), outermost(&other_up)) {
        (Some(bridge), Some(second)) if bridge == second => return Some(Way::SharedId { bridge }),
        _ => {}
    }
    // Where their lines part: two functions behind one bridge, or on a root bus.
    let (at, (left, right)) = up.iter().enumerate().find_map(|(at, left)| {
        let parts = |right: &&&Peer| right.parent == left.parent && right.bdf != left.bdf;
        other_up.iter().find(parts).map(|right| (at, (*left, *right)))
    })?;
    if left.parent.is_none() && !same_device(left, right) {
        return None;
    }
    // From there up everything must send requests on to the IOMMU. An upstream port has nothing beside it.
    let above = up.iter().skip(at + 1).copied();
    let weak = [left, right]
        .into_iter()
        .chain(above)
        .find(|peer| !peer.apart && peer.kind != Kind::Upstream)?;
    Some(match weak.kind {
        Kind::Downstream => Way::Switch { port: weak.bdf },
        _ => Way::Unknown { at: weak.bdf },
    })
}

/// A function and the bridges before it, the nearest first.
fn line<'a>(peers: &'a [Peer], first: &'a Peer) -> Vec<&'a Peer> {
    let parent = |peer: &&Peer| peers.iter().find(|other| Some(other.bdf) == peer.parent);
    // As many as there are buses: what firmware says cannot lead in a circle.
    core::iter::successors(Some(first), parent).take(256).collect()
}

fn same_device(one: &Peer, other: &Peer) -> bool {
    let place = |peer: &Peer| (peer.device.segment, peer.device.requester() >> 3);
    place(one) == place(other)
}

#[cfg(test)]
mod tests;
