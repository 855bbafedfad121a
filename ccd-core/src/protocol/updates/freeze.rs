//! The freeze at the node that drives it: before an update of a key with a synchronization command, every active node runs
//! that (Fig. 3, step 3), and any of them can refuse.
//!
//! ```text
//! FREEZE_REQ   to all; each runs the pre-commands               commands.rs
//! FREEZE_ACK   of all: the round, as without commands           update.rs
//!              a refusal, or nothing in time: the client hears it, and nothing was changed
//! FREEZE_OVER  tells those who wait; after a round, its unfreeze says so as well
//! ```
//!
//! One at a time, and no round meanwhile: between `pre_…` and `post_…` the database does not change otherwise. That of a dry run
//! holds up no round (`dry_runs.rs`). A freeze holds up no reconfiguration; with its configuration it ends, and in the next one the
//! update begins anew. A freeze changes nothing, so none of this is needed for safety.
//!
//! Owns `freeze` and `freezes`.

use crate::client::Refusal;
use crate::database::{Database, Update};
use crate::ids::{NodeId, NodeSet, RequestId};
use crate::protocol::Node;
use crate::protocol::message::{Freeze, FreezeId, Message};
use crate::protocol::updates::dry_runs::REHEARSAL_PAUSE;
use crate::protocol::updates::large::Admitted;
use crate::synchronization::{Summons, SummonsError, Veto, summons_of};
use crate::time::Time;
use alloc::format;
use core::time::Duration;

/// Of what is left of a request's time-out, so much (at most) is kept for its answer and for the round.
const RESERVE_MAX: Duration = Duration::from_secs(1);

/// A freeze that this node drives.
#[derive(Debug)]
pub(in crate::protocol) struct FreezeDriven {
    freeze: Freeze,
    dry_run: bool,
    /// Members whose commands have agreed, this node among them.
    agreed: NodeSet,
    refused: Option<(NodeId, Veto)>,
    until: Time,
    /// All have agreed, and the round has begun.
    in_round: bool,
}

impl Node {
    /// What has to be run before this update can be part of a round. `None` at once where no commands are set.
    pub(in crate::protocol) fn freeze_needed(
        &self,
        database: &Database,
        update: &Update,
        before: Option<&Admitted>,
    ) -> Option<Result<Summons, SummonsError>> {
        let summons = match before {
            Some(admitted) => admitted.summons.clone(),
            None => summons_of(database, &update.ops),
        };
        let summons = summons.transpose()?;
        (!self.is_frozen_for(update.request)).then_some(summons)
    }

    /// Before a round: whether it must wait. A freeze whose round has ended is over.
    pub(in crate::protocol) fn freeze_holds_rounds(&mut self) -> bool {
        self.drive_freeze();
        (self.freeze.as_ref()).is_some_and(|driven| {
            !driven.dry_run && (driven.in_round || !driven.agreed.is_superset(self.known.members))
        })
    }

    /// The dry run whose freeze is under way.
    pub(in crate::protocol) fn rehearsal(&self) -> Option<RequestId> {
        let driven = self.freeze.as_ref().filter(|driven| driven.dry_run)?;
        Some(driven.freeze.request)
    }

    /// The update whose freeze is under way, in earnest.
    pub(in crate::protocol) fn frozen_update(&self) -> Option<RequestId> {
        let driven = self.freeze.as_ref().filter(|driven| !driven.dry_run)?;
        Some(driven.freeze.request)
    }

    /// All members have agreed to this update.
    pub(in crate::protocol) fn is_frozen_for(&self, request: RequestId) -> bool {
        (self.freeze.as_ref()).is_some_and(|driven| {
            driven.freeze.request == request && driven.agreed.is_superset(self.known.members)
        })
    }

    /// Begins the freeze for the update that is first in the queue, or answers it, if it can be refused without. `true` if
    /// the freeze has begun.
    pub(in crate::protocol) fn begin_freeze(
        &mut self,
        update: &Update,
        summons: Result<Summons, SummonsError>,
        dry_run: bool,
        before: Option<Admitted>,
    ) -> bool {
        let request = update.request;
        if self.frozen_update().is_some_and(|frozen| frozen != request) {
            return true;
        }
        let summons = match summons {
            Ok(summons) => summons,
            Err(error) => {
                let why = format!("{error}");
                self.finish_update(request, Err(Refusal::Unsafe { why }));
                return false;
            }
        };
        let outcome = match before {
            Some(admitted) => admitted.outcome,
            None => self.committed.admit(update),
        };
        match outcome {
            Err(error) => {
                self.finish_update(request, Err(Refusal::Op(error)));
                return false;
            }
            Ok((next, _)) => {
                if let Err(refusal) = self.fits(&self.committed, &next) {
                    self.finish_update(request, Err(refusal));
                    return false;
                }
            }
        }
        self.start_freeze(request, summons, dry_run);
        true
    }

    /// Begins a freeze for an update that can be admitted.
    pub(super) fn start_freeze(&mut self, request: RequestId, summons: Summons, dry_run: bool) {
        self.end_rehearsal();
        let left = self.time_left(request);
        let reserve = left.checked_div(4).unwrap_or_default().min(RESERVE_MAX);
        let limit = self.settings.sync_timeout.min(left.saturating_sub(reserve));
        self.freezes = self.freezes.saturating_add(1);
        let freeze = Freeze {
            id: FreezeId {
                epoch: self.known.epoch,
                serial: self.freezes,
            },
            request,
            at: self.committed.position(),
            summons,
            limit,
        };
        self.freeze = Some(FreezeDriven {
            freeze: freeze.clone(),
            dry_run,
            agreed: NodeSet::EMPTY,
            refused: None,
            until: self.now + limit + reserve.checked_div(2).unwrap_or_default(),
            in_round: false,
        });
        // Their commands see the state that the update is for.
        self.unfreeze_now();
        for to in self.other_members().iter() {
            self.send(to, Message::FreezeReq(freeze.clone()));
        }
        self.freeze_here(freeze);
    }

    pub(in crate::protocol) fn on_freeze_ack(
        &mut self,
        from: NodeId,
        id: FreezeId,
        result: Result<(), Veto>,
    ) {
        let Some(driven) = self.freeze.as_mut().filter(|driven| driven.freeze.id == id) else {
            // It is over, and the word of that was lost. Of another configuration's, that one's end tells.
            if from != self.me() && id.epoch == self.known.epoch && self.is_open() {
                self.send(from, Message::FreezeOver { id });
            }
            return;
        };
        match result {
            Ok(()) => driven.agreed.insert(from),
            Err(veto) => {
                driven.refused.get_or_insert((from, veto));
            }
        }
    }

    /// Ends a freeze that was refused, took too long or is done; called with every event.
    pub(in crate::protocol) fn drive_freeze(&mut self) {
        let Some(driven) = &self.freeze else {
            return;
        };
        let request = driven.freeze.request;
        if driven.freeze.id.epoch != self.known.epoch {
            self.freeze = None;
            return;
        }
        if !self.is_open() {
            return;
        }
        if driven.in_round {
            if self.round.is_none() {
                self.end_freeze();
            }
            return;
        }
        if let Some((node, veto)) = driven.refused.clone() {
            self.end_freeze();
            self.finish_update(request, Err(Refusal::Vetoed { node, veto }));
        } else if !self.requests.is_waiting(request) {
            self.end_freeze();
        } else if driven.agreed.is_superset(self.known.members) {
            if driven.dry_run {
                // What would be removed is told as of now.
                self.end_freeze();
                self.finish_frozen_dry_run(request);
            }
        } else if self.now >= driven.until {
            let late = self.known.members.minus(driven.agreed);
            let node = late.lowest().unwrap_or(self.me());
            let Some(command) = driven.freeze.summons.commands.first().cloned() else {
                // Nothing was to be run: there is nothing to wait for.
                self.end_freeze();
                return;
            };
            let veto = Veto {
                command,
                timed_out: true,
                why: format!(
                    "no word of it within {} ms (node {late}); see the log there: journalctl -u ccdd",
                    (driven.freeze.limit).as_millis()
                ),
            };
            self.end_freeze();
            self.finish_update(request, Err(Refusal::Vetoed { node, veto }));
        }
    }

    /// The update that all have agreed to is under way.
    pub(in crate::protocol) fn freeze_enters_round(&mut self) {
        if let Some(driven) = &mut self.freeze {
            driven.in_round = true;
        }
    }

    pub(in crate::protocol) fn end_freeze(&mut self) {
        let Some(driven) = self.freeze.take() else {
            return;
        };
        if !driven.dry_run {
            self.rehearse_after = self.now + REHEARSAL_PAUSE;
        }
        let id = driven.freeze.id;
        for to in self.other_members().iter() {
            self.send(to, Message::FreezeOver { id });
        }
        self.on_freeze_over(self.me(), id);
    }

    /// Messages get lost: at every heartbeat, who has not answered is asked again.
    pub(in crate::protocol) fn repeat_freeze(&mut self) {
        let (at, others) = (self.committed.position(), self.other_members());
        let Some(driven) = self.freeze.as_mut().filter(|driven| !driven.in_round) else {
            return;
        };
        if driven.dry_run {
            // Rounds go on meanwhile: a member that has not begun begins where it is now.
            driven.freeze.at = at;
        }
        let (freeze, waiting) = (driven.freeze.clone(), others.minus(driven.agreed));
        if self.is_open() {
            for to in waiting.iter() {
                self.send(to, Message::FreezeReq(freeze.clone()));
            }
        }
    }

    pub(in crate::protocol) fn freeze_deadline(&self) -> Time {
        (self.freeze.as_ref()).map_or(Time::NEVER, |driven| {
            if driven.in_round {
                Time::NEVER
            } else {
                driven.until
            }
        })
    }

    /// Whether an update would have to wait for one that is under way.
    pub(in crate::protocol) fn is_busy(&self) -> bool {
        self.round.is_some() || self.freeze.as_ref().is_some_and(|driven| !driven.dry_run)
    }
}
