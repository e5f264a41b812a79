//! Port I/O: the ports of the guest interface, and the default for all others: read as ones,
//! ignored writes, counted.

use super::fault;
use crate::stats::ExitKind;
use crate::sync::Ordering;
use crate::vcpu::Vcpu;
use crate::vm::walk::{PagingState, ReadPhys, translate};
use crate::vm::window;
use arch::virt::Backend;

const WINDOW_PORT: u16 = 0x0BE0;
const RFLAGS_DF: u64 = 1 << 10;

/// IN, OUT, INS or OUTS.
#[inline(never)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::Io);
    let access = vcpu.backend.io_access();
    if access.string.is_some() {
        string_io(vcpu);
        return;
    }
    let mask = mask(access.size);
    if access.is_in {
        let value = read(vcpu, access.port, access.size);
        let regs = vcpu.backend.regs();
        // A 32-bit IN clears the upper half of RAX, narrower ones keep the rest.
        let keep = if access.size == 4 { 0 } else { regs.rax & !mask };
        regs.rax = keep | value & mask;
    } else {
        let value = vcpu.backend.regs().rax & mask;
        write(vcpu, access.port, access.size, value as u32);
    }
    // A write may have stopped the VM, whose vCPU then has no next instruction; skipping it is
    // harmless, since a restart sets RIP.
    vcpu.backend.skip_instruction();
}

const fn mask(size: u8) -> u64 {
    match size {
        1 => 0xFF,
        2 => 0xFFFF,
        _ => 0xFFFF_FFFF,
    }
}

fn read<B: Backend>(vcpu: &mut Vcpu<B>, port: u16, size: u8) -> u64 {
    match vcpu.vm.devices.port_read(vcpu.vm, port, size) {
        Some(value) => value.into(),
        None => {
            vcpu.vm.unclaimed.fetch_add(1, Ordering::Relaxed);
            u64::MAX
        }
    }
}

fn write<B: Backend>(vcpu: &mut Vcpu<B>, port: u16, size: u8, value: u32) {
    if port == WINDOW_PORT {
        match value & 0xFF {
            1 => window::open(vcpu.vm),
            0 => window::close(vcpu.vm, vcpu.shared.id),
            _ => {}
        }
        return;
    }
    match vcpu.vm.devices.port_write(vcpu.vm, port, size, value) {
        Some(crate::device::Effect::Nothing) => {}
        Some(crate::device::Effect::Stop(why)) => vcpu.stop_vm(why),
        None => {
            vcpu.vm.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// INS and OUTS, one element per exit: a repeated one stays on its instruction until RCX is used
/// up, so that interrupts and kicks come between.
#[cold]
fn string_io<B: Backend>(vcpu: &mut Vcpu<B>) {
    // Read anew, so that plain accesses need not keep theirs in memory.
    let access = vcpu.backend.io_access();
    let Some(string) = access.string else { return };
    if vcpu.backend.cpl() != 0 {
        // The walk below does not check user rights: INS must not write a kernel's pages for a
        // program that was given ports.
        vcpu.backend.inject(arch::virt::Event::GENERAL_PROTECTION);
        return;
    }
    let address_mask = match string.address_size {
        2 => 0xFFFF,
        4 => 0xFFFF_FFFF,
        _ => u64::MAX,
    };
    let count = if string.rep { vcpu.backend.regs().rcx & address_mask } else { 1 };
    if count == 0 {
        vcpu.backend.skip_instruction();
        return;
    }
    let paging = PagingState::from(vcpu.backend.control_registers());
    // Byte by byte: an element may lie across two pages whose frames are not neighbours.
    let mut frames = [0_u64; 4];
    for (linear, gpa) in (string.linear..).zip(frames.iter_mut().take(usize::from(access.size))) {
        match translate(&vcpu.vm.ram, &paging, linear) {
            Ok(found) => *gpa = found,
            Err(_) => return page_fault(vcpu, linear, access.is_in),
        }
    }
    let frames = frames.get(..usize::from(access.size)).unwrap_or_default();
    let mut bytes = [0; 4];
    let done = if access.is_in {
        bytes = (read(vcpu, access.port, access.size) as u32).to_le_bytes();
        frames.iter().zip(bytes).all(|(&gpa, byte)| vcpu.vm.ram.write_bytes(gpa, &[byte]))
    } else {
        let ram = &vcpu.vm.ram;
        let got = frames
            .iter()
            .zip(&mut bytes)
            .all(|(&gpa, byte)| ReadPhys::read_bytes(ram, gpa, core::slice::from_mut(byte)));
        if got {
            write(vcpu, access.port, access.size, u32::from_le_bytes(bytes));
        }
        got
    };
    if !done {
        fault::string_io(vcpu, string.linear);
        return;
    }
    let down = vcpu.backend.rflags() & RFLAGS_DF != 0;
    let step = u64::from(access.size);
    let regs = vcpu.backend.regs();
    let index = if access.is_in { &mut regs.rdi } else { &mut regs.rsi };
    let moved = if down { index.wrapping_sub(step) } else { index.wrapping_add(step) };
    *index = *index & !address_mask | moved & address_mask;
    if string.rep {
        regs.rcx = regs.rcx & !address_mask | (count - 1) & address_mask;
    }
    if count == 1 {
        vcpu.backend.skip_instruction();
    }
}

/// The memory operand of the kernel's INS or OUTS is not mapped: its own page fault.
fn page_fault<B: Backend>(vcpu: &mut Vcpu<B>, linear: u64, write: bool) {
    const WRITE: u32 = 1 << 1;
    const PAGE_FAULT: u8 = 14;
    vcpu.backend.set_cr2(linear);
    let error_code = Some(if write { WRITE } else { 0 });
    vcpu.backend.inject(arch::virt::Event::Exception { vector: PAGE_FAULT, error_code });
}
