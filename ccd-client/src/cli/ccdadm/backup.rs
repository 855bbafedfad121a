//! `ccdadm checkpoint` and `ccdadm restore`: the whole database to a file and back.

use super::PROGRAM;
use super::change::{Change, commit};
use super::query::parse_key;
use crate::backup::Backup;
use crate::checkpoints;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::client::{Freshness, now};
use crate::error::{CcdError, text_message};
use crate::exit::Exit;
use crate::files;
use crate::messages;
use ccd_core::database::{FileOrigin, Op, TextError};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// Save the database to a file, or under a name, with its consistency record
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm checkpoint                         in the state folder, named after the date
  ccdadm checkpoint --name before-upgrade   under this name, for ccdadm restore --checkpoint
  ccdadm checkpoint backup.ccd
  ccdadm checkpoint - | ssh elsewhere 'cat > backup.ccd'
  ccdadm checkpoint --stale saved.ccd       the local copy, while the cluster does not serve

Those with a name stay until somebody drops them: ccdadm checkpoints lists all, and the automatic
ones, which each node makes by itself (options checkpoint_interval_s and checkpoint_keep).")]
pub(super) struct Checkpoint {
    /// The file; - is standard output; without it, one with a name in the state folder
    file: Option<PathBuf>,
    /// The name
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    name: Option<String>,
    /// Save the local copy, even if it may be old
    #[arg(long)]
    stale: bool,
    /// Replace the file if it exists
    #[arg(short, long)]
    yes: bool,
}

impl Checkpoint {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = match &self.file {
            Some(file) => format!("save the database to {}", file.display()),
            None => "save the database".to_owned(),
        };
        let (path, name) = match &self.file {
            Some(file) => (file.clone(), None),
            None => {
                let dated = || format!("at-{}", checkpoints::stamp(now()));
                let name = self.name.clone().unwrap_or_else(dated);
                (path_named(common, &name, true, &doing)?, Some(name))
            }
        };
        let client = common.attach(PROGRAM, &doing)?;
        let freshness = if self.stale {
            Freshness::Stale
        } else {
            Freshness::Strict
        };
        let progress = terminal.progress(&doing);
        let database = client.snapshot(freshness);
        drop(progress);
        let database = database.doing(&doing)?;
        let report = client.status().doing(&doing)?;
        let origin = FileOrigin {
            cluster: report.cluster_id,
            name: report.cluster_name,
        };
        if name.is_some() {
            allow_replacing(&path, self.yes, terminal, &doing)?;
            checkpoints::save(&path, &database, &origin)
                .map_err(|error| cannot_write(&path, &error, &doing))?;
        } else {
            write_file(&path, &database.to_file_text(&origin), self.yes, terminal, &doing)?;
        }
        let position = database.position();
        if terminal.json && path != Path::new("-") {
            terminal.document(&json!({
                "file": path.display().to_string(),
                "name": name,
                "rows": database.row_count(),
                "epoch": position.stamp.epoch.0,
                "generation": position.stamp.generation.0,
                "lineage": position.lineage.to_string(),
            }))?;
        } else if let Some(name) = &name {
            terminal.line(name)?;
        }
        terminal.detail(&format!("{} rows at {position}", database.row_count()));
        Ok(Exit::Done)
    }
}

/// Where the checkpoint of this name is; with `new`, that people may give it.
pub(super) fn path_named(common: &Common, name: &str, new: bool, doing: &str) -> Result<PathBuf, Stop> {
    let path = checkpoints::path_of(&common.places, name)
        .map_err(|why| Stop::new(&messages::USAGE, doing, format!("checkpoint {name:?}: {why}")))?;
    if new && name.starts_with(checkpoints::AUTOMATIC) {
        let why = format!(
            "names that begin with {} are those of automatic ones",
            checkpoints::AUTOMATIC
        );
        return Err(Stop::new(&messages::USAGE, doing, why).and_try("another name"));
    }
    Ok(path)
}

/// An existing file is replaced only with `yes`, or if someone on the terminal agrees.
fn allow_replacing(path: &Path, yes: bool, terminal: &mut Terminal, doing: &str) -> Result<(), Stop> {
    if !path.is_file() {
        return Ok(());
    }
    let question = format!("{} exists.", path.display());
    terminal
        .confirm(yes, doing, &format!("{question} Replace it?"))
        .map_err(|_| Stop::new(&messages::FILE_EXISTS, doing, &question))
}

fn cannot_write(path: &Path, error: &io::Error, doing: &str) -> Stop {
    let message = match error.kind() {
        io::ErrorKind::PermissionDenied => &messages::FILE_NOT_PERMITTED,
        _ => &messages::CANNOT_CREATE,
    };
    Stop::new(message, doing, format!("{}: {error}", path.display()))
}

/// Writes a text to a file or, for `-`, to standard output. An existing file is replaced only with `yes`, or if
/// someone on the terminal agrees.
pub(super) fn write_file(
    path: &Path,
    text: &str,
    yes: bool,
    terminal: &mut Terminal,
    doing: &str,
) -> Result<(), Stop> {
    if path == Path::new("-") {
        return terminal.bytes(text.as_bytes());
    }
    allow_replacing(path, yes, terminal, doing)?;
    files::write_whole(path, text.as_bytes(), 0o600).map_err(|error| cannot_write(path, &error, doing))
}

pub(super) fn text_stop(error: &TextError, doing: &str) -> Stop {
    Stop::new(text_message(error), doing, error.to_string())
}

/// Replace the database, or one key of it, by what a file holds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm restore --dry-run backup.ccd
  ccdadm restore --yes backup.ccd
  ccdadm restore --key MY_KEY backup.ccd
  ccdadm restore --checkpoint before-upgrade

The file must end with its consistency record, as checkpoint and convert write it. One that another
cluster has saved is restored with --force only; --dry-run says so. A restore
of all or of one key while a node is missing is marked in the database (restore flag 3): all
nodes must then be active once before the cluster restarts unattended, which resets it.

Exit codes: 65 a row is wrong or the record is missing, 104 the file does not match its record.")]
pub(super) struct Restore {
    /// The file; - is standard input
    #[arg(required_unless_present = "checkpoint")]
    file: Option<PathBuf>,
    /// A checkpoint of this node, by its name in ccdadm checkpoints
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    checkpoint: Option<String>,
    /// Restore this key only
    #[arg(long)]
    key: Option<String>,
    /// Also if another cluster saved the file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: Change,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Restore {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let file = match (&self.file, &self.checkpoint) {
            (_, Some(name)) => path_named(common, name, false, "restore the checkpoint")?,
            (Some(file), None) => file.clone(),
            (None, None) => unreachable!("the parser wants one of them"),
        };
        let doing = match &self.key {
            Some(key) => format!("restore {key} from {}", file.display()),
            None => format!("restore the database from {}", file.display()),
        };
        let key = self
            .key
            .as_deref()
            .map(|key| parse_key(key, &doing))
            .transpose()?;
        let backup = Backup::read(&file).map_err(|error| {
            let stop = Stop::new(error.message(), &doing, error.to_string());
            match error {
                CcdError::NoRecord { .. } => {
                    stop.and_try(format!("ccdadm convert {} OUT, then restore OUT", file.display()))
                }
                _ => stop,
            }
        })?;
        let from = format!("generation {} of {}", backup.record().generation, file.display());
        let client = common.attach(PROGRAM, &doing)?;
        let report = client.status().doing(&doing)?;
        if let Some(why) = backup.foreign_to(report.cluster_id, &report.cluster_name) {
            let why = format!("{}: {why}", file.display());
            if self.change.dry_run {
                terminal.warn(&format!("{why}; a restore needs --force"));
            } else if self.force {
                terminal.warn(&why);
            } else {
                return Err(Stop::new(&messages::FOREIGN_CHECKPOINT, &doing, why));
            }
        }
        let op = match key {
            Some(key) => backup.restore_key(key.clone()).ok_or_else(|| {
                Stop::new(
                    &messages::NO_SUCH_KEY,
                    &doing,
                    format!("{} has no key {key}", file.display()),
                )
                .and_try(format!("grep _fmt: {} lists its keys", file.display()))
            })?,
            None => backup.restore_all(),
        };
        if !self.change.dry_run {
            let what = match &op {
                Op::ReplaceKey { key, .. } | Op::LoadKey { key, .. } => format!("all rows of {key}"),
                _ => "the whole database".to_owned(),
            };
            terminal.confirm(self.yes, &doing, &format!("This replaces {what} by {from}."))?;
        }
        commit(&client, self.change.transaction(vec![op]), terminal, &doing)
    }
}
