//! The reservations of the shared devices, as the daemon drives them: one thread a device, so that a target which hangs holds
//! up nothing else. What to do is the protocol's; how it is done `ccd-disk`'s.
//!
//! Empty in a cluster with lease fencing.

use crate::startup::StartupError;
use ccd_core::ids::DeviceRole;
use ccd_core::init::{ClusterInit, Fencing};
use ccd_core::protocol::{Event, Ticket};
use ccd_core::replica::{ReplicaError, ReplicaErrorKind};
use ccd_core::reservation::FenceOp;
use ccd_core::time::Time;
use ccd_disk::fencing::{DeviceIdentity, FenceError, identify};
use ccd_mirror::{FenceLane, Wake};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

/// A target that aborts what a victim has in flight may wait for it: so many times longer than for anything else.
const ABORT_PATIENCE: u32 = 4;

pub struct Fences {
    lanes: BTreeMap<DeviceRole, FenceLane>,
    deadline: Duration,
    /// Steps for devices without a lane, answered at once.
    refused: VecDeque<Ticket>,
}

impl Fences {
    /// Starts a thread for each device, if the cluster has reservations.
    pub fn start(init: &ClusterInit, deadline: Duration, wake: &Wake) -> std::io::Result<Self> {
        let mut lanes = BTreeMap::new();
        if init.options().fencing == Fencing::Scsi {
            for device in init.devices() {
                let lane = FenceLane::start(device.role, Path::new(&device.path), wake.clone())?;
                lanes.insert(device.role, lane);
            }
        }
        Ok(Self {
            lanes,
            deadline,
            refused: VecDeque::new(),
        })
    }

    pub fn submit(&mut self, now: Time, ticket: Ticket, device: DeviceRole, op: FenceOp) {
        let deadline = match op {
            FenceOp::PreemptAbort { .. } => self.deadline * ABORT_PATIENCE,
            _ => self.deadline,
        };
        match self.lanes.get_mut(&device) {
            Some(lane) => lane.submit(now, ticket, op, deadline),
            None => self.refused.push_back(ticket),
        }
    }

    /// What has been done since, one at a time.
    pub fn next_event(&mut self, now: Time) -> Option<Event> {
        if let Some(ticket) = self.refused.pop_front() {
            let result = Err(ReplicaError {
                kind: ReplicaErrorKind::NotSupported,
                text: String::from("this cluster has no reservations on this device"),
            });
            return Some(Event::Fenced { ticket, result });
        }
        let done = self
            .lanes
            .values_mut()
            .find_map(|lane| lane.next_completion(now))?;
        Some(Event::Fenced {
            ticket: done.ticket,
            result: done.result,
        })
    }

    pub fn next_deadline(&self) -> Time {
        (self.lanes.values())
            .map(FenceLane::next_deadline)
            .min()
            .unwrap_or(Time::NEVER)
    }
}

/// Refuses devices that reservations cannot protect, before anything is done with them. One that is away is no reason not
/// to start.
///
/// # Errors
/// With what is wrong, and with which device.
pub fn check(init: &ClusterInit) -> Result<(), StartupError> {
    if init.options().fencing != Fencing::Scsi {
        return Ok(());
    }
    let mut seen: Vec<(DeviceRole, DeviceIdentity)> = Vec::new();
    for device in init.devices() {
        match identify(Path::new(&device.path)) {
            Ok(identity) => {
                if let Some(why) = identity.obstacle {
                    let error = FenceError::NotSupported {
                        device: device.path.clone(),
                        why,
                    };
                    return Err(StartupError::configuration(format!(
                        "the {}: {error}",
                        device.role
                    )));
                }
                if let Some((other, _)) = seen.iter().find(|(_, other)| other.is_same_disk(&identity)) {
                    return Err(StartupError::configuration(format!(
                        "the {other} and the {} ({}) are the same disk, seen through two paths: a mirror needs two; \
                         correct the DEVICE rows of the init database",
                        device.role, device.path
                    )));
                }
                seen.push((device.role, identity));
            }
            Err(error) => {
                tracing::warn!(device = device.role.name(), %error, "its reservation cannot be looked at yet")
            }
        }
    }
    Ok(())
}
