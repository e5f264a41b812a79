//! A stack, an IDT and handlers' entries in 2 MiB pages of their own, which can be hidden from the second stage one by
//! one: the next access exits, and where that access belongs to the delivery of an event, the exit cuts it short.

#![expect(unsafe_code, reason = "moves the IDT and the handlers' entries")]

use crate::runtime::text::{Outcome, ensure, fail};
use crate::runtime::{boot, catch, hypercall, tables};

/// What a round hides, as bits.
pub const NOTHING: u32 = 0;
pub const STACK: u32 = 1;
pub const TABLE: u32 = 2;
pub const CODE: u32 = 4;

/// Every set of pages whose loss cuts a delivery short once or twice, comes right after it, or both.
pub const SETS: [u32; 5] = [STACK, TABLE, STACK | TABLE, CODE, STACK | TABLE | CODE];

const PAGE: u64 = 2 << 20;

/// The pages, in use.
pub struct Pages {
    base: u64,
}

impl Pages {
    /// Where the first word is pushed 8 below.
    pub fn stack_top(&self) -> u64 {
        self.base + PAGE - 256
    }

    fn table(&self) -> u64 {
        self.base + PAGE
    }

    fn code(&self) -> u64 {
        self.base + 2 * PAGE
    }

    /// Hides the pages of `set`: until the event that is to be cut short, nothing may touch them.
    pub fn hide(&self, set: u32) -> Outcome {
        for (bit, address) in
            [(STACK, self.stack_top()), (TABLE, self.table()), (CODE, self.code())]
        {
            ensure!(
                set & bit == 0 || hypercall::hide_page(address),
                "{address:#x} cannot be hidden"
            );
        }
        Ok(())
    }
}

/// How many deliveries the loss of `set` cuts short: handlers are entered when the delivery is over.
pub fn cuts(set: u32) -> u64 {
    u64::from((set & (STACK | TABLE)).count_ones())
}

/// Runs `f` with an IDT and handlers' entries in pages of their own; a stack page is ready.
pub fn with_pages(f: impl FnOnce(&Pages) -> Outcome) -> Outcome {
    unsafe extern "C" {
        static __image_end: u8;
    }
    let pages = Pages { base: (boot::ram_end() & !(PAGE - 1)) - 3 * PAGE };
    ensure!((&raw const __image_end) as u64 <= pages.base, "the VM has too little memory");
    // A test that failed may have left it hidden; the other two are written below.
    // SAFETY: free RAM behind the image.
    unsafe { (pages.stack_top() as *mut u64).write_volatile(0) };
    for vector in 0..=255u8 {
        let entry = pages.code() + 16 * u64::from(vector);
        // SAFETY: free RAM behind the image. The code is `jmp [rip]`, then the address of the vector's stub.
        unsafe {
            (entry as *mut u64).write(0x25FF);
            ((entry + 6) as *mut u64).write_unaligned(tables::default_entry(vector));
        }
        tables::set_gate(vector, entry);
    }
    // SAFETY: free RAM of 2 MiB; the table is 4 KiB long.
    unsafe {
        core::ptr::copy_nonoverlapping(tables::idt() as *const u8, pages.table() as *mut u8, 4096);
    }
    tables::load_idt(pages.table());
    let outcome = catch::catch(|| f(&pages));
    tables::load_idt(tables::idt());
    match outcome {
        Ok(outcome) => outcome,
        Err(caught) => fail!("{caught}"),
    }
}
