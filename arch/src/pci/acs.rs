//! Keeping functions apart whose requests could reach each other without passing the IOMMU: access control services are
//! switched on wherever a port or a device has them. PCIe 5.0, section 6.12.
//!
//! Called at boot, once the IOMMU translates. What cannot be kept apart is for the caller to decide: [`Peer`] has the facts.

use super::Function;
use super::access::ConfigAccess;
use super::topology::{Found, Topology};
use alloc::vec::Vec;
use arch_defs::pci::acs::{Services, offset};
use arch_defs::pci::capability::{extended_id, id};
use arch_defs::pci::express::{self, PortType};
use arch_defs::pci::{Bdf, ConfigSpace, find, find_extended};

/// What a function is to the requests of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The end of a way.
    Endpoint,
    /// A port of the root complex.
    RootPort,
    /// The port of a switch that leads to the root complex.
    Upstream,
    /// Another port of a switch.
    Downstream,
    /// A bridge to conventional PCI, or of it: what is behind it has no requester id of its own.
    Bridge,
}

/// A function as its peers meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which one.
    pub bdf: Bdf,
    /// The bridge before it; `None` on a root bus.
    pub parent: Option<Bdf>,
    /// What it is.
    pub kind: Kind,
    /// Its requests and those that it passes on go upstream, to the IOMMU.
    pub apart: bool,
    /// The function of whose device it is: itself, or the physical one of a virtual function.
    pub device: Bdf,
}

impl Peer {
    /// Virtual function `bdf` of this one: what the device does with peers is the same.
    #[must_use]
    pub const fn virtual_function(self, bdf: Bdf) -> Self {
        Self { bdf, ..self }
    }
}

/// Switches the services on in every function that has them. The functions come in the order of their names.
pub fn keep_apart<A: ConfigAccess + ?Sized>(access: &A, topology: &Topology) -> Vec<Peer> {
    let each = topology.functions.iter();
    let mut peers: Vec<Peer> =
        each.map(|found| peer(Function::new(access, found.bdf), found)).collect();
    peers.sort_by_key(|peer| peer.bdf);
    peers
}

fn peer<A: ConfigAccess + ?Sized>(function: Function<'_, A>, found: &Found) -> Peer {
    Peer {
        bdf: found.bdf,
        parent: found.parent,
        kind: kind(function, found.bridge.is_some()),
        apart: switch_on(function),
        device: found.bdf,
    }
}

fn kind<A: ConfigAccess + ?Sized>(function: Function<'_, A>, bridge: bool) -> Kind {
    // A list that is broken is no reason to believe in services.
    let express = find(&function, id::EXPRESS).ok().flatten();
    let port = express.map(|found| {
        let at = u16::from(found.offset) + express::offset::CAPABILITIES;
        express::Capabilities::from_bits(function.read_u16(at)).port_type()
    });
    match port {
        Some(PortType::Root) => Kind::RootPort,
        Some(PortType::Upstream) => Kind::Upstream,
        Some(PortType::Downstream) => Kind::Downstream,
        _ if bridge => Kind::Bridge,
        _ => Kind::Endpoint,
    }
}

/// True if the function keeps peers apart from now on.
fn switch_on<A: ConfigAccess + ?Sized>(function: Function<'_, A>) -> bool {
    let Ok(Some(found)) = find_extended(&function, extended_id::ACS) else { return false };
    let read = |at| Services::from_bits(function.read_u16(found.offset + at));
    let (services, control) = (read(offset::CAPABILITY), read(offset::CONTROL));
    let wanted = services.apart(control);
    if wanted != control {
        function.write_u16(found.offset + offset::CONTROL, wanted.into_bits());
    }
    services.are_apart(read(offset::CONTROL))
}
