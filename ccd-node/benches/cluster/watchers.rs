//! Ten thousand watchers: what an update costs the daemon that all of them see, and one that none sees; and that the client which
//! made it hears of it first. The watchers are a program of their own: what they do is not counted, nor what the daemon spends
//! all the time. Against a bare program that sends the same bytes to as many sockets.

use super::crowd::Crowd;
use super::rig::{ALPHA, BETA, Rig, Shape};
use super::samples::Samples;
use super::{PATIENCE, placement};
use anyhow::{Context, Result, ensure};
use ccd_client::wire::{
    self, Ask, FRAME_PREFIX_BYTES, FromDaemon, PREAMBLE, ToDaemon, Told, WatchAsk, WatchFrom, WatchItem,
};
use ccd_client::{Client, Transaction};
use ccd_core::database::{Key, Op, Pattern, Row};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The role of this program that watches: `SOCKET COUNT`.
pub const WATCHERS: &str = "watchers";
const COUNT: usize = 10_000;
const UPDATES: u32 = 60;
/// The kernel counts processor time in these (`USER_HZ`).
const TICK_MS: f64 = 10.0;
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
    let frames = frames(&socket, &client)?;
    let mut watchers = Watchers::start(&socket)?;
    let before = rig.resident_mib(ALPHA)?;
    let unseen = measure(&rig, &client, "UNSEEN", None)?;
    println!(
        "update that none of {COUNT} watchers sees: {}; the daemon's CPU {:.2} ms, {:.2} more than without",
        unseen.samples,
        unseen.cpu_ms,
        unseen.cpu_ms - alone.cpu_ms
    );
    let idle_share = idle_share(&rig)?;
    let seen = measure(&rig, &client, "SEEN", Some(&mut watchers))?;
    let cost_ms = seen.cpu_ms - idle_share * seen.span_ms;
    println!(
        "update that all {COUNT} watchers see: {}; the daemon's CPU {cost_ms:.2} ms (goal 20), of which the kernel {:.2}, and \
         {:.2} for what it does all the time",
        seen.samples,
        seen.kernel_ms,
        seen.cpu_ms - cost_ms
    );
    println!(
        "the ack came before the first watcher heard of it {} times of {UPDATES}; the last of {COUNT} heard of it {} after it",
        seen.ack_first, seen.last_heard
    );
    println!(
        "resident memory of alpha with {COUNT} watchers: {} MiB, {before} when they came",
        rig.resident_mib(ALPHA)?
    );
    drop(watchers);
    rig.kill(BETA)?;
    let bare_ms = bare(folder.path(), &frames)?;
    println!(
        "a bare program that sends those {} bytes to {COUNT} sockets: {bare_ms:.2} ms; ratio {:.2}",
        frames[1].len(),
        cost_ms / bare_ms
    );
    Ok(())
}

/// What a bare program spends on telling as many.
fn bare(folder: &Path, frames: &[Vec<u8>; 2]) -> Result<f64> {
    let socket = folder.join("crowd.sock");
    let mut crowd = Crowd::start(folder, &socket, COUNT, frames)?;
    let mut watchers = Watchers::start(&socket)?;
    let mut spent = Duration::ZERO;
    for _ in 0..UPDATES {
        spent += crowd.tell()?;
        watchers.heard()?;
    }
    Ok(spent.as_secs_f64() * 1e3 / f64::from(UPDATES))
}

/// The frames that begin a watch and that tell of an update.
fn frames(socket: &Path, client: &Client) -> Result<[Vec<u8>; 2]> {
    let mut stream = connect(socket.to_str().context("a readable path")?)?;
    let began = begin(&mut stream)?;
    let row = Row::new(Key::new("SEEN")?, [wide("first"), "x".repeat(64)])?;
    client.update(Transaction::of(vec![Op::Add(row)]))?;
    Ok([began, frame(&mut stream)?])
}

/// As the names of the benchmark's rows are.
fn wide(name: &str) -> String {
    format!("{name:<72}")
}

/// What share of a processor the daemon takes when nothing happens.
fn idle_share(rig: &Rig) -> Result<f64> {
    const SPAN: Duration = Duration::from_secs(4);
    let before = rig.cpu_ticks(ALPHA)?;
    std::thread::sleep(SPAN);
    let after = rig.cpu_ticks(ALPHA)?;
    let ticks = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    Ok(ticks as f64 * TICK_MS / (SPAN.as_secs_f64() * 1e3))
}

struct Measured {
    samples: Samples,
    /// Of the daemon, for each update.
    cpu_ms: f64,
    kernel_ms: f64,
    ack_first: u32,
    last_heard: Samples,
    /// From one update to the next.
    span_ms: f64,
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
            [wide(&format!("{started:?}-{number}")), "x".repeat(64)],
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
    let millis = |part: usize| (after[part] - before[part]) as f64 * TICK_MS / f64::from(UPDATES);
    Ok(Measured {
        span_ms: started.elapsed().as_secs_f64() * 1e3 / f64::from(UPDATES),
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

pub fn raise_limit() -> Result<()> {
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
        begin(&mut stream)?;
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

/// Begins to watch; returns the frame that says so.
fn begin(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let ask = Ask::Watch(WatchAsk {
        patterns: vec![Pattern::all(Key::new("SEEN")?)],
        from: WatchFrom::Now,
        timeout: PATIENCE,
    });
    stream.write_all(&PREAMBLE)?;
    stream.write_all(&wire::encode_request(&ToDaemon { id: 1, body: ask })?)?;
    stream.read_exact(&mut [0; PREAMBLE.len()])?;
    let began = frame(stream)?;
    let FromDaemon { body, .. } = wire::decode_reply(&began[FRAME_PREFIX_BYTES..])?;
    ensure!(matches!(body, Told::Watched(WatchItem::Began { .. })), "{body:?}");
    Ok(began)
}

fn frame(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    stream.read_exact(&mut prefix)?;
    let mut frame = prefix.to_vec();
    frame.resize(FRAME_PREFIX_BYTES + wire::reply_len(prefix)?, 0);
    stream.read_exact(&mut frame[FRAME_PREFIX_BYTES..])?;
    Ok(frame)
}
