//! `ccdadm status`: what this node is and sees, and which single loss the cluster would survive now.
//!
//! ```text
//! status/absent.rs         why no daemon answers
//! status/first_line.rs     the cause, what works meanwhile, what to run next
//! status/names.rs          names of nodes in the place of numbers
//! status/document.rs       as JSON
//! status/registrations.rs  who is registered with the devices
//! status/picture.rs        nodes, links, devices, and which way data flows
//! status/live.rs           the live view of --watch, as it is drawn
//! status/work.rs           what takes long on the replicas, and how far it is
//! status/watch.rs          --watch: asks again and again, on a terminal or not
//! ```

mod absent;
mod document;
mod first_line;
#[cfg(test)]
mod fixture;
mod live;
mod names;
mod picture;
mod registrations;
mod watch;
mod work;

pub(super) use document::document;

use super::PROGRAM;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::table;
use crate::cli::terminal::{Terminal, Tone};
use crate::cli::{Common, parse_duration};
use crate::exit::Exit;
use crate::wire::{LinkReport, LinkState, StatusReport};
use ccd_core::configuration::Mode;
use ccd_core::ids::{NodeId, NodeSet};
use ccd_core::init::Fencing;
use ccd_core::problem::Health;
use ccd_core::protocol::{DeviceStatus, NodeStatus, Part};
use first_line::FirstLine;
use registrations::writers;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::time::Duration;

/// Show the state of the cluster as this node sees it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm status
  ccdadm status --picture never             the tables alone, on a terminal, too
  ccdadm status --watch                     a live view; q quits
  ccdadm status --watch | tee log           the status anew at each change
  ccdadm status --json | jq .cluster.state
  ccdadm status -q; case $? in 0) ;; 1) echo degraded ;; *) echo down ;; esac

Exit codes: 0 all redundant, 1 serving but degraded, 2 not serving.")]
pub(super) struct Status {
    /// Draw which way data flows, below the tables
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        default_missing_value = "always",
        num_args = 0..=1
    )]
    picture: When,
    /// Show it again and again, until q or a signal
    #[arg(short, long)]
    watch: bool,
    /// How often it is looked at with --watch
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration, requires = "watch")]
    interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    /// On a terminal
    Auto,
    Always,
    Never,
}

impl Status {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        if self.watch {
            return watch::run(common, self.interval, terminal);
        }
        let doing = "show the status";
        let explained = |stop| absent::explained(&common.places, stop);
        let client = common.attach(PROGRAM, doing).map_err(explained)?;
        let report = client.status().doing(doing)?;
        let health = report.status.health();
        if terminal.json {
            terminal.document(&document(&report))?;
        } else {
            print(&report, terminal)?;
            let drawn = match self.picture {
                When::Auto => std::io::stdout().is_terminal(),
                When::Always => true,
                When::Never => false,
            };
            if drawn {
                print_picture(&report, terminal)?;
            }
        }
        Ok(exit(health))
    }
}

pub(in crate::cli) fn exit(health: Health) -> Exit {
    match health {
        Health::Redundant => Exit::Done,
        Health::Degraded => Exit::No,
        Health::NotServing => Exit::NotServing,
    }
}

fn tone(health: Health) -> Tone {
    match health {
        Health::Redundant => Tone::Good,
        Health::Degraded => Tone::Worrying,
        Health::NotServing => Tone::Bad,
    }
}

/// `alpha`, or its number if the daemon named it not.
pub(in crate::cli) fn node_name(report: &StatusReport, id: NodeId) -> String {
    let named = report.node_names.iter().find(|node| node.id == id);
    named.map_or_else(|| id.to_string(), |node| node.name.clone())
}

/// One word on a node, as this one sees it.
pub(in crate::cli) fn node_state(node: &NodeStatus) -> &'static str {
    match (node.member, node.serving, node.heard, node.seen_on_disk) {
        (true, true, ..) => "serving",
        (true, false, true, _) => "member",
        (true, false, false, _) => "silent",
        (false, _, true, _) => "out",
        (false, _, false, true) => "disk_only",
        (false, _, false, false) => "absent",
    }
}

/// `alpha, beta`
pub(in crate::cli) fn names_of(report: &StatusReport, nodes: NodeSet) -> String {
    let names: Vec<String> = nodes.iter().map(|node| node_name(report, node)).collect();
    names.join(", ")
}

/// The nodes that an external membership monitor says are there; null with the built-in one.
pub(in crate::cli) fn external_view(report: &StatusReport) -> Value {
    match report.status.external {
        Some(view) => json!(
            view.iter()
                .map(|node| node_name(report, node))
                .collect::<Vec<_>>()
        ),
        None => Value::Null,
    }
}

/// The same for people.
pub(in crate::cli) fn view_text(report: &StatusReport) -> Option<String> {
    let names = names_of(report, report.status.external?);
    Some(format!(
        "an external membership monitor says that these are there: {names}"
    ))
}

fn device_state(device: &DeviceStatus) -> &'static str {
    match (device.usable, device.in_sync) {
        (true, true) => "in_sync",
        (true, false) => "out_of_sync",
        (false, _) => "failed",
    }
}

/// What is wrong with it, or being done about it.
fn device_detail(report: &StatusReport, device: &DeviceStatus) -> String {
    let copied = || work::on_device(report, device.role);
    (device.error.clone()).or_else(copied).unwrap_or_default()
}

fn device_path(report: &StatusReport, device: &DeviceStatus) -> String {
    let named = report.device_paths.iter().find(|(role, _)| *role == device.role);
    named.map_or_else(String::new, |(_, path)| path.clone())
}

fn part_name(part: Part) -> String {
    match part {
        Part::Node(node) => format!("node {node}"),
        Part::Device(role) => role.name().to_owned(),
    }
}

fn link_state(link: &LinkReport) -> &'static str {
    match link.state {
        LinkState::Up => "up",
        LinkState::Silent => "silent",
        LinkState::Down => "down",
    }
}

fn links(report: &StatusReport) -> Vec<Vec<String>> {
    let row = |link: &LinkReport| {
        let version = link.connection.as_ref().map(|connection| connection.version);
        vec![
            node_name(report, link.node),
            link.address.to_string(),
            link_state(link).to_owned(),
            version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
            if link.preferred {
                "in use".to_owned()
            } else {
                link.trouble.clone()
            },
        ]
    };
    report.links.iter().map(row).collect()
}

fn print_picture(report: &StatusReport, terminal: &mut Terminal) -> Result<(), Stop> {
    terminal.line("")?;
    for line in picture::picture(report, picture::Pen::of_locale()) {
        let pieces = line.iter().map(|piece| match piece.tone {
            Some(tone) => terminal.toned(&piece.text, tone),
            None => piece.text.clone(),
        });
        let line: String = pieces.collect();
        terminal.line(&line)?;
    }
    Ok(())
}

fn print(report: &StatusReport, terminal: &mut Terminal) -> Result<(), Stop> {
    let status = &report.status;
    let first = FirstLine::of(report);
    let verdict = terminal.toned(&first.verdict, tone(status.health()));
    terminal.line(&format!("{}: {verdict}{}", report.cluster_name, first.rest))?;
    for problem in first.others {
        terminal.line(&format!("  also {problem}"))?;
    }
    if let Some(configuration) = &status.configuration {
        let (how, node) = match configuration.mode {
            Mode::Paired
                if configuration
                    .designated
                    .is_some_and(|node| configuration.master() == Some(node)) =>
            {
                ("paired, designated master", configuration.master())
            }
            Mode::Paired => ("paired, master", configuration.master()),
            Mode::Solo(owner) => ("solo, owner", Some(owner)),
        };
        terminal.line(&format!(
            "epoch {}, {how} {}, generation {}, {} rows, lineage {:.12}",
            configuration.epoch,
            node.map_or_else(|| "none".to_owned(), |node| node_name(report, node)),
            status.position.stamp.generation,
            status.rows,
            status.position.lineage,
        ))?;
    }
    if let Some(text) = view_text(report) {
        terminal.line(&text)?;
    }
    terminal.line("")?;
    let nodes = status.nodes.iter().map(|node| {
        vec![
            node.id.to_string(),
            node_name(report, node.id),
            node_state(node).replace('_', " "),
            node.position
                .map_or_else(|| "-".to_owned(), |position| position.stamp.to_string()),
            node.lease
                .map_or_else(|| "-".to_owned(), |lease| format!("{} ms", lease.as_millis())),
            if node.id == status.me {
                "this node".to_owned()
            } else {
                String::new()
            },
        ]
    });
    terminal.line(&table(
        &["NODE", "NAME", "STATE", "STAMP", "LEASE", ""],
        nodes.collect(),
    ))?;
    if !report.links.is_empty() {
        terminal.line("")?;
        let heading = ["LINK TO", "ADDRESS", "STATE", "PROTOCOL", ""];
        terminal.line(&table(&heading, links(report)))?;
    }
    if !status.devices.is_empty() {
        terminal.line("")?;
        let devices = status.devices.iter().map(|device| {
            let fencing = match report.fencing {
                Fencing::Lease => report.fencing.to_string(),
                Fencing::Scsi => format!("{}: {}", report.fencing, writers(report, device)),
            };
            vec![
                device.role.to_string(),
                device_state(device).replace('_', " "),
                fencing,
                device_path(report, device),
                device_detail(report, device),
            ]
        });
        let heading = ["DEVICE", "STATE", "FENCING", "PATH", ""];
        terminal.line(&table(&heading, devices.collect()))?;
    }
    let work = work::lines(report);
    if !work.is_empty() {
        terminal.line("")?;
    }
    for line in work {
        terminal.line(&line)?;
    }
    terminal.line("")?;
    let survives: Vec<String> = status
        .survives
        .iter()
        .map(|(part, survives)| {
            let (word, tone) = if *survives {
                ("yes", Tone::Good)
            } else {
                ("NO", Tone::Bad)
            };
            format!("{} {}", part_name(*part), terminal.toned(word, tone))
        })
        .collect();
    terminal.line(&format!("survives the loss of: {}", survives.join(", ")))
}
