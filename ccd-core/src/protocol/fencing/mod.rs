//! Reservations on the shared devices: claiming them for a proposal, being let in, and noticing that this node was fenced
//! (DESIGN §10).
//!
//! ```text
//! step.rs    pure: the next step on one device, from what was read back
//! watch.rs   noticing what others did
//! proof.rs   a write without registration that must be refused, for the drill
//! ```
//!
//! With lease fencing there is nothing here: `fences` is empty, and every device counts as registered.
//!
//! What decides who goes on are votes and ballots; nothing here is needed for their safety. It is the wall against writers that are
//! hung or wrong, and so it errs on the side of not serving: a refused write or a missing key closes the node at once.
//!
//! Owns `fences` and `registrations`.

mod proof;
pub(super) mod step;
mod watch;

use self::step::{Next, Situation, described};
use crate::drill::Enforcement;
use crate::ids::{DeviceRole, NodeId, NodeSet};
use crate::protocol::Node;
use crate::protocol::interface::{Action, DecisionKind, Ticket};
use crate::protocol::replicas::Attempt;
use crate::replica::{ReplicaError, ReplicaErrorKind};
use crate::reservation::{FenceOp, Registrations, ReservationKey};
use crate::time::Time;
use alloc::format;
use alloc::string::String;

/// More steps than keys and this many mean that others change what is read back all the time.
const STEPS_SPARE: usize = 8;

/// How many heartbeats a higher-numbered node lets a lower-numbered one go first, for two that take each other for dead.
const HEAD_START_BEATS: u32 = 2;

/// This node and the reservation of one device.
#[derive(Debug)]
pub(in crate::protocol) struct Fence {
    /// What this run registered here last.
    pub(in crate::protocol) key: Option<ReservationKey>,
    /// When that was last read back, it was there.
    pub(in crate::protocol) registered: bool,
    /// What was read last.
    pub seen: Option<Registrations>,
    /// Who was registered when this node's key was found missing, until it is registered again.
    pub(in crate::protocol) fenced_by: Option<NodeSet>,
    /// Since when a write was refused that nobody has explained yet.
    pub(in crate::protocol) refused: Option<Time>,
    /// A write was refused since this node's way to the device was last registered.
    pub(in crate::protocol) repair: bool,
    /// It went on refusing writes for a lease although this node is registered: it counts as failed until one is taken.
    pub(in crate::protocol) distrusted: bool,
    pub(in crate::protocol) asked: Option<Ticket>,
    /// What was asked for was to take the reservation, or a key.
    takes: bool,
    /// The operation was done, and nothing has changed.
    in_vain: bool,
    /// What is under way was asked for too early to tell what must be known now.
    pub(in crate::protocol) look_again: bool,
    pub(in crate::protocol) goal: Goal,
    /// Steps towards the goal, or since the last heartbeat.
    pub(in crate::protocol) steps: usize,
    pub(in crate::protocol) paths_tried: bool,
    /// The last alarm that was recorded, until all is well again.
    pub(in crate::protocol) alarm: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Goal {
    /// Look at every heartbeat.
    Watch,
    /// Be registered, because the master lets this node in, or because it is the master.
    Enter,
    /// Keep the victims out, for a proposal.
    Claim {
        attempt: Attempt,
        victims: NodeSet,
        may_register: bool,
        head_start: HeadStart,
    },
    /// Show a drill of `requester` that a write without registration is refused.
    Prove {
        requester: NodeId,
        serial: u64,
        stage: ProofStage,
    },
}

/// Where a proof stands that this device refuses a write without registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum ProofStage {
    /// Begins when no heartbeat is under way.
    Due,
    Unregistering,
    Writing,
    Registering(Enforcement),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum HeadStart {
    Due,
    Until(Time),
    Over,
}

impl Fence {
    pub fn new() -> Self {
        Self {
            key: None,
            registered: false,
            seen: None,
            fenced_by: None,
            refused: None,
            repair: false,
            distrusted: false,
            asked: None,
            takes: false,
            in_vain: false,
            look_again: false,
            goal: Goal::Watch,
            steps: 0,
            paths_tried: false,
            alarm: None,
        }
    }
}

impl Node {
    /// This node can write to the device, as far as reservations go.
    pub(in crate::protocol) fn registered_on(&self, role: DeviceRole) -> bool {
        self.fences.get(&role).is_none_or(|fence| fence.registered)
    }

    /// This run of the node has not been registered on the device, so it cannot have been fenced there.
    pub(in crate::protocol) fn never_registered_on(&self, role: DeviceRole) -> bool {
        self.fences.get(&role).is_none_or(|fence| fence.key.is_none())
    }

    /// It was fenced on a device of its configuration, or a write there was refused and nobody knows why yet: it neither
    /// answers nor acks.
    pub(in crate::protocol) fn shut_out(&self) -> bool {
        self.known
            .devices
            .iter()
            .filter_map(|role| self.fences.get(&role))
            .any(|fence| fence.fenced_by.is_some() || fence.refused.is_some())
    }

    /// Why it is shut out, for people.
    pub(in crate::protocol) fn shut_out_text(&self) -> Option<String> {
        self.fences.iter().find_map(|(role, fence)| {
            if let Some(nodes) = fence.fenced_by {
                return Some(format!(
                    "fenced on the {role} by {}: waits to be let in again",
                    named(nodes)
                ));
            }
            fence
                .refused
                .map(|_| format!("the {role} refused a write: finding out why"))
        })
    }

    /// The nodes that fenced this one on some device.
    pub(in crate::protocol) fn fenced_by(&self) -> NodeSet {
        (self.fences.values())
            .filter_map(|fence| fence.fenced_by)
            .fold(NodeSet::EMPTY, NodeSet::union)
    }

    /// The nodes that this one does not keep off the devices: those that it hears and means to have as members.
    pub(in crate::protocol) fn let_in(&self) -> NodeSet {
        if !self.fences.values().any(|fence| fence.registered) {
            return NodeSet::EMPTY;
        }
        let wanted = match (&self.proposal, &self.install) {
            (Some(proposal), _) => proposal.want.members,
            (None, Some(_)) => self.known.members,
            (None, None) => self.cluster_nodes(),
        };
        (self.peers.keys().copied())
            .filter(|node| wanted.contains(*node) && self.linked(*node))
            .filter(|node| self.peer_state(*node).is_some_and(|state| state.willing) && self.in_view(*node))
            .collect()
    }

    /// Nodes that this one is let in by.
    fn hosts(&self) -> NodeSet {
        let me = self.me();
        (self.peers.keys().copied())
            .filter(|node| self.linked(*node))
            .filter(|node| {
                self.peer_state(*node)
                    .is_some_and(|state| state.lets_in.contains(me) && state.epoch >= self.known.epoch)
            })
            .collect()
    }

    /// A key that was never registered before: a new incarnation at each registration, so that a late command against an
    /// earlier one cannot hit this one.
    pub(in crate::protocol) fn fresh_key(&mut self, seen: &Registrations) -> ReservationKey {
        loop {
            self.registrations = self.registrations.wrapping_add(1);
            let incarnation = self.settings.incarnation.0.wrapping_add(self.registrations);
            let key = ReservationKey::new(self.settings.cluster, self.me(), incarnation);
            if !seen.has(key) {
                return key;
            }
        }
    }

    pub(in crate::protocol) fn ask_fence(&mut self, role: DeviceRole, op: FenceOp) {
        let ticket = self.next_ticket();
        if let Some(fence) = self.fences.get_mut(&role) {
            fence.asked = Some(ticket);
            fence.takes = matches!(op, FenceOp::Reserve { .. } | FenceOp::PreemptAbort { .. });
            if let FenceOp::Register { key } = op {
                fence.in_vain = false;
                fence.paths_tried |= fence.key == Some(key);
                fence.key = Some(key);
            }
        }
        self.actions.push(Action::Fence {
            ticket,
            device: role,
            op,
        });
    }

    /// Keeps `victims` out on this device before it is claimed for a proposal; answered by `on_claimed`.
    /// `head_start`: it is the first device of the proposal; whoever loses that one leaves the other alone.
    pub(in crate::protocol) fn claim(
        &mut self,
        role: DeviceRole,
        attempt: Attempt,
        victims: NodeSet,
        may_register: bool,
        head_start: bool,
    ) {
        let Some(fence) = self.fences.get_mut(&role) else {
            self.on_claimed(role, attempt, Ok(()));
            return;
        };
        fence.goal = Goal::Claim {
            attempt,
            victims,
            may_register,
            head_start: if head_start {
                HeadStart::Due
            } else {
                HeadStart::Over
            },
        };
        fence.steps = 0;
        fence.paths_tried = false;
        // What was read before is no proof now.
        self.look_at(role);
    }

    /// Registers on a device that the serving owner takes in.
    pub(in crate::protocol) fn enter(&mut self, role: DeviceRole) {
        if let Some(fence) = self.fences.get_mut(&role)
            && fence.goal == Goal::Watch
        {
            fence.goal = Goal::Enter;
            fence.steps = 0;
            fence.paths_tried = false;
        }
    }

    pub(in crate::protocol) fn on_fenced(
        &mut self,
        ticket: Ticket,
        result: Result<Registrations, ReplicaError>,
    ) {
        let Some((&role, fence)) = (self.fences.iter_mut()).find(|(_, fence)| fence.asked == Some(ticket))
        else {
            return;
        };
        fence.asked = None;
        if let Ok(seen) = &result
            && core::mem::take(&mut fence.takes)
        {
            fence.in_vain = fence.seen.as_ref() == Some(seen);
        }
        match result {
            Ok(_) if core::mem::take(&mut fence.look_again) => self.ask_fence(role, FenceOp::Look),
            Ok(seen) => {
                self.take_note(role, seen);
                self.go_on_fencing(role);
            }
            Err(error) => {
                fence.look_again = false;
                let was = core::mem::replace(&mut fence.goal, Goal::Watch);
                if let Goal::Prove { .. } = was {
                    fence.goal = was;
                    self.proof_failed(role, error.text);
                } else if let Goal::Claim { attempt, .. } = was {
                    self.on_claimed(role, attempt, Err(format!("its reservation: {error}")));
                } else if error.kind == ReplicaErrorKind::NotSupported {
                    self.alarm(role, error.text);
                }
            }
        }
    }

    /// The next step towards the goal, after something was read back.
    fn go_on_fencing(&mut self, role: DeviceRole) {
        let now = self.now;
        let Some(fence) = self.fences.get(&role) else {
            return;
        };
        let (goal, registered) = (fence.goal.clone(), fence.registered);
        // Already asked for more, to find out about a refused write.
        if fence.asked.is_some() {
            return;
        }
        let Some(seen) = fence.seen.clone() else {
            return;
        };
        match goal {
            Goal::Watch => {
                if self.has_lost_number() {
                    // Others keep it out; it takes nothing from anybody.
                } else if registered {
                    let victims = self.uninvited();
                    self.step(role, &seen, victims, false);
                } else if self.owns_area(role) && self.may_enter(&seen) {
                    self.enter(role);
                    self.step(role, &seen, NodeSet::EMPTY, true);
                }
            }
            Goal::Enter => self.step(role, &seen, NodeSet::EMPTY, true),
            Goal::Prove { .. } => self.go_on_proving(role),
            Goal::Claim {
                attempt,
                victims,
                may_register,
                head_start,
            } => {
                if self.current(attempt).is_none() {
                    self.end_goal(role);
                    return;
                }
                match head_start {
                    HeadStart::Due if self.gives_head_start(&seen, victims) => {
                        let until = now + self.settings.heartbeat.saturating_mul(HEAD_START_BEATS);
                        if let Some(fence) = self.fences.get_mut(&role) {
                            let head_start = HeadStart::Until(until);
                            fence.goal = Goal::Claim {
                                attempt,
                                victims,
                                may_register,
                                head_start,
                            };
                        }
                    }
                    // The next heartbeat looks again.
                    HeadStart::Until(until) if now < until => {}
                    _ => self.step(role, &seen, victims, may_register),
                }
            }
        }
    }

    /// A victim with a lower number is registered, and says nothing: it may be about to fence this node. Two that preempt
    /// each other at the same moment have been seen to hang a target (trap 11).
    fn gives_head_start(&self, seen: &Registrations, victims: NodeSet) -> bool {
        let there = step::registered(seen, self.settings.cluster).intersection(victims);
        there
            .iter()
            .any(|victim| victim < self.me() && !self.linked(victim))
    }

    /// Nodes that must not be registered while this one is the master: neither members nor let in.
    fn uninvited(&self) -> NodeSet {
        if self.is_open() && self.is_master() && self.proposal.is_none() {
            let welcome = self.known.members.union(self.let_in());
            // Also a node that was removed from the cluster.
            NodeSet::ALL.without(self.me()).minus(welcome)
        } else {
            NodeSet::EMPTY
        }
    }

    /// A running node registers only if it is let in by one that is registered, or, where a target forgot everything, if it is
    /// the serving master.
    fn may_enter(&self, seen: &Registrations) -> bool {
        let there = step::registered(seen, self.settings.cluster);
        if there.without(self.me()).is_empty() {
            return self.is_open() && self.is_master();
        }
        !there.intersection(self.hosts()).is_empty() && self.proposal.is_none()
    }

    fn step(&mut self, role: DeviceRole, seen: &Registrations, victims: NodeSet, may_register: bool) {
        let own = self.fences.get(&role).and_then(|fence| fence.key);
        let fresh = match own.filter(|key| seen.has(*key)) {
            Some(key) => key,
            None => self.fresh_key(seen),
        };
        let Some(fence) = self.fences.get_mut(&role) else {
            return;
        };
        fence.steps = fence.steps.saturating_add(1);
        let next = if fence.steps > seen.keys.len().saturating_add(STEPS_SPARE) {
            if fence.goal == Goal::Watch {
                return;
            }
            Next::Blocked(String::from("its registrations change all the time"))
        } else {
            step::next(&Situation {
                me: self.settings.me,
                cluster: self.settings.cluster,
                key: fence.key,
                fresh,
                seen,
                victims,
                may_register,
                paths_tried: fence.paths_tried,
                in_vain: fence.in_vain,
            })
        };
        match next {
            Next::Do(op) => {
                self.note_preemption(role, op);
                self.ask_fence(role, op);
            }
            Next::Done => {
                let goal = self.end_goal(role);
                if let Goal::Claim { attempt, .. } = goal {
                    self.on_claimed(role, attempt, Ok(()));
                }
            }
            Next::Fenced => {
                let by = step::registered(seen, self.settings.cluster).without(self.settings.me);
                if let Goal::Claim { attempt, .. } = self.end_goal(role) {
                    if (self.fences.get(&role)).is_some_and(|fence| fence.fenced_by.is_none()) {
                        self.on_shut_out(role, by);
                    }
                    self.on_claimed(
                        role,
                        attempt,
                        Err(format!("this node is fenced there by {}", named(by))),
                    );
                }
            }
            Next::Blocked(why) => {
                self.alarm(role, why.clone());
                if let Goal::Claim { attempt, .. } = self.end_goal(role) {
                    self.on_claimed(role, attempt, Err(why));
                }
            }
        }
    }

    pub(in crate::protocol) fn end_goal(&mut self, role: DeviceRole) -> Goal {
        self.fences.get_mut(&role).map_or(Goal::Watch, |fence| {
            fence.steps = 0;
            core::mem::replace(&mut fence.goal, Goal::Watch)
        })
    }

    fn note_preemption(&mut self, role: DeviceRole, op: FenceOp) {
        if let FenceOp::PreemptAbort { victim, .. } = op {
            let whose = described(victim, self.settings.cluster);
            self.record(
                DecisionKind::Fenced,
                format!("takes the registration of {whose} from the {role}"),
            );
        }
    }
}

pub(in crate::protocol) fn named(nodes: NodeSet) -> String {
    if nodes.is_empty() {
        return String::from("somebody who is not of this cluster");
    }
    let plural = if nodes.count() == 1 { "node" } else { "nodes" };
    format!("{plural} {nodes}")
}
