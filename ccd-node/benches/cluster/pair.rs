//! Two nodes and two devices: the main job.

use super::floors;
use super::load::{Load, ROWS, ROWS_SMALL, UPDATES_PER_TURN, in_turns, ratio};
use super::placement;
use super::rig::{self, ALPHA, BETA, Rig, Shape};
use anyhow::Result;

pub fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(folder.path(), Shape::PAIR)?;
    rig.start(ALPHA)?;
    rig.start(BETA)?;
    rig.wait_until_redundant()?;
    let mut load = Load::new(rig.client(ALPHA)?)?;
    load.fill(ROWS_SMALL)?;

    let small = load.replace(&rig)?;
    let mut floor = floors::Paired::start(folder.path(), 1)?;
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
    placement::join_node(BETA)?;
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
    let restarted = rig.restart(BETA)?.whole;
    println!(
        "restart of the lone survivor to serving at {ROWS} rows: {} ms (goal 1,000)",
        restarted.as_millis()
    );
    Ok(())
}
