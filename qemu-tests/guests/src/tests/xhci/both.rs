//! MSI and MSI-X of one function have messages of their own (A3, S2). PCI 3.0, 6.8.2: both on at once is undefined.

use super::{MESSAGES, ORDER, Xhci};
use crate::runtime::arrivals::{each_arrives, settle, traps};
use crate::runtime::pci::Message;
use crate::runtime::registry::tests;
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{irq, smp};

tests! { "xhci", Machine:
    a3_xhci_msi_and_msix_keep_their_messages_apart,
    s2_xhci_msi_and_msix_on_together_stay_the_guests,
}

const MSI: u8 = 0x50;
const MSIX: u8 = 0x90;

/// Every entry of MSI-X to CPU 1, and open.
fn program_msix(xhci: &Xhci) {
    for entry in 0..MESSAGES {
        xhci.msix.program(entry, Message::to(1, MSIX + entry as u8));
        xhci.msix.mask(entry, false);
    }
}

fn a3_xhci_msi_and_msix_keep_their_messages_apart() -> Outcome {
    smp::others()?;
    let xhci = Xhci::find()?;
    for _ in 0..3 {
        xhci.by_msi(Message::to(0, MSI), ORDER);
        for message in [0, 1, 15] {
            each_arrives(0, MSI + message, 2, || xhci.raise(message.into()))?;
        }
        xhci.msi.control(false, ORDER);
        xhci.msix.control(true, false);
        xhci.switch_on();
        program_msix(&xhci);
        for entry in [0, 1, 15] {
            each_arrives(1, MSIX + entry, 2, || xhci.raise(entry.into()))?;
        }
        // Masked entries, off: MSI's messages go as they went.
        (0..MESSAGES).for_each(|entry| xhci.msix.mask(entry, true));
        xhci.msix.control(false, false);
        xhci.msi.control(true, ORDER);
        for message in [0, 1, 15] {
            each_arrives(0, MSI + message, 2, || xhci.raise(message.into()))?;
        }
    }
    xhci.rest();
    Ok(())
}

/// One interrupt by the one or by the other, and none beside it. Whoever is left alone goes on.
fn s2_xhci_msi_and_msix_on_together_stay_the_guests() -> Outcome {
    smp::others()?;
    let xhci = Xhci::find()?;
    xhci.by_msi(Message::to(0, MSI), ORDER);
    xhci.msix.control(true, false);
    xhci.switch_on();
    program_msix(&xhci);
    for message in 0..MESSAGES {
        let (msi, msix) = (MSI + message as u8, MSIX + message as u8);
        let taken = || irq::count(0, msi) + irq::count(1, msix);
        let (before, all): (u64, u64) = (taken(), traps().iter().sum());
        xhci.raise(message);
        settle();
        ensure_eq!(taken() - before, 1, "interrupts by message {message} of either");
        ensure_eq!(traps().iter().sum::<u64>() - all, 1, "traps by message {message}");
    }
    xhci.msix.control(false, false);
    each_arrives(0, MSI + 5, 2, || xhci.raise(5))?;
    xhci.msix.control(true, false);
    xhci.switch_on();
    xhci.msi.control(false, 0);
    each_arrives(1, MSIX + 5, 2, || xhci.raise(5))?;
    xhci.rest();
    Ok(())
}
