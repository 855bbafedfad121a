//! The files in `/etc/ccd`, read by the daemon and the programs and written by `ccdadm setup`; and how a file is
//! written so that a power cut leaves the old one or the new one.

pub use crate::authkey::{AUTHKEY_BYTES_MAX, AUTHKEYS_MAX, Authkey, AuthkeyId, Authkeys};

use crate::error::CcdError;
use crate::places::Places;
use ccd_core::init::{ClusterInit, INIT_BYTES_MAX, NodeInit};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The init database, checked.
pub fn read_init(places: &Places) -> Result<ClusterInit, CcdError> {
    let path = places.init_path();
    let text = read_text(&path, INIT_BYTES_MAX as u64)?;
    ClusterInit::parse(&text).map_err(|source| CcdError::Init { path, source })
}

/// Which node this is: `given` (from the command line), or else what the node file says.
pub fn this_node<'a>(
    places: &Places,
    init: &'a ClusterInit,
    given: Option<&str>,
) -> Result<&'a NodeInit, CcdError> {
    let path = places.node_path();
    let (path, name) = match given {
        Some(name) => ("--node".into(), name.to_owned()),
        None => {
            let text = match read_text(&path, 4096) {
                Err(CcdError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    let known = node_list(init);
                    return Err(CcdError::NodeNotSaid { path, known });
                }
                read => read?,
            };
            (path, text.trim().to_owned())
        }
    };
    init.node_named(&name).ok_or_else(|| CcdError::NodeUnknown {
        path,
        name,
        known: node_list(init),
    })
}

/// `0 alpha, 1 beta`
pub fn node_list(init: &ClusterInit) -> String {
    let nodes: Vec<String> = init
        .nodes()
        .iter()
        .map(|node| format!("{} {}", node.id, node.name))
        .collect();
    nodes.join(", ")
}

/// A whole text file of at most so many bytes.
pub fn read_text(path: &Path, bytes_max: u64) -> Result<String, CcdError> {
    let bytes = read_bytes(path, bytes_max)?;
    String::from_utf8(bytes).map_err(|_| CcdError::NotUtf8 {
        path: path.to_owned(),
    })
}

/// A whole file of at most so many bytes; `-` is standard input.
pub fn read_bytes(path: &Path, bytes_max: u64) -> Result<Vec<u8>, CcdError> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| CcdError::file(path, error))?)
    };
    let mut bytes = Vec::new();
    source
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CcdError::file(path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(CcdError::FileTooLarge {
            path: path.to_owned(),
            bytes_max,
        });
    }
    Ok(bytes)
}

/// Replaces a file: the new content is durable under another name before it takes the place of the old. A
/// destination that is no regular file (`/dev/stdout`, a pipe) is written in place.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return OpenOptions::new().write(true).open(path)?.write_all(content);
    }
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut new_name = std::ffi::OsString::from(".");
    new_name.push(name);
    new_name.push(format!(".{}.new", std::process::id()));
    let new_path = folder.join(new_name);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new_path)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new_path, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // What failed is reported; that its remains could not be removed either adds nothing.
        let _ = fs::remove_file(&new_path);
    }
    written
}

/// Fills the bytes with randomness of the kernel.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(char::from(BASE64[(word >> (18 - 6 * digit)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

pub(crate) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let mut word = 0u32;
        for digit in chunk {
            let value = BASE64.iter().position(|known| known == digit)?;
            word = word << 6 | value as u32;
        }
        word <<= 6 * (4 - chunk.len());
        let len = chunk.len() * 6 / 8;
        bytes.extend_from_slice(&word.to_be_bytes()[1..1 + len]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_standard_and_comes_back() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
            assert_eq!(unbase64(encoded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(unbase64("Zm9"), None);
        assert_eq!(unbase64("Zm9!"), None);
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        write_whole(&path, b"one", 0o600).expect("it is written");
        write_whole(&path, b"two", 0o600).expect("it is replaced");
        assert_eq!(fs::read(&path).expect("it is there"), b"two");
        write_whole(&folder.path().join("none/file"), b"x", 0o600).expect_err("there is no such folder");
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
    }
}
