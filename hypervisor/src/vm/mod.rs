//! A virtual machine: its memory, its devices, the shared half of its vCPUs, and its life from
//! start to stop.
//!
//! The housekeeping core starts, stops and restarts VMs; vCPUs only ask for it ([`Vm::ask`]).
//! Locks: those of the devices (see `device::board`), the window's and the start states', leaves.

pub mod life;
pub mod walk;
pub mod window;

use crate::console::{GuestOutput, Put};
use crate::device::Devices;
use crate::device::pci::Bus;
use crate::interrupt::line::Lines;
use crate::memory::GuestRam;
use crate::stats::VcpuStats;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Once, Ordering};
use alloc::vec::Vec;
use arch::stage2::Stage2;
use arch::virt::{FetchState, ReadCode, StartState};
use arch_defs::apic::XapicLogical;
use guest_loader::config::VmConfig;
use walk::{PagingState, fetch};
use window::Window;

/// What a vCPU is doing, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Lifecycle {
    /// Off: its core is parked and its LAPIC empty.
    Off,
    /// After INIT: waiting for a start-up IPI, its core parked.
    WaitForSipi,
    /// Running guest code.
    Running,
}

/// The shared half of a vCPU. The private half, [`crate::vcpu::Vcpu`], belongs to its core.
pub struct VcpuShared {
    /// Number in its VM, which is its virtual APIC id.
    pub id: u32,
    /// The core it is bound to.
    pub core: usize,
    /// Counters.
    pub stats: VcpuStats,
    lifecycle: AtomicU32,
    sipi_page: AtomicU32,
    start: Mutex<Option<StartState>>,
    xapic_logical: AtomicU32,
    xapic: AtomicBool,
    accepts: AtomicBool,
}

impl VcpuShared {
    const fn new(id: u32, core: usize) -> Self {
        Self {
            id,
            core,
            stats: VcpuStats::new(),
            lifecycle: AtomicU32::new(Lifecycle::Off as u32),
            sipi_page: AtomicU32::new(0),
            start: Mutex::new(None),
            xapic_logical: AtomicU32::new(0),
            xapic: AtomicBool::new(false),
            accepts: AtomicBool::new(false),
        }
    }

    /// What it is doing.
    #[inline]
    pub fn lifecycle(&self) -> Lifecycle {
        match self.lifecycle.load(Ordering::Acquire) {
            0 => Lifecycle::Off,
            1 => Lifecycle::WaitForSipi,
            _ => Lifecycle::Running,
        }
    }

    /// Says what it is doing (its core only).
    pub fn set_lifecycle(&self, now: Lifecycle) {
        self.lifecycle.store(now as u32, Ordering::Release);
    }

    /// Leaves the page of a start-up IPI for the core to take with the request.
    pub fn set_sipi_page(&self, page: u8) {
        self.sipi_page.store(page.into(), Ordering::Release);
    }

    /// That page.
    pub fn sipi_page(&self) -> u8 {
        self.sipi_page.load(Ordering::Acquire) as u8
    }

    /// Publishes the logical id that the guest gave this vCPU in xAPIC mode.
    pub fn set_xapic_logical(&self, logical: XapicLogical) {
        let packed = u32::from(logical.id) | u32::from(logical.cluster) << 8;
        self.xapic_logical.store(packed, Ordering::Release);
    }

    /// That logical id.
    pub fn xapic_logical(&self) -> XapicLogical {
        let packed = self.xapic_logical.load(Ordering::Acquire);
        XapicLogical { id: packed as u8, cluster: packed >> 8 != 0 }
    }

    /// Publishes whether this vCPU's LAPIC is in xAPIC mode.
    pub fn set_xapic(&self, on: bool) {
        self.xapic.store(on, Ordering::Release);
    }

    /// Publishes whether its LAPIC accepts interrupts: it runs, and its guest has switched the LAPIC on (SVR).
    pub fn set_accepts(&self, on: bool) {
        self.accepts.store(on, Ordering::Release);
    }

    /// Whether its LAPIC accepts interrupts.
    pub fn accepts(&self) -> bool {
        self.accepts.load(Ordering::Acquire)
    }

    /// Leaves a start state for the core to take with the request.
    pub fn set_start(&self, state: Option<StartState>) {
        *self.start.lock() = state;
    }

    /// Takes that state.
    pub fn take_start(&self) -> Option<StartState> {
        self.start.lock().take()
    }
}

/// What a VM asks of the housekeeping core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ask {
    /// Nothing.
    Nothing,
    /// Switch the VM off.
    PowerOff,
    /// Restart it.
    Reset,
    /// Stop it: it did something it may not; the report is in the log.
    Refused,
}

impl Ask {
    /// The word in the `vm-stop` line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::Refused => "refused",
        }
    }
}

/// What a VM and its devices reach.
pub struct Memory {
    /// Its RAM.
    pub ram: GuestRam,
    /// Its second-stage address space.
    pub stage2: Stage2,
    /// The address space of its devices, if it has any.
    pub dma: Option<Stage2>,
}

/// Values of [`Vm::up`].
const DOWN: u32 = 0;
const UP: u32 = 1;
const SETTLING: u32 = 2;

/// One virtual machine.
pub struct Vm {
    /// Position in the configuration.
    pub index: usize,
    /// Its configuration.
    pub config: VmConfig,
    /// Its memory.
    pub ram: GuestRam,
    /// Its second-stage address space.
    pub stage2: Stage2,
    /// The address space of its devices, for as long as the IOMMU walks it.
    pub dma: Option<Stage2>,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuShared>,
    /// Its devices.
    pub devices: Devices,
    /// What it prints.
    pub output: GuestOutput,
    /// Accesses to ports and memory that nobody answers.
    pub unclaimed: AtomicU64,
    /// Its measured windows.
    pub window: Window,
    ask: AtomicU32,
    up: AtomicU32,
}

impl Vm {
    /// A VM that is off.
    pub fn new(index: usize, config: VmConfig, memory: Memory, pci: Bus, lines: Lines) -> Self {
        let Memory { ram, stage2, dma } = memory;
        let vcpus =
            (0..).zip(&config.cpus).map(|(id, &core)| VcpuShared::new(id, core as usize)).collect();
        let window = Window::new(config.cpus.len());
        Self {
            index,
            devices: Devices::new(&config.devices, pci, lines),
            config,
            ram,
            stage2,
            dma,
            vcpus,
            output: GuestOutput::new(),
            unclaimed: AtomicU64::new(0),
            window,
            ask: AtomicU32::new(Ask::Nothing as u32),
            up: AtomicU32::new(DOWN),
        }
    }

    /// Asks the housekeeping core for an end of this run. The first wish stands.
    pub fn ask(&self, what: Ask) {
        let _ = self.ask.compare_exchange(
            Ask::Nothing as u32,
            what as u32,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        crate::housekeeping::wake();
    }

    /// What was asked for.
    pub fn asked(&self) -> Ask {
        match self.ask.load(Ordering::Acquire) {
            1 => Ask::PowerOff,
            2 => Ask::Reset,
            3 => Ask::Refused,
            _ => Ask::Nothing,
        }
    }

    /// True while it runs.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) == UP
    }

    /// True while its vCPUs are off and its functions come to rest.
    fn is_settling(&self) -> bool {
        self.up.load(Ordering::Acquire) == SETTLING
    }

    /// It runs from now on. What was asked for before (a vCPU that could not be built) stands.
    fn set_up(&self) {
        self.up.store(UP, Ordering::Release);
    }

    /// Its vCPUs are off. What it asked for stands.
    fn set_settling(&self) {
        self.up.store(SETTLING, Ordering::Release);
    }

    /// It does not run any more, and what it asked for has been served.
    fn set_down(&self) {
        self.up.store(DOWN, Ordering::Release);
        self.ask.store(Ask::Nothing as u32, Ordering::Release);
    }

    /// A byte of its COM1 for the console; false if there is no room.
    pub fn print(&self, byte: u8) -> bool {
        if !self.config.console {
            return true;
        }
        match self.output.put(byte) {
            Put::Full => false,
            Put::Behind => true,
            Put::First => {
                crate::housekeeping::wake();
                true
            }
        }
    }

    /// True if its LAPICs are in xAPIC mode, where logical ids are the guest's own.
    pub fn in_xapic(&self) -> bool {
        self.vcpus.first().is_some_and(|vcpu| vcpu.xapic.load(Ordering::Acquire))
    }
}

impl ReadCode for Vm {
    fn read_code(&self, state: &FetchState, bytes: &mut [u8; 15]) -> usize {
        let paging = PagingState::from(state.control);
        fetch(&self.ram, &paging, state.linear_rip, bytes)
    }
}

static VMS: Once<Vec<Vm>> = Once::new();

/// Sets the list of all VMs, once, at boot.
pub fn publish(vms: Vec<Vm>) -> &'static [Vm] {
    VMS.call_once(|| vms)
}

/// All VMs; empty until boot has built them.
pub fn all() -> &'static [Vm] {
    VMS.get().map_or(&[], Vec::as_slice)
}

/// True once boot has built the VMs.
pub fn published() -> bool {
    VMS.get().is_some()
}
