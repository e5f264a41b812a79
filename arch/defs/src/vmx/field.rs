//! VMCS field encodings. SDM volume 3, appendix B.

/// The encoding of one VMCS field, as VMREAD and VMWRITE take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the manual's; appendix B describes them")]
pub enum Field {
    Vpid = 0x0000,
    GuestEs = 0x0800,
    GuestCs = 0x0802,
    GuestSs = 0x0804,
    GuestDs = 0x0806,
    GuestFs = 0x0808,
    GuestGs = 0x080A,
    GuestLdtr = 0x080C,
    GuestTr = 0x080E,
    HostEs = 0x0C00,
    HostCs = 0x0C02,
    HostSs = 0x0C04,
    HostDs = 0x0C06,
    HostFs = 0x0C08,
    HostGs = 0x0C0A,
    HostTr = 0x0C0C,
    IoBitmapA = 0x2000,
    IoBitmapB = 0x2002,
    MsrBitmap = 0x2004,
    ExitMsrStoreAddress = 0x2006,
    ExitMsrLoadAddress = 0x2008,
    EntryMsrLoadAddress = 0x200A,
    TscOffset = 0x2010,
    EptPointer = 0x201A,
    GuestPhysicalAddress = 0x2400,
    LinkPointer = 0x2800,
    GuestDebugctl = 0x2802,
    GuestPat = 0x2804,
    GuestEfer = 0x2806,
    GuestPdpte0 = 0x280A,
    GuestPdpte1 = 0x280C,
    GuestPdpte2 = 0x280E,
    GuestPdpte3 = 0x2810,
    HostPat = 0x2C00,
    HostEfer = 0x2C02,
    PinControls = 0x4000,
    ProcControls = 0x4002,
    ExceptionBitmap = 0x4004,
    PageFaultErrorMask = 0x4006,
    PageFaultErrorMatch = 0x4008,
    Cr3TargetCount = 0x400A,
    ExitControls = 0x400C,
    ExitMsrStoreCount = 0x400E,
    ExitMsrLoadCount = 0x4010,
    EntryControls = 0x4012,
    EntryMsrLoadCount = 0x4014,
    EntryInterruptionInfo = 0x4016,
    EntryExceptionErrorCode = 0x4018,
    EntryInstructionLength = 0x401A,
    ProcControls2 = 0x401E,
    InstructionError = 0x4400,
    ExitReason = 0x4402,
    ExitInterruptionInfo = 0x4404,
    ExitInterruptionErrorCode = 0x4406,
    IdtVectoringInfo = 0x4408,
    IdtVectoringErrorCode = 0x440A,
    ExitInstructionLength = 0x440C,
    ExitInstructionInfo = 0x440E,
    GuestEsLimit = 0x4800,
    GuestCsLimit = 0x4802,
    GuestSsLimit = 0x4804,
    GuestDsLimit = 0x4806,
    GuestFsLimit = 0x4808,
    GuestGsLimit = 0x480A,
    GuestLdtrLimit = 0x480C,
    GuestTrLimit = 0x480E,
    GuestGdtrLimit = 0x4810,
    GuestIdtrLimit = 0x4812,
    GuestEsAccess = 0x4814,
    GuestCsAccess = 0x4816,
    GuestSsAccess = 0x4818,
    GuestDsAccess = 0x481A,
    GuestFsAccess = 0x481C,
    GuestGsAccess = 0x481E,
    GuestLdtrAccess = 0x4820,
    GuestTrAccess = 0x4822,
    GuestInterruptibility = 0x4824,
    GuestActivity = 0x4826,
    GuestSysenterCs = 0x482A,
    PreemptionTimer = 0x482E,
    HostSysenterCs = 0x4C00,
    Cr0Mask = 0x6000,
    Cr4Mask = 0x6002,
    Cr0Shadow = 0x6004,
    Cr4Shadow = 0x6006,
    ExitQualification = 0x6400,
    GuestLinearAddress = 0x640A,
    GuestCr0 = 0x6800,
    GuestCr3 = 0x6802,
    GuestCr4 = 0x6804,
    GuestEsBase = 0x6806,
    GuestCsBase = 0x6808,
    GuestSsBase = 0x680A,
    GuestDsBase = 0x680C,
    GuestFsBase = 0x680E,
    GuestGsBase = 0x6810,
    GuestLdtrBase = 0x6812,
    GuestTrBase = 0x6814,
    GuestGdtrBase = 0x6816,
    GuestIdtrBase = 0x6818,
    GuestDr7 = 0x681A,
    GuestRsp = 0x681C,
    GuestRip = 0x681E,
    GuestRflags = 0x6820,
    GuestPendingDebug = 0x6822,
    GuestSysenterEsp = 0x6824,
    GuestSysenterEip = 0x6826,
    HostCr0 = 0x6C00,
    HostCr3 = 0x6C02,
    HostCr4 = 0x6C04,
    HostFsBase = 0x6C06,
    HostGsBase = 0x6C08,
    HostTrBase = 0x6C0A,
    HostGdtrBase = 0x6C0C,
    HostIdtrBase = 0x6C0E,
    HostSysenterEsp = 0x6C10,
    HostSysenterEip = 0x6C12,
    HostRsp = 0x6C14,
    HostRip = 0x6C16,
}

/// The four VMCS fields of one segment register.
#[derive(Clone, Copy, Debug)]
pub struct SegmentFields {
    /// Selector.
    pub selector: Field,
    /// Base address.
    pub base: Field,
    /// Limit in bytes.
    pub limit: Field,
    /// Access rights, SDM volume 3 table 25-2.
    pub access: Field,
}

macro_rules! segments {
    ($($name:ident: $sel:ident, $base:ident, $limit:ident, $access:ident;)*) => {
        $(#[doc = concat!("VMCS fields of ", stringify!($name), ".")]
        pub const $name: SegmentFields = SegmentFields {
            selector: Field::$sel, base: Field::$base, limit: Field::$limit, access: Field::$access,
        };)*
    };
}

segments! {
    ES: GuestEs, GuestEsBase, GuestEsLimit, GuestEsAccess;
    CS: GuestCs, GuestCsBase, GuestCsLimit, GuestCsAccess;
    SS: GuestSs, GuestSsBase, GuestSsLimit, GuestSsAccess;
    DS: GuestDs, GuestDsBase, GuestDsLimit, GuestDsAccess;
    FS: GuestFs, GuestFsBase, GuestFsLimit, GuestFsAccess;
    GS: GuestGs, GuestGsBase, GuestGsLimit, GuestGsAccess;
    LDTR: GuestLdtr, GuestLdtrBase, GuestLdtrLimit, GuestLdtrAccess;
    TR: GuestTr, GuestTrBase, GuestTrLimit, GuestTrAccess;
}
