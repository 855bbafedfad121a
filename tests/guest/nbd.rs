//! A pair on network block devices, which know no reservations, in a virtual machine. Run by `tests/run guest`.

use ccd_tests::guest::site::{ALPHA, BETA, PRIMARY, ROLES, SECONDARY};
use ccd_tests::guest::{Fencing, Load, Pair, Storage};
use std::time::Instant;

#[test]
fn nbd_devices_know_no_reservations_and_setup_says_so() {
    let pair = Pair::take(Storage::Nbd, Fencing::Lease);
    let setup = pair.alpha().within(&[
        "ccdadm",
        "--etc",
        "/tmp/etc",
        "setup",
        "--cluster",
        "other",
        "--node",
        "a=10.77.0.1",
        "--node",
        "b=10.77.0.2",
        "--primary",
        "/dev/disks/primary",
        "--secondary",
        "/dev/disks/secondary",
        "--fencing",
        "scsi",
    ]);
    println!("setup with scsi fencing on nbd: {}", setup.err.trim());
    assert_ne!(setup.code, 0);
    setup.says("reservations").says_what_to_try();
    let registered = pair
        .alpha()
        .within(&["sg_persist", "--in", "--read-keys", "/dev/disks/primary"]);
    println!("sg_persist on nbd: {}", registered.err.trim());
    assert_ne!(registered.code, 0, "{}", registered.out);
}

#[test]
fn a_pair_on_nbd_survives_a_killed_node_and_takes_it_back() {
    let pair = Pair::take(Storage::Nbd, Fencing::Lease);
    for killed in [ALPHA, BETA] {
        let load = Load::start(&pair.nodes);
        load.wait_for_more(20);
        pair.nodes[killed].kill();
        let moment = Instant::now();
        let took = pair.nodes[1 - killed].wait_for("serving solo");
        let ack = load.first_ack_after(moment + took);
        println!(
            "{} serves alone {} ms after kill -9 of {}; next ack {} ms later",
            pair.nodes[1 - killed].name,
            took.as_millis(),
            pair.nodes[killed].name,
            ack.as_millis()
        );
        load.wait_for_more(20);
        pair.nodes[killed].start();
        pair.wait_until_redundant();
        load.wait_for_more(20);
        load.end().check_all(&pair.nodes);
    }
    pair.verify();
}

#[test]
fn a_pair_and_a_solo_owner_go_on_while_an_nbd_export_fails_and_take_it_back() {
    let pair = Pair::take(Storage::Nbd, Fencing::Lease);
    let load = Load::start(&pair.nodes);
    for role in [PRIMARY, SECONDARY] {
        load.wait_for_more(20);
        pair.machine
            .sh(&format!("touch /run/fail-{}", ROLES[role]))
            .done();
        let degraded = pair.alpha().wait_for_sync(role, false);
        load.wait_for_more(20);
        pair.machine.sh(&format!("rm /run/fail-{}", ROLES[role])).done();
        let back = pair.alpha().wait_until_redundant();
        println!(
            "pair, {}: dropped after {} ms, back {} ms after it works again",
            ROLES[role],
            degraded.as_millis(),
            back.as_millis()
        );
    }
    pair.nodes[BETA].kill();
    pair.alpha().wait_for("serving solo");
    for role in [PRIMARY, SECONDARY] {
        load.wait_for_more(20);
        pair.machine
            .sh(&format!("touch /run/fail-{}", ROLES[role]))
            .done();
        let degraded = pair.alpha().wait_for_sync(role, false);
        load.wait_for_more(20);
        pair.machine.sh(&format!("rm /run/fail-{}", ROLES[role])).done();
        let back = pair.alpha().wait_for_sync(role, true);
        println!(
            "solo, {}: dropped after {} ms, resynced {} ms after it works again",
            ROLES[role],
            degraded.as_millis(),
            back.as_millis()
        );
    }
    pair.nodes[BETA].start();
    pair.wait_until_redundant();
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn an_nbd_server_that_dies_stops_nobody_and_its_successor_is_a_replaced_disk() {
    let pair = Pair::take(Storage::Nbd, Fencing::Lease);
    let load = Load::start(&pair.nodes);
    load.wait_for_more(20);
    pair.machine.run(&["disks-nbd-replace", "secondary"]).done();
    let degraded = pair.alpha().wait_for_sync(SECONDARY, false);
    println!("dropped after {} ms", degraded.as_millis());
    load.wait_for_more(20);
    // The server's disk was memory: its successor's is empty.
    pair.mkfs(ROLES[SECONDARY]);
    pair.wait_until_redundant();
    load.wait_for_more(20);
    load.end().check_all(&pair.nodes);
    pair.verify();
}
