//! What the node tells people. It holds for the cluster: problems and what can be used are those of all members, as they last said.

use super::Node;
use super::interface::{DeviceElsewhere, DeviceStatus, NodeStatus, Part, ServingState, Status};
use crate::ids::{DeviceRole, NodeId, Replica};
use crate::problem::{Cause, Problem};
use crate::time::Time;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl Node {
    /// What the node is and sees.
    pub fn status(&self, now: Time) -> Status {
        let serving = self.is_open() && now < self.lease_until();
        let state = if self.has_left() {
            ServingState::Left
        } else if serving {
            ServingState::Serving
        } else if self.valid_but_closed() {
            ServingState::Closed
        } else if self.proposal.is_some() || self.install.is_some() || self.member.is_some() {
            ServingState::Reconfiguring
        } else if !self.ready() && self.now.since(self.started) < self.settings.lease {
            ServingState::Starting
        } else {
            ServingState::Waiting
        };
        let configuration = (!self.known.is_genesis()).then(|| self.known.clone());
        let survives = self.survives(serving);
        let mut problems = self.problems(serving);
        let is_explained = problems.iter().any(|problem| problem.cause.degrades());
        if serving && !is_explained {
            problems.extend(self.unexplained(&survives));
        }
        Status {
            me: self.me(),
            state,
            verdict: verdict_of(&problems),
            problems,
            configuration,
            position: self.committed.position(),
            rows: self.committed.row_count(),
            date: self.committed.date(),
            nodes: self
                .settings
                .nodes
                .iter()
                .map(|node| self.node_status(node, serving))
                .collect(),
            devices: self
                .settings
                .devices
                .iter()
                .map(|role| self.device_status(role))
                .collect(),
            external: self.external,
            takes_updates: serving && self.waited_for().is_empty() && !self.is_owner_without_votes(),
            survives,
        }
    }

    /// Losses that nothing else that was found explains.
    fn unexplained(&self, survives: &[(Part, bool)]) -> Option<Problem> {
        let lost: Vec<String> = (survives.iter())
            .filter(|(_, survives)| !survives)
            .map(|(part, _)| match part {
                Part::Node(node) => format!("node {node}"),
                Part::Device(role) => role.to_string(),
            })
            .collect();
        let others = self.cluster_nodes().without(self.me());
        let text = || {
            let lost = lost.join(", or of ");
            if others.is_empty() {
                format!("the cluster has this node alone, and would not survive the loss of {lost}")
            } else {
                format!("would not survive the loss of {lost}")
            }
        };
        (!lost.is_empty()).then(|| Problem::new(Cause::NotRedundant, text()))
    }

    fn node_status(&self, node: NodeId, serving: bool) -> NodeStatus {
        let me = node == self.me();
        let state = self.peer_state(node);
        NodeStatus {
            id: node,
            member: self.known.members.contains(node),
            heard: me || self.linked(node),
            seen_on_disk: !me && self.moves_on_disk(node),
            serving: if me {
                serving
            } else {
                state.is_some_and(|state| state.serving)
            },
            position: if me {
                Some(self.committed.position())
            } else {
                state.map(|state| state.position)
            },
            lease: if me {
                let until = self.lease_until();
                (until != Time::NEVER).then(|| until.since(self.now))
            } else {
                Some(self.promise_left(node))
            },
        }
    }

    fn device_status(&self, role: DeviceRole) -> DeviceStatus {
        let view = self.replica(Replica::Device(role));
        DeviceStatus {
            role,
            usable: view.usable(),
            in_sync: self.known.devices.contains(role)
                && !self.known.is_genesis()
                && !self.is_found_made_anew(role)
                && view.damage.is_none()
                && self.device_fits(role),
            error: (view.error().map(ToString::to_string))
                .or_else(|| {
                    self.is_found_made_anew(role)
                        .then(|| self.made_anew_text_of(role))
                })
                .or_else(|| self.damage_text(role))
                .or_else(|| self.small_text(role)),
            reservation: self.fences.get(&role).and_then(|fence| fence.seen.clone()),
            registered: self.registered_on(role),
            elsewhere: self.elsewhere(role),
        }
    }

    /// The same device as the other nodes say that it is.
    fn elsewhere(&self, role: DeviceRole) -> Vec<DeviceElsewhere> {
        let others = self.cluster_nodes().without(self.me());
        let seen_by = |node| DeviceElsewhere {
            node,
            usable: self.peer_state(node).map(|state| state.devices.contains(role)),
            error: (self.reported(node).iter())
                .find(|problem| problem.device == Some(role))
                .map(|problem| problem.text.clone()),
        };
        others.iter().map(seen_by).collect()
    }
}

/// All of it in one text.
fn verdict_of(problems: &[Problem]) -> String {
    let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
    texts.join("; ")
}
