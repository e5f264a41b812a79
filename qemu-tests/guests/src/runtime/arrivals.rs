//! Which CPU took what: for tests that raise interrupts and know where each must go. The CPUs that such a test does not run
//! on idle with IF = 1.

use super::text::{Outcome, ensure, ensure_eq};
use super::{boot, cpu, irq, smp, time};

/// Interrupts and exceptions of each CPU so far.
pub fn traps() -> [u64; smp::MAX_CPUS] {
    core::array::from_fn(|index| irq::count_range(index, 0..=255))
}

/// Raises by `fire`, `count` times, each when the one before has arrived: CPU `index` must take each as `vector`, and nobody
/// anything else. Opens IF for moments.
pub fn each_arrives(index: usize, vector: u8, count: u64, fire: impl Fn()) -> Outcome {
    let (first, before) = (irq::count(index, vector), traps());
    for i in 1..=count {
        fire();
        let came = time::wait(time::LONG, || {
            cpu::take_pending();
            irq::count(index, vector) - first >= i
        });
        ensure!(came, "interrupt {i} of {count}, vector {vector:#x} to cpu {index}, was lost");
    }
    settle();
    let expected = |cpu| if cpu == index { count } else { 0 };
    for (cpu, (now, before)) in traps().iter().zip(before).enumerate() {
        let all = now - before;
        ensure_eq!(all, expected(cpu), "traps of cpu {cpu} while {vector:#x} goes to cpu {index}");
    }
    Ok(())
}

/// Nobody may take anything of what `fire` raises; `what` names it. Opens IF for moments.
pub fn nothing_arrives(what: core::fmt::Arguments<'_>, fire: impl FnOnce()) -> Outcome {
    let before = traps();
    fire();
    settle();
    for (cpu, (now, before)) in traps().iter().zip(before).enumerate() {
        ensure_eq!(now - before, 0, "{what}: traps of cpu {cpu}");
    }
    Ok(())
}

/// Long enough for an interrupt that goes astray; everything pending here is taken.
pub fn settle() {
    // On TCG the other CPU may wait for its turn on the host.
    let long = if boot::options().tcg { time::UNITS / 50 } else { 500 };
    cpu::take_pending();
    time::delay(long);
    cpu::take_pending();
}
