//! From the first Rust instruction to the runner: Multiboot information, tables, LAPIC, the other CPUs.

#![expect(unsafe_code, reason = "reads what the boot loader left in memory")]

use super::serial::println;
use super::text::Text;
use super::{catch, cpu, hypercall, lapic, registry, serial, smp, tables, time};
use crate::cmdline::{self, Exit, Options};
use core::cell::UnsafeCell;

/// What the boot loader said, copied before anything can overwrite it.
struct BootInfo {
    line: [u8; 512],
    length: usize,
    ram_end: u64,
    modules: [Module; MAX_MODULES],
    module_count: usize,
    options: Options<'static>,
}

/// Boot modules that are remembered.
const MAX_MODULES: usize = 4;

/// A boot module: physical addresses, the last one of a C string.
#[derive(Clone, Copy)]
struct Module {
    start: u64,
    end: u64,
    line: u64,
}

struct Once(UnsafeCell<BootInfo>);
// SAFETY: written by the boot CPU before any other runs, read-only afterwards.
unsafe impl Sync for Once {}

static INFO: Once = Once(UnsafeCell::new(BootInfo {
    line: [0; 512],
    length: 0,
    ram_end: 0,
    modules: [Module { start: 0, end: 0, line: 0 }; MAX_MODULES],
    module_count: 0,
    options: Options {
        boot: "up",
        filter: "",
        cpus: 1,
        bare: false,
        seed: 1,
        exit: Exit::Halt,
        tsc_hz: None,
    },
}));

fn info() -> &'static BootInfo {
    // SAFETY: read-only since `copy_info`.
    unsafe { &*INFO.0.get() }
}

/// The command line's words.
pub fn options() -> &'static Options<'static> {
    &info().options
}

/// The command line itself.
pub fn line() -> &'static str {
    core::str::from_utf8(&info().line[..info().length]).unwrap_or("")
}

/// How many boot modules there are.
pub fn module_count() -> usize {
    info().module_count
}

/// Content and command line of a boot module. They must be looked at before anything uses their memory.
pub fn module(index: usize) -> Option<(&'static [u8], &'static str)> {
    let modules = &info().modules[..info().module_count.min(MAX_MODULES)];
    let Module { start, end, line } = *modules.get(index)?;
    // SAFETY: the loader's structures are in identity-mapped memory that we do not use.
    unsafe {
        let text = core::ffi::CStr::from_ptr(line as *const core::ffi::c_char);
        let content = core::slice::from_raw_parts(start as *const u8, (end - start) as usize);
        Some((content, text.to_str().unwrap_or("")))
    }
}

/// End of the RAM below 4 GiB, in bytes.
pub fn ram_end() -> u64 {
    info().ram_end
}

/// Whether this boot works in xAPIC mode.
pub fn wants_xapic() -> bool {
    options().boot.split(',').any(|kind| kind.starts_with("xapic"))
}

/// Multiboot 1, section 3.3: reads the information structure at `address`.
///
/// # Safety
/// `address` is what a Multiboot loader passed in EBX.
unsafe fn copy_info(address: u64) {
    // SAFETY: the loader's structures are in identity-mapped memory; INFO is ours alone at this point.
    unsafe {
        let info = &mut *INFO.0.get();
        let word = |offset: u64| ((address + offset) as *const u32).read_unaligned();
        let flags = word(0);
        if flags & 1 << 2 != 0 {
            let text = u64::from(word(16)) as *const u8;
            while info.length < info.line.len() && *text.add(info.length) != 0 {
                info.line[info.length] = *text.add(info.length);
                info.length += 1;
            }
        }
        if flags & 1 << 3 != 0 {
            info.module_count = word(20) as usize;
            for (index, module) in info.modules.iter_mut().enumerate().take(info.module_count) {
                let field = |at: usize| {
                    let entry = u64::from(word(24)) as usize + 16 * index;
                    u64::from(((entry + at) as *const u32).read_unaligned())
                };
                *module = Module { start: field(0), end: field(4), line: field(8) };
            }
        }
        if flags & 1 << 6 != 0 {
            let (mut entry, end) = (u64::from(word(48)), u64::from(word(48)) + u64::from(word(44)));
            while entry < end {
                let field = |offset: u64| ((entry + offset) as *const u64).read_unaligned();
                let (base, length, kind) = (field(4), field(12), field(20) as u32);
                if kind == 1 && base + length <= 1 << 32 {
                    info.ram_end = info.ram_end.max(base + length);
                }
                entry += 4 + u64::from((entry as *const u32).read_unaligned());
            }
        } else if flags & 1 != 0 {
            info.ram_end = 0x10_0000 + 1024 * u64::from(word(8));
        }
        let line = core::str::from_utf8(&info.line[..info.length]).unwrap_or("");
        info.options = cmdline::parse(line, smp::MAX_CPUS);
    }
}

/// Rust entry of the boot CPU, with the loader's EAX and EBX.
pub extern "sysv64" fn boot_cpu(magic: u64, address: u64) -> ! {
    // Silence the 8259s of a bare PC: their lines reach the CPU by the virtual wire.
    cpu::out8(0x21, 0xFF);
    cpu::out8(0xA1, 0xFF);
    tables::init();
    tables::load(0);
    serial::init();
    if magic != 0x2BAD_B002 {
        registry::fatal(format_args!("not started by a Multiboot 1 loader (EAX {magic:#x})"));
    }
    // SAFETY: the magic number vouches for the address.
    unsafe { copy_info(address) };
    time::init();
    hypercall::init();
    let options = options();
    println!(
        "# test guest: boot={} filter={} cpus={} seed={} bare={} hypervisor={} tsc_hz={}",
        options.boot,
        options.filter,
        options.cpus,
        options.seed,
        options.bare,
        hypercall::present(),
        time::tsc_hz()
    );
    let started = catch::catch(|| {
        lapic::init(wants_xapic());
        smp::start_all()
    });
    match started {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => registry::fatal(format_args!("{reason}")),
        Err(caught) => registry::fatal(format_args!("start of the CPUs: {caught}")),
    }
    if !options.bare && !hypercall::present() {
        registry::fatal(format_args!("no Beeline below, and no word \"bare\" on the command line"));
    }
    registry::run_all();
    registry::end()
}

/// A panic ends the test it happens in, and the run where there is no test around it.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let message = match info.location() {
        Some(at) => Text::format(format_args!("{}:{} {}", at.file(), at.line(), info.message())),
        None => Text::format(format_args!("{}", info.message())),
    };
    catch::land_from_panic(message);
    registry::fatal(format_args!("panic {message}"))
}
