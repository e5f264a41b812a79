//! Sizes as people write them: `"1G"`, `"512M"`, `"64K"`, `"1048576"`.
//!
//! [`parse_size`] is called by the tool for command-line options; the serde half is how
//! [`super::VmConfig::memory`] is read from TOML (text or number) and from a packed
//! configuration (number).

use core::fmt;
use serde::{Deserializer, Serializer, de};

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// There are no digits.
    NoDigits,
    /// The text after the digits is not `K`, `M` or `G`.
    UnknownSuffix,
    /// The size does not fit in 64 bits.
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDigits => "size does not start with a number: write for example \"512M\"",
            Self::UnknownSuffix => {
                "size ends in an unknown suffix: use K, M or G (powers of 1024), or plain bytes"
            }
            Self::TooLarge => "size does not fit in 64 bits: write a smaller number",
        })
    }
}

impl core::error::Error for SizeError {}

/// Bytes meant by `text`: digits and at most one suffix `K`, `M` or `G` (either case, powers of 1024).
///
/// # Errors
/// [`SizeError`] says which part of the text is wrong.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    if digits.is_empty() {
        return Err(SizeError::NoDigits);
    }
    let unit: u64 = match suffix {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return Err(SizeError::UnknownSuffix),
    };
    let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(unit).ok_or(SizeError::TooLarge)
}

pub(super) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(*bytes)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    if deserializer.is_human_readable() {
        deserializer.deserialize_any(SizeVisitor)
    } else {
        // A packed configuration does not describe itself: it must be asked for the exact type.
        deserializer.deserialize_u64(SizeVisitor)
    }
}

struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"512M\", or a number of bytes")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
        u64::try_from(bytes).map_err(|_| E::custom("a size cannot be negative"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        parse_size(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_suffixes_and_plain_bytes() {
        assert_eq!(parse_size("64K"), Ok(64 << 10));
        assert_eq!(parse_size("512m"), Ok(512 << 20));
        assert_eq!(parse_size(" 2G "), Ok(2 << 30));
        assert_eq!(parse_size("4096"), Ok(4096));
    }

    #[test]
    fn refuses_what_is_not_a_size() {
        assert_eq!(parse_size(""), Err(SizeError::NoDigits));
        assert_eq!(parse_size("M"), Err(SizeError::NoDigits));
        assert_eq!(parse_size("-1"), Err(SizeError::NoDigits));
        assert_eq!(parse_size("1T"), Err(SizeError::UnknownSuffix));
        assert_eq!(parse_size("1GiB"), Err(SizeError::UnknownSuffix));
        assert_eq!(parse_size("99999999999999999999"), Err(SizeError::TooLarge));
        assert_eq!(parse_size("18446744073709551615K"), Err(SizeError::TooLarge));
    }
}
