//! The name of a function: segment, bus, device, function, written `0000:03:00.0`.
//!
//! Used by the configuration, which people write, and by all that reads hardware.

use core::fmt;
use core::str::FromStr;

/// One PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    /// Segment, which most machines have one of.
    pub segment: u16,
    requester: u16,
}

/// Why a text is no [`Bdf`]: the part that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BdfError {
    /// Not of the form.
    Form,
    /// The segment is not four hexadecimal digits.
    Segment,
    /// The bus is not two hexadecimal digits.
    Bus,
    /// The device is not two hexadecimal digits from 00 to 1f.
    Device,
    /// The function is not a digit from 0 to 7.
    Function,
}

impl fmt::Display for BdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a PCI function is written segment:bus:device.function, as 0000:03:00.0",
            Self::Segment => {
                "the segment of a PCI function is four hexadecimal digits, as in 0000:03:00.0"
            }
            Self::Bus => "the bus of a PCI function is two hexadecimal digits, as in 0000:03:00.0",
            Self::Device => "the device of a PCI function is two hexadecimal digits from 00 to 1f",
            Self::Function => "the function of a PCI device is one digit from 0 to 7",
        })
    }
}

impl core::error::Error for BdfError {}

impl Bdf {
    /// A function by its parts; `None` when the device is above 31 or the function above 7.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        let requester = (bus as u16) << 8 | (device as u16) << 3 | function as u16;
        Some(Self { segment, requester })
    }

    /// A function by its requester id: bus in bits 15:8, the rest below.
    pub const fn from_requester(segment: u16, requester: u16) -> Self {
        Self { segment, requester }
    }

    /// The id that its transactions carry (PCIe section 2.2.6.2).
    pub const fn requester(self) -> u16 {
        self.requester
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.requester >> 8) as u8
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.requester >> 3) as u8 & 31
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.requester as u8 & 7
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{:04x}:{bus:02x}:{device:02x}.{function}", self.segment)
    }
}

/// `text` as a number of exactly `digits` hexadecimal digits.
fn number(text: &str, digits: usize) -> Option<u16> {
    let hex = text.len() == digits && text.bytes().all(|c| c.is_ascii_hexdigit());
    u16::from_str_radix(text, 16).ok().filter(|_| hex)
}

impl FromStr for Bdf {
    type Err = BdfError;

    fn from_str(text: &str) -> Result<Self, BdfError> {
        let (segment, rest) = text.split_once(':').ok_or(BdfError::Form)?;
        let (bus, rest) = rest.split_once(':').ok_or(BdfError::Form)?;
        let (device, function) = rest.split_once('.').ok_or(BdfError::Form)?;
        let segment = number(segment, 4).ok_or(BdfError::Segment)?;
        let bus = number(bus, 2).ok_or(BdfError::Bus)?;
        let device = number(device, 2).filter(|&n| n < 32).ok_or(BdfError::Device)?;
        let function = number(function, 1).filter(|&n| n < 8).ok_or(BdfError::Function)?;
        Ok(Self { segment, requester: bus << 8 | device << 3 | function })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn r_s10_a_wrong_part_is_named() {
        let refused = |text: &str| text.parse::<Bdf>().unwrap_err();
        assert_eq!(refused("03:00.0"), BdfError::Form);
        assert_eq!(refused(""), BdfError::Form);
        assert_eq!(refused("0000:03:00"), BdfError::Form);
        assert_eq!(refused("000:03:00.0"), BdfError::Segment);
        assert_eq!(refused("+000:03:00.0"), BdfError::Segment);
        assert_eq!(refused("0000:3:00.0"), BdfError::Bus);
        assert_eq!(refused("0000:03:20.0"), BdfError::Device);
        assert_eq!(refused("0000:03:00.8"), BdfError::Function);
        assert_eq!(refused("0000:03:00.0 "), BdfError::Function);
    }

    proptest! {
        #[test]
        fn every_function_round_trips(segment: u16, requester: u16) {
            let bdf = Bdf::from_requester(segment, requester);
            prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
            let parts = Bdf::new(segment, bdf.bus(), bdf.device(), bdf.function());
            prop_assert_eq!(parts, Some(bdf));
        }

        #[test]
        fn r_s10_no_text_panics(text in ".{0,16}") {
            let _ = text.parse::<Bdf>();
        }
    }
}
