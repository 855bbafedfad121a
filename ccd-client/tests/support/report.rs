//! What the daemon says of a cluster of two nodes and two devices, when all is well.

use super::node;
use ccd_client::wire::{ConnectionReport, DatedDecision, LinkReport, LinkState, NodeName, StatusReport};
use ccd_core::configuration::{Configuration, Mode};
use ccd_core::ids::{ClusterId, DeviceRole, DeviceSet, Epoch, NodeSet, Position};
use ccd_core::init::Fencing;
use ccd_core::protocol::{Decision, DecisionKind, DeviceStatus, NodeStatus, Part, ServingState, Status};
use ccd_core::time::Date;
use std::time::Duration;

pub fn decision() -> DatedDecision {
    let decision = Decision {
        kind: DecisionKind::StoppedServing,
        configuration: Some(configuration()),
        text: "the lease ran out".into(),
    };
    DatedDecision::once(Date(861_184_187_000), node(0), decision)
}

fn configuration() -> Configuration {
    let nodes: NodeSet = [node(0), node(1)].into_iter().collect();
    let devices: DeviceSet = DeviceRole::ALL.into_iter().collect();
    Configuration {
        epoch: Epoch(6),
        mode: Mode::Paired,
        members: nodes,
        ..Configuration::genesis(nodes, devices)
    }
}

/// Two nodes and two devices, all well.
pub fn report() -> StatusReport {
    let nodes = [node(0), node(1)];
    StatusReport {
        cluster_name: "prod".into(),
        cluster_id: ClusterId([0xab; 16]),
        status: Status {
            me: node(0),
            state: ServingState::Serving,
            problems: Vec::new(),
            verdict: String::new(),
            configuration: Some(configuration()),
            position: Position::EMPTY,
            rows: 12,
            date: Date(0),
            nodes: nodes
                .map(|id| NodeStatus {
                    id,
                    member: true,
                    heard: true,
                    seen_on_disk: true,
                    serving: true,
                    position: Some(Position::EMPTY),
                    lease: (id != node(0)).then_some(Duration::from_millis(870)),
                })
                .to_vec(),
            devices: DeviceRole::ALL
                .map(|role| DeviceStatus {
                    role,
                    usable: true,
                    in_sync: true,
                    error: None,
                    reservation: None,
                    registered: true,
                    elsewhere: Vec::new(),
                })
                .to_vec(),
            external: None,
            takes_updates: true,
            survives: nodes
                .map(|id| (Part::Node(id), true))
                .into_iter()
                .chain(DeviceRole::ALL.map(|role| (Part::Device(role), true)))
                .collect(),
        },
        node_names: vec![
            NodeName {
                id: node(0),
                name: "alpha".into(),
            },
            NodeName {
                id: node(1),
                name: "beta".into(),
            },
        ],
        device_paths: DeviceRole::ALL
            .map(|role| (role, format!("/dev/{role}")))
            .to_vec(),
        fencing: Fencing::Lease,
        lease: Duration::from_secs(1),
        daemon_version: "0.1.0".into(),
        daemon_pid: 4711,
        uptime: Duration::from_secs(9),
        links: vec![
            LinkReport {
                node: node(1),
                address: "10.0.0.2:5640".parse().expect("it is an address"),
                state: LinkState::Up,
                preferred: true,
                connection: Some(ConnectionReport {
                    version: 1,
                    epoch: Epoch(6),
                    authkey: "0123456789abcdef".into(),
                }),
                trouble: String::new(),
                refused: false,
            },
            LinkReport {
                node: node(1),
                address: "10.1.0.2:5640".parse().expect("it is an address"),
                state: LinkState::Down,
                preferred: false,
                connection: None,
                trouble: "cannot connect: no route".into(),
                refused: false,
            },
        ],
        work: Vec::new(),
    }
}
