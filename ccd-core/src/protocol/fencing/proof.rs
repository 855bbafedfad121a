//! Proving that a device refuses a write without registration, for a drill: a member that does not hold the reservation gives
//! its registration up, tries to write a block of zeros over zeros, and registers again under a new key.
//!
//! A goal of `fencing.rs` like others: a proposal takes it over at any step, and then registers by itself.

use super::step;
use super::{Fence, Goal, ProofStage};
use crate::drill::Enforcement;
use crate::ids::{DeviceRole, NodeId, Replica};
use crate::protocol::Node;
use crate::protocol::replicas::Purpose;
use crate::replica::{ReplicaError, ReplicaErrorKind, ReplicaOp};
use crate::reservation::{FenceOp, ReservationKey};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Node {
    pub(in crate::protocol) fn begin_proof(&mut self, role: DeviceRole, requester: NodeId, serial: u64) {
        let cluster = self.settings.cluster;
        let me = self.me();
        let usable = self.replica(Replica::Device(role)).usable();
        let Some(fence) = self.fences.get_mut(&role) else {
            let why = String::from("lease fencing: nothing refuses a write");
            self.end_proof(requester, serial, role, Enforcement::NotShown { why });
            return;
        };
        let holds = (fence.seen.as_ref().and_then(|seen| seen.holder))
            .is_none_or(|holder| holder.key.node(cluster) == Some(me));
        if !usable || !fence.registered || holds || fence.goal != Goal::Watch || fence.refused.is_some() {
            let why =
                format!("node {me} holds the reservation itself, or is not registered, or is busy with it");
            self.end_proof(requester, serial, role, Enforcement::NotShown { why });
            return;
        }
        fence.goal = Goal::Prove {
            requester,
            serial,
            stage: ProofStage::Due,
        };
        self.begin_due_proofs();
    }

    /// A heartbeat on its way to the device would be refused as well, so a proof begins between two of them.
    pub(in crate::protocol) fn begin_due_proofs(&mut self) {
        let due: Vec<(DeviceRole, ReservationKey)> = (self.fences.iter())
            .filter(|(_, fence)| {
                fence.asked.is_none()
                    && matches!(
                        &fence.goal,
                        Goal::Prove {
                            stage: ProofStage::Due,
                            ..
                        }
                    )
            })
            .filter(|(role, _)| !self.replica(Replica::Device(**role)).beat_in_flight)
            .filter_map(|(role, fence)| Some((*role, fence.key?)))
            .collect();
        for (role, key) in due {
            self.set_stage(role, ProofStage::Unregistering);
            if let Some(fence) = self.fences.get_mut(&role) {
                // It gives it up itself: nobody can have fenced it here until it registers again.
                fence.registered = false;
                fence.key = None;
            }
            self.ask_fence(role, FenceOp::Unregister { key });
        }
    }

    fn set_stage(&mut self, role: DeviceRole, next: ProofStage) {
        if let Some(Fence {
            goal: Goal::Prove { stage, .. },
            ..
        }) = self.fences.get_mut(&role)
        {
            *stage = next;
        }
    }

    pub(in crate::protocol) fn go_on_proving(&mut self, role: DeviceRole) {
        let Some(fence) = self.fences.get(&role) else {
            return;
        };
        let Goal::Prove {
            requester,
            serial,
            stage,
        } = fence.goal.clone()
        else {
            return;
        };
        let there = fence
            .seen
            .as_ref()
            .is_some_and(|seen| step::registered(seen, self.settings.cluster).contains(self.settings.me));
        match stage {
            ProofStage::Due | ProofStage::Writing => {}
            ProofStage::Unregistering if there => {
                self.proof_failed(role, String::from("the registration could not be given up"));
            }
            ProofStage::Unregistering => {
                self.set_stage(role, ProofStage::Writing);
                self.ask(
                    Replica::Device(role),
                    ReplicaOp::WriteScratch,
                    Purpose::DrillProof,
                );
            }
            ProofStage::Registering(proof) => {
                self.end_goal(role);
                self.end_proof(requester, serial, role, proof);
            }
        }
    }

    pub(in crate::protocol) fn on_proof_write(&mut self, role: DeviceRole, error: Option<ReplicaError>) {
        let me = self.me();
        let proof = match error {
            None => Enforcement::Taken { node: me },
            Some(error) if error.kind == ReplicaErrorKind::Fenced => Enforcement::Refused {
                node: me,
                how: error.text,
            },
            Some(error) => Enforcement::NotShown { why: error.text },
        };
        self.register_again(role, proof);
    }

    pub(in crate::protocol) fn proof_failed(&mut self, role: DeviceRole, why: String) {
        let Some(Goal::Prove {
            requester,
            serial,
            stage,
        }) = self.fences.get(&role).map(|fence| fence.goal.clone())
        else {
            return;
        };
        if let ProofStage::Registering(proof) = stage {
            // The next heartbeats look again; it is let in as any member.
            self.end_goal(role);
            self.end_proof(requester, serial, role, proof);
        } else {
            self.register_again(role, Enforcement::NotShown { why });
        }
    }

    fn register_again(&mut self, role: DeviceRole, proof: Enforcement) {
        let Some(fence) = self.fences.get(&role) else {
            return;
        };
        // A proposal may have taken over in between, and registers by itself.
        if !matches!(fence.goal, Goal::Prove { .. }) {
            return;
        }
        let seen = fence.seen.clone().unwrap_or_default();
        self.set_stage(role, ProofStage::Registering(proof));
        let key = self.fresh_key(&seen);
        self.ask_fence(role, FenceOp::Register { key });
    }
}
