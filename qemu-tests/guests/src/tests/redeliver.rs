//! An exit that cuts the delivery of an event short must not lose it, nor make two of it (D8). The pages that a delivery
//! needs (see `hidden`) are missing in the second stage when it comes; the event must arrive all the same: once, on the
//! right stack, with the right return address and error code, an interrupt with its ISR bit set.

#![expect(unsafe_code, reason = "raises events on another stack")]

use super::hidden::{self, CODE, NOTHING, Pages, SETS, STACK, TABLE, with_pages};
use crate::runtime::irq::{self, Frame};
use crate::runtime::lapic::{self, ASSERT};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, hypercall, time};
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

tests! { "redeliver", Machine: d8_every_event_arrives_once_with_nothing_hidden }
tests! { "redeliver", Hooks:
    d8_interrupt_cut_short_by_its_stack_arrives_once,
    d8_interrupt_cut_short_by_the_idt_arrives_once,
    d8_interrupt_cut_short_twice_arrives_once,
    d8_interrupt_whose_handler_is_hidden_arrives_once,
    d8_interrupt_that_ends_hlt_arrives_once,
    d8_nmi_cut_short_arrives_once,
    d8_nmi_cut_short_still_blocks_the_next,
    d8_breakpoint_cut_short_arrives_once,
    d8_int1_cut_short_arrives_once,
    d8_int_n_cut_short_arrives_once,
    d8_general_protection_cut_short_keeps_its_error_code,
    d8_invalid_opcode_cut_short_arrives_once,
    d8_page_fault_cut_short_keeps_cr2,
    d8_debug_trap_cut_short_keeps_dr6,
}

const ROUNDS: u64 = 1_000;

/// Addresses of the instruction that raises the event and of what comes next.
static AT: AtomicU64 = AtomicU64::new(0);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Runs of the handler in this round, and what the last one saw.
static RUNS: AtomicU64 = AtomicU64::new(0);
static RIP: AtomicU64 = AtomicU64::new(0);
static RSP: AtomicU64 = AtomicU64::new(0);
static ERROR: AtomicU64 = AtomicU64::new(0);
static IN_SERVICE: AtomicU64 = AtomicU64::new(0);

fn note(frame: &Frame) {
    RIP.store(frame.rip, SeqCst);
    RSP.store(frame.rsp, SeqCst);
    ERROR.store(frame.error, SeqCst);
}

fn interrupt(frame: &mut Frame) {
    note(frame);
    IN_SERVICE.store(u64::from(lapic::in_service(frame.vector as u8)), SeqCst);
    lapic::eoi();
}

fn trap(frame: &mut Frame) {
    note(frame);
    if RUNS.fetch_add(1, SeqCst) > 0 {
        // It came twice: leave the loop that returning to the instruction would be.
        frame.rip = NEXT.load(SeqCst);
    }
}

fn fault(frame: &mut Frame) {
    note(frame);
    frame.rip = NEXT.load(SeqCst);
}

/// Runs instructions on the stack page. Label 2 is the one that raises the event, label 3 what comes behind it.
macro_rules! on_stack {
    ($stack:expr, [$($code:literal),+], $($operands:tt)*) => {
        // SAFETY: handlers restore all registers; the stack page is ours; RSP is back before the end.
        unsafe {
            asm!(
                "mov r12, rsp",
                "lea r13, [rip + 2f]",
                "mov [{at}], r13",
                "lea r13, [rip + 3f]",
                "mov [{next}], r13",
                "mov rsp, {stack}",
                $($code,)+
                "mov rsp, r12",
                at = in(reg) AT.as_ptr(),
                next = in(reg) NEXT.as_ptr(),
                stack = in(reg) $stack,
                out("r12") _,
                out("r13") _,
                $($operands)*
            )
        }
    };
}

/// How an event's handler is entered and left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With its ISR bit set, until EOI.
    Interrupt,
    /// Returns behind the instruction.
    Trap,
    /// Returns to the instruction itself.
    Fault,
}

/// One way to raise an event.
struct Event {
    kind: Kind,
    /// Raises it with RSP at the given place.
    raise: fn(u64, u8),
    error: u64,
}

const fn interrupt_by(raise: fn(u64, u8)) -> Event {
    Event { kind: Kind::Interrupt, raise, error: 0 }
}

const fn trap_by(raise: fn(u64, u8)) -> Event {
    Event { kind: Kind::Trap, raise, error: 0 }
}

const fn fault_by(raise: fn(u64, u8), error: u64) -> Event {
    Event { kind: Kind::Fault, raise, error }
}

const SELF_IPI: Event = interrupt_by(raise_self_ipi);
const TIMER_IN_HLT: Event = interrupt_by(raise_in_hlt);

fn raise_self_ipi(stack: u64, vector: u8) {
    on_stack!(stack, ["wrmsr", "2: sti", "nop", "3: cli"],
        in("ecx") 0x800 + lapic::SELF_IPI, in("eax") u32::from(vector), in("edx") 0);
}

fn raise_in_hlt(stack: u64, vector: u8) {
    lapic::alarm_timer(vector);
    lapic::alarm(500);
    on_stack!(stack, ["2: sti", "hlt", "3: cli"],);
}

const OWN_NMI: Event = trap_by(raise_nmi);
fn raise_nmi(stack: u64, _: u8) {
    on_stack!(stack, ["2: wrmsr", "3: nop"],
        in("ecx") 0x800 + lapic::ICR, in("eax") (lapic::NMI | ASSERT) as u32, in("edx") lapic::id());
}

const INT3: Event = trap_by(raise_int3);
fn raise_int3(stack: u64, _: u8) {
    on_stack!(stack, ["2: int3", "3: nop"],);
}

const INT1: Event = trap_by(raise_int1);
fn raise_int1(stack: u64, _: u8) {
    on_stack!(stack, ["2: .byte 0xF1", "3: nop"],);
}

const INT_80: Event = trap_by(raise_int_80);
fn raise_int_80(stack: u64, _: u8) {
    on_stack!(stack, ["2: int 0x80", "3: nop"],);
}

const BAD_SELECTOR: Event = fault_by(load_bad_selector, 0x1230);
fn load_bad_selector(stack: u64, _: u8) {
    on_stack!(stack, ["2: mov fs, {selector:x}", "3: nop"], selector = in(reg) 0x1230u32,);
}

const UD2: Event = fault_by(raise_ud2, 0);
fn raise_ud2(stack: u64, _: u8) {
    on_stack!(stack, ["2: ud2", "3: nop"],);
}

const NOT_MAPPED: u64 = 1 << 40 | 0x123;
/// A write: error code 2.
const PAGE_FAULT: Event = fault_by(write_nowhere, 2);
fn write_nowhere(stack: u64, _: u8) {
    on_stack!(stack, ["2: mov [{nowhere}], eax", "3: nop"], nowhere = in(reg) NOT_MAPPED,);
}

const WATCHED: Event = trap_by(write_watched);
fn write_watched(stack: u64, _: u8) {
    let word = core::cell::Cell::new(0u64);
    cpu::set_dr6(0xFFFF_0FF0);
    cpu::set_dr0(word.as_ptr() as u64);
    // G0, a write of 8 bytes.
    cpu::set_dr7(1 << 1 | 0b1001 << 16 | 1 << 10);
    on_stack!(stack, ["2: mov [{word}], r12", "3: nop"], word = in(reg) word.as_ptr(),);
    cpu::set_dr7(1 << 10);
}

/// Raises `event` as `vector` while the pages of `set` are hidden, and checks all that can be seen of it.
fn round(pages: &Pages, set: u32, event: &Event, vector: u8) -> Outcome {
    let is_interrupt = event.kind == Kind::Interrupt;
    let figures = || match hypercall::present() {
        true => (hypercall::exits(hypercall::ALL, hypercall::MMIO), hypercall::redelivered()),
        false => (0, 0),
    };
    irq::hook(
        vector,
        match event.kind {
            Kind::Interrupt => interrupt,
            Kind::Trap => trap,
            Kind::Fault => fault,
        },
    );
    let (all, own) = (irq::count_range(0, 0..=255), irq::count_here(vector));
    let before = figures();
    IN_SERVICE.store(0, SeqCst);
    RUNS.store(0, SeqCst);
    pages.hide(set)?;
    (event.raise)(pages.stack_top(), vector);
    let after = figures();
    ensure_eq!(irq::count_here(vector) - own, 1, "runs of the handler of {vector}, set {set}");
    ensure_eq!(irq::count_range(0, 0..=255) - all, 1, "traps in the round of {vector}, set {set}");
    let place = if event.kind == Kind::Fault { &AT } else { &NEXT };
    ensure_eq!(RIP.load(SeqCst), place.load(SeqCst), "return address of {vector}, set {set}");
    ensure_eq!(RSP.load(SeqCst), pages.stack_top(), "RSP under {vector}, set {set}");
    ensure_eq!(ERROR.load(SeqCst), event.error, "error code of {vector}, set {set}");
    ensure_eq!(IN_SERVICE.load(SeqCst), u64::from(is_interrupt), "ISR bit of {vector}, set {set}");
    ensure_eq!(after.0 - before.0, u64::from(set.count_ones()), "faults for {vector}, set {set}");
    let again = if is_interrupt { hidden::cuts(set) } else { 0 };
    ensure_eq!(after.1 - before.1, again, "interrupts injected again for {vector}, set {set}");
    Ok(())
}

/// Rounds with every interrupt vector in turn; after each, its priority class and the one below must be open.
fn interrupts(event: &Event, rounds: u64, sets: &[u32]) -> Outcome {
    with_pages(|pages| {
        (16..=255).for_each(|vector| irq::hook(vector, interrupt));
        for i in 0..rounds {
            let vector = (16 + i * 7 % 240) as u8;
            // Bochs 2.7 never retires a vector that is also the spurious one.
            let spurious = if vector >= 0xFE { 0xFD } else { irq::SPURIOUS };
            if lapic::read(lapic::SVR) as u8 != spurious {
                lapic::write(lapic::SVR, 0x100 | u64::from(spurious));
            }
            round(pages, sets[i as usize % sets.len()], event, vector)?;
            ensure_eq!(lapic::highest(lapic::ISR), None, "left in service after {vector}");
            ensure_eq!(lapic::highest(lapic::IRR), None, "left requested after {vector}");
            let same_class = vector & 0xF0 | (vector + 1) & 0x0F;
            for next in [vector, same_class, if vector < 32 { vector } else { vector - 16 }] {
                let before = irq::count_here(next);
                lapic::self_ipi(next);
                cpu::take_pending();
                ensure_eq!(irq::count_here(next) - before, 1, "{next} taken after {vector}");
            }
        }
        detail(format_args!("interrupts={rounds} vectors=240"));
        Ok(())
    })
}

fn d8_interrupt_cut_short_by_its_stack_arrives_once() -> Outcome {
    interrupts(&SELF_IPI, ROUNDS, &[STACK])
}

fn d8_interrupt_cut_short_by_the_idt_arrives_once() -> Outcome {
    interrupts(&SELF_IPI, ROUNDS, &[TABLE])
}

fn d8_interrupt_cut_short_twice_arrives_once() -> Outcome {
    interrupts(&SELF_IPI, ROUNDS, &[STACK | TABLE])
}

fn d8_interrupt_whose_handler_is_hidden_arrives_once() -> Outcome {
    interrupts(&SELF_IPI, ROUNDS, &[CODE, STACK | CODE, STACK | TABLE | CODE])
}

fn d8_interrupt_that_ends_hlt_arrives_once() -> Outcome {
    interrupts(&TIMER_IN_HLT, ROUNDS, &SETS)
}

/// Rounds with one event and every set of pages in turn; `check` looks at what `round` does not know.
fn events(event: &Event, vector: u8, check: impl Fn() -> Outcome) -> Outcome {
    with_pages(|pages| {
        for i in 0..ROUNDS {
            round(pages, SETS[i as usize % SETS.len()], event, vector)?;
            check()?;
        }
        detail(format_args!("events={ROUNDS}"));
        Ok(())
    })
}

fn d8_nmi_cut_short_arrives_once() -> Outcome {
    events(&OWN_NMI, irq::NMI, || Ok(()))
}

static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);

/// The first of two runs sends itself the second NMI, which has to wait for IRET.
fn nesting(frame: &mut Frame) {
    note(frame);
    DEEPEST.fetch_max(DEPTH.fetch_add(1, SeqCst) + 1, SeqCst);
    if irq::count_here(irq::NMI) % 2 == 1 {
        lapic::send(lapic::id(), lapic::NMI | ASSERT);
        time::delay(200);
    }
    DEPTH.fetch_sub(1, SeqCst);
}

fn d8_nmi_cut_short_still_blocks_the_next() -> Outcome {
    const N: u64 = 200;
    with_pages(|pages| {
        irq::hook(irq::NMI, nesting);
        if irq::count_here(irq::NMI) % 2 == 1 {
            // The handler counts in pairs.
            irq::counter(0, irq::NMI).fetch_add(1, SeqCst);
        }
        let before = irq::count_here(irq::NMI);
        DEEPEST.store(0, SeqCst);
        for i in 0..N {
            pages.hide(SETS[i as usize % SETS.len()])?;
            raise_nmi(pages.stack_top(), 0);
            let two = time::wait(time::LONG, || irq::count_here(irq::NMI) - before > 2 * i + 1);
            ensure_eq!(two, true, "second NMI of pair {i} taken");
        }
        time::delay(1_000);
        ensure_eq!(irq::count_here(irq::NMI) - before, 2 * N, "NMIs taken");
        ensure_eq!(DEEPEST.load(SeqCst), 1, "depth of nesting");
        detail(format_args!("nmis={}", 2 * N));
        Ok(())
    })
}

fn d8_breakpoint_cut_short_arrives_once() -> Outcome {
    events(&INT3, 3, || Ok(()))
}

fn d8_int1_cut_short_arrives_once() -> Outcome {
    events(&INT1, 1, || Ok(()))
}

fn d8_int_n_cut_short_arrives_once() -> Outcome {
    events(&INT_80, 0x80, || Ok(()))
}

fn d8_general_protection_cut_short_keeps_its_error_code() -> Outcome {
    events(&BAD_SELECTOR, irq::GP, || Ok(()))
}

fn d8_invalid_opcode_cut_short_arrives_once() -> Outcome {
    events(&UD2, irq::UD, || Ok(()))
}

fn cr2_is_right() -> Outcome {
    ensure_eq!(cpu::cr2(), NOT_MAPPED, "CR2");
    Ok(())
}

fn d8_page_fault_cut_short_keeps_cr2() -> Outcome {
    events(&PAGE_FAULT, 14, cr2_is_right)
}

fn dr6_is_right() -> Outcome {
    ensure_eq!(cpu::dr6() & 0xE00F, 1, "DR6");
    Ok(())
}

fn d8_debug_trap_cut_short_keeps_dr6() -> Outcome {
    events(&WATCHED, 1, dr6_is_right)
}

/// The same rounds where nothing is in the way: shows on the bare machine that the rest asks for the right thing.
fn d8_every_event_arrives_once_with_nothing_hidden() -> Outcome {
    interrupts(&SELF_IPI, 240, &[NOTHING])?;
    interrupts(&TIMER_IN_HLT, 240, &[NOTHING])?;
    with_pages(|pages| {
        let events = [(&OWN_NMI, irq::NMI), (&INT3, 3), (&INT1, 1), (&INT_80, 0x80)];
        let faults = [(&BAD_SELECTOR, irq::GP), (&UD2, irq::UD), (&PAGE_FAULT, 14), (&WATCHED, 1)];
        for (event, vector) in events.iter().chain(&faults) {
            round(pages, NOTHING, event, *vector)?;
        }
        dr6_is_right()?;
        cr2_is_right()
    })
}
