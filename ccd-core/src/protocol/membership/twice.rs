//! One epoch that was decided twice: somebody put a node and all devices back to an earlier state while another node held more.
//!
//! The node that was put back cannot know it. It serves from what it holds, and decides epochs that were decided before. When it meets the
//! other node their configurations of one epoch differ, which votes alone never bring about. Neither may be taken for a newer or older
//! copy of the other, since each may hold updates that were acknowledged: an operator chooses, and the other one's copy is kept as a branch.
//!
//! Called with every heartbeat of a peer, with every survey of a device, and when the local copy has been read; owns `Node::twice`.

use crate::configuration::Configuration;
use crate::configuration::votes::{self, Voters};
use crate::ids::{DeviceSet, Epoch, NodeId, NodeSet, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::PeerState;
use crate::protocol::voting::conclude::is_overruled;
use crate::replica::Survey;
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
    /// The alarm is recorded.
    is_recorded: bool,
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

/// By this survey the owner of the area means another configuration by the epoch of `known`: what it wrote there is of the other side.
pub(in crate::protocol) fn wrote_for_another(known: &Configuration, survey: &Survey, node: NodeId) -> bool {
    let area = survey.areas.iter().find(|area| area.node == node);
    (area.and_then(|area| area.configuration.as_ref())).is_some_and(|theirs| differ(known, theirs))
}

/// Whether these are two configurations of one epoch.
fn differ(known: &Configuration, other: &Configuration) -> bool {
    let is_of_one = other.epoch == known.epoch && !known.is_genesis();
    is_of_one && mark_of(other) != mark_of(known)
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
        // Whose copy is new, or older than that, is of no side; nor is who was told of an operator's choice. One that starts has not
        // read its copy yet.
        let is_of_none = state.ready && state.epoch < twice.epoch || is_overruled(twice.epoch, state.epoch);
        if is_of_none {
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
        differ(&self.known, configuration)
    }

    /// A node proposes a successor of an epoch, and means another configuration by that epoch than this one does.
    pub(in crate::protocol) fn means_another(&self, node: NodeId, instance: Epoch) -> bool {
        let state = self.peers.get(&node).and_then(|peer| peer.state.as_ref());
        let mark = mark_of(&self.known);
        instance == self.known.epoch
            && state.is_none_or(|state| state.epoch != instance || state.mark != mark)
    }

    /// A node has written this configuration to a device.
    pub(in crate::protocol) fn note_written(&mut self, node: NodeId, configuration: &Configuration) {
        if self.differs(configuration) {
            self.note_twice(node);
        }
    }

    /// By this survey some node means another configuration by the epoch that this node knows.
    pub(in crate::protocol) fn shows_other_side(&self, survey: &Survey) -> bool {
        let mut nodes = survey.areas.iter().map(|area| area.node);
        nodes.any(|node| wrote_for_another(&self.known, survey, node))
    }

    /// Whether a node is of the other side of an epoch that was decided twice.
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
        self.record_twice();
    }

    fn note_twice(&mut self, node: NodeId) {
        if let Some(twice) = &mut self.twice {
            twice.nodes.insert(node);
            self.record_twice();
            return;
        }
        self.twice = Some(Twice {
            epoch: self.known.epoch,
            ours: mark_of(&self.known),
            nodes: NodeSet::of(node),
            is_recorded: false,
        });
        self.record_twice();
        // It was begun before that was known.
        let is_unattended = self.proposal.as_ref().is_some_and(|proposal| !proposal.forced);
        if is_unattended && self.serving.is_none() {
            self.abandon("the epoch before was decided twice");
        }
    }

    /// The alarm is recorded once, with what this node holds: so not before its local copy has been read, as long as that may still be.
    pub(in crate::protocol) fn record_twice(&mut self) {
        let local = self.replica(Replica::Local);
        let is_read = local.loaded || local.error().is_some();
        let is_due = self.twice.is_some_and(|twice| !twice.is_recorded) && is_read;
        if let Some(text) = self.decided_twice_text().filter(|_| is_due) {
            self.record(DecisionKind::Alarm, text);
            self.twice = self.twice.map(|twice| Twice {
                is_recorded: true,
                ..twice
            });
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
            let devices = if self.known.owner() == Some(self.me()) {
                "on its devices, if those were not put back, and "
            } else {
                ""
            };
            format!(
                "; generations {} to {told} of this node are {devices}in its history (`ccdadm history`)",
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
    use crate::replica::AreaSurvey;

    #[test]
    fn what_an_area_holds_is_of_the_other_side_if_its_own_owner_means_another_configuration() {
        let [a, b, c] = [0, 1, 2].map(|number| NodeId::new(number).unwrap());
        let all = NodeSet::of(a).with(b).with(c);
        let mine = Configuration {
            epoch: Epoch(2),
            members: NodeSet::of(a),
            ..Configuration::genesis(all, DeviceSet::EMPTY)
        };
        let theirs = Configuration {
            members: NodeSet::of(b),
            proposer: b,
            ..mine.clone()
        };
        let earlier = Configuration {
            epoch: Epoch(1),
            ..theirs.clone()
        };
        let area = |node, configuration: Option<&Configuration>| AreaSurvey {
            node,
            heartbeat: None,
            heartbeat_before: None,
            ballot: None,
            configuration: configuration.cloned(),
            damaged: false,
        };
        #[rustfmt::skip]
        let table = [
            ("an owner's own area, beside one of the other side", [Some(&mine), Some(&theirs), None],    a, false),
            ("the other side's area",                             [Some(&mine), Some(&theirs), None],    b, true),
            ("the area of one that decided nothing",              [Some(&mine), Some(&theirs), None],    c, false),
            ("one that follows the other side",                   [Some(&mine), Some(&theirs), Some(&theirs)], c, true),
            ("one that knows an earlier epoch",                   [Some(&mine), Some(&earlier), None],   b, false),
            ("an earlier run of this node on the other side",     [Some(&theirs), None, None],           a, true),
        ];
        for (what, configurations, wrote, expected) in table {
            let areas = [a, b, c].into_iter().zip(configurations);
            let survey = Survey {
                areas: areas
                    .map(|(node, configuration)| area(node, configuration))
                    .collect(),
                ..Survey::default()
            };
            assert_eq!(wrote_for_another(&mine, &survey, wrote), expected, "{what}");
        }
    }

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
