//! IA32_FEATURE_CONTROL: whether VMXON is allowed on a core, or can be. SDM volume 3, section 24.7.

/// The register's number.
pub const IA32_FEATURE_CONTROL: u32 = 0x3A;
/// Writes fault until the next reset.
const LOCK: u64 = 1 << 0;
/// VMXON is allowed outside SMX operation.
const VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// What the register says about VMXON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureControl {
    /// VMXON is allowed.
    On,
    /// Nobody has decided yet: writing this value allows it.
    Unlocked {
        /// The register's other bits as they were.
        write: u64,
    },
    /// The firmware has forbidden it until the next reset.
    LockedOff,
}

impl FeatureControl {
    /// Reads the register's value.
    pub const fn of(value: u64) -> Self {
        if value & LOCK == 0 {
            // VMXON faults without the lock, whatever the other bits are.
            Self::Unlocked { write: value | LOCK | VMX_OUTSIDE_SMX }
        } else if value & VMX_OUTSIDE_SMX == 0 {
            Self::LockedOff
        } else {
            Self::On
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firmware_leaves_behind() {
        assert_eq!(FeatureControl::of(5), FeatureControl::On);
        assert_eq!(FeatureControl::of(0xFF07), FeatureControl::On);
        assert_eq!(FeatureControl::of(0), FeatureControl::Unlocked { write: 5 });
        // The bit alone allows nothing, and what else is set stays.
        assert_eq!(FeatureControl::of(4), FeatureControl::Unlocked { write: 5 });
        let write = 0x10_0007;
        assert_eq!(FeatureControl::of(0x10_0002), FeatureControl::Unlocked { write });
    }

    #[test]
    fn r_s10_vmx_that_is_locked_off_is_seen() {
        assert_eq!(FeatureControl::of(1), FeatureControl::LockedOff);
        // Inside SMX only: a VMXON outside of it faults all the same.
        assert_eq!(FeatureControl::of(3), FeatureControl::LockedOff);
        assert_eq!(FeatureControl::of(!4), FeatureControl::LockedOff);
    }
}
