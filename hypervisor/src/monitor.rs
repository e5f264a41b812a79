//! The monitor: questions to the housekeeping core from the console, behind an escape byte.
//!
//! Ctrl-A, then: `h` help, `s` exit counters of all vCPUs, `v` VMs, `n` input to the next VM,
//! `k` kick every vCPU (do they answer?), Ctrl-A itself is passed on. All answers come from the
//! shared halves; a guest core is asked for nothing but an answer to its kick (an exit-less guest
//! would let any other question hang). Called by the housekeeping loop for each received byte.

use crate::console::line;
use crate::interrupt::kick::Requests;
use crate::interrupt::post::request;
use crate::stats::Span;
use crate::vm::{self, Lifecycle};

const ESCAPE: u8 = 1;

/// What to do with a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is the guest's.
    Guest(u8),
    /// It began or ended a command; nothing to pass on.
    Taken,
    /// A command.
    Command(u8),
}

/// The monitor's state: whether the escape byte was seen, and whose the console input is.
#[derive(Debug, Default)]
pub struct Monitor {
    escaped: bool,
    /// Index of the VM that gets console input.
    pub input: usize,
}

impl Monitor {
    /// Sorts a byte.
    pub fn sort(&mut self, byte: u8) -> Input {
        match (core::mem::take(&mut self.escaped), byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Input::Taken
            }
            (false, byte) => Input::Guest(byte),
            (true, ESCAPE) => Input::Guest(ESCAPE),
            (true, command) => Input::Command(command),
        }
    }

    /// Carries a command out.
    pub fn command(&mut self, command: u8) {
        match command {
            b's' => counters(),
            b'v' => list(self.input),
            b'n' => {
                let count = vm::all().len().max(1);
                self.input = (self.input + 1) % count;
                list(self.input);
            }
            b'k' => kick_all(),
            _ => line(format_args!(
                "[beeline] Ctrl-A then: s exit counters, v VMs, n input to the next VM, k kick every \
                 vCPU, Ctrl-A passes itself on"
            )),
        }
    }
}

fn counters() {
    let now = arch::cpu::rdtsc();
    for vm in vm::all() {
        for vcpu in &vm.vcpus {
            let span = Span { from: vcpu.stats.origin(), to: vcpu.stats.snapshot(now) };
            line(format_args!("BEELINE stats vm={} vcpu={} {span}", vm.config.name, vcpu.id));
        }
    }
}

fn list(input: usize) {
    for vm in vm::all() {
        let state = if vm.is_up() { "running" } else { "off" };
        let mark = if vm.index == input { ", has the console input" } else { "" };
        line(format_args!("[beeline] vm {}: {state}{mark}", vm.config.name));
        for vcpu in &vm.vcpus {
            let what = match vcpu.lifecycle() {
                Lifecycle::Off => "off",
                Lifecycle::WaitForSipi => "waits for SIPI",
                Lifecycle::Running => "runs",
            };
            line(format_args!("[beeline]   vCPU {} on core {}: {what}", vcpu.id, vcpu.core));
        }
    }
}

/// Every core must take its kick and its requests within a moment, whatever its guest does.
fn kick_all() {
    const PATIENCE: u64 = 1 << 28;
    for vcpu in vm::all().iter().flat_map(|vm| &vm.vcpus) {
        let kick = &crate::cores::core(vcpu.core).kick;
        let begin = arch::cpu::rdtsc();
        request(vcpu, Requests::PING);
        while kick.pending() && arch::cpu::rdtsc().wrapping_sub(begin) < PATIENCE {
            arch::cpu::pause();
        }
        let took = arch::cpu::rdtsc().wrapping_sub(begin);
        let answer = if kick.pending() { "does not answer" } else { "answers" };
        line(format_args!(
            "[beeline] vCPU {} on core {}: {answer} after {took} ticks",
            vcpu.id, vcpu.core
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_escaped_bytes_are_commands() {
        let mut monitor = Monitor::default();
        assert_eq!(monitor.sort(b's'), Input::Guest(b's'));
        assert_eq!(monitor.sort(ESCAPE), Input::Taken);
        assert_eq!(monitor.sort(b's'), Input::Command(b's'));
        assert_eq!(monitor.sort(b's'), Input::Guest(b's'));
        assert_eq!(monitor.sort(ESCAPE), Input::Taken);
        assert_eq!(monitor.sort(ESCAPE), Input::Guest(ESCAPE));
        assert_eq!(monitor.sort(b'x'), Input::Guest(b'x'));
    }
}
