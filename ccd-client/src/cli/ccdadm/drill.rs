//! `ccdadm drill`: would the cluster survive the next loss, and do its devices do what they are there for?

use super::PROGRAM;
use super::status::node_name;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::{Terminal, Tone};
use crate::exit::Exit;
use crate::messages::{self, Message};
use crate::wire::StatusReport;
use ccd_core::drill::{DrillReport, DrilledDevice, Enforcement, Latency, Rehearsal, Rehearsed};
use ccd_core::ids::{DeviceSet, NodeId};
use ccd_core::init::Fencing;
use serde_json::{Value, json};

/// Rehearse every single loss on today's state, and test the devices, without disturbing anything
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads back who is registered on each device, writes and times a block that is always zero, has a
member that does not hold the reservation give its registration up for a moment to show that its
write is refused, and asks the vote rule what would come of each single loss and each lone start.
Updates go on meanwhile.

Examples:
  ccdadm drill
  ccdadm drill --json | jq '.rehearsals[] | select(.goes_on | not)'

Exit codes: 0 every single loss would be survived and the devices protect, 1 something would not
be survived or could not be shown, 2 not serving, 107 a device took a write that it should have
refused.")]
pub(super) struct Drill {}

impl Drill {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "drill";
        let client = common.attach(PROGRAM, doing)?;
        let status = client.status().doing(doing)?;
        let progress = terminal.progress(doing);
        let report = client.drill();
        drop(progress);
        let report = report.doing(doing)?;
        if terminal.json {
            terminal.document(&document(&status, &report))?;
        } else {
            print(&status, &report, terminal)?;
        }
        match flaw(&status, &report) {
            None => Ok(Exit::Done),
            Some((message, why)) => Err(Stop::new(message, doing, why)),
        }
    }
}

/// A single loss, as opposed to all nodes stopping at once.
fn is_single_loss(rehearsal: &Rehearsal) -> bool {
    !matches!(rehearsal.event, Rehearsed::LoneStart { .. })
}

/// What is worst about it.
fn flaw(status: &StatusReport, report: &DrillReport) -> Option<(&'static Message, String)> {
    for device in &report.devices {
        if let Enforcement::Taken { node } = device.proof {
            let why = format!(
                "the {} took a write of {}, which was not registered there",
                device.role,
                node_name(status, node)
            );
            return Some((&messages::DRILL_UNPROTECTED, why));
        }
    }
    let lost = report
        .rehearsals
        .iter()
        .find(|rehearsal| is_single_loss(rehearsal) && !rehearsal.goes_on);
    if let Some(rehearsal) = lost {
        let why = format!(
            "if {}, the cluster stops; missing then: {}",
            event(status, rehearsal.event),
            rehearsal.missing
        );
        return Some((&messages::DRILL_WEAK, why));
    }
    let away = report.devices.iter().find(|device| !device.usable);
    if let Some(device) = away {
        return Some((
            &messages::DRILL_WEAK,
            format!("the {} cannot be used", device.role),
        ));
    }
    let unshown = report.devices.iter().find_map(|device| match &device.proof {
        Enforcement::NotShown { why } if status.fencing == Fencing::Scsi => Some((device.role, why)),
        _ => None,
    });
    unshown.map(|(role, why)| {
        (
            &messages::DRILL_WEAK,
            format!("that the {role} refuses a write without registration could not be shown: {why}"),
        )
    })
}

fn event(status: &StatusReport, event: Rehearsed) -> String {
    match event {
        Rehearsed::NodeDies(node) => format!("{} dies", node_name(status, node)),
        Rehearsed::DeviceFails(role) => format!("the {role} fails"),
        Rehearsed::LoneStart { node, devices } => {
            format!(
                "all stop, and {} starts alone {}",
                node_name(status, node),
                with(devices)
            )
        }
    }
}

fn with(devices: DeviceSet) -> String {
    match (devices.primary, devices.secondary) {
        (true, true) => String::from("with both devices"),
        (true, false) => String::from("with the primary only"),
        (false, true) => String::from("with the secondary only"),
        (false, false) => String::from("without a device"),
    }
}

fn print(status: &StatusReport, report: &DrillReport, terminal: &mut Terminal) -> Result<(), Stop> {
    let rows = report.rehearsals.iter().map(|rehearsal| {
        let (word, tone) = match (rehearsal.goes_on, is_single_loss(rehearsal)) {
            (true, _) => ("goes on", Tone::Good),
            (false, true) => ("STOPS", Tone::Bad),
            (false, false) => ("waits", Tone::Bad),
        };
        let missing = if rehearsal.missing.is_empty() {
            String::new()
        } else {
            format!("missing: {}", rehearsal.missing)
        };
        vec![
            event(status, rehearsal.event),
            terminal.toned(word, tone),
            missing,
        ]
    });
    terminal.line(&table(&["IF", "THE CLUSTER", ""], rows.collect()))?;
    if report.devices.is_empty() {
        return Ok(());
    }
    terminal.line("")?;
    let rows = report.devices.iter().map(|device| {
        vec![
            device.role.to_string(),
            if device.usable { "usable" } else { "AWAY" }.to_owned(),
            told(device.write),
            told(device.heartbeat),
            registered(status, device),
            proof(status, &device.proof),
        ]
    });
    let heading = [
        "DEVICE",
        "STATE",
        "WRITE",
        "HEARTBEAT",
        "REGISTERED",
        "WRITE WITHOUT REGISTRATION",
    ];
    terminal.line(&table(&heading, rows.collect()))
}

fn told(latency: Latency) -> String {
    if latency.count == 0 {
        return String::from("-");
    }
    let ms = |span: core::time::Duration| format!("{:.1}", span.as_secs_f64() * 1e3);
    format!("{} ms, longest {}", ms(latency.median), ms(latency.longest))
}

fn registered(status: &StatusReport, device: &DrilledDevice) -> String {
    let Some(seen) = &device.reservation else {
        return String::from("-");
    };
    let names: Vec<String> = (seen.keys.iter())
        .map(|key| {
            let whose = key.node(status.cluster_id).map(|node| node_name(status, node));
            let holds = seen.holder.is_some_and(|holder| holder.key == *key);
            format!(
                "{}{}",
                whose.unwrap_or_else(|| key.to_string()),
                if holds { "*" } else { "" }
            )
        })
        .collect();
    let paths = match seen.paths_missing {
        0 => String::new(),
        count => format!(" ({count} paths missing)"),
    };
    format!("{}{paths}", names.join(", "))
}

fn proof(status: &StatusReport, proof: &Enforcement) -> String {
    match proof {
        Enforcement::Refused { node, .. } => format!("refused (tried by {})", node_name(status, *node)),
        Enforcement::Taken { node } => format!("TAKEN (tried by {})", node_name(status, *node)),
        Enforcement::NotShown { why } => format!("not shown: {why}"),
    }
}

fn document(status: &StatusReport, report: &DrillReport) -> Value {
    let node = |id: NodeId| node_name(status, id);
    let rehearsals: Vec<Value> = (report.rehearsals.iter())
        .map(|rehearsal| {
            let mut value = match rehearsal.event {
                Rehearsed::NodeDies(id) => json!({ "event": "node_dies", "node": node(id) }),
                Rehearsed::DeviceFails(role) => json!({ "event": "device_fails", "device": role.name() }),
                Rehearsed::LoneStart { node: id, devices } => json!({
                    "event": "lone_start",
                    "node": node(id),
                    "devices": devices.iter().map(|role| role.name()).collect::<Vec<_>>(),
                }),
            };
            value["goes_on"] = json!(rehearsal.goes_on);
            value["missing"] = json!(rehearsal.missing);
            value
        })
        .collect();
    let devices: Vec<Value> = (report.devices.iter())
        .map(|device| {
            let (outcome, by, text) = match &device.proof {
                Enforcement::Refused { node: id, how } => ("refused", Some(node(*id)), how.clone()),
                Enforcement::Taken { node: id } => ("taken", Some(node(*id)), String::new()),
                Enforcement::NotShown { why } => ("not_shown", None, why.clone()),
            };
            json!({
                "role": device.role.name(),
                "usable": device.usable,
                "registered": registered(status, device),
                "unregistered_write": { "outcome": outcome, "by": by, "text": text },
                "write": latency(device.write),
                "heartbeat": latency(device.heartbeat),
            })
        })
        .collect();
    json!({
        "survives_every_single_loss": report.rehearsals.iter().filter(|one| is_single_loss(one)).all(|one| one.goes_on),
        "rehearsals": rehearsals,
        "devices": devices,
    })
}

fn latency(latency: Latency) -> Value {
    json!({
        "count": latency.count,
        "median_us": latency.median.as_micros() as u64,
        "longest_us": latency.longest.as_micros() as u64,
    })
}
