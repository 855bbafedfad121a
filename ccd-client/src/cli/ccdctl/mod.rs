//! `ccdctl`: who takes part. For the administrator, and for an external membership monitor.

mod metrics;
mod nodes;

use super::ccdadm::status::{external_view, names_of, node_name, node_state, view_text};
use super::failure::{Asking, Doing, Stop};
use super::table::table;
use super::terminal::Terminal;
use super::{Common, completions, finish, finish_parse};
use crate::client::Client;
use crate::error::CcdError;
use crate::exit::Exit;
use crate::messages;
use crate::wire::StatusReport;
use ccd_core::ids::NodeSet;
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::process::ExitCode;

const PROGRAM: &str = "ccdctl";

/// Control which nodes take part in the cluster
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
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
  ccdctl maintenance on                     before work on what is between the nodes
  ccdctl reconfigure --members alpha,beta   the view of an external membership monitor
  ccdctl add-node gamma=10.0.0.3
  ccdctl remove-node alpha
  ccdctl metrics                            for monitoring

Exit codes are those of ccdadm.";

const MEMBERS: &str = "\
Examples:
  ccdctl members
  ccdctl members --json | jq '.nodes[] | select(.member).name'";

const LEAVE: &str = "\
The others go on at once, with no lease to wait for, and the command returns when they do. The
daemon goes on running, and answers only queries with --stale. During maintenance nothing is
handed over, and the cluster waits for this node. Where the others could not go on without this
node, leave is refused (exit code 106) and nothing changes.

Examples:
  ccdctl leave
  ccdctl leave --dry-run";

const JOIN: &str = "\
The command returns when this node serves again.

Examples:
  ccdctl join
  ccdctl join --timeout 1m

Exit codes: 2 it did not come to serve within the time-out.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the nodes, and who takes part
    #[command(after_help = MEMBERS)]
    Members,
    /// Leave the cluster gracefully, and stay out until join or a restart of the daemon
    #[command(after_help = LEAVE)]
    Leave(Change),
    /// Take part again
    #[command(after_help = JOIN)]
    Join(Change),
    /// Take over now
    Takeover(Takeover),
    Reconfigure(Reconfigure),
    Maintenance(Maintenance),
    AddNode(nodes::AddNode),
    RemoveNode(nodes::RemoveNode),
    /// Say which node is master, for as long as it takes part
    Master(Master),
    Metrics(metrics::Metrics),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        shell: clap_complete::Shell,
    },
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

/// Follow the view of an external membership monitor
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An external monitor calls this on every node that it takes for alive, whenever its view changes.
From then on this node's plans follow the view: a node outside of it is left out at once, one in
it is waited for. The built-in monitor goes on watching: leases, votes and fencing stay in force,
so a wrong view costs time and never an update. The view is kept until the daemon ends, or until
--built-in. The command returns when the configuration that is open on this node matches the view.

Examples:
  ccdctl reconfigure --members alpha,beta
  ccdctl reconfigure --members 0,1,4 --timeout 10s
  ccdctl reconfigure --members all
  ccdctl reconfigure --built-in

Exit codes: 105 there is no such node, 106 the votes do not allow it, 2 a node of the view has not
joined or another has not left within the time-out, 107 a newer view came.")]
#[command(group(clap::ArgGroup::new("view").required(true).args(["members", "built_in"])))]
struct Reconfigure {
    /// Names or numbers of the nodes that are there, or all
    #[arg(long, value_name = "NODE,NODE,…", value_delimiter = ',')]
    members: Vec<String>,
    /// Let the built-in monitor decide again
    #[arg(long)]
    built_in: bool,
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
  ccdctl master --lowest

Exit codes: 105 there is no such node, 2 this node does not serve, 111 it may still be decided.")]
struct Master {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    change: Change,
}

/// Begin or end planned work
#[derive(Debug, clap::Args)]
#[command(after_help = "\
While it is on, nothing is taken over or fenced because a node is silent, leaves or restarts: the
cluster waits for it, and takes no update until it is back. Queries are answered where leases hold.
It is on for all nodes, also after a restart, until it is ended. It begins with all members
present. Ending it takes over at once from whoever has not come back, as the votes allow.

Examples:
  ccdctl maintenance on
  ccdctl maintenance off

Exit codes: 2 a member is not heard, 106 the votes do not allow it, 111 it may still be decided.")]
struct Maintenance {
    /// Whether it begins or ends
    switch: OnOff,
    #[command(flatten)]
    change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnOff {
    On,
    Off,
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
    super::report_full_files();
    let Ccdctl { common, verb } = match Ccdctl::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => return finish_parse(PROGRAM, &error),
    };
    let mut terminal = common.terminal(PROGRAM);
    let outcome = match verb {
        Verb::Members => members(&common, &mut terminal),
        Verb::Leave(change) => {
            let doing = "leave the cluster";
            control(&common, &mut terminal, doing, doing, &change, Client::leave)
        }
        Verb::Join(change) => {
            let doing = "join the cluster";
            control(&common, &mut terminal, doing, doing, &change, Client::join)
        }
        Verb::Takeover(takeover) => takeover.run(&common, &mut terminal),
        Verb::Reconfigure(reconfigure) => reconfigure.run(&common, &mut terminal),
        Verb::Maintenance(maintenance) => maintenance.run(&common, &mut terminal),
        Verb::AddNode(add) => add.run(&common, &mut terminal),
        Verb::RemoveNode(remove) => remove.run(&common, &mut terminal),
        Verb::Master(master) => master.run(&common, &mut terminal),
        Verb::Metrics(metrics) => metrics.run(&common, &mut terminal),
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
        let what = if force {
            "take over, whatever the votes"
        } else {
            doing
        };
        control(common, terminal, doing, what, &self.change, |client| {
            client.takeover(force)
        })
    }
}

impl Reconfigure {
    fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "reconfigure";
        let (view, what) = if self.built_in {
            let what = "go by the built-in membership monitor again".to_owned();
            (None, what)
        } else {
            let report = common.attach(PROGRAM, doing)?.status().doing(doing)?;
            let names = self.members.iter().map(|name| name.trim());
            let view: NodeSet = if self.members == ["all"] {
                report.node_names.iter().map(|node| node.id).collect()
            } else {
                nodes::find_nodes(&report, doing, names)?
            };
            let what = format!("follow the view {}", names_of(&report, view));
            (Some(view), what)
        };
        control(common, terminal, doing, &what, &self.change, |client| {
            client.reconfigure(view)
        })
    }
}

impl Maintenance {
    fn run(self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let on = self.switch == OnOff::On;
        let doing = if on {
            "begin maintenance"
        } else {
            "end maintenance"
        };
        control(common, terminal, doing, doing, &self.change, |client| {
            client.maintenance(on)
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
            Some(given) => Some(nodes::find_node(&report, doing, given)?),
        };
        let name = node.map(|node| node_name(&report, node));
        let who = name.as_deref().unwrap_or("the lowest-numbered node");
        let asked = Asked {
            doing,
            what: &format!("make {who} the master"),
            change: &self.change,
        };
        asked.of(&client, terminal, |client| client.designate(node))?;
        asked.done(terminal, &[("master", json!(name))])
    }
}

/// A change that this node's daemon is asked for.
struct Asked<'a> {
    /// Completes "cannot …".
    doing: &'a str,
    /// The same with names; completes "would be asked to …".
    what: &'a str,
    change: &'a Change,
}

impl Asked<'_> {
    /// Asks, or says what would be asked.
    fn of(
        &self,
        client: &Client,
        terminal: &Terminal,
        request: impl FnOnce(&Client) -> Result<(), CcdError>,
    ) -> Result<(), Stop> {
        if self.change.dry_run {
            let report = client.status().doing(self.doing)?;
            terminal.note(&format!(
                "dry run: node {} of {}, now {}, would be asked to {}",
                node_name(&report, report.status.me),
                report.cluster_name,
                report.status.state.name(),
                self.what
            ));
            return Ok(());
        }
        let progress = terminal.progress(self.doing);
        let asked = request(client);
        drop(progress);
        asked.asking(self.doing)
    }

    fn done(&self, terminal: &mut Terminal, more: &[(&str, Value)]) -> Result<Exit, Stop> {
        let dry_run = self.change.dry_run;
        if terminal.json {
            let mut document = json!({ "done": !dry_run, "dry_run": dry_run });
            for (name, value) in more {
                document[*name] = value.clone();
            }
            terminal.document(&document)?;
        }
        if !dry_run {
            terminal.detail("done");
        }
        Ok(Exit::Done)
    }
}

fn control(
    common: &Common,
    terminal: &mut Terminal,
    doing: &str,
    what: &str,
    change: &Change,
    request: impl FnOnce(&Client) -> Result<(), CcdError>,
) -> Result<Exit, Stop> {
    let client = common.attach(PROGRAM, doing)?;
    let asked = Asked { doing, what, change };
    asked.of(&client, terminal, request)?;
    asked.done(terminal, &[])
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
        if let Some(text) = view_text(&report) {
            terminal.line(&format!("\n{text}"))?;
        }
        if report
            .status
            .configuration
            .as_ref()
            .is_some_and(|configuration| configuration.maintenance)
        {
            terminal.line("\nmaintenance: no node is taken over from until `ccdctl maintenance off`")?;
        }
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
        "maintenance": configuration.is_some_and(|configuration| configuration.maintenance),
        "view": external_view(report),
        "nodes": nodes,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_well_defined() {
        super::command().debug_assert();
        crate::cli::check_help(&super::command());
    }
}
