//! How a replica behaved lately, and when it is tried again: a device that comes back and fails again is left alone for longer
//! each time, so that it does not reconfigure the cluster again and again.
//!
//! ```text
//! it failed          opened again after  500 ms, 1 s, 2 s, … at most 60 s, when it fails again soon after it worked
//!                    taken in after      2, 4, at most 8 leases in which it worked
//! it worked for long (60 leases)         the next failure counts as the first
//! this node serves nothing               opened again after 500 ms: it may be what is missing
//! it cannot be used as it is             opened again after 5 s at the least: an operator must act first
//! ```
//!
//! Pure; called by `replicas/mod.rs`.

use crate::replica::ReplicaErrorKind;
use crate::time::{Time, doubled};
use core::time::Duration;

/// How long after its first failure a replica is opened again.
const RE_OPEN_AFTER: Duration = Duration::from_millis(500);

/// The longest pause before a replica is opened again.
pub const RE_OPEN_AFTER_MAX: Duration = Duration::from_secs(60);

/// What is wrong with it does not pass by itself.
const RE_OPEN_PERMANENT_AFTER: Duration = Duration::from_secs(5);

/// A device that is to come back must have worked for this many leases.
const RETURN_LEASES: u32 = 2;

/// After so many failures in a row, so much longer is as long as it gets.
const RETURN_DOUBLINGS_MAX: u32 = 2;

/// A replica that has worked for so many leases has worked for long.
pub(super) const WORKED_LEASES: u32 = 60;

/// The failures of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol::replicas) struct Track {
    /// Failures in a row, each soon after it had worked; 0: none yet.
    failures: u32,
    /// Not opened before this by a node that serves, and by one that does not.
    open_at: Time,
    open_at_need: Time,
}

impl Track {
    /// Not tried yet.
    pub fn new(now: Time) -> Self {
        Self {
            failures: 0,
            open_at: now,
            open_at_need: now,
        }
    }

    /// It failed, after it had worked for so long; `None`: it did not open, or took no write when it was tried.
    pub fn on_failure(
        &mut self,
        now: Time,
        kind: ReplicaErrorKind,
        worked: Option<Duration>,
        lease: Duration,
    ) {
        let worked_for_long = worked.is_some_and(|worked| worked >= lease.saturating_mul(WORKED_LEASES));
        // It was opened ahead of time, by a node that needed it: the pause goes on, and no other begins.
        let is_early = now < self.open_at && !worked_for_long;
        // A refused write is the reservation's affair, not the device's trouble.
        let is_refused = kind == ReplicaErrorKind::Fenced;
        if worked_for_long {
            self.failures = 1;
        } else if worked.is_some() && !is_early && !is_refused {
            self.failures = self.failures.saturating_add(1);
        } else {
            self.failures = self.failures.max(1);
        }
        let doublings = self.failures.saturating_sub(1).min(31);
        let pause = RE_OPEN_AFTER
            .saturating_mul(1 << doublings)
            .min(RE_OPEN_AFTER_MAX);
        let least = if is_permanent(kind) {
            RE_OPEN_PERMANENT_AFTER
        } else {
            Duration::ZERO
        };
        if !is_early {
            self.open_at = now + pause.max(least);
        }
        self.open_at_need = now + RE_OPEN_AFTER.max(least);
    }

    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub fn is_flapping(&self) -> bool {
        self.failures > 1
    }

    /// Whether it is to be opened now, by a node that serves or one that does not.
    pub fn is_due(&self, now: Time, serves: bool) -> bool {
        now >= if serves {
            self.open_at
        } else {
            self.open_at.min(self.open_at_need)
        }
    }

    /// It is to be opened at once: something was done about it.
    pub fn open_now(&mut self) {
        (self.open_at, self.open_at_need) = (Time::ZERO, Time::ZERO);
    }

    /// How long it must have worked before a configuration takes it in.
    pub fn return_after(&self, lease: Duration) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(RETURN_DOUBLINGS_MAX);
        doubled(lease.saturating_mul(RETURN_LEASES), doublings)
    }
}

/// An operator must do something: trying again changes nothing.
fn is_permanent(kind: ReplicaErrorKind) -> bool {
    match kind {
        ReplicaErrorKind::Foreign | ReplicaErrorKind::Full | ReplicaErrorKind::NotSupported => true,
        ReplicaErrorKind::Io
        | ReplicaErrorKind::TimedOut
        | ReplicaErrorKind::Poisoned
        | ReplicaErrorKind::Damaged
        | ReplicaErrorKind::Fenced => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const LEASE: Duration = Duration::from_secs(1);

    /// Pauses of a node that serves, after failures that each follow so many milliseconds of work; `None`: it did not open.
    fn pauses(kind: ReplicaErrorKind, worked: &[Option<u64>]) -> Vec<u64> {
        let mut now = Time::from_nanos(1_000_000_000);
        let mut track = Track::new(now);
        (worked.iter())
            .map(|worked| {
                let worked = worked.map(Duration::from_millis);
                now = now + worked.unwrap_or_default();
                track.on_failure(now, kind, worked, LEASE);
                let pause = track.open_at.since(now);
                now = now + pause;
                assert!(track.is_due(now, true));
                pause.as_millis() as u64
            })
            .collect()
    }

    #[test]
    fn a_replica_that_fails_again_and_again_is_left_alone_for_longer_each_time() {
        use ReplicaErrorKind::{Fenced, Foreign, Io};
        let second = Some(1_000);
        #[rustfmt::skip]
        let table = [
            ("it fails once after long work", Io,      &[Some(600_000)][..],                     &[500][..]),
            ("it comes back and fails",       Io,      &[second; 9],                             &[500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]),
            ("long work forgives",            Io,      &[second, second, Some(60_000), second],  &[500, 1_000, 500, 1_000]),
            ("it is away",                    Io,      &[second, None, None, None],              &[500, 500, 500, 500]),
            ("it is another's",               Foreign, &[None, None],                            &[5_000, 5_000]),
            ("this node is fenced there",     Fenced,  &[second, second, second],                &[500, 500, 500]),
        ];
        for (what, kind, worked, expected) in table {
            assert_eq!(pauses(kind, worked), expected, "{what}");
        }
    }

    #[test]
    fn a_node_that_serves_nothing_tries_a_replica_soon_and_its_pause_does_not_grow_by_that() {
        let mut now = Time::from_nanos(1_000_000_000);
        let mut track = Track::new(now);
        for _ in 0..5 {
            track.on_failure(now, ReplicaErrorKind::Io, Some(LEASE), LEASE);
            now = track.open_at;
        }
        track.on_failure(now, ReplicaErrorKind::Io, Some(LEASE), LEASE);
        let until = track.open_at;
        for _ in 0..5 {
            now = now + RE_OPEN_AFTER;
            assert!(track.is_due(now, false) && !track.is_due(now, true));
            track.on_failure(now, ReplicaErrorKind::Io, Some(Duration::ZERO), LEASE);
        }
        assert_eq!(track.open_at, until);
    }

    #[test]
    fn a_device_that_flaps_is_taken_in_after_it_has_worked_for_longer() {
        let mut track = Track::new(Time::ZERO);
        let mut leases = vec![track.return_after(LEASE).as_secs()];
        for number in 1..=4 {
            let now = Time::from_nanos(number * 100_000_000_000);
            track.on_failure(now, ReplicaErrorKind::Io, Some(LEASE), LEASE);
            leases.push(track.return_after(LEASE).as_secs());
        }
        assert_eq!(leases, [2, 2, 4, 8, 8]);
    }
}
