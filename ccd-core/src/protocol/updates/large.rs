//! Updates that take long to work out: a removal that examines many rows, thousands of operations. The driver works them out beside
//! the loop, on the version of the moment; heartbeats, reads and other updates go on meanwhile.
//!
//! ```text
//! master   admits beside the loop. Rounds go on: what comes out is moved to the version of then, if the keys that the update
//!          touches are as they were; else it is worked out anew, and after a few times nothing else is begun before it
//! member   applies the record of a round beside the loop; the round waits for its ack, and for no heartbeat
//! ```
//!
//! What is worked out is what [`Database::admit`] and [`Database::apply`] say, of versions that never change. None of this is
//! needed for safety. Owns `large_updates`.

use crate::database::{ApplyError, Database, Op, OpError, Record, RecordBody, SyncRows, Update};
use crate::ids::{Epoch, Generation, NodeId, RequestId};
use crate::protocol::Node;
use crate::protocol::interface::{Action, Ticket};
use crate::protocol::requests::user_turns::UserTurns;
use crate::synchronization::{Summons, SummonsError, summons_of};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

/// So often an update is worked out while others go on; then they wait for it.
const ATTEMPTS_MAX: u32 = 4;

/// Something to work out on a version.
#[derive(Clone, Debug)]
pub enum Work {
    Admit {
        database: Database,
        update: Box<Update>,
    },
    Apply {
        database: Database,
        record: Arc<Record>,
    },
    /// No update waits for it, so it is not to hold up the others.
    DryRun {
        database: Database,
        update: Box<Update>,
    },
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Worked {
    Admitted(Admitted),
    Applied(Result<Database, ApplyError>),
    Tried(Tried),
}

/// What a dry run would do, without the version that it would lead to.
#[derive(Clone, Debug)]
pub struct Tried {
    pub(super) outcome: Result<WouldBe, OpError>,
    pub(super) summons: Result<Option<Summons>, SummonsError>,
    /// By these the commands were found.
    pub(super) sync_rows: SyncRows,
}

/// The version that an update would lead to.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol) struct WouldBe {
    pub generation: Generation,
    pub image_bytes: u64,
    /// So many rows would be removed.
    pub removed: u64,
}

impl WouldBe {
    pub fn of(next: &Database, removed: u64) -> Self {
        Self {
            generation: next.position().stamp.generation,
            image_bytes: next.image_len_bytes(),
            removed,
        }
    }
}

/// An update that was admitted to a version, or refused.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub outcome: Result<(Database, u64), OpError>,
    /// Which commands are to be run before.
    pub summons: Result<Option<Summons>, SummonsError>,
    /// The update with the rows in place of its patterns, if they are few. It goes into the record: members apply that at once, and
    /// the round does not wait for them to look at each row again.
    pub named: Option<Box<Update>>,
}

impl Work {
    pub fn is_dry_run(&self) -> bool {
        matches!(self, Self::DryRun { .. })
    }

    /// Runs to its end: seconds, for a key with millions of rows.
    pub fn run(self) -> Worked {
        match self {
            Self::Admit { database, update } => {
                let named = database.with_rows_named(&update);
                Worked::Admitted(Admitted {
                    outcome: database.admit(named.as_ref().unwrap_or(&update)),
                    summons: summons_of(&database, &update.ops),
                    named: named.map(Box::new),
                })
            }
            Self::Apply { database, record } => Worked::Applied(database.apply(&record)),
            Self::DryRun { database, update } => Worked::Tried(Tried {
                outcome: (database.admit(&update)).map(|(next, removed)| WouldBe::of(&next, removed)),
                summons: summons_of(&database, &update.ops),
                sync_rows: SyncRows::of(&database),
            }),
        }
    }
}

#[derive(Debug, Default)]
pub(in crate::protocol) struct LargeUpdates {
    admission: Option<Admission>,
    /// They wait until that one is done; and whose they are.
    waiting: VecDeque<(RequestId, u32)>,
    turns: UserTurns,
    application: Option<Application>,
    /// A dry run that is worked out.
    dry_run: Option<(Ticket, RequestId)>,
}

/// At the master.
#[derive(Debug)]
struct Admission {
    ticket: Ticket,
    request: RequestId,
    /// Whose it is.
    uid: u32,
    /// What it is worked out on.
    base: Database,
    attempts: u32,
    admitted: Option<Admitted>,
}

/// At another member.
#[derive(Debug)]
struct Application {
    ticket: Ticket,
    from: NodeId,
    epoch: Epoch,
    record: Arc<Record>,
    applied: Option<Result<Database, ApplyError>>,
}

/// Where the admission of an update is.
pub(in crate::protocol) enum AdmissionState {
    /// It is quick: to be admitted on the spot.
    Small,
    Done(Box<Admitted>),
    /// It is being worked out, and the next update has its turn.
    Waits,
    /// It is being worked out, and nothing else is begun before.
    Holds,
}

impl LargeUpdates {
    /// The update is being worked out, and nothing else is begun before.
    pub fn holds(&self, request: RequestId) -> bool {
        (self.admission.as_ref()).is_some_and(|admission| {
            admission.request == request && admission.admitted.is_none() && admission.attempts >= ATTEMPTS_MAX
        })
    }

    /// What was worked out is dropped as soon as nobody can use it: its update was answered or given up, or another node is the
    /// master. It holds a version that may differ from all others.
    pub fn drop_unused(&mut self, is_master: bool, is_waiting: impl Fn(RequestId) -> bool) {
        let is_unused = |of: &mut Admission| of.admitted.is_some() && !(is_master && is_waiting(of.request));
        self.admission.take_if(is_unused);
    }
}

impl Node {
    pub(super) fn is_much(&self, database: &Database, ops: &[Op]) -> bool {
        let budget = self.settings.update_budget;
        database.work_of(ops, budget) > budget
    }

    pub(super) fn drop_unused_work(&mut self) {
        let is_master = self.is_master();
        let requests = &self.requests;
        self.large_updates
            .drop_unused(is_master, |id| requests.is_waiting(id));
    }

    fn begin_work(&mut self, work: Work) -> Ticket {
        let ticket = self.next_ticket();
        self.actions.push(Action::Work { ticket, work });
        ticket
    }

    /// Whether this update, the first in the queue, can be admitted to this version on the spot; if not, sees to it.
    pub(in crate::protocol) fn admit_beside_loop(
        &mut self,
        tip: &Database,
        update: &Update,
        is_first: bool,
    ) -> AdmissionState {
        let request = update.request;
        let uid = update.who.uid;
        let mut attempts = 0_u32;
        if let Some(admission) = self
            .large_updates
            .admission
            .as_ref()
            .filter(|of| of.request == request)
        {
            attempts = admission.attempts;
            let Some(admitted) = &admission.admitted else {
                return self.leave_queue(request, attempts);
            };
            if let Some(admitted) = moved(&admission.base, tip, admitted, update) {
                return AdmissionState::Done(Box::new(admitted));
            }
        }
        if attempts == 0 && !self.is_much(tip, &update.ops) {
            return AdmissionState::Small;
        }
        if !is_first {
            // What is worked out is the version that clients see, and not one that may be rolled back.
            return AdmissionState::Holds;
        }
        let work = Work::Admit {
            database: tip.clone(),
            update: Box::new(update.clone()),
        };
        let ticket = self.begin_work(work);
        attempts = attempts.saturating_add(1);
        self.large_updates.admission = Some(Admission {
            ticket,
            request,
            uid,
            base: tip.clone(),
            attempts,
            admitted: None,
        });
        self.leave_queue(request, attempts)
    }

    fn leave_queue(&mut self, request: RequestId, attempts: u32) -> AdmissionState {
        if attempts >= ATTEMPTS_MAX || self.is_frozen_for(request) {
            return AdmissionState::Holds;
        }
        self.requests.take_queued();
        AdmissionState::Waits
    }

    /// Whether this update, the first in the queue, is large and waits for another one that is being worked out; then the next one
    /// has its turn. The update is not copied for that.
    pub(in crate::protocol) fn waits_for_another(&mut self, tip: &Database, request: RequestId) -> bool {
        let is_under_way = |of: &Admission| of.request != request && of.admitted.is_none();
        if !self.large_updates.admission.as_ref().is_some_and(is_under_way) {
            return false;
        }
        let Some((uid, ops)) = (self.requests.waiting(request)).map(|update| (update.who.uid, &update.ops))
        else {
            return false;
        };
        if !self.is_much(tip, ops) {
            return false;
        }
        let waiting = &mut self.large_updates.waiting;
        if !waiting.iter().any(|(of, _)| *of == request) {
            waiting.push_back((request, uid));
        }
        self.requests.take_queued();
        true
    }

    /// The next of the large dry runs is worked out on what is committed now, unless another one is under way.
    pub(super) fn work_out_dry_run(&mut self) {
        if self.large_updates.dry_run.is_some() {
            return;
        }
        let Some(id) = self.requests.next_large_dry_run() else {
            return;
        };
        let Some(request) = self.requests.waiting(id) else {
            return;
        };
        let work = Work::DryRun {
            database: self.committed.clone(),
            update: Box::new(Self::update_of(&self.known, id, request)),
        };
        self.large_updates.dry_run = Some((self.begin_work(work), id));
    }

    /// A record applied to the head; `None` if that is being worked out. The master repeats its request meanwhile.
    pub(in crate::protocol) fn apply_to_head(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        record: &Arc<Record>,
    ) -> Option<Result<Database, ApplyError>> {
        let at = self.head.position();
        let of_this = |of: &&mut Application| of.record.next == record.next && at == of.record.prev;
        if let Some(application) = self.large_updates.application.as_mut().filter(of_this) {
            return application.applied.take();
        }
        let RecordBody::Updates { updates, .. } = &record.body else {
            return Some(self.head.apply(record));
        };
        if at != record.prev || !updates.iter().any(|update| self.is_much(&self.head, &update.ops)) {
            return Some(self.head.apply(record));
        }
        if self.prepared.is_some() {
            // It is asked for again.
            return None;
        }
        let work = Work::Apply {
            database: self.head.clone(),
            record: record.clone(),
        };
        let ticket = self.begin_work(work);
        self.large_updates.application = Some(Application {
            ticket,
            from,
            epoch,
            record: record.clone(),
            applied: None,
        });
        None
    }

    pub(in crate::protocol) fn on_worked(&mut self, ticket: Ticket, worked: Worked) {
        match worked {
            Worked::Tried(tried) => {
                if let Some((_, id)) = self.large_updates.dry_run.take_if(|(of, _)| *of == ticket) {
                    self.on_dry_run_worked(id, tried);
                }
            }
            Worked::Admitted(admitted) => {
                let Some(admission) = self
                    .large_updates
                    .admission
                    .as_mut()
                    .filter(|of| of.ticket == ticket)
                else {
                    return;
                };
                admission.admitted = Some(admitted);
                let (request, uid) = (admission.request, admission.uid);
                if !self.requests.is_waiting(request) {
                    self.large_updates.admission = None;
                }
                // The next is of the user whose last one is longest ago.
                let mut waiting = core::mem::take(&mut self.large_updates.waiting);
                self.large_updates.turns.note(uid);
                let next = self.large_updates.turns.next(waiting.iter().map(|(_, of)| *of));
                if let Some(next) = next.and_then(|next| waiting.remove(next)) {
                    waiting.push_front(next);
                }
                // Where this node is not the master any more, nothing is taken from there, and the next configuration begins anew.
                let ids = waiting.into_iter().map(|(request, _)| request).rev();
                let frozen = self.frozen_update();
                for request in ids.chain([request]) {
                    self.requests.queue_first(request, frozen);
                }
            }
            Worked::Applied(applied) => {
                let Some(application) = self
                    .large_updates
                    .application
                    .as_mut()
                    .filter(|of| of.ticket == ticket)
                else {
                    return;
                };
                application.applied = Some(applied);
                let (from, epoch, record) = (application.from, application.epoch, application.record.clone());
                self.on_update_req(from, epoch, record);
                self.large_updates.application = None;
            }
        }
    }
}

/// What was worked out on `base`, as it is on `tip`; `None` if it has to be worked out anew.
fn moved(base: &Database, tip: &Database, admitted: &Admitted, update: &Update) -> Option<Admitted> {
    let outcome = match &admitted.outcome {
        _ if base.position() == tip.position() => return Some(admitted.clone()),
        // It was refused at a moment after it was asked for.
        Err(error) => Err(error.clone()),
        Ok((after, removed)) => Ok((tip.with_moved(base, after, update)?, *removed)),
    };
    Some(Admitted {
        outcome,
        summons: admitted.summons.clone(),
        named: admitted.named.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_worked_out_is_dropped_once_nobody_can_use_it() {
        let request = RequestId {
            client: 1,
            sequence: 1,
        };
        // Worked out; this node is the master; somebody waits; kept.
        let table = [
            (true, true, true, true),
            (true, true, false, false),
            (true, false, true, false),
            (true, false, false, false),
            // It is noticed when it is done.
            (false, true, false, true),
            (false, false, true, true),
        ];
        for (is_done, is_master, is_waiting, is_kept) in table {
            let admitted = Admitted {
                outcome: Ok((Database::default(), 0)),
                summons: Ok(None),
                named: None,
            };
            let mut large = LargeUpdates {
                admission: Some(Admission {
                    ticket: Ticket(1),
                    request,
                    uid: 7,
                    base: Database::default(),
                    attempts: 1,
                    admitted: Some(admitted).filter(|_| is_done),
                }),
                ..LargeUpdates::default()
            };
            large.drop_unused(is_master, |_| is_waiting);
            assert_eq!(
                large.admission.is_some(),
                is_kept,
                "done {is_done}, master {is_master}, waiting {is_waiting}"
            );
        }
    }
}
