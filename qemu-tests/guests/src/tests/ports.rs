//! Port I/O: what nobody claims reads as ones, in every width and form (S8).

#![expect(unsafe_code, reason = "string instructions")]

use crate::runtime::catch::catch;
use crate::runtime::cpu::{self, in8, in16, in32};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{boot, hypercall};
use core::arch::asm;

tests! { "up", Machine: s8_unclaimed_ports_read_as_ones }
tests! { "up", Beeline: s8_a_port_access_takes_one_exit }
tests! { "hostile", Beeline: s8_random_port_io_harms_nobody }
// A hypervisor may refuse string I/O with a report, which ends the VM: a boot of its own.
tests! { "hostile-string", Beeline: s8_string_io_to_unclaimed_ports }

/// Nobody answers here, neither in a guest nor on Bochs.
const NOBODY: u16 = 0x5678;

fn s8_unclaimed_ports_read_as_ones() -> Outcome {
    // QEMU by itself reads an odd port's 16 bits as 0.
    let odd = u16::from(hypercall::present() || !boot::options().tcg);
    for port in [NOBODY, 0x2F8, 0x1234, 0xABCC + odd] {
        ensure_eq!(in8(port), 0xFF, "8 bits of port {port:#x}");
        ensure_eq!(in16(port), 0xFFFF, "16 bits of port {port:#x}");
        ensure_eq!(in32(port), 0xFFFF_FFFF, "32 bits of port {port:#x}");
        cpu::out8(port, 0x12);
        cpu::out16(port, 0x1234);
        cpu::out32(port, 0x1234_5678);
        ensure_eq!(in8(port), 0xFF, "port {port:#x} after writes");
    }
    // The upper part of the register is untouched by narrow reads.
    let mut value: u64;
    // SAFETY: reads a port that nobody claims.
    unsafe {
        asm!("mov rax, 0x1122334455667788", "in al, dx", in("dx") NOBODY, out("rax") value);
    }
    ensure_eq!(value, 0x1122_3344_5566_77FF, "RAX after an 8-bit read");
    // SAFETY: as above.
    unsafe {
        asm!("mov rax, 0x1122334455667788", "in eax, dx", in("dx") NOBODY, out("rax") value);
    }
    ensure_eq!(value, 0xFFFF_FFFF, "RAX after a 32-bit read");
    Ok(())
}

fn s8_a_port_access_takes_one_exit() -> Outcome {
    let before = hypercall::exits(hypercall::ALL, hypercall::IO);
    let (exits, ()) = hypercall::exits_of(|| {
        for _ in 0..100 {
            in8(NOBODY);
        }
    });
    ensure_eq!(exits, 100, "exits for 100 reads");
    let io = hypercall::exits(hypercall::ALL, hypercall::IO) - before;
    ensure_eq!(io, 100, "of kind io");
    Ok(())
}

/// Ports that end or disturb the run: reset, sleep, Bochs' exits, the measured window, the console, 8042 and port 92.
fn spared(port: u16) -> bool {
    // A 32-bit access touches three ports more.
    (0..4).any(|i| {
        let touched = port.wrapping_add(i);
        matches!(touched, 0xCF8..=0xCFF | 0xB000..=0xB03F | 0x8900 | 0xBE0 | 0xF4 | 0x3F8..=0x3FF)
            || matches!(touched, 0x60..=0x64 | 0x92 | 0xE9 | 0x402)
    })
}

fn s8_random_port_io_harms_nobody() -> Outcome {
    const N: u64 = 5_000;
    let mut random = Random::new(8);
    for _ in 0..N {
        let port = match random.below(3) {
            0 => random.below(0x1000) as u16,
            _ => random.next() as u16,
        };
        if spared(port) {
            continue;
        }
        let value = random.next() as u32;
        let access = random.below(6);
        // A fault is as good an answer as any; the guest and its hypervisor must be alive afterwards.
        let _ = catch(|| match access {
            0 => drop(in8(port)),
            1 => drop(in16(port)),
            2 => drop(in32(port)),
            3 => cpu::out8(port, value as u8),
            4 => cpu::out16(port, value as u16),
            _ => cpu::out32(port, value),
        });
    }
    ensure_eq!(in8(NOBODY), 0xFF, "a port nobody claims, afterwards");
    detail(format_args!("accesses={N}"));
    Ok(())
}

fn s8_string_io_to_unclaimed_ports() -> Outcome {
    let mut buffer = [0x5Au8; 64];
    // SAFETY: writes 32 bytes into `buffer`.
    unsafe {
        asm!("cld", "rep insb", in("dx") NOBODY, inout("rdi") buffer.as_mut_ptr() => _,
             inout("rcx") 32u64 => _);
    }
    ensure_eq!(&buffer[..32], &[0xFF; 32][..], "bytes read by REP INSB");
    ensure_eq!(&buffer[32..], &[0x5A; 32][..], "bytes behind them");
    // SAFETY: reads and writes 32 bytes of `buffer`, the write backwards.
    unsafe {
        asm!("cld", "rep outsd", in("dx") NOBODY, inout("rsi") buffer.as_ptr() => _,
             inout("rcx") 8u64 => _);
        asm!("std", "rep insw", "cld", in("dx") NOBODY,
             inout("rdi") buffer.as_mut_ptr().add(62) => _, inout("rcx") 16u64 => _);
    }
    ensure_eq!(buffer, [0xFF; 64], "bytes read by REP INSW backwards");
    Ok(())
}
