//! The way of a step with a reservation: asked for, landed on the device, answered; or late, or with an outcome nobody knows.

use super::happening::Happening;
use super::world::World;
use ccd_core::ids::{DeviceRole, Replica};
use ccd_core::protocol::{Event, Ticket};
use ccd_core::replica::{ReplicaError, ReplicaErrorKind};
use ccd_core::reservation::{FenceOp, Registrations, ReservationKey};
use core::time::Duration;

const LATENCY_MIN: Duration = Duration::from_micros(20);

impl World {
    /// What is registered on a device, and who holds its reservation.
    pub fn registrations(&self, device: DeviceRole) -> Registrations {
        let initiator = self
            .media
            .initiator(0, device)
            .expect("the cluster has this device");
        initiator.execute(FenceOp::Look)
    }

    /// Somebody who is not of this cluster registers, and holds the reservation if nobody else does.
    pub fn register_stranger(&mut self, device: DeviceRole, key: ReservationKey) {
        if let Some(initiator) = self.media.initiator(0, device) {
            initiator.target().register_stranger(key);
        }
    }

    /// The target of a device is reset without having stored registrations.
    pub fn forget_registrations(&mut self, device: DeviceRole) {
        self.log
            .line(self.now, format_args!("the {device} forgets its reservation"));
        if let Some(initiator) = self.media.initiator(0, device) {
            initiator.target().forget();
        }
    }

    /// A node's session with a device is made anew.
    pub fn reconnect(&mut self, index: usize, device: DeviceRole) {
        self.log.line(
            self.now,
            format_args!("n{index} has a new session with the {device}"),
        );
        self.media.reconnect(index, device);
    }

    pub(super) fn submit_fence(&mut self, index: usize, ticket: Ticket, device: DeviceRole, op: FenceOp) {
        let run = self.servers[index].run;
        let slot = super::server::slot(Replica::Device(device));
        let deadline = self.servers[index].clock.stretch(self.faults.disk_deadline);
        let latency = self.draw(LATENCY_MIN, self.faults.disk_delay_max);
        let stalled = self.media.stalled_until(index, slot, self.now);
        let lands = stalled.map_or(Duration::ZERO, |until| until.since(self.now)) + latency;
        let answers = lands < deadline;
        if !answers {
            let error = ReplicaError {
                kind: ReplicaErrorKind::TimedOut,
                text: format!("the reservation of the {device} did not answer in time"),
            };
            let result = Err(error);
            self.answer(index, deadline, Event::Fenced { ticket, result });
        }
        self.after(
            lands,
            Happening::Fence {
                server: index,
                run,
                ticket,
                device,
                op,
                answers,
            },
        );
    }

    pub(super) fn land_fence(
        &mut self,
        index: usize,
        run: u64,
        ticket: Ticket,
        device: DeviceRole,
        op: FenceOp,
        answers: bool,
    ) {
        // The command of a process that has died was sent, or was not.
        let is_gone = self.servers[index].run != run || self.servers[index].process.is_none();
        if is_gone && self.chance.chance(500) {
            return;
        }
        let slot = super::server::slot(Replica::Device(device));
        let rate = self.faults.fence_error_per_mille;
        let fails = self.faulty && self.chance.chance(rate);
        let swallowed = fails && self.chance.chance(500);
        let reaches = !self.media.is_lost(index, slot) && !swallowed;
        let failed = |text: &str| ReplicaError {
            kind: ReplicaErrorKind::Io,
            text: format!("the reservation of the {device}: {text}"),
        };
        let result = match self.media.initiator(index, device) {
            Some(initiator) if reaches => {
                let seen = initiator.execute(op);
                if fails {
                    Err(failed("the outcome is not known"))
                } else {
                    Ok(seen)
                }
            }
            _ => Err(failed("it cannot be reached")),
        };
        if self.log.is_recording() {
            self.log.line(
                self.now,
                format_args!("n{index} {op:?} on the {device}: {result:?}"),
            );
        }
        if answers && !is_gone {
            let back = self.draw(LATENCY_MIN, self.faults.disk_delay_max);
            self.answer(index, back, Event::Fenced { ticket, result });
        }
    }
}
