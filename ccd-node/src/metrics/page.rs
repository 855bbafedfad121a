//! Status and counters as families of metrics. Pure. Called by the event loop when the page is asked for.
//!
//! Always holds: what has a label is bounded by what the init database names (nodes, devices, addresses) or by what the program
//! knows (states, reasons); nothing of the database's content is on the page.

use super::counters::Counters;
use super::exposition::{Exposition, Kind};
use super::process::Process;
use ccd_client::wire::{LinkState, StatusReport};
use ccd_core::configuration::{Mode, Quorum};
use ccd_core::ids::{NodeId, Replica};
use ccd_core::problem::{Cause, Health};
use ccd_core::protocol::{Part, ServingState};
use ccd_mirror::{LATENCY_BOUNDS_MICROS, LaneReport, Latencies, LongWork};
use std::collections::BTreeMap;

const STATES: [ServingState; 6] = [
    ServingState::Starting,
    ServingState::Waiting,
    ServingState::Reconfiguring,
    ServingState::Serving,
    ServingState::Closed,
    ServingState::Left,
];

/// What the page is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub report: &'a StatusReport,
    pub counters: &'a Counters,
    pub lanes: &'a [LaneReport],
    /// Connections of clients on both sockets, and watchers.
    pub clients: usize,
    pub watchers: usize,
    /// What clients were told instead of an answer, by reason.
    pub faults: &'a BTreeMap<&'static str, u64>,
    pub process: Process,
}

/// The page.
pub fn page(facts: &Facts<'_>) -> String {
    let mut page = Exposition::default();
    node(&mut page, facts);
    problems(&mut page, facts.report);
    cluster(&mut page, facts.report);
    devices(&mut page, facts.report);
    replicas(&mut page, facts.lanes);
    clients(&mut page, facts);
    process(&mut page, facts);
    page.into_text()
}

fn node(page: &mut Exposition, facts: &Facts<'_>) {
    use Kind::Gauge;
    let report = facts.report;
    let status = &report.status;
    let id = report.cluster_id.to_string();
    let me = name_of(report, status.me);
    page.family(
        "ccd_build_info",
        Gauge,
        "Version of the daemon, its cluster and its node; always 1.",
    )
    .sample(
        &[
            ("version", &report.daemon_version),
            ("cluster", &report.cluster_name),
            ("cluster_id", &id),
            ("node", &me),
        ],
        1,
    );
    page.family("ccd_uptime_seconds", Gauge, "Since the daemon started.")
        .sample(&[], report.uptime.as_secs_f64());
    let mut states = page.family(
        "ccd_state",
        Gauge,
        "1 for the state that this node is in, 0 for the others.",
    );
    for state in STATES {
        states.flag(&[("state", state.name())], state == status.state);
    }
    let configuration = status.configuration.as_ref();
    let is_solo = configuration.is_some_and(|known| known.mode != Mode::Paired);
    page.family(
        "ccd_mode",
        Gauge,
        "1 for the mode of the configuration that this node knows.",
    )
    .flag(&[("mode", "paired")], configuration.is_some() && !is_solo)
    .flag(&[("mode", "solo")], is_solo);
    page.family(
        "ccd_epoch",
        Gauge,
        "Number of the configuration that this node knows.",
    )
    .sample(&[], configuration.map_or(0, |known| known.epoch.0));
    page.family(
        "ccd_generation",
        Gauge,
        "Number of the last update that this node holds as committed.",
    )
    .sample(&[], status.position.stamp.generation.0);
    page.family("ccd_rows", Gauge, "Rows of the database.")
        .sample(&[], status.rows);
    page.family("ccd_is_master", Gauge, "Whether this node orders the updates.")
        .flag(
            &[],
            status.state == ServingState::Serving
                && configuration.and_then(|known| known.master()) == Some(status.me),
        );
    page.family("ccd_maintenance", Gauge, "Whether maintenance is on.")
        .flag(&[], configuration.is_some_and(|known| known.maintenance));
    page.family(
        "ccd_quorum_waived",
        Gauge,
        "Whether an operator has given up the majority.",
    )
    .flag(
        &[],
        configuration.is_some_and(|known| known.quorum == Quorum::Waived),
    );
    let mut survives = page.family(
        "ccd_survives_loss",
        Gauge,
        "Whether the cluster would go on taking updates if this part were lost now.",
    );
    for (part, goes_on) in &status.survives {
        let part = match part {
            Part::Node(node) => name_of(report, *node),
            Part::Device(role) => role.to_string(),
        };
        survives.flag(&[("part", &part)], *goes_on);
    }
}

/// What `ccdadm status` says on any node.
fn problems(page: &mut Exposition, report: &StatusReport) {
    let mut healths = page.family(
        "ccd_health",
        Kind::Gauge,
        "1 for the verdict on the cluster, as this node knows it, 0 for the others.",
    );
    for health in [Health::Redundant, Health::Degraded, Health::NotServing] {
        healths.flag(&[("health", health.name())], health == report.status.health());
    }
    let mut causes = page.family(
        "ccd_problems",
        Kind::Gauge,
        "What is wrong in the cluster, as this node knows it, by cause.",
    );
    for cause in Cause::ALL {
        let of_cause = (report.status.problems.iter()).filter(|problem| problem.cause == cause);
        causes.sample(&[("cause", &name_of_cause(cause))], of_cause.count());
    }
}

fn name_of_cause(cause: Cause) -> String {
    let name = serde_json::to_value(cause).ok();
    name.as_ref()
        .and_then(|name| name.as_str())
        .unwrap_or_default()
        .to_owned()
}

fn cluster(page: &mut Exposition, report: &StatusReport) {
    use Kind::Gauge;
    let nodes = &report.status.nodes;
    let names: Vec<String> = nodes.iter().map(|node| name_of(report, node.id)).collect();
    let mut of_each = |name, help, is_so: &dyn Fn(&ccd_core::protocol::NodeStatus) -> bool| {
        let mut family = page.family(name, Gauge, help);
        for (node, name) in nodes.iter().zip(&names) {
            family.flag(&[("node", name)], is_so(node));
        }
    };
    of_each("ccd_node_member", "Whether the node takes part.", &|node| {
        node.member
    });
    of_each(
        "ccd_node_heard",
        "Whether it is heard over the network.",
        &|node| node.heard,
    );
    of_each("ccd_node_serving", "Whether it says that it serves.", &|node| {
        node.serving
    });
    let mut generations = page.family(
        "ccd_node_generation",
        Gauge,
        "Number of the last update that the node's copy holds, as far as this node knows.",
    );
    for (node, name) in nodes.iter().zip(&names) {
        if let Some(position) = node.position {
            generations.sample(&[("node", name)], position.stamp.generation.0);
        }
    }
    let mut leases = page.family(
        "ccd_lease_seconds",
        Gauge,
        "What is left of this node's lease, and of what it has promised to each other node.",
    );
    for (node, name) in nodes.iter().zip(&names) {
        if let Some(lease) = node.lease {
            leases.sample(&[("node", name)], lease.as_secs_f64());
        }
    }
    let mut links = page.family(
        "ccd_link_up",
        Gauge,
        "Whether a way to another node carries heartbeats.",
    );
    for link in &report.links {
        let (node, address) = (name_of(report, link.node), link.address.to_string());
        links.flag(
            &[("node", &node), ("address", &address)],
            link.state == LinkState::Up,
        );
    }
    let mut used = page.family("ccd_link_in_use", Gauge, "Whether updates and votes go over it.");
    for link in &report.links {
        let (node, address) = (name_of(report, link.node), link.address.to_string());
        used.flag(&[("node", &node), ("address", &address)], link.preferred);
    }
}

fn devices(page: &mut Exposition, report: &StatusReport) {
    let devices = &report.status.devices;
    let mut of_each = |name, help, is_so: &dyn Fn(&ccd_core::protocol::DeviceStatus) -> bool| {
        let mut family = page.family(name, Kind::Gauge, help);
        for device in devices {
            family.flag(&[("device", device.role.name())], is_so(device));
        }
    };
    of_each(
        "ccd_device_usable",
        "Whether this node can use the device.",
        &|device| device.usable,
    );
    of_each(
        "ccd_device_in_sync",
        "Whether it is part of the configuration.",
        &|device| device.in_sync,
    );
    of_each(
        "ccd_device_registered",
        "Whether this node may write to it.",
        &|device| device.registered,
    );
}

fn replicas(page: &mut Exposition, lanes: &[LaneReport]) {
    use Kind::{Counter, Gauge};
    let name = |lane: &LaneReport| match lane.replica {
        Replica::Local => "local",
        Replica::Device(role) => role.name(),
    };
    let mut latency = |family, help, of: &dyn Fn(&LaneReport) -> Latencies| {
        let mut family = page.family(family, Kind::Histogram, help);
        for lane in lanes {
            let took = of(lane);
            let labels = [("replica", name(lane))];
            family.histogram(
                &labels,
                &LATENCY_BOUNDS_MICROS,
                &took.counts,
                took.sum.as_secs_f64(),
            );
        }
    };
    latency(
        "ccd_replica_append_seconds",
        "How long it took until a record was durable on the replica, claim check included.",
        &|lane| lane.counted.appends,
    );
    latency(
        "ccd_replica_heartbeat_seconds",
        "How long it took to write a heartbeat to the device and read the others'.",
        &|lane| lane.counted.heartbeats,
    );
    let mut numbers = |family, kind, help, of: &dyn Fn(&LaneReport) -> Option<u64>| {
        let mut family = page.family(family, kind, help);
        for lane in lanes {
            if let Some(number) = of(lane) {
                family.sample(&[("replica", name(lane))], number);
            }
        }
    };
    numbers(
        "ccd_replica_failures_total",
        Counter,
        "Operations that the replica did not do.",
        &|lane| Some(lane.counted.failures),
    );
    numbers(
        "ccd_replica_checkpoints_total",
        Counter,
        "Checkpoints that are durable.",
        &|lane| Some(lane.counted.checkpoints),
    );
    numbers(
        "ccd_replica_waiting",
        Gauge,
        "Operations that wait for the replica.",
        &|lane| Some(lane.waiting as u64),
    );
    numbers(
        "ccd_replica_stuck",
        Gauge,
        "1 while an operation has not come back though its deadline is over.",
        &|lane| Some(u64::from(lane.stuck.is_some())),
    );
    let mut used = page.family(
        "ccd_replica_journal_used_ratio",
        Gauge,
        "How much of the journal was in use after the last record.",
    );
    for lane in lanes {
        if let Some(percent) = lane.counted.journal_used_percent {
            used.sample(&[("replica", name(lane))], f64::from(percent) / 100.0);
        }
    }
    let long = |lane: &LaneReport| lane.progress.filter(|progress| progress.total_bytes > 0);
    let mut written = |family, help, of: &dyn Fn(ccd_mirror::Progress) -> u64| {
        let mut family = page.family(family, Gauge, help);
        for lane in lanes {
            if let Some(progress) = long(lane) {
                let work = match progress.work {
                    LongWork::Checkpoint => "checkpoint",
                    LongWork::Image => "copy",
                };
                family.sample(&[("replica", name(lane)), ("work", work)], of(progress));
            }
        }
    };
    written(
        "ccd_replica_work_done_bytes",
        "Bytes written of a checkpoint or a whole copy; only while there is one.",
        &|progress| progress.done_bytes,
    );
    written(
        "ccd_replica_work_size_bytes",
        "Bytes that a checkpoint or a whole copy has; only while there is one.",
        &|progress| progress.total_bytes,
    );
}

fn clients(page: &mut Exposition, facts: &Facts<'_>) {
    use Kind::{Counter, Gauge};
    let counters = facts.counters;
    page.family(
        "ccd_queries_total",
        Counter,
        "Questions for rows that this node answered.",
    )
    .sample(&[], counters.queries);
    page.family(
        "ccd_updates_committed_total",
        Counter,
        "Updates of this node's clients that were committed.",
    )
    .sample(&[], counters.updates_committed);
    page.family(
        "ccd_updates_rolled_back_total",
        Counter,
        "Updates of this node's clients that were rolled back.",
    )
    .sample(&[], counters.updates_rolled_back);
    let mut refused = page.family(
        "ccd_requests_refused_total",
        Counter,
        "Requests of this node's clients that were not done, by reason.",
    );
    for (reason, count) in counters.refused.iter().chain(facts.faults) {
        refused.sample(&[("reason", reason)], count);
    }
    let mut decisions = page.family(
        "ccd_decisions_total",
        Counter,
        "Decision records of this node, by kind.",
    );
    for (kind, count) in &counters.decisions {
        decisions.sample(&[("kind", kind)], count);
    }
    page.family("ccd_client_connections", Gauge, "Connections of clients.")
        .sample(&[], facts.clients);
    page.family("ccd_watchers", Gauge, "Clients that watch.")
        .sample(&[], facts.watchers);
}

fn process(page: &mut Exposition, facts: &Facts<'_>) {
    use Kind::{Counter, Gauge};
    let process = facts.process;
    if let Some(seconds) = process.cpu_seconds {
        page.family(
            "process_cpu_seconds_total",
            Counter,
            "Time of the processor that the daemon used.",
        )
        .sample(&[], seconds);
    }
    let numbers = [
        (
            "process_resident_memory_bytes",
            "Memory of the daemon.",
            process.resident_bytes,
        ),
        (
            "process_open_fds",
            "Descriptors that the daemon has open.",
            process.open_fds,
        ),
        ("process_threads", "Threads of the daemon.", process.threads),
    ];
    for (name, help, number) in numbers {
        if let Some(number) = number {
            page.family(name, Gauge, help).sample(&[], number);
        }
    }
}

fn name_of(report: &StatusReport, node: NodeId) -> String {
    let named = report.node_names.iter().find(|named| named.id == node);
    named.map_or_else(|| node.to_string(), |named| named.name.clone())
}
