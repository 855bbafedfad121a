//! Dry runs at the master: what an update would do, told of the committed state.
//!
//! They change nothing, so they are in no round and no round waits for them. One that runs no synchronization command is answered
//! at once. One that runs some is a *rehearsal*: a freeze that holds no round. Its commands are given the state that it began
//! with; what is answered is the state at its end. One that takes long is worked out beside the loop: before the rehearsal, to find out
//! whether there is to be one, and after it, for the answer. An update that runs commands in earnest ends a rehearsal, which begins anew
//! later: so commands of two updates are never between `pre_…` and `post_…` at the same time.
//!
//! Owns `rehearse_after`.

use super::large::{Tried, WouldBe};
use crate::client::Refusal;
use crate::database::OpError;
use crate::ids::RequestId;
use crate::protocol::Node;
use crate::protocol::requests::Agreement;
use crate::synchronization::summons_of;
use crate::time::Time;
use alloc::format;
use core::time::Duration;

/// After an update that ran commands, rehearsals wait so long for the next: a program that makes many of them is not interrupted by a
/// rehearsal between any two.
pub(in crate::protocol) const REHEARSAL_PAUSE: Duration = Duration::from_millis(500);

impl Node {
    /// Answers the dry runs that can be answered, and begins a rehearsal if nothing else is under way.
    pub(in crate::protocol) fn drive_dry_runs(&mut self) {
        if !self.requests.has_dry_runs() || self.hold_rounds {
            return;
        }
        if !self.is_open() || !self.is_master() || !self.lease_holds() {
            return;
        }
        while let Some(id) = self.requests.next_dry_run() {
            self.look_at_dry_run(id);
        }
        self.work_out_dry_run();
        if self.round.is_none() {
            self.begin_due_rehearsal();
        }
    }

    /// Answers one of the committed state, or puts it where those wait that take long or run commands.
    fn look_at_dry_run(&mut self, id: RequestId) {
        let Some(request) = self.requests.waiting(id) else {
            return;
        };
        let no_sync = request.no_sync;
        match self.committed.applied(id) {
            None => {}
            // It was applied in earnest.
            Some(Ok(_)) => {
                if let Some(position) = self.committed_at(id) {
                    self.finish_update(id, Ok((position, None)));
                }
                return;
            }
            Some(Err(generation)) => {
                let who = request.who.clone();
                return self.refuse_reused(id, generation, &who);
            }
        }
        if self.is_much(&self.committed, &request.ops) {
            return self.requests.dry_run_is_large(id);
        }
        let update = Self::update_of(&self.known, id, request);
        if !no_sync && self.freeze_needed(&self.committed, &update, None).is_some() {
            return self.requests.rehearse(id);
        }
        let outcome = self.committed.admit(&update);
        self.tell_dry_run(id, outcome.map(|(next, removed)| WouldBe::of(&next, removed)));
    }

    /// All members have agreed to a rehearsal, which is over. What would be removed is told as of now.
    pub(super) fn finish_frozen_dry_run(&mut self, id: RequestId) {
        self.requests.set_agreement(id, Agreement::Given);
        let Some(request) = self.requests.waiting(id) else {
            return;
        };
        if self.is_much(&self.committed, &request.ops) {
            return self.requests.dry_run_is_large(id);
        }
        let update = Self::update_of(&self.known, id, request);
        let outcome = self.committed.admit(&update);
        self.tell_dry_run(id, outcome.map(|(next, removed)| WouldBe::of(&next, removed)));
    }

    /// A dry run was worked out beside the loop.
    pub(in crate::protocol) fn on_dry_run_worked(&mut self, id: RequestId, tried: Tried) {
        if !self.is_open() || !self.is_master() || !self.lease_holds() {
            // It is worked out anew once this node may answer; the next configuration begins with all that wait.
            if self.requests.is_waiting(id) {
                self.requests.dry_run_first(id);
            }
            return;
        }
        let Some(request) = self.requests.waiting(id) else {
            return;
        };
        let is_agreed = request.no_sync || matches!(self.requests.agreement(id), Agreement::Given);
        let would_be = match (tried.outcome, tried.summons) {
            (Ok(would_be), Ok(Some(summons))) if !is_agreed => {
                if self
                    .fits_bytes(&self.committed, would_be.generation, would_be.image_bytes)
                    .is_ok()
                {
                    let needed = Agreement::Needed(summons, tried.sync_rows);
                    self.requests.set_agreement(id, needed);
                    return self.requests.rehearse(id);
                }
                Ok(would_be)
            }
            (_, Err(error)) if !is_agreed => {
                let why = format!("{error}");
                return self.finish_update(id, Err(Refusal::Unsafe { why }));
            }
            (outcome, _) => outcome,
        };
        self.tell_dry_run(id, would_be);
    }

    fn tell_dry_run(&mut self, id: RequestId, outcome: Result<WouldBe, OpError>) {
        match outcome {
            Ok(would_be) => {
                match self.fits_bytes(&self.committed, would_be.generation, would_be.image_bytes) {
                    Ok(()) => self.finish_dry_run(id, would_be.removed),
                    Err(refusal) => self.finish_update(id, Err(refusal)),
                }
            }
            Err(error) => self.finish_update(id, Err(Refusal::Op(error))),
        }
    }

    /// Begins the next rehearsal, unless a freeze is under way or the next update needs one. Called where no round is under way: the
    /// members stand where this node does.
    pub(in crate::protocol) fn begin_due_rehearsal(&mut self) {
        if !self.requests.has_rehearsals() || self.freeze.is_some() || self.now < self.rehearse_after {
            return;
        }
        if self.next_update_runs_commands() {
            return;
        }
        while let Some(id) = self.requests.next_rehearsal() {
            let Some(request) = self.requests.waiting(id) else {
                continue;
            };
            if let Agreement::Needed(summons, sync_rows) = self.requests.agreement(id) {
                if sync_rows.are_those_of(&self.committed) {
                    return self.start_freeze(id, summons, true);
                }
                // Other commands may be set now.
                self.requests.set_agreement(id, Agreement::Open);
                self.requests.dry_run_is_large(id);
                continue;
            }
            if self.is_much(&self.committed, &request.ops) {
                // It was not when it came.
                self.requests.dry_run_is_large(id);
                continue;
            }
            let update = Self::update_of(&self.known, id, request);
            match self.freeze_needed(&self.committed, &update, None) {
                // Its command was unset.
                None => {
                    let outcome = self.committed.admit(&update);
                    self.tell_dry_run(id, outcome.map(|(next, removed)| WouldBe::of(&next, removed)));
                }
                Some(summons) => {
                    if self.begin_freeze(&update, summons, true, None) {
                        return;
                    }
                }
            }
        }
    }

    fn next_update_runs_commands(&mut self) -> bool {
        let Some((id, _)) = self.requests.first_queued() else {
            return false;
        };
        let Some(request) = self.requests.waiting(id) else {
            return false;
        };
        // What takes long to look at is about to be worked out beside the loop.
        !request.no_sync
            && (self.is_much(&self.committed, &request.ops)
                || !self.is_frozen_for(id) && !matches!(summons_of(&self.committed, &request.ops), Ok(None)))
    }

    /// An update runs its commands in earnest: the rehearsal under way gives way to it, and begins anew later.
    pub(in crate::protocol) fn end_rehearsal(&mut self) {
        if let Some(id) = self.rehearsal() {
            self.end_freeze();
            if self.requests.is_waiting(id) {
                self.requests.rehearse(id);
            }
        }
    }

    pub(in crate::protocol) fn rehearsals_deadline(&self) -> Time {
        if self.requests.has_rehearsals() && self.freeze.is_none() {
            self.rehearse_after
        } else {
            Time::NEVER
        }
    }
}
