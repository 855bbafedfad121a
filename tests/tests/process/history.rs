//! The history that each node keeps, with real daemons: nothing twice, and what is missing said, through takeover, restart and
//! rejoin.
//! Needs root.

use ccd_client::wire::{HistoryAsk, HistoryItem};
use ccd_client::{Applied, Client, Transaction};
use ccd_core::database::{Key, Op, Row};
use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::node::TestNode;
use ccd_tests::process::{Cluster, Writer};
use serde_json::Value;
use std::collections::BTreeMap;

/// What the node's history has, oldest first: updates, and gaps.
fn history(node: &TestNode) -> Vec<Value> {
    let all = node.adm(&["history", "--json", "--last", "1000000"]).done();
    all.out
        .lines()
        .map(|line| serde_json::from_str(line).expect("one document a line"))
        .collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// Every update that the node's history knows. Panics unless each generation up to `newest` is told once, in order, or said to
/// be missing.
fn told_once(node: &TestNode, newest: u64) -> BTreeMap<u64, Value> {
    let mut told = BTreeMap::new();
    let mut reached = 0;
    for entry in history(node) {
        let gap = &entry["gap"];
        if gap.is_null() {
            assert_eq!(number(&entry["generation"]), reached + 1, "{}", node.name);
            reached += 1;
            told.insert(reached, entry);
        } else {
            println!("{}: a gap, {gap}", node.name);
            assert_eq!(number(&gap["after"]), reached, "{}", node.name);
            reached = number(&gap["up_to"]);
        }
    }
    assert_eq!(reached, newest, "{}", node.name);
    told
}

#[test]
fn every_update_is_told_once_or_said_to_be_missing_through_takeover_restart_and_rejoin() {
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
    let newest = number(&position["generation"]);
    cluster.alpha().adm(&["keys"]).done();
    let alpha = told_once(cluster.alpha(), newest);
    let beta = told_once(cluster.beta(), newest);
    let both = alpha
        .iter()
        .filter(|(generation, _)| beta.contains_key(generation));
    let mut compared = 0;
    for (generation, update) in both {
        assert_eq!(*update, beta[generation]);
        compared += 1;
    }
    assert!(compared > 0, "both nodes served together");
    // Of a process that is killed, the last moments may be missing; not what it told before.
    assert!(beta.len() > 50, "beta wrote alone for long: {}", beta.len());
    cluster.verify();
}

/// An update is committed on a member some milliseconds after it was acknowledged, if nothing follows it.
#[test]
fn what_was_acked_on_one_node_is_in_the_history_of_the_other() {
    let cluster = Cluster::start();
    cluster.alpha().adm(&["format", "MY_KEY", "number"]).done();
    let client = |node: &TestNode| Client::attach(node.places(), "process-test").expect("it serves");
    let (alpha, beta) = (client(cluster.alpha()), client(cluster.beta()));
    for number in 0..50 {
        let key = Key::new("MY_KEY").expect("it is well formed");
        let row = Row::new(key, [number.to_string()]);
        let add = Op::Add(row.expect("it is well formed"));
        let acked = match alpha.update(Transaction::of(vec![add])) {
            Ok(Applied::Committed { generation, .. }) => generation,
            other => panic!("{other:?}"),
        };
        let ask = HistoryAsk {
            key: None,
            last: 1,
            before: None,
            rows: false,
        };
        let told = beta.history(ask).expect("it answers");
        match &told.items[..] {
            [HistoryItem::Update(update)] => assert_eq!(update.generation, acked),
            other => panic!("{other:?}, where generation {acked:?} was acked"),
        }
    }
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
    let found = history(beta);
    let before = number(&found[found.len() - 2]["generation"]).to_string();
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
