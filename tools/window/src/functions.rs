//! The PCI functions whose drivers take interrupts, by message or by their line, and how many of these each CPU took.

use std::error::Error;
use std::fs;
use std::path::Path;

const DEVICES: &str = "/sys/bus/pci/devices";

/// A function with a driver.
#[derive(Debug)]
pub struct Function {
    /// Its address in the guest.
    pub address: String,
    /// The driver's name.
    pub driver: String,
    /// Its interrupts, as Linux numbers them.
    interrupts: Vec<u32>,
}

/// Every function with a driver and messages, or a line where it has no messages, in the order of their addresses.
pub fn all() -> Result<Vec<Function>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let entry = entry?;
        let Ok(driver) = fs::read_link(entry.path().join("driver")) else { continue };
        let mut interrupts = messages(&entry.path());
        interrupts.sort_unstable();
        if interrupts.is_empty() {
            interrupts.extend(line(&entry.path()));
        }
        if interrupts.is_empty() {
            continue;
        }
        found.push(Function {
            address: entry.file_name().to_string_lossy().into_owned(),
            driver: driver.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            interrupts,
        });
    }
    found.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(found)
}

fn messages(function: &Path) -> Vec<u32> {
    let Ok(messages) = fs::read_dir(function.join("msi_irqs")) else { return Vec::new() };
    messages.flatten().filter_map(|m| m.file_name().to_str()?.parse().ok()).collect()
}

fn line(function: &Path) -> Option<u32> {
    let number = fs::read_to_string(function.join("irq")).ok()?.trim().parse().ok()?;
    (number != 0).then_some(number)
}

/// The function behind a network interface or an NVMe block device, by its place in sysfs.
pub fn of<'a>(functions: &'a [Function], device: &Path) -> Option<&'a Function> {
    // A namespace that several controllers can reach stands below none of them.
    let place = fs::canonicalize(device).ok()?;
    let place = place.to_string_lossy();
    functions.iter().find(|function| place.split('/').any(|part| part == function.address))
}

impl Function {
    /// Its interrupts so far by CPU, in `text`, the content of `/proc/interrupts`.
    pub fn counts(&self, text: &str) -> Vec<u64> {
        let mut sums = vec![0; cpus(text)];
        for line in text.lines() {
            let Some((number, rest)) = line.split_once(':') else { continue };
            if number.trim().parse().is_ok_and(|number| self.interrupts.contains(&number)) {
                for (sum, count) in sums.iter_mut().zip(rest.split_whitespace()) {
                    *sum += count.parse::<u64>().unwrap_or(0);
                }
            }
        }
        sums
    }

    /// Lets `cpu` take all its interrupts from now on.
    pub fn move_to(&self, cpu: usize) -> Result<(), Box<dyn Error>> {
        for number in &self.interrupts {
            let file = format!("/proc/irq/{number}/smp_affinity_list");
            fs::write(&file, cpu.to_string()).map_err(|why| format!("{file}: {why}"))?;
        }
        Ok(())
    }
}

/// CPUs online: the columns of `/proc/interrupts`.
pub fn cpus(text: &str) -> usize {
    text.lines().next().map_or(0, |head| head.split_whitespace().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU1\n 24:   5   1  PCI-MSI 1048576-edge  nvme0q0\n\
        25:  900  0  PCI-MSI 1048577-edge  nvme0q1\n 26: 7 70 PCI-MSI 524288-edge eth0\n\
        LOC: 1 2 Local timer interrupts\n";

    #[test]
    fn a_functions_interrupts_are_summed_by_cpu() {
        let nvme = Function {
            address: "0000:00:02.0".into(),
            driver: "nvme".into(),
            interrupts: vec![24, 25],
        };
        assert_eq!(nvme.counts(TEXT), [905, 1]);
        assert_eq!(nvme.counts(""), [0; 0]);
        assert_eq!(cpus(TEXT), 2);
    }
}
