//! The properties: what must hold in every state, and what must be possible in some.

use super::parts::{Conf, Content, Proposal, State, Wrong};
use super::steps::Setup;
use stateright::Property;

pub const ACKED_LOST: &str = "no acked update is lost";
pub const ONE_CONFIGURATION: &str = "one configuration an epoch";
pub const ONE_WRITER: &str = "one writer";
pub const STALE: &str = "no strict read is stale";
pub const COPIES: &str = "without devices, what is acked is on more than half of all nodes";
pub const WRITERS: &str = "whoever decides holds a replica that was written to";

pub const ARBITER_0: &str = "node 0 takes over with the arbiter";
pub const ARBITER_1: &str = "node 1 takes over with the arbiter";
pub const NO_DEVICE: &str = "two nodes go on without a device";
pub const OWNER_PRIMARY: &str = "a solo owner goes on with the primary alone";
pub const OWNER_SECONDARY: &str = "a solo owner goes on with the secondary alone";
pub const BOTH_DEVICES: &str = "another node takes over from a solo owner with both devices";
pub const MAJORITY: &str = "two of three nodes go on";

pub(super) fn properties(setup: &Setup) -> Vec<Property<Setup>> {
    let mut properties = vec![
        Property::always(ACKED_LOST, |_, state: &State| {
            state.wrong != Some(Wrong::AckedLost)
        }),
        Property::always(ONE_CONFIGURATION, |_, state: &State| {
            state.wrong != Some(Wrong::TwoConfigurations)
        }),
        Property::always(ONE_WRITER, |_, state: &State| {
            state.wrong != Some(Wrong::TwoWriters)
        }),
        Property::always(STALE, |_, state: &State| !answers_stale(state)),
        Property::always(COPIES, |_, state: &State| {
            state.wrong != Some(Wrong::TooFewCopies)
        }),
        Property::always(WRITERS, |_, state: &State| {
            state.wrong != Some(Wrong::VotesHoldNothing)
        }),
    ];
    match (setup.nodes, setup.devices, setup.start.solo) {
        (2, 2, false) => properties.extend([
            Property::sometimes(ARBITER_0, |setup: &Setup, state: &State| {
                decided_by(setup, state, (0b01, 0b01))
            }),
            Property::sometimes(ARBITER_1, |setup: &Setup, state: &State| {
                decided_by(setup, state, (0b10, 0b01))
            }),
            Property::sometimes(NO_DEVICE, |setup: &Setup, state: &State| {
                decided_by(setup, state, (0b11, 0))
            }),
        ]),
        (2, 2, true) => properties.extend([
            Property::sometimes(OWNER_PRIMARY, |setup, state| {
                decided_by(setup, state, (0b01, 0b01))
            }),
            Property::sometimes(OWNER_SECONDARY, |setup, state| {
                decided_by(setup, state, (0b01, 0b10))
            }),
            Property::sometimes(BOTH_DEVICES, |setup, state| {
                decided_by(setup, state, (0b10, 0b11))
            }),
        ]),
        (3, 0, _) => properties.push(Property::sometimes(MAJORITY, |setup, state| {
            decided_by(setup, state, (0b110, 0))
        })),
        _ => {}
    }
    properties
}

/// These nodes and devices, and no others, have just decided the successor of the first configuration.
fn decided_by(setup: &Setup, state: &State, voters: (u8, u8)) -> bool {
    let enough = |proposal: &Proposal, known: &Conf| {
        known.epoch == 1
            && !proposal.forced
            && proposal.value.is_some()
            && proposal.voted == voters
            && setup.rules.decide(known, voters)
    };
    (state.nodes.iter()).any(|node| {
        node.proposal
            .is_some_and(|proposal| enough(&proposal, &node.known))
    })
}

fn answers_stale(state: &State) -> bool {
    (state.nodes.iter()).any(|node| {
        node.answers() && node.known.epoch >= state.overruled && !state.acked.is_part_of(&node.head)
    })
}

impl State {
    fn found(&mut self, wrong: Wrong) {
        self.wrong.get_or_insert(wrong);
    }
}

/// Somebody takes a configuration for decided.
pub(super) fn on_decided(setup: &Setup, state: &mut State, conf: Conf) {
    if let Some(known) = state.decided.iter().find(|known| known.epoch == conf.epoch) {
        if *known != conf {
            state.found(Wrong::TwoConfigurations);
        }
        return;
    }
    let place = state.decided.partition_point(|known| known.epoch < conf.epoch);
    state.decided.insert(place, conf);
    if conf.epoch <= state.overruled {
        // Of the branch that was given up: nothing is promised there.
    } else if conf.forced {
        state.overruled = conf.epoch;
        // Of what clients had heard of, that is still promised which the override went on from.
        state.acked = state.acked.common(&conf.base).seen();
    } else if !state.acked.is_part_of(&conf.base) {
        state.found(Wrong::AckedLost);
    }
    if !conf.forced && !every_deciding_set_holds_a_writer(setup, &conf) {
        state.found(Wrong::VotesHoldNothing);
    }
}

fn every_deciding_set_holds_a_writer(setup: &Setup, conf: &Conf) -> bool {
    let writers = conf.writers();
    let nodes = 0..1u8 << setup.nodes;
    nodes
        .flat_map(|nodes| (0..1u8 << setup.devices).map(move |devices| (nodes, devices)))
        .filter(|ayes| setup.rules.decide(conf, *ayes))
        .all(|(nodes, devices)| nodes & writers.0 != 0 || devices & writers.1 != 0)
}

/// A client hears that an update is durable.
pub(super) fn on_ack(state: &mut State, conf: &Conf, content: Content) {
    if conf.epoch < state.overruled {
        return;
    }
    let later = |known: &&Conf| known.epoch > conf.epoch && !known.forced;
    let left_out = state
        .decided
        .iter()
        .filter(later)
        .any(|known| !content.is_part_of(&known.base));
    // An update that its master acks late may have been rolled forward: then it is part of what came after.
    let rolled_forward = content.is_part_of(&state.acked);
    if left_out || !rolled_forward && !state.acked.is_part_of(&content) {
        state.found(Wrong::TwoWriters);
    }
    if conf.devices == 0 && conf.members.count_ones() * 2 <= conf.nodes.count_ones() {
        state.found(Wrong::TooFewCopies);
    }
    if !rolled_forward {
        state.acked = content;
    }
}
