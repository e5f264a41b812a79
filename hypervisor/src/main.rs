//! The bare-metal program: entry and panic. Everything else is in the library.

#![cfg_attr(target_os = "none", no_std, no_main)]

/// Called by `arch::boot` in 64-bit mode on the boot stack.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the entry point is called by its symbol's name")]
#[unsafe(no_mangle)]
extern "C" fn beeline_main(magic: u32, info: u64) -> ! {
    hypervisor::boot::main(magic, info)
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hypervisor::fatal::panic(info)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This program boots on the bare machine: see `cargo xtask run`.");
}
