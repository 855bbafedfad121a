//! `ccdadm sync-command`: which command runs on every node before and after an update of a key.
//!
//! A thin layer over rows of `CCD_SYNC`: what it does can be done by `ccdadm apply` as well. Always holds: a key has one
//! command or none, and `set` replaces it in one update.

use super::PROGRAM;
use super::change::{Change, commit};
use super::query::parse_key;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::Terminal;
use crate::client::{Client, Freshness};
use crate::error::CcdError;
use crate::exit::Exit;
use crate::messages;
use crate::wire::Fault;
use ccd_core::client::Refusal;
use ccd_core::database::{Key, Op, OpError, Pattern, Row, RowError};
use ccd_core::private::{PRIVATE_COLUMNS, PRIVATE_KEY};
use ccd_core::synchronization::{CommandName, SYNC_COLUMNS, SYNC_KEY};
use serde_json::json;
use std::collections::BTreeSet;

/// Set, show or unset the command that runs before and after updates of a key
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A synchronization command is a file in /etc/ccd/sync.d, on every node alike, owned by root and
writable by nobody else. On every active node it runs before an update of its key, and can refuse
it; and again afterwards, with what became of it:

  NAME KEYWORD [ROW] FILE NODES UP NODE

  KEYWORD  pre_add, pre_remove, pre_restore or pre_apply before the update: exit code 0 agrees, and
           anything else refuses it; what it writes to standard error is what the client reads.
           post_add, post_remove, post_restore or post_apply after it; post_rollback if it did not
           come about
  ROW      the row, as ccdadm query prints it, if the update adds or removes exactly one; it is on
           standard input as well, and there alone if the key is private: then ROW is -
  FILE     the database as it stands, as ccdadm checkpoint writes it
  NODES    how many nodes the cluster has; UP: how many are active; NODE: the number of this one

It is killed with all its children after sync_timeout_ms (10 s, an OPTION of the init database).
Before an update it has no longer than the request, so a slow one needs a longer --timeout.
--no-sync changes a key without running its command.

Every user of a machine can read the arguments of all processes. A key is private if a row of
CCD_PRIVATE names it (set --private, or ccdadm add CCD_PRIVATE MY_KEY): no value of it is then an
argument of its command, and what that writes is told to the client, but not logged or recorded.
Values for such a key go through ccdadm apply -, not onto the command line of ccdadm add.

Examples:
  ccdadm sync-command set MY_KEY realloc
  ccdadm sync-command set --private PASSWORDS distribute
  ccdadm sync-command show
  ccdadm --timeout 15 add MY_KEY clust0 4 sci foo,bar
  ccdadm add --no-sync MY_KEY clust0 4 sci foo,bar
  ccdadm sync-command unset MY_KEY

Exit codes: 65 the name is none, 105 the key has no command.")]
pub(super) struct SyncCommand {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// Run this command before and after every update of the key
    Set {
        key: String,
        /// A file in /etc/ccd/sync.d, by its name alone
        name: String,
        /// Keep the key's values from lists of processes, logs and records of decisions
        #[arg(long)]
        private: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Print the command of a key, or of all keys
    Show { key: Option<String> },
    /// Run none any more
    Unset {
        key: String,
        #[command(flatten)]
        change: Change,
    },
}

impl SyncCommand {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        match self.step {
            Step::Set {
                key,
                name,
                private,
                change,
            } => {
                let doing = format!("set the synchronization command of {key}");
                let key = parse_key(&key, &doing)?;
                let name = CommandName::new(&name)
                    .map_err(|error| Stop::new(&messages::COMMAND_NAME_BAD, &doing, error.to_string()))?;
                let set = Set { key, name, private };
                set.run(common, terminal, &change, &doing)
            }
            Step::Show { key } => show(common, terminal, key.as_deref()),
            Step::Unset { key, change } => {
                let doing = format!("unset the synchronization command of {key}");
                let key = parse_key(&key, &doing)?;
                let client = common.attach(PROGRAM, &doing)?;
                let Some(row) = row_of(&client, &key, &doing)? else {
                    return Err(none(&key, &doing));
                };
                let ops = vec![Op::Remove(Pattern::exact(&row))];
                commit(&client, change.transaction(ops), terminal, &doing)
            }
        }
    }
}

fn sync_key() -> Key {
    Key::new(SYNC_KEY).expect("the reserved key is a good one")
}

fn private_key() -> Key {
    Key::new(PRIVATE_KEY).expect("the reserved key is a good one")
}

/// What `set` sets.
struct Set {
    key: Key,
    name: CommandName,
    private: bool,
}

impl Set {
    fn run(
        &self,
        common: &Common,
        terminal: &mut Terminal,
        change: &Change,
        doing: &str,
    ) -> Result<Exit, Stop> {
        let Self { key, name, private } = self;
        let bad = |error: RowError| Stop::new(&messages::ROW_BAD, doing, error.to_string());
        let row = Row::new(sync_key(), [key.as_str(), name.as_str()]).map_err(bad)?;
        let client = common.attach(PROGRAM, doing)?;
        let mut ops = Vec::new();
        // Before the command is: it is never run with a value of a private key.
        let is_private = |keys: &BTreeSet<String>| keys.contains(key.as_str());
        if *private && !private_keys(&client, doing)?.as_ref().is_some_and(is_private) {
            ops.push(Op::Format {
                key: private_key(),
                columns: PRIVATE_COLUMNS.map(String::from).to_vec(),
            });
            ops.push(Op::Add(Row::new(private_key(), [key.as_str()]).map_err(bad)?));
        }
        let old = row_of(&client, key, doing)?;
        if old.as_ref() != Some(&row) {
            ops.push(Op::Format {
                key: sync_key(),
                columns: SYNC_COLUMNS.map(String::from).to_vec(),
            });
            ops.extend(old.map(|old| Op::Remove(Pattern::exact(&old))));
            ops.push(Op::Add(row));
        }
        if ops.is_empty() {
            terminal.detail("it is set already");
            return Ok(Exit::Done);
        }
        let path = common.places.sync_dir().join(name.as_str());
        if !path.exists() {
            terminal.note(&format!(
                "{} is not there on this node: until it is on every node, updates of {key} are refused",
                path.display()
            ));
        }
        commit(&client, change.transaction(ops), terminal, doing)
    }
}

/// The keys that are private; `None` if this user may not read that.
fn private_keys(client: &Client, doing: &str) -> Result<Option<BTreeSet<String>>, Stop> {
    let rows = match client.query(Pattern::all(private_key()), Freshness::Strict) {
        Ok(found) => found.rows,
        Err(CcdError::Refused(Refusal::Op(OpError::NoSuchKey(_)))) => Vec::new(),
        Err(CcdError::Fault(Fault::NotPermitted { .. })) => return Ok(None),
        Err(error) => return Err(error).doing(doing),
    };
    let keys = rows.into_iter().filter_map(|row| row.values.into_iter().next());
    Ok(Some(keys.collect()))
}

fn show(common: &Common, terminal: &mut Terminal, key: Option<&str>) -> Result<Exit, Stop> {
    let doing = match key {
        Some(key) => format!("show the synchronization command of {key}"),
        None => "show the synchronization commands".to_owned(),
    };
    let key = key.map(|key| parse_key(key, &doing)).transpose()?;
    let client = common.attach(PROGRAM, &doing)?;
    let rows = match &key {
        Some(key) => vec![row_of(&client, key, &doing)?.ok_or_else(|| none(key, &doing))?],
        None => rows_like(&client, Pattern::all(sync_key()), &doing)?,
    };
    let text = |row: &Row, at: usize| row.values.get(at).cloned().unwrap_or_default();
    let private = private_keys(&client, &doing)?;
    let is_private = |row: &Row| private.as_ref().map(|keys| keys.contains(&text(row, 0)));
    if terminal.json {
        let commands: Vec<_> = rows
            .iter()
            .map(|row| json!({ "key": text(row, 0), "command": text(row, 1), "private": is_private(row) }))
            .collect();
        terminal.document(&json!({ "commands": commands }))?;
    } else if key.is_some() {
        for row in &rows {
            terminal.line(&text(row, 1))?;
        }
    } else {
        let shown = |row: &Row| match is_private(row) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not known",
        };
        let lines = rows
            .iter()
            .map(|row| vec![text(row, 0), text(row, 1), shown(row).to_owned()])
            .collect();
        terminal.line(&table(&["KEY", "COMMAND", "PRIVATE"], lines))?;
    }
    Ok(Exit::Done)
}

fn none(key: &Key, doing: &str) -> Stop {
    let why = format!("{key} has no synchronization command");
    Stop::new(&messages::NO_SUCH_ROW, doing, why)
        .and_try("ccdadm sync-command show lists the keys that have one")
}

/// The row that sets the command of this key.
fn row_of(client: &Client, key: &Key, doing: &str) -> Result<Option<Row>, Stop> {
    let pattern = Pattern::positional(sync_key(), [key.as_str()]).with_wildcard(None);
    Ok(rows_like(client, pattern, doing)?.into_iter().next())
}

fn rows_like(client: &Client, pattern: Pattern, doing: &str) -> Result<Vec<Row>, Stop> {
    match client.query(pattern, Freshness::Strict) {
        Ok(found) => Ok(found.rows),
        // No command was ever set.
        Err(CcdError::Refused(Refusal::Op(OpError::NoSuchKey(_)))) => Ok(Vec::new()),
        Err(error) => Err(error).doing(doing),
    }
}
