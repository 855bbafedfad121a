//! What a client asks for, and how it is told.

use super::rig::Rig;
use super::samples::Samples;
use anyhow::{Context, Result};
use ccd_client::{Client, Transaction};
use ccd_core::database::{Key, Op, Pattern, Row};

/// Updates in each measurement, in turns of so many with as many of the floor's: what else the machine does hits both.
const TURNS: u32 = 20;
pub const UPDATES_PER_TURN: u32 = 200;
/// Updates whose bytes are counted, window by window: several whole images fall into all of them, also of a large database, and no
/// checkpoint into most.
const COUNTED_WINDOWS: u32 = 900;
const UPDATES_PER_WINDOW: u32 = 50;
/// Rows of the small and of the large database, and in one transaction while they are filled.
pub const ROWS_SMALL: usize = 1_000;
pub const ROWS: usize = 100_000;
const ROWS_PER_TRANSACTION: usize = 1_000;

pub fn ratio(what: &str, measured: &Samples, floor: &Samples, goal: f64) {
    println!(
        "{what}: {measured}; floor {floor}; ratio {:.2} (goal {goal:.2})",
        measured.p50.as_secs_f64() / floor.p50.as_secs_f64()
    );
}

/// How often the floor and what is measured take turns.
pub fn turns(usual: u32) -> Result<u32> {
    Ok(std::env::var("CCD_BENCH_TURNS").map_or(Ok(usual), |turns| turns.parse())?)
}

/// The updates, and the floor.
pub fn in_turns(
    mut floor: impl FnMut(&mut Samples) -> Result<()>,
    load: &mut Load,
) -> Result<(Samples, Samples)> {
    let (mut updates, mut bare) = (Samples::default(), Samples::default());
    for _ in 0..turns(TURNS)? {
        floor(&mut bare)?;
        load.add(UPDATES_PER_TURN, &mut updates)?;
    }
    Ok((updates.sorted(), bare.sorted()))
}

/// What a client asks for.
pub struct Load {
    pub client: Client,
    /// Of the last row that was added.
    number: usize,
    rows: usize,
}

/// Of many updates at one size of the database.
pub struct Replaced {
    pub samples: Samples,
    /// For each update, on all nodes together: what it writes itself.
    pub own_bytes: f64,
    /// And with the checkpoints that fell into the measurement.
    pub all_bytes: f64,
}

impl Load {
    pub fn new(client: Client) -> Result<Self> {
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
    pub fn add(&mut self, updates: u32, samples: &mut Samples) -> Result<()> {
        for _ in 0..updates {
            let transaction = Transaction::of(vec![Op::Add(self.next()?)]);
            samples.time(|| self.client.update(transaction))?;
            self.rows += 1;
        }
        Ok(())
    }

    /// Adds rows until there are so many.
    pub fn fill(&mut self, rows: usize) -> Result<()> {
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
    pub fn replace(&mut self, rig: &Rig) -> Result<Replaced> {
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

pub fn row(name: &str, number: usize) -> Result<Row> {
    // 100 bytes a row, key and separators included.
    Ok(Row::new(key(), [format!("{name}-{number:08}"), "x".repeat(76)])?)
}
