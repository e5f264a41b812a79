//! Building a VMCS and putting a vCPU into a start state. SDM volume 3, chapter 25 and
//! sections 27.2 and 27.3 (what the entry checks).

#![expect(unsafe_code, reason = "clears VMCSs and writes MSRs")]

use super::entry::EntryFrame;
use super::insn::{self, vmread, vmwrite};
use super::{VmxVcpu, capability};
use crate::virt::{Backend, GuestRegs, MsrAccess, StartState, Unusable, VcpuConfig};
use crate::{cpu, heap, tables};
use arch_defs::vmx::Field;
use arch_defs::vmx::field::{CS, DS, ES, FS, GS, LDTR, SS, SegmentFields, TR};

/// CR0 after INIT (SDM volume 3, table 10-1).
const CR0_AFTER_INIT: u64 = 0x6000_0010;
const CR0_ET: u64 = 1 << 4;
/// PAT after a reset, SDM volume 3 section 13.12.4.
const PAT_AFTER_RESET: u64 = 0x0007_0406_0007_0406;
const DR6_AFTER_INIT: u64 = 0xFFFF_0FF0;
const DR7_AFTER_INIT: u64 = 0x400;
const RFLAGS_FIXED: u64 = 1 << 1;
/// EPT pointer: write-back structures, walk length 4 (SDM volume 3, section 25.6.11).
const EPT_POINTER: u64 = 6 | 3 << 3;
const NO_LINK: u64 = u64::MAX;

/// #DB, #AC and #MC: a guest that loops in their delivery must not hold its core
/// (requirement S6, CVE-2015-5307, CVE-2015-8104).
const INTERCEPTED_EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;

/// MSRs that pass to the guest and that the VMCS does not switch: they start at zero.
const UNSWITCHED_MSRS: [u32; 6] =
    [0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084, 0xC000_0102, TSC_AUX];
const TSC_AUX: u32 = 0xC000_0103;

/// Access rights, SDM volume 3 table 25-2.
mod access {
    pub const UNUSABLE: u64 = 1 << 16;
    pub const DATA_16: u64 = 0x93;
    pub const CODE_16: u64 = 0x9B;
    pub const DATA_32: u64 = 0xC093;
    pub const CODE_32: u64 = 0xC09B;
    pub const CODE_64: u64 = 0xA09B;
    pub const LDT: u64 = 0x82;
    pub const TSS_BUSY: u64 = 0x8B;
}

/// Builds a vCPU.
pub fn new(config: &VcpuConfig<'_>) -> Result<VmxVcpu, Unusable> {
    let no_memory = Unusable {
        missing: "no memory for a VMCS",
        hint: "give the machine more memory or the VMs less",
        bits: 0,
    };
    let vmcs = heap::frame().ok_or(no_memory)?;
    let msr_bitmap = heap::frame().ok_or(no_memory)?;
    vmcs.write_u32(0, capability::revision());
    fill_msr_bitmap(&msr_bitmap, config.msr_access);
    // SAFETY: the frame is ours, carries the revision identifier and is active nowhere.
    let cleared = unsafe { insn::vmclear(vmcs.address()) };
    cleared.map_err(|_| Unusable {
        missing: "VMCLEAR failed",
        hint: "VMX is not on",
        bits: vmcs.address(),
    })?;
    let mut vcpu = VmxVcpu {
        frame: EntryFrame {
            regs: GuestRegs::default(),
            host_rsp: 0,
            launched: false,
            failed: false,
        },
        cr4_allowed: config.cr4_allowed,
        vmcs,
        msr_bitmap,
        msr_access: config.msr_access,
        eptp: config.stage2.root() | EPT_POINTER,
        tag: config.tag,
    };
    vcpu.load();
    let controls = capability::direct_controls();
    if let Ok(controls) = controls {
        write_controls(&vcpu, &controls);
    }
    vcpu.unload();
    controls.map(|_| vcpu)
}

/// Nothing passes.
pub const NO_MSR: fn(u32) -> MsrAccess = |_| MsrAccess { read: false, write: false };

/// First register and byte offset of the bitmap's low and high part; each has its write half 2 KiB
/// after its read half (SDM section 25.6.9). A set bit traps.
const PARTS: [(u32, u32); 2] = [(0, 0), (0xC000_0000, 1024)];
const WRITE_HALF: u64 = 2048;
/// Registers of the x2APIC.
const X2APIC: core::ops::Range<u32> = 0x800..0x900;

fn fill_msr_bitmap(bitmap: &heap::Block, msr_access: fn(u32) -> MsrAccess) {
    bitmap.fill(0xFF);
    for (base, offset) in PARTS {
        fill_msr_words(bitmap, base, offset, 0..0x2000, msr_access);
    }
}

/// Writes the x2APIC registers' part of the bitmap anew.
pub fn fill_x2apic_part(bitmap: &heap::Block, msr_access: fn(u32) -> MsrAccess) {
    fill_msr_words(bitmap, 0, 0, X2APIC, msr_access);
}

/// `msrs`, relative to `base`, starts and ends at multiples of 64.
fn fill_msr_words(
    bitmap: &heap::Block,
    base: u32,
    offset: u32,
    msrs: core::ops::Range<u32>,
    msr_access: fn(u32) -> MsrAccess,
) {
    for first in msrs.step_by(64) {
        let (mut read, mut write) = (u64::MAX, u64::MAX);
        for bit in 0..64 {
            let access = msr_access(base + first + bit);
            read &= !(u64::from(access.read) << bit);
            write &= !(u64::from(access.write) << bit);
        }
        let at = u64::from(offset + first / 8);
        bitmap.write_u64(at, read);
        bitmap.write_u64(at + WRITE_HALF, write);
    }
}

fn write_controls(vcpu: &VmxVcpu, controls: &capability::Controls) {
    vmwrite(Field::PinControls, controls.pin.into());
    vmwrite(Field::ProcControls, controls.proc.into());
    vmwrite(Field::ProcControls2, controls.proc2.into());
    vmwrite(Field::ExitControls, controls.exit.into());
    vmwrite(Field::EntryControls, controls.entry.into());
    vmwrite(Field::ExceptionBitmap, INTERCEPTED_EXCEPTIONS);
    vmwrite(Field::PageFaultErrorMask, 0);
    vmwrite(Field::PageFaultErrorMatch, 0);
    vmwrite(Field::Cr3TargetCount, 0);
    vmwrite(Field::ExitMsrStoreCount, 0);
    vmwrite(Field::ExitMsrLoadCount, 0);
    vmwrite(Field::EntryMsrLoadCount, 0);
    vmwrite(Field::MsrBitmap, vcpu.msr_bitmap.address());
    vmwrite(Field::EptPointer, vcpu.eptp);
    vmwrite(Field::Vpid, vcpu.tag.into());
    // requirement C5: no offset, or a deadline that the guest arms would fire at another time.
    vmwrite(Field::TscOffset, 0);
    vmwrite(Field::LinkPointer, NO_LINK);
}

/// Host state: this core's own tables and registers. Written at every `reset`, since the vCPU may
/// start on another core than before.
fn write_host_state() {
    let here = tables::descriptor_tables();
    vmwrite(Field::HostCr0, cpu::cr0());
    vmwrite(Field::HostCr3, cpu::cr3());
    vmwrite(Field::HostCr4, cpu::cr4());
    vmwrite(Field::HostEfer, cpu::rdmsr(cpu::MSR_EFER));
    vmwrite(Field::HostPat, cpu::rdmsr(cpu::MSR_PAT));
    for field in [Field::HostEs, Field::HostSs, Field::HostDs] {
        vmwrite(field, tables::DATA_SELECTOR.into());
    }
    vmwrite(Field::HostCs, tables::CODE_SELECTOR.into());
    vmwrite(Field::HostFs, 0);
    vmwrite(Field::HostGs, 0);
    vmwrite(Field::HostTr, tables::TSS_SELECTOR.into());
    vmwrite(Field::HostFsBase, 0);
    vmwrite(Field::HostGsBase, cpu::rdmsr(cpu::MSR_GS_BASE));
    vmwrite(Field::HostTrBase, here.tss);
    vmwrite(Field::HostGdtrBase, here.gdt);
    vmwrite(Field::HostIdtrBase, here.idt);
    vmwrite(Field::HostSysenterCs, 0);
    vmwrite(Field::HostSysenterEsp, 0);
    vmwrite(Field::HostSysenterEip, 0);
}

fn segment(fields: SegmentFields, selector: u16, base: u64, limit: u32, rights: u64) {
    vmwrite(fields.selector, selector.into());
    vmwrite(fields.base, base);
    vmwrite(fields.limit, limit.into());
    vmwrite(fields.access, rights);
}

/// Puts the vCPU into a start state.
pub fn reset(vcpu: &mut VmxVcpu, state: StartState) {
    vcpu.frame.failed = false;
    write_host_state();
    insn::invvpid(vcpu.tag);
    for msr in UNSWITCHED_MSRS {
        if msr != TSC_AUX || cpu::has_rdtscp() {
            // SAFETY: these MSRs exist on every 64-bit CPU, TSC_AUX where RDTSCP does; zero is
            // legal and root mode uses none of them.
            unsafe { cpu::wrmsr(msr, 0) };
        }
    }
    cpu::set_dr6(DR6_AFTER_INIT);
    if cpu::set_xcr0(1).is_err() {
        // Only a CPU without x87 state could refuse; there is none with VMX.
        log::warn!("XCR0 could not be reset");
    }
    for field in [
        Field::EntryInterruptionInfo,
        Field::GuestInterruptibility,
        Field::GuestActivity,
        Field::GuestPendingDebug,
        Field::GuestDebugctl,
        Field::GuestSysenterCs,
        Field::GuestSysenterEsp,
        Field::GuestSysenterEip,
        Field::GuestCr3,
        Field::GuestEfer,
        Field::GuestRsp,
    ] {
        vmwrite(field, 0);
    }
    vmwrite(Field::GuestPat, PAT_AFTER_RESET);
    vmwrite(Field::GuestDr7, DR7_AFTER_INIT);
    vmwrite(Field::GuestRflags, RFLAGS_FIXED);
    segment(LDTR, 0, 0, 0xFFFF, access::LDT);
    segment(TR, 0, 0, 0xFFFF, access::TSS_BUSY);
    vmwrite(Field::GuestGdtrBase, 0);
    vmwrite(Field::GuestGdtrLimit, 0xFFFF);
    vmwrite(Field::GuestIdtrBase, 0);
    vmwrite(Field::GuestIdtrLimit, 0xFFFF);
    set_ia32e(false);
    set_cr4(0, vcpu.cr4_allowed);
    // DX after INIT holds the CPU's signature.
    vcpu.frame.regs.rdx = cpu::cpuid(1, 0)[0].into();
    match state {
        StartState::RealMode { cs, ip } => real_mode(cs, ip),
        StartState::Protected32 { eip, eax, ebx } => {
            vcpu.frame.regs.rax = eax.into();
            vcpu.frame.regs.rbx = ebx.into();
            protected32(eip);
        }
        StartState::Long64 { rip, rsp, rsi, cr3, gdt_base, gdt_limit } => {
            vcpu.frame.regs.rsi = rsi;
            vmwrite(Field::GuestRsp, rsp);
            vmwrite(Field::GuestCr3, cr3);
            vmwrite(Field::GuestGdtrBase, gdt_base);
            vmwrite(Field::GuestGdtrLimit, gdt_limit.into());
            long64(vcpu, rip);
        }
    }
}

fn set_ia32e(on: bool) {
    use arch_defs::vmx::control::Entry;
    VmxVcpu::set_bit(Field::EntryControls, Entry::IA32E_GUEST.bits(), on);
}

fn real_mode(cs: u16, ip: u16) {
    set_cr0(CR0_AFTER_INIT);
    segment(CS, cs, u64::from(cs) << 4, 0xFFFF, access::CODE_16);
    for fields in [ES, SS, DS, FS, GS] {
        segment(fields, 0, 0, 0xFFFF, access::DATA_16);
    }
    vmwrite(Field::GuestRip, ip.into());
}

fn protected32(eip: u32) {
    set_cr0(cpu::CR0_PE | CR0_ET);
    segment(CS, 0x10, 0, u32::MAX, access::CODE_32);
    for fields in [ES, SS, DS, FS, GS] {
        segment(fields, 0x18, 0, u32::MAX, access::DATA_32);
    }
    vmwrite(Field::GuestRip, eip.into());
}

fn long64(vcpu: &VmxVcpu, rip: u64) {
    const CR4_PAE: u64 = 1 << 5;
    set_cr0(cpu::CR0_PG | cpu::CR0_PE | CR0_ET);
    set_cr4(CR4_PAE, vcpu.cr4_allowed);
    vmwrite(Field::GuestEfer, cpu::EFER_LME | cpu::EFER_LMA);
    set_ia32e(true);
    segment(CS, 0x10, 0, u32::MAX, access::CODE_64);
    for fields in [ES, SS, DS] {
        segment(fields, 0x18, 0, u32::MAX, access::DATA_32);
    }
    for fields in [FS, GS] {
        segment(fields, 0, 0, 0, access::UNUSABLE);
    }
    vmwrite(Field::GuestRip, rip);
}

/// CR0 as the guest wants it. NE is always 1 in VMX operation; CD and NW are shadowed, since an
/// uncached core would slow its neighbours and EPT sets the memory type.
pub fn set_cr0(value: u64) {
    let owned = capability::cr0_fixed() | cpu::CR0_CD | cpu::CR0_NW;
    vmwrite(Field::Cr0Mask, owned);
    vmwrite(Field::Cr0Shadow, value);
    let real = (value & !(cpu::CR0_CD | cpu::CR0_NW)) | capability::cr0_fixed();
    let efer = vmread(Field::GuestEfer);
    // With PG the CPU needs LMA and the IA-32e control to agree with LME; a trapped MOV to CR0
    // can change PG, and then the hypervisor does what the CPU would have done.
    let lma = real & cpu::CR0_PG != 0 && efer & cpu::EFER_LME != 0;
    vmwrite(Field::GuestEfer, if lma { efer | cpu::EFER_LMA } else { efer & !cpu::EFER_LMA });
    set_ia32e(lma);
    vmwrite(Field::GuestCr0, real);
}

/// A #DB that goes back into an STI or MOV-SS shadow of a single-stepped guest: the entry wants to
/// see the step pending there, and the exit cleared it (SDM volume 3, section 27.3.1.5).
pub fn allow_debug_in_shadow() {
    let shadow = vmread(Field::GuestInterruptibility)
        & (super::BLOCKED_BY_STI | super::BLOCKED_BY_MOV_SS)
        != 0;
    if shadow && vmread(Field::GuestRflags) & super::RFLAGS_TF != 0 {
        let pending = vmread(Field::GuestPendingDebug);
        vmwrite(Field::GuestPendingDebug, pending | super::PENDING_SINGLE_STEP);
    }
}

/// CR4 as the guest wants it: MCE is always 1 in hardware, so that a machine check can never shut
/// the core down (requirement S6); VMXE is 1 and invisible.
pub fn set_cr4(value: u64, allowed: u64) {
    let fixed = capability::cr4_fixed() | cpu::CR4_MCE | cpu::CR4_VMXE;
    vmwrite(Field::Cr4Mask, !allowed | fixed);
    vmwrite(Field::Cr4Shadow, value);
    vmwrite(Field::GuestCr4, (value & allowed) | fixed);
}
