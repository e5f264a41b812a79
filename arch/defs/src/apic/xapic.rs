//! The xAPIC page: which x2APIC register an offset means, and how its value differs (requirement A6).
//!
//! Called by the MMIO exit handler for accesses of a guest in xAPIC state to the page at
//! [`super::mode::XAPIC_PAGE`]. No locks. Software must use aligned 32-bit accesses; anything else is undefined on
//! hardware, and here reads as 0 and writes nothing. Source: SDM volume 3, "The Local APIC Block Diagram".

use super::{Destination, Icr, IcrRefused, IcrRequest, icr, msr};

/// What is behind an offset of the xAPIC page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XapicRegister {
    /// The x2APIC MSR with the same 32-bit value.
    Same(u32),
    /// EOI or ESR: any value may be written here, but the x2APIC MSR takes only 0 and faults on others.
    WriteZero(u32),
    /// The id, in bits 31:24. Writes are ignored (S4).
    Id,
    /// The logical id, in bits 31:24, writable; a shadow of the hypervisor, for [`super::XapicLogical`].
    Ldr,
    /// Model of logical ids, in bits 31:28, the rest reads as ones; a shadow like the LDR.
    Dfr,
    /// Low half of the ICR: a write sends, see [`decode_xapic_icr`]. Reads have the delivery status 0 (idle).
    IcrLow,
    /// High half of the ICR, destination in bits 31:24: a shadow.
    IcrHigh,
    /// Arbitration priority, read only: never used since the Pentium 4, reads as 0.
    ArbitrationPriority,
    /// Remote read, read only, without meaning: reads as 0.
    RemoteRead,
}

/// DFR bits that are not the model: they read as ones.
pub const DFR_ONES: u32 = 0x0FFF_FFFF;

/// The register at a byte offset of the xAPIC page; `None` for reserved ones (read as 0, write nothing, and set
/// [`msr::ESR_ILLEGAL_REGISTER`] in the guest's ESR) and for offsets that are not a multiple of 16.
#[inline(always)]
pub const fn xapic_register(offset: u16) -> Option<XapicRegister> {
    if offset & 0xF != 0 || offset > 0x3F0 {
        return None;
    }
    let number = msr::X2APIC_FIRST + (offset >> 4) as u32;
    Some(match number {
        msr::ID => XapicRegister::Id,
        msr::VERSION | msr::TPR | msr::PPR | msr::SVR => XapicRegister::Same(number),
        0x809 => XapicRegister::ArbitrationPriority,
        msr::EOI | msr::ESR => XapicRegister::WriteZero(number),
        0x80C => XapicRegister::RemoteRead,
        msr::LDR => XapicRegister::Ldr,
        0x80E => XapicRegister::Dfr,
        // ISR, TMR and IRR: three banks of eight.
        msr::ISR0..=0x827 => XapicRegister::Same(number),
        msr::LVT_CMCI => XapicRegister::Same(number),
        msr::ICR => XapicRegister::IcrLow,
        0x831 => XapicRegister::IcrHigh,
        msr::LVT_TIMER..=msr::TIMER_CURRENT | msr::TIMER_DIVIDE => XapicRegister::Same(number),
        // 0x3F0 would be SELF_IPI, which only x2APIC mode has.
        _ => return None,
    })
}

/// Decodes and checks an IPI sent through the xAPIC pair: `high` is the shadow of 0x310, `low` the value written to
/// 0x300. Reserved bits do not fault here, they are ignored.
///
/// # Errors
/// See [`IcrRefused`]; never `ReservedBits`.
pub const fn decode_xapic_icr(low: u32, high: u32) -> Result<IcrRequest, IcrRefused> {
    let low = low as u64 & !icr::ICR_RESERVED;
    let address = (high >> 24) as u8;
    let command = Icr::from_bits(low);
    let explicit = if address == 0xFF {
        Destination::All
    } else if command.logical() {
        Destination::XapicLogical(address)
    } else {
        Destination::Physical(address as u32)
    };
    icr::check(command, explicit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{IcrAction, decode_icr};
    use super::*;

    #[test]
    fn r_a6_every_offset_of_the_page() {
        use XapicRegister::*;
        let table = [
            (0x020, Id),
            (0x030, Same(0x803)),
            (0x080, Same(0x808)),
            (0x090, ArbitrationPriority),
            (0x0A0, Same(0x80A)),
            (0x0B0, WriteZero(0x80B)),
            (0x0C0, RemoteRead),
            (0x0D0, Ldr),
            (0x0E0, Dfr),
            (0x0F0, Same(0x80F)),
            (0x280, WriteZero(0x828)),
            (0x2F0, Same(0x82F)),
            (0x300, IcrLow),
            (0x310, IcrHigh),
            (0x320, Same(0x832)),
            (0x330, Same(0x833)),
            (0x340, Same(0x834)),
            (0x350, Same(0x835)),
            (0x360, Same(0x836)),
            (0x370, Same(0x837)),
            (0x380, Same(0x838)),
            (0x390, Same(0x839)),
            (0x3E0, Same(0x83E)),
        ];
        for offset in 0..0x1000u16 {
            let listed = table.iter().find(|(at, _)| *at == offset).map(|(_, register)| *register);
            let bank = (0x100..0x280).contains(&offset) && offset % 16 == 0;
            let expected = listed.or(bank.then_some(Same(0x800 + u32::from(offset) / 16)));
            assert_eq!(xapic_register(offset), expected, "{offset:#x}");
        }
    }

    #[test]
    fn r_a6_xapic_destinations_are_eight_bits() {
        let physical = decode_xapic_icr(0x0000_40FD, 0x0300_0000).unwrap();
        assert_eq!(physical.destination, Destination::Physical(3));
        let logical = decode_xapic_icr(0x0000_08FD, 0x0300_0000).unwrap();
        assert_eq!(logical.destination, Destination::XapicLogical(3));
        let broadcast = decode_xapic_icr(0x0000_4500, 0xFF00_0000).unwrap();
        assert_eq!(broadcast.destination, Destination::All);
        assert_eq!(broadcast.action, IcrAction::Init);
    }

    proptest! {
        #[test]
        fn r_v3_xapic_writes_pass_the_same_checks(low: u32, high: u32) {
            let here = decode_xapic_icr(low, high).map(|request| request.action);
            let there = decode_icr(u64::from(low) & !icr::ICR_RESERVED).map(|request| request.action);
            prop_assert_eq!(here, there);
        }
    }
}
