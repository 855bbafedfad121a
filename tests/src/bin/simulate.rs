//! Runs simulated histories: one seed again, or many on all cores.
//!
//! Exit codes: 0 all sound · 3 something wrong was stored or answered · 4 the cluster did not serve after the
//! faults had ended · 5 the code under test panicked · 2 usage.

use ccd_core::init::Fencing;
use ccd_tests::sim::Kind;
use ccd_tests::sim::campaign;
use ccd_tests::sim::plan::Plan;
use ccd_tests::sim::run::run_seed;
use clap::Parser;
use std::process::ExitCode;
use std::time::Instant;

/// Simulates histories of a cluster under faults and checks them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this seed alone and write its event log to target/sim/seed-N.log.
    #[arg(long, conflicts_with_all = ["from", "count"])]
    seed: Option<u64>,
    /// Run with this kind of fencing: scsi or lease. Without it, odd seeds have reservations and even ones have not.
    #[arg(long, value_parser = |name: &str| Fencing::named(name).ok_or("it is scsi or lease"))]
    fencing: Option<Fencing>,
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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => {
            let fencing = arguments.fencing.unwrap_or_else(|| Plan::usual_fencing(seed));
            one(seed, fencing, arguments.verbose)
        }
        None => many(&arguments),
    }
}

fn one(seed: u64, fencing: Fencing, verbose: bool) -> ExitCode {
    println!("seed {seed}");
    println!("fencing {fencing}");
    let outcome = run_seed(seed, fencing, true, None);
    if verbose {
        print!("{}", outcome.log.lines());
    }
    match campaign::write_log(&format!("seed-{seed}"), &outcome.log) {
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

fn many(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let seeds = arguments.from..arguments.from.saturating_add(arguments.count);
    println!("seeds {seeds:?}");
    let mut report = campaign::run(seeds, arguments.fencing, arguments.failures_max, None);
    for failure in &mut report.failures {
        println!("{}", campaign::describe(failure, None));
    }
    println!("{:?} in {:.1} s", report.counts, started.elapsed().as_secs_f64());
    let kinds = report
        .failures
        .iter()
        .filter_map(|failure| failure.outcome.unsound.as_ref());
    match kinds.map(|unsound| unsound.kind).min() {
        None => ExitCode::SUCCESS,
        Some(kind) => exit_code(kind),
    }
}

fn exit_code(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Correctness => 3,
        Kind::Liveness => 4,
        Kind::Crash => 5,
    })
}
