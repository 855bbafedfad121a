//! Nodes added to a running cluster, and removed from it: the init database is changed on all nodes as one operation.
//!
//! ```text
//! edit → checked → its text stored beside the old one on every node that stays      (staged: nothing has changed yet)
//!      → a successor with the new nodes and the new digest, decided by the voters of the old configuration
//!      → whoever learns it goes by the stored text from its next heartbeat on       (adopted)
//! ```
//!
//! What counts for votes is `Configuration.nodes` alone; `cluster` are all nodes, with those that an override went on without. The init
//! database says where the nodes are and how they are called;
//! it is the configuration's if the digests agree. A node votes for a new set of nodes only if it holds its text, so whatever
//! is decided can be read somewhere; a node that comes to know of a decision without the text asks the others for it.
//!
//! This file says who the cluster is.
//!
//! ```text
//! change.rs    an operator's request, from the check to the answer
//! owner.rs     whether this server still has its number
//! staging.rs   the text, from node to node
//! ```
//!
//! Owns `changes`, `settings.init`, `settings.staged` and `settings.nodes`.

mod change;
pub(in crate::protocol) mod owner;
mod staging;

use crate::client::{ClientToken, Refusal};
use crate::configuration::Configuration;
use crate::ids::{NodeId, NodeSet, RequestId};
use crate::init::InitFile;
use crate::protocol::Node;
use crate::protocol::interface::{Action, DecisionKind};
use crate::protocol::membership::peers::Peer;
use crate::protocol::message::Message;
use crate::time::Time;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use change::{Change, Forwarded};
use core::time::Duration;

type Digest = [u8; 32];

#[derive(Debug, Default)]
pub(in crate::protocol) struct NodeChanges {
    /// The one that this node sees to.
    change: Option<Change>,
    /// A text on its way to the disk, and who waits for that.
    staging: Option<(InitFile, NodeSet)>,
    /// Nodes that were removed: until when they may still serve.
    former: BTreeMap<NodeId, Time>,
    /// What this node's clients asked for and another node sees to.
    forwarded: Vec<Forwarded>,
    finished: VecDeque<(RequestId, Result<(), Refusal>)>,
    serial: u64,
}

impl NodeChanges {
    pub fn next_deadline(&self) -> Time {
        let change = self.change.as_ref().map(|change| change.deadline);
        let forwarded = self.forwarded.iter().map(|forwarded| forwarded.deadline);
        forwarded.chain(change).min().unwrap_or(Time::NEVER)
    }

    pub fn on_client_gone(&mut self, client: ClientToken) {
        self.forwarded.retain(|forwarded| forwarded.client != client);
        // What is under way goes on; its answer finds nobody.
    }
}

impl Node {
    /// All nodes of the cluster: those of the init database, if it is the one that the configuration goes by.
    pub(in crate::protocol) fn cluster_nodes(&self) -> NodeSet {
        let (known, settings) = (&self.known, &self.settings);
        let agreed = known.is_genesis()
            || known.init_digest == [0; 32]
            || known.init_digest == settings.init.digest
            || known.cluster == settings.nodes;
        if agreed {
            settings.nodes
        } else {
            // Edited by hand, or its text is not here yet: what was decided counts.
            known.cluster.union(known.members)
        }
    }

    /// The digest that a successor without a change of nodes carries.
    pub(in crate::protocol) fn cluster_digest(&self) -> Digest {
        if self.cluster_nodes() == self.settings.nodes {
            self.settings.init.digest
        } else {
            self.known.init_digest
        }
    }

    /// An operator took this node out of the cluster.
    pub(in crate::protocol) fn removed(&self) -> bool {
        let known = &self.known;
        !known.cluster.contains(self.me())
            && known.init_digest != [0; 32]
            && known.init_digest != self.settings.init.digest
    }

    pub(in crate::protocol) fn removed_text(&self) -> String {
        format!(
            "node {} was removed from the cluster (epoch {}, by node {}): stop ccdd here; `ccdctl add-node` on a node of \
             the cluster takes it in again",
            self.me(),
            self.known.epoch,
            self.known.proposer
        )
    }

    /// Every node that is named anywhere has an entry among the peers.
    pub(in crate::protocol) fn note_nodes(&mut self) {
        let (known, now) = (&self.known, self.now);
        let named = (self.settings.nodes.union(known.cluster).union(known.members)).without(self.settings.me);
        for node in named.iter() {
            self.peers.entry(node).or_insert_with(|| Peer::new(now));
        }
        let gone: Vec<NodeId> = (self.peers.keys().copied())
            .filter(|node| !named.contains(*node))
            .collect();
        for node in gone {
            // What was promised to it is kept.
            if let Some(peer) = self.peers.remove(&node)
                && peer.promised_until > now
            {
                self.changes.former.insert(node, peer.promised_until);
            }
        }
    }

    /// Until when removed nodes may still hold a lease of this one, or of one that has told it.
    pub(in crate::protocol) fn former_leases(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        let now = self.now;
        (self.changes.former.iter()).map(move |(node, until)| (*node, until.since(now)))
    }

    pub(in crate::protocol) fn note_former_lease(&mut self, node: NodeId, until: Time) {
        let known = self.changes.former.entry(node).or_insert(until);
        *known = until.max(*known);
    }

    /// The text of what was decided is here: from now on this node goes by it. Called at every heartbeat, before it is sent,
    /// so that whoever is to be forgotten has been told.
    pub(in crate::protocol) fn follow_init(&mut self) {
        let now = self.now;
        self.changes.former.retain(|_, until| *until > now);
        let decided = self.known.init_digest;
        let nodes = self.known.cluster;
        // A node that is removed keeps the file in which it is one.
        if decided == self.settings.init.digest || !nodes.contains(self.me()) || self.number_is_anothers() {
            return;
        }
        let staged = (self.settings.staged).take_if(|staged| staged.digest == decided);
        let Some(init) = staged else {
            if self.cluster_nodes() != self.settings.nodes || self.names_other_servers() {
                self.send_to_all(&Message::InitAsk { digest: decided });
            }
            return;
        };
        let (before, after) = (self.settings.nodes, init.nodes);
        let text = match (after.minus(before), before.minus(after)) {
            (added, removed) if added.is_empty() && removed.is_empty() => {
                String::from("a number was given to another server")
            }
            (added, removed) if removed.is_empty() => format!("node {added} was added"),
            (added, removed) if added.is_empty() => format!("node {removed} was removed"),
            (added, removed) => format!("node {added} was added, node {removed} removed"),
        };
        self.settings.nodes = after;
        self.settings.init = init.clone();
        self.note_nodes();
        self.look = true;
        self.record(
            DecisionKind::Nodes,
            format!("goes by the init database of epoch {}: {text}", self.known.epoch),
        );
        self.actions.push(Action::AdoptInit { init });
    }

    /// A number was given to another server than the one that this node's init database has.
    fn names_other_servers(&self) -> bool {
        let (file, decided) = (&self.settings.init.servers, &self.known.servers);
        (self.known.cluster.iter()).any(|node| file.get(node).differs_from(decided.get(node)))
    }

    /// Whether this node may vote for it: a new set of nodes is of no use without its text. Where the nodes stay the same, the proposer's
    /// file differs in something else, and nobody else may ever have it.
    pub(in crate::protocol) fn holds_init_of(&self, configuration: &Configuration) -> bool {
        let digest = configuration.init_digest;
        self.keeps_nodes(configuration)
            || digest == [0; 32]
            || digest == self.known.init_digest
            || digest == self.settings.init.digest
            || self
                .settings
                .staged
                .as_ref()
                .is_some_and(|staged| staged.digest == digest)
    }

    fn keeps_nodes(&self, configuration: &Configuration) -> bool {
        // Before the first configuration each goes by its own file.
        let servers = if self.known.is_genesis() {
            &self.settings.init.servers
        } else {
            &*self.known.servers
        };
        configuration.cluster == self.known.cluster && *configuration.servers == *servers
    }

    pub(in crate::protocol) fn repeat_changes(&mut self) {
        self.repeat_staging();
        self.repeat_forwarded_changes();
    }
}
