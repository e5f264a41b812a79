//! The private half of a vCPU and the run loop of its core.
//!
//! One core, one vCPU (sharing comes later): the loop enters the guest, counts and dispatches the
//! exit, and serves requests. Root mode runs with IF=0 here: what arrives meanwhile waits in IRR
//! for the guest (requirement A4). No lock is taken on the way but by the exits that touch a
//! device.

mod parking;
mod pending;

pub use parking::{PARKING_CODE, core_loop, parking};
pub use pending::nmi_in_root;

use crate::cores::{self, CoreShared};
use crate::exit;
use crate::exit::clock_page::Clock;
use crate::exit::cpuid::{CpuidInputs, CpuidTable, Vendor};
use crate::exit::msr_policy::{self, MsrState};
use crate::interrupt::apic_state::ApicState;
use crate::interrupt::kick::Requests;
use crate::stats::ExitKind;
use crate::vm::{Ask, Lifecycle, VcpuShared, Vm};
use arch::apic::ValidatedRegister;
use arch::cpu::rdtsc_low;
use arch::virt::{Backend, Event, EventExit, Exit, MsrAccess, StartState, Unusable, VcpuConfig};
use arch_defs::apic::ApicMode;

/// A vCPU as its own core sees it.
pub struct Vcpu<B> {
    /// The CPU's side of it.
    pub backend: B,
    /// Its VM.
    pub vm: &'static Vm,
    /// Its shared half.
    pub shared: &'static VcpuShared,
    /// Its core's shared half.
    pub core: &'static CoreShared,
    /// Its CPUID.
    pub cpuid: CpuidTable,
    /// Its emulated MSRs.
    pub msrs: MsrState,
    /// What of its LAPIC is virtual.
    pub apic: ApicState,
    /// What its clock page says.
    pub clock: Clock,
    /// Its XCR0.
    pub xcr0: u64,
    /// An NMI waits for the guest.
    nmi_pending: bool,
    /// A delivery that an exit cut short and that could not go back in yet (requirement D8).
    deferred: Option<Event>,
    /// One of the two above waits, or the vCPU has stopped: the one flag that the way to the
    /// entry looks at.
    attention: bool,
}

/// What a core needs to know of the machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineRates {
    /// TSC frequency in Hz.
    pub tsc_hz: u64,
    /// LAPIC timer input in Hz.
    pub lapic_hz: u64,
    /// Wall time in seconds since 1970 when the TSC was 0; 0 if unknown.
    pub wall_at_tsc_0: u64,
    /// Whose CPUID rules apply.
    pub vendor: Vendor,
}

/// CR4 bits that a guest may set where its CPUID offers the feature: VME, PVI, TSD, DE, PSE, PAE,
/// MCE (shadowed), PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP.
pub fn cr4_allowed(cpuid: &CpuidTable) -> u64 {
    let [_, ebx7, ecx7, _] = cpuid.lookup(7, 0).regs;
    let ecx1 = cpuid.lookup(1, 0).regs[2];
    let bit = |on: bool, bit: u32| u64::from(on) << bit;
    0x7FF
        | bit(ecx7 & 1 << 2 != 0, 11)
        | bit(ebx7 & 1 != 0, 16)
        | bit(ecx1 & 1 << 17 != 0, 17)
        | bit(ecx1 & 1 << 26 != 0, 18)
        | bit(ebx7 & 1 << 7 != 0, 20)
        | bit(ebx7 & 1 << 20 != 0, 21)
}

impl<B: Backend> Vcpu<B> {
    /// The private half of a vCPU, on its own core.
    ///
    /// # Errors
    /// What the backend lacks.
    pub fn new(
        vm: &'static Vm,
        shared: &'static VcpuShared,
        rates: MachineRates,
    ) -> Result<Self, Unusable> {
        let max_phys_bits = arch::cpu::physical_bits();
        let inputs = CpuidInputs {
            vcpu: shared.id,
            vcpus: vm.vcpus.len() as u32,
            tsc_hz: rates.tsc_hz,
            lapic_hz: rates.lapic_hz,
            vendor: rates.vendor,
            max_phys_bits,
        };
        let cpuid = CpuidTable::new(&inputs, arch::cpu::cpuid);
        let backend = B::new(&VcpuConfig {
            stage2: &vm.stage2,
            msr_access: |msr| {
                let (read, write) = msr_policy::passes(msr);
                MsrAccess { read, write }
            },
            // TLB tags are a core's own, and one vCPU lives there: 0 and 1 are the host's and the
            // parking space's.
            tag: 2,
            cr4_allowed: cr4_allowed(&cpuid),
            code: vm,
        })?;
        Ok(Self {
            backend,
            vm,
            shared,
            core: cores::core(shared.core),
            cpuid,
            msrs: MsrState::new(max_phys_bits),
            apic: ApicState::reset(shared.id),
            clock: Clock { tsc_hz: rates.tsc_hz, wall_at_tsc_0: rates.wall_at_tsc_0 },
            xcr0: 1,
            nmi_pending: false,
            deferred: None,
            attention: false,
        })
    }

    /// Runs until the vCPU is to be parked. The backend is loaded.
    fn run(&mut self) {
        let mut exit_tsc = rdtsc_low();
        self.attention = true;
        loop {
            // An NMI that comes after this look makes the entry exit at once, by `nmi_in_root`
            // (requirement D2); one that came before has its request in the set.
            if self.core.kick.pending() {
                self.serve_requests();
            }
            if self.attention {
                if self.shared.lifecycle() != Lifecycle::Running {
                    return;
                }
                self.attend();
                continue;
            }
            if cfg!(debug_assertions) {
                crate::audit::before_entry(self);
                crate::debug_hooks::before_entry::<B>(self.shared.core);
            }
            self.shared.stats.add_root_ticks(rdtsc_low().wrapping_sub(exit_tsc));
            let exit = self.backend.run();
            exit_tsc = rdtsc_low();
            if cfg!(debug_assertions) {
                crate::debug_hooks::in_exit::<B>(self.shared.core);
            }
            self.dispatch(exit);
        }
    }

    /// Handles one exit. Read it as a table of contents: each row's work is in its own file of
    /// `exit`.
    #[inline(always)]
    fn dispatch(&mut self, exit: Exit) {
        match exit {
            Exit::Cpuid => exit::cpuid_exit::handle(self),
            Exit::MsrWrite => exit::msr::write(self),
            Exit::MsrRead => exit::msr::read(self),
            Exit::Io => exit::io::handle(self),
            Exit::Hypercall => exit::hypercall::handle(self),
            Exit::Event => self.dispatch_event(),
        }
    }

    /// The second page of that table.
    #[inline(never)]
    fn dispatch_event(&mut self) {
        let info = self.backend.event();
        if let Some(event) = info.cut_short {
            self.keep(event);
        }
        match info.exit {
            EventExit::SecondStageFault(fault) => {
                exit::mmio::handle(self, fault, info.cut_short.is_some());
            }
            EventExit::Nmi => self.nmi_exit(),
            EventExit::Quantum => self.quantum(),
            EventExit::NmiWindow => self.nmi_window(),
            EventExit::InterruptWindow => self.interrupt_window(),
            EventExit::ControlRegister(access) => exit::cr::handle(self, access),
            EventExit::Xsetbv => exit::cr::xsetbv(self),
            EventExit::ControlRegisterRead { register, gpr, word } => {
                exit::cr::read(self, register, gpr, word);
            }
            EventExit::Emulated => self.counted(ExitKind::CrAccess),
            EventExit::Exception { vector, error_code } => {
                exit::exception::handle(self, vector, error_code);
            }
            EventExit::CacheFlush => self.skipped(ExitKind::Instruction),
            EventExit::UndefinedInstruction => {
                self.faulted(ExitKind::Instruction, Event::UNDEFINED_OPCODE);
            }
            EventExit::Rdpmc => self.faulted(ExitKind::Instruction, Event::GENERAL_PROTECTION),
            EventExit::Halt => self.counted(ExitKind::Halt),
            EventExit::ExternalInterrupt => self.counted(ExitKind::ExternalInterrupt),
            EventExit::TripleFault => exit::fault::triple(self),
            EventExit::EntryFailure => exit::fault::entry(self),
            EventExit::Other => exit::fault::unknown(self),
        }
    }

    fn counted(&mut self, kind: ExitKind) {
        self.shared.stats.count(kind);
    }

    /// The exit that the host's NMI handler asked for: its requests are looked at next.
    fn quantum(&mut self) {
        self.shared.stats.count(ExitKind::Quantum);
        self.backend.clear_immediate_exit();
    }

    fn skipped(&mut self, kind: ExitKind) {
        self.shared.stats.count(kind);
        self.backend.skip_instruction();
    }

    fn faulted(&mut self, kind: ExitKind, fault: Event) {
        self.shared.stats.count(kind);
        self.backend.inject(fault);
    }

    /// Serves requests from other cores.
    #[cold]
    fn serve_requests(&mut self) {
        self.backend.clear_immediate_exit();
        let requests = self.core.kick.take();
        if requests.contains(Requests::PING) {
            let r15 = self.backend.regs().r15;
            crate::debug_hooks::acknowledge(self.shared.core, r15);
        }
        if requests.contains(Requests::STOP) {
            self.park(Lifecycle::Off);
            return;
        }
        if requests.contains(Requests::INIT) {
            self.park(Lifecycle::WaitForSipi);
            // A start-up IPI that came after the INIT is in the same set.
            if requests.contains(Requests::SIPI) {
                self.core.kick.leave(Requests::SIPI);
            }
            return;
        }
        self.attention |= requests.contains(Requests::LOOK_AGAIN);
        if requests.contains(Requests::WAKE) {
            self.backend.wake();
        }
        self.nmi_pending |= requests.contains(Requests::NMI);
        self.attention |= self.nmi_pending;
    }

    /// Ends this vCPU's run: its physical LAPIC is emptied and disabled, as INIT does.
    fn park(&mut self, next: Lifecycle) {
        self.nmi_pending = false;
        self.deferred = None;
        self.attention = true;
        // First of all nobody may send here any more; what is under way is drained here, or when
        // the next run begins.
        self.shared.set_lifecycle(next);
        // A line that is asserted would come back with each EOI.
        self.shared.set_accepts(false);
        self.vm.devices.lines_leave(self.shared.core);
        self.empty_lapic();
        self.apic = ApicState::reset(self.shared.id);
        self.set_apic_mode(ApicMode::X2apic);
    }

    fn empty_lapic(&self) {
        if let Err(left) = arch::apic::reset()
            && crate::rate_limit::LAPIC.allow()
        {
            let (vm, id) = (&self.vm.config.name, self.shared.id);
            log::warn!("vm {vm} vCPU {id}: its LAPIC does not become empty: {left:?}");
        }
    }

    /// Begins a run in `state`.
    fn begin(&mut self, state: StartState) {
        // An IPI that was under way when the last run ended has arrived by now.
        self.empty_lapic();
        self.xcr0 = 1;
        self.msrs = MsrState::new(arch::cpu::physical_bits());
        self.backend.reset(state);
        self.shared.set_lifecycle(Lifecycle::Running);
    }

    /// Puts the virtual LAPIC into another mode. The physical one stays in x2APIC mode and keeps
    /// what it holds (requirement A6, S4); its registers as MSRs are the guest's in x2APIC mode
    /// only.
    #[inline(never)]
    pub fn set_apic_mode(&mut self, mode: ApicMode) {
        self.apic.mode = mode;
        self.shared.set_xapic(mode == ApicMode::Xapic);
        self.backend.set_x2apic_passthrough(mode == ApicMode::X2apic);
    }

    /// The guest has written SVR; `hardware` is what the hardware gets. A LAPIC that is off drops what comes, and an I/O APIC
    /// would wait for the EOI of a level interrupt for ever: lines come and go with it.
    pub fn write_svr(&self, hardware: u64) {
        let on = self.apic.svr.enabled();
        let changes = on != self.shared.accepts();
        if changes && !on {
            self.shared.set_accepts(false);
            self.vm.devices.lines_leave(self.shared.core);
        }
        arch::apic::write_validated(ValidatedRegister::Svr, hardware);
        if changes && on {
            self.shared.set_accepts(true);
            self.vm.devices.lines_come(self.vm);
        }
    }

    /// Stops the whole VM from this vCPU: asks the housekeeping core and leaves the guest.
    pub fn stop_vm(&mut self, why: Ask) {
        self.park(Lifecycle::Off);
        self.vm.ask(why);
    }
}
