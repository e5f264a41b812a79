//! The bus as Linux finds it, a card with everything on it, and hostile guests.

extern crate std;

mod bus;
mod functions;
mod hostile;
mod intx;
mod messages;
mod msi;
mod unroutable;

use super::messages::RawMessage;
use super::*;
use arch_defs::apic::{GuestVector, XapicLogical};
use arch_defs::pci::{Bar, BarKind};
use arrayvec::ArrayVec;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// Two vCPUs in x2APIC state.
fn vcpus() -> Vcpus {
    Vcpus { logical: ArrayVec::from_iter([XapicLogical::RESET; 2]), xapic: false }
}

fn bar(index: u8, address: u64, size: u64) -> Bar {
    Bar { index, kind: BarKind::Memory32 { prefetchable: false }, address, size }
}

/// A card with power management, MSI, a vendor's capability, MSI-X and PCI Express; registers of its own at 0x90, and
/// extended capabilities. The table has 5 entries at 0x1800 of BAR 3, its pending bits follow in the same page.
fn card() -> Vec<u32> {
    let mut space = std::vec![0_u32; 1024];
    let mut put = |at: usize, values: &[u32]| {
        space[at / 4..at / 4 + values.len()].copy_from_slice(values);
    };
    put(0, &[0x10CA_8086, 0x0010_0007, 0x0200_0001, 0x0000_0010]);
    put(0x2C, &[0xA03C_8086, 0xFEA0_0000, 0x40, 0, 0x010B]);
    put(0x40, &[0xC823_5001, 0x2008]);
    put(0x50, &[0x0180_6805, 0xFEE0_0000, 0, 0x4041]);
    put(0x68, &[0x0010_7009, 0x5555_5555]);
    put(0x70, &[0x0004_A011, 0x1803, 0x1853]);
    put(0x90, &[0x6666_6666]);
    put(0xA0, &[0x0002_0010, 0x1000_8CC2, 0x2810, 0x3C11]);
    put(0x100, &[0x0001_0001, 0x7777_7777]);
    space
}

fn description() -> Description {
    let bars = [bar(0, 0xFE80_0000, 0x2_0000), bar(3, 0xFE82_0000, 0x4000)];
    Description::read("0000:03:00.0".parse().unwrap(), &card()[..], &bars, None, true).unwrap()
}

fn function() -> Function {
    Function::new(description())
}

/// A backing that remembers what was asked of it.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    actions: Vec<Action>,
    /// No route can be programmed.
    fails: bool,
    /// MSI's pending bits.
    pending: u32,
    /// Other than that it may be spoken to.
    presence: Option<Presence>,
}

impl Recorder {
    fn take(&self) -> Vec<Action> {
        core::mem::take(&mut self.0.lock().unwrap().actions)
    }

    fn set_presence(&self, presence: Presence) {
        self.0.lock().unwrap().presence = Some(presence);
    }

    fn push(&self, action: Action) {
        self.0.lock().unwrap().actions.push(action);
    }

    fn fail(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }

    fn routed(&self) -> Result<(), RouteError> {
        if self.0.lock().unwrap().fails {
            Err(arch::iommu::Error::Dead { unit: 0xFED9_0000 }.into())
        } else {
            Ok(())
        }
    }
}

impl Backing for Recorder {
    fn route(&mut self, route: MsiRoute) -> Result<(), RouteError> {
        self.push(Action::Route(route));
        self.routed()
    }
    fn route_msi(&mut self, block: Block) -> Result<(), RouteError> {
        self.push(Action::RouteMsi(block));
        self.routed()
    }
    fn block(&mut self, source: Source) {
        self.push(Action::Block(source));
    }
    fn mask(&mut self, entry: u16, masked: bool) {
        self.push(Action::Mask { entry, masked });
    }
    fn msi_mask(&mut self, masks: u32) {
        self.push(Action::MsiMask(masks));
    }
    fn msi_pending(&self) -> u32 {
        self.0.lock().unwrap().pending
    }
    fn msi_control(&mut self, enable: bool, order: u8) {
        self.push(Action::MsiControl { enable, order });
    }
    fn msix_control(&mut self, enable: bool, function_mask: bool) {
        self.push(Action::MsixControl { enable, function_mask });
    }
    fn bus_master(&mut self, on: bool) {
        self.push(Action::BusMaster(on));
    }
    fn intx(&mut self, on: bool) {
        self.push(Action::Intx(on));
    }
    fn asks_by_pin(&self) -> bool {
        true
    }
    fn read(&mut self, bar: u8, offset: u64, _width: Width) -> u64 {
        u64::from(bar) << 32 | offset
    }
    fn write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        self.push(Action::Forward { bar, offset, width, value });
    }
    fn reset(&mut self) {
        self.push(Action::Reset);
    }
    fn presence(&mut self) -> Presence {
        self.0.lock().unwrap().presence.unwrap_or(Presence::Ready)
    }
}

/// A bus with one card, and what its hardware is asked.
fn bus() -> (Bus, Recorder) {
    let recorder = Recorder::default();
    let slot = Slot { function: function(), backing: Box::new(recorder.clone()) };
    (Bus::new(std::vec![slot]).unwrap(), recorder)
}
