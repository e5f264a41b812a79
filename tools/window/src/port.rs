//! Port writes through `/dev/port`: a write of one byte at offset P is an OUT to port P.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

const DEVICE: &str = "/dev/port";
/// Bochs' port for its debugger and for the word that shuts it down.
const BOCHS_EXIT: u64 = 0x8900;
/// QEMU's `isa-debug-exit`, and what success is there.
const DEBUG_EXIT: u64 = 0xF4;
const DEBUG_EXIT_SUCCESS: u8 = 0x10;

/// The port that opens and closes the measured window.
pub struct Window {
    device: File,
    port: u16,
}

impl Window {
    /// Opens `/dev/port`, which needs root.
    pub fn open_device(port: u16) -> Result<Self, Box<dyn Error>> {
        Ok(Self { device: open()?, port })
    }

    /// Opens (`true`) or closes the window. Without a hypervisor nobody listens.
    pub fn set(&self, open: bool) -> Result<(), Box<dyn Error>> {
        self.device.write_all_at(&[u8::from(open)], self.port.into())?;
        Ok(())
    }
}

/// Ends a bare machine of the bed that has this way out.
pub fn exit(way: &str) -> Result<(), Box<dyn Error>> {
    let device = open()?;
    if way == "debug-exit" {
        return Ok(device.write_all_at(&[DEBUG_EXIT_SUCCESS], DEBUG_EXIT)?);
    }
    // The debugger of Bochs breaks on `D`; a build without debugger wants the word.
    device.write_all_at(b"D", BOCHS_EXIT)?;
    sleep(Duration::from_millis(100));
    for byte in b"Shutdown" {
        device.write_all_at(&[*byte], BOCHS_EXIT)?;
    }
    Ok(())
}

/// A port number in decimal or, after `0x`, in hexadecimal.
pub fn parse(text: &str) -> Result<u16, Box<dyn Error>> {
    Ok(match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16)?,
        None => text.parse()?,
    })
}

fn open() -> Result<File, Box<dyn Error>> {
    OpenOptions::new()
        .write(true)
        .open(DEVICE)
        .map_err(|why| format!("cannot open {DEVICE}: {why} (devtmpfs mounted? root?)").into())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_notations() {
        assert_eq!(parse("0xbe0").unwrap(), 0xBE0);
        assert_eq!(parse("3040").unwrap(), 0xBE0);
        assert!(parse("0x10000").is_err() && parse("port").is_err());
    }
}
