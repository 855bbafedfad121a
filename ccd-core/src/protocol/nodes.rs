//! Nodes added to a running cluster, and removed from it: the init database is changed on all nodes as one operation.
//!
//! ```text
//! edit → checked → its text stored beside the old one on every node that stays      (staged: nothing has changed yet)
//!      → a successor with the new nodes and the new digest, decided by the voters of the old configuration
//!      → whoever learns it goes by the stored text from its next heartbeat on       (adopted)
//! ```
//!
//! What counts for votes is `Configuration.nodes` alone. The init database says where the nodes are and how they are called;
//! it is the configuration's if the digests agree. A node votes for a new set of nodes only if it holds its text, so whatever
//! is decided can be read somewhere; a node that comes to know of a decision without the text asks the others for it.
//!
//! Owns `changes`, `settings.init`, `settings.staged` and `settings.nodes`.

use super::Node;
use super::interface::{Action, DecisionKind};
use super::message::Message;
use super::peers::Peer;
use super::plan::{Settles, Want};
use crate::client::{Answer, ClientToken, Refusal};
use crate::configuration::votes;
use crate::configuration::{Configuration, Mode};
use crate::ids::{DeviceSet, NodeId, NodeSet, Replica, RequestId};
use crate::init::{InitFile, NodeEdit};
use crate::time::Time;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// Outcomes that are remembered, in case another node asks again.
const FINISHED_MAX: usize = 16;

type Digest = [u8; 32];

#[derive(Debug, Default)]
pub(super) struct NodeChanges {
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

#[derive(Debug)]
struct Change {
    init: InitFile,
    edit: NodeEdit,
    origin: Origin,
    deadline: Time,
    /// Nodes that have not stored the text yet.
    waiting: NodeSet,
    proposed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client(ClientToken),
    Node(NodeId, RequestId),
}

#[derive(Debug)]
struct Forwarded {
    client: ClientToken,
    request: RequestId,
    to: NodeId,
    edit: NodeEdit,
    deadline: Time,
    /// Made, says the other node; this one has still to go by it.
    made: bool,
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

// Who the cluster is.

impl Node {
    /// All nodes of the cluster: those of the init database, if it is the one that the configuration goes by.
    pub(super) fn cluster_nodes(&self) -> NodeSet {
        let (known, settings) = (&self.known, &self.settings);
        let agreed = known.is_genesis()
            || known.init_digest == [0; 32]
            || known.init_digest == settings.init.digest
            || known.nodes == settings.nodes;
        if agreed {
            settings.nodes
        } else {
            // Edited by hand, or its text is not here yet: what was decided counts.
            known.nodes.union(known.members)
        }
    }

    /// The digest that a successor without a change of nodes carries.
    pub(super) fn cluster_digest(&self) -> Digest {
        if self.cluster_nodes() == self.settings.nodes {
            self.settings.init.digest
        } else {
            self.known.init_digest
        }
    }

    /// An operator took this node out of the cluster.
    pub(super) fn removed(&self) -> bool {
        let known = &self.known;
        !known.nodes.contains(self.me())
            && known.init_digest != [0; 32]
            && known.init_digest != self.settings.init.digest
    }

    pub(super) fn removed_text(&self) -> String {
        format!(
            "node {} was removed from the cluster (epoch {}, by node {}): stop ccdd here; `ccdctl add-node` on a node of \
             the cluster takes it in again",
            self.me(),
            self.known.epoch,
            self.known.proposer
        )
    }

    /// Every node that is named anywhere has an entry among the peers.
    pub(super) fn note_nodes(&mut self) {
        let (known, now) = (&self.known, self.now);
        let named = (self.settings.nodes.union(known.nodes).union(known.members)).without(self.settings.me);
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
    pub(super) fn former_leases(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        let now = self.now;
        (self.changes.former.iter()).map(move |(node, until)| (*node, until.since(now)))
    }

    pub(super) fn note_former_lease(&mut self, node: NodeId, until: Time) {
        let known = self.changes.former.entry(node).or_insert(until);
        *known = until.max(*known);
    }

    /// The text of what was decided is here: from now on this node goes by it. Called at every heartbeat, before it is sent,
    /// so that whoever is to be forgotten has been told.
    pub(super) fn follow_init(&mut self) {
        let now = self.now;
        self.changes.former.retain(|_, until| *until > now);
        let decided = self.known.init_digest;
        let nodes = self.known.nodes;
        // A node that is removed keeps the file in which it is one.
        if decided == self.settings.init.digest || !nodes.contains(self.me()) {
            return;
        }
        let staged = (self.settings.staged).take_if(|staged| staged.digest == decided);
        let Some(init) = staged else {
            if self.cluster_nodes() != self.settings.nodes {
                self.send_to_all(&Message::InitAsk { digest: decided });
            }
            return;
        };
        let (before, after) = (self.settings.nodes, init.nodes);
        let text = match (after.minus(before), before.minus(after)) {
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

    /// Whether this node may vote for it: a new set of nodes is of no use without its text.
    pub(super) fn holds_init_of(&self, configuration: &Configuration) -> bool {
        let digest = configuration.init_digest;
        digest == [0; 32]
            || digest == self.known.init_digest
            || digest == self.settings.init.digest
            || self
                .settings
                .staged
                .as_ref()
                .is_some_and(|staged| staged.digest == digest)
    }
}

// The operator's request.

impl Node {
    pub(super) fn change_nodes(&mut self, client: ClientToken, edit: NodeEdit, deadline: Time) {
        let origin = Origin::Client(client);
        if !self.is_open() || !self.lease_holds() {
            let refusal = self.not_serving();
            self.end_change(origin, Err(refusal));
            return;
        }
        let staying = match self.settings.init.edited(&edit) {
            Ok(init) => self.known.members.intersection(init.nodes),
            Err(error) => {
                self.end_change(
                    origin,
                    Err(Refusal::Unsafe {
                        why: error.to_string(),
                    }),
                );
                return;
            }
        };
        let able: NodeSet = (staying.iter())
            .filter(|node| *node == self.me() || self.linked(*node))
            .collect();
        let master = self.known.master().filter(|node| able.contains(*node));
        match master.or(able.lowest()) {
            Some(to) if to != self.me() => {
                self.changes.serial += 1;
                let request = RequestId {
                    client: u128::from(self.settings.incarnation.0) << 8 | u128::from(u8::from(self.me())),
                    sequence: self.changes.serial,
                };
                self.changes.forwarded.push(Forwarded {
                    client,
                    request,
                    to,
                    edit,
                    deadline,
                    made: false,
                });
                self.repeat_forwarded_changes();
            }
            Some(_) => self.begin_change(origin, edit, deadline),
            None => {
                let why = "no node that serves would be left".to_string();
                self.end_change(origin, Err(Refusal::Unsafe { why }));
            }
        }
    }

    pub(super) fn on_change_nodes(
        &mut self,
        from: NodeId,
        request: RequestId,
        edit: NodeEdit,
        timeout: Duration,
    ) {
        let finished = self.changes.finished.iter().find(|(id, _)| *id == request);
        if let Some((_, result)) = finished {
            let result = result.clone();
            self.send(from, Message::NodesChanged { request, result });
            return;
        }
        let origin = Origin::Node(from, request);
        if self
            .changes
            .change
            .as_ref()
            .is_some_and(|change| change.origin == origin)
        {
            return;
        }
        if !self.is_open() || !self.lease_holds() {
            let refusal = self.not_serving();
            self.end_change(origin, Err(refusal));
            return;
        }
        let deadline = self.now + timeout;
        self.begin_change(origin, edit, deadline);
    }

    pub(super) fn on_nodes_changed(&mut self, request: RequestId, result: Result<(), Refusal>) {
        let at = self
            .changes
            .forwarded
            .iter()
            .position(|forwarded| forwarded.request == request);
        let Some(at) = at else {
            return;
        };
        match result {
            Ok(()) => self.changes.forwarded[at].made = true,
            Err(refusal) => {
                let client = self.changes.forwarded.remove(at).client;
                self.reply(client, Err(refusal));
            }
        }
    }

    fn begin_change(&mut self, origin: Origin, edit: NodeEdit, deadline: Time) {
        let init = match self.checked(&edit) {
            Ok(init) => init,
            Err(refusal) => {
                self.end_change(origin, Err(refusal));
                return;
            }
        };
        self.record(
            DecisionKind::Nodes,
            format!(
                "asked to change the nodes {{{}}} to {{{}}}: the new init database goes to all nodes",
                self.settings.nodes, init.nodes
            ),
        );
        self.changes.change = Some(Change {
            waiting: init.nodes.intersection(self.settings.nodes),
            init: init.clone(),
            edit,
            origin,
            deadline,
            proposed: false,
        });
        self.stage(init, self.me());
        self.repeat_staging();
    }

    /// The init database after the edit, if it may be made now.
    fn checked(&self, edit: &NodeEdit) -> Result<InitFile, Refusal> {
        let refuse = |why: String| Err(Refusal::Unsafe { why });
        if self.changes.change.is_some() {
            return refuse("another change of the nodes is under way".to_string());
        }
        if self.cluster_nodes() != self.settings.nodes {
            return refuse(format!(
                "the init database of node {} names the nodes {{{}}}, and the configuration {{{}}}: copy the init.ccd of \
                 another node here and restart ccdd",
                self.me(),
                self.settings.nodes,
                self.known.nodes
            ));
        }
        let init = (self.settings.init.edited(edit)).map_err(|error| Refusal::Unsafe {
            why: error.to_string(),
        })?;
        let stays = init.nodes.intersection(self.settings.nodes);
        let active =
            |node: &NodeId| *node == self.me() || self.known.members.contains(*node) && self.linked(*node);
        let missing: NodeSet = stays.iter().filter(|node| !active(node)).collect();
        if !missing.is_empty() {
            return refuse(format!(
                "every node that stays must be active to store the new init database, and node {missing} is not: start \
                 ccdd there, or remove it first"
            ));
        }
        let added = init.nodes.minus(self.settings.nodes);
        for role in self.settings.devices.iter() {
            let areas = &self.replica(Replica::Device(role)).survey.areas;
            let has_area = |node: NodeId| areas.iter().any(|area| area.node == node);
            if let Some(node) = added.iter().find(|node| !has_area(*node)) {
                let why = if areas.is_empty() {
                    format!(
                        "the {role} cannot be read now, so nobody knows whether it has an area for node {node}"
                    )
                } else {
                    format!(
                        "the region on the {role} has no area for node {node}: a region is made for a number of nodes; \
                         use a lower free number, or make it anew with `ccd-disk mkfs --role {role} --nodes {}` while the \
                         cluster is down and every node has the database in its local copy",
                        node.index() + 1
                    )
                };
                return refuse(why);
            }
        }
        let members = self.known.members.intersection(init.nodes);
        let next = Configuration {
            mode: match members.lowest() {
                Some(owner) if members.count() == 1 && !self.known.devices.is_empty() => Mode::Solo(owner),
                _ => Mode::Paired,
            },
            members,
            nodes: init.nodes,
            ..self.known.clone()
        };
        // Half of the nodes is a configuration, but a closed one: what follows could not be decided without the new node.
        let majority = !next.devices.is_empty() || members.count() * 2 > init.nodes.count();
        if !majority || !votes::admissible(&next) {
            return refuse(format!(
                "the {} members that are active are no majority of the {} nodes that there would be",
                members.count(),
                init.nodes.count()
            ));
        }
        let live = self.live_voters();
        if !votes::decide(&self.known, live) {
            let missing = votes::missing(&self.known, live);
            return Err(Refusal::NoQuorum {
                why: format!("{live} cannot decide; missing: {missing}"),
            });
        }
        Ok(init)
    }

    fn end_change(&mut self, origin: Origin, result: Result<(), Refusal>) {
        match origin {
            Origin::Client(client) => self.reply(client, result.map(|()| Answer::Done)),
            Origin::Node(node, request) => {
                self.changes.finished.push_back((request, result.clone()));
                if self.changes.finished.len() > FINISHED_MAX {
                    self.changes.finished.pop_front();
                }
                self.send(node, Message::NodesChanged { request, result });
            }
        }
    }

    /// What this node would propose for an operator, now that every node is ready for it.
    pub(super) fn wanted_nodes(&mut self) -> Option<Want> {
        let linked = self
            .known
            .members
            .iter()
            .filter(|node| *node == self.settings.me || self.linked(*node));
        let linked: NodeSet = linked.collect();
        let (open, known) = (self.is_open(), &self.known);
        let change = self.changes.change.as_mut()?;
        let members = known.members.intersection(change.init.nodes);
        if !open
            || !change.waiting.is_empty()
            || known.init_digest == change.init.digest
            || !linked.is_superset(members)
        {
            return None;
        }
        change.proposed = true;
        let why = match &change.edit {
            NodeEdit::Add { name, .. } => format!("an operator adds the node {name}"),
            NodeEdit::Remove { node } => format!("an operator removes the node {node}"),
        };
        let devices: DeviceSet = known.devices;
        Some(Want {
            members,
            devices,
            why,
            settles: Settles {
                nodes: Some((change.init.nodes, change.init.digest)),
                ..Settles::default()
            },
        })
    }

    /// Answers what has come to an end, one way or the other.
    pub(super) fn drive_changes(&mut self) {
        let open = self.is_open() && self.lease_holds();
        let now = self.now;
        if let Some(change) = &self.changes.change {
            let decided = self.known.init_digest == change.init.digest;
            let adopted = self.settings.init.digest == change.init.digest;
            let result = if decided && adopted && open {
                Some(Ok(()))
            } else if now >= change.deadline {
                Some(Err(self.why_not_changed(change, decided)))
            } else {
                None
            };
            if let Some(result) = result
                && let Some(change) = self.changes.change.take()
            {
                self.end_change(change.origin, result);
            }
        }
        if self.changes.forwarded.is_empty() {
            return;
        }
        let removed = self.removed();
        let waiting = core::mem::take(&mut self.changes.forwarded);
        for forwarded in waiting {
            if removed || forwarded.made && self.settings.init.digest == self.known.init_digest {
                self.reply(forwarded.client, Ok(Answer::Done));
            } else if now >= forwarded.deadline {
                let why = format!(
                    "no word from node {}, which sees to it; `ccdctl members` shows the nodes",
                    forwarded.to
                );
                self.reply(forwarded.client, Err(Refusal::Unknown { why }));
            } else {
                self.changes.forwarded.push(forwarded);
            }
        }
    }

    fn why_not_changed(&self, change: &Change, decided: bool) -> Refusal {
        if decided {
            let why = format!("it is decided, but not open here yet: {}", self.obstacle_text());
            Refusal::Unknown { why }
        } else if change.proposed {
            let why = format!(
                "it was put to the vote, and may still be decided: {}",
                self.obstacle_text()
            );
            Refusal::Unknown { why }
        } else if change.waiting.is_empty() {
            self.not_serving()
        } else {
            let why = format!(
                "node {} did not store the new init database in time; the nodes are what they were",
                change.waiting
            );
            Refusal::Unsafe { why }
        }
    }
}

// The text, from node to node.

impl Node {
    pub(super) fn repeat_changes(&mut self) {
        self.repeat_staging();
        self.repeat_forwarded_changes();
    }

    fn repeat_staging(&mut self) {
        let Some(change) = &self.changes.change else {
            return;
        };
        let (digest, text) = (change.init.digest, change.init.text.clone());
        // A node that is to be removed votes as well, and so is told.
        let gone = self.settings.nodes.minus(change.init.nodes);
        let to = if change.proposed {
            change.waiting
        } else {
            change.waiting.union(gone)
        };
        for node in to.without(self.me()).iter() {
            let text = text.clone();
            self.send(node, Message::StageInit { digest, text });
        }
    }

    fn repeat_forwarded_changes(&mut self) {
        let now = self.now;
        let messages: Vec<(NodeId, Message)> = (self.changes.forwarded.iter())
            .filter(|forwarded| !forwarded.made)
            .map(|forwarded| {
                let message = Message::ChangeNodes {
                    request: forwarded.request,
                    edit: forwarded.edit.clone(),
                    timeout: forwarded.deadline.since(now),
                };
                (forwarded.to, message)
            })
            .collect();
        for (to, message) in messages {
            self.send(to, message);
        }
    }

    pub(super) fn ask_for_init(&mut self, from: NodeId, digest: Digest) {
        self.send(from, Message::InitAsk { digest });
    }

    pub(super) fn on_init_ask(&mut self, from: NodeId, digest: Digest) {
        let here = [Some(&self.settings.init), self.settings.staged.as_ref()];
        let found = here.into_iter().flatten().find(|init| init.digest == digest);
        if let Some(text) = found.map(|init| init.text.clone()) {
            self.send(from, Message::StageInit { digest, text });
        }
    }

    pub(super) fn on_stage_init(&mut self, from: NodeId, digest: Digest, text: &str) {
        let refused = match InitFile::parse(text) {
            Err(error) => Some(error.to_string()),
            Ok(init) if init.digest != digest => {
                Some("its digest differs from what was announced".to_string())
            }
            Ok(init) if init.cluster != self.settings.cluster => Some("it is of another cluster".to_string()),
            Ok(init) => {
                let here = [Some(&self.settings.init), self.settings.staged.as_ref()];
                if here.into_iter().flatten().any(|init| init.digest == digest) {
                    None
                } else if let Some(other) = self.voted_for_other_nodes(digest) {
                    Some(other)
                } else {
                    self.stage(init, from);
                    return;
                }
            }
        };
        self.send(from, Message::InitStaged { digest, refused });
    }

    /// Its text must stay until it is decided, or something else is.
    fn voted_for_other_nodes(&self, digest: Digest) -> Option<String> {
        let (ballot, configuration) = self.accepted_in(self.known.epoch)?;
        let changes = configuration.init_digest != self.known.init_digest;
        (changes && configuration.init_digest != digest).then(|| {
            format!(
                "it has voted for another set of nodes ({{{}}}, by node {}) that may still be decided",
                configuration.nodes, ballot.node
            )
        })
    }

    fn stage(&mut self, init: InitFile, asker: NodeId) {
        match &mut self.changes.staging {
            Some((under_way, askers)) if under_way.digest == init.digest => askers.insert(asker),
            Some(_) => {
                let refused = Some("it is storing another init database".to_string());
                let digest = init.digest;
                if asker == self.me() {
                    self.on_init_staged(asker, digest, refused);
                } else {
                    self.send(asker, Message::InitStaged { digest, refused });
                }
            }
            None => {
                self.changes.staging = Some((init.clone(), NodeSet::of(asker)));
                self.actions.push(Action::StageInit { init });
            }
        }
    }

    /// The driver has stored the text, or could not.
    pub(super) fn on_staged(&mut self, digest: Digest, result: Result<(), String>) {
        let staging = (self.changes.staging).take_if(|(init, _)| init.digest == digest);
        let Some((init, askers)) = staging else {
            return;
        };
        let refused = result.err();
        if refused.is_none() {
            self.settings.staged = Some(init);
        }
        for asker in askers.iter() {
            if asker == self.me() {
                self.on_init_staged(asker, digest, refused.clone());
            } else {
                let refused = refused.clone();
                self.send(asker, Message::InitStaged { digest, refused });
            }
        }
    }

    pub(super) fn on_init_staged(&mut self, from: NodeId, digest: Digest, refused: Option<String>) {
        self.look = true;
        let of_this = |change: &&mut Change| change.init.digest == digest && !change.proposed;
        let Some(change) = self.changes.change.as_mut().filter(of_this) else {
            return;
        };
        let staying = change.init.nodes.contains(from);
        match refused {
            None => change.waiting.remove(from),
            // One that goes need not hold it.
            Some(_) if !staying => {}
            Some(why) => {
                let why = format!("node {from} does not take the new init database: {why}");
                if let Some(change) = self.changes.change.take() {
                    self.end_change(change.origin, Err(Refusal::Unsafe { why }));
                }
            }
        }
    }
}
