//! Two nodes in one virtual machine on two real SCSI disks, through an initiator each: whose writes the disks refuse when a node
//! is dead, hung or cut off. Run by `tests/run guest`.

use ccd_tests::guest::site::{ALPHA, BETA};
use ccd_tests::guest::{Fencing, GuestNode, Load, Pair, Storage};
use std::time::{Duration, Instant};

#[test]
fn the_writes_of_a_dead_node_are_refused_by_the_disks_until_it_is_let_in_again() {
    let pair = Pair::take(Storage::Scsi, Fencing::Scsi);
    for killed in [ALPHA, BETA] {
        let (dead, survivor) = (&pair.nodes[killed], &pair.nodes[1 - killed]);
        let load = Load::start(&pair.nodes);
        load.wait_for_more(20);
        assert_eq!(dead.poke("primary"), "written", "a member may write");
        let lines = survivor.log().lines().count();
        let moment = Instant::now();
        dead.kill();
        survivor.wait_for("serving solo");
        let ack = load.first_ack_after(moment + Duration::from_millis(200));
        println!(
            "first ack {} ms after kill -9 of {}",
            ack.as_millis() + 200,
            dead.name
        );
        survivor.print_decisions(lines);
        for role in ["primary", "secondary"] {
            let poked = dead.poke(role);
            assert!(poked.contains("errno 52"), "{poked}");
            assert_eq!(survivor.poke(role), "written");
            let keys = survivor.disk(&["fence", "status", &format!("/dev/disks/{role}")]);
            println!("{}{}", keys.out, keys.err);
        }
        pair.machine.print_refusals();
        load.wait_for_more(20);
        dead.start();
        pair.wait_until_redundant();
        assert_eq!(dead.poke("primary"), "written", "it is a member again");
        load.wait_for_more(20);
        load.end().check_all(&pair.nodes);
    }
    pair.verify();
}

fn epoch_of(node: &GuestNode) -> serde_json::Value {
    let report = node.report().expect("the node answers");
    report.value()["cluster"]["epoch"].clone()
}

#[test]
fn a_drill_shows_that_the_disks_refuse_a_write_without_registration_and_disturbs_nothing() {
    let pair = Pair::take(Storage::Scsi, Fencing::Scsi);
    let load = Load::start(&pair.nodes);
    load.wait_for_more(20);
    let epoch = epoch_of(pair.alpha());
    for node in &pair.nodes {
        let human = node.adm(&["drill"]);
        println!("{}{}", human.out, human.err);
        assert_eq!(human.code, 0, "{}{}", human.out, human.err);
        let told = node.adm(&["drill", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&told.out).expect("it is JSON");
        assert_eq!(report["survives_every_single_loss"], true, "{report}");
        for device in report["devices"].as_array().expect("devices") {
            assert_eq!(device["unregistered_write"]["outcome"], "refused", "{device}");
            let text = device["unregistered_write"]["text"].as_str().unwrap_or_default();
            assert!(text.contains("reservation conflict"), "{device}");
            assert_eq!(device["write"]["count"], 16, "{device}");
        }
    }
    load.wait_for_more(20);
    pair.wait_until_redundant();
    let after = epoch_of(pair.alpha());
    assert_eq!(after, epoch, "nothing was reconfigured");
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn a_stopped_daemon_finds_itself_fenced_when_it_goes_on_and_rejoins() {
    let pair = Pair::take(Storage::Scsi, Fencing::Scsi);
    let load = Load::start(&pair.nodes);
    load.wait_for_more(20);
    let lines = pair.alpha().log().lines().count();
    pair.alpha().stop();
    pair.beta().wait_for("serving solo");
    load.wait_for_more(20);
    let poked = pair.alpha().poke("primary");
    assert!(poked.contains("errno 52"), "{poked}");
    pair.alpha().resume();
    pair.wait_until_redundant();
    pair.alpha().print_decisions(lines);
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn after_a_cut_the_disks_refuse_the_node_that_lost_and_it_says_why() {
    let pair = Pair::take(Storage::Scsi, Fencing::Scsi);
    let load = Load::start(&pair.nodes);
    load.wait_for_more(20);
    let stranger = pair.beta().stranger("secondary");
    pair.machine
        .run(&["ip", "-n", "alpha", "link", "set", "ccd0", "down"])
        .done();
    pair.alpha().wait_for("serving solo");
    stranger.wait_until_refused();
    pair.beta()
        .wait_until("to stop serving", |report| !report.is_serving());
    println!("beta says: {}", pair.beta().verdict());
    load.wait_for_more(20);
    pair.machine
        .run(&["ip", "-n", "alpha", "link", "set", "ccd0", "up"])
        .done();
    pair.wait_until_redundant();
    stranger.end();
    load.end().check_all(&pair.nodes);
    pair.verify();
}

#[test]
fn udev_finds_regions_by_their_label_and_nobody_else_takes_them() {
    let pair = Pair::take(Storage::Scsi, Fencing::Scsi);
    // A daemon's lock keeps udev away; a server's udev comes first.
    for node in &pair.nodes {
        node.terminate();
    }
    let settled = "mkdir -p /run/udev && systemd-udevd --daemon && udevadm trigger --action=add -s block && udevadm settle";
    pair.machine.sh(settled).done();
    for role in ["primary", "secondary"] {
        let link = format!("/dev/ccd/test/{role}");
        let target = pair.machine.run(&["readlink", "-f", &link]).done().out;
        let known = pair
            .machine
            .run(&["udevadm", "info", "--query=property", target.trim()])
            .done();
        let mode = pair
            .machine
            .run(&["stat", "-c", "%a %U %G", target.trim()])
            .done()
            .out;
        println!("{link} is {} ({})", target.trim(), mode.trim());
        let wanted = format!("CCD_ROLE={role}");
        known
            .shows(&wanted)
            .shows("ID_FS_TYPE=ccd_region")
            .shows("UDISKS_IGNORE=1");
        assert_eq!(mode.trim(), "600 root ccd");
        let shown = pair.machine.run(&["ccd-disk", "show", &link]).done();
        shown.shows(role);
    }
    let ours = pair.machine.sh("ls -l /dev/ccd/test /dev/disk/by-id").done().out;
    println!("{}", ours.trim());
    pair.machine.sh("udevadm control --exit").done();
    pair.start_both();
}
