//! Test guest.
fn main() {}
