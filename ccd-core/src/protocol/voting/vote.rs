//! This node as a voter: promises and votes, stored in its local copy before they are sent.
//!
//! Owns `ballot`.

use super::propose::Proposal;
use crate::configuration::{Ballot, BallotBlock, Configuration};
use crate::ids::{Epoch, NodeId, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::{Message, NoVote, Obstacle, Promise};
use crate::protocol::replicas::Purpose;
use crate::replica::{ReplicaError, ReplicaOp};
use crate::time::{Time, doubled};
use alloc::string::ToString;
use alloc::vec::Vec;

/// How many heartbeat intervals, and as many more as its number says, a node lets a ballot that it has promised go on
/// before it proposes itself.
pub(in crate::protocol) const TURN_BEATS: u32 = 3;

const TURN_DOUBLINGS_MAX: u32 = 4;

impl Node {
    /// Why this node cannot vote on this ballot, if it cannot.
    fn obstacle(&self, instance: Epoch, ballot: Ballot) -> Option<Obstacle> {
        if instance < self.known.epoch {
            return Some(Obstacle::Later(self.known.clone()));
        }
        if instance > self.known.epoch {
            return Some(Obstacle::Behind {
                epoch: self.known.epoch,
            });
        }
        if let Some(why) = self.lost_number_text().filter(|_| self.number_is_anothers()) {
            return Some(Obstacle::Failed(why));
        }
        if let Some(why) = self.ahead_text() {
            return Some(Obstacle::Failed(why));
        }
        // The first configuration needs every voter, so what one of them forgot the others remember.
        if let Some(why) = self.no_vote().filter(|_| !self.known.is_genesis()) {
            return Some(Obstacle::NoVote(why));
        }
        if let Some(epoch) = self.forgotten() {
            return Some(Obstacle::Failed(alloc::format!(
                "it has taken part in deciding the successor of epoch {epoch}, which its copy no longer holds"
            )));
        }
        if !self.ready() {
            let error = self.replica(Replica::Local).error().unwrap_or("still being read");
            return Some(Obstacle::Failed(error.to_string()));
        }
        let promised = self
            .ballot
            .as_ref()
            .filter(|block| block.instance == instance)?
            .promised;
        (promised > ballot).then_some(Obstacle::Promised(promised))
    }

    /// A configuration that this node's local copy lost (writing it failed) after voting on its successor: what it voted for
    /// earlier is gone as well, so it decides nothing before it has learned that configuration again.
    pub(in crate::protocol) fn forgotten(&self) -> Option<Epoch> {
        let instance = self.ballot.as_ref()?.instance;
        (instance > self.known.epoch).then_some(instance)
    }

    /// Its local copy is a voter for the successor of `known`.
    pub(in crate::protocol) fn may_vote(&self) -> bool {
        self.ready() && (self.no_vote().is_none() || self.known.is_genesis()) && self.forgotten().is_none()
    }

    /// Why this node has no vote: what it promised is not in its local copy, or another run of it may still vote.
    pub(in crate::protocol) fn no_vote(&self) -> Option<NoVote> {
        if self.is_moved_copy() {
            Some(NoVote::Moved)
        } else if self.blank {
            Some(NoVote::NewCopy)
        } else {
            self.is_unsigned().then_some(NoVote::Unsigned)
        }
    }

    /// Whether this node votes on this ballot; else its proposer is told why not.
    fn takes_part(&mut self, from: NodeId, instance: Epoch, ballot: Ballot) -> bool {
        self.round_max = self.round_max.max(ballot.round);
        let Some(obstacle) = self.obstacle(instance, ballot) else {
            self.give_way(instance, ballot);
            return true;
        };
        let refusal = Message::BallotRefused {
            instance,
            ballot,
            obstacle,
        };
        self.send(from, refusal);
        false
    }

    pub(in crate::protocol) fn on_prepare(&mut self, from: NodeId, instance: Epoch, ballot: Ballot) {
        if let Some(why) = self
            .decided_twice_text()
            .filter(|_| self.means_another(from, instance))
        {
            // What this node holds of its epoch is no evidence for the other one.
            let obstacle = Obstacle::Failed(why);
            self.send(
                from,
                Message::BallotRefused {
                    instance,
                    ballot,
                    obstacle,
                },
            );
            return;
        }
        if !self.takes_part(from, instance, ballot) {
            return;
        }
        let accepted = self.accepted_in(instance);
        let block = BallotBlock {
            instance,
            promised: ballot,
            accepted,
        };
        self.store_ballot(
            block,
            Purpose::Vote {
                to: from,
                instance,
                ballot,
                accept: false,
            },
        );
    }

    pub(in crate::protocol) fn on_accept(
        &mut self,
        from: NodeId,
        instance: Epoch,
        ballot: Ballot,
        configuration: Configuration,
    ) {
        if !self.holds_init_of(&configuration) {
            // The proposer asks again; until then it has sent the text.
            self.ask_for_init(from, configuration.init_digest);
            return;
        }
        if let Some(why) = self.other_disk(&configuration) {
            let obstacle = Obstacle::Unfit(why);
            self.send(
                from,
                Message::BallotRefused {
                    instance,
                    ballot,
                    obstacle,
                },
            );
            return;
        }
        if !self.takes_part(from, instance, ballot) {
            return;
        }
        let block = BallotBlock {
            instance,
            promised: ballot,
            accepted: Some((ballot, configuration)),
        };
        self.store_ballot(
            block,
            Purpose::Vote {
                to: from,
                instance,
                ballot,
                accept: true,
            },
        );
    }

    /// A higher ballot of another node ends this node's own, and gets time to come to its decision: two that answer each
    /// ballot with a higher one would go on for ever.
    fn give_way(&mut self, instance: Epoch, ballot: Ballot) {
        let outbids = |own: &Proposal| own.instance == instance && own.ballot < ballot;
        if self.proposal.as_ref().is_some_and(outbids) {
            self.proposal = None;
            self.failures = self.failures.saturating_add(1);
        }
        // Where disks are slow a ballot takes longer: each time that one was cut short, the next gets twice the time.
        let beats = TURN_BEATS.saturating_add(u8::from(self.me()).into());
        let turn = doubled(
            self.settings.heartbeat.saturating_mul(beats),
            self.failures.min(TURN_DOUBLINGS_MAX),
        );
        self.back_off_until = self.back_off_until.max(self.now + turn);
        if self.is_open() {
            let text = alloc::format!(
                "sealed: node {} proposes a successor of epoch {instance} (round {})",
                ballot.node,
                ballot.round
            );
            self.record(DecisionKind::Sealed, text);
        }
    }

    pub(in crate::protocol) fn accepted_in(&self, instance: Epoch) -> Option<(Ballot, Configuration)> {
        self.ballot
            .as_ref()
            .filter(|block| block.instance == instance)?
            .accepted
            .clone()
    }

    /// In memory the promise counts from now: nothing is acked while it is on its way to the disk.
    pub(in crate::protocol) fn store_ballot(&mut self, ballot: BallotBlock, purpose: Purpose) {
        self.ballot = Some(ballot.clone());
        self.ask(Replica::Local, ReplicaOp::WriteBallot { ballot }, purpose);
    }

    pub(in crate::protocol) fn on_vote_stored(
        &mut self,
        to: NodeId,
        instance: Epoch,
        ballot: Ballot,
        accept: bool,
        error: Option<ReplicaError>,
    ) {
        if let Some(error) = error {
            let obstacle = Obstacle::Failed(error.text);
            self.send(
                to,
                Message::BallotRefused {
                    instance,
                    ballot,
                    obstacle,
                },
            );
            return;
        }
        if accept {
            self.send(to, Message::Accepted { instance, ballot });
            return;
        }
        let leases: Vec<_> = (self.peers.keys())
            .map(|node| (*node, self.promise_left(*node)))
            .chain(self.former_leases())
            .filter(|(_, left)| !left.is_zero())
            .collect();
        let promise = Promise {
            accepted: self.accepted_in(instance),
            position: self.head.position(),
            evidence: self.damaged.is_none(),
            rolled_back: self.rolled_back,
            leases,
            settled: self.bound.stamp(),
        };
        self.send(
            to,
            Message::Promise {
                instance,
                ballot,
                promise,
            },
        );
    }

    /// What this node itself has promised to wait for the others, as a proposer.
    pub(in crate::protocol) fn promised_until(&self, node: NodeId) -> Time {
        self.now + self.promise_left(node)
    }
}
