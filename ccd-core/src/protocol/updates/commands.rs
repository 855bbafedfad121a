//! Synchronization commands at this node: one after the other, in the freeze before an update and in the unfreeze after it.
//!
//! A freeze ends here by what became of its update, however this node learns of it: with the update in the database, the
//! commands run once more as `post_add` or the like; when it is certain that it will not be there, as `post_rollback`, wherever
//! they were begun. While nobody knows (the master died in between), the freeze stays, until the next configuration is open
//! here. The master answers a `FREEZE_ACK` that it no longer waits for; so that is repeated, and nothing else needs to be
//! reliable.
//!
//! Owns `commands`.

use crate::database::{Database, RecordBody};
use crate::ids::{NodeId, RequestId};
use crate::private;
use crate::protocol::Node;
use crate::protocol::interface::{Action, CommandFailure, CommandRun, DecisionKind, Ticket};
use crate::protocol::message::{Freeze, FreezeId, Message};
use crate::synchronization::{COMMANDS_MAX, CommandName, Keyword, Veto};
use crate::time::Time;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

#[derive(Debug, Default)]
pub(in crate::protocol) struct Commands {
    frozen: Option<Frozen>,
    /// What is still to be run, in this order.
    queue: VecDeque<Job>,
    running: Option<(Ticket, Job)>,
    /// The last freeze that ended here: late copies of its request begin nothing.
    ended: Option<FreezeId>,
}

/// A freeze that this node takes part in.
#[derive(Debug)]
struct Frozen {
    freeze: Freeze,
    /// When its commands must have agreed.
    until: Time,
    /// How many of them have.
    agreed: usize,
    /// The first was run.
    begun: bool,
    refused: Option<Veto>,
    /// The master has said that it is over; how, the database shows.
    over: bool,
    /// What its commands were given before the update.
    before: Database,
}

#[derive(Clone, Debug)]
struct Job {
    freeze: FreezeId,
    name: CommandName,
    keyword: Keyword,
    row: Option<String>,
    database: Database,
    /// Of the moment of the freeze: what was private then is so after an update that says otherwise.
    before: Database,
    /// Of a command in a freeze; one in an unfreeze has its time from when it starts.
    until: Option<Time>,
}

impl Frozen {
    fn result(&self) -> Option<Result<(), Veto>> {
        match &self.refused {
            Some(veto) => Some(Err(veto.clone())),
            None => (self.agreed == self.freeze.summons.commands.len()).then_some(Ok(())),
        }
    }
}

impl Node {
    pub(in crate::protocol) fn on_freeze_req(&mut self, from: NodeId, freeze: Freeze) {
        if freeze.id.epoch != self.known.epoch || self.sealed() || self.known.master() != Some(from) {
            return;
        }
        if !(1..=COMMANDS_MAX).contains(&freeze.summons.commands.len()) {
            return;
        }
        if self.serving != Some(freeze.id.epoch) {
            // The master is open, so all members were ready.
            self.on_open(freeze.id.epoch);
        }
        // What was prepared before is committed: the master goes on from there.
        self.on_master_position(from, freeze.at);
        if !self.is_open() || self.committed.position() != freeze.at || self.prepared.is_some() {
            return;
        }
        self.freeze_here(freeze);
    }

    /// Begins the commands of a freeze, or answers again that they are done.
    pub(in crate::protocol) fn freeze_here(&mut self, freeze: Freeze) {
        if let Some(frozen) = &mut self.commands.frozen
            && frozen.freeze.id < freeze.id
        {
            // One freeze at a time: the earlier one is over.
            frozen.over = true;
        }
        self.thaw_if_decided();
        let late = (self.commands.ended).is_some_and(|ended| freeze.id <= ended);
        match &self.commands.frozen {
            Some(frozen) if frozen.freeze.id == freeze.id => self.tell_freeze(),
            Some(_) => {}
            None if late => {}
            None => {
                let until = self.now + freeze.limit.min(self.settings.sync_timeout);
                for name in &freeze.summons.commands {
                    self.commands.queue.push_back(Job {
                        freeze: freeze.id,
                        name: name.clone(),
                        keyword: Keyword::Pre(freeze.summons.operation),
                        row: freeze.summons.row.clone(),
                        database: self.committed.clone(),
                        before: self.committed.clone(),
                        until: Some(until),
                    });
                }
                self.commands.frozen = Some(Frozen {
                    freeze,
                    until,
                    agreed: 0,
                    begun: false,
                    refused: None,
                    over: false,
                    before: self.committed.clone(),
                });
                self.run_next_command();
            }
        }
    }

    pub(in crate::protocol) fn on_freeze_over(&mut self, from: NodeId, id: FreezeId) {
        if self.known.master() != Some(from) {
            return;
        }
        match &mut self.commands.frozen {
            Some(frozen) if frozen.freeze.id == id => {
                frozen.over = true;
                // Whatever it would still say counts no more.
                self.stop_commands_of(id);
            }
            // It never came here; should its request come yet, it comes too late.
            None if id.epoch == self.known.epoch => {
                self.commands.ended = self.commands.ended.max(Some(id));
            }
            _ => {}
        }
        self.thaw_if_decided();
    }

    /// At every heartbeat: the answer may have been lost, or the word that the freeze is over.
    pub(in crate::protocol) fn tell_freeze(&mut self) {
        let Some(frozen) = &self.commands.frozen else {
            return;
        };
        let (id, result) = (frozen.freeze.id, frozen.result());
        let master = self.known.master().filter(|_| id.epoch == self.known.epoch);
        if let (Some(master), Some(result)) = (master, result)
            && !self.sealed()
        {
            if master == self.me() {
                self.on_freeze_ack(master, id, result);
            } else {
                self.send(master, Message::FreezeAck { id, result });
            }
        }
    }

    pub(in crate::protocol) fn drive_commands(&mut self) {
        let Some(frozen) = &mut self.commands.frozen else {
            return;
        };
        if !frozen.begun
            && frozen.refused.is_none()
            && self.now >= frozen.until
            && let Some(command) = frozen.freeze.summons.commands.first()
        {
            let id = frozen.freeze.id;
            frozen.refused = Some(Veto {
                command: command.clone(),
                timed_out: true,
                why: format!(
                    "not begun within {} ms: an earlier command still runs on this node",
                    frozen.freeze.limit.as_millis()
                ),
            });
            self.stop_commands_of(id);
            self.tell_freeze();
        }
        self.thaw_if_decided();
    }

    pub(in crate::protocol) fn commands_deadline(&self) -> Time {
        let waits = |frozen: &&Frozen| !frozen.begun && frozen.refused.is_none();
        (self.commands.frozen.as_ref().filter(waits)).map_or(Time::NEVER, |frozen| frozen.until)
    }

    /// What has become of the update of the freeze here: `None` while that is open.
    fn frozen_outcome(&self) -> Option<bool> {
        let frozen = self.commands.frozen.as_ref()?;
        if !self.is_open() {
            return None;
        }
        let Freeze { id, request, .. } = frozen.freeze;
        if self.committed.outcome(request).is_some() {
            return Some(true);
        }
        let over = id.epoch != self.known.epoch || frozen.over;
        (over && !self.has_in_doubt(request)).then_some(false)
    }

    /// It is part of a round that is neither committed nor rolled back here.
    fn has_in_doubt(&self, request: RequestId) -> bool {
        let prepared = self.prepared.as_ref().map(|prepared| prepared.record());
        let driven = self.round.as_ref().map(|round| &*round.record);
        prepared.into_iter().chain(driven).any(|record| {
            let RecordBody::Updates { updates, .. } = &record.body else {
                return false;
            };
            updates.iter().any(|update| update.request == request)
        })
    }

    /// Ends the freeze here once it is known what became of its update: the unfreeze, with its commands.
    fn thaw_if_decided(&mut self) {
        let Some(committed) = self.frozen_outcome() else {
            return;
        };
        let Some(Frozen {
            freeze,
            begun,
            before,
            ..
        }) = self.commands.frozen.take()
        else {
            return;
        };
        self.commands.ended = self.commands.ended.max(Some(freeze.id));
        self.stop_commands_of(freeze.id);
        if !begun {
            return;
        }
        let keyword = if committed {
            Keyword::Post(freeze.summons.operation)
        } else {
            Keyword::PostRollback
        };
        for name in freeze.summons.commands {
            self.commands.queue.push_back(Job {
                freeze: freeze.id,
                name,
                keyword,
                row: freeze.summons.row.clone(),
                database: self.committed.clone(),
                before: before.clone(),
                until: None,
            });
        }
        self.run_next_command();
    }

    /// Of the commands in the freeze, those that wait are dropped, and the one that runs is killed.
    fn stop_commands_of(&mut self, id: FreezeId) {
        let stops = |job: &Job| job.freeze == id && matches!(job.keyword, Keyword::Pre(_));
        self.commands.queue.retain(|job| !stops(job));
        if let Some((ticket, _)) = self.commands.running.as_ref().filter(|(_, job)| stops(job)) {
            let ticket = *ticket;
            self.actions.push(Action::StopCommand { ticket });
        }
    }

    fn run_next_command(&mut self) {
        if self.commands.running.is_some() {
            return;
        }
        let Some(job) = self.commands.queue.pop_front() else {
            return;
        };
        let limit = match job.until {
            Some(until) => until.since(self.now),
            None => self.settings.sync_timeout,
        };
        if let Some(frozen) = &mut self.commands.frozen
            && frozen.freeze.id == job.freeze
        {
            frozen.begun = true;
        }
        let ticket = self.next_ticket();
        self.actions.push(Action::RunCommand {
            ticket,
            run: CommandRun {
                name: job.name.clone(),
                keyword: job.keyword,
                row: job.row.clone(),
                database: job.database.clone(),
                before: job.before.clone(),
                nodes: self.cluster_nodes().count(),
                nodes_up: self.known.members.count(),
                me: self.me(),
                limit,
            },
        });
        self.commands.running = Some((ticket, job));
    }

    pub(in crate::protocol) fn on_command_done(
        &mut self,
        ticket: Ticket,
        result: Result<(), CommandFailure>,
    ) {
        let Some((_, job)) = self.commands.running.take_if(|(of, _)| *of == ticket) else {
            return;
        };
        let Job {
            freeze,
            name,
            keyword,
            database,
            before,
            ..
        } = job;
        // Decisions are read by many who may not read that key.
        let is_private = result.is_err()
            && [&before, &database]
                .iter()
                .any(|of| private::serves_private(of, &name));
        let in_freeze = (self.commands.frozen.as_mut())
            .filter(|frozen| frozen.freeze.id == freeze && matches!(keyword, Keyword::Pre(_)));
        match (in_freeze, result) {
            (Some(frozen), Ok(())) => frozen.agreed = frozen.agreed.saturating_add(1),
            (Some(frozen), Err(failure)) if frozen.refused.is_none() => {
                let told = failure.for_the_record(is_private);
                let text =
                    format!("{keyword} of the synchronization command {name} refused an update: {told}");
                frozen.refused = Some(Veto {
                    command: name,
                    timed_out: failure.timed_out(),
                    why: format!("{failure}"),
                });
                let stopped = frozen.over;
                self.commands.queue.retain(|job| job.freeze != freeze);
                if !stopped {
                    self.record(DecisionKind::Synchronization, text);
                }
            }
            (None, Err(failure)) if !matches!(keyword, Keyword::Pre(_)) => {
                let told = failure.for_the_record(is_private);
                let text = format!(
                    "{keyword} of the synchronization command {name} failed on this node, which changes nothing of the update: \
                     {told}"
                );
                self.record(DecisionKind::Synchronization, text);
            }
            _ => {}
        }
        self.tell_freeze();
        self.run_next_command();
    }

    /// What updates wait for, for people.
    pub(in crate::protocol) fn commands_text(&self) -> Option<String> {
        let (_, job) = self.commands.running.as_ref()?;
        Some(format!(
            "{} of the synchronization command {} is running",
            job.keyword, job.name
        ))
    }
}
