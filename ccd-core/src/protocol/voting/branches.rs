//! What a node goes on without is kept aside before it is written over: an operator can look at it later.
//!
//! Of an override nothing is put to the vote before all is kept that it found beyond its start: the devices hold the only other copy,
//! and whoever serves next writes there. One that cannot be kept ends it.

use super::propose::Phase;
use crate::client::Refusal;
use crate::database::Database;
use crate::ids::{Position, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::membership::operator::Wish;
use crate::protocol::replicas::{Attempt, Purpose};
use crate::replica::{ReplicaAnswer, ReplicaError, ReplicaOp};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Branches that an override found.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Branches {
    /// Also those that are kept by now.
    found: Vec<Position>,
    /// Those that are not stored yet.
    waiting: usize,
}

impl Branches {
    pub fn are_kept(&self) -> bool {
        self.waiting == 0
    }
}

impl Node {
    /// Stores this version where an operator can look at it. `of` says what held it, if not this node's copy. An override that is under way
    /// waits for it.
    pub(in crate::protocol) fn keep_aside(&mut self, database: Database, of: &str, why: &str) {
        let position = database.position();
        let mut attempt = None;
        if let Some(proposal) = self.proposal.as_mut().filter(|proposal| proposal.forced) {
            // The other device holds the same.
            if proposal.branches.found.contains(&position) {
                return;
            }
            proposal.branches.found.push(position);
            proposal.branches.waiting = proposal.branches.waiting.saturating_add(1);
            attempt = Some(proposal.attempt);
        }
        let what = format!("{position}{of} aside: {why}");
        let op = ReplicaOp::KeepBranch {
            database,
            reason: why.into(),
        };
        self.ask(Replica::Local, op, Purpose::Branch { attempt, what });
    }

    pub(in crate::protocol) fn on_branch_kept(
        &mut self,
        attempt: Option<Attempt>,
        what: &str,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        let error = result.err();
        if error.is_none() {
            self.record(DecisionKind::BranchKept, format!("kept {what}"));
        }
        let Some(proposal) = attempt.and_then(|attempt| self.current(attempt)) else {
            return;
        };
        proposal.branches.waiting = proposal.branches.waiting.saturating_sub(1);
        if let Some(error) = error {
            let why = format!("the override is not begun, for it cannot keep {what}: {error}");
            self.give_up(why.clone());
            self.refuse_takeovers(&why);
        }
    }

    /// Whether all is kept that an override found beyond its start; if not, it goes on when it is.
    pub(in crate::protocol) fn branches_are_kept(&mut self) -> bool {
        let Some(proposal) = &mut self.proposal else {
            return false;
        };
        let are_kept = proposal.branches.are_kept();
        if !are_kept {
            proposal.phase = Phase::Keeping;
        }
        are_kept
    }

    /// To the operators who wait for the override.
    fn refuse_takeovers(&mut self, why: &str) {
        let waiting = core::mem::take(&mut self.requests.operator);
        for operator in waiting {
            if matches!(operator.wish, Wish::Serve { overrules: true, .. }) {
                let why = String::from(why);
                self.reply(operator.client, Err(Refusal::Unsafe { why }));
            } else {
                self.requests.operator.push(operator);
            }
        }
    }
}
