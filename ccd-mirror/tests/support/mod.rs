//! What the owner of a mirror does to hear from it, for `mirror.rs` and `flight.rs`.

use ccd_core::replica::ReplicaErrorKind;
use ccd_core::time::Time;
use ccd_mirror::{Completion, Mirror};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// How long a thread may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The next completion that a thread brings about.
pub fn next(mirror: &mut Mirror, woken: &Receiver<()>, now_ms: u64) -> Completion {
    loop {
        if let Some(completion) = mirror.next_completion(Time::from_millis(now_ms)) {
            return completion;
        }
        woken.recv_timeout(PATIENCE).expect("a thread wakes the owner");
    }
}

/// Ticket and kind of every failure that is told now; nothing else may be.
pub fn failures(mirror: &mut Mirror, now_ms: u64) -> Vec<(u64, ReplicaErrorKind)> {
    std::iter::from_fn(|| mirror.next_completion(Time::from_millis(now_ms)))
        .map(|done| {
            let error = done.result.expect_err("only failures are due");
            (done.ticket.0, error.kind)
        })
        .collect()
}
