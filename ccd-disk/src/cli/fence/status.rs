//! `ccd-disk fence status`.

use super::super::output::{Output, table};
use super::super::{Failure, Global, cluster, exit};
use super::StatusArgs;
use super::situation::{ShownKey, Situation};
use crate::fencing::{DeviceKind, PathIdentity};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Serialize)]
pub struct ShownDevice {
    pub device: String,
    pub kind: DeviceKind,
    pub wwid: Option<String>,
    pub cluster: Option<String>,
    pub cluster_id: Option<String>,
    pub paths: Vec<PathIdentity>,
    /// One sentence.
    pub verdict: String,
    pub supported: bool,
    /// Anything but this cluster's nodes, or nothing at all.
    pub good: bool,
    pub generation: u32,
    pub holder: Option<ShownHolder>,
    pub keys: Vec<ShownKey>,
}

#[derive(Debug, Serialize)]
pub struct ShownHolder {
    pub key: String,
    pub owner: String,
    /// Write exclusive, registrants only: any other type does not protect as it should.
    pub right_type: bool,
}

pub fn run(global: &Global, args: &StatusArgs, output: &mut Output) -> Result<u8, Failure> {
    let devices = if args.devices.is_empty() {
        let init = cluster::of(global)?;
        let rows = init.devices().iter();
        let devices: Vec<PathBuf> = rows.map(|row| PathBuf::from(&row.path)).collect();
        if devices.is_empty() {
            let text = "CCD-2111 this cluster has no devices, and none was named; see `ccd-disk fence status --help`";
            return Err(Failure::new(exit::USAGE, text));
        }
        devices
    } else {
        args.devices.clone()
    };
    let mut shown = Vec::new();
    for device in &devices {
        shown.push(ShownDevice::new(&Situation::of(global, device)?));
    }
    output.result(&shown, |to| {
        for (index, device) in shown.iter().enumerate() {
            if index > 0 {
                writeln!(to)?;
            }
            device.print(to)?;
        }
        Ok(())
    })?;
    let good = shown.iter().all(|device| device.good);
    Ok(if good { exit::DONE } else { exit::NO })
}

impl ShownDevice {
    pub fn new(situation: &Situation) -> Self {
        let identity = &situation.identity;
        let holder = situation.found.holder.map(|holder| ShownHolder {
            key: holder.key.to_string(),
            owner: situation.owner_text(holder.key),
            right_type: holder.right_type,
        });
        let (good, verdict) = verdict(situation);
        Self {
            device: situation.device.clone(),
            kind: identity.kind,
            wwid: identity.wwid.clone(),
            cluster: situation.cluster.as_ref().map(|of| of.name.clone()),
            cluster_id: situation.cluster.as_ref().map(|of| of.cluster.to_string()),
            paths: identity.paths.clone(),
            verdict,
            supported: situation.fence.is_some(),
            good,
            generation: situation.found.generation,
            holder,
            keys: situation.shown_keys(),
        }
    }

    pub fn print(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}: {}", self.device, self.verdict)?;
        let wwid = self.wwid.as_deref().unwrap_or("no world-wide name");
        writeln!(to, "  {}, {wwid}", self.kind)?;
        if !self.supported {
            return Ok(());
        }
        let paths: Vec<String> = self.paths.iter().map(path_text).collect();
        writeln!(to, "  paths: {}", paths.join(", "))?;
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut table = table(&["key", "owner", "holds it", "paths", "target ports", "from"]);
        for key in &self.keys {
            let ports: Vec<String> = key.target_ports.iter().map(u16::to_string).collect();
            table.add_row(vec![
                key.key.clone(),
                key.owner.clone(),
                if key.holds { "yes" } else { "" }.to_owned(),
                key.paths.to_string(),
                if ports.is_empty() {
                    "-".to_owned()
                } else {
                    ports.join(" ")
                },
                if key.initiators.is_empty() {
                    "-".to_owned()
                } else {
                    key.initiators.join(" ")
                },
            ]);
        }
        writeln!(to, "{table}")
    }
}

fn path_text(path: &PathIdentity) -> String {
    let state = if path.state.is_empty() {
        "in use"
    } else {
        path.state.as_str()
    };
    match path.port {
        Some(port) => format!("{} {state} (target port {port})", path.name),
        None => format!("{} {state}", path.name),
    }
}

/// Whether all is as it should be, and one sentence with the next command if not.
fn verdict(situation: &Situation) -> (bool, String) {
    let device = &situation.device;
    if let Some(why) = &situation.identity.obstacle {
        return (
            false,
            format!("no reservations here: {why}; a cluster on it needs `--fencing lease`"),
        );
    }
    let foreign = situation.foreign_keys();
    let named: Vec<String> = foreign
        .iter()
        .map(|key| format!("{key} ({})", situation.whereabouts(*key)))
        .collect();
    if !named.is_empty() {
        return (
            false,
            format!(
                "strangers are registered: {}; if that is a mistake, see `ccd-disk fence preempt --help`",
                named.join(", ")
            ),
        );
    }
    match situation.found.holder {
        None if situation.found.keys.is_empty() => {
            (true, "nobody is registered, everybody can write".to_owned())
        }
        None => (
            false,
            "nodes are registered, but nobody holds the reservation: everybody can write".to_owned(),
        ),
        Some(holder) if !holder.right_type => (
            false,
            format!(
                "the reservation of {} has the wrong type, it protects otherwise than ccd means; see `ccd-disk fence clear {device}`",
                situation.owner_text(holder.key)
            ),
        ),
        Some(holder) => (
            true,
            format!(
                "{} holds it; only registered nodes can write",
                situation.owner_text(holder.key)
            ),
        ),
    }
}
