//! Random histories under random faults, and proof that the simulator is deterministic and finds what is wrong.
//!
//! `CCD_SIM_HISTORIES` and `CCD_SIM_FROM` choose other seeds than the usual 10,000. In a debug build the histories
//! take several times longer; run `cargo test --release -p ccd-tests`.

use ccd_core::init::Fencing;
use ccd_tests::sim::campaign::{self, Campaign, Report};
use ccd_tests::sim::plan::{Family, Seed};
use ccd_tests::sim::run::{Counts, run_seed};
use ccd_tests::sim::world::Sabotage;

fn from_environment(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")),
        Err(_) => usual,
    }
}

/// Runs these histories, and prints those that are not sound.
fn sound(campaign: &Campaign) -> Report {
    let mut report = campaign::run(campaign, |_| {});
    for failure in &mut report.failures {
        println!("{}", campaign::describe(failure, None));
    }
    println!("{:?}", report.counts);
    assert!(
        report.failures.is_empty(),
        "{} of the seeds failed; see above",
        report.failures.len()
    );
    report
}

#[test]
fn ten_thousand_histories_are_sound() {
    let from = from_environment("CCD_SIM_FROM", 0);
    let count = from_environment("CCD_SIM_HISTORIES", 10_000);
    let campaign = Campaign {
        failures_max: 5,
        ..Campaign::new(from..from + count)
    };
    let report = sound(&campaign);
    assert_eq!(report.counts.histories, count);
    // Faults that leave nothing to check would make any system sound.
    assert!(report.counts.acked > 20 * count, "hardly anything was acked");
    assert!(
        report.counts.configurations > 2 * count,
        "hardly anything was reconfigured"
    );
    let (segments, images) = (report.counts.segments, report.counts.images);
    assert!(
        3 * segments > count && 3 * images > count,
        "{segments} segments and {images} images"
    );
    assert!(
        report.counts.too_hard * 50 <= count,
        "the checker gave up on {} histories",
        report.counts.too_hard
    );
}

/// One history of this family for so many usual ones; how many there were, and what came out.
fn sound_part(family: Family, one_in: u64) -> (u64, Report) {
    let from = from_environment("CCD_SIM_FROM", 0);
    let count = from_environment("CCD_SIM_HISTORIES", 10_000).div_ceil(one_in);
    let campaign = Campaign {
        family: Some(family),
        failures_max: 5,
        ..Campaign::new(from..from + count)
    };
    (count, sound(&campaign))
}

/// Histories in which nothing happens would make any system sound.
fn reconfigures(count: u64, report: &Report) {
    assert!(report.counts.acked > 20 * count, "hardly anything was acked");
    assert!(
        report.counts.configurations > 3 * count,
        "hardly anything was reconfigured"
    );
}

#[test]
fn histories_of_replicas_that_are_set_back_or_made_anew_are_sound() {
    let (count, report) = sound_part(Family::Replicas, 4);
    let Counts {
        acked,
        over,
        overruled,
        ..
    } = report.counts;
    assert!(acked > 20 * count, "hardly anything was acked");
    // Most losses are seen, and most clusters go on by themselves.
    assert!(
        5 * over < count,
        "{over} of {count} histories lost what nothing showed"
    );
    assert!(
        20 * overruled > count && 2 * overruled < count,
        "{overruled} of {count} histories waited for an operator"
    );
}

#[test]
fn histories_of_a_copy_of_a_disk_at_one_server_are_sound() {
    let (count, report) = sound_part(Family::Clones, 20);
    reconfigures(count, &report);
}

#[test]
fn histories_of_servers_with_an_edited_init_database_are_sound() {
    let (count, report) = sound_part(Family::Edits, 10);
    reconfigures(count, &report);
}

#[test]
fn histories_of_servers_that_are_moved_are_sound() {
    let (count, report) = sound_part(Family::Moves, 10);
    reconfigures(count, &report);
}

/// Seeds that found something, each with what it was. They mean something else once the simulator draws
/// pairs otherwise.
const FOUND: &[(u64, &str)] = &[
    (
        8,
        "a round under way held back the change that would have let it end",
    ),
    (
        24,
        "catching up by a tail that the journal has no room for, for ever",
    ),
    (576, "a copy went back behind an acked update while it caught up"),
    (
        611,
        "both nodes lost power after the first decision, and looked new",
    ),
    (1079, "busy was said, and a copy of the request was applied"),
    (
        981,
        "with reservations and slow disks: two proposers outbid each other for ever",
    ),
    (
        1472,
        "of three members one opened on another state than the others",
    ),
    (1916, "a fetch that came late took back the opening of an epoch"),
    (3274, "a member went back to the base after it had opened on it"),
    (
        5409,
        "with reservations: a device that refused writes and then forgot the node stayed out of use for ever",
    ),
    (6718, "as 1472"),
    (
        6727,
        "a proposer did not count its own vote: two configurations of one epoch",
    ),
    (
        8251,
        "nodes that had voted for the first configuration looked new",
    ),
    (
        9619,
        "a base was not found under the number of an epoch that never opened",
    ),
    (
        485,
        "the refusal of an earlier master was taken for the word on a later one's round",
    ),
    (
        900_010_893,
        "with reservations: a slow device was taken back and left out again without end",
    ),
    (700_010_365, "as 900010893"),
    (
        700_047_629,
        "with reservations: a session made anew before the reservation was taken was never registered",
    ),
    (
        7_002_291,
        "with reservations: a node that writes no heartbeats never learned that a device takes writes again",
    ),
    (
        10_000_000_556,
        "with leases: copies of one server claimed its area at the same moment",
    ),
    (
        13_000_045_133,
        "of two copies of a server that preempted each other one wrote its vote over the other's, which had decided",
    ),
    (
        21_500_000_637,
        "with reservations: the last node of a cluster waited for a removed one that had fenced it",
    ),
    (
        30_000_013_117,
        "with reservations: a copy of a server wrote an earlier vote over the one of the run that had decided",
    ),
    (
        32_000_012_700,
        "with leases: a node was sent the image of the very state that it held in doubt, and asked for it for ever",
    ),
    (
        45_000_061_497,
        "with reservations: a copy that the devices had taken in and its original both voted, each with another device",
    ),
    (45_000_064_553, "as 45000061497"),
    (
        45_000_523_749,
        "with reservations: a new server took its number's former owner for an earlier run of itself elsewhere, and had no vote",
    ),
    (45_000_187_065, "as 45000523749"),
    (
        45_000_216_941,
        "with reservations: a pair gave up its last device for a node without a vote, which died before it had stored that",
    ),
    (45_000_353_521, "as 45000216941"),
    (
        45_000_223_925,
        "with reservations: what a device had voted for could not be decided again without a state that nobody needs any more",
    ),
    (
        46_000_003_637,
        "what a copy of a server had left on a device without a vote took its original's vote after a restart",
    ),
    (
        46_000_000_457,
        "a node wrote over the last heartbeat of another run of it, and then took its devices for overwritten",
    ),
];

/// The same for servers with an edited init database.
const FOUND_IN_EDITS: &[(u64, &str)] = &[
    (
        46_000_163_806,
        "a refusal told of what an owner had begun to write, and was taken for what had been acked: nobody started any more",
    ),
    (
        46_000_194_186,
        "the first configuration was voted for with an edited init database, put right since: nobody could repeat the vote",
    ),
    (
        46_000_194_322,
        "a node was not believed that waited for a lease from before an edit",
    ),
];

/// The same for groups.
const FOUND_IN_GROUPS: &[(u64, &str)] = &[
    (
        701_442,
        "a node that died before its own disk had its ballot used that again, for something else",
    ),
    (
        1_500_023_026,
        "a proposer told what it had fetched, and another proposal left it out",
    ),
    (1_500_043_025, "as 1500023026"),
    (1_500_054_729, "as 1500023026"),
    (
        1_500_034_813,
        "as 1500023026, with reservations; another node told the other round",
    ),
    (
        1_500_046_240,
        "the checker took the record of a request that was given up for the one that was acked",
    ),
    (700_008_939, "as 1500046240, with reservations"),
    (
        1_500_042_484,
        "an image of no use was sent and asked for again at the speed of the network",
    ),
    (
        3_000_000_718,
        "half of the nodes answered from the base of a configuration that never opened",
    ),
    (
        10_000_010_962,
        "a device failed after another run of the node was found there: its node waited for that run for ever",
    ),
    (
        13_000_035_467,
        "a device that had failed again and again was left alone for longer than the checker waited",
    ),
    (
        31_000_000_543,
        "with reservations: a removed node's init database took the place of the one that was decided, and nobody else goes by it",
    ),
    (
        45_000_019_307,
        "with reservations: of two changes of the nodes the one that was begun first undid the one that was decided first",
    ),
    (
        45_000_109_987,
        "with reservations: a server waited for ever for an area without a heartbeat to stand still",
    ),
    (
        45_000_737_223,
        "with reservations: a copy was made before its original had ever written to the device, and both voted",
    ),
    (
        45_000_256_051,
        "with reservations: the only one that served left two members out, without whom nobody could go on",
    ),
    (
        45_000_312_267,
        "with reservations: a member that had been taken in lost its vote when it could read a device again",
    ),
    (
        3_738,
        "a server without its network answered a strict query after a copy with its address was taken in",
    ),
    (
        3563,
        "before the first configuration, a device on which nobody has a heartbeat was watched for ever",
    ),
];

#[test]
fn seeds_that_once_found_something_are_sound() {
    let pairs = FOUND.iter().map(|found| (Family::Pairs, found));
    let groups = FOUND_IN_GROUPS.iter().map(|found| (Family::Groups, found));
    let edits = FOUND_IN_EDITS.iter().map(|found| (Family::Edits, found));
    for (family, &(number, what)) in pairs.chain(groups).chain(edits) {
        for fencing in [Fencing::Lease, Fencing::Scsi] {
            let seed = Seed {
                number,
                family,
                fencing,
            };
            let outcome = run_seed(seed, false, None);
            assert!(
                outcome.unsound.is_none(),
                "seed {seed} ({what}): {:?}",
                outcome.unsound
            );
        }
    }
}

#[test]
fn a_seed_gives_the_same_history_every_time() {
    for seed in (0..16).map(Seed::usual) {
        let (first, second) = (run_seed(seed, false, None), run_seed(seed, true, None));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.counts.events, second.counts.events, "seed {seed}");
        assert!(first.log.lines().is_empty() && !second.log.lines().is_empty());
    }
}

#[test]
fn different_seeds_give_different_histories() {
    let hash = |number, family, fencing| {
        let seed = Seed {
            number,
            family,
            fencing,
        };
        run_seed(seed, false, None).hash
    };
    let one = hash(1, Family::Pairs, Fencing::Scsi);
    assert_ne!(one, hash(2, Family::Pairs, Fencing::Scsi));
    assert_ne!(one, hash(1, Family::Pairs, Fencing::Lease));
    assert_ne!(one, hash(1, Family::Groups, Fencing::Scsi));
}

/// Runs seeds with a defect put in until one is found out; returns how.
fn found_out(sabotage: Sabotage) -> String {
    let campaign = Campaign {
        failures_max: 1,
        sabotage: Some(sabotage),
        ..Campaign::new(0..60)
    };
    let report = campaign::run(&campaign, |_| {});
    let failure = report
        .failures
        .first()
        .unwrap_or_else(|| panic!("{sabotage:?} was not found in 60 histories"));
    failure
        .outcome
        .unsound
        .as_ref()
        .expect("a failure says why")
        .invariant
        .to_owned()
}

#[test]
fn stale_answers_are_found_out() {
    let invariant = found_out(Sabotage::StaleAnswers);
    assert!(
        invariant == "invariant_no_strict_query_stale" || invariant.contains("linearizable"),
        "{invariant}"
    );
}

#[test]
fn acks_of_updates_that_were_not_made_are_found_out() {
    let invariant = found_out(Sabotage::FalseAcks);
    assert!(
        invariant == "invariant_no_acked_update_lost" || invariant.contains("linearizable"),
        "{invariant}"
    );
}

#[test]
fn refusals_of_updates_that_were_made_are_found_out() {
    let invariant = found_out(Sabotage::FalseRollbacks);
    assert!(
        invariant == "invariant_refused_updates_never_appear" || invariant.contains("linearizable"),
        "{invariant}"
    );
}

#[test]
fn votes_that_are_not_on_the_medium_are_found_out() {
    let invariant = found_out(Sabotage::ForgottenBallots);
    assert!(!invariant.contains("serve"), "{invariant}");
}
