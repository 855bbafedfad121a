//! `ccd-disk check`: looks for damage, says what it means, and repairs what can be repaired from the region itself.
//!
//! What is to be done is decided first, as data; only then, and only with `--repair`, is anything written.

use super::dump::replay;
use super::output::Output;
use super::{Failure, Global, exit, open_region};
use crate::device::Access;
use crate::error::RegionError;
use crate::format::checkpoint::SlotState;
use crate::format::geometry::{CONTROL_KINDS, Slot};
use crate::region::handle::Handle;
use crate::region::label::Label;
use crate::region::look;
use crate::region::own::OwnArea;
use crate::region::recovery::{self, RecoveredArea, Tail};
use crate::region::slots::slot_place;
use crate::region::survey;
use ccd_core::ids::{NodeId, Replica};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// Look for damage, and repair what can be
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk check /dev/ccd/prod/primary
  ccd-disk check --repair --dry-run /var/lib/ccd/local.region
  ccd-disk check --repair --yes /var/lib/ccd/local.region

--repair needs the region for itself: stop the daemon first. Content that is damaged comes back
only from the other device or node: the daemon copies it when it starts.

Exit codes: 0 sound, 1 something can be repaired (--repair), 104 content is damaged.")]
pub struct CheckArgs {
    /// Write what can be repaired
    #[arg(long)]
    repair: bool,
    /// Device or file
    path: PathBuf,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// As a power cut may leave it; nothing to do.
    Note,
    /// `--repair` mends it.
    Repairable,
    /// Content is missing.
    Damage,
}

/// What would be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    /// A superblock anew, from the other one.
    Superblock { block: u64 },
    /// The checkpoint that a whole image replaced, as its writer meant to.
    Retire {
        node: NodeId,
        slot: Slot,
        by_sequence: u64,
    },
    /// The state of an area as a whole image, over checkpoint or segments that are damaged and that the journal makes up for.
    Rewrite { node: NodeId },
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: Severity,
    text: String,
    #[serde(skip)]
    repair: Option<Repair>,
}

#[derive(Debug, Serialize)]
struct Checked {
    path: String,
    sound: bool,
    repaired: bool,
    findings: Vec<Finding>,
}

pub fn run(global: &Global, args: &CheckArgs, output: &mut Output) -> Result<u8, Failure> {
    let writes = args.repair && !global.dry_run;
    let access = if writes {
        Access::Exclusive
    } else {
        Access::ReadOnly
    };
    let (mut handle, label) = open_region(global, &args.path, access)?;
    let findings = decide(&mut handle, &label)?;
    let repairs: Vec<Repair> = findings.iter().filter_map(|finding| finding.repair).collect();
    if args.repair && !repairs.is_empty() {
        for repair in &repairs {
            global.note(&format!(
                "{}: {}",
                if writes { "will write" } else { "would write" },
                what(*repair)
            ));
        }
        if writes {
            global.confirm(&format!(
                "{} of {} would be written",
                parts(&repairs),
                args.path.display()
            ))?;
            for repair in &repairs {
                apply(&mut handle, &label, *repair)?;
            }
        }
    }
    // And with it what it says of its progress.
    drop(handle);
    let repaired = writes && !repairs.is_empty();
    let worst = findings
        .iter()
        .map(|finding| finding.severity)
        .filter(|severity| !repaired || *severity != Severity::Repairable)
        .max();
    let checked = Checked {
        path: args.path.display().to_string(),
        sound: worst.is_none_or(|worst| worst == Severity::Note),
        repaired,
        findings,
    };
    output.result(&checked, |to| {
        for finding in &checked.findings {
            let mark = match finding.severity {
                Severity::Note => "note",
                Severity::Repairable if checked.repaired => "repaired",
                Severity::Repairable => "repairable",
                Severity::Damage => "DAMAGE",
            };
            writeln!(to, "{mark:<11}{}", finding.text)?;
        }
        writeln!(
            to,
            "{}: {}",
            checked.path,
            if checked.sound { "sound" } else { "not sound" }
        )
    })?;
    Ok(match worst {
        None | Some(Severity::Note) => exit::DONE,
        Some(Severity::Repairable) => exit::NO,
        Some(Severity::Damage) => exit::INTEGRITY,
    })
}

/// What another program wrote, what is corrupted, or what cannot be read.
fn strange(strange: &look::Strange) -> Finding {
    let look::Strange {
        node,
        name,
        what,
        first,
        count,
    } = strange;
    let others = match count {
        1 => String::new(),
        _ => format!(", and {} more are so", count - 1),
    };
    let next = if *what == look::UNREADABLE {
        "the disk may be failing: see `dmesg`"
    } else {
        "find out who writes there, and make the region anew with `ccd-disk mkfs`"
    };
    Finding {
        severity: Severity::Damage,
        text: format!("node {node}: block {first} of its {name} {what}{others}; {next}"),
        repair: None,
    }
}

/// Everything that is not as it should be, worst last.
fn decide(handle: &mut Handle, label: &Label) -> Result<Vec<Finding>, RegionError> {
    let superblock = &label.superblock;
    let mut findings = Vec::new();
    for (block, text) in label.repair.iter().zip(&label.notes) {
        let repair = Some(Repair::Superblock { block: *block });
        findings.push(Finding {
            severity: Severity::Repairable,
            text: text.clone(),
            repair,
        });
    }
    if superblock.identity.replica != Replica::Local {
        findings.extend(look::find_all(handle, superblock).iter().map(strange));
    }
    for area in survey::read_all(handle, superblock)? {
        let first = superblock.geometry.control(area.node);
        for (name, blocks) in CONTROL_KINDS {
            let faults: Vec<_> = area
                .faults
                .iter()
                .filter(|(block, _)| blocks.contains(&(block - first)))
                .collect();
            // A power cut spoils the one block that was being written.
            let (severity, because) = match faults.len() {
                0 => continue,
                1 => (
                    Severity::Note,
                    "as a power cut while it was written leaves it; the one before counts, and the node's next write mends it",
                ),
                _ => (
                    Severity::Damage,
                    "more than a power cut can spoil; the newest of them may be lost",
                ),
            };
            for (block, fault) in faults {
                let text = format!("node {}: {name} block {block}: {fault}; {because}", area.node);
                findings.push(Finding {
                    severity,
                    text,
                    repair: None,
                });
            }
        }
    }
    for node in superblock.geometry.nodes() {
        let area = recovery::recover(handle, superblock, node, true)?;
        decide_area(&area, &mut findings);
    }
    findings.sort_by_key(|finding| finding.severity);
    Ok(findings)
}

fn decide_area(area: &RecoveredArea, findings: &mut Vec<Finding>) {
    let node = area.node;
    let mut add = |severity, text, repair| {
        findings.push(Finding {
            severity,
            text: format!("node {node}: {text}"),
            repair,
        })
    };
    if let Tail::Torn { block } = area.tail
        && area.damage.is_none()
    {
        let text = format!(
            "the journal ends at {} in a torn record (block {block}), left out: it was never acked if its write was cut short; if it \
             was damaged later it may have been acked, and the other replicas have it (ccdadm verify)",
            area.position
        );
        add(Severity::Note, text, None);
    }
    for (slot, state) in Slot::ALL.into_iter().zip(area.slots) {
        if let SlotState::Bad(fault) = state
            && area.damage.is_none()
        {
            let text = format!(
                "the head of the checkpoint slot {slot:?} is unusable ({fault}); the other one counts"
            );
            add(Severity::Note, text, None);
        }
    }
    if let Some((slot, head)) = area.checkpoint
        && head.replaces
        && matches!(area.slots[slot.other() as usize], SlotState::Head(_))
    {
        let repair = Repair::Retire {
            node,
            slot: slot.other(),
            by_sequence: head.sequence,
        };
        let text = format!(
            "checkpoint slot {:?} was replaced and not yet retired",
            slot.other()
        );
        add(Severity::Repairable, text, Some(repair));
    }
    if let Some((block, fault)) = area.segments.unusable
        && area.damage.is_none()
    {
        let text = format!(
            "segment {} of the checkpoint is unusable (block {block}: {fault}), as a power cut while it was \
             written leaves it; the journal holds what it would have held",
            area.segments.count
        );
        add(Severity::Note, text, None);
    }
    if let Some(what) = area.damage.as_ref().filter(|_| area.is_complete) {
        let text = format!(
            "{what}. Nothing is missing: the journal still holds what was there, up to {}",
            area.position
        );
        add(Severity::Repairable, text, Some(Repair::Rewrite { node }));
    } else if let Some(what) = &area.damage {
        let text = format!(
            "{what}. It comes back by a full copy from the other device or node: start the daemon, or `ccdadm status` shows it"
        );
        add(Severity::Damage, text, None);
    }
}

/// How much is written, for people.
fn parts(repairs: &[Repair]) -> String {
    let images = repairs
        .iter()
        .filter(|repair| matches!(repair, Repair::Rewrite { .. }))
        .count();
    match (repairs.len() - images, images) {
        (blocks, 0) => format!("{blocks} blocks"),
        (0, images) => format!("{images} checkpoints"),
        (blocks, images) => format!("{blocks} blocks and {images} checkpoints"),
    }
}

fn what(repair: Repair) -> String {
    match repair {
        Repair::Superblock { block } => format!("the superblock in block {block}, from the other one"),
        Repair::Retire { node, slot, .. } => {
            format!("the retired mark in checkpoint slot {slot:?} of node {node}")
        }
        Repair::Rewrite { node } => format!("the whole state of node {node} as a new checkpoint"),
    }
}

fn apply(handle: &mut Handle, label: &Label, repair: Repair) -> Result<(), RegionError> {
    let superblock = &label.superblock;
    match repair {
        Repair::Superblock { block } => handle.write_block(block, &superblock.encode(block)),
        Repair::Retire {
            node,
            slot,
            by_sequence,
        } => {
            let place = slot_place(superblock, node, slot);
            handle.write_block(place.head_block, &place.encode_retired(by_sequence))
        }
        Repair::Rewrite { node } => {
            let area = recovery::recover(handle, superblock, node, false)?;
            let database = replay(&area).map_err(|what| RegionError::Damaged {
                device: handle.name(),
                node,
                what,
            })?;
            let mut own = OwnArea::new(&area, superblock);
            own.write_image(handle, database.position(), database.to_image())
        }
    }
}
