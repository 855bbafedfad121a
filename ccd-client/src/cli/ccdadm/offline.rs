//! `ccdadm convert` and `ccdadm purify`: files that people wrote become database files.

use super::PROGRAM;
use super::backup::{text_stop, write_file};
use super::change::{Change, commit};
use crate::backup::TEXT_BYTES_MAX;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::client::{Freshness, now};
use crate::exit::Exit;
use crate::files;
use crate::messages;
use ccd_core::database::{Database, Op, Purified, TextError, convert_text, purify_text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Turn an ASCII file of formats and rows into a database file with its consistency record
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm convert rows.txt rows.ccd
  ccdadm convert rows.txt - | tail -n 1     the record alone
  ccdadm convert --dry-run rows.txt rows.ccd

The file has a line KEY_fmt:column:column for each key and a line KEY:value:value for each row;
'#' starts a comment. In a value, ':' is written %3A and '%' is written %25.")]
pub(super) struct Convert {
    /// The file to read; - is standard input
    ascii: PathBuf,
    /// The file to write; - is standard output
    out: PathBuf,
    /// Only check
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Replace OUT if it exists
    #[arg(short, long)]
    yes: bool,
}

impl Convert {
    pub fn run(&self, _common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("convert {} to {}", self.ascii.display(), self.out.display());
        let text = files::read_bytes(&self.ascii, TEXT_BYTES_MAX).doing(&doing)?;
        let converted = convert_text(&text, now()).map_err(|error| text_stop(&error, &doing))?;
        if self.dry_run {
            terminal.note("dry run: it would be converted");
        } else {
            write_file(&self.out, &converted, self.yes, terminal, &doing)?;
        }
        let lines = converted.lines().count() - 1;
        if terminal.json && self.out != Path::new("-") {
            terminal.document(&json!({
                "file": self.out.display().to_string(), "lines": lines, "dry_run": self.dry_run,
            }))?;
        }
        terminal.detail(&format!("{lines} formats and rows"));
        Ok(Exit::Done)
    }
}

/// List rows that break their format, and drop them on request
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm purify rows.ccd                    list what is wrong in a file
  ccdadm purify --drop --yes rows.ccd       and write the file without it, with a new record
  ccdadm purify                             check the running database

Exit codes: 0 every row fits or was dropped, 1 some do not,
104 the rows fit but not the file's record.")]
pub(super) struct Purify {
    /// The file; without it, the running database
    file: Option<PathBuf>,
    /// Drop the rows that are listed
    #[arg(long)]
    drop: bool,
    #[command(flatten)]
    change: Change,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Purify {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        match &self.file {
            Some(path) => self.purify_file(path, terminal),
            None => self.purify_running(common, terminal),
        }
    }

    fn purify_file(&self, path: &Path, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("purify {}", path.display());
        let text = files::read_bytes(path, TEXT_BYTES_MAX).doing(&doing)?;
        let purified = purify_text(&text);
        list(&purified, &path.display().to_string(), terminal)?;
        if purified.broken.is_empty() {
            return match purified.integrity {
                Some(error) => Err(text_stop(&TextError::Integrity(error), &doing)),
                None => Ok(Exit::Done),
            };
        }
        if let Some(error) = &purified.integrity {
            terminal.warn(&format!("{}: {error}", path.display()));
        }
        if !self.drop || self.change.dry_run {
            return Ok(Exit::No);
        }
        let question = format!(
            "This drops {} rows from {}.",
            purified.broken.len(),
            path.display()
        );
        terminal.confirm(self.yes, &doing, &question)?;
        let database = Database::from_content(&purified.content, now())
            .map_err(|error| Stop::new(&messages::INTERNAL, &doing, error.to_string()))?;
        write_file(path, &database.to_text(), true, terminal, &doing)?;
        Ok(Exit::Done)
    }

    fn purify_running(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "purify the running database";
        let client = common.attach(PROGRAM, doing)?;
        let database = client.snapshot(Freshness::Strict).doing(doing)?;
        let purified = purify_text(database.to_text().as_bytes());
        list(&purified, "database", terminal)?;
        if purified.broken.is_empty() {
            return Ok(Exit::Done);
        }
        if !self.drop {
            return Ok(Exit::No);
        }
        if !self.change.dry_run {
            let question = format!("This drops {} rows of the database.", purified.broken.len());
            terminal.confirm(self.yes, doing, &question)?;
        }
        commit(
            &client,
            self.change.transaction(vec![Op::Purify]),
            terminal,
            doing,
        )
    }
}

fn list(purified: &Purified, name: &str, terminal: &mut Terminal) -> Result<(), Stop> {
    if terminal.json {
        let broken: Vec<Value> = purified
            .broken
            .iter()
            .map(|broken| json!({ "line": broken.line, "row": broken.row, "problem": broken.problem.to_string() }))
            .collect();
        return terminal.document(&json!({ "rows": purified.content.rows.len(), "broken": broken }));
    }
    for broken in &purified.broken {
        terminal.line(&format!("{name}: {broken}"))?;
    }
    Ok(())
}
