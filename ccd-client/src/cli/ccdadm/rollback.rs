//! `ccdadm rollback`: back to an earlier generation, as one new update.

use super::PROGRAM;
use super::change::{Change, commit};
use super::history::show_lines;
use super::query::parse_key;
use crate::backup;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::client::Freshness;
use crate::exit::Exit;
use crate::messages;
use crate::wire::ChangesAsk;
use ccd_core::configuration::RestoreFlag;
use ccd_core::database::Precondition;
use ccd_core::ids::Generation;
use serde_json::json;

/// Undo what was changed since a generation, by one new update
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm rollback --dry-run 4711          what it would change
  ccdadm rollback --yes 4711              the database is as it was at generation 4711
  ccdadm rollback --key MY_KEY 4711       one key only

Nothing is taken out of the history: the rollback is an update like any other, and can be undone
itself. If somebody changes the database meanwhile, nothing is changed (exit code 1).

Exit codes: 105 the history of this node does not reach back so far, 1 the database was changed
meanwhile.")]
pub(super) struct Rollback {
    generation: u64,
    /// This key only
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    change: Change,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Rollback {
    pub fn run(mut self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let to = Generation(self.generation);
        let doing = match &self.key {
            Some(key) => format!("roll {key} back to generation {to}"),
            None => format!("roll back to generation {to}"),
        };
        let key = self
            .key
            .as_deref()
            .map(|key| parse_key(key, &doing))
            .transpose()?;
        let client = common.attach(PROGRAM, &doing)?;
        let now = client.snapshot(Freshness::Strict).doing(&doing)?;
        let from = now.position().stamp.generation;
        if to > from {
            let why = format!("the database is at generation {from}");
            return Err(
                Stop::new(&messages::NOT_KEPT, &doing, why).and_try("ccdadm history lists the generations")
            );
        }
        let difference = client.changes(ChangesAsk { key, from, to }).doing(&doing)?;
        if difference.is_empty() {
            terminal.note("there is nothing to undo");
            if terminal.json {
                terminal
                    .document(&json!({ "committed": false, "dry_run": self.change.dry_run, "same": true }))?;
            }
            return Ok(Exit::Done);
        }
        if self.change.dry_run {
            if !terminal.json {
                show_lines(&difference, "", terminal)?;
            }
        } else {
            let question = format!(
                "This undoes what {} updates changed: {} rows are removed, {} added.",
                from.0 - to.0,
                difference.rows_removed.len(),
                difference.rows_added.len()
            );
            terminal.confirm(self.yes, &doing, &question)?;
        }
        self.change.reason.get_or_insert_with(|| doing.clone());
        let mut ops = difference.operations(&now);
        if backup::is_large(&ops) {
            // The master says whether all nodes are active.
            ops = difference
                .loads(&now, RestoreFlag::default())
                .map_err(|broken| Stop::new(&messages::UPDATE_WRONG, &doing, broken.to_string()))?;
        }
        let mut transaction = self.change.transaction(ops);
        transaction.preconditions.push(Precondition::Generation(from));
        commit(&client, transaction, terminal, &doing)
    }
}
