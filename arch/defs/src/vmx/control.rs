//! VM-execution, exit and entry controls, and how a wish is fitted to what a CPU offers.
//! SDM volume 3, sections 25.6 to 25.8 and appendix A.

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls, SDM table 25-5.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pin: u32 {
        /// An external interrupt causes an exit. Off in direct mode: the guest's IDT takes it.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// An NMI causes an exit: the only way to take a core back.
        const NMI_EXITING = 1 << 3;
        /// NMI blocking is virtual, so that a guest in its NMI handler can still be kicked.
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts down in the guest.
        const PREEMPTION_TIMER = 1 << 6;
    }

    /// Primary processor-based controls, SDM table 25-6.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Proc: u32 {
        /// Exit as soon as the guest could take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// TSC offsetting (requirement C5 keeps it off).
        const TSC_OFFSETTING = 1 << 3;
        /// HLT causes an exit.
        const HLT_EXITING = 1 << 7;
        /// MWAIT causes an exit.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC causes an exit.
        const RDPMC_EXITING = 1 << 11;
        /// CR8 loads cause an exit.
        const CR8_LOAD_EXITING = 1 << 19;
        /// CR8 stores cause an exit.
        const CR8_STORE_EXITING = 1 << 20;
        /// Exit as soon as virtual-NMI blocking ends.
        const NMI_WINDOW = 1 << 22;
        /// All port I/O causes an exit.
        const UNCONDITIONAL_IO = 1 << 24;
        /// I/O bitmaps choose which ports exit.
        const IO_BITMAPS = 1 << 25;
        /// MSR bitmaps choose which MSRs exit.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR causes an exit.
        const MONITOR_EXITING = 1 << 29;
        /// The secondary controls count.
        const SECONDARY = 1 << 31;
    }

    /// Secondary processor-based controls, SDM table 25-7.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Proc2: u32 {
        /// Second-stage translation.
        const EPT = 1 << 1;
        /// RDTSCP does not raise #UD.
        const RDTSCP = 1 << 3;
        /// TLB entries are tagged per virtual processor.
        const VPID = 1 << 5;
        /// Real mode and unpaged protected mode run natively.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// INVPCID does not raise #UD.
        const INVPCID = 1 << 12;
        /// XSAVES and XRSTORS do not raise #UD.
        const XSAVES = 1 << 20;
    }

    /// VM-exit controls, SDM table 25-13.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Exit: u32 {
        /// Save DR7 and DEBUGCTL.
        const SAVE_DEBUG = 1 << 2;
        /// The host is 64-bit.
        const HOST_64 = 1 << 9;
        /// Save the guest's PAT.
        const SAVE_PAT = 1 << 18;
        /// Load the host's PAT.
        const LOAD_PAT = 1 << 19;
        /// Save the guest's EFER.
        const SAVE_EFER = 1 << 20;
        /// Load the host's EFER.
        const LOAD_EFER = 1 << 21;
        /// Save the preemption timer.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
    }

    /// VM-entry controls, SDM table 25-15.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Entry: u32 {
        /// Load DR7 and DEBUGCTL.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in IA-32e mode.
        const IA32E_GUEST = 1 << 9;
        /// Load the guest's PAT.
        const LOAD_PAT = 1 << 14;
        /// Load the guest's EFER.
        const LOAD_EFER = 1 << 15;
    }
}

/// Which control word a capability MSR describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum ControlKind {
    Pin,
    Proc,
    Proc2,
    Exit,
    Entry,
}

impl ControlKind {
    /// The capability MSR: IA32_VMX_TRUE_*_CTLS where there is one (SDM appendix A.3 to A.5).
    /// `has_true` is bit 55 of IA32_VMX_BASIC.
    pub const fn capability_msr(self, has_true: bool) -> u32 {
        match (self, has_true) {
            (Self::Pin, false) => 0x481,
            (Self::Proc, false) => 0x482,
            (Self::Exit, false) => 0x483,
            (Self::Entry, false) => 0x484,
            (Self::Proc2, _) => 0x48B,
            (Self::Pin, true) => 0x48D,
            (Self::Proc, true) => 0x48E,
            (Self::Exit, true) => 0x48F,
            (Self::Entry, true) => 0x490,
        }
    }

    /// The manual's name of this control word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin-based controls",
            Self::Proc => "primary processor-based controls",
            Self::Proc2 => "secondary processor-based controls",
            Self::Exit => "VM-exit controls",
            Self::Entry => "VM-entry controls",
        }
    }
}

/// Control bits that we need and this CPU does not allow to be 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingControl {
    /// The control word.
    pub kind: ControlKind,
    /// The missing bits.
    pub bits: u32,
}

/// Fits the wanted bits to a capability MSR: its low half are bits that must be 1, its high half
/// bits that may be 1 (SDM appendix A.3.1).
///
/// # Errors
/// The wanted bits that the CPU does not allow.
pub const fn fit_controls(
    kind: ControlKind,
    wanted: u32,
    capability: u64,
) -> Result<u32, MissingControl> {
    let must = capability as u32;
    let may = (capability >> 32) as u32;
    if wanted & !may != 0 {
        return Err(MissingControl { kind, bits: wanted & !may });
    }
    Ok(wanted | must)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_bits_join_the_mandatory_ones() {
        let capability = (0xFF_u64 << 32) | 0x16;
        assert_eq!(fit_controls(ControlKind::Pin, 0x08, capability), Ok(0x1E));
    }

    #[test]
    fn r_s10_a_missing_control_is_named() {
        let capability = (0x17_u64 << 32) | 0x16;
        assert_eq!(
            fit_controls(ControlKind::Pin, 0x28, capability),
            Err(MissingControl { kind: ControlKind::Pin, bits: 0x28 })
        );
    }
}
