//! The audit before every entry, in debug builds: what direct delivery rests on (requirements
//! A2, E3, H1, S6) is read back from the hardware's own structures.
//!
//! The rules are pure functions, so that tests on the host can break each of them. In the image a
//! broken one is a bug of ours, not a guest's doing: it panics.

use crate::vcpu::Vcpu;
use arch::cpu::CR4_MCE;
use arch::virt::{Backend, EntryControls, Event};
use core::fmt;

/// What an I/O APIC pin's new target is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinPurpose {
    /// An interrupt of the hypervisor's own.
    Host,
    /// A passed-through device's, for the guest whose vCPU runs on the core.
    Guest,
}

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// A2: external interrupts exit, or NMIs do not.
    Controls(EntryControls),
    /// E3: an interrupt would be injected that the LAPIC has not accepted.
    Injection { vector: u8 },
    /// S6: a machine check would shut the core down.
    MachineCheck { cr4: u64 },
    /// H1: a pin's target is not a core for that purpose.
    Pin { purpose: PinPurpose, core: usize },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controls(controls) => {
                write!(f, "A2: entry controls of a direct-mode vCPU are {controls:?}")
            }
            Self::Injection { vector } => {
                write!(f, "E3: vector {vector} is injected without its ISR bit")
            }
            Self::MachineCheck { cr4 } => write!(f, "S6: hardware CR4 is {cr4:#x}, MCE is off"),
            Self::Pin { purpose, core } => {
                write!(f, "H1: a pin for {purpose:?} is routed to core {core}")
            }
        }
    }
}

#[expect(clippy::panic, reason = "a broken invariant of ours")]
fn enforce(judged: Result<(), Broken>) {
    if let Err(broken) = judged {
        panic!("audit {broken}");
    }
}

/// H1: no interrupt of the hypervisor's own may target a core that runs a direct-mode guest. ICR
/// writes need no such check here: `interrupt::post` sends guests' vectors to their own vCPUs,
/// `housekeeping::wake` sends to core 0, and nothing else has a door to ICR but for NMIs.
pub fn pin_route(core: usize, purpose: PinPurpose) {
    let guest_cores = crate::vm::all().iter().flat_map(|vm| &vm.vcpus).map(|vcpu| vcpu.core);
    enforce(judge_pin(core, purpose, guest_cores));
}

fn judge_pin(
    core: usize,
    purpose: PinPurpose,
    mut guest_cores: impl Iterator<Item = usize>,
) -> Result<(), Broken> {
    if guest_cores.any(|guest| guest == core) == (purpose == PinPurpose::Guest) {
        Ok(())
    } else {
        Err(Broken::Pin { purpose, core })
    }
}

/// Panics if the entry would break the rules.
pub fn before_entry<B: Backend>(vcpu: &Vcpu<B>) {
    let backend = &vcpu.backend;
    enforce(judge_entry(
        backend.entry_controls(),
        backend.cr4(),
        backend.injecting(),
        arch::apic::in_service,
    ));
}

/// `cr4` is the hardware's.
fn judge_entry(
    controls: EntryControls,
    cr4: u64,
    injecting: Option<Event>,
    in_service: impl FnOnce(u8) -> bool,
) -> Result<(), Broken> {
    if controls.external_interrupts || !controls.nmis {
        return Err(Broken::Controls(controls));
    }
    // With MCE off a machine check is no exception but a shutdown of the core (SDM volume 3,
    // section 2.5), whatever the guest wrote.
    if cr4 & CR4_MCE == 0 {
        return Err(Broken::MachineCheck { cr4 });
    }
    // An external interrupt is injected only to complete a delivery that an exit cut short; the
    // LAPIC has accepted that one already.
    match injecting {
        Some(Event::External { vector }) if !in_service(vector) => {
            Err(Broken::Injection { vector })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: EntryControls =
        EntryControls { external_interrupts: false, nmis: true, halt: false };
    const CR4: u64 = CR4_MCE | 1 << 5;

    fn entry(controls: EntryControls, cr4: u64, injecting: Option<Event>) -> Result<(), Broken> {
        judge_entry(controls, cr4, injecting, |vector| vector == 0x31)
    }

    #[test]
    fn r_a2_the_audit_refuses_wrong_controls() {
        assert_eq!(entry(DIRECT, CR4, None), Ok(()));
        assert_eq!(entry(EntryControls { halt: true, ..DIRECT }, CR4, None), Ok(()));
        for wrong in [
            EntryControls { external_interrupts: true, ..DIRECT },
            EntryControls { nmis: false, ..DIRECT },
        ] {
            assert_eq!(entry(wrong, CR4, None), Err(Broken::Controls(wrong)));
        }
    }

    #[test]
    fn r_s6_the_audit_refuses_cr4_without_mce() {
        assert_eq!(entry(DIRECT, CR4_MCE, None), Ok(()));
        let cr4 = !CR4_MCE;
        assert_eq!(entry(DIRECT, cr4, None), Err(Broken::MachineCheck { cr4 }));
    }

    #[test]
    fn r_e3_the_audit_refuses_an_interrupt_out_of_nowhere() {
        for fine in [Event::External { vector: 0x31 }, Event::Nmi, Event::GENERAL_PROTECTION] {
            assert_eq!(entry(DIRECT, CR4, Some(fine)), Ok(()));
        }
        let invented = Event::External { vector: 0x32 };
        assert_eq!(entry(DIRECT, CR4, Some(invented)), Err(Broken::Injection { vector: 0x32 }));
    }

    #[test]
    fn r_h1_the_audit_refuses_a_pin_of_the_host_on_a_guest_core() {
        let judge = |core, purpose| judge_pin(core, purpose, [2, 3].into_iter());
        assert_eq!(judge(0, PinPurpose::Host), Ok(()));
        assert_eq!(judge(3, PinPurpose::Guest), Ok(()));
        for (core, purpose) in [(3, PinPurpose::Host), (0, PinPurpose::Guest)] {
            assert_eq!(judge(core, purpose), Err(Broken::Pin { purpose, core }));
        }
    }

    #[test]
    #[should_panic(expected = "audit S6: hardware CR4 is 0x20, MCE is off")]
    fn r_s6_a_broken_rule_panics() {
        enforce(entry(DIRECT, 0x20, None));
    }
}
