//! The init database: the static rows that every node reads before anything runs (`/etc/ccd/init.ccd`).
//!
//! ```text
//! init/text.rs      rows and lines
//! init/options.rs   the table of options, and their checked form
//! init.rs           ClusterInit: everything, checked
//! ```
//!
//! Made by `ccdadm setup`, read by the daemon and the programs. A [`ClusterInit`] is always consistent: at least
//! one node, every address belongs to a node, devices only where they mean something, options in range.

mod options;
mod text;

pub use options::{Fencing, LEASE_HEARTBEATS_MIN, NODE_PORT, OPTIONS, OptionSpec, Options};
pub use text::{INIT_BYTES_MAX, StaticFormat, StaticRow};

use crate::ids::{ClusterId, DeviceRole, DeviceSet, NodeId, NodeSet};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use text::Line;

/// Most characters of the name of a cluster or node: it becomes part of file names.
pub const NAME_CHARS_MAX: usize = 63;

/// Most addresses of one node.
pub const ADDRESSES_MAX: usize = 8;

/// The keys that ccd itself reads, with their columns. Their format rows may be left out.
pub const RESERVED: [(&str, &[&str]); 6] = [
    ("CLUSTER", &["name", "id"]),
    ("NODE", &["number", "name"]),
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
    formats: Vec<StaticFormat>,
    rows: Vec<StaticRow>,
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
        let mut formats = Vec::new();
        let mut rows = Vec::new();
        for line in text::lines(text)? {
            match line {
                Line::Format(line, format) => add_format(&mut formats, line, format)?,
                Line::Row(line, row) => {
                    check_shape(&formats, line, &row)?;
                    if rows.iter().any(|(_, earlier)| *earlier == row) {
                        return Err(InitError::new(
                            Some(line),
                            format!("row {:?}", row.to_line()),
                            "it is there twice",
                        ));
                    }
                    rows.push((line, row));
                }
            }
        }
        let (name, id) = cluster(&rows)?;
        let devices = devices(&rows)?;
        let options = options::Given(
            of_key(&rows, "OPTION")
                .map(|(line, values)| (line, values[0].as_str(), values[1].as_str()))
                .collect(),
        )
        .check(!devices.is_empty())?;
        let nodes = nodes(&rows, options.port)?;
        if !devices.is_empty() && nodes.len() != 2 {
            return Err(InitError::new(
                None,
                "the DEVICE rows",
                format!(
                    "shared devices are for exactly two nodes, and there are {}",
                    nodes.len()
                ),
            ));
        }
        Ok(Self {
            name,
            id,
            nodes,
            devices,
            options,
            formats,
            rows: rows.into_iter().map(|(_, row)| row).collect(),
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
    /// The formats that the file itself defines. [`RESERVED`] has the others.
    pub fn formats(&self) -> &[StaticFormat] {
        &self.formats
    }
    /// All rows in the order of the file.
    pub fn rows(&self) -> &[StaticRow] {
        &self.rows
    }

    /// The text form: keys together, the reserved ones first, each with its format row.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for format in self.all_formats() {
            let mut rows = self.rows.iter().filter(|row| row.key == format.key).peekable();
            if rows.peek().is_none() && RESERVED.iter().any(|(key, _)| *key == format.key) {
                continue;
            }
            text.push_str(&format.to_line());
            text.push('\n');
            for row in rows {
                text.push_str(&row.to_line());
                text.push('\n');
            }
        }
        text
    }

    /// Reserved formats, then the file's own.
    pub fn all_formats(&self) -> Vec<StaticFormat> {
        let reserved = RESERVED.iter().map(|(key, columns)| StaticFormat {
            key: (*key).to_owned(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        });
        let own = self.formats.iter().filter(|format| !is_reserved(&format.key));
        reserved.chain(own.cloned()).collect()
    }

    /// What nodes compare when they meet. Comments, the order of rows and format rows of reserved keys do not
    /// matter; everything else does.
    pub fn digest(&self) -> [u8; 32] {
        let mut lines: Vec<String> = self.all_formats().iter().map(StaticFormat::to_line).collect();
        lines.extend(self.rows.iter().map(StaticRow::to_line));
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

type Numbered = (u32, StaticRow);

fn is_reserved(key: &str) -> bool {
    RESERVED.iter().any(|(reserved, _)| *reserved == key)
}

fn of_key<'a>(rows: &'a [Numbered], key: &'a str) -> impl Iterator<Item = (u32, &'a [String])> {
    rows.iter()
        .filter(move |(_, row)| row.key == key)
        .map(|(line, row)| (*line, row.values.as_slice()))
}

fn add_format(formats: &mut Vec<StaticFormat>, line: u32, format: StaticFormat) -> Result<(), InitError> {
    let fail = |why: String| {
        Err(InitError::new(
            Some(line),
            format!("format of {}", format.key),
            why,
        ))
    };
    if formats.iter().any(|earlier| earlier.key == format.key) {
        return fail("it is there twice".to_owned());
    }
    if let Some((_, columns)) = RESERVED.iter().find(|(key, _)| *key == format.key)
        && *columns != format.columns
    {
        return fail(format!("this key has the columns {}", columns.join(":")));
    }
    for (index, column) in format.columns.iter().enumerate() {
        if column.is_empty() || format.columns[..index].contains(column) {
            return fail(format!("column name {column:?} is empty or there twice"));
        }
    }
    formats.push(format);
    Ok(())
}

/// A row has exactly the columns of its format, which stands before it or is a reserved one. The port of an
/// address may be left out.
fn check_shape(formats: &[StaticFormat], line: u32, row: &StaticRow) -> Result<(), InitError> {
    let reserved = RESERVED.iter().find(|(key, _)| *key == row.key);
    let columns = match reserved {
        Some((_, columns)) => columns.len(),
        None => match formats.iter().find(|format| format.key == row.key) {
            Some(format) => format.columns.len(),
            None => {
                return Err(InitError::new(
                    Some(line),
                    format!("key {:?}", row.key),
                    format!(
                        "no {}_fmt row before it, and it is none of the reserved keys {}",
                        row.key,
                        RESERVED.map(|(key, _)| key).join(", ")
                    ),
                ));
            }
        },
    };
    if row.values.len() == columns {
        return Ok(());
    }
    let wanted = match reserved {
        Some((_, names)) => format!("{columns} ({})", names.join(", ")),
        None => format!("{columns}"),
    };
    Err(InitError::new(
        Some(line),
        format!("the {} row", row.key),
        format!("it has {} columns, and its format {wanted}", row.values.len()),
    ))
}

fn cluster(rows: &[Numbered]) -> Result<(String, ClusterId), InitError> {
    let mut found = of_key(rows, "CLUSTER");
    let Some((line, values)) = found.next() else {
        return Err(InitError::new(None, "the CLUSTER row", "it is missing"));
    };
    if let Some((line, _)) = found.next() {
        return Err(InitError::new(
            Some(line),
            "the CLUSTER row",
            "there is more than one",
        ));
    }
    check_name(&values[0])
        .map_err(|why| InitError::new(Some(line), format!("cluster name {:?}", values[0]), why))?;
    let id = parse_cluster_id(&values[1]).ok_or_else(|| {
        InitError::new(
            Some(line),
            format!("cluster id {:?}", values[1]),
            "an id is 32 lower-case hexadecimal digits, not all zero",
        )
    })?;
    Ok((values[0].clone(), id))
}

/// 32 lower-case hexadecimal digits, not all zero.
fn parse_cluster_id(text: &str) -> Option<ClusterId> {
    let digits = text.as_bytes();
    if digits.len() != 32
        || digits
            .iter()
            .any(|digit| !matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (id != [0; 16]).then_some(ClusterId(id))
}

fn nodes(rows: &[Numbered], default_port: u16) -> Result<Vec<NodeInit>, InitError> {
    let mut nodes: Vec<NodeInit> = Vec::new();
    for (line, values) in of_key(rows, "NODE") {
        let fail = |why: String| Err(InitError::new(Some(line), format!("node {:?}", values[1]), why));
        let number = values[0].parse().ok().and_then(NodeId::new);
        let Some(id) = number.filter(|id| format!("{id}") == values[0]) else {
            return fail(format!("its number {:?} is not between 0 and 31", values[0]));
        };
        if let Err(why) = check_name(&values[1]) {
            return fail(why);
        }
        if nodes.iter().any(|node| node.id == id || node.name == values[1]) {
            return fail(format!("another node has the number {id} or this name"));
        }
        nodes.push(NodeInit {
            id,
            name: values[1].clone(),
            addresses: Vec::new(),
        });
    }
    if nodes.is_empty() {
        return Err(InitError::new(None, "the NODE rows", "there is none"));
    }
    let mut taken: Vec<SocketAddr> = Vec::new();
    for (line, values) in of_key(rows, "ADDRESS") {
        let fail = |why: String| {
            Err(InitError::new(
                Some(line),
                format!("address {:?} of node {:?}", values[1], values[0]),
                why,
            ))
        };
        let Some(node) = nodes.iter_mut().find(|node| node.name == values[0]) else {
            return fail("there is no such node".to_owned());
        };
        let Ok(ip) = values[1].parse::<IpAddr>() else {
            return fail(
                "it is not an IP address; names are not allowed, a resolver may be down when it matters"
                    .to_owned(),
            );
        };
        if ip.is_unspecified() || ip.is_multicast() {
            return fail("it is not the address of one node".to_owned());
        }
        let port = match values[2].as_str() {
            "" => default_port,
            text => match text.parse::<u16>() {
                Ok(port) if port != 0 => port,
                _ => return fail(format!("its port {text:?} is not between 1 and 65535")),
            },
        };
        let address = SocketAddr::new(ip, port);
        if taken.contains(&address) {
            return fail(format!("{address} is there twice"));
        }
        if node.addresses.len() == ADDRESSES_MAX {
            return fail(format!("a node has at most {ADDRESSES_MAX} addresses"));
        }
        taken.push(address);
        node.addresses.push(address);
    }
    if let Some(node) = nodes.iter().find(|node| node.addresses.is_empty()) {
        return Err(InitError::new(
            None,
            format!("node {:?}", node.name),
            "it has no ADDRESS row",
        ));
    }
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

fn devices(rows: &[Numbered]) -> Result<Vec<DeviceInit>, InitError> {
    let mut devices: Vec<DeviceInit> = Vec::new();
    for (line, values) in of_key(rows, "DEVICE") {
        let fail = |why: &str| Err(InitError::new(Some(line), format!("device {:?}", values[1]), why));
        let Some(role) = DeviceRole::ALL.into_iter().find(|role| role.name() == values[0]) else {
            return fail("its role is neither primary nor secondary");
        };
        if !values[1].starts_with('/') {
            return fail("its path does not start with '/'");
        }
        if devices.iter().any(|device| device.role == role) {
            return fail("there is another device of this role");
        }
        if devices.iter().any(|device| device.path == values[1]) {
            return fail("primary and secondary are the same");
        }
        devices.push(DeviceInit {
            role,
            path: values[1].clone(),
        });
    }
    devices.sort_by_key(|device| device.role);
    if let [only] = devices.as_slice()
        && only.role == DeviceRole::Secondary
    {
        return Err(InitError::new(
            None,
            "the secondary device",
            "there is no primary; a single device is the primary",
        ));
    }
    Ok(devices)
}
