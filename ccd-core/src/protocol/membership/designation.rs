//! The master that an operator designates (claim 18): a successor configuration names it, decided like any other.
//!
//! Any node takes the request and hands it to the master at every heartbeat, until the configuration says so. The master lets
//! the round under way end first; what waits is asked of the new master. A designated node that is no member is
//! designated all the same: the lowest-numbered member is master until it is back.
//!
//! Owns `designation`. Called by `requests`, `operator.rs`, `learn.rs` and `status.rs`.

use super::operator::Wish;
use crate::ids::{Epoch, NodeId};
use crate::protocol::Node;
use crate::protocol::message::Message;
use crate::time::Time;
use alloc::vec::Vec;

/// A request that is not repeated for so many leases is forgotten.
const FORGOTTEN_AFTER_LEASES: u32 = 2;

/// What the next configuration should say.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct Designation {
    node: Option<NodeId>,
    until: Time,
}

impl Node {
    /// What the next configuration should say, if that is something else.
    pub(in crate::protocol) fn wanted_designation(&self) -> Option<Option<NodeId>> {
        self.designation
            .filter(|designation| self.now < designation.until && designation.node != self.known.designated)
            .map(|designation| designation.node)
    }

    /// A wish that a configuration has fulfilled is over: else it would come up again as soon as somebody wishes otherwise.
    pub(in crate::protocol) fn note_designation(&mut self) {
        let designated = self.known.designated;
        self.designation
            .take_if(|designation| designation.node == designated);
    }

    /// At once, and at every heartbeat: what clients of this node ask for is handed to the master.
    pub(in crate::protocol) fn hand_on_designations(&mut self) {
        let wanted: Vec<Option<NodeId>> = (self.requests.operator.iter())
            .filter_map(|operator| match operator.wish {
                Wish::Master(node) if node != self.known.designated => Some(node),
                _ => None,
            })
            .collect();
        // Two that want different nodes are served one after the other.
        let Some(node) = wanted.first().copied().filter(|_| self.is_open()) else {
            return;
        };
        let epoch = self.known.epoch;
        match self.known.master() {
            Some(master) if master == self.me() => self.take_designation(node),
            Some(master) => self.send(master, Message::Designate { epoch, node }),
            None => {}
        }
    }

    pub(in crate::protocol) fn on_designate(&mut self, epoch: Epoch, node: Option<NodeId>) {
        if epoch == self.known.epoch && self.is_open() && self.is_master() {
            self.take_designation(node);
        }
    }

    fn take_designation(&mut self, node: Option<NodeId>) {
        if node.is_none_or(|node| self.settings.nodes.contains(node)) {
            let until = self.now + self.settings.lease.saturating_mul(FORGOTTEN_AFTER_LEASES);
            self.designation = Some(Designation { node, until });
            self.look = true;
        }
    }
}
