//! The histogram file of cyclictest (`-h N --histfile=FILE`, in nanoseconds with `-N`), as lines
//! that a program reads: its empty rows, nearly all of 60,000, never cross the serial port.

use std::fmt::Write;

/// `GUEST cyclictest …` and `GUEST hist …` for each thread; thread n measured CPU `cpus[n]`.
pub fn lines(text: &str, cpus: &[&str]) -> Result<Vec<String>, String> {
    let mut rows = vec![String::new(); cpus.len()];
    let (mut low, mut mean, mut high) = (None, None, None);
    let (mut total, mut over) = (None, None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            match rest.split_once(": ") {
                Some(("Min Latencies", words)) => low = Some(numbers(words)),
                Some(("Avg Latencies", words)) => mean = Some(numbers(words)),
                Some(("Max Latencies", words)) => high = Some(numbers(words)),
                Some(("Total", words)) => total = Some(numbers(words)),
                Some(("Histogram Overflows", words)) => over = Some(numbers(words)),
                _ => {}
            }
            continue;
        }
        let mut words = line.split_whitespace();
        let Some(value) = words.next().and_then(|word| word.parse::<u64>().ok()) else { continue };
        for (row, count) in rows.iter_mut().zip(words) {
            if count.bytes().any(|digit| digit != b'0') {
                let count = count.trim_start_matches('0');
                let comma = if row.is_empty() { "" } else { "," };
                write!(row, "{comma}{value}:{count}").map_err(|why| why.to_string())?;
            }
        }
    }
    let all =
        [("minima", low), ("means", mean), ("maxima", high), ("totals", total), ("over", over)];
    let mut columns = Vec::new();
    for (name, column) in all {
        match column {
            Some(column) if column.len() == cpus.len() => columns.push(column),
            _ => return Err(format!("the histogram has no {name} of {} threads", cpus.len())),
        }
    }
    let mut lines = Vec::new();
    for (thread, (cpu, row)) in cpus.iter().zip(&rows).enumerate() {
        let n: Vec<u64> = columns.iter().map(|column| column[thread]).collect();
        lines.push(format!(
            "GUEST cyclictest cpu={cpu} min_ns={} avg_ns={} max_ns={} loops={} over={}",
            n[0],
            n[1],
            n[2],
            n[3] + n[4],
            n[4]
        ));
        lines.push(format!("GUEST hist cpu={cpu} {row}"));
    }
    Ok(lines)
}

fn numbers(words: &str) -> Vec<u64> {
    words.split_whitespace().map_while(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::lines;

    const FILE: &str = "# Histogram\n000000 000000\t000000\n000017 000003\t000000\n\
        000018 000100\t000002\n# Total: 000000103 000000002\n# Min Latencies: 00017 00018\n\
        # Avg Latencies: 00017 00018\n# Max Latencies: 00099 00018\n\
        # Histogram Overflows: 00001 00000\n# Histogram Overflow at cycle number:\n# Thread 0: 7\n";

    #[test]
    fn empty_rows_vanish_and_overflows_count_as_loops() {
        let lines = lines(FILE, &["0", "1"]).unwrap();
        assert_eq!(
            lines[0],
            "GUEST cyclictest cpu=0 min_ns=17 avg_ns=17 max_ns=99 loops=104 over=1"
        );
        assert_eq!(lines[1], "GUEST hist cpu=0 17:3,18:100");
        assert_eq!(lines[3], "GUEST hist cpu=1 18:2");
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let cut = &FILE[..FILE.find("# Avg").unwrap()];
        assert!(lines(cut, &["0", "1"]).unwrap_err().contains("means"));
        assert!(lines(FILE, &["0"]).is_err());
    }
}
