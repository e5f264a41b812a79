//! The measured window: a guest opens and closes it by writes to a port, and what its vCPUs did in between is printed
//! (docs/src/guest-interface.md).
//!
//! The vCPU that writes only takes readings. The housekeeping core makes text of them, since the threads being measured may
//! still run: formatting in the guest's exit would show as a latency of tens of microseconds.
//! Locks: the window's own, a leaf.

use super::Vm;
use crate::stats::{ExitKind, Snapshot, Span};
use crate::sync::{AtomicBool, Mutex, Ordering};
use alloc::vec::Vec;
use arch::cpu::rdtsc;

/// Closed windows of a VM that can wait for the housekeeping core; later ones are dropped and counted.
const WAITING: usize = 4;

/// A VM's windows.
pub struct Window {
    state: Mutex<State>,
    waiting: AtomicBool,
}

struct State {
    /// One reading per vCPU, empty while no window is open.
    opened: Vec<Snapshot>,
    /// vCPU and what it did, for the housekeeping core.
    closed: Vec<(u32, Span)>,
    dropped: u32,
}

impl Window {
    /// For a VM of `vcpus` vCPUs. All memory is allocated here.
    pub fn new(vcpus: usize) -> Self {
        let state = State {
            opened: Vec::with_capacity(vcpus),
            closed: Vec::with_capacity(vcpus * WAITING),
            dropped: 0,
        };
        Self { state: Mutex::new(state), waiting: AtomicBool::new(false) }
    }

    /// True if [`print`] has something to say.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }
}

/// Opens a window; one that is open already begins anew.
pub fn open(vm: &Vm) {
    let now = rdtsc();
    let mut state = vm.window.state.lock();
    state.opened.clear();
    state.opened.extend(vm.vcpus.iter().map(|vcpu| vcpu.stats.snapshot(now)));
}

/// Closes the window by vCPU `closing`, whose write for it is not counted.
pub fn close(vm: &Vm, closing: u32) {
    let now = rdtsc();
    let mut state = vm.window.state.lock();
    let State { opened, closed, dropped } = &mut *state;
    if opened.is_empty() {
        return;
    }
    if closed.len() + opened.len() > closed.capacity() {
        *dropped += 1;
        opened.clear();
        return;
    }
    for (vcpu, from) in vm.vcpus.iter().zip(opened.drain(..)) {
        let mut to = vcpu.stats.snapshot(now);
        if vcpu.id == closing {
            let io = &mut to.exits[ExitKind::Io as usize];
            *io = io.saturating_sub(1);
        }
        closed.push((vcpu.id, Span { from, to }));
    }
    drop(state);
    vm.window.waiting.store(true, Ordering::Release);
    crate::housekeeping::wake();
}

/// Prints what waits (housekeeping core).
pub fn print(vm: &Vm) {
    if !vm.window.waiting.swap(false, Ordering::AcqRel) {
        return;
    }
    // A vCPU may be waiting for the lock: no text is made under it.
    let fresh = Vec::with_capacity(vm.vcpus.len() * WAITING);
    let (closed, dropped) = {
        let mut state = vm.window.state.lock();
        (core::mem::replace(&mut state.closed, fresh), core::mem::take(&mut state.dropped))
    };
    if !crate::rate_limit::WINDOW.allow() {
        let windows = (closed.len() / vm.vcpus.len().max(1)) as u32;
        vm.window.state.lock().dropped += dropped + windows;
        return;
    }
    let name = &vm.config.name;
    for (vcpu, span) in closed {
        crate::console::line(format_args!("BEELINE window vm={name} vcpu={vcpu} {span}"));
    }
    if dropped > 0 {
        log::warn!("vm {name}: {dropped} measured windows came too fast to be printed");
    }
}
