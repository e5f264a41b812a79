//! The words of the kernel command line. Pure parsing, so it is unit-tested on the host.

/// How the guest ends a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Halt: somebody else notices the last line.
    Halt,
    /// Bochs' port 0x8900.
    Bochs,
    /// QEMU's `isa-debug-exit` at port 0xF4.
    IsaDebug,
    /// ACPI SLEEP_CONTROL, as Beeline offers it.
    Acpi,
}

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// The group of tests to run.
    pub boot: &'a str,
    /// Only tests whose name contains this.
    pub filter: &'a str,
    /// CPUs of the machine; their x2APIC ids are 0 to `cpus - 1`.
    pub cpus: usize,
    /// There is no hypervisor below.
    pub bare: bool,
    /// The machine is QEMU's TCG, which leaves out some of what the manuals say.
    pub tcg: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// How to end.
    pub exit: Exit,
    /// Ticks of the TSC per second, when the command line knows better than CPUID.
    pub tsc_hz: Option<u64>,
}

/// Parses `line`; unknown words are ignored (a boot loader may put the kernel's path first).
pub fn parse(line: &str, max_cpus: usize) -> Options<'_> {
    let mut options = Options {
        boot: "up",
        filter: "",
        cpus: 1,
        bare: false,
        tcg: false,
        seed: 1,
        exit: Exit::Halt,
        tsc_hz: None,
    };
    for word in line.split_ascii_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "boot" => options.boot = value,
            "filter" => options.filter = value,
            "cpus" => options.cpus = value.parse().unwrap_or(1).clamp(1, max_cpus),
            "bare" => options.bare = true,
            "tcg" => options.tcg = true,
            "seed" => options.seed = value.parse().unwrap_or(1),
            "exit" => {
                options.exit = match value {
                    "bochs" => Exit::Bochs,
                    "debug-exit" => Exit::IsaDebug,
                    "acpi" => Exit::Acpi,
                    _ => Exit::Halt,
                }
            }
            "tsc_hz" => options.tsc_hz = value.parse().ok(),
            _ => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_any_order() {
        let o =
            parse("/boot/guest.elf exit=acpi boot=smp cpus=4 bare seed=77 filter=v4 tsc_hz=10", 8);
        assert_eq!(o.boot, "smp");
        assert_eq!((o.cpus, o.seed, o.tsc_hz), (4, 77, Some(10)));
        assert_eq!((o.exit, o.bare, o.tcg, o.filter), (Exit::Acpi, true, false, "v4"));
        assert!(parse("tcg", 8).tcg);
    }

    #[test]
    fn nonsense_leaves_the_defaults() {
        let o = parse("cpus=many seed= exit=now tsc_hz=x frob =", 8);
        assert_eq!((o.cpus, o.seed, o.exit, o.tsc_hz), (1, 1, Exit::Halt, None));
        assert_eq!(parse("exit=debug-exit", 8).exit, Exit::IsaDebug);
        assert_eq!(parse("cpus=99", 8).cpus, 8);
        assert_eq!(parse("cpus=0", 8).cpus, 1);
    }
}
