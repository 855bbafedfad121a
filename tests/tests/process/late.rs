//! What a boot brings late, and what the system limits: addresses, open files, the length of files. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::network::ADDRESSES;
use ccd_tests::process::programs::{program, run};
use ccd_tests::process::second_network::{self, SECOND_ADDRESSES};
use ccd_tests::process::{Cluster, Finished, Shape, until};
use std::fs;

/// Takes an address away from a node's namespace, or gives it back.
fn address(cluster: &Cluster, node: usize, what: &str, address: &str, link: &str) {
    let name = cluster.network.name(node);
    let address = format!("{address}/24");
    run("ip", &["-n", name, "address", what, &address, "dev", link]).done();
}

#[test]
fn a_node_listens_on_the_address_that_is_there_and_on_the_other_once_it_comes() {
    let mut cluster = Cluster::make(Shape::default());
    second_network::add(&cluster);
    address(&cluster, ALPHA, "del", SECOND_ADDRESSES[ALPHA], "ccd1");
    for node in &mut cluster.nodes {
        node.start();
    }
    until("alpha to serve with a warning", || {
        let status = cluster.alpha().adm(&["status"]);
        let warns = status.out.contains("does not listen on 10.78.0.1");
        if status.code == 1 && warns {
            Ok(())
        } else {
            Err(status.out)
        }
    });
    cluster
        .alpha()
        .wait_for_log("cannot listen for the other nodes: 10.78.0.1");
    address(&cluster, ALPHA, "add", SECOND_ADDRESSES[ALPHA], "ccd1");
    until("the warning to end and both networks to be up", || {
        let status = cluster.beta().status()?;
        let links = status["nodes"][0]["links"].clone();
        let verdict = cluster.alpha().verdict();
        if links[1]["state"] == "up" && !verdict.contains("does not listen") {
            Ok(())
        } else {
            Err(format!("{verdict}: {links}"))
        }
    });
}

#[test]
fn a_node_without_any_address_starts_and_takes_part_once_it_has_one() {
    let mut cluster = Cluster::make(Shape::default());
    address(&cluster, ALPHA, "del", ADDRESSES[ALPHA], "ccd0");
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.alpha().wait_for_log("clients are answered");
    let verdict = cluster.alpha().verdict();
    assert!(verdict.contains("does not listen on 10.77.0.1"), "{verdict}");
    address(&cluster, ALPHA, "add", ADDRESSES[ALPHA], "ccd0");
    cluster.wait_until_redundant();
}

#[test]
fn a_daemon_on_the_machine_of_another_node_is_refused() {
    let cluster = Cluster::make(Shape::default());
    fs::write(cluster.alpha().places().node_path(), "beta\n").expect("the folder is ours");
    let refused = cluster.alpha().run_daemon().expect(100);
    refused
        .says("has the address 10.77.0.1 of node alpha")
        .says("setup --this alpha");
}

/// Runs a node's daemon, which is to end by itself, under a limit of the shell.
fn run_limited(cluster: &Cluster, limit: &str) -> Finished {
    let ccdd = program("ccdd");
    let ccdd = ccdd.to_str().expect("programs have plain names");
    let folders = cluster.nodes[BETA].folders();
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    let mut words = vec!["-c", &script, ccdd, "run"];
    words.extend(folders.iter().map(String::as_str));
    run("sh", &words)
}

#[test]
fn limits_that_a_daemon_cannot_live_with_are_named() {
    let cluster = Cluster::make(Shape::default());
    run_limited(&cluster, "-n 8")
        .expect(100)
        .says("may open 8 files")
        .says("LimitNOFILE");
    // The local copy has more than this; the kernel's answer is an error and not the end of the process.
    run_limited(&cluster, "-f 8").expect(73).says("File too large");
}
