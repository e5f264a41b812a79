//! From the first Rust instruction to the runner: what the boot loader said, tables, LAPIC, the other CPUs.

#![expect(unsafe_code, reason = "reads what the boot loader left in memory")]

use super::serial::println;
use super::text::Text;
use super::{catch, cpu, hypercall, lapic, pvh, registry, serial, smp, tables, time};
use crate::cmdline::{self, Exit, Options};
use core::cell::UnsafeCell;

/// Multiboot 1, section 3.2: EAX at entry.
const MULTIBOOT_MAGIC: u64 = 0x2BAD_B002;

/// What the boot loader said, copied before anything can overwrite it.
pub struct BootInfo {
    line: [u8; 512],
    length: usize,
    ram_end: u64,
    pub modules: [Module; MAX_MODULES],
    pub module_count: usize,
    options: Options<'static>,
}

/// Boot modules that are remembered.
pub const MAX_MODULES: usize = 4;

/// A boot module: physical addresses, the last one of a C string.
#[derive(Clone, Copy)]
pub struct Module {
    pub start: u64,
    pub end: u64,
    pub line: u64,
}

impl BootInfo {
    /// Copies the command line.
    ///
    /// # Safety
    /// A C string of the loader's is at `address`.
    pub unsafe fn copy_line(&mut self, address: u64) {
        let text = address as *const u8;
        // SAFETY: the caller's promise; nothing behind the NUL is read.
        let byte = |at: usize| unsafe { *text.add(at) };
        while self.length < self.line.len() && byte(self.length) != 0 {
            self.line[self.length] = byte(self.length);
            self.length += 1;
        }
    }

    /// A stretch of RAM; what lies above 4 GiB does not count.
    pub fn add_ram(&mut self, base: u64, length: u64) {
        if base + length <= 1 << 32 {
            self.ram_end = self.ram_end.max(base + length);
        }
    }
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
        tcg: false,
        seed: 1,
        exit: Exit::Halt,
        tsc_hz: None,
    },
}));

fn info() -> &'static BootInfo {
    // SAFETY: read-only since `boot_cpu` filled it.
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

/// Multiboot 1, section 3.3: copies what the information structure at `address` says.
///
/// # Safety
/// `address` is what a Multiboot loader passed in EBX.
unsafe fn copy_multiboot(address: u64, info: &mut BootInfo) {
    // SAFETY: the loader's structures are in identity-mapped memory.
    unsafe {
        let word = |offset: u64| ((address + offset) as *const u32).read_unaligned();
        let flags = word(0);
        if flags & 1 << 2 != 0 {
            info.copy_line(u64::from(word(16)));
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
                if field(20) as u32 == 1 {
                    info.add_ram(field(4), field(12));
                }
                entry += 4 + u64::from((entry as *const u32).read_unaligned());
            }
        } else if flags & 1 != 0 {
            info.ram_end = 0x10_0000 + 1024 * u64::from(word(8));
        }
    }
}

/// Rust entry of the boot CPU, with the loader's EBX and the number that tells its protocol.
pub extern "sysv64" fn boot_cpu(magic: u64, address: u64) -> ! {
    // Silence the 8259s of a bare PC: their lines reach the CPU by the virtual wire.
    cpu::out8(0x21, 0xFF);
    cpu::out8(0xA1, 0xFF);
    tables::init();
    tables::load(0);
    serial::init();
    // SAFETY: INFO is ours alone at this point; the magic number vouches for the address.
    unsafe {
        let info = &mut *INFO.0.get();
        match magic {
            MULTIBOOT_MAGIC => copy_multiboot(address, info),
            pvh::MAGIC => pvh::copy_info(address, info),
            _ => registry::fatal(format_args!(
                "started neither by Multiboot 1 nor by PVH (magic number {magic:#x})"
            )),
        }
        let line = core::str::from_utf8(&info.line[..info.length]).unwrap_or("");
        info.options = cmdline::parse(line, smp::MAX_CPUS);
    }
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
        time::measure_lapic_timer();
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
