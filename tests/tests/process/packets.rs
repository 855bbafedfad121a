//! Networks that pass small packets and lose large ones without a word. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA, Shape};
use ccd_tests::process::narrow::Router;
use ccd_tests::process::{Cluster, TestNode, never, second_network, until, until_within};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// What the router passes at most, and what the nodes believe.
const PATH_BYTES: u32 = 1_400;
const WRONG: &str = "passes no packets of more than 1400 bytes (interface: 1500)";

/// A measurement on a busy machine.
const MEASURED: Duration = Duration::from_secs(60);

fn shape() -> Shape {
    Shape {
        image_mib: 16,
        journal_mib: 8,
        ..Shape::default()
    }
}

/// One update of about 1 MiB, which has no other rows than this number's.
fn large_update(cluster: &Cluster, node: &TestNode, number: usize) {
    let path = cluster.folder().join("large.txt");
    let mut text = String::new();
    for row in 0..1_100 {
        let _ = writeln!(text, "add LARGE:{number}:{row}:{:x>900}", "");
    }
    fs::write(&path, &text).expect("the folder is ours");
    let path = path.to_str().expect("the path is ours");
    node.adm(&["--timeout", "30", "apply", path]).done();
}

fn status(node: &TestNode) -> Value {
    node.status().expect("it runs")
}

fn epoch(node: &TestNode) -> u64 {
    status(node)["cluster"]["epoch"].as_u64().expect("it is a number")
}

fn wait_for_verdict(node: &TestNode, text: &str) {
    until_within(
        MEASURED,
        Duration::from_millis(100),
        &format!("{} to say {text:?}", node.name),
        || {
            // By itself: what the other node has found is told here, too.
            let problems = node.status()?["problems"].clone();
            let of_own = (problems.as_array().into_iter().flatten())
                .filter(|problem| problem["node"] == node.name)
                .any(|problem| problem["text"].as_str().is_some_and(|found| found.contains(text)));
            if of_own { Ok(()) } else { Err(problems.to_string()) }
        },
    );
}

#[test]
fn large_updates_go_on_over_a_path_that_loses_large_packets_and_the_size_is_told() {
    let mut cluster = Cluster::make(shape());
    let router = Router::between(&cluster);
    cluster.start_both();
    cluster
        .alpha()
        .adm(&["format", "LARGE", "number", "row", "text"])
        .done();
    large_update(&cluster, cluster.beta(), 0);
    let before = epoch(cluster.alpha());

    router.narrow(PATH_BYTES);
    for number in 1..=4 {
        large_update(&cluster, &cluster.nodes[number % 2], number);
    }
    for (node, other) in [(ALPHA, "beta"), (BETA, "alpha")] {
        let node = &cluster.nodes[node];
        wait_for_verdict(node, &format!("the network to {other}"));
        wait_for_verdict(node, WRONG);
        wait_for_verdict(node, "mtu 1400");
        // Everything works, over smaller packets.
        node.wait_until_redundant();
        node.adm(&["status"]).done().shows(WRONG);
        node.adm(&["why", "-c", "50"]).done().shows(WRONG);
        node.wait_for_log(WRONG);
    }
    let limited = epoch(cluster.alpha());
    assert!(limited - before <= 2, "{} reconfigurations", limited - before);
    for number in 5..=8 {
        large_update(&cluster, &cluster.nodes[number % 2], number);
    }
    never("a new epoch", Duration::from_secs(3), || {
        let now = epoch(cluster.alpha());
        (now != limited).then(|| now.to_string())
    });

    // A daemon that starts on such a network finds out by itself.
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    large_update(&cluster, cluster.beta(), 9);
    wait_for_verdict(cluster.beta(), WRONG);

    // And when it is mended.
    router.widen();
    for node in &cluster.nodes {
        node.wait_for_log("passes packets of full size again");
        // What the other node reports takes a moment.
        until("nobody to speak of packets", || match node.verdict() {
            verdict if verdict.contains("passes no packets") => Err(verdict),
            _ => Ok(()),
        });
        node.wait_until_redundant();
    }
    large_update(&cluster, cluster.alpha(), 10);
    cluster.verify();
}

#[test]
fn a_path_that_passes_too_little_takes_a_node_out_once_and_says_why() {
    let mut cluster = Cluster::make(shape());
    let router = Router::between(&cluster);
    cluster.start_both();
    cluster
        .alpha()
        .adm(&["format", "LARGE", "number", "row", "text"])
        .done();
    // Handshakes and heartbeats pass.
    router.narrow(540);
    let wrong = "passes no packets of 576 bytes or more (interface: 1500)";
    large_update(&cluster, cluster.alpha(), 0);
    cluster.alpha().wait_for("serving solo");
    wait_for_verdict(cluster.alpha(), wrong);
    let alone = epoch(cluster.alpha());
    never("another attempt with beta", Duration::from_secs(8), || {
        let now = epoch(cluster.alpha());
        (now > alone + 1).then(|| now.to_string())
    });
    assert_eq!(status(cluster.alpha())["survives"]["node 0"], false);
    cluster.alpha().adm(&["status"]).expect(1).shows(wrong);
    cluster.alpha().adm(&["why", "-c", "50"]).done().shows(wrong);
    large_update(&cluster, cluster.alpha(), 1);
    wait_for_verdict(cluster.beta(), wrong);

    router.widen();
    cluster.wait_until_redundant();
    large_update(&cluster, cluster.beta(), 2);
    cluster.verify();
}

#[test]
fn of_two_networks_the_one_that_passes_full_packets_is_used_meanwhile() {
    let mut cluster = Cluster::make(shape());
    let router = Router::between(&cluster);
    second_network::add(&cluster);
    cluster.start_both();
    cluster
        .alpha()
        .adm(&["format", "LARGE", "number", "row", "text"])
        .done();
    let before = epoch(cluster.alpha());
    router.narrow(540);
    for number in 0..6 {
        large_update(&cluster, &cluster.nodes[number % 2], number);
    }
    for node in &cluster.nodes {
        until(&format!("{} to use the second network alone", node.name), || {
            let status = node.status()?;
            let nodes = status["nodes"].as_array().ok_or("no nodes")?;
            let peer = nodes.iter().find(|node| node["me"] == false).ok_or("no peer")?;
            let (first, second) = (&peer["links"][0], &peer["links"][1]);
            if first["state"] != "up" && second["preferred"] == true {
                Ok(())
            } else {
                Err(peer["links"].to_string())
            }
        });
        wait_for_verdict(node, "passes no packets of 576 bytes");
    }
    assert_eq!(epoch(cluster.alpha()), before, "a reconfiguration");
    cluster.verify();
}
