//! DMA to where this guest has nothing (S3, S9): no data arrives or comes back, no interrupt is raised, and the guest goes on.
//! The boot's check in qemu-tests/src/check.rs wants the faults that the IOMMU records of these. VT-d specification, 5.1, 7.1.

use super::dma::{SOURCE, TARGET};
use super::{Edu, TO_MEMORY};
use crate::runtime::arrivals::{each_arrives, nothing_arrives};
use crate::runtime::pci::Message;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure};
use crate::runtime::{boot, smp};

tests! { "hostile-edu", Beeline:
    s3_edu_dma_forges_no_interrupt,
    s9_edu_dma_outside_of_ram_is_blocked,
}

const COUNT: usize = 512;
const MARK: u8 = 0xC3;
const VECTOR: u8 = 0x6C;

/// The device still reaches this guest's memory, and its CPUs.
fn still_works(edu: &Edu) -> Outcome {
    SOURCE.fill(0x77);
    TARGET.fill(0);
    edu.dma(0, SOURCE.address(), 0, 4096)?;
    edu.dma(TO_MEMORY, TARGET.address(), 0, 4096)?;
    ensure!((0..4096).all(|index| TARGET.get(index) == 0x77), "DMA to own memory afterwards");
    for target in 0..smp::count() {
        edu.by_msi(Message::to(target, VECTOR));
        each_arrives(target, VECTOR, 10, || edu.raise(1))?;
    }
    edu.rest();
    Ok(())
}

fn s9_edu_dma_outside_of_ram_is_blocked() -> Outcome {
    let edu = Edu::find()?;
    let end = boot::ram_end();
    // Behind the RAM (where the machine has more of it, the hypervisor's and others'), the hole below 1 MiB, the windows of the
    // PCI devices and of the chipset, the IOAPIC.
    let places = [
        end,
        end + (1 << 20),
        2 * end,
        4 * end,
        0xB_8000,
        0x4000_0000,
        0x7FFF_F000,
        0xD800_0000,
        0xE000_0000,
        0xFEC0_0000,
        0xFFFF_F000,
    ];
    for place in places {
        // Outwards: the mark must not be seen by whoever owns the memory, which only the recorded fault can tell.
        SOURCE.fill(MARK);
        edu.dma(0, SOURCE.address(), 0, COUNT as u64)?;
        edu.dma(TO_MEMORY, place, 0, COUNT as u64)?;
        // Inwards: neither this nor what was there before the mark comes back.
        SOURCE.fill(0x3C);
        edu.dma(0, SOURCE.address(), 0, COUNT as u64)?;
        edu.dma(0, place, 0, COUNT as u64)?;
        TARGET.fill(MARK);
        edu.dma(TO_MEMORY, TARGET.address(), 0, COUNT as u64)?;
        // A blocked read leaves the device with what it had, or with a filler.
        let first = TARGET.get(0);
        ensure!([0x3C, 0, 0xFF].contains(&first), "read {first:#x} from {place:#x}");
        let same = (0..COUNT).all(|index| TARGET.get(index) == first);
        ensure!(same, "content of {place:#x} was read");
    }
    detail(format_args!("places={}", places.len()));
    still_works(&edu)
}

/// Four bytes to the interrupt range are a message. Those of the compatibility format are left out: the emulator lets them pass
/// although the register says that they are blocked, which the boot's check reads instead.
fn s3_edu_dma_forges_no_interrupt() -> Outcome {
    let edu = Edu::find()?;
    // The remappable format: a handle in bits 19:5 and 2, the data's subhandle added to it where bit 3 is set. No handle that
    // far up was given to this guest's device.
    let handles = [0x8000u64, 0xFFFF, 0xABCD, 0x7FFF];
    let messages = handles.iter().flat_map(|handle| {
        let address = 0xFEE0_0010 | (handle & 0x7FFF) << 5 | handle >> 15 << 2;
        [(address, 0), (address | 8, 0u32), (address, 0x6C)]
    });
    let mut sent = 0;
    for (address, data) in messages {
        data.to_le_bytes().iter().enumerate().for_each(|(index, byte)| SOURCE.set(index, *byte));
        edu.dma(0, SOURCE.address(), 0, 4)?;
        let mut outcome = Ok(());
        nothing_arrives(format_args!("forged message {data:#x} to {address:#x}"), || {
            outcome = edu.dma(TO_MEMORY, address, 0, 4);
        })?;
        outcome?;
        sent += 1;
    }
    detail(format_args!("messages={sent}"));
    still_works(&edu)
}
