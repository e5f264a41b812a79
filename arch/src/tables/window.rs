//! The drain window: the one place where a guest core opens IF in root mode, to take what waits
//! in the LAPIC's IRR (docs: how it works).
//!
//! It has an IDT of its own, whose stubs assume no error code: a guest may legally have sent
//! itself vectors 16 to 31, and QEMU's TCG delivers 0 to 15 as well, which hardware refuses. Each
//! vector is confirmed by its ISR bit; without one it was an exception of ours.

#![expect(unsafe_code, reason = "interrupt stubs are assembly")]

use super::idt::{self, STUB};
use super::trap;
use crate::apic;
use crate::virt::svm;
use core::arch::{asm, naked_asm};
use core::sync::atomic::Ordering;

/// Takes and retires every interrupt that the LAPIC can deliver now. IF is 0 again afterwards.
pub fn drain_pending() {
    idt::load_window();
    let gif_held = super::area().gif_held.load(Ordering::Relaxed);
    if gif_held {
        svm::release_nmis();
    }
    // SAFETY: the window's IDT accepts every vector a LAPIC can deliver. One instruction after
    // STI is shadowed, the following ones take whatever is pending, one after the other.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
    if gif_held {
        svm::hold_nmis();
    }
    idt::load_host();
}

extern "sysv64" fn accept(vector: u64) {
    if apic::in_service(vector as u8) {
        apic::retire(vector as u8);
    } else if vector < u64::from(apic::SPURIOUS_VECTOR - 1) {
        // The two spurious vectors of `apic::retire` have no ISR bit; anything else without one
        // was an exception.
        // SAFETY: a zeroed frame is plain data; the registers are lost here, but the vector says
        // what happened.
        let mut frame: trap::TrapFrame = unsafe { core::mem::zeroed() };
        frame.vector = vector;
        trap::fatal(&frame);
    }
}

/// Address of the 256 stubs, `STUB` bytes apart.
pub fn stubs() -> u64 {
    entry_stubs as *const () as u64
}

#[unsafe(naked)]
extern "C" fn entry_stubs() {
    naked_asm!(
        ".set window_vector, 0",
        ".rept 256",
        ".balign {stub}",
        "push window_vector",
        "jmp {common}",
        ".set window_vector, window_vector + 1",
        ".endr",
        stub = const STUB,
        common = sym common,
    );
}

#[unsafe(naked)]
extern "C" fn common() {
    naked_asm!(
        "xchg rdi, [rsp]",
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push rbp",
        "cld",
        "mov rbp, rsp",
        "and rsp, -16",
        "call {accept}",
        "mov rsp, rbp",
        "pop rbp",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "pop rdi",
        "iretq",
        accept = sym accept,
    );
}
