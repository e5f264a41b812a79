//! The virtual IOAPIC: an 82093AA (version 0x20, 24 pins) that raises edges only.
//!
//! Called by the MMIO exit handler for the page at 0xFEC00000, and by devices with a line; the caller holds the VM's
//! device lock and hands each [`Message`] to `interrupt::post`. Source: Intel 82093AA data sheet; ICH9 data sheet
//! for the EOI register of version 0x20.
//!
//! *Edges only.* EOIs are direct, so nobody tells us when a level interrupt is over. A message is raised when a line
//! rises, and for a pin programmed as level the caller asks again ([`Ioapic::reassert`]) at each trapped access of
//! its device, when the pin is unmasked and at a write of the EOI register: whatever a handler left asserted comes
//! back then. Remote IRR therefore reads as 0; Linux waits for that before it moves an interrupt.
//!
//! *Pins of passed-through devices* are the machine's: their interrupts do not come by here, levels are levels there, and
//! the board puts the machine's Remote IRR into what the guest reads.
//!
//! *Edges while masked are lost*, as on the chip ("not delivered or held pending"). Linux relies on no more: its
//! edge handler keeps an interrupt that it masks away in its own pending flag, and re-triggers it with an IPI.
//!
//! *Polarity* is kept but has no effect: a line here is asserted or not, whatever its voltage would be.

#[cfg(test)]
mod tests;

use arch_defs::apic::{DeliveryMode, Destination, GuestVector, message_destination};
use bits::*;

pub use bits::REMOTE_IRR;

/// Number of pins.
pub const PINS: u8 = 24;

/// Layout of a redirection entry and of the registers.
mod bits {
    pub const SELECT: u16 = 0x00;
    pub const WINDOW: u16 = 0x10;
    pub const EOI: u16 = 0x40;

    pub const ID: u8 = 0x00;
    pub const VERSION: u8 = 0x01;
    pub const ARBITRATION: u8 = 0x02;
    pub const FIRST_ENTRY: u8 = 0x10;

    pub const LOGICAL: u64 = 1 << 11;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASK: u64 = 1 << 16;
    /// Vector, delivery mode, destination mode, polarity, trigger, mask, destination. Delivery status (12) and
    /// Remote IRR (14) are read only.
    pub const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;
    /// A level interrupt waits for its EOI.
    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const ID_WRITABLE: u32 = 0x0F00_0000;
}

/// A pin number, below [`PINS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(u8);

impl Pin {
    /// Checks a pin number.
    pub const fn new(number: u8) -> Option<Self> {
        if number < PINS { Some(Self(number)) } else { None }
    }

    /// The number, which is also the GSI.
    pub const fn number(self) -> u8 {
        self.0
    }

    const fn bit(self) -> u32 {
        // Below 24.
        1 << self.0
    }
}

/// A set of pins; iterates in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinSet(u32);

impl PinSet {
    /// No pin.
    pub const EMPTY: Self = Self(0);

    /// Whether no pin is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Iterator for PinSet {
    type Item = Pin;

    fn next(&mut self) -> Option<Pin> {
        let pin = Pin::new(u8::try_from(self.0.trailing_zeros()).ok()?)?;
        self.0 &= self.0 - 1;
        Some(pin)
    }
}

/// What a message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The vector, to every target.
    Fixed(GuestVector),
    /// The vector, to any one of the targets.
    LowestPriority(GuestVector),
    /// An NMI in the guest.
    Nmi,
}

/// An interrupt message to the guest's vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Message {
    /// What it does.
    pub delivery: Delivery,
    /// Destination field, eight bits as the chip has them.
    pub destination: u8,
    /// Logical rather than physical destination.
    pub logical: bool,
}

impl Message {
    /// The destination in the terms of [`arch_defs::apic::targets`]. `xapic`: the guest's APICs are in xAPIC state.
    pub const fn target(self, xapic: bool) -> Destination {
        message_destination(self.destination, self.logical, xapic)
    }
}

/// A redirection entry of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    const RESET: Self = Self(MASK);

    /// Whether the pin is masked.
    pub const fn is_masked(self) -> bool {
        self.0 & MASK != 0
    }

    /// Whether the guest programmed the pin as level-triggered.
    pub const fn is_level(self) -> bool {
        self.0 & LEVEL != 0
    }

    /// The message this entry stands for, masked or not. `None` for delivery modes that could reach beyond the
    /// guest (SMI, INIT, ExtINT, reserved) and for vectors below 16: those stay in the register without effect (S2).
    pub const fn message(self) -> Option<Message> {
        let vector = GuestVector::new(self.0 as u8);
        let delivery = match (DeliveryMode::from_bits((self.0 >> 8) as u8), vector) {
            (DeliveryMode::Fixed, Some(vector)) => Delivery::Fixed(vector),
            (DeliveryMode::LowestPriority, Some(vector)) => Delivery::LowestPriority(vector),
            (DeliveryMode::Nmi, _) => Delivery::Nmi,
            _ => return None,
        };
        Some(Message {
            delivery,
            destination: (self.0 >> 56) as u8,
            logical: self.0 & LOGICAL != 0,
        })
    }
}

/// A pin of a passed-through device was programmed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinChanged {
    /// The pin.
    pub pin: Pin,
    /// Its new entry.
    pub entry: Entry,
}

/// What a guest's write leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// The real pin behind this one has to follow.
    pub changed: Option<PinChanged>,
    /// Level pins to call [`Ioapic::reassert`] for.
    pub reassert: PinSet,
    /// Level pins of passed-through devices whose interrupt the guest has ended by the EOI register.
    pub ended: PinSet,
}

impl Written {
    const NOTHING: Self = Self { changed: None, reassert: PinSet::EMPTY, ended: PinSet::EMPTY };

    /// Whether the write was over when the register had its value, as nearly all are.
    #[inline]
    pub const fn is_nothing(&self) -> bool {
        self.changed.is_none() && self.reassert.is_empty() && self.ended.is_empty()
    }
}

/// The IOAPIC.
#[derive(Debug)]
pub struct Ioapic {
    select: u8,
    id: u32,
    entries: [Entry; PINS as usize],
    /// Lines asserted by virtual devices, bit `n` for pin `n`.
    lines: u32,
    /// Pins that belong to passed-through devices.
    passed_through: u32,
}

impl Ioapic {
    /// As after a reset: everything masked. `passed_through` has a bit for each pin whose device is real.
    pub const fn new(passed_through: u32) -> Self {
        let entries = [Entry::RESET; PINS as usize];
        Self { select: 0, id: 0, entries, lines: 0, passed_through }
    }

    /// The entry of a pin.
    pub fn entry(&self, pin: Pin) -> Entry {
        self.entries.get(usize::from(pin.0)).copied().unwrap_or(Entry::RESET)
    }

    /// A guest's 32-bit read at a byte offset of the page; 0 where there is no register.
    pub fn read(&self, offset: u16) -> u32 {
        match offset {
            SELECT => self.select.into(),
            WINDOW => match self.select {
                ID | ARBITRATION => self.id,
                VERSION => 0x20 | u32::from(PINS - 1) << 16,
                index => match self.selected_entry(index) {
                    Some((pin, false)) => self.entry(pin).0 as u32,
                    Some((pin, true)) => (self.entry(pin).0 >> 32) as u32,
                    None => 0,
                },
            },
            _ => 0,
        }
    }

    /// A guest's 32-bit write at a byte offset of the page.
    pub fn write(&mut self, offset: u16, value: u32) -> Written {
        match offset {
            SELECT => self.select = value as u8,
            WINDOW if self.select == ID => self.id = value & ID_WRITABLE,
            WINDOW => {
                if let Some((pin, high)) = self.selected_entry(self.select) {
                    return self.write_entry(pin, high, value);
                }
            }
            EOI => {
                let (reassert, ended) = (
                    self.levels(self.lines, value as u8),
                    self.levels(self.passed_through, value as u8),
                );
                return Written { changed: None, reassert, ended };
            }
            _ => {}
        }
        Written::NOTHING
    }

    /// A virtual device's line. A message when it rises and the pin is not masked.
    #[must_use]
    pub fn set_line(&mut self, pin: Pin, asserted: bool) -> Option<Message> {
        let before = self.lines;
        if asserted {
            self.lines |= pin.bit();
        } else {
            self.lines &= !pin.bit();
        }
        // A masked edge is lost; a masked level is still in `lines` when the mask goes.
        if before & pin.bit() == 0 && asserted { self.raise(pin) } else { None }
    }

    /// A message once more, for a level pin whose line is still asserted.
    #[must_use]
    pub fn reassert(&self, pin: Pin) -> Option<Message> {
        let again = self.lines & pin.bit() != 0 && self.entry(pin).is_level();
        if again { self.raise(pin) } else { None }
    }

    fn raise(&self, pin: Pin) -> Option<Message> {
        let entry = self.entry(pin);
        // The interrupts of a real device come by themselves.
        if entry.is_masked() || self.passed_through & pin.bit() != 0 {
            None
        } else {
            entry.message()
        }
    }

    /// Which half (true: high) of which entry a register index means.
    const fn selected_entry(&self, index: u8) -> Option<(Pin, bool)> {
        match index.checked_sub(FIRST_ENTRY) {
            Some(half) => match Pin::new(half / 2) {
                Some(pin) => Some((pin, half & 1 != 0)),
                None => None,
            },
            None => None,
        }
    }

    fn write_entry(&mut self, pin: Pin, high: bool, value: u32) -> Written {
        let old = self.entry(pin);
        let new = if high {
            old.0 & 0xFFFF_FFFF | u64::from(value) << 32
        } else {
            old.0 & !0xFFFF_FFFF | u64::from(value)
        };
        let new = Entry(new & WRITABLE);
        if let Some(entry) = self.entries.get_mut(usize::from(pin.0)) {
            *entry = new;
        }
        if self.passed_through & pin.bit() != 0 {
            let changed = (new != old).then_some(PinChanged { pin, entry: new });
            return Written { changed, ..Written::NOTHING };
        }
        // A level that rose under the mask shows now; so does one whose pin was an edge pin until now.
        let opened = !new.is_masked() && new.is_level() && (old.is_masked() || !old.is_level());
        let reassert = if opened { PinSet(pin.bit() & self.lines) } else { PinSet::EMPTY };
        Written { reassert, ..Written::NOTHING }
    }

    /// The passed-through pin whose low half the guest sees in the window: its Remote IRR is the hardware's.
    pub fn shown(&self, offset: u16) -> Option<Pin> {
        let (pin, high) = self.selected_entry(self.select).filter(|_| offset == WINDOW)?;
        (!high && self.passed_through & pin.bit() != 0).then_some(pin)
    }

    /// Those of some pins that are level pins with this vector, whose EOI the guest writes here.
    fn levels(&self, among: u32, vector: u8) -> PinSet {
        let mut pins = PinSet::EMPTY;
        for pin in PinSet(among) {
            let entry = self.entry(pin);
            if entry.is_level() && entry.0 as u8 == vector {
                pins.0 |= pin.bit();
            }
        }
        pins
    }
}
