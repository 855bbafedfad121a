//! `ccd-disk dump`: the database that a region holds, as text; or the region block by block.

use super::output::{Output, or_dash, table};
use super::{Failure, Global, exit, open_region};
use crate::device::{Access, Buffer};
use crate::error::RegionError;
use crate::format::header::{self, BlockFault, Kind};
use crate::format::superblock::Superblock;
use crate::region::handle::Handle;
use crate::region::recovery::{self, RecoveredArea};
use ccd_core::database::{Database, Record};
use ccd_core::ids::NodeId;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Print the database that a region holds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk dump /dev/ccd/prod/primary > database.ccd   its newest state, as text with its record
  ccd-disk dump --area 1 /dev/ccd/prod/primary         what node 1 wrote
  ccd-disk dump --blocks /var/lib/ccd/local.region     every block in use

Reads only; works while a daemon runs.

Exit codes: 0 done, 1 it holds no database, 104 damaged: printed as far as it goes.")]
pub struct DumpArgs {
    /// Print every block in use instead: what it is, and whether it is whole
    #[arg(long)]
    blocks: bool,
    /// The state in the area of this node, not the newest of all
    #[arg(long, value_name = "NODE", value_parser = clap::value_parser!(u8).range(0..32))]
    area: Option<u8>,
    /// Device or file
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Dumped {
    area: u8,
    position: String,
    damage: Option<String>,
    text: String,
}

#[derive(Debug, Serialize)]
struct BlockRow {
    block: u64,
    kind: String,
    node: Option<u8>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    part: Option<u32>,
    payload_bytes: Option<usize>,
    fault: Option<String>,
}

pub fn run(global: &Global, args: &DumpArgs, output: &mut Output) -> Result<u8, Failure> {
    let (mut handle, label) = open_region(global, &args.path, Access::ReadOnly)?;
    let superblock = &label.superblock;
    if args.blocks {
        return dump_blocks(handle, superblock, output);
    }
    let mut newest: Option<RecoveredArea> = None;
    let mut damage = Vec::new();
    for node in superblock.geometry.nodes() {
        if args.area.is_some_and(|area| NodeId::new(area) != Some(node)) {
            continue;
        }
        let area = recovery::recover(&mut handle, superblock, node, true)?;
        damage.extend(
            area.damage
                .as_ref()
                .map(|what| format!("area of node {node}: {what}")),
        );
        let is_newer = newest
            .as_ref()
            .is_none_or(|newest| newest.position.stamp < area.position.stamp);
        if area.has_state() && is_newer {
            newest = Some(area);
        }
    }
    // And with it what it says of its progress.
    drop(handle);
    for what in &damage {
        global.note(&format!("DAMAGE {what}"));
    }
    let Some(newest) = newest else {
        let path = args.path.display();
        let text = match args.area {
            None => format!("CCD-2090 no area of {path} holds a database; see `ccd-disk show {path}`"),
            Some(area) => {
                format!(
                    "CCD-2090 the area of node {area} of {path} is missing or holds no database; see `ccd-disk show {path}`"
                )
            }
        };
        return Err(Failure::new(
            if damage.is_empty() {
                exit::NO
            } else {
                exit::INTEGRITY
            },
            text,
        ));
    };
    let database = replay(&newest).map_err(|what| {
        Failure::from(RegionError::Damaged {
            device: args.path.display().to_string(),
            node: newest.node,
            what,
        })
    })?;
    let dumped = Dumped {
        area: newest.node.into(),
        position: newest.position.to_string(),
        damage: (!damage.is_empty()).then(|| damage.join("; ")),
        text: database.to_text(),
    };
    if global.json {
        output.result(&dumped, |_| Ok(()))?;
    } else {
        output.raw(dumped.text.as_bytes())?;
    }
    Ok(if dumped.damage.is_some() {
        exit::INTEGRITY
    } else {
        exit::DONE
    })
}

/// The state of an area: its image with every record that stands applied to it.
pub fn replay(area: &RecoveredArea) -> Result<Database, String> {
    let mut database = match &area.checkpoint {
        Some(_) => Database::from_image(&area.image).map_err(|error| error.to_string())?,
        None => Database::default(),
    };
    for entry in area.standing() {
        let record = Record::decode(&entry.payload).map_err(|error| error.to_string())?;
        database = database.apply(&record).map_err(|error| error.to_string())?;
    }
    Ok(database)
}

fn dump_blocks(mut handle: Handle, superblock: &Superblock, output: &mut Output) -> Result<u8, Failure> {
    const AT_ONCE: u64 = 256;
    let blocks = superblock.geometry.blocks;
    let mut rows = Vec::new();
    let mut first = 0;
    while first < blocks {
        let count = AT_ONCE.min(blocks - first);
        let (buffer, unreadable) = handle.read_readable(first, count as usize)?;
        for index in 0..count {
            let fault = unreadable
                .contains(&(index as u32))
                .then_some(BlockFault::Unreadable);
            rows.extend(describe(
                superblock,
                &buffer,
                index as usize,
                first + index,
                fault,
            ));
        }
        first += count;
    }
    // And with it what it says of its progress.
    drop(handle);
    output.result(&rows, |to| {
        let header = [
            "block", "kind", "node", "epoch", "sequence", "part", "bytes", "fault",
        ];
        let mut table = table(&header);
        for row in &rows {
            table.add_row(vec![
                row.block.to_string(),
                row.kind.clone(),
                or_dash(row.node),
                or_dash(row.epoch),
                or_dash(row.sequence),
                or_dash(row.part),
                or_dash(row.payload_bytes),
                row.fault.clone().unwrap_or_default(),
            ]);
        }
        writeln!(to, "{table}")
    })?;
    Ok(exit::DONE)
}

/// What a block is; nothing if it is all zero.
fn describe(
    superblock: &Superblock,
    buffer: &Buffer,
    index: usize,
    block: u64,
    fault: Option<BlockFault>,
) -> Option<BlockRow> {
    let found = match fault {
        Some(fault) => Err(fault),
        None => header::unseal(buffer.block(index), &superblock.identity, block),
    };
    match found {
        Err(BlockFault::Zero) => None,
        Err(fault) => Some(BlockRow {
            block,
            kind: "?".to_owned(),
            node: None,
            epoch: None,
            sequence: None,
            part: None,
            payload_bytes: None,
            fault: Some(fault.to_string()),
        }),
        Ok(sealed) => Some(BlockRow {
            block,
            kind: kind_name(sealed.tag.kind).to_owned(),
            node: Some(sealed.tag.node.into()),
            epoch: Some(sealed.tag.epoch),
            sequence: Some(sealed.tag.sequence),
            part: Some(sealed.tag.part),
            payload_bytes: Some(sealed.payload.len()),
            fault: None,
        }),
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Superblock => "superblock",
        Kind::Heartbeat => "heartbeat",
        Kind::Ballot => "ballot",
        Kind::Configuration => "configuration",
        Kind::LastWords => "last words",
        Kind::CheckpointHead => "checkpoint",
        Kind::CheckpointRetired => "retired checkpoint",
        Kind::Image => "image",
        Kind::Journal => "record",
        Kind::JournalPart => "part of record",
        Kind::Segment => "segment",
        Kind::SegmentPart => "part of segment",
    }
}
