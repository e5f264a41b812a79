//! The registers of a remapping unit. VT-d specification 4.1, chapter 11; each offset and field has the
//! specification's name.

use bitfield_struct::bitfield;
use bitflags::bitflags;

/// Offsets in bytes from the unit's register base.
pub mod offset {
    /// Version, 32 bits.
    pub const VER: u32 = 0x00;
    /// Capability, 64 bits.
    pub const CAP: u32 = 0x08;
    /// Extended capability, 64 bits.
    pub const ECAP: u32 = 0x10;
    /// Global command, 32 bits, write only.
    pub const GCMD: u32 = 0x18;
    /// Global status, 32 bits.
    pub const GSTS: u32 = 0x1C;
    /// Root table address, 64 bits.
    pub const RTADDR: u32 = 0x20;
    /// Fault status, 32 bits.
    pub const FSTS: u32 = 0x34;
    /// Fault event control, 32 bits.
    pub const FECTL: u32 = 0x38;
    /// Protected memory enable, 32 bits.
    pub const PMEN: u32 = 0x64;
    /// Invalidation queue head, 64 bits.
    pub const IQH: u32 = 0x80;
    /// Invalidation queue tail, 64 bits.
    pub const IQT: u32 = 0x88;
    /// Invalidation queue address, 64 bits.
    pub const IQA: u32 = 0x90;
    /// Invalidation event control, 32 bits.
    pub const IECTL: u32 = 0xA0;
    /// Interrupt remapping table address, 64 bits.
    pub const IRTA: u32 = 0xB8;
}

/// Interrupt mask: bit 31 of FECTL and IECTL.
pub const EVENT_MASKED: u32 = 1 << 31;
/// PMEN: enable (EPM).
pub const PROTECTED_MEMORY_ENABLE: u32 = 1 << 31;
/// PMEN: status (PRS).
pub const PROTECTED_MEMORY_STATUS: u32 = 1 << 0;

/// CAP_REG, section 11.4.2.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: domain ids have `4 + 2 * ND` bits.
    #[bits(3)]
    pub number_of_domains: u8,
    /// AFL.
    pub advanced_fault_logging: bool,
    /// RWBF: the chipset's write buffer needs flushing by a command.
    pub required_write_buffer_flush: bool,
    /// PLMR.
    pub protected_low_memory: bool,
    /// PHMR.
    pub protected_high_memory: bool,
    /// CM: what is not present is cached too.
    pub caching_mode: bool,
    /// SAGAW: bit 1 for 3-level second-stage tables (39 bits), bit 2 for 4 levels (48 bits).
    #[bits(5)]
    pub supported_widths: u8,
    #[bits(3)]
    __: u8,
    /// MGAW: widest address a device may use, less 1.
    #[bits(6)]
    pub maximum_guest_width: u8,
    /// ZLR.
    pub zero_length_read: bool,
    #[bits(1)]
    __: u8,
    /// FRO: fault records start at this offset, in units of 16 bytes.
    #[bits(10)]
    pub fault_record_offset: u32,
    /// SLLPS: bit 0 for 2 MiB pages, bit 1 for 1 GiB.
    #[bits(4)]
    pub large_pages: u8,
    #[bits(1)]
    __: u8,
    /// PSI.
    pub page_selective: bool,
    /// NFR: fault records, less 1.
    pub fault_records: u8,
    /// MAMV.
    #[bits(6)]
    pub maximum_address_mask: u8,
    /// DWD: invalidations can drain writes.
    pub write_draining: bool,
    /// DRD: invalidations can drain reads.
    pub read_draining: bool,
    __: u8,
}

impl Capability {
    /// Number of domain ids.
    pub const fn domains(self) -> u32 {
        let bits = 4 + 2 * self.number_of_domains() as u32;
        if bits > 16 { 1 << 16 } else { 1 << bits }
    }

    /// Levels of the deepest second-stage tables up to 4: 4, 3, or `None` if neither is supported.
    pub const fn levels(self) -> Option<u8> {
        match self.supported_widths() {
            widths if widths & 1 << 2 != 0 => Some(4),
            widths if widths & 1 << 1 != 0 => Some(3),
            _ => None,
        }
    }

    /// The largest page: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB.
    pub const fn largest_page(self) -> usize {
        match self.large_pages() & 3 {
            3 => 2,
            1 => 1,
            _ => 0,
        }
    }

    /// Bytes from the register base to the end of the fault records.
    pub const fn fault_records_end(self) -> u32 {
        16 * (self.fault_record_offset() + self.fault_records() as u32 + 1)
    }
}

/// ECAP_REG, section 11.4.3.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: table walks snoop the processors' caches.
    pub coherent: bool,
    /// QI.
    pub queued_invalidation: bool,
    /// DT.
    pub device_tlb: bool,
    /// IR.
    pub interrupt_remapping: bool,
    /// EIM: interrupt requests can name 32-bit APIC ids.
    pub extended_interrupt_mode: bool,
    #[bits(1)]
    __: u8,
    /// PT.
    pub pass_through: bool,
    /// SC.
    pub snoop_control: bool,
    /// IRO: IOTLB registers, in units of 16 bytes.
    #[bits(10)]
    pub iotlb_offset: u32,
    #[bits(2)]
    __: u8,
    /// MHMV: the most low bits of an index that one invalidation can mask.
    #[bits(4)]
    pub maximum_handle_mask: u8,
    #[bits(40)]
    __: u64,
}

bitflags! {
    /// GCMD_REG and GSTS_REG, sections 11.4.4: a command has the same bit as its status.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Global: u32 {
        /// TE: DMA is translated.
        const TRANSLATION = 1 << 31;
        /// SRTP: take the root table's address.
        const ROOT_TABLE = 1 << 30;
        /// SFL: take the fault log's address.
        const FAULT_LOG = 1 << 29;
        /// EAFL: advanced fault logging.
        const ADVANCED_FAULTS = 1 << 28;
        /// WBF: flush the chipset's write buffer.
        const WRITE_BUFFER = 1 << 27;
        /// QIE: queued invalidation.
        const QUEUED_INVALIDATION = 1 << 26;
        /// IRE: interrupts are remapped.
        const INTERRUPT_REMAPPING = 1 << 25;
        /// SIRTP: take the interrupt remapping table's address.
        const REMAPPING_TABLE = 1 << 24;
        /// CFI: compatibility-format interrupts bypass the remapping.
        const COMPATIBILITY_FORMAT = 1 << 23;
    }
}

impl Global {
    /// Commands that are done once. A write for another command must not repeat them, although
    /// their status stays set.
    pub const ONE_SHOT: Self = Self::ROOT_TABLE
        .union(Self::FAULT_LOG)
        .union(Self::WRITE_BUFFER)
        .union(Self::REMAPPING_TABLE);
}

bitflags! {
    /// FSTS_REG, section 11.4.7.1. Bits but the pending flag are cleared by writing 1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultStatus: u32 {
        /// PFO: a fault found all records full.
        const OVERFLOW = 1 << 0;
        /// PPF: a record holds a fault.
        const PENDING = 1 << 1;
        /// IQE: the queue stopped at a descriptor that is wrong.
        const QUEUE_ERROR = 1 << 4;
        /// ICE: a device answered an invalidation wrongly.
        const COMPLETION_ERROR = 1 << 5;
        /// ITE: a device did not answer an invalidation.
        const TIMEOUT_ERROR = 1 << 6;
    }
}

impl FaultStatus {
    /// What stops the invalidation queue.
    pub const QUEUE: Self =
        Self::QUEUE_ERROR.union(Self::COMPLETION_ERROR).union(Self::TIMEOUT_ERROR);
}

/// IRTA_REG, section 11.4.11.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RemappingTableAddress {
    /// S: the table has `2^(S+1)` entries.
    #[bits(4)]
    pub size: u8,
    #[bits(7)]
    __: u8,
    /// EIME: destinations are 32-bit x2APIC ids; compatibility-format interrupts are blocked.
    pub extended_interrupt_mode: bool,
    /// Frame number of the table.
    #[bits(52)]
    pub frame: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_an_emulated_unit_are_read() {
        // QEMU 10.0.2, `intel-iommu,intremap=on,eim=on`.
        let cap = Capability::from_bits(0x00D2_008C_222F_0606);
        assert_eq!((cap.domains(), cap.levels(), cap.largest_page()), (1 << 16, Some(4), 2));
        assert_eq!((cap.maximum_guest_width(), cap.fault_records_end()), (47, 0x230));
        assert!(!cap.caching_mode() && cap.write_draining() && cap.read_draining());
        let ecap = ExtendedCapability::from_bits(0x00F0_0F5A);
        assert!(ecap.queued_invalidation() && ecap.interrupt_remapping());
        assert!(ecap.extended_interrupt_mode() && !ecap.coherent());
        assert_eq!((ecap.maximum_handle_mask(), ecap.iotlb_offset()), (15, 0xF));
        // The same with `aw-bits=39`.
        let cap = Capability::from_bits(0x00D2_008C_2226_0206);
        assert_eq!((cap.levels(), cap.maximum_guest_width()), (Some(3), 38));
    }

    #[test]
    fn commands_are_at_their_bits() {
        assert_eq!(Global::ONE_SHOT.bits(), !0x96FF_FFFF);
        assert_eq!(
            RemappingTableAddress::new()
                .with_size(7)
                .with_extended_interrupt_mode(true)
                .with_frame(0x12345)
                .into_bits(),
            0x1234_5807
        );
    }
}
