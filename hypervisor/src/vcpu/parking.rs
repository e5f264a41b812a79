//! The life of a guest core around its vCPU's runs: parked in guest mode, where an NMI always
//! reaches it (requirement H4), until a request says what to do next.

use super::Vcpu;
use crate::cores::{self, CoreShared};
use crate::interrupt::kick::Requests;
use crate::sync::Ordering;
use crate::vm::{Lifecycle, VcpuShared};
use arch::cpu::rdtsc;
use arch::stage2::Stage2;
use arch::virt::{Backend, EventExit, Exit, MsrAccess, NoCode, StartState, Unusable, VcpuConfig};

/// The life of a guest core: parked in guest mode until its vCPU is to run (requirement H4).
/// `vcpu` is `None` on a core that no VM uses.
pub fn core_loop<B: Backend>(mut parking: B, mut vcpu: Option<Vcpu<B>>) -> ! {
    let core = cores::this();
    loop {
        if let Some(vcpu) = vcpu.as_mut().filter(|v| v.shared.lifecycle() == Lifecycle::Running) {
            vcpu.backend.load();
            vcpu.backend.clear_immediate_exit();
            vcpu.run();
            vcpu.backend.unload();
            continue;
        }
        park_until_request(core, &mut parking);
        let requests = core.kick.take();
        let Some(vcpu) = vcpu.as_mut() else { continue };
        if requests.contains(Requests::PING) {
            crate::debug_hooks::acknowledge(vcpu.shared.core, 0);
        }
        let state = wake_up(vcpu.shared, requests);
        if let Some(state) = state {
            vcpu.backend.load();
            vcpu.begin(state);
            vcpu.backend.unload();
        }
    }
}

/// What requests mean to a vCPU that does not run; a state if it is to run now.
fn wake_up(shared: &VcpuShared, requests: Requests) -> Option<StartState> {
    if requests.contains(Requests::STOP) {
        shared.set_lifecycle(Lifecycle::Off);
    }
    if requests.contains(Requests::START) {
        // A new run of the VM: nothing of the last one is readable in it.
        arch::cpu::clear_unswitched_registers();
        shared.stats.start(rdtsc());
        let state = shared.take_start();
        shared.set_lifecycle(Lifecycle::WaitForSipi);
        // A start-up IPI in the same set is of the run before.
        return state;
    }
    let waiting = shared.lifecycle() == Lifecycle::WaitForSipi;
    if requests.contains(Requests::SIPI) && waiting {
        // SDM volume 3, section 9.4.4: CS = vector << 8, IP = 0.
        return Some(StartState::RealMode { cs: u16::from(shared.sipi_page()) << 8, ip: 0 });
    }
    None
}

/// Waits in guest mode, where an NMI always reaches the core, for a request.
fn park_until_request<B: Backend>(core: &CoreShared, parking: &mut B) {
    parking.load();
    loop {
        // Before the look at the requests, as in the run loop.
        parking.clear_immediate_exit();
        if core.kick.pending() {
            break;
        }
        if parking.run() == Exit::Event && parking.event().exit == EventExit::Nmi {
            core.nmis.exits.fetch_add(1, Ordering::Relaxed);
            if cfg!(debug_assertions) {
                crate::debug_hooks::nmi_exit(arch::cpu::core_index());
            }
            // A real NMI with no guest to take it is dropped: nobody waits for it.
            let _ = core.kick.on_nmi();
        }
    }
    parking.unload();
}

/// The code that a parked core runs: `cli; hlt; jmp` back.
pub const PARKING_CODE: [u8; 4] = [0xFA, 0xF4, 0xEB, 0xFC];

/// A backend vCPU that runs the parking code in an address space of one page.
///
/// # Errors
/// What the backend lacks.
pub fn parking<B: Backend>(space: &Stage2) -> Result<B, Unusable> {
    let mut parking = B::new(&VcpuConfig {
        stage2: space,
        msr_access: |_| MsrAccess::default(),
        tag: 1,
        cr4_allowed: 0,
        code: &NoCode,
    })?;
    parking.load();
    parking.reset(StartState::RealMode { cs: 0, ip: 0 });
    parking.unload();
    Ok(parking)
}
