//! What one user reads of the past, or rehearses, takes nothing from the others: watches from the past, questions to the history,
//! and dry runs. Needs root.

use ccd_client::wire::{self, Ask, ChangesAsk, ToDaemon, WatchAsk, WatchFrom};
use ccd_client::{Client, Transaction, WatchEvent};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_core::ids::Generation;
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, Shape, TestNode, until};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// A history of some ten MiB: its updates, and rows that each of them adds and the next removes, with so many bytes.
struct Filling {
    updates: u64,
    rows: usize,
    row_bytes: usize,
}

const LONG_ROWS: Filling = Filling {
    updates: 360,
    rows: 100,
    row_bytes: 280,
};
/// It takes longer to add up than to read.
const SHORT_ROWS: Filling = Filling {
    updates: 300,
    rows: 1500,
    row_bytes: 8,
};

/// What a busy machine adds to anything.
const SLACK: Duration = Duration::from_millis(500);
/// How many times as long as in an idle cluster something may take beside greedy users.
const TIMES: u32 = 8;

const fn user(uid: u32) -> User<'static> {
    User {
        uid,
        gid: uid,
        groups: &[],
    }
}

fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// A pair that grants these rows.
fn pair(access: &str) -> (Cluster, Door) {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let init = File::options().append(true).open(node.places().init_path());
        init.and_then(|mut file| file.write_all(access.as_bytes()))
            .expect("setup wrote it");
    }
    cluster.start_both();
    let door = Door::open(&cluster);
    (cluster, door)
}

/// A history of the key `BUSY`, with one update of `RARE` at its beginning and one at its end. Its last generation.
fn fill(node: &TestNode, filling: &Filling) -> u64 {
    let Filling {
        updates,
        rows,
        row_bytes,
    } = *filling;
    for (name, columns) in [("BUSY", 2), ("RARE", 1)] {
        let columns = ["name", "value"].into_iter().take(columns);
        let words: Vec<&str> = ["format", name].into_iter().chain(columns).collect();
        node.adm(&words).done();
    }
    node.adm(&["add", "RARE", "first"]).done();
    let client = Client::attach(node.places(), "process-test").expect("it runs");
    let row = |update: u64, row: usize| {
        let value = format!("{update}-{row}-{}", "x".repeat(row_bytes));
        Row::new(key("BUSY"), [format!("{update}"), value]).expect("a row")
    };
    for update in 0..updates {
        let mut ops = vec![];
        if update > 0 {
            ops.push(Op::Remove(Pattern::all(key("BUSY"))));
        }
        ops.extend((0..rows).map(|at| Op::Add(row(update, at))));
        client.update(Transaction::of(ops)).expect("it is taken");
    }
    node.adm(&["add", "RARE", "last"]).done();
    // Answered when all of it is written.
    history_of(node);
    let status = node.status().expect("it runs");
    status["cluster"]["generation"].as_u64().expect("a number")
}

/// How long root's watch of these rows takes from generation 1 to what was committed last.
fn watch_from_the_past(node: &TestNode, pattern: Pattern, last: u64) -> Duration {
    let client = Client::attach(node.places(), "process-test").expect("it runs");
    let client = client.with_timeout(Duration::from_secs(300));
    let begun = Instant::now();
    let from = WatchFrom::Generation(Generation(1));
    let mut watch = client
        .watch()
        .pattern(pattern)
        .from(from)
        .start()
        .expect("it begins");
    loop {
        let event = watch.next(Some(Duration::from_secs(300))).expect("it goes on");
        let event = event.expect("something is told within its time");
        assert!(!matches!(event, WatchEvent::Missed { .. }), "{event:?}");
        if event.place().is_some_and(|place| place.seen.0 >= last) {
            return begun.elapsed();
        }
    }
}

fn history_of(node: &TestNode) -> Duration {
    let found = node.adm(&["--timeout", "300", "history", "RARE"]).done();
    assert!(found.out.contains("RARE"), "{}", found.out);
    found.took
}

/// A running reader. Killed when it is dropped.
struct Reader {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Reader {
    fn start(
        cluster: &Cluster,
        door: &Door,
        who: User<'_>,
        count: usize,
        mode: &str,
        asks: Vec<Ask>,
    ) -> Self {
        let mut bytes = Vec::new();
        for (id, body) in (1..).zip(asks) {
            bytes.extend(wire::encode_request(&ToDaemon { id, body }).expect("it fits"));
        }
        let frames = cluster.folder().join(format!("frames-{}", who.uid));
        fs::write(&frames, bytes).expect("the folder is ours");
        let script = include_str!("../../hostile/readers.py");
        let socket = cluster.alpha().places().client_socket();
        let path = |path: &std::path::Path| path.to_str().expect("the path is ours").to_owned();
        let words = [
            "-c",
            script,
            &path(&socket),
            &count.to_string(),
            mode,
            &path(&frames),
        ];
        let mut command = door.command(who, "python3", &words);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3 is there");
        let mut says = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut line = String::new();
        says.read_line(&mut line).expect("it says text");
        assert_eq!(line.trim_end(), "ready", "user {}", who.uid);
        Self { child, says }
    }

    /// Ends it. How many answers it got, and whether it waited for more on each of its connections.
    fn end(mut self) -> (u64, bool) {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it says text");
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [answers, "answers", "on", count, "connections", "of", all] => {
                (answers.parse().expect("a number"), count == all)
            }
            _ => panic!("{line:?}"),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_hundred_watchers_of_the_past_of_one_user_leave_root_and_others_their_share() {
    let (cluster, door) = pair("ACCESS:read:2001:*\nACCESS:read:2002:*\n");
    let alpha = cluster.alpha();
    let last = fill(alpha, &LONG_ROWS);
    let rare = || Pattern::from_arguments(key("RARE"), ["name=*st"]);
    let newest = format!("value={}-0-*", LONG_ROWS.updates - 1);
    let busy = || Pattern::from_arguments(key("BUSY"), [newest.as_str()]);
    let idle = [
        watch_from_the_past(alpha, rare(), last),
        watch_from_the_past(alpha, busy(), last - 1),
        history_of(alpha),
    ];
    let ask = || WatchAsk {
        patterns: vec![Pattern::from_arguments(key("BUSY"), ["value=*no such*"])],
        from: WatchFrom::Generation(Generation(1)),
        timeout: Duration::from_secs(60),
    };
    let greedy = Reader::start(&cluster, &door, user(2001), 200, "once", vec![Ask::Watch(ask())]);
    let beside = [
        watch_from_the_past(alpha, rare(), last),
        watch_from_the_past(alpha, busy(), last - 1),
        history_of(alpha),
    ];
    // Another user has half, whatever the first one asks for.
    let other = door
        .ask(user(2002), "ccdadm", &["--timeout", "60", "history", "RARE"])
        .done();
    println!(
        "idle {idle:?}, beside 200 watchers {beside:?}, another user's history {:?}",
        other.took
    );
    for (idle, beside) in idle.into_iter().zip(beside) {
        assert!(
            beside < idle * TIMES + SLACK,
            "{idle:?} idle, {beside:?} beside 200 watchers"
        );
    }
    assert!(
        other.took < idle[2] * TIMES + SLACK,
        "{:?} for another user",
        other.took
    );
    drop(greedy);
    // Nobody reads on for those who have gone.
    let gone = Instant::now();
    until("the watchers to be gone", || {
        let page = alpha.ctl(&["metrics"]).out;
        let watchers = page.lines().find(|line| line.starts_with("ccd_watchers "));
        match watchers.map(|line| line.ends_with(" 0")) {
            Some(true) => Ok(()),
            _ => Err(format!("{watchers:?}")),
        }
    });
    assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
}

/// Questions to the history that are under way on this node: each has a thread.
fn questions_under_way(node: &TestNode) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it runs");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "ccd-asks").count()
}

#[test]
fn long_questions_to_the_history_of_more_users_than_there_are_places_keep_no_short_one_waiting() {
    /// More than there are places for questions of users (`history/turns.rs`).
    const GREEDY: u32 = 12;
    const PLACES: usize = 8;
    let other = user(2001 + GREEDY);
    let access: String = (2001..=other.uid)
        .map(|uid| format!("ACCESS:read:{uid}:*\n"))
        .collect();
    let (cluster, door) = pair(&access);
    let alpha = cluster.alpha();
    let last = fill(alpha, &SHORT_ROWS);
    let idle = history_of(alpha);
    let (from, to) = ("3", last.to_string());
    let diff = alpha.adm(&["--timeout", "300", "diff", from, &to]).expect(1);
    assert!(
        diff.took > idle * 4,
        "{:?} is no long question beside {idle:?}",
        diff.took
    );
    let ask = ChangesAsk {
        key: None,
        from: Generation(3),
        to: Generation(last),
    };
    let greedy: Vec<Reader> = (2001..other.uid)
        .map(|uid| {
            let asks = vec![Ask::Changes(ask.clone()); 20];
            Reader::start(&cluster, &door, user(uid), 2, "again", asks)
        })
        .collect();
    until("all places to be taken", || match questions_under_way(alpha) {
        PLACES.. => Ok(()),
        less => Err(format!("{less} questions are under way")),
    });
    let root = history_of(alpha);
    let words = ["--timeout", "300", "history", "RARE"];
    let others: Vec<Duration> = (0..5)
        .map(|_| door.ask(other, "ccdadm", &words).done().took)
        .collect();
    let begun = Instant::now();
    door.ask(other, "ccdadm", &["query", "RARE"]).done();
    let query = begun.elapsed();
    println!(
        "a short question {idle:?} idle, a long one {:?}; beside {GREEDY} users with long ones: root {root:?}, another user \
         {others:?}, its query {query:?}",
        diff.took
    );
    let ends: Vec<(u64, bool)> = greedy.into_iter().map(Reader::end).collect();
    assert!(
        ends.iter().all(|(_, waits)| *waits),
        "they always had questions that waited: {ends:?}"
    );
    assert!(root < idle * TIMES + SLACK, "{idle:?} idle, {root:?} for root");
    for took in others {
        // It waits for a place and for slices of all that are under way, and never for the end of a long question.
        assert!(
            took < idle * TIMES + SLACK * 4,
            "{idle:?} idle, {took:?} beside long questions of others"
        );
    }
}

#[test]
fn a_dry_run_with_a_slow_command_does_not_hold_the_updates_of_others() {
    let (cluster, door) = pair("ACCESS:write:2001:MINE\nACCESS:write:2002:OTHER\n");
    let alpha = cluster.alpha();
    for node in &cluster.nodes {
        super::sync::install(node, "slow", "case $1 in pre_*) sleep 4;; esac");
    }
    for name in ["MINE", "OTHER"] {
        alpha.adm(&["format", name, "name"]).done();
    }
    alpha.adm(&["sync-command", "set", "MINE", "slow"]).done();
    let dry = ["--timeout", "30", "add", "--dry-run", "MINE", "a"];
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| door.ask(user(2001), "ccdadm", &dry)))
            .collect();
        until("a dry run to be under way", || {
            match super::sync::told(cluster.beta()) {
                told if told.is_empty() => Err(format!("{told:?}")),
                _ => Ok(()),
            }
        });
        let mut longest = Duration::ZERO;
        let mut count = 0;
        while runs.iter().any(|run| !run.is_finished()) {
            count += 1;
            let name = count.to_string();
            let took = door
                .ask(user(2002), "ccdadm", &["add", "OTHER", &name])
                .done()
                .took;
            let root = cluster
                .beta()
                .adm(&["add", "--no-wait", "OTHER", &format!("r{name}")])
                .done();
            longest = longest.max(took).max(root.took);
        }
        println!("{count} updates beside three dry runs of 4 s, the longest {longest:?}");
        assert!(longest < Duration::from_secs(2), "{longest:?}");
        assert!(count > 5, "{count}");
        // The rehearsals themselves come to their end.
        for run in runs {
            run.join().expect("no panic").done();
        }
    });
    // What runs the command in earnest comes before rehearsals of it.
    std::thread::scope(|scope| {
        super::sync::forget(&cluster);
        let rehearsal = scope.spawn(|| door.ask(user(2001), "ccdadm", &dry));
        until("a dry run to be under way", || {
            match super::sync::told(cluster.beta()) {
                told if told.is_empty() => Err(format!("{told:?}")),
                _ => Ok(()),
            }
        });
        let real = alpha.adm(&["--timeout", "20", "add", "MINE", "b"]).done();
        assert!(real.took < Duration::from_secs(7), "{:?}", real.took);
        rehearsal.join().expect("no panic").done();
    });
    assert_eq!(alpha.adm(&["query", "MINE"]).done().rows(), ["MINE:b"]);
    // One that nobody waits for any more ends.
    until("the unfreeze to be over", || {
        match super::sync::told(cluster.beta()) {
            told if told.last().is_some_and(|word| word == "post_rollback") => Ok(()),
            told => Err(format!("{told:?}")),
        }
    });
    super::sync::forget(&cluster);
    let mut rehearsal = door
        .command(user(2001), "ccdadm", &dry)
        .spawn()
        .expect("it starts");
    until("a dry run to be under way", || {
        match super::sync::told(cluster.beta()) {
            told if told.is_empty() => Err(format!("{told:?}")),
            _ => Ok(()),
        }
    });
    let begun = Instant::now();
    rehearsal.kill().expect("it is our child");
    rehearsal.wait().expect("it is our child");
    until("the dry run to be over", || {
        match super::sync::told(cluster.beta()) {
            told if told == ["pre_add", "post_rollback"] => Ok(()),
            told => Err(format!("{told:?}")),
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    cluster.verify();
}
