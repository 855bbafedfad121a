//! How large a database the replicas hold: what this node says of its own, what bounds the updates that the master admits, and
//! which replica is too small for the database that there is.
//!
//! ```text
//! admitted                at most the smallest room of all: the init database's `image_mib`, this node's local copy and the
//!                         devices that it uses, and what every other node last said of its own
//! a device too small      votes on the successor of a configuration that has it, and is part of no successor
//! a local copy too small  is not ready: its node is no member, and says why
//! ```
//!
//! So a database never outgrows a replica that takes part; one that came later, or was made anew too small, stays out.

use super::ReplicaView;
use crate::client::Refusal;
use crate::database::Database;
use crate::ids::{DeviceRole, DeviceSet, Generation, NodeId, Replica};
use crate::protocol::Node;
use crate::protocol::message::{CopyTrouble, Room};
use alloc::format;
use alloc::string::String;
use core::fmt;

impl ReplicaView {
    /// Whether an image of so many bytes fits, as far as is known.
    pub fn holds(&self, image_bytes: u64) -> bool {
        self.room.is_none_or(|room| image_bytes <= room)
            && self.refused_bytes.is_none_or(|refused| image_bytes < refused)
    }

    /// The region was opened, or its control blocks were read.
    pub(super) fn note_room(&mut self, image_bytes_max: u64) {
        if self.room != Some(image_bytes_max) {
            self.room = Some(image_bytes_max);
            // Another region than the one that refused.
            self.refused_bytes = None;
        }
    }

    /// It refused an image of so many bytes: it is not asked again, whatever it says of its room.
    pub(super) fn note_refused_image(&mut self, image_bytes: u64) {
        self.refused_bytes = Some(
            self.refused_bytes
                .map_or(image_bytes, |known| known.min(image_bytes)),
        );
    }

    /// The largest image that it is known to take.
    fn room_bytes(&self) -> Option<u64> {
        let below_refused = self.refused_bytes.map(|refused| refused.saturating_sub(1));
        self.room.into_iter().chain(below_refused).min()
    }
}

/// What bounds an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// The init database.
    Option,
    LocalCopy(NodeId),
    Device(DeviceRole),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("the cluster (option image_mib)"),
            Self::LocalCopy(node) => write!(f, "the local copy of node {node}"),
            Self::Device(role) => write!(f, "the {role}"),
        }
    }
}

impl Node {
    /// Whether the replicas have room for this version, which follows `now`. One that is no larger is always admitted: so rows
    /// can be removed from a database that has no room left.
    pub(in crate::protocol) fn fits(&self, now: &Database, next: &Database) -> Result<(), Refusal> {
        self.fits_bytes(now, next.position().stamp.generation, next.image_len_bytes())
    }

    /// As [`fits`](Self::fits), a version of which no more is known than these.
    pub(in crate::protocol) fn fits_bytes(
        &self,
        now: &Database,
        generation: Generation,
        wanted: u64,
    ) -> Result<(), Refusal> {
        if generation >= Generation::MAX {
            let why = format!("generation {} is the last there can be", Generation::MAX);
            return Err(Refusal::Full { why });
        }
        let have = now.image_len_bytes();
        let (bytes, of) = self.bound();
        if wanted <= bytes || wanted <= have {
            return Ok(());
        }
        let why = format!("the database would have {wanted} bytes, and {of} has room for {bytes}");
        Err(Refusal::Full { why })
    }

    /// The smallest room of all replicas, and whose it is. What an absent node last said of its local copy counts: it is to come
    /// back. A replica that is too small for the present database takes no part already.
    fn bound(&self) -> (u64, Bound) {
        let needed = self.image_bytes();
        let mine = (self.replicas.iter()).filter_map(|(replica, view)| {
            let (counts, of) = match replica {
                Replica::Local => (true, Bound::LocalCopy(self.me())),
                Replica::Device(role) => {
                    let counts = view.usable() || self.known.devices.contains(role);
                    (counts, Bound::Device(role))
                }
            };
            Some((view.room_bytes()?, of)).filter(|_| counts)
        });
        let others = (self.peers.iter())
            .filter(|(node, _)| self.settings.nodes.contains(**node))
            .filter_map(|(node, peer)| {
                let bytes = peer.state.as_ref()?.room.local_bytes?;
                Some((bytes, Bound::LocalCopy(*node)))
            });
        let devices_of_others = (self.peers.keys()).filter_map(|node| {
            let (role, bytes) = self.peer_state(*node)?.room.device?;
            Some((bytes, Bound::Device(role)))
        });
        (mine.chain(others).chain(devices_of_others))
            .filter(|(bytes, _)| *bytes >= needed)
            .fold((self.settings.content_bytes_max, Bound::Option), |least, next| {
                if next.0 < least.0 { next } else { least }
            })
    }

    /// Bytes of the image of what this node holds, prepared rounds included.
    fn image_bytes(&self) -> u64 {
        self.head.image_len_bytes().max(self.committed.image_len_bytes())
    }

    /// Bytes of the image of the newest database that this node holds or hears of.
    fn needed_bytes(&self) -> u64 {
        self.newer_bytes().max(self.image_bytes())
    }

    /// The same of those that others hold and this node lacks.
    fn newer_bytes(&self) -> u64 {
        let here = self.head.position().stamp;
        (self.peers.keys())
            .filter_map(|node| self.peer_state(*node))
            .filter(|state| state.position.stamp > here)
            .map(|state| state.room.image_bytes)
            .max()
            .unwrap_or_default()
    }

    /// Whether a device can hold the database of this node.
    pub(in crate::protocol) fn device_fits(&self, role: DeviceRole) -> bool {
        self.replica(Replica::Device(role)).holds(self.image_bytes())
    }

    /// The devices that this node can use, and that have room for the database: those that a configuration may have.
    pub(in crate::protocol) fn fit_devices(&self) -> DeviceSet {
        let needed = self.needed_bytes();
        (self.usable_devices().iter())
            .filter(|role| self.replica(Replica::Device(*role)).holds(needed))
            .collect()
    }

    /// Devices that work, and have no room for the database.
    pub(in crate::protocol) fn small_devices(&self) -> DeviceSet {
        let fit = self.fit_devices();
        (self.usable_devices().iter())
            .filter(|role| !fit.contains(*role))
            .collect()
    }

    /// Whether the local copy can hold what it is to hold. What it holds already it has shown that it can.
    pub(in crate::protocol) fn local_copy_fits(&self) -> bool {
        let local = self.replica(Replica::Local);
        let own = if self.opened_as_owner() || local.refused_bytes.is_some() {
            self.image_bytes()
        } else {
            0
        };
        local.holds(own.max(self.newer_bytes()))
    }

    /// Whether the local copy of another node can hold the database.
    pub(in crate::protocol) fn copy_fits(&self, node: NodeId) -> bool {
        let state = self.peers.get(&node).and_then(|peer| peer.state.as_ref());
        state
            .and_then(|state| state.room.local_bytes)
            .is_none_or(|room| self.needed_bytes() <= room)
    }

    /// Why the local copy of this node is out of use, if nothing that is under way mends that.
    pub(in crate::protocol) fn trouble(&self) -> Option<CopyTrouble> {
        let local = self.replica(Replica::Local);
        if local.is_failed() {
            Some(CopyTrouble::Failed)
        } else if local.usable() && !self.local_copy_fits() {
            Some(CopyTrouble::TooSmall)
        } else {
            None
        }
    }

    pub(in crate::protocol) fn own_room(&self) -> Room {
        let device = (self.fit_devices().iter())
            .filter_map(|role| Some((role, self.replica(Replica::Device(role)).room_bytes()?)))
            .min_by_key(|(_, bytes)| *bytes);
        Room {
            local_bytes: self.replica(Replica::Local).room_bytes(),
            device,
            image_bytes: self.image_bytes(),
        }
    }

    /// For people: the local copy of this node is out of use.
    pub(in crate::protocol) fn copy_text(&self) -> Option<String> {
        let local = self.replica(Replica::Local);
        Some(match self.trouble()? {
            CopyTrouble::Failed => format!(
                "the local copy cannot be used: {}",
                local.error().unwrap_or("writing it failed")
            ),
            CopyTrouble::TooSmall => format!(
                "the local copy is too small: the database has {} bytes, and it has room for {}; stop ccdd, \
                 move the local copy aside, and start ccdd: it makes one of image_mib",
                self.needed_bytes(),
                local.room_bytes().unwrap_or_default()
            ),
        })
    }

    /// For people: a device that works and is too small.
    pub(in crate::protocol) fn small_text(&self, role: DeviceRole) -> Option<String> {
        if !self.small_devices().contains(role) {
            return None;
        }
        let room = self
            .replica(Replica::Device(role))
            .room_bytes()
            .unwrap_or_default();
        Some(format!(
            "the {role} is too small: the database has {} bytes, and it has room for {room}; make it anew on a larger \
             device with `ccd-disk mkfs --role {role}`",
            self.needed_bytes()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    #[test]
    fn a_replica_holds_what_its_superblock_says_and_never_again_what_it_refused() {
        let mut view = ReplicaView::new(Time::ZERO);
        assert!(
            view.holds(u64::MAX) && view.room_bytes().is_none(),
            "not known yet"
        );
        view.note_room(1_000);
        assert!(view.holds(1_000) && !view.holds(1_001));
        assert_eq!(view.room_bytes(), Some(1_000));
        for refused in [900, 950] {
            view.note_refused_image(refused);
            assert!(view.holds(899) && !view.holds(900));
            assert_eq!(view.room_bytes(), Some(899));
        }
        view.note_room(1_000);
        assert!(!view.holds(900), "it said that before");
        view.note_room(2_000);
        assert!(view.holds(2_000), "it was made anew");
    }
}
