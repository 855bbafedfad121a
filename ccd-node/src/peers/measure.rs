//! The largest packet that passes on the way to an address: looked for with connections of their own, which carry nothing else,
//! beside the one in use.
//!
//! Called by `dial.rs` while there is a connection whose packets are limited. A limit that rests on a single loss is looked at
//! at once, a known one every half minute, in case somebody has mended the network.

use super::Calling;
use super::dial::{Attempt, DialError, connect};
use super::link::Network;
use super::packets::{Packets, Search};
use ccd_core::ids::NodeId;
use std::future::pending;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two looks at a limit that is known.
const REVIEW_EVERY: Duration = Duration::from_secs(30);
/// Between two looks of which the first found nothing out.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Flag in the number of a network in a `Hello`: the connection only measures, and takes no other's place. A listener that does not know
/// this takes it for a network of its own.
const PROBE: u8 = 0x80;

/// For a connection over this network that only measures.
pub(super) fn probe_of(network: u8) -> u8 {
    network | PROBE
}

pub(super) fn is_probe(network: u8) -> bool {
    network & PROBE != 0
}

/// When a limit was last looked at.
#[derive(Debug, Default)]
pub(super) struct Review {
    looked: Option<(Packets, Instant)>,
}

impl Review {
    /// Waits until the limit of this network is to be looked at, if there is one, and measures. Returns what is known then. May
    /// be dropped at any time.
    pub async fn look(&mut self, calling: &Calling, node: NodeId, index: u8, network: &Network) -> Packets {
        let known = network.packets.get();
        let address = network.current.borrow().as_ref().map(|link| link.address);
        let (Some(limit_bytes), Some(address)) = (known.limit_bytes(), address) else {
            return pending().await;
        };
        loop {
            let pause = match self.looked {
                Some((looked, _)) if looked != known => Duration::ZERO,
                None => Duration::ZERO,
                Some((Packets::Limited { .. }, at)) => REVIEW_EVERY.saturating_sub(at.elapsed()),
                Some((_, at)) => AGAIN_AFTER.saturating_sub(at.elapsed()),
            };
            sleep(pause).await;
            let found = measure(calling, node, index, address, limit_bytes).await;
            let now_known = found.unwrap_or(known);
            self.looked = Some((now_known, Instant::now()));
            if now_known != known {
                return now_known;
            }
        }
    }
}

/// The largest that passes, at least `limit_bytes`. `None`: it could not be found out now.
async fn measure(
    calling: &Calling,
    node: NodeId,
    index: u8,
    address: SocketAddr,
    limit_bytes: u32,
) -> Option<Packets> {
    let attempt = |packet_bytes_max| Attempt {
        node,
        network: probe_of(index),
        address,
        epoch: calling.epoch.get(),
        packet_bytes_max,
    };
    let interface_bytes = match connect(calling, attempt(None)).await {
        Ok(_) => return Some(Packets::Whole),
        Err(DialError::Narrow { packet_bytes }) => packet_bytes,
        Err(_) => return None,
    };
    let mut search = Search::between(limit_bytes, interface_bytes);
    // The next size first: mostly the limit is what it was.
    let mut next = Some(limit_bytes + 1).filter(|bytes| *bytes < interface_bytes);
    while let Some(packet_bytes) = next {
        let passed = match connect(calling, attempt(Some(packet_bytes))).await {
            Ok(_) => true,
            Err(DialError::Narrow { .. }) => false,
            Err(_) => return None,
        };
        search.on_tried(packet_bytes, passed);
        next = search.next();
    }
    Some(Packets::Limited {
        limit_bytes: search.largest_passed(),
        interface_bytes,
    })
}
