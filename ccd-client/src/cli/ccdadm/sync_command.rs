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
use ccd_core::client::Refusal;
use ccd_core::database::{Key, Op, OpError, Pattern, Row};
use ccd_core::synchronization::{CommandName, SYNC_COLUMNS, SYNC_KEY};
use serde_json::json;

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
  ROW      the row, as ccdadm query prints it, if the update adds or removes exactly one
  FILE     the database as it stands, as ccdadm checkpoint writes it
  NODES    how many nodes the cluster has; UP: how many are active; NODE: the number of this one

It is killed with all its children after sync_timeout_ms (10 s, an OPTION of the init database).
Before an update it has no longer than the request, so a slow one needs a longer --timeout.
--no-sync changes a key without running its command.

Examples:
  ccdadm sync-command set MY_KEY realloc
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
            Step::Set { key, name, change } => {
                let doing = format!("set the synchronization command of {key}");
                let key = parse_key(&key, &doing)?;
                let name = CommandName::new(&name)
                    .map_err(|error| Stop::new(&messages::COMMAND_NAME_BAD, &doing, error.to_string()))?;
                set(common, terminal, &key, &name, &change, &doing)
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

fn set(
    common: &Common,
    terminal: &mut Terminal,
    key: &Key,
    name: &CommandName,
    change: &Change,
    doing: &str,
) -> Result<Exit, Stop> {
    let row = Row::new(sync_key(), [key.as_str(), name.as_str()])
        .map_err(|error| Stop::new(&messages::ROW_BAD, doing, error.to_string()))?;
    let client = common.attach(PROGRAM, doing)?;
    let mut ops = vec![Op::Format {
        key: sync_key(),
        columns: SYNC_COLUMNS.map(String::from).to_vec(),
    }];
    match row_of(&client, key, doing)? {
        Some(old) if old == row => {
            terminal.detail("it is set already");
            return Ok(Exit::Done);
        }
        Some(old) => ops.push(Op::Remove(Pattern::exact(&old))),
        None => {}
    }
    ops.push(Op::Add(row));
    let path = common.places.sync_dir().join(name.as_str());
    if !path.exists() {
        terminal.note(&format!(
            "{} is not there on this node: until it is on every node, updates of {key} are refused",
            path.display()
        ));
    }
    commit(&client, change.transaction(ops), terminal, doing)
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
    if terminal.json {
        let commands: Vec<_> = rows
            .iter()
            .map(|row| json!({ "key": text(row, 0), "command": text(row, 1) }))
            .collect();
        terminal.document(&json!({ "commands": commands }))?;
    } else if key.is_some() {
        for row in &rows {
            terminal.line(&text(row, 1))?;
        }
    } else {
        let lines = rows.iter().map(|row| vec![text(row, 0), text(row, 1)]).collect();
        terminal.line(&table(&["KEY", "COMMAND"], lines))?;
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
