//! What clients wait for: queries until they can be answered strictly, updates until they are committed or refused, each
//! at most until its time-out.
//!
//! Owns `requests`.

use super::Node;
use super::interface::Action;
use super::message::{ForwardOutcome, Message};
use super::operator::{Operator, Wish};
use super::verification::Verification;
use crate::client::{Answer, ClientToken, Refusal, Reply, Request, RequestBody, UpdateRequest};
use crate::database::{Database, Key};
use crate::ids::{Epoch, NodeId, Position, RequestId};
use crate::time::Time;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// How many outcomes of forwarded updates are remembered within an epoch, in case the forward is repeated.
const FINISHED_MAX: usize = 1024;

/// A node that has not served for this many leases refuses at once instead of letting its clients wait.
const HOPELESS_LEASES: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Requests {
    reads: Vec<Read>,
    updates: BTreeMap<RequestId, Pending>,
    /// Updates that wait for a round, in order.
    queue: VecDeque<RequestId>,
    /// Oldest first.
    finished: VecDeque<(RequestId, ForwardOutcome)>,
    pub operator: Vec<Operator>,
    pub verifications: Vec<Verification>,
    /// Numbers verifications.
    pub serial: u64,
}

#[derive(Debug)]
struct Read {
    client: ClientToken,
    deadline: Time,
    body: RequestBody,
}

#[derive(Debug)]
struct Pending {
    /// Who waits for it, and until when.
    origins: Vec<(Origin, Time)>,
    update: UpdateRequest,
    /// It was part of a round, or sent to a master: it may be applied whatever becomes of this node.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client(ClientToken),
    Node(NodeId),
}

impl Pending {
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
    pub fn next_deadline(&self) -> Time {
        (self.reads.iter().map(|read| read.deadline))
            .chain(
                self.updates
                    .values()
                    .flat_map(|pending| pending.origins.iter().map(|(_, due)| *due)),
            )
            .chain(self.operator.iter().map(|operator| operator.deadline))
            .chain(
                self.verifications
                    .iter()
                    .map(|verification| verification.deadline),
            )
            .min()
            .unwrap_or(Time::NEVER)
    }

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

    pub fn is_waiting(&self, id: RequestId) -> bool {
        self.updates.contains_key(&id)
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
    pub(super) fn reply(&mut self, client: ClientToken, reply: Reply) {
        self.actions.push(Action::Reply { client, reply });
    }

    pub(super) fn not_serving(&self) -> Refusal {
        Refusal::NotServing {
            why: self.obstacle_text(),
        }
    }

    pub(super) fn on_request(&mut self, client: ClientToken, request: Request) {
        let deadline = self.now + request.timeout;
        match request.body {
            RequestBody::Query { stale: true, .. }
            | RequestBody::Keys { stale: true }
            | RequestBody::Snapshot { stale: true } => {
                let reply = if self.damaged.is_some() || !self.was_read() {
                    Err(self.not_serving())
                } else {
                    self.read(&self.committed, &request.body)
                };
                self.reply(client, reply);
            }
            body @ (RequestBody::Query { .. }
            | RequestBody::Keys { .. }
            | RequestBody::Snapshot { .. }
            | RequestBody::Outcome { .. }) => self.requests.reads.push(Read {
                client,
                deadline,
                body,
            }),
            RequestBody::Update(update) => self.take_update(Origin::Client(client), update, deadline),
            // As a read: it starts when the node can be read.
            body @ RequestBody::Verify { .. } => self.requests.reads.push(Read {
                client,
                deadline,
                body,
            }),
            RequestBody::Drill if self.known.is_genesis() => {
                let refusal = self.not_serving();
                self.reply(client, Err(refusal));
            }
            RequestBody::Drill => self.begin_drill(client, deadline),
            RequestBody::Leave => {
                self.look = true;
                self.willing = false;
                self.requests.operator.push(Operator {
                    client,
                    deadline,
                    wish: Wish::Out,
                });
                self.beat();
            }
            RequestBody::Join => {
                self.willing = true;
                self.requests.operator.push(Operator {
                    client,
                    deadline,
                    wish: Wish::In,
                });
                self.beat();
            }
            RequestBody::Quorum(wanted) => self.begin_quorum_wish(client, deadline, wanted),
            RequestBody::Designate { node: Some(node) } if !self.settings.nodes.contains(node) => {
                let why = format!(
                    "there is no node {node} in this cluster; its nodes are {}",
                    self.settings.nodes
                );
                self.reply(client, Err(Refusal::Unsafe { why }));
            }
            RequestBody::Designate { node } => {
                self.requests.operator.push(Operator {
                    client,
                    deadline,
                    wish: Wish::Master(node),
                });
                self.hand_on_designations();
            }
            RequestBody::Reconfigure { members } => self.reconfigure(client, members, deadline),
            RequestBody::Maintenance { on } => {
                self.look = true;
                self.maintenance_wish = (on != self.known.maintenance).then_some(on);
                self.back_off_until = self.now;
                self.requests.operator.push(Operator {
                    client,
                    deadline,
                    wish: Wish::Maintenance(on),
                });
            }
            RequestBody::ChangeNodes(edit) => self.change_nodes(client, edit, deadline),
            RequestBody::Takeover { .. } if self.removed() => {
                let why = self.removed_text();
                self.reply(client, Err(Refusal::Unsafe { why }));
            }
            RequestBody::Takeover { force: false } if self.known.maintenance => {
                let why = String::from(
                    "maintenance: nothing is taken over; `ccdctl maintenance off` ends it, and then takes over as the votes \
                     allow",
                );
                self.reply(client, Err(Refusal::Unsafe { why }));
            }
            RequestBody::Takeover { force: false } if !self.willing => {
                let why = String::from("this node left; `ccdctl join` takes part again");
                self.reply(client, Err(Refusal::Unsafe { why }));
            }
            RequestBody::Takeover { force } => {
                self.willing = true;
                if !self.is_open() || !self.lease_holds() {
                    self.impatient = true;
                    self.force = force;
                    self.back_off_until = self.now;
                }
                self.requests.operator.push(Operator {
                    client,
                    deadline,
                    wish: Wish::Serve,
                });
            }
        }
    }

    pub(super) fn on_client_gone(&mut self, client: ClientToken) {
        let requests = &mut self.requests;
        requests.reads.retain(|read| read.client != client);
        requests.operator.retain(|operator| operator.client != client);
        self.changes.on_client_gone(client);
        requests
            .verifications
            .retain(|verification| verification.client != client);
        self.drills.retain(|drill| drill.client() != client);
        for pending in requests.updates.values_mut() {
            pending
                .origins
                .retain(|(origin, _)| *origin != Origin::Client(client));
        }
    }

    /// The local copy's content was read, if only once.
    fn was_read(&self) -> bool {
        self.replica(crate::ids::Replica::Local).loaded || self.serving.is_some()
    }

    fn read(&self, database: &Database, body: &RequestBody) -> Reply {
        let position = database.position();
        match body {
            RequestBody::Query { pattern, .. } => match database.query(pattern) {
                Ok(rows) => Ok(Answer::Rows { position, rows }),
                Err(error) => Err(Refusal::Op(error)),
            },
            RequestBody::Keys { .. } => Ok(Answer::Keys {
                position,
                keys: database.keys(),
            }),
            RequestBody::Snapshot { .. } => Ok(Answer::Snapshot(database.clone())),
            RequestBody::Outcome { request } => Ok(Answer::Outcome {
                committed: database.outcome(*request),
            }),
            _ => Ok(Answer::Done),
        }
    }

    fn take_update(&mut self, origin: Origin, update: UpdateRequest, deadline: Time) {
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
        if update.no_wait && self.is_open() && self.is_master() && self.is_busy() {
            self.answer_update(&[origin], id, Err(Refusal::Busy));
            return;
        }
        let pending = Pending {
            origins: alloc::vec![(origin, deadline)],
            update,
            begun: false,
        };
        self.requests.updates.insert(id, pending);
        self.route_update(id);
    }

    /// Puts an update where it is worked on next: this node's queue, or the master's.
    fn route_update(&mut self, id: RequestId) {
        if !self.is_open() {
            return;
        }
        if self.is_master() {
            self.requests.queue.push_back(id);
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
            self.send(
                master,
                Message::Forward {
                    epoch,
                    update,
                    timeout,
                },
            );
        }
    }

    pub(super) fn repeat_forwards(&mut self) {
        if self.is_open() && !self.is_master() {
            let ids: Vec<RequestId> = self.requests.updates.keys().copied().collect();
            for id in ids {
                // One that must not wait is sent once: a copy that comes after `busy` was said would be applied.
                let once = |pending: &Pending| pending.begun && pending.update.no_wait;
                if !self.requests.updates.get(&id).is_some_and(once) {
                    self.route_update(id);
                }
            }
        }
    }

    /// A new configuration is open: what was begun in an earlier one is in the database now, or never will be.
    pub(super) fn requests_after_opening(&mut self) {
        self.requests.finished.clear();
        self.requests.queue.clear();
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
            if self.committed.outcome(id).is_some() {
                let position = self.committed.position();
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
                (Origin::Node(node), result) => {
                    let outcome = match result {
                        Ok((position, removed)) => ForwardOutcome::Committed {
                            position: *position,
                            removed: *removed,
                        },
                        Err(refusal) => ForwardOutcome::Refused(refusal.clone()),
                    };
                    self.remember_finished(request, outcome.clone());
                    self.send(node, Message::ForwardReply { request, outcome });
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

    pub(super) fn finish_update(&mut self, id: RequestId, result: Result<(Position, Option<u64>), Refusal>) {
        if let Some(pending) = self.requests.updates.remove(&id) {
            let origins: Vec<Origin> = pending.origins.iter().map(|(origin, _)| *origin).collect();
            self.answer_update(&origins, id, result);
        }
        if self.requests.queue.front() == Some(&id) {
            self.requests.queue.pop_front();
        }
    }

    pub(super) fn finish_dry_run(&mut self, id: RequestId, removed: u64) {
        let Some(pending) = self.requests.updates.remove(&id) else {
            return;
        };
        self.requests.queue.retain(|queued| *queued != id);
        for (origin, _) in pending.origins {
            match origin {
                Origin::Client(client) => self.reply(client, Ok(Answer::WouldApply { removed })),
                Origin::Node(node) => {
                    let outcome = ForwardOutcome::WouldApply { removed };
                    self.remember_finished(id, outcome.clone());
                    self.send(node, Message::ForwardReply { request: id, outcome });
                }
            }
        }
    }

    pub(super) fn on_forward(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        update: UpdateRequest,
        timeout: Duration,
    ) {
        let request = update.request;
        if epoch != self.known.epoch || !self.is_open() || !self.is_master() {
            self.send(
                from,
                Message::ForwardReply {
                    request,
                    outcome: ForwardOutcome::NotMaster,
                },
            );
            return;
        }
        let finished = self.requests.finished.iter().find(|(id, _)| *id == request);
        if let Some(outcome) = finished.map(|(_, outcome)| outcome.clone()) {
            self.send(from, Message::ForwardReply { request, outcome });
            return;
        }
        let deadline = self.now + timeout;
        self.take_update(Origin::Node(from), update, deadline);
    }

    pub(super) fn on_forward_reply(&mut self, request: RequestId, outcome: ForwardOutcome) {
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

    pub(super) fn drive_requests(&mut self) {
        self.drive_reads();
        self.drive_update_deadlines();
        self.drive_operator();
        self.drive_changes();
        self.drive_verifications();
        self.drive_drills();
    }

    /// It does not serve, and nothing suggests that it soon will.
    fn hopeless(&self) -> bool {
        self.serving.is_none()
            && self.proposal.is_none()
            && self.install.is_none()
            && self.member.is_none()
            && self.now.since(self.waiting.1) > self.settings.lease * HOPELESS_LEASES
    }

    fn drive_reads(&mut self) {
        let hopeless = self.hopeless() || self.closed_for_long();
        let now = self.now;
        let mut waiting = core::mem::take(&mut self.requests.reads);
        waiting.retain(|read| {
            let key: Option<&Key> = match &read.body {
                RequestBody::Query { pattern, .. } => Some(&pattern.key),
                _ => None,
            };
            if self.can_read(key) {
                if let RequestBody::Verify { repair } = read.body {
                    self.begin_verification(read.client, read.deadline, repair);
                } else {
                    let reply = self.read(self.strict_state(), &read.body);
                    self.reply(read.client, reply);
                }
                return false;
            }
            if hopeless || now >= read.deadline {
                let refusal = if hopeless && self.lacks_majority() && !self.waits_for_all_nodes() {
                    let why = self.no_quorum_text();
                    Refusal::NotServing { why }
                } else {
                    self.refusal_of_what_waited()
                };
                self.reply(read.client, Err(refusal));
                return false;
            }
            true
        });
        waiting.append(&mut self.requests.reads);
        self.requests.reads = waiting;
    }

    fn drive_update_deadlines(&mut self) {
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

    /// Of a request that was not started: busy is not the same as out of service.
    fn refusal_of_what_waited(&self) -> Refusal {
        match (self.is_open(), self.lease_holds()) {
            (true, true) => Refusal::TimedOut,
            (true, false) => Refusal::NotServing {
                why: format!(
                    "the lease has run out: of the nodes {{{}}} this one hears {{{}}} only",
                    self.known.members,
                    self.heard_nodes().with(self.me())
                ),
            },
            (false, _) => self.not_serving(),
        }
    }

    /// Until the last of those who wait for this update stops doing so.
    pub(super) fn time_left(&self, id: RequestId) -> Duration {
        let latest = self.requests.updates.get(&id).map(Pending::latest);
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
