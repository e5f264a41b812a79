//! Its DMA: to all of the RAM that is this machine's (S9).

#![expect(unsafe_code, reason = "memory that a device writes")]

use super::{BUFFER_SIZE, DMA_DONE, Edu, INTERRUPT, TO_MEMORY, acknowledge};
use crate::runtime::pci::{self, Message};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{arrivals, boot, cpu, irq, time};
use core::cell::UnsafeCell;

tests! { "edu", Machine:
    s9_edu_dma_reaches_own_memory,
    s9_edu_dma_sees_guest_physical_addresses,
    s9_edu_dma_ends_with_an_msi,
    s9_edu_dma_needs_bus_master,
}

const PAGE: usize = BUFFER_SIZE as usize;

/// A page of RAM for DMA.
#[repr(C, align(4096))]
pub struct Page(UnsafeCell<[u8; PAGE]>);
// SAFETY: only the boot CPU, which runs the tests, and the device touch it.
unsafe impl Sync for Page {}

/// Where data comes from and where it goes to.
pub static SOURCE: Page = Page(UnsafeCell::new([0; PAGE]));
pub static TARGET: Page = Page(UnsafeCell::new([0; PAGE]));

impl Page {
    /// Its physical address: memory is identity-mapped.
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }

    fn byte(&self, index: usize) -> *mut u8 {
        self.0.get().cast::<u8>().wrapping_add(index % PAGE)
    }

    /// The byte at `index` of the page.
    pub fn get(&self, index: usize) -> u8 {
        // SAFETY: inside the page, which nobody else uses; the device may have written it.
        unsafe { self.byte(index).read_volatile() }
    }

    /// Writes the byte at `index` of the page.
    pub fn set(&self, index: usize, value: u8) {
        // SAFETY: as for `get`.
        unsafe { self.byte(index).write_volatile(value) };
    }

    /// Fills it with random bytes.
    pub fn randomise(&self, random: &mut Random) {
        (0..PAGE).for_each(|index| self.set(index, random.next() as u8));
    }

    /// Fills it with one byte.
    pub fn fill(&self, value: u8) {
        (0..PAGE).for_each(|index| self.set(index, value));
    }
}

fn s9_edu_dma_reaches_own_memory() -> Outcome {
    let edu = Edu::find()?;
    let mut random = Random::new(30);
    // Offset in the pages, offset in the device, length.
    let moves = [(0, 0, 4096), (0, 0, 1), (3, 5, 1), (1, 0, 4095), (4092, 64, 4), (2000, 4095, 1)];
    for (at, offset, count) in moves {
        SOURCE.randomise(&mut random);
        TARGET.fill(0xA5);
        edu.dma(0, SOURCE.address() + at, offset, count)?;
        edu.dma(TO_MEMORY, TARGET.address() + at, offset, count)?;
        for index in 0..PAGE {
            let inside = (at..at + count).contains(&(index as u64));
            let expected = if inside { SOURCE.get(index) } else { 0xA5 };
            ensure_eq!(TARGET.get(index), expected, "byte {index} of {count} from {at}");
        }
    }
    detail(format_args!("moves={}", 2 * moves.len()));
    Ok(())
}

/// Pages at many places of the RAM, whose guest-physical addresses may be anybody's on the machine: what the device reads and
/// writes there is what this CPU sees there.
fn s9_edu_dma_sees_guest_physical_addresses() -> Outcome {
    unsafe extern "C" {
        static __image_end: u8;
    }
    let edu = Edu::find()?;
    let first = ((&raw const __image_end) as u64).next_multiple_of(2 << 20);
    // Half of it on the page before a 2 MiB boundary. The last pages of a bare machine's RAM are the firmware's.
    let end = boot::ram_end().min(first + (18 << 20));
    ensure!(end > first, "the RAM ends at {end:#x}");
    for middle in (first + (2 << 20)..end).step_by(4 << 20) {
        let place = middle - BUFFER_SIZE / 2;
        // SAFETY: RAM behind the image that nobody uses; the loader's modules were looked at before.
        let byte = |index: u64| (place + index) as *mut u8;
        for index in 0..BUFFER_SIZE {
            // SAFETY: as above.
            unsafe { byte(index).write_volatile((index * 7 + middle / BUFFER_SIZE) as u8) };
        }
        edu.dma(0, place, 0, BUFFER_SIZE)?;
        for index in 0..BUFFER_SIZE {
            // SAFETY: as above.
            unsafe { byte(index).write_volatile(0) };
        }
        edu.dma(TO_MEMORY, place, 0, BUFFER_SIZE)?;
        for index in 0..BUFFER_SIZE {
            // SAFETY: as above.
            let seen = unsafe { byte(index).read_volatile() };
            ensure_eq!(
                seen,
                (index * 7 + middle / BUFFER_SIZE) as u8,
                "byte at {:#x}",
                place + index
            );
        }
    }
    Ok(())
}

fn s9_edu_dma_ends_with_an_msi() -> Outcome {
    const VECTOR: u8 = 0x95;
    let edu = Edu::find()?;
    irq::hook(VECTOR, acknowledge);
    edu.by_msi(Message::to(0, VECTOR));
    let before = irq::count_here(VECTOR);
    for i in 1..=3 {
        SOURCE.fill(i);
        edu.dma(0, SOURCE.address(), 0, 8)?;
        edu.dma(TO_MEMORY | INTERRUPT, TARGET.address(), 0, 8)?;
        let came = time::wait(time::LONG, || {
            cpu::take_pending();
            irq::count_here(VECTOR) - before >= u64::from(i)
        });
        ensure!(came, "the MSI of DMA {i} was lost");
        ensure_eq!(TARGET.get(7), i, "data at its interrupt");
    }
    arrivals::settle();
    ensure_eq!(irq::count_here(VECTOR) - before, 3, "interrupts");
    ensure_eq!(edu.status() & DMA_DONE, 0, "status afterwards");
    edu.rest();
    Ok(())
}

fn s9_edu_dma_needs_bus_master() -> Outcome {
    let edu = Edu::find()?;
    SOURCE.fill(0x11);
    edu.dma(0, SOURCE.address(), 0, BUFFER_SIZE)?;
    TARGET.fill(0x22);
    edu.function.command(pci::MEMORY | pci::NO_INTX);
    edu.dma(TO_MEMORY, TARGET.address(), 0, BUFFER_SIZE)?;
    let untouched = (0..PAGE).all(|index| TARGET.get(index) == 0x22);
    edu.rest();
    ensure!(untouched, "memory changed by DMA without bus mastership");
    edu.dma(TO_MEMORY, TARGET.address(), 0, BUFFER_SIZE)?;
    ensure!((0..PAGE).all(|index| TARGET.get(index) == 0x11), "DMA does not work afterwards");
    Ok(())
}
