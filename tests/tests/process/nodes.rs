//! Real daemons whose cluster gains and loses nodes, and is worked on, under load.

use ccd_tests::process::clients::Clients;
use ccd_tests::process::quorum::Quorum;
use ccd_tests::process::{TestNode, never, until};
use ccd_tests::sim::Random;
use std::fs;
use std::time::Duration;

const CLIENTS: usize = 6;

/// Waits until the node serves, with these as members and no other node known.
fn wait_for_members(node: &TestNode, members: &[&str]) {
    until(&format!("{} to serve with {members:?}", node.name), || {
        let listed = node.ctl(&["members", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&listed.out).map_err(|_| listed.err)?;
        let found: Vec<&str> = (document["nodes"].as_array().into_iter().flatten())
            .filter(|node| node["member"] == true && node["state"] == "serving")
            .filter_map(|node| node["name"].as_str())
            .collect();
        let known = document["nodes"].as_array().map_or(0, Vec::len);
        if found == members && known == members.len() {
            Ok(())
        } else {
            Err(document.to_string())
        }
    });
}

fn init(node: &TestNode) -> String {
    fs::read_to_string(node.places().init_path()).expect("it has an init database")
}

#[test]
fn a_fourth_node_is_added_and_the_master_removed_under_load() {
    let mut random = Random::new(4);
    let mut cluster = Quorum::make_with_spares(3, 1, &[]);
    for node in &mut cluster.nodes[..3] {
        node.start();
    }
    for node in &cluster.nodes[..3] {
        wait_for_members(node, &["alpha", "beta", "gamma"]);
    }
    let clients = Clients::start(&cluster.nodes[..3], CLIENTS, &mut random);
    clients.wait_for_more(50);

    let delta = format!("delta={}", cluster.address(3));
    let added = cluster.nodes[1].ctl(&["add-node", &delta]).done();
    assert!(added.err.contains("ccdadm setup --this delta"), "{}", added.err);
    clients.wait_for_more(50);
    // Exactly as it says.
    cluster.copy_files(1, 3);
    cluster.nodes[3].adm(&["setup", "--this", "delta"]).done();
    cluster.nodes[3].start();
    for node in &cluster.nodes {
        wait_for_members(node, &["alpha", "beta", "gamma", "delta"]);
        assert_eq!(init(node), init(&cluster.nodes[0]), "{}", node.name);
        assert!(!node.places().init_next_path().exists());
    }
    clients.wait_for_more(50);

    // The master, asked through itself.
    cluster.nodes[0].ctl(&["remove-node", "--yes", "alpha"]).done();
    for node in &cluster.nodes[1..] {
        wait_for_members(node, &["beta", "gamma", "delta"]);
    }
    clients.wait_for_more(50);
    let alpha = &cluster.nodes[0];
    assert!(alpha.verdict().contains("was removed"), "{}", alpha.verdict());
    assert_eq!(alpha.adm(&["query", "K0"]).code, 2, "it serves nothing");
    alpha.wait_for_log("it was removed");
    cluster.nodes[1].wait_for_log("node 0 is not in the init database");

    // Also after a restart of everything.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    for node in &mut cluster.nodes[1..] {
        node.kill();
        node.start();
    }
    for node in &cluster.nodes[1..] {
        wait_for_members(node, &["beta", "gamma", "delta"]);
    }
    let alpha = &cluster.nodes[0];
    until("alpha to say why it does not serve", || match alpha.verdict() {
        why if why.contains("was removed") => Ok(()),
        other => Err(other),
    });
    clients.wait_for_more(50);
    clients.end_and_check(&cluster.nodes[1..]);
}

#[test]
fn the_network_between_two_nodes_is_away_during_maintenance_and_nothing_is_taken_over() {
    let mut random = Random::new(5);
    let cluster = Quorum::start(3, &[]);
    let clients = Clients::start(&cluster.nodes, CLIENTS, &mut random);
    clients.wait_for_more(30);
    cluster.nodes[2].ctl(&["maintenance", "on"]).done();
    let status = cluster.nodes[0].adm(&["status"]);
    assert_eq!(status.code, 1, "{}", status.out);
    assert!(status.out.contains("maintenance"), "{}", status.out);
    let epoch = |node: &TestNode| node.status().map(|status| status["cluster"]["epoch"].as_u64());
    let before = epoch(&cluster.nodes[0]);
    for node in 0..3 {
        cluster.switch.unplug(node);
    }
    never("something was decided", Duration::from_secs(4), || {
        let found = epoch(&cluster.nodes[1]);
        (found != before).then(|| format!("{found:?}"))
    });
    for node in 0..3 {
        cluster.switch.plug_in(node);
    }
    cluster.wait_until_whole();
    clients.wait_for_more(30);
    cluster.nodes[0].ctl(&["maintenance", "off"]).done();
    clients.wait_for_more(30);
    clients.end_and_check(&cluster.nodes);
}

#[test]
fn a_view_leaves_a_node_out_and_takes_it_in_again() {
    let cluster = Quorum::start(3, &[]);
    let view = ["reconfigure", "--members", "alpha,beta"];
    let asked: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (cluster.nodes[..2].iter())
            .map(|node| scope.spawn(move || node.ctl(&view)))
            .collect();
        asking
            .into_iter()
            .map(|asking| asking.join().expect("it asks"))
            .collect()
    });
    for finished in asked {
        finished.done();
    }
    let members = cluster.nodes[0].ctl(&["members"]).done();
    assert!(members.out.contains("alpha, beta"), "{}", members.out);
    assert!(
        cluster.nodes[0].verdict().contains("but it is alive"),
        "{}",
        cluster.nodes[0].verdict()
    );
    let refused = cluster.nodes[0].ctl(&["reconfigure", "--members", "alpha,omega"]);
    assert_eq!(refused.code, 105, "{}", refused.err);
    for node in &cluster.nodes[..2] {
        node.ctl(&["reconfigure", "--built-in"]).done();
    }
    cluster.wait_until_whole();
    let why = cluster.nodes[0].adm(&["why"]).done();
    assert!(why.out.contains("external membership monitor"), "{}", why.out);
}

#[test]
fn a_removed_node_that_still_runs_does_not_keep_out_the_new_owner_of_its_number() {
    let mut cluster = Quorum::make_with_spares(3, 1, &[]);
    for node in &mut cluster.nodes[..3] {
        node.start();
    }
    for node in &cluster.nodes[..3] {
        wait_for_members(node, &["alpha", "beta", "gamma"]);
    }
    cluster.nodes[1].ctl(&["remove-node", "--yes", "alpha"]).done();
    for node in &cluster.nodes[1..3] {
        wait_for_members(node, &["beta", "gamma"]);
    }
    // The lowest number is free again.
    let delta = format!("delta={}", cluster.address(3));
    cluster.nodes[1].ctl(&["add-node", &delta]).done();
    cluster.nodes[1].wait_for_log("the number 0 was given to two servers, one after the other");
    cluster.copy_files(1, 3);
    cluster.nodes[3].adm(&["setup", "--this", "delta"]).done();
    cluster.nodes[3].start();
    for node in &cluster.nodes[1..] {
        wait_for_members(node, &["delta", "beta", "gamma"]);
    }
    let alpha = &cluster.nodes[0];
    assert!(alpha.verdict().contains("was removed"), "{}", alpha.verdict());
    assert_eq!(alpha.adm(&["keys"]).code, 2, "it serves nothing");
}
