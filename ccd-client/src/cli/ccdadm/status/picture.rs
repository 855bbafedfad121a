//! The picture of a cluster: nodes, links and devices, and which way an update goes now. Printed below the tables, and part
//! of the live view.
//!
//! Always holds: no line is wider than [`COLUMNS_MAX`], and without Unicode all is ASCII but the names of nodes.

use super::{device_detail, device_state, link_state, node_name, node_state};
use crate::cli::terminal::Tone;
use crate::wire::{LinkReport, LinkState, StatusReport};
use ccd_core::configuration::{Configuration, Mode};
use ccd_core::ids::NodeId;
use ccd_core::protocol::{DeviceStatus, NodeStatus, ServingState};

pub const COLUMNS_MAX: usize = 80;

/// Longest name that widens the column of names.
const NAME_COLUMNS_MAX: usize = 20;

/// A piece of a line, and what its colour would say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    pub tone: Option<Tone>,
}

/// What lines are drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pen {
    down: &'static str,
    arrow: &'static str,
    barred: &'static str,
    branch: &'static str,
    last: &'static str,
    flow: &'static str,
    idle: &'static str,
    cut: &'static str,
    more: &'static str,
}

impl Pen {
    pub const UNICODE: Self = Self {
        down: "│",
        arrow: "▼",
        barred: "✗",
        branch: "├",
        last: "└",
        flow: "───▶",
        idle: "╌╌╌╌",
        cut: "─ ✗ ",
        more: "…",
    };
    pub const ASCII: Self = Self {
        down: "|",
        arrow: "v",
        barred: "X",
        branch: "+",
        last: "+",
        flow: "--->",
        idle: "- - ",
        cut: "-X- ",
        more: "~",
    };

    /// By what the locale says of the terminal, as the C library reads it.
    pub fn of_locale() -> Self {
        let named = ["LC_ALL", "LC_CTYPE", "LANG"].map(|name| std::env::var(name).unwrap_or_default());
        let locale = named
            .into_iter()
            .find(|value| !value.is_empty())
            .unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            Self::UNICODE
        } else {
            Self::ASCII
        }
    }
}

/// How something at the end of a line takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Every update goes there.
    Flow,
    /// Heartbeats and votes only.
    Idle,
    Cut,
}

/// The lines, top down: clients, this node, the master, and what the master writes to.
pub fn picture(report: &StatusReport, pen: Pen) -> Vec<Vec<Piece>> {
    let status = &report.status;
    let serving = status.state == ServingState::Serving;
    let master = (status.configuration.as_ref())
        .and_then(Configuration::master)
        .filter(|_| serving);
    let mut drawing = Drawing {
        pen,
        name_columns: name_columns(report),
        lines: Vec::new(),
    };
    drawing.push(vec![plain("clients")]);
    drawing.push(vec![plain(format!("   {}", pen.down))]);
    if serving {
        drawing.push(vec![plain(format!("   {}", pen.arrow))]);
    } else {
        let why = match status.state {
            ServingState::Closed => "  queries only, no updates",
            _ => "  no queries but stale ones, no updates",
        };
        let barred = Piece {
            text: format!("   {}", pen.barred),
            tone: Some(Tone::Bad),
        };
        drawing.push(vec![barred, plain(why)]);
    }
    drawing.node(report, status.me, master);
    let mut top = status.me;
    if let Some(master) = master.filter(|master| *master != status.me) {
        let way = preferred(report, master).map_or_else(String::new, |link| format!("  {}", link.address));
        drawing.push(vec![plain(format!("   {}{way}", pen.down))]);
        drawing.push(vec![plain(format!("   {}", pen.arrow))]);
        drawing.node(report, master, Some(master));
        top = master;
    }
    let ends = ends(report, top, serving);
    let count = ends.len();
    for (index, (way, name, state, detail)) in ends.into_iter().enumerate() {
        drawing.end(index + 1 == count, way, &name, &state, &detail);
    }
    drawing.lines
}

/// Everything below `top`, which writes to it if updates are taken: how, name, state, and more.
fn ends(report: &StatusReport, top: NodeId, serving: bool) -> Vec<(Way, String, String, String)> {
    let status = &report.status;
    let solo = matches!(
        status
            .configuration
            .as_ref()
            .map(|configuration| configuration.mode),
        Some(Mode::Solo(_))
    );
    let devices = status.devices.iter().map(|device| {
        let way = device_way(device, serving && solo);
        let detail = device_detail(report, device);
        (
            way,
            device.role.to_string(),
            device_state(device).replace('_', " "),
            detail,
        )
    });
    let nodes = status.nodes.iter().filter(|node| node.id != top);
    let nodes = nodes.map(|node| {
        let way = node_way(node, serving && !solo);
        let state = node_state(node).replace('_', " ");
        (
            way,
            node_name(report, node.id),
            state,
            link_detail(report, node, top),
        )
    });
    if solo {
        devices.chain(nodes).collect()
    } else {
        nodes.chain(devices).collect()
    }
}

fn node_way(node: &NodeStatus, written: bool) -> Way {
    match (node.member && written, node.heard) {
        (true, true) => Way::Flow,
        (false, true) => Way::Idle,
        (_, false) => Way::Cut,
    }
}

fn device_way(device: &DeviceStatus, written: bool) -> Way {
    match (device.usable, device.in_sync && written) {
        (true, true) => Way::Flow,
        (true, false) => Way::Idle,
        (false, _) => Way::Cut,
    }
}

/// This node's link to another, or what is wrong with all of them.
fn link_detail(report: &StatusReport, node: &NodeStatus, top: NodeId) -> String {
    if node.id == report.status.me {
        return "this node".to_owned();
    }
    if top != report.status.me {
        // Its links are its own.
        return String::new();
    }
    let links: Vec<&LinkReport> = report.links.iter().filter(|link| link.node == node.id).collect();
    let up = links.iter().filter(|link| link.state == LinkState::Up).count();
    match preferred(report, node.id) {
        Some(link) if links.len() == 1 => format!("{} {}", link.address, link_state(link)),
        Some(link) => format!(
            "{} {}, {up} of {} links up",
            link.address,
            link_state(link),
            links.len()
        ),
        None => String::new(),
    }
}

fn preferred(report: &StatusReport, node: NodeId) -> Option<&LinkReport> {
    let mut links = report.links.iter().filter(|link| link.node == node);
    let first = links.clone().next();
    links.find(|link| link.preferred).or(first)
}

fn name_columns(report: &StatusReport) -> usize {
    let names = report.node_names.iter().map(|node| node.name.chars().count());
    names
        .max()
        .unwrap_or(0)
        .clamp("secondary".len(), NAME_COLUMNS_MAX)
}

fn plain(text: impl Into<String>) -> Piece {
    Piece {
        text: text.into(),
        tone: None,
    }
}

fn tone_of(state: &str) -> Tone {
    match state {
        "serving" | "in sync" => Tone::Good,
        "member" | "disk only" | "out of sync" | "closed" => Tone::Worrying,
        _ => Tone::Bad,
    }
}

struct Drawing {
    pen: Pen,
    name_columns: usize,
    lines: Vec<Vec<Piece>>,
}

impl Drawing {
    /// `alpha  this node, master: serving`
    fn node(&mut self, report: &StatusReport, id: NodeId, master: Option<NodeId>) {
        let status = &report.status;
        let solo =
            (status.configuration.as_ref()).is_some_and(|configuration| configuration.owner().is_some());
        let mut roles = Vec::new();
        if id == status.me {
            roles.push("this node");
        }
        if master == Some(id) {
            roles.push(if solo { "owner" } else { "master" });
        }
        let state = if id == status.me {
            status.state.name().to_owned()
        } else {
            let node = status.nodes.iter().find(|node| node.id == id);
            node.map_or_else(String::new, |node| node_state(node).replace('_', " "))
        };
        let name = pad(&node_name(report, id), self.name_columns);
        let tone = Some(tone_of(&state));
        self.push(vec![
            plain(format!("{name}  {}: ", roles.join(", "))),
            Piece { text: state, tone },
        ]);
    }

    fn end(&mut self, is_last: bool, way: Way, name: &str, state: &str, detail: &str) {
        let pen = self.pen;
        let corner = if is_last { pen.last } else { pen.branch };
        let (line, tone) = match way {
            Way::Flow => (pen.flow, Some(Tone::Good)),
            Way::Idle => (pen.idle, None),
            Way::Cut => (pen.cut, Some(Tone::Bad)),
        };
        let line = Piece {
            text: line.to_owned(),
            tone,
        };
        let state = Piece {
            text: pad(state, "out of sync".len()),
            tone: Some(tone_of(state)),
        };
        let name = plain(format!(" {}  ", pad(name, self.name_columns)));
        self.push(vec![
            plain(format!("   {corner}")),
            line,
            name,
            state,
            plain(format!("  {detail}")),
        ]);
    }

    /// Cuts what is too wide, and blanks at the end.
    fn push(&mut self, mut line: Vec<Piece>) {
        while let Some(last) = line.last_mut() {
            last.text.truncate(last.text.trim_end().len());
            if !last.text.is_empty() {
                break;
            }
            line.pop();
        }
        let mut left = COLUMNS_MAX;
        for piece in &mut line {
            let columns = piece.text.chars().count();
            if columns > left {
                let kept: String = piece.text.chars().take(left.saturating_sub(1)).collect();
                piece.text = if left == 0 {
                    String::new()
                } else {
                    kept + self.pen.more
                };
            }
            left = left.saturating_sub(columns);
        }
        self.lines.push(line);
    }
}

fn pad(text: &str, columns: usize) -> String {
    format!("{text:columns$}")
}

#[cfg(test)]
mod tests;
