//! The first phase of a proposal: devices are fenced and claimed, promises and evidence come in.
//!
//! Called by `propose.rs`, which owns the proposal; once enough have promised, `conclude.rs` goes on.

use super::evidence::{Evidence, Source};
use super::lower_bound::Witness;
use super::propose::{Phase, Proposal};
use crate::configuration::votes::{self, Voters};
use crate::configuration::{Ballot, BallotBlock, Configuration};
use crate::ids::{DeviceRole, Epoch, NodeId, NodeSet, Replica};
use crate::protocol::Node;
use crate::protocol::membership::twice::wrote_for_another;
use crate::protocol::message::{Message, Obstacle, Promise};
use crate::protocol::replicas::loading::replay;
use crate::protocol::replicas::{Attempt, Purpose};
use crate::replica::{ReplicaAnswer, ReplicaError, ReplicaOp, Survey};
use alloc::format;
use alloc::string::String;

impl Node {
    /// Devices are claimed by ballot blocks; with reservations, whoever is not to be a member is first kept from writing there.
    pub(in crate::protocol) fn claim_devices(&mut self, heard: NodeSet) {
        let is_forced = self.proposal.as_ref().is_some_and(|proposal| proposal.forced);
        let usable = if is_forced {
            self.readable_devices()
        } else {
            self.usable_devices()
        };
        let own = if self.may_vote() {
            NodeSet::of(self.me())
        } else {
            NodeSet::EMPTY
        };
        // One that has been silent for a lease may have been heard for the last time a moment less than that ago.
        let answers: NodeSet = heard.iter().filter(|node| !self.apart(*node)).collect();
        let voters = Voters::new(answers.union(own), usable);
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
        // An override goes on with whatever is there: also with what a device holds that was left out.
        let takes_part = |role: &DeviceRole| {
            proposal.forced
                || known.devices.contains(*role)
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

    /// The others are kept out of this device, as far as they can be: now it is claimed, and the next one is fenced.
    pub(in crate::protocol) fn on_claimed(
        &mut self,
        role: DeviceRole,
        attempt: Attempt,
        result: Result<(), String>,
    ) {
        let accepted = self.accepted_on_devices(self.known.epoch);
        let (now, fences) = (self.now, !self.fences.is_empty());
        let votes = self.known.devices.contains(role) || self.known.base_writers.devices.contains(role);
        let shut_out = self.shut_out_text().filter(|_| self.serving.is_some());
        let voted = self.replica(Replica::Device(role)).own_ballot.clone();
        let Some(proposal) = self.current(attempt) else {
            return;
        };
        if !proposal.claims.contains(role) {
            return;
        }
        // Another run of this node has gone further: what it voted for may have been decided, and would be taken back here.
        let goes_back = voted.filter(|voted| {
            (voted.instance, voted.promised) > (proposal.instance, proposal.ballot) && result.is_ok()
        });
        if let Some(BallotBlock {
            instance, promised, ..
        }) = goes_back
        {
            let round = promised.round;
            self.abandon(&format!(
                "on the {role}, there is a vote of this node on a later epoch, or in a later round (epoch {instance}, round {round})"
            ));
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
                self.show_what_was_decided(role);
                self.sign_area(role);
                self.claim_with(role, ballot, Purpose::Promise(attempt));
            }
            Ok(()) if proposal.forced => {
                let replica = Replica::Device(role);
                proposal.replicas_asked.insert(replica);
                // It has no vote to be claimed with. Who wrote what counts all the same, and then what.
                self.ask(replica, ReplicaOp::Survey, Purpose::Evidence(attempt));
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

    /// A vote on the successor of a configuration takes the place of the votes that decided that one. So it must stand on the device
    /// before: whoever sees the later vote could not go on without it.
    fn show_what_was_decided(&mut self, role: DeviceRole) {
        let replica = Replica::Device(role);
        let survey = &self.replica(replica).survey;
        let shown = survey.areas.iter().filter_map(|area| area.configuration.as_ref());
        let newest = shown.map(|configuration| configuration.epoch).max();
        if !self.known.is_genesis() && newest < Some(self.known.epoch) {
            let configuration = self.known.clone();
            self.ask(
                replica,
                ReplicaOp::WriteConfiguration { configuration },
                Purpose::Unattended,
            );
        }
    }

    /// What this node has voted for in this instance, by its local copy or by its own blocks on the devices.
    pub(in crate::protocol) fn accepted_on_devices(
        &self,
        instance: Epoch,
    ) -> Option<(Ballot, Configuration)> {
        (self.replicas.iter())
            .filter_map(|(_, view)| view.own_ballot.as_ref())
            .filter(|block| block.instance == instance)
            .filter_map(|block| block.accepted.clone())
            .chain(self.accepted_in(instance))
            .max_by_key(|(ballot, _)| *ballot)
    }

    /// What another node's ballot block on a device says against this proposal, if anything.
    pub(in crate::protocol) fn conflict(
        survey: &Survey,
        me: NodeId,
        instance: Epoch,
        ballot: Ballot,
    ) -> Option<String> {
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

    pub(in crate::protocol) fn on_promise_stored(
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
        let has_other_side =
            matches!(&result, Ok(ReplicaAnswer::Survey(survey)) if self.shows_other_side(survey));
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
                // A member's own copy is of this epoch; in paired mode the devices are not written.
                if by_memory && !by_own_copy {
                    // Nobody else wrote here: what this node remembers is what the device holds, or more.
                    proposal.evidence.push(Evidence {
                        source: Source::Device(role),
                        position: head,
                        whole: true,
                        rolled_back: None,
                    });
                }
                // An override also keeps what was written there by those that mean another configuration.
                let is_read = !by_own_copy && !by_memory || proposal.forced && has_other_side;
                if is_read {
                    proposal.replicas_asked.insert(replica);
                    proposal.surveyed.insert(role, survey);
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
    pub(in crate::protocol) fn add_own_evidence(&mut self) {
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

    pub(in crate::protocol) fn on_evidence(
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
        let votes = self.known.devices.contains(role) || self.known.base_writers.devices.contains(role);
        let known = self.known.clone();
        let Some(proposal) = self.current(attempt).filter(|proposal| !proposal.is_voting()) else {
            // Too late to count; and the same replica's vote is still to be answered.
            return;
        };
        proposal.replicas_asked.remove(&replica);
        let survey = proposal.surveyed.get(&role);
        let is_of_other_side = |area| survey.is_some_and(|survey| wrote_for_another(&known, survey, area));
        match result {
            Ok(ReplicaAnswer::Survey(survey)) => {
                proposal.replicas_asked.insert(replica);
                proposal.surveyed.insert(role, survey);
                self.ask(replica, ReplicaOp::Load, Purpose::Evidence(attempt));
            }
            Ok(ReplicaAnswer::Loaded(loaded)) if is_of_other_side(loaded.area) => {
                let why = "the other side of an epoch that was decided twice";
                if proposal.forced {
                    // An operator has chosen this node's side. What the other one holds is kept, and is no evidence.
                    self.keep_aside(replay(&loaded).head, &format!(" of the {role}"), why);
                } else {
                    proposal.obstacles.push(format!("the {role} holds {why}"));
                }
            }
            Ok(ReplicaAnswer::Loaded(loaded)) => {
                let found = replay(&loaded);
                let evidence = if votes {
                    &mut proposal.evidence
                } else {
                    &mut proposal.left_behind
                };
                evidence.push(Evidence {
                    source: Source::Device(role),
                    position: found.head.position(),
                    whole: loaded.damage.is_none(),
                    rolled_back: None,
                });
                proposal.loaded.insert(role, found);
                proposal.milestones.note(format!("{role} read"), now);
            }
            Ok(_) => {}
            Err(error) => {
                proposal.failed = proposal.failed.with(role);
                proposal.obstacles.push(format!("the {role} failed: {error}"));
            }
        }
    }

    pub(in crate::protocol) fn on_promise(
        &mut self,
        from: NodeId,
        instance: Epoch,
        ballot: Ballot,
        promise: Promise,
    ) {
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
        self.bound.note(promise.settled, Witness::Peer(from));
        proposal.nodes_asked.remove(from);
        proposal.promised.nodes.insert(from);
        proposal.take_accepted(promise.accepted);
        proposal.evidence.push(Evidence {
            source: Source::Node(from),
            position: promise.position,
            whole: promise.evidence,
            rolled_back: promise.rolled_back,
        });
        let promised = proposal.promised.nodes;
        // Who has promised serves this configuration no more, whatever lease it has.
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.promised_until = now;
        }
        // Leases of nodes that are to stay need no waiting: sorted out later.
        for (node, left) in promise.leases {
            if promised.contains(node) {
                continue;
            }
            match self.peers.get_mut(&node) {
                Some(peer) => peer.promised_until = peer.promised_until.max(now + left),
                None => self.note_former_lease(node, now + left),
            }
        }
    }

    pub(in crate::protocol) fn on_ballot_refused(
        &mut self,
        from: NodeId,
        instance: Epoch,
        ballot: Ballot,
        obstacle: Obstacle,
    ) {
        if let Obstacle::Later(configuration) = obstacle {
            self.hear_of(from, configuration);
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
            Obstacle::NoVote(why) => {
                proposal.nodes_asked.remove(from);
                let why = why.name();
                proposal
                    .obstacles
                    .push(format!("node {from} cannot vote yet: it {why}"));
            }
            Obstacle::Unfit(why) => self.abandon(&format!("node {from} cannot be a member: {why}")),
            Obstacle::Failed(why) => {
                proposal.nodes_asked.remove(from);
                proposal
                    .obstacles
                    .push(format!("the local copy of node {from} failed: {why}"));
            }
        }
    }
}

impl Proposal {
    pub(in crate::protocol) fn take_accepted(&mut self, accepted: Option<(Ballot, Configuration)>) {
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
