//! The hub with a real history and real sockets, and no cluster: what each watcher is told.

use super::{Seats, Sight, Start, Watching};
use crate::history::{Budget, History};
use crate::outlet::Bell;
use ccd_client::wire::{
    self, FRAME_PREFIX_BYTES, Told, WatchAsk, WatchEffects, WatchFrom, WatchItem, WatchPlace,
};
use ccd_core::database::{Database, Key, Op, Pattern, Record, Row, Update, Who};
use ccd_core::ids::{ClusterId, Epoch, Generation, NodeSet, RequestId};
use ccd_core::protocol::Committed;
use ccd_core::time::Date;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel makes a buffer no smaller.
const SNDBUF_BYTES_MIN: usize = 1;

struct Bench {
    history: History,
    watching: Watching,
    seats: Seats,
    database: Database,
    sequence: u64,
    _folder: TempDir,
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

impl Bench {
    fn new(budget_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let watching = Watching::start(History::trail(folder.path(), CLUSTER)).unwrap();
        let opened = History::open(
            folder.path(),
            CLUSTER,
            Budget {
                bytes: budget_bytes,
                image_bytes_max: 0,
            },
            &Bell::default(),
            watching.listener(),
        );
        let mut bench = Self {
            history: opened.unwrap().0,
            seats: watching.seats(),
            watching,
            database: Database::default(),
            sequence: 0,
            _folder: folder,
        };
        for name in ["K", "OTHER"] {
            let columns = vec!["name".to_owned(), "state".to_owned()];
            bench.update(Op::Format {
                key: key(name),
                columns,
            });
        }
        bench
    }

    /// Commits without telling anybody.
    fn commit(&mut self, op: Op) -> Committed {
        self.sequence += 1;
        let update = Update {
            request: RequestId {
                client: 1,
                sequence: self.sequence,
            },
            who: Who::default(),
            date: Date(0),
            reason: None,
            preconditions: vec![],
            ops: vec![op],
        };
        let before = self.database.clone();
        let (admitted, _) = before.admit(&update).unwrap();
        let (record, after) = Record::updates(&before, Epoch(1), admitted, vec![update], NodeSet::EMPTY);
        self.database = after.clone();
        let way = Some((before, vec![Arc::new(record)]));
        Committed { way, after }
    }

    fn update(&mut self, op: Op) {
        let committed = self.commit(op);
        self.history.tell(committed);
    }

    fn add(&mut self, name: &str, values: [&str; 2]) {
        self.update(Op::Add(Row::new(key(name), values).unwrap()));
    }

    fn watch(&self, patterns: &[&[&str]], from: WatchFrom) -> Watcher {
        self.watch_through(patterns, from, None)
    }

    /// Through a socket that takes so much.
    fn watch_through(&self, patterns: &[&[&str]], from: WatchFrom, sndbuf_bytes: Option<usize>) -> Watcher {
        let patterns = patterns
            .iter()
            .map(|words| Pattern::from_arguments(key(words[0]), &words[1..]));
        let patterns: Vec<Pattern> = patterns.collect();
        let (socket, stream) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        if let Some(bytes) = sndbuf_bytes {
            setsockopt(&socket, SndBuf, &bytes).unwrap();
        }
        let start = Start {
            socket,
            ask: WatchAsk {
                patterns: patterns.clone(),
                from,
                timeout: PATIENCE,
            },
            sight: Sight::new(patterns, vec!["*".into()]),
            seat: self.seats.take(0, true).unwrap(),
        };
        let begin = self.watching.begin();
        let snapshot = self.database.clone();
        self.history
            .afterwards(move |newest| begin(start, snapshot, newest));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Watcher(stream)
    }
}

struct Watcher(UnixStream);

impl Watcher {
    fn receive(&mut self) -> Told {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        self.0.read_exact(&mut prefix).unwrap();
        let mut body = vec![0; wire::reply_len(prefix).unwrap()];
        self.0.read_exact(&mut body).unwrap();
        wire::decode_reply(&body).unwrap().body
    }

    /// The next item that is no progress, in words.
    fn next(&mut self) -> String {
        loop {
            let Told::Watched(item) = self.receive() else {
                panic!("a watcher is told items");
            };
            let rows = |effects: &WatchEffects| match effects {
                WatchEffects::Rows(rows) => rows.to_string().replace('\n', " ").trim().to_owned(),
                WatchEffects::Counts(keys) => format!("{keys:?}"),
            };
            return match item {
                WatchItem::Began { .. } => "began".into(),
                WatchItem::Rows { rows, .. } => format!("{} rows", rows.len()),
                WatchItem::AllRows { .. } => "all".into(),
                WatchItem::Round { changes, .. } => {
                    let changes = changes.iter();
                    let texts =
                        changes.map(|change| format!("{} {}", change.generation, rows(&change.effects)));
                    texts.collect::<Vec<_>>().join(", ")
                }
                WatchItem::Progress { .. } => continue,
                WatchItem::Missed { after, up_to } => format!("missed {after}..{}", up_to.stamp.generation),
                WatchItem::Diverged { .. } => "diverged".into(),
                WatchItem::NotServing { why } => why,
            };
        }
    }

    /// The generations of the next changes up to this one.
    fn generations(&mut self, until: u64) -> Vec<u64> {
        let mut generations = Vec::new();
        while generations.last() != Some(&until) {
            match self.receive() {
                Told::Watched(WatchItem::Round { changes, .. }) => {
                    generations.extend(changes.iter().map(|change| change.generation.0));
                }
                Told::Watched(WatchItem::Began { .. } | WatchItem::Progress { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        generations
    }
}

#[test]
fn each_is_told_what_it_sees_and_nothing_else() {
    let mut bench = Bench::new(1 << 20);
    let mut all = bench.watch(&[], WatchFrom::Now);
    let mut one = bench.watch(&[&["K"]], WatchFrom::Now);
    let mut up = bench.watch(&[&["K", "state=up"], &["OTHER", "x"]], WatchFrom::Now);
    let mut same = bench.watch(&[&["K"]], WatchFrom::Now);
    for watcher in [&mut all, &mut one, &mut up, &mut same] {
        assert_eq!(watcher.next(), "began");
    }
    bench.add("K", ["a", "up"]);
    bench.add("OTHER", ["y", "up"]);
    bench.add("K", ["b", "down"]);
    bench.add("OTHER", ["x", "up"]);
    assert_eq!(
        [all.next(), all.next(), all.next(), all.next()],
        ["3 +K:a:up", "4 +OTHER:y:up", "5 +K:b:down", "6 +OTHER:x:up"]
    );
    for watcher in [&mut one, &mut same] {
        assert_eq!([watcher.next(), watcher.next()], ["3 +K:a:up", "5 +K:b:down"]);
    }
    assert_eq!([up.next(), up.next()], ["3 +K:a:up", "6 +OTHER:x:up"]);
}

#[test]
fn columns_are_those_of_the_moment_in_the_past_and_now() {
    let mut bench = Bench::new(1 << 20);
    let mut live = bench.watch(&[&["K", "state=up"]], WatchFrom::Now);
    assert_eq!(live.next(), "began");
    bench.add("K", ["a", "up"]);
    bench.update(Op::Remove(Pattern::all(key("K"))));
    bench.update(Op::RemoveFormat(key("K")));
    let columns = vec!["state".to_owned(), "name".to_owned()];
    bench.update(Op::Format {
        key: key("K"),
        columns,
    });
    bench.add("K", ["up", "a"]);
    bench.add("K", ["b", "up"]);
    let mut past = bench.watch(&[&["K", "state=up"]], WatchFrom::Generation(Generation(2)));
    assert_eq!(past.next(), "began");
    for watcher in [&mut live, &mut past] {
        let told: Vec<String> = (0..5).map(|_| watcher.next()).collect();
        let expected = [
            "3 +K:a:up",
            "4 -K:a:up",
            "5 -K_fmt:name:state",
            "6 +K_fmt:state:name",
            "7 +K:up:a",
        ];
        assert_eq!(told, expected);
    }
}

#[test]
fn who_does_not_read_goes_on_from_the_disk_without_a_hole() {
    const UPDATES: u64 = 12_000;
    let mut bench = Bench::new(64 << 20);
    let mut slow = bench.watch(&[&["K"]], WatchFrom::Now);
    let mut quick = bench.watch(&[&["K"]], WatchFrom::Now);
    assert_eq!([slow.next(), quick.next()], ["began", "began"]);
    let long = "x".repeat(900);
    let last = UPDATES + 2;
    let read = std::thread::spawn(move || quick.generations(last));
    for number in 0..UPDATES {
        bench.add("K", [&number.to_string(), &long]);
        if number % 500 == 0 {
            // The disk and the hub keep up, as they do with a real cluster.
            let (done, waiting) = std::sync::mpsc::channel();
            bench.history.afterwards(move |_| done.send(()).unwrap());
            waiting.recv().unwrap();
        }
    }
    let expected: Vec<u64> = (3..=last).collect();
    assert_eq!(read.join().unwrap(), expected);
    assert_eq!(slow.generations(last), expected);
}

#[test]
fn what_neither_memory_nor_disk_has_is_told_as_missed() {
    const UPDATES: u64 = 12_000;
    let mut bench = Bench::new(1 << 20);
    let mut slow = bench.watch(&[&["K"]], WatchFrom::Now);
    assert_eq!(slow.next(), "began");
    let long = "x".repeat(900);
    for number in 0..UPDATES {
        bench.add("K", [&number.to_string(), &long]);
        if number % 500 == 0 {
            let (done, waiting) = std::sync::mpsc::channel();
            bench.history.afterwards(move |_| done.send(()).unwrap());
            waiting.recv().unwrap();
        }
    }
    let (mut reached, mut missed) = (2, 0);
    while reached < UPDATES + 2 {
        match slow.receive() {
            Told::Watched(WatchItem::Round { changes, .. }) => {
                for change in changes {
                    assert_eq!(change.generation.0, reached + 1);
                    reached += 1;
                }
            }
            Told::Watched(WatchItem::Missed { after, up_to }) => {
                assert_eq!(after.0, reached, "it begins behind what was told");
                missed += up_to.stamp.generation.0 - reached;
                reached = up_to.stamp.generation.0;
            }
            Told::Watched(WatchItem::Progress { position }) => {
                assert_eq!(position.stamp.generation.0, reached)
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(missed > 1_000, "{missed} of {UPDATES}");
}

#[test]
fn a_watch_may_begin_at_every_generation_and_place() {
    let mut bench = Bench::new(1 << 20);
    let mut places = vec![WatchPlace::at(bench.database.position())];
    for number in 0..20 {
        bench.add("K", [&number.to_string(), "up"]);
        places.push(WatchPlace::at(bench.database.position()));
    }
    let last = bench.database.position().stamp.generation.0;
    let _somebody = bench.watch(&[], WatchFrom::Now);
    for place in places {
        let mut by_place = bench.watch(&[], WatchFrom::Place(place));
        let mut by_number = bench.watch(&[], WatchFrom::Generation(place.seen));
        bench.add("K", [&format!("new{}", place.seen), "up"]);
        bench.update(Op::Remove(Pattern::from_arguments(key("K"), ["new*"])));
        let now = bench.database.position().stamp.generation.0;
        let wanted: Vec<u64> = (place.seen.0 + 1..=now).collect();
        assert_eq!(by_place.generations(now), wanted);
        assert_eq!(by_number.generations(now), wanted);
        assert!(wanted.len() as u64 > last - place.seen.0);
    }
    let mut late = bench.watch(&[], WatchFrom::Generation(Generation(99_999)));
    let Told::Failed(fault) = late.receive() else {
        panic!("it is refused");
    };
    assert!(fault.to_string().contains("has not been reached"), "{fault}");
    let mut wrong = bench.watch(&[&["K", "colour=red"]], WatchFrom::Now);
    assert!(matches!(wrong.receive(), Told::Refused(_)));
}

#[test]
fn many_rows_come_in_pieces_and_changes_from_there_on() {
    let mut bench = Bench::new(64 << 20);
    for number in 0..3_000 {
        bench.add("K", [&number.to_string(), &"x".repeat(200)]);
    }
    let mut watcher = bench.watch(&[&["K", "*1*"]], WatchFrom::Rows);
    assert_eq!(watcher.next(), "began");
    bench.add("K", ["new1", "x"]);
    let mut count = 0;
    let mut pieces = 0;
    while let Some((rows, _)) = watcher.next().split_once(" rows") {
        count += rows.parse::<usize>().unwrap();
        pieces += 1;
    }
    let wanted = (0..3_000)
        .filter(|number: &u32| number.to_string().contains('1'))
        .count();
    assert_eq!(count, wanted);
    assert!(pieces > 1, "{pieces}");
    assert_eq!(watcher.next(), "3003 +K:new1:x");
}

#[test]
fn a_whole_copy_is_a_gap_and_a_node_that_does_not_serve_says_so() {
    let mut bench = Bench::new(1 << 20);
    let mut watcher = bench.watch(&[&["K"]], WatchFrom::Now);
    assert_eq!(watcher.next(), "began");
    for number in 0..5 {
        let _ = bench.commit(Op::Add(
            Row::new(key("K"), [number.to_string(), "x".into()]).unwrap(),
        ));
    }
    let after = bench.database.clone();
    bench.history.tell(Committed { way: None, after });
    assert_eq!(watcher.next(), "missed 2..7");
    bench.watching.inlet.note_service(Some("waiting: alone".into()));
    assert_eq!(watcher.next(), "waiting: alone");
    bench.watching.inlet.note_service(None);
    bench.add("K", ["a", "up"]);
    assert_eq!(watcher.next(), "8 +K:a:up");
    // Nobody watches for a while, and much happens; then somebody comes.
    drop(watcher);
    for number in 0..200 {
        bench.add("OTHER", [&number.to_string(), "x"]);
        if number % 50 == 0 {
            std::thread::yield_now();
        }
    }
    let mut later = bench.watch(&[], WatchFrom::Now);
    assert_eq!(later.next(), "began");
    bench.add("K", ["b", "up"]);
    assert_eq!(later.next(), "209 +K:b:up");
}

#[test]
fn a_sign_that_a_full_socket_does_not_take_is_not_overwritten_by_what_comes_next() {
    let mut bench = Bench::new(1 << 20);
    // Each a little fuller than the one before: among them is one that has just been filled when the sign comes.
    let mut slow = Vec::new();
    for number in 0..24 {
        let mut watcher = bench.watch_through(&[&["K"]], WatchFrom::Now, Some(SNDBUF_BYTES_MIN));
        assert_eq!(watcher.next(), "began");
        slow.push((bench.database.position().stamp.generation.0, watcher));
        bench.add("K", [&number.to_string(), "up"]);
    }
    let mut quick = bench.watch(&[&["K"]], WatchFrom::Now);
    assert_eq!(quick.next(), "began");
    bench.add("OTHER", ["y", "up"]);
    let unseen = bench.database.position();
    // As soon as one has heard of it, all have, or could not.
    loop {
        match quick.receive() {
            Told::Watched(WatchItem::Progress { position }) if position == unseen => break,
            Told::Watched(_) => {}
            other => panic!("{other:?}"),
        }
    }
    for number in 0..3 {
        bench.add("K", [&format!("late{number}"), "up"]);
    }
    let last = bench.database.position().stamp.generation.0;
    quick.generations(last);
    let skipped = unseen.stamp.generation.0;
    let mut signs = 0;
    for (began, mut watcher) in slow {
        let wanted: Vec<u64> = (began + 1..=last).filter(|seen| *seen != skipped).collect();
        let mut told = Vec::new();
        while told.last() != Some(&last) {
            match watcher.receive() {
                Told::Watched(WatchItem::Round { changes, .. }) => {
                    told.extend(changes.iter().map(|change| change.generation.0));
                }
                Told::Watched(WatchItem::Progress { position }) => {
                    signs += usize::from(position == unseen && told.last() == Some(&(skipped - 1)));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, wanted);
    }
    assert!(signs > 0, "some of them took it");
}
