//! The channel between the nodes with real daemons: several networks, ports of a range, keys that change. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::stranger::inside;
use ccd_tests::process::{Cluster, Shape, TestNode, Writer, never, second_network, until};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

/// Longest pause between two acked updates while a network dies: it is noticed at the third heartbeat (100 ms) that is not
/// answered, and what was lost is repeated at the next one; the rest is room for a busy machine.
const PAUSE_MAX: Duration = Duration::from_millis(900);

fn link(node: &TestNode, network: usize) -> Result<Value, String> {
    let status = node.status()?;
    let nodes = status["nodes"].as_array().ok_or("no nodes")?;
    let peer = nodes.iter().find(|node| node["me"] == false).ok_or("no peer")?;
    Ok(peer["links"][network].clone())
}

fn wait_for_link(node: &TestNode, network: usize, states: &[&str]) {
    until(
        &format!("link {network} of {} to be {states:?}", node.name),
        || {
            let link = link(node, network)?;
            if states.iter().any(|state| link["state"] == *state) {
                Ok(())
            } else {
                Err(link.to_string())
            }
        },
    );
}

fn epoch(node: &TestNode) -> u64 {
    let status = node.status().expect("it runs");
    status["cluster"]["epoch"].as_u64().expect("it is a number")
}

#[test]
fn one_of_two_networks_may_die_unnoticed_by_clients() {
    let mut cluster = Cluster::make(Shape::default());
    second_network::add(&cluster);
    cluster.start_both();
    for node in &cluster.nodes {
        wait_for_link(node, 0, &["up"]);
        wait_for_link(node, 1, &["up"]);
    }
    let before = epoch(cluster.alpha());
    // Through the node that is not the master: each update crosses the network in both directions.
    let writer = Writer::start(&[cluster.beta()]);
    writer.wait_for_more(30);
    // Whichever is in use, it dies in each way.
    type Change = fn(&Cluster, usize);
    let ways: [(&str, Change, Change); 2] = [
        ("pulled", second_network::pull, second_network::plug),
        ("swallowing", second_network::swallow, second_network::carry),
    ];
    for (way, cut, heal) in ways {
        for network in [0, 1] {
            cut(&cluster, network);
            let moment = Instant::now();
            let first = writer.first_ack_after(moment);
            println!(
                "network {network} {way}: first ack after {} ms",
                first.as_millis()
            );
            writer.wait_for_more(30);
            for node in &cluster.nodes {
                wait_for_link(node, network, &["silent", "down"]);
                wait_for_link(node, 1 - network, &["up"]);
                assert_eq!(link(node, 1 - network).expect("it runs")["preferred"], true);
            }
            never("a new epoch", Duration::from_millis(1500), || {
                let now = epoch(cluster.alpha());
                (now != before).then(|| now.to_string())
            });
            // No client noticed; the next network that dies is noticed.
            let status = cluster.alpha().adm(&["status"]);
            assert_eq!(status.code, 1, "{}", status.out);
            status.shows("LINK TO").shows("one of the networks to");
            heal(&cluster, network);
            for node in &cluster.nodes {
                wait_for_link(node, network, &["up"]);
            }
            writer.wait_for_more(30);
        }
    }
    let ledger = writer.end();
    assert!(
        ledger.refused.is_empty() && ledger.unknown.is_empty(),
        "{ledger:?}"
    );
    let acked: Vec<Instant> = ledger.acked.values().copied().collect();
    let longest = acked.windows(2).map(|pair| pair[1] - pair[0]).max();
    let longest = longest.expect("there are many");
    println!("{} acked, longest pause {} ms", acked.len(), longest.as_millis());
    assert!(
        longest < PAUSE_MAX,
        "a client waited for {} ms",
        longest.as_millis()
    );
    for node in &cluster.nodes {
        ledger.check(node);
    }
    assert_eq!(epoch(cluster.beta()), before, "a reconfiguration");
    cluster.verify();
}

#[test]
fn connections_bear_the_number_of_the_reconfiguration() {
    let mut cluster = Cluster::start();
    for _ in 0..2 {
        for node in &cluster.nodes {
            until("connections of this reconfiguration", || {
                let (link, epoch) = (link(node, 0)?, epoch(node));
                if link["epoch"] == epoch && link["protocol"] == 3 {
                    Ok(())
                } else {
                    Err(format!("{link} in epoch {epoch}"))
                }
            });
        }
        let before = epoch(cluster.alpha());
        cluster.nodes[BETA].kill();
        cluster.alpha().wait_for("serving solo");
        cluster.nodes[BETA].start();
        cluster.wait_until_redundant();
        assert!(epoch(cluster.alpha()) > before);
    }
}

#[test]
fn a_port_that_is_taken_costs_nothing_and_a_range_that_is_taken_is_named() {
    let mut cluster = Cluster::make(Shape::default());
    let taken = |port: u16| {
        let address: SocketAddrV4 = format!("10.77.0.1:{port}").parse().expect("it is an address");
        inside(cluster.network.name(ALPHA), || TcpListener::bind(address)).expect("it is free")
    };
    let first = [taken(5640), taken(5641)];
    let rest = [taken(5642), taken(5643)];
    let refused = cluster.alpha().run_daemon().expect(74);
    refused
        .says("10.77.0.1")
        .says("5640, 5641, 5642, 5643")
        .says("ss -ltnp")
        .says("port_range");
    drop(rest);
    cluster.start_both();
    cluster.alpha().wait_for_log("port 5640 is taken");
    until("beta to find the third port", || {
        let link = link(cluster.beta(), 0)?;
        if link["address"] == "10.77.0.1:5642" && link["state"] == "up" {
            Ok(())
        } else {
            Err(link.to_string())
        }
    });
    // And back, when it is free again.
    drop(first);
    cluster.nodes[ALPHA].kill();
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    until("beta to find the first port", || {
        let link = link(cluster.beta(), 0)?;
        if link["address"] == "10.77.0.1:5640" && link["state"] == "up" {
            Ok(())
        } else {
            Err(link.to_string())
        }
    });
}

#[test]
fn the_authkey_is_changed_under_load_without_a_failed_update_or_a_reconfiguration() {
    let cluster = Cluster::start();
    let before = epoch(cluster.alpha());
    let writer = Writer::start(&[cluster.beta()]);
    let reload = |node: &TestNode| {
        let seen = node.log().matches("authkey read again").count();
        kill(node.pid(), Signal::SIGHUP).expect("it is our child");
        until("the daemon to read its authkey", || {
            let now = node.log().matches("authkey read again").count();
            if now > seen { Ok(()) } else { Err(node.log()) }
        });
        writer.wait_for_more(30);
    };
    let uses = |node: &TestNode, key: &str| {
        until(&format!("{} to use {key}", node.name), || {
            let link = link(node, 0)?;
            if link["authkey"] == key {
                Ok(())
            } else {
                Err(link.to_string())
            }
        });
    };
    let keys = |node: &TestNode| -> Vec<String> {
        let listed = node.adm(&["authkey", "list", "--json"]).done().json();
        let keys = listed["keys"].as_array().expect("a list").iter();
        keys.map(|key| key["id"].as_str().expect("a name").to_owned())
            .collect()
    };
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let old = keys(alpha)[0].clone();
    for step in ["promote", "drop"] {
        alpha.adm(&["authkey", step]).expect(107).says_what_to_try();
    }
    alpha.adm(&["authkey", "add", "--dry-run"]).done();
    assert_eq!(keys(alpha), std::slice::from_ref(&old));
    alpha.adm(&["authkey", "add"]).done().says("copy the file");
    let new = keys(alpha)[1].clone();
    let copied = beta.places().authkey_path();
    fs::remove_file(&copied).expect("setup wrote it");
    fs::copy(alpha.places().authkey_path(), &copied).expect("the folder is ours");
    for node in [alpha, beta] {
        reload(node);
        uses(node, &old);
    }
    // One that is still used cannot be dropped.
    alpha.adm(&["authkey", "promote"]).done();
    alpha
        .adm(&["authkey", "drop", "--yes"])
        .expect(107)
        .says_what_to_try()
        .says(&new);
    reload(alpha);
    uses(alpha, &new);
    beta.adm(&["authkey", "promote"]).done();
    reload(beta);
    uses(beta, &new);
    for node in [alpha, beta] {
        node.adm(&["authkey", "drop", "--yes"]).done();
        reload(node);
        assert_eq!(keys(node), std::slice::from_ref(&new));
        let path = node.places().authkey_path();
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).expect("it is there").permissions());
        assert_eq!(mode & 0o7777, 0o400);
    }
    // A bad file changes nothing, and the log says why.
    let path = alpha.places().authkey_path();
    let good = fs::read(&path).expect("it is there");
    fs::write(&path, "nonsense\n").expect("root may");
    kill(alpha.pid(), Signal::SIGHUP).expect("it is our child");
    alpha.wait_for_log("line 1 is not 32 bytes in base64");
    alpha.wait_for_log("the keys in use stay");
    alpha.adm(&["authkey", "list"]).expect(65).says_what_to_try();
    writer.wait_for_more(30);
    fs::write(&path, good).expect("root may");
    reload(alpha);
    uses(alpha, &new);
    let ledger = writer.end();
    assert!(
        ledger.refused.is_empty() && ledger.unknown.is_empty(),
        "{ledger:?}"
    );
    assert_eq!(epoch(alpha), before, "a reconfiguration");
    ledger.check(alpha);
    cluster.verify();
}
