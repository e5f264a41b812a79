//! Its MSI, whose message has a mask and a pending bit (A3). PCI 3.0, 6.8.1.7 and 6.8.1.8; 82576 data sheet, 7.3.2.

use super::{EIMC, GPIE, Igb};
use crate::runtime::arrivals::{each_arrives, nothing_arrives};
use crate::runtime::pci::{Message, Msi};
use crate::runtime::registry::tests;
use crate::runtime::smp;
use crate::runtime::text::{Outcome, ensure_eq};

tests! { "msix", Machine: a3_igb_msi_waits_behind_its_mask, a3_igb_msi_moves_behind_its_mask }

/// Causes that stand (cleared by reading), are set, are let through or not; by their alias addresses, as QEMU has no others.
const ICR: u64 = 0x00C0;
const ICS: u64 = 0x00C8;
const IMS: u64 = 0x00D0;
const IMC: u64 = 0x00D8;
/// A change of the link.
const LINK: u32 = 1 << 2;

/// The device with MSI instead of MSI-X: off, not masked.
fn by_msi() -> Outcome<(Igb, Msi)> {
    smp::others()?;
    let igb = Igb::find()?;
    igb.msix.control(false, false);
    igb.write(EIMC, !0);
    igb.write(GPIE, 0);
    igb.write(IMC, !0);
    igb.write(IMS, LINK);
    igb.read(ICR);
    let msi = Msi::of(igb.function)?;
    msi.enable(false);
    ensure_eq!(msi.mask(0)?, 0, "masks");
    Ok((igb, msi))
}

/// A new cause: the one before is forgotten.
fn raise(igb: &Igb) {
    igb.read(ICR);
    igb.write(ICS, LINK);
}

fn rest(igb: &Igb, msi: &Msi) -> Outcome {
    msi.enable(false);
    msi.mask(0)?;
    igb.write(IMC, !0);
    igb.read(ICR);
    igb.rest();
    Ok(())
}

fn a3_igb_msi_waits_behind_its_mask() -> Outcome {
    let (igb, msi) = by_msi()?;
    for (target, vector) in [(0, 0x51), (1, 0x9C)] {
        msi.program(Message::to(target, vector));
        msi.enable(true);
        each_arrives(target, vector, 3, || raise(&igb))?;
        // It has one message: one bit.
        ensure_eq!(msi.mask(!0)?, 1, "masks");
        ensure_eq!(msi.pending()?, 0, "pending bits before");
        for _ in 0..3 {
            nothing_arrives(format_args!("MSI, masked"), || raise(&igb))?;
            ensure_eq!(msi.pending()?, 1, "pending bits");
        }
        each_arrives(target, vector, 1, || {
            let _ = msi.mask(0);
        })?;
        ensure_eq!(msi.pending()?, 0, "pending bits afterwards");
        each_arrives(target, vector, 3, || raise(&igb))?;
        msi.enable(false);
    }
    rest(&igb, &msi)
}

fn a3_igb_msi_moves_behind_its_mask() -> Outcome {
    let (igb, msi) = by_msi()?;
    msi.program(Message::to(0, 0x40));
    msi.enable(true);
    for (target, vector) in [(0, 0x62), (1, 0x62), (1, 0xD3), (0, 0xD3)] {
        msi.mask(1)?;
        nothing_arrives(format_args!("MSI, masked"), || raise(&igb))?;
        // What waits goes where it was sent last.
        msi.program(Message::to(target, vector));
        each_arrives(target, vector, 1, || {
            let _ = msi.mask(0);
        })?;
    }
    rest(&igb, &msi)
}
