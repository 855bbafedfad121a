//! Devices that come and go: each time that one drops out of the configuration, or is wanted for one and does not get ready in
//! time, it must work for longer before it is taken in again. Members that hear each other need no device, and each
//! attempt stops them for one configuration.
//!
//! Owns `returns`. Called by `learn.rs` and `conclude.rs`; the plan asks whether a device may return.

use crate::configuration::Configuration;
use crate::ids::{DeviceRole, DeviceSet, PerDevice, Replica};
use crate::protocol::Node;
use crate::time::Time;
use core::time::Duration;

/// For how many leases a device must have worked to be taken in, by how often it dropped out before.
const WORKING_LEASES: [u32; 3] = [2, 4, 8];
const WORKING_LEASES_MAX: u32 = 12;

/// A device that stayed in the configuration for so many leases has dropped out for another reason than before.
const FORGIVEN_AFTER_LEASES: u32 = 60;

/// How much longer a proposal waits for a device each time that it was too short, and how often.
const GRACE_DOUBLINGS_MAX: u32 = 2;

/// How each device did lately.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::protocol) struct Returns(PerDevice<Record>);

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    /// How often it dropped out, or did not get ready in time, one time soon after the other.
    dropped: u32,
    dropped_at: Option<Time>,
    taken_in_at: Option<Time>,
}

impl Record {
    fn drop_out(&mut self, now: Time, forgiven_after: Duration) {
        let stayed = (self.taken_in_at.take()).is_some_and(|since| now.since(since) >= forgiven_after);
        if stayed {
            self.dropped = 0;
        }
        self.dropped = self.dropped.saturating_add(1);
        self.dropped_at = Some(now);
    }

    /// For how many leases it must have worked.
    fn working_leases(&self) -> u32 {
        let times = usize::try_from(self.dropped.saturating_sub(1)).unwrap_or(usize::MAX);
        WORKING_LEASES.get(times).copied().unwrap_or(WORKING_LEASES_MAX)
    }
}

impl Node {
    /// A later configuration is about to take the place of the known one.
    pub(in crate::protocol) fn note_devices(&mut self, next: &Configuration) {
        let (now, forgiven_after) = (
            self.now,
            self.settings.lease.saturating_mul(FORGIVEN_AFTER_LEASES),
        );
        for role in DeviceRole::ALL {
            let record = self.returns.0.of_mut(role);
            match (self.known.devices.contains(role), next.devices.contains(role)) {
                (true, false) => record.drop_out(now, forgiven_after),
                (false, true) => record.taken_in_at = Some(now),
                _ => {}
            }
        }
    }

    /// These were wanted for the configuration that is decided now, and failed or did not get ready in time.
    pub(in crate::protocol) fn note_devices_missed(&mut self, missed: DeviceSet) {
        let (now, forgiven_after) = (
            self.now,
            self.settings.lease.saturating_mul(FORGIVEN_AFTER_LEASES),
        );
        for role in missed.iter() {
            self.returns.0.of_mut(role).drop_out(now, forgiven_after);
        }
    }

    /// It has worked for long enough since it last stopped doing so, or dropped out.
    pub(in crate::protocol) fn may_return(&self, role: DeviceRole) -> bool {
        let record = self.returns.0.of(role);
        let working_since = self.replica(Replica::Device(role)).since;
        let since = (record.dropped_at).map_or(working_since, |dropped_at| dropped_at.max(working_since));
        self.now.since(since) >= self.settings.lease.saturating_mul(record.working_leases())
    }

    /// How many times as long as usual a proposal waits for these devices.
    pub(in crate::protocol) fn grace_factor(&self, awaited: DeviceSet) -> u32 {
        let dropped = awaited.iter().map(|role| self.returns.0.of(role).dropped);
        1 << dropped.max().unwrap_or_default().min(GRACE_DOUBLINGS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_drops_out_again_and_again_must_work_for_longer_each_time() {
        let lease = Duration::from_secs(1);
        let at = |seconds: u64| Time::ZERO + lease * u32::try_from(seconds).unwrap();
        let mut record = Record::default();
        assert_eq!(record.working_leases(), 2);
        let mut leases = alloc::vec::Vec::new();
        for turn in 1..=6 {
            record.drop_out(at(turn * 20), lease * FORGIVEN_AFTER_LEASES);
            leases.push(record.working_leases());
            record.taken_in_at = Some(at(turn * 20 + 12));
        }
        assert_eq!(leases, [2, 4, 8, 12, 12, 12]);
        record.drop_out(at(1_000), lease * FORGIVEN_AFTER_LEASES);
        assert_eq!(
            record.working_leases(),
            2,
            "it stayed in for long, and that is forgotten"
        );
    }
}
