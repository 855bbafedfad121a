//! Shows that a target refuses the write of who is not registered, as far as one node alone can: with two paths, one of them
//! registered and the other not. Done by mkfs, on a disk that nobody uses yet.

use super::command::Change;
use super::error::FenceError;
use super::outcome::Outcome;
use super::step::Fence;
use ccd_core::reservation::ReservationKey;
use std::io;

/// Whether a target enforces reservations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// A write with no registration was refused, and the same with one was not.
    Enforced,
    /// What happened instead.
    NotEnforced(String),
    /// Why it cannot be shown here and now; two nodes can show it.
    NotShown(&'static str),
}

impl Fence {
    /// Writes a block of zeros to the second block of the disk, so only on a disk whose content does not matter. Leaves no
    /// registration behind. `key` is one that nobody else uses.
    pub fn prove_enforcement(&mut self, key: ReservationKey) -> Result<Enforcement, FenceError> {
        let found = self.inspect()?;
        if !found.keys.is_empty() || found.holder.is_some() {
            return Ok(Enforcement::NotShown("somebody is registered there already"));
        }
        if self.identity.kind == super::DeviceKind::Nvme {
            return Ok(Enforcement::NotShown(
                "all paths of a server are registered together",
            ));
        }
        if self.open.len() < 2 {
            return Ok(Enforcement::NotShown("this server has only one path to it"));
        }
        let shown = self.try_with_one_path(key);
        // Whatever came of it, nothing stays behind.
        let left = self.clear(key)?;
        if !left.is_empty() {
            return Err(FenceError::Unreadable {
                device: self.identity.device.clone(),
                why: format!("the registration {key} of this test could not be removed"),
            });
        }
        shown
    }

    fn try_with_one_path(&mut self, key: ReservationKey) -> Result<Enforcement, FenceError> {
        for change in [Change::Register { key, persist: false }, Change::Reserve { key }] {
            let outcome = self.change_on(0, change);
            if matches!(outcome, Outcome::Path(_)) {
                return Ok(Enforcement::NotShown("its first path does not work"));
            }
        }
        let read = self.read_from_any(false, "")?;
        if read.entries.len() != 1
            || read
                .holder
                .is_none_or(|holder| holder.key != key || !holder.right_type)
        {
            return Ok(Enforcement::NotEnforced(format!(
                "it took a registration and a reservation, and reads back {} registrations and the holder {:?}",
                read.entries.len(),
                read.holder
            )));
        }
        let [registered, other] = [0, 1].map(|index| self.open[index].identity.clone());
        // The path may have an attention waiting, which a write takes away without harm.
        let refused = self.disks.write_zeros(&other);
        let taken = self.disks.write_zeros(&registered);
        let not = |text: String| Ok(Enforcement::NotEnforced(text));
        match refused {
            Ok(()) => {
                return not(format!(
                    "a write through {}, which is not registered, was taken",
                    other.name
                ));
            }
            Err(failed) if !is_conflict(&failed) => {
                return not(format!(
                    "a write through {} failed, but not by a conflict: {failed}",
                    other.name
                ));
            }
            Err(_) => {}
        }
        match taken {
            Ok(()) => Ok(Enforcement::Enforced),
            Err(failed) => not(format!(
                "a write through {}, which is registered, failed: {failed}",
                registered.name
            )),
        }
    }
}

fn is_conflict(failed: &io::Error) -> bool {
    failed.raw_os_error() == Some(libc::EBADE)
}
