//! The local timer interrupts of each CPU, from `/proc/interrupts`.

use std::error::Error;
use std::fs;

/// Local timer interrupts so far, by CPU in the order of the columns (the CPUs online).
pub fn local_timer() -> Result<Vec<u64>, Box<dyn Error>> {
    local_timer_in(&fs::read_to_string("/proc/interrupts")?)
}

/// The same in `text`, the content of that file.
pub fn local_timer_in(text: &str) -> Result<Vec<u64>, Box<dyn Error>> {
    parse(text).ok_or_else(|| "/proc/interrupts has no LOC line".into())
}

fn parse(text: &str) -> Option<Vec<u64>> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("LOC:"))?;
    let counts: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    (!counts.is_empty()).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_numbers_end_where_the_words_start() {
        let text = "            CPU0       CPU1\n   0:   51   0  IO-APIC 2-edge timer\n\
                    NMI:   0   0   Non-maskable interrupts\n\
                    LOC:   8123   77   Local timer interrupts\n";
        assert_eq!(parse(text), Some(vec![8123, 77]));
        assert_eq!(parse("NMI: 1\n"), None);
        assert_eq!(parse("LOC: Local\n"), None);
    }
}
