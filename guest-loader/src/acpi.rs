//! The ACPI tables a guest finds.

use crate::image::LoadError;
use crate::memory::{GuestMemory, GuestPhys};

/// Builds every table for a VM of `vcpus` vCPUs and returns the address of the RSDP.
///
/// # Errors
/// [`LoadError`] when the tables do not fit.
pub fn build(_mem: &mut impl GuestMemory, _vcpus: u32) -> Result<GuestPhys, LoadError> {
    Err(LoadError::UnknownFormat)
}
