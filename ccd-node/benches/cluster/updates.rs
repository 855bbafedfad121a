//! The updates of `pair.rs` and `many.rs` alone, at a small size: for whoever works on their path.
//!
//! `CCD_BENCH_UNDER` starts the daemons under a tool and `CCD_BENCH_TURNS` says how long to go on, so what one update costs
//! is the difference of two runs: see CONTRIBUTING.md.

use super::floors;
use super::load::{Load, ROWS_SMALL, UPDATES_PER_TURN, in_turns, ratio};
use super::placement;
use super::rig::{ALPHA, BETA, End, Rig, Shape};
use anyhow::Result;

pub fn run(wanted: impl Fn(&str) -> bool) -> Result<()> {
    if wanted("paired") {
        paired()?;
    }
    if wanted("solo") {
        solo()?;
    }
    if wanted("three") {
        three()?;
    }
    Ok(())
}

fn paired() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(folder.path(), Shape::PAIR)?;
    rig.start_all()?;
    let mut load = Load::new(rig.client(ALPHA)?)?;
    load.fill(ROWS_SMALL)?;
    let mut floor = floors::Paired::start(folder.path(), 1)?;
    let (updates, bare) = in_turns(|samples| floor.measure(UPDATES_PER_TURN, samples), &mut load)?;
    ratio("paired update, one client on the master", &updates, &bare, 1.5);
    rig.end_all()
}

fn solo() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut rig = Rig::new(folder.path(), Shape::PAIR)?;
    rig.start_all()?;
    let mut load = Load::new(rig.client(BETA)?)?;
    rig.handover(ALPHA, End::Leave)?;
    placement::join_node(BETA)?;
    load.fill(ROWS_SMALL)?;
    let mut floor = floors::Solo::start(folder.path())?;
    let (updates, bare) = in_turns(|samples| floor.measure(UPDATES_PER_TURN, samples), &mut load)?;
    ratio("solo update on two files", &updates, &bare, 1.5);
    rig.end_all()
}

fn three() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shape = Shape {
        nodes: 3,
        devices: false,
    };
    let mut rig = Rig::new(folder.path(), shape)?;
    rig.start_all()?;
    let mut load = Load::new(rig.client(ALPHA)?)?;
    load.fill(ROWS_SMALL)?;
    let mut floor = floors::Paired::start(folder.path(), 2)?;
    let (updates, bare) = in_turns(|samples| floor.measure(UPDATES_PER_TURN, samples), &mut load)?;
    ratio(
        "update of three nodes, one client on the master",
        &updates,
        &bare,
        1.6,
    );
    rig.end_all()
}
