//! The ACPI tables a guest finds: those of a small machine with hardware-reduced ACPI (ACPI 6.5,
//! section 4.1), one function per table.
//!
//! The hypervisor calls [`build`] once per start of a VM, before [`crate::image::load`]. Linux
//! gets the address of the RSDP in the zero page; other kernels find it by the scan of
//! section 5.2.5.1, because it lies at a 16-byte boundary from 0xE0000.

use crate::MAX_VCPUS;
use crate::image::LoadError;
use crate::layout::{
    ACPI_END, ACPI_START, COM1_GSI, COM1_PORT, IOAPIC, LAPIC, PCI_CONFIG_ADDRESS, PCI_ECAM,
    PCI_ECAM_SIZE, PCI_WINDOW_END, PCI_WINDOW_START, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT,
    SLEEP_STATUS_PORT, SLEEP_TYPE_S5,
};
use crate::memory::{GuestMemory, GuestPhys};
use acpi_tables::Aml;
use acpi_tables::aml::{
    self, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    PackageBuilder, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::IntoBytes;

const OEM_ID: [u8; 6] = *b"BEELIN";
const OEM_TABLE_ID: [u8; 8] = *b"BEELINE ";
const OEM_REVISION: u32 = 1;
/// Bytes of the header that every table but the RSDP starts with.
const HEADER: u32 = 36;
/// Tables start at multiples of this many bytes.
const ALIGN: u64 = 16;

/// IAPC_BOOT_ARCH (section 5.2.9.3): no VGA to probe. Bit 1 (8042) stays clear: there is none.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// IAPC_BOOT_ARCH: no CMOS clock.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// Where the interrupt pin of a PCI device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciRoute {
    /// Device number on the one bus, 0 to 31.
    pub device: u8,
    /// Global system interrupt: pin of the virtual IOAPIC, level-triggered, active low.
    pub gsi: u32,
}

/// Writes every table for a VM of `vcpus` vCPUs and returns the address of the RSDP.
///
/// The vCPUs have the APIC ids 0 to `vcpus` - 1. `routing` has the PCI devices with an interrupt pin.
///
/// # Errors
/// [`LoadError`] when `vcpus` is not 1 to [`MAX_VCPUS`] or the tables do not fit.
pub fn build(
    mem: &mut impl GuestMemory,
    vcpus: u32,
    routing: &[PciRoute],
) -> Result<GuestPhys, LoadError> {
    if vcpus == 0 || vcpus as usize > MAX_VCPUS {
        let want = "1 to 64 vCPUs are expected; change cpus";
        return Err(LoadError::BadField { field: "vcpus", value: vcpus.into(), want });
    }
    let mut next = ACPI_START + Rsdp::len() as u64;
    let dsdt = put(mem, &mut next, "DSDT", &dsdt(routing))?;
    let fadt = put(mem, &mut next, "FADT", &fadt(dsdt))?;
    let madt = put(mem, &mut next, "MADT", &madt(vcpus))?;
    let mcfg = put(mem, &mut next, "MCFG", &mcfg())?;
    let xsdt = put(mem, &mut next, "XSDT", &xsdt(&[fadt, madt, mcfg]))?;
    let rsdp = GuestPhys(ACPI_START);
    mem.write(rsdp, Rsdp::new(OEM_ID, xsdt.0).as_bytes())?;
    Ok(rsdp)
}

fn put(
    mem: &mut impl GuestMemory,
    next: &mut u64,
    what: &'static str,
    table: &[u8],
) -> Result<GuestPhys, LoadError> {
    let start = next.next_multiple_of(ALIGN);
    let size = table.len() as u64;
    if start.saturating_add(size) > ACPI_END {
        return Err(LoadError::NoRoom { what, start, size });
    }
    mem.write(GuestPhys(start), table)?;
    *next = start + size;
    Ok(GuestPhys(start))
}

fn xsdt(tables: &[GuestPhys]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    tables.iter().for_each(|table| xsdt.add_entry(table.0));
    bytes(&xsdt)
}

fn fadt(dsdt: GuestPhys) -> Vec<u8> {
    let port =
        |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt.0)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // These three say that the feature is *not* in fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Beeline\0").into();
    bytes(&fadt.finalize())
}

/// The processors are type 0 entries although guests start in x2APIC mode: Linux reads types 0
/// and 9 alike in either mode, but small kernels often know type 0 alone, and the compatibility
/// note of section 5.2.12.12 wants it for ids below 255. All of ours are: see [`MAX_VCPUS`].
///
/// There is no interrupt source override: COM1 is on the pin of its ISA number, and the DSDT says
/// how it triggers. PCAT_COMPAT stays clear: there is no 8259 to mask.
fn madt(vcpus: u32) -> Vec<u8> {
    const REVISION: u8 = 5;
    let mut madt = Sdt::new(*b"APIC", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.append_slice(&(LAPIC as u32).to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    for id in 0..vcpus.min(MAX_VCPUS as u32) {
        let cpu = ProcessorLocalApic::new(id as u8, id as u8, EnabledStatus::Enabled);
        madt.append_slice(cpu.as_bytes());
    }
    madt.append_slice(IoApic::new(0, IOAPIC as u32, 0).as_bytes());
    madt.as_slice().to_vec()
}

/// PCI configuration space of bus 0 (PCI Firmware Specification 3.2, section 4.1.2).
fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(PCI_ECAM, 0, 0, 0);
    bytes(&mcfg)
}

fn dsdt(routing: &[PciRoute]) -> Vec<u8> {
    const REVISION: u8 = 2;
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&soft_off());
    dsdt.append_slice(&com1());
    dsdt.append_slice(&host_bridge(routing));
    dsdt.append_slice(&reserved());
    dsdt.as_slice().to_vec()
}

/// `\_S5`: the SLP_TYP values that switch the VM off (section 7.4.2).
fn soft_off() -> Vec<u8> {
    let package = Package::new(vec![&SLEEP_TYPE_S5, &SLEEP_TYPE_S5]);
    bytes(&Name::new("_S5_".into(), &package))
}

/// COM1 as a PNP device in `\_SB`.
fn com1() -> Vec<u8> {
    let io = IO::new(COM1_PORT, COM1_PORT, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, COM1_GSI);
    let resources = ResourceTemplate::new(vec![&io, &interrupt]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let uid = Name::new("_UID".into(), &1u8);
    let crs = Name::new("_CRS".into(), &resources);
    bytes(&Device::new("\\_SB_.COM1".into(), vec![&hid, &uid, &crs]))
}

/// The PCI host bridge: one bus, one window of memory. There are no ports behind it.
fn host_bridge(routing: &[PciRoute]) -> Vec<u8> {
    let bus = aml::AddressSpace::new_bus_number(0u16, 0u16);
    let config = IO::new(PCI_CONFIG_ADDRESS, PCI_CONFIG_ADDRESS, 1, 8);
    let (first, last) = (PCI_WINDOW_START as u32, (PCI_WINDOW_END - 1) as u32);
    let window =
        aml::AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None);
    let resources = ResourceTemplate::new(vec![&bus, &config, &window]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &0u8);
    let segment = Name::new("_SEG".into(), &0u8);
    let first_bus = Name::new("_BBN".into(), &0u8);
    let crs = Name::new("_CRS".into(), &resources);
    let prt = Name::new("_PRT".into(), &interrupt_routing(routing));
    let parts: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &segment, &first_bus, &crs, &prt];
    bytes(&Device::new("\\_SB_.PCI0".into(), parts))
}

/// `_PRT` (section 6.2.13): INTA of any function of a device, by no link, at a global system interrupt.
fn interrupt_routing(routing: &[PciRoute]) -> PackageBuilder {
    const ANY_FUNCTION: u32 = 0xFFFF;
    const INTA: u8 = 0;
    const NO_LINK: u8 = 0;
    let mut package = PackageBuilder::new();
    for route in routing {
        let address = u32::from(route.device) << 16 | ANY_FUNCTION;
        package.add_element(&Package::new(vec![&address, &INTA, &NO_LINK, &route.gsi]));
    }
    package
}

/// Configuration space is nobody's window. Linux uses an MCFG only if a device like this says so.
fn reserved() -> Vec<u8> {
    let ecam = Memory32Fixed::new(true, PCI_ECAM as u32, PCI_ECAM_SIZE as u32);
    let resources = ResourceTemplate::new(vec![&ecam]);
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C02"));
    let uid = Name::new("_UID".into(), &0u8);
    let crs = Name::new("_CRS".into(), &resources);
    bytes(&Device::new("\\_SB_.MBRD".into(), vec![&hid, &uid, &crs]))
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
