//! Where a node listens, as an administrator writes it. Used by `ccdadm setup` and `ccdctl add-node`.

use super::terminal::Terminal;
use ccd_core::init::{NodeAddress, unsuited};
use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};

/// `10.0.0.1`, `10.0.0.1:5640`, `fd00::1`, `[fd00::1]:5640`, or a name that is resolved now, once.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse_address(text: &str, terminal: &Terminal) -> Result<NodeAddress, String> {
    let parsed = resolved(text, terminal)?;
    match unsuited(parsed.ip) {
        Some(why) => Err(format!("address {text:?}: {why}")),
        None => Ok(parsed),
    }
}

fn resolved(text: &str, terminal: &Terminal) -> Result<NodeAddress, String> {
    if let Ok(address) = text.parse::<NodeAddress>() {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(Ok(ip)) = bare.map(str::parse::<IpAddr>) {
        return Ok(NodeAddress { ip, port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let port: Option<u16> = port.parse().ok().filter(|port| *port != 0);
            let port =
                port.ok_or_else(|| format!("address {text:?}: its port is not between 1 and 65535"))?;
            (host, Some(port))
        }
        None => (text, None),
    };
    let well_formed = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let addresses = well_formed.then(|| (host, 0).to_socket_addrs());
    let resolved: BTreeSet<IpAddr> = match addresses {
        Some(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        _ => {
            return Err(format!(
                "address {text:?}: it is no IP address, and no name that resolves to one"
            ));
        }
    };
    let Some(ip) = resolved.first() else {
        return Err(format!("address {text:?}: the name resolves to nothing"));
    };
    if resolved.len() > 1 {
        return Err(format!(
            "address {text:?}: the name has several addresses; give the one you mean"
        ));
    }
    terminal.note(&format!(
        "{host} is {ip}; the init database holds the address, not the name"
    ));
    Ok(NodeAddress { ip: *ip, port })
}
