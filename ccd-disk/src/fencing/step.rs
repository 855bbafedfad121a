//! One device, and the steps on it: sends what a step needs on the paths that work, and answers with what is read back.

use super::command::Change;
use super::disk::{Disk, Unit};
use super::error::FenceError;
use super::outcome::Outcome;
use super::path::Path as Lane;
use super::paths::{DeviceIdentity, PathIdentity, identify};
use super::readback::{Entry, ReadBack};
use crate::device::Buffer;
use ccd_core::reservation::{FenceOp, Holder, Registrations, ReservationKey};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a path may take to answer a reading if there are others: a living one takes some milliseconds.
const READ_PATIENCE: Duration = Duration::from_millis(1000);

/// How long a command may take where there is no other path, or where it may have to wait for the victim's writes: an abort
/// comes back when they have ended (trap 3: LIO waits only if the victim held the reservation, nvmet always).
const PATIENCE: Duration = Duration::from_secs(30);

/// Reservations on one device, for one node. Keeps its descriptors open: closing a writable one has udev scan it again.
pub struct Fence {
    pub(super) disks: Box<dyn Disks>,
    pub(super) identity: DeviceIdentity,
    pub(super) open: Vec<OpenPath>,
    /// The key of the last [`FenceOp::Register`] here.
    registered: Option<ReservationKey>,
    /// Once is enough: it is the target's nature.
    asked_persistence: bool,
    notes: Vec<String>,
}

pub(super) struct OpenPath {
    pub(super) identity: PathIdentity,
    lane: Lane,
    /// To be opened anew before it is used again.
    broken: bool,
}

/// Everything that is registered on a device, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub generation: u32,
    pub keys: Vec<InspectedKey>,
    pub holder: Option<Holder>,
}

/// One key, and how it is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedKey {
    pub key: ReservationKey,
    /// How many paths it is registered on.
    pub times: usize,
    /// The target's ports, where it tells.
    pub ports: Vec<u16>,
    /// Who registered it, each once, where the target tells.
    pub initiators: Vec<String>,
}

/// Where paths come from: sysfs and /dev, or a test.
pub(super) trait Disks: Send {
    fn scan(&mut self) -> Result<DeviceIdentity, FenceError>;
    fn open(&mut self, identity: &DeviceIdentity, path: &PathIdentity) -> io::Result<Box<dyn Unit>>;
    /// Writes zeros to the second block, through this path alone.
    fn write_zeros(&mut self, path: &PathIdentity) -> io::Result<()>;
}

impl Fence {
    /// Opens the paths of a device. Changes nothing on it.
    ///
    /// # Errors
    /// [`FenceError::NotSupported`] for what has no reservations of its own; others if no path can be opened.
    pub fn open(device: &Path) -> Result<Self, FenceError> {
        Self::on(Box::new(RealDisks {
            device: device.to_owned(),
        }))
    }

    pub(super) fn on(mut disks: Box<dyn Disks>) -> Result<Self, FenceError> {
        let identity = disks.scan()?;
        let mut fence = Self {
            disks,
            identity,
            open: Vec::new(),
            registered: None,
            asked_persistence: false,
            notes: Vec::new(),
        };
        fence.rescan()?;
        Ok(fence)
    }

    /// As it was when the last step began.
    pub fn identity(&self) -> &DeviceIdentity {
        &self.identity
    }

    /// What people should know of this device and its target, each once: also written to the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Does one step, and reads back what is registered. That a command was refused is no error here as long as reading back
    /// works: what is registered says whether the step had its effect.
    pub fn execute(&mut self, op: FenceOp) -> Result<Registrations, FenceError> {
        self.rescan()?;
        let read = match op {
            FenceOp::Look => self.read_back("")?,
            FenceOp::Register { key } => self.register(key)?,
            FenceOp::Reserve { key } => {
                // A reservation of somebody else's is left alone: taking it is what PREEMPT is for.
                self.change_once(Change::Reserve { key }, |read| read.holder.is_some())?
            }
            FenceOp::Unregister { key } => self.unregister(key)?,
            FenceOp::PreemptAbort { key, victim } => {
                if key == victim || victim.bits() == 0 {
                    return Err(FenceError::Senseless {
                        device: self.identity.device.clone(),
                        what: "preempt and abort",
                        why: "a node does not preempt its own key, and 0 is none",
                    });
                }
                // Trap 5: with nobody holding the reservation this removes keys and protects nothing; what is read back says so.
                self.change_once(Change::PreemptAbort { key, victim }, |read| {
                    read.entries.iter().all(|entry| entry.key != victim)
                })?
            }
        };
        Ok(self.registrations(&read))
    }

    /// Removes every registration and the reservation, of everybody. `key` is registered. For operators only: the protocol
    /// never does this.
    pub fn clear(&mut self, key: ReservationKey) -> Result<Registrations, FenceError> {
        self.rescan()?;
        let read = self.change_once(Change::Clear { key }, |read| read.entries.is_empty())?;
        Ok(self.registrations(&read))
    }

    /// Reads everything there is to know.
    pub fn inspect(&mut self) -> Result<Inspection, FenceError> {
        self.rescan()?;
        let read = self.read_from_any(true, "")?;
        let mut keys: BTreeMap<ReservationKey, InspectedKey> = BTreeMap::new();
        for entry in &read.entries {
            let found = keys.entry(entry.key).or_insert_with(|| InspectedKey {
                key: entry.key,
                times: 0,
                ports: Vec::new(),
                initiators: Vec::new(),
            });
            found.times += 1;
            found.ports.extend(entry.port);
            if let Some(initiator) = &entry.initiator
                && !found.initiators.contains(initiator)
            {
                found.initiators.push(initiator.clone());
            }
        }
        Ok(Inspection {
            generation: read.generation,
            keys: keys.into_values().collect(),
            holder: read.holder,
        })
    }

    /// Registers on every path, one by one: REGISTER through a map would roll all paths back if one refuses (trap 8), and says
    /// nothing of the one that is missing (trap 9).
    fn register(&mut self, key: ReservationKey) -> Result<ReadBack, FenceError> {
        let mut refusals = Vec::new();
        let mut tried = false;
        for index in 0..self.open.len() {
            if let Err(silent) = self.ask_first(index, !tried) {
                refusals.push(self.named(index, &silent));
                continue;
            }
            tried = true;
            if let Err(refused) = self.register_on(index, key) {
                refusals.push(self.named(index, &refused));
            }
            self.note_if_it_forgets(index);
        }
        let why = refusals.join("; ");
        if !tried {
            return Err(self.no_path(why));
        }
        if !why.is_empty() {
            tracing::warn!(device = %self.identity.device, "registering {key}: {why}");
        }
        self.registered = Some(key);
        self.read_back(&why)
    }

    /// Trap 7: on NVMe this would put key 0 in the place of the key, so it is not done there.
    fn unregister(&mut self, key: ReservationKey) -> Result<ReadBack, FenceError> {
        if self.identity.kind == super::DeviceKind::Nvme {
            return Err(FenceError::Senseless {
                device: self.identity.device.clone(),
                what: "giving up a registration",
                why: "all paths of a server are registered together, and NVMe replaces a key by 0",
            });
        }
        if self.read_back("")?.holder.is_some_and(|holder| holder.key == key) {
            return Err(FenceError::Senseless {
                device: self.identity.device.clone(),
                what: "giving up a registration",
                why: "it holds the reservation, which would be gone with it",
            });
        }
        let none = ReservationKey::from_bits(0);
        for index in 0..self.open.len() {
            self.change_on(
                index,
                Change::Register {
                    key: none,
                    persist: true,
                },
            );
        }
        self.registered = None;
        self.read_back("")
    }

    /// Trap 13: some targets refuse to keep registrations through a loss of power (tgtd), or say "not ready" although the key is
    /// in (LIO without its folder).
    fn register_on(&mut self, index: usize, key: ReservationKey) -> Result<(), Outcome> {
        let first = self.change_on(index, Change::Register { key, persist: true });
        match first {
            Outcome::Done => Ok(()),
            Outcome::Unsupported(_) | Outcome::Refused(_) => {
                match self.change_on(index, Change::Register { key, persist: false }) {
                    Outcome::Done => Ok(()),
                    _ => Err(first),
                }
            }
            failed => Err(failed),
        }
    }

    /// The answers to registering do not tell: LIO fails the first one and takes the second, and forgets both.
    fn note_if_it_forgets(&mut self, index: usize) {
        if std::mem::replace(&mut self.asked_persistence, true) {
            return;
        }
        if self.open[index].lane.persists(PATIENCE) == Some(false) {
            self.note(format!(
                "the target of {} does not keep registrations (APTPL is not active): when it loses power, everybody can write \
                 until the cluster registers again",
                self.identity.device
            ));
        }
    }

    /// Sends a change on one path after the other until what is read back is `enough`. With several paths nothing is sent if
    /// it is enough before.
    fn change_once(
        &mut self,
        change: Change,
        enough: impl Fn(&ReadBack) -> bool,
    ) -> Result<ReadBack, FenceError> {
        let mut last = None;
        let mut refusals = Vec::new();
        for index in 0..self.open.len() {
            match self.ask_first(index, last.is_none()) {
                Ok(Some(before)) if enough(&before) => return self.read_back(""),
                Ok(_) => {}
                Err(silent) => {
                    refusals.push(self.named(index, &silent));
                    continue;
                }
            }
            let outcome = self.change_on(index, change);
            if !outcome.is_done() {
                refusals.push(self.named(index, &outcome));
            }
            // Whatever it said: 2 from 6.1 means that nobody knows, and 280 may be an answer to its second sending.
            let after = self.read_back(&refusals.join("; "))?;
            if enough(&after) {
                return Ok(after);
            }
            last = Some(after);
        }
        let why = refusals.join("; ");
        tracing::warn!(device = %self.identity.device, "{} had no effect: {why}", change.name());
        last.ok_or_else(|| self.no_path(why))
    }

    /// Something harmless before a change: a path that is dead is not waited for as long as for a change. Where there is no
    /// other path it would only cost time.
    fn ask_first(&mut self, index: usize, is_silent_so_far: bool) -> Result<Option<ReadBack>, Outcome> {
        if self.open.len() == 1 {
            return Ok(None);
        }
        self.read_on(index, false, is_silent_so_far).map(Some)
    }

    fn read_back(&mut self, refused: &str) -> Result<ReadBack, FenceError> {
        let ports = self.registered.is_some() && self.open.len() > 1;
        self.read_from_any(ports, refused)
    }

    /// From the first path that answers. `refused` is what a change before it was told, for the error's text.
    pub(super) fn read_from_any(&mut self, ports: bool, refused: &str) -> Result<ReadBack, FenceError> {
        let mut failures = Vec::new();
        for index in 0..self.open.len() {
            match self.read_on(index, ports, true) {
                Ok(read) => return Ok(read),
                Err(failed) => failures.push(self.named(index, &failed)),
            }
        }
        if !refused.is_empty() {
            failures.push(format!("before that: {refused}"));
        }
        Err(FenceError::Unreadable {
            device: self.identity.device.clone(),
            why: failures.join("; "),
        })
    }

    /// The last path is waited for longer if no other has answered: then it is not the path that is slow.
    fn read_on(&mut self, index: usize, ports: bool, is_silent_so_far: bool) -> Result<ReadBack, Outcome> {
        let is_last = index + 1 == self.open.len();
        let patience = if is_last && is_silent_so_far {
            PATIENCE
        } else {
            READ_PATIENCE
        };
        let path = &mut self.open[index];
        let read = path.lane.read(ports, patience);
        path.broken |= matches!(read, Err(Outcome::Path(_)));
        read
    }

    pub(super) fn change_on(&mut self, index: usize, change: Change) -> Outcome {
        let path = &mut self.open[index];
        let outcome = path.lane.change(change, PATIENCE);
        path.broken |= matches!(outcome, Outcome::Path(_));
        tracing::debug!(path = path.identity.name, ?change, "{outcome}");
        outcome
    }

    /// Finds new paths, forgets those that are gone, and opens anew what failed.
    fn rescan(&mut self) -> Result<(), FenceError> {
        let identity = self.disks.scan()?;
        if let Some(why) = &identity.obstacle {
            return Err(FenceError::NotSupported {
                device: identity.device.clone(),
                why: why.clone(),
            });
        }
        if identity.wwid != self.identity.wwid {
            tracing::warn!(
                device = %identity.device,
                "it is another disk now: {:?}, was {:?}", identity.wwid, self.identity.wwid
            );
            self.open.clear();
            self.registered = None;
            self.asked_persistence = false;
        }
        self.open.retain_mut(|open| {
            let known = identity
                .paths
                .iter()
                .find(|path| path.number == open.identity.number);
            // One that hangs is kept, busy, until it comes back: opening it again would only hang again.
            let hangs = open.lane.is_busy();
            known.is_some_and(|path| path.is_usable()) && (hangs || !open.broken)
        });
        let mut refusals = Vec::new();
        for path in &identity.paths {
            if self.open.iter().any(|open| open.identity.number == path.number) {
                continue;
            }
            if !path.is_usable() {
                refusals.push(format!("{} is in state {}", path.name, path.state));
                continue;
            }
            let started = self
                .disks
                .open(&identity, path)
                .and_then(|unit| Lane::start(&path.name, unit));
            match started {
                Ok(lane) => self.open.push(OpenPath {
                    identity: path.clone(),
                    lane,
                    broken: false,
                }),
                Err(failed) => refusals.push(format!("{}: {failed}", path.name)),
            }
        }
        self.identity = identity;
        // Those that answer come first.
        self.open.sort_by_key(|open| open.broken);
        if self.open.is_empty() {
            return Err(self.no_path(refusals.join("; ")));
        }
        Ok(())
    }

    fn registrations(&self, read: &ReadBack) -> Registrations {
        let mut keys: Vec<_> = read.entries.iter().map(|entry| entry.key).collect();
        keys.sort_unstable();
        keys.dedup();
        Registrations {
            keys,
            holder: read.holder,
            paths_missing: self
                .registered
                .map_or(0, |key| paths_missing(key, read, &self.identity.paths)),
        }
    }

    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            tracing::warn!("{text}");
            self.notes.push(text);
        }
    }

    fn named(&self, index: usize, outcome: &Outcome) -> String {
        format!("{}: {outcome}", self.open[index].identity.name)
    }

    fn no_path(&self, why: String) -> FenceError {
        FenceError::NoPath {
            device: self.identity.device.clone(),
            why,
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("identity", &self.identity)
            .field("registered", &self.registered)
            .finish_non_exhaustive()
    }
}

/// Own paths without `key` although others have it. By the target's ports where both sides name them alike, otherwise by
/// counting: a session of this node that is no more can then hide one that is missing.
fn paths_missing(key: ReservationKey, read: &ReadBack, paths: &[PathIdentity]) -> u16 {
    let own: Vec<&Entry> = read.entries.iter().filter(|entry| entry.key == key).collect();
    if own.is_empty() || read.per_host {
        return 0;
    }
    let usable: Vec<&PathIdentity> = paths.iter().filter(|path| path.is_usable()).collect();
    let ports_agree = paths.iter().all(|path| path.port.is_some())
        && (own.iter()).all(|entry| entry.port.is_some() && paths.iter().any(|path| path.port == entry.port));
    let missing = if ports_agree {
        let mut wanted: BTreeMap<Option<u16>, usize> = BTreeMap::new();
        for path in usable {
            *wanted.entry(path.port).or_default() += 1;
        }
        wanted
            .into_iter()
            .map(|(port, wanted)| {
                let has = |entry: &&&Entry| entry.all_ports || entry.port == port;
                wanted.saturating_sub(own.iter().filter(has).count())
            })
            .sum()
    } else {
        usable.len().saturating_sub(own.len())
    };
    u16::try_from(missing).unwrap_or(u16::MAX)
}

struct RealDisks {
    device: PathBuf,
}

impl Disks for RealDisks {
    fn scan(&mut self) -> Result<DeviceIdentity, FenceError> {
        identify(&self.device)
    }

    fn open(&mut self, identity: &DeviceIdentity, path: &PathIdentity) -> io::Result<Box<dyn Unit>> {
        let command = identity.command();
        let open = |writes: bool| -> io::Result<File> {
            OpenOptions::new()
                .read(true)
                .write(writes)
                .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
                .open(&path.node)
        };
        // SG_IO needs no right to write (but CAP_SYS_RAWIO), and closing a writable descriptor has udev scan the disk. NVMe has
        // only ioctls, which from 6.5 on want either the right to write or CAP_SYS_ADMIN.
        let file = match command {
            super::disk::Command::Scsi => open(false)?,
            super::disk::Command::Nvme => open(true).or_else(|_| open(false))?,
        };
        let data = file.metadata()?;
        if !data.file_type().is_block_device() || data.rdev() != path.number {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is another device than sysfs says", path.node.display()),
            ));
        }
        Ok(Box::new(Disk::new(file, command)))
    }

    fn write_zeros(&mut self, path: &PathIdentity) -> io::Result<()> {
        // Through the page cache a refused write "succeeds".
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_DIRECT | libc::O_DSYNC)
            .open(&path.node)?;
        if file.metadata()?.rdev() != path.number {
            return Err(io::ErrorKind::NotFound.into());
        }
        let zeros = Buffer::zeroed(1);
        file.write_all_at(&zeros, zeros.len() as u64)
    }
}

#[cfg(test)]
mod tests;
