//! Building a VMCB and putting a vCPU into a start state. APM volume 2, sections 14.1.3, 15.5.1 and appendix B.

#![expect(unsafe_code, reason = "writes MSRs")]

use super::entry::EntryFrame;
use super::{CR0_SHADOWED, NmiState, SvmVcpu, capability};
use crate::virt::{GuestRegs, MsrAccess, StartState, Unusable, VcpuConfig};
use crate::{cpu, heap};
use arch_defs::svm::Segment;
use arch_defs::svm::intercept::{First, Second, msr_bit};
use arch_defs::svm::vmcb::InterruptControl;

/// CR0 after INIT (APM volume 2, table 14-1).
const CR0_AFTER_INIT: u64 = 0x6000_0010;
const CR0_ET: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;
const DR6_AFTER_INIT: u64 = 0xFFFF_0FF0;
const DR7_AFTER_INIT: u64 = 0x400;
const RFLAGS_FIXED: u64 = 1 << 1;
const TSC_AUX: u32 = 0xC000_0103;
const NESTED_PAGING: u64 = 1;

/// #DB, #AC and #MC: a guest that loops in their delivery must not hold its core (requirement S6, CVE-2015-5307,
/// CVE-2015-8104).
const INTERCEPTED_EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// Everything but external interrupts and HLT, which are the guest's own in direct mode.
const FIRST: First = First::NMI
    .union(First::INIT)
    .union(First::CR0_SELECTIVE)
    .union(First::RDPMC)
    .union(First::CPUID)
    .union(First::INVD)
    .union(First::INVLPGA)
    .union(First::IOIO)
    .union(First::MSR)
    .union(First::SHUTDOWN);

/// Attributes: type, S, DPL, P in the low byte, then AVL, L, D, G.
mod attributes {
    pub const DATA_16: u16 = 0x093;
    pub const CODE_16: u16 = 0x09B;
    pub const DATA_32: u16 = 0xC93;
    pub const CODE_32: u16 = 0xC9B;
    pub const CODE_64: u16 = 0xA9B;
    pub const LDT: u16 = 0x082;
    pub const TSS_BUSY: u16 = 0x08B;
}

/// All ports exit: 64 Ki bits and three behind them, in a block of the next size.
const IOPM_SIZE: u64 = 16 * 1024;
const MSRPM_SIZE: u64 = 8 * 1024;
/// Registers of the x2APIC.
pub const X2APIC: core::ops::Range<u32> = 0x800..0x900;
/// Nothing passes.
pub const NO_MSR: fn(u32) -> MsrAccess = |_| MsrAccess { read: false, write: false };

/// Builds a vCPU.
pub fn new(config: &VcpuConfig<'_>) -> Result<SvmVcpu, Unusable> {
    let no_memory = Unusable {
        missing: "no memory for a VMCB",
        hint: "give the machine more memory or the VMs less",
        bits: 0,
    };
    let vmcb = heap::frame().ok_or(no_memory)?;
    let msrpm = heap::block(MSRPM_SIZE).ok_or(no_memory)?;
    let iopm = heap::block(IOPM_SIZE).ok_or(no_memory)?;
    iopm.fill(0xFF);
    msrpm.fill(0xFF);
    for msrs in [0..0x2000, 0xC000_0000..0xC000_2000, 0xC001_0000..0xC001_2000] {
        fill_msrs(&msrpm, msrs, config.msr_access);
    }
    let features = capability::features();
    let mut vcpu = SvmVcpu {
        frame: EntryFrame { regs: GuestRegs::default(), vmcb: vmcb.address(), host_vmcb: 0 },
        vmcb,
        msrpm,
        msr_access: config.msr_access,
        code: config.code,
        features,
        cr4_allowed: config.cr4_allowed,
        cr0_shadow: 0,
        cr4_shadow: 0,
        nmi: NmiState::Open,
    };
    let msrpm_base = vcpu.msrpm.address();
    let control = &mut vcpu.vmcb_mut().control;
    control.intercept_exceptions = INTERCEPTED_EXCEPTIONS;
    // Instructions that this guest's CPUID does not offer get #UD.
    control.intercept_second = Second::all().bits();
    control.iopm_base = iopm.address();
    control.msrpm_base = msrpm_base;
    // Requirement C5: no offset, or a deadline that the guest arms would fire at another time.
    control.tsc_offset = 0;
    control.asid = config.tag.into();
    control.nested_control = NESTED_PAGING;
    control.nested_cr3 = config.stage2.root();
    Ok(vcpu)
}

/// Writes the part of the MSR permission map for `msrs`, which the map covers. A set bit exits.
pub fn fill_msrs(
    msrpm: &heap::Block,
    msrs: core::ops::Range<u32>,
    msr_access: fn(u32) -> MsrAccess,
) {
    for first in msrs.step_by(32) {
        let Some((byte, _)) = msr_bit(first) else { continue };
        let word = (0..32).fold(0_u64, |word, n| {
            let access = msr_access(first + n);
            word | u64::from(!access.read) << (2 * n) | u64::from(!access.write) << (2 * n + 1)
        });
        msrpm.write_u64(byte, word);
    }
}

/// Puts the vCPU into a start state.
pub fn reset(vcpu: &mut SvmVcpu, state: StartState) {
    if cpu::has_rdtscp() {
        // SAFETY: TSC_AUX exists where RDTSCP does, zero is legal, and root mode does not use it.
        unsafe { cpu::wrmsr(TSC_AUX, 0) };
    }
    if cpu::set_xcr0(1).is_err() {
        // Only a CPU without x87 state could refuse; there is none with SVM.
        log::warn!("XCR0 could not be reset");
    }
    vcpu.frame.regs = GuestRegs::default();
    // DX after INIT holds the CPU's signature.
    vcpu.frame.regs.rdx = cpu::cpuid(1, 0)[0].into();
    vcpu.nmi = NmiState::Open;
    let virtual_nmi = vcpu.features.virtual_nmi;
    let control = &mut vcpu.vmcb_mut().control;
    control.intercept_first = FIRST.bits();
    control.interrupt_control = InterruptControl::new().with_nmi_enable(virtual_nmi);
    control.interrupt_state = 0;
    control.event_injection = 0;
    control.exit_interrupt_info = 0;
    let save = &mut vcpu.vmcb_mut().save;
    // SAFETY: all zeroes is a save area.
    *save = unsafe { core::mem::zeroed() };
    save.efer = capability::EFER_SVME;
    save.guest_pat = PAT_AFTER_RESET;
    save.dr6 = DR6_AFTER_INIT;
    save.dr7 = DR7_AFTER_INIT;
    save.rflags = RFLAGS_FIXED;
    save.ldtr = Segment::new(0, 0, 0xFFFF, attributes::LDT);
    save.tr = Segment::new(0, 0, 0xFFFF, attributes::TSS_BUSY);
    save.gdtr = Segment::new(0, 0, 0xFFFF, 0);
    save.idtr = Segment::new(0, 0, 0xFFFF, 0);
    set_cr4(vcpu, 0);
    match state {
        StartState::RealMode { cs, ip } => real_mode(vcpu, cs, ip),
        StartState::Protected32 { eip, eax, ebx } => {
            vcpu.frame.regs.rax = eax.into();
            vcpu.frame.regs.rbx = ebx.into();
            protected32(vcpu, eip);
        }
        StartState::Long64 { rip, rsp, rsi, cr3, gdt_base, gdt_limit } => {
            vcpu.frame.regs.rsi = rsi;
            let save = &mut vcpu.vmcb_mut().save;
            save.rsp = rsp;
            save.cr3 = cr3;
            save.gdtr = Segment::new(0, gdt_base, gdt_limit.into(), 0);
            long64(vcpu, rip);
        }
    }
    vcpu.flush();
}

fn data_segments(vcpu: &mut SvmVcpu, segment: Segment) {
    let save = &mut vcpu.vmcb_mut().save;
    for register in [&mut save.es, &mut save.ss, &mut save.ds, &mut save.fs, &mut save.gs] {
        *register = segment;
    }
}

fn real_mode(vcpu: &mut SvmVcpu, cs: u16, ip: u16) {
    set_cr0(vcpu, CR0_AFTER_INIT);
    data_segments(vcpu, Segment::new(0, 0, 0xFFFF, attributes::DATA_16));
    let save = &mut vcpu.vmcb_mut().save;
    save.cs = Segment::new(cs, u64::from(cs) << 4, 0xFFFF, attributes::CODE_16);
    save.rip = ip.into();
}

fn protected32(vcpu: &mut SvmVcpu, eip: u32) {
    set_cr0(vcpu, cpu::CR0_PE | CR0_ET);
    data_segments(vcpu, Segment::new(0x18, 0, u32::MAX, attributes::DATA_32));
    let save = &mut vcpu.vmcb_mut().save;
    save.cs = Segment::new(0x10, 0, u32::MAX, attributes::CODE_32);
    save.rip = eip.into();
}

fn long64(vcpu: &mut SvmVcpu, rip: u64) {
    set_cr4(vcpu, CR4_PAE);
    vcpu.vmcb_mut().save.efer |= cpu::EFER_LME;
    set_cr0(vcpu, cpu::CR0_PG | cpu::CR0_PE | CR0_ET);
    data_segments(vcpu, Segment::new(0x18, 0, u32::MAX, attributes::DATA_32));
    let save = &mut vcpu.vmcb_mut().save;
    save.fs = Segment::default();
    save.gs = Segment::default();
    save.cs = Segment::new(0x10, 0, u32::MAX, attributes::CODE_64);
    save.rip = rip;
}

/// CR0 as the guest wants it; CD and NW are shadowed.
pub fn set_cr0(vcpu: &mut SvmVcpu, value: u64) {
    vcpu.cr0_shadow = value;
    let save = &mut vcpu.vmcb_mut().save;
    save.cr0 = value & !CR0_SHADOWED | CR0_ET;
    // A trapped MOV to CR0 can change PG, and then the hypervisor does what the CPU would have done.
    let lma = value & cpu::CR0_PG != 0 && save.efer & cpu::EFER_LME != 0;
    save.efer = if lma { save.efer | cpu::EFER_LMA } else { save.efer & !cpu::EFER_LMA };
    vcpu.update_control_intercepts();
}

/// CR4 as the guest wants it: MCE is always 1 in hardware, so that a machine check can never shut the core down
/// (requirement S6).
pub fn set_cr4(vcpu: &mut SvmVcpu, value: u64) {
    vcpu.cr4_shadow = value;
    let allowed = vcpu.cr4_allowed;
    vcpu.vmcb_mut().save.cr4 = value & allowed | cpu::CR4_MCE;
    vcpu.update_control_intercepts();
}
