//! Its configuration space: both ways to it, BAR and MSI registers (S8). PCI 3.0, 6.2.5.1, 6.8.1.

use super::{Edu, ID};
use crate::runtime::acpi;
use crate::runtime::arrivals::each_arrives;
use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::hypercall;
use crate::runtime::pci::{self, BAR0, COMMAND, Message};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, Text, ensure, ensure_eq};

tests! { "edu", Machine:
    s8_edu_configuration_by_both_ways,
    s8_edu_bar_is_sized_and_moved,
    s8_edu_msi_by_the_window,
}

/// Free of devices in a bare q35 and in a guest alike.
const ELSEWHERE: u32 = 0xD000_0000;

fn window() -> Outcome<u64> {
    acpi::configuration_window().ok_or_else(|| Text::from("no MCFG"))
}

fn s8_edu_configuration_by_both_ways() -> Outcome {
    let (edu, window) = (Edu::find()?, window()?);
    for offset in (0..0x100).step_by(4) {
        let by_ports = edu.function.read(offset);
        let by_window = mmio_read(edu.function.in_window(window, offset));
        ensure_eq!(by_window, by_ports, "register {offset:#x} by both ways");
    }
    detail(format_args!("window={window:#x} function={:#x}", edu.function.number()));
    Ok(())
}

fn s8_edu_bar_is_sized_and_moved() -> Outcome {
    let edu = Edu::find()?;
    let own = edu.function.read(BAR0);
    let id = edu.read(ID);
    let put = |at: u32| {
        edu.function.command(0);
        edu.function.write(BAR0, at);
    };
    put(!0);
    let size = edu.function.read(BAR0);
    put(ELSEWHERE);
    edu.function.command(pci::MEMORY | pci::NO_INTX);
    let (there, here) = (mmio_read(u64::from(ELSEWHERE)), mmio_read(edu.registers));
    put(own);
    edu.rest();
    ensure_eq!(size, 0xFFF0_0000, "BAR after ones were written: 1 MiB, 32 bits");
    // Beeline leaves the device where it is, so that the second stage need not change under a running guest.
    let (place, left) = if hypercall::present() { (here, there) } else { (there, here) };
    ensure_eq!(place, id, "id register where the device is");
    // Nobody answers there: hardware gives ones, QEMU zeros.
    ensure!([0, !0].contains(&left), "{left:#x} where it is not");
    ensure_eq!(edu.read(ID), id, "id register back in its place");
    Ok(())
}

fn s8_edu_msi_by_the_window() -> Outcome {
    let (edu, window) = (Edu::find()?, window()?);
    let at = |offset| edu.function.in_window(window, edu.msi.offset() + offset);
    let message = Message::to(0, 0x59);
    mmio_write(at(4), message.address as u32);
    mmio_write(at(8), 0);
    mmio_write(at(12), message.data);
    let control = mmio_read(at(0));
    mmio_write(at(0), control | 1 << 16);
    ensure_eq!(edu.msi.message(), message, "message by the ports");
    each_arrives(0, 0x59, 10, || edu.raise(1))?;
    mmio_write(at(0), control & !(1 << 16));
    ensure_eq!(mmio_read(at(0)), control & !(1 << 16), "control word after switching MSI off");
    // The read-only half of the command register's dword does not matter.
    mmio_write(edu.function.in_window(window, COMMAND), u32::from(pci::MEMORY | pci::NO_INTX));
    ensure_eq!(edu.function.read(COMMAND) as u16, pci::MEMORY | pci::NO_INTX, "command");
    edu.rest();
    Ok(())
}
