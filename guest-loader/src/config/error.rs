//! What can be wrong with a configuration, said so that its author knows which line to change.
//!
//! Returned by [`super::unpack`] (the packing) and [`super::check`] (the content). The image
//! prints it and stops; the tool prints it with the place in the file.

use super::{
    DeviceConfig, MAX_CMDLINE, MAX_MEMORY, MAX_MODULES, MAX_NAME, MAX_PCI_DEVICES, MEMORY_UNIT,
    MIN_MEMORY,
};
use crate::MAX_VCPUS;
use alloc::string::String;
use core::fmt;

/// Why a configuration is refused. `vm` is the name of the VM as written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields repeat the words of the variant's text")]
pub enum ConfigError {
    /// The module does not start with the magic of a packed configuration.
    Magic,
    /// It was packed by another version of the tool.
    Version { found: u8, known: u8 },
    /// It ends before its last byte. Sizes in bytes.
    Truncated { need: usize, have: usize },
    /// Bytes follow its end.
    TrailingBytes { extra: usize },
    /// Its body was changed after packing.
    Checksum { found: u32, stated: u32 },
    /// Its body has a right checksum and still is no configuration.
    Body,
    /// There is no VM.
    NoVms,
    /// A name is empty, too long or has a character outside `a-z`, `0-9`, `-`.
    Name { vm: String },
    /// Two VMs have one name.
    DuplicateName { vm: String },
    /// A VM has no cores.
    NoCpus { vm: String },
    /// A VM has more than [`MAX_VCPUS`] vCPUs.
    TooManyCpus { vm: String, cpus: usize },
    /// A VM names the housekeeping core.
    HousekeepingCore { vm: String, core: u32 },
    /// A VM names a core the machine does not have.
    NoSuchCore { vm: String, core: u32, cores: u32 },
    /// A VM names a core twice.
    CoreTwice { vm: String, core: u32 },
    /// Two VMs name the same core.
    CoreShared { vm: String, other: String, core: u32 },
    /// Memory below [`MIN_MEMORY`].
    MemoryTooSmall { vm: String, bytes: u64 },
    /// Memory above [`MAX_MEMORY`].
    MemoryTooLarge { vm: String, bytes: u64 },
    /// Memory is no multiple of [`MEMORY_UNIT`].
    MemoryUnaligned { vm: String, bytes: u64 },
    /// The VMs up to this one need more memory than the machine has free. Sizes in bytes.
    MemoryExceeded { vm: String, needed: u64, free: u64 },
    /// A field that must name a boot module is empty.
    EmptyModuleName { vm: String, field: &'static str },
    /// A field names a boot module that is not there.
    MissingModule { vm: String, field: &'static str, module: String },
    /// More than [`MAX_MODULES`] modules.
    TooManyModules { vm: String, modules: usize },
    /// A command line is longer than [`MAX_CMDLINE`] bytes.
    CmdlineTooLong { vm: String, field: &'static str, bytes: usize },
    /// A command line has a NUL character in it.
    CmdlineNul { vm: String, field: &'static str, at: usize },
    /// A VM lists a device twice.
    DeviceTwice { vm: String, device: DeviceConfig },
    /// Two VMs list the same device.
    DeviceShared { vm: String, other: String, device: DeviceConfig },
    /// More than [`MAX_PCI_DEVICES`] PCI functions.
    TooManyPciDevices { vm: String, devices: usize },
    /// Unprotected DMA for a VM without a device that does DMA.
    DmaWithoutDevice { vm: String },
    /// Unprotected DMA beside another VM, whose memory it would reach.
    DmaNotAlone { vm: String, other: String },
}

impl core::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic | Self::Version { .. } | Self::Truncated { .. } => self.fmt_packing(f),
            Self::TrailingBytes { .. } | Self::Checksum { .. } | Self::Body => self.fmt_packing(f),
            _ => self.fmt_content(f),
        }
    }
}

impl ConfigError {
    fn fmt_packing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packed configuration: ")?;
        match self {
            Self::Magic => f.write_str("magic is not BEELCFG; this is another file"),
            Self::Version { found, known } => write!(
                f,
                "version is {found}, this image reads version {known}; pack it with the `beeline` tool of the same release"
            ),
            Self::Truncated { need, have } => {
                write!(f, "truncated: length says {need} bytes, {have} are there; copy it again")
            }
            Self::TrailingBytes { extra } => {
                write!(f, "length: {extra} trailing bytes after its end; copy it again")
            }
            Self::Checksum { found, stated } => write!(
                f,
                "checksum is {found:#010x}, the header says {stated:#010x}; the file was damaged, pack it again"
            ),
            _ => f.write_str("body is not a configuration; pack it again"),
        }
    }

    fn fmt_content(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { vm } => {
                write!(f, "vm {vm:?}: name must be 1 to {MAX_NAME} characters of a-z, 0-9 and -")
            }
            Self::DuplicateName { vm } => {
                write!(f, "vm {vm:?}: name is used by two VMs; rename one")
            }
            Self::NoCpus { vm } => write!(f, "vm {vm:?}: cpus is empty; name at least one core"),
            Self::TooManyCpus { vm, cpus } => {
                write!(f, "vm {vm:?}: cpus lists {cpus} cores, {MAX_VCPUS} is the most")
            }
            Self::HousekeepingCore { vm, core } => write!(
                f,
                "vm {vm:?}: cpus names core {core}, the housekeeping core, which runs no guest; use cores from 1"
            ),
            Self::NoSuchCore { vm, core, cores } => write!(
                f,
                "vm {vm:?}: cpus names core {core}, this machine has cores 0 to {}",
                cores.saturating_sub(1)
            ),
            Self::CoreTwice { vm, core } => {
                write!(f, "vm {vm:?}: cpus names core {core} twice; each vCPU needs its own core")
            }
            Self::CoreShared { vm, other, core } => write!(
                f,
                "vm {vm:?}: cpus names core {core}, which vm {other:?} has; sharing a core is not supported yet, give each VM its own"
            ),
            Self::MemoryTooSmall { vm, bytes } => {
                write!(f, "vm {vm:?}: memory is {bytes} bytes, the least is {}M", MIN_MEMORY >> 20)
            }
            Self::MemoryTooLarge { vm, bytes } => {
                write!(f, "vm {vm:?}: memory is {bytes} bytes, the most is {}G", MAX_MEMORY >> 30)
            }
            Self::MemoryUnaligned { vm, bytes } => write!(
                f,
                "vm {vm:?}: memory is {bytes} bytes, it must be a multiple of {}M",
                MEMORY_UNIT >> 20
            ),
            Self::MemoryExceeded { vm, needed, free } => write!(
                f,
                "vm {vm:?}: memory: the VMs up to this one need {needed} bytes, this machine has {free} free; give them less"
            ),
            _ => self.fmt_parts(f),
        }
    }

    fn fmt_parts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyModuleName { vm, field } => {
                write!(f, "vm {vm:?}: {field} is empty; name a boot module")
            }
            Self::MissingModule { vm, field, module } => write!(
                f,
                "vm {vm:?}: {field} names {module:?}, which is not among the boot modules; add it to the boot entry or correct the name"
            ),
            Self::TooManyModules { vm, modules } => {
                write!(f, "vm {vm:?}: modules lists {modules}, {MAX_MODULES} is the most")
            }
            Self::CmdlineTooLong { vm, field, bytes } => {
                write!(f, "vm {vm:?}: {field} is {bytes} bytes long, {MAX_CMDLINE} is the most")
            }
            Self::CmdlineNul { vm, field, at } => {
                write!(f, "vm {vm:?}: {field} has a NUL character at byte {at}; remove it")
            }
            Self::DeviceTwice { vm, device } => {
                write!(f, "vm {vm:?}: devices lists {device} twice; remove one")
            }
            Self::DeviceShared { vm, other, device } => write!(
                f,
                "vm {vm:?}: devices lists {device}, which vm {other:?} owns; a device has one owner"
            ),
            Self::TooManyPciDevices { vm, devices } => write!(
                f,
                "vm {vm:?}: devices lists {devices} PCI functions, {MAX_PCI_DEVICES} is the most"
            ),
            Self::DmaWithoutDevice { vm } => write!(
                f,
                "vm {vm:?}: dma is \"identity-unprotected\", but devices lists no PCI function; leave dma out"
            ),
            Self::DmaNotAlone { vm, other } => write!(
                f,
                "vm {vm:?}: dma is \"identity-unprotected\", so its devices reach the memory of vm {other:?}; use a machine with an IOMMU, or this VM alone"
            ),
            _ => f.write_str("vm: there is none; add at least one [[vm]] table"),
        }
    }
}
