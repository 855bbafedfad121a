//! From decided to open: the state is made ready on every replica that the configuration writes, leases of those left out
//! run down, and then all members serve (Fig. 4, steps 414 to 420).
//!
//! The proposer's side; `member.rs` has that of the others. Owns `install`, `serving` and `opened`.

use super::milestones::Milestones;
use crate::configuration::{Configuration, Mode};
use crate::database::{Database, Record};
use crate::ids::{Epoch, NodeId, NodeSet, Replica};
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

    fn message(&self) -> Message {
        Message::Install {
            configuration: self.configuration.clone(),
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

impl Node {
    /// The database as it will be once the configuration is open, and the record that leads there.
    pub(super) fn target(&self) -> Option<(Database, Arc<Record>)> {
        let open = Record::opening(self.head.position(), &self.known);
        let database = self.head.apply(&open).ok()?;
        Some((database, Arc::new(open)))
    }

    pub(in crate::protocol) fn begin_install(&mut self, mut install: Install) {
        let epoch = install.epoch();
        self.blank = false;
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
            self.send(node, install.message());
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
            let message = install.message();
            for node in missing.iter() {
                self.send(node, message.clone());
            }
        }
        let comes_nearer = self.repeat_installed();
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
            let folder = self.peer_state(*node).map(|state| state.folder);
            let known = folder.filter(|folder| folder.is_known());
            known.is_some_and(|folder| install.configuration.names_another_folder(*node, folder))
        };
        let trouble = trouble.or_else(|| {
            Some((
                missing.iter().find(is_anew)?,
                "has another state folder than the one that is counted on",
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
    pub(super) fn open(&mut self, database: Database, open: &Arc<Record>, took: &str) {
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
        self.begin_tenure();
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

    pub(super) fn opening_done(&mut self) {
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
}
