//! Three and five nodes without devices: updates, joining, and going on when one dies.

use super::PATIENCE;
use super::floors;
use super::load::{Load, ROWS, ROWS_SMALL, UPDATES_PER_TURN, in_turns, ratio};
use super::placement;
use super::rig::{ALPHA, BETA, GAMMA, Rig, Shape};
use super::samples::Samples;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// So often a join is measured.
const JOINS: usize = 5;

pub fn run() -> Result<()> {
    three()?;
    five()
}

fn three() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(
        folder.path(),
        Shape {
            nodes: 3,
            devices: false,
        },
    )?;
    rig.start_all()?;
    let mut load = Load::new(rig.client(ALPHA)?)?;
    load.fill(ROWS_SMALL)?;
    let mut floor = floors::Paired::start(folder.path(), 2)?;
    let (updates, bare) = in_turns(|samples| floor.measure(UPDATES_PER_TURN, samples), &mut load)?;
    drop(floor);
    ratio(
        "update of three nodes, one client on the master",
        &updates,
        &bare,
        1.6,
    );

    load.fill(ROWS)?;
    let image_bytes = load
        .client
        .snapshot(ccd_client::Freshness::Strict)?
        .to_image()
        .len();
    let mut floor = floors::Copy::start(folder.path())?;
    let (mut whole, mut nothing, mut copied) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..JOINS {
        copied.time(|| floor.copy(image_bytes))?;
        leave(&mut rig, &mut load)?;
        nothing.time(|| join(&mut rig))?;
        leave(&mut rig, &mut load)?;
        rig.forget(GAMMA)?;
        whole.time(|| join(&mut rig))?;
    }
    let (whole, nothing, copied) = (whole.sorted(), nothing.sorted(), copied.sorted());
    let image = whole.p50.saturating_sub(nothing.p50);
    println!(
        "a node that starts with nothing joins {ROWS} rows ({} KiB) in {} ms, one that missed an update in {} ms; the \
         difference {} ms, copying the bytes over a socket and to a file {} ms; ratio {:.2} (goal 2.00)",
        image_bytes >> 10,
        whole.p50.as_millis(),
        nothing.p50.as_millis(),
        image.as_millis(),
        copied.p50.as_millis(),
        image.as_secs_f64() / copied.p50.as_secs_f64()
    );
    Ok(())
}

/// Gracefully: a node that is killed again and again is let in with pauses that grow.
fn leave(rig: &mut Rig, load: &mut Load) -> Result<()> {
    rig.client(GAMMA)?.leave()?;
    rig.kill(GAMMA)?;
    load.add(1, &mut Samples::default())
}

/// From the start of its process until it answers.
fn join(rig: &mut Rig) -> Result<()> {
    rig.restart(GAMMA)?;
    Ok(())
}

/// The cluster goes on without the node that was killed.
fn wait_for_update(load: &mut Load) -> Result<Duration> {
    let started = Instant::now();
    loop {
        match load.add(1, &mut Samples::default()) {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) => ensure!(started.elapsed() < PATIENCE, "no update was acked: {error}"),
        }
    }
}

fn five() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(
        folder.path(),
        Shape {
            nodes: 5,
            devices: false,
        },
    )?;
    rig.start_all()?;
    let mut load = Load::new(rig.client(BETA)?)?;
    placement::join_node(BETA)?;
    load.fill(ROWS_SMALL)?;
    for (what, node) in [("a member", 4), ("the master", ALPHA)] {
        rig.kill(node)?;
        let took = wait_for_update(&mut load)?;
        println!(
            "first acked update of five nodes after kill -9 of {what}: {} ms (goal 1,300 with a lease of 1,000)",
            took.as_millis()
        );
        rig.start(node)?;
        rig.wait_until_redundant()?;
    }
    Ok(())
}
