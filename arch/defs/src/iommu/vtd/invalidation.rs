//! Invalidation descriptors of 128 bits. VT-d specification 4.1, section 6.5.2.

use bitfield_struct::bitfield;

/// A descriptor, low half first.
pub type Descriptor = [u64; 2];

/// Entries of a queue of one frame.
pub const QUEUE_ENTRIES: u64 = 256;

/// Type 1: context cache.
#[bitfield(u64)]
struct Context {
    #[bits(4)]
    kind: u8,
    /// 1 global, 2 domain, 3 device.
    #[bits(2)]
    granularity: u8,
    #[bits(58)]
    __: u64,
}

/// Type 2: IOTLB.
#[bitfield(u64)]
struct Iotlb {
    #[bits(4)]
    kind: u8,
    /// 1 global, 2 domain, 3 pages.
    #[bits(2)]
    granularity: u8,
    drain_writes: bool,
    drain_reads: bool,
    __: u8,
    domain: u16,
    __: u32,
}

/// Type 4: interrupt entry cache.
#[bitfield(u64)]
struct InterruptEntry {
    #[bits(4)]
    kind: u8,
    /// The entries that index and mask name, rather than all.
    selective: bool,
    #[bits(22)]
    __: u32,
    /// IM: low bits of the index that do not count.
    #[bits(5)]
    mask: u8,
    index: u16,
    __: u16,
}

/// Type 5: wait.
#[bitfield(u64)]
struct Wait {
    #[bits(4)]
    kind: u8,
    interrupt: bool,
    status_write: bool,
    #[bits(26)]
    __: u32,
    status: u32,
}

/// Every context entry.
pub const fn all_contexts() -> Descriptor {
    [Context::new().with_kind(1).with_granularity(1).into_bits(), 0]
}

/// Every translation. `drains` is what the unit can drain: reads and writes.
pub const fn all_translations(drains: (bool, bool)) -> Descriptor {
    [iotlb(1, drains).into_bits(), 0]
}

/// The translations of one domain.
pub const fn domain_translations(domain: u16, drains: (bool, bool)) -> Descriptor {
    [iotlb(2, drains).with_domain(domain).into_bits(), 0]
}

const fn iotlb(granularity: u8, (reads, writes): (bool, bool)) -> Iotlb {
    Iotlb::new()
        .with_kind(2)
        .with_granularity(granularity)
        .with_drain_reads(reads)
        .with_drain_writes(writes)
}

/// Every remapping entry.
pub const fn all_interrupts() -> Descriptor {
    [InterruptEntry::new().with_kind(4).into_bits(), 0]
}

/// The remapping entries `first` to `last`, or more: the smallest aligned block of a power of two that
/// holds them, if its mask is at most `largest_mask`; else all.
pub const fn interrupts(first: u16, last: u16, largest_mask: u8) -> Descriptor {
    let mask = (u16::BITS - (first ^ last).leading_zeros()) as u8;
    if mask > largest_mask {
        return all_interrupts();
    }
    let index = (first as u32 >> mask << mask) as u16;
    let entry = InterruptEntry::new().with_kind(4).with_selective(true);
    [entry.with_mask(mask).with_index(index).into_bits(), 0]
}

/// Waits for all before it, drains what they cover, then writes `status` to a physical address.
pub const fn wait(address: u64, status: u32) -> Descriptor {
    [Wait::new().with_kind(5).with_status_write(true).with_status(status).into_bits(), address]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn descriptors_are_the_manuals() {
        assert_eq!(all_contexts(), [0x11, 0]);
        assert_eq!(all_translations((true, true)), [0xD2, 0]);
        assert_eq!(domain_translations(0x1234, (false, true)), [0x1234_0062, 0]);
        assert_eq!(all_interrupts(), [0x04, 0]);
        assert_eq!(interrupts(5, 5, 0), [0x5_0000_0014, 0]);
        assert_eq!(interrupts(8, 15, 15), [0x8_1800_0014, 0]);
        assert_eq!(wait(0x1000, 7), [0x7_0000_0025, 0x1000]);
    }

    proptest! {
        #[test]
        fn r_b2_an_invalidation_covers_every_entry_that_changed(a: u16, b: u16, largest in 0_u8..16) {
            let (first, last) = (a.min(b), a.max(b));
            let entry = InterruptEntry::from_bits(interrupts(first, last, largest)[0]);
            if entry.selective() {
                prop_assert!(entry.mask() <= largest);
                let start = u32::from(entry.index());
                let end = start + (1 << entry.mask());
                prop_assert!(start <= u32::from(first) && u32::from(last) < end);
            } else {
                prop_assert!((first ^ last) >> largest != 0);
            }
        }
    }
}
