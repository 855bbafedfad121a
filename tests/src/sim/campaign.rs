//! Many seeds on all cores. A seed that fails is run once more with its event log on, which is written to a file, and
//! is reported with the command that replays it.

use super::log::Log;
use super::plan::{Family, Seed};
use super::run::{Counts, Outcome, run_seed};
use super::world::Sabotage;
use ccd_core::init::Fencing;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

/// Which seeds, and how.
#[derive(Clone, Debug)]
pub struct Campaign {
    pub numbers: Range<u64>,
    /// Each seed has its usual family and fencing, or all have the one named.
    pub family: Option<Family>,
    pub fencing: Option<Fencing>,
    /// Stops after so many failures.
    pub failures_max: usize,
    pub sabotage: Option<Sabotage>,
}

impl Campaign {
    pub fn new(numbers: Range<u64>) -> Self {
        Self {
            numbers,
            family: None,
            fencing: None,
            failures_max: 10,
            sabotage: None,
        }
    }

    fn seed(&self, number: u64) -> Seed {
        let usual = Seed::usual(number);
        Seed {
            number,
            family: self.family.unwrap_or(usual.family),
            fencing: self.fencing.unwrap_or(usual.fencing),
        }
    }
}

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

/// How far a campaign is: handed to whoever watches it, after every history.
#[derive(Debug)]
pub struct Progress<'a> {
    pub counts: Counts,
    /// All seeds below this one are done.
    pub done_below: u64,
    pub failures: usize,
    /// This history has just failed.
    pub failed: Option<&'a Outcome>,
}

/// What the threads share.
struct Shared<W> {
    report: Report,
    next: u64,
    under_way: BTreeSet<u64>,
    watch: W,
}

/// Runs the campaign on as many threads as there are cores.
pub fn run(campaign: &Campaign, watch: impl FnMut(&Progress<'_>) + Send) -> Report {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = Mutex::new(Shared {
        report: Report::default(),
        next: campaign.numbers.start,
        under_way: BTreeSet::new(),
        watch,
    });
    let lock = || shared.lock().expect("no thread panics while it counts");
    let take = || {
        let mut shared = lock();
        let number = shared.next;
        let goes_on = number < campaign.numbers.end && shared.report.failures.len() < campaign.failures_max;
        goes_on.then(|| {
            shared.next += 1;
            shared.under_way.insert(number);
            number
        })
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(number) = take() {
                    let outcome = run_seed(campaign.seed(number), false, campaign.sabotage);
                    lock().count(number, outcome);
                }
            });
        }
    });
    let mut report = (shared.into_inner())
        .expect("no thread panics while it counts")
        .report;
    report.failures.sort_by_key(|failure| failure.outcome.seed.number);
    report
}

impl<W: FnMut(&Progress<'_>)> Shared<W> {
    fn count(&mut self, number: u64, outcome: Outcome) {
        self.under_way.remove(&number);
        self.report.counts.add(outcome.counts);
        let failed = outcome.unsound.is_some();
        (self.watch)(&Progress {
            counts: self.report.counts,
            done_below: self.under_way.first().copied().unwrap_or(self.next),
            failures: self.report.failures.len() + usize::from(failed),
            failed: failed.then_some(&outcome),
        });
        if failed {
            self.report.failures.push(Failure { outcome, log: None });
        }
    }
}

/// Runs a failed seed again with its log on, writes the log, and says how to see it again.
pub fn describe(failure: &mut Failure, sabotage: Option<Sabotage>) -> String {
    let seed = failure.outcome.seed;
    let again = run_seed(seed, true, sabotage);
    failure.log = write_log(seed, &again.log).ok();
    let log = failure
        .log
        .as_ref()
        .map_or("not written".into(), |path| path.display().to_string());
    format!("{}\n  event log: {log}", summary(&failure.outcome))
}

/// What failed, and how to see it again.
pub fn summary(outcome: &Outcome) -> String {
    let seed = outcome.seed;
    let unsound = outcome
        .unsound
        .as_ref()
        .map_or_else(String::new, ToString::to_string);
    format!(
        "seed {}: {unsound}\n  replay: cargo run --release -p ccd-tests --bin simulate -- --seed {seed} --verbose",
        seed.number
    )
}

/// Writes the event log of a seed to `target/sim/seed-N-FAMILY-FENCING.log`.
pub fn write_log(seed: Seed, log: &Log) -> std::io::Result<PathBuf> {
    let name = format!("seed-{}-{}-{}", seed.number, seed.family.name(), seed.fencing);
    write_named_log(&name, log)
}

/// Writes an event log to `target/sim/NAME.log`.
pub fn write_named_log(name: &str, log: &Log) -> std::io::Result<PathBuf> {
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
