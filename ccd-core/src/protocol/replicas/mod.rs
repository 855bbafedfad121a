//! This node's replicas: opening and loading them, what their control blocks say, and which part of the node an
//! answer is for.
//!
//! ```text
//! view.rs        what is known of each          survey.rs      what other nodes' control blocks say
//! track.rs       when a failed one is tried again (pure)       room.rs  how large a database they hold
//! loading.rs     reading their content          last_words.rs  recent decisions on the devices, for the survivor to read
//! bring.rs       writing them up to a state      own_area.rs   another run of this node that writes its area
//! each.rs        one view for every replica that can be named
//! folder.rs      which state folder this is, and whether this node is counted by it
//! overwritten.rs what another program wrote over      voted.rs how far votes and decisions had come there
//! lacking.rs     what another device proves to have been written to one
//! signing.rs     a heartbeat of this run stands on each device before the first configuration is opened
//! ```
//!
//! Owns `replicas`, `pending` and `ticket_last`.

mod bring;
pub(super) mod each;
mod folder;
mod lacking;
pub(super) mod last_words;
pub(super) mod loading;
mod overwritten;
pub(super) mod own_area;
mod room;
mod signing;
mod survey;
pub(super) mod track;
mod view;
mod voted;

pub(in crate::protocol) use bring::Brought;
pub(in crate::protocol) use folder::Folder;
pub(in crate::protocol) use view::ReplicaView;

use crate::configuration::{Ballot, Configuration};
use crate::ids::{DeviceRole, Epoch, NodeId, Position, Replica, Stamp};
use crate::protocol::Node;
use crate::protocol::interface::{Action, DecisionKind, Ticket};
use crate::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp, Survey};
use crate::time::Time;
use alloc::string::{String, ToString};
use view::State;

/// Journal use at which a checkpoint is begun, so that it is done long before the ring is full.
const CHECKPOINT_AT_PERCENT: u8 = 50;

/// So many slow heartbeats, one after another, are said to be slow.
pub(in crate::protocol) const SLOW_BEATS: u8 = 10;

/// Numbers this node's proposals, so that the answer to an earlier one is not taken for this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::protocol) struct Attempt(pub u64);

impl Attempt {
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Which part of the node asked for an operation, and what for.
#[derive(Clone, Debug)]
pub(in crate::protocol) enum Purpose {
    Open,
    /// One that failed was opened again: a write must show that it takes writes before anything depends on it.
    Reopened,
    Load,
    Heartbeat {
        begun: Time,
    },
    /// A write of a drill, to see how long it takes.
    DrillWrite {
        serial: u64,
        begun: Time,
    },
    /// A write of a drill without registration: it should be refused.
    DrillProof,
    /// The local copy is told which rounds are known to be committed.
    Mark(Stamp),
    /// The local copy is told which state folder it is.
    NoteFolder,
    /// In place of a heartbeat, where this node cannot write.
    Survey {
        begun: Time,
    },
    /// Nothing waits for it; a failure closes the replica all the same.
    Unattended,
    /// A branch is kept; an override, if this attempt is one, waits for it.
    Branch {
        attempt: Option<Attempt>,
        /// For people.
        what: String,
    },
    Checkpoint {
        image_bytes: u64,
    },
    Prewrite,
    /// A vote for a proposal of another node.
    Vote {
        to: NodeId,
        instance: Epoch,
        ballot: Ballot,
        accept: bool,
    },
    /// This node's own proposal.
    Promise(Attempt),
    Evidence(Attempt),
    Accept(Attempt),
    Recorded(Attempt),
    /// State of the configuration that this node installs, as its coordinator.
    Install {
        epoch: Epoch,
    },
    /// The same, as a member.
    Member {
        epoch: Epoch,
    },
    CatchUp {
        position: Position,
    },
    /// A piece of the image that is being got.
    StageImage,
    /// The round that this node drives.
    Round {
        position: Position,
    },
    /// The same after its record did not fit the journal: the image has been written, the claim check comes next.
    RoundImage {
        position: Position,
    },
    RolledBack {
        position: Position,
    },
    /// A round that another node drives.
    Prepare {
        position: Position,
    },
    UndoPrepared {
        position: Position,
    },
}

impl Purpose {
    /// What was being done, for people.
    fn name(&self) -> &'static str {
        match self {
            Self::Open | Self::Reopened => "opening it",
            Self::Load | Self::Evidence(_) => "reading what it holds",
            Self::Heartbeat { .. } => "a heartbeat",
            Self::DrillWrite { .. } | Self::DrillProof => "a write of a drill",
            Self::Mark(_) => "noting what is committed",
            Self::NoteFolder => "noting which state folder it is",
            Self::Survey { .. } => "reading heartbeats",
            Self::Unattended | Self::Recorded(_) => "a record",
            Self::Branch { .. } => "keeping a branch",
            Self::Checkpoint { .. } => "a checkpoint",
            Self::Prewrite | Self::CatchUp { .. } | Self::StageImage => "bringing it up to date",
            Self::Vote { .. } | Self::Promise(_) | Self::Accept(_) => "a vote",
            Self::Install { .. } | Self::Member { .. } => "opening a configuration",
            Self::Round { .. } | Self::RoundImage { .. } | Self::Prepare { .. } => "an update",
            Self::RolledBack { .. } | Self::UndoPrepared { .. } => "taking an update back",
        }
    }
}

/// Which state of an area an operation writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Writes {
    NoState,
    Record,
    Image { image_bytes: u64 },
}

impl Node {
    /// Asks for an operation on a replica.
    pub(in crate::protocol) fn ask(&mut self, replica: Replica, op: ReplicaOp, purpose: Purpose) -> Ticket {
        let ticket = self.next_ticket();
        let (leads_to, writes) = match &op {
            ReplicaOp::Append { record, .. } => (Some(record.next), Writes::Record),
            ReplicaOp::AppendTail { records } => (records.last().map(|record| record.next), Writes::Record),
            ReplicaOp::WriteImage { database } | ReplicaOp::AdoptImage { database } => {
                let image_bytes = database.image_len_bytes();
                (Some(database.position()), Writes::Image { image_bytes })
            }
            _ => (None, Writes::NoState),
        };
        if let Some(leads_to) = leads_to {
            let view = self.replica_mut(replica);
            view.own = None;
            view.writes_in_flight = view.writes_in_flight.saturating_add(1);
            view.leads_to = leads_to;
        }
        self.pending.push((ticket, replica, writes, purpose));
        self.actions.push(Action::Replica { ticket, replica, op });
        ticket
    }

    /// An operation that changes the state of an area is answered: once all are, its position is known again.
    fn on_state_written(&mut self, replica: Replica, done: bool) {
        let view = self.replica_mut(replica);
        view.writes_in_flight = view.writes_in_flight.saturating_sub(1);
        view.journal_full &= !done;
        view.image_instead &= !done;
        view.own = (done && view.writes_in_flight == 0).then_some(view.leads_to);
    }

    pub(in crate::protocol) fn store_configuration(
        &mut self,
        replica: Replica,
        configuration: Configuration,
    ) {
        if self.replica(replica).usable() {
            self.ask(
                replica,
                ReplicaOp::WriteConfiguration { configuration },
                Purpose::Unattended,
            );
        }
    }

    /// Opens what is closed and due; called at every heartbeat.
    pub(in crate::protocol) fn re_open_replicas(&mut self) {
        let (now, serves) = (self.now, self.is_open() && self.lease_holds());
        let due: alloc::vec::Vec<Replica> = (self.replicas.iter())
            .filter(|(_, view)| matches!(view.state, State::Closed { .. }) && view.track.is_due(now, serves))
            .map(|(replica, _)| replica)
            .collect();
        for replica in due {
            self.replica_mut(replica).state = State::Opening;
            if replica == Replica::Local {
                // It may be another one by now.
                self.replica_mut(replica).survey = Survey::default();
            }
            self.ask(replica, ReplicaOp::Open, Purpose::Open);
        }
    }

    /// Writes this node's heartbeat to every device that has none in flight.
    pub(in crate::protocol) fn beat_devices(&mut self) {
        self.forget_other_run_with_its_device();
        // A node that left must look as if it were down.
        if !self.willing && self.serving.is_none() {
            return;
        }
        for role in self.device_roles() {
            self.beat_device(role);
        }
    }

    /// Writes this node's heartbeat to this device and reads the others', unless that is under way.
    pub(in crate::protocol) fn beat_device(&mut self, role: DeviceRole) {
        let replica = Replica::Device(role);
        let view = self.replica_mut(replica);
        if !view.usable() || view.beat_in_flight {
            return;
        }
        view.beat_in_flight = true;
        let begun = self.now;
        self.expect_traces(role);
        let looks_first = self.replica(replica).looks_first;
        if looks_first || !self.writes_heartbeats(role) && !self.marks_area(role) {
            // It can still read what the others write.
            self.ask(replica, ReplicaOp::Survey, Purpose::Survey { begun });
            return;
        }
        self.write_heartbeat(role, begun);
    }

    pub(super) fn write_heartbeat(&mut self, role: DeviceRole, begun: Time) {
        let replica = Replica::Device(role);
        let view = self.replica_mut(replica);
        view.beat_sequence = view.beat_sequence.saturating_add(1);
        let sequence = view.beat_sequence;
        let run = self.number_run(role);
        let heartbeat = crate::replica::Heartbeat {
            incarnation: self.settings.incarnation,
            sequence,
            run,
            stamp: self.bound.stamp(),
            serving: self.is_open() && self.lease_holds(),
            hears: self.heard_nodes(),
            folder: self.folder.id,
            host: self.settings.host.clone(),
            moved_from: self.moved_from(),
            traces: self.traces,
        };
        self.ask(
            replica,
            ReplicaOp::WriteHeartbeat { heartbeat },
            Purpose::Heartbeat { begun },
        );
    }

    pub(in crate::protocol) fn on_replica(
        &mut self,
        ticket: Ticket,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        self.spent = None;
        let asked = self.pending.iter().position(|(of, ..)| *of == ticket);
        let Some((_, replica, writes, purpose)) = asked.map(|index| self.pending.swap_remove(index)) else {
            return;
        };
        if writes != Writes::NoState {
            self.on_state_written(replica, result.is_ok());
        }
        if matches!(purpose, Purpose::Promise(_) | Purpose::Accept(_)) {
            let view = self.replica_mut(replica);
            view.claims_in_flight = view.claims_in_flight.saturating_sub(1);
        }
        let result = result.and_then(|answer| self.believed(replica, answer));
        let result = result.and_then(|answer| self.keeps_what_was_written(replica, &purpose, answer));
        let is_answered = result.is_ok();
        let result = result.and_then(|answer| self.refuse_overwritten(replica, answer));
        let is_refused = is_answered && result.is_err();
        if let Purpose::Heartbeat { begun } | Purpose::Survey { begun } = purpose {
            let took = self.now.since(begun);
            let is_slow = took > self.settings.heartbeat;
            let view = self.replica_mut(replica);
            view.slow_beats = if is_slow {
                view.slow_beats.saturating_add(1).min(2 * SLOW_BEATS)
            } else {
                view.slow_beats.saturating_sub(1)
            };
            view.beat_in_flight = false;
            view.looks_first &= result.is_err() || !matches!(purpose, Purpose::Survey { .. });
            if let Ok(ReplicaAnswer::Survey(survey)) = &result {
                self.note_region_damage(replica, survey.damage.as_ref());
            }
            if let (Ok(ReplicaAnswer::Survey(survey)), Replica::Device(role)) = (&result, replica) {
                self.look_for_traces(role, survey);
            }
            let view = self.replica_mut(replica);
            if result.is_ok() {
                view.looked_at = Some(begun);
                // What stands still is seen now.
                self.look = true;
            }
        }
        if let Ok(
            ReplicaAnswer::Survey(survey)
            | ReplicaAnswer::Appended {
                survey: Some(survey), ..
            },
        ) = &result
        {
            // The answer to an update has the ballots alone.
            let is_whole = matches!(result, Ok(ReplicaAnswer::Survey(_)));
            self.on_survey(replica, survey, is_whole);
        }
        match &result {
            Ok(ReplicaAnswer::Appended {
                journal_used_percent, ..
            }) => {
                self.checkpoint_if_due(replica, *journal_used_percent);
            }
            // A record that does not fit leaves the replica as it was.
            // What a proof is for; and a device that was opened again answers, though this node is not registered there.
            Err(error)
                if matches!(purpose, Purpose::DrillProof | Purpose::Reopened)
                    && error.kind == ReplicaErrorKind::Fenced => {}
            Err(error) if error.kind != ReplicaErrorKind::Full || matches!(purpose, Purpose::Open) => {
                self.on_failure(replica, &purpose, error);
                if is_refused {
                    self.close_overwritten(replica);
                }
            }
            Err(error) => {
                let refused_bytes = match (writes, &purpose) {
                    (Writes::Image { image_bytes }, _) => Some(image_bytes),
                    (_, Purpose::Checkpoint { image_bytes }) => Some(*image_bytes),
                    _ => None,
                };
                self.replica_mut(replica).journal_full = true;
                if let Some(image_bytes) = refused_bytes {
                    self.on_refused_image(replica, image_bytes, error);
                }
            }
            Ok(_) => {}
        }
        self.dispatch(replica, purpose, result);
    }

    fn dispatch(&mut self, replica: Replica, purpose: Purpose, result: Result<ReplicaAnswer, ReplicaError>) {
        match purpose {
            Purpose::Open => self.on_opened(replica, result),
            Purpose::Reopened => {
                if let (Ok(_), Replica::Device(role)) = (&result, replica) {
                    // Who writes no heartbeats there learns it by nothing else.
                    self.on_taken_write(role);
                }
                self.on_reopened(replica, result.err());
            }
            Purpose::Load => self.on_loaded(replica, result),
            Purpose::Heartbeat { begun } => {
                if let (Ok(ReplicaAnswer::Survey(survey)), Replica::Device(role)) = (result, replica) {
                    self.on_taken_write(role);
                    self.on_device_beat(role, begun, &survey);
                    self.greet_with_first_beat(role);
                }
            }
            Purpose::Mark(stamp) => self.on_marked(stamp, result.is_ok()),
            Purpose::NoteFolder => self.on_folder_noted(result.is_ok()),
            Purpose::Unattended | Purpose::Survey { .. } => {}
            Purpose::Branch { attempt, what } => self.on_branch_kept(attempt, &what, result),
            Purpose::DrillWrite { serial, begun } => {
                if let Replica::Device(role) = replica {
                    self.on_drill_write(role, serial, begun, result.as_ref().err());
                }
            }
            Purpose::DrillProof => {
                if let Replica::Device(role) = replica {
                    self.on_proof_write(role, result.err());
                }
            }
            Purpose::Checkpoint { .. } => self.replica_mut(replica).checkpoint_in_flight = false,
            Purpose::Prewrite => {
                self.replica_mut(replica).prewrite_in_flight = false;
                // Who waits for it need not wait for the next heartbeat as well.
                self.look = true;
            }
            Purpose::Vote {
                to,
                instance,
                ballot,
                accept,
            } => {
                self.on_vote_stored(to, instance, ballot, accept, result.err());
            }
            Purpose::Promise(attempt) => self.on_promise_stored(replica, attempt, result),
            Purpose::Evidence(attempt) => self.on_evidence(replica, attempt, result),
            Purpose::Accept(attempt) => self.on_accept_stored(replica, attempt, result),
            Purpose::Recorded(attempt) => self.on_decision_recorded(attempt),
            Purpose::Install { epoch } => self.on_install_stored(replica, epoch, result.err()),
            Purpose::Member { epoch } => self.on_member_stored(epoch, result.err()),
            Purpose::CatchUp { position } => self.on_catch_up_stored(position, result.err()),
            Purpose::StageImage => self.on_image_staged(result.err()),
            Purpose::Round { position } => self.on_round_stored(replica, position, result),
            Purpose::RoundImage { position } => self.on_round_image_stored(replica, position, result.err()),
            Purpose::RolledBack { position } => self.on_rollback_stored(position, result.err()),
            Purpose::Prepare { position } => self.on_prepared_stored(position, result.err()),
            Purpose::UndoPrepared { position } => self.on_undo_stored(position, result.err()),
        }
    }

    /// A replica, with the path of a device.
    fn shown(&self, replica: Replica) -> String {
        let path = match replica {
            Replica::Local => None,
            Replica::Device(role) => self.settings.init.device_path(role),
        };
        match path {
            Some(path) => alloc::format!("{replica} ({path})"),
            None => replica.to_string(),
        }
    }

    fn on_failure(&mut self, replica: Replica, purpose: &Purpose, error: &ReplicaError) {
        let now = self.now;
        self.look = true;
        if error.kind == ReplicaErrorKind::Fenced {
            self.on_refused_write(replica);
        }
        let lease = self.settings.lease;
        let was_usable = self.replica(replica).usable();
        let view = self.replica_mut(replica);
        let worked = was_usable.then(|| now.since(view.since));
        view.track.on_failure(now, error.kind, worked, lease);
        view.state = State::Closed {
            error: Some(error.text.clone()),
        };
        // What the area holds after a failed write is not known until it is read again.
        view.own = None;
        view.image_instead = false;
        view.clean_beat = None;
        view.damage = None;
        view.loaded = false;
        // A device that is away is opened again and again: said once, until the reason changes.
        let is_news = view.recorded.as_ref() != Some(&error.text);
        if is_news && !was_usable {
            view.recorded = Some(error.text.clone());
            let text = alloc::format!("the {} cannot be used: {error}", self.shown(replica));
            self.record(DecisionKind::Damage, text);
            return;
        }
        if was_usable {
            view.since = now;
            view.recorded = Some(error.text.clone());
            let text = alloc::format!(
                "the {} failed at {}: {error}",
                self.shown(replica),
                purpose.name()
            );
            self.record(DecisionKind::Damage, text);
            if replica == Replica::Local {
                if !self.solo() {
                    self.stop_serving("the local copy cannot be written");
                }
                // The others go on without it, and need not wait for the next heartbeat to hear of it.
                self.next_beat = now;
            }
        }
    }

    /// An image did not fit. That does not pass: the replica is not asked to take one as large again, and takes no part.
    fn on_refused_image(&mut self, replica: Replica, image_bytes: u64, error: &ReplicaError) {
        self.look = true;
        let was_known = !self.replica(replica).holds(image_bytes);
        self.replica_mut(replica).note_refused_image(image_bytes);
        if !was_known {
            let text = alloc::format!("the {replica} has no room for the database: {error}");
            self.record(DecisionKind::Damage, text);
        }
        if replica == Replica::Local {
            self.next_beat = self.now;
        }
    }

    /// Opens a replica that is closed without waiting any longer.
    pub(in crate::protocol) fn re_open_now(&mut self, replica: Replica) {
        let view = self.replica_mut(replica);
        if matches!(view.state, State::Closed { .. }) {
            view.track.open_now();
            self.re_open_replicas();
        }
    }

    fn on_opened(&mut self, replica: Replica, result: Result<ReplicaAnswer, ReplicaError>) {
        let Ok(answer) = result else {
            return;
        };
        let view = self.replica_mut(replica);
        if let ReplicaAnswer::Survey(survey) = &answer {
            view.proof.begin_anew();
            view.is_new = survey::is_of_a_new_region(survey);
            let is_another = view.region != survey.region;
            view.region = survey.region;
            if is_another {
                view.is_forgiven = false;
                view.own_area.forget_durable();
                view.voted = Default::default();
                self.note_another_region(replica);
            }
            if let Replica::Device(role) = replica {
                let own = survey.areas.iter().find(|area| area.node == self.settings.me);
                self.open_own_area(role, own);
            }
        }
        let has_lost_number = replica != Replica::Local && self.has_lost_number();
        let view = self.replica_mut(replica);
        if view.track.has_failed() && !has_lost_number {
            view.state = State::Proving;
            self.ask(replica, ReplicaOp::WriteScratch, Purpose::Reopened);
        } else {
            self.use_opened(replica);
        }
    }

    fn on_reopened(&mut self, replica: Replica, error: Option<ReplicaError>) {
        let is_proven = error.is_none_or(|error| error.kind == ReplicaErrorKind::Fenced);
        if is_proven && matches!(self.replica(replica).state, State::Proving) {
            self.use_opened(replica);
        }
    }

    fn use_opened(&mut self, replica: Replica) {
        let now = self.now;
        let view = self.replica_mut(replica);
        view.state = State::Open;
        view.recorded = None;
        view.since = now;
        if let Replica::Device(role) = replica
            && (self.willing || self.serving.is_some())
        {
            // Others wait to find this node's heartbeat there.
            self.beat_device(role);
        }
        self.ask(replica, ReplicaOp::Load, Purpose::Load);
    }

    fn checkpoint_if_due(&mut self, replica: Replica, used_percent: u8) {
        let view = self.replica(replica);
        // Only a committed state is checkpointed: a prepared round may still be rolled back.
        if used_percent < CHECKPOINT_AT_PERCENT || view.checkpoint_in_flight || self.serving.is_none() {
            return;
        }
        let database = self.committed.clone();
        let image_bytes = database.image_len_bytes();
        if !self.replica(replica).holds(image_bytes) {
            return;
        }
        self.replica_mut(replica).checkpoint_in_flight = true;
        let purpose = Purpose::Checkpoint { image_bytes };
        self.ask(replica, ReplicaOp::Checkpoint { database }, purpose);
    }
}
