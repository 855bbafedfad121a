//! The model of the vote rule and of reconfiguration, explored whole up to its bounds; and known bad variants of the rules, each
//! of which must be found out.
//!
//! `CCD_MODEL_LIMITS=PROPOSALS,UPDATES,CRASHES` chooses other bounds for the sound models (`tests/run model` has a longer one):
//! each makes them many times larger. Debug builds take several times longer.

use ccd_tests::model::checks;
use ccd_tests::model::{Limits, Rules, Setup, Start, Variant};
use stateright::{Checker, HasDiscoveries, Model};
use std::time::Instant;

const A: u8 = 0b001;
const AB: u8 = 0b011;
const ABC: u8 = 0b111;
const BOTH: u8 = 0b11;

const NOTHING: Limits = Limits {
    proposals: 0,
    updates: 0,
    crashes: 0,
    overrides: 0,
    damages: 0,
};

const PAIR: Setup = Setup {
    nodes: 2,
    devices: 2,
    reservations: false,
    start: Start {
        members: AB,
        devices: BOTH,
        solo: false,
        down: 0,
    },
    limits: NOTHING,
    rules: Rules::SOUND,
};

const SOLO: Setup = Setup {
    start: Start {
        members: A,
        devices: BOTH,
        solo: true,
        down: 0,
    },
    ..PAIR
};

const THREE: Setup = Setup {
    nodes: 3,
    devices: 0,
    start: Start {
        members: ABC,
        devices: 0,
        solo: false,
        down: 0,
    },
    ..PAIR
};

/// The bounds that the environment asks for.
fn limits_wanted() -> Option<[u8; 3]> {
    let text = std::env::var("CCD_MODEL_LIMITS").ok()?;
    let numbers: Vec<u8> = text.split(',').filter_map(|number| number.parse().ok()).collect();
    let Ok(limits) = numbers.try_into() else {
        panic!("CCD_MODEL_LIMITS is {text:?}; it is PROPOSALS,UPDATES,CRASHES, such as 3,2,1");
    };
    Some(limits)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Explores the model whole, within the usual bounds or those that are asked for.
fn explore_usual(name: &str, setup: Setup) {
    let usual = [[2, 1, 0], [1, 2, 1]];
    let wanted = limits_wanted();
    for [proposals, updates, crashes] in wanted.as_ref().map_or(&usual[..], core::slice::from_ref) {
        explore(name, bound(setup, *proposals, *updates, *crashes));
    }
}

/// Explores the model whole: nothing that must always hold fails, and everything that must be possible is.
fn explore(name: &str, setup: Setup) {
    let started = Instant::now();
    let checker = setup
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} of them different, up to {} steps, in {:.1} s; {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64(),
        setup.limits
    );
    for (property, path) in checker.discoveries() {
        if checker.discovery_classification(property).to_string() == "counterexample" {
            println!("{name}: {property}: {:#?}", path.into_actions());
        }
    }
    checker.assert_properties();
}

#[test]
fn two_nodes_with_two_devices_without_reservations_explored() {
    explore_usual("paired, leases", PAIR);
}

#[test]
fn two_nodes_with_two_devices_with_reservations_explored() {
    explore_usual(
        "paired, reservations",
        Setup {
            reservations: true,
            ..PAIR
        },
    );
}

#[test]
fn a_solo_owner_without_reservations_explored() {
    explore_usual("solo, leases", SOLO);
}

#[test]
fn a_solo_owner_with_reservations_explored() {
    explore_usual(
        "solo, reservations",
        Setup {
            reservations: true,
            ..SOLO
        },
    );
}

#[test]
fn three_nodes_without_devices_explored() {
    explore_usual("three nodes", THREE);
}

/// A model with a bad variant of one rule: one of these properties must fail.
fn found_out(variant: Variant, setup: Setup, expected: &[&'static str]) {
    let started = Instant::now();
    let setup = Setup {
        rules: Rules::with(variant),
        ..setup
    };
    let checker = setup
        .checker()
        .threads(threads())
        .finish_when(HasDiscoveries::AnyOf(expected.iter().copied().collect()))
        .spawn_bfs()
        .join();
    let discoveries = checker.discoveries();
    let failed = (discoveries.iter()).find(|(property, _)| expected.contains(property));
    let Some((property, path)) = failed else {
        panic!(
            "{variant:?} was not found out in {} states",
            checker.unique_state_count()
        );
    };
    let steps = path.clone().into_actions();
    println!(
        "{variant:?}: not so that {property}, after {} steps ({} states, {:.1} s): {steps:?}",
        steps.len(),
        checker.unique_state_count(),
        started.elapsed().as_secs_f64()
    );
    assert!(
        expected.contains(property),
        "{property} is not what {variant:?} breaks"
    );
}

/// A bound that is enough for the variant, and no larger.
fn bound(setup: Setup, proposals: u8, updates: u8, crashes: u8) -> Setup {
    Setup {
        limits: Limits {
            proposals,
            updates,
            crashes,
            ..Limits::default()
        },
        ..setup
    }
}

fn overrides(setup: Setup, overrides: u8) -> Setup {
    Setup {
        limits: Limits {
            overrides,
            ..setup.limits
        },
        ..setup
    }
}

#[test]
fn devices_that_weigh_as_much_as_nodes_are_found_out() {
    let setup = bound(PAIR, 1, 1, 0);
    found_out(Variant::DevicesWeighAsNodes, setup, &[checks::WRITERS]);
}

#[test]
fn an_owner_that_does_not_look_for_claims_is_found_out() {
    let lost = [checks::ONE_WRITER, checks::ACKED_LOST];
    found_out(Variant::NoLookAfterTheWrite, bound(SOLO, 1, 1, 0), &lost);
}

#[test]
fn an_owner_that_does_not_look_for_claims_is_found_out_with_reservations_too() {
    // Who is to be a member of the successor is not fenced for it.
    let setup = Setup {
        reservations: true,
        ..bound(SOLO, 1, 1, 0)
    };
    let lost = [checks::ONE_WRITER, checks::ACKED_LOST];
    found_out(Variant::NoLookAfterTheWrite, setup, &lost);
}

#[test]
fn a_challenger_that_looks_before_its_ballot_is_there_is_found_out() {
    let lost = [checks::ONE_WRITER, checks::ACKED_LOST, checks::ONE_CONFIGURATION];
    found_out(Variant::LookBeforeTheBallot, bound(SOLO, 1, 1, 0), &lost);
}

#[test]
fn a_date_that_counts_more_than_the_stamp_is_found_out() {
    let setup = bound(PAIR, 2, 2, 0);
    found_out(
        Variant::DateBeforeStamp,
        setup,
        &[checks::ACKED_LOST, checks::ONE_WRITER],
    );
}

#[test]
fn the_newest_of_all_is_found_out() {
    let setup = Setup {
        start: Start {
            members: AB,
            ..THREE.start
        },
        ..bound(THREE, 1, 1, 2)
    };
    let limits = Limits {
        damages: 1,
        ..setup.limits
    };
    let setup = Setup { limits, ..setup };
    found_out(
        Variant::NewestOfAll,
        setup,
        &[checks::ACKED_LOST, checks::ONE_WRITER],
    );
}

#[test]
fn an_override_without_a_jump_is_found_out() {
    let setup = overrides(bound(PAIR, 1, 0, 0), 1);
    found_out(Variant::OverrideWithoutJump, setup, &[checks::ONE_CONFIGURATION]);
}

#[test]
fn an_override_that_jumps_too_short_is_found_out() {
    let setup = overrides(bound(PAIR, 1, 0, 0), 2);
    found_out(
        Variant::OverrideJumpsTooShort,
        setup,
        &[checks::ONE_CONFIGURATION],
    );
}

#[test]
fn opening_before_leases_have_run_out_is_found_out() {
    found_out(Variant::NoWaitForLeases, bound(THREE, 1, 1, 0), &[checks::STALE]);
    found_out(Variant::NoWaitForLeases, bound(PAIR, 1, 1, 0), &[checks::STALE]);
}

#[test]
fn waiting_only_for_members_of_what_never_opened_is_found_out() {
    found_out(
        Variant::WaitForMembersOnly,
        bound(THREE, 2, 1, 0),
        &[checks::STALE],
    );
}

#[test]
fn a_majority_of_the_members_is_found_out() {
    let setup = Setup {
        nodes: 5,
        start: Start {
            members: ABC,
            down: 0b11000,
            ..THREE.start
        },
        ..bound(THREE, 1, 1, 0)
    };
    found_out(Variant::MajorityOfMembers, setup, &[checks::COPIES]);
}

#[test]
fn a_ballot_that_is_forgotten_over_a_restart_is_found_out() {
    let setup = bound(THREE, 2, 0, 1);
    found_out(Variant::BallotForgotten, setup, &[checks::ONE_CONFIGURATION]);
}

#[test]
fn a_sealed_node_that_goes_on_is_found_out() {
    let lost = [checks::ONE_WRITER, checks::ACKED_LOST];
    found_out(Variant::SealedGoesOn, bound(THREE, 1, 1, 0), &lost);
}

#[test]
fn after_an_override_what_it_went_on_from_is_promised() {
    explore(
        "paired, leases, with an override",
        overrides(bound(PAIR, 1, 1, 0), 1),
    );
    explore(
        "three nodes, with an override",
        overrides(bound(THREE, 1, 1, 0), 1),
    );
    explore(
        "three nodes, with two overrides",
        overrides(bound(THREE, 1, 0, 0), 2),
    );
}
