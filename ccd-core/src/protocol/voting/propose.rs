//! This node as a proposer: decides the successor of the configuration it knows, by Paxos among its voters.
//!
//! ```text
//! fence the others on a device → promises (nodes by message, devices by ballot block) → newest state on sealed replicas
//!   → fetch what is missing of it → votes → decided                    (conclude.rs, from here on; an override keeps branches first)
//!   → ready, and open                                                  (install.rs)
//! ```
//!
//! Owns `proposal`, `attempt` and `back_off_until`.

use super::branches::Branches;
use super::evidence::{Evidence, Source, newest_state};
use crate::configuration::votes::{self, Voters};
use crate::configuration::{Ballot, BallotBlock, Configuration};
use crate::ids::{DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, Position, ROUND_MAX, Replica};
use crate::protocol::Node;
use crate::protocol::copies::milestones::Milestones;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::plan::Want;
use crate::protocol::replicas::loading::Replayed;
use crate::protocol::replicas::{Attempt, Purpose};
use crate::replica::Survey;
use crate::time::{Time, doubled};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// Once enough voters have promised, how many heartbeat intervals the others are waited for.
const GRACE_BEATS: u32 = 2;

/// Proposals that fail again and again get more time, at most this many times as much, and are further apart, twice as far each
/// time.
const BACK_OFF_MAX: u32 = 5;
const BACK_OFF_DOUBLINGS_MAX: u32 = 3;

#[derive(Debug)]
pub(in crate::protocol) struct Proposal {
    pub instance: Epoch,
    pub ballot: Ballot,
    pub attempt: Attempt,
    pub want: Want,
    pub begun: Time,
    /// When enough voters had promised.
    pub enough: Option<Time>,
    pub phase: Phase,
    /// What is still to be answered.
    pub nodes_asked: NodeSet,
    pub replicas_asked: BTreeSet<Replica>,
    /// Devices still to be fenced and claimed, one after the other: the primary first. Of two nodes that take each other for
    /// dead, the one that loses the primary does not touch the secondary.
    pub claims: DeviceSet,
    /// Whom to fence there.
    pub victims: NodeSet,
    pub may_register: bool,
    pub promised: Voters,
    pub voted: Voters,
    pub failed: DeviceSet,
    pub obstacles: Vec<String>,
    pub evidence: Vec<Evidence>,
    /// What devices show that were left out of this configuration: only an override goes on with it, if nothing else is whole.
    pub left_behind: Vec<Evidence>,
    /// Nodes from which the state to start from did not come.
    pub fetched_in_vain: NodeSet,
    /// What the nodes had written to each device, by control blocks that were read when it was claimed.
    pub surveyed: BTreeMap<DeviceRole, Survey>,
    /// Content of devices that was read as evidence.
    pub loaded: BTreeMap<DeviceRole, Replayed>,
    pub branches: Branches,
    pub accepted: Option<(Ballot, Configuration)>,
    /// When each device was claimed: a solo owner cannot have renewed its lease after that.
    pub claimed_at: Time,
    pub value: Option<Configuration>,
    pub forced: bool,
    /// It begins at a node that does not serve the configuration before it: a restart, or a takeover by one that was not a
    /// member. What it starts from is found on replicas, and may be older than what was acked.
    pub is_restart: bool,
    /// An operator wants it, whatever the evidence says.
    pub is_attended: bool,
    pub milestones: Milestones,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Phase {
    Promising,
    /// The state to start from is on another node.
    Fetching {
        from: NodeId,
        position: Position,
    },
    /// The state is here, and what it is without is being kept aside.
    Keeping,
    Voting,
}

impl Proposal {
    pub(in crate::protocol) fn is_voting(&self) -> bool {
        matches!(self.phase, Phase::Voting)
    }

    /// Devices that it was to take in, and that have not answered: they failed, or were waited for in vain.
    pub(in crate::protocol) fn missed(&self, voters: DeviceSet) -> DeviceSet {
        let is_missed = |role: &DeviceRole| self.failed.contains(*role) || self.claims.contains(*role);
        (self.want.devices.iter())
            .filter(|role| !voters.contains(*role) && is_missed(role))
            .collect()
    }

    fn all_answered(&self) -> bool {
        self.nodes_asked.is_empty() && self.replicas_asked.is_empty() && self.claims.is_empty()
    }
}

impl Node {
    pub(in crate::protocol) fn propose(&mut self, want: Want) {
        self.propose_as(want, false, false);
    }

    /// Overrules votes and evidence because an operator waits for it.
    pub(in crate::protocol) fn propose_override(&mut self, want: Want) {
        self.propose_as(want, true, true);
    }

    /// Overrules the votes because an operator has waived them for good; of the evidence nothing was waived.
    pub(in crate::protocol) fn propose_waived(&mut self, want: Want) {
        self.propose_as(want, true, false);
    }

    fn propose_as(&mut self, want: Want, forced: bool, is_attended: bool) {
        if self.round_max >= ROUND_MAX {
            self.refuse_to_propose(&format!("{ROUND_MAX} rounds of ballots are used up"));
            return;
        }
        if self.known.epoch >= Epoch::MAX {
            self.refuse_to_propose(&format!("epoch {} is the last there can be", Epoch::MAX));
            return;
        }
        self.impatient = false;
        self.attempt = self.attempt.next();
        self.round_max = self.round_max.saturating_add(1);
        let instance = self.known.epoch;
        let ballot = Ballot {
            round: self.round_max,
            node: self.me(),
            incarnation: self.settings.incarnation,
        };
        let text = format!(
            "proposes members {{{}}}, devices {:?} as successor of epoch {instance} (round {}): {}",
            want.members, want.devices, ballot.round, want.why
        );
        if forced || self.last_proposed != want.why {
            self.last_proposed = want.why.clone();
            let kind = if forced {
                DecisionKind::Override
            } else {
                DecisionKind::Propose
            };
            self.record(kind, text);
        }
        // Linked nodes that are no members yet are about to join.
        let stay = want.members.union(self.let_in()).with(self.me());
        let stay = match want.settles.nodes {
            Some((nodes, _)) => stay.intersection(nodes),
            None => stay,
        };
        // Whoever else is registered, of this cluster now or earlier.
        let victims = NodeSet::ALL.minus(stay);
        let may_register = !self.is_open();
        let left_out = self.known.members.intersection(victims);
        let silent_since = left_out
            .iter()
            .filter_map(|node| Some(self.peers.get(&node)?.alive_at))
            .max();
        let milestones = Milestones::new(self.now, silent_since);
        self.member = None;
        self.proposal = Some(Proposal {
            instance,
            ballot,
            attempt: self.attempt,
            want,
            begun: self.now,
            enough: None,
            phase: Phase::Promising,
            nodes_asked: NodeSet::EMPTY,
            replicas_asked: BTreeSet::new(),
            claims: DeviceSet::EMPTY,
            victims,
            may_register,
            promised: Voters::NONE,
            voted: Voters::NONE,
            failed: DeviceSet::EMPTY,
            obstacles: Vec::new(),
            evidence: Vec::new(),
            left_behind: Vec::new(),
            fetched_in_vain: NodeSet::EMPTY,
            surveyed: BTreeMap::new(),
            loaded: BTreeMap::new(),
            branches: Branches::default(),
            accepted: None,
            claimed_at: self.now,
            value: None,
            forced,
            is_restart: self.serving != Some(instance),
            is_attended,
            milestones,
        });
        self.ask_for_promises();
    }

    fn ask_for_promises(&mut self) {
        let (instance, attempt) = (self.known.epoch, self.attempt);
        let Some(ballot) = self.proposal.as_ref().map(|proposal| proposal.ballot) else {
            return;
        };
        let block = BallotBlock {
            instance,
            promised: ballot,
            accepted: self.accepted_in(instance),
        };
        let mut replicas = BTreeSet::new();
        if self.may_vote() {
            replicas.insert(Replica::Local);
            self.store_ballot(block, Purpose::Promise(attempt));
        } else if self.opened_as_owner() || self.is_whole_for_operator() {
            self.add_own_evidence();
        }
        let mut nodes = NodeSet::EMPTY;
        for node in self
            .settings
            .nodes
            .without(self.me())
            .iter()
            .filter(|node| self.hears(*node))
        {
            nodes.insert(node);
        }
        for node in nodes.iter() {
            self.send(node, Message::Prepare { instance, ballot });
        }
        if let Some(proposal) = &mut self.proposal {
            proposal.nodes_asked = nodes;
            proposal.replicas_asked = replicas;
        }
        self.claim_devices(nodes);
    }

    /// The state folder came from another machine, and only an operator can know that nothing newer is left elsewhere.
    fn is_whole_for_operator(&self) -> bool {
        let is_attended = self
            .proposal
            .as_ref()
            .is_some_and(|proposal| proposal.is_attended);
        is_attended && self.is_moved_copy() && self.ready() && self.damaged.is_none()
    }

    /// This node served the configuration as its solo owner and did not stop since: its memory is the newest state.
    pub(in crate::protocol) fn opened_as_owner(&self) -> bool {
        self.opened == Some(self.known.epoch) && self.known.owner() == Some(self.me())
    }

    /// The devices that are still claimed for a proposal that goes on.
    pub(in crate::protocol) fn current(&mut self, attempt: Attempt) -> Option<&mut Proposal> {
        self.proposal
            .as_mut()
            .filter(|proposal| proposal.attempt == attempt)
    }

    /// Nothing can be proposed, now or later.
    fn refuse_to_propose(&mut self, why: &str) {
        let why = format!("node {} cannot propose: {why}", self.me());
        self.back_off_until = self.now + self.settings.lease;
        if self.waiting.0 != why {
            self.record(DecisionKind::Refused, why.clone());
            self.waiting = (why, self.now);
        }
    }

    pub(in crate::protocol) fn abandon(&mut self, why: &str) {
        if let Some(proposal) = &self.proposal {
            let epoch = proposal.instance.next();
            self.give_up(format!("gave up the proposal for epoch {epoch}: {why}"));
        }
    }

    /// Ends the proposal, if there is one, with this text for people.
    pub(in crate::protocol) fn give_up(&mut self, text: String) {
        let has_waited = self.now >= self.proposal_deadline();
        if let Some(proposal) = self.proposal.take() {
            if has_waited {
                self.note_devices_missed(proposal.missed(self.known.devices));
            }
            // Nodes back off for different times, the lower-numbered ones for shorter.
            let turn = (self.attempt.0 % 3) as u32;
            let beats = u32::from(u8::from(self.me()))
                .saturating_add(turn)
                .saturating_add(1);
            let doublings = self.failures.min(BACK_OFF_DOUBLINGS_MAX);
            self.failures = self.failures.saturating_add(1);
            self.back_off_until =
                self.now + doubled(self.settings.heartbeat.saturating_mul(beats), doublings);
            if self.waiting.0 != text {
                self.record(DecisionKind::Refused, text.clone());
            }
            self.waiting = (text, self.now);
        }
    }

    /// How long those are waited for that have not promised, once enough have: longer for a device that was waited for in
    /// vain before, which else would never be part of a configuration while it is slow.
    fn grace(&self) -> Duration {
        let awaited = (self.proposal.as_ref()).map_or(DeviceSet::EMPTY, |proposal| proposal.claims);
        (self.settings.heartbeat.saturating_mul(GRACE_BEATS)).saturating_mul(self.grace_factor(awaited))
    }

    pub(in crate::protocol) fn proposal_deadline(&self) -> Time {
        let grace = self.grace();
        self.proposal
            .as_ref()
            .and_then(|p| p.enough)
            .map_or(Time::NEVER, |enough| enough + grace)
    }

    pub(in crate::protocol) fn repeat_proposal(&mut self) {
        let Some(proposal) = &self.proposal else {
            return;
        };
        let (instance, ballot) = (proposal.instance, proposal.ballot);
        let (phase, asked, value) = (proposal.phase, proposal.nodes_asked, proposal.value.clone());
        for node in asked.iter() {
            match (phase, &value) {
                (Phase::Voting, Some(configuration)) => {
                    let configuration = configuration.clone();
                    self.send(
                        node,
                        Message::Accept {
                            instance,
                            ballot,
                            configuration,
                        },
                    );
                }
                _ => self.send(node, Message::Prepare { instance, ballot }),
            }
        }
    }

    pub(in crate::protocol) fn drive_proposal(&mut self) {
        if self.proposal.is_none() {
            return;
        }
        let grace = self.grace();
        // Every operation has a deadline of its own; a proposal is several, and where devices are slow the next try gets
        // more time than the one that was too short.
        let once = (self.settings.disk_deadline.saturating_mul(2)).saturating_add(self.settings.lease);
        let patience = once.saturating_mul(self.failures.min(BACK_OFF_MAX).saturating_add(1));
        let (now, head) = (self.now, self.head.position());
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        let late = now.since(proposal.begun) > patience;
        match proposal.phase {
            Phase::Promising => {
                let decides = proposal.forced || votes::decide(&self.known, proposal.promised);
                let state = newest_state(&self.known, &proposal.evidence);
                // What was voted for before is voted for again, and says which state it starts from.
                let enough = decides && (state.is_ok() || proposal.forced || proposal.accepted.is_some());
                if enough && proposal.enough.is_none() {
                    proposal.enough = Some(now);
                }
                // An override has enough at once; a device that is still being fenced or read for it is not left out for that.
                let is_reading = !proposal.claims.is_empty() || !proposal.replicas_asked.is_empty();
                let is_thorough = proposal.forced && is_reading && !late;
                let waited = proposal.enough.is_some_and(|since| now >= since + grace) && !is_thorough;
                if enough && (proposal.all_answered() || waited) {
                    self.choose();
                } else if proposal.all_answered() || late {
                    let mut why = if decides {
                        state.err().unwrap_or_default()
                    } else {
                        let missing = votes::missing(&self.known, proposal.promised);
                        format!(
                            "no quorum: {} cannot decide; missing: {missing}",
                            proposal.promised
                        )
                    };
                    for obstacle in &proposal.obstacles {
                        why = format!("{why}; {obstacle}");
                    }
                    self.abandon(&why);
                }
            }
            Phase::Fetching { position, .. } if head == position => self.vote(),
            Phase::Keeping => self.vote(),
            Phase::Fetching { position, from } => self.watch_fetch(from, position, patience),
            Phase::Voting => {
                if votes::decide(&self.known, proposal.voted) || proposal.forced && proposal.all_answered() {
                    self.decided();
                } else if proposal.all_answered() || late {
                    let missing = votes::missing(&self.known, proposal.voted);
                    let mut why = format!("too few votes: {}; missing: {missing}", proposal.voted);
                    for obstacle in &proposal.obstacles {
                        why = format!("{why}; {obstacle}");
                    }
                    self.abandon(&why);
                }
            }
        }
    }

    /// The state to start from is on its way, however long it is; if nothing more comes, another node that showed the same
    /// state is asked, and then the next.
    fn watch_fetch(&mut self, from: NodeId, position: Position, patience: Duration) {
        let moved_at = self.fetching().map(|(_, moved_at)| moved_at);
        if self.catch_up_storing() || moved_at.is_some_and(|at| self.now.since(at) <= self.settings.lease) {
            return;
        }
        let me = self.me();
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        proposal.fetched_in_vain.insert(from);
        let next = proposal
            .evidence
            .iter()
            .find_map(|evidence| match evidence.source {
                Source::Node(node) => (node != me
                    && evidence.whole
                    && evidence.position == position
                    && !proposal.fetched_in_vain.contains(node))
                .then_some(node),
                Source::Device(_) => None,
            });
        if let Some(next) = next {
            proposal.phase = Phase::Fetching { from: next, position };
            self.fetch_from(next, None);
        } else if self.now.since(proposal.begun) > patience {
            self.abandon(&format!("could not fetch the state {position} from node {from}"));
        }
    }

    /// How long this node backs off after a failed proposal before it plans anew.
    pub(in crate::protocol) fn backing_off(&self) -> bool {
        self.now < self.back_off_until
    }

    /// What was last in the way of a configuration, for people.
    pub(in crate::protocol) fn obstacle_text(&self) -> String {
        self.waiting.0.to_string()
    }
}
