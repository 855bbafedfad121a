//! Planned work: while the configuration says *maintenance*, no member is left out, taken over from or fenced because it is
//! silent, leaves or restarts. The cluster waits for it instead, closed for updates.
//!
//! The flag is part of the configuration, so every node that takes part knows it, also after a restart, and voters decide on
//! it as on everything else. Only a plan that keeps all members passes; what an operator asks for by force does, too.

use crate::configuration::Configuration;
use crate::ids::NodeSet;
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::plan::{Plan, Settles, Want};
use alloc::format;
use alloc::string::{String, ToString};

/// Lets a plan pass, or says for whom to wait. `present`: the nodes that it can be carried out with.
pub(in crate::protocol) fn kept_to(
    plan: Plan,
    known: &Configuration,
    present: NodeSet,
    ending: bool,
) -> Plan {
    if !known.maintenance || ending {
        return plan;
    }
    // Whoever is left goes on alone only if quorum is off, and not now either.
    let (Plan::Propose(want) | Plan::Override(want)) = &plan else {
        return plan;
    };
    let missing = known.members.minus(want.members.intersection(present));
    if missing.is_empty() {
        plan
    } else {
        Plan::Wait(waits_for(missing))
    }
}

pub(in crate::protocol) fn waits_for(missing: NodeSet) -> String {
    format!(
        "maintenance: node {missing} is waited for, and nothing is taken over; `ccdctl maintenance off` ends that"
    )
}

impl Node {
    /// Members that do not take part now, while maintenance lets the cluster wait for them.
    pub(in crate::protocol) fn waited_for(&self) -> NodeSet {
        if !self.known.maintenance {
            return NodeSet::EMPTY;
        }
        let here = |node| {
            self.linked(node)
                && !self.fell_out(node)
                && self
                    .peer_state(node)
                    .is_some_and(|state| state.willing && state.ready)
        };
        (self.other_members().iter())
            .filter(|node| !here(*node))
            .collect()
    }

    /// An operator asked this node to end it.
    pub(in crate::protocol) fn ends_maintenance(&self) -> bool {
        self.known.maintenance && self.maintenance_wish == Some(false)
    }

    /// A successor that differs in the flag alone, while all members are here.
    pub(in crate::protocol) fn wanted_maintenance(&self) -> Option<Want> {
        let on = self.maintenance_wish.filter(|on| *on != self.known.maintenance)?;
        let here = |node| self.linked(node) && self.peer_state(node).is_some_and(|state| state.ready);
        if !self.is_open() || !self.other_members().iter().all(here) {
            return None;
        }
        let why = if on {
            "an operator begins maintenance"
        } else {
            "an operator ends maintenance"
        };
        Some(Want {
            members: self.known.members,
            devices: self.known.devices,
            why: why.to_string(),
            settles: Settles {
                maintenance: Some(on),
                ..Settles::default()
            },
        })
    }

    /// A configuration was learned; it was so before.
    pub(in crate::protocol) fn note_maintenance(&mut self, before: bool) {
        let on = self.known.maintenance;
        if self.maintenance_wish == Some(on) {
            self.maintenance_wish = None;
        }
        if on != before {
            let word = if on { "begins" } else { "ends" };
            let text = format!(
                "maintenance {word} with epoch {}: {}",
                self.known.epoch, self.known.reason
            );
            self.record(DecisionKind::Maintenance, text);
        }
    }

    pub(in crate::protocol) fn maintenance_text(&self) -> Option<String> {
        if !self.known.maintenance {
            return None;
        }
        let missing = self.waited_for();
        Some(if missing.is_empty() {
            "maintenance: no node is taken over from until `ccdctl maintenance off`".to_string()
        } else {
            format!("{}; no update is taken until then", waits_for(missing))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceSet, Epoch, NodeId};

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();
    const C: NodeId = NodeId::new(2).unwrap();

    #[test]
    fn only_what_keeps_every_member_passes_during_maintenance() {
        let (pair, three) = (NodeSet::of(A).with(B), NodeSet::of(A).with(B).with(C));
        let on = Configuration {
            epoch: Epoch(5),
            members: pair,
            maintenance: true,
            ..Configuration::genesis(three, DeviceSet::EMPTY)
        };
        let off = Configuration {
            maintenance: false,
            ..on.clone()
        };
        let want = |members| {
            Plan::Propose(Want {
                members,
                devices: DeviceSet::EMPTY,
                why: String::new(),
                settles: Settles::default(),
            })
        };
        let alone = NodeSet::of(A);
        #[rustfmt::skip]
        let table = [
            ("without maintenance the silent one goes",   &off, want(alone), alone, false, true),
            ("with it, it stays",                         &on,  want(alone), alone, false, false),
            ("also if it is silent, and would be kept",   &on,  want(pair),  alone, false, false),
            ("a member that has restarted is taken in",   &on,  want(pair),  pair,  false, true),
            ("one that comes back joins",                 &on,  want(three), three, false, true),
            ("whoever ends it, takes over in the same step", &on, want(alone), alone, true, true),
            ("waiting and serving are left alone",        &on,  Plan::Serve, alone, false, true),
        ];
        for (situation, known, plan, present, ending, passes) in table {
            let kept = kept_to(plan.clone(), known, present, ending);
            assert_eq!(kept == plan, passes, "{situation}: {kept:?}");
        }
    }
}
