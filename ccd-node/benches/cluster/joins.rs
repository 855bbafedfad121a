//! A node joins a running cluster of three: one that starts with nothing, and for comparison one that missed an update, which reads
//! an image from its own disk, and one that missed an update of a cluster with few rows, which has no image at all to get or read.

use super::copies::Copy;
use super::load::{Load, ROWS};
use super::rig::{ALPHA, Back, GAMMA, Rig, Shape};
use super::samples::Samples;
use anyhow::Result;
use std::time::Duration;

/// A cluster in which an image is nothing.
const ROWS_FEW: usize = 10;

/// So often each is measured: the way of a node back in has waits that are chance.
const JOINS: usize = 11;

/// What a join may cost, in copies of its bytes: from when the daemon is up and looks for its cluster.
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
    let mut least = Series::default();
    for _ in 0..JOINS {
        leave(&mut rig, &mut load)?;
        least.add(&mut rig)?;
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
    let (mut empty, mut behind) = (Series::default(), Series::default());
    for _ in 0..JOINS {
        for (floor, samples) in floors.iter_mut().zip(&mut copied) {
            samples.time(|| floor.copy())?;
        }
        leave(&mut rig, &mut load)?;
        behind.add(&mut rig)?;
        leave(&mut rig, &mut load)?;
        rig.forget(GAMMA)?;
        empty.add(&mut rig)?;
    }
    let [empty, behind, least] = [empty, behind, least].map(Series::p50);
    println!(
        "a node that starts with nothing joins {ROWS} rows ({} KiB) in {}; one that missed an update {ROWS} rows in {}, {ROWS_FEW} \
         rows in {}",
        image_bytes >> 10,
        told(empty),
        told(behind),
        told(least),
    );
    let what = ["a plain socket", "a socket through the nodes' cipher"];
    for (floor, samples) in what.into_iter().zip(copied) {
        let copied = samples.sorted().p50;
        println!(
            "copying the bytes over {floor}, and durably to a file: {:.1} ms",
            ms(copied)
        );
        for (what, cost) in [
            ("join", empty.join),
            ("with the start of its process", empty.whole),
        ] {
            let ratio = cost.as_secs_f64() / copied.as_secs_f64();
            println!("  {what}: {:.1} ms; ratio {ratio:.2} (goal {GOAL:.2})", ms(cost));
        }
    }
    Ok(())
}

/// Several times the same.
#[derive(Default)]
struct Series {
    whole: Samples,
    join: Samples,
}

impl Series {
    fn add(&mut self, rig: &mut Rig) -> Result<()> {
        std::thread::sleep(PAUSE);
        let back = rig.restart(GAMMA)?;
        self.whole.add(back.whole);
        self.join.add(back.join);
        Ok(())
    }

    fn p50(self) -> Back {
        Back {
            whole: self.whole.sorted().p50,
            join: self.join.sorted().p50,
        }
    }
}

fn told(back: Back) -> String {
    format!(
        "{:.1} ms ({:.1} ms from the start of its process)",
        ms(back.join),
        ms(back.whole)
    )
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
