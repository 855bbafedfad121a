//! The operator's request: from the node that was asked to the one that sees to it, checked, put to the vote, answered.
//!
//! Owns `changes.change`, `changes.forwarded`, `changes.finished` and `changes.serial`.

use super::Digest;
use crate::client::{Answer, ClientToken, Refusal};
use crate::configuration::votes;
use crate::configuration::{Configuration, Mode};
use crate::ids::{DeviceSet, NodeId, NodeSet, Replica, RequestId, ServerId};
use crate::init::{InitFile, NodeEdit};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::plan::{Settles, Want};
use crate::time::Time;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// Outcomes that are remembered, in case another node asks again.
const FINISHED_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Change {
    pub init: InitFile,
    /// What was decided when it was made: it is a change of that, and of nothing that is decided since.
    based_on: Digest,
    edit: NodeEdit,
    pub origin: Origin,
    pub deadline: Time,
    /// Nodes that have not stored the text yet.
    pub waiting: NodeSet,
    pub proposed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Client(ClientToken),
    Node(NodeId, RequestId),
}

#[derive(Debug)]
pub(super) struct Forwarded {
    pub client: ClientToken,
    request: RequestId,
    to: NodeId,
    edit: NodeEdit,
    pub deadline: Time,
    /// Made, says the other node; this one has still to go by it.
    made: bool,
}

impl Node {
    pub(in crate::protocol) fn change_nodes(&mut self, client: ClientToken, edit: NodeEdit, deadline: Time) {
        let origin = Origin::Client(client);
        if !self.is_open() || !self.lease_holds() {
            let refusal = self.not_serving();
            self.end_change(origin, Err(refusal));
            return;
        }
        let staying = match self.settings.init.edited(&edit, ServerId::default()) {
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
                self.changes.serial = self.changes.serial.saturating_add(1);
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

    pub(in crate::protocol) fn on_change_nodes(
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

    pub(in crate::protocol) fn on_nodes_changed(&mut self, request: RequestId, result: Result<(), Refusal>) {
        let mut forwarded = self.changes.forwarded.iter_mut().enumerate();
        let Some((at, forwarded)) = forwarded.find(|(_, forwarded)| forwarded.request == request) else {
            return;
        };
        match result {
            Ok(()) => forwarded.made = true,
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
            based_on: self.known.init_digest,
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
                self.known.cluster
            ));
        }
        if let Some(node) = self.misplaced_in(&self.settings.init) {
            return refuse(format!(
                "the init database of node {} gives the number {node} to another server than epoch {} does: copy the init.ccd of another \
                 node here and restart ccdd",
                self.me(),
                self.known.epoch
            ));
        }
        let init =
            (self.settings.init.edited(edit, self.new_server_id())).map_err(|error| Refusal::Unsafe {
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
                        node.index().saturating_add(1)
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
        let majority = !next.devices.is_empty() || members.is_more_than_half_of(init.nodes.count());
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

    /// For the server that is added now. The incarnation of this run is random, and no two changes of nodes are made in one epoch.
    fn new_server_id(&self) -> ServerId {
        let mut hasher = blake3::Hasher::new_derive_key("ccd server id, version 1");
        hasher.update(&self.settings.cluster.0);
        for number in [self.settings.incarnation.0, self.known.epoch.0, self.date.0] {
            hasher.update(&number.to_le_bytes());
        }
        let digest = hasher.finalize();
        let id = digest
            .as_bytes()
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        ServerId(id.max(1))
    }

    pub(super) fn end_change(&mut self, origin: Origin, result: Result<(), Refusal>) {
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
    pub(in crate::protocol) fn wanted_nodes(&mut self) -> Option<Want> {
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
            || known.init_digest != change.based_on
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
    pub(in crate::protocol) fn drive_changes(&mut self) {
        if self.changes.change.is_none() && self.changes.forwarded.is_empty() {
            return;
        }
        let open = self.is_open() && self.lease_holds();
        let now = self.now;
        if let Some(change) = &self.changes.change {
            let decided = self.known.init_digest == change.init.digest;
            let adopted = self.settings.init.digest == change.init.digest;
            let result = if decided && adopted && open {
                Some(Ok(()))
            } else if !decided && self.known.init_digest != change.based_on {
                Some(Err(self.overtaken(change.proposed)))
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

    /// Another change was decided first: to put the whole text of this one in its place would undo it.
    fn overtaken(&self, proposed: bool) -> Refusal {
        let known = &self.known;
        let why = format!(
            "another init database, by node {}, was decided meanwhile (epoch {}); look at `ccdctl members` before you ask again",
            known.proposer, known.epoch
        );
        if proposed {
            Refusal::Unknown { why }
        } else {
            Refusal::Unsafe { why }
        }
    }

    fn why_not_changed(&self, change: &Change, decided: bool) -> Refusal {
        if let Some(refusal) = self.not_known_yet(decided, change.proposed) {
            refusal
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
    pub(super) fn repeat_forwarded_changes(&mut self) {
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
}
