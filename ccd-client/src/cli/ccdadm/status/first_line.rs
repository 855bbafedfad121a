//! The first line of a status: what is, its cause, what works meanwhile, and what to run next. The other problems follow, one a line.

use super::names::with_names;
use super::{node_name, part_name};
use crate::wire::StatusReport;
use ccd_core::ids::NodeId;
use ccd_core::problem::{Cause, Health, Problem};
use ccd_core::protocol::ServingState;

/// The verdict in a few words, and the rest of the line.
pub(super) struct FirstLine {
    pub verdict: String,
    /// Begins with what separates it from the verdict; empty if all is well.
    pub rest: String,
    /// What else was found.
    pub others: Vec<String>,
}

impl FirstLine {
    pub fn of(report: &StatusReport) -> Self {
        let status = &report.status;
        let verdict = match (status.health(), status.state) {
            (Health::Redundant, _) => "serving, all redundant".to_owned(),
            (Health::Degraded, ServingState::Closed) => "QUERIES ONLY".to_owned(),
            (Health::Degraded, _) => "serving, degraded".to_owned(),
            (Health::NotServing, state) => format!("NOT SERVING, {}", state.name()),
        };
        let mut problems = status.problems.iter();
        let cause = problems.next();
        let text = cause.map(|problem| text_of_all(report, problem));
        // What is waited for is the way out, also where something else is the cause.
        let waits = status
            .problems
            .iter()
            .skip(1)
            .find(|problem| problem.cause == Cause::Waits);
        let missing = waits.and_then(|problem| problem.text.split_once("missing: "));
        let missing = missing.map(|(_, parts)| format!("missing: {}", with_names(report, parts)));
        let parts = [
            text,
            missing,
            what_works(report),
            cause.and_then(|problem| next(report, problem)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let colon = if parts.is_empty() { "" } else { ": " };
        Self {
            verdict,
            rest: format!("{colon}{}", parts.join("; ")),
            others: problems
                .map(|problem| match next(report, problem) {
                    Some(next) => format!("{}; {next}", self::text(report, problem)),
                    None => self::text(report, problem),
                })
                .collect(),
        }
    }
}

/// `on beta: the secondary cannot be used: …`
fn text(report: &StatusReport, problem: &Problem) -> String {
    let text = with_names(report, &problem.text);
    match problem.node {
        Some(node) => format!("on {}: {text}", node_name(report, node)),
        None => text,
    }
}

/// The same of the first problem. One that several nodes have, or both devices of a node, is one cause, as an array that is down:
/// `on alpha and beta: the secondary …`, `on beta: both devices: the primary …`
fn text_of_all(report: &StatusReport, first: &Problem) -> String {
    let may_be_shared = matches!(
        first.cause,
        Cause::DeviceUnusable | Cause::DeviceDamaged | Cause::DeviceForgot | Cause::TooSmall
    );
    let (Some(_), Some(device), true) = (first.node, first.device, may_be_shared) else {
        return text(report, first);
    };
    let alike = report
        .status
        .problems
        .iter()
        .filter(|other| other.cause == first.cause);
    let mut nodes: Vec<String> = Vec::new();
    let mut is_both = false;
    for problem in alike {
        if let (Some(node), true) = (problem.node, problem.device == Some(device)) {
            let name = node_name(report, node);
            if !nodes.contains(&name) {
                nodes.push(name);
            }
        }
        is_both |= problem.node == first.node && problem.device.is_some_and(|other| other != device);
    }
    let both = if is_both { "both devices: " } else { "" };
    format!(
        "on {}: {both}{}",
        nodes.join(" and "),
        with_names(report, &first.text)
    )
}

/// `next, on beta: ccd-disk show …`
fn next(report: &StatusReport, problem: &Problem) -> Option<String> {
    if problem.next.is_empty() {
        return None;
    }
    let elsewhere = problem.node.filter(|node| *node != report.status.me);
    let place = elsewhere.map_or_else(String::new, |node| format!(", on {}", node_name(report, node)));
    Some(format!("next{place}: {}", with_names(report, &problem.next)))
}

/// What the cluster still does, and what it would not survive.
fn what_works(report: &StatusReport) -> Option<String> {
    let status = &report.status;
    match (status.health(), status.state) {
        (Health::Redundant, _) => None,
        (Health::Degraded, ServingState::Closed) => Some("queries work, updates do not".to_owned()),
        (Health::Degraded, _) if !status.takes_updates => Some("queries work, updates wait".to_owned()),
        (Health::Degraded, _) => {
            let lost = status.survives.iter().filter(|(_, survives)| !survives);
            let lost: Vec<String> = lost.map(|(part, _)| named(report, *part)).collect();
            Some(if lost.is_empty() {
                "queries and updates work, and would go on after any single loss".to_owned()
            } else {
                format!(
                    "queries and updates work, and would stop with the loss of {}",
                    lost.join(", or of ")
                )
            })
        }
        (Health::NotServing, _) => {
            let serving = status
                .nodes
                .iter()
                .filter(|node| node.serving && node.id != status.me);
            let names: Vec<String> = serving.map(|node| node_name(report, node.id)).collect();
            Some(if names.is_empty() {
                "no update is taken here; `ccdadm query --stale` answers from the local copy, if that was read".to_owned()
            } else {
                format!("{} serves, and answers queries and updates", names.join(", "))
            })
        }
    }
}

fn named(report: &StatusReport, part: ccd_core::protocol::Part) -> String {
    match part {
        ccd_core::protocol::Part::Node(node) => node_name(report, node),
        ccd_core::protocol::Part::Device(_) => format!("the {}", part_name(part)),
    }
}

/// Problems as JSON.
pub(super) fn document(report: &StatusReport) -> Vec<serde_json::Value> {
    let name = |node: NodeId| node_name(report, node);
    (report.status.problems.iter())
        .map(|problem| {
            serde_json::json!({
                "cause": problem.cause,
                "node": problem.node.map(name),
                "device": problem.device.map(|role| role.name()),
                "text": with_names(report, &problem.text),
                "next": with_names(report, &problem.next),
            })
        })
        .collect()
}
