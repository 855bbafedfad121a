//! This node as a proposer: decides the successor of the configuration it knows, by Paxos among its voters.
//!
//! ```text
//! fence the others on a device → promises (nodes by message, devices by ballot block) → newest state on sealed replicas
//!   → fetch what is missing of it → votes → decided                    (conclude.rs, from here on)
//!   → ready, and open                                                  (install.rs)
//! ```
//!
//! Owns `proposal`, `attempt` and `back_off_until`.

use super::Node;
use super::evidence::{Evidence, Source, newest_state};
use super::history::History;
use super::interface::DecisionKind;
use super::loading::replay;
use super::message::{Message, Obstacle, Promise};
use super::milestones::Milestones;
use super::plan::Want;
use super::replicas::{Attempt, Purpose};
use crate::configuration::votes::{self, Voters};
use crate::configuration::{Ballot, BallotBlock, Configuration};
use crate::database::Database;
use crate::ids::{DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, Position, Replica};
use crate::replica::{ReplicaAnswer, ReplicaError, ReplicaOp, Survey};
use crate::time::Time;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Once enough voters have promised, how many heartbeat intervals the others are waited for.
const GRACE_BEATS: u32 = 2;

/// Proposals that fail again and again are this many times further apart at most.
const BACK_OFF_MAX: u32 = 5;

#[derive(Debug)]
pub(super) struct Proposal {
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
    may_register: bool,
    pub promised: Voters,
    pub voted: Voters,
    pub failed: DeviceSet,
    pub obstacles: Vec<String>,
    pub evidence: Vec<Evidence>,
    /// Content of devices that was read as evidence.
    pub loaded: BTreeMap<DeviceRole, (Database, History)>,
    pub accepted: Option<(Ballot, Configuration)>,
    pub lease_until: Time,
    /// When each device was claimed: a solo owner cannot have renewed its lease after that.
    pub claimed_at: Time,
    pub value: Option<Configuration>,
    pub forced: bool,
    pub milestones: Milestones,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Promising,
    /// The state to start from is on another node.
    Fetching {
        from: NodeId,
        position: Position,
    },
    Voting,
}

impl Proposal {
    fn is_voting(&self) -> bool {
        matches!(self.phase, Phase::Voting)
    }

    fn all_answered(&self) -> bool {
        self.nodes_asked.is_empty() && self.replicas_asked.is_empty() && self.claims.is_empty()
    }
}

impl Node {
    pub(super) fn propose(&mut self, want: Want) {
        let forced = core::mem::take(&mut self.force);
        self.impatient = false;
        self.attempt.0 += 1;
        self.round_max += 1;
        let instance = self.known.epoch;
        let ballot = Ballot {
            round: self.round_max,
            node: self.me(),
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
        let victims = self.settings.nodes.minus(stay);
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
            loaded: BTreeMap::new(),
            accepted: None,
            lease_until: self.now,
            claimed_at: self.now,
            value: None,
            forced,
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
        } else if self.opened_as_owner() {
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

    /// Devices are claimed by ballot blocks; with reservations, whoever is not to be a member is first kept from writing there.
    fn claim_devices(&mut self, heard: NodeSet) {
        let usable = self.usable_devices();
        let own = if self.may_vote() {
            NodeSet::of(self.me())
        } else {
            NodeSet::EMPTY
        };
        let voters = Voters::new(heard.union(own), usable);
        let fences = !self.fences.is_empty();
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        // Nobody is fenced for a proposal that cannot succeed.
        if fences && proposal.may_register && !proposal.forced && !votes::decide(&self.known, voters) {
            let missing = votes::missing(&self.known, voters);
            self.abandon(&format!("no quorum: {voters} cannot decide; missing: {missing}"));
            return;
        }
        let wanted = proposal.want.devices;
        let known = &self.known;
        let takes_part = |role: &DeviceRole| {
            known.devices.contains(*role)
                || known.base_writers.devices.contains(*role)
                || fences && wanted.contains(*role)
        };
        proposal.claims = usable.iter().filter(takes_part).collect();
        if fences {
            self.claim_next();
        } else {
            let attempt = self.attempt;
            for role in DeviceRole::ALL {
                self.on_claimed(role, attempt, Ok(()));
            }
        }
    }

    fn claim_next(&mut self) {
        let Some(proposal) = &self.proposal else {
            return;
        };
        let Some(role) = proposal.claims.iter().next() else {
            return;
        };
        let may_register =
            proposal.may_register || !self.known.devices.contains(role) || self.never_registered_on(role);
        let (attempt, victims) = (proposal.attempt, proposal.victims);
        let is_first = proposal.promised.devices.is_empty()
            && proposal.replicas_asked.iter().all(|r| *r == Replica::Local);
        self.claim(role, attempt, victims, may_register, is_first);
    }

    /// This node served the configuration as its solo owner and did not stop since: its memory is the newest state.
    pub(super) fn opened_as_owner(&self) -> bool {
        self.opened == Some(self.known.epoch) && self.known.owner() == Some(self.me())
    }

    /// The devices that are still claimed for a proposal that goes on.
    pub(super) fn current(&mut self, attempt: Attempt) -> Option<&mut Proposal> {
        self.proposal
            .as_mut()
            .filter(|proposal| proposal.attempt == attempt)
    }

    /// The others are kept out of this device, as far as they can be: now it is claimed, and the next one is fenced.
    pub(super) fn on_claimed(&mut self, role: DeviceRole, attempt: Attempt, result: Result<(), String>) {
        let accepted = self.accepted_on_devices(self.known.epoch);
        let (now, fences) = (self.now, !self.fences.is_empty());
        let votes = self.known.devices.contains(role) || self.known.base_writers.devices.contains(role);
        let shut_out = self.shut_out_text().filter(|_| self.serving.is_some());
        let Some(proposal) = self.current(attempt) else {
            return;
        };
        if !proposal.claims.contains(role) {
            return;
        }
        proposal.claims = proposal.claims.without(role);
        if fences && result.is_ok() {
            proposal.milestones.note(format!("{role} fenced"), now);
        }
        let ballot = BallotBlock {
            instance: proposal.instance,
            promised: proposal.ballot,
            accepted,
        };
        match result {
            Ok(()) if votes => {
                let replica = Replica::Device(role);
                proposal.replicas_asked.insert(replica);
                self.ask(
                    replica,
                    ReplicaOp::WriteBallot { ballot },
                    Purpose::Promise(attempt),
                );
            }
            Ok(()) => {}
            Err(why) => {
                proposal.failed = proposal.failed.with(role);
                proposal
                    .obstacles
                    .push(format!("the {role} could not be claimed: {why}"));
                // Whoever loses one device stops, and leaves the other one alone.
                if let Some(why) = shut_out.filter(|_| !proposal.may_register) {
                    self.abandon(&why);
                    return;
                }
            }
        }
        if !self.fences.is_empty() {
            self.claim_next();
        }
    }

    /// What this node has voted for in this instance, by its local copy or by its own blocks on the devices.
    fn accepted_on_devices(&self, instance: Epoch) -> Option<(Ballot, Configuration)> {
        let me = self.me();
        (self.replicas.values())
            .flat_map(|view| view.survey.areas.iter())
            .filter(|area| area.node == me)
            .filter_map(|area| area.ballot.as_ref())
            .filter(|block| block.instance == instance)
            .filter_map(|block| block.accepted.clone())
            .chain(self.accepted_in(instance))
            .max_by_key(|(ballot, _)| *ballot)
    }

    /// What another node's ballot block on a device says against this proposal, if anything.
    pub(super) fn conflict(survey: &Survey, me: NodeId, instance: Epoch, ballot: Ballot) -> Option<String> {
        survey.areas.iter().find_map(|area| {
            let block = area.ballot.as_ref()?;
            if block.instance > instance {
                return Some(format!(
                    "node {} decides on a later epoch {}",
                    area.node, block.instance
                ));
            }
            (area.node != me && block.instance == instance && block.promised > ballot).then(|| {
                format!(
                    "node {} has a higher ballot (round {})",
                    area.node, block.promised.round
                )
            })
        })
    }

    pub(super) fn on_promise_stored(
        &mut self,
        replica: Replica,
        attempt: Attempt,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        let me = self.me();
        let by_memory = self.opened_as_owner();
        let by_own_copy = self.known.writers().nodes.contains(me)
            && self.damaged.is_none()
            && self.head.position().stamp.epoch == self.known.epoch;
        let now = self.now;
        let head = self.head.position();
        let (whole, rolled_back) = (self.damaged.is_none(), self.rolled_back);
        let voted_for = self.accepted_in(self.known.epoch);
        let Some(proposal) = self.current(attempt).filter(|proposal| !proposal.is_voting()) else {
            // Too late to count; and the same replica's vote is still to be answered.
            return;
        };
        proposal.replicas_asked.remove(&replica);
        let (instance, ballot) = (proposal.instance, proposal.ballot);
        match (replica, result) {
            (Replica::Local, Ok(_)) => {
                proposal.promised.nodes.insert(me);
                // Its own vote may be the one that decided.
                proposal.take_accepted(voted_for);
                proposal.evidence.push(Evidence {
                    source: Source::Node(me),
                    position: head,
                    whole,
                    rolled_back,
                });
            }
            (Replica::Device(role), Ok(ReplicaAnswer::Survey(survey))) => {
                if let Some(conflict) = Self::conflict(&survey, me, instance, ballot) {
                    self.abandon(&format!("on the {role}, {conflict}"));
                    return;
                }
                for area in &survey.areas {
                    if let Some(block) = area.ballot.as_ref().filter(|block| block.instance == instance) {
                        proposal.take_accepted(block.accepted.clone());
                    }
                }
                proposal.promised.devices = proposal.promised.devices.with(role);
                proposal.claimed_at = now;
                proposal.milestones.note(format!("{role} claimed"), now);
                if by_own_copy {
                    // A member's own copy is of this epoch; in paired mode the devices are not written.
                } else if by_memory {
                    // Nobody else wrote here: what this node remembers is what the device holds, or more.
                    proposal.evidence.push(Evidence {
                        source: Source::Device(role),
                        position: head,
                        whole: true,
                        rolled_back: None,
                    });
                } else {
                    proposal.replicas_asked.insert(replica);
                    self.ask(replica, ReplicaOp::Load, Purpose::Evidence(attempt));
                }
            }
            (replica, Ok(_)) => proposal.obstacles.push(format!("the {replica} gave no survey")),
            (replica, Err(error)) => {
                if let Replica::Device(role) = replica {
                    proposal.failed = proposal.failed.with(role);
                }
                proposal.obstacles.push(format!("the {replica} failed: {error}"));
            }
        }
    }

    /// A solo owner whose local copy cannot vote still knows the newest state.
    fn add_own_evidence(&mut self) {
        let (me, position, rolled_back) = (self.me(), self.head.position(), self.rolled_back);
        if let Some(proposal) = &mut self.proposal {
            proposal.evidence.push(Evidence {
                source: Source::Node(me),
                position,
                whole: true,
                rolled_back,
            });
        }
    }

    pub(super) fn on_evidence(
        &mut self,
        replica: Replica,
        attempt: Attempt,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        let Replica::Device(role) = replica else {
            return;
        };
        if let Ok(ReplicaAnswer::Loaded(loaded)) = &result {
            self.note_own_position(replica, loaded);
        }
        let now = self.now;
        let Some(proposal) = self.current(attempt).filter(|proposal| !proposal.is_voting()) else {
            // Too late to count; and the same replica's vote is still to be answered.
            return;
        };
        proposal.replicas_asked.remove(&replica);
        match result {
            Ok(ReplicaAnswer::Loaded(loaded)) => {
                let (database, history) = replay(&loaded);
                proposal.evidence.push(Evidence {
                    source: Source::Device(role),
                    position: database.position(),
                    whole: loaded.damage.is_none(),
                    rolled_back: None,
                });
                proposal.loaded.insert(role, (database, history));
                proposal.milestones.note(format!("{role} read"), now);
            }
            Ok(_) => {}
            Err(error) => {
                proposal.failed = proposal.failed.with(role);
                proposal.obstacles.push(format!("the {role} failed: {error}"));
            }
        }
    }

    pub(super) fn on_promise(&mut self, from: NodeId, instance: Epoch, ballot: Ballot, promise: Promise) {
        let now = self.now;
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        if proposal.instance != instance
            || proposal.ballot != ballot
            || proposal.phase != Phase::Promising
            || proposal.promised.nodes.contains(from)
        {
            return;
        }
        proposal.nodes_asked.remove(from);
        proposal.promised.nodes.insert(from);
        proposal.take_accepted(promise.accepted);
        proposal.evidence.push(Evidence {
            source: Source::Node(from),
            position: promise.position,
            whole: promise.evidence,
            rolled_back: promise.rolled_back,
        });
        // Leases of nodes that are to stay, or that have promised themselves, need no waiting: sorted out later.
        for (node, left) in promise.leases {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.promised_until = peer.promised_until.max(now + left);
            }
        }
    }

    pub(super) fn on_ballot_refused(
        &mut self,
        from: NodeId,
        instance: Epoch,
        ballot: Ballot,
        obstacle: Obstacle,
    ) {
        if let Obstacle::Later(configuration) = obstacle {
            self.learn(configuration);
            return;
        }
        if let Obstacle::Promised(promised) = &obstacle {
            self.round_max = self.round_max.max(promised.round);
        }
        let known = self.known.clone();
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        if proposal.instance != instance || proposal.ballot != ballot {
            return;
        }
        match obstacle {
            Obstacle::Later(_) => {}
            Obstacle::Promised(promised) => {
                self.abandon(&format!(
                    "node {from} has promised a higher ballot (round {})",
                    promised.round
                ));
            }
            // It is told; the next repetition asks it again.
            Obstacle::Behind { .. } => self.send(from, Message::Decided(known)),
            Obstacle::Blank => {
                proposal.nodes_asked.remove(from);
                proposal
                    .obstacles
                    .push(format!("node {from} has a new local copy and cannot vote yet"));
            }
            Obstacle::Failed(why) => {
                proposal.nodes_asked.remove(from);
                proposal
                    .obstacles
                    .push(format!("the local copy of node {from} failed: {why}"));
            }
        }
    }

    pub(super) fn abandon(&mut self, why: &str) {
        if let Some(proposal) = self.proposal.take() {
            // Nodes back off for different times, the lower-numbered ones for shorter.
            let step = u32::try_from(self.me().index()).unwrap_or(0) + 1 + (self.attempt.0 % 3) as u32;
            self.failures += 1;
            self.back_off_until = self.now + self.settings.heartbeat * step * self.failures.min(BACK_OFF_MAX);
            let text = format!(
                "gave up the proposal for epoch {}: {why}",
                proposal.instance.next()
            );
            if self.waiting.0 != text {
                self.record(DecisionKind::Refused, text.clone());
            }
            self.waiting = (text, self.now);
        }
    }

    pub(super) fn proposal_deadline(&self) -> Time {
        let grace = self.settings.heartbeat * GRACE_BEATS;
        self.proposal
            .as_ref()
            .and_then(|p| p.enough)
            .map_or(Time::NEVER, |enough| enough + grace)
    }

    pub(super) fn repeat_proposal(&mut self) {
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

    pub(super) fn drive_proposal(&mut self) {
        let grace = self.settings.heartbeat * GRACE_BEATS;
        // Every operation has a deadline of its own; a proposal is several, and where devices are slow the next try gets
        // more time than the one that was too short.
        let patience =
            (self.settings.disk_deadline * 2 + self.settings.lease) * (1 + self.failures.min(BACK_OFF_MAX));
        let (now, head) = (self.now, self.head.position());
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        let late = now.since(proposal.begun) > patience;
        match proposal.phase {
            Phase::Promising => {
                let decides = proposal.forced || votes::decide(&self.known, proposal.promised);
                let state = newest_state(&self.known, &proposal.evidence);
                let enough = decides && (state.is_ok() || proposal.forced);
                if enough && proposal.enough.is_none() {
                    proposal.enough = Some(now);
                }
                let waited = proposal.enough.is_some_and(|since| now >= since + grace);
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
            Phase::Fetching { position, from } => {
                if head == position {
                    self.vote();
                } else if late {
                    self.abandon(&format!("could not fetch the state {position} from node {from}"));
                }
            }
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

    /// How long this node backs off after a failed proposal before it plans anew.
    pub(super) fn backing_off(&self) -> bool {
        self.now < self.back_off_until
    }

    /// What was last in the way of a configuration, for people.
    pub(super) fn obstacle_text(&self) -> String {
        self.waiting.0.to_string()
    }
}

impl Proposal {
    fn take_accepted(&mut self, accepted: Option<(Ballot, Configuration)>) {
        if let Some((ballot, configuration)) = accepted
            && self
                .accepted
                .as_ref()
                .is_none_or(|(highest, _)| *highest < ballot)
        {
            self.accepted = Some((ballot, configuration));
        }
    }
}
