//! What waits to enter a vCPU: its own NMIs, told apart from kicks, and deliveries that an exit cut
//! short (requirement D2, D4, D8).

use super::Vcpu;
use crate::cores;
use crate::interrupt::kick::{NmiOrigin, Requests};
use crate::stats::ExitKind;
use crate::sync::Ordering;
use arch::virt::{Backend, Event};

impl<B: Backend> Vcpu<B> {
    /// An NMI ended the guest's turn: a kick of ours, or the guest's own.
    pub(super) fn nmi_exit(&mut self) {
        self.shared.stats.count(ExitKind::Nmi);
        self.core.nmis.exits.fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) {
            crate::debug_hooks::nmi_exit(self.shared.core);
        }
        match self.core.kick.on_nmi() {
            NmiOrigin::Real => {
                self.core.nmis.real.fetch_add(1, Ordering::Relaxed);
                self.nmi_pending = true;
            }
            // One latch holds a kick and a real NMI that came together: ask the machine too.
            NmiOrigin::Kick => self.nmi_pending |= arch::machine::nmi_source_pending(),
        }
        self.attention |= self.nmi_pending;
    }

    pub(super) fn nmi_window(&mut self) {
        self.shared.stats.count(ExitKind::NmiWindow);
        let _ = self.backend.set_nmi_window(false);
        self.attention = true;
    }

    pub(super) fn interrupt_window(&mut self) {
        self.shared.stats.count(ExitKind::InterruptWindow);
        self.backend.set_interrupt_window(false);
        self.attention = true;
    }

    /// Keeps a delivery that an exit cut short.
    #[cold]
    pub(super) fn keep(&mut self, event: Event) {
        match event {
            Event::Nmi => self.nmi_pending = true,
            // Two deliveries cannot be cut short at once: the second one needs an entry between.
            _ => self.deferred = Some(event),
        }
        self.attention = true;
    }

    /// Puts what waits into the guest, if the guest can take it now.
    #[cold]
    pub(super) fn attend(&mut self) {
        // What has to wait is looked at again when its window opens.
        self.attention = false;
        if let Some(event) = self.deferred.take() {
            match (self.backend.injecting(), event) {
                // The guest ran in between, in the handler of the exception that went first, and
                // has retired the interrupt there: it has had its due.
                (_, Event::External { vector }) if !arch::apic::in_service(vector) => {}
                (None, Event::External { .. }) if !self.backend.interrupt_open() => {
                    self.deferred = Some(event);
                    self.backend.set_interrupt_window(true);
                }
                (None, _) => {
                    if matches!(event, Event::External { .. }) {
                        self.shared.stats.redelivered.fetch_add(1, Ordering::Relaxed);
                    }
                    self.backend.inject(event);
                }
                // An exception of this exit goes first. An interrupt must not be dropped (its ISR
                // bit is set); an exception or INT n comes again by itself, since its instruction
                // has not completed.
                (Some(_), Event::External { .. }) => {
                    self.deferred = Some(event);
                    self.backend.set_interrupt_window(true);
                }
                (Some(_), _) => {}
            }
        }
        if self.nmi_pending {
            if self.backend.injecting().is_none() && self.backend.nmi_open() {
                self.nmi_pending = false;
                self.backend.inject(Event::Nmi);
            } else if !self.backend.set_nmi_window(true) {
                // An NMI may come late, but not for ever: the housekeeping core's kick makes this core
                // look again.
                self.core.ask_to_look_again();
            }
        }
    }
}

/// The host's NMI handler (requirement D2): an NMI that arrives in root mode must end the next
/// entry at once, or its request would wait for the guest's next exit.
pub fn nmi_in_root<B: Backend>() {
    let core = cores::this();
    core.nmis.in_root.fetch_add(1, Ordering::Relaxed);
    match core.kick.on_nmi() {
        NmiOrigin::Kick => {
            if arch::machine::nmi_source_pending() {
                core.kick.leave(Requests::NMI);
            }
        }
        NmiOrigin::Real => {
            core.nmis.real.fetch_add(1, Ordering::Relaxed);
            core.kick.leave(Requests::NMI);
        }
    }
    if cfg!(debug_assertions) {
        crate::debug_hooks::nmi_in_root(arch::cpu::core_index());
    }
    B::request_immediate_exit();
}
