//! Whether this server still has its number.
//!
//! A server that was removed while it was cut off or hung does not hear of it, and goes on with its number, which may belong to another
//! server by then. Areas on the devices go by numbers, so both would write one. Each configuration says which servers the numbers belong
//! to; a number changes its server by decided changes of the nodes alone, so the newest configuration tells which of two servers has it.
//!
//! A run whose server has lost its number writes nothing to any device, has no vote and lends nobody a lease. Everything follows from the
//! newest configuration that it knows, which its local copy keeps: so it stays out after a restart, and a server that was added again with
//! the number, and whose state folder is from before, is back as soon as it learns the configuration that added it.
//!
//! Where neither a device nor a message can show it that configuration, a peer that refuses its connection says so. That is a claim, and
//! not the configuration: it counts only while no lease and no other peer speaks against it.
//!
//! Owns `claimed_by`.

use super::Digest;
use crate::configuration::Configuration;
use crate::ids::{Epoch, FolderId, Folders, NodeId, NodeSet, ServerId, Servers};
use crate::init::InitFile;
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::plan::Settles;
use crate::replica::Host;
use alloc::format;
use alloc::string::String;

/// A peer refused a connection: by its configuration of this epoch another server has this one's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Claimed {
    by: NodeId,
    epoch: Epoch,
    server: ServerId,
}

impl Node {
    /// The id of this server, by the init database that gave it its number.
    fn own_server(&self) -> ServerId {
        self.settings.init.servers.get(self.me())
    }

    /// The newest configuration says that another server has this one's number.
    pub(in crate::protocol) fn number_is_anothers(&self) -> bool {
        self.belongs_to_another(self.known.servers.get(self.me()), self.known.init_digest)
    }

    fn belongs_to_another(&self, server: ServerId, decided: Digest) -> bool {
        let own = self.own_server();
        if own.is_known() {
            return own.differs_from(server);
        }
        // A number that was given without an id, and then with one, was given anew. A file that was edited by hand is another matter.
        let files = [Some(&self.settings.init), self.settings.staged.as_ref()];
        server.is_known() && files.into_iter().flatten().all(|init| init.digest != decided)
    }

    /// This configuration, if it is a newer one, gives this server's number to another one.
    pub(in crate::protocol) fn takes_number_away(&self, configuration: &Configuration) -> bool {
        self.belongs_to_another(configuration.servers.get(self.me()), configuration.init_digest)
    }

    /// This run must leave its area on the devices alone: its number is nobody's now, or another server's.
    pub(in crate::protocol) fn has_lost_number(&self) -> bool {
        self.number_is_anothers() || self.is_removed_for_good() || self.disowned_by().is_some()
    }

    /// Not so after an override without this node that knows of a change of nodes which this one has yet to follow.
    fn is_removed_for_good(&self) -> bool {
        let decided = self.known.init_digest;
        let stays = |init: &InitFile| init.digest == decided && init.nodes.contains(self.me());
        self.removed() && !self.settings.staged.as_ref().is_some_and(stays)
    }

    /// What a peer has claimed, as far as nothing here speaks against it: a lease, or a peer that takes this run for the node.
    fn disowned_by(&self) -> Option<Claimed> {
        let claimed = self
            .claimed_by
            .filter(|claimed| claimed.epoch > self.known.epoch)?;
        let is_disproved = self.serving.is_some() && self.lease_holds() || !self.heard_nodes().is_empty();
        (!is_disproved).then_some(claimed)
    }

    /// A peer has refused this run's connection, and says which server has the number by its newest configuration.
    pub(in crate::protocol) fn on_disowned(&mut self, by: NodeId, epoch: Epoch, server: ServerId) {
        let is_credible = epoch <= Epoch::MAX && self.settings.nodes.contains(by);
        let is_newest = self.claimed_by.is_none_or(|known| known.epoch <= epoch);
        if is_credible && is_newest && self.own_server().differs_from(server) {
            self.claimed_by = Some(Claimed { by, epoch, server });
            self.forget_disproved_claim();
            self.look = true;
        }
    }

    /// What was disproved once is not believed later; the peer may say it again.
    pub(in crate::protocol) fn forget_disproved_claim(&mut self) {
        self.claimed_by = self.disowned_by();
    }

    /// A run of another server with this one's number, before this one had it or after.
    pub(in crate::protocol) fn is_of_another_server(&self, host: &Host) -> bool {
        self.own_server().differs_from(host.server)
    }

    /// For people, and why this run does nothing.
    pub(in crate::protocol) fn lost_number_text(&self) -> Option<String> {
        let (me, own) = (self.me(), self.own_server());
        let next = "stop ccdd here; to use this server again, remove its state folder and run `ccdctl add-node` on a node of the cluster";
        let known = &self.known;
        if self.number_is_anothers() {
            let server = known.servers.get(me);
            return Some(format!(
                "this server (id {own}) was removed from the cluster: by epoch {}, which node {} decided, the number {me} belongs to the \
                 server with id {server}; {next}",
                known.epoch, known.proposer
            ));
        }
        if self.removed() {
            return Some(self.removed_text());
        }
        let claimed = self.disowned_by()?;
        Some(format!(
            "this server (id {own}) was removed from the cluster, says node {}: by epoch {} the number {me} belongs to the server with id {}; \
             look at `ccdadm status` there, and stop ccdd here if that is right",
            claimed.by, claimed.epoch, claimed.server
        ))
    }

    /// What follows at once, and for as long as it lasts.
    pub(in crate::protocol) fn leave_area_alone(&mut self) {
        let Some(text) = self.lost_number_text().filter(|_| self.has_lost_number()) else {
            return;
        };
        self.proposal = None;
        self.install = None;
        self.member = None;
        self.other_run = None;
        for role in self.device_roles() {
            self.watch_own_area(role);
        }
        if self.serving.is_some() {
            self.stop_serving(&text);
        } else if self.waiting.0 != text {
            self.record(DecisionKind::Nodes, text.clone());
        }
        // Since when it waits tells whether a request has to wait for its time-out.
        if self.waiting.0 != text {
            self.waiting = (text, self.now);
        }
    }

    /// A message to a run that has no number: it may only learn that it has one. Others are told what was decided.
    pub(in crate::protocol) fn hear_without_number(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Decided(configuration) => self.learn(configuration),
            Message::Heartbeat(state) if state.epoch < self.known.epoch => {
                self.send(from, Message::Decided(self.known.clone()));
            }
            _ => {}
        }
    }

    /// The state folders that the successor counts on: of its members those that are here, of the others those that it knew. `own` is the one
    /// that this node may be counted by.
    pub(in crate::protocol) fn next_folders(
        &self,
        members: NodeSet,
        settles: &Settles,
        own: FolderId,
    ) -> Folders {
        let mut folders = *self.known.folders;
        for node in NodeId::all() {
            // A number that is given anew belongs to another server.
            let was_removed = settles.nodes.is_some_and(|(nodes, _)| !nodes.contains(node));
            if was_removed || !self.known.cluster.contains(node) && settles.nodes.is_some() {
                folders.set(node, FolderId::default());
            }
            let here = if node == self.me() {
                Some(own)
            } else {
                self.peer_state(node).map(|state| state.folder)
            };
            if let Some(folder) = here.filter(|folder| members.contains(node) && folder.is_known()) {
                folders.set(node, folder);
            }
        }
        folders
    }

    /// Which servers have the numbers by the successor with these nodes.
    pub(in crate::protocol) fn next_servers(&self, nodes: NodeSet, settles: &Settles) -> Servers {
        let known = &self.known;
        let change = settles.nodes.map(|(_, digest)| digest);
        let text = match change {
            Some(digest) => self.init_with(digest),
            None => Some(&self.settings.init),
        };
        let mut servers = Servers::default();
        for node in NodeId::all() {
            let kept = known.servers.get(node);
            let given = text.map_or(ServerId::default(), |init| init.servers.get(node));
            let (is_node, was_node) = (nodes.contains(node), known.cluster.contains(node));
            let server = match change {
                Some(_) if !is_node => ServerId::default(),
                Some(_) if !was_node => given,
                // An init database may be older than what was decided, also the one of the node that proposes.
                _ if kept.is_known() || !is_node => kept,
                _ => given,
            };
            servers.set(node, server);
        }
        servers
    }

    fn init_with(&self, digest: Digest) -> Option<&InitFile> {
        let change = self.changes.change.as_ref().map(|change| &change.init);
        let held = [change, self.settings.staged.as_ref(), Some(&self.settings.init)];
        held.into_iter().flatten().find(|init| init.digest == digest)
    }

    /// A node whose server is not the one that the newest configuration gives its number to by this init database.
    pub(super) fn misplaced_in(&self, init: &InitFile) -> Option<NodeId> {
        let decided = |node: NodeId| self.known.servers.get(node);
        (self.known.cluster.intersection(init.nodes).iter())
            .find(|node| decided(*node).differs_from(init.servers.get(*node)))
    }
}
