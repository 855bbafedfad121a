//! What device-mapper can do to a disk: fail it, on one path or all, let it come and go, spoil what was read, slow it down; in
//! a virtual machine. Run by `tests/run guest`.

use ccd_tests::guest::site::{ALPHA, BETA, NAMES, PRIMARY, ROLES, SECONDARY};
use ccd_tests::guest::{Fencing, Load, Pair, Storage};
use ccd_tests::process::never;
use std::time::Duration;

fn take() -> impl std::ops::Deref<Target = Pair> {
    Pair::take(Storage::Mapper, Fencing::Lease)
}

/// Sets what the path of `node` to the disk of `role` does.
fn table(pair: &Pair, node: usize, role: usize, table: &str) {
    let script = format!("mapper-table {} {} {table}", NAMES[node], ROLES[role]);
    pair.machine.sh(&script).done();
}

#[test]
fn a_disk_that_fails_for_both_nodes_is_dropped_and_resynced_when_it_returns() {
    let pair = take();
    let load = Load::start(&pair.nodes);
    for role in [PRIMARY, SECONDARY] {
        load.wait_for_more(20);
        for node in [ALPHA, BETA] {
            table(&pair, node, role, "error");
        }
        let degraded = pair.alpha().wait_for_sync(role, false);
        load.wait_for_more(20);
        for node in [ALPHA, BETA] {
            table(&pair, node, role, "linear");
        }
        let back = pair.alpha().wait_until_redundant();
        println!(
            "{}: dropped after {} ms, back {} ms after it works again",
            ROLES[role],
            degraded.as_millis(),
            back.as_millis()
        );
    }
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn a_disk_that_one_node_lost_stops_nobody() {
    let pair = take();
    let load = Load::start(&pair.nodes);
    for node in [ALPHA, BETA] {
        for role in [PRIMARY, SECONDARY] {
            load.wait_for_more(10);
            table(&pair, node, role, "error");
            pair.nodes[node].wait_until("to be degraded", |report| {
                report.value()["cluster"]["health"] == "degraded"
            });
            load.wait_for_more(20);
            for node in &pair.nodes {
                node.wait_for("serving paired");
            }
            println!(
                "{} lost its path to the {}: {}",
                NAMES[node],
                ROLES[role],
                pair.nodes[node].verdict()
            );
            table(&pair, node, role, "linear");
            pair.wait_until_redundant();
        }
    }
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn a_disk_that_comes_and_goes_loses_nothing() {
    let pair = take();
    pair.nodes[BETA].kill();
    pair.alpha().wait_for("serving solo");
    let load = Load::start(&pair.nodes[..1]);
    load.wait_for_more(20);
    // Works for two seconds, fails for one, again and again.
    table(&pair, ALPHA, SECONDARY, "flakey 2 1");
    for _ in 0..3 {
        pair.alpha().wait_for_sync(SECONDARY, false);
        load.wait_for_more(10);
    }
    table(&pair, ALPHA, SECONDARY, "linear");
    let back = pair.alpha().wait_for_sync(SECONDARY, true);
    println!("in sync {} ms after it stays", back.as_millis());
    pair.nodes[BETA].start();
    pair.wait_until_redundant();
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn a_slow_disk_does_not_hold_up_a_pair_and_a_hung_one_is_dropped_by_a_solo_owner() {
    let pair = take();
    let load = Load::start(&pair.nodes);
    load.wait_for_more(20);
    for node in [ALPHA, BETA] {
        table(&pair, node, SECONDARY, "delay 0 300");
    }
    load.wait_for_more(50);
    never("a slow disk stops the pair", Duration::from_secs(2), || {
        let state = pair.alpha().state();
        (state != "serving paired").then_some(state)
    });
    for node in [ALPHA, BETA] {
        table(&pair, node, SECONDARY, "linear");
    }
    pair.wait_until_redundant();
    pair.nodes[BETA].kill();
    pair.alpha().wait_for("serving solo");
    load.wait_for_more(10);
    table(&pair, ALPHA, SECONDARY, "delay 0 20000");
    let degraded = pair.alpha().wait_for_sync(SECONDARY, false);
    println!("a disk that hangs is dropped after {} ms", degraded.as_millis());
    load.wait_for_more(20);
    table(&pair, ALPHA, SECONDARY, "linear");
    let back = pair.alpha().wait_for_sync(SECONDARY, true);
    println!("and in sync {} ms after it answers", back.as_millis());
    pair.nodes[BETA].start();
    pair.wait_until_redundant();
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn damage_on_a_disk_of_a_solo_owner_is_found_by_the_scrub_and_repaired() {
    let pair = take();
    pair.nodes[BETA].kill();
    pair.nodes[ALPHA].kill();
    pair.nodes[ALPHA].start_with(&["--scrub-every", "2"]);
    pair.alpha().wait_for("serving solo");
    let load = Load::start(&pair.nodes[..1]);
    load.wait_for_more(50);
    let written = load.end();
    // In the middle of the journal, which is not trimmed again before the scrub comes: damage, and no torn end.
    for row in ["SPOILED-ROW", "after", "and after"] {
        pair.alpha().adm(&["add", "LOAD", "0", row]).done();
    }
    // Below the daemon and everything that checks.
    let spoiled = pair
        .machine
        .run(&["damage-text", "secondary", "SPOILED-ROW"])
        .done();
    println!("{}", spoiled.out.trim());
    pair.alpha().wait_for_log("written anew from memory");
    // That was the intention; this is said when it is on the disk.
    pair.alpha().wait_for_log("repaired replica=secondary");
    // Whole again: the daemon ends, and the disk is read by something else.
    pair.nodes[ALPHA].kill();
    let check = pair.alpha().disk(&["check", "/dev/disks/secondary"]);
    println!("{}{}", check.out.trim(), check.err.trim());
    check.done();
    pair.start_both();
    written.check_all(&pair.nodes);
    pair.verify();
}
