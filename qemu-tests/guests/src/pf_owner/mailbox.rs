//! The mailboxes between an 82576's PF and its VFs: 64 bytes for each, a lock that either side takes before it touches
//! them, and a request and an acknowledgement bit each way. Intel 82576 datasheet, 7.10.2.9, 8.14.2 to 8.14.5.

use super::igb::Registers;
use super::request::{Message, WORDS};
use crate::runtime::{cpu, time};

/// Requests and acknowledgements of the VFs, a write of 1 clears.
const CAUSES: u64 = 0x0C80;
/// VFs that were reset, likewise.
const RESETS: u64 = 0x0C88;

/// The PF's register of a mailbox.
const fn control(vf: usize) -> u64 {
    0x0C00 + 4 * vf as u64
}

/// A word of a mailbox.
const fn word(vf: usize, word: usize) -> u64 {
    0x0800 + 64 * vf as u64 + 4 * word as u64
}

/// Its bits: a message for the VF, its message was taken, the PF holds the mailbox.
const MESSAGE: u32 = 1 << 0;
const TAKEN: u32 = 1 << 1;
const LOCK: u32 = 1 << 3;

/// Whether VF `vf` was reset since the last call.
pub fn was_reset(registers: Registers, vf: usize) -> bool {
    let reset = registers.read(RESETS) >> vf & 1 != 0;
    if reset {
        registers.write(RESETS, 1 << vf);
    }
    reset
}

/// The message that VF `vf` has left, acknowledged; one that a VF is still writing waits for the next call.
pub fn take(registers: Registers, vf: usize) -> Option<Message> {
    if registers.read(CAUSES) >> vf & 1 == 0 || !lock(registers, vf) {
        return None;
    }
    registers.write(CAUSES, 1 << vf);
    let mut message = [0; WORDS];
    for (index, to) in message.iter_mut().enumerate() {
        *to = registers.read(word(vf, index));
    }
    // This write also lets the lock go.
    registers.write(control(vf), TAKEN);
    Some(message)
}

/// Leaves a message for VF `vf`. One that holds the lock for longer than its driver does has lost it.
pub fn send(registers: Registers, vf: usize, words: &[u32]) {
    if !time::wait(time::UNITS / 1000, || lock(registers, vf)) {
        return;
    }
    // What the VF acknowledges from now on is this message.
    registers.write(CAUSES, 1 << (vf + 16));
    for (index, &value) in words.iter().enumerate() {
        registers.write(word(vf, index), value);
    }
    registers.write(control(vf), MESSAGE);
}

fn lock(registers: Registers, vf: usize) -> bool {
    registers.write(control(vf), LOCK);
    let locked = registers.read(control(vf)) & LOCK != 0;
    if !locked {
        cpu::pause();
    }
    locked
}
