//! What a guest's write to a function leads to, and the door to those who do it.
//!
//! The models return [`Actions`]; [`carry_out`] hands them to a [`Backing`] in their order, which matters: an entry is
//! routed before it is opened, and closed before it is blocked.

use crate::rate_limit;
use arch::pci::Width;
use arch_defs::apic::GuestVector;
use arch_defs::pci::{Bdf, MessageRefused};
use arrayvec::ArrayVec;

/// Where an interrupt of a function goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRoute {
    /// Entry of the MSI-X table; 0 for MSI.
    pub entry: u16,
    /// The vector, which is the guest's own.
    pub vector: GuestVector,
    /// The vCPU, by its number in the VM.
    pub vcpu: u32,
}

/// One thing to do. The hardware's registers follow the guest's wishes by these alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Point the entry's remapping entry at a vCPU.
    Route(MsiRoute),
    /// Let the entry's remapping entry deliver nothing.
    Block {
        /// Entry of the table.
        entry: u16,
    },
    /// Set or clear the entry's mask bit in the hardware's table (or MSI's mask register).
    Mask {
        /// Entry of the table.
        entry: u16,
        /// Set it.
        masked: bool,
    },
    /// MSI's enable bit.
    MsiEnable(bool),
    /// MSI-X's enable and function mask bits.
    MsixControl {
        /// Send messages.
        enable: bool,
        /// All entries are masked.
        function_mask: bool,
    },
    /// The bus master bit of the command register.
    BusMaster(bool),
    /// A write to the function's own memory.
    Forward {
        /// The BAR.
        bar: u8,
        /// Byte offset in it.
        offset: u64,
        /// How wide.
        width: Width,
        /// What.
        value: u64,
    },
    /// Reset the function, and give its hardware table the messages of its remapping entries anew, all masked.
    Reset,
    /// Nothing to do, something to say.
    Report(Report),
}

/// Something a guest tried that was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A message that may not be sent: its entry is blocked.
    Message {
        /// Entry of the table.
        entry: u16,
        /// Why.
        why: MessageRefused,
    },
    /// A BAR that stays where it is; said once for each.
    BarMoved {
        /// The BAR.
        bar: u8,
        /// Where the guest wanted it.
        to: u64,
    },
}

/// What one write leads to: at most two dwords of a table, each an entry routed and opened or closed and blocked, and
/// a word about it.
pub type Actions = ArrayVec<Action, 8>;

/// The hardware behind a function: `arch::pci` for its registers, the IOMMU for its messages. No call may fail: what
/// cannot be done blocks the entry or silences the function, and says so in the log.
pub trait Backing {
    /// [`Action::Route`].
    fn route(&mut self, route: MsiRoute);
    /// [`Action::Block`].
    fn block(&mut self, entry: u16);
    /// [`Action::Mask`].
    fn mask(&mut self, entry: u16, masked: bool);
    /// [`Action::MsiEnable`].
    fn msi_enable(&mut self, enable: bool);
    /// [`Action::MsixControl`].
    fn msix_control(&mut self, enable: bool, function_mask: bool);
    /// [`Action::BusMaster`].
    fn bus_master(&mut self, on: bool);
    /// Reads the function's own memory.
    fn read(&mut self, bar: u8, offset: u64, width: Width) -> u64;
    /// [`Action::Forward`].
    fn write(&mut self, bar: u8, offset: u64, width: Width, value: u64);
    /// [`Action::Reset`].
    fn reset(&mut self);
}

/// Has `backing` do all of `actions`.
pub fn carry_out(function: Bdf, actions: Actions, backing: &mut (impl Backing + ?Sized)) {
    for action in actions {
        match action {
            Action::Route(route) => backing.route(route),
            Action::Block { entry } => backing.block(entry),
            Action::Mask { entry, masked } => backing.mask(entry, masked),
            Action::MsiEnable(enable) => backing.msi_enable(enable),
            Action::MsixControl { enable, function_mask } => {
                backing.msix_control(enable, function_mask);
            }
            Action::BusMaster(on) => backing.bus_master(on),
            Action::Forward { bar, offset, width, value } => {
                backing.write(bar, offset, width, value);
            }
            Action::Reset => backing.reset(),
            Action::Report(report) => say(function, report),
        }
    }
}

#[cold]
fn say(function: Bdf, report: Report) {
    if !rate_limit::PCI.allow() {
        return;
    }
    match report {
        Report::Message { entry, why } => {
            log::warn!("PCI {function}: message {entry} is blocked: {why}");
        }
        Report::BarMoved { bar, to } => {
            log::warn!(
                "PCI {function}: BAR {bar} stays where it is, its guest wanted it at {to:#x}"
            );
        }
    }
}
