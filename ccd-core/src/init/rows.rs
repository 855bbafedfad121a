//! The reserved rows, from text to types; called by `ClusterInit::parse` alone.

use super::{ADDRESSES_MAX, DeviceInit, InitError, NodeInit, RESERVED, check_name};
use crate::database::{Key, Row};
use crate::ids::{ClusterId, DeviceRole, NodeId, ServerId};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

/// A row with the number of its line.
pub(super) type Numbered = (u32, Row);

pub(super) fn is_reserved(key: &Key) -> bool {
    reserved_columns(key).is_some()
}

fn reserved_columns(key: &Key) -> Option<&'static [&'static str]> {
    let found = RESERVED.iter().find(|(reserved, _)| *reserved == key.as_str());
    found.map(|(_, columns)| *columns)
}

/// Number and name.
pub(super) const NODE_COLUMNS_MIN: usize = 2;

/// How many columns a row must have: the id of a NODE row came later, and files without it are read.
pub(super) fn required_columns(key: &Key, count: usize) -> usize {
    if key.as_str() == "NODE" {
        NODE_COLUMNS_MIN
    } else {
        count
    }
}

pub(super) fn reserved_formats() -> Vec<(Key, Vec<String>)> {
    let owned = |columns: &[&str]| columns.iter().map(|column| (*column).to_owned()).collect();
    RESERVED
        .iter()
        .filter_map(|(key, columns)| Some((Key::new(key).ok()?, owned(columns))))
        .collect()
}

/// The rows of a reserved key with so many columns; [`check_shape`] has refused others.
pub(super) fn of_key<'a, const COLUMNS: usize>(
    rows: &'a [Numbered],
    key: &'a str,
) -> impl Iterator<Item = (u32, &'a [String; COLUMNS])> {
    rows.iter()
        .filter(move |(_, row)| row.key.as_str() == key)
        .filter_map(|(line, row)| Some((*line, row.values.as_array()?)))
}

/// The format row of a reserved key may be there, and then says what is known; no other key has two.
pub(super) fn add_format(
    formats: &mut Vec<(Key, Vec<String>)>,
    line: u32,
    key: Key,
    columns: Vec<String>,
) -> Result<(), InitError> {
    let fail = |why: String| Err(InitError::new(Some(line), format!("format of {key}"), why));
    match reserved_columns(&key) {
        Some(known)
            if columns.len() >= required_columns(&key, known.len())
                && (known.get(..columns.len())).is_some_and(|known| known == columns) =>
        {
            Ok(())
        }
        Some(known) => fail(format!("this key has the columns {}", known.join(":"))),
        None if formats.iter().any(|(earlier, _)| *earlier == key) => fail("it is there twice".to_owned()),
        None => {
            formats.push((key, columns));
            Ok(())
        }
    }
}

pub(super) fn add_row(rows: &mut Vec<Numbered>, line: u32, row: Row) -> Result<(), InitError> {
    if rows.iter().any(|(_, earlier)| *earlier == row) {
        let what = format!("row {:?}", row.to_text());
        return Err(InitError::new(Some(line), what, "it is there twice"));
    }
    rows.push((line, row));
    Ok(())
}

/// A row has exactly the columns of its format, which stands before it or is a reserved one.
pub(super) fn check_shape(formats: &[(Key, Vec<String>)], line: u32, row: &Row) -> Result<(), InitError> {
    let Some((_, columns)) = formats.iter().find(|(key, _)| *key == row.key) else {
        return Err(InitError::new(
            Some(line),
            format!("key {:?}", row.key.as_str()),
            format!(
                "no {}_fmt row before it, and it is none of the reserved keys {}",
                row.key,
                RESERVED.map(|(key, _)| key).join(", ")
            ),
        ));
    };
    if (required_columns(&row.key, columns.len())..=columns.len()).contains(&row.values.len()) {
        return Ok(());
    }
    Err(InitError::new(
        Some(line),
        format!("the {} row", row.key),
        format!(
            "it has {} columns, and its format {} ({})",
            row.values.len(),
            columns.len(),
            columns.join(", ")
        ),
    ))
}

pub(super) fn cluster(rows: &[Numbered]) -> Result<(String, ClusterId), InitError> {
    let mut found = of_key(rows, "CLUSTER");
    let Some((line, [name, id])) = found.next() else {
        return Err(InitError::new(None, "the CLUSTER row", "it is missing"));
    };
    if let Some((line, _)) = found.next() {
        return Err(InitError::new(
            Some(line),
            "the CLUSTER row",
            "there is more than one",
        ));
    }
    check_name(name).map_err(|why| InitError::new(Some(line), format!("cluster name {name:?}"), why))?;
    let id = parse_cluster_id(id).ok_or_else(|| {
        InitError::new(
            Some(line),
            format!("cluster id {id:?}"),
            "an id is 32 lower-case hexadecimal digits, not all zero",
        )
    })?;
    Ok((name.clone(), id))
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

pub(super) fn nodes(rows: &[Numbered], default_port: u16) -> Result<Vec<NodeInit>, InitError> {
    let mut nodes: Vec<NodeInit> = Vec::new();
    let given =
        (rows.iter().filter(|(_, row)| row.key.as_str() == "NODE")).filter_map(|(line, row)| {
            match row.values.as_slice() {
                [number, name] => Some((*line, number, name, "")),
                [number, name, server] => Some((*line, number, name, server.as_str())),
                _ => None,
            }
        });
    for (line, given, name, server) in given {
        let fail = |why: String| Err(InitError::new(Some(line), format!("node {name:?}"), why));
        let number = given.parse().ok().and_then(NodeId::new);
        let Some(id) = number.filter(|id| format!("{id}") == *given) else {
            return fail(format!("its number {given:?} is not between 0 and 31"));
        };
        if let Err(why) = check_name(name) {
            return fail(why);
        }
        if nodes.iter().any(|node| node.id == id || node.name == *name) {
            return fail(format!("another node has the number {id} or this name"));
        }
        let server = match server {
            "" => ServerId::default(),
            text => match ServerId::parse(text) {
                Some(server) => server,
                None => {
                    return fail(format!(
                        "its id {text:?} is not 16 lower-case hexadecimal digits, not all zero"
                    ));
                }
            },
        };
        if server.is_known() && nodes.iter().any(|node| node.server == server) {
            return fail(format!("another node has the id {server}"));
        }
        nodes.push(NodeInit {
            id,
            name: name.clone(),
            server,
            addresses: Vec::new(),
        });
    }
    if nodes.is_empty() {
        return Err(InitError::new(None, "the NODE rows", "there is none"));
    }
    let mut taken: Vec<SocketAddr> = Vec::new();
    for (line, [name, address, port]) in of_key(rows, "ADDRESS") {
        let fail = |why: String| {
            Err(InitError::new(
                Some(line),
                format!("address {address:?} of node {name:?}"),
                why,
            ))
        };
        let Some(node) = nodes.iter_mut().find(|node| node.name == *name) else {
            return fail("there is no such node".to_owned());
        };
        let Ok(ip) = address.parse::<IpAddr>() else {
            return fail(
                "it is not an IP address; names are not allowed, a resolver may be down when it matters"
                    .to_owned(),
            );
        };
        if ip.is_unspecified() || ip.is_multicast() {
            return fail("it is not the address of one node".to_owned());
        }
        if matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            let why = "it is link-local: the same on every network, and nothing says which; give the node another address";
            return fail(why.to_owned());
        }
        let port = match port.as_str() {
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
    check_loopback(&nodes)?;
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

/// A cluster on one machine has loopback addresses only; of several machines none can reach another there.
fn check_loopback(nodes: &[NodeInit]) -> Result<(), InitError> {
    let addresses =
        || (nodes.iter()).flat_map(|node| node.addresses.iter().map(move |address| (node, address)));
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    if addresses().all(|(_, address)| is_loopback(address)) {
        return Ok(());
    }
    match addresses().find(|(_, address)| is_loopback(address)) {
        None => Ok(()),
        Some((node, address)) => Err(InitError::new(
            None,
            format!(
                "address {:?} of node {:?}",
                format!("{}", address.ip()),
                node.name
            ),
            "it is a loopback address, which no other machine reaches, and other nodes have addresses of a network; only a \
             cluster on one machine has loopback addresses, on all nodes",
        )),
    }
}

/// An address of IPv4 that works on one network alone, as long as nobody else takes it: what `ccdadm setup` and new nodes
/// may not have. Files that have such addresses are read all the same: a running cluster must not fail by that.
pub fn unsuited(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_link_local() => Some(
            "it is link-local: taken by whoever comes first, and lost at the next boot; give the node another address",
        ),
        _ => None,
    }
}

pub(super) fn devices(rows: &[Numbered]) -> Result<Vec<DeviceInit>, InitError> {
    let mut devices: Vec<DeviceInit> = Vec::new();
    for (line, [name, path]) in of_key(rows, "DEVICE") {
        let fail = |why: &str| Err(InitError::new(Some(line), format!("device {path:?}"), why));
        let Some(role) = DeviceRole::ALL.into_iter().find(|role| role.name() == name) else {
            return fail("its role is neither primary nor secondary");
        };
        if !path.starts_with('/') {
            return fail("its path does not start with '/'");
        }
        if devices.iter().any(|device| device.role == role) {
            return fail("there is another device of this role");
        }
        if devices.iter().any(|device| device.path == *path) {
            return fail("primary and secondary are the same");
        }
        devices.push(DeviceInit {
            role,
            path: path.clone(),
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
