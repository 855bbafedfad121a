//! Verify: each member's own word on its copy, computed anew; records are compared, then contents. A copy that is found
//! inconsistent is invalidated on request: its node stops serving, gets a whole image of a sound copy, and comes back.
//!
//! Owns `requests.verifications`.

use super::history::History;
use crate::client::{Answer, ClientToken, Finding, VerifiedCopy};
use crate::database::Database;
use crate::ids::{Epoch, NodeId, NodeSet, Position, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::time::Time;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// How often copies at different positions are asked again: updates may have been under way.
const ROUNDS_MAX: u32 = 5;

#[derive(Debug)]
pub(in crate::protocol) struct Verification {
    pub client: ClientToken,
    pub deadline: Time,
    serial: u64,
    waiting: NodeSet,
    copies: Vec<VerifiedCopy>,
    repair: bool,
    rounds: u32,
    /// When the copies are asked again.
    again_at: Time,
    /// Whose copies were invalidated, and in which epoch.
    invalidated: NodeSet,
    epoch: Epoch,
}

/// Whose copies are inconsistent: those that are not what their own record says, and of those at one stamp the ones that
/// differ from most of the others, or from the master's if none has a majority.
pub(in crate::protocol) fn inconsistent(copies: &[VerifiedCopy], master: NodeId) -> NodeSet {
    let answered: Vec<&VerifiedCopy> = copies.iter().filter(|copy| copy.digest.is_some()).collect();
    let broken: NodeSet = answered
        .iter()
        .filter(|copy| !copy.whole)
        .map(|copy| copy.node)
        .collect();
    let whole: Vec<&VerifiedCopy> = answered.into_iter().filter(|copy| copy.whole).collect();
    let same = |one: &VerifiedCopy, other: &VerifiedCopy| {
        (one.position, one.digest) == (other.position, other.digest)
    };
    let odd = whole.iter().filter(|copy| {
        let stamp = copy.position.stamp;
        let peers: Vec<_> = whole
            .iter()
            .filter(|other| other.position.stamp == stamp)
            .collect();
        let votes = |of: &VerifiedCopy| peers.iter().filter(|other| same(of, other)).count();
        let most = peers.iter().map(|other| votes(other)).max().unwrap_or(0);
        let winners: Vec<_> = peers.iter().filter(|other| votes(other) == most).collect();
        let first = (winners.iter().find(|other| other.node == master)).or(winners.first());
        let is_tie = first.is_some_and(|first| winners.iter().any(|other| !same(first, other)));
        let masters = peers.iter().find(|other| other.node == master);
        match (is_tie, masters, first) {
            // Nothing tells which of them is right.
            (true, None, _) => false,
            (true, Some(right), _) => !same(copy, right),
            (false, _, Some(right)) => !same(copy, right),
            (false, _, None) => false,
        }
    });
    odd.map(|copy| copy.node).chain(broken.iter()).collect()
}

impl Node {
    pub(in crate::protocol) fn begin_verification(
        &mut self,
        client: ClientToken,
        deadline: Time,
        repair: bool,
    ) {
        let mut verification = Verification {
            client,
            deadline,
            serial: 0,
            waiting: NodeSet::EMPTY,
            copies: Vec::new(),
            repair,
            rounds: 0,
            again_at: Time::NEVER,
            invalidated: NodeSet::EMPTY,
            epoch: self.known.epoch,
        };
        self.ask_for_copies(&mut verification);
        self.requests.verifications.push(verification);
    }

    fn ask_for_copies(&mut self, verification: &mut Verification) {
        let (serial, position) = (self.requests.next_serial(), self.committed.position());
        verification.serial = serial;
        verification.rounds = verification.rounds.saturating_add(1);
        verification.again_at = Time::NEVER;
        verification.waiting = self.other_members();
        verification.copies = alloc::vec![self.own_copy()];
        for to in verification.waiting.iter() {
            self.send(to, Message::VerifyReq { serial, position });
        }
    }

    fn own_copy(&self) -> VerifiedCopy {
        VerifiedCopy {
            node: self.me(),
            position: self.committed.position(),
            digest: Some(self.committed.content_digest()),
            whole: self.committed.is_whole(),
            finding: Finding::Sound,
        }
    }

    pub(in crate::protocol) fn on_verify_req(&mut self, from: NodeId, serial: u64, position: Position) {
        // An update that is about to be committed here was committed there already.
        if let Some(master) = self.known.master() {
            self.on_master_position(master, position);
        }
        if self.damaged.is_none() {
            let copy = self.own_copy();
            self.send(from, Message::VerifyAck { serial, copy });
        }
    }

    pub(in crate::protocol) fn on_verify_ack(&mut self, from: NodeId, serial: u64, copy: VerifiedCopy) {
        for verification in &mut self.requests.verifications {
            if verification.serial == serial && verification.waiting.contains(from) && copy.node == from {
                verification.waiting.remove(from);
                verification.copies.push(copy.clone());
            }
        }
    }

    /// Another member has compared the copies, and this one is not what it should be.
    pub(in crate::protocol) fn on_invalidate(&mut self, from: NodeId, epoch: Epoch, why: &str) {
        if epoch == self.known.epoch && self.serving == Some(epoch) && self.known.members.contains(from) {
            self.invalidate(why);
        }
    }

    /// The content of this copy is no evidence for anything until it is replaced. What it held is kept aside.
    fn invalidate(&mut self, why: &str) {
        let text = format!("the copy at {} is inconsistent: {why}", self.committed.position());
        self.record(DecisionKind::Damage, text.clone());
        self.keep_branch(&text);
        self.stop_serving(&format!("{text}; it is being replaced by a sound one"));
        self.damaged = Some(text);
        self.head = Database::default();
        self.committed = Database::default();
        self.history = History::default();
        self.prepared = None;
        // What the region holds is as wrong, for all that is known: the next thing written there is a whole image.
        self.replica_mut(Replica::Local).own = None;
        self.beat();
    }

    fn is_back(&self, node: NodeId, since: Epoch) -> bool {
        let epoch = self.known.epoch;
        let back = if node == self.me() {
            self.is_open() && self.lease_holds()
        } else {
            (self.peer_state(node)).is_some_and(|state| state.serving && state.epoch == epoch)
        };
        epoch > since && back
    }

    pub(in crate::protocol) fn drive_verifications(&mut self) {
        let now = self.now;
        let running = core::mem::take(&mut self.requests.verifications);
        for mut verification in running {
            let late = now >= verification.deadline;
            let invalidated = verification.invalidated;
            let repairing = verification.serial == 0;
            if repairing {
                let since = verification.epoch;
                if late {
                    self.end_verification(verification, invalidated, Finding::Invalidated);
                    continue;
                }
                if self.is_open() && invalidated.iter().all(|node| self.is_back(node, since)) {
                    self.ask_for_copies(&mut verification);
                }
                self.requests.verifications.push(verification);
                continue;
            }
            if now >= verification.again_at {
                self.ask_for_copies(&mut verification);
            }
            if !verification.waiting.is_empty() && !late {
                self.requests.verifications.push(verification);
                continue;
            }
            let odd = inconsistent(&verification.copies, self.known.master().unwrap_or(self.me()));
            let mut positions = verification.copies.iter().map(|copy| copy.position);
            let first = positions.next();
            let moved = positions.any(|position| Some(position) != first);
            if odd.is_empty() && moved && verification.rounds < ROUNDS_MAX && !late {
                if verification.again_at == Time::NEVER {
                    verification.again_at = now + self.settings.heartbeat;
                }
                self.requests.verifications.push(verification);
                continue;
            }
            if odd.is_empty() {
                self.end_verification(verification, invalidated, Finding::Repaired);
            } else if verification.repair && invalidated.is_empty() && !late {
                self.repair(verification, odd);
            } else {
                self.end_verification(verification, odd, Finding::Inconsistent);
            }
        }
    }

    /// Invalidates these copies, and waits until their nodes are back.
    fn repair(&mut self, mut verification: Verification, odd: NodeSet) {
        let epoch = self.known.epoch;
        let sound = verification.copies.iter().filter(|copy| !odd.contains(copy.node));
        let why = match sound.map(|copy| copy.node.to_string()).next() {
            Some(node) => format!("verify found that it differs from that of node {node}"),
            None => {
                // Nothing to replace them by.
                self.end_verification(verification, odd, Finding::Inconsistent);
                return;
            }
        };
        verification.invalidated = odd;
        verification.epoch = epoch;
        verification.serial = 0;
        for node in odd.without(self.me()).iter() {
            let why: String = why.clone();
            self.send(node, Message::Invalidate { epoch, why });
        }
        let found = format!("verify found the copies of nodes {odd} inconsistent: they are replaced");
        self.record(DecisionKind::Damage, found);
        if odd.contains(self.me()) {
            self.invalidate(&why);
        }
        self.requests.verifications.push(verification);
    }

    fn end_verification(&mut self, verification: Verification, found: NodeSet, finding: Finding) {
        let mut copies = verification.copies;
        if verification.serial != 0 {
            for node in verification.waiting.iter() {
                copies.push(VerifiedCopy {
                    node,
                    position: Position::EMPTY,
                    digest: None,
                    whole: true,
                    finding: Finding::Sound,
                });
            }
        }
        for copy in copies.iter_mut().filter(|copy| found.contains(copy.node)) {
            copy.finding = finding;
        }
        copies.sort_by_key(|copy| copy.node);
        self.reply(verification.client, Ok(Answer::Verified(copies)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Generation, Lineage, Stamp};

    fn copy(node: u8, generation: u64, lineage: u8, digest: u8) -> VerifiedCopy {
        VerifiedCopy {
            node: NodeId::new(node).expect("a node"),
            position: Position {
                stamp: Stamp {
                    epoch: Epoch(1),
                    generation: Generation(generation),
                },
                lineage: Lineage([lineage; 32]),
            },
            digest: Some([digest; 32]),
            whole: true,
            finding: Finding::Sound,
        }
    }

    #[test]
    fn most_copies_at_one_stamp_are_right_and_the_master_on_a_tie() {
        let broken = |copy: VerifiedCopy| VerifiedCopy { whole: false, ..copy };
        let silent = |copy: VerifiedCopy| VerifiedCopy { digest: None, ..copy };
        let (a, b, c) = (copy(0, 5, 1, 1), copy(1, 5, 1, 1), copy(2, 5, 1, 1));
        #[rustfmt::skip]
        let table = [
            ("all the same", alloc::vec![a.clone(), b.clone(), c.clone()], 0, ""),
            ("one of three differs", alloc::vec![a.clone(), b.clone(), copy(2, 5, 1, 9)], 0, "2"),
            ("the master's differs from both others", alloc::vec![copy(0, 5, 1, 9), b.clone(), c.clone()], 0, "0"),
            ("two differ: the master's is right", alloc::vec![a.clone(), copy(1, 5, 1, 9)], 0, "1"),
            ("two differ, and the master is the other", alloc::vec![copy(0, 5, 1, 9), b.clone()], 1, "0"),
            ("all differ: the master's is right", alloc::vec![a.clone(), copy(1, 5, 1, 8), copy(2, 5, 1, 9)], 0, "1,2"),
            ("a copy that is not what its record says", alloc::vec![broken(a.clone()), b.clone()], 0, "0"),
            ("another lineage at one stamp", alloc::vec![a.clone(), b.clone(), copy(2, 5, 7, 1)], 0, "2"),
            ("another stamp says nothing", alloc::vec![a.clone(), copy(1, 4, 7, 9)], 0, ""),
            ("no answer says nothing", alloc::vec![a, silent(copy(1, 5, 1, 9)), c], 0, ""),
        ];
        for (situation, copies, master, expected) in table {
            let found = inconsistent(&copies, NodeId::new(master).expect("a node"));
            assert_eq!(found.to_string(), expected, "{situation}");
        }
    }
}
