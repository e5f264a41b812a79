//! What GRUB loads for a boot: the image, its configuration and the guests' files, or, on the bare
//! machine, the guest itself.

use crate::catalogue::{Boot, Extras, Fault, Guest};
use anyhow::{Context, Result};
use guest_loader::config::{Config, Delivery, DeviceConfig, Dma, ModuleConfig, VmConfig, pack};
use std::fs;
use std::path::{Path, PathBuf};
use tools::bed::Bed;
use tools::config::MODULE;
use tools::iso::{Content, Entry, Module};
use tools::run::demo;

const KERNEL: &str = "guest.elf";
const VMLINUZ: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs";

/// The files that boots are made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// The hypervisor.
    pub image: PathBuf,
    /// The test guest.
    pub guest: PathBuf,
    /// Debian's kernel and our initramfs, when a boot needs them.
    pub linux: Option<(PathBuf, PathBuf)>,
    /// An initramfs with drivers.
    pub drivers: Option<PathBuf>,
    /// An initramfs with a kernel and an initramfs to go on with.
    pub next: Option<PathBuf>,
}

/// GRUB's entry for `boot`; `filter` goes to the test guest.
///
/// # Errors
/// When a file that the boot needs was not built.
pub fn entry(boot: &Boot, bed: Bed, files: &Files, filter: &str) -> Result<Entry> {
    if boot.guest == Guest::Bare {
        let words = words(boot, bed, boot.kind, filter, boot.cpus);
        let cmdline = format!("{words} bare {}", bed.exit_word());
        return Ok(Entry::Multiboot { kernel: files.guest.clone(), cmdline });
    }
    let file = |name: &str, path: &PathBuf| Module {
        name: name.into(),
        content: Content::File(path.clone()),
    };
    let mut modules = Vec::new();
    let mut vms = Vec::new();
    match boot.guest {
        Guest::Vm { vcpus, extras } => {
            let mut vm = test_vm("vm", 1..=vcpus, words(boot, bed, boot.kind, filter, vcpus));
            vm.debug_hooks = extras.hooks;
            if extras.pit {
                vm.devices.push(DeviceConfig::Pit);
            }
            for function in extras.pci {
                vm.devices.push(function.parse().map_err(anyhow::Error::msg)?);
            }
            if extras.modules {
                vm.cmdline += LAST_WORD;
                give_modules(&mut vm, &mut modules);
            }
            vms.push(vm);
        }
        Guest::TwoVms { pci } => {
            vms.push(test_vm("first", 1..=1, words(boot, bed, boot.kind, filter, 1)));
            vms.push(test_vm("second", 2..=2, words(boot, bed, "up", "s8_", 1)));
            for (vm, function) in vms.iter_mut().zip(pci) {
                if let Some(function) = function {
                    vm.devices.push(function.parse().map_err(anyhow::Error::msg)?);
                }
            }
        }
        Guest::Linux { vcpus, kexec } => {
            let built = files.linux.as_ref().context("the Linux guest is not built")?;
            let next = files.next.as_ref().filter(|_| kexec);
            modules.push(file(VMLINUZ, &built.0));
            modules.push(file(INITRAMFS, next.unwrap_or(&built.1)));
            // No word about the TSC: the guest must find its frequency by itself.
            let cmdline = format!(
                "console=ttyS0,115200 quiet nokaslr cryptomgr.notests cpuidle.off=1 beeline.run={}",
                if kexec { "kexec" } else { "boot" }
            );
            let vm = test_vm("linux", 1..=vcpus, cmdline);
            vms.push(VmConfig {
                memory: 256 << 20,
                kernel: VMLINUZ.into(),
                initrd: Some(INITRAMFS.into()),
                ..vm
            });
        }
        Guest::Devices { demo, word } => {
            let linux = files.linux.as_ref().zip(files.drivers.as_ref());
            let ((kernel, _), initrd) = linux.context("the Linux guest is not built")?;
            modules.push(file(VMLINUZ, kernel));
            modules.push(file(INITRAMFS, initrd));
            modules.push(file(demo::OWNER, &files.guest));
            let cmdline = format!(
                "console=ttyS0,115200 quiet nokaslr cryptomgr.notests idle=halt {word} {} \
                 beeline.run=devices beeline.reads=2000 beeline.span-ms=2000",
                demo::WORDS
            );
            let vm = VmConfig {
                memory: 256 << 20,
                kernel: VMLINUZ.into(),
                initrd: Some(INITRAMFS.into()),
                dma: if boot.pc.iommu { Dma::Remapped } else { Dma::IdentityUnprotected },
                ..test_vm("rt", 1..=2, cmdline)
            };
            vms = demo.config(bed, vm)?.vms;
        }
        Guest::Broken(fault) => {
            let mut vm = test_vm("vm", 1..=1, words(boot, bed, "up", filter, 1));
            match fault {
                Fault::TooMuchMemory => vm.memory = 64 << 30,
                Fault::NoSuchCore => vm.cpus = vec![5],
                Fault::Unconfined(function) => {
                    vm.devices.push(function.parse().map_err(anyhow::Error::msg)?);
                }
                Fault::TwoOwners([own, other]) => {
                    let parse = |name: &str| name.parse().map_err(anyhow::Error::msg);
                    vm.devices.push(parse(own)?);
                    let second = test_vm("second", 2..=2, words(boot, bed, "up", filter, 1));
                    vms.push(VmConfig { devices: vec![parse(other)?], ..second });
                }
                _ => {}
            }
            vms.insert(0, vm);
        }
        Guest::Bare => {}
    }
    let fault = match boot.guest {
        Guest::Broken(fault) => fault,
        _ => Fault::Machine,
    };
    match fault {
        _ if matches!(boot.guest, Guest::Linux { .. } | Guest::Devices { .. }) => {}
        _ if is_pvh(boot) => {
            let content = Content::Bytes(without_multiboot(&files.guest)?);
            modules.push(Module { name: KERNEL.into(), content });
        }
        Fault::NoKernel => {}
        Fault::KernelIsText => {
            let content = Content::Bytes(b"this is no kernel\n".repeat(100));
            modules.push(Module { name: KERNEL.into(), content });
        }
        _ => modules.push(file(KERNEL, &files.guest)),
    }
    let mut packed = pack(&Config { vms });
    if fault == Fault::DamagedConfig
        && let Some(last) = packed.last_mut()
    {
        *last ^= 0x55;
    }
    if fault != Fault::NoConfig {
        modules.insert(0, Module { name: MODULE.into(), content: Content::Bytes(packed) });
    }
    let exit = if boot.pc.restarts { "exit=reboot" } else { bed.exit_word() };
    Ok(Entry::Beeline { image: files.image.clone(), cmdline: exit.into(), modules })
}

fn is_pvh(boot: &Boot) -> bool {
    matches!(boot.guest, Guest::Vm { extras: Extras { pvh: true, .. }, .. })
}

/// The test guest without its Multiboot header, which a loader would prefer to the PVH note.
fn without_multiboot(guest: &Path) -> Result<Vec<u8>> {
    const MAGIC: [u8; 4] = 0x1BAD_B002_u32.to_le_bytes();
    let mut elf = fs::read(guest).with_context(|| format!("cannot read {}", guest.display()))?;
    // Multiboot 1, section 3.1: aligned to 4 bytes, in the first 8192.
    let magic = elf.chunks_exact_mut(4).take(8192 / 4).find(|word| **word == MAGIC);
    magic.context("the test guest has no Multiboot header")?.fill(0);
    Ok(elf)
}

/// What the tests `…_modules_and_command_line` in `guests/src/tests/modules.rs` expects.
const LAST_WORD: &str = " last=a'b,c";
const MODULE_LENGTHS: [usize; 3] = [1, 4096, 300_001];

fn give_modules(vm: &mut VmConfig, modules: &mut Vec<Module>) {
    for (number, length) in MODULE_LENGTHS.into_iter().enumerate() {
        let name = format!("pattern-{number}");
        let byte = |i: usize| (i * 7 + i / 256 * 13 + number) as u8;
        let content = Content::Bytes((0..length).map(byte).collect());
        modules.push(Module { name: name.clone(), content });
        vm.modules.push(ModuleConfig { name, cmdline: format!("number={number} words of=it") });
    }
}

/// MiB of memory the machine of `boot` needs.
#[must_use]
pub fn memory_mib(boot: &Boot) -> u32 {
    match boot.guest {
        Guest::Linux { .. } => 448,
        Guest::Devices { .. } => 512,
        _ => 256,
    }
}

fn test_vm(name: &str, cpus: impl Iterator<Item = u32>, cmdline: String) -> VmConfig {
    VmConfig {
        name: name.into(),
        cpus: cpus.collect(),
        memory: 32 << 20,
        kernel: KERNEL.into(),
        initrd: None,
        modules: Vec::new(),
        cmdline,
        delivery: Delivery::Direct,
        devices: Vec::new(),
        dma: Dma::default(),
        debug_hooks: false,
        console: true,
    }
}

fn words(boot: &Boot, bed: Bed, kind: &str, filter: &str, cpus: u32) -> String {
    let mut words = format!("boot={kind} cpus={cpus} exit=acpi");
    if bed.is_deterministic() {
        // CPUID of these models lies.
        words += &format!(" tsc_hz={}", boot.ips);
    }
    if bed == Bed::Qemu {
        words += " tcg";
    }
    if boot.guest == Guest::Bare {
        // The last word of two wins in no reader: leave the other out.
        words = words.replace(" exit=acpi", "");
    }
    if !filter.is_empty() {
        words += &format!(" filter={filter}");
    }
    words
}
