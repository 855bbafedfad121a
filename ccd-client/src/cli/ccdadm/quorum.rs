//! `ccdadm quorum on|off`: whether a majority is needed to go on.

use super::PROGRAM;
use crate::cli::Common;
use crate::cli::failure::{Asking, Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::exit::Exit;
use crate::messages;
use ccd_core::configuration::Quorum as Rule;
use serde_json::json;

/// Require a majority to go on, or let whoever is left go on alone
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With quorum on, which is the default, updates are taken by a majority of the nodes, exactly
half of them answers queries, and fewer do neither. With quorum off, nodes that lose the others
go on by themselves after a lease, as if an operator had said takeover --force each time. If
the others are alive and only cut off, both sides go on: when they meet, the side with the
lower epoch loses its updates, which are kept aside on its nodes. Status and the log warn for
as long as it is off. Either change is decided by a majority, while there is one.

Examples:
  ccdadm quorum off --force --cluster prod
  ccdadm quorum on

Exit codes: 106 there is no majority to decide it, 107 --force or the cluster's name is missing,
111 it may still be decided.")]
pub(super) struct Quorum {
    /// Whether it is needed
    #[arg(value_parser = ["on", "off"])]
    rule: String,
    /// Overrule the safety of quorum; off wants it
    #[arg(long, requires = "cluster")]
    force: bool,
    /// The cluster's name; --force wants it
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Say what would be asked for, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Quorum {
    pub fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("turn quorum {}", self.rule);
        let rule = if self.rule == "on" {
            Rule::Required
        } else {
            Rule::Waived
        };
        let client = common.attach(PROGRAM, &doing)?;
        let known = client.status().doing(&doing)?.cluster_name;
        if let Some(given) = self.cluster.as_ref().filter(|given| **given != known) {
            let why = format!("this cluster is not called {given:?}");
            return Err(Stop::new(&messages::WRONG_CLUSTER_NAME, &doing, why));
        }
        if rule == Rule::Waived && !self.force {
            let why =
                "nodes that lose each other would both go on, and the updates of one side would be lost";
            return Err(Stop::new(&messages::NOT_CONFIRMED, &doing, why).and_try(format!(
                "ccdadm quorum off --force --cluster {known}, if you mean it"
            )));
        }
        if self.dry_run {
            terminal.note(&format!("dry run: cluster {known} would be asked to {doing}"));
        } else {
            client.set_quorum(rule).asking(&doing)?;
        }
        if terminal.json {
            terminal
                .document(&json!({ "done": !self.dry_run, "dry_run": self.dry_run, "quorum": self.rule }))?;
        }
        terminal.detail("done");
        Ok(Exit::Done)
    }
}
