//! The background pass over both devices: reads everything that is in use there, compares it with what is served, and
//! says what to do (`ccd_mirror::judge`).
//!
//! Reading has a thread and a handle of its own, so neither updates nor heartbeats wait for it, and a device that hangs
//! only hangs the pass. What is found while somebody writes may be half-written: nothing is repaired before a second
//! look, at a fresh snapshot, has found it again.

use crate::outlet::{self, Bell, Outlet};
use ccd_core::database::Database;
use ccd_core::ids::{DeviceRole, DeviceSet, NodeId, Replica};
use ccd_core::init::ClusterInit;
use ccd_core::replica::{ReplicaAnswer, ReplicaOp};
use ccd_core::time::Time;
use ccd_disk::{Access, ExpectedIdentity, RawDevice, Region};
use ccd_mirror::{DeviceFinding, Finding, Remedy, ScrubPlan, judge};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between finding something and looking again.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// What one pass came to.
#[derive(Debug)]
pub struct Outcome {
    pub plan: ScrubPlan,
    /// The snapshot it was compared with, which a repair writes.
    pub database: Database,
}

/// When the next pass is due, and what the last one found.
#[derive(Debug)]
pub struct Scrub {
    cluster: ccd_core::ids::ClusterId,
    me: NodeId,
    devices: Vec<(DeviceRole, PathBuf)>,
    every: Duration,
    next: Time,
    /// A snapshot was asked for, or a pass is under way.
    busy: bool,
    /// What the last pass found on each device and wants to see again.
    suspects: Vec<(DeviceRole, Remedy)>,
    outcomes: Outlet<Outcome>,
}

impl Scrub {
    /// A pass `every` so often; the first one after that time. The outcome of each pass comes through the channel.
    pub fn new(
        init: &ClusterInit,
        me: NodeId,
        every: Duration,
        now: Time,
        bell: &Bell,
    ) -> (Self, mpsc::Receiver<Outcome>) {
        // One pass at a time, so there is always room for its outcome.
        let (outcomes, inlet) = outlet::channel(1, bell);
        let devices = init
            .devices()
            .iter()
            .map(|device| (device.role, PathBuf::from(&device.path)));
        let scrub = Self {
            cluster: init.id(),
            me,
            devices: devices.collect(),
            every,
            next: now + every,
            busy: false,
            suspects: Vec::new(),
            outcomes,
        };
        (scrub, inlet)
    }

    /// When [`begin`](Self::begin) should be asked.
    pub fn next_deadline(&self) -> Time {
        if self.busy || self.devices.is_empty() {
            Time::NEVER
        } else {
            self.next
        }
    }

    /// A snapshot is being asked for.
    pub fn asked(&mut self) {
        self.busy = true;
    }

    /// No snapshot, so no pass now.
    pub fn put_off(&mut self, now: Time) {
        self.busy = false;
        self.next = now + self.every;
    }

    /// Compares the devices with this snapshot, on a thread of its own. `in_sync`: those that hold every update.
    pub fn begin(&mut self, now: Time, database: Database, in_sync: DeviceSet) {
        let (cluster, node) = (self.cluster, self.me);
        let devices = self.devices.clone();
        let outcomes = self.outcomes.clone();
        let pass = move || {
            let examine = |(role, path): (DeviceRole, PathBuf)| DeviceFinding {
                role,
                in_sync: in_sync.contains(role),
                finding: examine(
                    &path,
                    ExpectedIdentity {
                        cluster,
                        replica: Replica::Device(role),
                        node,
                    },
                ),
            };
            let findings: Vec<DeviceFinding> = devices.into_iter().map(examine).collect();
            let plan = judge(database.position(), database.content_digest(), &findings);
            // The daemon may be gone.
            let _ = outcomes.blocking_send(Outcome { plan, database });
        };
        if let Err(error) = std::thread::Builder::new().name("ccd-scrub".into()).spawn(pass) {
            tracing::warn!(%error, "no thread for the scrub");
            self.put_off(now);
        }
    }

    /// Takes the outcome of a pass; returns what has been seen twice and is to be done.
    pub fn end(&mut self, now: Time, outcome: &Outcome) -> Vec<(DeviceRole, Remedy)> {
        self.busy = false;
        let found = outcome
            .plan
            .remedies
            .iter()
            .filter(|(_, remedy)| *remedy != Remedy::Nothing);
        let (again, new): (Vec<_>, Vec<_>) = found.cloned().partition(|(role, remedy)| {
            self.suspects
                .iter()
                .any(|(before, was)| before == role && same(was, remedy))
        });
        self.next = now + if new.is_empty() { self.every } else { SECOND_LOOK };
        self.suspects = new;
        again
    }
}

/// The same kind of trouble; positions in the text may have moved on.
fn same(one: &Remedy, other: &Remedy) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

fn examine(path: &Path, identity: ExpectedIdentity) -> Finding {
    read(path, identity).unwrap_or_else(|error| Finding::Unreadable(error.to_string()))
}

fn read(path: &Path, identity: ExpectedIdentity) -> anyhow::Result<Finding> {
    let device = RawDevice::open(path, Access::ReadOnly)?;
    let mut region = Region::open(Box::new(device), identity)?;
    let ReplicaAnswer::Loaded(loaded) = region.execute(ReplicaOp::Load)? else {
        anyhow::bail!("loading a region answered something else");
    };
    let mut database = loaded.checkpoint;
    for record in &loaded.records {
        database = database.apply(record)?;
    }
    Ok(Finding::Read {
        position: database.position(),
        digest: database.content_digest(),
        damage: loaded.damage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(remedy: Remedy) -> Outcome {
        Outcome {
            plan: ScrubPlan {
                remedies: vec![(DeviceRole::Primary, remedy)],
            },
            database: Database::default(),
        }
    }

    fn scrub() -> Scrub {
        let text = "CLUSTER:c:000102030405060708090a0b0c0d0e0f\nNODE:0:a\nADDRESS:a:127.0.0.1:1\n";
        let init = ClusterInit::parse(text).unwrap();
        Scrub::new(
            &init,
            NodeId::new(0).unwrap(),
            Duration::from_secs(3600),
            Time::ZERO,
            &Bell::default(),
        )
        .0
    }

    #[test]
    fn nothing_is_repaired_before_it_was_seen_twice() {
        let mut scrub = scrub();
        let rewrite = |text: &str| outcome(Remedy::Rewrite(text.to_owned()));
        let at = |seconds: u64| Time::from_millis(seconds * 1000);
        assert_eq!(scrub.end(at(0), &outcome(Remedy::Nothing)), []);
        assert_eq!(scrub.next, at(3600));
        assert_eq!(scrub.end(at(3600), &rewrite("at 5")), []);
        assert_eq!(scrub.next, at(3602));
        assert_eq!(scrub.end(at(3602), &rewrite("at 6")).len(), 1);
        assert_eq!(scrub.next, at(7202));
        // What was gone at the second look was half-written.
        assert_eq!(scrub.end(at(7202), &rewrite("at 7")), []);
        assert_eq!(scrub.end(at(7204), &outcome(Remedy::Nothing)), []);
        assert_eq!(scrub.end(at(7206), &rewrite("at 8")), []);
    }
}
