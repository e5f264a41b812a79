//! The reset and power-off ports of the guest interface.
//!
//! Called by the port I/O exit handler for byte accesses; it acts on the [`PowerAction`]. No locks, no state.
//! Source: docs/src/guest-interface.md; ACPI 6.5, 4.8.3.7 "Sleep Control and Status Registers" and 4.8.3.6
//! "Reset Register".

/// Reset control register of PC chipsets.
pub const RESET_PORT: u16 = 0xCF9;
/// ACPI SLEEP_CONTROL_REG.
pub const SLEEP_CONTROL_PORT: u16 = 0xB004;
/// ACPI SLEEP_STATUS_REG.
pub const SLEEP_STATUS_PORT: u16 = 0xB005;

/// SLP_TYP of the guest's `_S5` package.
pub const SLEEP_TYPE_S5: u8 = 5;

/// What a write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum PowerAction {
    /// Nothing.
    None,
    /// Restart the VM.
    Reset,
    /// Switch the VM off.
    PowerOff,
}

/// A byte written to `port`. Ports that are not of this module do nothing.
pub const fn write(port: u16, value: u8) -> PowerAction {
    /// SYS_RST asks for a hard reset, RST_CPU triggers it; with RST_CPU alone old chipsets send INIT, which no
    /// guest of ours needs.
    const RESET: u8 = 1 << 1 | 1 << 2;
    const SLP_EN: u8 = 1 << 5;
    match port {
        RESET_PORT if value & RESET == RESET => PowerAction::Reset,
        SLEEP_CONTROL_PORT if value & SLP_EN != 0 && value >> 2 & 7 == SLEEP_TYPE_S5 => {
            PowerAction::PowerOff
        }
        _ => PowerAction::None,
    }
}

/// A byte read from `port`. SLEEP_STATUS never shows a wake-up, since no guest ever sleeps; the others cannot be
/// read and give ones, like ports without a device.
pub const fn read(port: u16) -> u8 {
    if port == SLEEP_STATUS_PORT { 0 } else { 0xFF }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s8_only_the_documented_values_end_a_vm() {
        for value in 0..=255u8 {
            let reset = if value & 6 == 6 { PowerAction::Reset } else { PowerAction::None };
            assert_eq!(write(RESET_PORT, value), reset, "{value:#x}");
            let off = value & 0x3C == 0x34;
            let off = if off { PowerAction::PowerOff } else { PowerAction::None };
            assert_eq!(write(SLEEP_CONTROL_PORT, value), off, "{value:#x}");
            assert_eq!(write(SLEEP_STATUS_PORT, value), PowerAction::None);
            assert_eq!(write(0xCF8, value), PowerAction::None);
        }
        assert_eq!(read(SLEEP_STATUS_PORT), 0);
    }

    #[test]
    fn r_v5_linux_reboots_through_cf9() {
        // native_machine_emergency_restart, BOOT_CF9_FORCE: read, clear the reset code, arm, fire.
        let base = read(RESET_PORT) & !0x0E;
        assert_eq!(write(RESET_PORT, base | 0x02), PowerAction::None);
        assert_eq!(write(RESET_PORT, base | 0x0E), PowerAction::Reset);
    }
}
