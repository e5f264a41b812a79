//! PVH.
use super::{GuestSpec, LoadError};
use crate::entry::CpuEntry;
use crate::memory::GuestMemory;

pub fn find_entry(_image: &[u8]) -> Result<Option<()>, LoadError> {
    Ok(None)
}
pub fn load(_mem: &mut impl GuestMemory, _spec: &GuestSpec<'_>) -> Result<CpuEntry, LoadError> {
    Err(LoadError::UnknownFormat)
}
