//! What this node should do next, decided from what it sees: serve, wait, follow, or propose. Pure; a table tests it.
//!
//! Nothing here is needed for safety, which is the votes' and the leases' business: a wrong plan costs time.
//!
//! ```text
//! go_on.rs     not serving, or a member is gone: form a new cluster, or go on
//! improve.rs   serving: does the configuration still fit what is here?
//! mesh.rs      serving: who can hold a lease, by who hears whom
//! ```

mod go_on;
mod improve;
mod mesh;

use crate::configuration::votes::{self, Voters};
use crate::configuration::{Configuration, RestoreFlag};
use crate::ids::{DeviceRole, DeviceSet, Epoch, NodeId, NodeSet};
use crate::protocol::message::{CopyTrouble, NoVote};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
pub(super) use go_on::flagged_text;
use go_on::{first, go_on};
use improve::improve;

/// Why this node serves nothing, although it is willing.
pub(super) const CALLED_GONE: &str = "the external membership monitor says that this node is gone";

/// What a node sees of another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Each hears the other over the network.
    pub linked: bool,
    /// Not linked for a whole lease, but alive: its heartbeat on a device moves, or it is heard and does not hear back.
    pub alive_apart: bool,
    /// Not seen in any way for a whole lease.
    pub silent: bool,
    /// What it said last, if it is linked.
    pub epoch: Epoch,
    pub no_vote: Option<NoVote>,
    pub willing: bool,
    pub ready: bool,
    /// Why its local copy is out of use: it says so, or this node knows.
    pub trouble: Option<CopyTrouble>,
    pub serving: bool,
    /// A member that does not serve what this node serves, and will not by itself.
    pub fell_out: bool,
    /// All but the last few records are durable in its copy, and it takes in new ones as fast as they come.
    pub caught_up: bool,
    /// It has been linked for a whole lease, so it will be here for a while.
    pub settled: bool,
    /// An external membership monitor says that it is there, or gone.
    pub expected: bool,
    pub called_gone: bool,
    /// It did not keep up, or came and went too often: it is not to become a member yet.
    pub held_back: bool,
    /// Held back because it did not get ready or ack in time.
    pub slow: bool,
    /// It came and went so often that it is not taken in anew without a pause.
    pub flapping: bool,
    /// The nodes that it hears, and that it has been linked for a lease: so it has heard all that it can.
    pub hears: NodeSet,
    pub lasting: bool,
    /// Devices that are proven to be the same ones for both.
    pub shares: DeviceSet,
    /// The same by their ids, as far as one of them cannot write there yet, or by what was shown when it became a member.
    pub may_share: DeviceSet,
    /// Devices of which it is not known yet, and those where one of the two is about to write.
    pub undecided: DeviceSet,
    pub unwritten: DeviceSet,
    /// Devices that are known to be other ones there.
    pub unshared: DeviceSet,
}

/// Of a node that says nothing and is not seen.
static UNSEEN: Facts = Facts {
    linked: false,
    alive_apart: false,
    silent: false,
    epoch: Epoch(0),
    no_vote: None,
    willing: false,
    ready: false,
    trouble: None,
    serving: false,
    fell_out: false,
    caught_up: false,
    settled: false,
    expected: false,
    called_gone: false,
    held_back: false,
    slow: false,
    flapping: false,
    hears: NodeSet::EMPTY,
    lasting: false,
    shares: DeviceSet::EMPTY,
    may_share: DeviceSet::EMPTY,
    undecided: DeviceSet::EMPTY,
    unwritten: DeviceSet::EMPTY,
    unshared: DeviceSet::EMPTY,
};

/// What a node sees.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub me: NodeId,
    /// All nodes of the cluster.
    pub all: NodeSet,
    pub known: &'a Configuration,
    pub serving: bool,
    pub no_vote: Option<NoVote>,
    pub ready: bool,
    pub willing: bool,
    /// The external membership monitor says that this node itself is gone.
    pub called_gone: bool,
    pub nodes: BTreeMap<NodeId, Facts>,
    /// Devices that this node can use.
    pub usable: DeviceSet,
    /// Why a device has no vote, if it is another one on some node.
    pub unshared: Option<String>,
    /// Devices usable for so long that they may join, and unusable for so long that they must go.
    pub returned: DeviceSet,
    pub lost: DeviceSet,
    /// Devices that work and are too small for the database; not among the usable ones.
    pub small: DeviceSet,
    /// Devices not yet tried, while there is still time to.
    pub untried: DeviceSet,
    /// Its own local copy holds nearly all that is committed; that of a solo owner is not written by updates.
    pub local_near: bool,
    /// Solo: devices outside of the configuration that hold a recent image already.
    pub prewritten: DeviceSet,
    /// Nodes that fenced this one on a device of the configuration.
    pub fenced_by: NodeSet,
    /// It has waited for others to act for so long that it acts itself.
    pub patience_over: bool,
    /// An operator asked for a takeover now.
    pub impatient: bool,
    /// Which copies are here and how many are needed, where nodes alone vote and too few are here.
    pub copies: String,
    /// The voters that are linked or usable decide.
    pub decides: bool,
    /// It opened the known configuration and has not stopped since: whatever it does is no restart.
    pub serves: bool,
    /// The flag of the database itself.
    pub restore: RestoreFlag,
    /// Why it would lose what was acknowledged if it started from the copies that are here, where copies alone hold the state.
    pub below: Option<String>,
    /// Who an operator wants to be master, if that is not what was decided.
    pub designation: Option<Option<NodeId>>,
}

/// A configuration to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub members: NodeSet,
    pub devices: DeviceSet,
    pub why: String,
    /// What an operator has decided on with it.
    pub settles: Settles,
}

/// Parts of a configuration that change only because an operator says so; `None` leaves them as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settles {
    /// Other nodes, and the digest of the init database that names them.
    pub nodes: Option<(NodeSet, [u8; 32])>,
    pub maintenance: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// All is as it should be.
    Serve,
    /// Somebody or something else must act first.
    Wait(String),
    /// A device that comes back in solo mode gets an image first.
    Prewrite(DeviceSet),
    /// A node is about to join: the local copy of the solo owner catches up first.
    PrewriteLocal,
    Propose(Want),
    /// Proposes it without the votes, which an operator has waived.
    Override(Want),
}

pub(super) fn plan(view: &View) -> Plan {
    if !view.ready && !view.serving {
        return Plan::Wait("the local copy is not read yet, or cannot be".to_string());
    }
    if view.serving {
        let gone = |facts: &Facts| facts.silent || facts.alive_apart;
        let missing = view.others(view.known.members).any(|node| gone(view.of(node)));
        if !missing {
            return improve(view);
        }
    } else if let Some(peer) = view.serving_peer() {
        return Plan::Wait(if !view.willing {
            view.why_unwilling().to_string()
        } else if let Some(member) = view.member_apart(peer) {
            format!(
                "node {peer} serves; this node and node {member} do not hear each other, and it is taken in once they do"
            )
        } else {
            format!("node {peer} serves: catching up with it, to join")
        });
    }
    if !view.willing {
        return Plan::Wait(view.why_unwilling().to_string());
    }
    if view.known.is_genesis() {
        first(view)
    } else {
        go_on(view)
    }
}

impl View<'_> {
    fn others(&self, set: NodeSet) -> impl Iterator<Item = NodeId> {
        let me = self.me;
        set.iter().filter(move |node| *node != me)
    }

    /// What is seen of a node; of one that the init database does not name yet, nothing.
    fn of(&self, node: NodeId) -> &Facts {
        self.nodes.get(&node).unwrap_or(&UNSEEN)
    }

    /// Those of these devices that are the same ones for all of these nodes, by what `of` says of each.
    fn shared_by(&self, nodes: NodeSet, devices: DeviceSet, of: impl Fn(&Facts) -> DeviceSet) -> DeviceSet {
        let by_all = |role: &DeviceRole| self.others(nodes).all(|node| of(self.of(node)).contains(*role));
        devices.iter().filter(by_all).collect()
    }

    fn why_unwilling(&self) -> &'static str {
        if self.called_gone {
            CALLED_GONE
        } else {
            "left by request; `ccdctl join` takes part again"
        }
    }

    /// What the first of these nodes does, or cannot do, for which it is left out.
    fn why_left(&self, nodes: NodeSet) -> &'static str {
        let facts = |node| self.nodes.get(&node);
        let trouble = (self.others(nodes)).find_map(|node| facts(node)?.trouble);
        let stays = |facts: &Facts| facts.willing && facts.ready;
        if let Some(trouble) = trouble {
            CopyTrouble::name(trouble)
        } else if self.others(nodes).any(|node| facts(node).is_some_and(stays)) {
            "and another member do not hear each other"
        } else {
            "leaves"
        }
    }

    fn serving_peer(&self) -> Option<NodeId> {
        (self.nodes.iter())
            .find(|(_, facts)| facts.linked && facts.serving && facts.epoch >= self.known.epoch)
            .map(|(node, _)| *node)
    }

    /// This node and those that it can form a configuration with.
    fn candidates(&self) -> NodeSet {
        (self.nodes.iter())
            .filter(|(_, facts)| facts.linked && facts.ready && facts.willing)
            .map(|(node, _)| *node)
            .collect::<NodeSet>()
            .with(self.me)
    }

    /// The candidates that keep up, if they are enough to go on; else all of them. A cluster that serves does not stop for one that
    /// lacks much.
    fn quick_candidates(&self) -> NodeSet {
        let candidates = self.candidates();
        let is_quick = |facts: &Facts| !facts.slow && (facts.caught_up || !self.serves);
        let quick = (candidates.iter())
            .filter(|node| *node == self.me || is_quick(self.of(*node)))
            .collect();
        let shared = self.shared_by(quick, self.usable, |facts| facts.may_share);
        if self.goes_on_with(quick, shared) {
            quick
        } else {
            candidates
        }
    }

    /// Whether these nodes with these devices can form a configuration.
    fn goes_on_with(&self, nodes: NodeSet, devices: DeviceSet) -> bool {
        !devices.is_empty() || nodes.is_more_than_half_of(self.all.count())
    }

    fn has_vote(&self, node: NodeId) -> bool {
        if node == self.me {
            self.no_vote.is_none()
        } else {
            self.of(node).no_vote.is_none()
        }
    }

    /// Those of these that have no vote now.
    fn voteless(&self, nodes: NodeSet) -> NodeSet {
        nodes.iter().filter(|node| !self.has_vote(*node)).collect()
    }

    fn leaned_on(&self, at_hand: DeviceSet, next: Voters) -> NodeSet {
        votes::leaned_on(at_hand, next, self.all, self.voteless(next.nodes))
    }

    /// These members and devices, or those that go on without giving up the last device for a node without a vote.
    fn without_leaning(&self, members: NodeSet, devices: DeviceSet) -> (NodeSet, DeviceSet) {
        let at_hand = (self.known.devices.iter())
            .filter(|role| self.usable.contains(*role) && !self.known.is_genesis())
            .collect();
        let next = Voters::new(members, devices);
        let voteless = self.voteless(members);
        let uses = |node: NodeId| self.of(node).may_share;
        let instead = votes::instead_of_leaning(self.me, at_hand, next, self.all, voteless, uses);
        let Voters { nodes, devices } = instead.unwrap_or(next);
        (nodes, devices)
    }

    /// Who reconfigures: the owner, who has the newest state at hand; else the designated master, or the lowest-numbered member; else the
    /// lowest-numbered candidate. One without a vote only acts if there is nobody else.
    fn leader(&self, candidates: NodeSet) -> NodeId {
        let votes = |node: &NodeId| self.has_vote(*node);
        let members = self.known.members.intersection(candidates);
        (self
            .known
            .owner()
            .into_iter()
            .filter(|owner| candidates.contains(*owner)))
        // The designated master first: it is going to be master of what is formed.
        .chain(
            (self.known.designated.into_iter())
                .filter(|node| members.contains(*node))
                .filter(votes),
        )
        .chain(members.iter().filter(votes))
        .chain(candidates.iter().filter(votes))
        .chain(candidates.iter())
        .next()
        .unwrap_or(self.me)
    }
}

#[cfg(test)]
mod tests;
