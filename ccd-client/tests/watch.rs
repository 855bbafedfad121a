//! `Client::watch` and `ccdadm watch` against a daemon that says what it is told to: what is given out, in which order, how it goes on
//! after the daemon was lost, and wrong input.

mod support;

use ccd_client::wire::{
    Ask, Fault, Told, WatchAsk, WatchChange, WatchEffects, WatchFrom, WatchItem, WatchPlace,
};
use ccd_client::{CcdError, Client, Watch, WatchEvent};
use ccd_core::client::Refusal;
use ccd_core::database::{Difference, Key, Pattern, Row, Who};
use ccd_core::ids::{Epoch, Generation, Lineage, Position, RequestId, Stamp};
use ccd_core::time::Date;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Fake, Trick, fake_with_rows};

const PATIENCE: Duration = Duration::from_secs(20);

fn position(generation: u64) -> Position {
    let stamp = Stamp {
        epoch: Epoch(1),
        generation: Generation(generation),
    };
    let lineage = Lineage([u8::try_from(generation).expect("a small number"); 32]);
    Position { stamp, lineage }
}

fn row(text: &str) -> Row {
    Row::parse_text(text).expect("a row")
}

fn change(generation: u64) -> WatchChange {
    let rows = Difference {
        rows_added: vec![row(&format!("MY_KEY:new{generation}:1:sci:x"))],
        rows_removed: vec![row(&format!("MY_KEY:old{generation}:1:sci:x"))],
        ..Difference::default()
    };
    WatchChange {
        generation: Generation(generation),
        date: Date(0),
        who: Who {
            program: "test\u{1b}[31m".into(),
            ..Who::default()
        },
        reason: Some("ticket\n4711".into()),
        request: RequestId::default(),
        effects: WatchEffects::Rows(rows),
    }
}

/// A round with these generations.
fn round(generations: &[u64]) -> WatchItem {
    let last = generations.last().expect("a generation");
    WatchItem::Round {
        round: position(*last),
        changes: generations.iter().map(|generation| change(*generation)).collect(),
    }
}

fn script(fake: &Fake, items: Vec<WatchItem>) {
    fake.with(|state| state.watched.push_back(items));
}

fn watch(fake: &Fake) -> Watch {
    let client = Client::attach_within(&fake.places(), "test", Duration::from_secs(5)).expect("it listens");
    client.watch().start().expect("it may watch")
}

/// The generations of the next so many changes; and what else came, in words.
fn told(watch: &mut Watch, count: usize) -> Vec<String> {
    let started = Instant::now();
    let mut told = Vec::new();
    while told.len() < count {
        assert!(started.elapsed() < PATIENCE, "only {told:?}");
        let event = watch.next(Some(Duration::from_secs(1))).expect("it goes on");
        told.extend(event.map(|event| match event {
            WatchEvent::Began { .. } => "began".to_owned(),
            WatchEvent::Rows { rows, .. } => format!("{} rows", rows.len()),
            WatchEvent::RowsAnew => "anew".to_owned(),
            WatchEvent::AllRows { place } => format!("rows at {}", place.seen),
            WatchEvent::Change(change) => {
                assert_eq!(
                    change.update.rows.as_ref().map(|rows| rows.rows_added.len()),
                    Some(1)
                );
                format!("{}@{}", change.place.seen, change.place.round.stamp.generation)
            }
            WatchEvent::Progress { place } => format!("up to {}", place.seen),
            WatchEvent::Missed { after, place } => format!("missed {after}..{}", place.seen),
            WatchEvent::Diverged { after, place } => format!("diverged {after}..{}", place.seen),
            WatchEvent::Away { .. } => "away".to_owned(),
            WatchEvent::Back => "back".to_owned(),
        }));
    }
    told
}

/// From where each watch was asked for.
fn asked(fake: &Fake) -> Vec<WatchFrom> {
    fake.with(|state| {
        let asked = state.asked.iter().filter_map(|ask| match ask {
            Ask::Watch(WatchAsk { from, .. }) => Some(*from),
            _ => None,
        });
        asked.collect()
    })
}

fn place(seen: u64, round: u64) -> WatchFrom {
    WatchFrom::Place(WatchPlace {
        seen: Generation(seen),
        round: position(round),
    })
}

#[test]
fn what_comes_is_given_out_in_order_and_a_round_is_several_updates() {
    let fake = Fake::start();
    let up_to = position(9);
    let after = Generation(5);
    script(
        &fake,
        vec![
            round(&[1]),
            round(&[3, 4, 5]),
            WatchItem::Missed { after, up_to },
            WatchItem::Progress {
                position: position(12),
            },
            WatchItem::Diverged {
                after: Generation(12),
                up_to,
            },
            round(&[10]),
            WatchItem::NotServing {
                why: "waiting".into(),
            },
            WatchItem::NotServing {
                why: "waiting".into(),
            },
            WatchItem::Progress {
                position: position(10),
            },
        ],
    );
    let mut watch = watch(&fake);
    assert_eq!(watch.place(), None);
    let expected = [
        "began",
        "1@1",
        "3@5",
        "4@5",
        "5@5",
        "missed 5..9",
        "up to 12",
        "diverged 12..9",
        "10@10",
        "away",
        "back",
        "up to 10",
    ];
    assert_eq!(told(&mut watch, expected.len()), expected);
    assert_eq!(watch.place(), Some(WatchPlace::at(position(10))));
    assert_eq!(watch.next(Some(Duration::ZERO)).expect("it goes on"), None);
}

#[test]
fn a_watch_goes_on_where_it_was_when_the_daemon_comes_back() {
    let fake = Fake::start();
    script(&fake, vec![round(&[1, 2])]);
    script(&fake, vec![]);
    script(&fake, vec![round(&[3])]);
    let mut watch = watch(&fake);
    assert_eq!(told(&mut watch, 3), ["began", "1@2", "2@2"]);
    fake.drop_connections();
    assert_eq!(told(&mut watch, 2), ["away", "back"]);
    fake.drop_connections();
    assert_eq!(told(&mut watch, 3), ["away", "back", "3@3"]);
    assert_eq!(asked(&fake), [WatchFrom::Now, place(2, 2), place(2, 2)]);
}

#[test]
fn a_watch_from_now_goes_on_from_where_it_began() {
    let fake = fake_with_rows();
    let began = fake.with(|state| state.database.position());
    let mut watch = watch(&fake);
    assert_eq!(told(&mut watch, 1), ["began"]);
    fake.drop_connections();
    assert_eq!(told(&mut watch, 2), ["away", "back"]);
    assert_eq!(
        asked(&fake),
        [WatchFrom::Now, WatchFrom::Place(WatchPlace::at(began))]
    );
}

#[test]
fn rows_of_which_a_part_came_come_anew() {
    let fake = Fake::start();
    let rows = |text: &str| WatchItem::Rows {
        formats: vec![],
        rows: vec![row(text)],
    };
    script(&fake, vec![rows("K:1")]);
    script(
        &fake,
        vec![
            rows("K:1"),
            rows("K:2"),
            WatchItem::AllRows {
                position: position(4),
            },
        ],
    );
    script(&fake, vec![round(&[5])]);
    let client = Client::attach_within(&fake.places(), "test", Duration::from_secs(5)).expect("it listens");
    let mut watch = client.watch().with_rows().start().expect("it may watch");
    assert_eq!(told(&mut watch, 2), ["began", "1 rows"]);
    fake.drop_connections();
    let expected = ["away", "anew", "back", "1 rows", "1 rows", "rows at 4"];
    assert_eq!(told(&mut watch, expected.len()), expected);
    fake.drop_connections();
    assert_eq!(told(&mut watch, 3), ["away", "back", "5@5"]);
    assert_eq!(asked(&fake), [WatchFrom::Rows, WatchFrom::Rows, place(4, 4)]);
}

#[test]
fn what_passes_is_tried_again_and_what_does_not_ends_the_watch() {
    let fake = Fake::start();
    let mut watch = watch(&fake);
    assert_eq!(told(&mut watch, 1), ["began"]);
    for passes in [
        Told::Refused(Refusal::NotServing {
            why: "waiting".into(),
        }),
        Told::Refused(Refusal::NoQuorum { why: "alone".into() }),
        Told::Refused(Refusal::TimedOut),
        Told::Failed(Fault::Stopping),
        Told::Failed(Fault::Overloaded),
        Told::Failed(Fault::TooManyWatchers { why: "full".into() }),
    ] {
        fake.trick(Trick::Say(passes));
    }
    fake.drop_connections();
    assert_eq!(told(&mut watch, 2), ["away", "back"]);
    fake.trick(Trick::Say(Told::Failed(Fault::NotPermitted {
        why: "not any more".into(),
    })));
    fake.drop_connections();
    assert_eq!(told(&mut watch, 1), ["away"]);
    let error = loop {
        match watch.next(Some(PATIENCE)) {
            Ok(event) => assert!(event.is_some(), "it ends"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("not any more"), "{error}");
    watch.next(Some(PATIENCE)).expect_err("it has ended");
    assert!(Iterator::next(&mut watch).is_none());
}

#[test]
fn a_watch_that_cannot_begin_is_an_error_at_once() {
    let fake = Fake::start();
    let client = Client::attach_within(&fake.places(), "test", Duration::from_secs(5)).expect("it listens");
    for (told, id) in [
        (Told::Failed(Fault::NotPermitted { why: "no".into() }), 1109),
        (Told::Failed(Fault::TooManyWatchers { why: "full".into() }), 1120),
        (Told::Failed(Fault::NotKept { why: "gone".into() }), 1220),
        (
            Told::Refused(Refusal::NotServing {
                why: "waiting".into(),
            }),
            1201,
        ),
        (Told::Done, 1106),
    ] {
        fake.trick(Trick::Say(told));
        let error = client.watch().start().expect_err("it is refused");
        assert_eq!(error.message().id, id, "{error}");
    }
    fake.trick(Trick::Hang);
    let hurried = client.clone().with_timeout(Duration::from_millis(200));
    let error = hurried.watch().start().expect_err("nobody answers");
    assert!(matches!(error, CcdError::NoAnswer { .. }), "{error}");
    fake.trick(Trick::Say(Told::Refused(Refusal::NotServing {
        why: "waiting".into(),
    })));
    let patient = client.clone().with_retry(true);
    patient.watch().start().expect("it serves the second time");
    fake.stop();
    let error = client.watch().start().expect_err("nobody listens");
    assert_eq!(error.message().id, 1101, "{error}");
}

#[test]
fn the_descriptor_tells_when_there_is_something_to_take() {
    let fake = Fake::start();
    script(&fake, vec![round(&[1, 2, 3])]);
    script(&fake, vec![round(&[4])]);
    let mut watch = watch(&fake);
    let wait = |watch: &Watch, time: Duration| {
        let millis = PollTimeout::try_from(time).expect("a time");
        let mut descriptors = [PollFd::new(watch.descriptor(), PollFlags::POLLIN)];
        poll(&mut descriptors, millis).expect("it can be waited for") > 0
    };
    let mut count = 0;
    let mut changes = Vec::new();
    let mut take = |watch: &mut Watch, until: u64| {
        let started = Instant::now();
        while changes.last() != Some(&until) {
            assert!(started.elapsed() < PATIENCE, "{changes:?}");
            if wait(watch, PATIENCE) {
                count += 1;
                if let Some(WatchEvent::Change(change)) = watch.poll().expect("it goes on") {
                    changes.push(change.update.generation.0);
                }
            }
        }
    };
    take(&mut watch, 3);
    while watch.poll().expect("it goes on").is_some() {}
    assert!(!wait(&watch, Duration::from_millis(50)), "nothing is there");
    fake.drop_connections();
    take(&mut watch, 4);
    assert_eq!(changes, [1, 2, 3, 4]);
    assert!(count < 100, "it rang {count} times for a few events");
}

#[test]
fn ccdadm_watch_prints_changes_as_history_does() {
    let fake = Fake::start();
    let items = || {
        vec![
            round(&[3, 4]),
            WatchItem::Missed {
                after: Generation(4),
                up_to: position(9),
            },
            WatchItem::Diverged {
                after: Generation(9),
                up_to: position(7),
            },
            WatchItem::Progress {
                position: position(8),
            },
            round(&[10]),
        ]
    };
    script(&fake, items());
    let plain = fake.ccdadm(&["watch", "--count", "3"]).expect(0);
    assert!(
        !plain.stdout.contains('\u{1b}') && plain.stdout.contains(": ticket 4711\n"),
        "{plain:?}"
    );
    let plain = plain
        .says("generation 3  1970-01-01T00:00:00.000Z  node ?")
        .says("    MY_KEY: +1 -1 rows\n")
        .says("(generations 5 to 9 are not kept")
        .says("(the votes were overruled");
    assert_eq!(plain.stdout.matches("generation ").count(), 5, "{plain:?}");
    script(&fake, items());
    let rows = fake
        .ccdadm(&["watch", "MY_KEY", "--rows", "--count", "1"])
        .expect(0);
    assert!(
        rows.stdout
            .ends_with("    -MY_KEY:old3:1:sci:x\n    +MY_KEY:new3:1:sci:x\n"),
        "{rows:?}"
    );
    script(&fake, items());
    let json = fake
        .ccdadm(&["watch", "--json", "--rows", "--count", "3"])
        .expect(0);
    let documents: Vec<serde_json::Value> = json
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let events: Vec<&str> = documents
        .iter()
        .map(|one| one["event"].as_str().expect("an event"))
        .collect();
    assert_eq!(
        events,
        [
            "began", "change", "change", "missed", "diverged", "progress", "change"
        ]
    );
    assert_eq!(documents[1]["changes"]["added"][0], "MY_KEY:new3:1:sci:x");
    let place = documents[1]["place"].as_str().expect("a place");
    script(&fake, vec![round(&[11])]);
    fake.ccdadm(&["watch", "--from", place, "--count", "1"]).expect(0);
    assert_eq!(asked(&fake).last(), Some(&self::place(3, 4)));
}

#[test]
fn ccdadm_watch_shows_the_rows_of_the_start() {
    let fake = Fake::start();
    let items = || {
        vec![
            WatchItem::Rows {
                formats: vec![(Key::new("K").expect("a key"), vec!["a".into()])],
                rows: vec![row("K:1"), row("K:2%3A")],
            },
            WatchItem::AllRows {
                position: position(4),
            },
            round(&[5]),
        ]
    };
    script(&fake, items());
    let plain = fake
        .ccdadm(&["watch", "K", "--initial", "--count", "1"])
        .expect(0);
    assert!(
        plain
            .stdout
            .starts_with("K_fmt:a\nK:1\nK:2%3A\n(that were all rows of generation 4)\ngeneration 5"),
        "{plain:?}"
    );
    script(&fake, items());
    let json = fake
        .ccdadm(&["watch", "--initial", "--count", "1", "--json"])
        .expect(0);
    assert!(json.stdout.contains(r#""values":["2:"]"#), "{json:?}");
    assert_eq!(asked(&fake), [WatchFrom::Rows; 2]);
}

#[test]
fn ccdadm_watch_ends_as_it_says() {
    let fake = Fake::start();
    let second = ["--timeout", "300ms"];
    let with = |words: &[&'static str]| -> Vec<&'static str> { [&["watch"], words, &second].concat() };
    fake.ccdadm(&with(&[])).expect(1);
    script(&fake, vec![round(&[1])]);
    fake.ccdadm(&with(&[])).expect(0);
    script(&fake, vec![round(&[1])]);
    fake.ccdadm(&with(&["--count", "2"]))
        .expect_error(124, "CCD-1320", "1 of 2 updates came");
    for wrong in [
        &["--count", "0"][..],
        &["--count", "-1"],
        &["--count", "x"],
        &["--from", "x"],
        &["--from", ""],
        &["--from", "1-2-3"],
        &["--from", "1", "--initial"],
        &["--exact", "--wildcard", "%", "K"],
        &["--wildcard", "ab", "K"],
        &["--nonsense"],
        &["--timeout", "0"],
    ] {
        let words = [&["watch"], wrong].concat();
        fake.ccdadm(&words).expect(64).says("CCD-1001");
    }
    fake.ccdadm(&["watch", "bad:key"])
        .expect_error(64, "CCD-1034", "contains ':'");
    fake.ccdadm(&["watch", "--key", "K_fmt"])
        .expect_error(64, "CCD-1034", "_fmt");
    fake.trick(Trick::Say(Told::Failed(Fault::NotPermitted {
        why: "ACCESS:read:5:K would".into(),
    })));
    fake.ccdadm(&["watch", "K"])
        .expect_error(77, "CCD-1109", "ACCESS:read:5:K would");
    fake.trick(Trick::Say(Told::Failed(Fault::TooManyWatchers {
        why: "full".into(),
    })));
    fake.ccdadm(&["watch"]).expect_error(109, "CCD-1120", "full");
    fake.trick(Trick::Say(Told::Failed(Fault::NotKept {
        why: "not been reached".into(),
    })));
    fake.ccdadm(&["watch", "--from", "99"])
        .expect_error(105, "CCD-1220", "not been reached");
    fake.stop();
    fake.ccdadm(&["watch"]).expect_error(69, "CCD-1101", "ccdd.sock");
}

#[test]
fn ccdadm_watch_takes_keys_and_patterns() {
    let fake = Fake::start();
    script(&fake, vec![round(&[1])]);
    let words = [
        "watch",
        "K",
        "a%",
        "x=b",
        "--wildcard",
        "%",
        "--key",
        "L",
        "--count",
        "1",
    ];
    fake.ccdadm(&words).expect(0);
    let key = |name: &str| Key::new(name).expect("a key");
    let expected = vec![
        Pattern::from_arguments(key("K"), ["a%", "x=b"]).with_wildcard(Some('%')),
        Pattern::all(key("L")),
    ];
    let asked = fake.with(|state| match state.asked.last() {
        Some(Ask::Watch(ask)) => ask.patterns.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(asked, expected);
}

#[test]
fn an_interrupt_and_a_closed_pipe_are_no_errors() {
    let fake = Fake::start();
    let start = || {
        script(&fake, vec![round(&[1])]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ccdadm"));
        for name in ["CCD_ETC", "CCD_STATE", "CCD_RUN"] {
            command.env(name, fake.folder.path());
        }
        let mut child = command
            .arg("watch")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("it writes");
        assert!(line.starts_with("generation 1 "), "{line}");
        (child, out)
    };
    for signal in [
        nix::sys::signal::Signal::SIGINT,
        nix::sys::signal::Signal::SIGTERM,
    ] {
        let (mut child, out) = start();
        let pid = i32::try_from(child.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(0), "{signal}");
        drop(out);
    }
    // Nothing more comes, so it does not notice by writing.
    let (mut child, out) = start();
    drop(out);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
