//! Whole lines out of the bytes of a serial console.

/// Cuts a growing stream into lines.
#[derive(Default)]
pub struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// Takes `bytes` and calls `line` for each line they complete, without its end.
    pub fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.flush(line);
            } else {
                self.open.push(byte);
            }
        }
    }

    /// Ends an unfinished line.
    pub fn end(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.open.is_empty() {
            self.flush(line);
        }
    }

    fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.open);
        line(clean(&text).as_str());
        self.open.clear();
    }
}

/// `text` without carriage returns, terminal sequences and other control characters: a guest
/// must not be able to move the cursor of the terminal that watches it.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                // Parameters, then one letter.
                while chars.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                chars.next();
            } else {
                chars.next();
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&str]) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for part in parts {
            lines.push(part.as_bytes(), &mut |line| seen.push(line.to_string()));
        }
        lines.end(&mut |line| seen.push(line.to_string()));
        seen
    }

    #[test]
    fn lines_may_arrive_in_pieces() {
        assert_eq!(lines(&["GUE", "ST up\r", "\nrest"]), ["GUEST up", "rest"]);
        assert_eq!(lines(&["a\n\nb\n"]), ["a", "", "b"]);
    }

    #[test]
    fn terminal_sequences_vanish() {
        assert_eq!(clean("\u{1b}[H\u{1b}[J\u{1b}[1;1HGRUB\u{1b}c!"), "GRUB!");
        assert_eq!(clean("\u{1b}["), "");
    }
}
