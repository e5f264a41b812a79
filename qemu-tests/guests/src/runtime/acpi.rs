//! The one ACPI table that tests need: the MCFG, which says where PCI configuration space is in memory.
//! ACPI 6.5, 5.2.5 (RSDP), 5.2.6 (headers); PCI Firmware Specification 3.0, 4.1.2.

#![expect(unsafe_code, reason = "reads tables where firmware or the loader put them")]

/// Bytes of a table's header.
const HEADER: u64 = 36;

/// Physical address of the configuration window of segment 0, whose first bus is bus 0.
pub fn configuration_window() -> Option<u64> {
    let mcfg = table(b"MCFG")?;
    // After the header come 8 reserved bytes and the first entry: base, segment, first and last bus.
    let (base, buses) = (quad(mcfg + HEADER + 8), dword(mcfg + HEADER + 16));
    (buses & 0x00FF_FFFF == 0 && base < 1 << 32).then_some(base)
}

/// The table with this signature.
fn table(signature: &[u8; 4]) -> Option<u64> {
    let rsdp = (0xE_0000..0x10_0000)
        .step_by(16)
        .find(|at| quad(*at) == u64::from_le_bytes(*b"RSD PTR "))?;
    // Byte 15 is the revision: since 2 there is an XSDT.
    let (root, step) = match dword(rsdp + 12) >> 24 {
        0 => (u64::from(dword(rsdp + 16)), 4),
        _ => (quad(rsdp + 24), 8),
    };
    let length = u64::from(dword(root + 4)).min(4096);
    let tables = (root + HEADER..root + length).step_by(step as usize);
    tables
        .map(|at| if step == 4 { u64::from(dword(at)) } else { quad(at) })
        .find(|table| *table < 1 << 32 && dword(*table) == u32::from_le_bytes(*signature))
}

fn dword(address: u64) -> u32 {
    // SAFETY: 4 GiB are identity-mapped, and a read changes nothing.
    unsafe { (address as *const u32).read_unaligned() }
}

fn quad(address: u64) -> u64 {
    u64::from(dword(address)) | u64::from(dword(address + 4)) << 32
}
