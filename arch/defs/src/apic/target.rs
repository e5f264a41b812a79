//! Which vCPUs a destination means (requirement V4).
//!
//! Called by the IPI path after [`super::decode_icr`], and by the routing of device messages. No locks.
//! The virtual APIC id of a vCPU is its index in the VM, 0..`vcpu_count`. Source: SDM volume 3, "Determining IPI
//! Destination", "Logical Destination Mode in x2APIC Mode".

use super::Destination;

/// The most vCPUs a VM may have: the width of a [`TargetSet`].
pub const MAX_VCPUS: u32 = 64;

/// A virtual APIC id, which is also the index of the vCPU in its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApicId(pub u32);

/// The logical destination register of an x2APIC, a function of its id: sixteen ids make a cluster.
#[inline]
pub const fn x2apic_ldr(id: ApicId) -> u32 {
    ((id.0 & 0xF_FFF0) << 12) | (1 << (id.0 & 0xF))
}

/// A set of vCPUs of one VM, bit `n` for vCPU `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetSet(u64);

impl TargetSet {
    /// Nobody.
    pub const EMPTY: Self = Self(0);

    /// The first `count` vCPUs; counts above [`MAX_VCPUS`] mean all 64.
    #[inline]
    pub const fn all(count: u32) -> Self {
        if count >= MAX_VCPUS { Self(u64::MAX) } else { Self((1 << count) - 1) }
    }

    /// One vCPU, or nobody when the id is out of range.
    #[inline]
    pub const fn one(id: ApicId) -> Self {
        if id.0 < MAX_VCPUS { Self(1 << id.0) } else { Self::EMPTY }
    }

    /// The set as a bit mask.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether the vCPU is in the set.
    #[inline]
    pub const fn contains(self, id: ApicId) -> bool {
        self.0 & Self::one(id).0 != 0
    }

    /// Whether nobody is in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many vCPUs are in the set.
    #[inline]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// The members of both sets.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set without the vCPU `id`.
    #[inline]
    pub const fn without(self, id: ApicId) -> Self {
        Self(self.0 & !Self::one(id).0)
    }

    /// The lowest member; a lawful choice for lowest-priority delivery, whose arbitration is model specific.
    #[inline]
    pub const fn first(self) -> Option<ApicId> {
        if self.0 == 0 { None } else { Some(ApicId(self.0.trailing_zeros())) }
    }
}

impl Iterator for TargetSet {
    type Item = ApicId;

    /// Removes the lowest member and returns it, so that `for id in set` visits ids in ascending order.
    #[inline]
    fn next(&mut self) -> Option<ApicId> {
        let first = self.first()?;
        self.0 &= self.0 - 1;
        Some(first)
    }
}

/// The vCPUs that `destination` means when vCPU `sender` of a VM with `vcpu_count` vCPUs names it.
///
/// [`Destination::XapicLogical`] yields nobody here, because it depends on what the guest wrote into LDR and DFR:
/// use [`xapic_targets`] for a sender in xAPIC state.
#[inline]
pub const fn targets(destination: Destination, sender: ApicId, vcpu_count: u32) -> TargetSet {
    let all = TargetSet::all(vcpu_count);
    match destination {
        Destination::Physical(u32::MAX) | Destination::Logical(u32::MAX) | Destination::All => all,
        Destination::Physical(id) => TargetSet::one(ApicId(id)).and(all),
        Destination::Logical(logical) => {
            let cluster = logical >> 16;
            let members = (logical & 0xFFFF) as u64;
            // Clusters from 4 on hold ids of 64 and more, which no VM has; the test also keeps the shift legal.
            if cluster < MAX_VCPUS / 16 {
                TargetSet(members << (cluster * 16)).and(all)
            } else {
                TargetSet::EMPTY
            }
        }
        Destination::XapicLogical(_) => TargetSet::EMPTY,
        Destination::SelfOnly => TargetSet::one(sender).and(all),
        Destination::AllButSelf => all.without(sender),
    }
}

/// The destination that an eight-bit field of an IOAPIC entry or a device's message means. `xapic`: the guest's APICs
/// are in xAPIC state, where a logical destination depends on its LDRs; in x2APIC state eight bits reach cluster 0 only.
pub const fn message_destination(field: u8, logical: bool, xapic: bool) -> Destination {
    match (logical, field) {
        (_, 0xFF) => Destination::All,
        (false, id) => Destination::Physical(id as u32),
        (true, id) if xapic => Destination::XapicLogical(id),
        (true, id) => Destination::Logical(id as u32),
    }
}

/// The logical id a vCPU has given itself in xAPIC state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XapicLogical {
    /// LDR bits 31:24.
    pub id: u8,
    /// Cluster model (DFR bits 31:28 = 0) rather than flat (all ones).
    pub cluster: bool,
}

impl XapicLogical {
    /// What a reset leaves behind: LDR 0, flat model; no logical message reaches it but a broadcast.
    pub const RESET: Self = Self { id: 0, cluster: false };

    /// From the guest's LDR and DFR values. A DFR model other than 0 or 0xF is undefined and taken as flat.
    pub const fn from_registers(ldr: u32, dfr: u32) -> Self {
        Self { id: (ldr >> 24) as u8, cluster: dfr >> 28 == 0 }
    }

    /// Whether a message with this destination address is for this vCPU.
    pub const fn accepts(self, address: u8) -> bool {
        if address == 0xFF {
            true
        } else if self.cluster {
            self.id >> 4 == address >> 4 && self.id & address & 0xF != 0
        } else {
            self.id & address != 0
        }
    }
}

/// Like [`targets`], for a sender in xAPIC state. `logical` holds the logical ids of the VM's vCPUs in the order
/// of their APIC ids, and its length is the number of vCPUs.
pub fn xapic_targets(
    destination: Destination,
    sender: ApicId,
    logical: &[XapicLogical],
) -> TargetSet {
    let count = u32::try_from(logical.len()).unwrap_or(MAX_VCPUS);
    let Destination::XapicLogical(address) = destination else {
        return targets(destination, sender, count);
    };
    let members = logical.iter().take(MAX_VCPUS as usize).enumerate();
    TargetSet(
        members.filter(|(_, id)| id.accepts(address)).fold(0, |set, (index, _)| set | 1 << index),
    )
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const ME: ApicId = ApicId(1);

    #[test]
    fn r_v4_the_ldr_follows_from_the_id() {
        assert_eq!(x2apic_ldr(ApicId(0)), 0x0000_0001);
        assert_eq!(x2apic_ldr(ApicId(15)), 0x0000_8000);
        assert_eq!(x2apic_ldr(ApicId(16)), 0x0001_0001);
        assert_eq!(x2apic_ldr(ApicId(63)), 0x0003_8000);
        assert_eq!(x2apic_ldr(ApicId(0xABCD)), 0x0ABC_2000);
    }

    #[test]
    fn r_v4_every_destination_form_for_1_to_64_vcpus() {
        for count in 1..=64u32 {
            let sender = ApicId(count - 1);
            let all: Vec<_> = (0..count).map(ApicId).collect();
            let others: Vec<_> = (0..count - 1).map(ApicId).collect();
            let of = |destination| targets(destination, sender, count).collect::<Vec<_>>();
            assert_eq!(of(Destination::All), all);
            assert_eq!(of(Destination::AllButSelf), others);
            assert_eq!(of(Destination::SelfOnly), [sender]);
            assert_eq!(of(Destination::Physical(u32::MAX)), all);
            assert_eq!(of(Destination::Logical(u32::MAX)), all);
            assert_eq!(of(Destination::XapicLogical(0xFF)), []);
            for id in 0..70 {
                let expected: &[ApicId] = if id < count { &[ApicId(id)] } else { &[] };
                assert_eq!(of(Destination::Physical(id)), expected);
                assert_eq!(of(Destination::Logical(x2apic_ldr(ApicId(id)))), expected);
            }
        }
    }

    proptest! {
        #[test]
        fn r_v4_a_logical_destination_hits_exactly_the_matching_ldrs(
            logical in prop_oneof![any::<u32>(), (0u32..5, 0u32..0x1_0000).prop_map(|(c, m)| c << 16 | m)],
            count in 1u32..=64,
        ) {
            prop_assume!(logical != u32::MAX);
            let set = targets(Destination::Logical(logical), ME, count);
            for id in 0..64 {
                let ldr = x2apic_ldr(ApicId(id));
                let matches = ldr >> 16 == logical >> 16 && ldr & logical & 0xFFFF != 0;
                prop_assert_eq!(set.contains(ApicId(id)), matches && id < count);
            }
        }

        #[test]
        fn r_s2_no_destination_leaves_the_vm(raw: u32, kind in 0..6, sender in 0u32..64, count in 1u32..=64) {
            let destination = match kind {
                0 => Destination::Physical(raw),
                1 => Destination::Logical(raw),
                2 => Destination::SelfOnly,
                3 => Destination::All,
                4 => Destination::XapicLogical(raw as u8),
                _ => Destination::AllButSelf,
            };
            let set = targets(destination, ApicId(sender), count);
            prop_assert_eq!(set.and(TargetSet::all(count)), set);
            prop_assert_eq!(set.len() as usize, set.count());
        }
    }

    #[test]
    fn r_a6_xapic_flat_and_cluster_logical_ids() {
        let flat: Vec<_> =
            (0..8).map(|n| XapicLogical::from_registers(1 << (24 + n), 0xFFFF_FFFF)).collect();
        let hits = |address, ids: &[XapicLogical]| {
            xapic_targets(Destination::XapicLogical(address), ME, ids).bits()
        };
        assert_eq!(hits(0b0000_0101, &flat), 0b101);
        assert_eq!(hits(0xFF, &flat), 0xFF);
        assert_eq!(hits(0, &flat), 0);

        // Two clusters of four.
        let cluster: Vec<_> = (0..8u32)
            .map(|n| XapicLogical::from_registers((n / 4) << 28 | 1 << (24 + n % 4), 0x0FFF_FFFF))
            .collect();
        assert_eq!(hits(0x03, &cluster), 0b0000_0011);
        assert_eq!(hits(0x1C, &cluster), 0b1100_0000);
        assert_eq!(hits(0x2F, &cluster), 0);
        assert_eq!(hits(0xFF, &cluster), 0xFF);
        assert_eq!(hits(0x01, &[XapicLogical::RESET; 8]), 0);
        // The other forms are as in x2APIC mode.
        assert_eq!(xapic_targets(Destination::AllButSelf, ME, &flat).bits(), 0b1111_1101);
        assert_eq!(xapic_targets(Destination::Physical(2), ME, &flat).bits(), 0b100);
    }
}
