//! The devices that a VM may own, as people write them: `pit`, `pci:0000:03:00.0`, `pci:0000:01:00.0/vf0`.

use alloc::format;
use alloc::string::String;
use arch_defs::pci::Bdf;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// A device of the machine that a VM may own. In TOML, and packed, a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceConfig {
    /// The legacy interval timer (8254) and its interrupt pin.
    Pit,
    /// A PCI function.
    Pci(PciDevice),
}

/// A PCI function that a VM may own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// The function, or the physical function whose virtual one is meant.
    pub function: Bdf,
    /// Number of the virtual function, from 0.
    pub vf: Option<u16>,
}

impl DeviceConfig {
    /// The PCI function that it is.
    pub const fn pci(self) -> Option<PciDevice> {
        match self {
            Self::Pci(device) => Some(device),
            Self::Pit => None,
        }
    }
}

impl fmt::Display for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pci:{}", self.function)?;
        self.vf.map_or(Ok(()), |vf| write!(f, "/vf{vf}"))
    }
}

impl fmt::Display for DeviceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pit => f.write_str("pit"),
            Self::Pci(device) => write!(f, "{device}"),
        }
    }
}

impl From<DeviceConfig> for String {
    fn from(device: DeviceConfig) -> Self {
        format!("{device}")
    }
}

impl FromStr for DeviceConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "pit" {
            return Ok(Self::Pit);
        }
        let name = text.strip_prefix("pci:").ok_or_else(|| {
            format!("{text:?} is no device: write \"pit\", \"pci:0000:03:00.0\" or \"pci:0000:01:00.0/vf0\"")
        })?;
        let (function, vf) = match name.split_once("/vf") {
            Some((function, number)) => (function, Some(vf_number(text, number)?)),
            None => (name, None),
        };
        let function = function.parse().map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self::Pci(PciDevice { function, vf }))
    }
}

/// One text for each number, so that a device cannot be named in two ways.
fn vf_number(text: &str, number: &str) -> Result<u16, String> {
    let plain =
        number.bytes().all(|c| c.is_ascii_digit()) && (number == "0" || !number.starts_with('0'));
    let parsed = number.parse().ok().filter(|&vf: &u16| plain && vf < u16::MAX);
    parsed
        .ok_or_else(|| format!("{text:?}: a virtual function is /vf and a number from 0 to 65534"))
}

impl TryFrom<String> for DeviceConfig {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
