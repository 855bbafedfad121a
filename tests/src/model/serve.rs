//! From decided to open, and updates: what `install.rs`, `member.rs`, `round.rs` and `prepared.rs` of the product do.

use super::checks;
use super::parts::{Device, Install, Node, Round, Set, State, has, members};
use super::rules::Variant;
use super::steps::{Setup, Step};

/// Nodes whose processes run.
pub fn up(state: &State) -> Set {
    let bits = state.nodes.iter().enumerate();
    bits.map(|(index, node)| Set::from(node.up) << index).sum()
}

/// The proposer's own part of an installation.
pub fn begin_install(it: &mut Node, wait_for: Set) {
    let opened = it.known.base.opened(it.known.epoch);
    if !it.known.solo {
        it.copy = opened;
        it.damaged = false;
    }
    it.head = opened;
    it.install = Some(Install {
        ready: 0,
        written: 0,
        wait_for,
    });
}

/// Whether another node's ballot on the device is for a successor of this epoch, or later.
fn claimed(disk: &Device, node: usize, epoch: u32) -> bool {
    let mut others = disk.areas.iter().enumerate();
    others.any(|(index, area)| index != node && area.block.is_some_and(|block| block.instance >= epoch))
}

impl Setup {
    pub(super) fn serving_steps(&self, state: &State, node: usize, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        let waited_for = |other: &Node| other.install.is_some_and(|install| has(install.wait_for, node));
        if it.leased && state.nodes.iter().any(waited_for) {
            steps.push(Step::LeaseEnds { node });
        }
        if let Some(install) = it.install {
            self.install_steps(state, node, &install, steps);
            return;
        }
        let conf = &it.known;
        let serves_it = |other: &Node| other.up && other.serving && other.known == *conf;
        if it.invited && !it.serving && !it.is_sealed() && state.nodes.iter().any(serves_it) {
            steps.push(Step::Join { node });
        }
        let closed = it.is_sealed() && !self.rules.is(Variant::SealedGoesOn);
        if !it.serving || closed || conf.master() != node {
            return;
        }
        match &it.round {
            None if state.left.updates > 0 => steps.push(Step::Begin { node }),
            None => {}
            Some(round) => self.round_steps(state, node, round, steps),
        }
    }

    fn install_steps(&self, state: &State, node: usize, install: &Install, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        if it.is_sealed() {
            return;
        }
        let conf = &it.known;
        let others = conf.members & !(1 << node);
        for to in members(others & !install.ready) {
            let other = &state.nodes[to];
            let behind = other.known.epoch < conf.epoch || other.known == *conf && !other.is_sealed();
            if other.up && behind {
                steps.push(Step::MakeReady { node, to });
            }
        }
        if conf.solo {
            for device in members(conf.devices & !install.written) {
                steps.push(Step::WriteImage { node, device });
                self.die_writing(state, node, device, steps);
            }
        }
        let written = !conf.solo || install.written & conf.devices == conf.devices;
        let may_answer = |index: usize| {
            let other = &state.nodes[index];
            other.up && other.leased && other.known.epoch < conf.epoch
        };
        let waits = members(install.wait_for).any(may_answer) && !self.rules.is(Variant::NoWaitForLeases);
        if install.ready == others && written && !waits {
            steps.push(Step::Open { node });
        }
    }

    fn round_steps(&self, state: &State, node: usize, round: &Round, steps: &mut Vec<Step>) {
        let it = &state.nodes[node];
        let conf = &it.known;
        let goes_on = self.rules.is(Variant::SealedGoesOn);
        if !conf.solo {
            for to in members(conf.members & !round.stored) {
                let other = &state.nodes[to];
                let takes_part = other.known == *conf && (other.serving || other.invited);
                let open = !other.is_sealed() || goes_on;
                if other.up && takes_part && open && other.copy.is_part_of(&round.next) {
                    steps.push(Step::Store { node, to });
                }
            }
            if round.stored == conf.members {
                steps.push(Step::Ack { node });
            }
            return;
        }
        for device in members(conf.devices) {
            if !has(round.stored, device) {
                steps.push(Step::WriteUpdate { node, device });
                self.die_writing(state, node, device, steps);
            } else if !has(round.checked, device) && !self.rules.is(Variant::NoLookAfterTheWrite) {
                steps.push(Step::LookForClaims { node, device });
            }
        }
        let checked = round.checked == conf.devices || self.rules.is(Variant::NoLookAfterTheWrite);
        if round.stored == conf.devices && checked {
            steps.push(Step::Ack { node });
        }
    }

    /// A lease, if enough grant it now: members that know the same and are not sealed, or devices without a claim.
    fn grant(&self, state: &mut State, node: usize) {
        let it = &state.nodes[node];
        let conf = it.known;
        let grants = |index: usize, other: &Node| {
            index != node && other.up && other.known == conf && !other.is_sealed()
        };
        let ayes = if conf.solo {
            let unclaimed = |device: &usize| !claimed(&state.devices[*device], node, conf.epoch);
            let devices = members(conf.devices).filter(unclaimed);
            (1 << node, devices.map(|device| 1 << device).sum())
        } else {
            let others = state.nodes.iter().enumerate();
            let granting = others.filter(|(index, other)| grants(*index, other));
            (granting.map(|(index, _)| 1 << index).sum::<Set>() | 1 << node, 0)
        };
        let takes_part = it.serving || it.invited || it.install.is_some();
        if it.up && takes_part && !it.is_sealed() && self.rules.decide(&conf, ayes) {
            state.nodes[node].leased = true;
        }
    }

    pub(super) fn take_serving(&self, state: &mut State, step: Step) {
        match step {
            Step::MakeReady { node, to } => {
                let conf = state.nodes[node].known;
                let other = &mut state.nodes[to];
                if other.known != conf {
                    other.learn(conf);
                }
                other.copy = conf.base.opened(conf.epoch);
                other.head = other.copy;
                other.damaged = false;
                other.invited = true;
                if let Some(install) = &mut state.nodes[node].install {
                    install.ready |= 1 << to;
                }
                // The leases of the new configuration are asked for before it opens.
                self.grant(state, node);
                for other in members(conf.members) {
                    self.grant(state, other);
                }
            }
            Step::WriteImage { node, device } | Step::WriteUpdate { node, device } => {
                self.ask_to_write(state, node, device);
                self.land(state, node);
            }
            Step::Open { node } => {
                let it = &mut state.nodes[node];
                it.install = None;
                it.serving = true;
                self.grant(state, node);
            }
            Step::Join { node } => {
                let it = &mut state.nodes[node];
                it.invited = false;
                it.serving = true;
                self.grant(state, node);
            }
            Step::Begin { node } => {
                state.left.updates -= 1;
                let it = &mut state.nodes[node];
                let next = it.head.updated();
                let mut stored = 0;
                if !it.known.solo {
                    it.copy = next;
                    it.head = next;
                    stored = 1 << node;
                }
                it.round = Some(Round {
                    next,
                    stored,
                    checked: 0,
                });
            }
            Step::Store { node, to } => {
                if let Some(round) = &mut state.nodes[node].round {
                    round.stored |= 1 << to;
                    let next = round.next;
                    state.nodes[to].copy = next;
                    state.nodes[to].head = next;
                }
            }
            Step::LookForClaims { node, device } => {
                let epoch = state.nodes[node].known.epoch;
                let claimed = claimed(&state.devices[device], node, epoch);
                let it = &mut state.nodes[node];
                if claimed {
                    it.stop();
                } else if let Some(round) = &mut it.round {
                    round.checked |= 1 << device;
                }
            }
            Step::Ack { node } => {
                let it = &mut state.nodes[node];
                if let Some(round) = it.round.take() {
                    it.head = round.next;
                    let conf = it.known;
                    checks::on_ack(state, &conf, round.next);
                }
            }
            Step::LeaseEnds { node } => state.nodes[node].leased = false,
            _ => unreachable!("taken by the other parts"),
        }
    }
}
