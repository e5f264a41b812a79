//! Messages that a guest's device must not send (S2), for tests of message-signalled interrupts. SDM 3A 11.11; VT-d specification, 5.1.

use crate::runtime::pci::Message;
use crate::runtime::smp;

/// A legal vector.
pub const VECTOR: u8 = 0x6B;

/// Data of a message: delivery mode, level trigger, asserted.
const MODE: u32 = 8;
const LEVEL: u32 = 1 << 15;
const ASSERTED: u32 = 1 << 14;

/// Bits of the address: logical destination, any one CPU of it, remappable format.
pub const LOGICAL: u64 = 1 << 2;
pub const ANY: u64 = 1 << 3;
const REMAPPABLE: u64 = 1 << 4;

/// Vectors that an APIC takes from nobody, to both CPUs.
pub fn illegal_vectors() -> impl Iterator<Item = Message> {
    (0..16).flat_map(|vector| (0..2).map(move |target| Message::to(target, vector)))
}

/// SMI, NMI, INIT, ExtINT and the reserved modes, with any trigger, to each CPU and to all.
pub fn dangerous_modes() -> impl Iterator<Item = Message> {
    let data = (2..8).flat_map(|mode| [0, LEVEL, LEVEL | ASSERTED].map(|t| mode << MODE | t));
    let to = [(0, 0), (0, VECTOR), (1, 0), (1, VECTOR), (255, VECTOR)];
    data.flat_map(move |bits| {
        to.map(|(target, vector)| {
            let message = Message::to(target, vector);
            Message { data: message.data | bits, ..message }
        })
    })
}

/// Ids of CPUs that this machine has not, and logical ids of such.
pub fn foreign_destinations() -> impl Iterator<Item = Message> {
    let first = smp::count();
    // 255 is everybody.
    let physical = (first..255).map(|id| Message::to(id, VECTOR));
    let logical = [1 << first, 0x80, 0xF0].into_iter().flat_map(|bits| {
        let message = Message::to(bits, VECTOR);
        [LOGICAL, LOGICAL | ANY].map(|more| Message { address: message.address | more, ..message })
    });
    physical.chain(logical)
}

/// Entries of the hypervisor for the taking, extended ids, other windows, the upper half of an address.
pub fn odd_addresses() -> impl Iterator<Item = Message> {
    let Message { address, data } = Message::to(0, VECTOR);
    let window = address & !0xF_FFFF;
    let handles = [0, 1, 2, 3, 0x10, 0xFF, 0x7FFF];
    let remappable = handles.map(|handle| window | REMAPPABLE | ANY | handle << 5);
    let extended = [5, 8, 11].map(|bit| address | 1 << bit);
    let elsewhere = [0, 0x10_0000, 0xFED0_0000, 0xFEF0_0000, 1 << 32 | address, !0 << 32 | address];
    let all = remappable.into_iter().chain(extended).chain(elsewhere);
    all.map(move |address| Message { address, data })
}
