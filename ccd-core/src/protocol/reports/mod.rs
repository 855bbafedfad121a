//! What nodes find wrong with themselves, and how the others learn of it: heartbeats carry a number that rises with each change, and
//! who has not seen that one asks for what it stands for. So a report costs no message while nothing changes.
//!
//! ```text
//! own.rs       what this node finds at itself: its copy, its devices, who it is; with what the daemon adds
//! cluster.rs   what it finds of the cluster: who is missing, what is waited for, what operators have decided
//! ```
//!
//! Owns `report`, and `Peer::report`.

mod cluster;
mod own;

use super::Node;
use super::message::Message;
use crate::ids::{Incarnation, NodeId};
use crate::problem::{PROBLEMS_MAX, Problem, sorted};
use alloc::vec::Vec;

/// What this node tells of itself.
#[derive(Debug, Default)]
pub(super) struct OwnReport {
    /// Counts the changes in this run; 0: nothing was ever wrong.
    pub number: u64,
    problems: Vec<Problem>,
    /// What the driver sees and this node cannot.
    of_driver: Vec<Problem>,
}

/// What another node told of itself.
#[derive(Debug, Default)]
pub(super) struct HeardReport {
    run: Incarnation,
    number: u64,
    problems: Vec<Problem>,
}

impl Node {
    /// The driver has found this, and nothing else.
    pub(super) fn on_problems(&mut self, problems: Vec<Problem>) {
        self.report.of_driver = problems;
        self.renew_report();
    }

    /// Looks at what is wrong here; before each heartbeat.
    pub(super) fn renew_report(&mut self) {
        let mut problems = sorted(self.own_problems());
        problems.truncate(PROBLEMS_MAX);
        let problems: Vec<Problem> = problems.into_iter().map(Problem::shortened).collect();
        if problems != self.report.problems {
            self.report.problems = problems;
            self.report.number = self.report.number.saturating_add(1);
        }
    }

    /// A heartbeat came: the report that it names is asked for, unless it is here.
    pub(super) fn look_for_report(&mut self, from: NodeId) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let Some(state) = &peer.state else {
            return;
        };
        if peer.report.run != state.incarnation {
            peer.report = HeardReport {
                run: state.incarnation,
                ..HeardReport::default()
            };
        }
        if peer.report.number != state.report {
            self.send(from, Message::ReportAsk);
        }
    }

    pub(super) fn on_report_ask(&mut self, from: NodeId) {
        let message = Message::Report {
            run: self.settings.incarnation,
            number: self.report.number,
            problems: self.report.problems.clone(),
        };
        self.send(from, message);
    }

    pub(super) fn on_report(&mut self, from: NodeId, run: Incarnation, number: u64, problems: Vec<Problem>) {
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        if peer.report.run == run && peer.report.number < number {
            let of_sender = |problem: Problem| problem.on(from);
            peer.report.number = number;
            peer.report.problems = problems.into_iter().map(of_sender).collect();
        }
    }

    /// What that node last said is wrong with it; nothing if it is not linked.
    pub(super) fn reported(&self, node: NodeId) -> &[Problem] {
        let peer = self.peers.get(&node).filter(|_| self.linked(node));
        peer.map_or(&[], |peer| peer.report.problems.as_slice())
    }

    /// All that is wrong anywhere, as far as this node knows: what explains the rest comes first.
    pub(super) fn problems(&self, serving: bool) -> Vec<Problem> {
        let mut all = self.own_problems();
        for node in self.peers.keys() {
            all.extend_from_slice(self.reported(*node));
        }
        all.extend(self.cluster_problems(serving));
        sorted(all)
    }
}
