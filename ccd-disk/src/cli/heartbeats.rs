//! `ccd-disk heartbeats`: reads them twice and says which stand still.

use super::output::{Output, or_dash, table};
use super::{Failure, Global, exit, open_region};
use crate::device::Access;
use crate::region::survey;
use ccd_core::replica::Heartbeat;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Read the heartbeats twice and show which stand still
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk heartbeats /dev/ccd/prod/primary
  ccd-disk heartbeats --interval-ms 3000 /dev/ccd/prod/primary /dev/ccd/prod/secondary

Reads only; works while daemons run.

Exit codes: 0 some node's heartbeat moves, 1 none does.")]
pub struct HeartbeatsArgs {
    /// How long to wait between the two readings; a lease (1000 ms by default) tells the living from the dead
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    interval_ms: u64,
    /// Devices or files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Row {
    path: String,
    node: u8,
    /// `moves`, `stands still`, `never seen` or `unreadable`.
    verdict: &'static str,
    incarnation: Option<String>,
    sequence: Option<u64>,
    stamp: Option<String>,
    serving: Option<bool>,
    hears: Option<String>,
    /// Name of the machine that the node ran on.
    host: Option<String>,
}

/// What tells a living node from a dead one: compares for change only, never by clock.
fn verdict(before: Option<&Heartbeat>, after: Option<&Heartbeat>, damaged: bool) -> &'static str {
    match (before, after) {
        (_, None) if damaged => "unreadable",
        (_, None) => "never seen",
        (before, after) if before == after => "stands still",
        _ => "moves",
    }
}

pub fn run(global: &Global, args: &HeartbeatsArgs, output: &mut Output) -> Result<u8, Failure> {
    let mut regions = Vec::new();
    for path in &args.paths {
        let (mut handle, label) = open_region(global, path, Access::ReadOnly)?;
        let before = survey::read_all(&mut handle, &label.superblock)?;
        regions.push((path, handle, label, before));
    }
    std::thread::sleep(Duration::from_millis(args.interval_ms));
    let mut rows = Vec::new();
    for (path, handle, label, before) in &mut regions {
        let after = survey::read_all(handle, &label.superblock)?;
        for (before, after) in before.iter().zip(after) {
            let damaged = !after.faults.is_empty();
            let beat = after.heartbeat.as_ref();
            rows.push(Row {
                path: path.display().to_string(),
                node: after.node.into(),
                verdict: verdict(before.heartbeat.as_ref(), beat, damaged),
                incarnation: beat.map(|beat| format!("{:x}", beat.incarnation.0)),
                sequence: beat.map(|beat| beat.sequence),
                stamp: beat.map(|beat| beat.stamp.to_string()),
                serving: beat.map(|beat| beat.serving),
                hears: beat.map(|beat| beat.hears.to_string()),
                host: beat
                    .map(|beat| beat.host.name.clone())
                    .filter(|name| !name.is_empty()),
            });
        }
    }
    output.result(&rows, |to| {
        let mut table = table(&[
            "region",
            "node",
            "heartbeat",
            "incarnation",
            "beat",
            "stamp",
            "serving",
            "hears",
            "host",
        ]);
        for row in &rows {
            table.add_row(vec![
                row.path.clone(),
                row.node.to_string(),
                row.verdict.to_owned(),
                or_dash(row.incarnation.as_ref()),
                or_dash(row.sequence),
                or_dash(row.stamp.as_ref()),
                or_dash(row.serving),
                or_dash(row.hears.as_ref()),
                or_dash(row.host.as_ref()),
            ]);
        }
        writeln!(to, "{table}")
    })?;
    let moves = rows.iter().any(|row| row.verdict == "moves");
    Ok(if moves { exit::DONE } else { exit::NO })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_does_not_change_stands_still() {
        let beat = |sequence| Heartbeat {
            sequence,
            ..Heartbeat::default()
        };
        for (before, after, damaged, expected) in [
            (None, None, false, "never seen"),
            (None, None, true, "unreadable"),
            (Some(beat(1)), None, true, "unreadable"),
            (Some(beat(1)), Some(beat(1)), false, "stands still"),
            (Some(beat(1)), Some(beat(1)), true, "stands still"),
            (Some(beat(1)), Some(beat(2)), false, "moves"),
            (None, Some(beat(1)), false, "moves"),
            (Some(beat(5)), Some(beat(1)), false, "moves"),
        ] {
            assert_eq!(
                verdict(before.as_ref(), after.as_ref(), damaged),
                expected,
                "{before:?} {after:?}"
            );
        }
    }
}
