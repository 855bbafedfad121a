//! One epoch that was decided twice: somebody put a node and all devices back to an earlier state while another node held more.
//!
//! The node that was put back cannot know it. It serves from what it holds, and decides epochs that were decided before. When it meets the
//! other node their configurations of one epoch differ, which votes alone never bring about. Neither may be taken for a newer or older
//! copy of the other, since each may hold updates that were acknowledged: an operator chooses, and the other one's copy is kept as a branch.
//!
//! Called with every heartbeat of a peer; owns `Node::twice`.

use crate::configuration::Configuration;
use crate::configuration::votes::{self, Voters};
use crate::ids::{DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::PeerState;
use crate::protocol::voting::conclude::is_overruled;
use alloc::format;
use alloc::string::String;

/// Other nodes know another configuration of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Twice {
    epoch: Epoch,
    /// The mark of the configuration that this node's side means.
    ours: u64,
    /// Those of the other side. Invariant: not empty.
    nodes: NodeSet,
}

/// Tells two configurations of one epoch apart.
pub(in crate::protocol) fn mark_of(configuration: &Configuration) -> u64 {
    let mut hasher = blake3::Hasher::new();
    let devices = configuration
        .devices
        .iter()
        .map(|role| 1 << role as u32)
        .sum::<u64>();
    for number in [
        configuration.epoch.0,
        u64::from(configuration.members.bits()),
        u64::from(configuration.nodes.bits()),
        devices,
        configuration.base.stamp.epoch.0,
        configuration.base.stamp.generation.0,
        configuration.proposer.index() as u64,
    ] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&configuration.base.lineage.0);
    let mut reader = hasher.finalize_xof();
    let mut mark = [0; 8];
    reader.fill(&mut mark);
    u64::from_le_bytes(mark)
}

impl Node {
    /// A heartbeat of that node came. Returns whether both are of one side, as far as can be told.
    pub(in crate::protocol) fn agrees_with(&mut self, node: NodeId, state: &PeerState) -> bool {
        let known = self.known.epoch;
        self.twice = self.sides();
        if state.epoch == known && !self.known.is_genesis() {
            if state.mark != mark_of(&self.known) {
                self.note_twice(node);
                return false;
            }
            self.note_same_side(node);
            return true;
        }
        let Some(twice) = self.sides() else {
            return true;
        };
        if state.epoch == twice.epoch && state.mark != twice.ours {
            self.note_twice(node);
            return false;
        }
        // Whose copy is new, or older than that, is of no side; nor is who was told of an operator's choice.
        let is_of_a_side = state.epoch > twice.epoch && !is_overruled(twice.epoch, state.epoch);
        if !is_of_a_side {
            self.note_same_side(node);
        }
        !self.is_at_odds_with(node)
    }

    /// The two sides, until an operator has chosen.
    pub(in crate::protocol) fn sides(&self) -> Option<Twice> {
        self.twice
            .filter(|twice| !is_overruled(twice.epoch, self.known.epoch))
    }

    /// Nothing that is known of that node says that its copy is of the other side.
    pub(in crate::protocol) fn is_of_this_side(&self, node: NodeId) -> bool {
        let state = self.peers.get(&node).and_then(|peer| peer.state.as_ref());
        let is_same = state.is_some_and(|state| {
            state.epoch != self.known.epoch || self.known.is_genesis() || state.mark == mark_of(&self.known)
        });
        is_same && !self.is_at_odds_with(node)
    }

    fn note_same_side(&mut self, node: NodeId) {
        if let Some(twice) = &mut self.twice {
            twice.nodes.remove(node);
            self.twice = self.twice.filter(|twice| !twice.nodes.is_empty());
        }
    }

    /// The other side has decided it, and no operator has chosen: nobody of this side goes by it.
    pub(in crate::protocol) fn is_by_other_side(&self, configuration: &Configuration) -> bool {
        self.sides().is_some_and(|twice| {
            twice.nodes.contains(configuration.proposer) && !is_overruled(twice.epoch, configuration.epoch)
        })
    }

    /// Why this node waits for an operator. One whose side has gone on, or can go on by the votes of nodes alone, does not wait.
    pub(in crate::protocol) fn waits_for_choice(&self) -> Option<String> {
        let twice = self.sides()?;
        let of_side = self.heard_nodes().with(self.me()).minus(twice.nodes);
        let goes_on = twice.epoch < self.known.epoch
            || self.nodes_alone_vote() && votes::decide(&self.known, Voters::new(of_side, DeviceSet::EMPTY));
        (!goes_on && self.serving.is_none()).then(|| self.decided_twice_text())?
    }

    /// Another configuration of the epoch that this node knows.
    pub(in crate::protocol) fn differs(&self, configuration: &Configuration) -> bool {
        let is_of_this = configuration.epoch == self.known.epoch && !self.known.is_genesis();
        is_of_this && mark_of(configuration) != mark_of(&self.known)
    }

    /// That node proposes a successor of an epoch by which it means something else.
    pub(in crate::protocol) fn means_another(&self, node: NodeId, instance: Epoch) -> bool {
        let state = self.peers.get(&node).and_then(|peer| peer.state.as_ref());
        let mark = mark_of(&self.known);
        instance == self.known.epoch
            && state.is_none_or(|state| state.epoch != instance || state.mark != mark)
    }

    /// That node has written this configuration to a device.
    pub(in crate::protocol) fn note_written(&mut self, node: NodeId, configuration: &Configuration) {
        if self.differs(configuration) {
            self.note_twice(node);
        }
    }

    /// What the device holds was written by whoever means another configuration by the epoch that this node knows.
    pub(in crate::protocol) fn is_of_other_side(&self, role: DeviceRole) -> bool {
        let areas = &self.replica(Replica::Device(role)).survey.areas;
        let of_others = areas.iter().filter(|area| area.node != self.me());
        of_others
            .filter_map(|area| area.configuration.as_ref())
            .any(|configuration| self.differs(configuration))
    }

    /// That node is of the other side of an epoch that was decided twice.
    pub(in crate::protocol) fn is_at_odds_with(&self, node: NodeId) -> bool {
        self.sides().is_some_and(|twice| twice.nodes.contains(node))
    }

    /// The local copy has been read: what other nodes have written to the devices was perhaps read before it, and taken for the newest.
    pub(in crate::protocol) fn compare_with_devices(&mut self) {
        let me = self.me();
        for role in self.device_roles() {
            let areas = self.replica(Replica::Device(role)).survey.areas.clone();
            for area in areas.iter().filter(|area| area.node != me) {
                if let Some(configuration) = &area.configuration {
                    self.note_written(area.node, configuration);
                }
            }
        }
    }

    fn note_twice(&mut self, node: NodeId) {
        if let Some(twice) = &mut self.twice {
            twice.nodes.insert(node);
            return;
        }
        self.twice = Some(Twice {
            epoch: self.known.epoch,
            ours: mark_of(&self.known),
            nodes: NodeSet::of(node),
        });
        if let Some(text) = self.decided_twice_text() {
            self.record(DecisionKind::Alarm, text);
        }
        // It was begun before that was known.
        let is_unattended = self.proposal.as_ref().is_some_and(|proposal| !proposal.forced);
        if is_unattended && self.serving.is_none() {
            self.abandon("the epoch before was decided twice");
        }
    }

    /// For people, and why this node neither joins nor takes over by itself.
    pub(in crate::protocol) fn decided_twice_text(&self) -> Option<String> {
        let Twice { epoch, nodes, .. } = self.sides()?;
        let states = nodes
            .iter()
            .filter_map(|node| self.peers.get(&node)?.state.as_ref());
        let newest = states.max_by_key(|state| state.position.stamp);
        let theirs = newest.map_or(String::new(), |state| format!(" at {}", state.position));
        let head = self.head.position();
        // The updates of an owner that was alone are on its devices only, and its own history has them.
        let told = self.told_position().stamp.generation;
        let lacks = if told > head.stamp.generation {
            format!(
                "; generations {} to {told} of this node are in its history only (`ccdadm history`)",
                head.stamp.generation.next()
            )
        } else {
            String::new()
        };
        Some(format!(
            "epoch {epoch} was decided twice, here ({}, at {}) and by node {nodes}{theirs}: a node and the devices were put back to an earlier \
             state, so each side may hold updates that the other lacks{lacks}; choose one: `ccdctl takeover --force` on the node that does not \
             serve goes on with its local copy, and keeps what the other one holds as a branch; with its state folder moved away it takes \
             what the other one holds",
            self.known, head
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, Lineage};

    #[test]
    fn configurations_of_one_epoch_that_mean_different_states_have_different_marks() {
        let node = |number| NodeId::new(number).unwrap();
        let pair = NodeSet::of(node(0)).with(node(1));
        let decided = Configuration {
            epoch: Epoch(2),
            members: pair,
            ..Configuration::genesis(pair, DeviceSet::EMPTY)
        };
        let mut alone = decided.clone();
        alone.members = NodeSet::of(node(0));
        let mut from_less = decided.clone();
        from_less.base.stamp.generation = Generation(7);
        let mut from_another = decided.clone();
        from_another.base.lineage = Lineage([7; 32]);
        let mut by_another = decided.clone();
        by_another.proposer = node(1);
        let mut told_otherwise = decided.clone();
        told_otherwise.reason = String::from("as it is stored");
        assert_eq!(mark_of(&told_otherwise), mark_of(&decided));
        for other in [alone, from_less, from_another, by_another] {
            assert_ne!(mark_of(&other), mark_of(&decided), "{other:?}");
        }
    }
}
