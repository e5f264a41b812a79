//! The model of the walk's tests: a list of mappings, and page tables built from it.

extern crate std;

use super::{PAGE, PagingState, ReadPhys, WalkError, translate};
use core::cell::Cell;
use std::collections::BTreeMap;
use std::vec::Vec;

const PWU: u64 = 0x67;

/// Sparse memory that counts its reads; what was never written is not there.
#[derive(Default)]
pub(super) struct Memory {
    bytes: BTreeMap<u64, u8>,
    pub(super) reads: Cell<usize>,
    next_table: u64,
}

impl Memory {
    pub(super) fn put(&mut self, gpa: u64, value: &[u8]) {
        for (place, byte) in (gpa..).zip(value) {
            self.bytes.insert(place, *byte);
        }
    }

    fn get<const N: usize>(&self, gpa: u64) -> Option<[u8; N]> {
        self.reads.set(self.reads.get() + 1);
        let mut value = [0; N];
        for (place, byte) in (gpa..).zip(&mut value) {
            *byte = *self.bytes.get(&place)?;
        }
        Some(value)
    }

    /// An empty table in a frame of its own, below 1 GiB.
    pub(super) fn table(&mut self) -> u64 {
        self.next_table += PAGE;
        self.put(self.next_table, &[0; 4096]);
        self.next_table
    }
}

impl ReadPhys for Memory {
    fn read_u64(&self, gpa: u64) -> Option<u64> {
        assert_eq!(gpa % 8, 0);
        self.get(gpa).map(u64::from_le_bytes)
    }
    fn read_u32(&self, gpa: u64) -> Option<u32> {
        assert_eq!(gpa % 4, 0);
        self.get(gpa).map(u32::from_le_bytes)
    }
    fn read_bytes(&self, gpa: u64, into: &mut [u8]) -> bool {
        assert!(into.is_empty() || gpa / PAGE == (gpa + into.len() as u64 - 1) / PAGE);
        self.reads.set(self.reads.get() + 1);
        (gpa..)
            .zip(into)
            .all(|(place, byte)| self.bytes.get(&place).map(|found| *byte = *found).is_some())
    }
}

/// How each paging mode cuts a linear address: (bits of the index, lowest bit), from the root down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    Bits32,
    Pae,
    Level4,
    Level5,
}
pub(super) use Mode::{Bits32, Level4, Level5, Pae};

impl Mode {
    pub(super) fn cuts(self) -> &'static [(u32, u32)] {
        match self {
            Bits32 => &[(10, 22), (10, 12)],
            Pae => &[(2, 30), (9, 21), (9, 12)],
            Level4 => &[(9, 39), (9, 30), (9, 21), (9, 12)],
            Level5 => &[(9, 48), (9, 39), (9, 30), (9, 21), (9, 12)],
        }
    }

    /// Page sizes, as the lowest bit of the index that finds them.
    pub(super) fn sizes(self) -> &'static [u32] {
        match self {
            Bits32 => &[12, 22],
            Pae => &[12, 21],
            Level4 | Level5 => &[12, 21, 30],
        }
    }

    pub(super) fn state(self, root: u64) -> PagingState {
        let (cr4, efer) = match self {
            Bits32 => (0x10, 0),
            Pae => (0x20, 0x800),
            Level4 => (0x20, 0xD00),
            Level5 => (0x1020, 0xD00),
        };
        // Low bits of CR3 (PCD, PWT, PCID) that are no part of the address.
        PagingState { cr0: 0x8000_0011, cr3: root | 0x18, cr4, efer }
    }

    /// Makes any number a legal linear address.
    pub(super) fn linear(self, raw: u64) -> u64 {
        match self {
            Bits32 | Pae => raw & 0xFFFF_FFFF,
            Level4 => ((raw << 16) as i64 >> 16) as u64,
            Level5 => ((raw << 7) as i64 >> 7) as u64,
        }
    }

    /// Widest frame address that an entry of this mode holds.
    fn frame(self, raw: u64, size: u32) -> u64 {
        let bits = if self == Bits32 && size == 12 {
            32
        } else if self == Bits32 {
            40
        } else {
            52
        };
        raw & ((1 << bits) - 1) & !((1 << size) - 1)
    }
}

pub(super) struct Space {
    pub(super) mode: Mode,
    pub(super) memory: Memory,
    pub(super) state: PagingState,
    /// The model: (first linear address, log2 of the size, first guest-physical address).
    pub(super) mapped: Vec<(u64, u32, u64)>,
}

impl Space {
    pub(super) fn new(mode: Mode) -> Self {
        let mut memory = Memory::default();
        let root = memory.table();
        Self { mode, memory, state: mode.state(root), mapped: Vec::new() }
    }

    pub(super) fn entry(&self, place: u64) -> u64 {
        if self.mode == Bits32 {
            self.memory.read_u32(place).unwrap().into()
        } else {
            self.memory.read_u64(place).unwrap()
        }
    }

    pub(super) fn set(&mut self, place: u64, value: u64) {
        let width = if self.mode == Bits32 { 4 } else { 8 };
        self.memory.put(place, &value.to_le_bytes()[..width]);
    }

    /// The places of the entries that a linear address goes through, root first; missing tables are
    /// made. None where a page is in the way.
    pub(super) fn path(&mut self, linear: u64, size: u32) -> Option<Vec<u64>> {
        let mut table = self.state.cr3 & !0xFFF;
        let mut places = Vec::new();
        for &(bits, low) in self.mode.cuts() {
            let index = linear >> low & ((1 << bits) - 1);
            let place = table + index * if self.mode == Bits32 { 4 } else { 8 };
            places.push(place);
            if low == size {
                return Some(places);
            }
            let mut entry = self.entry(place);
            if entry == 0 {
                let rights = if (self.mode, low) == (Pae, 30) { 1 } else { PWU };
                entry = self.memory.table() | rights;
                self.set(place, entry);
            } else if entry & 0x80 != 0 {
                return None;
            }
            table = entry & !0xFFF;
        }
        None
    }

    /// Adds a mapping to the tables and the model, unless something is there already.
    pub(super) fn map(&mut self, linear: u64, size: u32, frame: u64) -> bool {
        let linear = linear & !((1 << size) - 1);
        let Some(place) = self.path(linear, size).and_then(|path| path.last().copied()) else {
            return false;
        };
        if self.entry(place) != 0 {
            return false;
        }
        let frame = self.mode.frame(frame, size);
        let large = if size == 12 { 0 } else { 0x80 };
        let entry =
            if self.mode == Bits32 { frame & 0xFFFF_F000 | frame >> 32 << 13 } else { frame };
        self.set(place, entry | PWU | large);
        self.mapped.push((linear, size, frame));
        true
    }

    pub(super) fn model(&self, linear: u64) -> Option<u64> {
        self.mapped.iter().find_map(|&(first, size, frame)| {
            let offset = linear.checked_sub(first)?;
            (offset >> size == 0).then(|| frame + offset)
        })
    }

    pub(super) fn walk(&self, linear: u64) -> Result<u64, WalkError> {
        translate(&self.memory, &self.state, linear)
    }
}
