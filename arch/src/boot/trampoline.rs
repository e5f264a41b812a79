//! Starting the other cores: INIT, start-up IPI, a real-mode trampoline below 1 MiB. SDM volume
//! 3, section 9.4.4.
//!
//! Called by the boot core, one core at a time, after the final page tables are active.

#![expect(unsafe_code, reason = "writes the trampoline into low memory")]

use crate::apic::{self, PhysicalApicId};
use crate::{cpu, paging, tables, time};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};

use super::TRAMPOLINE as PAGE;

/// Byte offsets in the trampoline's page.
const PARAMETERS: u64 = 0x08;
const GDT: u64 = 0x30;
const GDT_POINTER: u64 = 0x50;
const CODE: u64 = 0x60;

/// What the trampoline reads, at `PARAMETERS`.
#[repr(C)]
struct Parameters {
    cr3: u64,
    stack: u64,
    entry: u64,
    index: u64,
}

/// Number of the last core that reached its entry.
static ARRIVED: AtomicU32 = AtomicU32::new(0);
/// Where cores go, set by `start_core`.
static ENTRY: spin::Mutex<Option<fn(u32) -> !>> = spin::Mutex::new(None);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// Starts core `index` with physical id `target` at `entry`, and waits until it is there.
///
/// # Errors
/// What went wrong, in words.
pub fn start_core(
    index: u32,
    target: PhysicalApicId,
    tsc_hz: u64,
    entry: fn(u32) -> !,
) -> Result<(), &'static str> {
    let stack = tables::new_run_stack().ok_or("no memory for its stack")?;
    *ENTRY.lock() = Some(entry);
    let parameters = Parameters {
        cr3: paging::root(),
        stack,
        entry: core_entry as *const () as u64,
        index: index.into(),
    };
    if parameters.cr3 >> 32 != 0 {
        return Err("the page tables lie above 4 GiB, where its first instructions cannot see");
    }
    // SAFETY: the page at `PAGE` belongs to the trampoline and is mapped; the previous core has
    // left it, since its arrival was awaited.
    unsafe {
        let start = &raw const trampoline_start;
        let len = (&raw const trampoline_end).offset_from_unsigned(start);
        core::ptr::copy_nonoverlapping(start, PAGE as *mut u8, len);
        ((PAGE + PARAMETERS) as *mut Parameters).write_unaligned(parameters);
    }
    // INIT, 10 ms, start-up IPI, 200 us, and another one if the first was lost (SDM 9.4.4.1).
    apic::send_init(target);
    time::delay(tsc_hz / 100);
    for _ in 0..2 {
        apic::send_startup(target, (PAGE >> 12) as u8);
        let start = cpu::rdtsc();
        // A busy host may take long to schedule an emulated core: a second.
        while cpu::rdtsc().wrapping_sub(start) < tsc_hz {
            if ARRIVED.load(Ordering::Acquire) == index {
                return Ok(());
            }
            cpu::pause();
        }
    }
    Err("it did not answer to INIT and start-up IPI")
}

extern "sysv64" fn core_entry(index: u32) -> ! {
    let entry = *ENTRY.lock();
    ARRIVED.store(index, Ordering::Release);
    match entry {
        Some(entry) => entry(index),
        None => cpu::halt_forever(),
    }
}

global_asm!(
    ".section .rodata",
    ".balign 16",
    "trampoline_start:",
    ".code16",
    // Jump over the data, which stands at fixed offsets: `PARAMETERS`, `GDT`, `GDT_POINTER`.
    ".byte 0xEB, {code} - 2",
    ".org trampoline_start + {parameters}",
    ".skip 32",
    ".org trampoline_start + {gdt}",
    ".quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF",
    ".org trampoline_start + {gdt_pointer}",
    ".short 31",
    ".long {page} + {gdt}",
    ".org trampoline_start + {code}",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "lgdtd [{gdt_pointer}]",
    "mov eax, cr0",
    "or eax, 1",
    "mov cr0, eax",
    // Far jumps are spelt out: the assembler takes no symbol there.
    ".byte 0x66, 0xEA",
    ".long {page} + trampoline_32 - trampoline_start",
    ".short 0x18",
    ".code32",
    "trampoline_32:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov edi, {page}",
    "mov eax, 1",
    "cpuid",
    "mov eax, cr4",
    "or eax, 0x60",
    "bt ecx, 26",
    "jnc 1f",
    "or eax, 0x40000",
    "1:",
    "mov cr4, eax",
    "mov eax, [edi + {parameters}]",
    "mov cr3, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x900",
    "wrmsr",
    "mov eax, cr0",
    "and eax, 0x9FFFFFFF",
    "or eax, 0x80010021",
    "mov cr0, eax",
    ".byte 0xEA",
    ".long {page} + trampoline_64 - trampoline_start",
    ".short 0x08",
    ".code64",
    "trampoline_64:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov rsp, [rdi + {parameters} + 8]",
    "mov rax, [rdi + {parameters} + 16]",
    "mov edi, [rdi + {parameters} + 24]",
    "xor ebp, ebp",
    "call rax",
    "ud2",
    "trampoline_end:",
    ".text",
    page = const PAGE,
    parameters = const PARAMETERS,
    gdt = const GDT,
    gdt_pointer = const GDT_POINTER,
    code = const CODE,
);
