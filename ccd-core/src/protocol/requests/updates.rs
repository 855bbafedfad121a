//! Updates from the client to the round and back: which wait for a round, what is forwarded to the master and answered, and
//! what is said of them at their deadline.
//!
//! Owns `requests.updates`, `requests.queue` and `requests.finished`.

use super::{Agreement, Requests};
use crate::client::{Answer, ClientToken, Refusal, UpdateRequest};
use crate::database::loaded_bytes;
use crate::ids::{Epoch, NodeId, Position, RequestId};
use crate::protocol::Node;
use crate::protocol::copies::parcels::Parcel;
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
    pub origins: Vec<Waiter>,
    update: UpdateRequest,
    /// It was part of a round, or sent to a master: it may be applied whatever becomes of this node.
    begun: bool,
    /// Of a dry run.
    pub agreement: Agreement,
    /// The master was offered it in pieces.
    offered: Option<Offered>,
}

#[cfg(test)]
impl Pending {
    /// A dry run of this user that waits for its turn.
    pub fn dry_run(uid: u32, request: RequestId, origin: Origin) -> Self {
        Self {
            origins: alloc::vec![Waiter {
                origin,
                deadline: Time::NEVER,
                lapses: Time::NEVER,
            }],
            update: UpdateRequest {
                request,
                who: crate::database::Who {
                    uid,
                    ..Default::default()
                },
                date: Default::default(),
                reason: None,
                preconditions: Vec::new(),
                ops: Vec::new(),
                no_wait: false,
                dry_run: true,
                no_sync: false,
            },
            begun: false,
            agreement: Agreement::Open,
            offered: None,
        }
    }
}

/// A forward in pieces: what is needed to offer it again, and to make the same bytes again.
#[derive(Clone, Copy, Debug)]
struct Offered {
    epoch: Epoch,
    timeout: Duration,
    total: u64,
}

/// Who waits for an update, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub origin: Origin,
    deadline: Time,
    /// Of a forwarded dry run: it is of use to nobody unless it is repeated before this.
    lapses: Time,
}

impl Waiter {
    pub fn until(&self) -> Time {
        self.deadline.min(self.lapses)
    }
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

    pub fn uid(&self) -> u32 {
        self.update.who.uid
    }

    /// Until when somebody waits for it.
    fn latest(&self) -> Time {
        self.origins
            .iter()
            .map(|waiter| waiter.deadline)
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

    /// A forward that was offered in pieces, as it was encoded for that.
    pub fn offered_forward(&self, epoch: Epoch, id: RequestId) -> Option<Message> {
        let pending = self.updates.get(&id)?;
        let offered = pending.offered.filter(|offered| offered.epoch == epoch)?;
        Some(Message::Forward {
            epoch,
            update: pending.update.clone(),
            timeout: offered.timeout,
        })
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
        let lapses = match origin {
            Origin::Node(..) if update.dry_run => self.forward_lapses(),
            _ => Time::NEVER,
        };
        let waiter = Waiter {
            origin,
            deadline,
            lapses,
        };
        if let Some(pending) = self.requests.updates.get_mut(&id) {
            match pending.origins.iter_mut().find(|known| known.origin == origin) {
                Some(known) => *known = waiter,
                None => pending.origins.push(waiter),
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
        let uid = update.who.uid;
        if update.dry_run && matches!(origin, Origin::Node(..)) && self.requests.forwarded_are_many(uid) {
            if update.no_wait {
                return self.answer_update(&[origin], id, Err(Refusal::Busy));
            }
            // It comes again with the next heartbeat.
            return self.requests.put_off(id, uid);
        }
        let pending = Pending {
            origins: alloc::vec![waiter],
            update,
            begun: false,
            agreement: Agreement::default(),
            offered: None,
        };
        self.requests.updates.insert(id, Box::new(pending));
        self.route_update(id);
    }

    /// Until when a forwarded dry run is kept that is not repeated.
    fn forward_lapses(&self) -> Time {
        self.now + self.settings.lease.checked_div(2).unwrap_or_default()
    }

    /// Puts an update where it is worked on next: this node's queue, or the master's.
    fn route_update(&mut self, id: RequestId) {
        if !self.is_open() {
            return;
        }
        if self.is_master() {
            let requests = &mut self.requests;
            match requests.updates.get(&id) {
                Some(pending) if pending.is_dry_run() => requests.dry_runs.push(id),
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
                .any(|waiter| matches!(waiter.origin, Origin::Client(_)))
            {
                return;
            }
            pending.begun = true;
            if let Some(Offered { total, .. }) = pending.offered.filter(|offered| offered.epoch == epoch) {
                // Looking at each of its operations again at every heartbeat would take too long.
                let parcel = Parcel::Forward { epoch, request: id };
                return self.send(master, Message::Offer { parcel, total });
            }
            let (update, timeout) = (pending.update.clone(), pending.latest().since(now));
            let large = loaded_bytes(&update.ops) > self.settings.image_chunk_bytes
                || self.settings.update_bytes_whole_max == 0;
            let forward = Message::Forward {
                epoch,
                update,
                timeout,
            };
            let total = self.send_in_pieces_if(large, master, forward);
            if let Some(pending) = self.requests.updates.get_mut(&id) {
                pending.offered = total.map(|total| Offered {
                    epoch,
                    timeout,
                    total,
                });
            }
        }
    }

    pub(in crate::protocol) fn repeat_forwards(&mut self) {
        if self.is_open() && !self.is_master() {
            let ids: Vec<RequestId> = self.requests.updates.keys().copied().collect();
            for id in ids {
                // One that must not wait is sent once: a copy that comes after `busy` was said would be applied. A dry run is not
                // applied, and lapses at the master if it is not repeated.
                let pending = self.requests.updates.get(&id);
                if !pending
                    .is_some_and(|pending| pending.begun && pending.update.no_wait && !pending.is_dry_run())
                {
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
        let ids: Vec<RequestId> = self.requests.updates.keys().copied().collect();
        for id in ids {
            if let Some(pending) = self.requests.updates.get_mut(&id) {
                pending.agreement = Agreement::Open;
                pending
                    .origins
                    .retain(|waiter| matches!(waiter.origin, Origin::Client(_)));
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
        if let Some(pending) = self.requests.updates.remove(&id) {
            let origins: Vec<Origin> = pending.origins.iter().map(|waiter| waiter.origin).collect();
            self.answer_update(&origins, id, result);
        }
        if self.requests.queue.front() == Some(&id) {
            self.requests.queue.pop_front();
        }
    }

    pub(in crate::protocol) fn finish_dry_run(&mut self, id: RequestId, removed: u64) {
        let Some(pending) = self.requests.updates.remove(&id) else {
            return;
        };
        for waiter in pending.origins {
            match waiter.origin {
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
        if self.answers_forward(from, epoch, request) || self.requests.is_put_off(request) {
            return false;
        }
        let lapses = self.forward_lapses();
        let Some(pending) = self.requests.updates.get_mut(&request) else {
            return true;
        };
        // Its sender still waits for it.
        let is_dry_run = pending.is_dry_run();
        let from = Origin::Node(from, epoch);
        let known = pending.origins.iter_mut().find(|waiter| waiter.origin == from);
        if let Some(waiter) = known.filter(|_| is_dry_run) {
            waiter.lapses = lapses;
        }
        false
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
        let mut any_lapsed = false;
        for (id, pending) in &mut self.requests.updates {
            // Nothing is left open of a dry run.
            let begun = pending.begun && !pending.is_dry_run();
            pending.origins.retain(|waiter| {
                let over = now >= waiter.deadline || hopeless && !begun;
                let lapsed = now >= waiter.lapses;
                if over && !lapsed {
                    due.push((waiter.origin, *id, begun));
                }
                any_lapsed |= lapsed;
                !over && !lapsed
            });
        }
        if due.is_empty() && !any_lapsed {
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
