//! The cpio archive (`newc` form) that Linux unpacks as its first file system.
//!
//! The format is described in the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
//! Times and inode numbers are fixed, so that the same files give the same bytes.

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

/// An archive being written.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a folder; its parents must be there already.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a file that may be executed.
    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, REGULAR | 0o755, content);
    }

    /// The finished archive, padded to whole blocks.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, 0, 0);
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let path = path.trim_start_matches('/');
        self.header(path, self.inode, mode, content.len());
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn header(&mut self, path: &str, inode: u32, mode: u32, size: usize) {
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, time, size, device, device of a node, name, checksum
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        let mut archive = Archive::default();
        archive.directory("/bin");
        archive.program("/init", b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        assert!(bytes.starts_with(b"07070100000001000041ed"));
        // Header 110, "bin" and NUL 4: 114, padded to 116; then 110 + 5 padded: name at 226.
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(&bytes[226..232], b"init\0\0");
        assert_eq!(&bytes[232..240], b"hello\0\0\0");
        assert_eq!(&bytes[240..246], b"070701");
        assert_eq!(&bytes[350..361], b"TRAILER!!!\0");
    }

    #[test]
    fn a_reader_of_the_format_agrees() {
        let mut archive = Archive::default();
        archive.directory("/lib");
        archive.program("/lib/a", &[7; 1001]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.cpio");
        std::fs::write(&file, archive.finish()).unwrap();
        let Ok(list) =
            std::process::Command::new("cpio").args(["-itv", "--quiet", "-F"]).arg(&file).output()
        else {
            return; // no cpio on this host: the layout test stands alone
        };
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(list.contains("drwxr-xr-x") && list.contains(" 1001 ") && list.contains("lib/a"));
    }
}
