//! A small evaluator of AML, the code in a machine's DSDT and SSDTs: as much of it as tells how PCI's interrupt pins are
//! wired. ACPI 6.5, chapters 19 and 20; section 6.2.13 for `_PRT`.
//!
//! Called by `arch::acpi` at boot, on copies of the tables. Tables come from firmware and may be anything: every read is
//! checked, work and depth are bounded, and what is not understood ends the evaluation with an error that names table and
//! offset. Nothing that the code writes reaches the machine: stores to registers and memory stay in here, where later
//! reads of the same evaluation find them. No locks.
//!
//! | file | what |
//! |---|---|
//! | [`stream`] | bytes, package lengths, names |
//! | [`value`] | values, and the objects of the namespace |
//! | [`load`] | declarations: what a table puts into the namespace |
//! | [`statement`], [`expression`] | calls and statements; what has a value |
//! | [`fields`] | reading and writing named objects, regions, buffer fields |
//! | [`routing`] | `_PRT` and interrupt links |

mod expression;
mod fields;
mod load;
pub mod routing;
mod statement;
mod stream;
#[cfg(test)]
mod tests;
mod value;

pub use routing::{Behind, Wire, Wires, wires};
pub use value::{Path, Value};

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use value::Object;

/// Terms that one evaluation may execute, all tables and methods together. Copies count as well, by their size.
const FUEL: u32 = 2_000_000;
/// Terms inside terms, calls inside calls.
const DEPTH: u32 = 40;
/// Segments of a path.
const LONGEST: usize = 40;
/// Elements or bytes of one object.
const LARGEST: usize = 1 << 16;

/// A table's code, without the header.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its signature.
    pub name: &'static str,
    /// The code.
    pub code: Vec<u8>,
}

/// Bytes of the header before a table's code.
pub const HEADER: usize = 36;

/// Where and why an evaluation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmlError {
    /// The table; empty if the code of none was at work.
    pub table: &'static str,
    /// Byte offset in it, header included.
    pub offset: usize,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for AmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table {
            "" => write!(f, "ACPI tables: {}", self.what),
            table => write!(f, "ACPI {table} table: {} at offset {:#x}", self.what, self.offset),
        }
    }
}

/// An address space of an operation region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Physical memory.
    Memory,
    /// I/O ports.
    Ports,
    /// Any other.
    Other(u8),
}

/// How the evaluation looks at the machine: a byte of an address space, `None` where it may not look.
pub type Look<'a> = &'a dyn Fn(Space, u64) -> Option<u8>;

/// The namespace, and what evaluates in it.
pub struct Aml<'a> {
    tables: Vec<Table>,
    objects: BTreeMap<Path, Object>,
    look: Look<'a>,
    /// Bytes that the code has written.
    written: BTreeMap<(Space, u64), u8>,
    fuel: u32,
    /// The first thing that was skipped while the tables were loaded.
    skipped: Option<AmlError>,
}

impl<'a> Aml<'a> {
    /// Loads tables, the DSDT first. Blocks that cannot be read are skipped.
    pub fn new(tables: Vec<Table>, look: Look<'a>) -> Self {
        let objects = BTreeMap::new();
        let written = BTreeMap::new();
        let mut aml = Self { tables, objects, look, written, fuel: FUEL, skipped: None };
        aml.predefine();
        for table in 0..aml.tables.len() {
            aml.load(table);
        }
        aml
    }

    /// The first thing that could not be read.
    pub const fn skipped(&self) -> Option<AmlError> {
        self.skipped
    }
}
