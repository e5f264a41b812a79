//! Whole machines, judged by samples of `/proc/cpuinfo` as Linux prints them (flags that nobody looks at are left out).

use super::*;

const SKYLAKE: &str = "\
processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu vme de pse tsc msr lm constant_tsc nonstop_tsc vmx x2apic xsave avx tpr_shadow vnmi flexpriority ept vpid ept_ad
vmx flags\t: vnmi preemption_timer posted_intr invvpid ept_x_only ept_ad ept_1gb flexpriority apicv tsc_offset vtpr mtf vapic ept vpid unrestricted_guest vapic_reg vid ple pml

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu vme de pse tsc msr lm constant_tsc nonstop_tsc vmx x2apic xsave avx tpr_shadow vnmi flexpriority ept vpid ept_ad
vmx flags\t: vnmi preemption_timer posted_intr invvpid ept_x_only ept_ad ept_1gb flexpriority apicv tsc_offset vtpr mtf vapic ept vpid unrestricted_guest vapic_reg vid ple pml
";

const ROME: &str = "\
processor\t: 0
vendor_id\t: AuthenticAMD
flags\t\t: fpu lm constant_tsc nonstop_tsc svm x2apic xsave npt lbrv svm_lock nrip_save
processor\t: 1
vendor_id\t: AuthenticAMD
flags\t\t: fpu lm constant_tsc nonstop_tsc svm x2apic xsave npt lbrv svm_lock nrip_save
";

/// A rented virtual machine: the outer hypervisor passes no VMX on.
const CLOUD: &str = "\
processor\t: 0
vendor_id\t: GenuineIntel
flags\t\t: fpu lm constant_tsc nonstop_tsc x2apic xsave hypervisor
";

fn machine(cpuinfo: &str) -> Machine {
    Machine {
        cpu: Some(CpuInfo::parse(cpuinfo)),
        unrestricted_guest: None,
        acpi_tables: Some(vec!["FACP".into(), "DMAR".into()]),
        kvm: Kvm::Open,
        nesting: Some(true),
    }
}

fn answer(features: &[Feature], id: &str) -> Answer {
    features.iter().find(|feature| feature.id == id).unwrap().answer
}

#[test]
fn an_intel_server_is_ready() {
    let features = judge(&machine(SKYLAKE));
    assert!(features.iter().all(|feature| feature.answer == Answer::Yes), "{features:#?}");
    assert_eq!(ready(&features), Some(true));
    let text = text(&features);
    for line in ["yes  VMX or SVM (vmx)\n", "yes  EPT\n", "yes  IOMMU, optional (table DMAR)\n"] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn an_amd_server_is_ready_without_the_parts_of_vmx() {
    let features = judge(&Machine { acpi_tables: Some(vec!["IVRS".into()]), ..machine(ROME) });
    assert_eq!(ready(&features), Some(true));
    assert!(text(&features).contains("yes  VMX or SVM (svm)\nyes  NPT\nyes  x2APIC\n"));
    assert!(features.iter().all(|feature| feature.id != "unrestricted-guest"));
    // Its IOMMU is there, but of no use to Beeline.
    assert_eq!(answer(&features, "iommu"), Answer::No);
    assert!(text(&features).contains("(table IVRS: AMD-Vi"));
}

#[test]
fn a_virtual_machine_without_vmx_is_told_what_to_do() {
    let features = judge(&machine(CLOUD));
    assert_eq!(ready(&features), Some(false));
    assert_eq!(answer(&features, "virtualisation"), Answer::No);
    assert_eq!(answer(&features, "nested-paging"), Answer::Unknown);
    assert_eq!(answer(&features, "cores"), Answer::No);
    let text = text(&features);
    assert!(text.contains("no   VMX or SVM: switch VT-x"), "{text}");
    assert!(text.contains("?    EPT or NPT: not visible from here\n"), "{text}");
    // A device without the extension behind it nests nothing.
    assert!(text.contains("no   nested KVM, optional (neither VMX nor SVM): only"), "{text}");
}

#[test]
fn nested_kvm_needs_the_device_and_the_switch() {
    let seen = |kvm, nesting| {
        let features = judge(&Machine { kvm, nesting, ..machine(SKYLAKE) });
        assert_eq!(ready(&features), Some(true), "it is optional");
        answer(&features, "kvm-nesting")
    };
    assert_eq!(seen(Kvm::Open, Some(true)), Answer::Yes);
    assert_eq!(seen(Kvm::Open, Some(false)), Answer::No);
    assert_eq!(seen(Kvm::Open, None), Answer::Unknown);
    assert_eq!(seen(Kvm::Absent, None), Answer::No);
    assert_eq!(seen(Kvm::Closed("permission denied".into()), Some(true)), Answer::No);
}

#[test]
fn each_missing_feature_is_a_no() {
    for (flag, id) in [
        ("x2apic", "x2apic"),
        ("xsave", "xsave"),
        ("vnmi", "virtual-nmis"),
        ("vpid", "vpid"),
        ("ept", "nested-paging"),
        ("unrestricted_guest", "unrestricted-guest"),
        ("preemption_timer", "preemption-timer"),
        ("nonstop_tsc", "invariant-tsc"),
    ] {
        let without: String = SKYLAKE
            .lines()
            .map(|line| {
                line.split(' ').filter(|word| *word != flag).collect::<Vec<_>>().join(" ") + "\n"
            })
            .collect();
        let features = judge(&machine(&without));
        let missing: Vec<&str> =
            features.iter().filter(|f| f.answer == Answer::No).map(|f| f.id).collect();
        assert_eq!(missing, [id]);
        assert_eq!(ready(&features), Some(id == "invariant-tsc"), "{id}");
    }
}

#[test]
fn what_an_old_linux_hides_kvm_may_tell() {
    let old: String = SKYLAKE
        .lines()
        .filter(|line| !line.starts_with("vmx"))
        .map(|line| format!("{line}\n"))
        .collect();
    let features = judge(&machine(&old));
    assert_eq!(answer(&features, "nested-paging"), Answer::Yes);
    assert_eq!(answer(&features, "unrestricted-guest"), Answer::Unknown);
    assert_eq!(ready(&features), None);
    let told = |word| judge(&Machine { unrestricted_guest: Some(word), ..machine(&old) });
    assert_eq!(answer(&told(true), "unrestricted-guest"), Answer::Yes);
    assert_eq!(ready(&told(false)), Some(false));
}

#[test]
fn a_container_sees_little() {
    let features = judge(&Machine {
        cpu: None,
        unrestricted_guest: None,
        acpi_tables: None,
        kvm: Kvm::Closed("permission denied".into()),
        nesting: None,
    });
    assert_eq!(ready(&features), None);
    let value = value(&features);
    assert_eq!(value["ready"], Value::Null);
    let find = |id: &str| {
        value["features"]
            .as_array()
            .unwrap()
            .iter()
            .find(|feature| feature["id"] == id)
            .unwrap()
            .clone()
    };
    assert_eq!(find("x2apic")["present"], Value::Null);
    assert_eq!(find("x2apic")["advice"], "");
    assert_eq!(find("kvm-nesting")["present"], false);
    assert!(find("kvm-nesting")["seen"].as_str().unwrap().contains("permission denied"));
}

#[test]
fn a_machine_whose_iommu_is_off_is_ready_all_the_same() {
    let features = judge(&Machine { acpi_tables: Some(vec!["FACP".into()]), ..machine(SKYLAKE) });
    assert_eq!(answer(&features, "iommu"), Answer::No);
    assert_eq!(ready(&features), Some(true));
    assert!(
        text(&features).contains("no   IOMMU, optional (neither table DMAR nor IVRS): only a VM")
    );
}
