//! Running code that may fault or panic: `catch` comes back from both.
//!
//! The trap dispatcher turns an exception inside `catch` into a return to it, and so does the panic handler. Calls nest;
//! each CPU has its own. What the closure held is not dropped, so closures here hold plain values only.

#![expect(unsafe_code, reason = "saves and restores a stack position")]

use super::irq::Frame;
use super::smp::MAX_CPUS;
use super::tables::{self, CODE64, DATA};
use super::text::{Outcome, Text, fail};
use super::{cpu, irq};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// Why `catch` came back.
#[derive(Clone, Copy)]
pub enum Caught {
    /// An exception.
    Fault { vector: u8, error: u64, rip: u64, cr2: u64 },
    /// A panic, with its message.
    Panic(Text),
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { vector, error, rip, cr2 } => {
                write!(f, "exception {vector} error {error:#x} at {rip:#x} (CR2 {cr2:#x})")
            }
            Self::Panic(text) => write!(f, "panic {text}"),
        }
    }
}

/// Stack position to return to, per CPU; 0 outside any `catch`.
static ACTIVE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

struct PerCpu(UnsafeCell<[Option<Caught>; MAX_CPUS]>);
// SAFETY: a CPU touches only its own entry.
unsafe impl Sync for PerCpu {}
static CAUGHT: PerCpu = PerCpu(UnsafeCell::new([None; MAX_CPUS]));

global_asm!(
    ".global catch_enter, catch_land",
    "catch_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov [rdx], rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "xor eax, eax",
    "2: add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    "catch_land:",
    "mov eax, 1",
    "jmp 2b",
);

unsafe extern "sysv64" {
    fn catch_enter(call: u64, data: u64, position: *mut u64) -> u64;
    fn catch_land();
}

struct Call<F, R> {
    f: Option<F>,
    result: Option<R>,
}

extern "sysv64" fn call<F: FnOnce() -> R, R>(call: &mut Call<F, R>) {
    if let Some(f) = call.f.take() {
        call.result = Some(f());
    }
}

/// Runs `f`; an exception or a panic in it ends it. IF is as before afterwards.
pub fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Caught> {
    fn enter_of<F: FnOnce() -> R, R>(_: &Call<F, R>) -> u64 {
        call::<F, R> as *const () as u64
    }
    let position = &ACTIVE[tables::current()];
    let outer = position.load(Ordering::Relaxed);
    let enabled = cpu::interrupts_enabled();
    let mut c = Call { f: Some(f), result: None };
    // SAFETY: `call` matches the types of `c`, which outlives it; the assembly saves all that a callee must.
    let landed = unsafe { catch_enter(enter_of(&c), (&raw mut c) as u64, position.as_ptr()) };
    position.store(outer, Ordering::Relaxed);
    if landed != 0 {
        if enabled {
            cpu::sti()
        } else {
            cpu::cli()
        }
        // SAFETY: this CPU's entry, written before the landing.
        let caught = unsafe { (*CAUGHT.0.get())[tables::current()].take() };
        return Err(caught.unwrap_or(Caught::Panic(Text::from("landed without a cause"))));
    }
    c.result.ok_or_else(|| Caught::Panic(Text::from("no result")))
}

/// The dispatcher's question: turns the exception in `frame` into a return of the innermost `catch`, if there is one.
pub fn divert(frame: &mut Frame) -> bool {
    let index = tables::current();
    let position = ACTIVE[index].load(Ordering::Relaxed);
    if position == 0 {
        return false;
    }
    note(
        index,
        Caught::Fault {
            vector: frame.vector as u8,
            error: frame.error,
            rip: frame.rip,
            cr2: cpu::cr2(),
        },
    );
    frame.rip = catch_land as *const () as u64;
    frame.rsp = position;
    frame.cs = u64::from(CODE64);
    frame.ss = u64::from(DATA);
    // TF, IF, DF and AC are off until `catch` has restored IF.
    frame.rflags &= !(1 << 8 | 1 << 9 | 1 << 10 | 1 << 18);
    true
}

/// The panic handler's way out: returns only when there is no `catch` around.
pub fn land_from_panic(message: Text) {
    let index = tables::current();
    let position = ACTIVE[index].load(Ordering::Relaxed);
    if position == 0 {
        return;
    }
    note(index, Caught::Panic(message));
    cpu::cli();
    // SAFETY: the position was saved by a `catch_enter` that has not returned.
    unsafe {
        asm!("mov rsp, {}", "jmp {}", in(reg) position, in(reg) catch_land as *const () as u64,
             options(noreturn));
    }
}

fn note(index: usize, caught: Caught) {
    // SAFETY: this CPU's own entry.
    unsafe { (*CAUGHT.0.get())[index] = Some(caught) };
}

/// The exception `vector` must be raised by `f`; anything else fails the test.
pub fn expect_fault(vector: u8, what: &str, f: impl FnOnce()) -> Outcome {
    match catch(f) {
        Err(Caught::Fault { vector: seen, .. }) if seen == vector => Ok(()),
        Err(other) => fail!("{what}: {other} instead of exception {vector}"),
        Ok(()) => fail!("{what}: no exception {vector}"),
    }
}

/// #GP must be raised by `f`.
pub fn expect_gp(what: &str, f: impl FnOnce()) -> Outcome {
    expect_fault(irq::GP, what, f)
}

/// `f` must raise nothing.
pub fn expect_fine<R>(what: &str, f: impl FnOnce() -> R) -> Outcome<R> {
    catch(f).map_err(|caught| Text::format(format_args!("{what}: {caught}")))
}
