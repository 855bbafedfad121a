//! A node joins a running cluster of three: one that starts with nothing, and for comparison one that missed an update, which reads
//! an image from its own disk, and one that missed an update of a cluster with few rows, which has no image at all to get or read.

use super::copies::Copy;
use super::load::{Load, ROWS};
use super::rig::{ALPHA, GAMMA, Rig, Shape};
use super::samples::Samples;
use anyhow::Result;
use std::time::Duration;

/// A cluster in which an image is nothing.
const ROWS_FEW: usize = 10;

/// So often each is measured: the way of a node back in has waits that are chance.
const JOINS: usize = 11;

/// What the image may cost, in copies of its bytes.
const GOAL: f64 = 2.0;

/// Before each: longer than what one join leaves behind makes the next quicker or slower.
const PAUSE: Duration = Duration::from_millis(1_500);

pub fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let shape = Shape {
        nodes: 3,
        devices: false,
    };
    let mut rig = Rig::new(folder.path(), shape)?;
    rig.start_all()?;
    let mut load = Load::new(rig.client(ALPHA)?)?;
    load.fill(ROWS_FEW)?;
    let mut least = Samples::default();
    for _ in 0..JOINS {
        leave(&mut rig, &mut load)?;
        std::thread::sleep(PAUSE);
        least.add(rig.restart(GAMMA)?);
    }
    load.fill(ROWS)?;
    let image_bytes = load
        .client
        .snapshot(ccd_client::Freshness::Strict)?
        .to_image()
        .len();
    let mut floors = [
        Copy::plain(folder.path(), image_bytes)?,
        Copy::sealed(folder.path(), image_bytes)?,
    ];
    let mut copied = [Samples::default(), Samples::default()];
    let (mut empty, mut behind) = (Samples::default(), Samples::default());
    for _ in 0..JOINS {
        for (floor, samples) in floors.iter_mut().zip(&mut copied) {
            samples.time(|| floor.copy())?;
        }
        leave(&mut rig, &mut load)?;
        std::thread::sleep(PAUSE);
        behind.add(rig.restart(GAMMA)?);
        leave(&mut rig, &mut load)?;
        rig.forget(GAMMA)?;
        std::thread::sleep(PAUSE);
        empty.add(rig.restart(GAMMA)?);
    }
    let [empty, behind, least] = [empty, behind, least].map(|samples| samples.sorted().p50);
    println!(
        "from the start of its process to its first answer, a node that starts with nothing joins {ROWS} rows ({} KiB) in {:.1} ms; \
         one that missed an update {ROWS} rows in {:.1} ms, {ROWS_FEW} rows in {:.1} ms",
        image_bytes >> 10,
        ms(empty),
        ms(behind),
        ms(least)
    );
    let what = ["a plain socket", "a socket through the nodes' cipher"];
    let costs = [
        (
            "join less that of a node that missed an update",
            empty.saturating_sub(behind),
        ),
        ("join less that to few rows", empty.saturating_sub(least)),
        ("whole join", empty),
    ];
    for (floor, samples) in what.into_iter().zip(copied) {
        let copied = samples.sorted().p50;
        println!(
            "copying the bytes over {floor}, and durably to a file: {:.1} ms",
            ms(copied)
        );
        for (what, cost) in costs {
            let ratio = cost.as_secs_f64() / copied.as_secs_f64();
            println!("  {what}: {:.1} ms; ratio {ratio:.2} (goal {GOAL:.2})", ms(cost));
        }
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Gracefully: a node that is killed again and again is let in with pauses that grow.
fn leave(rig: &mut Rig, load: &mut Load) -> Result<()> {
    rig.client(GAMMA)?.leave()?;
    rig.kill(GAMMA)?;
    load.add(1, &mut Samples::default())
}
