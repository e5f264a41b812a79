//! The one table of the MSR policy, in the order of the registers' numbers.
//!
//! Read by [`super::lookup`] and [`super::passes`] only. A register that passes is either the
//! core's own for as long as the vCPU runs, and is switched with it, or cannot be used against
//! anybody else.
//!
//! Absent on purpose, so #GP, because CPUID hides the feature: SPEC_CTRL (0x48), PRED_CMD (0x49),
//! FLUSH_CMD (0x10B), ARCH_CAPABILITIES (0x10A), PERF_CAPABILITIES and all counters, MCA banks and
//! their CTL2, VMX capabilities, PT, LBR, CET, XSS, XFD, IBS, OSVW, SVM's HSAVE_PA. LS_CFG
//! (0xC0011020) is #GP too: a Linux that can read it writes it on task switches.

use super::{Held, Kind, Once, Read, Row, Write};
use crate::exit::cpuid::Vendor;
use arch_defs::apic::LvtRegister as Lvt;

const fn row(msr: u32, read: Read, write: Write) -> Row {
    Row { first: msr, last: msr, vendor: None, read, write }
}

const fn rows(first: u32, last: u32, read: Read, write: Write) -> Row {
    Row { first, last, vendor: None, read, write }
}

impl Row {
    const fn only(mut self, vendor: Vendor) -> Self {
        self.vendor = Some(vendor);
        self
    }
}

const INTEL: Vendor = Vendor::Intel;
const AMD: Vendor = Vendor::Amd;
const ZERO: Read = Read::Value(0);

const fn read(kind: Kind) -> Read {
    Read::Emulated(kind)
}

const fn write(kind: Kind) -> Write {
    Write::Emulated(kind)
}

const fn held(msr: u32, what: Held) -> Row {
    held_rows(msr, msr, what)
}

const fn held_rows(first: u32, last: u32, what: Held) -> Row {
    rows(first, last, read(Kind::Held(what)), write(Kind::Held(what)))
}

/// An LVT entry other than the timer's: NMI, SMI, INIT and ExtINT could be asked of it, so writes
/// are checked; the hardware's entry may be parked, so reads are of the shadow.
const fn lvt(entry: Lvt) -> Row {
    row(entry.msr(), read(Kind::Lvt(entry)), write(Kind::Lvt(entry)))
}

/// MTRR capabilities: 8 variable ranges, fixed ranges, write combining; no SMRR.
pub(super) const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;

/// The policy, sorted by number; two rows of one number differ in the vendor.
pub(super) static TABLE: &[Row] = &[
    // The TSC has offset 0 in every guest, which a write would break; the deadline counts on it.
    row(0x10, Read::Pass, Write::IgnoreLogOnce(Once::Tsc)),
    // Platform id: picks among microcode files, and guests do not load any.
    row(0x17, ZERO, Write::Gp).only(INTEL),
    // The physical APIC neither moves nor leaves x2APIC mode; the guest's own state machine may.
    row(0x1B, read(Kind::ApicBase), write(Kind::ApicBase)),
    // Power-on configuration: memory testers look for a bus ratio here.
    row(0x2A, ZERO, Write::Ignore).only(INTEL),
    // SMI count: the board's, not the guest's.
    row(0x34, ZERO, Write::Gp).only(INTEL),
    // Feature control: locked, with everything off.
    row(0x3A, Read::Value(1), Write::Gp).only(INTEL),
    // Linux reads TSC_ADJUST on every idle; a write would move the TSC.
    row(0x3B, Read::Pass, Write::IgnoreLogOnce(Once::TscAdjust)),
    // Microcode load: nothing is loaded, and the revision below does not change.
    row(0x79, Read::Gp, Write::Ignore).only(INTEL),
    // Microcode revision. Linux writes 0 first. A constant, since guests under a hypervisor do not
    // judge errata by it.
    row(0x8B, Read::Value(1 << 32), Write::Ignore).only(INTEL),
    row(0x8B, Read::Value(0x0100_0065), Write::Ignore).only(AMD),
    // Platform info: no CPUID faulting (bit 31), no ratios.
    row(0xCE, ZERO, Write::Gp).only(INTEL),
    // Without MTRRs Linux gives up on PAT. They only remember: second stage decides on types.
    row(0xFE, Read::Value(MTRR_CAP), Write::Gp),
    // SYSENTER's three are in the VMCS and the VMCB.
    rows(0x174, 0x176, Read::Pass, Write::Pass),
    // MCG_CAP: no machine-check banks.
    row(0x179, ZERO, Write::Gp),
    // MCG_STATUS: no machine check in progress.
    held(0x17A, Held::Zero),
    // Performance status: no ratio to learn; memory testers ask.
    row(0x198, ZERO, Write::Ignore).only(INTEL),
    // MISC_ENABLE: Linux tests fast strings and clears the CPUID limit.
    held(0x1A0, Held::MiscEnable).only(INTEL),
    // DEBUGCTL: no LBR, no branch stepping. AMD has the register at the same number.
    row(0x1D9, ZERO, Write::IgnoreLogOnce(Once::DebugCtl)),
    held_rows(0x200, 0x20F, Held::MtrrVariable),
    held(0x250, Held::MtrrFixed),
    held_rows(0x258, 0x259, Held::MtrrFixed),
    held_rows(0x268, 0x26F, Held::MtrrFixed),
    // PAT is in the VMCS and the VMCB: a guest's own at every entry.
    row(0x277, Read::Pass, Write::Pass),
    held(0x2FF, Held::MtrrDefType),
    // The deadline is the guest's timer: arming it costs no exit.
    row(0x6E0, Read::Pass, Write::Pass),
    //
    // x2APIC. Ids are the vCPU's, not the core's.
    row(0x802, read(Kind::ApicId), Write::Gp),
    // Version: what LVT entries there are, without the EOI suppression that SVR refuses.
    row(0x803, read(Kind::Version), Write::Gp),
    // TPR, PPR, EOI: priority and completion stay physical.
    row(0x808, Read::Pass, Write::Pass),
    row(0x80A, Read::Pass, Write::Gp),
    row(0x80B, Read::Gp, Write::Pass),
    row(0x80D, read(Kind::Ldr), Write::Gp),
    // SVR: a software-disabled APIC would mask its LVT entries behind our back.
    row(0x80F, read(Kind::Svr), write(Kind::Svr)),
    // ISR, TMR, IRR.
    rows(0x810, 0x827, Read::Pass, Write::Gp),
    // ESR: cleared on a switch.
    row(0x828, Read::Pass, Write::Pass),
    lvt(Lvt::Cmci),
    // ICR: the one register that reaches other cores.
    row(0x830, read(Kind::Icr), write(Kind::Icr)),
    // Timer entry: it has no delivery mode, so all it can do is raise a vector here.
    row(0x832, Read::Pass, Write::Pass),
    lvt(Lvt::Thermal),
    lvt(Lvt::Pmi),
    lvt(Lvt::Lint0),
    lvt(Lvt::Lint1),
    lvt(Lvt::Error),
    // Initial count, current count, divider.
    row(0x838, Read::Pass, Write::Pass),
    row(0x839, Read::Pass, Write::Gp),
    row(0x83E, Read::Pass, Write::Pass),
    // Self-IPI: a vector to this very core.
    row(0x83F, Read::Gp, Write::Pass),
    // AMD's extended registers are hidden in CPUID; the interrupt enables and extra LVT entries
    // there would need a policy of their own.
    rows(0x840, 0x853, Read::Gp, Write::Gp),
    //
    // KVM's wall clock and system time (`exit::clock_page`): the answer to a write is in memory.
    row(0x4B56_4D00, ZERO, write(Kind::WallClock)).only(AMD),
    row(0x4B56_4D01, ZERO, write(Kind::SystemTime)).only(AMD),
    // EFER: the backend keeps LMA, and SVME, which the guest does not see.
    row(0xC000_0080, read(Kind::Efer), write(Kind::Efer)),
    // STAR, LSTAR, CSTAR, FMASK: used in root mode by nobody, switched with the vCPU.
    rows(0xC000_0081, 0xC000_0084, Read::Pass, Write::Pass),
    // FS base, GS base, kernel GS base.
    rows(0xC000_0100, 0xC000_0102, Read::Pass, Write::Pass),
    // TSC_AUX: what RDTSCP and RDPID give.
    row(0xC000_0103, Read::Pass, Write::Pass),
    //
    // SYSCFG: neither extended fixed MTRRs nor memory encryption.
    row(0xC001_0010, ZERO, Write::Ignore).only(AMD),
    // HWCR: bit 24, the TSC counts at the P0 frequency; Linux complains without it.
    row(0xC001_0015, Read::Value(1 << 24), Write::Ignore).only(AMD),
    // NB_CFG: Linux sets bit 46 for extended configuration space by 0xCF8; it has ECAM anyway.
    row(0xC001_001F, ZERO, Write::Ignore).only(AMD),
    // Microcode load, as 0x79.
    row(0xC001_0020, Read::Gp, Write::Ignore).only(AMD),
    // Interrupt pending message: no C1E.
    row(0xC001_0055, ZERO, Write::Ignore).only(AMD),
    // MMIO configuration base: none; the MCFG table tells.
    row(0xC001_0058, ZERO, Write::Ignore).only(AMD),
    // TSEG: no SMM of the guest's own.
    row(0xC001_0112, ZERO, Write::Gp).only(AMD),
    // VM_CR: SVM disabled, and locked so.
    row(0xC001_0114, Read::Value(1 << 4 | 1 << 3), Write::Gp).only(AMD),
    // DC_CFG: errata settings, the host firmware's business.
    row(0xC001_1022, ZERO, Write::Ignore).only(AMD),
    // DE_CFG: bit 1, LFENCE serialises; boot sets it in the hardware.
    row(0xC001_1029, Read::Value(1 << 1), Write::Ignore).only(AMD),
    // BU_CFG2: as DC_CFG.
    row(0xC001_102A, ZERO, Write::Ignore).only(AMD),
];

/// For each register up to the last one of the x2APIC, the place of the first row that does not end
/// before it: an exit finds its row without a search. Made from the table.
pub(super) static LOW: [u8; 0x854] = {
    assert!(TABLE.len() <= u8::MAX as usize);
    let mut index = [0; 0x854];
    let (mut msr, mut place) = (0, 0);
    while msr < index.len() {
        while place < TABLE.len() && (TABLE[place].last as usize) < msr {
            place += 1;
        }
        index[msr] = place as u8;
        msr += 1;
    }
    index
};
