//! The measuring frame: one assembly loop per row, timed as a whole, with exits and root-mode time beside it.

#![expect(unsafe_code, reason = "assembly loops")]

use crate::runtime::boot;
use crate::runtime::hypercall::{self, ALL};
use crate::runtime::registry::{detail, figure};
use crate::runtime::text::{Outcome, Text, ensure_eq};

/// Rounds of each loop.
pub const ROUNDS: u64 = 10_000;

/// A measured loop: takes the number of rounds, gives the ticks of all rounds together.
pub type Loop = unsafe extern "sysv64" fn(u64) -> u64;

/// Defines a measured loop from instructions before it and instructions in it. The loop may use every register but RSP,
/// R12 (rounds left) and R13 (start); R15 starts as the number of rounds. IF is 0 afterwards.
macro_rules! measured {
    ($(#[$doc:meta])* $name:ident, [$($before:expr),* $(,)?], [$($body:expr),* $(,)?]
     $(, $key:ident = $kind:ident $value:expr)* $(,)?) => {
        $(#[$doc])*
        #[unsafe(naked)]
        pub unsafe extern "sysv64" fn $name(rounds: u64) -> u64 {
            core::arch::naked_asm!(
                "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
                "sub rsp, 8",
                "mov r12, rdi",
                "mov r15, rdi",
                "xor r14d, r14d",
                "rdtsc",
                "shl rdx, 32",
                "lea r13, [rax + rdx]",
                $($before,)*
                ".balign 16",
                "2:",
                $($body,)*
                "dec r12",
                "jnz 2b",
                "rdtsc",
                "cli",
                "shl rdx, 32",
                "add rax, rdx",
                "sub rax, r13",
                "mov rdx, r14",
                "add rsp, 8",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
                "ret",
                $($key = $kind $value,)*
            )
        }
    };
}
pub(crate) use measured;

measured! {
    /// Nothing: the cost of counting rounds and of reading the clock.
    empty, [], []
}

/// What a tick of the TSC is: an instruction on an emulator that counts them.
pub fn unit() -> &'static str {
    if boot::options().tcg { "ticks" } else { "instructions" }
}

/// Means per round, in tenths of a tick.
pub struct Means {
    /// Time from the guest's side.
    pub ticks: i64,
    /// Exits of this vCPU.
    pub exits: u64,
    /// Time in root mode.
    pub root: i64,
}

fn tenths(ticks: i64) -> i64 {
    let n = ROUNDS as i64;
    (10 * ticks + n / 2).div_euclid(n)
}

/// Runs a loop and gives its means without the loop's own cost.
pub fn measure(run: Loop) -> Means {
    // SAFETY: the loops keep the ABI of `Loop`.
    let empty = unsafe { empty(ROUNDS) } as i64;
    let root = || if hypercall::present() { hypercall::root_ticks(ALL) as i64 } else { 0 };
    // What asking for root time costs by itself, taken off below.
    let (root0, root1) = (root(), root());
    // SAFETY: as above.
    let (exits, ticks) = hypercall::exits_of(|| unsafe { run(ROUNDS) } as i64);
    // `exits_of` itself has three hypercalls' root time in here: under a thousandth of a tick per round each.
    let root2 = root();
    Means {
        ticks: tenths(ticks - empty),
        exits,
        root: tenths((root2 - root1) - 4 * (root1 - root0)),
    }
}

/// Measures a row, prints its figures and holds it to its number of exits per round.
pub fn row(name: &str, exits_per_round: u64, run: Loop) -> Outcome {
    let means = measure(run);
    figure(name, means.ticks, unit(), ROUNDS);
    if hypercall::present() {
        ensure_eq!(means.exits, exits_per_round * ROUNDS, "exits in {ROUNDS} rounds of {name}");
        if exits_per_round != 0 {
            figure(Text::format(format_args!("{name}_root")).as_str(), means.root, unit(), ROUNDS);
        }
        detail(format_args!("exits_per_round={exits_per_round}"));
    }
    Ok(())
}
