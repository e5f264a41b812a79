//! Vectors, priority and EOI on one CPU (A3, E1, E5, V4 self).

#![expect(unsafe_code, reason = "a handler and a loop in assembly")]

use crate::runtime::irq::{self, Frame};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, hypercall, lapic, tables, time};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

tests! { "up", Machine:
    a3_every_vector_arrives_as_itself_by_self_ipi,
    a3_every_vector_arrives_as_itself_by_icr,
    a3_every_vector_arrives_as_itself_by_timer,
    e1_eoi_retires_the_vector_in_service_two_deep,
    e1_lower_priority_waits_for_eoi,
    e1_eoi_takes_no_exit,
    e5_eoi_with_nothing_in_service_is_harmless,
    v4_a_million_self_ipis_take_no_exit,
}

/// Sends each legal vector with `send` and takes it: it, and nothing else, must arrive once.
fn every_vector(send: impl Fn(u8)) -> Outcome {
    fn accept(_: &mut Frame) {
        lapic::eoi();
    }
    for vector in 16..=255u8 {
        if vector == irq::SPURIOUS {
            // Bochs 2.7 never retires a vector that is also the spurious one.
            lapic::write(lapic::SVR, 0x1FE);
        }
        irq::hook(vector, accept);
        let all = irq::count_range(0, 0..=255);
        let own = irq::count_here(vector);
        send(vector);
        // The timer needs a tick; an interrupt that is late would be counted for the next vector.
        for _ in 0..4 {
            cpu::take_pending();
        }
        ensure_eq!(irq::count_here(vector) - own, 1, "vector {vector} taken");
        ensure_eq!(irq::count_range(0, 0..=255) - all, 1, "traps while vector {vector} was sent");
        irq::unhook(vector);
    }
    ensure_eq!(lapic::highest(lapic::ISR), None, "left in service");
    ensure_eq!(lapic::highest(lapic::IRR), None, "left requested");
    detail(format_args!("vectors=240"));
    Ok(())
}

fn a3_every_vector_arrives_as_itself_by_self_ipi() -> Outcome {
    every_vector(lapic::self_ipi)
}

fn a3_every_vector_arrives_as_itself_by_icr() -> Outcome {
    every_vector(|vector| lapic::send(0, lapic::TO_SELF | lapic::ASSERT | u64::from(vector)))
}

fn a3_every_vector_arrives_as_itself_by_timer() -> Outcome {
    every_vector(|vector| {
        lapic::alarm_timer(vector);
        lapic::alarm_now();
        time::wait(time::LONG, || lapic::requested(vector));
    })
}

const LOW: u8 = 0x45;
const HIGH: u8 = 0x7A;
static TRACE: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

/// What is requested and in service, and the priority, as one comparable number.
fn snapshot() -> u64 {
    let bits =
        |vector| u64::from(lapic::in_service(vector)) << 1 | u64::from(lapic::requested(vector));
    bits(LOW) << 24 | bits(HIGH) << 16 | lapic::read(lapic::PPR)
}

fn note(slot: usize) {
    TRACE[slot].store(snapshot(), Ordering::Relaxed);
}

fn traced(slot: usize) -> u64 {
    TRACE[slot].load(Ordering::Relaxed)
}

/// In `LOW`'s handler: raises `HIGH`, lets it in, then ends `LOW`.
fn low_that_nests(_: &mut Frame) {
    note(0);
    lapic::self_ipi(HIGH);
    note(1);
    cpu::take_pending();
    note(3);
    lapic::eoi();
    note(4);
}

fn high(_: &mut Frame) {
    note(2);
    lapic::eoi();
}

fn e1_eoi_retires_the_vector_in_service_two_deep() -> Outcome {
    irq::hook(LOW, low_that_nests);
    irq::hook(HIGH, high);
    let (exits, ()) = hypercall::exits_of(|| {
        lapic::self_ipi(LOW);
        cpu::take_pending();
    });
    ensure_eq!(traced(0), 2 << 24 | 0x40, "LOW in service");
    ensure_eq!(traced(1), 2 << 24 | 1 << 16 | 0x40, "HIGH requested meanwhile");
    ensure_eq!(traced(2), 2 << 24 | 2 << 16 | 0x70, "both in service");
    ensure_eq!(traced(3), 2 << 24 | 0x40, "after HIGH's EOI");
    ensure_eq!(traced(4), 0, "after LOW's EOI");
    ensure_eq!(exits, 0, "exits");
    Ok(())
}

/// In `HIGH`'s handler: raises `LOW`, opens IF; it must wait for the EOI.
fn high_that_holds(_: &mut Frame) {
    lapic::self_ipi(LOW);
    cpu::take_pending();
    TRACE[5].store(irq::count_here(LOW), Ordering::Relaxed);
    lapic::eoi();
    cpu::take_pending();
    TRACE[6].store(irq::count_here(LOW), Ordering::Relaxed);
}

fn e1_lower_priority_waits_for_eoi() -> Outcome {
    irq::hook(HIGH, high_that_holds);
    let before = irq::count_here(LOW);
    lapic::self_ipi(HIGH);
    cpu::take_pending();
    ensure_eq!(traced(5) - before, 0, "LOW taken while HIGH was in service");
    ensure_eq!(traced(6) - before, 1, "LOW taken after HIGH's EOI");
    ensure_eq!(lapic::highest(lapic::ISR), None, "left in service");
    Ok(())
}

fn e1_eoi_takes_no_exit() -> Outcome {
    const N: u64 = 1_000;
    let before = irq::count_here(LOW);
    let (exits, ()) = hypercall::exits_of(|| {
        for _ in 0..N {
            lapic::self_ipi(LOW);
            cpu::take_pending();
        }
    });
    ensure_eq!(irq::count_here(LOW) - before, N, "interrupts taken and retired");
    ensure_eq!(exits, 0, "exits");
    Ok(())
}

fn e5_eoi_with_nothing_in_service_is_harmless() -> Outcome {
    let before = irq::count_here(LOW);
    let (exits, ()) = hypercall::exits_of(|| {
        for _ in 0..1_000 {
            lapic::eoi();
        }
        lapic::self_ipi(LOW);
        lapic::eoi();
    });
    ensure!(lapic::requested(LOW), "an EOI took a request away");
    cpu::take_pending();
    ensure_eq!(irq::count_here(LOW) - before, 1, "interrupts taken");
    ensure_eq!(exits, 0, "exits");
    Ok(())
}

/// Counts in R8, ends the interrupt.
#[unsafe(naked)]
unsafe extern "sysv64" fn counting_handler() {
    naked_asm!("inc r8", "mov ecx, 0x80B", "xor eax, eax", "xor edx, edx", "wrmsr", "iretq")
}

fn v4_a_million_self_ipis_take_no_exit() -> Outcome {
    const N: u64 = 1_000_000;
    tables::set_gate(LOW, counting_handler as *const () as u64);
    let (exits, taken) = hypercall::exits_of(|| {
        let taken: u64;
        // SAFETY: the handler changes RAX, RCX, RDX and R8 only; all are listed.
        unsafe {
            asm!(
                "xor r8d, r8d",
                "sti",
                "2:",
                "mov r10, r8",
                "mov ecx, 0x83F",
                "mov eax, 0x45",
                "xor edx, edx",
                "wrmsr",
                // One that is lost hangs here for ever otherwise.
                "mov r9d, 100000",
                "3:",
                "cmp r10, r8",
                "jne 4f",
                "dec r9",
                "jnz 3b",
                "4:",
                "dec {rounds}",
                "jnz 2b",
                "cli",
                rounds = inout(reg) N => _,
                out("r8") taken, out("r9") _, out("r10") _,
                out("rax") _, out("rcx") _, out("rdx") _,
            );
        }
        taken
    });
    ensure_eq!(taken, N, "self-IPIs delivered");
    ensure_eq!(exits, 0, "exits");
    detail(format_args!("sent={N} taken={taken} exits={exits}"));
    Ok(())
}
