//! Code that asks for more than a number, a stack, a heap or a boot's patience holds (requirement S10).

use super::*;
use std::time::{Duration, Instant};

/// A package length of four bytes, whatever follows.
fn packaged(op: &[u8], inner: &[u8]) -> Vec<u8> {
    let length = inner.len() + 4;
    let bytes = [
        0xC0 | (length & 15) as u8,
        (length >> 4) as u8,
        (length >> 12) as u8,
        (length >> 20) as u8,
    ];
    [op, &bytes, inner].concat()
}

/// Loads the code and reads the wiring; neither may take long. On a boot stack.
fn quickly(code: Vec<u8>) {
    let run = move || {
        let start = Instant::now();
        let _ = wires(
            &mut Aml::new(vec![Table { name: "DSDT", code }], &|_, _| Some(0)),
            &|_, _, _, _| Some(1),
        );
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(run).unwrap().join().unwrap();
}

fn forever(inner: &[u8]) -> Vec<u8> {
    packaged(&[0xA2], &[&[1], inner].concat())
}

fn scope(segments: usize) -> Vec<u8> {
    [&[b'\\', 0x2F, segments as u8][..], &b"AAAA".repeat(segments)].concat()
}

#[test]
fn r_s10_fields_at_the_end_of_all_numbers() {
    let buffer = b"\x08BUF_\x11\x03\x0A\x08";
    for (create, access) in [
        (&b"\x8ABUF_\xFFFLD_"[..], &b"\x08XXXXFLD_"[..]),
        (b"\x8ABUF_\xFFFLD_", b"\x70\x01FLD_"),
        (b"\x5B\x13BUF_\xFF\xFFFLD_", b"\x70\x01FLD_"),
        (b"\x5B\x80REG_\x00\xFF\x01\x5B\x81\x0BREG_\x00FLD_\x08", b"\x08XXXXFLD_"),
        (b"\x5B\x80REG_\x00\xFF\x01\x5B\x81\x0BREG_\x00FLD_\x08", b"\x70\x01FLD_"),
    ] {
        quickly([buffer, create, access].concat());
    }
}

#[test]
fn r_s10_a_long_field_list_in_a_loop_ends() {
    let region = b"\x5B\x80REG_\x00\x00\x01";
    let fields = packaged(&[0x5B, 0x81], &[&b"REG_\x00"[..], &[0; 200_000]].concat());
    quickly([region, &forever(&fields)[..]].concat());
}

#[test]
fn r_s10_copies_of_large_objects_end() {
    let package = packaged(&[0x13], &[&[0x0B, 0xFF, 0xFF], &[1; 0xFFFF][..]].concat());
    let name = [b"\x08PKG_", &package[..]].concat();
    quickly([&name[..], &forever(b"\x70PKG_\x60")].concat());
    let buffer = packaged(&[0x11], &[&[0x0A, 1], &[1; 500_000][..]].concat());
    quickly(forever(&[&[0x70], &buffer[..], &[0x60]].concat()));
    let text = [&[0x70, 0x0D], &[b'A'; 500_000][..], &[0, 0x60]].concat();
    quickly(forever(&text));
}

#[test]
fn r_s10_a_deep_place_is_no_recursion_and_no_store_of_memory() {
    // Each level has an address, the lowest a _PRT.
    let deep = |inner: &[u8]| {
        let relative = [&[0x2F, 255][..], &b"AAAA".repeat(255), inner].concat();
        packaged(&[0x10], &[scope(255), packaged(&[0x10], &relative)].concat())
    };
    let mut code = Vec::new();
    for up in 0..510 {
        code.extend(deep(&[&b"\x08"[..], &vec![b'^'; up], b"_ADR\x00"].concat()));
    }
    code.extend(deep(b"\x08_PRT\x12\x02\x00"));
    quickly(code);
    // Names in a package know their scope: 60000 of them, 8000 segments deep.
    let names = packaged(&[0x13], &[&[0x0B, 0x60, 0xEA], &b"BBBB".repeat(60_000)[..]].concat());
    let mut code = [b"\x08PKG_", &names[..]].concat();
    for _ in 0..32 {
        let relative = [&[0x2F, 250][..], &b"AAAA".repeat(250)].concat();
        code = packaged(&[0x10], &[relative, code].concat());
    }
    quickly(code);
}
