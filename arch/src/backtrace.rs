//! Walking the image's own stack by frame pointers, for the panic report. Called by `fatal` alone.

#![expect(unsafe_code, reason = "reads saved frame pointers from the stack")]

use core::arch::asm;

/// Longest chain that is followed.
const DEPTH: usize = 24;
/// A frame lies at most this far above the one it called: a stack is no larger.
const STACK: u64 = 128 * 1024;

/// Calls `each` with the return addresses of the current call chain, innermost first. `text` is
/// the range of the image's code: anything else ends the walk.
pub fn walk(text: core::ops::Range<u64>, each: impl FnMut(u64)) {
    let rbp: u64;
    // SAFETY: copying a register changes nothing.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    walk_from(rbp, text, each);
}

/// As [`walk`], from the RBP of a trap frame.
pub fn walk_from(mut rbp: u64, text: core::ops::Range<u64>, mut each: impl FnMut(u64)) {
    for _ in 0..DEPTH {
        if rbp == 0 || !rbp.is_multiple_of(8) {
            return;
        }
        let frame = rbp as *const [u64; 2];
        // SAFETY: the chain starts in the current stack, each link must point upwards within the
        // size of a stack, and RAM is identity-mapped; a damaged chain ends at the checks below.
        let [next, ret] = unsafe { frame.read_volatile() };
        if !text.contains(&ret) {
            return;
        }
        each(ret);
        if next <= rbp || next - rbp > STACK {
            return;
        }
        rbp = next;
    }
}
