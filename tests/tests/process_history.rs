//! The history that each node keeps, with real daemons: nothing twice, nothing missing, through takeover, restart and rejoin.
//! Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::node::TestNode;
use ccd_tests::process::{Cluster, Writer};
use serde_json::Value;

/// Every update that the node's history knows, oldest first. Panics if there is a gap.
fn updates(node: &TestNode) -> Vec<Value> {
    let all = node.adm(&["history", "--json", "--last", "1000000"]).done();
    let updates: Vec<Value> = all
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("one document a line"))
        .collect();
    assert!(
        updates.iter().all(|update| update["gap"].is_null()),
        "{}: a gap in {updates:?}",
        node.name
    );
    updates
}

fn generations(updates: &[Value]) -> Vec<u64> {
    updates
        .iter()
        .map(|update| update["generation"].as_u64().expect("a number"))
        .collect()
}

#[test]
fn every_update_is_told_once_through_takeover_restart_and_rejoin() {
    let mut cluster = Cluster::start();
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(50);
    cluster.nodes[ALPHA].kill();
    cluster.beta().wait_for("serving solo");
    writer.wait_for_more(50);
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    writer.wait_for_more(50);
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    writer.wait_for_more(50);
    cluster.nodes[ALPHA].kill();
    writer.end();
    cluster.nodes[ALPHA].start();
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    // A strict answer first: what was committed last may still be on its way to one of them.
    let position = cluster.beta().adm(&["keys", "--json"]).done();
    let position: Value = serde_json::from_str(&position.out).expect("a document");
    let newest = position["generation"].as_u64().expect("a number");
    for node in &cluster.nodes {
        node.adm(&["keys"]).done();
        let updates = updates(node);
        assert_eq!(
            generations(&updates),
            (1..=newest).collect::<Vec<_>>(),
            "{}",
            node.name
        );
    }
    assert_eq!(updates(cluster.alpha()), updates(cluster.beta()));
    cluster.verify();
}

#[test]
fn an_update_is_compared_and_undone_from_the_other_node() {
    let cluster = Cluster::start();
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    alpha.adm(&["format", "MY_KEY", "name", "value"]).done();
    alpha.adm(&["add", "MY_KEY", "a", "1"]).done();
    beta.adm(&["add", "--reason", "ticket 4711", "MY_KEY", "b", "2"])
        .done();
    let wrong = alpha.adm(&["remove", "--yes", "MY_KEY"]).done();
    assert_eq!(wrong.out, "");
    let told = beta.adm(&["history", "MY_KEY", "--rows"]).done();
    told.shows(": ticket 4711\n    +MY_KEY:b:2\n")
        .shows("    -MY_KEY:a:1\n    -MY_KEY:b:2\n");
    let found = updates(beta);
    let before = generations(&found)[found.len() - 2].to_string();
    let different = beta.adm(&["diff", &before, "now"]).expect(1);
    different.shows("-MY_KEY:a:1\n-MY_KEY:b:2\n");
    beta.adm(&["rollback", "--dry-run", &before])
        .done()
        .shows("+MY_KEY:a:1\n+MY_KEY:b:2\n");
    beta.adm(&["rollback", "--yes", &before]).done();
    for node in &cluster.nodes {
        assert_eq!(
            node.adm(&["query", "MY_KEY"]).done().rows(),
            ["MY_KEY:a:1", "MY_KEY:b:2"]
        );
        assert_eq!(node.adm(&["diff", &before, "now"]).done().out, "");
    }
    alpha.adm(&["diff", "0", "9999"]).expect(105).says_what_to_try();
    alpha
        .adm(&["rollback", "--yes", "9999"])
        .expect(105)
        .says_what_to_try();
    alpha.adm(&["branches"]).expect(1);
    alpha
        .adm(&["branches", "show", "../local.region"])
        .expect(105)
        .says_what_to_try();
    cluster.verify();
}
