//! `beeline host`: has this Linux machine what Beeline needs? One answer per feature, with what to do about
//! each no. The same needs as `hypervisor::boot` and the backends of `arch` have, as far as Linux shows them.

pub mod cpuinfo;
pub mod machine;

use cpuinfo::CpuInfo;
use machine::{Kvm, Machine};
use serde_json::{Value, json};
use std::fmt::Write;

/// Is it there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Not visible from here.
    Unknown,
}

impl From<Option<bool>> for Answer {
    fn from(seen: Option<bool>) -> Self {
        match seen {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Unknown,
        }
    }
}

/// One feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name for programs.
    pub id: &'static str,
    /// Its name for people.
    pub name: &'static str,
    /// Without it Beeline carries no guest here.
    pub needed: bool,
    /// Is it there?
    pub answer: Answer,
    /// What was seen, or why nothing was; may be empty.
    pub seen: String,
    /// What to do about a no.
    pub advice: &'static str,
}

const OLD_CPU: &str = "this CPU is too old, or the outer hypervisor hides it (`-cpu host`)";

/// Judges a machine.
#[must_use]
pub fn judge(machine: &Machine) -> Vec<Feature> {
    let cpu = machine.cpu.as_ref();
    let flag = |name: &str| Answer::from(cpu.map(|cpu| cpu.has(name)));
    let needed = |id, name, answer, advice| Feature {
        id,
        name,
        needed: true,
        answer,
        seen: String::new(),
        advice,
    };
    let mut features = vec![extension(cpu)];
    features.extend(second_stage(machine));
    features.push(needed(
        "x2apic",
        "x2APIC",
        flag("x2apic"),
        "switch x2APIC on in the firmware; in QEMU give `-cpu …,+x2apic`",
    ));
    features.push(needed("xsave", "XSAVE", flag("xsave"), OLD_CPU));
    features.push(cores(cpu));
    let steady = cpu.map(|cpu| cpu.has("constant_tsc") && cpu.has("nonstop_tsc"));
    features.push(Feature {
        needed: false,
        ..needed(
            "invariant-tsc",
            "invariant TSC",
            steady.into(),
            "guests are told that it is: their clocks may drift; in QEMU give `-cpu host,migratable=no,+invtsc`",
        )
    });
    features.push(iommu(machine));
    features.push(nesting(machine));
    features
}

fn extension(cpu: Option<&CpuInfo>) -> Feature {
    let found = cpu.map(|cpu| ["vmx", "svm"].into_iter().find(|flag| cpu.has(flag)));
    Feature {
        id: "virtualisation",
        name: "VMX or SVM",
        needed: true,
        answer: found.map(|found| found.is_some()).into(),
        seen: found.flatten().unwrap_or_default().into(),
        advice: "switch VT-x (Intel) or SVM (AMD) on in the firmware; in a virtual machine, let the outer \
                 hypervisor pass it on (`-cpu host`, nesting)",
    }
}

/// Nested paging, and the parts of VMX that direct delivery rests on.
fn second_stage(machine: &Machine) -> Vec<Feature> {
    let part = |id, name, seen: Option<bool>| Feature {
        id,
        name,
        needed: true,
        answer: seen.into(),
        seen: String::new(),
        advice: OLD_CPU,
    };
    let cpu = machine.cpu.as_ref();
    match cpu {
        Some(cpu) if cpu.has("vmx") => {
            let unrestricted = cpu.vmx_has("unrestricted_guest").or(machine.unrestricted_guest);
            vec![
                part("nested-paging", "EPT", cpu.vmx_has("ept")),
                part("unrestricted-guest", "unrestricted guest", unrestricted),
                part("vpid", "VPID", cpu.vmx_has("vpid")),
                part("virtual-nmis", "virtual NMIs", cpu.vmx_has("vnmi")),
                part("preemption-timer", "preemption timer", cpu.vmx_has("preemption_timer")),
            ]
        }
        Some(cpu) if cpu.has("svm") => vec![part("nested-paging", "NPT", Some(cpu.has("npt")))],
        _ => vec![part("nested-paging", "EPT or NPT", None)],
    }
}

fn cores(cpu: Option<&CpuInfo>) -> Feature {
    let count = cpu.map(|cpu| cpu.processors);
    Feature {
        id: "cores",
        name: "two processors or more",
        needed: true,
        answer: count.map(|count| count >= 2).into(),
        seen: count.map(|count| count.to_string()).unwrap_or_default(),
        advice: "the first one runs no guest: use a machine with another, or switch the others on",
    }
}

fn iommu(machine: &Machine) -> Feature {
    let there = |tables: &Vec<String>, table: &str| tables.iter().any(|name| name == table);
    let (answer, seen) = match &machine.acpi_tables {
        None => (Answer::Unknown, "/sys/firmware/acpi/tables is empty or not there"),
        Some(tables) if there(tables, "DMAR") => (Answer::Yes, "table DMAR"),
        Some(tables) if there(tables, "IVRS") => {
            (Answer::No, "table IVRS: AMD-Vi, which Beeline does not drive yet")
        }
        Some(_) => (Answer::No, "neither table DMAR nor IVRS"),
    };
    Feature {
        id: "iommu",
        name: "IOMMU",
        needed: false,
        answer,
        seen: seen.into(),
        advice: "only a VM that owns PCI functions needs it: switch VT-d on in the firmware",
    }
}

fn nesting(machine: &Machine) -> Feature {
    let nothing = |cpu: &CpuInfo| !cpu.has("vmx") && !cpu.has("svm");
    let (answer, seen) = match (&machine.kvm, machine.nesting) {
        _ if machine.cpu.as_ref().is_some_and(nothing) => {
            (Answer::No, "neither VMX nor SVM".into())
        }
        (Kvm::Absent, _) => (Answer::No, "no /dev/kvm".into()),
        (Kvm::Closed(why), _) => (Answer::No, format!("/dev/kvm: {why}")),
        (Kvm::Open, Some(false)) => (Answer::No, "/dev/kvm, but nesting is off".into()),
        (Kvm::Open, Some(true)) => (Answer::Yes, "/dev/kvm".into()),
        // KVM built into Linux can hide its parameters.
        (Kvm::Open, None) => (Answer::Unknown, "/dev/kvm, but no parameter `nested`".into()),
    };
    Feature {
        id: "kvm-nesting",
        name: "nested KVM",
        needed: false,
        answer,
        seen,
        advice: "only `cargo xtask run --bed kvm` uses it: load kvm_intel or kvm_amd with nested=1, join group kvm",
    }
}

/// Can Beeline carry guests here? `None` if nothing is missing but something was not visible.
#[must_use]
pub fn ready(features: &[Feature]) -> Option<bool> {
    let needed = || features.iter().filter(|feature| feature.needed);
    if needed().any(|feature| feature.answer == Answer::No) {
        Some(false)
    } else {
        needed().all(|feature| feature.answer == Answer::Yes).then_some(true)
    }
}

/// One line per feature, then the sum.
#[must_use]
pub fn text(features: &[Feature]) -> String {
    let mut text = String::new();
    for feature in features {
        let (answer, advice) = match feature.answer {
            Answer::Yes => ("yes", ""),
            Answer::No => ("no", feature.advice),
            Answer::Unknown => ("?", "not visible from here"),
        };
        let seen =
            if feature.seen.is_empty() { String::new() } else { format!(" ({})", feature.seen) };
        let optional = if feature.needed { "" } else { ", optional" };
        let colon = if advice.is_empty() { "" } else { ": " };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{answer:<4} {}{optional}{seen}{colon}{advice}", feature.name);
    }
    text += match ready(features) {
        Some(true) => "This machine can run Beeline.\n",
        Some(false) => "This machine cannot run Beeline: see each \"no\" that is not optional.\n",
        None => "Nothing is missing as far as can be seen; Beeline's own boot looks at the rest.\n",
    };
    text
}

/// The same for programs.
#[must_use]
pub fn value(features: &[Feature]) -> Value {
    let feature = |feature: &Feature| {
        json!({
            "id": feature.id,
            "name": feature.name,
            "needed": feature.needed,
            "present": match feature.answer {
                Answer::Yes => json!(true),
                Answer::No => json!(false),
                Answer::Unknown => Value::Null,
            },
            "seen": feature.seen,
            "advice": if feature.answer == Answer::No { feature.advice } else { "" },
        })
    };
    json!({"ready": ready(features), "features": features.iter().map(feature).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests;
