//! Rows of single instructions that a hypervisor may trap: CPUID, hypercall, ICR, port, MSR, MMIO.

#![expect(unsafe_code, reason = "assembly loops")]

use super::frame::{measured, row};
use crate::runtime::cpu;
use crate::runtime::hypercall;
use crate::runtime::registry::tests;
use crate::runtime::text::Outcome;

tests! { "bench", Machine:
    bench_cpuid, bench_icr_write, bench_port, bench_msr, bench_mmio,
}
tests! { "bench", Beeline: bench_hypercall }

measured! { cpuid_0, [], ["xor eax, eax", "cpuid"] }
measured! { cpuid_1, [], ["mov eax, 1", "cpuid"] }

/// The leaf alone costs one instruction more than CPUID itself.
fn bench_cpuid() -> Outcome {
    row("cpuid_leaf0", 1, cpuid_0)?;
    row("cpuid_leaf1", 1, cpuid_1)
}

// KVM_HC_KICK_CPU would do work; PRESENCE is the cheapest call there is.
measured! { vmcall, ["mov ebp, 0x42450000"], ["mov eax, ebp", "vmcall"] }
measured! { vmmcall, ["mov ebp, 0x42450000"], ["mov eax, ebp", "vmmcall"] }

fn bench_hypercall() -> Outcome {
    row("hypercall", 1, if hypercall::is_amd() { vmmcall } else { vmcall })
}

// IF = 0: the vector stays in IRR, so that the write alone is measured.
measured! { icr_self, ["mov ecx, 0x830", "mov eax, 0x40062", "xor edx, edx"], ["wrmsr"] }
// The boot CPU's id is 0.
measured! { icr_physical, ["mov ecx, 0x830", "mov eax, 0x62", "xor edx, edx"], ["wrmsr"] }
measured! { self_ipi, ["mov ecx, 0x83F", "mov eax, 0x62", "xor edx, edx"], ["wrmsr"] }

fn bench_icr_write() -> Outcome {
    row("icr_write_self", 1, icr_self)?;
    row("icr_write_physical", 1, icr_physical)?;
    row("self_ipi_write", 0, self_ipi)?;
    cpu::take_pending();
    Ok(())
}

measured! { port_in, ["mov edx, 0x2FD"], ["in al, dx"] }
measured! { port_out, ["mov edx, 0x80", "xor eax, eax"], ["out dx, al"] }
measured! { port_uart, ["mov edx, 0x3FD"], ["in al, dx"] }

fn bench_port() -> Outcome {
    row("port_read_unclaimed", 1, port_in)?;
    row("port_write_unclaimed", 1, port_out)?;
    row("port_read_uart_status", 1, port_uart)
}

measured! { msr_apic_base, ["mov ecx, 0x1B"], ["rdmsr"] }
measured! { msr_x2apic_id, ["mov ecx, 0x802"], ["rdmsr"] }
measured! { msr_svr, ["mov ecx, 0x80F", "mov eax, 0x1FF", "xor edx, edx"], ["wrmsr"] }
measured! { msr_adjust, ["mov ecx, 0x3B", "rdmsr"], ["wrmsr"] }

fn bench_msr() -> Outcome {
    row("msr_read_apic_base", 1, msr_apic_base)?;
    row("msr_read_x2apic_id", 1, msr_x2apic_id)?;
    row("msr_write_svr", 1, msr_svr)?;
    row("msr_write_tsc_adjust", 1, msr_adjust)
}

measured! { mmio_read, ["mov ebx, 0xFEC00000"], ["mov eax, [rbx + 0x10]"] }
measured! { mmio_write, ["mov ebx, 0xFEC00000", "xor eax, eax"], ["mov [rbx], eax"] }

fn bench_mmio() -> Outcome {
    // IOREGSEL 0: the window then shows the IOAPIC's id.
    cpu::mmio_write(0xFEC0_0000, 0);
    row("mmio_read_ioapic", 1, mmio_read)?;
    row("mmio_write_ioapic", 1, mmio_write)
}
