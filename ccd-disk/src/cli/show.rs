//! `ccd-disk show`: whose region it is, and what each node has stored there.

use super::output::{Output, or_dash, table};
use super::{Failure, Global, exit, open_region};
use crate::device::Access;
use crate::format::superblock::Superblock;
use crate::region::handle::Handle;
use crate::region::recovery::{self, Tail};
use crate::region::survey::{self, AreaControl};
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Show whose region it is, and what each node has stored there
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk show /dev/ccd/prod/primary
  ccd-disk show --json /var/lib/ccd/local.region | jq '.areas[].position'

Reads only; works while a daemon runs.")]
pub struct ShowArgs {
    /// Device or file
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Shown {
    path: String,
    label: Labelled,
    notes: Vec<String>,
    areas: Vec<Area>,
}

/// What the superblock says.
#[derive(Debug, Serialize)]
pub struct Labelled {
    pub cluster: String,
    pub cluster_name: String,
    pub region: String,
    pub role: String,
    pub twin: Option<String>,
    pub created_ms: u64,
    pub len_bytes: u64,
    pub nodes: Vec<u8>,
    pub image_bytes_max: u64,
    pub journal_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Area {
    node: u8,
    /// `epoch/generation.lineage`; none: never written to, or lost.
    position: Option<String>,
    /// Of the newest image.
    checkpoint: Option<String>,
    /// How many segments continue the image.
    segments: u32,
    /// That stand after the image, in segments and journal.
    records: usize,
    torn_tail_at_block: Option<u64>,
    damage: Option<String>,
    configuration: Option<String>,
    reason: Option<String>,
    ballot: Option<String>,
    heartbeat: Option<String>,
    last_words: Option<String>,
    damaged_control_blocks: Vec<String>,
}

impl Labelled {
    pub fn new(superblock: &Superblock) -> Self {
        let geometry = &superblock.geometry;
        let block = crate::BLOCK_BYTES as u64;
        Self {
            cluster: superblock.identity.cluster.to_string(),
            cluster_name: superblock.label.clone(),
            region: superblock.identity.region.to_string(),
            role: superblock.identity.replica.to_string(),
            twin: superblock.twin.map(|twin| twin.to_string()),
            created_ms: superblock.created.0,
            len_bytes: geometry.blocks * block,
            nodes: geometry.nodes().map(u8::from).collect(),
            image_bytes_max: geometry.image_bytes_max(),
            journal_bytes: u64::from(geometry.journal_blocks) * block,
        }
    }

    pub fn print(&self, to: &mut dyn Write, path: &str) -> io::Result<()> {
        writeln!(
            to,
            "{path}: {} of cluster {} ({})",
            self.role, self.cluster_name, self.cluster
        )?;
        let twin = or_dash(self.twin.as_ref());
        writeln!(
            to,
            "  region {}, twin {twin}, {} MiB",
            self.region,
            self.len_bytes >> 20
        )?;
        let journal_kib = self.journal_bytes >> 10;
        writeln!(
            to,
            "  images up to {} KiB, journals and segments of {journal_kib} KiB",
            self.image_bytes_max >> 10
        )
    }
}

pub fn run(global: &Global, args: &ShowArgs, output: &mut Output) -> Result<u8, Failure> {
    let (mut handle, label) = open_region(global, &args.path, Access::ReadOnly)?;
    let superblock = &label.superblock;
    let mut areas = Vec::new();
    for control in survey::read_all(&mut handle, superblock)? {
        areas.push(area(&mut handle, superblock, control)?);
    }
    let shown = Shown {
        path: args.path.display().to_string(),
        label: Labelled::new(superblock),
        notes: label.notes.clone(),
        areas,
    };
    output.result(&shown, |to| print(to, &shown))?;
    Ok(exit::DONE)
}

fn area(handle: &mut Handle, superblock: &Superblock, control: AreaControl) -> Result<Area, Failure> {
    let found = recovery::recover(handle, superblock, control.node, true)?;
    Ok(Area {
        node: control.node.into(),
        position: found.has_state().then(|| found.position.to_string()),
        checkpoint: found.checkpoint.map(|(_, head)| head.position.to_string()),
        segments: found.segments.count,
        records: found.standing().len(),
        torn_tail_at_block: match found.tail {
            Tail::Torn { block } => Some(block),
            Tail::Clean => None,
        },
        damage: found.damage,
        reason: control.configuration.as_ref().map(|found| found.reason.clone()),
        configuration: control.configuration.map(|found| found.to_string()),
        ballot: control.ballot.map(|ballot| {
            let accepted = match &ballot.accepted {
                Some((accepted, configuration)) => format!(", accepted {accepted:?}: {configuration}"),
                None => String::new(),
            };
            format!(
                "successor of epoch {}: promised {:?}{accepted}",
                ballot.instance, ballot.promised
            )
        }),
        heartbeat: control.heartbeat.map(|beat| {
            let serving = if beat.serving { "serving" } else { "not serving" };
            format!(
                "incarnation {:x} beat {} at {}, {serving}, hears {{{}}}",
                beat.incarnation.0, beat.sequence, beat.stamp, beat.hears
            )
        }),
        last_words: control.last_words.map(|words| words.text),
        damaged_control_blocks: control
            .faults
            .iter()
            .map(|(block, fault)| format!("block {block}: {fault}"))
            .collect(),
    })
}

fn print(to: &mut dyn Write, shown: &Shown) -> io::Result<()> {
    shown.label.print(to, &shown.path)?;
    let mut table = table(&["node", "state", "checkpoint", "segments", "records"]);
    for area in &shown.areas {
        table.add_row(vec![
            area.node.to_string(),
            or_dash(area.position.as_ref()),
            or_dash(area.checkpoint.as_ref()),
            area.segments.to_string(),
            area.records.to_string(),
        ]);
    }
    writeln!(to, "\n{table}")?;
    for area in &shown.areas {
        let torn = area
            .torn_tail_at_block
            .map(|block| format!("block {block}, left out: cut short and never acked, or damaged later"));
        let lines = [
            ("configuration", &area.configuration),
            ("because", &area.reason),
            ("ballot", &area.ballot),
            ("heartbeat", &area.heartbeat),
            ("last words", &area.last_words),
            ("torn tail", &torn),
            ("DAMAGE", &area.damage),
        ];
        writeln!(to, "\nnode {}", area.node)?;
        for (name, value) in lines {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                writeln!(to, "  {name:<14}{}", printable(value))?;
            }
        }
        for fault in &area.damaged_control_blocks {
            writeln!(to, "  {:<14}{fault}", "DAMAGE")?;
        }
    }
    Ok(())
}

/// Texts come from the device: no control character of theirs reaches the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}
