//! What happens to a pair when the network between the nodes fails, with real daemons. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::{Cluster, Writer, until};
use std::time::Instant;

#[test]
fn after_a_cut_the_lowest_goes_on_and_the_other_stops_says_why_and_rejoins_by_itself() {
    let cluster = Cluster::start();
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(50);

    cluster.network.cut();
    let cut = Instant::now();
    cluster.alpha().wait_for("serving solo");
    println!(
        "alpha serves alone {} ms after the cut",
        cut.elapsed().as_millis()
    );
    until("beta to stop serving", || match cluster.beta().state() {
        state if state.starts_with("serving") => Err(state),
        _ => Ok(()),
    });
    let verdict = cluster.beta().verdict();
    assert!(
        !verdict.is_empty(),
        "a node that stopped serving does not say why"
    );
    println!("beta says: {verdict}");
    let refused = cluster.beta().adm(&["query", "LOAD", "1"]).expect(2);
    refused.says_what_to_try();
    writer.wait_for_more(50);

    cluster.network.heal();
    let healed = Instant::now();
    cluster.wait_until_redundant();
    println!(
        "the pair is whole {} ms after the cable is back",
        healed.elapsed().as_millis()
    );
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
    cluster.verify();
}

#[test]
fn a_cut_in_one_direction_is_a_cut() {
    for deaf in [ALPHA, BETA] {
        let cluster = Cluster::start();
        let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
        writer.wait_for_more(20);
        cluster.network.cut_sender(1 - deaf);
        until("exactly one node to serve, alone", || {
            let states = [cluster.alpha().state(), cluster.beta().state()];
            let solo = states.iter().filter(|state| *state == "serving solo").count();
            let serving = states.iter().filter(|state| state.starts_with("serving")).count();
            if (solo, serving) == (1, 1) {
                Ok(())
            } else {
                Err(states.join(", "))
            }
        });
        writer.wait_for_more(20);
        cluster.network.heal_sender(1 - deaf);
        cluster.wait_until_redundant();
        let ledger = writer.end();
        for node in &cluster.nodes {
            ledger.check(node);
        }
    }
}

#[test]
fn a_pair_that_is_cut_and_healed_again_and_again_loses_nothing() {
    let cluster = Cluster::start();
    let writer = Writer::start(&[cluster.beta(), cluster.alpha()]);
    for _ in 0..3 {
        writer.wait_for_more(20);
        cluster.network.cut();
        until("a node to serve alone", || {
            let states = [cluster.alpha().state(), cluster.beta().state()];
            if states.iter().any(|state| state == "serving solo") {
                Ok(())
            } else {
                Err(states.join(", "))
            }
        });
        writer.wait_for_more(20);
        cluster.network.heal();
        cluster.wait_until_redundant();
    }
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
    cluster.verify();
}

#[test]
fn the_rows_of_etc_services_are_there_on_the_other_node_during_a_takeover() {
    let mut cluster = Cluster::start();
    let mut rows = 0;
    for (file, key) in [("/etc/services", "SERVICE"), ("/etc/protocols", "PROTOCOL")] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/etc-rows");
        let made = ccd_tests::process::programs::run(script, &[key, file]).done();
        rows += made.rows().iter().filter(|row| row.starts_with("add ")).count();
        let transaction = cluster.folder().join(key);
        std::fs::write(&transaction, made.out).expect("the folder is ours");
        let transaction = transaction.to_str().expect("the path is ours");
        cluster.alpha().adm(&["apply", "--dry-run", transaction]).done();
        let applied = cluster.alpha().adm(&["apply", transaction]).done();
        println!("{file} applied in {} ms", applied.took.as_millis());
    }
    assert!(rows > 100, "only {rows} rows: is the package netbase installed?");
    let ssh = "SERVICE:ssh:22:tcp:";
    cluster
        .beta()
        .adm(&["query", "SERVICE", "ssh", "22"])
        .done()
        .shows(ssh);

    cluster.nodes[ALPHA].kill();
    let killed = Instant::now();
    let mut answers = 0;
    let mut refusals = 0;
    until("beta to serve alone", || {
        let answer = cluster
            .beta()
            .adm(&["query", "SERVICE", "ssh", "--timeout", "1s"]);
        match answer.code {
            0 => {
                assert!(answer.out.starts_with(ssh), "{}", answer.out);
                answers += 1;
            }
            _ => {
                answer.says_what_to_try();
                refusals += 1;
            }
        }
        match cluster.beta().state() {
            state if state == "serving solo" => Ok(()),
            state => Err(state),
        }
    });
    println!(
        "{answers} right answers and {refusals} refusals in the {} ms of the takeover",
        killed.elapsed().as_millis()
    );
    let services = cluster.beta().adm(&["query", "SERVICE"]).done().rows().len();
    let protocols = cluster.beta().adm(&["query", "PROTOCOL"]).done().rows().len();
    assert_eq!(services + protocols, rows);
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    cluster
        .alpha()
        .adm(&["query", "PROTOCOL", "tcp"])
        .done()
        .shows("PROTOCOL:tcp:6:");
    cluster.verify();
}
