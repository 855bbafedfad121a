//! An initial file system for a kernel: the `newc` archive of the kernel's `early-userspace/buffer-format`.
//!
//! Written here and not by cpio(1), so that files can be owned by root whoever runs the tests.

use std::collections::BTreeSet;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

/// An archive that grows; a file that is added twice counts once, as it was first.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    /// Paths without the leading slash.
    names: BTreeSet<String>,
}

impl Archive {
    /// With the folders above it. `path` begins with a slash.
    pub fn folder(&mut self, path: &str) {
        let name = path.trim_matches('/');
        if name.is_empty() || self.names.contains(name) {
            return;
        }
        self.folder_of(name);
        self.entry(name, FOLDER, &[]);
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_matches('/');
        if !self.names.contains(name) {
            self.folder_of(name);
            self.entry(name, FILE | mode, content);
        }
    }

    pub fn link(&mut self, path: &str, target: &str) {
        let name = path.trim_matches('/');
        if !self.names.contains(name) {
            self.folder_of(name);
            self.entry(name, LINK, target.as_bytes());
        }
    }

    pub fn has(&self, path: &str) -> bool {
        self.names.contains(path.trim_matches('/'))
    }

    /// The whole archive.
    pub fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn folder_of(&mut self, name: &str) {
        if let Some(above) = Path::new(name).parent().and_then(Path::to_str) {
            self.folder(above);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let number = u32::try_from(self.names.len() + 1).expect("an image has few files");
        let len = u32::try_from(content.len()).expect("an image has small files");
        let name_len = u32::try_from(name.len() + 1).expect("paths are short");
        // inode, mode, uid, gid, links, time, length, device and special device (two numbers each), name's length, check
        let fields = [number, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self.names.insert(name.to_owned());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn folders_come_before_what_is_in_them_and_nothing_twice() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", 0o644, b"first");
        archive.file("/a/b/c", 0o644, b"second");
        archive.link("/a/d", "b/c");
        assert!(archive.has("/a/b"));
        let bytes = archive.end();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(
            text.matches("070701").count(),
            5,
            "a, a/b, a/b/c, a/d and the end"
        );
        assert!(text.find("a/b\0").expect("folder") < text.find("a/b/c\0").expect("file"));
        assert!(text.contains("first") && !text.contains("second"));
        assert!(bytes.len().is_multiple_of(4));
    }
}
