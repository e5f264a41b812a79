//! Passes the linker script to the bare-metal build; the host build is a stub.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=linker.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let dir = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    for argument in [&format!("-T{dir}/linker.ld"), "--no-pie", "-zmax-page-size=0x1000"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
