//! KVM's clock: a page that tells an AMD guest the TSC's frequency and the wall time. It is written once, when the guest
//! names it, and never changes: the TSC is invariant and in step, so the guest reads time without an exit.
//!
//! AMD guests do not read CPUID leaf 0x15; without this Linux finds no frequency on a board without PIT and PM timer.
//! Called by the MSR exit. No locks. Layouts: Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW and
//! MSR_KVM_WALL_CLOCK_NEW.

use crate::memory::GuestRam;

const NS_PER_S: u64 = 1_000_000_000;
/// Bit 0 of the system-time MSR: the page is in use.
const ENABLE: u64 = 1;
/// PVCLOCK_TSC_STABLE_BIT: all vCPUs' pages agree.
const TSC_STABLE: u8 = 1;

/// The address is not RAM, or not aligned to 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What the guest's clocks count from.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// TSC frequency in Hz.
    pub tsc_hz: u64,
    /// Wall time in seconds since 1970 when the TSC was 0; 0 if the machine has no clock.
    pub wall_at_tsc_0: u64,
}

impl Clock {
    /// Factor and shift: ns = (ticks << shift) * factor >> 32, with the factor in its upper half of 32 bits.
    fn scale(&self) -> (u32, i8) {
        let (mut hz, mut shift) = (self.tsc_hz.max(1), 0_i8);
        while hz > 2 * NS_PER_S {
            hz >>= 1;
            shift -= 1;
        }
        while hz <= NS_PER_S {
            hz <<= 1;
            shift += 1;
        }
        (((NS_PER_S << 32) / hz) as u32, shift)
    }

    /// Writes `pvclock_vcpu_time_info` where the system-time MSR's new value says.
    ///
    /// # Errors
    /// [`Refused`]: the guest gets #GP.
    pub fn write_system_time(&self, ram: &GuestRam, value: u64) -> Result<(), Refused> {
        if value & ENABLE == 0 {
            return Ok(());
        }
        let (factor, shift) = self.scale();
        let mut page = [0; 32];
        // An even version: complete. The TSC and the time it stands for are both 0.
        put(&mut page, 0, &2_u32.to_le_bytes());
        put(&mut page, 24, &factor.to_le_bytes());
        put(&mut page, 28, &shift.to_le_bytes());
        put(&mut page, 29, &[TSC_STABLE]);
        write(ram, value & !ENABLE, &page)
    }

    /// Writes `pvclock_wall_clock` at `gpa`: the wall time at system time 0.
    ///
    /// # Errors
    /// [`Refused`]: the guest gets #GP.
    pub fn write_wall_clock(&self, ram: &GuestRam, gpa: u64) -> Result<(), Refused> {
        let mut page = [0; 12];
        put(&mut page, 0, &2_u32.to_le_bytes());
        put(&mut page, 4, &(self.wall_at_tsc_0 as u32).to_le_bytes());
        write(ram, gpa, &page)
    }
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = page.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn write(ram: &GuestRam, gpa: u64, bytes: &[u8]) -> Result<(), Refused> {
    if gpa.is_multiple_of(4) && ram.write_bytes(gpa, bytes) { Ok(()) } else { Err(Refused) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux reads it (pvclock_scale_delta).
    fn nanoseconds(ticks: u64, factor: u32, shift: i8) -> u64 {
        let scaled = if shift < 0 { ticks >> -shift } else { ticks << shift };
        ((u128::from(scaled) * u128::from(factor)) >> 32) as u64
    }

    #[test]
    fn a_second_is_a_second_at_every_frequency() {
        for tsc_hz in
            [10_000_000, 200_000_000, 999_999_999, 1_000_000_000, 2_600_495_991, 5_100_000_000]
        {
            let (factor, shift) = Clock { tsc_hz, wall_at_tsc_0: 0 }.scale();
            let ns = nanoseconds(tsc_hz * 100, factor, shift);
            assert!(ns.abs_diff(100 * NS_PER_S) < 200, "{tsc_hz}: {ns}");
            assert!(factor >= 1 << 31, "the factor keeps its precision");
        }
    }

    #[test]
    fn r_s8_pages_outside_of_ram_are_refused() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let clock = Clock { tsc_hz: 1_000_000_000, wall_at_tsc_0: 1_700_000_000 };
        assert_eq!(clock.write_system_time(&ram, 0x5000 | ENABLE), Ok(()));
        assert_eq!(ram.read_u64(0x5018).map(|word| word >> 40 & 0xFF), Some(1), "the stable flag");
        assert_eq!(clock.write_wall_clock(&ram, 0x6000), Ok(()));
        assert_eq!(ram.read_u64(0x6000).map(|word| word >> 32), Some(1_700_000_000));
        assert_eq!(clock.write_system_time(&ram, 0x7000), Ok(()), "off");
        assert_eq!(ram.read_u64(0x7000), Some(0));
        for gpa in [(16 << 20) - 8, 0xFEE0_0000, !7, 0x5002] {
            assert_eq!(clock.write_system_time(&ram, gpa | ENABLE), Err(Refused), "{gpa:#x}");
        }
    }
}
