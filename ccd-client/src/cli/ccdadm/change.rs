//! The verbs that change the database by one transaction: `add`, `remove`, `format`, `remove-format`, `apply`.

use super::PROGRAM;
use super::query::{Matching, parse_key};
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::client::{Applied, Client, Freshness, Transaction};
use crate::exit::Exit;
use crate::files;
use crate::messages;
use ccd_core::database::{self, LineError, Op, Precondition, RECORD_BYTES_MAX, Row};
use ccd_core::ids::Generation;
use serde_json::json;
use std::path::PathBuf;

/// Options of everything that changes the database.
#[derive(Debug, clap::Args)]
pub(super) struct Change {
    /// Say what would happen, change nothing; synchronization commands run before it, and roll back
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Run no synchronization commands
    #[arg(long)]
    pub no_sync: bool,
    /// Kept with the update, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Fail with exit code 109 rather than wait for an update in progress
    #[arg(long)]
    pub no_wait: bool,
    /// Only if the database is at this generation
    #[arg(long, value_name = "N")]
    pub if_generation: Option<u64>,
}

impl Change {
    /// The transaction that the options and these operations make.
    pub fn transaction(&self, ops: Vec<Op>) -> Transaction {
        let generation = self
            .if_generation
            .map(|n| Precondition::Generation(Generation(n)));
        Transaction {
            preconditions: generation.into_iter().collect(),
            ops,
            reason: self.reason.clone(),
            no_wait: self.no_wait,
            dry_run: self.dry_run,
            no_sync: self.no_sync,
        }
    }
}

/// Applies a transaction and says what came of it.
pub(super) fn commit(
    client: &Client,
    transaction: Transaction,
    terminal: &mut Terminal,
    doing: &str,
) -> Result<Exit, Stop> {
    let progress = terminal.progress(doing);
    let applied = client.update(transaction);
    drop(progress);
    match applied.doing(doing)? {
        Applied::Committed { generation, removed } => {
            if terminal.json {
                terminal.document(&json!({
                    "committed": true, "dry_run": false, "generation": generation.0, "removed": removed,
                }))?;
            }
            let removed = match removed {
                Some(rows) if rows > 0 => format!(", {rows} rows removed"),
                _ => String::new(),
            };
            terminal.detail(&format!("committed as generation {generation}{removed}"));
        }
        Applied::WouldApply { removed } => {
            if terminal.json {
                terminal.document(&json!({ "committed": false, "dry_run": true, "removed": removed }))?;
            } else {
                terminal.note(&format!("dry run: it would be committed, {removed} rows removed"));
            }
        }
    }
    Ok(Exit::Done)
}

/// Add a row, unless an equal one is there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm add MY_KEY clust0 4 sci foo,bar,moo,boo
  ccdadm add HOST web1 fd00::1              values are plain; only files write ':' as %3A
  ccdadm add --reason 'ticket 4711' MY_KEY clust1 2 eth a,b
  ccdadm add MY_KEY -- -x                   a value that starts with '-'
  ccdadm add --no-sync MY_KEY clust2 3 sci  without its synchronization command

Exit codes: 105 there is no such key, 108 the row is there already.")]
pub(super) struct Add {
    key: String,
    /// One for each column
    #[arg(value_name = "VALUE", required = true, allow_negative_numbers = true)]
    values: Vec<String>,
    #[command(flatten)]
    change: Change,
}

impl Add {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("add a row to {}", self.key);
        let key = parse_key(&self.key, &doing)?;
        let row = Row::new(key, self.values)
            .map_err(|error| Stop::new(&messages::ROW_BAD, &doing, error.to_string()))?;
        let client = common.attach(PROGRAM, &doing)?;
        commit(
            &client,
            self.change.transaction(vec![Op::Add(row)]),
            terminal,
            &doing,
        )
    }
}

/// Remove the rows of a key that match
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm remove MY_KEY clust0               all rows whose first column is clust0
  ccdadm remove MY_KEY network_type=sci     by column name
  ccdadm remove --dry-run MY_KEY 'clust*'   how many would go
  ccdadm remove --yes MY_KEY                all rows of the key

Exit codes: 105 no row matches, or there is no such key.")]
pub(super) struct Remove {
    #[command(flatten)]
    matching: Matching,
    #[command(flatten)]
    change: Change,
    /// Do not ask before all rows of the key are removed
    #[arg(short, long)]
    yes: bool,
}

impl Remove {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("remove rows of {}", self.matching.key);
        let pattern = self.matching.pattern(&doing)?;
        let client = common.attach(PROGRAM, &doing)?;
        if self.matching.is_all() && !self.yes && !self.change.dry_run {
            let rows = client
                .query(pattern.clone(), Freshness::Strict)
                .doing(&doing)?
                .rows;
            let question = format!("This removes all {} rows of {}.", rows.len(), self.matching.key);
            terminal.confirm(self.yes, &doing, &question)?;
        }
        let transaction = self.change.transaction(vec![Op::Remove(pattern)]);
        commit(&client, transaction, terminal, &doing)
    }
}

/// Define a key: the names of its columns
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm format MY_KEY clustname number_nodes network_type node_names

Exit codes: 108 the key is there with other columns.")]
pub(super) struct Format {
    key: String,
    #[arg(value_name = "COLUMN", required = true)]
    columns: Vec<String>,
    #[command(flatten)]
    change: Change,
}

impl Format {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("define the key {}", self.key);
        let key = parse_key(&self.key, &doing)?;
        database::check_format(&key, &self.columns)
            .map_err(|error| Stop::new(&messages::ROW_BAD, &doing, error.to_string()))?;
        let client = common.attach(PROGRAM, &doing)?;
        let format = Op::Format {
            key,
            columns: self.columns,
        };
        commit(&client, self.change.transaction(vec![format]), terminal, &doing)
    }
}

/// Remove a key that has no rows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm remove --yes MY_KEY && ccdadm remove-format MY_KEY

Exit codes: 105 there is no such key, 107 it still has rows.")]
pub(super) struct RemoveFormat {
    key: String,
    #[command(flatten)]
    change: Change,
}

impl RemoveFormat {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("remove the key {}", self.key);
        let key = parse_key(&self.key, &doing)?;
        let client = common.attach(PROGRAM, &doing)?;
        let transaction = self.change.transaction(vec![Op::RemoveFormat(key)]);
        commit(&client, transaction, terminal, &doing)
    }
}

/// Apply a transaction from a file: whole or not at all
#[derive(Debug, clap::Args)]
#[command(after_help = APPLY_HELP)]
pub(super) struct Apply {
    /// The file; - is standard input
    file: PathBuf,
    #[command(flatten)]
    change: Change,
}

const APPLY_HELP: &str = "\
Examples:
  ccdadm apply services.txn
  ccdadm apply --dry-run services.txn       checks it; synchronization commands run, and roll back
  generate | ccdadm apply -

The file has one statement a line, and is applied in this order, whole or not at all:
  # a comment
  if generation = 12               refuse unless the database is at this generation
  if row present KEY:val:val       refuse unless the row is there
  if row absent KEY:val:val        refuse if the row is there
  format KEY:col:col               define a key; also KEY_fmt:col:col
  add KEY:val:val                  add a row; also KEY:val:val
  remove KEY:pat:pat               remove the matching rows; missing patterns match anything
  wildcard ?                       the wildcard of the removes that follow; none for none
  remove-format KEY                remove a key that has no rows
In values and patterns ':' is written %3A and '%' is written %25.

Exit codes: 65 a line is wrong, 105 no such key or row, 108 a row exists,
1 a precondition does not hold.";

impl Apply {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("apply {}", self.file.display());
        let text = files::read_bytes(&self.file, RECORD_BYTES_MAX as u64).doing(&doing)?;
        let parsed = database::Transaction::parse(&text).map_err(|error| {
            let is_damaged = error
                .first
                .iter()
                .any(|broken| matches!(broken.problem, LineError::Integrity(_)));
            let message = if is_damaged {
                &messages::TEXT_DAMAGED
            } else {
                &messages::TRANSACTION_BAD
            };
            Stop::new(message, &doing, error.to_string())
        })?;
        let mut transaction = self.change.transaction(parsed.ops);
        transaction.preconditions.extend(parsed.preconditions);
        if transaction.ops.is_empty() && transaction.preconditions.is_empty() {
            // An update that changes nothing would be a generation all the same.
            terminal.note("there is nothing to apply");
            if terminal.json {
                let dry_run = transaction.dry_run;
                terminal.document(&json!({ "committed": false, "dry_run": dry_run, "same": true }))?;
            }
            return Ok(Exit::Done);
        }
        let client = common.attach(PROGRAM, &doing)?;
        commit(&client, transaction, terminal, &doing)
    }
}
