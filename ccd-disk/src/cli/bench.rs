//! `ccd-disk bench`: what a durable write costs here, and what a region adds to it.
//!
//! The floor is the bare work: one durable 4 KiB write on every device at once, and for the claim check one 4 KiB read of
//! every device at once. The region's own append and claim check are measured in the same run, so that the ratio means
//! something whatever the machine does beside.

use super::output::{Output, table};
use super::{Failure, Global, exit, open};
use crate::device::{Access, BLOCK_BYTES, Blocks, Buffer, RawDevice};
use crate::error::RegionError;
use crate::format::geometry::CONTROL_BLOCKS;
use crate::format::header::RegionId;
use crate::region::handle::Handle;
use crate::region::label::Label;
use crate::region::{ExpectedIdentity, MkfsOptions, Region, create};
use ccd_core::database::{Database, Record};
use ccd_core::ids::{ClusterId, DeviceRole, Epoch, NodeId, Replica};
use ccd_core::replica::{ReplicaAnswer, ReplicaOp};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

/// Measure durable writes, and what a region adds to them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk bench /srv/a/scratch /srv/b/scratch     makes two scratch files, measures, removes them
  ccd-disk bench --yes /dev/ccd/prod/primary       writes to a spare block of the region

What exists and is no region is never written to. The daemon of a region must be stopped.")]
pub struct BenchArgs {
    /// How often each thing is measured
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    count: u32,
    /// One or two: files to make for the time of the measurement, or regions
    #[arg(required = true, num_args = 1..=2)]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Measured {
    what: String,
    p50_us: f64,
    p99_us: f64,
    /// To the floor, by p50.
    ratio: Option<f64>,
}

/// The index of the spare control block that is written on a region that exists.
const SPARE_CONTROL_BLOCK: u64 = CONTROL_BLOCKS - 1;

pub fn run(global: &Global, args: &BenchArgs, output: &mut Output) -> Result<u8, Failure> {
    if args.paths.len() == 2 && args.paths[0] == args.paths[1] {
        return Err(Failure::new(exit::USAGE, "CCD-2100 the two paths are the same"));
    }
    let existing = args.paths.iter().filter(|path| path.exists()).count();
    let measured = if existing == args.paths.len() {
        measure_regions(global, args)?
    } else if existing == 0 {
        let scratch = Scratch::create(&args.paths)?;
        measure_scratch(&scratch, args.count)?
    } else {
        let text = "CCD-2101 one path exists and the other does not; give two regions, or two names for scratch files";
        return Err(Failure::new(exit::USAGE, text));
    };
    output.result(&measured, |to| {
        let mut table = table(&["what", "p50 us", "p99 us", "x floor"]);
        for row in &measured {
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            table.add_row(vec![
                row.what.clone(),
                format!("{:.0}", row.p50_us),
                format!("{:.0}", row.p99_us),
                ratio,
            ]);
        }
        writeln!(to, "{table}")
    })?;
    Ok(exit::DONE)
}

/// Files made for the measurement, removed whatever happens.
#[derive(Debug)]
struct Scratch {
    paths: Vec<PathBuf>,
}

impl Scratch {
    fn create(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut scratch = Self { paths: Vec::new() };
        for (path, role) in paths.iter().zip(DeviceRole::ALL) {
            let options = scratch_options(role);
            let device = RawDevice::create_file(path, options.len_bytes()?)
                .map_err(|source| RegionError::io("create", path.display().to_string(), source))?;
            scratch.paths.push(path.clone());
            create(Box::new(device), &options)?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for path in &self.paths {
            // It was made here; if it is gone already, that is as well.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn scratch_options(role: DeviceRole) -> MkfsOptions {
    let region = RegionId([role as u8 + 1; 16]);
    MkfsOptions {
        image_bytes_max: 1 << 20,
        ..MkfsOptions::device(ClusterId([0xBE; 16]), region, Replica::Device(role), 2)
    }
}

/// On regions in use: bare writes to a spare block only.
fn measure_regions(global: &Global, args: &BenchArgs) -> Result<Vec<Measured>, Failure> {
    let mut targets = Vec::new();
    for path in &args.paths {
        let mut handle = Handle::new(Box::new(open(path, Access::ReadOnly)?));
        let label = Label::read(&mut handle).map_err(|error| {
            let text = format!("{error}. Nothing was written: bench writes to new files and to regions only");
            Failure::new(exit::REFUSED, text)
        })?;
        let node = label.superblock.geometry.first_node;
        targets.push((
            path,
            label.superblock.geometry.control(node) + SPARE_CONTROL_BLOCK,
        ));
    }
    global.confirm("a spare block of each region is written many times")?;
    let mut devices = Vec::new();
    for (path, block) in targets {
        devices.push(Bare {
            device: open(path, Access::Exclusive)?,
            block,
            buffer: Buffer::zeroed(1),
        });
    }
    let (write, read) = measure_bare(devices, args.count)?;
    Ok(vec![
        row("durable 4 KiB write, all at once", &write, None),
        row("then 4 KiB read, all at once", &read, None),
    ])
}

/// On files made for it: bare writes, then a region on the same files.
fn measure_scratch(scratch: &Scratch, count: u32) -> Result<Vec<Measured>, Failure> {
    let mut rows = Vec::new();
    if let [first, _] = &scratch.paths[..] {
        let (write, _) = measure_bare(vec![bare(first)?], count)?;
        rows.push(row("durable 4 KiB write, first alone", &write, None));
    }
    let devices = scratch
        .paths
        .iter()
        .map(|path| bare(path))
        .collect::<Result<_, _>>()?;
    let (write, read) = measure_bare(devices, count)?;
    let floor: Vec<f64> = write
        .iter()
        .zip(&read)
        .map(|(write, read)| write + read)
        .collect();
    let floor_p50 = percentile(&floor, 50);
    rows.push(row("durable 4 KiB write, all at once", &write, None));
    rows.push(row("then 4 KiB read, all at once", &read, None));
    rows.push(row("both: the floor of a solo update", &floor, Some(floor_p50)));
    let mut regions = Vec::new();
    for (path, role) in scratch.paths.iter().zip(DeviceRole::ALL) {
        regions.push(Appender::open(path, role)?);
    }
    let region = measure_together(regions, count, Appender::append)?;
    rows.push(row(
        "region append and claim check, all at once",
        &region,
        Some(floor_p50),
    ));
    Ok(rows)
}

/// One device and the block that is written.
#[derive(Debug)]
struct Bare {
    device: RawDevice,
    block: u64,
    buffer: Buffer,
}

/// The spare block of a region, which nothing else ever writes.
fn bare(path: &Path) -> Result<Bare, Failure> {
    let mut handle = Handle::new(Box::new(open(path, Access::ReadOnly)?));
    let geometry = Label::read(&mut handle)?.superblock.geometry;
    Ok(Bare {
        device: open(path, Access::Exclusive)?,
        block: geometry.control(geometry.first_node) + SPARE_CONTROL_BLOCK,
        buffer: Buffer::zeroed(1),
    })
}

/// Microseconds of each write to all devices at once, and of each read after it.
fn measure_bare(devices: Vec<Bare>, count: u32) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    let transfer = |bare: &mut Bare, is_read: bool| {
        let offset = bare.block * BLOCK_BYTES as u64;
        let done = if is_read {
            bare.device.read_at(offset, &mut bare.buffer)
        } else {
            bare.device.write_at(offset, &bare.buffer)
        };
        done.map_err(|source| RegionError::io("write", bare.device.name(), source))
    };
    let devices = devices.into_iter().map(|device| (device, true)).collect();
    let both = measure_together(devices, count * 2, move |(bare, was_read): &mut (Bare, bool)| {
        *was_read = !*was_read;
        transfer(bare, *was_read)
    })?;
    let of = |rest: usize| both.iter().copied().skip(rest).step_by(2).collect();
    Ok((of(0), of(1)))
}

/// A region that is appended to.
#[derive(Debug)]
struct Appender {
    region: Region,
    database: Database,
}

impl Appender {
    fn open(path: &Path, role: DeviceRole) -> Result<Self, Failure> {
        let node = NodeId::new(0).expect("0 is a node number");
        let expected = ExpectedIdentity {
            cluster: ClusterId([0xBE; 16]),
            replica: Replica::Device(role),
            node,
        };
        let region = Region::open(Box::new(open(path, Access::Exclusive)?), expected)?;
        Ok(Self {
            region,
            database: Database::default(),
        })
    }

    fn append(&mut self) -> Result<(), RegionError> {
        let position = self.database.position();
        let record = Record::open(position, Epoch(position.stamp.epoch.0 + 1));
        let next = self.database.apply(&record);
        let op = ReplicaOp::Append {
            record: Arc::new(record),
            then_survey: true,
        };
        let failed = |error: ccd_core::replica::ReplicaError| {
            RegionError::io(
                "append to",
                String::from("the scratch region"),
                std::io::Error::other(error.text),
            )
        };
        let answer = self.region.execute(op).map_err(failed)?;
        self.database = next.map_err(|error| {
            RegionError::io(
                "append to",
                String::from("the scratch region"),
                std::io::Error::other(error.to_string()),
            )
        })?;
        if let ReplicaAnswer::Appended {
            journal_used_percent: 80..,
            ..
        } = answer
        {
            let database = self.database.clone();
            self.region
                .execute(ReplicaOp::Checkpoint { database })
                .map_err(failed)?;
        }
        Ok(())
    }
}

/// A thread with a target of its own: told when to act, and tells when it has.
#[derive(Debug)]
struct Helper {
    go: SyncSender<()>,
    finished: Receiver<Result<(), RegionError>>,
}

/// Does one thing on every target at once, the first in this thread and each other one in its own, so many times; returns
/// the microseconds until the last was done.
fn measure_together<T: Send>(
    mut targets: Vec<T>,
    count: u32,
    act: impl Fn(&mut T) -> Result<(), RegionError> + Sync,
) -> Result<Vec<f64>, Failure> {
    let mut first = targets.remove(0);
    let act = &act;
    std::thread::scope(|scope| {
        let helpers: Vec<Helper> = targets
            .into_iter()
            .map(|mut target| {
                let (go, gone) = sync_channel(1);
                let (done, finished) = sync_channel(1);
                scope.spawn(move || {
                    while gone.recv().is_ok() {
                        if done.send(act(&mut target)).is_err() {
                            break;
                        }
                    }
                });
                Helper { go, finished }
            })
            .collect();
        let mut times_us = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let start = Instant::now();
            for helper in &helpers {
                helper
                    .go
                    .send(())
                    .map_err(|_| Failure::new(exit::IO, "CCD-2102 a measuring thread ended"))?;
            }
            act(&mut first)?;
            for helper in &helpers {
                helper
                    .finished
                    .recv()
                    .map_err(|_| Failure::new(exit::IO, "CCD-2102 a measuring thread ended"))??;
            }
            times_us.push(start.elapsed().as_nanos() as f64 / 1000.0);
        }
        Ok(times_us)
    })
}

fn row(what: &str, times_us: &[f64], floor_p50: Option<f64>) -> Measured {
    let p50_us = percentile(times_us, 50);
    Measured {
        what: what.to_owned(),
        p50_us,
        p99_us: percentile(times_us, 99),
        ratio: floor_p50.map(|floor| p50_us / floor),
    }
}

fn percentile(times_us: &[f64], percent: usize) -> f64 {
    let mut sorted = times_us.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}
