//! What the machine's ACPI tables say: processors, I/O APICs, timers, PCI windows. The `acpi`
//! crate finds and checksums the tables; their contents are read by the checked parsers of
//! `arch_defs`. ACPI specification 6.5, section 5.2.

#![expect(unsafe_code, reason = "reads firmware tables at physical addresses")]

use crate::apic::PhysicalApicId;
use acpi::{AcpiHandler, AcpiTable, AcpiTables, AmlTable, PhysicalMapping};
use alloc::string::String;
use alloc::vec::Vec;
use arch_defs::acpi::{EcamWindow, IoApic, MadtEntry, Processor, SourceOverride};
use arch_defs::aml::{HEADER, Table};
use arch_defs::iommu::dmar::Dmar;
use core::ptr::NonNull;

/// Highest address that the boot page tables map.
const MAPPED: usize = 4 << 30;

/// Where the boot information says that the root tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootTable {
    /// RSDT (revision 0) or XSDT address.
    pub address: u64,
    /// ACPI revision of the RSDP.
    pub revision: u8,
}

/// The machine as firmware describes it.
#[derive(Debug, Default)]
pub struct Platform {
    /// Enabled processors, in MADT order.
    pub processors: Vec<Processor>,
    /// I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that are wired elsewhere.
    pub overrides: Vec<SourceOverride>,
    /// I/O port of the ACPI PM timer (3.579545 MHz).
    pub pm_timer: Option<u16>,
    /// PCI configuration windows.
    pub ecam: Vec<EcamWindow>,
    /// Registers of the event timers (HPET).
    pub hpet: Option<u64>,
    /// VT-d remapping units and what they cover.
    pub dmar: Option<Dmar>,
    /// The code of the DSDT and the SSDTs, in this order.
    pub code: Vec<Table>,
}

impl Platform {
    /// Every processor but `me`, each once: firmware may list one as type 0 and type 9.
    pub fn other_processors(&self, me: PhysicalApicId) -> impl Iterator<Item = Processor> + '_ {
        self.processors.iter().enumerate().filter_map(move |(index, processor)| {
            let earlier = self.processors.iter().take(index);
            let seen = earlier.clone().any(|other| other == processor);
            (processor.apic_id != me.0 && !seen).then_some(*processor)
        })
    }
}

/// Identity mapping: the boot page tables map the first 4 GiB.
#[derive(Clone, Copy)]
struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        // Firmware keeps its tables below 4 GiB, and `find` refuses a root table that is not. A
        // pointer beyond in the middle of the tables is led to address 0x1000, whose bytes fail
        // the checksum that the crate makes next.
        let fits = address != 0 && address.checked_add(size).is_some_and(|end| end <= MAPPED);
        let at = if fits { address } else { 0x1000 };
        // SAFETY: the address is mapped and not null.
        unsafe {
            let start = NonNull::new_unchecked(at as *mut T);
            PhysicalMapping::new(at, start, size, size, *self)
        }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// The whole table behind a mapping, as bytes.
fn bytes<T: AcpiTable>(mapping: &PhysicalMapping<Identity, T>) -> &[u8] {
    let len = mapping.get().header().length as usize;
    let start = mapping.virtual_start().as_ptr().cast::<u8>();
    // SAFETY: the crate checked the checksum over these bytes, so they are mapped memory, and
    // nobody writes to firmware tables.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// DMAR, VT-d specification section 8.1; only its bytes are read.
#[repr(transparent)]
struct DmarTable(acpi::sdt::SdtHeader);

// SAFETY: the type is the table's header, which every table starts with.
unsafe impl AcpiTable for DmarTable {
    const SIGNATURE: acpi::sdt::Signature = acpi::sdt::Signature::DMAR;

    fn header(&self) -> &acpi::sdt::SdtHeader {
        &self.0
    }
}

/// HPET, IA-PC HPET specification 1.0a, section 3.2.4; only its bytes are read.
#[repr(transparent)]
struct HpetTable(acpi::sdt::SdtHeader);

// SAFETY: as for `DmarTable`.
unsafe impl AcpiTable for HpetTable {
    const SIGNATURE: acpi::sdt::Signature = acpi::sdt::Signature::HPET;

    fn header(&self) -> &acpi::sdt::SdtHeader {
        &self.0
    }
}

/// Reads the tables. Needs the boot page tables, which map the first 4 GiB.
///
/// # Errors
/// What is missing or malformed, naming table and field.
pub fn read(root: RootTable) -> Result<Platform, String> {
    use alloc::format;
    if root.address as usize >= MAPPED {
        return Err(format!("ACPI root table at {:#x} lies above 4 GiB", root.address));
    }
    // SAFETY: the address comes from the boot loader's copy of the RSDP, whose checksum was
    // checked.
    let tables = unsafe { AcpiTables::from_rsdt(Identity, root.revision, root.address as usize) }
        .map_err(|e| format!("ACPI root table at {:#x}: {e:?}", root.address))?;
    let mut platform = Platform::default();
    let madt = tables
        .find_table::<acpi::madt::Madt>()
        .map_err(|e| format!("ACPI APIC table (MADT): {e:?}"))?;
    arch_defs::acpi::parse_madt(bytes(&madt), |entry| match entry {
        MadtEntry::Processor(p) => platform.processors.push(p),
        MadtEntry::IoApic(io) => platform.io_apics.push(io),
        MadtEntry::SourceOverride(o) => platform.overrides.push(o),
    })
    .map_err(|e| format!("{e}"))?;
    if let Ok(fadt) = tables.find_table::<acpi::fadt::Fadt>() {
        let block = fadt.pm_timer_block().ok().flatten();
        platform.pm_timer = block.and_then(|block| {
            let io = block.address_space == acpi::address::AddressSpace::SystemIo;
            u16::try_from(block.address).ok().filter(|_| io)
        });
    }
    if let Ok(mcfg) = tables.find_table::<acpi::mcfg::Mcfg>() {
        arch_defs::acpi::parse_mcfg(bytes(&mcfg), |window| platform.ecam.push(window))
            .map_err(|e| format!("{e}"))?;
    }
    if let Ok(hpet) = tables.find_table::<HpetTable>() {
        platform.hpet = arch_defs::acpi::parse_hpet(bytes(&hpet));
    }
    platform.dmar = match tables.find_table::<DmarTable>() {
        Ok(table) => Some(Dmar::parse(bytes(&table)).map_err(|e| format!("{e}"))?),
        Err(acpi::AcpiError::TableMissing(_)) => None,
        Err(e) => return Err(format!("ACPI DMAR table: {e:?}")),
    };
    platform.code = tables.dsdt().iter().filter_map(|dsdt| code("DSDT", dsdt)).collect();
    platform.code.extend(tables.ssdts().filter_map(|ssdt| code("SSDT", &ssdt)));
    Ok(platform)
}

/// A copy of a table's code; `None`, with a word in the log, for a damaged one.
fn code(name: &'static str, table: &AmlTable) -> Option<Table> {
    let (start, len) = (table.address.checked_sub(HEADER)?, table.length as usize + HEADER);
    let fits = start.checked_add(len).is_some_and(|end| end <= MAPPED);
    // SAFETY: the boot page tables map the first 4 GiB, and nobody writes to firmware tables.
    let bytes = fits.then(|| unsafe { core::slice::from_raw_parts(start as *const u8, len) });
    // The crate has checked the header alone.
    let sound = |bytes: &&[u8]| bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) == 0;
    let Some(bytes) = bytes.filter(sound) else {
        log::warn!("ACPI {name} table at {start:#x}: its checksum is wrong, it is left out");
        return None;
    };
    bytes.get(HEADER..).map(|code| Table { name, code: code.to_vec() })
}
