//! What an operator sees first in each situation: the first line of `ccdadm status` on every node, and its exit code. Each situation is
//! caused on real daemons, several side by side; `docs/situations.md` is written from the same table.
//!
//! ```text
//! stage.rs     a pair in which each node has ways of its own to the devices
//! devices.rs   devices that fail while they are used            at_start.rs  devices that are not what they should be at a start
//! nodes.rs     nodes that die, hang, start alone                copies.rs    local copies, and what only others remember
//! cuts.rs      networks that are cut                            operators.rs what operators have decided
//! files.rs     files in /etc/ccd and the state folder           starts.rs    what keeps one node from starting
//! ways.rs      ways to devices that fail, of one node or both    put_back.rs  devices put back to an earlier state
//! page.rs      the page for operators
//! ```

mod at_start;
mod copies;
mod cuts;
mod devices;
mod files;
mod nodes;
mod operators;
mod page;
mod put_back;
mod stage;
mod starts;
mod ways;

use ccd_tests::process::{TestNode, until_within};
use stage::Stage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many situations are caused at once: they wait far more than they work.
const SIDE_BY_SIDE: usize = 6;

/// Words of the names of those situations that alone are caused, to work on one of them.
const ONLY: &str = "CCD_SITUATION";

/// How long until every node sees it.
const SEEN_WITHIN: Duration = Duration::from_secs(40);

/// Something that can be wrong with a cluster.
struct Situation {
    /// For the page, and for whoever looks for a failed one.
    name: &'static str,
    /// On a pair that serves.
    cause: fn(&mut Stage),
    alpha: Seen,
    beta: Seen,
    /// What puts it right; both nodes are all redundant then. `None`: the cluster is thrown away.
    cure: Option<fn(&mut Stage)>,
}

/// The first line on one node: all of these words, and the exit code.
struct Seen {
    exit: i32,
    words: &'static [&'static str],
}

const fn seen(exit: i32, words: &'static [&'static str]) -> Seen {
    Seen { exit, words }
}

fn all() -> Vec<&'static Situation> {
    let parts = [
        nodes::SITUATIONS,
        cuts::SITUATIONS,
        operators::SITUATIONS,
        devices::SITUATIONS,
        ways::SITUATIONS,
        put_back::SITUATIONS,
        at_start::SITUATIONS,
        copies::SITUATIONS,
        files::SITUATIONS,
        starts::SITUATIONS,
    ];
    parts.into_iter().flatten().collect()
}

/// What was seen, for the page.
struct Shown {
    name: &'static str,
    alpha: String,
    beta: String,
}

fn first_line(node: &TestNode) -> (i32, String) {
    let told = node.adm(&["status"]);
    let line = if told.out.is_empty() { &told.err } else { &told.out };
    (told.code, line.lines().next().unwrap_or_default().to_owned())
}

fn wait_for(situation: &Situation, node: &TestNode, wanted: &Seen) -> String {
    let what = format!(
        "{}, on {}: exit code {} and {:?}",
        situation.name, node.name, wanted.exit, wanted.words
    );
    let (line, _) = until_within(SEEN_WITHIN, Duration::from_millis(200), &what, || {
        let (code, line) = first_line(node);
        if code == wanted.exit && wanted.words.iter().all(|word| line.contains(word)) {
            Ok(line)
        } else {
            Err(format!("{code}: {line}"))
        }
    });
    line
}

fn play(situation: &'static Situation) -> Shown {
    let mut stage = Stage::set();
    (situation.cause)(&mut stage);
    let alpha = wait_for(situation, stage.alpha(), &situation.alpha);
    let beta = wait_for(situation, stage.beta(), &situation.beta);
    if let Some(cure) = situation.cure {
        cure(&mut stage);
        stage.wait_until_redundant();
    }
    Shown {
        name: situation.name,
        alpha,
        beta,
    }
}

#[test]
fn in_each_situation_the_first_line_names_the_cause_what_works_and_the_next_command() {
    let mut situations = all();
    if let Ok(words) = std::env::var(ONLY) {
        situations.retain(|situation| situation.name.contains(&words));
    }
    let (next, shown) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(situation) = situations.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // The others are played all the same.
                    match catch_unwind(AssertUnwindSafe(|| play(situation))) {
                        Ok(seen) => shown.lock().expect("nobody panics with it").push(seen),
                        Err(_) => failed.lock().expect("nobody panics with it").push(situation.name),
                    }
                }
            });
        }
    });
    let mut shown = shown.into_inner().expect("all have ended");
    let place = |shown: &Shown| situations.iter().position(|one| one.name == shown.name);
    shown.sort_by_key(place);
    for one in &shown {
        println!("{}\n  alpha: {}\n  beta:  {}", one.name, one.alpha, one.beta);
    }
    let failed = failed.into_inner().expect("all have ended");
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        situations.len()
    );
}

#[test]
fn the_page_for_operators_says_what_the_table_says() {
    page::compare(&all());
}
