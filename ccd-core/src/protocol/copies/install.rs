//! From decided to open: the state is made ready on every replica that the configuration writes, leases of those left out
//! run down, and then all members serve (Fig. 4, steps 414 to 420).
//!
//! Owns `install` (at the proposer), `member` (at the others), `serving` and `opened`.

use super::milestones::Milestones;
use crate::configuration::{Configuration, Mode};
use crate::database::{Database, Record};
use crate::ids::{Epoch, Incarnation, NodeId, NodeSet, Position, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::replicas::{Attempt, Brought, Purpose};
use crate::replica::ReplicaError;
use crate::time::{Time, doubled};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use core::time::Duration;

/// The longest pause after configurations that were decided one after the other and not opened, in leases.
const UNOPENED_PAUSE_LEASES_MAX: u32 = 8;
const UNOPENED_DOUBLINGS_MAX: u32 = 16;

/// Runs of nodes.
pub(in crate::protocol) type Runs = BTreeMap<NodeId, Incarnation>;

/// The proposer's side.
#[derive(Debug)]
pub(in crate::protocol) struct Install {
    configuration: Configuration,
    attempt: Attempt,
    /// Devices that have not yet recorded the decision.
    recording: usize,
    /// Operations on this node's replicas not yet answered.
    outstanding: usize,
    installed: NodeSet,
    /// Until when a node that is left out may still serve.
    lease_until: Time,
    begun: Time,
    /// When each member that is not ready yet last came nearer to it.
    progress: BTreeMap<NodeId, Time>,
    /// Members that the others served without until now.
    newcomers: NodeSet,
    /// The runs that were counted on.
    runs: Runs,
    target: Option<(Database, Arc<Record>)>,
    failed: bool,
    milestones: Milestones,
}

impl Install {
    pub fn new(
        configuration: Configuration,
        attempt: Attempt,
        recording: usize,
        lease_until: Time,
        milestones: Milestones,
        now: Time,
    ) -> Self {
        Self {
            configuration,
            attempt,
            recording,
            outstanding: 0,
            installed: NodeSet::EMPTY,
            lease_until,
            begun: now,
            progress: BTreeMap::new(),
            newcomers: NodeSet::EMPTY,
            runs: Runs::new(),
            target: None,
            failed: false,
            milestones,
        }
    }

    /// The others served until now, and did so without these.
    pub fn with_newcomers(self, newcomers: NodeSet) -> Self {
        let newcomers = newcomers.intersection(self.configuration.members);
        Self { newcomers, ..self }
    }

    /// A run that has no vote is taken in only if it is one of these, as far as they are known.
    pub fn counting_on(self, runs: Runs) -> Self {
        Self { runs, ..self }
    }

    fn message(&self, node: NodeId) -> Message {
        Message::Install {
            configuration: self.configuration.clone(),
            run: self.runs.get(&node).copied(),
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.configuration.epoch
    }

    /// Newcomers that are not ready after so long, nearer to it or not.
    fn overdue(&self, now: Time, patience: Duration) -> NodeSet {
        if now.since(self.begun) <= patience {
            return NodeSet::EMPTY;
        }
        self.newcomers.minus(self.installed)
    }

    /// Members that are not ready, and have not come nearer to it for so long.
    fn late(&self, now: Time, patience: Duration) -> NodeSet {
        let since = |node: &NodeId| *self.progress.get(node).unwrap_or(&self.begun);
        (self.configuration.members.minus(self.installed).iter())
            .filter(|node| now.since(since(node)) > patience)
            .collect()
    }
}

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
    /// The database as it will be once the configuration is open, and the record that leads there.
    fn target(&self) -> Option<(Database, Arc<Record>)> {
        let open = Record::opening(self.head.position(), &self.known);
        let database = self.head.apply(&open).ok()?;
        Some((database, Arc::new(open)))
    }

    pub(in crate::protocol) fn begin_install(&mut self, mut install: Install) {
        let epoch = install.epoch();
        self.blank = false;
        self.take_in_moved_copy();
        self.catch_up = None;
        self.store_configuration(Replica::Local, install.configuration.clone());
        let Some((database, open)) = self.target() else {
            return;
        };
        let replicas: alloc::vec::Vec<Replica> = match install.configuration.mode {
            Mode::Paired => alloc::vec![Replica::Local],
            Mode::Solo(_) => install
                .configuration
                .devices
                .iter()
                .map(Replica::Device)
                .collect(),
        };
        let purpose = Purpose::Install { epoch };
        for replica in replicas {
            if self.replica(replica).usable() {
                self.bring(replica, &database, &open, &purpose);
                install.outstanding = install.outstanding.saturating_add(1);
            } else {
                install.failed = true;
            }
        }
        install.target = Some((database, open));
        let others = install.configuration.members.without(self.me());
        for node in others.iter() {
            self.send(node, install.message(node));
        }
        self.install = Some(install);
        self.give_to_waiting();
        // So that the leases of the new configuration are there when it opens.
        self.beat();
    }

    pub(in crate::protocol) fn on_decision_recorded(&mut self, attempt: Attempt) {
        // A device that could not record it has failed, and is dropped when the state is written to it or, in
        // paired mode, when its heartbeat is missed: either way before anything depends on it.
        if let Some(install) = self.install.as_mut().filter(|install| install.attempt == attempt) {
            install.recording = install.recording.saturating_sub(1);
        }
    }

    pub(in crate::protocol) fn on_install_stored(
        &mut self,
        replica: Replica,
        epoch: Epoch,
        error: Option<ReplicaError>,
    ) {
        let install = self.install.as_ref().filter(|install| install.epoch() == epoch);
        let Some((target, _)) = install.and_then(|install| install.target.clone()) else {
            return;
        };
        let brought = self.on_brought(replica, error.as_ref(), &target, Purpose::Install { epoch });
        if let Some(install) = self.install.as_mut().filter(|_| brought != Brought::Anew) {
            install.outstanding = install.outstanding.saturating_sub(1);
            install.failed |= brought == Brought::Failed;
        }
    }

    pub(in crate::protocol) fn on_installed(&mut self, from: NodeId, epoch: Epoch) {
        if let Some(install) = self.install.as_mut().filter(|install| install.epoch() == epoch) {
            install.installed.insert(from);
        } else if self.serving == Some(epoch) {
            self.send(from, Message::Open { epoch });
        }
    }

    pub(in crate::protocol) fn on_installing(&mut self, from: NodeId, epoch: Epoch) {
        let now = self.now;
        if let Some(install) = self.install.as_mut().filter(|install| install.epoch() == epoch) {
            install.progress.insert(from, now);
        } else if self.known.epoch == epoch {
            self.on_source_installing(from);
        }
    }

    /// A configuration that takes this node in is decided, and not open yet.
    pub(in crate::protocol) fn awaits_newcomer(&self, node: NodeId) -> bool {
        (self.install.as_ref()).is_some_and(|install| install.newcomers.contains(node))
    }

    pub(in crate::protocol) fn install_deadline(&self) -> Time {
        self.install
            .as_ref()
            .map_or(Time::NEVER, |install| install.lease_until)
    }

    pub(in crate::protocol) fn repeat_install(&mut self) {
        if let Some(install) = &self.install {
            let missing = install
                .configuration
                .members
                .without(self.me())
                .minus(install.installed);
            let told: alloc::vec::Vec<_> = missing.iter().map(|node| (node, install.message(node))).collect();
            for (node, message) in told {
                self.send(node, message);
            }
        }
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
        self.tend_spread(comes_nearer);
    }

    pub(in crate::protocol) fn drive_install(&mut self) {
        let Some(install) = &self.install else {
            return;
        };
        let epoch = install.epoch();
        if self.sealed() || self.known.epoch != epoch {
            self.install = None;
            return;
        }
        let others = install.configuration.members.without(self.me());
        let silent = others.iter().find(|node| self.silent(*node));
        let late = install
            .late(self.now, self.install_patience())
            .intersection(others);
        // Whoever was not served with until now can be done without a little longer.
        let overdue = install.overdue(self.now, self.newcomer_patience());
        let overdue = overdue.intersection(others);
        let late = if self.are_enough(install.configuration.members.minus(overdue)) {
            late.union(overdue)
        } else {
            late
        };
        let missing = others.minus(install.installed);
        let trouble = (missing.iter()).find_map(|node| Some((node, self.peer_state(node)?.trouble?.name())));
        // It is taken in by the next one.
        let is_anew = |node: &NodeId| {
            let (run, state) = (install.runs.get(node), self.peer_state(*node));
            state.is_some_and(|state| state.is_blank() && run.is_some_and(|run| *run != state.incarnation))
        };
        let trouble = trouble.or_else(|| {
            Some((
                missing.iter().find(is_anew)?,
                "has started again, and has no vote",
            ))
        });
        if install.failed || silent.is_some() || !late.is_empty() || trouble.is_some() {
            let why = match (silent, trouble) {
                _ if install.failed => "a replica could not be written".into(),
                (Some(node), _) => format!("node {node} went silent"),
                (None, Some((node, trouble))) => format!("node {node} {trouble}"),
                (None, None) => format!("node {late} does not get ready"),
            };
            self.record(
                DecisionKind::Refused,
                format!("epoch {epoch} was not opened: {why}"),
            );
            self.waiting = (format!("epoch {epoch} was not opened: {why}"), self.now);
            self.install = None;
            self.pause_after_unopened();
            if silent.is_none() {
                self.note_slow(late);
            }
            return;
        }
        let lease_until = install.lease_until;
        let ready =
            install.recording == 0 && install.outstanding == 0 && install.installed.is_superset(others);
        if ready && let Some(install) = &mut self.install {
            install.milestones.note("written", self.now);
        }
        if ready && self.now >= lease_until {
            let Some(install) = self.install.take() else {
                return;
            };
            let Some((database, open)) = install.target else {
                return;
            };
            let took = install.milestones.told(self.now);
            for node in others.iter() {
                self.send(node, Message::Open { epoch });
            }
            self.open(database, &open, &took);
        }
    }

    /// What was decided was not opened. The first time this node plans anew at once, then after a pause that grows: what stands in
    /// the way may stay there, and each try is an epoch.
    fn pause_after_unopened(&mut self) {
        self.unopened = self.unopened.saturating_add(1);
        let pause = match self.unopened {
            0 | 1 => Duration::ZERO,
            again => doubled(
                self.settings.heartbeat,
                again.saturating_sub(2).min(UNOPENED_DOUBLINGS_MAX),
            ),
        };
        let longest = self.settings.lease.saturating_mul(UNOPENED_PAUSE_LEASES_MAX);
        self.back_off_until = self.back_off_until.max(self.now + pause.min(longest));
    }

    /// Serves the configuration from now on.
    fn open(&mut self, database: Database, open: &Arc<Record>, took: &str) {
        if self.head.position() == open.prev {
            self.history.push(Arc::clone(open));
        }
        self.head = database.clone();
        self.committed = database;
        self.rolled_back = None;
        self.prepared = None;
        self.round = None;
        self.damaged = None;
        self.catch_up = None;
        self.serving = Some(self.known.epoch);
        self.opened = Some(self.known.epoch);
        self.opening_done();
        let text = format!(
            "opened {} at {}: {}; {took}",
            self.known,
            self.head.position(),
            self.known.reason
        );
        self.record(DecisionKind::Opened, text);
        self.beat();
        self.requests_after_opening();
    }

    fn opening_done(&mut self) {
        self.waiting = (alloc::string::String::new(), self.now);
        self.opened_at = self.now;
        self.unopened = 0;
        self.take_in_members();
        self.last_proposed.clear();
        self.lease_lost = None;
        self.look = true;
        self.impatient = false;
        // Whoever decided it has installed it: what comes next need not wait for that any more.
        self.back_off_until = self.now;
        self.warn_of_waived_quorum();
    }

    /// A member of a decided configuration is told to make itself ready.
    pub(in crate::protocol) fn on_install(
        &mut self,
        from: NodeId,
        configuration: Configuration,
        run: Option<Incarnation>,
    ) {
        if configuration.epoch < self.known.epoch {
            self.send(from, Message::Decided(self.known.clone()));
            return;
        }
        self.learn(configuration.clone());
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
        let is_counted_on = run == Some(self.settings.incarnation);
        if self.blank && run.is_some() && !is_counted_on {
            // An earlier run may have been installed, and have voted on the successor: the proposer decides on another configuration.
            return;
        }
        if is_counted_on {
            self.note_taken_in();
        }
        if self.blank {
            self.blank = false;
            self.take_in_moved_copy();
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
