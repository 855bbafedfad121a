//! Updates from the client to the round and back: which wait for a round, what is forwarded to the master and answered, and
//! what is said of them at their deadline.
//!
//! Owns `requests.updates`, `requests.queue` and `requests.finished`.

use super::Requests;
use crate::client::{Answer, ClientToken, Refusal, UpdateRequest};
use crate::database::loaded_bytes;
use crate::ids::{Epoch, NodeId, Position, RequestId};
use crate::protocol::Node;
use crate::protocol::message::{ForwardOutcome, Message};
use crate::time::Time;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// How many outcomes of forwarded updates are remembered within an epoch, in case the forward is repeated.
const FINISHED_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Pending {
    /// Who waits for it, and until when.
    pub origins: Vec<(Origin, Time)>,
    update: UpdateRequest,
    /// It was part of a round, or sent to a master: it may be applied whatever becomes of this node.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Client(ClientToken),
    /// By a forward of this epoch.
    Node(NodeId, Epoch),
}

impl Pending {
    pub fn is_dry_run(&self) -> bool {
        self.update.dry_run
    }

    /// Until when somebody waits for it.
    fn latest(&self) -> Time {
        self.origins
            .iter()
            .map(|(_, deadline)| *deadline)
            .max()
            .unwrap_or_default()
    }
}

impl Requests {
    /// The update that waits longest for a round.
    pub fn first_queued(&mut self) -> Option<(RequestId, &UpdateRequest)> {
        while let Some(id) = self.queue.front().copied() {
            if self.updates.contains_key(&id) {
                return self.updates.get(&id).map(|pending| (id, &pending.update));
            }
            self.queue.pop_front();
        }
        None
    }

    /// Whether an update may wait for a round.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn has_dry_runs(&self) -> bool {
        !self.dry_runs.is_empty() || !self.rehearsals.is_empty()
    }

    pub fn has_rehearsals(&self) -> bool {
        !self.rehearsals.is_empty()
    }

    pub fn next_dry_run(&mut self) -> Option<RequestId> {
        self.dry_runs.pop_front()
    }

    pub fn dry_run_first(&mut self, id: RequestId) {
        self.dry_runs.push_front(id);
    }

    /// A dry run that runs commands.
    pub fn rehearse(&mut self, id: RequestId) {
        let updates = &self.updates;
        self.rehearsals.retain(|waiting| updates.contains_key(waiting));
        self.rehearsals.push_back(id);
    }

    /// Of another user than the last one was, if there is one.
    pub fn next_rehearsal(&mut self) -> Option<RequestId> {
        let last = self.rehearsed;
        let of_another = |id: &RequestId| {
            (self.updates.get(id)).is_some_and(|pending| Some(pending.update.who.uid) != last)
        };
        let at = self.rehearsals.iter().position(of_another).unwrap_or(0);
        let id = self.rehearsals.remove(at)?;
        self.rehearsed = self.updates.get(&id).map(|pending| pending.update.who.uid);
        Some(id)
    }

    /// The update of this id, as long as somebody waits for it.
    pub fn waiting(&self, id: RequestId) -> Option<&UpdateRequest> {
        self.updates.get(&id).map(|pending| &pending.update)
    }

    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.updates.contains_key(&id)
    }

    /// It is next, but for the update that is frozen: nothing comes between the commands before that and those after it.
    pub fn queue_first(&mut self, id: RequestId, frozen: Option<RequestId>) {
        let is_frozen_first = frozen.is_some() && self.queue.front().copied() == frozen;
        self.queue.insert(usize::from(is_frozen_first), id);
    }

    pub fn take_queued(&mut self) {
        self.queue.pop_front();
    }

    pub fn in_round(&mut self, ids: impl Iterator<Item = RequestId>) {
        for id in ids {
            if let Some(pending) = self.updates.get_mut(&id) {
                pending.begun = true;
            }
        }
    }
}

impl Node {
    pub(super) fn take_update(&mut self, origin: Origin, update: UpdateRequest, deadline: Time) {
        let id = update.request;
        if let Some(pending) = self.requests.updates.get_mut(&id) {
            match pending.origins.iter_mut().find(|(of, _)| *of == origin) {
                Some((_, due)) => *due = deadline,
                None => pending.origins.push((origin, deadline)),
            }
            return;
        }
        if self.closed_for_long() {
            let refusal = self.refuse_update();
            self.answer_update(&[origin], id, Err(refusal));
            return;
        }
        let is_busy = self.is_busy() || update.dry_run && self.freeze.is_some();
        if update.no_wait && self.is_open() && self.is_master() && is_busy {
            self.answer_update(&[origin], id, Err(Refusal::Busy));
            return;
        }
        let pending = Pending {
            origins: alloc::vec![(origin, deadline)],
            update,
            begun: false,
        };
        self.requests.updates.insert(id, Box::new(pending));
        self.route_update(id);
    }

    /// Puts an update where it is worked on next: this node's queue, or the master's.
    fn route_update(&mut self, id: RequestId) {
        if !self.is_open() {
            return;
        }
        if self.is_master() {
            let requests = &mut self.requests;
            match requests.updates.get(&id) {
                Some(pending) if pending.is_dry_run() => requests.dry_runs.push_back(id),
                _ => requests.queue.push_back(id),
            }
            return;
        }
        let (epoch, now) = (self.known.epoch, self.now);
        let Some(master) = self.known.master() else {
            return;
        };
        if let Some(pending) = self.requests.updates.get_mut(&id) {
            // Only what this node's own clients asked for is forwarded; other nodes forward theirs themselves.
            if !pending
                .origins
                .iter()
                .any(|origin| matches!(origin, (Origin::Client(_), _)))
            {
                return;
            }
            pending.begun = true;
            let (update, timeout) = (pending.update.clone(), pending.latest().since(now));
            let large = loaded_bytes(&update.ops) > self.settings.image_chunk_bytes
                || self.settings.update_bytes_whole_max == 0;
            let forward = Message::Forward {
                epoch,
                update,
                timeout,
            };
            self.send_in_pieces_if(large, master, forward);
        }
    }

    pub(in crate::protocol) fn repeat_forwards(&mut self) {
        if self.is_open() && !self.is_master() {
            let ids: Vec<RequestId> = self.requests.updates.keys().copied().collect();
            for id in ids {
                // One that must not wait is sent once: a copy that comes after `busy` was said would be applied.
                let pending = self.requests.updates.get(&id);
                if !pending.is_some_and(|pending| pending.begun && pending.update.no_wait) {
                    self.route_update(id);
                }
            }
        }
    }

    /// A new configuration is open: what was begun in an earlier one is in the database now, or never will be.
    pub(in crate::protocol) fn requests_after_opening(&mut self) {
        self.requests.finished.clear();
        self.requests.queue.clear();
        self.requests.dry_runs.clear();
        self.requests.rehearsals.clear();
        let ids: Vec<RequestId> = self.requests.updates.keys().copied().collect();
        for id in ids {
            if let Some(pending) = self.requests.updates.get_mut(&id) {
                pending
                    .origins
                    .retain(|(origin, _)| matches!(origin, Origin::Client(_)));
                if pending.origins.is_empty() {
                    self.requests.updates.remove(&id);
                    continue;
                }
            }
            if matches!(self.committed.applied(id), Some(Ok(_)))
                && let Some(position) = self.committed_at(id)
            {
                self.finish_update(id, Ok((position, None)));
            } else if let Some(why) = self.rollback_under_way(id) {
                self.finish_update(id, Err(Refusal::RolledBack { why }));
            } else {
                self.route_update(id);
            }
        }
        self.round = None;
        self.freeze = None;
        self.hold_rounds = false;
    }

    /// What the first answer to this update said: where its round led. Where that round is not kept any more, the present state,
    /// which holds it.
    pub(in crate::protocol) fn committed_at(&self, id: RequestId) -> Option<Position> {
        let generation = self.committed.outcome(id)?;
        let round = self.history.round_of(generation);
        Some(round.unwrap_or_else(|| self.committed.position()))
    }

    fn answer_update(
        &mut self,
        origins: &[Origin],
        request: RequestId,
        result: Result<(Position, Option<u64>), Refusal>,
    ) {
        for origin in origins {
            match (*origin, &result) {
                (Origin::Client(client), Ok((position, removed))) => {
                    let answer = Answer::Committed {
                        position: *position,
                        removed: *removed,
                    };
                    self.reply(client, Ok(answer));
                }
                (Origin::Client(client), Err(refusal)) => self.reply(client, Err(refusal.clone())),
                (Origin::Node(node, epoch), result) => {
                    let outcome = match result {
                        Ok((position, removed)) => ForwardOutcome::Committed {
                            position: *position,
                            removed: *removed,
                        },
                        Err(refusal) => ForwardOutcome::Refused(refusal.clone()),
                    };
                    self.remember_finished(request, outcome.clone());
                    self.send(
                        node,
                        Message::ForwardReply {
                            epoch,
                            request,
                            outcome,
                        },
                    );
                }
            }
        }
    }

    fn remember_finished(&mut self, request: RequestId, outcome: ForwardOutcome) {
        // Nothing final was said of these: asking again must work.
        if let ForwardOutcome::Refused(Refusal::TimedOut | Refusal::Unknown { .. } | Refusal::Busy) = outcome
        {
            return;
        }
        self.requests.finished.push_back((request, outcome));
        if self.requests.finished.len() > FINISHED_MAX {
            self.requests.finished.pop_front();
        }
    }

    pub(in crate::protocol) fn finish_update(
        &mut self,
        id: RequestId,
        result: Result<(Position, Option<u64>), Refusal>,
    ) {
        self.aside.forget(id);
        if let Some(pending) = self.requests.updates.remove(&id) {
            let origins: Vec<Origin> = pending.origins.iter().map(|(origin, _)| *origin).collect();
            self.answer_update(&origins, id, result);
        }
        if self.requests.queue.front() == Some(&id) {
            self.requests.queue.pop_front();
        }
    }

    pub(in crate::protocol) fn finish_dry_run(&mut self, id: RequestId, removed: u64) {
        self.aside.forget(id);
        let Some(pending) = self.requests.updates.remove(&id) else {
            return;
        };
        for (origin, _) in pending.origins {
            match origin {
                Origin::Client(client) => self.reply(client, Ok(Answer::WouldApply { removed })),
                Origin::Node(node, epoch) => {
                    let outcome = ForwardOutcome::WouldApply { removed };
                    self.remember_finished(id, outcome.clone());
                    let request = id;
                    self.send(
                        node,
                        Message::ForwardReply {
                            epoch,
                            request,
                            outcome,
                        },
                    );
                }
            }
        }
    }

    /// Answers a forward that this node does not take up, or has finished; `false`: it is to be worked on.
    fn answers_forward(&mut self, from: NodeId, epoch: Epoch, request: RequestId) -> bool {
        let outcome = if epoch != self.known.epoch || !self.is_open() || !self.is_master() {
            Some(ForwardOutcome::NotMaster)
        } else {
            let finished = self.requests.finished.iter().find(|(id, _)| *id == request);
            finished.map(|(_, outcome)| outcome.clone())
        };
        let answers = outcome.is_some();
        if let Some(outcome) = outcome {
            let reply = Message::ForwardReply {
                epoch,
                request,
                outcome,
            };
            self.send(from, reply);
        }
        answers
    }

    /// Whether an offered forward is to be fetched; its sender hears what came of it, if something did.
    pub(in crate::protocol) fn wants_forward(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        request: RequestId,
    ) -> bool {
        !self.answers_forward(from, epoch, request) && !self.requests.is_waiting(request)
    }

    pub(in crate::protocol) fn on_forward(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        update: UpdateRequest,
        timeout: Duration,
    ) {
        if self.answers_forward(from, epoch, update.request) {
            return;
        }
        let deadline = self.now + timeout;
        self.take_update(Origin::Node(from, epoch), update, deadline);
    }

    pub(in crate::protocol) fn on_forward_reply(
        &mut self,
        epoch: Epoch,
        request: RequestId,
        outcome: ForwardOutcome,
    ) {
        if epoch != self.known.epoch {
            // It may be in a round of a later master by now, whose word counts; what was committed is found when that opens.
            return;
        }
        match outcome {
            // It is asked again at the next heartbeat, or when the next configuration opens.
            ForwardOutcome::NotMaster => {}
            ForwardOutcome::Committed { position, removed } => {
                self.finish_update(request, Ok((position, removed)));
            }
            ForwardOutcome::WouldApply { removed } => self.finish_dry_run(request, removed),
            // The master had no time left, but this copy of the request may not have been the only one.
            ForwardOutcome::Refused(Refusal::TimedOut) => {
                let why = String::from("the master did not finish it in time");
                self.finish_update(request, Err(Refusal::Unknown { why }));
            }
            ForwardOutcome::Refused(Refusal::Busy)
                if (self.requests.updates.get(&request)).is_some_and(|pending| !pending.update.no_wait) =>
            {
                // Said to an earlier request of the same id, whose client no longer waited for it.
            }
            ForwardOutcome::Refused(refusal) => self.finish_update(request, Err(refusal)),
        }
    }

    pub(super) fn drive_update_deadlines(&mut self) {
        if self.requests.updates.is_empty() {
            return;
        }
        let hopeless = self.hopeless() || self.closed_for_long();
        let now = self.now;
        let mut due: Vec<(Origin, RequestId, bool)> = Vec::new();
        for (id, pending) in &mut self.requests.updates {
            let begun = pending.begun;
            pending.origins.retain(|(origin, deadline)| {
                let over = now >= *deadline || hopeless && !begun;
                if over {
                    due.push((*origin, *id, begun));
                }
                !over
            });
        }
        if due.is_empty() {
            return;
        }
        // One in a round or at the master goes on without anybody waiting; one in the queue does not start.
        self.requests
            .updates
            .retain(|_, pending| !pending.origins.is_empty());
        for (origin, id, begun) in due {
            let refusal = if begun {
                let why = format!("no word on it within the time-out ({})", self.obstacle_or_busy());
                Refusal::Unknown { why }
            } else if !self.waited_for().is_empty() {
                let why = self.maintenance_text().unwrap_or_default();
                Refusal::NotServing { why }
            } else if hopeless {
                self.refuse_update()
            } else {
                self.refusal_of_what_waited()
            };
            self.answer_update(&[origin], id, Err(refusal));
        }
    }

    /// Until the last of those who wait for this update stops doing so.
    pub(in crate::protocol) fn time_left(&self, id: RequestId) -> Duration {
        let latest = (self.requests.updates.get(&id)).map(|pending| pending.latest());
        latest.unwrap_or_default().since(self.now)
    }

    fn obstacle_or_busy(&self) -> String {
        if self.is_open() {
            (self.commands_text()).unwrap_or_else(|| String::from("a member or replica is slow"))
        } else {
            self.obstacle_text()
        }
    }
}
