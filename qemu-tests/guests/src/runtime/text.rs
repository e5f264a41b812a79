//! Text in a fixed buffer: reasons of failures and details of successes. Longer text is cut, never an error.

use core::fmt;

/// Up to 200 bytes of text.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; 200],
    len: usize,
}

impl Text {
    /// No text yet.
    pub const fn new() -> Self {
        Self { bytes: [0; 200], len: 0 }
    }

    /// Formats `arguments`.
    pub fn format(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        // Writing to a Text cannot fail.
        let _ = fmt::Write::write_fmt(&mut text, arguments);
        text
    }

    /// The text so far.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("(cut inside a character)")
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let n = s.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

impl From<&str> for Text {
    fn from(s: &str) -> Self {
        Self::format(format_args!("{s}"))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a test ended; `Err` holds the reason.
pub type Outcome<T = ()> = Result<T, Text>;

/// Ends the test with a formatted reason.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::runtime::text::Text::format(format_args!($($arg)*)))
    };
}

/// Ends the test with a reason unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($arg:tt)*) => {
        if !$condition {
            $crate::runtime::text::fail!($($arg)*);
        }
    };
}

/// Ends the test unless both values are equal; the reason shows both.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($arg:tt)*) => {{
        let (left, right) = ($left, $right);
        if left != right {
            $crate::runtime::text::fail!(
                "{}: {:x?} instead of {:x?} (hex)", format_args!($($arg)*), left, right
            );
        }
    }};
}

pub(crate) use {ensure, ensure_eq, fail};
