//! A node that votes has signed its devices: a heartbeat of this run stands in its area, where another run of the node finds it.
//!
//! Called before a vote is written to a device (`voting/promises.rs`), before the first configuration is opened (`copies/install.rs`), and
//! to tell whether this node has a vote (`voting/vote.rs`).

use crate::ids::{DeviceRole, Epoch, Position, Replica};
use crate::protocol::Node;
use alloc::format;
use alloc::string::String;

impl Node {
    /// A vote is to be written to this device. If this node votes itself as well, a heartbeat of this run stands there before: another run
    /// of this node, with a vote of its own, finds it.
    pub(in crate::protocol) fn sign_area(&mut self, role: DeviceRole) {
        if self.may_vote() && !self.is_signed(role) && self.writes_heartbeats(role) {
            self.write_heartbeat(role, self.now);
        }
    }

    /// A heartbeat of this run was found in its area.
    pub(in crate::protocol) fn is_signed(&self, role: DeviceRole) -> bool {
        self.replica(Replica::Device(role)).own_area.found_last.is_some()
    }

    /// It was also read since the votes for the first configuration stand there: before that it looks as if somebody had made it anew.
    fn is_signed_and_seen(&self, role: DeviceRole) -> bool {
        self.is_signed(role) && !self.replica(Replica::Device(role)).is_new
    }

    /// The first configuration was decided, and this node has not opened it yet, nor ever written a heartbeat to each of its devices. A
    /// copy of its state folder would find nothing there of it, and each could give the vote of the node. Of later configurations the
    /// members have shown each other that they share the devices, by heartbeats.
    pub(in crate::protocol) fn is_unsigned(&self) -> bool {
        // An owner that is alone has claimed its devices, and signed them before; its local copy does not say that it has opened.
        let is_member = self.known.owner().is_none() && self.known.members.contains(self.me());
        let is_first = self.known.base == Position::EMPTY && is_member;
        is_first
            && !self.known.is_genesis()
            && !self.has_opened_once()
            && !self
                .known
                .devices
                .iter()
                .all(|role| self.is_signed_and_seen(role))
    }

    /// Why this node has no vote then, for people.
    pub(in crate::protocol) fn unsigned_text(&self) -> Option<String> {
        let missing = (self.known.devices.iter()).find(|role| !self.is_signed_and_seen(*role));
        let missing = missing.filter(|_| self.is_unsigned())?;
        Some(format!(
            "the first heartbeat of this node does not stand on the {missing} yet: before that it has no vote, and does not open the first \
             configuration"
        ))
    }

    /// The local copy was written when a configuration was opened. Of a damaged one nothing is taken, but a write that was cut short is no
    /// damage: it has held more than a new one.
    fn has_opened_once(&self) -> bool {
        self.head.position().stamp.epoch > Epoch(0) || self.damaged.is_some()
    }

    /// Such a node writes at once, and does not wait for its next heartbeat.
    pub(in crate::protocol) fn sign_devices(&mut self) {
        for role in self.device_roles() {
            let is_wanted = self.known.devices.contains(role) && !self.is_signed_and_seen(role);
            if is_wanted && self.writes_heartbeats(role) {
                self.beat_device(role);
            }
        }
    }
}
