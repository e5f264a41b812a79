//! What Linux lets anybody see of the machine, in `/proc`, `/sys` and `/dev`.

use super::cpuinfo::CpuInfo;
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

/// Can `/dev/kvm` be used?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// It is not there.
    Absent,
    /// It cannot be opened, for this reason.
    Closed(String),
    /// Yes.
    Open,
}

/// All that is looked at. `None` is what cannot be seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `/proc/cpuinfo`.
    pub cpu: Option<CpuInfo>,
    /// KVM's word on unrestricted guests (Intel only).
    pub unrestricted_guest: Option<bool>,
    /// Names of the firmware's ACPI tables.
    pub acpi_tables: Option<Vec<String>>,
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// Does KVM let its guests use VMX or SVM?
    pub nesting: Option<bool>,
}

impl Machine {
    /// This machine, or, for tests, what is under `root` instead of `/`.
    #[must_use]
    pub fn look(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let parameter = |name: &str| {
            ["intel", "amd"].iter().find_map(|vendor| {
                switch(&text(&format!("sys/module/kvm_{vendor}/parameters/{name}"))?)
            })
        };
        Self {
            cpu: text("proc/cpuinfo").map(|text| CpuInfo::parse(&text)),
            unrestricted_guest: parameter("unrestricted_guest"),
            acpi_tables: names(&root.join("sys/firmware/acpi/tables")),
            kvm: kvm(&root.join("dev/kvm")),
            nesting: parameter("nested"),
        }
    }
}

/// A module's parameter: `Y`, `N`, `1` or `0`.
fn switch(text: &str) -> Option<bool> {
    match text.trim() {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

fn names(dir: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(dir).ok()?;
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let names: Vec<String> = entries.filter_map(name).collect();
    // Each machine with ACPI has tables: an empty folder is a container's.
    (!names.is_empty()).then_some(names)
}

fn kvm(device: &Path) -> Kvm {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Kvm::Open,
        Err(why) if why.kind() == ErrorKind::NotFound => Kvm::Absent,
        Err(why) => Kvm::Closed(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        let nothing = Machine::look(root.path());
        assert_eq!((nothing.cpu, nothing.acpi_tables, nothing.nesting), (None, None, None));
        assert_eq!(nothing.kvm, Kvm::Absent);
        let put = |path: &str, text: &str| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        put("proc/cpuinfo", "processor : 0\nflags : svm\n");
        put("sys/module/kvm_amd/parameters/nested", "1\n");
        put("sys/module/kvm_intel/parameters/unrestricted_guest", "N\n");
        put("sys/firmware/acpi/tables/IVRS", "");
        put("dev/kvm", "");
        let machine = Machine::look(root.path());
        assert!(machine.cpu.unwrap().has("svm"));
        assert_eq!(machine.acpi_tables.unwrap(), ["IVRS"]);
        assert_eq!((machine.nesting, machine.unrestricted_guest), (Some(true), Some(false)));
        assert_eq!(machine.kvm, Kvm::Open);
    }
}
