//! A drill: measures the devices, proves that they refuse a write without registration, and rehearses every single loss by the
//! vote rule. Disturbs nothing: what is written is a block that is always zero, and who gives up its registration for the proof is
//! a member that does not hold the reservation, in paired mode, where updates do not need the devices.
//!
//! Owns `drills`; the proof itself is a goal of `fencing.rs`.

use crate::client::{Answer, ClientToken};
use crate::configuration::RestoreFlag;
use crate::drill::{DrillReport, DrilledDevice, Enforcement, Latency, rehearse};
use crate::ids::{DeviceRole, NodeId, Replica};
use crate::protocol::Node;
use crate::protocol::message::Message;
use crate::protocol::replicas::Purpose;
use crate::replica::{ReplicaError, ReplicaOp};
use crate::time::Time;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// How often the scratch block of each device is written.
const WRITES: usize = 16;

/// Proofs that are still out so long before the client's time-out are given up.
const MARGIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(in crate::protocol) struct Drill {
    client: ClientToken,
    pub deadline: Time,
    serial: u64,
    writes: BTreeMap<DeviceRole, Vec<Duration>>,
    /// Devices whose scratch block is still being written.
    writing: Vec<DeviceRole>,
    proofs: BTreeMap<DeviceRole, Enforcement>,
}

impl Drill {
    pub fn client(&self) -> ClientToken {
        self.client
    }
}

impl Node {
    pub(in crate::protocol) fn begin_drill(&mut self, client: ClientToken, deadline: Time) {
        let serial = self.requests.next_serial();
        let mut drill = Drill {
            client,
            deadline: deadline - MARGIN.min(deadline.since(self.now)),
            serial,
            writes: BTreeMap::new(),
            writing: Vec::new(),
            proofs: BTreeMap::new(),
        };
        for role in self.device_roles() {
            if self.usable_devices().contains(role) && self.registered_on(role) {
                drill.writing.push(role);
                drill.writes.insert(role, Vec::new());
            }
        }
        let writing = drill.writing.clone();
        self.drills.push(drill);
        for role in self.device_roles() {
            if writing.contains(&role) {
                self.write_scratch(role, serial);
            } else {
                self.ask_for_proof(role, serial);
            }
        }
    }

    fn ask_for_proof(&mut self, role: DeviceRole, serial: u64) {
        match self.prover(role) {
            Ok(node) if node == self.me() => self.begin_proof(role, node, serial),
            Ok(node) => self.send(node, Message::DrillReq { serial, role }),
            Err(why) => self.on_proof(serial, role, Enforcement::NotShown { why }),
        }
    }

    fn write_scratch(&mut self, role: DeviceRole, serial: u64) {
        let begun = self.now;
        let purpose = Purpose::DrillWrite { serial, begun };
        self.ask(Replica::Device(role), ReplicaOp::WriteScratch, purpose);
    }

    pub(in crate::protocol) fn on_drill_write(
        &mut self,
        role: DeviceRole,
        serial: u64,
        begun: Time,
        error: Option<&ReplicaError>,
    ) {
        let took = self.now.since(begun);
        let Some(drill) = self.drills.iter_mut().find(|drill| drill.serial == serial) else {
            return;
        };
        let writes = drill.writes.entry(role).or_default();
        if error.is_none() {
            writes.push(took);
            if writes.len() < WRITES {
                self.write_scratch(role, serial);
                return;
            }
        }
        drill.writing.retain(|other| *other != role);
        // Not before: a proof of this node's would have its writes refused.
        self.ask_for_proof(role, serial);
    }

    /// Which member shows that a write without registration is refused on this device.
    fn prover(&self, role: DeviceRole) -> Result<NodeId, String> {
        let Some(fence) = self.fences.get(&role) else {
            return Err(String::from("lease fencing: nothing refuses a write"));
        };
        if self.solo() || !self.is_open() {
            return Err(String::from(
                "there is no other member to try it from while this node goes on",
            ));
        }
        let holder = fence.seen.as_ref().and_then(|seen| seen.holder);
        let holder = holder.and_then(|holder| holder.key.node(self.settings.cluster));
        let others = || self.other_members().iter().filter(|node| self.linked(*node));
        match holder {
            None => Err(String::from("nobody of this cluster holds the reservation")),
            Some(holder) => (others().find(|node| *node != holder))
                .or((holder != self.me()).then_some(self.me()))
                .ok_or_else(|| String::from("the other members cannot be reached")),
        }
    }

    /// Another member asks this one to show it.
    pub(in crate::protocol) fn on_drill_req(&mut self, from: NodeId, serial: u64, role: DeviceRole) {
        if self.is_open() && !self.solo() && self.known.members.contains(from) {
            self.begin_proof(role, from, serial);
        } else {
            let why = format!("node {} does not serve", self.me());
            self.end_proof(from, serial, role, Enforcement::NotShown { why });
        }
    }

    /// A proof has come to its end on this node.
    pub(in crate::protocol) fn end_proof(
        &mut self,
        requester: NodeId,
        serial: u64,
        role: DeviceRole,
        proof: Enforcement,
    ) {
        if requester == self.me() {
            self.on_proof(serial, role, proof);
        } else {
            self.send(requester, Message::DrillAck { serial, role, proof });
        }
    }

    pub(in crate::protocol) fn on_proof(&mut self, serial: u64, role: DeviceRole, proof: Enforcement) {
        if let Some(drill) = self.drills.iter_mut().find(|drill| drill.serial == serial) {
            drill.proofs.entry(role).or_insert(proof);
        }
    }

    pub(in crate::protocol) fn drive_drills(&mut self) {
        if self.drills.is_empty() {
            return;
        }
        let (now, devices) = (self.now, self.device_roles());
        for drill in core::mem::take(&mut self.drills) {
            let proven = devices.iter().all(|role| drill.proofs.contains_key(role));
            if proven && drill.writing.is_empty() || now >= drill.deadline {
                let report = self.drill_report(&drill);
                self.reply(drill.client, Ok(Answer::Drilled(report)));
            } else {
                self.drills.push(drill);
            }
        }
    }

    fn drill_report(&self, drill: &Drill) -> DrillReport {
        let devices = (self.device_roles().into_iter())
            .map(|role| DrilledDevice {
                role,
                usable: self.usable_devices().contains(role),
                reservation: self.fences.get(&role).and_then(|fence| fence.seen.clone()),
                proof: (drill.proofs.get(&role).cloned()).unwrap_or_else(|| Enforcement::NotShown {
                    why: String::from("it was not answered in time"),
                }),
                write: Latency::of(drill.writes.get(&role).cloned().unwrap_or_default()),
                heartbeat: Latency::of(self.replica(Replica::Device(role)).beats_took()),
            })
            .collect();
        let mut flagged = self.known.clone();
        if self.needs_all_nodes() {
            flagged.restore = RestoreFlag::NotAllActive;
        }
        DrillReport {
            devices,
            rehearsals: rehearse(
                &flagged,
                self.able_nodes(),
                |lost| self.survives_loss(lost),
                |node| self.voters_with(node),
            ),
        }
    }
}
