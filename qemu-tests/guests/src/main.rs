//! The bare-metal test guest: one Multiboot 1 kernel that holds every in-guest test and benchmark.
//!
//! The same binary runs as a guest of Beeline and, by GRUB's `multiboot` command, on the bare machine, so that each test
//! is known to be right about the hardware before it judges the hypervisor. `runtime` starts the machine and runs the
//! tests that `boot=KIND` on the command line asks for; `tests` holds them by theme; `bench` holds the measurements;
//! `pf_owner` serves virtual functions.
//! The lines it prints are described in docs/src/guest-interface.md.

#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    target_os = "none",
    expect(
        clippy::result_large_err,
        reason = "the reason of a failure is text, and no heap is here"
    )
)]

#[cfg(target_os = "none")]
mod bench;
#[cfg(any(test, target_os = "none"))]
mod cmdline;
#[cfg(any(test, target_os = "none"))]
mod pf_owner;
#[cfg(target_os = "none")]
mod runtime;
#[cfg(target_os = "none")]
mod tests;

/// The host has nothing to run: this keeps `cargo check --workspace` whole.
#[cfg(not(target_os = "none"))]
fn main() {
    println!("test-guest is a bare-metal program: build it with --target x86_64-unknown-none");
}
