//! `ccd-disk resync`: brings one device of a pair to what its twin holds, with no daemon.
//!
//! ```text
//! mod.rs       the verb: asks, copies, tells
//! pair.rs      the two devices, and that nobody else has them
//! refused.rs   why not, in words, with exit codes
//! ```
//!
//! What may be copied is decided by `crate::resync`. Nothing is written before everything has been looked at and confirmed.

mod pair;
mod refused;

use super::output::Output;
use super::progress::Progress;
use super::{Failure, Global, exit};
use crate::error::RegionError;
use crate::resync::{Copy, Decision, Unwanted, bring, decide};
use clap::Args;
use pair::Pair;
use serde::Serialize;
use std::path::PathBuf;

/// Bring a stale or damaged device to what its twin holds, with no daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ccd-disk resync --dry-run /dev/ccd/prod/secondary
  ccd-disk resync /dev/ccd/prod/secondary          fill it from the primary of init.ccd
  ccd-disk resync --from /srv/a/primary --node alpha /srv/b/secondary

Daemons do this by themselves while they run. It is for a pair that is to be complete before the
first of them starts; run it where the node is that will start first, with no ccdd running
anywhere. A new device is made with `ccd-disk mkfs` first. Votes and heartbeats are left alone.

What only a vote can settle is refused, and so is an older device in place of a newer one.

Exit codes: 0 it holds what its twin holds, 103 it is the newer one or has diverged, 104 damaged,
107 only the daemon can do it safely, 109 a daemon uses the devices, 110 fenced.")]
pub struct ResyncArgs {
    /// The device that holds what is wanted (default: the other one of init.ccd)
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// This server's node, by name or number (default: /etc/ccd/node)
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The device to be brought up to date
    path: PathBuf,
}

#[derive(Debug, Serialize)]
struct Resynced {
    path: String,
    role: String,
    from: String,
    cluster: String,
    /// In whose area it is written.
    node: u8,
    /// Of the newest configuration.
    epoch: u64,
    /// `in_sync`, `paired` or `copy`.
    verdict: &'static str,
    /// Where the twin stands.
    position: String,
    /// Where the device stood, if it held a whole state.
    before: Option<String>,
    /// Of the image.
    len_bytes: u64,
    written: bool,
}

pub fn run(global: &Global, args: &ResyncArgs, output: &mut Output) -> Result<u8, Failure> {
    let mut pair = Pair::open(global, args)?;
    pair.wait_for_quiet(global)?;
    let (twin, database) = pair.see_twin()?;
    let target = pair.see_target()?;
    let local = pair.see_local(global)?;
    let decision = decide(&twin, &target, local.as_ref())
        .map_err(|refusal| refused::text(&pair, &refusal, local.is_some()))?;
    let known = [Some(&twin), Some(&target), local.as_ref()];
    let epoch = (known.into_iter().flatten())
        .filter_map(|seen| seen.configuration.as_ref())
        .map(|(_, configuration)| configuration.epoch.0)
        .max();
    let mut resynced = Resynced {
        path: pair.target.path.display().to_string(),
        role: pair.target.role.to_string(),
        from: pair.twin.path.display().to_string(),
        cluster: pair.cluster.to_string(),
        node: pair.node.into(),
        epoch: epoch.unwrap_or_default(),
        verdict: "in_sync",
        position: twin.position.to_string(),
        before: (target.has_state && target.damage.is_none()).then(|| target.position.to_string()),
        len_bytes: 0,
        written: false,
    };
    let text = match &decision {
        Decision::InSync => format!(
            "the {} holds what the {} holds ({}); nothing to do",
            pair.target.role, pair.twin.role, resynced.position
        ),
        Decision::Paired(known) => {
            resynced.verdict = "paired";
            format!(
                "nothing to copy: in epoch {} the nodes' own copies hold the database, and devices only vote; the daemons take the {} \
                 in when they start",
                known.epoch, pair.target.role
            )
        }
        Decision::Copy(copy) => {
            resynced.verdict = "copy";
            let len_bytes = if copy.with_image {
                database.image_len_bytes()
            } else {
                0
            };
            resynced.len_bytes = len_bytes;
            pair.check_room(copy, len_bytes)?;
            let what = what(&pair, copy, len_bytes);
            if global.dry_run {
                format!("would write {what}")
            } else {
                global.confirm(&format!("{what} would be written"))?;
                write(global, &mut pair, copy, &database)?;
                resynced.written = true;
                format!("wrote {what}")
            }
        }
    };
    output.result(&resynced, |to| writeln!(to, "{text}"))?;
    Ok(exit::DONE)
}

/// What is written, in words.
fn what(pair: &Pair, copy: &Copy, len_bytes: u64) -> String {
    let (target, twin) = (&pair.target, &pair.twin);
    if !copy.with_image {
        return format!(
            "the configuration to the {} ({}), which holds the content of the {} ({}) already",
            target.role,
            target.path.display(),
            twin.role,
            copy.position
        );
    }
    let over = match &copy.replaces {
        Some(before) => format!("over {before}"),
        None => "where no whole copy is".to_owned(),
    };
    format!(
        "{} of the {} ({:.1} MiB) to the {} ({}), {over}",
        copy.position,
        twin.role,
        len_bytes as f64 / (1 << 20) as f64,
        target.role,
        target.path.display()
    )
}

fn write(
    global: &Global,
    pair: &mut Pair,
    copy: &Copy,
    database: &ccd_core::database::Database,
) -> Result<(), Failure> {
    let mut progress = Progress::of(global, format!("copying to {}", pair.target.path.display()));
    let (target, mut watch) = pair.for_writing();
    let mut step = |done, total| {
        progress.tell(done, Some(total));
        // The last look before it counts.
        if done == total {
            watch.still_quiet()
        } else {
            Ok(())
        }
    };
    match bring(target, copy, database, &mut step) {
        Ok(()) => {}
        Err(Unwanted::Region(error @ RegionError::Fenced { .. })) => {
            let path = pair.target.path.display();
            return Err(Failure::new(
                exit::FENCED,
                format!(
                    "{error}. What it held is still there. If no other node uses it, `ccd-disk fence register {path}` lets this server write"
                ),
            ));
        }
        Err(Unwanted::Region(error)) => return Err(error.into()),
        Err(Unwanted::Stopped(failure)) => return Err(failure),
    }
    drop(progress);
    pair.verify(copy)
}
