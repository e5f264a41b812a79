//! Are all measuring threads of a program at work?

use std::error::Error;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// A thread that slept this often is in its measuring loop.
const SLEEPS: u64 = 5;
const POLL: Duration = Duration::from_millis(20);

/// Waits until `count` threads of process `pid`, its first thread not among them, have slept in
/// their loop. False when the process ended before that.
pub fn wait_until_running(pid: u32, count: usize) -> Result<bool, Box<dyn Error>> {
    loop {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(false) };
        let mut running = 0;
        for task in tasks {
            let task = task?;
            if task.file_name().to_str() == Some(pid.to_string().as_str()) {
                continue;
            }
            // A thread may end between the listing and the reading.
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            running += usize::from(sleeps(&status) >= SLEEPS);
        }
        if running >= count {
            return Ok(true);
        }
        if fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_zombie(&stat)) {
            return Ok(false);
        }
        sleep(POLL);
    }
}

fn sleeps(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

fn is_zombie(stat: &str) -> bool {
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_are_the_voluntary_switches() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t42\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(sleeps(status), 42);
        assert_eq!(sleeps(""), 0);
    }

    #[test]
    fn a_name_with_a_parenthesis_does_not_confuse_the_state() {
        assert!(is_zombie("12 (a) S b) Z 1 1"));
        assert!(!is_zombie("12 (a) Z b) S 1 1"));
    }
}
