//! The machine that this daemon runs on, as its heartbeats on the devices name it.
//!
//! Called once at the start. What cannot be read is left out: a daemon then waits until its areas on the devices have stood still for a
//! lease, which is always right.

use ccd_core::ids::ServerId;
use ccd_core::replica::{HOST_NAME_BYTES_MAX, Host};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

const MACHINE_PATH: &str = "/etc/machine-id";
/// Only root may read it.
const HARDWARE_PATH: &str = "/sys/class/dmi/id/product_uuid";
const BOOT_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// This machine, the lock of the state folder that this daemon holds, and the server that its node's number was given to.
pub fn host(lock: &File, server: ServerId) -> Host {
    let mut name = nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    name.retain(|letter| !letter.is_control());
    name.truncate(name.floor_char_boundary(HOST_NAME_BYTES_MAX));
    let id = |path| fs::read_to_string(path).ok().and_then(|text| id(&text));
    Host {
        name,
        machine: id(MACHINE_PATH).unwrap_or_default(),
        lock: id(BOOT_PATH)
            .and_then(|boot| lock_id(boot, lock))
            .unwrap_or_default(),
        // Some firmware gives all ones where it has none.
        hardware: id(HARDWARE_PATH)
            .filter(|id| *id != [0xff; 16])
            .unwrap_or_default(),
        server,
    }
}

/// The same for every run that locks this file in this boot, and for no other.
fn lock_id(boot: [u8; 16], lock: &File) -> Option<[u8; 16]> {
    let file = lock.metadata().ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&boot);
    hasher.update(&file.dev().to_le_bytes());
    hasher.update(&file.ino().to_le_bytes());
    hasher.finalize().as_bytes().first_chunk().copied()
}

/// 32 hexadecimal digits, with or without hyphens between them.
fn id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_its_ids_and_a_run_by_its_lock() {
        let bytes = [
            0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
        ];
        assert_eq!(id("01234567-89ab-cdef-0123-456789abcdef\n"), Some(bytes));
        assert_eq!(id("0123456789abcdef0123456789abcdef"), Some(bytes));
        assert_eq!(id("uninitialized\n"), None);
        assert_eq!(id("é123456789abcdef0123456789abcdef"), None);
        let (first, second) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let host = |lock| super::host(lock, ServerId(7));
        let run = host(&first);
        assert!(!run.name.is_empty() && run.lock != [0; 16]);
        assert!(run.has_lock_of(&host(&first)) && !run.has_lock_of(&host(&second)));
    }
}
