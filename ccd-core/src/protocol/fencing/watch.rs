//! Watching reservations: who is fenced notices within a heartbeat, a target that forgot is armed again, a refused write is
//! explained, and strangers raise an alarm.
//!
//! The other half of `fencing.rs`, which owns the state.

use super::step::{self, described};
use super::{Goal, named};
use crate::ids::{DeviceRole, NodeId, NodeSet, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::reservation::{FenceOp, KeyOwner, Registrations};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

impl Node {
    /// Looks at every device, at every heartbeat: who is fenced notices within one, and a target that forgot is armed again.
    pub(in crate::protocol) fn watch_fences(&mut self) {
        let lease = self.settings.lease;
        let roles: Vec<DeviceRole> = self.fences.keys().copied().collect();
        for role in roles {
            let usable = self.replica(Replica::Device(role)).usable();
            let now = self.now;
            let Some(fence) = self.fences.get_mut(&role) else {
                continue;
            };
            if fence.refused.is_some_and(|since| now.since(since) >= lease) {
                fence.refused = None;
                fence.distrusted = true;
            }
            let watched = usable || fence.registered;
            if fence.asked.is_none() && watched && !matches!(fence.goal, Goal::Prove { .. }) {
                if fence.goal == Goal::Watch {
                    fence.steps = 0;
                }
                self.ask_fence(role, FenceOp::Look);
            }
        }
    }

    /// A node lets this one in: it registers now, and not at its next heartbeat.
    pub(in crate::protocol) fn enter_where_let_in(&mut self, by: NodeId) {
        let me = self.me();
        if !self
            .peer_state(by)
            .is_some_and(|state| state.lets_in.contains(me))
        {
            return;
        }
        let roles: Vec<DeviceRole> = (self.fences.iter())
            .filter(|(_, fence)| !fence.registered && fence.goal == Goal::Watch && fence.asked.is_none())
            .map(|(role, _)| *role)
            .filter(|role| self.replica(Replica::Device(*role)).usable())
            .collect();
        for role in roles {
            self.look_at(role);
        }
    }

    pub(in crate::protocol) fn look_at(&mut self, role: DeviceRole) {
        if let Some(fence) = self.fences.get_mut(&role) {
            fence.look_again = fence.asked.is_some();
            if !fence.look_again {
                self.ask_fence(role, FenceOp::Look);
            }
        }
    }

    /// A write was refused (EBADE): nothing goes on before it is known why. It may have reached the disk all the same (trap 4).
    pub(in crate::protocol) fn on_refused_write(&mut self, replica: Replica) {
        let now = self.now;
        let Replica::Device(role) = replica else { return };
        let Some(fence) = self.fences.get_mut(&role).filter(|fence| fence.registered) else {
            return;
        };
        if !fence.distrusted {
            fence.refused.get_or_insert(now);
        }
        fence.repair = true;
        self.look = true;
        self.look_at(role);
    }

    /// The device took a write.
    pub(in crate::protocol) fn on_taken_write(&mut self, role: DeviceRole) {
        if let Some(fence) = self.fences.get_mut(&role) {
            self.look |= fence.refused.is_some() || fence.distrusted;
            fence.refused = None;
            fence.distrusted = false;
        }
    }

    /// It refuses writes, and nobody knows why.
    pub(in crate::protocol) fn distrusted(&self, role: DeviceRole) -> bool {
        self.fences.get(&role).is_some_and(|fence| fence.distrusted)
    }

    /// What was read back: whether this node is still registered, and whether strangers are.
    pub(in crate::protocol) fn take_note(&mut self, role: DeviceRole, seen: Registrations) {
        let cluster = self.settings.cluster;
        let Some(fence) = self.fences.get_mut(&role) else {
            return;
        };
        let was_registered = fence.registered;
        fence.registered = fence.key.is_some_and(|key| seen.has(key));
        let (is_registered, refused) = (fence.registered, fence.refused.is_some());
        let was_distrusted = fence.distrusted;
        let key = fence.key;
        if !fence.registered {
            // A device that refuses the writes of a node that is not registered does what it should.
            fence.refused = None;
            fence.distrusted = false;
        }
        fence.seen = Some(seen.clone());
        fence.paths_tried &= seen.paths_missing > 0;
        let repair = core::mem::take(&mut fence.repair);
        if is_registered {
            fence.fenced_by = None;
            self.look |= !was_registered;
            if !was_registered && (self.willing || self.serving.is_some()) {
                // Others wait to find this node's heartbeat there.
                self.beat_device(role);
            }
            if let Some(key) = key.filter(|_| repair) {
                // The key is there, so it is this node's way to the device that is not registered: a session made anew, or a
                // new path. It is registered there, and the device opened again at once.
                self.ask_fence(role, FenceOp::Register { key });
            } else if refused || was_distrusted {
                self.re_open_now(Replica::Device(role));
            }
        } else if was_registered {
            self.look = true;
            if step::others_registered(&seen, cluster) {
                let by = step::registered(&seen, cluster).without(self.settings.me);
                self.on_shut_out(role, by);
            } else {
                let text = format!("the {role} has forgotten its reservation and all registrations");
                self.record(DecisionKind::Alarm, text);
            }
        }
        let strangers: Vec<String> = (seen.keys.iter())
            .filter(|key| !matches!(key.owner(cluster), KeyOwner::Node(_)))
            .map(|key| described(*key, cluster))
            .collect();
        if strangers.is_empty() {
            if let Some(fence) = self.fences.get_mut(&role) {
                fence.alarm = None;
            }
        } else {
            self.alarm(
                role,
                format!(
                    "{} is registered too and can write; look with `ccd-disk fence status`",
                    strangers.join(", ")
                ),
            );
        }
    }

    /// This node was fenced: it stops at once, and only registers again when it is let in or after a decision of its own.
    pub(in crate::protocol) fn on_shut_out(&mut self, role: DeviceRole, by: NodeSet) {
        if let Some(fence) = self.fences.get_mut(&role) {
            fence.fenced_by = Some(by);
            fence.refused = None;
        }
        let what = if self.serving.is_some() {
            "stops serving and "
        } else {
            ""
        };
        let text = format!(
            "fenced on the {role} by {}: {what}waits to be let in again",
            named(by)
        );
        self.record(DecisionKind::Fenced, text.clone());
        self.waiting = (text, self.now);
    }

    pub(in crate::protocol) fn alarm(&mut self, role: DeviceRole, text: String) {
        let Some(fence) = self.fences.get_mut(&role) else {
            return;
        };
        if fence.alarm.as_ref() != Some(&text) {
            fence.alarm = Some(text.clone());
            self.record(DecisionKind::Alarm, format!("on the {role}: {text}"));
        }
    }
}
