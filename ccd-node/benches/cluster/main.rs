//! `cargo bench -p ccd-node`: a real cluster against bare programs that do only the necessary system calls, in one run.
//!
//! ```text
//! floors.rs    the bare programs
//! rig.rs       two daemons on files
//! samples.rs   percentiles
//! ```
//!
//! Only the ratios carry over from one machine to another. Nothing here fails because it is slow.

mod floors;
mod rig;
mod samples;

use anyhow::{Context, Result};
use ccd_client::{Client, Transaction};
use ccd_core::database::{Key, Op, Row};
use rig::{ALPHA, BETA, Rig};
use samples::Samples;
use std::time::Duration;

/// Updates in each measurement.
const UPDATES: u32 = 2_000;
/// Rows of the large database, and in one transaction while it is filled.
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
    let alpha = rig.client(ALPHA)?;
    format(&alpha)?;

    let floor = floors::paired(folder.path(), UPDATES)?;
    let paired = updates(&alpha, "paired")?;
    ratio("paired update, one client on the master", &paired, &floor, 1.5);

    let small = paired.p50;
    fill(&alpha)?;
    let large = updates(&alpha, "large")?;
    println!(
        "update at {ROWS} rows: {large}; {:.2} times that at 1,000 rows (goal 1.20)",
        large.p50.as_secs_f64() / small.as_secs_f64()
    );
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
    let solo = updates(&rig.client(BETA)?, "solo")?;
    let floor = floors::solo(folder.path(), UPDATES)?;
    ratio("solo update on two files", &solo, &floor, 1.5);

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

fn key() -> Key {
    Key::new("BENCH").expect("a key")
}

fn row(name: &str, number: usize) -> Result<Row> {
    // 100 bytes a row, key and separators included.
    Ok(Row::new(key(), [format!("{name}-{number:08}"), "x".repeat(76)])?)
}

fn format(client: &Client) -> Result<()> {
    let columns = vec!["name".to_owned(), "value".to_owned()];
    client.update(Transaction::of(vec![Op::Format { key: key(), columns }]))?;
    Ok(())
}

fn fill(client: &Client) -> Result<()> {
    for start in (0..ROWS).step_by(ROWS_PER_TRANSACTION) {
        let rows = (start..start + ROWS_PER_TRANSACTION).map(|number| row("fill", number).map(Op::Add));
        client
            .update(Transaction::of(rows.collect::<Result<_>>()?))
            .context("filling the database")?;
    }
    Ok(())
}

fn updates(client: &Client, name: &str) -> Result<Samples> {
    let mut samples = Samples::default();
    for number in 0..UPDATES as usize {
        let transaction = Transaction::of(vec![Op::Add(row(name, number)?)]);
        samples.time(|| client.update(transaction))?;
    }
    Ok(samples.sorted())
}

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);
