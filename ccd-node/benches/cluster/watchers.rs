//! Ten thousand watchers: what an update costs the daemon that all of them see, and one that none sees; and that the client which
//! made it hears of it first. The watchers are a program of their own: what they do is not counted.

use super::rig::{ALPHA, BETA, Rig, Shape};
use super::samples::Samples;
use super::{PATIENCE, floors, placement};
use anyhow::{Context, Result, ensure};
use ccd_client::wire::{
    self, Ask, FRAME_PREFIX_BYTES, FromDaemon, PREAMBLE, ToDaemon, Told, WatchAsk, WatchFrom, WatchItem,
};
use ccd_client::{Client, Transaction};
use ccd_core::database::{Key, Op, Pattern, Row};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The role of this program that watches: `SOCKET COUNT`.
pub const WATCHERS: &str = "watchers";
const COUNT: usize = 10_000;
const UPDATES: u32 = 60;
/// Between two updates: each is told by itself.
const PAUSE: Duration = Duration::from_millis(60);

pub fn run() -> Result<()> {
    raise_limit()?;
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(folder.path(), Shape::PAIR)?;
    rig.start_all()?;
    let client = rig.client(ALPHA)?;
    for name in ["SEEN", "UNSEEN"] {
        let columns = vec!["name".to_owned(), "value".to_owned()];
        let key = Key::new(name)?;
        client.update(Transaction::of(vec![Op::Format { key, columns }]))?;
    }
    let alone = measure(&rig, &client, "SEEN", None)?;
    println!(
        "update without watchers: {}; the daemon's CPU {:.2} ms",
        alone.samples, alone.cpu_ms
    );
    let socket = folder.path().join("alpha/run/ccdd.sock");
    let mut watchers = Watchers::start(&socket)?;
    let before = rig.resident_mib(ALPHA)?;
    let unseen = measure(&rig, &client, "UNSEEN", None)?;
    println!(
        "update that none of {COUNT} watchers sees: {}; the daemon's CPU {:.2} ms, {:.2} more than without",
        unseen.samples,
        unseen.cpu_ms,
        unseen.cpu_ms - alone.cpu_ms
    );
    let seen = measure(&rig, &client, "SEEN", Some(&mut watchers))?;
    println!(
        "update that all {COUNT} watchers see: {}; the daemon's CPU {:.2} ms (goal 20), of which the kernel {:.2}",
        seen.samples, seen.cpu_ms, seen.kernel_ms
    );
    println!(
        "the ack came before the first watcher heard of it {} times of {UPDATES}; the last of {COUNT} heard of it {} after it",
        seen.ack_first, seen.last_heard
    );
    println!(
        "resident memory of alpha with {COUNT} watchers: {} MiB, {before} when they came",
        rig.resident_mib(ALPHA)?
    );
    rig.kill(BETA)
}

struct Measured {
    samples: Samples,
    /// Of the daemon, for each update.
    cpu_ms: f64,
    kernel_ms: f64,
    ack_first: u32,
    last_heard: Samples,
}

/// Updates one by one; with `watchers`, each waits until all of them have heard of the one before.
fn measure(rig: &Rig, client: &Client, key: &str, mut watchers: Option<&mut Watchers>) -> Result<Measured> {
    let (mut samples, mut last_heard) = (Samples::default(), Samples::default());
    let mut ack_first = 0;
    let before = rig.cpu_ticks(ALPHA)?;
    let started = Instant::now();
    for number in 0..UPDATES {
        let row = Row::new(
            Key::new(key)?,
            [format!("{:?}-{number}", started), "x".repeat(64)],
        )?;
        samples.time(|| client.update(Transaction::of(vec![Op::Add(row)])))?;
        let acked = now();
        match &mut watchers {
            None => std::thread::sleep(PAUSE),
            Some(watchers) => {
                let (first, last) = watchers.heard()?;
                ack_first += u32::from(first > acked);
                last_heard.add(last.saturating_sub(acked));
            }
        }
    }
    let after = rig.cpu_ticks(ALPHA)?;
    let millis = |part: usize| (after[part] - before[part]) as f64 * 10.0 / f64::from(UPDATES);
    Ok(Measured {
        samples: samples.sorted(),
        cpu_ms: millis(0) + millis(1),
        kernel_ms: millis(1),
        ack_first,
        last_heard: if watchers.is_some() {
            last_heard.sorted()
        } else {
            last_heard
        },
    })
}

/// A clock that two processes share.
fn now() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map(Duration::from).unwrap_or_default()
}

fn raise_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard > COUNT as u64 + 4_500,
        "the limit on open files is {hard}: ulimit -Hn {}",
        COUNT * 2
    );
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The program with the watchers.
struct Watchers {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Watchers {
    fn start(socket: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(WATCHERS)
            .arg(socket)
            .arg(COUNT.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Ten thousand programs would not share the daemon's processor.
        placement::place_child(&child, BETA)?;
        let stdin = child.stdin.take().context("it is a pipe")?;
        let stdout = BufReader::new(child.stdout.take().context("it is a pipe")?);
        let mut watchers = Self { child, stdin, stdout };
        let mut line = String::new();
        watchers.stdout.read_line(&mut line)?;
        ensure!(line == "ready\n", "the watchers did not begin: {line:?}");
        Ok(watchers)
    }

    /// When the first and when the last of them heard of the next update.
    fn heard(&mut self) -> Result<(Duration, Duration)> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let mut numbers = line
            .split_whitespace()
            .map(|word| word.parse().map(Duration::from_nanos));
        let first = numbers.next().context("a time")??;
        Ok((first, numbers.next().context("a time")??))
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        // Both only fail if it has ended.
        let _ = self.stdin.write_all(b"\n");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The watchers' part: `SOCKET COUNT`. Prints for each update when the first and when the last of them heard of it.
pub fn watch(args: &[String]) -> Result<()> {
    let [socket, count] = args else {
        anyhow::bail!("SOCKET COUNT")
    };
    let count: usize = count.parse()?;
    raise_limit()?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let mut stream = connect(socket)?;
        let ask = Ask::Watch(WatchAsk {
            patterns: vec![Pattern::all(Key::new("SEEN")?)],
            from: WatchFrom::Now,
            timeout: PATIENCE,
        });
        stream.write_all(&PREAMBLE)?;
        stream.write_all(&wire::encode_request(&ToDaemon { id: 1, body: ask })?)?;
        stream.read_exact(&mut [0; PREAMBLE.len()])?;
        let began = receive(&mut stream)?;
        ensure!(
            matches!(began, Told::Watched(WatchItem::Began { .. })),
            "{began:?}"
        );
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        streams.push(stream);
    }
    println!("ready");
    let mut events = vec![EpollEvent::empty(); 4096];
    let mut bytes = vec![0; 1 << 16];
    loop {
        let (mut heard, mut first) = (0, None);
        while heard < count {
            let found = epoll.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..found] {
                let read = streams[event.data() as usize].read(&mut bytes)?;
                ensure!(read > 0, "the daemon hung up");
                // Each is small, and read as soon as it is there: whole frames.
                let mut rest = &bytes[..read];
                while let Some((prefix, body)) = rest.split_first_chunk::<FRAME_PREFIX_BYTES>() {
                    let (body, after) = body.split_at(wire::reply_len(*prefix)?);
                    if let Told::Watched(WatchItem::Round { .. }) = wire::decode_reply(body)?.body {
                        first = first.or_else(|| Some(now()));
                        heard += 1;
                    }
                    rest = after;
                }
            }
        }
        let first = first.context("an update")?;
        println!("{} {}", first.as_nanos(), now().as_nanos());
    }
}

/// The listener's queue is short.
fn connect(socket: &str) -> Result<UnixStream> {
    let until = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > until => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn receive(stream: &mut UnixStream) -> Result<Told> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    stream.read_exact(&mut prefix)?;
    let mut body = vec![0; wire::reply_len(prefix)?];
    stream.read_exact(&mut body)?;
    let FromDaemon { body, .. } = wire::decode_reply(&body)?;
    Ok(body)
}

/// A query against a bare request and answer of the same bytes.
pub fn query() -> Result<()> {
    const ROUNDS: u32 = 4_000;
    const TURNS: u32 = 10;
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(folder.path(), Shape::PAIR)?;
    rig.start_all()?;
    let client = rig.client(ALPHA)?;
    let key = Key::new("ONE")?;
    let columns = vec!["name".to_owned(), "value".to_owned()];
    let format = Op::Format {
        key: key.clone(),
        columns,
    };
    let row = Row::new(key.clone(), ["row", &"x".repeat(76)])?;
    client.update(Transaction::of(vec![format, Op::Add(row)]))?;
    let pattern = || Pattern::positional(key.clone(), ["row"]);
    // The same bytes both ways.
    let request = ccd_core::client::Request {
        timeout: PATIENCE,
        body: ccd_core::client::RequestBody::Query {
            pattern: pattern(),
            stale: false,
        },
    };
    let asked = wire::encode_request(&ToDaemon {
        id: 1,
        body: Ask::Request(request),
    })?;
    let found = client.query(pattern(), ccd_client::Freshness::Strict)?;
    let told = wire::encode_reply(&FromDaemon {
        id: 1,
        body: Told::Rows {
            position: found.position,
            rows: found.rows,
        },
    })?;
    let mut floor = floors::Echo::start(folder.path(), asked.len(), told.len())?;
    let (mut queries, mut bare) = (Samples::default(), Samples::default());
    for _ in 0..TURNS {
        floor.measure(ROUNDS / TURNS, &mut bare)?;
        for _ in 0..ROUNDS / TURNS {
            queries.time(|| client.query(pattern(), ccd_client::Freshness::Strict))?;
        }
    }
    let what = format!(
        "query of one row through the socket ({} and {} bytes)",
        asked.len(),
        told.len()
    );
    super::load::ratio(&what, &queries.sorted(), &bare.sorted(), 1.5);
    rig.end_all()
}

/// A history of a million updates: what it takes on the disk, and how soon it answers.
pub fn history() -> Result<()> {
    const UPDATES: u64 = 1_000_000;
    const BUDGET_MIB: u64 = 64;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("history");
    let started = Instant::now();
    ccd_node::measured::fill_history(&path, BUDGET_MIB << 20, UPDATES)?;
    let took = started.elapsed();
    let mut bytes = 0;
    for entry in fs::read_dir(&path)? {
        bytes += entry?.metadata()?.len();
    }
    println!(
        "a history of {UPDATES} updates: {:.1} MiB on disk (budget {BUDGET_MIB}), written in {} ms",
        bytes as f64 / f64::from(1 << 20),
        took.as_millis()
    );
    for (what, key, last) in [
        ("the last 20 of a key that changes all the time", "BUSY", 20),
        ("all of a key that changes once in 10,000", "RARE", 1_000_000),
        ("a key that never changed", "NEVER", 20),
    ] {
        let started = Instant::now();
        let count = ccd_node::measured::ask_history(&path, key, last)?;
        println!(
            "history KEY, {what}: {count} updates in {} ms (goal 1,000)",
            started.elapsed().as_millis()
        );
    }
    Ok(())
}
