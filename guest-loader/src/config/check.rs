//! Is this configuration possible? Called by the tool with what it knows, and by the image with
//! the facts of the machine, before anything is allocated.

use super::{
    Config, ConfigError, DeviceConfig, Dma, HOUSEKEEPING_CORE, MAX_CMDLINE, MAX_MEMORY,
    MAX_MODULES, MAX_NAME, MAX_PCI_DEVICES, MEMORY_UNIT, MIN_MEMORY, VmConfig,
};
use crate::MAX_VCPUS;

/// What is known about the machine. `None` is "not known here", and is not checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineFacts<'a> {
    /// Number of cores; they are numbered from 0.
    pub cores: Option<u32>,
    /// Bytes free for guests.
    pub memory: Option<u64>,
    /// Names of the boot modules.
    pub modules: Option<&'a [&'a str]>,
}

/// Checks `config` against its own rules and against `facts`.
///
/// # Errors
/// The first thing wrong, VM by VM in the order written; a content error of [`ConfigError`].
pub fn check(config: &Config, facts: &MachineFacts<'_>) -> Result<(), ConfigError> {
    if config.vms.is_empty() {
        return Err(ConfigError::NoVms);
    }
    let mut needed = 0u64;
    for (index, vm) in config.vms.iter().enumerate() {
        let before = config.vms.get(..index).unwrap_or(&[]);
        check_name(vm, before)?;
        check_cpus(vm, before, facts.cores)?;
        check_memory(vm)?;
        needed = needed.saturating_add(vm.memory);
        if let Some(free) = facts.memory
            && needed > free
        {
            return Err(ConfigError::MemoryExceeded { vm: vm.name.clone(), needed, free });
        }
        check_modules(vm, facts.modules)?;
        check_cmdline(vm, "cmdline", &vm.cmdline)?;
        check_devices(vm, before)?;
        check_dma(vm, &config.vms)?;
    }
    Ok(())
}

fn check_name(vm: &VmConfig, before: &[VmConfig]) -> Result<(), ConfigError> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    if vm.name.is_empty() || vm.name.len() > MAX_NAME || !vm.name.bytes().all(allowed) {
        return Err(ConfigError::Name { vm: vm.name.clone() });
    }
    if before.iter().any(|other| other.name == vm.name) {
        return Err(ConfigError::DuplicateName { vm: vm.name.clone() });
    }
    Ok(())
}

fn check_cpus(vm: &VmConfig, before: &[VmConfig], cores: Option<u32>) -> Result<(), ConfigError> {
    let name = || vm.name.clone();
    if vm.cpus.is_empty() {
        return Err(ConfigError::NoCpus { vm: name() });
    }
    if vm.cpus.len() > MAX_VCPUS {
        return Err(ConfigError::TooManyCpus { vm: name(), cpus: vm.cpus.len() });
    }
    for (index, &core) in vm.cpus.iter().enumerate() {
        if core == HOUSEKEEPING_CORE {
            return Err(ConfigError::HousekeepingCore { vm: name(), core });
        }
        if let Some(cores) = cores
            && core >= cores
        {
            return Err(ConfigError::NoSuchCore { vm: name(), core, cores });
        }
        if vm.cpus.iter().take(index).any(|&other| other == core) {
            return Err(ConfigError::CoreTwice { vm: name(), core });
        }
        if let Some(other) = before.iter().find(|other| other.cpus.contains(&core)) {
            let other = other.name.clone();
            return Err(ConfigError::CoreShared { vm: name(), other, core });
        }
    }
    Ok(())
}

fn check_memory(vm: &VmConfig) -> Result<(), ConfigError> {
    let (name, bytes) = (vm.name.clone(), vm.memory);
    if bytes < MIN_MEMORY {
        return Err(ConfigError::MemoryTooSmall { vm: name, bytes });
    }
    if bytes > MAX_MEMORY {
        return Err(ConfigError::MemoryTooLarge { vm: name, bytes });
    }
    if !bytes.is_multiple_of(MEMORY_UNIT) {
        return Err(ConfigError::MemoryUnaligned { vm: name, bytes });
    }
    Ok(())
}

fn check_modules(vm: &VmConfig, known: Option<&[&str]>) -> Result<(), ConfigError> {
    if vm.modules.len() > MAX_MODULES {
        let modules = vm.modules.len();
        return Err(ConfigError::TooManyModules { vm: vm.name.clone(), modules });
    }
    check_module_name(vm, "kernel", &vm.kernel, known)?;
    if let Some(initrd) = &vm.initrd {
        check_module_name(vm, "initrd", initrd, known)?;
    }
    for module in &vm.modules {
        check_module_name(vm, "modules.name", &module.name, known)?;
        check_cmdline(vm, "modules.cmdline", &module.cmdline)?;
    }
    Ok(())
}

fn check_module_name(
    vm: &VmConfig,
    field: &'static str,
    module: &str,
    known: Option<&[&str]>,
) -> Result<(), ConfigError> {
    if module.is_empty() {
        return Err(ConfigError::EmptyModuleName { vm: vm.name.clone(), field });
    }
    match known {
        Some(known) if !known.contains(&module) => {
            Err(ConfigError::MissingModule { vm: vm.name.clone(), field, module: module.into() })
        }
        _ => Ok(()),
    }
}

fn check_cmdline(vm: &VmConfig, field: &'static str, text: &str) -> Result<(), ConfigError> {
    if text.len() > MAX_CMDLINE {
        return Err(ConfigError::CmdlineTooLong { vm: vm.name.clone(), field, bytes: text.len() });
    }
    match text.find('\0') {
        Some(at) => Err(ConfigError::CmdlineNul { vm: vm.name.clone(), field, at }),
        None => Ok(()),
    }
}

fn check_devices(vm: &VmConfig, before: &[VmConfig]) -> Result<(), ConfigError> {
    // First of all, since each is compared with all before it.
    let devices = pci_devices(vm);
    if devices > MAX_PCI_DEVICES {
        return Err(ConfigError::TooManyPciDevices { vm: vm.name.clone(), devices });
    }
    for (index, &device) in vm.devices.iter().enumerate() {
        if vm.devices.iter().take(index).any(|&other| other == device) {
            return Err(ConfigError::DeviceTwice { vm: vm.name.clone(), device });
        }
        if let Some(other) = before.iter().find(|other| other.devices.contains(&device)) {
            return Err(ConfigError::DeviceShared {
                vm: vm.name.clone(),
                other: other.name.clone(),
                device,
            });
        }
    }
    Ok(())
}

fn pci_devices(vm: &VmConfig) -> usize {
    vm.devices.iter().filter(|device| matches!(device, DeviceConfig::Pci(_))).count()
}

fn check_dma(vm: &VmConfig, all: &[VmConfig]) -> Result<(), ConfigError> {
    if vm.dma == Dma::Remapped {
        return Ok(());
    }
    if pci_devices(vm) == 0 {
        return Err(ConfigError::DmaWithoutDevice { vm: vm.name.clone() });
    }
    match all.iter().find(|other| other.name != vm.name) {
        Some(other) => {
            Err(ConfigError::DmaNotAlone { vm: vm.name.clone(), other: other.name.clone() })
        }
        None => Ok(()),
    }
}
