//! Three and five nodes without devices: updates, joining, and going on when one dies.

use super::PATIENCE;
use super::floors;
use super::joins;
use super::load::{Load, ROWS_SMALL, UPDATES_PER_TURN, in_turns, ratio};
use super::placement;
use super::rig::{ALPHA, BETA, Rig, Shape};
use super::samples::Samples;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

pub fn run() -> Result<()> {
    three()?;
    joins::run()?;
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
