//! The interrupt command register: a guest's write, decoded and checked (requirements V3 and S2).
//!
//! Called by the MSR exit handler for writes of MSR 0x830, and by [`super::xapic`] for the memory-mapped pair.
//! No locks. Nothing of the guest's value is ever copied to the hardware: the caller acts on the [`IcrRequest`],
//! with targets from [`super::target`]. Source: SDM volume 3, "Issuing Interprocessor Interrupts" and
//! "Interrupt Command Register in x2APIC Mode".

use bitfield_struct::bitfield;

use super::GuestVector;

/// Delivery mode, bits 10:8 of the ICR, of LVT entries and of IOAPIC redirection entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector, to every target.
    Fixed = 0,
    /// The vector, to one of the targets.
    LowestPriority = 1,
    /// System-management interrupt.
    Smi = 2,
    /// Remote read in old processors' ICR, reserved elsewhere.
    Reserved = 3,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT signal.
    Init = 5,
    /// Start-up IPI; reserved outside the ICR.
    StartUp = 6,
    /// Vector from an external 8259; reserved in the ICR.
    ExtInt = 7,
}

impl DeliveryMode {
    /// Decodes the low three bits of `bits`; every value has a meaning.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }

    /// The three bits, as the hardware has them.
    pub const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// The ICR in x2APIC mode.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Icr {
    /// Interrupt vector, or page number of the start-up code.
    pub vector: u8,
    /// What is sent.
    #[bits(3)]
    pub delivery_mode: DeliveryMode,
    /// Logical destination rather than physical.
    pub logical: bool,
    /// Delivery status in xAPIC mode. Intel and AMD both ignore it on an x2APIC write.
    pub busy: bool,
    #[bits(1)]
    __: u8,
    /// 1 assert, 0 de-assert.
    pub assert: bool,
    /// Level trigger; only an INIT looks at it.
    pub level: bool,
    #[bits(2)]
    __: u8,
    /// 0 none, 1 self, 2 all, 3 all but self.
    #[bits(2)]
    pub shorthand: u8,
    #[bits(12)]
    __: u16,
    /// x2APIC id or logical destination.
    pub destination: u32,
}

/// Bits that must be zero in x2APIC mode: 31:20, 17:16 and 13. A set one is #GP on Intel and on AMD.
pub const ICR_RESERVED: u64 = 0xFFF3_2000;

/// A checked ICR write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcrRequest {
    /// What to do to each target.
    pub action: IcrAction,
    /// To whom.
    pub destination: Destination,
}

/// What an IPI does to its targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcrAction {
    /// Raise a vector.
    Fixed {
        /// The vector.
        vector: GuestVector,
        /// Only one of the targets takes it; the caller may choose any one.
        lowest_priority: bool,
    },
    /// Raise an NMI in the guest.
    Nmi,
    /// Reset the target vCPU into wait-for-SIPI.
    Init,
    /// INIT level de-assert: processors since the Pentium 4 do nothing on it, and so does the caller.
    InitDeassert,
    /// Start a vCPU that waits for it, in real mode at physical address `page << 12`.
    StartUp {
        /// Page number of the start-up code, the ICR's vector field.
        page: u8,
    },
}

/// To whom an IPI goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The APIC with this id. Broadcast ids are decoded into [`Destination::All`].
    Physical(u32),
    /// x2APIC logical destination: cluster in bits 31:16, members in bits 15:0.
    Logical(u32),
    /// xAPIC logical destination (message destination address). Needs the guest's LDR and DFR values: see
    /// [`super::xapic_targets`].
    XapicLogical(u8),
    /// The sender.
    SelfOnly,
    /// Every vCPU of the VM, the sender too.
    All,
    /// Every vCPU of the VM but the sender.
    AllButSelf,
}

/// Why an ICR write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcrRefused {
    /// Reserved bits were set.
    ReservedBits,
    /// System-management interrupts belong to the machine.
    Smi,
    /// Delivery mode 3, once RemoteRead.
    RemoteRead,
    /// Delivery mode 7, reserved in the ICR; as ExtINT it would reach the machine's interrupt wires.
    ExtInt,
    /// Fixed or LowestPri with a vector of 0..=15.
    IllegalVector {
        /// The vector asked for.
        vector: u8,
    },
    /// INIT or SIPI with a shorthand that includes the sender, a combination the manuals call invalid.
    Shorthand,
}

/// What the guest gets to see of a refused ICR write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalEffect {
    /// #GP(0), the instruction does not complete.
    GeneralProtection,
    /// "Send illegal vector" is set in the guest's ESR, nothing is sent.
    SendIllegalVector,
    /// The write completes and nothing is sent.
    Dropped,
}

impl IcrRefused {
    /// What hardware would show the guest, so that the refusal looks like a machine without that feature.
    pub const fn effect(self) -> RefusalEffect {
        match self {
            Self::ReservedBits => RefusalEffect::GeneralProtection,
            Self::IllegalVector { .. } => RefusalEffect::SendIllegalVector,
            Self::Smi | Self::RemoteRead | Self::ExtInt | Self::Shorthand => RefusalEffect::Dropped,
        }
    }
}

const SHORTHAND_SELF: u8 = 1;
const SHORTHAND_ALL: u8 = 2;
const SHORTHAND_ALL_BUT_SELF: u8 = 3;

/// Decodes and checks a guest's write of the x2APIC ICR.
///
/// # Errors
/// See [`IcrRefused`]; [`IcrRefused::effect`] says what the guest should see.
#[inline]
pub const fn decode_icr(value: u64) -> Result<IcrRequest, IcrRefused> {
    if value & ICR_RESERVED != 0 {
        return Err(IcrRefused::ReservedBits);
    }
    let icr = Icr::from_bits(value);
    let destination = icr.destination();
    // All ones is broadcast in both modes (SDM, "Logical Destination Mode in x2APIC Mode").
    let explicit = if destination == u32::MAX {
        Destination::All
    } else if icr.logical() {
        Destination::Logical(destination)
    } else {
        Destination::Physical(destination)
    };
    check(icr, explicit)
}

/// The part that x2APIC and xAPIC share: `explicit` is the destination that holds without a shorthand.
pub(super) const fn check(icr: Icr, explicit: Destination) -> Result<IcrRequest, IcrRefused> {
    let shorthand = icr.shorthand();
    let includes_sender = shorthand == SHORTHAND_SELF || shorthand == SHORTHAND_ALL;
    let action = match icr.delivery_mode() {
        mode @ (DeliveryMode::Fixed | DeliveryMode::LowestPriority) => {
            match GuestVector::new(icr.vector()) {
                Some(vector) => IcrAction::Fixed {
                    vector,
                    lowest_priority: matches!(mode, DeliveryMode::LowestPriority),
                },
                None => return Err(IcrRefused::IllegalVector { vector: icr.vector() }),
            }
        }
        // The manuals allow NMI with "all but self" only; processors and other hypervisors deliver it for the
        // other shorthands too, and inside one VM it harms nobody.
        DeliveryMode::Nmi => IcrAction::Nmi,
        // The de-assert of the universal start-up algorithm goes to everybody by definition: judge it first.
        DeliveryMode::Init if icr.level() && !icr.assert() => IcrAction::InitDeassert,
        DeliveryMode::Init if includes_sender => return Err(IcrRefused::Shorthand),
        DeliveryMode::Init => IcrAction::Init,
        DeliveryMode::StartUp if includes_sender => return Err(IcrRefused::Shorthand),
        DeliveryMode::StartUp => IcrAction::StartUp { page: icr.vector() },
        DeliveryMode::Smi => return Err(IcrRefused::Smi),
        DeliveryMode::Reserved => return Err(IcrRefused::RemoteRead),
        DeliveryMode::ExtInt => return Err(IcrRefused::ExtInt),
    };
    let destination = match shorthand {
        SHORTHAND_SELF => Destination::SelfOnly,
        SHORTHAND_ALL => Destination::All,
        SHORTHAND_ALL_BUT_SELF => Destination::AllButSelf,
        _ => explicit,
    };
    Ok(IcrRequest { action, destination })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixed(vector: u8) -> IcrAction {
        IcrAction::Fixed { vector: GuestVector::new(vector).unwrap(), lowest_priority: false }
    }

    #[test]
    fn r_v3_linux_ipis_are_decoded() {
        // Values as Linux writes them in x2APIC cluster, physical and shorthand modes.
        let cases = [
            (0x0000_0003_0000_00FD, fixed(0xFD), Destination::Physical(3)),
            (0x0001_0002_0000_08FB, fixed(0xFB), Destination::Logical(0x0001_0002)),
            (0x0000_0000_0004_00F6, fixed(0xF6), Destination::SelfOnly),
            (0x0000_0000_000C_00FC, fixed(0xFC), Destination::AllButSelf),
            (0x0000_0000_0008_00FC, fixed(0xFC), Destination::All),
            (0x0000_0001_0000_0400, IcrAction::Nmi, Destination::Physical(1)),
            (0x0000_0001_0000_C500, IcrAction::Init, Destination::Physical(1)),
            (0x0000_0001_0000_8500, IcrAction::InitDeassert, Destination::Physical(1)),
            (0x0000_0001_0000_0699, IcrAction::StartUp { page: 0x99 }, Destination::Physical(1)),
            (0xFFFF_FFFF_0000_4020, fixed(0x20), Destination::All),
            (0xFFFF_FFFF_0000_0820, fixed(0x20), Destination::All),
        ];
        for (value, action, destination) in cases {
            assert_eq!(decode_icr(value), Ok(IcrRequest { action, destination }), "{value:#x}");
        }
    }

    #[test]
    fn r_v3_smi_is_refused() {
        assert_eq!(decode_icr(0x0000_0001_0000_0200), Err(IcrRefused::Smi));
        assert_eq!(decode_icr(0x000C_0200), Err(IcrRefused::Smi));
        assert_eq!(IcrRefused::Smi.effect(), RefusalEffect::Dropped);
    }

    #[test]
    fn r_v3_extint_and_remote_read_are_refused() {
        assert_eq!(decode_icr(0x0000_0001_0000_0720), Err(IcrRefused::ExtInt));
        assert_eq!(decode_icr(0x0000_0001_0000_0320), Err(IcrRefused::RemoteRead));
    }

    #[test]
    fn r_v3_reserved_bits_are_a_fault_and_the_busy_bit_is_not() {
        for bit in (0..32).filter(|bit| ICR_RESERVED >> bit & 1 == 1) {
            assert_eq!(decode_icr(0x30 | 1 << bit), Err(IcrRefused::ReservedBits), "bit {bit}");
        }
        assert_eq!(IcrRefused::ReservedBits.effect(), RefusalEffect::GeneralProtection);
        assert!(decode_icr(0x1030).is_ok());
    }

    #[test]
    fn r_s2_vectors_below_16_become_an_esr_bit() {
        for vector in 0..16u8 {
            let refused = decode_icr(u64::from(vector)).unwrap_err();
            assert_eq!(refused, IcrRefused::IllegalVector { vector });
            assert_eq!(refused.effect(), RefusalEffect::SendIllegalVector);
            // For a start-up IPI the same field is a page number, and small ones are usual.
            assert!(decode_icr(0x0000_0001_0000_0600 | u64::from(vector)).is_ok());
        }
    }

    #[test]
    fn r_v5_init_and_sipi_never_hit_their_sender_by_shorthand() {
        for value in [0x0004_4500, 0x0008_4500, 0x0004_0610, 0x0008_0610] {
            assert_eq!(decode_icr(value), Err(IcrRefused::Shorthand), "{value:#x}");
        }
        assert!(decode_icr(0x000C_4500).is_ok());
        assert!(decode_icr(0x000C_0610).is_ok());
        // INIT de-assert "all including self", the only form the old algorithm has.
        let deassert = decode_icr(0x0008_8500).unwrap();
        assert_eq!(deassert.action, IcrAction::InitDeassert);
    }

    proptest! {
        #[test]
        fn r_s2_no_random_write_yields_more_than_its_class(value: u64) {
            let mode = (value >> 8) & 7;
            if let Ok(request) = decode_icr(value) {
                prop_assert_eq!(value & ICR_RESERVED, 0);
                match request.action {
                    IcrAction::Fixed { vector, lowest_priority } => {
                        prop_assert!(vector.get() >= 16);
                        prop_assert_eq!(mode, u64::from(lowest_priority));
                    }
                    IcrAction::Nmi => prop_assert_eq!(mode, 4),
                    IcrAction::Init | IcrAction::InitDeassert => prop_assert_eq!(mode, 5),
                    IcrAction::StartUp { .. } => prop_assert_eq!(mode, 6),
                }
            }
        }
    }
}
