//! The tests: entries in a link section, the runner that walks them, and the lines it prints.

#![expect(unsafe_code, reason = "walks a link section")]

use super::serial::println;
use super::text::{Outcome, Text};
use super::{boot, catch, cpu, hypercall, irq, lapic, serial, smp};
use crate::cmdline::Exit;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// What a test needs below it; it may need several things.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any machine, bare or virtual.
    Machine,
    /// A LAPIC timer that has TSC-deadline mode.
    Deadline,
    /// Whoever answers refuses what the manual calls illegal: Beeline, or a bare machine that is not TCG.
    Strict,
    /// An APIC that refuses vectors 0 to 15 in self-IPIs and from its timer; TCG's delivers them.
    IllegalVectors,
    /// A CPU that checks alignment where CR0.AM and EFLAGS.AC ask for it; TCG does not.
    Alignment,
    /// A CPU that bears a data breakpoint in the stack frame of a delivery; QEMU 10's TCG ends with an assertion.
    FrameBreakpoint,
    /// A machine whose clocks stand still while it does: an emulator that counts instructions, or a real one. TCG's timers
    /// follow the host's clock, and edges that come while the host is busy merge.
    Steady,
    /// Beeline: the test shows something that only a guest can see.
    Beeline,
    /// Beeline with its debug hooks.
    Hooks,
}

/// One test.
#[repr(C)]
pub struct TestEntry {
    pub name: &'static str,
    pub kind: &'static str,
    pub needs: &'static [Needs],
    pub run: fn() -> Outcome,
}

/// Registers tests: `tests! { "kind", Machine: name, name }`; several needs stand in brackets. Their names also go, as
/// lines `kind:name need…`, into the section `.beeline_names`, which the host reads for its `--list`.
macro_rules! tests {
    ($kind:literal, $needs:tt: $($name:ident),+ $(,)?) => {
        $( $crate::runtime::registry::test! { $kind, $needs, $name } )+
    };
}
pub(crate) use tests;

/// Registers one of them.
macro_rules! test {
    ($kind:literal, [$($need:ident),+], $name:ident) => {
        const _: () = {
            use $crate::runtime::registry::{Needs, TestEntry};
            #[used]
            #[expect(unsafe_code, reason = "a link section is the registry")]
            #[unsafe(link_section = ".beeline_tests")]
            static ENTRY: TestEntry = TestEntry {
                name: stringify!($name), kind: $kind, needs: &[$(Needs::$need),+], run: $name,
            };
            const LINE: &str =
                concat!($kind, ":", stringify!($name) $(, " ", stringify!($need))+, "\n");
            #[used]
            #[expect(unsafe_code, reason = "a link section is the registry")]
            #[unsafe(link_section = ".beeline_names")]
            static NAME: [u8; LINE.len()] = $crate::runtime::registry::bytes(LINE);
        };
    };
    ($kind:literal, $need:ident, $name:ident) => {
        $crate::runtime::registry::test! { $kind, [$need], $name }
    };
}
pub(crate) use test;

/// A string as an array, for the names' section.
pub const fn bytes<const N: usize>(line: &str) -> [u8; N] {
    let mut array = [0; N];
    let mut i = 0;
    while i < N {
        array[i] = line.as_bytes()[i];
        i += 1;
    }
    array
}

static CURRENT: AtomicUsize = AtomicUsize::new(usize::MAX);
static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

struct Detail(UnsafeCell<Text>);
// SAFETY: only the boot CPU, which runs the tests, touches it.
unsafe impl Sync for Detail {}
static DETAIL: Detail = Detail(UnsafeCell::new(Text::new()));

fn entries() -> &'static [TestEntry] {
    unsafe extern "C" {
        static __tests_start: u8;
        static __tests_end: u8;
    }
    let (start, end) = (&raw const __tests_start, &raw const __tests_end);
    let count = (end as usize - start as usize) / size_of::<TestEntry>();
    // SAFETY: the linker script puts all entries, and nothing else, between the two symbols, aligned.
    unsafe { core::slice::from_raw_parts(start.cast::<TestEntry>(), count) }
}

fn current_name() -> &'static str {
    entries().get(CURRENT.load(Ordering::Relaxed)).map_or("boot", |entry| entry.name)
}

/// What the test's `ok` line shall add. Boot CPU only.
pub fn detail(arguments: core::fmt::Arguments<'_>) {
    // SAFETY: see `Detail`.
    unsafe { *DETAIL.0.get() = Text::format(arguments) };
}

/// Prints a FIGURE line; `tenths` is the value times ten.
pub fn figure(name: &str, tenths: i64, unit: &str, n: u64) {
    let sign = if tenths < 0 { "-" } else { "" };
    let value = tenths.unsigned_abs();
    println!("FIGURE {name} {sign}{}.{} {unit} n={n}", value / 10, value % 10);
}

/// Runs the tests that the command line asks for, in the order of their names.
pub fn run_all() {
    let options = boot::options();
    let entries = entries();
    let mut last = "";
    loop {
        let next = entries
            .iter()
            .enumerate()
            .filter(|(_, e)| options.boot.split(',').any(|kind| kind == e.kind))
            .filter(|(_, e)| e.name.contains(options.filter) && e.name > last)
            .min_by_key(|(_, e)| e.name);
        let Some((index, entry)) = next else { break };
        last = entry.name;
        match entry.needs.iter().find_map(missing) {
            Some(what) => println!("# {} skipped: it needs {what}", entry.name),
            None => {
                CURRENT.store(index, Ordering::Relaxed);
                run(entry);
            }
        }
    }
    CURRENT.store(usize::MAX, Ordering::Relaxed);
}

/// The need in words, when it is not met.
fn missing(need: &Needs) -> Option<&'static str> {
    let (beeline, tcg) = (hypercall::present(), boot::options().tcg);
    let (met, what) = match need {
        Needs::Machine => (true, "a machine"),
        Needs::Deadline => (lapic::has_deadline(), "a TSC-deadline timer"),
        Needs::Strict => (beeline || !tcg, "somebody who refuses what is illegal"),
        Needs::IllegalVectors => (!tcg, "an APIC that refuses vectors 0 to 15"),
        Needs::Alignment => (!tcg, "a CPU that checks alignment"),
        Needs::FrameBreakpoint => (!tcg, "a CPU that bears a breakpoint in a delivery"),
        Needs::Steady => (!tcg, "clocks that stand still when it does"),
        Needs::Beeline => (beeline, "the hypervisor"),
        Needs::Hooks => (hypercall::has_debug_hooks(), "the debug hooks"),
    };
    (!met).then_some(what)
}

fn run(entry: &TestEntry) {
    detail(format_args!(""));
    cpu::cli();
    let outcome = match catch::catch(entry.run) {
        Ok(outcome) => outcome,
        Err(caught) => Err(Text::format(format_args!("{caught}"))),
    };
    cpu::cli();
    irq::reset();
    lapic::note_mode();
    lapic::quiesce();
    cpu::take_pending();
    match outcome {
        Ok(()) => {
            PASSED.fetch_add(1, Ordering::Relaxed);
            // SAFETY: see `Detail`.
            let detail = unsafe { &*DETAIL.0.get() };
            let gap = if detail.as_str().is_empty() { "" } else { " " };
            println!("TEST {} ok{gap}{detail}", entry.name);
        }
        Err(reason) => {
            FAILED.fetch_add(1, Ordering::Relaxed);
            println!("TEST {} FAILED {reason}", entry.name);
            smp::recover();
        }
    }
}

/// Something broke outside any `catch`: the current test has failed and the run ends.
pub fn fatal(arguments: core::fmt::Arguments<'_>) -> ! {
    FAILED.fetch_add(1, Ordering::Relaxed);
    println!("TEST {} FAILED {arguments}", current_name());
    end()
}

/// Prints the totals and ends the run the way the command line says.
pub fn end() -> ! {
    let (passed, failed) = (PASSED.load(Ordering::Relaxed), FAILED.load(Ordering::Relaxed));
    println!("TESTS done passed={passed} failed={failed}");
    serial::drain();
    match boot::options().exit {
        Exit::Halt => {}
        Exit::Bochs if failed == 0 => cpu::out8(0x8900, b'D'),
        Exit::Bochs => b"Shutdown".iter().for_each(|byte| cpu::out8(0x8900, *byte)),
        // The same values as the hypervisor's.
        Exit::IsaDebug => cpu::out8(0xF4, if failed == 0 { 0x10 } else { 0x11 }),
        Exit::Acpi => cpu::out8(0xB004, 5 << 2 | 0x20),
    }
    loop {
        cpu::cli();
        cpu::hlt();
    }
}
