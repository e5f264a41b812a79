//! The images that a configuration names, loaded as the hypervisor will load them: into memory of the VM's
//! size, which here exists only where something is written.

use super::{files, missing};
use guest_loader::config::{Config, VmConfig};
use guest_loader::image::{self, GuestSpec, Module, Platform};
use guest_loader::memory::SparseMemory;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// An image that is missing or cannot be loaded.
pub(super) struct Fault {
    /// The VM that names it.
    pub vm: String,
    /// The field that names it.
    pub field: &'static str,
    /// Why.
    pub message: String,
}

/// Loads all VMs' images from `dir`.
pub(super) fn check(config: &Config, dir: &Path) -> Result<(), Fault> {
    config.vms.iter().try_for_each(|vm| check_vm(vm, dir))
}

fn check_vm(vm: &VmConfig, dir: &Path) -> Result<(), Fault> {
    let fault = |field, message| Fault { vm: vm.name.clone(), field, message };
    let mut contents = BTreeMap::new();
    for (field, name) in files(vm) {
        let file = dir.join(name);
        if !file.is_file() {
            return Err(fault(field, missing(vm, name, dir)));
        }
        let bytes = fs::read(&file)
            .map_err(|why| fault(field, format!("cannot read {}: {why}", file.display())))?;
        contents.insert(name.as_str(), bytes);
    }
    let content = |name: &str| contents.get(name).map_or(&[][..], Vec::as_slice);
    let modules: Vec<Module<'_>> = vm
        .modules
        .iter()
        .map(|module| Module { data: content(&module.name), cmdline: &module.cmdline })
        .collect();
    let load = || -> Result<(), String> {
        let mut memory = SparseMemory::new(vm.memory);
        let vcpus = vm.cpus.len() as u32;
        let rsdp =
            guest_loader::acpi::build(&mut memory, vcpus, &[]).map_err(|why| why.to_string())?;
        let spec = GuestSpec {
            kernel: content(&vm.kernel),
            initrd: vm.initrd.as_deref().map(content),
            modules: &modules,
            cmdline: &vm.cmdline,
            platform: &Platform { vcpus, rsdp },
        };
        image::load(&mut memory, &spec).map(drop).map_err(|why| why.to_string())
    };
    load().map_err(|why| fault("kernel", format!("vm {:?}: {:?}: {why}", vm.name, vm.kernel)))
}
