//! QEMU's own account of the measured window: which exits it made and which device interrupts its IOMMU
//! remapped. It knows nothing of Beeline's counters.
//!
//! The log has one line for each, in their order over all CPUs (`bed/qemu.rs` switches it on). The exits of
//! the guest's writes to the window's port are its marks: code 0x7B, and the port in bits 31:16 of the first
//! information (AMD APM 15.10.2).

use super::devices::EXITS_PER_INTERRUPT;
use super::verdict::{Check, per_interrupt};

/// What lay in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// Messages of devices that the IOMMU remapped.
    pub interrupts: u64,
    /// Exits of every VM.
    pub exits: u64,
    /// Of these for a physical interrupt.
    pub external: u64,
}

/// Start of a line about an exit.
const EXIT: &str = "vmexit(";
/// Start of a line about a remapped message.
const MESSAGE: &str = "vtd_ir_remap_msi ";
/// Exit codes (AMD APM, appendix C): physical interrupt, port access.
const INTR: u64 = 0x60;
const IOIO: u64 = 0x7B;
/// The port of the window.
const PORT: u64 = 0xBE0;

impl Witness {
    /// What the log has between the last two marks: a window that is opened twice counts once, the last time.
    #[must_use]
    pub fn read<'a>(log: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let (mut now, mut marks, mut last) = (Self::default(), 0, Self::default());
        for line in log {
            // A line of another thread may stand before it.
            if line.contains(MESSAGE) {
                now.interrupts += 1;
            } else if let Some((code, information)) = exit(line) {
                if code == IOIO && information >> 16 & 0xFFFF == PORT {
                    (last, now) = (now, Self::default());
                    marks += 1;
                } else {
                    now.exits += 1;
                    now.external += u64::from(code == INTR);
                }
            }
        }
        (marks >= 2).then_some(last)
    }

    /// Adds what must hold of it.
    pub(super) fn checks(self, checks: &mut Vec<Check>, name: &str) {
        let Self { interrupts, exits, external } = self;
        let ratio = per_interrupt(exits, interrupts);
        checks.push(Check {
            what: format!("{name}: QEMU's log has {external} exits for interrupts (must be 0)"),
            holds: external == 0,
        });
        checks.push(Check {
            what: format!(
                "{name}: QEMU's log has {exits} exits in {interrupts} device interrupts: {ratio:.4} (below {EXITS_PER_INTERRUPT})"
            ),
            holds: ratio < EXITS_PER_INTERRUPT,
        });
    }
}

/// Code and first information of an exit.
fn exit(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once(EXIT)?;
    let mut numbers = rest.split(", ").map(|text| u64::from_str_radix(text, 16).ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "vmrun! 0000000007f8f000\n\
        vmexit(00000072, 0000000000000000, 0000000000000000, 00000000017b67d6)!\n\
        vmexit(0000007b, 000000000be00010, ffffffff816a553e, ffffffff816a553d)!\n\
        vtd_ir_remap_msi (addr 0xfee00038, data 0x0) -> (addr 0xfee03000, data 0x4021)\n\
        vmexit(0000007c, 0000000000000001, 0000000000000000, ffffffff810684c0)!\n\
        vmrun! 0000000007f8f000\n\
        vmexit(0000007b, 0000000003f80010, 0000000000000000, ffffffff816a553d)!\n\
        vtd_ir_remap_msi (addr 0xfee00058, data 0x0) -> (addr 0xfee02000, data 0x4022)\n\
        vtd_ir_remap_msi (addr 0xfee00058, data 0x0) -> (addr 0xfee02000, data 0x4022)\n\
        vmexit(0000007b, 000000000be00010, ffffffff816a553e, ffffffff816a553d)!\n\
        vmexit(0000007c, 0000000000000001, 0000000000000000, ffffffff810684c0)!\n";

    #[test]
    fn the_window_lies_between_the_last_two_marks() {
        let seen = Witness::read(LOG.lines()).unwrap();
        assert_eq!(seen, Witness { interrupts: 3, exits: 2, external: 0 });
        let interrupted = LOG.replace("0000007c", "00000060");
        assert_eq!(Witness::read(interrupted.lines()).unwrap().external, 1);
        assert_eq!(Witness::read(LOG.lines().take(5)), None);
    }

    #[test]
    fn its_checks_can_fail() {
        let failed = |witness: Witness| {
            let mut checks = Vec::new();
            witness.checks(&mut checks, "x");
            checks.iter().filter(|check| !check.holds).count()
        };
        let good = Witness { interrupts: 5898, exits: 25, external: 0 };
        assert_eq!(failed(good), 0);
        assert_eq!(failed(Witness { exits: 59, ..good }), 1);
        assert_eq!(failed(Witness { external: 1, ..good }), 1);
    }
}
