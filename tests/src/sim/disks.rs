//! The way of an operation on a replica: asked for, started, landed on the medium, ended; or late, or never.

use super::drive::{Drive, Job, Taken, UnderWay};
use super::durable;
use super::happening::Happening;
use super::server::{DiskStep, Stage, replica, slot};
use super::unsound::Unsound;
use super::voters::Voter;
use super::world::{Ghost, Sabotage, World};
use ccd_core::configuration::BallotBlock;
use ccd_core::ids::Replica;
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use core::time::Duration;

const LATENCY_MIN: Duration = Duration::from_micros(20);

/// How long a write can be under way after its process is gone.
const LATE_MAX: Duration = Duration::from_secs(4);

impl World {
    pub(super) fn submit_op(&mut self, index: usize, ticket: Ticket, replica: Replica, op: ReplicaOp) {
        let Some(drive) = self.servers[index].drive(slot(replica)) else {
            let text = format!("this cluster has no {replica}");
            self.answer_replica(
                index,
                ticket,
                Err(ReplicaError {
                    kind: ReplicaErrorKind::Io,
                    text,
                }),
            );
            return;
        };
        match drive.submit(Job { ticket, op }) {
            Taken::Queued => self.start_op(index, slot(replica)),
            Taken::Refused(error) => self.answer_replica(index, ticket, Err(error)),
        }
    }

    fn start_op(&mut self, index: usize, slot: usize) {
        let now = self.now;
        let deadline = self.servers[index].clock.stretch(self.faults.disk_deadline);
        let Some((serial, deadline)) = self.servers[index]
            .drive(slot)
            .and_then(|d| d.start_next(now, deadline))
        else {
            return;
        };
        let run = self.servers[index].run;
        let lands = self.latency(index, slot);
        self.step_after(
            index,
            lands,
            DiskStep {
                slot,
                serial,
                stage: Stage::Land,
            },
        );
        self.after(
            deadline,
            Happening::Expire {
                server: index,
                run,
                slot,
                serial,
            },
        );
    }

    fn latency(&mut self, index: usize, slot: usize) -> Duration {
        if slot == 0 {
            self.draw(LATENCY_MIN, self.local_latency_max[index])
        } else {
            self.device_lag + self.draw(LATENCY_MIN, self.faults.disk_delay_max)
        }
    }

    pub(super) fn step_after(&mut self, index: usize, span: Duration, step: DiskStep) {
        let run = self.servers[index].run;
        self.after(
            span,
            Happening::Disk {
                server: index,
                run,
                step,
            },
        );
    }

    pub(super) fn disk_step(&mut self, index: usize, step: DiskStep) {
        let DiskStep { slot, serial, stage } = step;
        if !self.servers[index]
            .drive(slot)
            .is_some_and(|drive| drive.is_under_way(serial))
        {
            return;
        }
        if stage != Stage::Finish
            && let Some(until) = self.media.stalled_until(index, slot, self.now)
        {
            self.step_after(index, until.since(self.now), step);
            return;
        }
        // A system call that was made goes on without the process; the next one is not made.
        let waits = stage != Stage::Land || self.chance.chance(500);
        if let Some(stopped) = self.servers[index].stopped.as_mut().filter(|_| waits) {
            stopped.steps.push(step);
            return;
        }
        match stage {
            Stage::Land => self.land(index, slot, serial, false),
            Stage::Read => self.land(index, slot, serial, true),
            Stage::Finish => self.finish_op(index, slot, serial),
        }
    }

    /// The operation reaches the medium: here its writes are durable and its reads see what is there. `second`: only its
    /// reads do, its writes have.
    fn land(&mut self, index: usize, slot: usize, serial: u64, second: bool) {
        let fault = self.draw_fault(index, slot);
        let shown = self.shown(slot);
        let split = !second && self.chance.chance(500);
        let Some(drive) = self.servers[index].drive(slot) else {
            return;
        };
        let Drive {
            store,
            under_way: Some(job),
            ..
        } = drive
        else {
            return;
        };
        let Some(op) = job.op.take() else {
            return;
        };
        store.meet(fault);
        let leads_to = durable::leads_to(&op);
        let ballot = match &op {
            ReplicaOp::WriteBallot { ballot } | ReplicaOp::Claim { ballot, .. } => Some(ballot.clone()),
            _ => None,
        };
        let heartbeat = match &op {
            ReplicaOp::WriteHeartbeat { heartbeat } => Some(heartbeat.clone()),
            _ => None,
        };
        job.shown = shown;
        let forget = ballot.is_some() && self.sabotage == Some(Sabotage::ForgottenBallots);
        if split && reads_after_writing(&op) {
            let first = if forget {
                store.execute(ReplicaOp::Survey)
            } else {
                store.execute(writes_only(op))
            };
            if first.is_ok() {
                job.op = Some(ReplicaOp::Survey);
            }
            job.result = Some(first);
        } else if second {
            let survey = store.execute(op);
            let wrote = job.result.take().expect("the first part has landed");
            job.result = Some(survey.map(|survey| joined(wrote, survey)));
        } else {
            job.result = Some(store.execute(if forget { ReplicaOp::Survey } else { op }));
        }
        let reads_follow = job.op.is_some();
        let landed = matches!(job.result, Some(Ok(_)));
        if let Some(position) = leads_to.filter(|_| landed) {
            self.note_durable(Voter::by(self.node_id(index), replica(slot)), position);
        }
        if let Some(heartbeat) = heartbeat.filter(|_| landed) {
            self.witness_heartbeat(slot, &heartbeat);
        }
        self.witness_landing(index, slot, ballot.filter(|_| landed && !forget));
        let rest = self.latency(index, slot) / 2;
        let stage = if reads_follow { Stage::Read } else { Stage::Finish };
        self.step_after(index, rest, DiskStep { slot, serial, stage });
    }

    fn witness_landing(&mut self, index: usize, slot: usize, ballot: Option<BallotBlock>) {
        if let Some(ballot) = ballot {
            let voter = Voter::by(self.node_id(index), replica(slot));
            let result = self.voters.on_ballot(voter, &ballot);
            self.judge(result);
            let result = self.invariant_a_vote_stands_beside_what_it_succeeds(index, slot, &ballot);
            self.judge(result);
        }
        let loaded = match self.servers[index]
            .drive(slot)
            .and_then(|drive| drive.under_way.as_ref())
        {
            Some(UnderWay {
                result: Some(Ok(ReplicaAnswer::Loaded(loaded))),
                ..
            }) => loaded.clone(),
            _ => return,
        };
        let mut database = loaded.checkpoint.clone();
        for record in &loaded.records {
            match database.apply(record) {
                Ok(next) => database = next,
                Err(_) => break,
            }
        }
        let result = self.ledger.invariant_equal_stamp_equal_content(&database);
        self.judge(result);
        self.note_durable(Voter::by(self.node_id(index), replica(slot)), database.position());
    }

    /// A vote on a device takes the place of the votes that decided the configuration before: so that one stands there by then.
    fn invariant_a_vote_stands_beside_what_it_succeeds(
        &mut self,
        index: usize,
        slot: usize,
        ballot: &BallotBlock,
    ) -> Result<(), Unsound> {
        let under_way = (self.servers[index].drive(slot)).and_then(|drive| drive.under_way.as_ref());
        let Some(Ok(ReplicaAnswer::Survey(survey))) = under_way.and_then(|job| job.result.as_ref()) else {
            return Ok(());
        };
        let shown = survey.areas.iter().filter_map(|area| area.configuration.as_ref());
        let newest = shown
            .map(|configuration| configuration.epoch)
            .max()
            .unwrap_or_default();
        if slot == 0 || newest >= ballot.instance {
            return Ok(());
        }
        let text = format!(
            "n{index} votes on the successor of epoch {} on the {}, which shows epoch {newest}",
            ballot.instance,
            replica(slot)
        );
        Err(Unsound::new(
            "invariant_a_vote_stands_beside_what_it_succeeds",
            text,
        ))
    }

    fn finish_op(&mut self, index: usize, slot: usize, serial: u64) {
        let Some(drive) = self.servers[index].drive(slot) else {
            return;
        };
        if let Some((ticket, result, shown)) = drive.finish(serial) {
            if matches!(result, Ok(ReplicaAnswer::Survey(_))) {
                let server = &mut self.servers[index];
                server.knows = server.knows.max(shown);
            }
            self.answer_replica(index, ticket, result);
        }
        self.start_op(index, slot);
    }

    pub(super) fn expire_op(&mut self, index: usize, slot: usize, serial: u64) {
        let tickets = self.servers[index]
            .drive(slot)
            .map(|drive| drive.expire(serial))
            .unwrap_or_default();
        for ticket in tickets {
            let text = format!("{} did not answer in time", replica(slot));
            self.answer_replica(
                index,
                ticket,
                Err(ReplicaError {
                    kind: ReplicaErrorKind::TimedOut,
                    text,
                }),
            );
        }
    }

    /// What happens to the operations under way of a process that dies.
    pub(super) fn leave_ghosts(&mut self, index: usize, drives: Vec<Option<Drive>>, power: bool) {
        for (slot, drive) in drives.into_iter().enumerate() {
            let Some(Drive {
                store,
                under_way: Some(mut job),
                ..
            }) = drive
            else {
                continue;
            };
            let Some(op) = job.op.take().filter(|_| job.result.is_none()) else {
                continue;
            };
            let local_power = power && slot == 0;
            let ghost = Ghost {
                server: index,
                slot,
                store,
                op,
            };
            match self.chance.below(3) {
                0 => {}
                1 if self.faults.late_writes && !local_power => {
                    let late = self.draw(Duration::ZERO, LATE_MAX);
                    let serial = self.chance.draw();
                    self.ghosts.insert(serial, ghost);
                    self.after(late, Happening::LateLanding { ghost: serial });
                }
                _ => self.land_ghost(ghost),
            }
        }
    }

    pub(super) fn land_late(&mut self, serial: u64) {
        if let Some(ghost) = self.ghosts.remove(&serial) {
            self.land_ghost(ghost);
        }
    }

    /// A new process on the same server: what the old one had under way has landed by now, or never will.
    pub(super) fn settle_ghosts(&mut self, index: usize) {
        let of_server = |ghost: &Ghost| ghost.server == index;
        let serials: Vec<u64> = self
            .ghosts
            .iter()
            .filter(|(_, ghost)| of_server(ghost))
            .map(|(serial, _)| *serial)
            .collect();
        for serial in serials {
            let ghost = self.ghosts.remove(&serial).filter(|_| self.chance.chance(500));
            if let Some(ghost) = ghost {
                self.land_ghost(ghost);
            }
        }
    }

    fn land_ghost(&mut self, mut ghost: Ghost) {
        let torn = self.faults.torn_writes && self.chance.chance(500);
        let fault = if torn {
            self.draw_tear()
        } else {
            self.path_fault(ghost.server, ghost.slot)
        };
        ghost.store.meet(fault);
        let result = ghost.store.execute(ghost.op);
        let (server, slot, fine) = (ghost.server, ghost.slot, result.is_ok());
        self.log.line(
            self.now,
            format_args!("late write of n{server} to {}: {fine}", replica(slot)),
        );
    }
}

fn reads_after_writing(op: &ReplicaOp) -> bool {
    matches!(
        op,
        ReplicaOp::Append {
            then_survey: true,
            ..
        } | ReplicaOp::WriteBallot { .. }
            | ReplicaOp::Claim { .. }
            | ReplicaOp::WriteHeartbeat { .. }
    )
}

/// The same operation without its reads, if it can be had so; otherwise its reads are not looked at.
fn writes_only(op: ReplicaOp) -> ReplicaOp {
    match op {
        ReplicaOp::Append { record, .. } => ReplicaOp::Append {
            record,
            then_survey: false,
        },
        other => other,
    }
}

/// The answer of an operation whose reads were done apart from its writes.
fn joined(wrote: super::drive::OpResult, survey: ReplicaAnswer) -> ReplicaAnswer {
    match (wrote, survey) {
        (
            Ok(ReplicaAnswer::Appended {
                journal_used_percent, ..
            }),
            ReplicaAnswer::Survey(mut survey),
        ) => {
            for area in &mut survey.areas {
                area.configuration = None;
            }
            ReplicaAnswer::Appended {
                survey: Some(survey),
                journal_used_percent,
            }
        }
        (_, survey) => survey,
    }
}
