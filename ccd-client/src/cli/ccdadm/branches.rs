//! `ccdadm branches`: states that lost, after an override or damage, and were kept aside on this node.

use super::PROGRAM;
use super::change::{Change, commit};
use super::diff::{self, branch};
use crate::backup::replace_all;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::{date_text, table};
use crate::cli::terminal::Terminal;
use crate::client::{Client, Freshness};
use crate::exit::Exit;
use ccd_core::database::Content;
use clap::Subcommand;
use serde_json::json;

/// List the branches that lost and are kept on this node; show, compare or adopt one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm branches
  ccdadm branches diff 7-4711-0123456789ab      what the branch has that the database has not
  ccdadm branches show 7-4711-0123456789ab > branch.ccd
  ccdadm branches adopt --dry-run 7-4711-0123456789ab

When an operator overrules the votes, or a copy is found damaged, what a node held and the cluster
goes on without is kept beside its local copy: the last 8 of each node.

Exit codes: 0 done, 1 no branch is kept or there is a difference, 105 there is no such branch here.")]
pub(super) struct Branches {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a branch, as checkpoint prints the database
    Show { name: String },
    /// Compare a branch with the database as it is now; '+' is what the branch has
    Diff { name: String },
    /// Replace the database by a branch, as restore does with a file
    Adopt {
        name: String,
        #[command(flatten)]
        change: Change,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

impl Branches {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = match &self.action {
            None => "list the branches".to_owned(),
            Some(Action::Show { name }) => format!("show branch {name}"),
            Some(Action::Diff { name }) => format!("compare branch {name} with the database"),
            Some(Action::Adopt { name, .. }) => format!("adopt branch {name}"),
        };
        let client = common.attach(PROGRAM, &doing)?;
        match self.action {
            None => list(&client, terminal, &doing),
            Some(Action::Show { name }) => {
                terminal.bytes(&client.branch(&name).doing(&doing)?)?;
                Ok(Exit::Done)
            }
            Some(Action::Diff { name }) => {
                let content = branch(&client, &name, &doing)?.content;
                let now = client.snapshot(Freshness::Strict).doing(&doing)?.content();
                let difference = Content::diff(&now, &content);
                diff::show(&difference, "now", &format!("branch {name}"), terminal)
            }
            Some(Action::Adopt {
                name,
                mut change,
                yes,
            }) => {
                let content = branch(&client, &name, &doing)?.content;
                if !change.dry_run {
                    let question = format!("This replaces the whole database by branch {name}.");
                    terminal.confirm(yes, &doing, &question)?;
                }
                change.reason.get_or_insert_with(|| doing.clone());
                let op = replace_all(content);
                commit(&client, change.transaction(vec![op]), terminal, &doing)
            }
        }
    }
}

fn list(client: &Client, terminal: &mut Terminal, doing: &str) -> Result<Exit, Stop> {
    let branches = client.branches().doing(doing)?;
    if terminal.json {
        let branches: Vec<_> = branches
            .iter()
            .map(|branch| json!({ "name": branch.name, "kept": date_text(branch.kept), "bytes": branch.bytes }))
            .collect();
        terminal.document(&json!({ "branches": branches }))?;
    } else if !branches.is_empty() {
        let rows = branches.iter().map(|branch| {
            vec![
                branch.name.clone(),
                date_text(branch.kept),
                branch.bytes.to_string(),
            ]
        });
        terminal.line(&table(&["BRANCH", "KEPT", "BYTES"], rows.collect()))?;
    }
    Ok(if branches.is_empty() { Exit::No } else { Exit::Done })
}
