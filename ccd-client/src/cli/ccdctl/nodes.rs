//! `ccdctl add-node`, `remove-node`: the nodes of the running cluster.
//!
//! What can be seen to be wrong from here is refused with its own exit code; the daemon checks everything again.

use super::super::Common;
use super::super::address::parse_address;
use super::super::ccdadm::status::node_name;
use super::super::failure::{Doing, Stop};
use super::super::terminal::Terminal;
use super::{Asked, Change, PROGRAM};
use crate::client::Client;
use crate::exit::Exit;
use crate::messages;
use crate::wire::StatusReport;
use ccd_core::ids::NodeId;
use ccd_core::init::{NodeAddress, NodeEdit, check_name};
use serde_json::json;

/// Add a node to the running cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All nodes must be active: each stores the new init database, then the cluster decides on it, and
every node goes by it at once. The new node starts with a copy of that file and joins by itself.
It gets the next free number, or the one in front of its name; further addresses of it repeat
its name. A node without a shared device counts in the majority from the moment it is added.

Examples:
  ccdctl add-node gamma=10.0.0.3
  ccdctl add-node gamma=10.0.0.3:7001 gamma=10.1.0.3:7001     two networks
  ccdctl add-node 7:gamma=10.0.0.3                            with the number 7

Exit codes: 64 a wrong address or name, 108 there is such a node, 107 a node is missing or the
region has no area for the new one, 106 no quorum, 111 it may still be decided.")]
pub(super) struct AddNode {
    /// The node and its address; again for further addresses
    #[arg(required = true, value_name = "[NUMBER:]NAME=ADDRESS[:PORT]")]
    node: Vec<String>,
    #[command(flatten)]
    change: Change,
}

/// Remove a node from the running cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The node may be down, if the others have the votes. If it is up, it stops serving and says why.
All other nodes must be active: each stores the new init database. The node can be added again.

Examples:
  ccdctl remove-node gamma
  ccdctl remove-node --yes 2              also if it is up

Exit codes: 105 there is no such node, 107 another node is missing, 106 no quorum, 111 it may
still be decided.")]
pub(super) struct RemoveNode {
    /// Its name or number
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    change: Change,
    /// Do not ask; a node that is up is removed only so, or if someone on the terminal agrees
    #[arg(short, long)]
    yes: bool,
}

/// The node of the cluster that a name or number stands for.
pub(super) fn find_node(report: &StatusReport, doing: &str, name: &str) -> Result<NodeId, Stop> {
    let number = name.parse().ok().and_then(NodeId::new);
    let named = report
        .node_names
        .iter()
        .find(|node| node.name == name || Some(node.id) == number);
    if let Some(node) = named {
        return Ok(node.id);
    }
    let known: Vec<String> = (report.node_names.iter())
        .map(|node| format!("{} {}", node.id, node.name))
        .collect();
    Err(Stop::new(
        &messages::NO_SUCH_NODE,
        doing,
        format!("there is no node {name:?}; there are {}", known.join(", ")),
    ))
}

/// The nodes that these names and numbers stand for.
pub(super) fn find_nodes<'a>(
    report: &StatusReport,
    doing: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<ccd_core::ids::NodeSet, Stop> {
    names.map(|name| find_node(report, doing, name)).collect()
}

impl AddNode {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "add the node";
        let (number, name, addresses) = self.parsed(doing, terminal)?;
        let client = common.attach(PROGRAM, doing)?;
        let report = client.status().doing(doing)?;
        if let Some(taken) =
            (report.node_names.iter()).find(|node| node.name == name || Some(node.id) == number)
        {
            return Err(Stop::new(
                &messages::NODE_EXISTS,
                doing,
                format!("node {} is called {}", taken.id, taken.name),
            ));
        }
        let edit = NodeEdit::Add {
            number,
            name: name.clone(),
            addresses,
        };
        let init = common.places.init_path();
        let etc = common.places.etc.display();
        let next = [
            format!(
                "copy {} and {} to {etc} of {name}",
                init.display(),
                common.places.authkey_path().display()
            ),
            format!("there: ccdadm setup --this {name}"),
            "there: ccdd run, or systemctl enable --now ccdd; it joins by itself".to_owned(),
        ];
        let asked = Asked {
            doing,
            what: &format!("add the node {name}"),
            change: &self.change,
        };
        decide(&asked, &client, terminal, edit, &next)
    }

    /// Its number, its name and its addresses.
    fn parsed(
        &self,
        doing: &str,
        terminal: &Terminal,
    ) -> Result<(Option<NodeId>, String, Vec<NodeAddress>), Stop> {
        let usage = |why: String| Stop::new(&messages::USAGE, doing, why);
        let mut found: Option<(Option<NodeId>, String)> = None;
        let mut addresses = Vec::new();
        for given in &self.node {
            let Some((node, address)) = given.split_once('=') else {
                return Err(usage(format!("{given}: it is not NAME=ADDRESS[:PORT]")));
            };
            let (number, name) = match node.split_once(':') {
                Some((number, name)) => {
                    let parsed = number.parse().ok().and_then(NodeId::new);
                    let parsed =
                        parsed.ok_or_else(|| usage(format!("number {number:?} is not between 0 and 31")))?;
                    (Some(parsed), name)
                }
                None => (None, node),
            };
            check_name(name).map_err(|why| usage(format!("name {name:?}: {why}")))?;
            addresses.push(parse_address(address, terminal).map_err(usage)?);
            match &mut found {
                None => found = Some((number, name.to_owned())),
                Some((known, of))
                    if of == name && (number.is_none() || known.is_none() || number == *known) =>
                {
                    *known = known.or(number);
                }
                Some((_, of)) => {
                    return Err(usage(format!("one node at a time: {of} and {node} are two")));
                }
            }
        }
        let (number, name) = found.expect("the parser wants at least one");
        Ok((number, name, addresses))
    }
}

impl RemoveNode {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "remove the node";
        let client = common.attach(PROGRAM, doing)?;
        let report = client.status().doing(doing)?;
        let node = find_node(&report, doing, &self.node)?;
        let name = node_name(&report, node);
        let is_up =
            (report.status.nodes.iter()).any(|known| known.id == node && (known.member || known.heard));
        if is_up && !self.change.dry_run {
            let question = format!("Node {name} is up; removed, it stops serving.");
            terminal.confirm(self.yes, doing, &question)?;
        }
        let edit = NodeEdit::Remove {
            node: node.to_string(),
        };
        let next = [format!(
            "on {name}: systemctl disable --now ccdd; it no longer takes part"
        )];
        let asked = Asked {
            doing,
            what: &format!("remove the node {name}"),
            change: &self.change,
        };
        decide(&asked, &client, terminal, edit, &next)
    }
}

/// Asks for the edit, and says what comes next.
fn decide(
    asked: &Asked,
    client: &Client,
    terminal: &mut Terminal,
    edit: NodeEdit,
    next: &[String],
) -> Result<Exit, Stop> {
    asked.of(client, terminal, |client| client.change_nodes(edit))?;
    if !terminal.json {
        for step in next {
            terminal.note(&format!("next: {step}"));
        }
    }
    asked.done(terminal, &[("next", json!(next))])
}
