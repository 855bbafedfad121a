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
//! needed for safety. Owns `aside`.

use crate::database::{ApplyError, Database, OpError, Record, RecordBody, Update};
use crate::ids::{Epoch, NodeId, RequestId};
use crate::protocol::Node;
use crate::protocol::interface::{Action, Ticket};
use crate::synchronization::{Summons, SummonsError, summons_of};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;

/// So often an update is worked out while others go on; then they wait for it.
const ATTEMPTS_MAX: u32 = 4;

/// Something to work out on a version.
#[derive(Clone, Debug)]
pub enum Work {
    Admit { database: Database, update: Box<Update> },
    Apply { database: Database, record: Arc<Record> },
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Worked {
    Admitted(Admitted),
    Applied(Result<Database, ApplyError>),
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
        }
    }
}

#[derive(Debug, Default)]
pub(in crate::protocol) struct Aside {
    admission: Option<Admission>,
    /// They wait until that one is done; and whose they are.
    waiting: VecDeque<(RequestId, u32)>,
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
pub(in crate::protocol) enum Worth {
    /// It is quick: to be admitted on the spot.
    Little,
    Done(Box<Admitted>),
    /// It is being worked out, and the next update has its turn.
    Waits,
    /// It is being worked out, and nothing else is begun before.
    Holds,
}

impl Aside {
    /// The update is being worked out, and nothing else is begun before.
    pub fn holds(&self, request: RequestId) -> bool {
        (self.admission.as_ref()).is_some_and(|admission| {
            admission.request == request && admission.admitted.is_none() && admission.attempts >= ATTEMPTS_MAX
        })
    }

    /// The update has been answered: what came of it is not needed any more.
    pub fn forget(&mut self, request: RequestId) {
        let is_done = |of: &mut Admission| of.request == request && of.admitted.is_some();
        self.admission.take_if(is_done);
    }
}

impl Node {
    pub(super) fn is_much(&self, database: &Database, update: &Update) -> bool {
        let budget = self.settings.update_budget;
        database.work_of(&update.ops, budget) > budget
    }

    fn work_aside(&mut self, work: Work) -> Ticket {
        let ticket = self.next_ticket();
        self.actions.push(Action::Work { ticket, work });
        ticket
    }

    /// Whether this update, the first in the queue, can be admitted to this version on the spot; if not, sees to it.
    pub(in crate::protocol) fn admitted_aside(
        &mut self,
        tip: &Database,
        update: &Update,
        is_first: bool,
    ) -> Worth {
        let request = update.request;
        let uid = update.who.uid;
        let mut attempts = 0_u32;
        if let Some(admission) = &self.aside.admission {
            if admission.request == request {
                attempts = admission.attempts;
                let Some(admitted) = &admission.admitted else {
                    return self.set_aside(request, attempts);
                };
                if let Some(admitted) = moved(&admission.base, tip, admitted, update) {
                    return Worth::Done(Box::new(admitted));
                }
            } else if !self.is_much(tip, update) {
                return Worth::Little;
            } else if admission.admitted.is_none() {
                let waiting = &mut self.aside.waiting;
                if !waiting.iter().any(|(of, _)| *of == request) {
                    waiting.push_back((request, uid));
                }
                self.requests.take_queued();
                return Worth::Waits;
            }
        } else if !self.is_much(tip, update) {
            return Worth::Little;
        }
        if !is_first {
            // What is worked out is the version that clients see, and not one that may be rolled back.
            return Worth::Holds;
        }
        let work = Work::Admit {
            database: tip.clone(),
            update: Box::new(update.clone()),
        };
        let ticket = self.work_aside(work);
        attempts = attempts.saturating_add(1);
        self.aside.admission = Some(Admission {
            ticket,
            request,
            uid,
            base: tip.clone(),
            attempts,
            admitted: None,
        });
        self.set_aside(request, attempts)
    }

    fn set_aside(&mut self, request: RequestId, attempts: u32) -> Worth {
        if attempts >= ATTEMPTS_MAX || self.is_frozen_for(request) {
            return Worth::Holds;
        }
        self.requests.take_queued();
        Worth::Waits
    }

    /// A dry run is worked out on what is committed now; `false` if another one is under way.
    pub(super) fn work_out_dry_run(&mut self, id: RequestId, update: Update) -> bool {
        if self.aside.dry_run.is_some() {
            return false;
        }
        let work = Work::Admit {
            database: self.committed.clone(),
            update: Box::new(update),
        };
        self.aside.dry_run = Some((self.work_aside(work), id));
        true
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
        if let Some(application) = self.aside.application.as_mut().filter(of_this) {
            return application.applied.take();
        }
        let RecordBody::Updates { updates, .. } = &record.body else {
            return Some(self.head.apply(record));
        };
        if at != record.prev || !updates.iter().any(|update| self.is_much(&self.head, update)) {
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
        let ticket = self.work_aside(work);
        self.aside.application = Some(Application {
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
            Worked::Admitted(admitted) => {
                if let Some((_, id)) = self.aside.dry_run.take_if(|(of, _)| *of == ticket) {
                    return self.on_dry_run_worked(id, admitted);
                }
                let Some(admission) = self.aside.admission.as_mut().filter(|of| of.ticket == ticket) else {
                    return;
                };
                admission.admitted = Some(admitted);
                let (request, uid) = (admission.request, admission.uid);
                if !self.requests.is_waiting(request) {
                    self.aside.admission = None;
                }
                // Those of another user come before more of this one.
                let mut waiting = core::mem::take(&mut self.aside.waiting);
                let others = waiting.iter().position(|(_, of)| *of != uid).unwrap_or(0);
                waiting.rotate_left(others);
                // Where this node is not the master any more, nothing is taken from there, and the next configuration begins anew.
                let ids = waiting.into_iter().map(|(request, _)| request).rev();
                let frozen = self.frozen_update();
                for request in ids.chain([request]) {
                    self.requests.queue_first(request, frozen);
                }
            }
            Worked::Applied(applied) => {
                let Some(application) = self.aside.application.as_mut().filter(|of| of.ticket == ticket)
                else {
                    return;
                };
                application.applied = Some(applied);
                let (from, epoch, record) = (application.from, application.epoch, application.record.clone());
                self.on_update_req(from, epoch, record);
                self.aside.application = None;
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
