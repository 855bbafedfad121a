//! `ccdadm checkpoints`: those in the state folder, with a name or automatic. No daemon is needed.

use super::backup::path_named;
use crate::checkpoints::{self, Checkpoint};
use crate::cli::Common;
use crate::cli::failure::Stop;
use crate::cli::table::{date_text, table};
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::messages;
use serde_json::{Value, json};
use std::fs;
use std::io;

/// List the checkpoints of this node, newest first, or drop one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Automatic ones have names that begin with auto-; the oldest go by themselves. Those with another
name stay until they are dropped. Each is a file of its own, which restore, diff and purify read.

Examples:
  ccdadm checkpoints
  ccdadm checkpoints --json | jq -r '.checkpoints[0].file'
  ccdadm checkpoints --drop before-upgrade --yes
  ccdadm restore --checkpoint before-upgrade

Exit codes: 0 there are some, 1 there are none, 66 there is none of that name.")]
pub(super) struct Checkpoints {
    /// Drop this one
    #[arg(long, value_name = "NAME")]
    drop: Option<String>,
    /// Say what would be dropped, change nothing
    #[arg(short = 'n', long, requires = "drop")]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long, requires = "drop")]
    yes: bool,
}

impl Checkpoints {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        match &self.drop {
            Some(name) => self.drop_one(common, name, terminal),
            None => list(common, terminal),
        }
    }

    fn drop_one(&self, common: &Common, name: &str, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("drop the checkpoint {name}");
        let path = path_named(common, name, false, &doing)?;
        if !path.exists() {
            let why = format!("{} does not exist", path.display());
            return Err(
                Stop::new(&messages::NO_SUCH_FILE, &doing, why).and_try("ccdadm checkpoints lists them")
            );
        }
        if self.dry_run {
            terminal.note(&format!("dry run: {} would be removed", path.display()));
        } else {
            terminal.confirm(self.yes, &doing, &format!("This removes {}.", path.display()))?;
            fs::remove_file(&path).map_err(|error| failed(&path.display().to_string(), &error, &doing))?;
        }
        if terminal.json {
            terminal.document(&json!({ "dropped": name, "dry_run": self.dry_run }))?;
        }
        Ok(Exit::Done)
    }
}

fn failed(what: &str, error: &io::Error, doing: &str) -> Stop {
    let message = match error.kind() {
        io::ErrorKind::PermissionDenied => &messages::FILE_NOT_PERMITTED,
        _ => &messages::FILE_NOT_READABLE,
    };
    Stop::new(message, doing, format!("{what}: {error}"))
}

fn list(common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
    let folder = common.places.checkpoints_dir();
    let found = checkpoints::list(&folder)
        .map_err(|error| failed(&folder.display().to_string(), &error, "list the checkpoints"))?;
    if terminal.json {
        let documents: Vec<Value> = found.iter().map(document).collect();
        terminal.document(&json!({ "checkpoints": documents }))?;
    } else if !found.is_empty() {
        let rows = found.iter().map(|checkpoint| {
            let generation = checkpoint
                .record
                .as_ref()
                .map(|record| record.generation.to_string());
            vec![
                checkpoint.name.clone(),
                date_text(checkpoint.saved),
                generation.unwrap_or_else(|| "damaged".to_owned()),
                checkpoint.bytes.to_string(),
            ]
        });
        terminal.line(&table(
            &["CHECKPOINT", "SAVED", "GENERATION", "BYTES"],
            rows.collect(),
        ))?;
    }
    Ok(if found.is_empty() { Exit::No } else { Exit::Done })
}

fn document(checkpoint: &Checkpoint) -> Value {
    let record = checkpoint.record.as_ref();
    json!({
        "name": checkpoint.name,
        "file": checkpoint.path.display().to_string(),
        "saved": date_text(checkpoint.saved),
        "automatic": checkpoint.is_automatic(),
        "generation": record.map(|record| record.generation.0),
        "epoch": record.and_then(|record| record.proof.as_ref()).map(|proof| proof.epoch.0),
        "bytes": checkpoint.bytes,
    })
}
