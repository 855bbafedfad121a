//! Questions: a query through the socket against a bare request and answer, and a history of a million updates.

use super::rig::{ALPHA, Rig, Shape};
use super::samples::Samples;
use super::{PATIENCE, floors};
use anyhow::Result;
use ccd_client::Transaction;
use ccd_client::wire::{self, Ask, FromDaemon, ToDaemon, Told};
use ccd_core::database::{Key, Op, Pattern, Row};
use std::fs;
use std::time::Instant;

/// A query against a bare request and answer of the same bytes.
pub fn query() -> Result<()> {
    const ROUNDS: u32 = 400;
    let turns = super::load::turns(10)?;
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
    for _ in 0..turns {
        floor.measure(ROUNDS, &mut bare)?;
        for _ in 0..ROUNDS {
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
