//! Memory: outside its RAM a guest finds nothing, inside nothing of anybody else (S7, S9).

#![expect(unsafe_code, reason = "looks at raw memory")]

use crate::runtime::catch::catch;
use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, hypercall};

tests! { "up", Beeline:
    s9_nothing_behind_the_end_of_ram,
    s9_ram_holds_nothing_of_the_hypervisor,
    s9_instruction_forms_on_a_hole,
}

/// Guest-physical addresses where the platform has neither RAM nor a device.
fn holes() -> [u64; 8] {
    let end = boot::ram_end();
    [
        end,
        end + 0x1000,
        end + 0x20_0000,
        end + 0x1000_0000,
        0xBFFF_F000,
        0xFEA0_0000,
        0xFEF0_0000,
        0xFFFF_F000,
    ]
}

fn s9_nothing_behind_the_end_of_ram() -> Outcome {
    ensure!(boot::ram_end() > 0x20_0000 && boot::ram_end() <= 0xBFF0_0000, "RAM ends oddly");
    for address in holes() {
        for offset in [0, 4, 0xFFC] {
            ensure_eq!(mmio_read(address + offset), 0xFFFF_FFFF, "at {:#x}", address + offset);
            mmio_write(address + offset, 0x1234_5678);
            let after = mmio_read(address + offset);
            ensure_eq!(after, 0xFFFF_FFFF, "at {:#x} after a write", address + offset);
        }
    }
    Ok(())
}

/// Looks at every page of RAM behind the image: it was zeroed, and nowhere is a Multiboot2 header like Beeline's own.
fn s9_ram_holds_nothing_of_the_hypervisor() -> Outcome {
    unsafe extern "C" {
        static __image_end: u8;
    }
    let start = (&raw const __image_end) as u64;
    let end = boot::ram_end();
    let mut used = 0u64;
    for page in (start..end).step_by(4096) {
        let mut any = 0;
        for offset in (0..4096).step_by(8) {
            // SAFETY: identity-mapped RAM behind our own image, read only.
            let word = unsafe { ((page + offset) as *const u64).read_volatile() };
            any |= word;
            ensure!(word as u32 != 0xE852_50D6, "a Multiboot2 header at {:#x}", page + offset);
        }
        used += u64::from(any != 0);
    }
    // The loader may have left its tables behind the image, but not much of them.
    ensure!(used <= 16, "{used} pages of RAM are not zero");
    detail(format_args!("pages={} not_zero={used}", (end - start) / 4096));
    Ok(())
}

/// Reads and writes of a hole by many instruction forms: a form that the decoder knows reads ones; an unknown one may
/// fault, but must not hang or hit other registers.
fn s9_instruction_forms_on_a_hole() -> Outcome {
    use core::arch::asm;
    let hole = holes()[2];
    let mut value: u64;
    // SAFETY: the hole is no memory of Rust's; only `value` changes.
    unsafe {
        asm!("xor eax, eax", "mov al, [{h}]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, 0xFF, "MOV r8");
        asm!("xor eax, eax", "mov ax, [{h} + 2]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, 0xFFFF, "MOV r16");
        asm!("mov rax, -1", "mov eax, [{h} + 4]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, 0xFFFF_FFFF, "MOV r32");
        asm!("xor eax, eax", "mov rax, [{h} + 8]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, u64::MAX, "MOV r64");
        asm!("movzx eax, byte ptr [{h} + 1]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, 0xFF, "MOVZX r32, m8");
        asm!("movzx eax, word ptr [{h} + 2]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, 0xFFFF, "MOVZX r32, m16");
        asm!("movsx rax, byte ptr [{h}]", h = in(reg) hole, out("rax") value);
        ensure_eq!(value, u64::MAX, "MOVSX r64, m8");
        asm!("xor eax, eax", "mov r11, 3", "mov eax, [{h} + r11*4 + 0x40]", h = in(reg) hole,
             out("rax") value, out("r11") _);
        ensure_eq!(value, 0xFFFF_FFFF, "MOV with index and displacement");
        asm!("mov dword ptr [{h}], 0x1234", "mov byte ptr [{h}], 5", "mov [{h}], {h}",
             h = in(reg) hole);
    }
    let exits = || hypercall::exits(hypercall::ALL, hypercall::MMIO);
    let before = exits();
    mmio_read(hole);
    ensure!(exits() > before, "a hole is mapped");
    // Read-modify-write and string forms: any answer but a wrong one.
    let _ = catch(|| {
        // SAFETY: as above.
        unsafe { asm!("or dword ptr [{h}], 1", "test dword ptr [{h}], 1", h = in(reg) hole) };
    });
    Ok(())
}
