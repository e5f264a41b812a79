//! Threads of a program: do its measuring threads sleep, and where may its others run?

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::error::Error;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(20);
/// SCHED_FIFO in `/proc/PID/task/TID/stat`.
const FIFO: &str = "1";

/// Waits until `count` real-time threads of process `pid` sleep at the same time. False when the
/// process ended before that.
pub fn wait_until_asleep(pid: u32, count: usize) -> Result<bool, Box<dyn Error>> {
    loop {
        let Some(stats) = stats(pid)? else { return Ok(false) };
        if stats.iter().filter(|stat| sleeps_in_real_time(stat)).count() >= count {
            return Ok(true);
        }
        if stats.iter().all(|stat| is_zombie(stat)) {
            return Ok(false);
        }
        sleep(POLL);
    }
}

/// Binds a thread to the first CPU: the calling one, or the first thread of a process, which only
/// waits for the others. Else the scheduler moves it to whichever CPU is idle at its wake-up, by an
/// IPI that no measuring thread asked for.
pub fn keep_on_first_cpu(pid: Option<u32>) -> Result<(), Box<dyn Error>> {
    let mut first = CpuSet::new();
    first.set(0);
    let thread = match pid {
        Some(pid) => Some(Pid::from_raw(pid.try_into()?).ok_or("no process has the id 0")?),
        None => None,
    };
    Ok(sched_setaffinity(thread, &first)?)
}

/// The `stat` lines of all threads; `None` without such a process.
fn stats(pid: u32) -> Result<Option<Vec<String>>, Box<dyn Error>> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Ok(None) };
    let mut stats = Vec::new();
    for task in tasks {
        // A thread may end between the listing and the reading.
        stats.extend(fs::read_to_string(task?.path().join("stat")));
    }
    Ok(Some(stats))
}

/// Field `number` of a `stat` line, as proc(5) numbers them, from 3 on: those behind the name.
fn field(stat: &str, number: usize) -> Option<&str> {
    stat.rsplit(')').next()?.split_whitespace().nth(number.checked_sub(3)?)
}

fn is_zombie(stat: &str) -> bool {
    field(stat, 3) == Some("Z")
}

fn is_real_time(stat: &str) -> bool {
    field(stat, 41) == Some(FIFO)
}

fn sleeps_in_real_time(stat: &str) -> bool {
    is_real_time(stat) && field(stat, 3) == Some("S")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: &str, policy: &str) -> String {
        let between = vec!["0"; 37].join(" ");
        format!("12 ({name}) {state} {between} {policy} 0 0 0\n")
    }

    #[test]
    fn a_measuring_thread_is_a_sleeping_fifo_thread() {
        assert!(sleeps_in_real_time(&stat("x", "S", "1")));
        assert!(!sleeps_in_real_time(&stat("x", "R", "1")));
        assert!(!sleeps_in_real_time(&stat("x", "S", "0")));
        assert!(!sleeps_in_real_time(""));
    }

    #[test]
    fn a_name_with_a_parenthesis_does_not_confuse_the_state() {
        assert!(is_zombie("12 (a) S b) Z 1 1"));
        assert!(!is_zombie("12 (a) Z b) S 1 1"));
        assert!(sleeps_in_real_time(&stat("a) Z", "S", "1")));
    }

    #[test]
    fn the_fields_are_those_of_the_kernel() {
        // This thread is no real-time thread, and it runs.
        let own = fs::read_to_string("/proc/thread-self/stat").unwrap();
        assert_eq!((field(&own, 3), field(&own, 41)), (Some("R"), Some("0")));
    }
}
