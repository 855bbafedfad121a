//! Waiting: for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long anything may take that a test waits for. Far more than it takes on a machine that has nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something, and returns it and how long it took.
///
/// # Panics
/// With what was waited for, and what `condition` saw last, when [`PATIENCE`] is over.
pub fn until<T>(what: &str, condition: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    until_within(PATIENCE, PAUSE, what, condition)
}

/// Waits until `count` is higher by so many than when this was called.
///
/// # Panics
/// As [`until`].
pub fn until_more(what: &str, more: u64, count: impl Fn() -> u64) {
    let before = count();
    until(&format!("{more} more {what}"), || {
        let now = count();
        if now >= before + more {
            Ok(())
        } else {
            Err(format!("{now}, and {before} before"))
        }
    });
}

/// As [`until`], for things that take longer, and where looking costs more.
///
/// # Panics
/// When `patience` is over.
pub fn until_within<T>(
    patience: Duration,
    pause: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, String>,
) -> (T, Duration) {
    let started = Instant::now();
    loop {
        let seen = match condition() {
            Ok(found) => return (found, started.elapsed()),
            Err(seen) => seen,
        };
        assert!(
            started.elapsed() < patience,
            "waited {} s for {what}; last seen: {seen}",
            patience.as_secs()
        );
        std::thread::sleep(pause);
    }
}

/// Looks for `time` whether something happens that must not.
///
/// # Panics
/// With what `happened` saw.
pub fn never(what: &str, time: Duration, mut happened: impl FnMut() -> Option<String>) {
    let started = Instant::now();
    while started.elapsed() < time {
        if let Some(seen) = happened() {
            panic!("{what}, {} ms later: {seen}", started.elapsed().as_millis());
        }
        std::thread::sleep(PAUSE);
    }
}
