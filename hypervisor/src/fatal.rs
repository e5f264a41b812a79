//! The end of the image: a panic or an exception of ours. Prints what happened with a backtrace
//! that `cargo xtask symbolise` turns into names, and ends the machine as the command line says;
//! without an `exit=` word only this core stops.

use crate::console::{self, Direct};
use crate::sync::{AtomicBool, Ordering};
use core::fmt::Write;
use core::panic::PanicInfo;

static REPORTING: AtomicBool = AtomicBool::new(false);

/// True once a report is being printed: the port is its alone.
pub fn reporting() -> bool {
    REPORTING.load(Ordering::Acquire)
}

/// Reports a panic.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    report(format_args!("{info}"), |each| {
        arch::backtrace::walk(text(), each);
    })
}

/// Reports an exception in root mode.
pub fn exception(frame: &arch::tables::TrapFrame) -> ! {
    report(format_args!("exception in the hypervisor: {frame}"), |each| {
        each(frame.rip);
        arch::backtrace::walk_from(frame.rbp, text(), each);
    })
}

fn text() -> core::ops::Range<u64> {
    arch::boot::Image::here().text
}

fn report(what: core::fmt::Arguments<'_>, walk: impl FnOnce(&mut dyn FnMut(u64))) -> ! {
    // A second fault, in the report itself or on another core, must not mix in.
    if !REPORTING.swap(true, Ordering::AcqRel) {
        console::flush_now();
        let mut out = Direct;
        let core = arch::cpu::core_index();
        // Writing to the port cannot fail.
        let _ = write!(out, "\r\nBEELINE panic core={core} {what}\r\nbacktrace:\r\n");
        let mut depth = 0;
        walk(&mut |address| {
            let _ = write!(out, "  #{depth} {address:#018x}\r\n");
            depth += 1;
        });
        let _ = write!(out, "BEELINE fatal panic\r\n");
        crate::boot::end_machine(false);
    }
    arch::cpu::halt_forever()
}
