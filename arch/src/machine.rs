//! Ways out of the machine: ending an emulator, resetting, and the NMI status port.

#![expect(unsafe_code, reason = "port I/O")]

use x86::io::{inb, outb};

/// How the machine ends when every VM has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExitPort {
    /// There is none: halt.
    #[default]
    None,
    /// Bochs, port 0x8900 of its `unmapped` device.
    Bochs,
    /// QEMU's `isa-debug-exit` at 0xF4.
    DebugExit,
    /// Restart the machine.
    Reboot,
}

/// Value that makes `isa-debug-exit` end QEMU with status 0x21.
const DEBUG_EXIT_SUCCESS: u8 = 0x10;
/// Value that makes it end with status 0x23.
const DEBUG_EXIT_FAILURE: u8 = 0x11;

/// Ends the machine. Returns only if the port does not exist.
pub fn exit(port: ExitPort, success: bool) {
    // SAFETY: these ports do what they are for; all guests have stopped.
    unsafe {
        match port {
            ExitPort::None => {}
            ExitPort::Bochs if success => outb(0x8900, b'D'),
            ExitPort::Bochs => b"Shutdown".iter().for_each(|&b| outb(0x8900, b)),
            ExitPort::DebugExit => {
                outb(0xF4, if success { DEBUG_EXIT_SUCCESS } else { DEBUG_EXIT_FAILURE });
            }
            ExitPort::Reboot => outb(0xCF9, 0x06),
        }
    }
}

/// True if the chipset reports an NMI source of its own: SERR# (bit 7) or IOCHK# (bit 6) in NMI
/// status and control, port 0x61.
pub fn nmi_source_pending() -> bool {
    // SAFETY: reading port 0x61 changes nothing but the refresh toggle.
    let status = unsafe { inb(0x61) };
    // A machine without the port reads as ones.
    status != 0xFF && status & 0xC0 != 0
}

/// Reads a port of the PIT or its gate; for the device model that passes them through.
pub fn pit_read(port: u16) -> u8 {
    debug_assert!(matches!(port, 0x40..=0x43 | 0x61), "not a port of the PIT");
    // SAFETY: the PIT belongs to the VM on whose behalf this is called; nothing else depends on
    // it once the clocks are measured.
    unsafe { inb(port) }
}

/// Writes a port of the PIT or its gate.
pub fn pit_write(port: u16, value: u8) {
    debug_assert!(matches!(port, 0x40..=0x43 | 0x61), "not a port of the PIT");
    // SAFETY: as above.
    unsafe { outb(port, value) };
}
