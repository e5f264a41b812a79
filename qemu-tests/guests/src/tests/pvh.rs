//! The start by PVH: the registers that the protocol promises, and what `hvm_start_info` says. Xen, docs/misc/pvh.pandoc.
//! That the data segments are flat the start-up code has tried itself, by reads at the end of 4 GiB.

#![expect(unsafe_code, reason = "reads what the boot loader left in memory")]

use crate::runtime::pvh::{self, MapEntry, RAM, StartInfo};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq, fail};
use crate::runtime::{boot, hypercall, smp};

tests! { "pvh", Beeline:
    pvh_entry_state,
    pvh_memory_map,
    pvh_root_of_the_acpi_tables,
    pvh_other_cpus_start,
}

fn pvh_entry_state() -> Outcome {
    const TF_IF_VM: u32 = 1 << 8 | 1 << 9 | 1 << 17;
    /// CR0.ET, which cannot be written.
    const ET: u32 = 1 << 4;
    let Some(state) = pvh::entry_state() else { fail!("the kernel was not entered by PVH") };
    ensure_eq!(state.cr0 & !ET, 1, "CR0: PE alone");
    ensure_eq!(u64::from(state.cr4) & !hypercall::cr4_unshadowed(), 0, "CR4");
    ensure_eq!(state.efer, 0, "EFER");
    ensure_eq!(state.eflags & TF_IF_VM, 0, "TF, IF and VM of EFLAGS");
    Ok(())
}

fn start_info() -> Outcome<StartInfo> {
    let Some(state) = pvh::entry_state() else { fail!("the kernel was not entered by PVH") };
    // SAFETY: EBX as the loader left it; nothing has used that memory.
    let info = unsafe { StartInfo::read(u64::from(state.ebx)) };
    ensure_eq!(u64::from(info.magic), pvh::MAGIC, "magic number");
    ensure!(info.version >= 1, "version {} has no memory map", info.version);
    ensure_eq!(info.flags, 0, "flags: neither dom0 nor the first domain");
    Ok(info)
}

fn pvh_memory_map() -> Outcome {
    unsafe extern "C" {
        static __image_start: u8;
        static __image_end: u8;
    }
    let info = start_info()?;
    let mut end = 0;
    for MapEntry { start, size, .. } in info.map() {
        ensure!(start >= end && size > 0, "the entry at {start:#x} is out of order or empty");
        end = start + size;
    }
    let inside = |from: u64, to: u64| {
        info.map().any(|e| e.kind == RAM && e.start <= from && to <= e.start + e.size)
    };
    let (start, end) = ((&raw const __image_start) as u64, (&raw const __image_end) as u64);
    ensure!(inside(start, end), "the kernel's own memory is not RAM");
    ensure!(inside(0, 0x9_0000), "conventional memory is not RAM");
    ensure!(!inside(0xA_0000, 0xC_0000), "the hole is RAM");
    ensure_eq!(boot::ram_end() % 0x20_0000, 0, "the end of RAM is not the configuration's");
    detail(format_args!("entries={} ram_end={:#x}", info.map().count(), boot::ram_end()));
    Ok(())
}

fn pvh_root_of_the_acpi_tables() -> Outcome {
    let rsdp = start_info()?.rsdp;
    ensure!(rsdp != 0, "no RSDP");
    // SAFETY: the structure's first part has 20 bytes (ACPI 6.5, section 5.2.5.3) and is in mapped memory.
    let bytes = unsafe { core::slice::from_raw_parts(rsdp as *const u8, 20) };
    ensure!(bytes.starts_with(b"RSD PTR "), "no RSDP at {rsdp:#x}");
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    ensure_eq!(sum, 0, "checksum of the RSDP");
    Ok(())
}

fn pvh_other_cpus_start() -> Outcome {
    for index in smp::others()? {
        smp::on_cpu(index, || Ok(()))?;
    }
    Ok(())
}
