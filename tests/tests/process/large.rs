//! Databases as large as the replicas hold: restored, compared, rolled back, adopted, whether the pair is whole or one node is
//! alone with the devices. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA, Shape};
use ccd_tests::process::node::TestNode;
use ccd_tests::process::{Cluster, until_within};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, thread};

/// The defaults of the options.
const IMAGE_MIB: usize = 32;
const JOURNAL_MIB: u32 = 8;

/// More than one message, one record and half of the journal.
const LARGE_BYTES: usize = 25 << 20;

const HISTORY_PATIENCE: Duration = Duration::from_secs(240);

/// The largest: the image has a header, outcomes and a digest around the text.
const LARGEST_BYTES: usize = (IMAGE_MIB << 20) - (200 << 10);

fn cluster() -> Cluster {
    Cluster::start_shaped(Shape {
        image_mib: IMAGE_MIB as u32,
        journal_mib: JOURNAL_MIB,
        // Other tests work meanwhile, and programs that work with whole databases: what is measured is not the machine.
        lease_ms: 4000,
        ..Shape::default()
    })
}

/// A database file of about so many bytes, as an administrator has it from elsewhere. Returns how many rows it has.
fn make_file(node: &TestNode, path: &Path, bytes: usize, word: &str) -> usize {
    let plain = path.with_extension("txt");
    let mut text = String::with_capacity(bytes + 200);
    text.push_str("SERVICE_fmt:number:address:comment\n");
    let mut rows = 0;
    while text.len() + 1000 < bytes {
        let _ = writeln!(
            text,
            "SERVICE:{rows:08}:10.0.{}.{}:{word} {rows:>900}",
            rows >> 8,
            rows & 255
        );
        rows += 1;
    }
    fs::write(&plain, text).expect("the folder is ours");
    node.adm(&["convert", "--yes", name(&plain), name(path)]).done();
    rows
}

fn name(path: &Path) -> &str {
    path.to_str().expect("the path is ours")
}

fn patient<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["--timeout", "60"], words].concat()
}

fn restore(node: &TestNode, path: &Path) {
    node.adm(&patient(&["restore", "--yes", name(path)])).done();
}

/// The history is written by a thread that lets everything else go first: on a machine that is busy, a whole database takes it
/// a while.
fn wait_for_history(node: &TestNode) {
    until_within(
        HISTORY_PATIENCE,
        Duration::from_millis(100),
        "the history to be written",
        || {
            let told = node.adm(&["--timeout", "20", "history", "--last", "1"]);
            if told.code == 0 { Ok(()) } else { Err(told.err) }
        },
    );
}

fn generation(node: &TestNode) -> u64 {
    let keys = node.adm(&patient(&["keys", "--json"])).done().json();
    keys["generation"].as_u64().expect("a number")
}

fn rows(node: &TestNode) -> u64 {
    let keys = node.adm(&patient(&["keys", "--json"])).done().json();
    keys["keys"]
        .as_array()
        .map_or(0, |keys| keys.iter().filter_map(|key| key["rows"].as_u64()).sum())
}

/// No configuration was given up meanwhile: what is large is no reason to be taken for dead.
fn epoch(node: &TestNode) -> u64 {
    let keys = node.adm(&patient(&["keys", "--json"])).done().json();
    keys["epoch"].as_u64().expect("a number")
}

fn lines_that_begin(with: char, text: &str) -> usize {
    text.lines()
        .filter(|line| line.starts_with(with) && !line.starts_with(&with.to_string().repeat(3)))
        .count()
}

/// Restores a file over what is there, compares, rolls back and forth through this node.
fn drive(node: &TestNode, folder: &Path, bytes: usize) {
    let (one, two): (PathBuf, PathBuf) = (folder.join("one.ccd"), folder.join("two.ccd"));
    let count = make_file(node, &one, bytes, "one");
    make_file(node, &two, bytes, "two");
    node.adm(&patient(&["restore", "--dry-run", name(&one)])).done();
    restore(node, &one);
    let first = generation(node);
    assert_eq!(rows(node), count as u64);
    // A file, and the database as it is.
    node.adm(&patient(&["diff", name(&one), "now"])).expect(0);
    let differs = node.adm(&patient(&["diff", name(&two), "now"])).expect(1);
    assert_eq!(lines_that_begin('+', &differs.out), count);
    restore(node, &two);
    let second = generation(node);
    // Two generations, by the history.
    wait_for_history(node);
    let first_name = first.to_string();
    let differs = node.adm(&patient(&["diff", &first_name, "now"])).expect(1);
    assert_eq!(lines_that_begin('-', &differs.out), count);
    assert_eq!(lines_that_begin('+', &differs.out), count);
    node.adm(&patient(&["rollback", "--yes", &first_name])).done();
    node.adm(&patient(&["diff", name(&one), "now"])).expect(0);
    wait_for_history(node);
    node.adm(&patient(&[
        "rollback",
        "--yes",
        "--key",
        "SERVICE",
        &second.to_string(),
    ]))
    .done();
    node.adm(&patient(&["diff", name(&two), "now"])).expect(0);
    // One key of a large file.
    node.adm(&patient(&["restore", "--yes", "--key", "SERVICE", name(&one)]))
        .done();
    node.adm(&patient(&["diff", name(&one), "now"])).expect(0);
    // What a checkpoint saves can be restored.
    let saved = folder.join("saved.ccd");
    node.adm(&patient(&["checkpoint", "--yes", name(&saved)])).done();
    restore(node, &two);
    restore(node, &saved);
    node.adm(&patient(&["diff", name(&one), "now"])).expect(0);
}

#[test]
fn a_database_of_25_mib_is_restored_compared_and_rolled_back_by_a_pair_and_by_a_lone_owner() {
    let mut cluster = cluster();
    let folder = cluster.folder().to_owned();
    let before = epoch(cluster.alpha());
    // Through the node that is not master: the request travels there, and back with the round.
    drive(cluster.beta(), &folder, LARGE_BYTES);
    assert_eq!(
        epoch(cluster.alpha()),
        before,
        "{}",
        cluster.alpha().adm(&["why"]).out
    );
    cluster.verify();
    cluster.nodes[ALPHA].kill();
    cluster.beta().wait_for("serving solo");
    drive(cluster.beta(), &folder, LARGE_BYTES);
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    cluster.verify();
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    cluster
        .alpha()
        .adm(&patient(&["diff", name(&folder.join("one.ccd")), "now"]))
        .expect(0);
}

#[test]
fn the_largest_database_that_image_mib_allows_can_be_restored_and_a_larger_one_is_refused_with_the_reason() {
    let mut cluster = cluster();
    let folder = cluster.folder().to_owned();
    drive(cluster.alpha(), &folder, LARGEST_BYTES);
    let larger = folder.join("larger.ccd");
    make_file(
        cluster.alpha(),
        &larger,
        (IMAGE_MIB << 20) + (400 << 10),
        "larger",
    );
    let refused = cluster
        .alpha()
        .adm(&patient(&["restore", "--yes", name(&larger)]));
    assert_ne!(refused.code, 0);
    refused.says("CCD-1208").says_what_to_try();
    let far_larger = folder.join("far-larger.ccd");
    make_file(cluster.alpha(), &far_larger, (IMAGE_MIB + 8) << 20, "far larger");
    let refused = cluster
        .alpha()
        .adm(&patient(&["restore", "--yes", name(&far_larger)]));
    assert_ne!(refused.code, 0);
    refused.says("CCD-1150").says_what_to_try();
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    drive(cluster.alpha(), &folder, LARGEST_BYTES);
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    cluster.verify();
}

#[test]
fn what_is_large_holds_up_no_small_request_for_a_lease() {
    let cluster = cluster();
    let folder = cluster.folder().to_owned();
    let file = folder.join("large.ccd");
    make_file(cluster.alpha(), &file, LARGEST_BYTES, "large");
    let before = epoch(cluster.alpha());
    thread::scope(|scope| {
        let restoring = scope.spawn(|| (0..3).for_each(|_| restore(cluster.beta(), &file)));
        while !restoring.is_finished() {
            // Answered within the usual time-out of a request, by both.
            cluster.alpha().adm(&["keys"]).done();
            cluster.beta().adm(&["keys"]).done();
        }
    });
    assert_eq!(
        epoch(cluster.alpha()),
        before,
        "{}",
        cluster.alpha().adm(&["why"]).out
    );
}
