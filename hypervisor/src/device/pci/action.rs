//! What a guest's write to a function leads to, and the door to those who do it.
//!
//! The models return [`Actions`]; [`carry_out`] hands them to a [`Backing`] in their order, which matters: a message is
//! routed before it is opened, and closed before it is blocked. One that cannot be routed stays closed.

use super::function::Function;
use super::messages::{Block, Source};
use crate::rate_limit;
use arch::iommu;
use arch::pci::Width;
use arch_defs::apic::GuestVector;
use arch_defs::pci::{Bdf, MessageRefused};
use arrayvec::ArrayVec;
use core::fmt;

/// Where an entry of the MSI-X table goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiRoute {
    /// Entry of the table.
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
    /// Point the remapping entry of an MSI-X entry at a vCPU.
    Route(MsiRoute),
    /// Point the remapping entries of MSI at a vCPU; those that the block leaves out deliver nothing.
    RouteMsi(Block),
    /// Let the remapping entries of a source deliver nothing.
    Block(Source),
    /// Set or clear an entry's mask bit in the hardware's MSI-X table.
    Mask {
        /// Entry of the table.
        entry: u16,
        /// Set it.
        masked: bool,
    },
    /// MSI's mask register, where there is one.
    MsiMask(u32),
    /// MSI's enable bit and number of messages.
    MsiControl {
        /// Send messages.
        enable: bool,
        /// 1 shifted by this many of them.
        order: u8,
    },
    /// MSI-X's enable and function mask bits.
    MsixControl {
        /// Send messages.
        enable: bool,
        /// All entries are masked.
        function_mask: bool,
    },
    /// The bus master bit of the command register.
    BusMaster(bool),
    /// Whether the interrupt pin may speak: the interrupt disable bit of the command register, the other way round.
    Intx(bool),
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
    /// Begin a reset of the function; at its end the hardware table has the messages of the remapping entries anew, all
    /// masked.
    Reset,
    /// Nothing to do, something to say.
    Report(Report),
}

/// Something a guest tried that was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A message that may not be sent: it is blocked.
    Message {
        /// Which.
        source: Source,
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
/// a word about it; or MSI masked, switched off, routed, opened and on again.
pub type Actions = ArrayVec<Action, 8>;

/// Why a message has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// There is no such message, or no such vCPU.
    NoSuch,
    /// Nobody remaps here.
    NoIommu,
    /// Without an IOMMU a message reaches APIC ids below 255.
    FarCore,
    /// What the IOMMU says.
    Iommu(iommu::Error),
}

impl From<iommu::Error> for RouteError {
    fn from(why: iommu::Error) -> Self {
        Self::Iommu(why)
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuch => f.write_str("the function or the VM has no such thing"),
            Self::NoIommu => f.write_str("this machine has no IOMMU"),
            Self::FarCore => f.write_str(
                "without an IOMMU it does not reach a core whose APIC id is 255 or more",
            ),
            Self::Iommu(why) => why.fmt(f),
        }
    }
}

/// Whether a function may be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It may.
    Ready,
    /// It is being reset: to its guest nobody is there.
    Resetting,
    /// It did not come back from a reset.
    Lost,
}

/// The hardware behind a function: `arch::pci` for its registers, the IOMMU for its messages. Only a route may fail:
/// what else cannot be done silences the function, and says so in the log.
pub trait Backing {
    /// [`Action::Route`].
    ///
    /// # Errors
    /// Why not: the message may still go by its old route, or by none.
    fn route(&mut self, route: MsiRoute) -> Result<(), RouteError>;
    /// [`Action::RouteMsi`].
    ///
    /// # Errors
    /// As [`Backing::route`].
    fn route_msi(&mut self, block: Block) -> Result<(), RouteError>;
    /// [`Action::Block`].
    fn block(&mut self, source: Source);
    /// [`Action::Mask`].
    fn mask(&mut self, entry: u16, masked: bool);
    /// [`Action::MsiMask`].
    fn msi_mask(&mut self, masks: u32);
    /// MSI's pending bits, where there are some.
    fn msi_pending(&self) -> u32;
    /// [`Action::MsiControl`].
    fn msi_control(&mut self, enable: bool, order: u8);
    /// [`Action::MsixControl`].
    fn msix_control(&mut self, enable: bool, function_mask: bool);
    /// [`Action::BusMaster`].
    fn bus_master(&mut self, on: bool);
    /// [`Action::Intx`]. Also right behind [`Action::Reset`]: kept until the function is back.
    fn intx(&mut self, on: bool);
    /// Whether the function asks for an interrupt by its pin, silent or not.
    fn asks_by_pin(&self) -> bool;
    /// Reads the function's own memory.
    fn read(&mut self, bar: u8, offset: u64, width: Width) -> u64;
    /// [`Action::Forward`].
    fn write(&mut self, bar: u8, offset: u64, width: Width, value: u64);
    /// [`Action::Reset`]. Silences the function at once and begins; nothing is waited for.
    fn reset(&mut self);
    /// Takes the next step of a reset under way if it is due. Before every other call but [`Backing::reset`] and
    /// [`Backing::intx`] behind it; only a function that is [`Presence::Ready`] gets them.
    fn presence(&mut self) -> Presence;
}

/// Has `backing` do all of `actions`, which came from `function`.
pub fn carry_out(function: &mut Function, actions: Actions, backing: &mut (impl Backing + ?Sized)) {
    // What has no route must not be opened by what follows.
    let mut failed: ArrayVec<Source, 8> = ArrayVec::new();
    for action in actions {
        match action {
            Action::Route(route) => {
                if let Err(why) = backing.route(route) {
                    let source = Source::Msix(route.entry);
                    failed.push(source);
                    keep_closed(function, source, why, backing);
                }
            }
            Action::RouteMsi(block) => {
                if let Err(why) = backing.route_msi(block) {
                    failed.push(Source::Msi);
                    keep_closed(function, Source::Msi, why, backing);
                }
            }
            Action::Block(source) => backing.block(source),
            Action::Mask { entry, masked } => {
                if masked || !failed.contains(&Source::Msix(entry)) {
                    backing.mask(entry, masked);
                }
            }
            Action::MsiMask(masks) => backing.msi_mask(masks),
            Action::MsiControl { enable, order } => {
                if !enable || !failed.contains(&Source::Msi) {
                    backing.msi_control(enable, order);
                }
            }
            Action::MsixControl { enable, function_mask } => {
                backing.msix_control(enable, function_mask);
            }
            Action::BusMaster(on) => backing.bus_master(on),
            Action::Intx(on) => backing.intx(on),
            Action::Forward { bar, offset, width, value } => {
                backing.write(bar, offset, width, value);
            }
            Action::Reset => backing.reset(),
            Action::Report(report) => say(function.name(), report),
        }
    }
}

/// A message without a route: the old one may still stand, so the function may not send it (requirement B2). The guest's
/// next change of it tries again.
#[cold]
fn keep_closed(
    function: &mut Function,
    source: Source,
    why: RouteError,
    backing: &mut (impl Backing + ?Sized),
) {
    match source {
        Source::Msi => backing.msi_control(false, 0),
        Source::Msix(entry) => backing.mask(entry, true),
    }
    backing.block(source);
    function.route_failed(source);
    if rate_limit::PCI.allow() {
        log::error!("PCI {}: {source} cannot be routed and stays masked: {why}", function.name());
    }
}

#[cold]
fn say(function: Bdf, report: Report) {
    if !rate_limit::PCI.allow() {
        return;
    }
    match report {
        Report::Message { source, why } => {
            log::warn!("PCI {function}: {source} is blocked: {why}");
        }
        Report::BarMoved { bar, to } => {
            log::warn!(
                "PCI {function}: BAR {bar} stays where it is, its guest wanted it at {to:#x}"
            );
        }
    }
}
