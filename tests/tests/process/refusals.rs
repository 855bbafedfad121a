//! Every refusal of the channel between the nodes, with real daemons: what the logs of both sides say, and how often.
//! Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::programs::run;
use ccd_tests::process::stranger::{self, Impostor, Trick};
use ccd_tests::process::{Cluster, Shape, TestNode, never, until};
use std::fs;
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

fn pair() -> Cluster {
    Cluster::make(Shape::default())
}

fn at(text: &str) -> SocketAddrV4 {
    text.parse().expect("it is an address")
}

const AT_ALPHA: &str = "10.77.0.1:5640";
const AT_BETA: &str = "10.77.0.2:5640";

/// Bytes before the first frame of a handshake.
const CLEAR_BYTES: usize = 15;

/// The log of `node` says all of this in one line.
fn says(node: &TestNode, words: &[&str]) {
    until(&format!("{} to log {words:?}", node.name), || {
        let log = node.log();
        if log
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
        {
            Ok(())
        } else {
            Err(log)
        }
    });
}

/// For two seconds, in which a refused node tries some forty times, the log does not say it again.
fn once_in_a_while(node: &TestNode, words: &[&str]) {
    let count = || {
        let log = node.log();
        let lines = log
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        lines.count()
    };
    assert!(count() >= 1, "{words:?}: {}", node.log());
    never("the log fills up", Duration::from_secs(2), || {
        (count() > 2).then(|| format!("{} lines with {words:?}: {}", count(), node.log()))
    });
}

#[test]
fn another_key() {
    let mut cluster = pair();
    let id = |node: &TestNode| {
        let listed = node.adm(&["authkey", "list", "--json"]).done().json();
        listed["keys"][0]["id"].as_str().expect("a name").to_owned()
    };
    cluster.give_another_key(BETA);
    let ids = [id(cluster.alpha()), id(cluster.beta())];
    assert_ne!(ids[0], ids[1]);
    for node in &mut cluster.nodes {
        node.start();
    }
    for (me, peer) in [(ALPHA, "10.77.0.2"), (BETA, "10.77.0.1")] {
        let node = &cluster.nodes[me];
        let dialed = [
            peer,
            "refused",
            "the authkey differs",
            "it does not have",
            &ids[me],
            "copy one authkey",
        ];
        let listened = [
            peer,
            "refused",
            "the authkey differs",
            "it proves",
            &ids[1 - me],
            &ids[me],
            "copy one authkey",
        ];
        for words in [&dialed[..], &listened[..]] {
            says(node, words);
            once_in_a_while(node, words);
        }
    }
}

#[test]
fn another_cluster_and_another_init_database() {
    let change_id = |text: &str| {
        let id = text.lines().find_map(|line| line.strip_prefix("CLUSTER:test:"));
        let id = id.expect("it has a cluster");
        text.replace(id, &id.chars().rev().collect::<String>())
    };
    let change_option = |text: &str| text.replace("image_mib:4", "image_mib:5");
    type Change<'a> = &'a dyn Fn(&str) -> String;
    let table: [(Change, &[&str]); 2] = [
        (
            &change_id,
            &["refused", "cluster id", "differs from", "copy init.ccd"],
        ),
        (
            &change_option,
            &[
                "refused",
                "the init databases differ: digest",
                "at the other",
                "copy one init.ccd",
            ],
        ),
    ];
    for (change, words) in table {
        let mut cluster = pair();
        let init = cluster.beta().places().init_path();
        let text = fs::read_to_string(&init).expect("setup wrote it");
        let changed = change(&text);
        assert_ne!(text, changed);
        fs::write(&init, changed).expect("it can be written");
        for node in &mut cluster.nodes {
            node.start();
        }
        for (node, peer) in cluster
            .nodes
            .iter()
            .zip(["node 1 at 10.77.0.2", "node 0 at 10.77.0.1"])
        {
            says(node, &[&[peer], words].concat());
            says(
                node,
                &[
                    &["not connected", peer.split_once(" at ").expect("it has").1],
                    words,
                ]
                .concat(),
            );
            once_in_a_while(node, words);
        }
    }
}

#[test]
fn two_nodes_that_claim_the_same_number() {
    let mut cluster = pair();
    cluster.start_both();
    let folder = cluster.folder().join("second");
    let mut second = TestNode::new("second", folder, cluster.network.name(BETA));
    fs::create_dir_all(&second.places().etc).expect("the folder is ours");
    for name in ["init.ccd", "authkey", "node"] {
        let from = cluster.beta().places().etc.join(name);
        fs::copy(from, second.places().etc.join(name)).expect("setup wrote it");
    }
    second.start();
    let words = [
        "refused",
        "another daemon, at 10.77.0.2, runs as node 1 already",
        "ccdadm setup --this",
    ];
    says(cluster.alpha(), &[&["node 1 at 10.77.0.2"], &words[..]].concat());
    says(
        &second,
        &[&["not connected: 10.77.0.1:5640"], &words[..]].concat(),
    );
    once_in_a_while(cluster.alpha(), &words);
    once_in_a_while(&second, &words);
    cluster.wait_until_redundant();
    second.kill();

    // And a node that claims the number of the one it calls.
    cluster.nodes[BETA].kill();
    let node = cluster.beta().places().node_path();
    fs::write(&node, "alpha\n").expect("the folder is ours");
    let refused = cluster.beta().run_daemon().expect(100);
    refused
        .says("has the address 10.77.0.2 of node beta")
        .says("ccdadm setup --this beta");
}

#[test]
fn another_version_of_the_protocol() {
    let mut cluster = pair();
    cluster.nodes[ALPHA].start();
    cluster.alpha().wait_for_log("clients are answered");
    let namespace = cluster.network.name(BETA);
    for (oldest, newest, shown) in [(7, 9, "7 to 9"), (0, 0, "0")] {
        let mut hello = b"ccdn\x01".to_vec();
        hello.extend([oldest, newest]);
        hello.extend([0; 8]);
        assert_eq!(stranger::say(namespace, at(AT_ALPHA), &hello, 4), [2, 3, 3, 3]);
        let speaks = format!("the connecting node speaks {shown}, the other 3");
        says(
            cluster.alpha(),
            &[
                "connection of 10.77.0.2 refused",
                "no version",
                &speaks,
                "update ccdd",
            ],
        );
        // Seen from who dials.
        let impostor = Impostor::start(namespace, at(AT_BETA), Trick::Answer(vec![2, 3, oldest, newest]));
        let speaks = format!("the connecting node speaks 3, the other {shown}");
        let words = [
            "not connected: 10.77.0.2:5640",
            "refused",
            "no version",
            &speaks,
            "update ccdd",
        ];
        says(cluster.alpha(), &words);
        once_in_a_while(cluster.alpha(), &words);
        assert!(impostor.heard().len() > 10, "it was not tried again");
    }
}

#[test]
fn what_is_no_node() {
    let mut cluster = pair();
    cluster.nodes[ALPHA].start();
    cluster.alpha().wait_for_log("clients are answered");
    let namespace = cluster.network.name(BETA);
    let request = b"GET / HTTP/1.1\r\n\r\n";
    for _ in 0..50 {
        assert_eq!(stranger::say(namespace, at(AT_ALPHA), request, 4), [2, 2, 3, 3]);
    }
    let words = [
        "connection of 10.77.0.2 refused",
        "does not begin as a node",
        "ADDRESS rows",
    ];
    says(cluster.alpha(), &words);
    once_in_a_while(cluster.alpha(), &words);
    let _impostor = Impostor::start(namespace, at(AT_BETA), Trick::Answer(b"HTTP/1.1 400".to_vec()));
    says(
        cluster.alpha(),
        &[
            "not connected: 10.77.0.2:5640",
            "refused",
            "does not begin as a node",
        ],
    );
    assert!(!cluster.alpha().log().contains("panicked"));
}

#[test]
fn a_handshake_that_is_reflected() {
    let mut cluster = pair();
    let namespace = cluster.network.name(BETA).to_owned();
    let echo = Impostor::start(&namespace, at(AT_BETA), Trick::Echo);
    cluster.nodes[ALPHA].start();
    let words = [
        "not connected: 10.77.0.2:5640",
        "refused",
        "sent back as its answer",
        "find out who",
    ];
    says(cluster.alpha(), &words);
    once_in_a_while(cluster.alpha(), &words);
    drop(echo);
    // To the node's own listener: both sides are the same node.
    let _relay = Impostor::start(&namespace, at(AT_BETA), Trick::Relay(at(AT_ALPHA)));
    let words = ["the handshake is this node's own", "ADDRESS rows"];
    says(
        cluster.alpha(),
        &[&["connection of node 0 at 10.77.0.2 refused"], &words[..]].concat(),
    );
    says(
        cluster.alpha(),
        &[&["not connected: 10.77.0.2:5640"], &words[..]].concat(),
    );
    once_in_a_while(cluster.alpha(), &[&["connection of node 0"], &words[..]].concat());
}

#[test]
fn a_handshake_that_is_replayed() {
    let mut cluster = pair();
    let namespace = cluster.network.name(BETA).to_owned();
    let recorder = Impostor::start(&namespace, at(AT_BETA), Trick::Record);
    cluster.nodes[ALPHA].start();
    let (recorded, _) = until("a handshake to record", || {
        recorder
            .heard()
            .into_iter()
            .next()
            .ok_or_else(|| "nothing".to_owned())
    });
    drop(recorder);
    assert!(recorded.starts_with(b"ccdn\x01\x03\x03") && recorded.len() > CLEAR_BYTES + 2);
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    // The first time beta cannot know, and answers; what comes next proves nothing.
    let from = cluster.network.name(ALPHA);
    let mut forged = recorded.clone();
    forged.extend([16, 0]);
    forged.extend([0; 16]);
    assert_eq!(stranger::say(from, at(AT_BETA), &forged, 1), [1]);
    let words = [
        "connection of node 0 at 10.77.0.1 refused",
        "no recording",
        "find out who",
    ];
    says(cluster.beta(), &words);
    for _ in 0..20 {
        assert_eq!(stranger::say(from, at(AT_BETA), &recorded, 1), [1]);
    }
    let words = [
        "connection of node 0 at 10.77.0.1 refused",
        "was here before",
        "find out who",
    ];
    says(cluster.beta(), &words);
    once_in_a_while(cluster.beta(), &words);
    cluster.wait_until_redundant();
}

#[test]
fn an_address_at_which_another_node_is() {
    // Three nodes have no devices.
    let mut cluster = Cluster::make(Shape {
        devices: 0,
        ..Shape::default()
    });
    for node in &cluster.nodes {
        let path = node.places().init_path();
        let mut text = fs::read_to_string(&path).expect("setup wrote it");
        text.push_str("NODE:2:gamma\nADDRESS:gamma:10.77.0.3:\n");
        fs::write(&path, text).expect("the folder is ours");
    }
    let namespace = cluster.network.name(BETA).to_owned();
    run(
        "ip",
        &["-n", &namespace, "address", "add", "10.77.0.3/24", "dev", "ccd0"],
    )
    .done();
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.beta().wait_for_log("clients are answered");
    let _relay = Impostor::start(&namespace, at("10.77.0.3:5640"), Trick::Relay(at(AT_BETA)));
    let words = [
        "refused",
        "node 2 was called, and node 1 has this address",
        "ADDRESS rows",
    ];
    says(
        cluster.alpha(),
        &[&["not connected: 10.77.0.3:5640"], &words[..]].concat(),
    );
    says(
        cluster.beta(),
        &[&["connection of node 0 at"], &words[..]].concat(),
    );
    once_in_a_while(cluster.alpha(), &words);
    once_in_a_while(cluster.beta(), &words);
}

#[test]
fn strangers_cannot_take_the_nodes_place() {
    let mut cluster = pair();
    cluster.start_both();
    let namespace = cluster.network.name(BETA).to_owned();
    run(
        "ip",
        &["-n", &namespace, "address", "add", "10.77.0.9/24", "dev", "ccd0"],
    )
    .done();
    let hold = || -> Vec<TcpStream> {
        let connect = |_| stranger::connect_from(&namespace, at("10.77.0.9:0"), at(AT_ALPHA));
        (0..100).map(connect).collect()
    };
    let mut held = hold();
    says(
        cluster.alpha(),
        &[
            "connection of 10.77.0.9 refused",
            "too many connections that prove nothing",
        ],
    );
    cluster.nodes[BETA].kill();
    cluster.nodes[BETA].start();
    until("the pair to be whole while strangers keep coming", || {
        held = hold();
        let status = cluster.alpha().adm(&["status"]);
        if status.code == 0 { Ok(()) } else { Err(status.out) }
    });
    let words = ["connection of 10.77.0.9 refused", "too many"];
    once_in_a_while(cluster.alpha(), &words);
    assert_eq!(held.len(), 100);
}

#[test]
fn silent_connections_from_a_nodes_own_address_do_not_keep_it_out() {
    let mut cluster = pair();
    cluster.start_both();
    let namespace = cluster.network.name(BETA).to_owned();
    let hold = || -> Vec<TcpStream> {
        let connect = |_| stranger::connect_from(&namespace, at("10.77.0.2:0"), at(AT_ALPHA));
        (0..100).map(connect).collect()
    };
    let mut held = hold();
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    cluster.nodes[BETA].start();
    let ((), took) = until(
        "the pair to be whole while silent connections keep coming",
        || {
            held = hold();
            let status = cluster.alpha().adm(&["status"]);
            if status.code == 0 { Ok(()) } else { Err(status.out) }
        },
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    says(
        cluster.alpha(),
        &["connection of 10.77.0.2 refused", "too many connections"],
    );
    assert_eq!(held.len(), 100);
}
