//! Many seeds on all cores. A seed that fails is run once more with its event log on, which is written to a file, and
//! is reported with the command that replays it.

use super::log::Log;
use super::plan::Plan;
use super::run::{Counts, Outcome, run_seed};
use super::world::Sabotage;
use ccd_core::init::Fencing;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A seed that failed.
#[derive(Debug)]
pub struct Failure {
    pub outcome: Outcome,
    /// Where its event log is; `None` if it could not be written.
    pub log: Option<PathBuf>,
}

/// What many seeds gave.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: Counts,
    /// In the order of their seeds.
    pub failures: Vec<Failure>,
}

/// Runs seeds on as many threads as there are cores, each with its usual fencing or all with the one named; stops early after so many failures.
pub fn run(
    seeds: Range<u64>,
    fencing: Option<Fencing>,
    failures_max: usize,
    sabotage: Option<Sabotage>,
) -> Report {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let outcome = run_seed(
                        seed,
                        fencing.unwrap_or_else(|| Plan::usual_fencing(seed)),
                        false,
                        sabotage,
                    );
                    let mut report = report.lock().expect("no thread panics while it counts");
                    report.counts.add(outcome.counts);
                    if outcome.unsound.is_some() {
                        report.failures.push(Failure { outcome, log: None });
                        if report.failures.len() >= failures_max {
                            next.store(seeds.end, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().expect("no thread panics while it counts");
    report.failures.sort_by_key(|failure| failure.outcome.seed);
    report
}

/// Runs a failed seed again with its log on, writes the log, and says how to see it again.
pub fn describe(failure: &mut Failure, sabotage: Option<Sabotage>) -> String {
    let seed = failure.outcome.seed;
    let fencing = failure.outcome.fencing;
    let again = run_seed(seed, fencing, true, sabotage);
    failure.log = write_log(&format!("seed-{seed}"), &again.log).ok();
    let unsound = failure
        .outcome
        .unsound
        .as_ref()
        .map_or_else(String::new, ToString::to_string);
    let log = failure
        .log
        .as_ref()
        .map_or("not written".into(), |path| path.display().to_string());
    format!(
        "seed {seed}: {unsound}\n  event log: {log}\n  replay: cargo run --release -p ccd-tests --bin simulate -- --seed {seed} \
         --fencing {fencing} --verbose"
    )
}

/// Writes an event log to `target/sim/NAME.log`.
pub fn write_log(name: &str, log: &Log) -> std::io::Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let folder = target.join("sim");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.log"));
    std::fs::write(&path, log.lines())?;
    Ok(path)
}
