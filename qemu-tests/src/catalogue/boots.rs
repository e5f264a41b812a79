//! The list of boots, and the words that make its lines short.

use super::{Beds, Boot, Expect, Extras, Fault, Guest};
use crate::check;
use tools::bed::{self, Bed, Device, Firmware, Medium, Pc};
use tools::run::demo::{self, Demo};

const MODEL: &str = "corei7_skylake_x";

const fn vm(name: &'static str, vcpus: u32) -> Boot {
    Boot {
        name,
        kind: name,
        guest: Guest::Vm { vcpus, extras: Extras::NONE },
        expect: Expect::Tests,
        beds: Beds::Any,
        pc: Pc::PLAIN,
        model: MODEL,
        cpuid: "",
        cpus: vcpus + 1,
        shows: "",
        limit: 300,
        ips: bed::TESTS_IPS,
    }
}

const fn bare(name: &'static str, kind: &'static str, cpus: u32) -> Boot {
    Boot { kind, guest: Guest::Bare, expect: Expect::SomeTests, cpus, ..vm(name, 1) }
}

/// A VM with extras.
const fn with(extras: Extras, vcpus: u32, boot: Boot) -> Boot {
    Boot { guest: Guest::Vm { vcpus, extras }, ..boot }
}

const MODULES: Extras = Extras { modules: true, ..Extras::NONE };
const HOOKS: Extras = Extras { hooks: true, ..Extras::NONE };

const fn no_return(name: &'static str, vcpus: u32, texts: &'static [&'static str]) -> Boot {
    Boot { expect: Expect::NoReturn(texts), ..vm(name, vcpus) }
}

const fn refused(name: &'static str, fault: Fault, texts: &'static [&'static str]) -> Boot {
    Boot {
        kind: "",
        guest: Guest::Broken(fault),
        expect: Expect::Refused(texts),
        shows: "S10",
        limit: 60,
        ..vm(name, 1)
    }
}

/// A boot of Bochs' model, and on QEMU of the CPU with these words.
const fn on(model: &'static str, cpu: &'static str, boot: Boot) -> Boot {
    Boot { model, pc: Pc { cpu, ..boot.pc }, ..boot }
}

/// A QEMU machine whose CPU lacks something.
const fn without(cpu: &'static str, boot: Boot) -> Boot {
    only(Bed::Qemu, Boot { pc: Pc { cpu, ..boot.pc }, ..boot })
}

/// A QEMU machine with this firmware that boots from this medium.
const fn from(firmware: Firmware, medium: Medium, boot: Boot) -> Boot {
    only(Bed::Qemu, Boot { pc: Pc { firmware, medium, ..boot.pc }, ..boot })
}

const fn only(bed: Bed, boot: Boot) -> Boot {
    Boot { beds: Beds::Only(bed), ..boot }
}

/// A machine with these PCI devices, which only QEMU has.
const fn devices(devices: &'static [Device], boot: Boot) -> Boot {
    only(Bed::Qemu, Boot { pc: Pc { devices, ..boot.pc }, ..boot })
}

/// All 32 bits of an address, so that its DMA reaches the interrupt range.
const EDU: &[Device] = &[Device::Edu { dma_mask: 0xFFFF_FFFF }];
/// The first and the last of them are wired to one pin of the IOAPIC.
const FIVE_EDUS: &[Device] = &[Device::Edu { dma_mask: 0xFFFF_FFFF }; 5];
const IGB: &[Device] = &[Device::Igb];
const XHCI: &[Device] = &[Device::Xhci];

/// A VM with two vCPUs that owns the machine's one PCI device.
const fn owner(device: &'static [Device], function: &'static [&'static str], boot: Boot) -> Boot {
    devices(device, with(Extras { pci: function, ..Extras::NONE }, 2, boot))
}

/// A machine whose devices cannot have two owners.
const fn neighbours(found: &'static [Device], boot: Boot) -> Boot {
    devices(found, Boot { cpus: 3, shows: "S9 S10", ..boot })
}

/// Where QEMU and its firmware put the one device: behind the host bridge, or behind the first root port.
const EDU_AT: &[&str] = &[check::EDU];
const XHCI_AT: &[&str] = EDU_AT;
const IGB_AT: &[&str] = &["pci:0000:01:00.0"];

/// A machine of Bochs' own making, with exactly these features and 64-bit mode and x2APIC.
const fn generic(cpuid: &'static str, boot: Boot) -> Boot {
    only(Bed::Bochs, Boot { model: "bx_generic", cpuid, ..boot })
}

/// A boot that is judged as the demo is.
const fn of_demo(name: &'static str, demo: Demo, cpus: u32, last: Option<&'static str>) -> Boot {
    let boot = Boot {
        // What the owner of the physical functions runs.
        kind: "pf-owner",
        guest: Guest::Devices { demo, word: "" },
        expect: Expect::Passes { last, check: check::devices },
        pc: demo::PC,
        cpus,
        shows: "A1 A3 S9 E1",
        limit: 600,
        ..vm(name, 2)
    };
    only(Bed::Qemu, boot)
}

/// Debian's kernel, which must find these clocks by itself.
const fn linux(clocks: &'static str) -> Boot {
    Boot {
        kind: "",
        guest: Guest::Linux { vcpus: 2, kexec: false },
        expect: Expect::Linux { clocks },
        model: bed::LINUX_MODEL,
        shows: "A6 C1 V5",
        limit: 1200,
        ips: bed::FIGURES_IPS,
        ..vm("linux-rt", 2)
    }
}

/// Every boot of `cargo xtask test`, the longest first.
pub const BOOTS: &[Boot] = &[
    Boot { beds: Beds::AllBut(Bed::Qemu), ..linux("clocksource=tsc clockevent=lapic-deadline") },
    only(Bed::Qemu, linux("clocksource=tsc clockevent=lapic,lapic")),
    // The same functions on a machine without an IOMMU.
    Boot {
        pc: Pc { iommu: false, ..demo::PC },
        shows: "A1 A3",
        ..of_demo("linux-unprotected", Demo::Pci, 3, None)
    },
    Boot {
        guest: Guest::Linux { vcpus: 2, kexec: true },
        expect: Expect::Passes { last: None, check: check::kexec },
        shows: "V5",
        model: bed::LINUX_MODEL,
        limit: 1200,
        ips: bed::FIGURES_IPS,
        ..vm("linux-kexec", 2)
    },
    of_demo("linux-pci", Demo::Pci, 3, None),
    Boot {
        guest: Guest::Devices { demo: Demo::Pci, word: "pci=nomsi" },
        expect: Expect::Passes { last: None, check: check::linux_by_lines },
        shows: "E4",
        ..of_demo("linux-intx", Demo::Pci, 3, None)
    },
    of_demo("linux-sriov", Demo::Sriov, 4, Some("BEELINE vm-stop vm=rt")),
    Boot { limit: 1800, ..with(HOOKS, 2, vm("kick", 2)) },
    Boot { limit: 600, ..vm("smp", 4) },
    vm("up", 1),
    only(Bed::Bochs, on("tigerlake", "", Boot { kind: "up", ..vm("up-tigerlake", 1) })),
    vm("xapic", 2),
    vm("hostile", 1),
    vm("hostile-smp", 2),
    vm("hostile-string", 1),
    Boot { expect: Expect::TestsAnd(check::window), shows: "M1", ..vm("window", 1) },
    with(HOOKS, 1, vm("redeliver", 1)),
    with(Extras { pit: true, ..HOOKS }, 2, vm("pit", 2)),
    with(MODULES, 1, vm("modules", 1)),
    with(Extras { pvh: true, ..MODULES }, 2, vm("pvh", 2)),
    from(Firmware::Uefi, Medium::Cd, Boot { kind: "up", ..vm("uefi", 1) }),
    from(Firmware::Bios, Medium::Usb, Boot { kind: "modules", ..with(MODULES, 1, vm("usb", 1)) }),
    from(
        Firmware::Uefi,
        Medium::Usb,
        Boot { kind: "modules", ..with(MODULES, 1, vm("uefi-usb", 1)) },
    ),
    Boot { expect: Expect::TestsAnd(check::flood), shows: "S8", ..vm("hostile-flood", 1) },
    bare("bare-up", "up", 1),
    Boot { limit: 600, ..bare("bare-smp", "smp", 4) },
    bare("bare-xapic", "xapic", 2),
    bare("bare-redeliver", "redeliver", 1),
    bare("bare-pit", "pit", 2),
    Boot {
        expect: Expect::TestsAnd(check::no_iommu_fault),
        shows: "S9",
        limit: 900,
        ..owner(EDU, EDU_AT, vm("edu", 2))
    },
    owner(EDU, EDU_AT, vm("edu-intx", 2)),
    Boot {
        expect: Expect::TestsAnd(check::empty_lapics),
        shows: "E4",
        ..owner(EDU, EDU_AT, vm("edu-intx-reset", 2))
    },
    devices(
        FIVE_EDUS,
        Boot {
            guest: Guest::TwoVms { pci: [Some(check::EDU), Some(check::OTHER_EDU)] },
            expect: Expect::TestsAnd(check::contested_line),
            shows: "E4",
            cpus: 3,
            ..vm("edu-intx-shared", 1)
        },
    ),
    Boot {
        expect: Expect::TestsAnd(check::no_iommu_fault),
        shows: "S9",
        limit: 600,
        ..owner(IGB, IGB_AT, vm("msix", 2))
    },
    owner(IGB, IGB_AT, vm("igb-line", 2)),
    Boot {
        expect: Expect::TestsAnd(check::no_iommu_fault),
        shows: "S9",
        limit: 600,
        ..owner(XHCI, XHCI_AT, vm("xhci", 2))
    },
    Boot {
        expect: Expect::TestsAnd(check::blocked_dma),
        shows: "S3 S9",
        ..owner(EDU, EDU_AT, vm("hostile-edu", 2))
    },
    Boot { limit: 600, ..devices(EDU, bare("bare-edu", "edu", 2)) },
    devices(IGB, bare("bare-msix", "msix", 2)),
    devices(IGB, bare("bare-igb-line", "igb-line", 2)),
    Boot { limit: 600, ..devices(XHCI, bare("bare-xhci", "xhci", 2)) },
    devices(EDU, bare("bare-edu-intx", "edu-intx", 2)),
    devices(EDU, bare("bare-hostile-edu", "hostile-edu", 2)),
    no_return("hostile-triple", 1, &["triple", "reason=refused"]),
    no_return("hostile-triple-ap", 2, &["triple", "reason=refused"]),
    no_return("hostile-fetch", 1, &["reason=refused"]),
    Boot {
        guest: Guest::TwoVms { pci: [None; 2] },
        expect: Expect::RunsOn { last: "BEELINE vm-stop vm=second reason=power-off", count: 1 },
        cpus: 3,
        ..vm("hostile-sleep", 1)
    },
    Boot { expect: Expect::RunsOn { last: "BEELINE vm-start", count: 4 }, ..vm("reset", 1) },
    Boot {
        expect: Expect::RunsOn { last: "BEELINE vm-start", count: 3 },
        ..vm("restart-state", 1)
    },
    Boot {
        expect: Expect::RunsOn { last: "BEELINE vm-start", count: 9 },
        shows: "S7",
        ..owner(IGB, IGB_AT, vm("restart-function", 2))
    },
    Boot {
        expect: Expect::Panics(&[
            "BEELINE panic core=1",
            "asked for this panic",
            "backtrace:",
            "BEELINE fatal panic",
            "simulated_bug at hypervisor/src/exit/hypercall.rs",
            "hypercall::handle",
        ]),
        shows: "S8",
        limit: 60,
        ..with(HOOKS, 1, vm("panic", 1))
    },
    // The second start prints what the first has left; Bochs with several CPUs does not come back from a reset.
    only(
        Bed::Qemu,
        Boot {
            kind: "window",
            expect: Expect::RunsOn { last: "  | BEELINE done", count: 1 },
            pc: Pc { restarts: true, ..Pc::PLAIN },
            shows: "S8",
            limit: 60,
            ..vm("warm-reset", 1)
        },
    ),
    on(
        "p3_katmai",
        "-lm",
        Boot {
            // It does not get as far as its command line, so it only halts.
            expect: Expect::RunsOn { last: "BEELINE fatal this CPU has no 64-bit mode", count: 1 },
            ..refused("no-64-bit", Fault::Machine, &[])
        },
    ),
    on("p4_prescott_celeron_336", "-x2apic", refused("no-x2apic", Fault::Machine, &["x2APIC"])),
    generic(
        "level=6, mmx=1, sep=1, simd=avx, xsave=1, apic=x2apic, x86_64=1, pcid=1, vmx=0",
        refused("no-vmx", Fault::Machine, &["VMX"]),
    ),
    generic(
        "level=6, mmx=1, sep=1, simd=avx, xsave=1, apic=x2apic, x86_64=1, pcid=1, vmx=1",
        refused("no-ept", Fault::Machine, &["EPT"]),
    ),
    without("-svm", refused("no-svm", Fault::Machine, &["SVM"])),
    without("-npt", refused("no-npt", Fault::Machine, &["nested paging"])),
    refused("no-config", Fault::NoConfig, &["config", "module"]),
    refused("damaged-config", Fault::DamagedConfig, &["checksum"]),
    refused("no-kernel", Fault::NoKernel, &["kernel", "guest.elf"]),
    refused("kernel-is-text", Fault::KernelIsText, &["kernel"]),
    refused("too-much-memory", Fault::TooMuchMemory, &["memory"]),
    Boot {
        pc: Pc { iommu: false, devices: EDU, ..Pc::PLAIN },
        beds: Beds::Only(Bed::Qemu),
        shows: "S9 S10",
        ..refused("no-iommu", Fault::Unconfined(check::EDU), &[check::EDU, "no IOMMU", "VT-d"])
    },
    refused("no-such-core", Fault::NoSuchCore, &["cpus", "core 5"]),
    neighbours(
        &[Device::Bridged],
        refused(
            "shared-requester",
            Fault::TwoOwners(["pci:0000:02:01.0", "pci:0000:02:02.0"]),
            &["pci:0000:02:01.0, and pci:0000:02:02.0", "one requester id", "0000:01:00.0"],
        ),
    ),
    neighbours(
        &[Device::Switched],
        refused(
            "switch-without-acs",
            Fault::TwoOwners(["pci:0000:03:00.0", "pci:0000:04:00.0"]),
            &["pci:0000:03:00.0, and pci:0000:04:00.0", "the switch port 0000:02:00.0"],
        ),
    ),
];
