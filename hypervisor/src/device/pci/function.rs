//! An assigned function's configuration space and memory as its guest sees them.
//!
//! An allow-list: ids, class, BARs, and of the capabilities power management, PCI Express, MSI and MSI-X, each rebuilt
//! here. All else reads as 0, and the list leads around it. The guest's writes reach the hardware by [`Action`]s alone.
//!
//! | register | guest's writes |
//! |---|---|
//! | command | bus master and interrupt disable go to the hardware; memory is remembered (the hardware's decoding stays on but for resets, since an access without an answer can stop a machine); I/O stays 0 |
//! | cache line size, interrupt line | remembered |
//! | BARs | sized, not moved |
//! | power state | remembered |
//! | device control | remembered; a function reset begins one, and until it is through the guest meets nobody |
//! | MSI, MSI-X | see there |

use super::action::{Action, Actions};
use super::bars::{self, Region, VirtualBar};
use super::description::Description;
use super::messages::{Source, Vcpus};
use super::msi::MsiModel;
use super::msix::MsixModel;
use crate::device::ioapic;
use alloc::vec::Vec;
use arch::pci::Width;
use arch_defs::pci::capability::id;
use arch_defs::pci::express::{self, DeviceCapabilities, DeviceControl, PowerControl};
use arch_defs::pci::header::{Command, STATUS_CAPABILITIES, offset};
use arch_defs::pci::{Bdf, Pin, msi, msix};
use arrayvec::ArrayVec;
use guest_loader::layout::PAGE;

/// Device control after a reset: relaxed ordering, no-snoop, reads of 512 bytes.
const DEVICE_CONTROL: u16 = 0x2810;
/// Power management, version 3, without PME.
const POWER: u16 = 3;
const LAST_BAR: u16 = offset::BARS + 5 * 4;

/// A function in its guest.
#[derive(Clone, Debug)]
pub struct Function {
    real: Description,
    bars: Vec<VirtualBar>,
    /// The guest's capabilities: id, byte offset, bytes; in ascending order of offsets.
    list: ArrayVec<(u8, u16, u16), 4>,
    registers: Registers,
    msi: Option<MsiModel>,
    msix: Option<MsixModel>,
}

/// Registers that only remember.
#[derive(Clone, Copy, Debug)]
struct Registers {
    command: Command,
    cache_line: u8,
    interrupt_line: u8,
    power: u8,
    device_control: u16,
    /// The hardware's pin may speak.
    intx: bool,
}

impl Registers {
    const RESET: Self = Self {
        command: Command::new(),
        cache_line: 0,
        interrupt_line: 0,
        power: 0,
        device_control: DEVICE_CONTROL,
        intx: false,
    };
}

/// What a read of a function's memory gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryRead {
    /// This.
    Value(u64),
    /// What the hardware says.
    Forward,
}

/// What an access to a function's memory meets.
enum Meets {
    /// The MSI-X table, at a byte offset in it.
    Table(u64),
    /// Nothing that may be accessed so.
    Nothing,
    /// The device.
    Device,
}

/// The bytes of a dword that an access at `offset` sees.
pub const fn part(dword: u32, offset: u16, width: Width) -> u32 {
    dword >> (offset % 4 * 8) & lanes(width)
}

const fn lanes(width: Width) -> u32 {
    match width {
        Width::Byte => 0xFF,
        Width::Word => 0xFFFF,
        Width::Dword | Width::Qword => u32::MAX,
    }
}

impl Function {
    /// A function as after a reset. [`super::Bus::new`] places its BARs.
    pub fn new(real: Description) -> Self {
        let msi = real.msi.map(|(at, control)| MsiModel::new(at.offset, control));
        let msix = real.msix.map(MsixModel::new);
        let mut list = ArrayVec::new();
        for (id, capability) in [(id::POWER, real.power), (id::EXPRESS, real.express)] {
            list.extend(capability.map(|c| (id, u16::from(c.offset), u16::from(c.len))));
        }
        list.extend(msi.as_ref().map(|msi| (id::MSI, msi.offset(), msi.size())));
        list.extend(msix.as_ref().map(|msix| (id::MSIX, msix.offset(), 12)));
        list.sort_unstable_by_key(|&(_, offset, _)| offset);
        let bars = real.bars.iter().map(|&bar| VirtualBar::new(bar)).collect();
        Self { real, bars, list, registers: Registers::RESET, msi, msix }
    }

    /// Which one it is on the machine.
    pub const fn name(&self) -> Bdf {
        self.real.name
    }

    /// Where its interrupt pin leads, if it has one.
    pub const fn line(&self) -> Option<ioapic::Pin> {
        self.real.line
    }

    /// Its BARs, to place them.
    pub(super) fn bars_mut(&mut self) -> &mut [VirtualBar] {
        &mut self.bars
    }

    /// What to map for the guest, and what to leave unmapped.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.bars.iter().flat_map(|bar| {
            let table = self.msix.as_ref().filter(|m| m.layout().table.bar == bar.real.index);
            bars::regions(bar, table.map(|msix| msix.hole(PAGE)))
        })
    }

    /// As after a reset of the function; the hardware's is among the actions.
    pub fn reset(&mut self) -> Actions {
        self.registers = Registers::RESET;
        self.bars.iter_mut().for_each(VirtualBar::reset);
        if let Some(msi) = &mut self.msi {
            msi.reset();
        }
        if let Some(msix) = &mut self.msix {
            msix.reset();
        }
        let mut actions = Actions::from_iter([Action::Reset]);
        self.follow_intx(&mut actions);
        actions
    }

    /// Lets the hardware's pin speak or be silent: as the command register says, and silent while messages are on
    /// (PCI 3.0, section 6.8.2), also where a message that may not be sent keeps them off in the hardware.
    fn follow_intx(&mut self, actions: &mut Actions) {
        let enabled = |control: u16| msi::Control::from_bits(control).enable();
        let by_msi = self.msi.as_ref().is_some_and(|msi| enabled(msi.control()));
        let enabled = |control: u16| msix::Control::from_bits(control).enable();
        let by_msix = self.msix.as_ref().is_some_and(|msix| enabled(msix.control()));
        let silent = self.registers.command.no_intx() || by_msi || by_msix;
        let intx = self.real.line.is_some() && !silent;
        if self.registers.intx != intx {
            self.registers.intx = intx;
            actions.push(Action::Intx(intx));
        }
    }

    /// A route that one of its messages asked for does not stand, and the message is closed.
    pub fn route_failed(&mut self, source: Source) {
        match (source, &mut self.msi, &mut self.msix) {
            (Source::Msi, Some(msi), _) => msi.route_failed(),
            (Source::Msix(entry), _, Some(msix)) => msix.route_failed(entry),
            _ => {}
        }
    }

    /// A read at this offset is one of MSI's pending bits, which the hardware has.
    pub fn is_msi_pending(&self, offset: u16) -> bool {
        let Some(msi) = &self.msi else { return false };
        msi.pending().is_some_and(|at| msi.offset() + at == offset & !3)
    }

    /// The guest reads its configuration.
    pub fn config_read(&self, offset: u16, width: Width) -> u32 {
        part(self.dword(offset & !3), offset, width)
    }

    fn dword(&self, at: u16) -> u32 {
        let registers = &self.registers;
        match at {
            offset::ID => self.real.ids,
            offset::COMMAND => {
                let status = if self.list.is_empty() { 0 } else { STATUS_CAPABILITIES };
                u32::from(registers.command.into_bits()) | u32::from(status) << 16
            }
            offset::CLASS => self.real.class,
            // Header type 0, no other functions.
            0x0C => registers.cache_line.into(),
            offset::BARS..=LAST_BAR => {
                let register = ((at - offset::BARS) / 4) as u8;
                let find = |bar: &VirtualBar| bar.half(register).map(|half| bar.read(half));
                self.bars.iter().find_map(find).unwrap_or(0)
            }
            offset::SUBSYSTEM => self.real.subsystem,
            offset::CAPABILITIES => self.list.first().map_or(0, |&(_, offset, _)| offset.into()),
            offset::INTERRUPT => {
                // A device with one function has INTA (PCI 3.0, section 2.2.6).
                let pin = if self.real.line.is_some() { Pin::A.register() } else { 0 };
                u32::from(registers.interrupt_line) | u32::from(pin) << 8
            }
            _ => self.capability(at).map_or(0, |(index, at)| self.capability_dword(index, at)),
        }
    }

    /// The place in the list of the capability that has byte `at`, and the offset in it.
    fn capability(&self, at: u16) -> Option<(usize, u16)> {
        let inside = |&(_, offset, len): &(u8, u16, u16)| (offset..offset + len).contains(&at);
        let index = self.list.iter().position(inside)?;
        Some((index, at - self.list.get(index)?.1))
    }

    fn capability_dword(&self, index: usize, at: u16) -> u32 {
        let Some(&(id, _, len)) = self.list.get(index) else { return 0 };
        let next = self.list.get(index + 1).map_or(0, |&(_, offset, _)| offset);
        let head = |upper: u16| u32::from(id) | u32::from(next) << 8 | u32::from(upper) << 16;
        match (id, at) {
            (id::POWER, 0) => head(POWER),
            (id::POWER, express::POWER_CONTROL) => {
                let control = PowerControl::new().with_state(self.registers.power);
                control.with_no_soft_reset(true).into_bits().into()
            }
            (id::EXPRESS, 0) => {
                // Without a bridge before it, it is an endpoint of the root complex.
                let version = if len < 0x3C { 1 } else { 2 };
                let kind = express::Capabilities::new().with_version(version);
                head(kind.with_device_type(express::ROOT_COMPLEX_ENDPOINT).into_bits())
            }
            (id::EXPRESS, express::offset::DEVICE_CAPABILITIES) => DeviceCapabilities::new()
                .with_role_based_errors(true)
                .with_function_reset(self.real.resettable)
                .into_bits(),
            (id::EXPRESS, express::offset::DEVICE_CONTROL) => self.registers.device_control.into(),
            (id::MSI, 0) => head(self.msi.as_ref().map_or(0, MsiModel::control)),
            (id::MSI, at) => self.msi.as_ref().map_or(0, |msi| msi.read(at)),
            (id::MSIX, 0) => head(self.msix.as_ref().map_or(0, MsixModel::control)),
            (id::MSIX, at @ (msix::TABLE | msix::PENDING)) => {
                self.msix.as_ref().map_or(0, |msix| msix.place(at))
            }
            _ => 0,
        }
    }

    /// The guest writes its configuration. Only naturally aligned writes have a meaning.
    pub fn config_write(&mut self, at: u16, width: Width, value: u32, vcpus: &Vcpus) -> Actions {
        let mut actions = Actions::new();
        if u64::from(at).is_multiple_of(width.bytes()) {
            let shift = at % 4 * 8;
            let lanes = lanes(width) << shift;
            let dword = self.dword(at & !3) & !lanes | value << shift & lanes;
            self.write_dword(at & !3, dword, vcpus, &mut actions);
            self.follow_intx(&mut actions);
        }
        actions
    }

    fn write_dword(&mut self, at: u16, value: u32, vcpus: &Vcpus, actions: &mut Actions) {
        match at {
            offset::COMMAND => self.write_command(Command::from_bits(value as u16), actions),
            0x0C => self.registers.cache_line = value as u8,
            offset::BARS..=LAST_BAR => {
                let register = ((at - offset::BARS) / 4) as u8;
                for bar in &mut self.bars {
                    if let Some(half) = bar.half(register) {
                        bar.write(half, value, actions);
                    }
                }
            }
            offset::INTERRUPT => self.registers.interrupt_line = value as u8,
            _ => {
                if let Some((index, at)) = self.capability(at) {
                    self.write_capability(index, at, value, vcpus, actions);
                }
            }
        }
    }

    fn write_command(&mut self, wanted: Command, actions: &mut Actions) {
        let command = Command::new()
            .with_memory(wanted.memory())
            .with_bus_master(wanted.bus_master())
            .with_parity(wanted.parity())
            .with_serr(wanted.serr())
            .with_no_intx(wanted.no_intx());
        if command.bus_master() != self.registers.command.bus_master() {
            actions.push(Action::BusMaster(command.bus_master()));
        }
        self.registers.command = command;
    }

    fn write_capability(
        &mut self,
        index: usize,
        at: u16,
        value: u32,
        vcpus: &Vcpus,
        actions: &mut Actions,
    ) {
        let Some(&(id, ..)) = self.list.get(index) else { return };
        let upper = (value >> 16) as u16;
        match (id, at) {
            (id::POWER, express::POWER_CONTROL) => {
                self.registers.power = PowerControl::from_bits(value as u16).state();
            }
            (id::EXPRESS, express::offset::DEVICE_CONTROL) => {
                let control = DeviceControl::from_bits(value as u16);
                if control.reset_function() && self.real.resettable {
                    *actions = self.reset();
                } else {
                    self.registers.device_control = control.settings();
                }
            }
            (id::MSI, _) => {
                let Some(msi) = &mut self.msi else { return };
                match at {
                    0 => msi.write_control(upper, vcpus, actions),
                    at => msi.write(at, value, vcpus, actions),
                }
            }
            (id::MSIX, 0) => self.write_msix_control(upper, vcpus, actions),
            _ => {}
        }
    }

    /// MSI and MSI-X together are undefined (PCI 3.0, section 6.8.2): the hardware never sees both on, and MSI waits until
    /// MSI-X is off.
    fn write_msix_control(&mut self, value: u16, vcpus: &Vcpus, actions: &mut Actions) {
        let Some(msix) = &mut self.msix else { return };
        let on = msix::Control::from_bits(value).enable();
        let mut hold = |actions: &mut Actions| {
            if let Some(msi) = &mut self.msi {
                msi.hold(on, vcpus, actions);
            }
        };
        if on {
            hold(actions);
            msix.write_control(value, actions);
        } else {
            msix.write_control(value, actions);
            hold(actions);
        }
    }

    /// The BAR that holds a guest-physical address, and the byte offset in it.
    pub fn bar_at(&self, gpa: u64) -> Option<(u8, u64)> {
        self.bars.iter().find_map(|bar| {
            let offset = gpa.checked_sub(bar.guest)?;
            (offset < bar.real.size).then_some((bar.real.index, offset))
        })
    }

    fn meets(&self, bar: u8, offset: u64, width: Width, write: bool) -> Meets {
        let end = offset.saturating_add(width.bytes());
        let size = self.bars.iter().find(|b| b.real.index == bar).map_or(0, |b| b.real.size);
        if !offset.is_multiple_of(width.bytes()) || end > size {
            return Meets::Nothing;
        }
        let Some(msix) = &self.msix else { return Meets::Device };
        let touches = |in_bar: u8, span: &core::ops::Range<u64>| {
            in_bar == bar && offset < span.end && span.start < end
        };
        let (table, pending) = (msix.layout().table_span(), msix.layout().pending_span());
        if touches(msix.layout().table.bar, &table) {
            let inside = table.start <= offset && end <= table.end;
            return if inside { Meets::Table(offset - table.start) } else { Meets::Nothing };
        }
        // The pending bits are the device's to write.
        let read_only = write && touches(msix.layout().pending.bar, &pending);
        if read_only { Meets::Nothing } else { Meets::Device }
    }

    /// The guest reads memory of the function that is not mapped.
    pub fn memory_read(&self, bar: u8, offset: u64, width: Width) -> MemoryRead {
        match (self.meets(bar, offset, width, false), &self.msix) {
            (Meets::Table(at), Some(msix)) => MemoryRead::Value(msix.read(at, width)),
            (Meets::Device, _) => MemoryRead::Forward,
            _ => MemoryRead::Value(u64::MAX),
        }
    }

    /// The guest writes memory of the function that is not mapped.
    pub fn memory_write(
        &mut self,
        bar: u8,
        offset: u64,
        width: Width,
        value: u64,
        vcpus: &Vcpus,
    ) -> Actions {
        let mut actions = Actions::new();
        match (self.meets(bar, offset, width, true), &mut self.msix) {
            (Meets::Table(at), Some(msix)) => msix.write(at, width, value, vcpus, &mut actions),
            (Meets::Device, _) => actions.push(Action::Forward { bar, offset, width, value }),
            _ => {}
        }
        actions
    }
}
