//! `cargo xtask run --demo`: a machine with a network card and a disk that have SR-IOV, and a Linux guest
//! that owns functions of them and puts them to work.

use crate::bed::{Bed, Choice, Device, Pc};
use anyhow::{Result, bail};
use guest_loader::config::{Config, DeviceConfig};

/// What the guest owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Demo {
    /// A whole network card (igb) and a whole disk (nvme), in one VM
    Pci,
}

/// The devices of the machine, in the order of their root ports.
const DEVICES: [Device; 2] = [Device::Igb, Device::Nvme { vfs: 2 }];
/// The first functions behind these ports: firmware numbers the buses in their order.
const CARDS: [&str; 2] = ["pci:0000:01:00.0", "pci:0000:02:00.0"];

impl Demo {
    /// The machine.
    #[must_use]
    pub fn pc(self) -> Pc {
        Pc { devices: &DEVICES, ..Pc::PLAIN }
    }

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

    /// Gives the first VM of `config` its functions.
    ///
    /// # Errors
    /// A name that is none; ours are.
    pub fn assign(self, config: &mut Config) -> Result<()> {
        let devices = match self {
            Self::Pci => CARDS.map(String::from),
        };
        let parse =
            |name: &String| name.parse::<DeviceConfig>().map_err(|w| anyhow::anyhow!("{w}"));
        let devices = devices.iter().map(parse).collect::<Result<Vec<_>>>()?;
        if let Some(vm) = config.vms.first_mut() {
            vm.devices = devices;
        }
        Ok(())
    }
}
