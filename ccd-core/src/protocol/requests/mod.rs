//! What clients wait for: queries until they can be answered strictly, updates until they are committed or refused, each
//! at most until its time-out.
//!
//! This file takes each request to the part that sees to it.
//!
//! ```text
//! reads.rs     queries and the like, and their deadlines
//! updates.rs   updates: to the master, into a round, and the word on them
//! dry_runs.rs  which dry run is next at the master, and how far each has come
//! user_turns.rs  whose turn it is
//! drill.rs     a rehearsal of losses on today's state, and a test of the devices
//! ```
//!
//! Owns `requests`.

pub(super) mod drill;
mod dry_runs;
mod reads;
mod updates;
pub(super) mod user_turns;

use super::Node;
use super::interface::Action;
use super::message::ForwardOutcome;
use crate::client::{ClientToken, Refusal, Reply, Request, RequestBody};
use crate::ids::RequestId;
use crate::protocol::copies::verification::Verification;
use crate::protocol::membership::operator::{Operator, Wish};
use crate::time::Time;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
pub(super) use dry_runs::Agreement;
use dry_runs::DryRuns;
pub use reads::LongRead;
use reads::Read;
use updates::{Origin, Pending};

/// A node that has not served for this many leases refuses at once instead of letting its clients wait.
const HOPELESS_LEASES: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Requests {
    reads: Vec<Read>,
    /// In boxes: a node of the map is made and freed with every lone update.
    updates: BTreeMap<RequestId, Box<Pending>>,
    /// Updates that wait for a round, in order.
    queue: VecDeque<RequestId>,
    /// They wait for no round.
    dry_runs: DryRuns,
    /// Oldest first.
    finished: VecDeque<(RequestId, ForwardOutcome)>,
    pub operator: Vec<Operator>,
    pub verifications: Vec<Verification>,
    /// Numbers verifications.
    serial: u64,
    /// No alarm before this that a request id was used twice: whoever can do that can do it often.
    next_reuse_alarm: Time,
}

/// Between two alarms that a request id was used twice.
const REUSE_ALARM_PAUSE: Duration = Duration::from_secs(10);

impl Requests {
    /// Of the next verification or drill.
    pub fn next_serial(&mut self) -> u64 {
        self.serial = self.serial.saturating_add(1);
        self.serial
    }

    /// Whether this misuse of a request id is to be recorded.
    pub fn take_reuse_alarm(&mut self, now: Time) -> bool {
        let due = now >= self.next_reuse_alarm;
        if due {
            self.next_reuse_alarm = now + REUSE_ALARM_PAUSE;
        }
        due
    }

    pub fn next_deadline(&self) -> Time {
        (self.reads.iter().map(|read| read.deadline))
            .chain(
                self.updates
                    .values()
                    .flat_map(|pending| pending.origins.iter().map(|waiter| waiter.until())),
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
                if self.damaged.is_some() || !self.was_read() {
                    let refusal = self.not_serving();
                    self.reply(client, Err(refusal));
                } else {
                    let body = request.body;
                    let read = Read {
                        client,
                        deadline,
                        body,
                    };
                    self.answer_read(&read, false);
                }
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
            RequestBody::Leave => self.begin_to_leave(client, deadline),
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
            RequestBody::Takeover { .. } if self.removed() || self.number_is_anothers() => {
                let why = self.lost_number_text().unwrap_or_default();
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
                if !self.takes_updates() {
                    self.impatient = true;
                    self.back_off_until = self.now;
                }
                self.requests.operator.push(Operator {
                    client,
                    deadline,
                    wish: Wish::Serve {
                        overrules: force,
                        since: self.known.epoch,
                    },
                });
            }
        }
    }

    pub(super) fn on_client_gone(&mut self, client: ClientToken) {
        let requests = &mut self.requests;
        requests.reads.retain(|read| read.client != client);
        // A leave goes on to its end, so that no node is left half-way.
        (requests.operator).retain(|operator| operator.client != client || operator.wish == Wish::Out);
        self.end_unwanted_takeover();
        let requests = &mut self.requests;
        self.changes.on_client_gone(client);
        requests
            .verifications
            .retain(|verification| verification.client != client);
        self.drills.retain(|drill| drill.client() != client);
        requests.updates.retain(|_, pending| {
            pending
                .origins
                .retain(|waiter| waiter.origin != Origin::Client(client));
            // A dry run is of use to nobody else.
            !(pending.is_dry_run() && pending.origins.is_empty())
        });
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
            && self.now.since(self.waiting.1) > self.settings.lease.saturating_mul(HOPELESS_LEASES)
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
}
