//! What this node finds of the cluster: the same on every node that serves.

use crate::configuration::Quorum;
use crate::ids::NodeId;
use crate::problem::{Cause, Problem};
use crate::protocol::Node;
use crate::protocol::message::CopyTrouble;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

const MEND_THE_NETWORK: &str = "ping the other node's addresses (ADDRESS rows of init.ccd) from both nodes, look whether a firewall drops their TCP ports, and mend what is cut";

const RESTORE_FLAG: &str = "restore flag 3: all nodes must be active once before an unattended restart";

impl Node {
    pub(super) fn cluster_problems(&self, serving: bool) -> Vec<Problem> {
        let mut all = Vec::new();
        if let Some(text) = self.maintenance_text() {
            // A node that left decides nothing.
            let next = if self.willing {
                "ccdctl maintenance off"
            } else {
                "ccdctl join; ccdctl maintenance off"
            };
            all.push(Problem::new(Cause::Maintenance, text).next(next));
        }
        if let Some(text) = self.view_text() {
            let next = if serving {
                ""
            } else {
                "ccdctl reconfigure --built-in"
            };
            all.push(Problem::new(Cause::ExternalView, text).next(next));
        }
        if !serving {
            let text = self.waits_text();
            let next = self.waits_next();
            // Who refuses a connection, or is refused, is there: no network is cut.
            let is_explained = next == MEND_THE_NETWORK && self.refuses_somebody();
            if !is_explained && all.iter().all(|problem| problem.text != text) {
                let waits = Problem::new(Cause::Waits, text).on(self.me());
                all.push(waits.next(next));
            }
            return all;
        }
        if self.known.quorum == Quorum::Waived {
            let text = crate::protocol::membership::quorum::WAIVED;
            all.push(Problem::new(Cause::QuorumOff, text).next("ccdadm quorum on"));
        }
        if self.needs_all_nodes() {
            all.push(Problem::new(Cause::RestoreFlag, RESTORE_FLAG));
        }
        for node in self.cluster_nodes().without(self.me()).iter() {
            let elsewhere = self.elsewhere_text(node);
            all.extend(elsewhere.map(|text| {
                Problem::new(Cause::NotSameDisk, text).next(format!("on node {node}: systemctl stop ccdd"))
            }));
            all.extend(self.node_problem(node));
        }
        all.extend(self.cut_links());
        for role in self.settings.devices.iter() {
            if !self.known.devices.contains(role) {
                let text = format!("without the {role}: it is out of sync");
                all.push(Problem::new(Cause::DeviceOut, text).of(role));
            }
        }
        all
    }

    /// Why this node does not serve, as it sees it.
    fn waits_text(&self) -> String {
        if !self.is_owner_without_votes() && (self.valid_but_closed() || self.closed_for_long()) {
            self.no_quorum_text()
        } else if self.serving.is_some()
            && let Some(text) = self.shut_out_text()
        {
            text
        } else if self.serving.is_some() && !self.sealed() {
            "the lease of this node has run out".to_string()
        } else if self.waiting.0.is_empty() {
            format!(
                "the successor of epoch {} is being decided or opened",
                self.known.epoch
            )
        } else {
            self.waiting.0.clone()
        }
    }

    /// What ends that, if it does not end by itself.
    fn waits_next(&self) -> &'static str {
        let is_cut = |node: NodeId| self.facts(node).alive_apart;
        if self
            .known
            .owner()
            .is_some_and(|owner| owner != self.me() && is_cut(owner))
        {
            MEND_THE_NETWORK
        } else if self.has_left() {
            "ccdctl join"
        } else if self.valid_but_closed()
            || self.closed_for_long()
            || self.lacks_majority()
            || self.needs_all_nodes()
        {
            self.next_without_others()
        } else if self.cluster_nodes().without(self.me()).iter().any(is_cut) {
            MEND_THE_NETWORK
        } else {
            ""
        }
    }

    /// The daemon has said that this node refuses the connection of that one, or is refused by it.
    fn refuses(&self, node: NodeId) -> bool {
        let Some(name) = self.settings.init.node_name(node) else {
            return false;
        };
        let is_of = |problem: &Problem| {
            let rest = problem.text.strip_prefix(name);
            problem.cause == Cause::Refused && rest.is_some_and(|rest| rest.starts_with(' '))
        };
        self.report.of_driver.iter().any(is_of)
    }

    fn refuses_somebody(&self) -> bool {
        self.cluster_nodes()
            .without(self.me())
            .iter()
            .any(|node| self.refuses(node))
    }

    /// Nodes that this one hears, and that do not hear each other. One that has just come has not heard all others yet, and one that has died
    /// is no longer heard by one before the other; where a connection is refused both say so.
    fn cut_links(&self) -> Vec<Problem> {
        let is_steady = |node: &NodeId| self.linked_for_a_lease(*node) && self.heard_lately(*node);
        let refuses = |node: &NodeId| {
            let mut reported = self.reported(*node).iter();
            reported.any(|problem| problem.cause == Cause::Refused)
        };
        let heard: Vec<NodeId> = (self.cluster_nodes().without(self.me()).iter())
            .filter(|node| self.facts(*node).linked && is_steady(node) && !refuses(node))
            .collect();
        let pairs = (heard.iter().enumerate()).flat_map(|(at, one)| {
            heard
                .iter()
                .skip(at.saturating_add(1))
                .map(move |other| (*one, *other))
        });
        let cut = pairs.filter(|(one, other)| !self.hear_each_other(*one, *other));
        cut.map(|(one, other)| {
            let text = format!(
                "the network between node {one} and node {other} is cut: both are heard here, and do not hear each other"
            );
            Problem::new(Cause::NetworkCut, text).next(MEND_THE_NETWORK)
        })
        .collect()
    }

    fn member_apart_from(&self, node: NodeId) -> Option<NodeId> {
        let mut members = self.other_members().without(node).iter();
        members.find(|member| !self.hear_each_other(node, *member))
    }

    /// A node that is heard here hears it.
    pub(in crate::protocol) fn is_heard_by_another(&self, node: NodeId) -> bool {
        let others = self.cluster_nodes().without(self.me()).without(node);
        let tells = |other: NodeId| {
            self.linked(other)
                && self
                    .peer_state(other)
                    .is_some_and(|state| state.hears.contains(node))
        };
        others.iter().any(tells)
    }

    /// Why a node is no member, or is about to be none.
    fn node_problem(&self, node: NodeId) -> Option<Problem> {
        let facts = self.facts(node);
        let is_member = self.known.members.contains(node);
        if is_member && facts.linked {
            return None;
        }
        let is_cut = facts.alive_apart || !self.linked(node) && self.is_heard_by_another(node);
        let without = if is_member { "node" } else { "without node" };
        let of = |cause, why: &str| Problem::new(cause, format!("{without} {node}: {why}"));
        Some(if is_cut && self.refuses(node) {
            return None;
        } else if is_cut {
            of(
                Cause::NetworkCut,
                "the network between it and another node is cut: it is alive, and is not heard, or does not hear",
            )
            .next(MEND_THE_NETWORK)
        } else if !self.in_view(node) && self.linked(node) {
            of(
                Cause::NodeOut,
                "the external membership monitor says that it is gone, and it is heard: it counts again once the monitor says that it is there",
            )
            .next("ccdctl reconfigure --built-in")
        } else if !facts.linked {
            of(
                Cause::NodeOut,
                "nothing is heard of it, so what it can use is not known",
            )
            .next(format!("on node {node}: systemctl status ccdd"))
        } else if self.is_at_odds_with(node) || self.tells_of_elsewhere(node) {
            // An epoch that was decided twice, or on copies of the devices, is said already, and why.
            return None;
        } else if !facts.willing {
            return Some(
                Problem::new(Cause::Left, "left by request, and takes part in nothing")
                    .on(node)
                    .next("ccdctl join"),
            );
        } else if let Some(trouble) = facts.trouble {
            of(Cause::NodeOut, &format!("it {}", CopyTrouble::name(trouble)))
        } else if facts.slow {
            of(
                Cause::NodeOut,
                "it did not keep up, and is taken in again after a pause",
            )
        } else if facts.held_back {
            of(
                Cause::NodeOut,
                "it came and went, and is taken in again after a pause",
            )
        } else if !facts.ready {
            of(Cause::NodeOut, "it has not read its local copy yet")
        } else if self.held_out().contains(node) {
            let but = (facts.no_vote).map_or_else(String::new, |why| format!(", but {}", why.name()));
            let why = format!("it follows{but}: it is taken in once a device can be used together with it");
            of(Cause::NodeOut, &why)
        } else if let Some(member) = self.member_apart_from(node) {
            let why = format!("it and node {member} do not hear each other, and it is taken in once they do");
            of(Cause::NetworkCut, &why).next(MEND_THE_NETWORK)
        } else {
            of(Cause::NodeOut, "it is catching up, to join")
        })
    }
}
