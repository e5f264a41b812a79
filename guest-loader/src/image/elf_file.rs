//! ELF.
pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}
