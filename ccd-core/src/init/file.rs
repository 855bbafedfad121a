//! An init database as the file holds it, and how it is edited while the cluster runs: a node added or removed, every
//! other line left as its author wrote it.
//!
//! Used by the protocol (`protocol/nodes`) and by the daemon. An [`InitFile`] always parses.

use super::{ADDRESSES_MAX, ClusterInit, InitError};
use crate::ids::{ClusterId, DeviceRole, NODES_MAX, NodeId, NodeSet, ServerId, Servers};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// A checked init database: its text, and what the protocol needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitFile {
    pub text: String,
    pub digest: [u8; 32],
    pub nodes: NodeSet,
    pub cluster: ClusterId,
    pub servers: Servers,
    parsed: Arc<ClusterInit>,
}

/// A node added or removed by an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeEdit {
    /// With the next free number, if none is given.
    Add {
        number: Option<NodeId>,
        name: String,
        #[serde(deserialize_with = "crate::bounded::at_most::<_, _, { 2 * ADDRESSES_MAX }>")]
        addresses: Vec<NodeAddress>,
    },
    /// By number or name.
    Remove { node: String },
}

/// An address, with its port if it is not the cluster's usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

impl core::str::FromStr for NodeAddress {
    type Err = String;
    /// `10.0.0.1`, `10.0.0.1:5640`, `fd00::1`, `[fd00::1]:5640`
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self { ip, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self {
                ip: address.ip(),
                port: Some(address.port()),
            }),
            _ => Err(format!(
                "{text:?} is not ADDRESS or ADDRESS:PORT, with an IP address"
            )),
        }
    }
}

impl InitFile {
    /// # Errors
    /// As [`ClusterInit::parse`].
    pub fn parse(text: &str) -> Result<Self, InitError> {
        let init = ClusterInit::parse(text)?;
        Ok(Self {
            text: text.to_string(),
            digest: init.digest(),
            nodes: init.node_set(),
            cluster: init.id(),
            servers: init.servers(),
            parsed: Arc::new(init),
        })
    }

    pub fn has_devices(&self) -> bool {
        !self.parsed.devices().is_empty()
    }

    /// What people call that node.
    pub fn node_name(&self, node: NodeId) -> Option<&str> {
        let mut nodes = self.parsed.nodes().iter();
        nodes
            .find(|known| known.id == node)
            .map(|known| known.name.as_str())
    }

    /// Where a device is on every node.
    pub fn device_path(&self, role: DeviceRole) -> Option<&str> {
        let mut devices = self.parsed.devices().iter();
        devices
            .find(|device| device.role == role)
            .map(|device| device.path.as_str())
    }

    /// The command that makes a device of this cluster anew, as an operator can type it: `--force` takes the name of the cluster that the
    /// device belongs to.
    pub fn mkfs_command(&self, role: DeviceRole) -> String {
        let path = self.device_path(role).unwrap_or_default();
        format!(
            "ccd-disk mkfs --role {role} --force {} {path}",
            self.parsed.name()
        )
    }

    /// Every row of it.
    pub fn cluster_init(&self) -> ClusterInit {
        ClusterInit::clone(&self.parsed)
    }

    /// The file after this edit; a node that is added gets this id with its number.
    ///
    /// # Errors
    /// When no such node can be added or removed, or the result is no init database.
    pub fn edited(&self, edit: &NodeEdit, server: ServerId) -> Result<Self, InitError> {
        match edit {
            NodeEdit::Add {
                number,
                name,
                addresses,
            } => self.with_node(*number, name, server, addresses),
            NodeEdit::Remove { node } => self.without_node(node),
        }
    }

    fn with_node(
        &self,
        number: Option<NodeId>,
        name: &str,
        server: ServerId,
        addresses: &[NodeAddress],
    ) -> Result<Self, InitError> {
        let free = || NodeId::all().find(|node| !self.nodes.contains(*node));
        let Some(number) = number.or_else(free) else {
            let why = format!("the cluster has {NODES_MAX} nodes, the most that there can be");
            return Err(InitError::new(None, format!("node {name:?}"), why));
        };
        // Before they become part of lines: a name or a value must not make further rows.
        super::check_name(name).map_err(|why| InitError::new(None, format!("node {name:?}"), why))?;
        let row = if server.is_known() {
            format!("NODE:{number}:{name}:{server}")
        } else {
            format!("NODE:{number}:{name}")
        };
        let mut lines = insert(self.text.lines().collect(), "NODE", &[row.as_str()]);
        let rows: Vec<String> = (addresses.iter())
            .map(|address| {
                let ip = address.ip.to_string().replace(':', "%3A");
                let port = address.port.map_or_else(String::new, |port| port.to_string());
                format!("ADDRESS:{name}:{ip}:{port}")
            })
            .collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        lines = insert(lines, "ADDRESS", &rows);
        Self::parse(&text_of(&lines))
    }

    fn without_node(&self, number_or_name: &str) -> Result<Self, InitError> {
        let Some(node) = self.parsed.node_named(number_or_name) else {
            let why = "there is no such node";
            return Err(InitError::new(None, format!("node {number_or_name:?}"), why));
        };
        let row = format!("NODE:{}:{}", node.id, node.name);
        let address = format!("ADDRESS:{}:", node.name);
        let is_row = |line: &str| {
            line.strip_prefix(&row)
                .is_some_and(|id| id.is_empty() || id.starts_with(':'))
        };
        let stays = |line: &&str| !is_row(line) && !line.starts_with(&address);
        let lines: Vec<&str> = self.text.lines().filter(stays).collect();
        Self::parse(&text_of(&lines))
    }
}

fn text_of(lines: &[&str]) -> String {
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// The lines with these rows after the last row of their key, or at the end.
fn insert<'a>(lines: Vec<&'a str>, key: &str, rows: &[&'a str]) -> Vec<&'a str> {
    let of_key = |line: &&str| (line.strip_prefix(key)).is_some_and(|rest| rest.starts_with([':', '_']));
    let at = lines
        .iter()
        .rposition(of_key)
        .map_or(lines.len(), |last| last.saturating_add(1));
    let (before, after) = lines.split_at(at);
    [before, rows, after].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# ours\nCLUSTER:prod:0123456789abcdef0123456789abcdef\nNODE:0:alpha\nNODE:1:beta\n\
                        ADDRESS:alpha:10.0.0.1:\nADDRESS:beta:10.0.0.2:7001\n# a note of the operator\n\
                        OPTION:lease_ms:2000\n";

    fn file() -> InitFile {
        InitFile::parse(TEXT).unwrap()
    }
    fn add(number: Option<u8>, name: &str, addresses: &[&str]) -> NodeEdit {
        NodeEdit::Add {
            number: number.and_then(NodeId::new),
            name: name.to_string(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }
    fn remove(node: &str) -> NodeEdit {
        NodeEdit::Remove {
            node: node.to_string(),
        }
    }

    #[test]
    fn a_node_is_added_beside_the_others_and_removed_again_and_every_other_line_stays() {
        let added = file()
            .edited(
                &add(None, "gamma", &["10.0.0.3", "[fd00::3]:7003"]),
                ServerId::default(),
            )
            .unwrap();
        let init = added.cluster_init();
        let gamma = init.node_named("gamma").unwrap();
        assert_eq!((gamma.id, gamma.addresses.len()), (NodeId::new(2).unwrap(), 2));
        assert_eq!(gamma.addresses[1], "[fd00::3]:7003".parse().unwrap());
        assert!(added.text.contains("# a note of the operator"));
        assert_ne!(added.digest, file().digest);
        assert_eq!(
            added.edited(&remove("gamma"), ServerId::default()).unwrap(),
            file()
        );
        assert_eq!(added.edited(&remove("2"), ServerId::default()).unwrap(), file());
    }

    #[test]
    fn a_number_that_is_given_again_is_given_to_another_server() {
        let id = |number| ServerId(number);
        let first = file().edited(&add(None, "gamma", &["10.0.0.3"]), id(7)).unwrap();
        assert!(
            first.text.contains("NODE:2:gamma:0000000000000007\n"),
            "{}",
            first.text
        );
        let gamma = NodeId::new(2).unwrap();
        assert_eq!(first.servers.get(gamma), id(7));
        let without = first.edited(&remove("gamma"), id(8)).unwrap();
        assert_eq!(without, file());
        let again = without.edited(&add(None, "gamma", &["10.0.0.3"]), id(9)).unwrap();
        assert!(again.servers.get(gamma).differs_from(first.servers.get(gamma)));
        assert_ne!(again.digest, first.digest);
    }

    #[test]
    fn the_next_free_number_is_taken_unless_one_is_given() {
        let without = file().edited(&remove("alpha"), ServerId::default()).unwrap();
        let numbered = |edit: NodeEdit| without.edited(&edit, ServerId::default()).unwrap().nodes.bits();
        assert_eq!(numbered(add(None, "gamma", &["10.0.0.3"])), 0b11);
        assert_eq!(numbered(add(Some(31), "gamma", &["10.0.0.3"])), 1 << 31 | 0b10);
    }

    #[test]
    fn what_makes_no_init_database_is_refused_with_the_reason() {
        let table = [
            (add(Some(1), "gamma", &["10.0.0.3"]), "number 1 or this name"),
            (add(None, "beta", &["10.0.0.3"]), "or this name"),
            (add(None, "gamma", &["10.0.0.1"]), "is there twice"),
            (add(None, "gamma", &[]), "no ADDRESS row"),
            (add(None, "gam:ma", &["10.0.0.3"]), "a name is a letter"),
            (add(None, "a\nNODE:9:b", &["10.0.0.3"]), "a name is a letter"),
            (remove("gamma"), "no such node"),
        ];
        for (edit, why) in table {
            let error = file().edited(&edit, ServerId::default()).unwrap_err().to_string();
            assert!(error.contains(why), "{edit:?}: {error}");
        }
        let alone = file().edited(&remove("alpha"), ServerId::default()).unwrap();
        assert!(
            alone.edited(&remove("beta"), ServerId::default()).is_err(),
            "a cluster has a node"
        );
        for wrong in ["", "host", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0.1\nNODE:7:x"] {
            wrong.parse::<NodeAddress>().unwrap_err();
        }
    }

    #[test]
    fn a_cluster_of_32_nodes_is_full() {
        let mut file = file();
        for number in 2..NODES_MAX {
            let address = format!("10.0.1.{number}");
            file = file
                .edited(
                    &add(None, &format!("n{number}"), &[&address]),
                    ServerId::default(),
                )
                .unwrap();
        }
        let error = file
            .edited(&add(None, "more", &["10.0.2.1"]), ServerId::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("32 nodes"), "{error}");
    }
}
