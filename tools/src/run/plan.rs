//! What `run` will boot: images, command lines, machines, in which order.

use super::{Options, demo};
use crate::bed::{self, Bed, Pc};
use crate::config;
use crate::iso::Module;
use crate::progress::Step;
use crate::report::{Measures, Mode};
use crate::workspace::{Profile, Workspace};
use crate::{image, initramfs, setup};
use anyhow::{Context, Result, bail};
use guest_loader::config::{Config, Delivery, Dma, MachineFacts, VmConfig, check, parse_size};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// The measured VM.
const LINUX: &str = "rt";
/// Names of the guest's files among the boot modules.
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initramfs";
/// Memory of the machine beside the VMs: firmware, hypervisor, boot modules. In MiB.
const BESIDE_GUESTS: u64 = 192;

/// One boot.
#[derive(Clone, Debug)]
pub struct Job {
    /// Bare or under Beeline.
    pub mode: Mode,
    /// Its number, from 1: the seed of its start offset.
    pub seed: u64,
}

/// Everything `run` decided.
pub struct Plan {
    /// The bed.
    pub bed: Bed,
    /// The hypervisor, unless only the bare machine boots.
    pub image: Option<PathBuf>,
    /// Configuration; its first VM is the measured one.
    pub config: Config,
    /// Folder of the files the configuration names.
    pub files: PathBuf,
    /// vCPUs of the measured VM.
    pub vcpus: u32,
    /// CPUs of the machine, bare too.
    pub cpus: u32,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// Devices of the machine on the QEMU beds.
    pub pc: Pc,
    /// Bochs' CPU model.
    pub model: String,
    /// Seconds for one boot.
    pub time_limit: u64,
    /// The line after which the machine is switched off, if it does not do so itself.
    pub last_line: Option<String>,
    /// What the guest measures, so that its figures must hold.
    pub measures: Measures,
    /// The boots in their order.
    pub jobs: Vec<Job>,
    /// How many at a time.
    pub parallel: usize,
}

impl Plan {
    /// Sets up, builds and decides.
    ///
    /// # Errors
    /// When something is missing, does not build, or the configuration is wrong.
    pub fn make(workspace: &Workspace, options: &Options, bed: Bed) -> Result<Self> {
        setup::host(workspace, &[bed])?;
        let default_guest = options.config.is_none() && options.kernel.is_none();
        let own = options.initrd.is_some() || options.cmdline.is_some() || options.interactive;
        let measures = match options.demo {
            _ if own || !default_guest => Measures::Nothing,
            None => Measures::Timer,
            Some(_) => Measures::Devices,
        };
        let (config, files) = match &options.config {
            Some(file) => (config::read(file)?, config::folder(file).into()),
            None => default_vm(workspace, options, bed)?,
        };
        let bare =
            !options.no_bare && (options.bare || (measures == Measures::Timer && bed != Bed::Kvm));
        if (bare || options.only_bare) && (options.config.is_some() || bed == Bed::Kvm) {
            bail!("a bare boot needs an emulator and no --config: the machine is the same one");
        }
        let image = if options.only_bare {
            None
        } else {
            let step = Step::noisy("Build the hypervisor (release)");
            let built = image::hypervisor(workspace, Profile::Release)?;
            // A build while boots are under way must not change what the later ones run.
            let image = workspace.beeline("run")?.join("beeline.elf");
            copy(&built, &image)?;
            step.done();
            Some(image)
        };
        let mut jobs = Vec::new();
        for seed in 1..=u64::from(options.boots) {
            // Direct first: its console is the one to watch.
            if !options.only_bare {
                jobs.push(Job { mode: Mode::Direct, seed });
            }
            if bare || options.only_bare {
                jobs.push(Job { mode: Mode::Bare, seed });
            }
        }
        let memory = config.vms.iter().map(|vm| vm.memory >> 20).sum::<u64>() + BESIDE_GUESTS;
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
        Ok(Self {
            bed,
            image,
            files,
            vcpus: config.vms.first().map_or(1, |vm| vm.cpus.len() as u32),
            cpus: config.vms.iter().flat_map(|vm| &vm.cpus).max().map_or(2, |core| core + 1),
            memory_mib: u32::try_from(memory.next_multiple_of(64)).context("too much memory")?,
            config,
            pc: options.demo.map_or(Pc::PLAIN, |_| Pc { witness: bed == Bed::Qemu, ..demo::PC }),
            last_line: options.demo.and_then(|demo| demo.last_line(LINUX)),
            model: options.model.clone(),
            time_limit: options.time_limit,
            measures,
            parallel: options.jobs.unwrap_or(cores).clamp(1, jobs.len().max(1)),
            jobs,
        })
    }

    /// The boot modules of a direct boot.
    ///
    /// # Errors
    /// When the configuration or a file of it is not usable.
    pub fn modules(&self, job: &Job) -> Result<Vec<Module>> {
        let mut config = self.config.clone();
        if self.measures == Measures::Timer
            && let Some(vm) = config.vms.first_mut()
        {
            vm.cmdline = seeded(&vm.cmdline, job.seed);
        }
        config::modules(&config, &self.files)
    }

    /// Kernel, initrd and command line of a bare boot: those of the VM.
    ///
    /// # Errors
    /// When there is no VM.
    pub fn bare(&self, job: &Job) -> Result<(PathBuf, Option<PathBuf>, String)> {
        let vm = self.config.vms.first().context("the configuration has no VM")?;
        let initrd = vm.initrd.as_ref().map(|name| self.files.join(name));
        // Nothing else differs: a bare machine has no VM to power off.
        let exit = self.bed.exit_word();
        let cmdline = format!("{} beeline.{exit}", seeded(&vm.cmdline, job.seed));
        Ok((self.files.join(&vm.kernel), initrd, cmdline))
    }
}

/// The start offset of boot `seed` in microseconds: how far behind the kernel's tick cyclictest
/// measures. Below its interval, for the tick's is a multiple of it. The van der Corput sequence
/// spreads any number of boots evenly: 0, 500, 250, 750, 125, and so on.
#[must_use]
pub fn offset(seed: u64) -> u64 {
    const BITS: u32 = 16;
    let mirrored = u64::from((seed.saturating_sub(1) as u16).reverse_bits());
    (mirrored * 1000) >> BITS
}

fn seeded(cmdline: &str, seed: u64) -> String {
    format!("{cmdline} beeline.offset={}", offset(seed))
}

/// One VM with the kernel and initrd of the options or Debian's; its files are linked into one
/// folder under the names the configuration gives them.
fn default_vm(workspace: &Workspace, options: &Options, bed: Bed) -> Result<(Config, PathBuf)> {
    let dir = workspace.beeline("run")?;
    let mut initrd = options.initrd.clone();
    let kernel = match &options.kernel {
        Some(kernel) => kernel.clone(),
        None => {
            let guest = setup::guest(workspace, false)?;
            if initrd.is_none() {
                let step = Step::start("Build the initramfs");
                initrd = Some(match options.demo {
                    None => initramfs::build(workspace, &guest)?,
                    Some(_) => initramfs::build_with_drivers(workspace, &guest)?,
                });
                step.done();
            }
            guest.kernel
        }
    };
    copy(&kernel, &dir.join(KERNEL))?;
    if let Some(initrd) = &initrd {
        copy(initrd, &dir.join(INITRD))?;
    }
    let mut cmdline = options.cmdline.clone().unwrap_or_else(|| default_cmdline(options, bed));
    if let Some(more) = &options.append {
        cmdline = format!("{cmdline} {more}");
    }
    let vm = VmConfig {
        name: LINUX.into(),
        cpus: (1..=options.vcpus).collect(),
        memory: parse_size(&options.memory).map_err(|why| anyhow::anyhow!("--memory: {why}"))?,
        kernel: KERNEL.into(),
        initrd: initrd.map(|_| INITRD.into()),
        modules: Vec::new(),
        cmdline,
        delivery: Delivery::Direct,
        devices: Vec::new(),
        dma: Dma::default(),
        debug_hooks: false,
        console: true,
    };
    let config = match options.demo {
        None => Config { vms: vec![vm] },
        Some(demo) => {
            copy(&image::test_guest(workspace)?, &dir.join(demo::OWNER))?;
            demo.config(bed, vm)?
        }
    };
    check(&config, &MachineFacts::default()).map_err(|why| anyhow::anyhow!("{why}"))?;
    Ok((config, dir))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot read {}", from.display()))
}

/// The command line of Debian's kernel, the same on the bare machine.
fn default_cmdline(options: &Options, bed: Bed) -> String {
    let cpus: Vec<String> = (0..options.vcpus).map(|cpu| cpu.to_string()).collect();
    let mut words = vec![
        // Without a rate Linux takes 9600 bit/s, and the emulator really waits for them.
        "console=ttyS0,115200".into(),
        "quiet".into(),
        // The same layout in every boot; the crypto self-tests alone take 18 s on Bochs.
        "nokaslr".into(),
        "cryptomgr.notests".into(),
        // HLT on both sides. Left alone, Linux takes MWAIT on the bare machine, and in the guest,
        // under KVM's REALTIME hint, the haltpoll driver.
        "idle=halt".into(),
        // What Linux switches on or off by itself because it sees, or does not see, a hypervisor or
        // what Bochs' firmware left: the same instructions must run on both sides. XSAVE is off on
        // bare Bochs (its size check fails), and so are fast strings (IA32_MISC_ENABLE).
        "noxsave".into(),
        "clearcpuid=erms,rep_good".into(),
        "spectre_bhi=off".into(),
        "indirect_target_selection=off".into(),
        format!("mem={}", options.memory),
        "clocksource=tsc".into(),
        "tsc=reliable".into(),
        // A bare machine has one CPU more, which stays parked.
        format!("nr_cpus={}", options.vcpus),
    ];
    if bed != Bed::Bochs {
        // Where a busy host runs the timer, its ticks come too late for the kernel's patience.
        words.push("no_timer_check".into());
    } else {
        // CPUID of this model lies about the TSC; the bare kernel must be told.
        words.push(format!("tsc_early_khz={}", bed::FIGURES_IPS / 1000));
    }
    if options.interactive {
        words.push("beeline.run=shell".into());
    } else if options.demo.is_some() {
        words.push("beeline.run=devices".into());
        words.push(demo::WORDS.into());
        words.push(format!("beeline.reads={}", options.reads));
    } else {
        words.push("beeline.run=cyclictest".into());
        words.push(format!("beeline.cpus={}", cpus.join(",")));
        words.push(format!("beeline.loops={}", options.loops));
        if !bed.is_deterministic() {
            // The host's other work shows in milliseconds.
            words.push("beeline.buckets=1000000".into());
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_spread_and_repeatable() {
        let offsets: Vec<u64> = (1..=8).map(offset).collect();
        assert_eq!(offsets, [0, 500, 250, 750, 125, 625, 375, 875]);
        assert!((0..70_000).all(|seed| offset(seed) < 1000));
    }
}
