//! Watching, with real daemons: every change once and in order, whatever becomes of the daemon, the node and the network; what is
//! missed is said; whoever reads slowly, or means harm, holds up nobody. Needs root.

use ccd_client::wire::{self, Ask, PREAMBLE, ToDaemon, Told, WatchAsk, WatchFrom, WatchItem, WatchPlace};
use ccd_client::{Client, Places, Transaction, WatchEvent};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_core::ids::Generation;
use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::follower::{Follower, Heard};
use ccd_tests::process::programs::{command, program, run_command};
use ccd_tests::process::{Cluster, Ledger, Shape, TestNode, Writer, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// The generation that the node is at, by a strict answer.
fn newest(node: &TestNode) -> u64 {
    let answer = node.wait_until_done(&["keys", "--json"]);
    let answer: Value = serde_json::from_str(&answer.out).expect("a document");
    answer["generation"].as_u64().expect("a number")
}

/// A cluster whose init database has these rows, too.
fn cluster_with(rows: &[&str]) -> Cluster {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let path = node.places().init_path();
        let text = fs::read_to_string(&path).expect("setup wrote it");
        let mut lines: Vec<&str> = text.lines().collect();
        for row in rows {
            let name = row.split(':').next().expect("a key");
            let start = format!("{name}:");
            // Rows of a key stand together.
            let behind = lines.iter().rposition(|line| line.starts_with(&start));
            lines.insert(behind.map_or(lines.len(), |at| at + 1), row);
        }
        fs::write(&path, lines.join("\n") + "\n").expect("the folder is ours");
    }
    cluster.start_both();
    cluster
}

fn client(node: &TestNode) -> Client {
    Client::attach_within(node.places(), "test", Duration::from_secs(20)).expect("it listens")
}

fn add(client: &Client, row: Row) {
    client
        .update(Transaction::of(vec![Op::Add(row)]))
        .expect("it is added");
}

/// What was promised of the writer's updates holds for what was told.
fn told_as_promised(ledger: &Ledger, heard: &Heard, missed: u64) {
    let counts = heard.counts();
    assert!(counts.values().all(|times| *times == 1), "told twice");
    let untold = ledger
        .acked
        .keys()
        .filter(|number| !counts.contains_key(number))
        .count() as u64;
    assert!(
        untold <= missed,
        "{untold} acked updates were not told, and {missed} said to be missed"
    );
    let refused: Vec<_> = ledger
        .refused
        .iter()
        .filter(|number| counts.contains_key(number))
        .collect();
    assert!(refused.is_empty(), "refused updates were told: {refused:?}");
    println!(
        "{} acked, {} told, {missed} missed, away {} times",
        ledger.acked.len(),
        counts.len(),
        heard.away
    );
}

#[test]
fn each_change_is_told_once_and_in_order_through_kill_restart_and_takeover() {
    let mut cluster = Cluster::start();
    let start = newest(cluster.alpha());
    let followers = [ALPHA, BETA].map(|node| Follower::start(&cluster.nodes[node], |watch| watch));
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(100);
    // The daemon of one dies, the other takes over; it comes back.
    cluster.nodes[ALPHA].kill();
    cluster.beta().wait_for("serving solo");
    writer.wait_for_more(100);
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    writer.wait_for_more(100);
    // The other way round, and the survivor dies and restarts alone.
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    writer.wait_for_more(50);
    cluster.nodes[ALPHA].kill();
    cluster.nodes[ALPHA].start();
    cluster.alpha().wait_for("serving solo");
    writer.wait_for_more(50);
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    writer.wait_for_more(50);
    let ledger = writer.end();
    let newest = newest(cluster.beta());
    let missed_by = followers.map(|follower| {
        let heard = follower.end(newest);
        let missed = heard.check(start, newest);
        assert!(
            heard.diverged.is_empty(),
            "nobody overruled the votes: {:?}",
            heard.diverged
        );
        assert!(heard.away > 0 && heard.back > 0);
        told_as_promised(&ledger, &heard, missed);
        missed
    });
    println!("missed: {missed_by:?} of {newest}");
    cluster.verify();
}

#[test]
fn a_node_that_is_cut_off_says_that_it_waits_and_then_tells_the_rest() {
    let cluster = Cluster::start();
    let start = newest(cluster.beta());
    let follower = Follower::start(cluster.beta(), |watch| watch);
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(50);
    cluster.network.cut();
    cluster.alpha().wait_for("serving solo");
    until("the watcher to hear that its node does not serve", || {
        follower.with(|heard| {
            if heard.away > 0 {
                Ok(())
            } else {
                Err("nothing".to_owned())
            }
        })
    });
    writer.wait_for_more(50);
    let reached = follower.with(|heard| heard.reached);
    let alone = newest(cluster.alpha());
    assert!(reached < alone, "what beta cannot know: {reached} of {alone}");
    cluster.network.heal();
    cluster.wait_until_redundant();
    writer.wait_for_more(50);
    let ledger = writer.end();
    let newest = newest(cluster.beta());
    let heard = follower.end(newest);
    let missed = heard.check(start, newest);
    told_as_promised(&ledger, &heard, missed);
    assert_eq!(
        missed, 0,
        "the others had the records to bring it up to date: {:?}",
        heard.missed
    );
    cluster.verify();
}

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
fn the_past_is_told_from_many_files_and_goes_on_without_hole_or_repetition() {
    let cluster = cluster_with(&["OPTION:history_mib:1"]);
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(1_500);
    let folder = cluster.alpha().places().history_dir();
    let files = fs::read_dir(folder).expect("it is there").count();
    assert!(files > 6, "{files} files");
    // While it goes on.
    let all = Follower::start(cluster.alpha(), |watch| {
        watch.from(WatchFrom::Generation(Generation(0)))
    });
    let some = Follower::start(cluster.alpha(), |watch| {
        let pattern = Pattern::from_arguments(key("LOAD"), ["number=*7"]);
        watch.pattern(pattern).from(WatchFrom::Generation(Generation(1)))
    });
    writer.wait_for_more(500);
    let ledger = writer.end();
    let newest = newest(cluster.alpha());
    let all = all.end(newest);
    assert_eq!(all.check(0, newest), 0);
    told_as_promised(&ledger, &all, 0);
    let some = some.end(newest);
    let sevens: BTreeSet<u64> = all
        .counts()
        .into_keys()
        .filter(|number| number % 10 == 7)
        .collect();
    assert_eq!(some.counts().into_keys().collect::<BTreeSet<_>>(), sevens);
    assert_eq!(some.updates.len(), sevens.len());
    // By the program, and on from the place of the last one that it printed.
    let first = cluster
        .alpha()
        .adm(&["watch", "--from", "0", "--count", "700", "--json"])
        .done();
    let last: Value = serde_json::from_str(first.rows().last().expect("a line")).expect("JSON");
    let place = last["place"].as_str().expect("a place");
    let seen = last["generation"].as_u64().expect("a number");
    let next = cluster
        .beta()
        .adm(&["watch", "--from", place, "--count", "1", "--json"])
        .done();
    let next: Value = serde_json::from_str(next.rows().last().expect("a line")).expect("JSON");
    assert_eq!(next["generation"], seen + 1, "on the other node, too");
    cluster
        .alpha()
        .adm(&["watch", "--from", "999999"])
        .expect(105)
        .says_what_to_try();
}

#[test]
fn rows_and_then_changes_are_what_a_query_finds_under_concurrent_updates() {
    let cluster = Cluster::start();
    let alpha = client(cluster.alpha());
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(300);
    let mut followers = Vec::new();
    for turn in 0..12 {
        let node = &cluster.nodes[turn % 2];
        followers.push(Follower::start(node, |watch| match turn % 3 {
            0 => watch.with_rows(),
            1 => watch.pattern(Pattern::all(key("LOAD"))).with_rows(),
            _ => watch
                .pattern(Pattern::from_arguments(key("LOAD"), ["*3*"]))
                .with_rows(),
        }));
        // Rows go as well.
        let gone = Pattern::from_arguments(key("LOAD"), [format!("{}*", turn + 11)]);
        alpha
            .update(Transaction::of(vec![Op::Remove(gone)]))
            .expect("there are such rows");
        writer.wait_for_more(30);
    }
    let _ = writer.end();
    let newest = newest(cluster.alpha());
    let found = alpha
        .query(Pattern::all(key("LOAD")), ccd_client::Freshness::Strict)
        .expect("it serves")
        .rows;
    for (turn, follower) in followers.into_iter().enumerate() {
        let heard = follower.end(newest);
        let wanted = found
            .iter()
            .filter(|row| turn % 3 != 2 || row.values[0].contains('3'));
        assert_eq!(
            heard.rows,
            wanted.cloned().collect::<BTreeSet<_>>(),
            "watcher {turn}"
        );
        assert!(heard.rows_at.is_some() && heard.missed.is_empty());
    }
}

#[test]
fn a_branch_that_lost_is_told_to_who_watched_it() {
    let mut cluster = Cluster::start();
    let alpha = client(cluster.alpha());
    let columns = vec!["what".to_owned()];
    alpha
        .update(Transaction::of(vec![Op::Format {
            key: key("K"),
            columns,
        }]))
        .expect("it is made");
    let row = |text: &str| Row::new(key("K"), [text]).expect("a row");
    add(&alpha, row("both"));
    let follower = Follower::start(cluster.alpha(), |watch| watch);
    let common = newest(cluster.alpha());
    // Alpha goes on alone, on the devices; then it is away with them, and an operator lets beta go on from its own copy.
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    for number in 0..5 {
        add(&client(cluster.alpha()), row(&format!("lost{number}")));
    }
    let lost = newest(cluster.alpha());
    follower.wait_for(lost);
    cluster.nodes[ALPHA].kill();
    for device in &cluster.devices {
        device.replace();
    }
    cluster.nodes[BETA].start();
    cluster.beta().wait_for("waiting");
    cluster
        .beta()
        .ctl(&["takeover", "--force", "--cluster", "test"])
        .done();
    until("beta to serve", || match cluster.beta().state() {
        state if state.starts_with("serving") => Ok(()),
        state => Err(state),
    });
    add(&client(cluster.beta()), row("won"));
    for device in &cluster.devices {
        device.repair();
    }
    cluster.nodes[ALPHA].start();
    until("alpha to serve what beta does", || {
        let found = cluster.alpha().adm(&["query", "K"]);
        if found.rows() == ["K:both", "K:won"] {
            Ok(())
        } else {
            Err(found.out + &found.err)
        }
    });
    until("the watcher to hear that it was on a branch that lost", || {
        follower.with(|heard| match heard.diverged.first() {
            Some(_) => Ok(()),
            None => Err(format!("{:?} {:?}", heard.generations(), heard.missed)),
        })
    });
    add(&client(cluster.beta()), row("after"));
    let newest = newest(cluster.beta());
    let heard = follower.end(newest);
    let (after, up_to) = heard.diverged[0];
    assert!(
        (common..=lost).contains(&after),
        "{after} {up_to}, and {lost} was seen"
    );
    assert_eq!(heard.diverged.len(), 1, "{:?}", heard.diverged);
    assert_eq!(heard.updates.last().expect("an update").generation.0, newest);
    // Who asks for the rows anew has those that there are.
    let rows = Follower::start(cluster.alpha(), |watch| {
        watch.pattern(Pattern::all(key("K"))).with_rows()
    });
    let rows = rows.end(newest).rows;
    assert_eq!(
        rows,
        [row("after"), row("both"), row("won")].into_iter().collect()
    );
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
    let ccdadm = folder.join("ccdadm");
    fs::copy(program("ccdadm"), &ccdadm).expect("there is room");
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

/// What a watch from this place is told first, beside that it began.
fn first_told(node: &TestNode, place: WatchPlace) -> WatchEvent {
    let client = client(node);
    let mut watch = client
        .watch()
        .from(WatchFrom::Place(place))
        .start()
        .expect("it may watch");
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        match watch.next(Some(Duration::from_secs(5))).expect("it goes on") {
            Some(WatchEvent::Began { .. } | WatchEvent::Away { .. } | WatchEvent::Back) | None => {}
            Some(event) => return event,
        }
    }
    panic!("nothing was told");
}

#[test]
fn whoever_goes_on_at_a_node_that_took_over_by_the_devices_has_missed_and_not_diverged() {
    // With its history, and without its state folder.
    for is_wiped in [false, true] {
        let mut cluster = Cluster::start();
        let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
        writer.wait_for_more(100);
        cluster.nodes[BETA].kill();
        cluster.alpha().wait_for("serving solo");
        writer.wait_for_more(50);
        // A program deals with what it is told, stores its place, and ends.
        let alpha = client(cluster.alpha());
        let mut watch = alpha.watch().start().expect("it may watch");
        let place = loop {
            let event = watch.next(Some(Duration::from_secs(20))).expect("it goes on");
            if let Some(WatchEvent::Change(change)) = event {
                break change.place;
            }
        };
        drop(watch);
        writer.wait_for_more(20);
        cluster.nodes[ALPHA].kill();
        let ledger = writer.end();
        if is_wiped {
            fs::remove_dir_all(&cluster.beta().places().state).expect("the folder is ours");
        }
        cluster.nodes[BETA].start();
        cluster.beta().wait_for("serving solo");
        ledger.check(cluster.beta());
        let beta = newest(cluster.beta());
        match first_told(cluster.beta(), place) {
            WatchEvent::Missed { after, place: up_to } => {
                assert_eq!(after, place.seen);
                assert!(up_to.seen.0 <= beta);
            }
            // What came after the place is known.
            WatchEvent::Change(change) => assert_eq!(change.update.generation.0, place.seen.0 + 1),
            other => panic!("is_wiped {is_wiped}: {other:?}"),
        }
        let branches = cluster.beta().adm(&["branches", "--json"]);
        let branches: Value = serde_json::from_str(&branches.out).expect("a document");
        assert_eq!(branches["branches"], Value::Array(Vec::new()), "nothing was lost");
    }
}
