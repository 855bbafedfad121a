//! The status as JSON: what `docs/json.md` promises.

use super::names::with_names;
use super::registrations::{Registration, registrations};
use super::{
    device_path, device_state, external_view, first_line, link_state, node_name, node_state, part_name, work,
};
use crate::wire::{LinkReport, StatusReport};
use ccd_core::configuration::{Mode, Quorum};
use ccd_core::protocol::ServingState;
use serde_json::{Map, Value, json};

pub(in crate::cli::ccdadm) fn document(report: &StatusReport) -> Value {
    let status = &report.status;
    let first = first_line::FirstLine::of(report);
    let configuration = status.configuration.as_ref();
    let mode = configuration.map(|configuration| match configuration.mode {
        Mode::Paired => "paired",
        Mode::Solo(_) => "solo",
    });
    let master = configuration.and_then(ccd_core::configuration::Configuration::master);
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": u8::from(node.id),
                "name": node_name(report, node.id),
                "state": node_state(node),
                "stamp": node.position.map(|position| position.stamp.to_string()),
                "lineage": node.position.map(|position| position.lineage.to_string()),
                "lease_ms": node.lease.map(|lease| lease.as_millis() as u64),
                "member": node.member,
                "heard": node.heard,
                "seen_on_disk": node.seen_on_disk,
                "me": node.id == status.me,
                "links": report.links.iter().filter(|link| link.node == node.id).map(link_document).collect::<Vec<_>>(),
            })
        })
        .collect();
    let devices: Vec<Value> = status
        .devices
        .iter()
        .map(|device| {
            json!({
                "role": device.role.name(),
                "path": device_path(report, device),
                "state": device_state(device),
                "fencing": report.fencing.name(),
                "registered": device.registered,
                "keys": registrations(report, device).iter().map(Registration::to_json).collect::<Vec<_>>(),
                "in_sync": device.in_sync,
                "error": device.error.as_ref().map(|error| with_names(report, error)),
                "elsewhere": device.elsewhere.iter().map(|seen| json!({
                    "node": node_name(report, seen.node),
                    "usable": seen.usable,
                    "error": seen.error.as_ref().map(|error| with_names(report, error)),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let survives: Map<String, Value> = status
        .survives
        .iter()
        .map(|(part, survives)| (part_name(*part), json!(survives)))
        .collect();
    json!({
        "cluster": {
            "name": report.cluster_name,
            "id": report.cluster_id.to_string(),
            "state": status.state.name(),
            "health": status.health().name(),
            "first_line": format!("{}{}", first.verdict, first.rest),
            "verdict": with_names(report, &status.verdict),
            "takes_updates": status.takes_updates,
            "mode": mode,
            "owner": configuration.and_then(|configuration| configuration.owner()).map(|node| node_name(report, node)),
            "epoch": configuration.map_or(0, |configuration| configuration.epoch.0),
            "generation": status.position.stamp.generation.0,
            "lineage": status.position.lineage.to_string(),
            "master": master.map(|node| node_name(report, node)),
            "designated": configuration
                .and_then(|configuration| configuration.designated)
                .map(|node| node_name(report, node)),
            "quorum": status.state == ServingState::Serving,
            "maintenance": configuration.is_some_and(|configuration| configuration.maintenance),
            "view": external_view(report),
            "quorum_required": configuration.is_none_or(|configuration| configuration.quorum == Quorum::Required),
            "rows": status.rows,
        },
        "nodes": nodes,
        "devices": devices,
        "survives": survives,
        "problems": first_line::document(report),
        "work": report.work.iter().map(work::document).collect::<Vec<_>>(),
        "daemon": {
            "version": report.daemon_version,
            "pid": report.daemon_pid,
            "uptime_ms": report.uptime.as_millis() as u64,
        },
    })
}

fn link_document(link: &LinkReport) -> Value {
    let connection = link.connection.as_ref();
    json!({
        "address": link.address.to_string(),
        "state": link_state(link),
        "preferred": link.preferred,
        "protocol": connection.map(|connection| connection.version),
        "epoch": connection.map(|connection| connection.epoch.0),
        "authkey": connection.map(|connection| &connection.authkey),
        "trouble": (!link.trouble.is_empty()).then_some(&link.trouble),
    })
}
