//! The other members' side of a configuration that was decided: getting ready for it as its coordinator says, and following whoever serves it.
//!
//! Owns `member`.

use crate::configuration::Configuration;
use crate::database::{Database, Record};
use crate::ids::{Epoch, NodeId, Position, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::replicas::{Brought, Purpose};
use crate::replica::ReplicaError;
use crate::time::Time;
use alloc::format;
use alloc::sync::Arc;
/// A member's side.
#[derive(Debug)]
pub(in crate::protocol) struct Member {
    configuration: Configuration,
    coordinator: NodeId,
    /// The member before this one in the circle is stuck: the base is got from the coordinator.
    direct: bool,
    outstanding: usize,
    target: Option<(Database, Arc<Record>)>,
    done: bool,
}

impl Member {
    pub fn epoch(&self) -> Epoch {
        self.configuration.epoch
    }

    /// What it still has to go to, also back to; once the configuration is being opened on it, nothing leads back there.
    pub fn awaited_base(&self) -> Option<Position> {
        self.target.is_none().then_some(self.configuration.base)
    }

    pub fn coordinator(&self) -> NodeId {
        self.coordinator
    }
}

impl Node {
    /// At every heartbeat: the coordinator hears that this member is ready, or comes nearer to it. Returns the epoch in which it comes nearer.
    pub(super) fn repeat_installed(&mut self) -> Option<Epoch> {
        let mut comes_nearer = None;
        if let Some(member) = &self.member {
            let (epoch, to, done) = (member.epoch(), member.coordinator, member.done);
            let writes = member.outstanding > 0;
            if done && self.serving != Some(epoch) {
                self.send(to, Message::Installed { epoch });
            } else if !done && (writes || self.take_moved()) {
                comes_nearer = Some(epoch);
                self.send(to, Message::Installing { epoch });
            }
        }
        comes_nearer
    }

    /// A member of a decided configuration is told to make itself ready.
    pub(in crate::protocol) fn on_install(&mut self, from: NodeId, configuration: Configuration) {
        if configuration.epoch < self.known.epoch {
            self.send(from, Message::Decided(self.known.clone()));
            return;
        }
        if !self.hear_of(from, configuration.clone()) {
            return;
        }
        if self.known.epoch != configuration.epoch
            || self.sealed()
            || !configuration.members.contains(self.me())
            || !self.ready()
            || self.serving == Some(configuration.epoch)
        {
            return;
        }
        if self
            .member
            .as_ref()
            .is_some_and(|member| member.epoch() == configuration.epoch)
        {
            return;
        }
        if let Some(why) = self.other_disk(&configuration) {
            // Whoever installs it goes on without this node.
            self.waiting = (why, self.now);
            return;
        }
        if configuration.names_another_folder(self.me(), self.folder.id) {
            // The member may have been installed, and have voted on the successor: the proposer decides on another configuration.
            return;
        }
        if self.blank {
            self.blank = false;
            self.store_configuration(Replica::Local, configuration.clone());
        }
        self.member = Some(Member {
            configuration,
            coordinator: from,
            direct: false,
            outstanding: 0,
            target: None,
            done: false,
        });
    }

    /// A member first gets the base, if it does not have it, then records the opening.
    pub(in crate::protocol) fn drive_member(&mut self) {
        let Some(member) = &self.member else {
            return;
        };
        let (epoch, base) = (member.epoch(), member.configuration.base);
        if self.sealed() || self.known.epoch != epoch || !self.ready() {
            self.member = None;
            return;
        }
        if member.target.is_some() {
            return;
        }
        let here = self.head.position();
        let opened_before = here.stamp.epoch == epoch && here.stamp.generation == base.stamp.generation;
        if here != base && !opened_before {
            self.fetch_base();
            return;
        }
        if self.catch_up_storing() {
            return;
        }
        if opened_before {
            // It was ready before it restarted.
            let open = Arc::new(Record::opening(base, &self.known));
            let database = self.head.clone();
            let coordinator = self.member.as_ref().map(Member::coordinator);
            if let Some(member) = &mut self.member {
                member.target = Some((database, open));
                member.done = true;
            }
            if let Some(to) = coordinator {
                self.send(to, Message::Installed { epoch });
            }
            self.give_to_waiting();
            return;
        }
        if self.is_unsigned() {
            self.sign_devices();
            return;
        }
        let Some((database, open)) = self.target() else {
            return;
        };
        // Nothing that was asked for on the way here counts any more: it would take the place of what comes now.
        self.catch_up = None;
        self.bring(Replica::Local, &database, &open, &Purpose::Member { epoch });
        if let Some(member) = &mut self.member {
            member.outstanding = 1;
            member.target = Some((database, open));
        }
        self.give_to_waiting();
    }

    /// The base comes from the member before this one, or from the coordinator if that one is gone or stuck.
    fn fetch_base(&mut self) {
        let Some(member) = &self.member else {
            return;
        };
        let (epoch, members, coordinator) =
            (member.epoch(), member.configuration.members, member.coordinator);
        let stuck = |(_, moved_at): (NodeId, Time)| self.now.since(moved_at) > self.settings.lease;
        let direct = member.direct || self.fetching().is_some_and(stuck) && !self.catch_up_storing();
        let source = if direct {
            coordinator
        } else {
            self.base_source(members, coordinator)
        };
        if let Some(member) = &mut self.member {
            member.direct = direct;
        }
        self.fetch_from(source, Some(epoch));
    }

    pub(in crate::protocol) fn on_member_stored(&mut self, epoch: Epoch, error: Option<ReplicaError>) {
        let member = self.member.as_ref().filter(|member| member.epoch() == epoch);
        let Some((target, _)) = member.and_then(|member| member.target.clone()) else {
            return;
        };
        let brought = self.on_brought(Replica::Local, error.as_ref(), &target, Purpose::Member { epoch });
        let Some(member) = self.member.as_mut().filter(|_| brought != Brought::Anew) else {
            return;
        };
        if brought == Brought::Failed {
            self.member = None;
            return;
        }
        member.outstanding = member.outstanding.saturating_sub(1);
        if member.outstanding > 0 {
            return;
        }
        member.done = true;
        let (to, target) = (member.coordinator, member.target.clone());
        if let Some((database, open)) = target {
            // From here on this copy says that it is of the new epoch, as its disk does.
            if self.head.position() == open.prev {
                self.history.push(open);
            }
            self.head = database.clone();
            self.committed = database;
            self.rolled_back = None;
            self.prepared = None;
            self.damaged = None;
        }
        self.send(to, Message::Installed { epoch });
        self.beat();
    }

    pub(in crate::protocol) fn on_open(&mut self, epoch: Epoch) {
        if self.sealed() || self.known.epoch != epoch {
            return;
        }
        if let Some(member) = self
            .member
            .take_if(|member| member.epoch() == epoch && member.done)
            && let Some((_, open)) = member.target
        {
            // Rounds may have been prepared since: the coordinator opens first.
            self.serving = Some(epoch);
            self.begin_tenure();
            self.opened = Some(epoch);
            self.opening_done();
            let text = format!("opened {} at {} as member", self.known, open.next);
            self.record(DecisionKind::Opened, text);
            self.beat();
            self.requests_after_opening();
        }
    }

    /// Who serves may have said so before this node could do anything about it: it need not say so again.
    pub(in crate::protocol) fn follow_who_serves(&mut self) {
        let nodes = self.settings.nodes.without(self.me());
        let serving = nodes.iter().find_map(|node| {
            let state = self.peer_state(node)?;
            (state.serving && state.epoch == self.known.epoch).then_some((node, state.position))
        });
        if let Some((node, position)) = serving {
            self.on_peer_serves(node, position);
        }
    }

    /// A heartbeat says that a peer serves what this node knows.
    pub(in crate::protocol) fn on_peer_serves(&mut self, from: NodeId, position: Position) {
        if self.known.members.contains(self.me())
            && self.known.members.contains(from)
            && self.serving != Some(self.known.epoch)
        {
            // The word to open may have been lost.
            self.on_open(self.known.epoch);
        }
        if self.serving.is_some() {
            self.on_master_position(from, position);
        } else if self.member.is_none()
            && self.proposal.is_none()
            && self.willing
            && self.ready()
            // A member's damaged copy may have helped to ack what the master has not committed yet: it is replaced when a
            // successor is installed, which does not count it as evidence.
            && (self.damaged.is_none() || !self.known.members.contains(self.me()))
            && self.head.position() != position
            // Neither copy may take the place of the other before an operator has chosen.
            && self.is_of_this_side(from)
        {
            self.learn_from(from);
        }
    }
}
