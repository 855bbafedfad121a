//! `cargo bench -p ccd-node`: a real cluster against bare programs that do only the necessary system calls, in one run.
//!
//! ```text
//! floors.rs    the bare programs
//! rig.rs       two daemons on files
//! ring.rs      two writes in one submission
//! samples.rs   percentiles
//! ```
//!
//! Only the ratios carry over from one machine to another. Nothing here fails because it is slow.

mod floors;
mod rig;
mod ring;
mod samples;

use anyhow::{Context, Result};
use ccd_client::{Client, Transaction};
use ccd_core::database::{Key, Op, Pattern, Row};
use rig::{ALPHA, BETA, Rig};
use samples::Samples;
use std::time::Duration;

/// Updates in each measurement, in turns of so many with as many of the floor's: what else the machine does hits both.
const TURNS: u32 = 20;
const UPDATES_PER_TURN: u32 = 200;
/// Updates whose bytes are counted, window by window: several checkpoints fall into all of them, none into most.
const COUNTED_WINDOWS: u32 = 200;
const UPDATES_PER_WINDOW: u32 = 50;
/// Rows of the small and of the large database, and in one transaction while they are filled.
const ROWS_SMALL: usize = 1_000;
const ROWS: usize = 100_000;
const ROWS_PER_TRANSACTION: usize = 1_000;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(floors::SERVER) => return floors::serve(&args[2..]),
        Some(floors::PEER) => return floors::answer(&args[2..]),
        // What `cargo bench` itself passes does not matter.
        _ => {}
    }
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(folder.path())?;
    rig.start(ALPHA)?;
    rig.start(BETA)?;
    rig.wait_until_redundant()?;
    let mut load = Load::new(rig.client(ALPHA)?)?;
    load.fill(ROWS_SMALL)?;

    let small = load.replace(&rig)?;
    let mut floor = floors::Paired::start(folder.path())?;
    let (paired, bare) = in_turns(|samples| floor.measure(UPDATES_PER_TURN, samples), &mut load)?;
    drop(floor);
    ratio("paired update, one client on the master", &paired, &bare, 1.5);

    load.fill(ROWS)?;
    let large = load.replace(&rig)?;
    println!(
        "update at {ROWS} rows: {}; {:.2} times that at {ROWS_SMALL} rows (goal 1.20)",
        large.samples,
        large.samples.p50.as_secs_f64() / small.samples.p50.as_secs_f64()
    );
    for (what, small, large) in [
        ("", small.own_bytes, large.own_bytes),
        (
            " with its share of the checkpoints",
            small.all_bytes,
            large.all_bytes,
        ),
    ] {
        println!(
            "bytes written for an update{what}, both nodes: {small:.0} at {ROWS_SMALL} rows, {large:.0} at {ROWS} rows; \
             {:.2} times (goal 1.20)",
            large / small
        );
    }
    for node in [ALPHA, BETA] {
        println!(
            "resident memory of {} at {ROWS} rows: {} MiB (goal 150)",
            rig::NODES[node],
            rig.resident_mib(node)?
        );
    }

    let left = rig.handover(ALPHA, rig::End::Leave)?;
    println!(
        "first acked update after a graceful leave: {} ms (goal 100)",
        left.as_millis()
    );
    load.client = rig.client(BETA)?;
    let mut floor = floors::Solo::start(folder.path())?;
    let (solo, bare) = in_turns(|samples| floor.measure(UPDATES_PER_TURN, samples), &mut load)?;
    drop(floor);
    ratio("solo update on two files", &solo, &bare, 1.5);

    rig.start(ALPHA)?;
    rig.wait_until_redundant()?;
    let killed = rig.handover(ALPHA, rig::End::Kill)?;
    println!(
        "first acked update after kill -9: {} ms (goal 1,500 with a lease of 1,000)",
        killed.as_millis()
    );

    rig.kill(BETA)?;
    let restarted = rig.restart(BETA)?;
    println!(
        "restart of the lone survivor to serving at {ROWS} rows: {} ms (goal 1,000)",
        restarted.as_millis()
    );
    Ok(())
}

fn ratio(what: &str, measured: &Samples, floor: &Samples, goal: f64) {
    println!(
        "{what}: {measured}; floor {floor}; ratio {:.2} (goal {goal:.2})",
        measured.p50.as_secs_f64() / floor.p50.as_secs_f64()
    );
}

/// The updates, and the floor.
fn in_turns(
    mut floor: impl FnMut(&mut Samples) -> Result<()>,
    load: &mut Load,
) -> Result<(Samples, Samples)> {
    let (mut updates, mut bare) = (Samples::default(), Samples::default());
    for _ in 0..TURNS {
        floor(&mut bare)?;
        load.add(UPDATES_PER_TURN, &mut updates)?;
    }
    Ok((updates.sorted(), bare.sorted()))
}

/// What a client asks for.
struct Load {
    client: Client,
    /// Of the last row that was added.
    number: usize,
    rows: usize,
}

/// Of many updates at one size of the database.
struct Replaced {
    samples: Samples,
    /// For each update, on all nodes together: what it writes itself.
    own_bytes: f64,
    /// And with the checkpoints that fell into the measurement.
    all_bytes: f64,
}

impl Load {
    fn new(client: Client) -> Result<Self> {
        let columns = vec!["name".to_owned(), "value".to_owned()];
        client.update(Transaction::of(vec![Op::Format { key: key(), columns }]))?;
        Ok(Self {
            client,
            number: 0,
            rows: 0,
        })
    }

    fn next(&mut self) -> Result<Row> {
        self.number += 1;
        row("row", self.number)
    }

    /// Adds rows, one with each update.
    fn add(&mut self, updates: u32, samples: &mut Samples) -> Result<()> {
        for _ in 0..updates {
            let transaction = Transaction::of(vec![Op::Add(self.next()?)]);
            samples.time(|| self.client.update(transaction))?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Adds rows until there are so many.
    fn fill(&mut self, rows: usize) -> Result<()> {
        while self.rows < rows {
            let count = ROWS_PER_TRANSACTION.min(rows - self.rows);
            let ops: Result<Vec<Op>> = (0..count).map(|_| Ok(Op::Add(self.next()?))).collect();
            let filled = self.client.update(Transaction::of(ops?));
            filled.context("filling the database")?;
            self.rows += count;
        }
        Ok(())
    }

    /// Puts a new row in the place of the newest again and again, so that the database keeps its size.
    fn replace(&mut self, rig: &Rig) -> Result<Replaced> {
        let mut samples = Samples::default();
        let mut windows = Vec::new();
        for _ in 0..COUNTED_WINDOWS {
            let before = rig.written_bytes()?;
            for _ in 0..UPDATES_PER_WINDOW {
                let old = row("row", self.number)?;
                let ops = vec![Op::Remove(Pattern::exact(&old)), Op::Add(self.next()?)];
                samples.time(|| self.client.update(Transaction::of(ops)))?;
            }
            windows.push((rig.written_bytes()? - before) as f64 / f64::from(UPDATES_PER_WINDOW));
        }
        windows.sort_by(f64::total_cmp);
        Ok(Replaced {
            samples: samples.sorted(),
            // Checkpoints fall into few of the windows.
            own_bytes: windows[windows.len() / 2],
            all_bytes: windows.iter().sum::<f64>() / windows.len() as f64,
        })
    }
}

fn key() -> Key {
    Key::new("BENCH").expect("a key")
}

fn row(name: &str, number: usize) -> Result<Row> {
    // 100 bytes a row, key and separators included.
    Ok(Row::new(key(), [format!("{name}-{number:08}"), "x".repeat(76)])?)
}

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);
