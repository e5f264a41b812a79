//! The machine of both QEMU beds: a q35 with VT-d, its firmware, boot medium, console and devices.
//! `qemu` and `kvm` add an accelerator and a CPU.

use super::{Machine, Serial};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;

/// What the image writes to `isa-debug-exit` after success; QEMU ends with `(value << 1) | 1`.
const SUCCESS: i32 = (0x10 << 1) | 1;
/// OVMF's code, and the variable store that goes with it.
pub const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];
/// Bytes of an nvme device's disk; the file is sparse.
const DISK: u64 = 16 << 20;

/// What a QEMU machine has that no other bed has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pc {
    /// Who loads the boot loader.
    pub firmware: Firmware,
    /// Where the boot image is.
    pub medium: Medium,
    /// PCI devices beside the chipset's.
    pub devices: &'static [Device],
    /// Keep a log of exits and device interrupts, by an emulator that can.
    pub witness: bool,
    /// A reset starts it again; else it ends it.
    pub restarts: bool,
    /// It has VT-d.
    pub iommu: bool,
    /// Words added to the CPU model: `-svm` takes a feature away.
    pub cpu: &'static str,
}

impl Pc {
    /// A BIOS machine with VT-d that boots from CD, without devices.
    pub const PLAIN: Self = Self {
        firmware: Firmware::Bios,
        medium: Medium::Cd,
        devices: &[],
        witness: false,
        restarts: false,
        iommu: true,
        cpu: "",
    };
}

/// Who loads the boot loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF, with a fresh variable store in each run.
    Uefi,
}

/// Where the boot image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// A SATA CD.
    #[default]
    Cd,
    /// A USB disk on an xHCI controller.
    Usb,
}

/// A PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// QEMU's teaching device, which raises INTx and MSI and does DMA when told to. Its own
    /// address mask is often 28 bits, so that no DMA of it reaches the interrupt range.
    Edu {
        /// DMA address bits that it does not mask.
        dma_mask: u64,
    },
    /// An Intel 82576 behind a root port: SR-IOV with up to 8 VFs, MSI-X. Its network leads to
    /// QEMU itself.
    Igb,
    /// A USB controller at the root complex, with nothing attached: 16 messages by plain MSI and as many MSI-X entries.
    Xhci,
    /// An NVMe controller behind a root port, with SR-IOV and one namespace.
    Nvme {
        /// VFs it can have.
        vfs: u32,
    },
    /// Two of QEMU's teaching devices, 1 and 2 behind a bridge to conventional PCI.
    Bridged,
    /// Two of them behind a switch, each on its own port.
    Switched,
}

/// Everything but accelerator, CPU model and what `-smp` says beyond the number of CPUs. Writes
/// the files that the machine changes into its folder.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn arguments(machine: &Machine, serial: &Serial) -> Result<Vec<String>> {
    let mut a = Vec::new();
    add(&mut a, "-nodefaults -no-user-config -display none");
    if !machine.pc.restarts {
        add(&mut a, "-no-reboot");
    }
    add(&mut a, &format!("-smp {} -m {}M", machine.cpus, machine.memory_mib));
    if machine.pc.iommu {
        add(&mut a, "-device intel-iommu,intremap=on,eim=on");
    }
    add(&mut a, "-device isa-debug-exit,iobase=0xf4,iosize=4");
    let chardev = match serial {
        Serial::File(file) => format!("file,id=com1,path={}", value(file)),
        Serial::Socket(port) => {
            format!("socket,id=com1,host=127.0.0.1,port={port},server=on,wait=on")
        }
    };
    a.extend(["-chardev".into(), chardev]);
    add(&mut a, "-serial chardev:com1");
    firmware(machine, &mut a)?;
    medium(machine, &mut a);
    for (index, device) in machine.pc.devices.iter().enumerate() {
        self::device(machine, index, *device, &mut a)?;
    }
    Ok(a)
}

fn firmware(machine: &Machine, a: &mut Vec<String>) -> Result<()> {
    if machine.pc.firmware == Firmware::Bios {
        return Ok(());
    }
    let [code, fresh] = OVMF;
    let variables = machine.dir.join("ovmf-vars.fd");
    // What an earlier run left there could change the boot order.
    fs::copy(fresh, &variables)
        .with_context(|| format!("cannot copy {fresh}: `cargo xtask setup` installs ovmf"))?;
    // The copy inherits the package's mode.
    let mut rights = fs::metadata(&variables)?.permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file of ours below target/")]
    rights.set_readonly(false);
    fs::set_permissions(&variables, rights)?;
    let flash = |unit, file: &Path, more| {
        format!("if=pflash,format=raw,unit={unit}{more},file={}", value(file))
    };
    a.extend(["-drive".into(), flash(0, Path::new(code), ",readonly=on")]);
    a.extend(["-drive".into(), flash(1, &variables, "")]);
    Ok(())
}

fn medium(machine: &Machine, a: &mut Vec<String>) {
    let image = value(&machine.iso);
    let drive = format!("if=none,id=boot,format=raw,readonly=on,file={image}");
    match machine.pc.medium {
        Medium::Cd => {
            a.extend(["-drive".into(), format!("media=cdrom,{drive}")]);
            add(a, "-device ide-cd,drive=boot,bootindex=1");
        }
        Medium::Usb => {
            a.extend(["-drive".into(), drive]);
            add(a, "-device qemu-xhci -device usb-storage,drive=boot,bootindex=1");
        }
    }
}

fn device(machine: &Machine, n: usize, device: Device, a: &mut Vec<String>) -> Result<()> {
    // Chassis and slot must differ between root ports.
    let port = format!("-device pcie-root-port,id=port{n},chassis={0},slot={0}", n + 1);
    match device {
        Device::Edu { dma_mask } => add(a, &format!("-device edu,dma_mask={dma_mask:#x}")),
        Device::Igb => {
            add(a, &format!("{port} -netdev user,id=net{n}"));
            add(a, &format!("-device igb,bus=port{n},netdev=net{n},mac=52:54:00:12:34:{n:02x}"));
        }
        Device::Xhci => add(a, "-device qemu-xhci,msi=on,msix=on"),
        Device::Nvme { vfs } => {
            let disk = machine.dir.join(format!("nvme{n}.img"));
            File::create(&disk)
                .and_then(|file| file.set_len(DISK))
                .with_context(|| format!("cannot write {}", disk.display()))?;
            let (flexible, queues) = (2 * vfs, 2 + 2 * vfs);
            add(a, &format!("{port} -device nvme-subsys,id=subsystem{n}"));
            // Of the queues and vectors, two of each stay with the PF.
            add(
                a,
                &format!(
                    "-device nvme,id=nvme{n},bus=port{n},serial=beeline{n},subsys=subsystem{n},\
                     sriov_max_vfs={vfs},sriov_vq_flexible={flexible},\
                     sriov_vi_flexible={flexible},max_ioqpairs={queues},msix_qsize={}",
                    queues + 1
                ),
            );
            let drive = format!("if=none,id=disk{n},format=raw,file={}", value(&disk));
            a.extend(["-drive".into(), drive]);
            add(a, &format!("-device nvme-ns,drive=disk{n},bus=nvme{n},nsid=1,shared=on"));
        }
        Device::Bridged => {
            add(a, &format!("{port} -device pcie-pci-bridge,id=bridge{n},bus=port{n}"));
            for slot in [1, 2] {
                add(a, &format!("-device edu,bus=bridge{n},addr={slot}"));
            }
        }
        Device::Switched => {
            add(a, &format!("{port} -device x3130-upstream,id=up{n},bus=port{n}"));
            for slot in [1, 2] {
                let name = format!("down{n}-{slot}");
                let chassis = 16 * (n + 1) + slot;
                add(
                    a,
                    &format!("-device xio3130-downstream,id={name},bus=up{n},chassis={chassis}"),
                );
                add(a, &format!("-device edu,bus={name}"));
            }
        }
    }
    Ok(())
}

/// Adds words that hold no path.
pub(super) fn add(arguments: &mut Vec<String>, words: &str) {
    arguments.extend(words.split_whitespace().map(String::from));
}

/// A path as the value of an option: commas would end it.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Judges QEMU's exit status.
pub(super) fn verdict(code: Option<i32>) -> bool {
    code == Some(SUCCESS)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bed::Machine;
    use std::time::Duration;

    /// A machine whose folder is `dir`.
    pub fn machine(dir: &Path, pc: Pc) -> Machine {
        Machine {
            iso: "/x,y/boot.iso".into(),
            dir: dir.into(),
            cpus: 3,
            memory_mib: 512,
            model: String::new(),
            cpuid: String::new(),
            ips: 0,
            time0: 0,
            pc,
            time_limit: Duration::from_secs(1),
        }
    }

    fn line(pc: Pc, serial: &Serial) -> String {
        let dir = tempfile::tempdir().unwrap();
        arguments(&machine(dir.path(), pc), serial).unwrap().join(" ")
    }

    #[test]
    fn a_plain_machine() {
        let line = line(Pc::PLAIN, &Serial::File("/x/serial.log".into()));
        for part in [
            "-smp 3 -m 512M",
            "-device isa-debug-exit,iobase=0xf4,iosize=4",
            "-chardev file,id=com1,path=/x/serial.log -serial chardev:com1",
            "-drive media=cdrom,if=none,id=boot,format=raw,readonly=on,file=/x,,y/boot.iso",
            "-no-reboot",
        ] {
            assert!(line.contains(part), "{part} is missing from {line}");
        }
        assert!(!line.contains("pflash") && !line.contains("usb"));
        assert!(line.contains("-device intel-iommu,intremap=on,eim=on"));
        let other = self::line(
            Pc { iommu: false, restarts: true, ..Pc::PLAIN },
            &Serial::File("/x/serial.log".into()),
        );
        assert!(!other.contains("iommu") && !other.contains("-no-reboot"));
        let line = self::line(Pc::PLAIN, &Serial::Socket(4001));
        assert!(line.contains("host=127.0.0.1,port=4001,server=on,wait=on"));
    }

    #[test]
    fn devices_with_sr_iov_get_root_ports_of_their_own() {
        let devices =
            &[Device::Igb, Device::Edu { dma_mask: 0xFFFF_FFFF }, Device::Nvme { vfs: 2 }];
        let dir = tempfile::tempdir().unwrap();
        let machine = machine(dir.path(), Pc { medium: Medium::Usb, devices, ..Pc::PLAIN });
        let line = arguments(&machine, &Serial::Socket(1)).unwrap().join(" ");
        for part in [
            "-device pcie-root-port,id=port0,chassis=1,slot=1 -netdev user,id=net0 -device igb,bus=port0",
            "-device edu,dma_mask=0xffffffff",
            "-device pcie-root-port,id=port2,chassis=3,slot=3",
            "sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=4,max_ioqpairs=6,msix_qsize=7",
            "-device usb-storage,drive=boot",
        ] {
            assert!(line.contains(part), "{part} is missing from {line}");
        }
        assert_eq!(fs::metadata(dir.path().join("nvme2.img")).unwrap().len(), DISK);
    }

    #[test]
    fn only_the_images_own_success_counts() {
        assert!(verdict(Some(33)));
        assert!(!verdict(Some(0)) && !verdict(Some(1)) && !verdict(None));
    }
}
