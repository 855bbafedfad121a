//! Updates at the node that drives them: two-phase commit among the members of a paired configuration (Fig. 3), and the
//! claim check of a solo owner. The other members' side is `prepared.rs`.
//!
//! Owns `round`. One round at a time; what waits meanwhile goes into the next one together.

use crate::client::{Refusal, UpdateRequest};
use crate::configuration::Configuration;
use crate::database::{Database, OpError, RECORD_BATCH_BYTES_MAX, Record, Update, Who};
use crate::ids::{DeviceRole, DeviceSet, Epoch, Generation, NodeId, NodeSet, Position, Replica, RequestId};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::plan::{Settles, Want};
use crate::protocol::replicas::Purpose;
use crate::protocol::updates::large::AdmissionState;
use crate::protocol::updates::roll_back::Rollback;
use crate::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use crate::time::Time;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// Most updates that travel in one round.
const ROUND_UPDATES_MAX: usize = 256;

/// Most operations that travel in one round, unless a single update has more.
const ROUND_OPS_MAX: usize = 4096;

/// UNFREEZE_REQ(commit) is sent so long after the round, unless another round says it before or a member asks, for whom a
/// query waits: most updates are followed by another at once, or by no query elsewhere.
const UNFREEZE_PAUSE: Duration = Duration::from_millis(5);

/// A round that this node drives.
#[derive(Debug)]
pub(in crate::protocol) struct Round {
    pub record: Arc<Record>,
    database: Database,
    /// What a rollback returns to.
    pub(super) shadow: Database,
    pub(super) requests: Vec<(RequestId, u64)>,
    /// Since when the members are waited for: for their acks, or for their rollback.
    pub(super) waits_since: Time,
    stored_locally: bool,
    stored_on: DeviceSet,
    /// Writing it there failed: it is acked in a successor configuration, or not at all.
    failed_on: DeviceSet,
    acked: NodeSet,
    /// A member refused: every member returns to its shadow, and then the clients hear why.
    pub(super) rollback: Option<Rollback>,
    /// A query waits for its end at a member.
    is_asked_for: bool,
}

impl Node {
    pub(in crate::protocol) fn drive_updates(&mut self) {
        self.drive_unfreeze();
        self.commit_if_done();
        self.finish_rollback_if_done();
        self.degrade_if_stuck();
        self.leave_out_the_slow();
        self.drive_freeze();
        if self.round.is_none() && !self.hold_rounds && self.requests.has_queued() {
            self.start_round();
        }
        self.drive_dry_runs();
        self.drop_unused_work();
    }

    /// As it becomes part of the database.
    pub(in crate::protocol) fn update_of(
        known: &Configuration,
        id: RequestId,
        request: &UpdateRequest,
    ) -> Update {
        Update {
            request: id,
            who: request.who.clone(),
            date: request.date,
            reason: request.reason.clone(),
            preconditions: request.preconditions.clone(),
            ops: Self::flagged(known, &request.ops),
        }
    }

    fn start_round(&mut self) {
        if !self.is_open() || !self.is_master() || !self.lease_holds() || self.freeze_holds_rounds() {
            return;
        }
        self.begin_due_rehearsal();
        let shadow = self.committed.clone();
        let mut admitted = shadow.clone();
        let mut updates: Vec<Update> = Vec::new();
        let mut requests = Vec::new();
        let mut ops = 0_usize;
        let mut bytes = 0_usize;
        while updates.len() < ROUND_UPDATES_MAX
            && let Some((id, request)) = self.requests.first_queued()
        {
            match self.committed.applied(id) {
                None => {}
                Some(Ok(_)) => {
                    if let Some(position) = self.committed_at(id) {
                        self.finish_update(id, Ok((position, None)));
                    }
                    continue;
                }
                Some(Err(generation)) => {
                    let who = request.who.clone();
                    self.refuse_reused(id, generation, &who);
                    continue;
                }
            }
            if updates.iter().any(|update| update.request == id) {
                self.requests.take_queued();
                continue;
            }
            if self.large_updates.holds(id) {
                break;
            }
            let no_sync = request.no_sync;
            if self.waits_for_another(&admitted, id) {
                continue;
            }
            let Some(request) = self.requests.waiting(id) else {
                continue;
            };
            let mut update = Self::update_of(&self.known, id, request);
            let mut before = match self.admit_beside_loop(&admitted, &update, updates.is_empty()) {
                AdmissionState::Small => None,
                AdmissionState::Done(admitted) => Some(*admitted),
                AdmissionState::Waits => continue,
                AdmissionState::Holds => break,
            };
            if !no_sync && let Some(summons) = self.freeze_needed(&admitted, &update, before.as_ref()) {
                if !updates.is_empty() || self.begin_freeze(&update, summons, false, before) {
                    break;
                }
                continue;
            }
            if let Some(named) = before.as_mut().and_then(|before| before.named.take()) {
                update = *named;
            }
            ops = ops.saturating_add(update.ops.len());
            bytes = bytes.saturating_add(update.encoded_bytes_max());
            if !updates.is_empty() && (ops > ROUND_OPS_MAX || bytes > RECORD_BATCH_BYTES_MAX) {
                break;
            }
            let outcome = match before {
                Some(before) => before.outcome,
                None => admitted.admit(&update),
            };
            match outcome {
                // What an update of this round made so is told only once the round is committed: the next
                // round looks again.
                Err(_) if !updates.is_empty() => break,
                Err(error) => self.finish_update(id, Err(Refusal::Op(error))),
                Ok((next, removed)) => {
                    if let Err(refusal) = self.fits(&admitted, &next) {
                        if !updates.is_empty() {
                            break;
                        }
                        self.finish_update(id, Err(refusal));
                        continue;
                    }
                    self.requests.take_queued();
                    requests.push((id, removed));
                    updates.push(update);
                    admitted = next;
                    if self.is_frozen_for(id) {
                        // Alone: what its commands see afterwards is what it did.
                        self.freeze_enters_round();
                        break;
                    }
                }
            }
        }
        if updates.is_empty() {
            return;
        }
        let epoch = self.known.epoch;
        let (record, database) = Record::updates(&shadow, epoch, admitted, updates, self.known.members);
        if self.undone_unseen.contains(&record.next) {
            // Asked for again, under the same id, before anything else was committed: the members take no copy of it again.
            let why = String::from("it was asked for again unchanged; ask under a new request id");
            for (id, _) in requests {
                self.finish_update(id, Err(Refusal::RolledBack { why: why.clone() }));
            }
            return;
        }
        let record = Arc::new(record);
        self.requests.in_round(requests.iter().map(|(id, _)| *id));
        self.head = database.clone();
        self.history.push(Arc::clone(&record));
        self.rolled_back = None;
        let position = record.next;
        let purpose = Purpose::Round { position };
        if self.solo() {
            for role in self.known.devices.iter() {
                let op = ReplicaOp::Append {
                    record: Arc::clone(&record),
                    then_survey: true,
                };
                self.ask(Replica::Device(role), op, purpose.clone());
            }
        } else {
            for to in self.first_receivers().iter() {
                self.send_update_req(to, epoch, &record);
            }
            let op = ReplicaOp::Append {
                record: Arc::clone(&record),
                then_survey: false,
            };
            self.ask(Replica::Local, op, purpose);
        }
        self.owes_unfreeze = None;
        self.round = Some(Round {
            record,
            database,
            shadow,
            requests,
            waits_since: self.now,
            stored_locally: false,
            stored_on: DeviceSet::EMPTY,
            failed_on: DeviceSet::EMPTY,
            acked: NodeSet::EMPTY,
            rollback: None,
            is_asked_for: false,
        });
    }

    /// An update came under the id of another one. Somebody must look: a program counts wrong, or somebody has got hold of its id.
    pub(super) fn refuse_reused(&mut self, request: RequestId, generation: Generation, who: &Who) {
        if self.requests.take_reuse_alarm(self.now) {
            let text = format!(
                "an update of user {} (program {:?}, pid {}) came under request {}, which was applied with other content at \
                 generation {generation}: it is refused; each update needs an id of its own",
                who.uid,
                who.program,
                who.pid,
                request.public()
            );
            self.record(DecisionKind::Alarm, text);
        }
        let error = OpError::OtherContent { request, generation };
        self.finish_update(request, Err(Refusal::Op(error)));
    }

    /// Since when the round under way waits for members, and who has answered.
    pub(in crate::protocol) fn round_waits(&self) -> Option<(Time, NodeSet)> {
        let round = self.round.as_ref()?;
        let answered = round
            .rollback
            .as_ref()
            .map_or(round.acked, |rollback| rollback.acked);
        Some((round.waits_since, answered))
    }

    /// Whether the round under way is too large for a journal, and so is written as an image.
    pub(in crate::protocol) fn round_is_large(&self) -> bool {
        self.round
            .as_ref()
            .is_some_and(|round| self.is_large(&round.record))
    }

    /// A member gets the record of this round, piece by piece.
    pub(in crate::protocol) fn note_round_moves(&mut self, position: Position) {
        let now = self.now;
        if let Some(round) = self.round_at(position) {
            round.waits_since = now;
        }
    }

    pub(super) fn round_at(&mut self, position: Position) -> Option<&mut Round> {
        self.round.as_mut().filter(|round| round.record.next == position)
    }

    pub(in crate::protocol) fn on_round_stored(
        &mut self,
        replica: Replica,
        position: Position,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        let epoch = self.known.epoch;
        let Some(database) = self.round_at(position).map(|round| round.database.clone()) else {
            return;
        };
        match (replica, result) {
            (_, Err(error)) if error.kind == ReplicaErrorKind::Full => {
                // The journal has no room until its checkpoint is done: an image holds the record as well.
                let op = ReplicaOp::WriteImage { database };
                self.ask(replica, op, Purpose::RoundImage { position });
            }
            (Replica::Device(role), Err(_)) => self.round_failed_on(position, role),
            // The node has stopped serving, and starts over from what the local copy holds.
            (Replica::Local, Err(_)) => {}
            (Replica::Local, Ok(_)) => {
                if let Some(round) = self.round_at(position) {
                    round.stored_locally = true;
                }
            }
            (
                Replica::Device(role),
                Ok(
                    ReplicaAnswer::Appended {
                        survey: Some(survey), ..
                    }
                    | ReplicaAnswer::Survey(survey),
                ),
            ) => {
                let claimed = self.claimed_epoch(role, &survey);
                self.note_damage(role, &survey);
                if claimed >= epoch {
                    self.on_claim(role);
                    // If it cannot act on it now, the round is settled as if the device had failed.
                    self.round_failed_on(position, role);
                } else if let Some(round) = self.round_at(position) {
                    round.stored_on = round.stored_on.with(role);
                }
            }
            (Replica::Device(_), Ok(_)) => {}
        }
    }

    fn round_failed_on(&mut self, position: Position, role: DeviceRole) {
        if let Some(round) = self.round_at(position) {
            round.failed_on = round.failed_on.with(role);
        }
    }

    pub(in crate::protocol) fn on_round_image_stored(
        &mut self,
        replica: Replica,
        position: Position,
        error: Option<ReplicaError>,
    ) {
        match (replica, error) {
            (Replica::Device(role), Some(_)) => self.round_failed_on(position, role),
            // It did not fit, and will not: nobody keeps it. Any other failure has stopped this node.
            (Replica::Local, Some(error)) if error.kind == ReplicaErrorKind::Full => {
                self.on_update_nack(self.me(), self.known.epoch, position, error.text);
            }
            (Replica::Local, Some(_)) => {}
            (Replica::Local, None) => {
                if let Some(round) = self.round_at(position) {
                    round.stored_locally = true;
                }
            }
            (Replica::Device(_), None) => {
                self.ask(replica, ReplicaOp::Survey, Purpose::Round { position });
            }
        }
    }

    /// Another node means to decide the successor of this owner's configuration. Nothing is acked any more in this one:
    /// the owner decides a successor itself, if it still can, and goes on in that.
    pub(in crate::protocol) fn on_claim(&mut self, role: DeviceRole) {
        if self.proposal.is_some() || self.install.is_some() || self.backing_off() || !self.is_open() {
            return;
        }
        self.propose(Want {
            members: self.known.members,
            devices: self.known.devices,
            why: format!("another node claimed the {role}, and this owner is still here"),
            settles: Settles::default(),
        });
    }

    /// A solo owner's update waits for a device that failed: the configuration goes on without it, and the update is
    /// acked in that one.
    fn degrade_if_stuck(&mut self) {
        if !self.solo() || !self.is_open() || self.backing_off() || self.install.is_some() {
            return;
        }
        let Some(role) = self
            .round
            .as_ref()
            .and_then(|round| round.failed_on.iter().next())
        else {
            return;
        };
        // One that works again by now may stay: what it missed is brought to it before the successor opens. But one that fails
        // again and again goes, if another is left, and so does one that has no room for the database.
        let fit = self.fit_devices();
        let stays: DeviceSet = (self.known.devices.iter())
            .filter(|role| fit.contains(*role))
            .collect();
        let (now, lease) = (self.now, self.settings.lease);
        let steady: DeviceSet = (stays.iter())
            .filter(|role| !self.replica(Replica::Device(*role)).is_flapping(now, lease))
            .collect();
        let devices = if steady.is_empty() { stays } else { steady };
        if devices.is_empty() {
            return;
        }
        let why = match self.small_text(role) {
            Some(text) => text,
            None => format!("the {role} failed under an update"),
        };
        self.record(DecisionKind::Degraded, why.clone());
        self.propose(Want {
            members: self.known.members,
            devices,
            why,
            settles: Settles::default(),
        });
    }

    fn commit_if_done(&mut self) {
        if !self.is_open() {
            return;
        }
        let others = self.other_members();
        let done = self.round.as_ref().is_some_and(|round| {
            round.rollback.is_none()
                && if self.solo() {
                    round.stored_on == self.known.devices
                } else {
                    round.stored_locally && round.acked.is_superset(others)
                }
        });
        if !done {
            return;
        }
        let Some(round) = self.round.take() else {
            return;
        };
        let (epoch, position) = (self.known.epoch, round.record.next);
        // Dropped once nobody waits: that frees what the update replaced, piece by piece.
        self.spent = Some(core::mem::replace(&mut self.committed, round.database));
        self.undone_unseen.clear();
        for (id, removed) in round.requests {
            self.finish_update(id, Ok((position, Some(removed))));
        }
        if !self.hold_rounds {
            self.start_round();
        }
        self.owes_unfreeze = None;
        if self.round.is_some() || others.is_empty() {
            // A round that follows says in its record that this one is committed.
            return;
        }
        if self.freeze.is_some() || round.is_asked_for {
            self.unfreeze(epoch, position, true, others);
        } else {
            self.owes_unfreeze = Some((epoch, position, self.now + UNFREEZE_PAUSE));
        }
    }

    /// UNFREEZE_REQ(commit) that is owed, once it is due.
    fn drive_unfreeze(&mut self) {
        if self.owes_unfreeze.is_some_and(|(_, _, due)| self.now >= due) {
            self.unfreeze_now();
        }
    }

    /// UNFREEZE_REQ(commit) that is owed.
    pub(in crate::protocol) fn unfreeze_now(&mut self) {
        if let Some((epoch, position, _)) = self.owes_unfreeze.take()
            && self.is_open()
            && epoch == self.known.epoch
        {
            self.unfreeze(epoch, position, true, self.other_members());
        }
    }

    /// UNFREEZE_REQ: the round is committed, or rolled back.
    pub(super) fn unfreeze(&mut self, epoch: Epoch, position: Position, commit: bool, members: NodeSet) {
        for to in members.iter() {
            self.send(
                to,
                Message::Unfreeze {
                    epoch,
                    position,
                    commit,
                },
            );
        }
    }

    /// A query waits at a member for the end of this round.
    pub(in crate::protocol) fn on_unfreeze_ask(&mut self, from: NodeId, epoch: Epoch, position: Position) {
        if epoch != self.known.epoch || !self.is_open() || !self.is_master() {
            return;
        }
        if self.committed.position() == position {
            self.unfreeze(epoch, position, true, NodeSet::of(from));
        } else if let Some(round) = self.round_at(position) {
            round.is_asked_for = true;
        }
    }

    pub(in crate::protocol) fn repeat_round(&mut self) {
        let Some(round) = &self.round else {
            return;
        };
        if !self.is_open() || self.solo() {
            return;
        }
        let (epoch, record, acked) = (self.known.epoch, Arc::clone(&round.record), round.acked);
        match &round.rollback {
            None => {
                for to in self.other_members().minus(acked).iter() {
                    self.send_update_req(to, epoch, &record);
                }
            }
            Some(rollback) => {
                let waiting = self.other_members().minus(rollback.acked);
                self.unfreeze(epoch, record.next, false, waiting);
            }
        }
    }

    pub(in crate::protocol) fn on_update_ack(&mut self, from: NodeId, epoch: Epoch, position: Position) {
        if epoch == self.known.epoch
            && let Some(round) = self.round_at(position)
        {
            round.acked.insert(from);
        }
    }
}
