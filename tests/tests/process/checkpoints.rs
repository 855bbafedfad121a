//! Automatic checkpoints of real daemons: made when the database has changed, the oldest dropped, and good for a restore.
//! Needs root.

use ccd_tests::process::node::TestNode;
use ccd_tests::process::quorum::Quorum;
use ccd_tests::process::until;

/// Names of automatic checkpoints, newest first.
fn automatic(node: &TestNode) -> Vec<String> {
    let listed = node.adm(&["checkpoints", "--json"]);
    let document = listed.json();
    let all = document["checkpoints"].as_array().expect("a list").iter();
    let automatic = all.filter(|checkpoint| checkpoint["automatic"] == true);
    automatic
        .map(|checkpoint| checkpoint["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn each_node_saves_what_changed_drops_the_oldest_and_restores_by_name() {
    let cluster = Quorum::start(2, &["checkpoint_interval_s=1", "checkpoint_keep=2"]);
    let (one, other) = (&cluster.nodes[0], &cluster.nodes[1]);
    one.adm(&["format", "KEY", "value"]).done();
    one.adm(&["checkpoint", "--name", "by-hand"]).done();
    let (first, _) = until("the first automatic checkpoint", || {
        automatic(one).pop().ok_or_else(|| one.log())
    });
    let mut count = 0;
    until("the first to be dropped for later ones", || {
        count += 1;
        one.adm(&["add", "KEY", &count.to_string()]).done();
        let names = automatic(one);
        assert!(
            names.len() <= 3,
            "two are kept, while a third is written: {names:?}"
        );
        if names.contains(&first) {
            Err(format!("{names:?}"))
        } else {
            Ok(())
        }
    });
    until("the other node to have its own", || {
        if automatic(other).is_empty() {
            Err(other.log())
        } else {
            Ok(())
        }
    });
    one.wait_for_log(&format!("dropped {first}"));
    // What was named by hand is there still, and either kind can be restored.
    one.adm(&["restore", "--yes", "--checkpoint", "by-hand"]).done();
    other.adm(&["query", "KEY"]).expect(1);
    let newest = automatic(one).remove(0);
    one.adm(&["restore", "--yes", "--checkpoint", &newest]).done();
    let saved = one.adm(&[
        "purify",
        &one.places()
            .checkpoints_dir()
            .join(format!("{newest}.ccd"))
            .to_string_lossy(),
    ]);
    saved.done();
    one.adm(&["restore", "--yes", "--checkpoint", "nothing-there"])
        .expect(66)
        .says_what_to_try();
}
