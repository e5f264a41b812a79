//! busybox' `ping`, which runs beside the window's reader and sends a request as soon as the last one
//! was answered.

use std::error::Error;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// A running ping.
pub struct Ping(Child);

impl Ping {
    /// Starts it on `cpu`.
    pub fn start(address: &str, cpu: usize) -> Result<Self, Box<dyn Error>> {
        let mask = format!("{:x}", 1_u64 << cpu);
        let child = Command::new("taskset")
            // Without -w it would wait for ever, whatever happens to us.
            .args([mask.as_str(), "ping", "-A", "-q", "-w", "600", address])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Ends it, and prints what it has seen.
    pub fn end(mut self) -> Result<(), Box<dyn Error>> {
        if self.0.try_wait()?.is_some() {
            return Err("ping ended before the window did".into());
        }
        Command::new("kill").args(["-INT", &self.0.id().to_string()]).status()?;
        let mut text = String::new();
        if let Some(mut output) = self.0.stdout.take() {
            output.read_to_string(&mut text)?;
        }
        self.0.wait()?;
        println!("{}", line(&text).ok_or_else(|| format!("ping said: {}", text.trim()))?);
        Ok(())
    }
}

/// `GUEST ping …` out of ping's summary.
fn line(text: &str) -> Option<String> {
    let counts = text.lines().find(|line| line.contains("packets transmitted"))?;
    let mut numbers = counts.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let (sent, answered) = (numbers.next()?, numbers.next()?);
    let times = text.lines().find_map(|line| line.strip_prefix("round-trip min/avg/max = "))?;
    let times = times.strip_suffix(" ms")?;
    let mut us = times.split('/').map(microseconds);
    let (min, avg, max) = (us.next()??, us.next()??, us.next()??);
    Some(format!(
        "GUEST ping sent={sent} answered={answered} min_us={min} avg_us={avg} max_us={max}"
    ))
}

/// Milliseconds with three decimals.
fn microseconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    if part.len() != 3 {
        return None;
    }
    Some(whole.parse::<u64>().ok()? * 1000 + part.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_becomes_a_line() {
        let text = "PING 10.0.2.2 (10.0.2.2): 56 data bytes\n\n--- 10.0.2.2 ping statistics ---\n\
                    812 packets transmitted, 811 packets received, 0% packet loss\n\
                    round-trip min/avg/max = 0.301/1.020/12.004 ms\n";
        assert_eq!(
            line(text).as_deref(),
            Some("GUEST ping sent=812 answered=811 min_us=301 avg_us=1020 max_us=12004")
        );
        assert_eq!(line("1 packets transmitted, 0 packets received, 100% packet loss\n"), None);
        assert_eq!(microseconds("1.5"), None);
    }
}
