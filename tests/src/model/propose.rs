//! From a ballot to a decision: what `propose.rs`, `promises.rs`, `vote.rs` and `conclude.rs` of the product do.

use super::checks;
use super::parts::{
    Ballot, Block, Conf, DEVICES_MAX, NODES_MAX, Node, Proposal, Set, Shown, State, Written, has, node_id,
    node_set,
};
use super::rules::Variant;
use super::serve;
use super::steps::{Setup, Step};
use ccd_core::ids::ClusterId;
use ccd_core::protocol::rules::{Next, Situation, next_fencing_step};
use ccd_core::reservation::{FenceOp, Holder, Registrations, ReservationKey};

const CLUSTER: ClusterId = ClusterId(*b"a modelled world");

fn key(node: usize) -> ReservationKey {
    ReservationKey::new(CLUSTER, node_id(node), 1)
}

impl Setup {
    pub(super) fn proposal_steps(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        let Some(proposal) = &it.proposal else {
            if it.install.is_none() {
                if state.left.proposals > 0 {
                    let up = serve::up(state);
                    let wants = (1..=up).filter(|want| want & !up == 0 && has(*want, node));
                    steps.extend(wants.map(|want| Step::Propose { node, want }));
                }
                if state.left.overrides > 0 {
                    steps.push(Step::Override { node });
                }
            }
            return;
        };
        if state.left.proposals > 0 {
            steps.push(Step::Abandon { node });
        }
        match proposal.value {
            None => self.promise_steps(state, node, proposal, steps),
            Some(_) => self.vote_steps(state, node, proposal, steps),
        }
    }

    fn promise_steps(&self, state: &State, node: usize, proposal: &Proposal, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        for (to, other) in state.nodes.iter().enumerate() {
            if to != node && other.up && !has(proposal.promised.0, to) && votes_for(other, proposal) {
                steps.push(Step::Ask { node, to });
            }
        }
        for device in 0..self.devices {
            let takes_part = has(it.known.devices | it.known.base_writers.1, device);
            if !takes_part || has(proposal.promised.1, device) {
                continue;
            }
            let looks = has(proposal.landed, device) != self.rules.is(Variant::LookBeforeTheBallot);
            if looks {
                steps.push(Step::Look { node, device });
                continue;
            }
            match self.next_fencing(state, node, proposal, device) {
                Next::Do(_) => steps.push(Step::Fence { node, device }),
                Next::Done => {
                    steps.push(Step::WriteBallot { node, device });
                    self.die_writing(state, node, device, steps);
                }
                Next::Fenced | Next::Blocked(_) => {}
            }
        }
        let enough = proposal.forced || self.rules.decide(&it.known, proposal.promised);
        if enough && self.start_from(proposal, &it.known).is_some() {
            steps.push(Step::Choose {
                node,
                returned: false,
            });
            let outside = self.all_devices() & !it.known.devices;
            if outside != 0 && !proposal.forced && proposal.want.count_ones() > 1 {
                steps.push(Step::Choose { node, returned: true });
            }
        }
    }

    fn vote_steps(&self, state: &State, node: usize, proposal: &Proposal, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        let missing = (
            proposal.promised.0 & !proposal.voted.0,
            proposal.promised.1 & !proposal.voted.1,
        );
        for (to, other) in state.nodes.iter().enumerate() {
            if has(missing.0, to) && other.up && votes_for(other, proposal) {
                steps.push(Step::AskVote { node, to });
            }
        }
        for device in 0..self.devices {
            if !has(missing.1, device) {
                continue;
            }
            if has(proposal.landed, device) {
                steps.push(Step::Look { node, device });
            } else {
                steps.push(Step::WriteBallot { node, device });
                self.die_writing(state, node, device, steps);
            }
        }
        if proposal.forced || self.rules.decide(&it.known, proposal.voted) {
            steps.push(Step::Decide { node });
        }
    }

    pub(super) fn take_proposal(&self, state: &mut State, step: Step) {
        match step {
            Step::Propose { node, want } => {
                state.left.proposals -= 1;
                propose(state, node, want, false);
            }
            Step::Override { node } => {
                state.left.overrides -= 1;
                propose(state, node, 1 << node, true);
            }
            Step::Abandon { node } => state.nodes[node].proposal = None,
            Step::Ask { node, to } => ask(state, node, to),
            Step::Fence { node, device } => self.fence(state, node, device),
            Step::WriteBallot { node, device } => {
                self.ask_to_write(state, node, device);
                self.land(state, node);
            }
            Step::Look { node, device } => self.look(state, node, device),
            Step::Choose { node, returned } => self.choose(state, node, returned),
            Step::AskVote { node, to } => ask_vote(state, node, to),
            Step::Decide { node } => self.decide(state, node),
            _ => unreachable!("taken by the other parts"),
        }
    }

    /// What the product would do next with the reservation; without one, nothing is in the way.
    fn next_fencing(&self, state: &State, node: usize, proposal: &Proposal, device: usize) -> Next {
        if !self.reservations {
            return Next::Done;
        }
        let disk = &state.devices[device];
        let seen = Registrations {
            keys: super::parts::members(disk.registered).map(key).collect(),
            holder: disk.holder.map(|holder| Holder {
                key: key(usize::from(holder)),
                right_type: true,
            }),
            paths_missing: 0,
        };
        let victims: Set = ((1 << self.nodes) - 1) & !proposal.want;
        next_fencing_step(&Situation {
            me: node_id(node),
            cluster: CLUSTER,
            key: Some(key(node)),
            fresh: key(node),
            seen: &seen,
            victims: node_set(victims),
            may_register: proposal.may_register,
            paths_tried: true,
            in_vain: false,
        })
    }

    fn fence(&self, state: &mut State, node: usize, device: usize) {
        let Some(proposal) = state.nodes[node].proposal else {
            return;
        };
        let Next::Do(op) = self.next_fencing(state, node, &proposal, device) else {
            return;
        };
        let disk = &mut state.devices[device];
        match op {
            FenceOp::Register { .. } => disk.registered |= 1 << node,
            FenceOp::Reserve { .. } => disk.holder = Some(node as u8),
            FenceOp::PreemptAbort { victim, .. } => {
                let victim = victim.node(CLUSTER).expect("a key of the model").index();
                disk.registered &= !(1 << victim);
                if disk.holder == Some(victim as u8) {
                    disk.holder = Some(node as u8);
                }
                let of_victim = &mut state.nodes[victim].in_flight;
                of_victim.take_if(|write| usize::from(write.device) == device);
            }
            FenceOp::Look | FenceOp::Unregister { .. } => {}
        }
    }

    pub(super) fn ballot_landed(&self, it: &mut Node, device: usize, block: &Block) {
        let Some(proposal) = it
            .proposal
            .as_mut()
            .filter(|proposal| proposal.ballot == block.promised)
        else {
            return;
        };
        let is_vote = block
            .accepted
            .is_some_and(|(ballot, _)| ballot == proposal.ballot);
        if is_vote != proposal.value.is_some() {
            return;
        }
        if !is_vote && self.rules.is(Variant::LookBeforeTheBallot) {
            proposal.promised.1 |= 1 << device;
        } else {
            proposal.landed |= 1 << device;
        }
    }

    /// The others' ballots on a device may speak against this one; else the device has promised, or voted.
    fn look(&self, state: &mut State, node: usize, device: usize) {
        let Some(mut proposal) = state.nodes[node].proposal else {
            return;
        };
        let disk = &state.devices[device];
        let blocks = || disk.areas.iter().filter_map(|area| area.block);
        let conflict = |block: &Block| {
            block.instance > proposal.instance
                || block.instance == proposal.instance && block.promised > proposal.ballot
        };
        if blocks().any(|block| conflict(&block)) {
            state.nodes[node].proposal = None;
            return;
        }
        proposal.landed &= !(1 << device);
        if proposal.value.is_some() {
            proposal.voted.1 |= 1 << device;
        } else {
            if self.rules.is(Variant::LookBeforeTheBallot) {
                proposal.landed |= 1 << device;
            } else {
                proposal.promised.1 |= 1 << device;
            }
            for block in blocks().filter(|block| block.instance == proposal.instance) {
                proposal.accepted = higher(proposal.accepted, block.accepted);
            }
            proposal.shown[NODES_MAX + device] = Some(Shown {
                content: disk.content(),
                whole: true,
            });
        }
        state.nodes[node].proposal = Some(proposal);
    }

    /// The state that the proposal's configuration would start from.
    fn start_from(&self, proposal: &Proposal, known: &Conf) -> Option<Shown> {
        let (nodes, devices) = proposal.shown.split_at(NODES_MAX);
        let newest = self.rules.newest(known, nodes, devices);
        if newest.is_some() || !proposal.forced {
            return newest;
        }
        let whole = proposal.shown.iter().flatten().filter(|shown| shown.whole);
        whole
            .max_by_key(|shown| (shown.content.epoch(), shown.content.generation()))
            .copied()
    }

    fn choose(&self, state: &mut State, node: usize, returned: bool) {
        let up = serve::up(state);
        let it = &mut state.nodes[node];
        let (Some(mut proposal), known) = (it.proposal, it.known) else {
            return;
        };
        let value = match proposal.accepted {
            Some((_, conf)) if !proposal.forced => conf,
            _ => {
                let Some(from) = self.start_from(&proposal, &known) else {
                    return;
                };
                // As `conclude.rs` does it: past what an override before this one may have voted for.
                let own = it.ballot.filter(|block| block.instance == proposal.instance);
                let voted_for = [proposal.accepted, own.and_then(|block| block.accepted)]
                    .into_iter()
                    .flatten()
                    .fold(known.epoch, |newest, (_, conf)| newest.max(conf.epoch));
                let members = proposal.want & up;
                let mut devices = proposal.promised.1 & known.devices;
                let alone = members.count_ones() == 1 && devices != 0;
                if returned && !alone {
                    devices |= self.all_devices() & !known.devices;
                }
                Conf {
                    epoch: if proposal.forced {
                        self.rules.override_epoch(voted_for, node)
                    } else {
                        known.epoch + 1
                    },
                    solo: alone,
                    forced: proposal.forced,
                    members,
                    nodes: if proposal.forced {
                        members
                    } else {
                        (1 << self.nodes) - 1
                    },
                    devices,
                    proposer: node as u8,
                    base: from.content,
                    base_writers: if from.content.epoch() == known.epoch {
                        known.writers()
                    } else {
                        known.base_writers
                    },
                }
            }
        };
        if !proposal.forced && !self.rules.admissible(&value) {
            it.proposal = None;
            return;
        }
        proposal.value = Some(value);
        proposal.landed = 0;
        // What was shown has done its part; states that differ in it only are one.
        proposal.shown = [None; NODES_MAX + DEVICES_MAX];
        proposal.accepted = None;
        proposal.voted = (1 << node, 0);
        it.ballot = Some(Block {
            instance: proposal.instance,
            promised: proposal.ballot,
            accepted: Some((proposal.ballot, value)),
        });
        it.proposal = Some(proposal);
    }

    fn decide(&self, state: &mut State, node: usize) {
        let it = &mut state.nodes[node];
        let (Some(proposal), before) = (it.proposal, it.known) else {
            return;
        };
        let Some(conf) = proposal.value else {
            return;
        };
        it.learn(conf);
        if usize::from(conf.proposer) == node && has(conf.members, node) {
            let wait_for = self.rules.may_hold_leases(&before, &conf) & !proposal.promised.0;
            serve::begin_install(it, wait_for);
        }
        checks::on_decided(self, state, conf);
    }
}

/// Whether this node would take part in this ballot.
fn votes_for(voter: &Node, proposal: &Proposal) -> bool {
    voter.known.epoch == proposal.instance
        && (voter.ballot)
            .is_none_or(|block| block.instance < proposal.instance || block.promised <= proposal.ballot)
}

fn propose(state: &mut State, node: usize, want: Set, forced: bool) {
    let instance = state.nodes[node].known.epoch;
    // Above every ballot of this instance, wherever it is: lower ones are those that were begun before.
    let of_nodes = state.nodes.iter().filter_map(|node| node.ballot);
    let on_devices = state
        .devices
        .iter()
        .flat_map(|disk| disk.areas.iter().filter_map(|area| area.block));
    let under_way = state.nodes.iter().filter_map(|node| match node.in_flight?.what {
        Written::Block(block) => Some(block),
        Written::Image(..) => None,
    });
    let round = of_nodes
        .chain(on_devices)
        .chain(under_way)
        .filter(|block| block.instance == instance)
        .map(|block| block.promised.round)
        .max()
        .unwrap_or(0)
        + 1;
    let ballot = Ballot {
        round,
        node: node as u8,
    };
    let it = &mut state.nodes[node];
    let accepted = accepted_in(it, instance);
    let may_register = !it.serving;
    // What a solo owner remembers is the newest state.
    let content = if it.serving { it.head } else { it.copy };
    it.ballot = Some(Block {
        instance,
        promised: ballot,
        accepted,
    });
    it.round = None;
    it.invited = false;
    let mut shown = [None; NODES_MAX + DEVICES_MAX];
    shown[node] = Some(Shown {
        content,
        whole: !it.damaged,
    });
    it.proposal = Some(Proposal {
        instance,
        ballot,
        want,
        forced,
        may_register,
        promised: (1 << node, 0),
        landed: 0,
        shown,
        accepted,
        value: None,
        voted: (0, 0),
    });
}

fn accepted_in(it: &Node, instance: u32) -> Option<(Ballot, Conf)> {
    it.ballot.filter(|block| block.instance == instance)?.accepted
}

fn higher(one: Option<(Ballot, Conf)>, other: Option<(Ballot, Conf)>) -> Option<(Ballot, Conf)> {
    match (one, other) {
        (Some(one), Some(other)) if other.0 > one.0 => Some(other),
        (None, other) => other,
        (one, _) => one,
    }
}

fn ask(state: &mut State, node: usize, to: usize) {
    let Some(mut proposal) = state.nodes[node].proposal else {
        return;
    };
    let voter = &mut state.nodes[to];
    let accepted = accepted_in(voter, proposal.instance);
    voter.ballot = Some(Block {
        instance: proposal.instance,
        promised: proposal.ballot,
        accepted,
    });
    voter.proposal = None;
    proposal.promised.0 |= 1 << to;
    proposal.accepted = higher(proposal.accepted, accepted);
    let content = if voter.serving { voter.head } else { voter.copy };
    proposal.shown[to] = Some(Shown {
        content,
        whole: !voter.damaged,
    });
    state.nodes[node].proposal = Some(proposal);
}

fn ask_vote(state: &mut State, node: usize, to: usize) {
    let Some(mut proposal) = state.nodes[node].proposal else {
        return;
    };
    let Some(value) = proposal.value else {
        return;
    };
    state.nodes[to].ballot = Some(Block {
        instance: proposal.instance,
        promised: proposal.ballot,
        accepted: Some((proposal.ballot, value)),
    });
    proposal.voted.0 |= 1 << to;
    state.nodes[node].proposal = Some(proposal);
}
