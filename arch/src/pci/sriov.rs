//! Switching the virtual functions (VFs) of a physical function (PF) on. PCIe 5.0, section 9.3.3.
//!
//! Called at boot, before any guest runs: sizes are probed with decoding off. The PF keeps its own BARs; those of the
//! VFs are placed in the window of its bridge if firmware has not done so.

use super::access::ConfigAccess;
use super::bars::{self, gap};
use super::topology::Topology;
use super::{Function, Why};
use alloc::vec::Vec;
use arch_defs::pci::capability::{extended_id, id};
use arch_defs::pci::express::{self, DeviceCapabilities2, DeviceControl2};
use arch_defs::pci::header::{self, Bridge};
use arch_defs::pci::sriov::{Control, offset, vf_bar};
use arch_defs::pci::{Bar, Bdf, ConfigSpace, Sriov, find, find_extended};

/// Bit of the page-size registers for 4 KiB.
const PAGE_4K: u32 = 1;
const PAGE: u64 = 4096;
/// Time after VF Enable until VFs may be spoken to, in microseconds.
const START: u64 = 100_000;
/// Time after VF Enable was cleared, in microseconds.
const STOP: u64 = 1_000_000;

/// A virtual function that is there, with what its own configuration space does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualFunction {
    /// Which function it is.
    pub bdf: Bdf,
    /// Vendor id: the PF's.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Its BARs, placed.
    pub bars: Vec<Bar>,
}

/// Switches `count` VFs of `pf` on; VF `n` is the `n`-th of the result. They answer at their BARs and master nothing
/// yet.
///
/// # Errors
/// What is missing; the VFs are then off.
pub fn enable<A: ConfigAccess + ?Sized>(
    access: &A,
    topology: &Topology,
    pf: Bdf,
    count: u16,
) -> Result<Vec<VirtualFunction>, Why> {
    topology.find(pf)?;
    let function = Function::new(access, pf);
    let capability = find_extended(&function, extended_id::SRIOV)?.ok_or(Why::NoSriov)?;
    let at = capability.offset;
    let total = Sriov::read(&function, capability)?.total;
    if count == 0 || count > total {
        let vf = count.saturating_sub(1);
        return Err(Why::Vf(arch_defs::pci::VfError::TooMany { vf, total }));
    }
    let control = Control::from_bits(function.read_u16(at + offset::CONTROL));
    if control.enable() {
        let off = control.with_enable(false).with_memory(false);
        function.write_u16(at + offset::CONTROL, off.into_bits());
        access.wait(STOP);
    }
    let ari = forward_ari(access, topology, pf)?;
    let control = Control::new().with_ari(ari);
    function.write_u16(at + offset::CONTROL, control.into_bits());
    function.write_u32(at + offset::PAGE_SIZE, PAGE_4K);
    function.write_u16(at + offset::NUM_VFS, count);
    // Offset and stride depend on what was just written.
    let sriov = Sriov::read(&function, capability)?;
    let vfs: Vec<Bdf> = (0..count).map(|vf| sriov.vf(pf, vf)).collect::<Result<_, _>>()?;
    for (vf, &bdf) in (0..).zip(&vfs) {
        check_bus(topology, pf, vf, bdf, ari)?;
    }
    let mut first = bars::probe(function, at + offset::BARS, 6)?;
    first.retain(|bar| bar.kind.is_memory());
    place_all(access, topology, pf, count, &mut first)?;
    for bar in &first {
        bars::place(function, at + offset::BARS, bar);
    }
    let control = control.with_memory(true).with_enable(true);
    function.write_u16(at + offset::CONTROL, control.into_bits());
    access.wait(START);
    let vendor = function.read_u16(header::offset::ID);
    (0..)
        .zip(vfs)
        .map(|(vf, bdf)| {
            let own = Function::new(access, bdf);
            if !own.answers() {
                function.write_u16(at + offset::CONTROL, 0);
                return Err(Why::Absent);
            }
            // By the specification a VF has no memory bit and needs none; QEMU's decode nothing without it.
            own.enable_memory();
            let bars = first.iter().map(|&bar| vf_bar(bar, vf)).collect::<Result<_, _>>()?;
            Ok(VirtualFunction { bdf, vendor, device: sriov.vf_device, bars })
        })
        .collect()
}

/// Lets the port before `pf` pass on device numbers above 0, if both can; true if so.
fn forward_ari<A: ConfigAccess + ?Sized>(
    access: &A,
    topology: &Topology,
    pf: Bdf,
) -> Result<bool, Why> {
    if find_extended(&Function::new(access, pf), extended_id::ARI)?.is_none() {
        return Ok(false);
    }
    let Some((bridge, _)) = topology.bridges(pf).next() else { return Ok(false) };
    let port = Function::new(access, bridge);
    let Some(capability) = find(&port, id::EXPRESS)? else { return Ok(false) };
    let at = u16::from(capability.offset);
    let register = port.read_u32(at + express::offset::DEVICE_CAPABILITIES_2);
    // A capability of version 1 ends before these registers.
    if capability.len < 0x3C || !DeviceCapabilities2::from_bits(register).ari_forwarding() {
        return Ok(false);
    }
    let at = at + express::offset::DEVICE_CONTROL_2;
    let control = DeviceControl2::from_bits(port.read_u16(at));
    port.write_u16(at, control.with_ari_forwarding(true).into_bits());
    Ok(true)
}

/// Whether requests reach VF `vf`, which lies at `bdf`.
fn check_bus(topology: &Topology, pf: Bdf, vf: u16, bdf: Bdf, ari: bool) -> Result<(), Why> {
    let nearest = topology.bridges(pf).next();
    if bdf.bus() == pf.bus() {
        return match nearest {
            // The port's own bus: without ARI it passes on device 0 alone.
            Some((bridge, _)) if !ari && bdf.device() != 0 => Err(Why::NoAri { vf, bridge }),
            _ => Ok(()),
        };
    }
    let bus = bdf.bus();
    for (bridge, behind) in topology.bridges(pf) {
        if !behind.buses().contains(&bus) {
            return Err(Why::NoBus { vf, bus, bridge, last: behind.subordinate });
        }
    }
    // Bridges beside or behind the PF must not have that bus.
    let on_the_way = |bridge: Bdf| topology.bridges(pf).any(|(other, _)| other == bridge);
    let taken = topology.functions.iter().any(|found| {
        found.bdf.segment == pf.segment
            && !on_the_way(found.bdf)
            && found.bridge.is_some_and(|other| other.buses().contains(&bus))
    });
    let inhabited =
        topology.functions.iter().any(|f| f.bdf.segment == pf.segment && f.bdf.bus() == bus);
    if taken || inhabited { Err(Why::BusTaken { vf, bus }) } else { Ok(()) }
}

/// Finds places for the BARs that have none.
fn place_all<A: ConfigAccess + ?Sized>(
    access: &A,
    topology: &Topology,
    pf: Bdf,
    count: u16,
    first: &mut [Bar],
) -> Result<(), Why> {
    let bytes = |bar: &Bar| bar.size.saturating_mul(count.into());
    let span = |bar: &Bar| (bar.address, bar.address.saturating_add(bytes(bar) - 1));
    if first.iter().all(|bar| bar.address != 0) {
        return Ok(());
    }
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for sibling in topology.siblings(pf) {
        let function = Function::new(access, sibling.bdf);
        let windows = sibling.bridge.iter().flat_map(|b| [b.memory, b.prefetchable]).flatten();
        taken.extend(windows);
        let own = bars::read(function)?;
        taken.extend(
            own.iter()
                .filter(|bar| bar.address != 0)
                .map(|b| (b.address, b.address + (b.size - 1))),
        );
    }
    taken.extend(first.iter().filter(|bar| bar.address != 0).map(span));
    let bridge = topology.bridges(pf).next().map(|(_, bridge)| bridge);
    for bar in first.iter_mut().filter(|bar| bar.address == 0) {
        let none = Why::NoRoom { index: bar.index, bytes: bytes(bar) };
        let at = windows(bridge.as_ref(), bar)
            .into_iter()
            .flatten()
            .find_map(|window| gap(window, &taken, bytes(bar), bar.size.max(PAGE)));
        bar.address = at.ok_or(none)?;
        taken.push(span(bar));
    }
    Ok(())
}

/// The windows of the bridge that `bar` may lie in. On a root bus nothing says what is free.
fn windows(bridge: Option<&Bridge>, bar: &Bar) -> [Option<(u64, u64)>; 2] {
    use arch_defs::pci::BarKind::{Io, Memory32, Memory64};
    let Some(bridge) = bridge else { return [None; 2] };
    let below_4g = |window: (u64, u64)| window.1 < 1 << 32;
    match bar.kind {
        Memory64 { prefetchable: true } => [bridge.prefetchable, bridge.memory],
        Memory32 { prefetchable: true } => {
            [bridge.prefetchable.filter(|&w| below_4g(w)), bridge.memory]
        }
        Memory64 { .. } | Memory32 { .. } => [bridge.memory, None],
        Io => [None; 2],
    }
}
