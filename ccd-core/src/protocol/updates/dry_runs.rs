//! Dry runs at the master: what an update would do, told of the committed state.
//!
//! They change nothing, so they are in no round and no round waits for them. One that runs no synchronization command is answered
//! at once. One that runs some is a *rehearsal*: a freeze that holds no round. Its commands are given the state that it began
//! with; what is answered is the state at its end. An update that runs commands in earnest ends a rehearsal, which begins anew
//! later: so commands of two updates are never between `pre_…` and `post_…` at the same time.
//!
//! Owns `requests.dry_runs`, `requests.rehearsals` and `rehearse_after`.

use super::aside::Admitted;
use crate::client::Refusal;
use crate::database::{Database, OpError};
use crate::ids::RequestId;
use crate::protocol::Node;
use crate::time::Time;
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
            if !self.answer_dry_run(id) {
                self.requests.dry_run_first(id);
                break;
            }
        }
        if self.round.is_none() {
            self.begin_due_rehearsal();
        }
    }

    /// Of the committed state. One that runs commands is put where those wait; one that takes long is worked out beside the loop, and
    /// `false` if another one is just being worked out.
    fn answer_dry_run(&mut self, id: RequestId) -> bool {
        let Some(request) = self.requests.waiting(id) else {
            return true;
        };
        let no_sync = request.no_sync;
        let update = Self::update_of(&self.known, id, request);
        match self.committed.applied(id) {
            None => {}
            // It was applied in earnest.
            Some(Ok(_)) => {
                if let Some(position) = self.committed_at(id) {
                    self.finish_update(id, Ok((position, None)));
                }
                return true;
            }
            Some(Err(generation)) => {
                self.refuse_reused(id, generation, &update.who);
                return true;
            }
        }
        if self.is_much(&self.committed, &update) {
            return self.work_out_dry_run(id, update);
        }
        if !no_sync && self.freeze_needed(&self.committed, &update, None).is_some() {
            self.requests.rehearse(id);
            return true;
        }
        let outcome = self.committed.admit(&update);
        self.tell_dry_run(id, outcome);
        true
    }

    /// A dry run was worked out beside the loop.
    pub(in crate::protocol) fn on_dry_run_worked(&mut self, id: RequestId, admitted: Admitted) {
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
        if !request.no_sync && !matches!(admitted.summons, Ok(None)) {
            return self.requests.rehearse(id);
        }
        self.tell_dry_run(id, admitted.outcome);
    }

    pub(super) fn tell_dry_run(&mut self, id: RequestId, outcome: Result<(Database, u64), OpError>) {
        match outcome {
            Ok((next, removed)) => match self.fits(&self.committed, &next) {
                Ok(()) => self.finish_dry_run(id, removed),
                Err(refusal) => self.finish_update(id, Err(refusal)),
            },
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
            let update = Self::update_of(&self.known, id, request);
            match self.freeze_needed(&self.committed, &update, None) {
                // Its command was unset.
                None => {
                    let outcome = self.committed.admit(&update);
                    self.tell_dry_run(id, outcome);
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
        let Some((id, request)) = self.requests.first_queued() else {
            return false;
        };
        let no_sync = request.no_sync;
        let update = Self::update_of(&self.known, id, request);
        // What takes long to look at is about to be worked out beside the loop.
        !no_sync
            && (self.is_much(&self.committed, &update)
                || self.freeze_needed(&self.committed, &update, None).is_some())
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
