//! What `ccdadm setup` can tell about devices before anything is written to them.

use crate::cli::failure::Stop;
use crate::cli::terminal::Terminal;
use crate::messages;
use ccd_core::ids::DeviceRole;
use ccd_core::init::Fencing;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Links that stay with the device, whatever order the kernel finds it in.
const STABLE_FOLDERS: [&str; 2] = ["/dev/disk/by-id", "/dev/mapper"];

const DOING: &str = "set up the cluster";

/// Refuses what cannot work, warns of what may not.
pub(super) fn check(
    devices: &[(DeviceRole, &Path)],
    fencing: Option<Fencing>,
    terminal: &Terminal,
) -> Result<(), Stop> {
    for (role, path) in devices {
        let Ok(metadata) = fs::metadata(path) else {
            terminal.warn(&format!(
                "the {role} device {} does not exist on this node now",
                path.display()
            ));
            continue;
        };
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let why = format!("{} is neither a block device nor a plain file", path.display());
            return Err(Stop::new(&messages::SETUP_BAD, DOING, why));
        }
        if fencing != Some(Fencing::Lease)
            && let Some(what) = without_reservations(path, &metadata)
        {
            let why = format!(
                "the {role} device {} is {what}, which has no reservations",
                path.display()
            );
            return Err(Stop::new(&messages::DEVICE_UNFIT, DOING, why));
        }
        if kind.is_block_device() && is_unstable(path) {
            let other = stable_name(metadata.rdev());
            let other = other.map_or_else(
                || "use a name from /dev/disk/by-id".to_owned(),
                |name| format!("use {}", name.display()),
            );
            terminal.warn(&format!(
                "{} may be another device after the next boot; {other}",
                path.display()
            ));
        }
    }
    if let [(_, primary), (_, secondary)] = devices
        && is_same(primary, secondary)
    {
        let why = format!(
            "{} and {} are the same device",
            primary.display(),
            secondary.display()
        );
        return Err(Stop::new(&messages::SETUP_BAD, DOING, why));
    }
    if devices.len() == 1 {
        terminal.warn(
            "without a secondary device the cluster does not survive the loss of a node and the primary",
        );
    }
    if fencing == Some(Fencing::Lease) {
        terminal.warn("with lease fencing nothing stops a hung or foreign writer");
    }
    Ok(())
}

/// What kind of device it is, if it is one that has no reservations.
fn without_reservations(path: &Path, metadata: &fs::Metadata) -> Option<&'static str> {
    if metadata.file_type().is_file() {
        return Some("a plain file");
    }
    let path = fs::canonicalize(path).ok()?;
    let name = path.file_name()?.to_str()?;
    match name {
        _ if name.starts_with("loop") => Some("a loop device"),
        _ if name.starts_with("nbd") => Some("a network block device"),
        _ if name.starts_with("ram") || name.starts_with("zram") => Some("a memory disk"),
        _ => None,
    }
}

/// Whether the name is one that the kernel gives in the order of finding.
fn is_unstable(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let kernel = ["sd", "nvme", "dm-", "vd", "xvd"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    kernel && path.parent() == Some(Path::new("/dev"))
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) if one.file_type().is_block_device() => {
            one.rdev() == other.rdev() && one.rdev() != 0
        }
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => one == other,
    }
}

/// A name of this device that stays.
fn stable_name(rdev: u64) -> Option<PathBuf> {
    STABLE_FOLDERS
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == rdev)
        })
}
