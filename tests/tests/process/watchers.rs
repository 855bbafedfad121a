//! Who watches: one who reads slowly, one who may not read everything, and many who mean harm, with real daemons. None of them holds up
//! anybody else. What is told through faults is in `watch.rs`. Needs root.

use super::watch::{add, client, cluster_with, key, newest};
use ccd_client::wire::{self, Ask, PREAMBLE, ToDaemon, Told, WatchAsk, WatchFrom, WatchItem, WatchPlace};
use ccd_client::{Places, Transaction, WatchEvent};
use ccd_core::database::{Op, Pattern, Row};
use ccd_tests::process::follower::{Follower, Heard};
use ccd_tests::process::programs::{command, copy_program, run_command};
use ccd_tests::process::{Cluster, until};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

#[test]
fn a_slow_watcher_holds_up_nobody_and_is_told_what_it_missed() {
    const UPDATES: u64 = 4_000;
    let cluster = cluster_with(&["OPTION:history_mib:1"]);
    let alpha = client(cluster.alpha());
    let columns = vec!["number".to_owned(), "text".to_owned()];
    alpha
        .update(Transaction::of(vec![Op::Format {
            key: key("WIDE"),
            columns,
        }]))
        .expect("it is made");
    let start = newest(cluster.alpha());
    let mut slow = alpha.watch().start().expect("it may watch");
    let quick = Follower::start(cluster.alpha(), |watch| watch);
    let began = Instant::now();
    for number in 1..=UPDATES {
        let old = Row::new(
            key("WIDE"),
            [number.saturating_sub(10).to_string(), "x".repeat(900)],
        )
        .expect("a row");
        let new = Row::new(key("WIDE"), [number.to_string(), "x".repeat(900)]).expect("a row");
        let mut ops = vec![Op::Add(new)];
        if number > 10 {
            ops.push(Op::Remove(Pattern::exact(&old)));
        }
        alpha
            .update(Transaction::of(ops))
            .expect("a watcher that does not read holds up no update");
    }
    let took = began.elapsed();
    let newest = newest(cluster.alpha());
    assert_eq!(newest, start + UPDATES);
    let heard = quick.end(newest);
    assert_eq!(heard.check(start, newest), 0, "who reads misses nothing");
    println!(
        "{UPDATES} updates in {} ms while one does not read",
        took.as_millis()
    );
    let mut behind = Heard::default();
    let mut reached = 0;
    while reached < newest {
        let event = slow.next(Some(Duration::from_secs(20))).expect("it goes on");
        let event = event.expect("there is more");
        reached = event.place().map_or(reached, |place| place.seen.0);
        match event {
            WatchEvent::Change(change) => behind.updates.push(change.update),
            WatchEvent::Missed { after, place } => behind.missed.push((after.0, place.seen.0)),
            _ => {}
        }
    }
    let missed = behind.check(start, newest);
    println!(
        "the slow one was told of {} and missed {missed}",
        behind.updates.len()
    );
    assert!(missed > 0, "its node keeps less than what it did not read");
    assert!(behind.updates.len() > 100, "what is kept, it is told");
    cluster.verify();
}

#[test]
fn a_user_is_told_of_the_keys_that_it_may_read_and_of_no_others() {
    let cluster = cluster_with(&["ACCESS:read:65534:NET_*"]);
    let alpha = cluster.alpha();
    for name in ["NET_A", "SECRET"] {
        alpha.adm(&["format", name, "value"]).done();
        alpha.adm(&["add", name, "before"]).done();
    }
    let [folder, run] = [cluster.folder().to_owned(), alpha.places().run.clone()];
    for path in [&folder, &run, &folder.join("alpha")] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, open).expect("the folder is ours");
    }
    let ccdadm = copy_program("ccdadm", &folder);
    let run = run.to_str().expect("the path is ours").to_owned();
    let ask = |uid: u32, words: &[&str]| {
        let words: Vec<&str> = ["--run", &run].iter().chain(words).copied().collect();
        let mut watch = command(&ccdadm, &words);
        watch.uid(uid).gid(uid);
        run_command(&mut watch)
    };
    // One transaction changes both keys: of it, what may be seen is.
    let both = "add NET_A:1\nadd SECRET:1\n";
    let file = folder.join("both");
    fs::write(&file, both).expect("the folder is ours");
    alpha.adm(&["apply", file.to_str().expect("a plain path")]).done();
    let told = ask(65534, &["watch", "--from", "0", "--rows", "--timeout", "2s"]).done();
    assert!(!told.out.contains("SECRET"), "{}", told.out);
    told.shows("+NET_A_fmt:value")
        .shows("+NET_A:before")
        .shows("+NET_A:1");
    let rows = ask(65534, &["watch", "--initial", "--timeout", "2s", "--json"]).done();
    assert!(!rows.out.contains("SECRET"), "{}", rows.out);
    rows.shows(r#""values":["before"]"#);
    ask(65534, &["watch", "NET_A", "--initial", "--timeout", "1s"]).done();
    for words in [&["watch", "SECRET"][..], &["watch", "NET_A", "--key", "SECRET"]] {
        ask(65534, words)
            .expect(77)
            .says("ACCESS:read:65534:SECRET")
            .says_what_to_try();
    }
    ask(65533, &["watch"])
        .expect(77)
        .says("ACCESS:read:65533:*")
        .says_what_to_try();
}

/// A connection on which somebody asks to watch everything.
fn raw_watch(places: &Places) -> UnixStream {
    let mut stream = UnixStream::connect(places.client_socket()).expect("it listens");
    let ask = ToDaemon {
        id: 7,
        body: Ask::Watch(WatchAsk {
            patterns: vec![],
            from: WatchFrom::Now,
            timeout: Duration::from_secs(10),
        }),
    };
    stream.write_all(&PREAMBLE).expect("it reads");
    let frame = wire::encode_request(&ask).expect("it is small");
    stream.write_all(&frame).expect("it reads");
    stream
}

/// Waits until the watch has begun.
fn begun(stream: &mut UnixStream) {
    let mut preamble = [0; 4];
    stream.read_exact(&mut preamble).expect("it greets");
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).expect("it answers");
    let mut body = vec![0; wire::reply_len(prefix).expect("within the limit")];
    stream.read_exact(&mut body).expect("it answers");
    let told = wire::decode_reply(&body).expect("it decodes").body;
    assert!(matches!(told, Told::Watched(WatchItem::Began { .. })), "{told:?}");
}

#[test]
fn watchers_that_mean_harm_hold_up_nobody_and_leave_nothing_behind() {
    let cluster = Cluster::start();
    let places = cluster.alpha().places();
    let descriptors = || {
        let folder = format!("/proc/{}/fd", cluster.alpha().pid());
        fs::read_dir(folder).expect("it runs").count()
    };
    cluster.alpha().adm(&["format", "K", "value"]).done();
    let follower = Follower::start(cluster.alpha(), |watch| watch);
    let start = newest(cluster.alpha());
    let before = descriptors();
    let mut streams: Vec<UnixStream> = Vec::new();
    for number in 0..300 {
        let mut stream = raw_watch(places);
        match number % 6 {
            // Hangs up before it is told anything.
            0 => drop(stream),
            // Never reads.
            1 => streams.push(stream),
            // Half closed: says that it will not say more, and does not read either.
            2 => {
                begun(&mut stream);
                stream.shutdown(Shutdown::Write).expect("it is connected");
                streams.push(stream);
            }
            // Does not want to hear any more.
            3 => {
                begun(&mut stream);
                stream.shutdown(Shutdown::Read).expect("it is connected");
                streams.push(stream);
            }
            // Talks on.
            4 => {
                begun(&mut stream);
                stream.write_all(&[0xff; 4096]).expect("the kernel takes it");
                streams.push(stream);
            }
            // Asks twice.
            _ => {
                let ask = raw_watch(places);
                begun(&mut stream);
                drop(ask);
                stream.write_all(&PREAMBLE).expect("the kernel takes it");
                streams.push(stream);
            }
        }
    }
    let alpha = client(cluster.alpha());
    for number in 0..300 {
        add(
            &alpha,
            Row::new(key("K"), [format!("{number}{}", "x".repeat(900))]).expect("a row"),
        );
    }
    let newest = newest(cluster.alpha());
    let heard = follower.end(newest);
    assert_eq!(heard.check(start, newest), 0);
    drop(streams);
    until("the daemon to have closed all of them", || match descriptors() {
        left if left <= before => Ok(()),
        left => Err(format!("{left} descriptors, and {before} before")),
    });
    // A request that is none, on a connection of its own and behind another.
    let mut stream = UnixStream::connect(places.client_socket()).expect("it listens");
    stream.write_all(&PREAMBLE).expect("it reads");
    let ask = |body| wire::encode_request(&ToDaemon { id: 1, body }).expect("it is small");
    let watch = Ask::Watch(WatchAsk {
        patterns: vec![],
        from: WatchFrom::Place(WatchPlace::at(ccd_core::ids::Position::EMPTY)),
        timeout: Duration::MAX,
    });
    let two = [ask(Ask::Status), ask(watch)].concat();
    stream.write_all(&two).expect("it reads");
    let mut said = Vec::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("it is a time");
    stream.read_to_end(&mut said).expect("it hangs up");
    let text = String::from_utf8_lossy(&said).into_owned();
    assert!(text.contains("connection of its own"), "{text}");
    cluster.verify();
}
