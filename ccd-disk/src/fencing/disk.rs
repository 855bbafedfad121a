//! A path to a real disk: which way each command is sent, and what is tried again.
//!
//! Changes go by the block ioctl, and by SG_IO where the ioctl is missing, not permitted (before 6.5 it wants CAP_SYS_ADMIN) or
//! says no more than "check condition". PREEMPT AND ABORT goes by SG_IO first. All changes can be sent twice: the second
//! does nothing more. Reading goes by ioctl from 6.19 on, and by SG_IO 5Eh or NVMe's report before.

use super::command::{BLOCK_TYPE, Change, ReadKind};
use super::outcome::{self, Outcome};
use super::readback::{self, Head, ReadBack, entry};
use super::{ioctl, nvme, sg};
use ccd_core::reservation::Holder;
use std::fs::File;

/// One path to a unit, used by one thread; every call may block as long as the path does.
pub trait Unit: Send {
    fn change(&mut self, change: Change) -> Outcome;

    /// Keys and holder of one moment. `ports`: also through which ports of the target, if it says so.
    fn read(&mut self, ports: bool) -> Result<ReadBack, Outcome>;

    /// Whether the target keeps what is registered now through a loss of power; `None` if it does not say.
    fn persists(&mut self) -> Option<bool>;
}

/// Attentions come one by one, and a preempted node has several: "reset", "registrations preempted", "capacity changed".
const ATTENTIONS_MAX: u32 = 6;

/// How often keys and holder are read again because something was registered in between.
const READINGS_MAX: u32 = 4;

/// Registrations that are read at first, and at most: what fits the 16-bit length of PERSISTENT RESERVE IN.
const ENTRIES_FIRST: usize = 64;
const ANSWER_BYTES_MAX: usize = 0xfff8;
const KEYS_MAX: usize = ANSWER_BYTES_MAX / 8;

/// Bytes of an NVMe report that is asked for first; more registrants make it larger.
const REPORT_BYTES_FIRST: usize = 4096;
const REPORT_BYTES_MAX: usize = 1 << 20;

/// Which command set the disk behind a descriptor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Scsi,
    Nvme,
}

/// A [`Unit`] on a descriptor of a whole disk, not of a map over it.
#[derive(Debug)]
pub struct Disk {
    file: File,
    command: Command,
    /// The kernel has no read ioctls: found out at the first reading.
    reads_raw: bool,
    /// The target knows no READ FULL STATUS.
    no_full_status: bool,
}

impl Disk {
    pub fn new(file: File, command: Command) -> Self {
        Self {
            file,
            command,
            reads_raw: false,
            no_full_status: false,
        }
    }

    fn change_scsi(&self, change: Change) -> Outcome {
        // Trap 1: on device-mapper the PREEMPT_ABORT ioctl sends a plain PREEMPT, whose victim's writes go on (trap 2). We have the
        // disk itself here, where the ioctl is right; but only SG_IO is right everywhere.
        // The ioctl always asks for APTPL, so registering without it needs SG_IO, too.
        let raw_first = matches!(
            change,
            Change::PreemptAbort { .. } | Change::Register { persist: false, .. }
        );
        let by_ioctl = || outcome::of_scsi_ioctl(ioctl::change(&self.file, change, false));
        if raw_first {
            let raw = again(|| sg::change(&self.file, change));
            let is_same = matches!(change, Change::PreemptAbort { .. });
            return if is_same && is_blocked(&raw) {
                by_ioctl()
            } else {
                raw
            };
        }
        match by_ioctl() {
            settled @ (Outcome::Done | Outcome::Conflict | Outcome::Path(_)) => settled,
            // No sense comes with an ioctl. Sending it again is harmless, and tells why.
            first => {
                let raw = again(|| sg::change(&self.file, change));
                if is_blocked(&raw) { first } else { raw }
            }
        }
    }

    fn change_nvme(&self, change: Change) -> Outcome {
        let send = |over| outcome::of_nvme_ioctl(ioctl::change(&self.file, change, over));
        match (send(false), change) {
            // "Register" conflicts if the host has another key, whatever "ignore" says; "replace" does not.
            (Outcome::Conflict, Change::Register { .. }) => send(true),
            (outcome, _) => outcome,
        }
    }

    fn read_by_ioctl(&self) -> Result<ReadBack, Outcome> {
        let of_code = |code| match self.command {
            Command::Scsi => outcome::of_scsi_ioctl(code),
            Command::Nvme => outcome::of_nvme_ioctl(code),
        };
        let settled = |code| match of_code(code) {
            Outcome::Done => Ok(()),
            failed => Err(failed),
        };
        consistent(|| {
            let mut keys = vec![0; ENTRIES_FIRST];
            let read = loop {
                let (code, read) = ioctl::read_keys(&self.file, &mut keys).map_err(outcome::of_errno)?;
                settled(Ok(code))?;
                if read.count <= keys.len() {
                    break read;
                }
                if read.count > KEYS_MAX {
                    return Err(too_many(read.count));
                }
                keys = vec![0; read.count];
            };
            keys.truncate(read.count);
            let (code, generation, key, kind) =
                ioctl::read_reservation(&self.file).map_err(outcome::of_errno)?;
            settled(Ok(code))?;
            let holder = (kind != 0).then_some(Holder {
                key,
                right_type: kind == BLOCK_TYPE,
            });
            let found = ReadBack {
                generation: read.generation,
                entries: keys.into_iter().map(entry).collect(),
                holder,
                per_host: self.command == Command::Nvme,
            };
            Ok((found, generation))
        })
    }

    fn read_by_sg(&self) -> Result<ReadBack, Outcome> {
        consistent(|| {
            let keys = self.answer(ReadKind::Keys)?;
            let keys = parsed(readback::head(&keys))?;
            let reservation = self.answer(ReadKind::Reservation)?;
            let reservation = parsed(readback::head(&reservation))?;
            let found = ReadBack {
                generation: keys.generation,
                entries: parsed(readback::keys(&keys))?,
                holder: parsed(readback::holder(&reservation))?,
                per_host: false,
            };
            Ok((found, reservation.generation))
        })
    }

    /// The whole of an answer, however long the target says it is.
    fn answer(&self, kind: ReadKind) -> Result<Vec<u8>, Outcome> {
        let mut room_bytes = 8 + 8 * ENTRIES_FIRST;
        loop {
            let mut room = vec![0; room_bytes];
            let filled_bytes = again_reading(|| sg::read(&self.file, kind, &mut room))?;
            room.truncate(filled_bytes);
            let Head { len_bytes, .. } = parsed(readback::head(&room))?;
            if len_bytes <= room_bytes {
                return Ok(room);
            }
            if len_bytes > ANSWER_BYTES_MAX {
                return Err(too_many(len_bytes / 8));
            }
            room_bytes = len_bytes;
        }
    }

    fn read_report(&self) -> Result<ReadBack, Outcome> {
        let settled = |code| match outcome::of_nvme_ioctl(code) {
            Outcome::Done => Ok(()),
            failed => Err(failed),
        };
        let mut room_bytes = REPORT_BYTES_FIRST;
        loop {
            let mut data = vec![0; room_bytes];
            // Hosts with ids of 128 bits (all fabrics) must ask so, others must not.
            let mut extended = true;
            if settled(ioctl::nvme_report(&self.file, &mut data, extended)).is_err() {
                extended = false;
                settled(ioctl::nvme_report(&self.file, &mut data, extended))?;
            }
            match nvme::parse(&data, extended) {
                Ok(read) => return Ok(read),
                Err(nvme::TooShort(count)) => {
                    let needed_bytes = nvme::report_bytes(count, extended);
                    if needed_bytes <= room_bytes || needed_bytes > REPORT_BYTES_MAX {
                        return Err(too_many(count));
                    }
                    room_bytes = needed_bytes.next_multiple_of(4);
                }
            }
        }
    }
}

impl Unit for Disk {
    fn change(&mut self, change: Change) -> Outcome {
        match self.command {
            Command::Scsi => self.change_scsi(change),
            Command::Nvme => self.change_nvme(change),
        }
    }

    fn read(&mut self, ports: bool) -> Result<ReadBack, Outcome> {
        let mut read = None;
        if !self.reads_raw {
            match self.read_by_ioctl() {
                // EINVAL (sd of 6.1), ENOTTY (nvme of 6.1), EOPNOTSUPP, and no capability: never tried again.
                Err(unsent) if unsent.was_not_sent() => self.reads_raw = true,
                // Reading once more the other way tells why.
                Err(_) if self.command == Command::Scsi => {}
                settled => read = Some(settled?),
            }
        }
        let mut read = match (read, self.command) {
            (Some(read), _) => read,
            (None, Command::Scsi) => self.read_by_sg()?,
            (None, Command::Nvme) => self.read_report()?,
        };
        if ports && self.command == Command::Scsi && !self.no_full_status {
            match self.answer(ReadKind::FullStatus) {
                Ok(data) => {
                    let head = parsed(readback::head(&data))?;
                    // Of another moment than keys and holder: better no ports than wrong ones.
                    if head.generation == read.generation {
                        read.entries = parsed(readback::full_status(&head))?;
                    }
                }
                Err(unsent) if unsent.was_not_sent() => self.no_full_status = true,
                Err(failed) => return Err(failed),
            }
        }
        Ok(read)
    }

    fn persists(&mut self) -> Option<bool> {
        if self.command == Command::Nvme {
            return None;
        }
        let mut room = [0; 8];
        let filled_bytes = again_reading(|| sg::read(&self.file, ReadKind::Capabilities, &mut room)).ok()?;
        readback::persists(&room[..filled_bytes])
    }
}

/// Keys and holder are two commands. `once` returns what they said and the generation of the second: if that differs from
/// the first's, somebody registered in between.
fn consistent(mut once: impl FnMut() -> Result<(ReadBack, u32), Outcome>) -> Result<ReadBack, Outcome> {
    for _ in 0..READINGS_MAX {
        let (found, generation) = once()?;
        if found.generation == generation {
            return Ok(found);
        }
    }
    Err(Outcome::Again(
        "the registrations changed at each reading".to_owned(),
    ))
}

/// Sends a change until the attentions are over. A command that gets one was not done (SPC-4 §5.14); where a kernel does
/// not say so clearly, doing it twice is harmless.
fn again(mut send: impl FnMut() -> Outcome) -> Outcome {
    let mut outcome = send();
    for _ in 1..ATTENTIONS_MAX {
        if !matches!(outcome, Outcome::Again(_)) {
            break;
        }
        outcome = send();
    }
    outcome
}

fn again_reading<T>(mut send: impl FnMut() -> Result<T, Outcome>) -> Result<T, Outcome> {
    let mut answer = send();
    for _ in 1..ATTENTIONS_MAX {
        if !matches!(answer, Err(Outcome::Again(_))) {
            break;
        }
        answer = send();
    }
    answer
}

/// The process or kernel cannot send commands as they are. (A target that refuses one is something else: trap 13.)
fn is_blocked(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::NotPermitted(_) => true,
        Outcome::Unsupported(why) => !why.starts_with("sense"),
        _ => false,
    }
}

fn parsed<T>(result: Result<T, readback::Malformed>) -> Result<T, Outcome> {
    result.map_err(|malformed| Outcome::Refused(malformed.to_string()))
}

fn too_many(count: usize) -> Outcome {
    Outcome::Refused(format!("{count} registrations, more than can be read"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attentions_are_passed_over_and_bounded() {
        let mut left = 3;
        let outcome = again(|| {
            left -= 1;
            if left > 0 {
                Outcome::Again("attention".to_owned())
            } else {
                Outcome::Done
            }
        });
        assert_eq!((outcome, left), (Outcome::Done, 0));
        let mut sent = 0;
        let outcome = again(|| {
            sent += 1;
            Outcome::Again("attention".to_owned())
        });
        assert!(matches!(outcome, Outcome::Again(_)));
        assert_eq!(sent, ATTENTIONS_MAX);
    }

    #[test]
    fn keys_and_holder_of_two_moments_are_read_again() {
        let mut generations = [(1, 2), (2, 3), (3, 3)].into_iter();
        let read = consistent(|| {
            let (first, second) = generations.next().unwrap();
            let found = ReadBack {
                generation: first,
                ..ReadBack::default()
            };
            Ok((found, second))
        });
        assert_eq!(read.unwrap().generation, 3);
        let restless = consistent(|| Ok((ReadBack::default(), 1)));
        assert!(matches!(restless, Err(Outcome::Again(_))));
    }

    #[test]
    fn a_plain_file_is_no_unit() {
        for command in [Command::Scsi, Command::Nvme] {
            let mut disk = Disk::new(tempfile::tempfile().unwrap(), command);
            assert!(disk.read(true).unwrap_err().was_not_sent());
            let key = ccd_core::reservation::ReservationKey::from_bits(1);
            let outcome = disk.change(Change::Register { key, persist: true });
            assert!(outcome.was_not_sent(), "{outcome}");
        }
    }
}
