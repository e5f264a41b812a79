//! `/proc/cpuinfo`, as far as Beeline's needs are in it. Linux hides a flag that the firmware has locked off.

use std::collections::BTreeSet;

/// What all processors of the machine have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuInfo {
    /// How many there are.
    pub processors: usize,
    /// `GenuineIntel`, `AuthenticAMD`, …; empty if it is not said.
    pub vendor: String,
    flags: BTreeSet<String>,
    /// Linux 5.6 and newer list VMX's parts on a line of their own.
    vmx_flags: Option<BTreeSet<String>>,
}

impl CpuInfo {
    /// Reads the file's text. A flag counts that every processor has.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut info = Self::default();
        let mut first = true;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let words = || value.split_whitespace().map(String::from).collect::<BTreeSet<_>>();
            match key.trim() {
                "processor" => info.processors += 1,
                "vendor_id" => info.vendor = value.trim().into(),
                "flags" if first => {
                    info.flags = words();
                    first = false;
                }
                "flags" => info.flags = &info.flags & &words(),
                "vmx flags" => {
                    let words = words();
                    info.vmx_flags =
                        Some(info.vmx_flags.map_or_else(|| words.clone(), |all| &all & &words));
                }
                _ => {}
            }
        }
        info
    }

    /// Is `flag` among the CPU's flags?
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// Has VMX the part `flag`? `None` where this Linux does not say.
    #[must_use]
    pub fn vmx_has(&self, flag: &str) -> Option<bool> {
        /// Parts that Linux of any age names among the flags, if the CPU has them.
        const OLD: [&str; 5] = ["tpr_shadow", "vnmi", "flexpriority", "ept", "vpid"];
        match &self.vmx_flags {
            Some(parts) => Some(parts.contains(flag)),
            None if !OLD.contains(&flag) => None,
            None => OLD.iter().any(|part| self.has(part)).then(|| self.has(flag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_counts_that_every_processor_has() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx x2apic\n\
                    vmx flags\t: vnmi ept unrestricted_guest\nbugs\t\t: spectre_v1\n\n\
                    processor\t: 1\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n\
                    vmx flags\t: vnmi ept\n";
        let info = CpuInfo::parse(text);
        assert_eq!((info.processors, info.vendor.as_str()), (2, "GenuineIntel"));
        assert!(info.has("vmx") && !info.has("x2apic") && !info.has("spectre_v1"));
        assert_eq!(info.vmx_has("ept"), Some(true));
        assert_eq!(info.vmx_has("unrestricted_guest"), Some(false));
    }

    #[test]
    fn an_old_linux_names_some_parts_only() {
        let old = CpuInfo::parse("processor : 0\nflags : vmx tpr_shadow vnmi ept\n");
        assert_eq!(old.vmx_has("ept"), Some(true));
        assert_eq!(old.vmx_has("vpid"), Some(false));
        assert_eq!(old.vmx_has("unrestricted_guest"), None);
        let silent = CpuInfo::parse("processor : 0\nflags : vmx\n");
        assert_eq!(silent.vmx_has("ept"), None);
    }

    #[test]
    fn nonsense_has_nothing() {
        for text in ["", "flags", ":::", "flags :", "Processor\t: ARMv7\nFeatures : vmx\n"] {
            let info = CpuInfo::parse(text);
            assert!(!info.has("vmx") && info.vmx_has("ept").is_none(), "{text:?}");
        }
    }
}
