//! The CMOS clock, read once at boot for the wall time that guests are told. ACPI specification section 4.8.2.4;
//! Motorola MC146818 data sheet.

#![expect(unsafe_code, reason = "port I/O")]

use x86::io::{inb, outb};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Registers: seconds, minutes, hours, day, month, year.
const FIELDS: [u8; 6] = [0, 2, 4, 7, 8, 9];
const STATUS_A: u8 = 0x0A;
const STATUS_B: u8 = 0x0B;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
const PM: u8 = 1 << 7;

fn register(index: u8) -> u8 {
    // SAFETY: the CMOS index and data ports; bit 7 of the index keeps NMIs on. Reading changes nothing.
    unsafe {
        outb(INDEX, index);
        inb(DATA)
    }
}

fn fields() -> Option<[u8; 6]> {
    // An update takes at most 2 ms; a port that nobody answers reads as ones for ever.
    (0..100_000).find(|_| register(STATUS_A) & UPDATE_IN_PROGRESS == 0)?;
    Some(FIELDS.map(register))
}

/// Seconds since 1970, from the clock taken as UTC; `None` where there is no clock or it says nonsense.
pub fn read() -> Option<u64> {
    // Two equal readings lie in no update.
    let mut last = fields()?;
    for _ in 0..10 {
        let now = fields()?;
        if now == last {
            return seconds(now, register(STATUS_B));
        }
        last = now;
    }
    None
}

fn seconds(fields: [u8; 6], status_b: u8) -> Option<u64> {
    let number = |raw: u8| {
        if status_b & BINARY != 0 {
            return Some(u64::from(raw));
        }
        (raw & 0xF < 10 && raw >> 4 < 10).then(|| u64::from(raw >> 4) * 10 + u64::from(raw & 0xF))
    };
    let [second, minute, hour, day, month, year] = fields;
    let (second, minute) = (number(second)?, number(minute)?);
    let hour = if status_b & HOURS_24 != 0 {
        number(hour)?
    } else {
        number(hour & !PM)? % 12 + if hour & PM != 0 { 12 } else { 0 }
    };
    let (day, month, year) = (number(day)?, number(month)?, 2000 + number(year)?);
    if second > 59
        || minute > 59
        || hour > 23
        || !(1..=31).contains(&day)
        || !(1..=12).contains(&month)
    {
        return None;
    }
    // Days of the civil calendar, with years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        // 2023-11-14 22:13:20, in both notations.
        assert_eq!(seconds([0x20, 0x13, 0x22, 0x14, 0x11, 0x23], HOURS_24), Some(1_700_000_000));
        assert_eq!(seconds([20, 13, 10 | PM, 14, 11, 23], BINARY), Some(1_700_000_000));
        assert_eq!(seconds([0, 0, 0, 0x01, 0x01, 0x00], HOURS_24), Some(946_684_800));
        assert_eq!(seconds([0x59, 0x59, 0x23, 0x29, 0x02, 0x24], HOURS_24), Some(1_709_251_199));
        assert_eq!(
            seconds([0, 0, 0x12, 0x01, 0x01, 0x00], 0),
            Some(946_684_800),
            "12 a.m. is midnight"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(seconds([0xFF; 6], 0xFF), None);
        assert_eq!(seconds([0xFF; 6], 0), None);
        assert_eq!(seconds([0, 0, 0, 0, 1, 0x24], HOURS_24), None);
        assert_eq!(seconds([0, 0, 0, 1, 0x13, 0x24], HOURS_24), None);
    }
}
