//! The packed configuration: what the tool writes and the image reads as a boot module.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 7 | [`MAGIC`] |
//! | 7 | 1 | [`VERSION`] |
//! | 8 | 4 | length of the body, little-endian |
//! | 12 | 4 | CRC-32 of the body, little-endian |
//! | 16 | length | the body: [`Config`] in postcard format |

use super::{Config, ConfigError};
use crate::crc32::crc32;
use alloc::vec::Vec;

/// First bytes of a packed configuration.
pub const MAGIC: [u8; 7] = *b"BEELCFG";
/// Version of the body. Raise it with every change of the types in [`super`]: postcard data
/// carries no field names, so an old body must never be read with new types.
pub const VERSION: u8 = 2;

const HEADER: usize = 16;

/// `config` as the bytes of a boot module.
pub fn pack(config: &Config) -> Vec<u8> {
    // Serialising into memory has no error for types made of numbers, texts and lists. Should
    // that ever change, an empty body follows, which `unpack` refuses by name.
    let body = postcard::to_allocvec(config).unwrap_or_default();
    let mut packed = Vec::with_capacity(HEADER + body.len());
    packed.extend_from_slice(&MAGIC);
    packed.push(VERSION);
    packed.extend_from_slice(&(body.len() as u32).to_le_bytes());
    packed.extend_from_slice(&crc32(&body).to_le_bytes());
    packed.extend_from_slice(&body);
    packed
}

/// The configuration in `packed`, which must hold nothing else.
///
/// # Errors
/// One of the packing errors of [`ConfigError`]. The content is not judged: call [`super::check`].
pub fn unpack(packed: &[u8]) -> Result<Config, ConfigError> {
    let truncated = |need: usize| ConfigError::Truncated { need, have: packed.len() };
    // The magic comes first, so that a wrong file is called wrong and not short.
    let magic_len = MAGIC.len().min(packed.len());
    if packed.get(..magic_len) != MAGIC.get(..magic_len) {
        return Err(ConfigError::Magic);
    }
    let version = *packed.get(7).ok_or(truncated(HEADER))?;
    if version != VERSION {
        return Err(ConfigError::Version { found: version, known: VERSION });
    }
    let number =
        |at: usize| packed.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    let length = number(8).ok_or(truncated(HEADER))?;
    let checksum = number(12).ok_or(truncated(HEADER))?;
    let end = HEADER.saturating_add(length as usize);
    let body = packed.get(HEADER..end).ok_or(truncated(end))?;
    if packed.len() > end {
        return Err(ConfigError::TrailingBytes { extra: packed.len() - end });
    }
    let found = crc32(body);
    if found != checksum {
        return Err(ConfigError::Checksum { found, stated: checksum });
    }
    let (config, rest) = postcard::take_from_bytes(body).map_err(|_| ConfigError::Body)?;
    if !rest.is_empty() {
        return Err(ConfigError::TrailingBytes { extra: rest.len() });
    }
    Ok(config)
}
