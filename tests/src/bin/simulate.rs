//! Runs simulated histories: one seed again, or many on all cores.
//!
//! Exit codes: 0 all sound · 3 something wrong was stored or answered · 4 the cluster did not serve after the
//! faults had ended · 5 the code under test panicked · 2 usage · 1 a file could not be read or written.

use anyhow::Context;
use ccd_core::init::Fencing;
use ccd_tests::sim::Kind;
use ccd_tests::sim::campaign::{self, Campaign, Progress};
use ccd_tests::sim::plan::{Family, Plan, Seed};
use ccd_tests::sim::run::run_seed;
use clap::Parser;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often a long run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Simulates histories of a cluster under faults and checks them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this seed alone and write its event log to target/sim.
    #[arg(long, conflicts_with_all = ["from", "count", "resume"])]
    seed: Option<u64>,
    /// Run with this kind of fencing: scsi or lease. Without it, odd seeds have reservations and even ones have not.
    #[arg(long, value_parser = |name: &str| Fencing::named(name).ok_or("it is scsi or lease"))]
    fencing: Option<Fencing>,
    /// Draw clusters of this kind: pairs (mostly two nodes with two devices), groups (one to seven nodes), replicas (that are set back
    /// to an earlier moment, or made anew), clones (a copy of a disk at one server), moves (copies of servers have their network) or edits (an option is edited on one server). Without it, of four seeds in a row two are pairs and two are groups.
    #[arg(long, value_parser = |name: &str| Family::named(name).ok_or("it is pairs, groups, replicas, clones, moves or edits"))]
    family: Option<Family>,
    /// With --seed: print the event log too.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// First seed of many.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 10)]
    failures_max: usize,
    /// Go on from the seed that is written in this file, keep it up to date, and add failures to FILE.failures: for runs
    /// of hours, which may be stopped at any time and started again.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(number) => {
            let usual = Seed::usual(number);
            let seed = Seed {
                number,
                family: arguments.family.unwrap_or(usual.family),
                fencing: arguments.fencing.unwrap_or(usual.fencing),
            };
            Ok(one(seed, arguments.verbose))
        }
        None => many(&arguments),
    }
}

fn one(seed: Seed, verbose: bool) -> ExitCode {
    println!("seed {seed}");
    let outcome = run_seed(seed, true, None);
    if verbose {
        print!("{}", outcome.log.lines());
    }
    println!("{:?}", Plan::draw(seed).0.shape);
    match campaign::write_log(seed, &outcome.log) {
        Ok(path) => println!("event log: {}", path.display()),
        Err(error) => eprintln!("cannot write the event log: {error}; see it with --verbose"),
    }
    println!("hash {:016x}, {:?}", outcome.hash, outcome.counts);
    match outcome.unsound {
        None => {
            println!("sound");
            ExitCode::SUCCESS
        }
        Some(unsound) => {
            println!("{unsound}");
            exit_code(unsound.kind)
        }
    }
}

fn many(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let end = arguments.from.saturating_add(arguments.count);
    let from = match &arguments.resume {
        Some(path) => resumed(path)?.unwrap_or(arguments.from).max(arguments.from),
        None => arguments.from,
    };
    println!("seeds {from}..{end}");
    let campaign = Campaign {
        family: arguments.family,
        fencing: arguments.fencing,
        failures_max: arguments.failures_max,
        ..Campaign::new(from..end)
    };
    let mut told = started;
    let mut trouble = None;
    let mut report = campaign::run(&campaign, |progress| {
        let last = progress.done_below >= end;
        let now = Instant::now();
        let due = now.duration_since(told) >= PROGRESS_EVERY || last;
        if due {
            told = now;
            eprintln!("{}", line(progress, from, end, started.elapsed()));
        }
        if let Some(path) = &arguments.resume
            && trouble.is_none()
        {
            trouble = keep(path, progress, due).err();
        }
    });
    if let Some(error) = trouble {
        return Err(error);
    }
    for failure in &mut report.failures {
        println!("{}", campaign::describe(failure, None));
    }
    println!("{:?} in {:.1} s", report.counts, started.elapsed().as_secs_f64());
    let kinds = report
        .failures
        .iter()
        .filter_map(|failure| failure.outcome.unsound.as_ref());
    Ok(match kinds.map(|unsound| unsound.kind).min() {
        None => ExitCode::SUCCESS,
        Some(kind) => exit_code(kind),
    })
}

/// `12000 of 1000000 histories, 41.7/s, 6 h 35 min left; 0 failed; all below seed 12000 done`
fn line(progress: &Progress<'_>, from: u64, end: u64, spent: Duration) -> String {
    let done = progress.counts.histories;
    let rate = done as f64 / spent.as_secs_f64().max(0.001);
    let left = Duration::from_secs_f64((end - from).saturating_sub(done) as f64 / rate.max(0.001));
    let minutes = left.as_secs().div_ceil(60);
    format!(
        "{done} of {} histories, {rate:.1}/s, {} h {} min left; {} failed; all below seed {} done",
        end - from,
        minutes / 60,
        minutes % 60,
        progress.failures,
        progress.done_below
    )
}

/// The seed that an earlier run was at.
fn resumed(path: &Path) -> anyhow::Result<Option<u64>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let number = text
                .trim()
                .parse()
                .with_context(|| format!("{} holds {text:?}, which is no seed: remove it", path.display()))?;
            Ok(Some(number))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes down where to go on, and what failed.
fn keep(path: &Path, progress: &Progress<'_>, due: bool) -> anyhow::Result<()> {
    if due {
        // Replaced whole, so that a run that is stopped while it writes leaves the old one.
        let new = path.with_extension("new");
        std::fs::write(&new, format!("{}\n", progress.done_below))
            .and_then(|()| std::fs::rename(&new, path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(outcome) = progress.failed {
        let text = campaign::summary(outcome);
        eprintln!("{text}");
        let failures = path.with_extension("failures");
        let mut file = OpenOptions::new().create(true).append(true).open(&failures);
        (file
            .as_mut()
            .map_err(|error| std::io::Error::other(error.to_string())))
        .and_then(|file| writeln!(file, "{text}"))
        .with_context(|| format!("cannot write {}", failures.display()))?;
    }
    Ok(())
}

fn exit_code(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Correctness => 3,
        Kind::Liveness => 4,
        Kind::Crash => 5,
    })
}
