//! Memory that is not RAM: the virtual IOAPIC, the xAPIC page, PCI, and addresses that nobody answers
//! (they read as ones and ignore writes, like ports).
//!
//! The instruction is fetched from guest memory and decoded; the budget of the whole exit is 500
//! instructions (guest RAM stays mapped, the walk is four reads).

use super::fault;
use crate::interrupt::xapic;
use crate::stats::ExitKind;
use crate::sync::Ordering;
use crate::vcpu::Vcpu;
use crate::vm::walk::fetch;
use arch::pci::Width as PciWidth;
use arch::virt::{Backend, ReadCode, Reg, SecondStageFault};
use arch_defs::apic::ApicMode;
use arch_defs::insn::{
    CodeSize, MmioInsn, MmioOp, Reg as InsnReg, Source, Width, decode, extend, merge_register,
    read_register,
};
use guest_loader::layout;

const PAGE: u64 = 4096;
const RFLAGS_DF: u64 = 1 << 10;
const RSP: u8 = 4;

/// Who answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    IoApic,
    Lapic,
    /// PCI configuration space.
    Ecam,
    /// The window of PCI functions' memory.
    Pci,
    Nobody,
}

impl Region {
    fn of<B: Backend>(vcpu: &Vcpu<B>, gpa: u64) -> Self {
        if gpa & !(PAGE - 1) == layout::IOAPIC {
            Self::IoApic
        } else if gpa & !(PAGE - 1) == layout::LAPIC && vcpu.apic.mode == ApicMode::Xapic {
            Self::Lapic
        } else if (layout::PCI_WINDOW_START..layout::PCI_WINDOW_END).contains(&gpa) {
            Self::Pci
        } else if (layout::PCI_ECAM..layout::PCI_ECAM + layout::PCI_ECAM_SIZE).contains(&gpa) {
            Self::Ecam
        } else {
            Self::Nobody
        }
    }
}

/// A second-stage fault; `in_delivery` if it was the delivery of an event that faulted, not an
/// instruction.
#[inline(never)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>, fault: SecondStageFault, in_delivery: bool) {
    vcpu.shared.stats.count(ExitKind::Mmio);
    if cfg!(debug_assertions) && vcpu.vm.config.debug_hooks && vcpu.vm.stage2.unhide(fault.gpa) {
        // A debug hook had taken the page away; the access, or the delivery, is made again.
        vcpu.backend.flush_stage2();
        return;
    }
    if in_delivery {
        fault::memory(vcpu, fault, "an event could not be delivered through it");
        return;
    }
    if fault.fetch || fault.page_walk {
        fault::memory(vcpu, fault, "nothing can be executed or walked there");
        return;
    }
    let state = vcpu.backend.fetch_state();
    let size = match (state.long, state.default_32) {
        (true, _) => CodeSize::Bits64,
        (_, true) => CodeSize::Bits32,
        _ => CodeSize::Bits16,
    };
    let mut bytes = [0; 15];
    let mut got = fetch(&vcpu.vm.ram.near(), &state.control.into(), state.linear_rip, &mut bytes);
    if got < bytes.len() {
        got = fetch_anywhere(vcpu, &mut bytes);
    }
    match bytes.get(..got).map(|bytes| decode(bytes, size)) {
        Some(Ok(insn)) => {
            if emulate(vcpu, fault, &insn) {
                vcpu.backend.advance(insn.len.into());
            }
        }
        _ => fault::memory(vcpu, fault, "its instruction is not one that can be emulated"),
    }
}

/// The fetch again, over all of the VM's RAM. The state is read anew, so that the short way need
/// not keep it in memory.
#[cold]
fn fetch_anywhere<B: Backend>(vcpu: &Vcpu<B>, bytes: &mut [u8; 15]) -> usize {
    vcpu.vm.read_code(&vcpu.backend.fetch_state(), bytes)
}

fn register<B: Backend>(vcpu: &mut Vcpu<B>, reg: InsnReg, width: Width) -> u64 {
    read_register(vcpu.backend.regs().get(Reg(reg.index)), reg, width)
}

fn set_register<B: Backend>(vcpu: &mut Vcpu<B>, reg: InsnReg, value: u64, width: Width) {
    let regs = vcpu.backend.regs();
    let full = regs.get(Reg(reg.index));
    let merged = merge_register(full, value, reg, width);
    regs.set(Reg(reg.index), merged);
    if reg.index == RSP {
        vcpu.backend.set_rsp(merged);
    }
}

fn source<B: Backend>(vcpu: &mut Vcpu<B>, source: Source, width: Width) -> u64 {
    match source {
        Source::Reg(reg) => register(vcpu, reg, width),
        Source::Imm(value) => value & width.mask(),
    }
}

fn set_flags<B: Backend>(vcpu: &mut Vcpu<B>, flags: arch_defs::insn::Flags) {
    let rflags = flags.apply(vcpu.backend.rflags());
    vcpu.backend.set_rflags(rflags);
}

/// Carries the instruction out; false if it does not end here (a repeated one, or a refusal).
fn emulate<B: Backend>(vcpu: &mut Vcpu<B>, fault: SecondStageFault, insn: &MmioInsn) -> bool {
    let (gpa, width) = (fault.gpa, insn.width);
    match insn.op {
        MmioOp::Load { reg, into, sign } => {
            let value = extend(load(vcpu, gpa, width), width, sign);
            set_register(vcpu, reg, value, into);
        }
        MmioOp::Store { source: from } => {
            let value = source(vcpu, from, width);
            store(vcpu, gpa, width, value);
        }
        MmioOp::Modify { alu, source: from } => {
            let right = source(vcpu, from, width);
            let (value, flags) = alu.compute(load(vcpu, gpa, width), right, width);
            store(vcpu, gpa, width, value);
            set_flags(vcpu, flags);
        }
        MmioOp::Combine { alu, reg } => {
            let left = register(vcpu, reg, width);
            let (value, flags) = alu.compute(left, load(vcpu, gpa, width), width);
            set_register(vcpu, reg, value, width);
            set_flags(vcpu, flags);
        }
        MmioOp::Compare { alu, source: from } => {
            let right = source(vcpu, from, width);
            let (_, flags) = alu.compute(load(vcpu, gpa, width), right, width);
            set_flags(vcpu, flags);
        }
        MmioOp::CompareWith { reg } => {
            let left = register(vcpu, reg, width);
            let right = load(vcpu, gpa, width);
            let (_, flags) = arch_defs::insn::Alu::Sub.compute(left, right, width);
            set_flags(vcpu, flags);
        }
        MmioOp::Exchange { reg } => {
            let new = register(vcpu, reg, width);
            let old = load(vcpu, gpa, width);
            store(vcpu, gpa, width, new);
            set_register(vcpu, reg, old, width);
        }
        MmioOp::BitTest { bit } => {
            let value = load(vcpu, gpa, width);
            set_flags(vcpu, arch_defs::insn::Flags::of_bit(value, bit));
        }
        MmioOp::StoreString { repeat, address } => {
            return store_string(vcpu, gpa, width, repeat, address);
        }
        MmioOp::MoveString { .. } => {
            fault::memory(vcpu, fault, "MOVS on device memory is not emulated");
            return false;
        }
    }
    true
}

/// One step of STOS; a repeated one stays on its instruction until the count is used up.
fn store_string<B: Backend>(
    vcpu: &mut Vcpu<B>,
    gpa: u64,
    width: Width,
    repeat: bool,
    address: Width,
) -> bool {
    let value = vcpu.backend.regs().rax & width.mask();
    store(vcpu, gpa, width, value);
    let down = vcpu.backend.rflags() & RFLAGS_DF != 0;
    let step = u64::from(width.bytes());
    let plain = |index| InsnReg { index, high: false };
    let regs = vcpu.backend.regs();
    let moved = if down { regs.rdi.wrapping_sub(step) } else { regs.rdi.wrapping_add(step) };
    regs.rdi = merge_register(regs.rdi, moved, plain(7), address);
    if !repeat {
        return true;
    }
    let left = (regs.rcx & address.mask()).wrapping_sub(1);
    regs.rcx = merge_register(regs.rcx, left, plain(1), address);
    left & address.mask() == 0
}

fn load<B: Backend>(vcpu: &mut Vcpu<B>, gpa: u64, width: Width) -> u64 {
    let offset = (gpa & (PAGE - 1)) as u16;
    match Region::of(vcpu, gpa) {
        Region::IoApic => vcpu.vm.devices.ioapic_read(offset).into(),
        // Registers are 32 bits wide and 16 bytes apart; other accesses are undefined.
        Region::Lapic if width == Width::Double => xapic::read(vcpu, offset).into(),
        Region::Lapic => 0,
        Region::Ecam => vcpu.vm.devices.ecam_read(gpa - layout::PCI_ECAM, pci_width(width)),
        Region::Pci => {
            let found = vcpu.vm.devices.pci_read(gpa, pci_width(width));
            found.unwrap_or_else(|| unclaimed_read(vcpu, width))
        }
        Region::Nobody => unclaimed_read(vcpu, width),
    }
}

fn store<B: Backend>(vcpu: &mut Vcpu<B>, gpa: u64, width: Width, value: u64) {
    let offset = (gpa & (PAGE - 1)) as u16;
    match Region::of(vcpu, gpa) {
        Region::IoApic => vcpu.vm.devices.ioapic_write(vcpu.vm, offset, value as u32),
        Region::Lapic if width == Width::Double => xapic::write(vcpu, offset, value as u32),
        Region::Lapic => {}
        Region::Ecam => {
            let offset = gpa - layout::PCI_ECAM;
            vcpu.vm.devices.ecam_write(vcpu.vm, offset, pci_width(width), value);
        }
        Region::Pci => {
            if vcpu.vm.devices.pci_write(vcpu.vm, gpa, pci_width(width), value).is_none() {
                unclaimed(vcpu);
            }
        }
        Region::Nobody => unclaimed(vcpu),
    }
}

const fn pci_width(width: Width) -> PciWidth {
    match width {
        Width::Byte => PciWidth::Byte,
        Width::Word => PciWidth::Word,
        Width::Double => PciWidth::Dword,
        Width::Quad => PciWidth::Qword,
    }
}

fn unclaimed_read<B: Backend>(vcpu: &Vcpu<B>, width: Width) -> u64 {
    unclaimed(vcpu);
    width.mask()
}

fn unclaimed<B: Backend>(vcpu: &Vcpu<B>) {
    vcpu.vm.unclaimed.fetch_add(1, Ordering::Relaxed);
}
