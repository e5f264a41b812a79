//! `cargo xtask run --demo`: a machine with a network card and a disk that have SR-IOV, and a Linux guest
//! that owns functions of them and puts them to work. `cargo xtask test` boots the same VMs.

use crate::bed::{Bed, Choice, Device, Pc};
use anyhow::{Result, bail};
use guest_loader::config::{Config, DeviceConfig, VmConfig};

/// What the guest owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Demo {
    /// A whole network card (igb) and a whole disk (nvme), in one VM
    Pci,
    /// A virtual function of each; a second VM owns the physical ones
    Sriov,
}

/// The devices of the machine, in the order of their root ports.
const DEVICES: [Device; 2] = [Device::Igb, Device::Nvme { vfs: 2 }];
/// The first functions behind these ports: firmware numbers the buses in their order.
const CARDS: [&str; 2] = ["pci:0000:01:00.0", "pci:0000:02:00.0"];
/// Memory of the VM that owns the physical functions, in bytes.
const OWNER_MEMORY: u64 = 32 << 20;

/// Words of the guest's command line. Where idle CPUs have no tick, Linux asks them to balance its load from the
/// tick of a busy one: some six IPIs per second, each an exit that no device asked for.
pub const WORDS: &str = "nohz=off";
/// The boot module with the owner of the physical functions: the test guest.
pub const OWNER: &str = "pf-owner.elf";
/// The machine.
pub const PC: Pc = Pc { devices: &DEVICES, ..Pc::PLAIN };

impl Demo {
    /// The bed for `choice`.
    ///
    /// # Errors
    /// When that bed has no such devices.
    pub fn bed(self, choice: Choice) -> Result<Bed> {
        match choice {
            Choice::Auto => Ok(Bed::Qemu),
            Choice::Bochs => bail!("--demo needs PCI Express and an IOMMU: use --bed qemu"),
            choice => Bed::choose(choice),
        }
    }

    /// Cores of the machine when Linux has `vcpus`.
    #[must_use]
    pub fn cores(self, vcpus: u32) -> u32 {
        self.first_core() + vcpus
    }

    fn first_core(self) -> u32 {
        match self {
            Self::Pci => 1,
            Self::Sriov => 2,
        }
    }

    /// The VMs of `bed`: `linux` with its functions, and who else is needed, from the module [`OWNER`].
    ///
    /// # Errors
    /// A name of a device that is none; ours are.
    pub fn config(self, bed: Bed, mut linux: VmConfig) -> Result<Config> {
        let cards = devices(&CARDS.map(String::from))?;
        let first = self.first_core();
        linux.cpus = (first..).take(linux.cpus.len()).collect();
        match self {
            Self::Pci => {
                linux.devices = cards;
                Ok(Config { vms: vec![linux] })
            }
            Self::Sriov => {
                linux.devices = devices(&CARDS.map(|card| format!("{card}/vf0")))?;
                let mut cmdline = "boot=pf-owner cpus=1 exit=acpi".to_string();
                if bed == Bed::Qemu {
                    cmdline += " tcg";
                }
                let owner = VmConfig {
                    name: "pf".into(),
                    cpus: vec![1],
                    memory: OWNER_MEMORY,
                    kernel: OWNER.into(),
                    initrd: None,
                    cmdline,
                    devices: cards,
                    ..linux.clone()
                };
                // The measured one first.
                Ok(Config { vms: vec![linux, owner] })
            }
        }
    }

    /// The line that ends the boot of a VM called `linux` whose neighbours run on for ever.
    #[must_use]
    pub fn last_line(self, linux: &str) -> Option<String> {
        (self == Self::Sriov).then(|| format!("BEELINE vm-stop vm={linux}"))
    }
}

fn devices(names: &[String]) -> Result<Vec<DeviceConfig>> {
    let parse =
        |name: &String| name.parse::<DeviceConfig>().map_err(|why| anyhow::anyhow!("{why}"));
    names.iter().map(parse).collect()
}
