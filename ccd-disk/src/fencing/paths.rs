//! What a device is, from sysfs: its kind, the name of the disk behind it, and the paths to it.
//!
//! A reservation covers a whole unit, so only names that stand for exactly one whole unit are taken: a SCSI disk, an NVMe
//! namespace, and a device-mapper map as large as the disk under it whose legs are all the same disk (multipath; also linear,
//! delay and flakey over all of one disk). No device-mapper ioctl is used, which would need CAP_SYS_ADMIN.

use super::disk::Command;
use super::error::FenceError;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What a device is, as far as fencing cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// One SCSI disk through one path.
    Scsi,
    /// A device-mapper map over all of one SCSI disk.
    Multipath,
    /// An NVMe namespace, whose registrations are for the host and not for a path.
    Nvme,
    Partition,
    Loop,
    Nbd,
    File,
    Other,
}

impl DeviceKind {
    /// Whether reservations keep others from exactly what the device is.
    pub const fn has_reservations(self) -> bool {
        matches!(self, Self::Scsi | Self::Multipath | Self::Nvme)
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scsi => "scsi",
            Self::Multipath => "multipath",
            Self::Nvme => "nvme",
            Self::Partition => "partition",
            Self::Loop => "loop",
            Self::Nbd => "nbd",
            Self::File => "file",
            Self::Other => "other",
        })
    }
}

/// One path to a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathIdentity {
    /// The kernel's name: `sdc`.
    pub name: String,
    /// `running`, `blocked`, `transport-offline` and so on; empty if the kernel says nothing.
    pub state: String,
    /// The target's port that it leads to, if the target says.
    pub port: Option<u16>,
    #[serde(skip)]
    pub(super) number: u64,
    #[serde(skip)]
    pub(super) node: PathBuf,
}

impl PathIdentity {
    /// Commands sent on other paths would hang until the transport gives up.
    pub fn is_usable(&self) -> bool {
        matches!(self.state.as_str(), "" | "running" | "live")
    }
}

/// What a device is and which disk is behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceIdentity {
    pub device: String,
    pub kind: DeviceKind,
    /// The disk's world-wide name, as the kernel has it. Two devices with the same one are the same disk.
    pub wwid: Option<String>,
    pub paths: Vec<PathIdentity>,
    /// Why it cannot be fenced by reservation.
    pub obstacle: Option<String>,
    /// What the device is on this machine if it has no world-wide name: the file's inode, the block device's number.
    #[serde(skip)]
    pub(super) local: String,
}

impl DeviceIdentity {
    /// The same disk under two names or through two paths, or one a partition of the other.
    pub fn is_same_disk(&self, other: &Self) -> bool {
        match (&self.wwid, &other.wwid) {
            (Some(a), Some(b)) => a == b,
            _ => self.local == other.local,
        }
    }

    pub(super) fn command(&self) -> Command {
        match self.kind {
            DeviceKind::Nvme => Command::Nvme,
            _ => Command::Scsi,
        }
    }
}

/// What `device` is; follows links. Reads sysfs only, and opens nothing.
///
/// What has no reservations is no error, but says so in [`DeviceIdentity::obstacle`].
///
/// # Errors
/// When it does not exist, is neither file nor block device, or sysfs cannot be read; [`FenceError::NoPath`] for a map that
/// has lost all its disks for now.
pub fn identify(device: &Path) -> Result<DeviceIdentity, FenceError> {
    Sysfs::default().identify(device)
}

/// Where the kernel tells of devices; tests make their own.
#[derive(Clone, Debug)]
pub struct Sysfs {
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self {
            sys: PathBuf::from("/sys"),
            dev: PathBuf::from("/dev"),
        }
    }
}

/// Maps on maps: multipath under linear under something, and no more.
const MAPS_MAX: u32 = 4;

impl Sysfs {
    pub fn identify(&self, device: &Path) -> Result<DeviceIdentity, FenceError> {
        let name = device.display().to_string();
        let failed = |source| FenceError::open("look at", &name, source);
        let data = fs::metadata(device).map_err(failed)?;
        if data.is_file() {
            return Ok(DeviceIdentity {
                device: name,
                kind: DeviceKind::File,
                wwid: None,
                paths: Vec::new(),
                obstacle: Some("a file has no reservations".to_owned()),
                local: format!("inode {}:{}", data.dev(), data.ino()),
            });
        }
        if !data.file_type().is_block_device() {
            let text = "is neither a file nor a block device";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let link = self.sys.join("dev/block").join(number_name(data.rdev()));
        let folder = fs::canonicalize(link).map_err(failed)?;
        self.of_folder(name, &folder)
    }

    fn of_folder(&self, device: String, folder: &Path) -> Result<DeviceIdentity, FenceError> {
        let own = file_name(folder);
        let plain = |kind, why: &str| DeviceIdentity {
            device: device.clone(),
            kind,
            wwid: None,
            paths: Vec::new(),
            obstacle: Some(why.to_owned()),
            local: format!("block device {own}"),
        };
        if folder.join("partition").exists() {
            let whole = folder.parent().unwrap_or(folder);
            let whole = self.of_folder(device.clone(), whole)?;
            let why = "it is a partition, and a reservation covers its whole disk";
            return Ok(DeviceIdentity {
                wwid: whole.wwid,
                local: whole.local,
                ..plain(DeviceKind::Partition, why)
            });
        }
        if folder.join("dm").is_dir() {
            let found = self.legs(folder, MAPS_MAX);
            return match found {
                // That passes: multipathd puts the paths back when they return.
                Ok(paths) if paths.is_empty() => Err(FenceError::NoPath {
                    device,
                    why: format!("the map {own} has no disk under it now"),
                }),
                Ok(paths) => Ok(self.of_paths(device, paths, true)),
                Err(why) => Ok(plain(DeviceKind::Other, &why)),
            };
        }
        Ok(if own.starts_with("loop") {
            plain(DeviceKind::Loop, "a loop device has no reservations")
        } else if own.starts_with("nbd") {
            plain(DeviceKind::Nbd, "a network block device has no reservations")
        } else {
            match self.disk(folder) {
                Ok(disk) => self.of_paths(device, vec![disk], false),
                Err(why) => plain(DeviceKind::Other, &why),
            }
        })
    }

    fn of_paths(&self, device: String, disks: Vec<FoundDisk>, mapped: bool) -> DeviceIdentity {
        let first = &disks[0];
        let kind = match (first.command, mapped) {
            (Command::Nvme, _) => DeviceKind::Nvme,
            (Command::Scsi, true) => DeviceKind::Multipath,
            (Command::Scsi, false) => DeviceKind::Scsi,
        };
        DeviceIdentity {
            device,
            kind,
            wwid: first.wwid.clone(),
            obstacle: None,
            local: format!("block device {}", first.path.name),
            paths: disks.into_iter().map(|disk| disk.path).collect(),
        }
    }

    /// The disks under a map, or why it is not exactly one disk. None: it has lost its paths.
    fn legs(&self, folder: &Path, maps_left: u32) -> Result<Vec<FoundDisk>, String> {
        let own = file_name(folder);
        let sectors = read(&folder.join("size"));
        let mut disks: Vec<FoundDisk> = Vec::new();
        let mut slaves: Vec<PathBuf> = fs::read_dir(folder.join("slaves"))
            .map_err(|error| format!("the legs of {own} cannot be read: {error}"))?
            .filter_map(|slave| fs::canonicalize(slave.ok()?.path()).ok())
            .collect();
        slaves.sort();
        for slave in slaves {
            let name = file_name(&slave);
            if slave.join("partition").exists() {
                return Err(format!(
                    "it lies on the partition {name}, and a reservation covers the whole disk"
                ));
            }
            if read(&slave.join("size")) != sectors {
                return Err(format!("it is not as large as {name}, which it lies on"));
            }
            if slave.join("dm").is_dir() {
                let left = maps_left.checked_sub(1).ok_or("it is a map over too many maps")?;
                disks.extend(self.legs(&slave, left)?);
            } else {
                disks.push(self.disk(&slave)?);
            }
        }
        let Some(first) = disks.first() else {
            return Ok(disks);
        };
        if disks.len() > 1 && (first.wwid.is_none() || disks.iter().any(|disk| disk.wwid != first.wwid)) {
            return Err(format!(
                "the disks under {own} are not known to be the same one; compare /sys/block/*/device/wwid"
            ));
        }
        Ok(disks)
    }

    /// A whole disk that knows reservations, or why it does not.
    fn disk(&self, folder: &Path) -> Result<FoundDisk, String> {
        let name = file_name(folder);
        let device = folder.join("device");
        let subsystem = fs::canonicalize(device.join("subsystem"))
            .map(|link| file_name(&link))
            .unwrap_or_default();
        let (command, wwid_at) = match subsystem.as_str() {
            // Type 0 is a disk; a CD or a tape is not.
            "scsi" if read(&device.join("type")) == "0" => (Command::Scsi, device.join("wwid")),
            "nvme" | "nvme-subsystem" => (Command::Nvme, folder.join("wwid")),
            "" => return Err(format!("{name} has no reservations")),
            other => return Err(format!("{name} ({other}) has no reservations")),
        };
        let number = parse_number(&read(&folder.join("dev")))
            .ok_or_else(|| format!("the kernel does not tell the number of {name}"))?;
        let state = match command {
            Command::Scsi => read(&device.join("state")),
            // With native multipath it is the subsystem's, and says nothing.
            Command::Nvme => String::new(),
        };
        let port = fs::read(device.join("vpd_pg83"))
            .ok()
            .and_then(|page| target_port(&page));
        let wwid = read(&wwid_at);
        Ok(FoundDisk {
            command,
            wwid: (!wwid.is_empty()).then_some(wwid),
            path: PathIdentity {
                node: self.dev.join(&name),
                name,
                state,
                port,
                number,
            },
        })
    }
}

struct FoundDisk {
    command: Command,
    wwid: Option<String>,
    path: PathIdentity,
}

/// The relative target port of this path: designator type 4, association "target port" (SPC-4 §7.8.6).
fn target_port(page: &[u8]) -> Option<u16> {
    let mut rest = page.get(4..)?;
    while let Some((head, body)) = rest.split_first_chunk::<4>() {
        let (designator, after) = body.split_at_checked(usize::from(head[3]))?;
        if head[1] & 0x3f == 0x14
            && let Some(port) = designator.get(2..4)
        {
            return Some(u16::from_be_bytes([port[0], port[1]]));
        }
        rest = after;
    }
    None
}

/// A short text file without its line end; empty if it cannot be read.
fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn number_name(number: u64) -> String {
    format!(
        "{}:{}",
        nix::sys::stat::major(number),
        nix::sys::stat::minor(number)
    )
}

fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(nix::sys::stat::makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests;
