//! The second half of a proposal: from enough promises to a decision. `propose.rs` is the first.

use super::evidence::{Evidence, Source, base_writers, newest_state};
use super::left_out::{may_hold_leases, replaced, replaced_before, staying};
use super::lower_bound::below_text;
use super::propose::{Phase, Proposal};
use crate::configuration::votes::{self, Voters};
use crate::configuration::{
    Ballot, BallotBlock, Configuration, Decider, Mode, REASON_BYTES_MAX, RestoreFlag,
};
use crate::database::Database;
use crate::ids::{DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, Replica, Stamp};
use crate::protocol::Node;
use crate::protocol::copies::install::Install;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::Message;
use crate::protocol::plan::flagged_text;
use crate::protocol::replicas::{Attempt, Purpose};
use crate::replica::{ReplicaAnswer, ReplicaError, ReplicaOp};
use crate::time::Time;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Overrides begin at multiples of this, and each node's so far from the next one's. So an override, and what is decided after
/// it, has no epoch in common with what voters or the override of another node decide elsewhere at the same time.
const OVERRIDE_EPOCH_STEP: u64 = 100_000;
const OVERRIDE_EPOCH_STEP_PER_NODE: u64 = 1_000;
const _: () = assert!(OVERRIDE_EPOCH_STEP > OVERRIDE_EPOCH_STEP_PER_NODE * 32);

/// The epoch of an operator's override by this node, which knows this epoch.
pub fn override_epoch(known: Epoch, node: NodeId) -> Epoch {
    let step = (known.0 / OVERRIDE_EPOCH_STEP).saturating_add(1);
    let of_node = (node.index() as u64).saturating_mul(OVERRIDE_EPOCH_STEP_PER_NODE);
    Epoch(step.saturating_mul(OVERRIDE_EPOCH_STEP).saturating_add(of_node))
}

/// Whether an operator has overruled the votes on the way from one epoch to a later one: the only way to lose a branch.
pub fn is_overruled(from: Epoch, to: Epoch) -> bool {
    from.0 / OVERRIDE_EPOCH_STEP != to.0 / OVERRIDE_EPOCH_STEP
}

/// Whether an operator may have overruled the votes between these epochs, as far as their numbers tell: also by an override of one
/// node after that of another. Past an override a thousand reconfigurations look like the next one.
pub(in crate::protocol) fn may_be_overruled(from: Epoch, to: Epoch) -> bool {
    let step = |epoch: Epoch| epoch.0 / OVERRIDE_EPOCH_STEP_PER_NODE;
    is_overruled(from, to) || to.0 >= OVERRIDE_EPOCH_STEP && step(from) != step(to)
}

/// A reason as configurations hold it: cut to what replicas store.
fn bounded(mut reason: String) -> String {
    if reason.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX)
            .rev()
            .find(|at| reason.is_char_boundary(*at))
            .unwrap_or(0);
        reason.truncate(end);
    }
    reason
}

impl Node {
    /// Enough voters are sealed: the state to start from can be chosen, and fetched if it is elsewhere.
    pub(in crate::protocol) fn choose(&mut self) {
        let Some(proposal) = &self.proposal else {
            return;
        };
        if let Some((_, configuration)) = &proposal.accepted
            && !proposal.forced
        {
            // Somebody may have decided it already: it is voted for again, whatever this node would like.
            let configuration = configuration.clone();
            if !self.holds_init_of(&configuration) {
                let digest = configuration.init_digest;
                for node in self.heard_nodes().iter() {
                    self.ask_for_init(node, digest);
                }
                self.abandon(
                    "another set of nodes was voted for before, and its init database is not here yet",
                );
                return;
            }
            if let Some(proposal) = &mut self.proposal {
                proposal.value = Some(configuration);
            }
            self.ask_for_votes();
            return;
        }
        let Some(proposal) = &self.proposal else {
            return;
        };
        let chosen = match newest_state(&self.known, &proposal.evidence) {
            Ok(chosen) => chosen.clone(),
            Err(_) => {
                let newest = |of: &[Evidence]| {
                    let whole = of.iter().filter(|e| e.whole);
                    whole.max_by_key(|e| e.position.stamp).cloned()
                };
                // What was left out counts only if nothing else is whole.
                let Some(newest) = newest(&proposal.evidence).or_else(|| newest(&proposal.left_behind))
                else {
                    self.abandon("not one whole replica could be read");
                    return;
                };
                newest
            }
        };
        let start = chosen.position.stamp;
        if let Err(why) = (self.reaches_bound(proposal, start)).and_then(|()| self.is_newest_here(start)) {
            self.give_up(why);
            return;
        }
        self.keep_what_is_newer(chosen.position.stamp);
        let head = self.head.position();
        if chosen.position == head {
            self.vote();
            return;
        }
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        match chosen.source {
            Source::Device(role) => {
                if let Some(found) = proposal.loaded.remove(&role) {
                    self.adopt_head(found, &format!("the {role}"));
                }
                self.vote();
            }
            Source::Node(from) if from == self.settings.me => self.vote(),
            Source::Node(from) => {
                proposal.phase = Phase::Fetching {
                    from,
                    position: chosen.position,
                };
                self.fetch_from(from, None);
            }
        }
    }

    /// An override starts from a whole replica that voted. What a device holds up to some damage, or one that was left out, may be newer: it
    /// is kept aside, and nothing is put to the vote before.
    fn keep_what_is_newer(&mut self, start: Stamp) {
        let Some(proposal) = self.proposal.as_ref().filter(|proposal| proposal.forced) else {
            return;
        };
        let newer: Vec<(DeviceRole, Database)> = (proposal.loaded.iter())
            .filter(|(_, found)| found.head.position().stamp > start)
            .map(|(role, found)| (*role, found.head.clone()))
            .collect();
        for (role, database) in newer {
            let why = format!("the override starts from {start}");
            self.keep_aside(database, &format!(" of the {role}"), &why);
        }
    }

    /// Whether an override goes on with the newest state of all that are heard. One that holds more and has no vote itself is no evidence:
    /// the override is for it to make.
    ///
    /// # Errors
    /// Names the node.
    fn is_newest_here(&self, start: Stamp) -> Result<(), String> {
        let Some(proposal) = self.proposal.as_ref().filter(|proposal| proposal.is_attended) else {
            return Ok(());
        };
        let newest = (self.heard_nodes().iter())
            .filter(|node| !proposal.promised.nodes.contains(*node) && !self.is_at_odds_with(*node))
            .filter_map(|node| Some((self.peer_state(node)?.position.stamp, node)))
            .max();
        match newest {
            Some((stamp, node)) if stamp > start => Err(format!(
                "node {node} is here and holds {stamp}, and this one would go on from {start}: next, on node {node}: ccdctl takeover --force"
            )),
            _ => Ok(()),
        }
    }

    /// The state is here: builds the configuration and asks for votes.
    pub(in crate::protocol) fn vote(&mut self) {
        if !self.branches_are_kept() {
            return;
        }
        let owners = self.owners_folder();
        let Some(proposal) = &self.proposal else {
            return;
        };
        let known = &self.known;
        let base = self.head.position();
        let (failed, unclaimed) = (proposal.failed, proposal.claims);
        let present = self.heard_nodes().with(self.me());
        // What the state to start from needs is known only now. A node that does not say yet which state folder it has cannot be counted.
        // Whoever has promised is counted by the folder that it has.
        let says_folder = |node| {
            proposal.promised.nodes.contains(node)
                || self.peer_state(node).is_some_and(|state| state.folder.is_known())
        };
        let fits = |node: &NodeId| *node == self.me() || self.copy_fits(*node) && says_folder(*node);
        let fitting: NodeSet = present.iter().filter(fits).collect();
        let nodes = (proposal.want.settles.nodes).map_or(self.cluster_nodes(), |(nodes, _)| nodes);
        let mut members = proposal.want.members.intersection(fitting).intersection(nodes);
        if !self.ready() && members.count() > 1 && members.contains(self.me()) && !proposal.forced {
            // A member of a pair writes its local copy, and this node's failed meanwhile.
            if !self.opened_as_owner() {
                self.abandon("this node cannot use its local copy");
                return;
            }
            members = NodeSet::of(self.me());
        }
        let settles = proposal.want.settles.clone();
        let mut devices: DeviceSet = proposal
            .want
            .devices
            .iter()
            .filter(|role| !failed.contains(*role) && !unclaimed.contains(*role))
            .filter(|role| self.device_fits(*role))
            .collect();
        let mut why = proposal.want.why.clone();
        if let Some(instead) = self.instead_of_leaning(proposal, Voters::new(members, devices)) {
            let left = members.minus(instead.nodes);
            if !left.is_empty() {
                why = format!(
                    "{why}, and node {left} stays out: no device is given up for a node without a vote"
                );
            }
            Voters {
                nodes: members,
                devices,
            } = instead;
        }
        let missing = if settles.nodes.is_some() {
            proposal.want.members.minus(members)
        } else if known.maintenance && settles.maintenance.is_none() && !proposal.forced {
            known.members.minus(members)
        } else {
            NodeSet::EMPTY
        };
        let alone = members.count() == 1 && !devices.is_empty();
        let all = settles.nodes.map_or(self.cluster_nodes(), |(nodes, _)| nodes);
        let (cluster, init_digest) = match settles.nodes {
            Some(decided) if !proposal.forced => decided,
            _ => (self.cluster_nodes(), self.cluster_digest()),
        };
        // After an override the others have no vote until they are members again.
        let nodes = if proposal.forced { members } else { cluster };
        let servers = self.next_servers(cluster, &settles);
        // An override that was given up half-way may have left its vote: this one is another configuration.
        let voted_for = (proposal.accepted.iter())
            .chain(self.accepted_on_devices(known.epoch).iter())
            .map(|(_, configuration)| configuration.epoch)
            .fold(known.epoch, Epoch::max);
        // Nor is what it goes back behind taken for newer at the next start.
        let overruled = voted_for.max(self.bound.epoch());
        let epoch = if proposal.forced {
            override_epoch(overruled, self.me())
        } else {
            known.epoch.next()
        };
        if epoch > Epoch::MAX {
            self.abandon(&format!("epoch {} is the last there can be", Epoch::MAX));
            return;
        }
        let own = if alone { owners } else { self.offered_folder() };
        let folders = self.next_folders(members, &settles, own);
        let regions = devices.iter().fold(known.regions, |regions, role| {
            regions.with(role, self.replica(Replica::Device(role)).region)
        });
        let configuration = Configuration {
            epoch,
            mode: if alone {
                Mode::Solo(self.me())
            } else {
                Mode::Paired
            },
            members,
            nodes,
            cluster,
            devices,
            regions,
            base,
            base_writers: base_writers(known, base, &folders, &regions),
            restore: match (proposal.forced, members == all) {
                (_, true) => RestoreFlag::AllActive,
                (true, false) => RestoreFlag::NotAllActive,
                (false, false) => known.restore,
            },
            quorum: self.quorum_wish.unwrap_or(known.quorum),
            designated: (self.wanted_designation().unwrap_or(known.designated))
                // One that an override goes on without is master again when it is back.
                .filter(|node| all.contains(*node)),
            maintenance: settles.maintenance.unwrap_or(known.maintenance) && !proposal.forced,
            init_digest,
            servers: Box::new(servers),
            replaced: replaced(known, base, &folders, self.opened == Some(known.epoch)),
            folders: Box::new(folders),
            lease: self.settings.lease,
            decider: if proposal.forced {
                Decider::Operator
            } else {
                Decider::Votes
            },
            proposer: self.me(),
            date: self.date,
            reason: bounded(why),
        };
        if !missing.is_empty() {
            self.abandon(&format!("node {missing} has gone silent, and this needs it"));
            return;
        }
        if !votes::admissible(&configuration) && !proposal.forced {
            self.abandon(&format!(
                "too little is left to form a configuration ({configuration})"
            ));
            return;
        }
        if members.contains(self.me()) && configuration.names_another_folder(self.me(), self.folder.id) {
            self.abandon(
                "the local copy cannot say which state folder it is, so this node cannot be counted",
            );
            return;
        }
        if let Err(why) = self.may_restart(proposal, members) {
            self.give_up(why);
            return;
        }
        if let Some(proposal) = &mut self.proposal {
            proposal.value = Some(configuration);
        }
        self.ask_for_votes();
    }

    /// What this successor becomes if it would give up the last device that votes for it for members without a vote.
    fn instead_of_leaning(&self, proposal: &Proposal, next: Voters) -> Option<Voters> {
        let is_operators = proposal.forced || proposal.want.settles.nodes.is_some();
        if self.known.is_genesis() || is_operators {
            return None;
        }
        let at_hand: DeviceSet = (self.known.devices.iter())
            .filter(|role| proposal.promised.devices.contains(*role) && !proposal.failed.contains(*role))
            .filter(|role| self.device_fits(*role))
            .collect();
        let has_vote = |node: NodeId| match node == self.me() {
            true => self.no_vote().is_none(),
            false => (self.peer_state(node)).is_some_and(|state| state.no_vote.is_none()),
        };
        let voteless = next.nodes.iter().filter(|node| !has_vote(*node)).collect();
        let uses = |node: NodeId| self.may_share(node);
        votes::instead_of_leaning(self.me(), at_hand, next, self.cluster_nodes(), voteless, uses)
    }

    /// Whether these members may go on unattended from the state that this node has taken for the newest. The state is the one
    /// that is judged, whichever replica it was found on: of a solo owner's the devices alone know the restore flag.
    ///
    /// # Errors
    /// Says what the restart waits for.
    fn may_restart(&self, proposal: &Proposal, members: NodeSet) -> Result<(), String> {
        self.reaches_bound(proposal, self.head.position().stamp)?;
        let all = self.cluster_nodes();
        if !proposal.is_restart || proposal.is_attended || members == all || !self.needs_all_nodes() {
            return Ok(());
        }
        Err(flagged_text(&self.known, all.minus(members)))
    }

    /// Whether a restart may go on unattended from this state, as far as the lower bound tells.
    fn reaches_bound(&self, proposal: &Proposal, start: Stamp) -> Result<(), String> {
        if !proposal.is_restart || proposal.is_attended {
            return Ok(());
        }
        self.bound
            .allows(&self.known, start)
            .map_err(|shown| below_text(&shown))
    }

    /// When nobody can hold a lease any more who is left out and has not promised.
    fn leases_end(&self, next: &Configuration, proposal: &Proposal) -> Time {
        let known = &self.known;
        let served = self.opened == Some(known.epoch);
        let replaced = replaced_before(known, next.base, served);
        let ended = proposal.promised.nodes.minus(replaced);
        let holders = may_hold_leases(known, next, served).minus(ended);
        // Who owned the devices before a configuration that perhaps never opened is not known here, nor who has promised a lease to the
        // run of a folder that was replaced.
        let is_unknown =
            |node| !known.members.contains(node) || known.owner() == Some(node) || replaced.contains(node);
        let ends = holders.iter().map(|node| {
            let promised = self.promised_until(node);
            if is_unknown(node) || proposal.forced {
                promised.max(proposal.claimed_at + self.longest_lease())
            } else {
                promised
            }
        });
        // What this node itself has promised it keeps, whatever it was for.
        let kept = (self.still_promised().minus(staying(next))).minus(ended);
        let ends = ends.chain(kept.iter().map(|node| self.promised_until(node)));
        ends.fold(self.now, Time::max)
    }

    fn ask_for_votes(&mut self) {
        let able = self.may_vote();
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        let Some(configuration) = proposal.value.clone() else {
            return;
        };
        let (instance, ballot, attempt) = (proposal.instance, proposal.ballot, proposal.attempt);
        let nodes = proposal.promised.nodes.without(ballot.node);
        let devices = proposal.promised.devices;
        proposal.phase = Phase::Voting;
        proposal.begun = self.now;
        proposal.nodes_asked = nodes;
        proposal.replicas_asked = devices.iter().map(Replica::Device).collect();
        if able {
            proposal.replicas_asked.insert(Replica::Local);
        }
        let block = BallotBlock {
            instance,
            promised: ballot,
            accepted: Some((ballot, configuration.clone())),
        };
        if able {
            self.store_ballot(block.clone(), Purpose::Accept(attempt));
        } else {
            // Its own blocks on the devices must go on saying what it voted for there.
            self.ballot = Some(block.clone());
        }
        for role in devices.iter() {
            self.claim_with(role, block.clone(), Purpose::Accept(attempt));
        }
        for node in nodes.iter() {
            self.send(
                node,
                Message::Accept {
                    instance,
                    ballot,
                    configuration: configuration.clone(),
                },
            );
        }
    }

    pub(in crate::protocol) fn on_accept_stored(
        &mut self,
        replica: Replica,
        attempt: Attempt,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        let me = self.me();
        let Some(proposal) = self.current(attempt) else {
            return;
        };
        proposal.replicas_asked.remove(&replica);
        let (instance, ballot) = (proposal.instance, proposal.ballot);
        match (replica, result) {
            (Replica::Local, Ok(_)) => proposal.voted.nodes.insert(me),
            (Replica::Device(role), Ok(ReplicaAnswer::Survey(survey))) => {
                if let Some(conflict) = Self::conflict(&survey, me, instance, ballot) {
                    self.abandon(&format!("on the {role}, {conflict}"));
                    return;
                }
                proposal.voted.devices = proposal.voted.devices.with(role);
            }
            (_, Ok(_)) => {}
            (replica, Err(error)) => proposal.obstacles.push(format!("the {replica} failed: {error}")),
        }
    }

    pub(in crate::protocol) fn on_accepted(&mut self, from: NodeId, instance: Epoch, ballot: Ballot) {
        if let Some(proposal) = &mut self.proposal
            && proposal.instance == instance
            && proposal.ballot == ballot
            && proposal.phase == Phase::Voting
        {
            proposal.nodes_asked.remove(from);
            proposal.voted.nodes.insert(from);
        }
    }

    /// The successor is decided. It is recorded on its voters and on every replica it will write, and installed.
    pub(in crate::protocol) fn decided(&mut self) {
        let Some(proposal) = self.proposal.take() else {
            return;
        };
        let Some(configuration) = proposal.value.clone() else {
            return;
        };
        let voters = self.known.devices;
        let mine = configuration.proposer == self.me()
            && configuration.members.contains(self.me())
            && !configuration.names_another_folder(self.me(), self.folder.id)
            && configuration.base == self.head.position();
        // What was voted for in an earlier run was judged then, by another node's evidence or while this one served.
        let opens = self.may_restart(&proposal, configuration.members);
        let lease_until = self.leases_end(&configuration, &proposal);
        let kind = if proposal.forced {
            DecisionKind::Override
        } else {
            DecisionKind::Decided
        };
        let mut text = format!(
            "decided {configuration} by {}: {}; starts from {}",
            proposal.voted, configuration.reason, configuration.base
        );
        if let Err(shown) = self.bound.allows(&self.known, configuration.base.stamp) {
            text = format!("{text}, although {shown}");
        }
        self.failures = 0;
        let missed = proposal.missed(voters);
        let in_vain = |role: &DeviceRole| !configuration.devices.contains(*role);
        self.note_devices_missed(missed.iter().filter(in_vain).collect());
        let newcomers = self.served_without();
        self.learn(configuration.clone());
        self.record(kind, text);
        self.send_to_all(&Message::Decided(configuration.clone()));
        let mut milestones = proposal.milestones;
        milestones.note("decided", self.now);
        let mut recording = 0_usize;
        for role in self.device_roles() {
            let replica = Replica::Device(role);
            let takes_part = voters.contains(role) || configuration.devices.contains(role);
            if takes_part && self.replica(replica).usable() && self.registered_on(role) {
                let op = ReplicaOp::WriteConfiguration {
                    configuration: configuration.clone(),
                };
                self.ask(replica, op, Purpose::Recorded(proposal.attempt));
                recording = recording.saturating_add(1);
            }
        }
        if let (true, Err(why)) = (mine, &opens) {
            let text = format!("epoch {} was not opened: {why}", configuration.epoch);
            self.record(DecisionKind::Refused, text.clone());
            self.waiting = (text, self.now);
        } else if mine {
            let install = Install::new(
                configuration,
                proposal.attempt,
                recording,
                lease_until,
                milestones,
                self.now,
            );
            self.begin_install(install.with_newcomers(newcomers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_told_from_reconfigurations_by_its_epoch() {
        for number in [0, 1, 7, 99_999, 100_000, 131_007, 250_000] {
            let known = Epoch(number);
            for node in NodeId::all() {
                let forced = override_epoch(known, node);
                assert!(is_overruled(known, forced), "{known} {forced}");
                assert!(!is_overruled(forced, forced.next()), "{forced}");
            }
        }
        assert!(!is_overruled(Epoch(1), Epoch(900)));
    }
}
