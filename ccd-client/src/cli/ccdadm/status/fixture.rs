//! Reports of a cluster in several states, for tests of what is drawn.

use crate::wire::{DatedDecision, LinkReport, LinkState, NodeName, StatusReport};
use ccd_core::configuration::{Configuration, Mode};
use ccd_core::ids::{
    ClusterId, DeviceRole, DeviceSet, Epoch, Generation, Lineage, NodeId, NodeSet, Position, Stamp,
};
use ccd_core::init::Fencing;
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::{Decision, DecisionKind, DeviceStatus, NodeStatus, Part, ServingState, Status};
use ccd_core::time::Date;
use std::time::Duration;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

pub fn node(number: u8) -> NodeId {
    NodeId::new(number).expect("a node number")
}

fn position(generation: u64) -> Position {
    Position {
        stamp: Stamp {
            epoch: Epoch(6),
            generation: Generation(generation),
        },
        lineage: Lineage([0xab; 32]),
    }
}

/// A cluster whose nodes all serve, as node 0 sees it.
pub fn whole(nodes: u8, devices: bool) -> StatusReport {
    let ids: Vec<NodeId> = (0..nodes).map(node).collect();
    let all: NodeSet = ids.iter().copied().collect();
    let roles: DeviceSet = DeviceRole::ALL.into_iter().filter(|_| devices).collect();
    let configuration = Configuration {
        epoch: Epoch(6),
        mode: Mode::Paired,
        members: all,
        ..Configuration::genesis(all, roles)
    };
    let status = |id: &NodeId| NodeStatus {
        id: *id,
        member: true,
        heard: true,
        seen_on_disk: false,
        serving: true,
        position: Some(position(4711)),
        lease: Some(Duration::from_millis(930)),
    };
    let link = |id: &NodeId| LinkReport {
        node: *id,
        address: format!("10.0.0.{}:5640", u8::from(*id) + 1)
            .parse()
            .expect("an address"),
        state: LinkState::Up,
        preferred: true,
        connection: None,
        trouble: String::new(),
        refused: false,
    };
    StatusReport {
        cluster_name: "prod".into(),
        cluster_id: ClusterId([0xab; 16]),
        status: Status {
            me: node(0),
            state: ServingState::Serving,
            problems: Vec::new(),
            verdict: String::new(),
            configuration: Some(configuration),
            position: position(4711),
            rows: 12,
            date: Date(0),
            nodes: ids.iter().map(status).collect(),
            devices: (roles.iter())
                .map(|role| DeviceStatus {
                    role,
                    usable: true,
                    in_sync: true,
                    error: None,
                    reservation: None,
                    registered: true,
                    elsewhere: Vec::new(),
                })
                .collect(),
            external: None,
            takes_updates: true,
            survives: ids.iter().map(|id| (Part::Node(*id), true)).collect(),
        },
        node_names: ids
            .iter()
            .zip(NAMES)
            .map(|(id, name)| NodeName {
                id: *id,
                name: name.into(),
            })
            .collect(),
        device_paths: roles
            .iter()
            .map(|role| (role, format!("/dev/ccd/prod/{role}")))
            .collect(),
        fencing: Fencing::Lease,
        lease: Duration::from_secs(1),
        daemon_version: "0.1.0".into(),
        daemon_pid: 4711,
        uptime: Duration::from_secs(9),
        links: ids.iter().skip(1).map(link).collect(),
        work: Vec::new(),
    }
}

/// Node 0 goes on alone; the secondary is lost.
pub fn solo() -> StatusReport {
    let mut report = whole(2, true);
    if let Some(configuration) = &mut report.status.configuration {
        configuration.mode = Mode::Solo(node(0));
        configuration.members = NodeSet::of(node(0));
    }
    let other = &mut report.status.nodes[1];
    (other.member, other.heard, other.serving) = (false, false, false);
    let lost = &mut report.status.devices[1];
    (lost.usable, lost.in_sync) = (false, false);
    lost.error = Some("no answer for 2000 ms".into());
    report.links[0].state = LinkState::Down;
    report.status.problems = vec![Problem::new(
        Cause::NodeOut,
        "without node 1 and without the secondary",
    )];
    report
}

pub fn decision(kind: DecisionKind, text: &str) -> DatedDecision {
    let decision = Decision {
        kind,
        configuration: None,
        text: text.into(),
    };
    DatedDecision::once(Date(861_184_187_000), node(0), decision)
}
