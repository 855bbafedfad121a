//! `ccdctl`: who takes part. For the administrator, and for an external membership monitor.

use super::ccdadm::status::{node_name, node_state, state_name};
use super::failure::{Doing, Stop};
use super::table::table;
use super::terminal::Terminal;
use super::{Common, completions, finish, finish_parse};
use crate::client::Client;
use crate::exit::Exit;
use crate::messages;
use crate::wire::StatusReport;
use ccd_core::ids::NodeId;
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::process::ExitCode;

const PROGRAM: &str = "ccdctl";

/// Control which nodes take part in the cluster
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, after_help = EXAMPLES)]
struct Ccdctl {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  ccdctl members
  ccdctl leave                              before maintenance of this node
  ccdctl join                               afterwards
  ccdctl master beta                        master whenever it takes part
  ccdctl master --lowest                    the lowest-numbered node, as by default
  ccdctl takeover                           now, if the votes allow it
  ccdctl takeover --force --cluster prod    whatever the votes: the other node must be down

Exit codes are those of ccdadm.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the nodes, and who takes part
    Members,
    /// Leave the cluster gracefully, and stay out until join
    Leave(Change),
    /// Take part again
    Join(Change),
    /// Take over now
    Takeover(Takeover),
    /// Say which node is master, for as long as it takes part
    Master(Master),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
struct Change {
    /// Say what would be asked for, change nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --force the vote rule decides, and what it does not allow is refused with what is
missing. With --force it is overruled. If the other node still writes, updates are lost: make
sure that it is down. The override is recorded, and all nodes must then be active once before
the cluster restarts unattended.

Examples:
  ccdctl takeover
  ccdctl takeover --force --cluster prod")]
struct Takeover {
    /// Overrule the votes
    #[arg(long, requires = "cluster")]
    force: bool,
    /// The cluster's name; --force wants it
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The master orders the updates of all nodes. Without this it is the lowest-numbered node that
takes part. A designated node that is down or left is master again as soon as it is back;
until then it is the lowest-numbered one. No update is lost or done twice by the hand-over.

Examples:
  ccdctl master beta
  ccdctl master --lowest")]
struct Master {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// The node's name or number
    #[arg(value_name = "NODE")]
    node: Option<String>,
    /// The lowest-numbered node that takes part
    #[arg(long)]
    lowest: bool,
}

/// The definition of the command line, for completions and manual pages.
pub fn command() -> clap::Command {
    Ccdctl::command()
}

/// Runs `ccdctl`; the first argument is the program's own name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let Ccdctl { common, verb } = match Ccdctl::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => return finish_parse(PROGRAM, &error),
    };
    let mut terminal = common.terminal(PROGRAM);
    let outcome = match verb {
        Verb::Members => members(&common, &mut terminal),
        Verb::Leave(change) => control(&common, &mut terminal, "leave the cluster", change, Client::leave),
        Verb::Join(change) => control(&common, &mut terminal, "join the cluster", change, Client::join),
        Verb::Takeover(takeover) => takeover.run(&common, &mut terminal),
        Verb::Master(master) => master.run(&common, &mut terminal),
        Verb::Completions { shell } => completions::<Ccdctl>(&mut terminal, shell, PROGRAM),
    };
    finish(terminal, outcome)
}

impl Takeover {
    fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "take over";
        if let Some(given) = &self.cluster {
            let known = common.attach(PROGRAM, doing)?.status().doing(doing)?.cluster_name;
            if *given != known {
                return Err(Stop::new(
                    &messages::WRONG_CLUSTER_NAME,
                    doing,
                    format!("this cluster is not called {given:?}"),
                ));
            }
        }
        let force = self.force;
        control(common, terminal, doing, self.change, |client| {
            client.takeover(force)
        })
    }
}

impl Master {
    fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "designate the master";
        let client = common.attach(PROGRAM, doing)?;
        let report = client.status().doing(doing)?;
        let node = match &self.who.node {
            None => None,
            Some(given) => {
                let named = |id: &NodeId| node_name(&report, *id) == *given || id.to_string() == *given;
                let mut nodes = report.status.nodes.iter().map(|node| node.id);
                let found = nodes.find(named).ok_or_else(|| {
                    Stop::new(
                        &messages::NODE_UNKNOWN,
                        doing,
                        format!("the cluster {} has no node {given:?}", report.cluster_name),
                    )
                    .and_try("ccdctl members, which lists the nodes")
                })?;
                Some(found)
            }
        };
        let name = node.map(|node| node_name(&report, node));
        let dry_run = self.change.dry_run;
        if dry_run {
            let who = name.as_deref().unwrap_or("the lowest-numbered node");
            terminal.note(&format!(
                "dry run: {} would be asked to make {who} the master",
                report.cluster_name
            ));
        } else {
            client.designate(node).doing(doing)?;
        }
        if terminal.json {
            terminal.document(&json!({ "done": !dry_run, "dry_run": dry_run, "master": name }))?;
        }
        terminal.detail("done");
        Ok(Exit::Done)
    }
}

fn control(
    common: &Common,
    terminal: &mut Terminal,
    doing: &str,
    change: Change,
    request: impl FnOnce(&Client) -> Result<(), crate::CcdError>,
) -> Result<Exit, Stop> {
    let client = common.attach(PROGRAM, doing)?;
    if change.dry_run {
        let report = client.status().doing(doing)?;
        let me = node_name(&report, report.status.me);
        terminal.note(&format!(
            "dry run: node {me} of {}, now {}, would be asked to {doing}",
            report.cluster_name,
            state_name(report.status.state)
        ));
    } else {
        request(&client).doing(doing)?;
    }
    if terminal.json {
        terminal.document(&json!({ "done": !change.dry_run, "dry_run": change.dry_run }))?;
    }
    terminal.detail("done");
    Ok(Exit::Done)
}

fn members(common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
    let doing = "list the members";
    let report = common.attach(PROGRAM, doing)?.status().doing(doing)?;
    if terminal.json {
        terminal.document(&document(&report))?;
    } else {
        let rows = report.status.nodes.iter().map(|node| {
            vec![
                node.id.to_string(),
                node_name(&report, node.id),
                if node.member { "yes" } else { "no" }.to_owned(),
                node_state(node).replace('_', " "),
            ]
        });
        terminal.line(&table(&["NODE", "NAME", "MEMBER", "STATE"], rows.collect()))?;
    }
    Ok(Exit::Done)
}

fn document(report: &StatusReport) -> Value {
    let configuration = report.status.configuration.as_ref();
    let nodes: Vec<Value> = report
        .status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": u8::from(node.id),
                "name": node_name(report, node.id),
                "member": node.member,
                "state": node_state(node),
            })
        })
        .collect();
    json!({
        "cluster": report.cluster_name,
        "epoch": configuration.map_or(0, |configuration| configuration.epoch.0),
        "nodes": nodes,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_defined() {
        super::command().debug_assert();
    }
}
