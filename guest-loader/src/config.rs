//! The configuration of all virtual machines: types shared by the `beeline` tool and the image.
//!
//! People write TOML, the tool parses it into [`Config`], calls [`check`] with what it knows and
//! packs it with [`pack`] into a boot module. The image calls [`unpack`], then [`check`] again
//! with the facts of the machine it runs on. The types state intent, never board addresses.

mod check;
mod device;
mod error;
mod pack;
mod size;

pub use check::{MachineFacts, check};
pub use device::{DeviceConfig, PciDevice};
pub use error::ConfigError;
pub use pack::{MAGIC, VERSION, pack, unpack};
pub use size::{SizeError, parse_size};

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Longest VM name, in bytes. Names appear in log lines, so they stay short.
pub const MAX_NAME: usize = 32;
/// Longest command line in bytes, without its NUL: what Linux accepts on x86 (COMMAND_LINE_SIZE).
pub const MAX_CMDLINE: usize = 2047;
/// Most modules of one VM: what fits in the guest's boot information area.
pub const MAX_MODULES: usize = 32;
/// Most PCI functions of one VM: the device numbers of a bus, without the host bridge's.
pub const MAX_PCI_DEVICES: usize = 31;
/// Smallest VM in bytes.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Largest VM in bytes: a bound on arithmetic, far above any machine this is meant for.
pub const MAX_MEMORY: u64 = 1 << 40;
/// A VM's memory is a whole number of these (bytes): guests are mapped in 2 MiB pages.
pub const MEMORY_UNIT: u64 = 2 << 20;
/// The core that runs no guest in direct mode: console, back ends and descheduled VMs live there.
pub const HOUSEKEEPING_CORE: u32 = 0;

/// Every VM of one machine. In TOML, an array of tables `[[vm]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The VMs in the order they are started.
    #[serde(rename = "vm", default)]
    pub vms: Vec<VmConfig>,
}

/// One virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct VmConfig {
    /// Unique name, 1 to [`MAX_NAME`] characters of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Physical core numbers, one vCPU per entry; the position in the list is the vCPU id.
    pub cpus: Vec<u32>,
    /// Guest memory in bytes. In TOML a number of bytes or a text such as `"512M"`.
    #[serde(with = "size")]
    pub memory: u64,
    /// Name of the boot module that holds the kernel. Its format is detected.
    pub kernel: String,
    /// Name of the boot module that holds the initial RAM disk.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Further modules handed to the kernel (Multiboot 1 and PVH).
    #[serde(default)]
    pub modules: Vec<ModuleConfig>,
    /// Kernel command line, at most [`MAX_CMDLINE`] bytes.
    #[serde(default)]
    pub cmdline: String,
    /// How interrupts reach this VM.
    #[serde(default)]
    pub delivery: Delivery,
    /// Devices of the machine that this VM owns.
    #[serde(default)]
    pub devices: Vec<DeviceConfig>,
    /// How the DMA of its PCI devices reaches its memory.
    #[serde(default)]
    pub dma: Dma,
    /// Allow the debug hypercalls of the guest interface (debug images only).
    #[serde(default)]
    pub debug_hooks: bool,
    /// Show what the VM writes to its COM1 on the machine's console.
    #[serde(default = "default_console")]
    pub console: bool,
}

fn default_console() -> bool {
    true
}

/// A module handed to the guest kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct ModuleConfig {
    /// Name of the boot module.
    pub name: String,
    /// Text that accompanies it, at most [`MAX_CMDLINE`] bytes.
    #[serde(default)]
    pub cmdline: String,
}

/// How external interrupts reach a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Straight to the guest's IDT, without a VM exit.
    #[default]
    Direct,
}

/// How the DMA of a VM's PCI devices reaches its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dma {
    /// Through the machine's IOMMU, which lets a device reach its own VM's memory and nothing else.
    #[default]
    Remapped,
    /// Not translated and not bounded, on a machine without an IOMMU: a device reaches all memory of the machine, the
    /// hypervisor's included. A VM must trust its devices and be trusted with the machine, so it is the only one.
    IdentityUnprotected,
}
