//! `ccdadm verify`: do all members hold the same?

use super::PROGRAM;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::messages::{self, Message};
use ccd_core::client::{Finding, VerifiedCopy};
use ccd_core::ids::NodeSet;
use serde_json::{Value, json};

/// Compare the members' copies of the database, and replace those that are inconsistent
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each member computes anew what it holds. A copy is inconsistent if it is not what its own
record says, or differs from most copies of the same position (from the master's, if there is
no majority). It is invalidated: its node stops serving, keeps what it held aside, gets a whole
copy of a sound one, and comes back by itself.

Examples:
  ccdadm verify && echo all the same
  ccdadm verify --dry-run                   only report
  ccdadm verify --json | jq '.copies[].digest'

Exit codes: 0 all copies are the same, 1 an inconsistent copy was replaced, or a member did not
answer, 103 a copy is stale or diverged, 104 an inconsistent copy was not replaced.")]
pub(super) struct Verify {
    /// Report what is inconsistent, and change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Verify {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "verify the copies";
        let client = common.attach(PROGRAM, doing)?;
        let progress = terminal.progress(doing);
        let copies = client.verify(!self.dry_run);
        drop(progress);
        let copies = copies.doing(doing)?;
        let found = flaw(&copies);
        if terminal.json {
            terminal.document(&document(&copies, found.is_none()))?;
        } else {
            let rows = copies.iter().map(|copy| {
                let digest = copy
                    .digest
                    .map_or("no answer".to_owned(), |digest| hex(&digest[..8]));
                let found = match copy.finding {
                    Finding::Sound => "",
                    found => finding_name(found),
                };
                vec![
                    copy.node.to_string(),
                    copy.position.to_string(),
                    digest,
                    found.to_owned(),
                ]
            });
            terminal.line(&table(&["NODE", "POSITION", "DIGEST", ""], rows.collect()))?;
        }
        match found {
            None => Ok(Exit::Done),
            Some((message, why)) => Err(Stop::new(message, doing, why)),
        }
    }
}

/// What is worst about these copies.
fn flaw(copies: &[VerifiedCopy]) -> Option<(&'static Message, String)> {
    for (finding, message, what) in [
        (Finding::Inconsistent, &messages::VERIFY_DIFFERS, "left as it is"),
        (
            Finding::Invalidated,
            &messages::VERIFY_DIFFERS,
            "not replaced in time",
        ),
        (
            Finding::Repaired,
            &messages::VERIFY_REPAIRED,
            "replaced by a sound copy",
        ),
    ] {
        let nodes: NodeSet = (copies.iter())
            .filter(|copy| copy.finding == finding)
            .map(|copy| copy.node)
            .collect();
        if !nodes.is_empty() {
            return Some((message, format!("nodes {nodes}: inconsistent, and {what}")));
        }
    }
    let answered: Vec<&VerifiedCopy> = copies.iter().filter(|copy| copy.digest.is_some()).collect();
    for (index, one) in answered.iter().enumerate() {
        for other in &answered[..index] {
            if one.position == other.position && one.digest != other.digest {
                let why = format!(
                    "nodes {} and {} are both at {}, and hold different rows",
                    other.node, one.node, one.position
                );
                return Some((&messages::VERIFY_DIFFERS, why));
            }
        }
    }
    for pair in answered.windows(2) {
        let (one, other) = (pair[0], pair[1]);
        if one.position == other.position {
            continue;
        }
        let how = if one.position.stamp == other.position.stamp {
            "diverged"
        } else {
            "differ"
        };
        let why = format!(
            "nodes {} and {} {how}: {} and {}",
            one.node, other.node, one.position, other.position
        );
        return Some((&messages::VERIFY_STALE, why));
    }
    let silent = copies.iter().find(|copy| copy.digest.is_none())?;
    Some((
        &messages::VERIFY_SILENT,
        format!("node {} did not say what it holds", silent.node),
    ))
}

fn finding_name(finding: Finding) -> &'static str {
    match finding {
        Finding::Sound => "sound",
        Finding::Inconsistent => "inconsistent",
        Finding::Repaired => "repaired",
        Finding::Invalidated => "invalidated",
    }
}

fn document(copies: &[VerifiedCopy], same: bool) -> Value {
    let copies: Vec<Value> = copies
        .iter()
        .map(|copy| {
            json!({
                "node": u8::from(copy.node),
                "stamp": copy.position.stamp.to_string(),
                "lineage": copy.position.lineage.to_string(),
                "digest": copy.digest.map(|digest| hex(&digest)),
                "whole": copy.whole,
                "finding": finding_name(copy.finding),
            })
        })
        .collect();
    json!({ "same": same, "copies": copies })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{Epoch, Generation, Lineage, NodeId, Position, Stamp};

    fn copy(node: u8, generation: u64, lineage: u8, digest: Option<u8>) -> VerifiedCopy {
        VerifiedCopy {
            node: NodeId::new(node).expect("a node"),
            position: Position {
                stamp: Stamp {
                    epoch: Epoch(1),
                    generation: Generation(generation),
                },
                lineage: Lineage([lineage; 32]),
            },
            digest: digest.map(|byte| [byte; 32]),
            whole: true,
            finding: Finding::Sound,
        }
    }

    #[test]
    fn the_worst_flaw_decides() {
        let same = copy(0, 5, 1, Some(1));
        let table = [
            (vec![same.clone()], None),
            (vec![same.clone(), copy(1, 5, 1, Some(1))], None),
            (vec![same.clone(), copy(1, 5, 1, Some(2))], Some(104)),
            (vec![same.clone(), copy(1, 4, 2, Some(2))], Some(103)),
            (vec![same.clone(), copy(1, 5, 2, Some(2))], Some(103)),
            (vec![same.clone(), copy(1, 5, 1, None)], Some(1)),
            (
                vec![same.clone(), copy(1, 4, 2, Some(3)), copy(2, 5, 1, Some(2))],
                Some(104),
            ),
            (vec![same, copy(1, 5, 1, None), copy(2, 4, 2, Some(1))], Some(103)),
        ];
        for (copies, expected) in table {
            let exit = flaw(&copies).map(|(message, _)| message.exit.code());
            assert_eq!(exit, expected, "{copies:?}");
        }
    }
}
