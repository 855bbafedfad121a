//! The init database: the static rows that every node reads before anything runs (`/etc/ccd/init.ccd`).
//!
//! ```text
//! init/text.rs      rows and lines
//! init/rows.rs      the reserved rows, checked
//! init/access.rs    those that say who may do what
//! init/options.rs   the table of options, and their checked form
//! init/file.rs      the file's text, and how nodes are added to it and removed
//! init.rs           ClusterInit: everything, checked
//! ```
//!
//! Made by `ccdadm setup`, read by the daemon and the programs. A [`ClusterInit`] is always consistent: at least
//! one node, every address belongs to a node, devices only where they mean something, options in range.

mod access;
mod file;
mod options;
mod rows;
#[cfg(test)]
mod tests;
mod text;

pub use access::{AccessInit, AccessRight, AccessSubject};
pub use file::{InitFile, NodeAddress, NodeEdit};
pub use options::{
    Fencing, LEASE_HEARTBEATS_MIN, LEASE_MAX, NODE_PORT, OPTIONS, OptionSpec, Options, Propagation,
    WORD_OPTIONS, WordSpec,
};
pub use rows::unsuited;
pub use text::INIT_BYTES_MAX;

use crate::database::{Key, Row, format_text};
use crate::ids::{ClusterId, DeviceRole, DeviceSet, NodeId, NodeSet, ServerId, Servers};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use rows::{NODE_COLUMNS_MIN, is_reserved};
use text::Line;

/// Most characters of the name of a cluster or node: it becomes part of file names.
pub const NAME_CHARS_MAX: usize = 63;

/// Most addresses of one node.
pub const ADDRESSES_MAX: usize = 8;

/// The keys that ccd itself reads, with their columns. Their format rows may be left out, and so may the last column of a NODE row.
pub const RESERVED: [(&str, &[&str]); 6] = [
    ("CLUSTER", &["name", "id"]),
    ("NODE", &["number", "name", "id"]),
    ("ADDRESS", &["node", "address", "port"]),
    ("DEVICE", &["role", "path"]),
    ("OPTION", &["name", "value"]),
    ("ACCESS", &["right", "subject", "keys"]),
];

/// One node, with the addresses at which it listens for the others, in the order they are tried. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInit {
    pub id: NodeId,
    pub name: String,
    /// Which server the number was given to.
    pub server: ServerId,
    pub addresses: Vec<SocketAddr>,
}

/// One shared device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInit {
    pub role: DeviceRole,
    pub path: String,
}

/// A checked init database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInit {
    name: String,
    id: ClusterId,
    nodes: Vec<NodeInit>,
    devices: Vec<DeviceInit>,
    options: Options,
    access: Vec<AccessInit>,
    formats: Vec<(Key, Vec<String>)>,
    rows: Vec<Row>,
}

/// What is wrong with an init database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InitError {
    /// From 1; `None` if it is no single line's fault.
    pub line: Option<u32>,
    /// `option lease_ms`, `node "beta"`.
    pub what: String,
    pub why: String,
}

impl InitError {
    fn new(line: Option<u32>, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl ClusterInit {
    /// Reads and checks the text form.
    pub fn parse(text: &str) -> Result<Self, InitError> {
        let mut formats = rows::reserved_formats();
        let mut numbered = Vec::new();
        for (line, content) in text::lines(text)? {
            match content {
                Line::Format(key, columns) => rows::add_format(&mut formats, line, key, columns)?,
                Line::Row(row) => {
                    rows::check_shape(&formats, line, &row)?;
                    rows::add_row(&mut numbered, line, row)?;
                }
            }
        }
        let (name, id) = rows::cluster(&numbered)?;
        let devices = rows::devices(&numbered)?;
        let options = options::Given(
            rows::of_key(&numbered, "OPTION")
                .map(|(line, [name, value])| (line, name.as_str(), value.as_str()))
                .collect(),
        )
        .check(!devices.is_empty())?;
        let nodes = rows::nodes(&numbered, options.port)?;
        let access = access::access(&numbered)?;
        // Files of earlier releases are shown as they are.
        if nodes.iter().all(|node| !node.server.is_known())
            && let Some((_, columns)) = formats.iter_mut().find(|(key, _)| key.as_str() == "NODE")
        {
            columns.truncate(NODE_COLUMNS_MIN);
        }
        Ok(Self {
            name,
            id,
            nodes,
            devices,
            options,
            access,
            formats,
            rows: numbered.into_iter().map(|(_, row)| row).collect(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn id(&self) -> ClusterId {
        self.id
    }
    /// In the order of their numbers.
    pub fn nodes(&self) -> &[NodeInit] {
        &self.nodes
    }
    pub fn node(&self, id: NodeId) -> Option<&NodeInit> {
        self.nodes.iter().find(|node| node.id == id)
    }
    /// By number or name, as `/etc/ccd/node` and `--node` give it.
    pub fn node_named(&self, number_or_name: &str) -> Option<&NodeInit> {
        let number = number_or_name.parse().ok().and_then(NodeId::new);
        self.nodes
            .iter()
            .find(|node| node.name == number_or_name || Some(node.id) == number)
    }
    /// Where the nodes are, IPv4 in its own form.
    pub fn ips(&self) -> alloc::collections::BTreeSet<core::net::IpAddr> {
        let addresses = self.nodes.iter().flat_map(|node| &node.addresses);
        addresses.map(|address| address.ip().to_canonical()).collect()
    }
    pub fn servers(&self) -> Servers {
        let mut servers = Servers::default();
        for node in &self.nodes {
            servers.set(node.id, node.server);
        }
        servers
    }
    pub fn node_set(&self) -> NodeSet {
        self.nodes.iter().map(|node| node.id).collect()
    }
    /// Primary before secondary.
    pub fn devices(&self) -> &[DeviceInit] {
        &self.devices
    }
    pub fn device_set(&self) -> DeviceSet {
        self.devices.iter().map(|device| device.role).collect()
    }
    pub fn options(&self) -> &Options {
        &self.options
    }
    /// Who may do what beside root and the group `ccd`, in the order of the file.
    pub fn access(&self) -> &[AccessInit] {
        &self.access
    }
    /// The columns of every key that is defined: the reserved ones first, then the file's own.
    pub fn formats(&self) -> &[(Key, Vec<String>)] {
        &self.formats
    }
    /// All rows in the order of the file.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The text form: keys together, the reserved ones first, each with its format row.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (key, columns) in &self.formats {
            let mut rows = self.rows.iter().filter(|row| row.key == *key).peekable();
            if rows.peek().is_none() && is_reserved(key) {
                continue;
            }
            text.push_str(&format_text(key, columns));
            text.push('\n');
            for row in rows {
                text.push_str(&row.to_text());
                text.push('\n');
            }
        }
        text
    }

    /// What nodes compare when they meet. Comments, the order of rows and format rows of reserved keys do not
    /// matter; everything else does.
    pub fn digest(&self) -> [u8; 32] {
        let formats = self
            .formats
            .iter()
            .map(|(key, columns)| format_text(key, columns));
        let mut lines: Vec<String> = formats.chain(self.rows.iter().map(Row::to_text)).collect();
        lines.sort();
        let mut hasher = blake3::Hasher::new_derive_key("ccd init database digest, version 1");
        for line in lines {
            hasher.update(line.as_bytes());
            hasher.update(b"\n");
        }
        *hasher.finalize().as_bytes()
    }
}

/// Whether a name can be a cluster's or a node's.
pub fn check_name(name: &str) -> Result<(), String> {
    let well_formed = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if well_formed && name.len() <= NAME_CHARS_MAX {
        Ok(())
    } else {
        Err(format!(
            "a name is a letter followed by letters, digits, '_', '.' and '-', at most {NAME_CHARS_MAX} of them"
        ))
    }
}
