//! Interrupt pins. PCI 3.0, sections 2.2.6 and 6.2.4; PCI-to-PCI Bridge Architecture 1.2, section 9.1.

/// A function's interrupt pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin(u8);

impl Pin {
    /// INTA, the pin of a device with one function.
    pub const A: Self = Self(0);

    /// The pin that the register names: 1 for INTA to 4 for INTD. `None` for 0, which is none, and for what is reserved.
    pub const fn from_register(value: u8) -> Option<Self> {
        match value {
            1..=4 => Some(Self(value - 1)),
            _ => None,
        }
    }

    /// The register's value.
    pub const fn register(self) -> u8 {
        self.0 + 1
    }

    /// 0 for INTA to 3 for INTD, as ACPI counts.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The pin of a bridge that this pin of device `device` behind it leads to.
    #[must_use]
    pub const fn behind_bridge(self, device: u8) -> Self {
        Self((self.0 + device % 4) % 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_e4_pins_turn_behind_a_bridge() {
        // Table 9-1 of the specification: devices 0, 4, … keep their pins, device 1's INTA is the bridge's INTB.
        for device in 0..32 {
            for pin in 0..4 {
                let outer = Pin(pin).behind_bridge(device);
                assert_eq!(u32::from(outer.number()), (u32::from(pin) + u32::from(device)) % 4);
            }
        }
        assert_eq!(Pin::from_register(2), Some(Pin(1)));
        assert_eq!(Pin(3).behind_bridge(1), Pin::A);
        assert_eq!([0, 5, 255].map(Pin::from_register), [None; 3]);
        assert_eq!(Pin(3).register(), 4);
    }
}
