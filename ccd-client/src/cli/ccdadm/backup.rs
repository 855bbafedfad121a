//! `ccdadm checkpoint` and `ccdadm restore`: the whole database to a file and back.

use super::PROGRAM;
use super::change::{Change, commit};
use super::query::parse_key;
use crate::backup::Backup;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::client::Freshness;
use crate::error::{CcdError, text_message};
use crate::exit::Exit;
use crate::files;
use crate::messages;
use ccd_core::database::{Op, TextError};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Save the database to a file, with its consistency record
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm checkpoint backup.ccd
  ccdadm checkpoint - | ssh elsewhere 'cat > backup.ccd'
  ccdadm checkpoint --stale saved.ccd       the local copy, while the cluster does not serve")]
pub(super) struct Checkpoint {
    /// The file; - is standard output
    file: PathBuf,
    /// Save the local copy, even if it may be old
    #[arg(long)]
    stale: bool,
    /// Replace the file if it exists
    #[arg(short, long)]
    yes: bool,
}

impl Checkpoint {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("save the database to {}", self.file.display());
        let client = common.attach(PROGRAM, &doing)?;
        let freshness = if self.stale {
            Freshness::Stale
        } else {
            Freshness::Strict
        };
        let database = client.snapshot(freshness).doing(&doing)?;
        write_file(&self.file, &database.to_text(), self.yes, terminal, &doing)?;
        let position = database.position();
        if terminal.json && self.file != Path::new("-") {
            terminal.document(&json!({
                "file": self.file.display().to_string(),
                "rows": database.row_count(),
                "epoch": position.stamp.epoch.0,
                "generation": position.stamp.generation.0,
                "lineage": position.lineage.to_string(),
            }))?;
        }
        terminal.detail(&format!("{} rows at {position}", database.row_count()));
        Ok(Exit::Done)
    }
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
    if path.is_file() {
        let question = format!("{} exists.", path.display());
        terminal
            .confirm(yes, doing, &format!("{question} Replace it?"))
            .map_err(|_| Stop::new(&messages::FILE_EXISTS, doing, &question))?;
    }
    files::write_whole(path, text.as_bytes(), 0o600)
        .map_err(|error| Stop::new(&messages::CANNOT_CREATE, doing, error.to_string()))
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

The file must end with its consistency record, as checkpoint and convert write it. A restore
of all or of one key while a node is missing is marked in the database (restore flag 3): all
nodes must then be active once before the cluster restarts unattended, which resets it.

Exit codes: 65 a row is wrong or the record is missing, 104 the file does not match its record.")]
pub(super) struct Restore {
    /// The file; - is standard input
    file: PathBuf,
    /// Restore this key only
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    change: Change,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Restore {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = match &self.key {
            Some(key) => format!("restore {key} from {}", self.file.display()),
            None => format!("restore the database from {}", self.file.display()),
        };
        let key = self
            .key
            .as_deref()
            .map(|key| parse_key(key, &doing))
            .transpose()?;
        let backup = Backup::read(&self.file).map_err(|error| {
            let stop = Stop::new(error.message(), &doing, error.to_string());
            match error {
                CcdError::NoRecord { .. } => stop.and_try(format!(
                    "ccdadm convert {} OUT, then restore OUT",
                    self.file.display()
                )),
                _ => stop,
            }
        })?;
        let from = format!(
            "generation {} of {}",
            backup.record().generation,
            self.file.display()
        );
        let client = common.attach(PROGRAM, &doing)?;
        let op = match key {
            Some(key) => backup.restore_key(key.clone()).ok_or_else(|| {
                Stop::new(
                    &messages::NO_SUCH_KEY,
                    &doing,
                    format!("{} has no key {key}", self.file.display()),
                )
                .and_try(format!("grep _fmt: {} lists its keys", self.file.display()))
            })?,
            None => backup.restore_all(),
        };
        if !self.change.dry_run {
            let what = match &op {
                Op::ReplaceKey { key, .. } => format!("all rows of {key}"),
                _ => "the whole database".to_owned(),
            };
            terminal.confirm(self.yes, &doing, &format!("This replaces {what} by {from}."))?;
        }
        commit(&client, self.change.transaction(vec![op]), terminal, &doing)
    }
}
