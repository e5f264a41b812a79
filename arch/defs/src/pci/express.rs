//! PCI Express, the advanced features of conventional PCI, and power management. PCIe 5.0, sections 7.5.2 and 7.5.3;
//! PCI Advanced Capabilities ECN.

use bitfield_struct::bitfield;

/// Byte offsets in the PCI Express capability.
pub mod offset {
    /// [`super::Capabilities`].
    pub const CAPABILITIES: u16 = 0x02;
    /// [`super::DeviceCapabilities`].
    pub const DEVICE_CAPABILITIES: u16 = 0x04;
    /// [`super::DeviceControl`].
    pub const DEVICE_CONTROL: u16 = 0x08;
    /// [`super::DeviceStatus`].
    pub const DEVICE_STATUS: u16 = 0x0A;
    /// [`super::DeviceCapabilities2`].
    pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
    /// [`super::DeviceControl2`].
    pub const DEVICE_CONTROL_2: u16 = 0x28;
}

/// Type of an endpoint of the root complex, which needs no link.
pub const ROOT_COMPLEX_ENDPOINT: u8 = 9;

/// The types that matter to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// A port of the root complex.
    Root,
    /// The port of a switch that leads to the root complex.
    Upstream,
    /// Another port of a switch.
    Downstream,
    /// The rest: endpoints, and bridges to conventional PCI.
    Other,
}

impl Capabilities {
    /// The kind of port.
    pub const fn port_type(self) -> PortType {
        match self.device_type() {
            4 => PortType::Root,
            5 => PortType::Upstream,
            6 => PortType::Downstream,
            _ => PortType::Other,
        }
    }
}

/// PCI Express capabilities register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// Version of the structure.
    #[bits(4)]
    pub version: u8,
    /// Device or port type.
    #[bits(4)]
    pub device_type: u8,
    /// The port has a slot.
    pub slot: bool,
    /// Message number of the port's own interrupts.
    #[bits(5)]
    pub message: u8,
    #[bits(2)]
    __: u8,
}

/// Device capabilities register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DeviceCapabilities {
    /// Largest payload: 128 bytes shifted by this.
    #[bits(3)]
    pub max_payload: u8,
    #[bits(12)]
    __: u16,
    /// Errors are reported by role; all functions since PCIe 1.1.
    pub role_based_errors: bool,
    #[bits(12)]
    __: u16,
    /// The function can be reset by itself.
    pub function_reset: bool,
    #[bits(3)]
    __: u8,
}

/// Device control register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceControl {
    /// What the function may use and report.
    #[bits(15)]
    pub settings: u16,
    /// Written as 1: reset the function. Reads as 0.
    pub reset_function: bool,
}

/// Device status register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceStatus {
    #[bits(5)]
    __: u8,
    /// Requests of the function wait for their answers.
    pub transactions_pending: bool,
    #[bits(10)]
    __: u16,
}

/// Device capabilities 2 register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DeviceCapabilities2 {
    #[bits(5)]
    __: u8,
    /// The port can pass on requests to device numbers above 0 (ARI).
    pub ari_forwarding: bool,
    #[bits(26)]
    __: u32,
}

/// Device control 2 register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceControl2 {
    #[bits(5)]
    __: u8,
    /// The port does so.
    pub ari_forwarding: bool,
    #[bits(10)]
    __: u16,
}

/// The advanced features capability: offsets and bits.
pub mod advanced {
    /// Byte offset of the features (8 bits).
    pub const FEATURES: u16 = 3;
    /// Byte offset of the control register (8 bits).
    pub const CONTROL: u16 = 4;
    /// Byte offset of the status register (8 bits).
    pub const STATUS: u16 = 5;
    /// Feature: pending transactions are reported.
    pub const PENDING: u8 = 1 << 0;
    /// Feature: the function can be reset by itself; the same bit 0 of control does it.
    pub const FUNCTION_RESET: u8 = 1 << 1;
    /// Control: reset the function.
    pub const RESET: u8 = 1 << 0;
}

/// Byte offset of [`PowerControl`] in the power management capability.
pub const POWER_CONTROL: u16 = 4;

/// Power management control and status register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct PowerControl {
    /// 0 is D0, 3 is D3hot.
    #[bits(2)]
    pub state: u8,
    __: bool,
    /// The way from D3hot to D0 does not reset the function.
    pub no_soft_reset: bool,
    #[bits(12)]
    __: u16,
}
