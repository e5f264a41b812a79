//! Linux bzImage.
use super::{GuestSpec, LoadError};
use crate::entry::CpuEntry;
use crate::memory::GuestMemory;

pub fn is_bzimage(_image: &[u8]) -> bool {
    false
}
pub fn load(_mem: &mut impl GuestMemory, _spec: &GuestSpec<'_>) -> Result<CpuEntry, LoadError> {
    Err(LoadError::UnknownFormat)
}
