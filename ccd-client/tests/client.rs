//! The library against a daemon that loses connections, forgets, hangs and restarts.

mod support;

use ccd_client::wire::{Ask, Fault, Told};
use ccd_client::{Applied, CcdError, Client, Exit, Freshness, Places, StaticDatabase, Transaction};
use ccd_core::client::{Refusal, RequestBody};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_core::ids::{Generation, RequestId};
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use support::{Fake, Trick};

fn key() -> Key {
    Key::new("K").expect("a key")
}

fn add(value: &str) -> Transaction {
    Transaction::of(vec![Op::Add(Row::new(key(), [value]).expect("a row"))])
}

fn attach(fake: &Fake) -> Client {
    let client = Client::attach(&fake.places(), "test").expect("it listens");
    let format = Op::Format {
        key: key(),
        columns: vec!["c".into()],
    };
    client
        .update(Transaction::of(vec![format]))
        .expect("the key is new");
    client
}

fn rows(client: &Client) -> usize {
    let found = client.query(Pattern::all(key()), Freshness::Strict);
    found.expect("the key is there").rows.len()
}

/// The ids under which the last update was asked for.
fn update_ids(fake: &Fake) -> Vec<RequestId> {
    fake.with(|state| {
        let ids = state.asked.iter().filter_map(|ask| match ask {
            Ask::Request(request) => match &request.body {
                RequestBody::Update(update) => Some(update.request),
                _ => None,
            },
            _ => None,
        });
        let ids: Vec<RequestId> = ids.collect();
        let last = *ids.last().expect("there was one");
        ids.into_iter().filter(|id| *id == last).collect()
    })
}

#[test]
fn an_update_whose_answer_is_lost_is_asked_for_again_and_applied_once() {
    for trick in [Trick::ApplyAndDrop, Trick::ApplyAndForget] {
        let fake = Fake::start();
        let client = attach(&fake);
        fake.trick(trick);
        let applied = client.update(add("1")).expect("it is in the database");
        assert_eq!(
            applied,
            Applied::Committed {
                generation: Generation(2),
                removed: None
            }
        );
        assert_eq!(update_ids(&fake).len(), 2, "asked twice under one id");
        assert_eq!(rows(&client), 1);
    }
}

#[test]
fn an_update_that_did_not_arrive_is_asked_for_again() {
    let fake = Fake::start();
    let client = attach(&fake);
    fake.trick(Trick::Drop);
    fake.trick(Trick::Say(Told::Refused(Refusal::NotServing {
        why: "taking over".into(),
    })));
    fake.trick(Trick::Say(Told::Failed(Fault::Overloaded)));
    let applied = client.update(add("1")).expect("it is in the database");
    assert!(matches!(applied, Applied::Committed { removed: Some(0), .. }));
    assert_eq!(update_ids(&fake).len(), 4);
    assert_eq!(rows(&client), 1);
}

#[test]
fn an_update_whose_server_stays_away_ends_as_unknown_within_its_timeout() {
    let fake = Fake::start();
    let client = attach(&fake).with_timeout(Duration::from_millis(300));
    fake.trick(Trick::Hang);
    fake.trick(Trick::Hang);
    let started = Instant::now();
    let waiting = std::thread::scope(|scope| {
        let update = scope.spawn(|| client.update(add("1")));
        // The request has arrived when it is counted.
        while fake.with(|state| state.asked.len()) < 2 {
            std::thread::yield_now();
        }
        fake.stop();
        update.join().expect("no panic")
    });
    let error = waiting.expect_err("nobody answered");
    assert!(matches!(error, CcdError::Unknown { .. }), "{error}");
    assert_eq!(error.exit(), Exit::Unknown);
    assert!(!error.is_worth_retrying());
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_command_whose_answer_is_lost_ends_as_unknown_and_is_not_sent_again() {
    let fake = Fake::start();
    let client = attach(&fake);
    let asked = fake.with(|state| state.asked.len());
    fake.trick(Trick::Drop);
    let error = client.takeover(true).expect_err("nobody answered");
    assert_eq!(error.exit(), Exit::Unknown, "{error}");
    assert!(!error.is_worth_retrying());
    assert_eq!(fake.with(|state| state.asked.len()), asked + 1);
}

#[test]
fn with_retry_what_passes_is_asked_for_again_until_it_is_done_and_nothing_else_is() {
    let passes = || {
        Trick::Say(Told::Refused(Refusal::NotServing {
            why: "taking over".into(),
        }))
    };
    let fake = Fake::start();
    let client = attach(&fake).with_retry(true);
    fake.trick(passes());
    fake.trick(Trick::Say(Told::Failed(Fault::Stopping)));
    client.update(add("1")).expect("it is done at last");
    assert_eq!(update_ids(&fake).len(), 3, "three times under one id");
    fake.trick(passes());
    fake.trick(passes());
    assert_eq!(rows(&client), 1);

    let asked = fake.with(|state| state.asked.len());
    let error = client.update(add("1")).expect_err("it is there already");
    assert_eq!(error.exit(), Exit::Exists);
    assert_eq!(fake.with(|state| state.asked.len()), asked + 1);

    let started = Instant::now();
    fake.stop();
    let impatient = client.clone().with_timeout(Duration::from_millis(200));
    let error = impatient.update(add("2")).expect_err("nobody listens");
    assert!(matches!(error, CcdError::NotReachable { .. }), "{error}");
    assert!(
        started.elapsed() >= Duration::from_millis(100),
        "it was tried again"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(
        client.timeout() > Duration::from_secs(1),
        "a clone's settings are its own"
    );
}

#[test]
fn an_update_asked_for_again_under_its_id_is_applied_once() {
    let fake = Fake::start();
    let client = attach(&fake).with_timeout(Duration::from_millis(200));
    let request = client.new_request();
    fake.trick(Trick::ApplyAndForget);
    for _ in 0..20 {
        fake.trick(Trick::Drop);
    }
    let error = client.update_as(request, add("1")).expect_err("it is not known");
    let kept = match error {
        CcdError::Unknown { request, .. } => request.to_string(),
        other => panic!("{other}"),
    };
    fake.with(|state| state.tricks.clear());
    // As another process would that found the id where the first one left it.
    let other = Client::attach(&fake.places(), "other").expect("it listens");
    let again = other.update_as(kept.parse().expect("it reads back"), add("1"));
    let generation = Generation(2);
    assert_eq!(
        again.expect("it was applied"),
        Applied::Committed {
            generation,
            removed: None
        }
    );
    assert_eq!(rows(&client), 1);
}

#[test]
fn request_ids_read_back_and_nothing_else_is_one() {
    for (client, sequence) in [(0, 0), (7, 1), (u128::MAX, u64::MAX)] {
        let request = RequestId { client, sequence };
        assert_eq!(request.to_string().parse(), Ok(request));
    }
    let digits = "0".repeat(32);
    for text in [
        "".to_owned(),
        "-".to_owned(),
        digits.clone(),
        format!("{digits}-"),
        format!("{digits}-+1"),
        format!("+{}-1", "0".repeat(31)),
        format!("{digits}-18446744073709551616"),
        format!("{digits}-a"),
        format!("0{digits}-1"),
    ] {
        text.parse::<RequestId>().expect_err(&text);
    }
}

#[test]
fn a_client_is_shared_between_threads_and_its_clones_number_their_requests_together() {
    fn is_shared<T: Send + Sync + Clone>(_: &T) {}
    let fake = Fake::start();
    let client = attach(&fake);
    is_shared(&client);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, clone) = (&client, client.clone());
            scope.spawn(move || {
                for index in 0..10 {
                    client
                        .update(add(&format!("{thread} {index}")))
                        .expect("it is new");
                    clone
                        .update(add(&format!("{thread} {index} clone")))
                        .expect("it is new");
                }
            });
        }
    });
    assert_eq!(rows(&client), 80);
}

#[test]
fn an_update_that_is_refused_is_not_asked_for_again() {
    let table = [
        (
            Told::Refused(Refusal::NotServing {
                why: "waiting".into(),
            }),
            Exit::NotServing,
        ),
        (
            Told::Refused(Refusal::NoQuorum {
                why: "P is missing".into(),
            }),
            Exit::NoQuorum,
        ),
        (Told::Refused(Refusal::Busy), Exit::Busy),
        (
            Told::Refused(Refusal::RolledBack {
                why: "beta refused".into(),
            }),
            Exit::No,
        ),
        (Told::Refused(Refusal::TimedOut), Exit::TimedOut),
        (
            Told::Refused(Refusal::Full {
                why: "the image".into(),
            }),
            Exit::CannotCreate,
        ),
        (
            Told::Refused(Refusal::Unsafe {
                why: "beta writes".into(),
            }),
            Exit::Unsafe,
        ),
        (
            Told::Failed(Fault::NotPermitted {
                why: "not root".into(),
            }),
            Exit::NotPermitted,
        ),
        (Told::Failed(Fault::Stopping), Exit::Busy),
        (Told::Failed(Fault::Internal { why: "no".into() }), Exit::Internal),
        (Told::Done, Exit::Internal),
    ];
    let fake = Fake::start();
    let client = attach(&fake);
    for (told, exit) in table {
        fake.trick(Trick::Say(told.clone()));
        let error = client.update(add("1")).expect_err("it was refused");
        assert_eq!(error.exit(), exit, "{told:?}: {error}");
        assert_eq!(update_ids(&fake).len(), 1, "{told:?}");
    }
    assert_eq!(rows(&client), 0);
}

#[test]
fn errors_of_the_database_have_their_exit_codes() {
    let fake = Fake::start();
    let client = attach(&fake);
    client.update(add("1")).expect("it is new");
    let row = |key: &str, values: &[&str]| {
        Row::new(Key::new(key).expect("a key"), values.iter().copied()).expect("a row")
    };
    let table = [
        (Op::Add(row("K", &["1"])), Exit::Exists),
        (Op::Add(row("NONE", &["1"])), Exit::NoSuchKey),
        (Op::Add(row("K", &["1", "2"])), Exit::BadData),
        (Op::Remove(Pattern::positional(key(), ["9"])), Exit::NoSuchKey),
        (Op::Remove(Pattern::all(key()).by_name("x", "9")), Exit::Usage),
        (Op::RemoveFormat(key()), Exit::Unsafe),
        (
            Op::Format {
                key: key(),
                columns: vec!["d".into()],
            },
            Exit::Exists,
        ),
    ];
    for (op, exit) in table {
        let error = client
            .update(Transaction::of(vec![op.clone()]))
            .expect_err("it is wrong");
        assert_eq!(error.exit(), exit, "{op:?}: {error}");
    }
}

#[test]
fn a_question_that_is_not_answered_times_out() {
    let fake = Fake::start();
    let client = attach(&fake).with_timeout(Duration::from_millis(50));
    fake.trick(Trick::Hang);
    let error = client
        .query(Pattern::all(key()), Freshness::Strict)
        .expect_err("nobody answered");
    assert_eq!(error.exit(), Exit::TimedOut, "{error}");
    assert_eq!(rows(&client), 0, "the late answer is not taken for another");
}

#[test]
fn a_client_lives_through_a_restart_of_its_daemon() {
    let fake = Fake::start();
    let client = attach(&fake);
    fake.drop_connections();
    assert_eq!(rows(&client), 0);
    fake.drop_connections();
    client
        .update(add("1"))
        .expect("it is asked for on a new connection");
    fake.trick(Trick::Drop);
    assert_eq!(rows(&client), 1);
    fake.stop();
    let error = client.status().expect_err("nobody listens");
    assert_eq!(error.exit(), Exit::NoDaemon, "{error}");
}

#[test]
fn threads_share_a_client() {
    let fake = Fake::start();
    let client = attach(&fake);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let client = &client;
            scope.spawn(move || {
                for turn in 0..10 {
                    client
                        .update(add(&format!("{thread}.{turn}")))
                        .expect("each is new");
                    assert!(rows(client) > turn);
                }
            });
        }
    });
    assert_eq!(rows(&client), 80);
}

#[test]
fn a_snapshot_holds_what_was_added() {
    let fake = Fake::start();
    let client = attach(&fake);
    client.update(add("1")).expect("it is new");
    let database = client.snapshot(Freshness::Strict).expect("it decodes");
    assert_eq!(database.rows().count(), 1);
    fake.trick(Trick::Say(Told::Snapshot { image: vec![1, 2, 3] }));
    let error = client.snapshot(Freshness::Stale).expect_err("it is damaged");
    assert_eq!(error.exit(), Exit::Integrity);
}

#[test]
fn something_else_on_the_socket_is_told_from_a_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = Places {
        etc: folder.path().into(),
        state: folder.path().into(),
        run: folder.path().into(),
    };
    assert_eq!(
        Client::attach(&places, "test").expect_err("no socket").exit(),
        Exit::NoDaemon
    );
    let listener = UnixListener::bind(places.client_socket()).expect("the socket is free");
    for (said, expected) in [(b"HTTP", "does not speak"), (b"ccd\x63", "speaks version 99")] {
        let error = std::thread::scope(|scope| {
            let client = scope.spawn(|| Client::attach(&places, "test"));
            let (mut stream, _) = listener.accept().expect("it connects");
            stream.write_all(said).expect("it reads");
            client.join().expect("no panic").expect_err("it is no daemon")
        });
        assert_eq!(error.exit(), Exit::NoDaemon);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn static_rows_are_queried_with_nothing_running() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = Places {
        etc: folder.path().into(),
        state: folder.path().into(),
        run: folder.path().into(),
    };
    let text = "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nADDRESS:a:10.0.0.1:\n";
    std::fs::write(places.init_path(), text).expect("it is written");
    let init = StaticDatabase::attach(&places).expect("it is well-formed");
    let pattern = Pattern::all(Key::new("ADDRESS").expect("a key")).by_name("node", "a");
    assert_eq!(init.query(&pattern).expect("the key is there").len(), 1);
    std::fs::write(places.init_path(), "NODE:0").expect("it is written");
    assert_eq!(
        StaticDatabase::attach(&places).expect_err("it is wrong").exit(),
        Exit::BadData
    );
}

#[test]
fn a_daemon_that_stands_still_times_out_also_while_attaching() {
    let folder = tempfile::tempdir().expect("a folder");
    let places = Places {
        etc: folder.path().into(),
        state: folder.path().into(),
        run: folder.path().into(),
    };
    // It listens, and accepts nobody.
    let _listener = UnixListener::bind(places.client_socket()).expect("the socket is free");
    let error =
        Client::attach_within(&places, "test", Duration::from_millis(50)).expect_err("nobody answers");
    assert_eq!(error.exit(), Exit::TimedOut, "{error}");
}

#[test]
fn the_init_database_says_how_long_requests_may_take() {
    let fake = Fake::start();
    let text = "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nADDRESS:a:10.0.0.1:\n\
                OPTION:request_timeout_ms:700\n";
    std::fs::write(fake.places().init_path(), text).expect("it is written");
    let client = Client::attach(&fake.places(), "test").expect("it listens");
    assert_eq!(client.timeout(), Duration::from_millis(700));
}
