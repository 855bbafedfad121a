//! An external cluster membership monitor (CCDCTL in the patent): its view takes the place of the built-in one's opinion in
//! this node's plans. Pure but for what it asks of the node; a table tests it.
//!
//! The view never replaces votes, leases or fencing: a node that it takes for gone keeps its lease until that has run out, and
//! whoever excludes it needs the votes. So a wrong view costs time and never an update, and two that contradict each other do
//! not take the cluster from each other: who is out of the configuration takes over from a node that its own monitor calls
//! gone only if the built-in one finds it silent, too.

use crate::configuration::Configuration;
use crate::ids::{NodeId, NodeSet};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::plan::{CALLED_GONE, Facts};
use alloc::format;
use alloc::string::{String, ToString};

/// What a plan takes for true of a node, given what the external monitor says (`None`: there is none).
pub(in crate::protocol) fn corrected(
    facts: Facts,
    node: NodeId,
    me: NodeId,
    external: Option<NodeSet>,
    known: &Configuration,
) -> Facts {
    match external {
        None => facts,
        // One that is expected is waited for, however long it is silent.
        Some(view) if view.contains(node) => Facts {
            silent: false,
            alive_apart: false,
            expected: true,
            ..facts
        },
        // It is gone at once, unless this node would take the cluster from it although it was left out itself.
        Some(_) => {
            let takes_it = known.members.contains(me) || known.is_genesis();
            Facts {
                linked: false,
                serving: false,
                silent: takes_it || facts.silent,
                alive_apart: !takes_it && (facts.alive_apart || facts.linked),
                called_gone: true,
                ..facts
            }
        }
    }
}

impl Node {
    /// Not called gone by the external monitor, if there is one.
    pub(in crate::protocol) fn in_view(&self, node: NodeId) -> bool {
        self.external.is_none_or(|view| view.contains(node))
    }

    /// It means to take part: neither an operator nor the external monitor has taken it out.
    pub(in crate::protocol) fn takes_part_in_plans(&self) -> bool {
        self.willing && self.in_view(self.me()) && !self.number_is_anothers()
    }

    pub(in crate::protocol) fn take_view(&mut self, view: Option<NodeSet>) {
        self.look = true;
        if self.external == view {
            return;
        }
        let text = match view {
            Some(view) => format!(
                "an external membership monitor says: nodes {{{view}}} are there, the others are gone"
            ),
            None => "the built-in membership monitor decides again who is there".to_string(),
        };
        self.external = view;
        self.record(DecisionKind::Membership, text);
    }

    /// The configuration that is open here is the one that the view asks for.
    pub(in crate::protocol) fn matches_view(&self, view: Option<NodeSet>) -> bool {
        let open = self.is_open() && self.lease_holds();
        match view {
            None => true,
            Some(view) if !view.contains(self.me()) => {
                self.serving.is_none() || !self.known.members.contains(self.me())
            }
            Some(view) => open && self.known.members == view.intersection(self.cluster_nodes()),
        }
    }

    /// What in the view is not so, as the built-in monitor sees it; for people.
    pub(in crate::protocol) fn view_text(&self) -> Option<String> {
        let view = self.external?;
        if !view.contains(self.me()) {
            return Some(CALLED_GONE.to_string());
        }
        let others = || self.peers.keys().copied();
        let alive: NodeSet = others()
            .filter(|node| !view.contains(*node) && (self.hears(*node) || self.moves_on_disk(*node)))
            .collect();
        let absent: NodeSet = others()
            .filter(|node| view.contains(*node) && !self.linked(*node))
            .collect();
        match (alive.is_empty(), absent.is_empty()) {
            (true, true) => None,
            (false, _) => Some(format!(
                "the external membership monitor says that node {alive} is gone, but it is alive: its lease and the votes \
                 count"
            )),
            (true, false) => Some(format!(
                "the external membership monitor says that node {absent} is there, but it is not heard: it is waited for"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Mode;
    use crate::ids::{DeviceSet, Epoch};

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();

    #[test]
    fn each_view_has_its_facts() {
        let both = NodeSet::of(A).with(B);
        let pair = Configuration {
            epoch: Epoch(5),
            members: both,
            ..Configuration::genesis(both, DeviceSet::EMPTY)
        };
        let solo_b = Configuration {
            mode: Mode::Solo(B),
            members: NodeSet::of(B),
            ..pair.clone()
        };
        let alive = Facts {
            linked: true,
            serving: true,
            ..Facts::default()
        };
        let silent = Facts {
            silent: true,
            ..Facts::default()
        };
        // What node A takes for true of node B: linked, silent, apart.
        #[rustfmt::skip]
        let table = [
            ("no external monitor",                      &alive,  None,                  &pair,   (true, false, false)),
            ("in the view and here",                     &alive,  Some(both),            &pair,   (true, false, false)),
            ("in the view and silent: waited for",       &silent, Some(both),            &pair,   (false, false, false)),
            ("not in the view, but alive: gone at once", &alive,  Some(NodeSet::of(A)),  &pair,   (false, true, false)),
            ("not in the view and silent",               &silent, Some(NodeSet::of(A)),  &pair,   (false, true, false)),
            ("it owns what this one was left out of",    &alive,  Some(NodeSet::of(A)),  &solo_b, (false, false, true)),
            ("and once it is silent, it is gone",        &silent, Some(NodeSet::of(A)),  &solo_b, (false, true, false)),
        ];
        for (situation, facts, view, known, expected) in table {
            let found = corrected(facts.clone(), B, A, view, known);
            assert_eq!(
                (found.linked, found.silent, found.alive_apart),
                expected,
                "{situation}"
            );
        }
    }
}
