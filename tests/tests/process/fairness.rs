//! Users whose requests are allowed and heavy: queries that examine a large database, removals that do, and dry runs of these, in a loop
//! on several connections. Root's small requests are answered quickly meanwhile, and heartbeats are not late. Needs root.
//!
//! What is asserted has wide margins, for machines that do other work as well; what was measured is printed.

use ccd_client::wire::{self, Ask, ToDaemon};
use ccd_client::{Client, Freshness, Transaction};
use ccd_core::client::{Request, RequestBody, UpdateRequest};
use ccd_core::database::{Key, NAMED_PATTERNS_PER_COLUMN_MAX, Op, Pattern, Row, Who};
use ccd_core::ids::{NodeId, RequestId};
use ccd_core::time::Date;
use ccd_tests::process::attack::Attack;
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, Shape, TestNode};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const READER: User<'_> = User {
    uid: 2001,
    gid: 2001,
    groups: &[],
};
const WRITER: User<'_> = User {
    uid: 2002,
    gid: 2002,
    groups: &[],
};

const DRY_RUNNER: User<'_> = User {
    uid: 2003,
    gid: 2003,
    groups: &[],
};

const LEASE: Duration = Duration::from_millis(4000);
const DATABASE_BYTES: usize = 16 << 20;
/// So often root asks in each phase: for as long as the others need for a few answers.
const ROUNDS: usize = 600;

/// How many were measured, in this process.
static PHASES: AtomicUsize = AtomicUsize::new(0);

#[test]
fn heavy_requests_of_users_hold_up_neither_heartbeats_nor_small_requests_of_root() {
    let mut cluster = Cluster::make(Shape {
        image_mib: 32,
        journal_mib: 8,
        lease_ms: LEASE.as_millis() as u32,
        ..Shape::default()
    });
    for node in &cluster.nodes {
        let init = File::options().append(true).open(node.places().init_path());
        let rows = b"ACCESS:read:2001:B\nACCESS:write:2002:B\nACCESS:write:2003:B\n";
        init.and_then(|mut file| file.write_all(rows))
            .expect("setup wrote it");
    }
    cluster.start_both();
    let door = Door::open(&cluster);
    let alpha = cluster.alpha();
    fill(alpha, cluster.folder());
    cluster.wait_until_redundant();
    let epoch = epoch(alpha);
    let quiet = Phase::measure(&cluster);
    println!("nobody else: {quiet}");
    let socket = alpha.places().client_socket();
    let attacks = [
        (
            "full queries",
            READER,
            frames(cluster.folder(), "queries", &query),
        ),
        (
            "removals that examine all",
            WRITER,
            frames(cluster.folder(), "removals", &removal),
        ),
        (
            "dry runs that examine all",
            DRY_RUNNER,
            frames(cluster.folder(), "dry-runs", &dry_run),
        ),
    ];
    for (what, who, frames) in &attacks {
        let attack = start(&door, *who, &socket, frames);
        let phase = Phase::measure(&cluster);
        let end = attack.end();
        println!("{what}: {phase}; {end}");
        assert_went_on(&end);
        phase.check(what);
    }
    let all = attacks
        .each_ref()
        .map(|(_, who, frames)| start(&door, *who, &socket, frames));
    let phase = Phase::measure(&cluster);
    let ends = all.map(Attack::end);
    println!("all: {phase}; {}", ends.join("; "));
    let [queries, removals, dry_runs] = &ends;
    assert_went_on(queries);
    assert_went_on(removals);
    // They come last on a machine that has so much else to do, and one may take longer than this phase.
    assert!(dry_runs.ends_with("8 of 8 connections at work"), "{dry_runs}");
    phase.check("all");
    cluster.wait_until_redundant();
    assert_eq!(
        self::epoch(alpha),
        epoch,
        "a node lost its place: {}",
        alpha.log()
    );
    cluster.verify();
}

fn epoch(node: &TestNode) -> u64 {
    let status = node.status().expect("it runs");
    status["cluster"]["epoch"].as_u64().expect("a number")
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// Short rows, so that there are many.
fn fill(node: &TestNode, folder: &Path) {
    let (plain, path) = (folder.join("short.txt"), folder.join("short.ccd"));
    let mut text = String::from("B_fmt:number\nLOAD_fmt:what\n");
    for number in 0.. {
        if text.len() > DATABASE_BYTES {
            break;
        }
        let _ = writeln!(text, "B:{number:07}");
    }
    fs::write(&plain, text).expect("the folder is ours");
    let name = |path: &PathBuf| path.to_str().expect("the path is ours").to_owned();
    node.adm(&["convert", "--yes", &name(&plain), &name(&path)])
        .done();
    node.adm(&["--timeout", "60", "restore", "--yes", &name(&path)])
        .done();
}

/// As many patterns as there may be, each of which is looked for in every row.
fn query(number: u64) -> RequestBody {
    let digit = number % 10;
    let pattern = (0..NAMED_PATTERNS_PER_COLUMN_MAX).fold(Pattern::all(key("B")), |all, _| {
        all.by_name("number", format!("*{digit}*0*"))
    });
    RequestBody::Query {
        pattern,
        stale: false,
    }
}

/// Removals of what is not there, and of one row by its end, which is added again.
fn removal(number: u64) -> RequestBody {
    let row = Row::new(key("B"), [format!("x{number}")]).expect("a row");
    let ops = match number % 3 {
        0 => vec![Op::Add(row)],
        1 => vec![Op::Remove(Pattern::positional(
            key("B"),
            [format!("*x{}", number - 1)],
        ))],
        _ => vec![Op::Remove(Pattern::positional(key("B"), ["*z*z*"]))],
    };
    RequestBody::Update(UpdateRequest {
        request: RequestId {
            client: 77,
            sequence: number + 1,
        },
        who: Who::default(),
        date: Date::default(),
        reason: None,
        preconditions: vec![],
        ops,
        no_wait: false,
        dry_run: false,
        no_sync: false,
    })
}

/// What would be removed of all rows.
fn dry_run(number: u64) -> RequestBody {
    let digit = number % 10;
    RequestBody::Update(UpdateRequest {
        request: RequestId {
            client: 78,
            sequence: number + 1,
        },
        who: Who::default(),
        date: Date::default(),
        reason: None,
        preconditions: vec![],
        ops: vec![Op::Remove(Pattern::positional(key("B"), [format!("*{digit}*")]))],
        no_wait: false,
        dry_run: true,
        no_sync: false,
    })
}

fn frames(folder: &Path, name: &str, body: &dyn Fn(u64) -> RequestBody) -> String {
    let mut bytes = Vec::new();
    for id in 0..3000 {
        let body = Ask::Request(Request {
            timeout: Duration::from_secs(20),
            body: body(id),
        });
        bytes.extend(wire::encode_request(&ToDaemon { id, body }).expect("it fits"));
    }
    let path = folder.join(name);
    fs::write(&path, bytes).expect("the folder is ours");
    path.to_str().expect("the path is ours").to_owned()
}

/// What root and the peers saw while something went on.
#[derive(Debug)]
struct Phase {
    /// Sorted.
    queries: Vec<Duration>,
    updates: Vec<Duration>,
    /// The longest time for which a node had no answer to a heartbeat of the other's.
    gap: Duration,
}

impl Phase {
    fn measure(cluster: &Cluster) -> Self {
        let over = AtomicBool::new(false);
        let watch = |node: &TestNode, other: u8| {
            let client = Client::attach(node.places(), "process-test").expect("it runs");
            let other = NodeId::new(other);
            let mut gap = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let report = client.status().expect("it runs");
                let seen = report.status.nodes.iter().find(|seen| Some(seen.id) == other);
                let left = seen.and_then(|seen| seen.lease).unwrap_or_default();
                gap = gap.max(LEASE.saturating_sub(left));
                thread::sleep(Duration::from_millis(10));
            }
            gap
        };
        let [alpha, beta] = &cluster.nodes;
        thread::scope(|scope| {
            let gaps = [scope.spawn(|| watch(alpha, 1)), scope.spawn(|| watch(beta, 0))];
            let (mut queries, mut updates) = (Vec::new(), Vec::new());
            let client = Client::attach(alpha.places(), "process-test").expect("it runs");
            // Rows of an earlier phase stay.
            let phase = PHASES.fetch_add(1, Ordering::Relaxed);
            for round in 0..ROUNDS {
                let row = Row::new(key("LOAD"), [format!("phase {phase} round {round}")]).expect("a row");
                let begun = Instant::now();
                client
                    .update(Transaction::of(vec![Op::Add(row.clone())]))
                    .expect("root may update");
                updates.push(begun.elapsed());
                let begun = Instant::now();
                let rows = client
                    .query(Pattern::exact(&row), Freshness::Strict)
                    .expect("root may query");
                queries.push(begun.elapsed());
                assert_eq!(rows.rows.len(), 1);
                thread::sleep(Duration::from_millis(5));
            }
            over.store(true, Ordering::Relaxed);
            queries.sort();
            updates.sort();
            let gaps = gaps.map(|gap| gap.join().expect("the node runs"));
            Self {
                queries,
                updates,
                gap: gaps.into_iter().max().unwrap_or_default(),
            }
        })
    }

    fn check(&self, what: &str) {
        let median = |sorted: &[Duration]| sorted[sorted.len() / 2];
        assert!(
            median(&self.queries) < Duration::from_millis(100),
            "{what}: {self}"
        );
        assert!(
            median(&self.updates) < Duration::from_millis(500),
            "{what}: {self}"
        );
        // A heartbeat has a span of its own, and both nodes and the load share this machine.
        assert!(self.gap < LEASE / 2, "{what}: {self}");
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, sorted) in [("queries", &self.queries), ("updates", &self.updates)] {
            let at = |share: usize| sorted[(sorted.len() - 1) * share / 100].as_micros();
            write!(
                f,
                "{name} {} us, 99 %: {} us, at most {} us; ",
                at(50),
                at(99),
                at(100)
            )?;
        }
        write!(f, "longest gap between heartbeats {} ms", self.gap.as_millis())
    }
}

/// An attack that was hung up on, or never answered, shows nothing.
fn assert_went_on(end: &str) {
    assert!(
        !end.starts_with("0 answers") && end.ends_with("8 of 8 connections at work"),
        "{end}"
    );
}

fn start(door: &Door, who: User<'_>, socket: &Path, frames: &str) -> Attack {
    Attack::start(
        door,
        who,
        include_str!("../../hostile/attack.py"),
        socket,
        &["busy", frames],
    )
}
