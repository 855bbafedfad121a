//! Users that mean no good, on the clients' socket of a real daemon: whatever they do, memory and descriptors are bounded, root and
//! other users are served meanwhile, heartbeats go on, the log does not grow with it, and nothing is lost. Needs root.

use ccd_client::wire::{self, Ask, ToDaemon};
use ccd_client::{Client, Transaction};
use ccd_core::client::{Request, RequestBody};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_tests::process::attack::Attack;
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, Shape, TestNode, until};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// May read, and attacks.
const READER: User<'_> = user(2001);
/// May write one key, and attacks.
const WRITER: User<'_> = user(2002);
/// May read, and means well.
const OTHER: User<'_> = user(2003);

const fn user(uid: u32) -> User<'static> {
    User {
        uid,
        gid: uid,
        groups: &[],
    }
}

/// One user's 64 MiB, an answer beyond it, what its connections have in small pieces, and what the allocator keeps.
const GROWTH_KIB_MAX: u64 = 320 << 10;

/// A user has at most 1,024 connections; with those of everybody else in the test.
const DESCRIPTORS_MAX: usize = 1_200;

#[test]
fn users_that_mean_no_good_take_nothing_from_the_others() {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let init = File::options().append(true).open(node.places().init_path());
        let rows = b"ACCESS:read:2001:*\nACCESS:write:2002:MINE\nACCESS:read:2003:*\n";
        init.and_then(|mut file| file.write_all(rows))
            .expect("setup wrote it");
    }
    cluster.start_both();
    let door = Door::open(&cluster);
    let alpha = cluster.alpha();
    fill(&cluster);
    let before = Vitals::of(alpha);
    let epoch = epoch(alpha);
    let client = Client::attach(alpha.places(), "process-test").expect("it runs");
    let mut written = 0;
    let socket = alpha.places().client_socket();
    let frames = Frames::make(cluster.folder());
    let attacks = [
        (READER, "silent", None),
        (READER, "idle", None),
        (READER, "nonsense", Some(&frames.everything)),
        (WRITER, "nonsense", Some(&frames.question)),
        (READER, "deaf", Some(&frames.everything)),
        (READER, "slow", None),
        (WRITER, "slow", None),
        (READER, "flood", Some(&frames.question)),
        (READER, "flood", Some(&frames.everything)),
    ];
    for (who, kind, frames) in attacks {
        let attack = start(&door, who, kind, &socket, frames);
        // Meanwhile everybody else is served.
        for _ in 0..20 {
            written += 1;
            let row = Row::new(key("LOAD"), [written.to_string()]).expect("a row");
            let told = client.update(Transaction::of(vec![Op::Add(row)]));
            told.unwrap_or_else(|error| panic!("{kind}: root cannot update: {error}"));
        }
        alpha.adm(&["query", "LOAD", &written.to_string()]).done();
        alpha.adm(&["status"]).done();
        door.ask(OTHER, "ccdadm", &["query", "MINE"]).done();
        let during = Vitals::of(alpha);
        let did = attack.end();
        println!("{kind} by {}: {did}; {during:?}", who.uid);
        assert!(during.descriptors < DESCRIPTORS_MAX, "{kind}: {during:?}");
        until(&format!("descriptors to come back after {kind}"), || {
            let now = Vitals::of(alpha);
            if now.descriptors <= before.descriptors + 16 {
                Ok(())
            } else {
                Err(format!("{now:?}, and {before:?} before"))
            }
        });
    }
    let after = Vitals::of(alpha);
    println!("before {before:?}, after {after:?}");
    assert!(
        after.peak_kib < before.peak_kib + GROWTH_KIB_MAX,
        "{after:?}, and {before:?} before"
    );
    cluster.wait_until_redundant();
    assert_eq!(
        self::epoch(alpha),
        epoch,
        "an attack cost a node its place: {}",
        alpha.log()
    );
    for node in &cluster.nodes {
        let rows = node.adm(&["query", "LOAD"]).done();
        assert_eq!(rows.rows().len(), written, "{} lost updates", node.name);
    }
    cluster.verify();
    let log = alpha.log();
    assert!(
        log.lines().count() < 600,
        "the log was flooded: {} lines",
        log.lines().count()
    );
    assert!(log.contains("user 2001 has 1024 connections"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Two megabytes, so that a whole database is a large answer.
fn fill(cluster: &Cluster) {
    let alpha = cluster.alpha();
    for name in ["MINE", "LOAD", "BIG"] {
        alpha.adm(&["format", name, "what"]).done();
    }
    alpha.adm(&["add", "MINE", "it"]).done();
    let path = cluster.folder().join("rows");
    let value = "x".repeat(500);
    let rows: String = (0..4000)
        .map(|number| format!("BIG:{number}-{value}\n"))
        .collect();
    fs::write(&path, rows).expect("the folder is ours");
    alpha
        .adm(&["apply", path.to_str().expect("the path is ours")])
        .done();
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// Files with requests, many in a row.
struct Frames {
    question: String,
    everything: String,
}

impl Frames {
    fn make(folder: &Path) -> Self {
        let write = |name: &str, count: u64, body: &dyn Fn() -> RequestBody| {
            let mut bytes = Vec::new();
            for id in 1..=count {
                let timeout = Duration::from_secs(5);
                let body = Ask::Request(Request {
                    timeout,
                    body: body(),
                });
                bytes.extend(wire::encode_request(&ToDaemon { id, body }).expect("it fits"));
            }
            let path = folder.join(name);
            fs::write(&path, bytes).expect("the folder is ours");
            path.to_str().expect("the path is ours").to_owned()
        };
        let pattern = || Pattern::all(key("MINE"));
        let question = || RequestBody::Query {
            pattern: pattern(),
            stale: false,
        };
        Self {
            question: write("question", 500, &question),
            everything: write("everything", 500, &|| RequestBody::Snapshot { stale: false }),
        }
    }
}

/// What a daemon takes of the machine.
#[derive(Clone, Copy, Debug)]
struct Vitals {
    peak_kib: u64,
    descriptors: usize,
}

impl Vitals {
    fn of(node: &TestNode) -> Self {
        let process = format!("/proc/{}", node.pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        let descriptors = fs::read_dir(format!("{process}/fd")).expect("it runs").count();
        Self {
            peak_kib: peak_kib.expect("the kernel says it"),
            descriptors,
        }
    }
}

fn epoch(node: &TestNode) -> u64 {
    let status = node.status().expect("it runs");
    status["cluster"]["epoch"].as_u64().expect("a number")
}

fn start(door: &Door, who: User<'_>, kind: &str, socket: &Path, frames: Option<&String>) -> Attack {
    let mut words = vec![kind];
    words.extend(frames.map(String::as_str));
    Attack::start(door, who, include_str!("../../hostile/attack.py"), socket, &words)
}
