//! Starts another kernel in the place of this one: `window kexec`. Debian's kexec-tools would bring the
//! libraries of another hypervisor along.

#![expect(unsafe_code, reason = "no library has kexec_file_load(2)")]

use rustix::system::{RebootCommand, reboot};
use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Loads the kernel and initramfs that `words` name, with the command line that follows, and starts it. It comes back
/// with an error only.
pub fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let [kernel, initramfs, cmdline @ ..] = words else { return Err(crate::USAGE.into()) };
    let open = |name: &String| File::open(name).map_err(|why| format!("{name}: {why}"));
    let (kernel, initramfs) = (open(kernel)?, open(initramfs)?);
    let cmdline = CString::new(cmdline.join(" "))?;
    // SAFETY: the pointer is that of a string of this length, its NUL included, which the kernel copies.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initramfs.as_raw_fd(),
            cmdline.as_bytes_with_nul().len(),
            cmdline.as_ptr(),
            0_u64,
        )
    };
    if loaded != 0 {
        return Err(format!("kexec_file_load: {}", io::Error::last_os_error()).into());
    }
    reboot(RebootCommand::Kexec)?;
    Ok(())
}
