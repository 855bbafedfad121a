//! Connections to the other nodes: proven, encrypted, and never waited for.
//!
//! ```text
//! hello.rs       what two nodes compare before they talk; why they do not
//! roster.rs      who the peers are, while nodes are added and removed
//! version.rs     which versions of the node protocol there are, and how messages look in each
//! handshake.rs   who holds a key, bytes in and bytes out
//! sealed.rs      messages of any length in sealed frames, and the answers to heartbeats
//! beats.rs       whether a connection still carries
//! clocks.rs      how far a peer's clock is ahead of this node's
//! ports.rs       a range of ports, and which to try next
//! packets.rs     how large packets may be on the way to an address, as far as it was shown
//! segments.rs    what the kernel knows of a connection's segments
//! measure.rs     the largest packet that passes, looked for beside the connection in use
//! link.rs        the ways to one peer, and which of them is used
//! arrivals.rs    who has just come: a reason to dial it now
//! dial.rs        this node's connections to each address of a peer: what it *sends* goes there
//! inbound.rs     what comes from each peer: which connections count, and what is news
//! late.rs        own addresses that are not there yet
//! listen.rs      the peers' connections to this node: what it *receives* comes there
//! ```
//!
//! Each node dials every address of every other and sends on the connections it dialed; neither side has to agree which
//! one counts. Heartbeats and their answers go over all of them, the rest over one that carries. At every reconfiguration
//! all are made anew. A message may be lost with its connection: the protocol is made for that.

mod arrivals;
mod beats;
mod clocks;
mod dial;
mod handshake;
mod hello;
mod inbound;
mod late;
mod link;
mod listen;
mod measure;
mod packets;
mod ports;
mod roster;
#[cfg(test)]
mod samples;
mod sealed;
mod segments;
#[cfg(test)]
mod tests;
mod version;

pub use arrivals::Arrivals;
pub use hello::{Digest, Identity, Progress};
pub use late::LateAddress;
pub use listen::{Listening, bind, listen};
pub use packets::Packets;
pub use roster::Roster;
pub use version::{MessageError, Versions};

use crate::outlet::Bell;
use ccd_client::files::Authkeys;
use ccd_client::wire::LinkReport;
use ccd_core::ids::{Epoch, NodeId, NodeSet, ServerId, Servers};
use ccd_core::protocol::Message;
use link::{Link, Network, Peer};
use ports::PortTurn;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;

/// A message from a peer whose identity is proven.
#[derive(Debug)]
pub struct FromPeer {
    pub from: NodeId,
    pub message: Message,
    /// Given back when the message is handled.
    _room: Option<OwnedSemaphorePermit>,
}

impl FromPeer {
    /// A message that came in pieces, in the form of the newest version.
    ///
    /// # Errors
    /// When the bytes are no message.
    pub fn unpack(from: NodeId, bytes: &[u8]) -> Result<Self, MessageError> {
        let message = version::decode(Versions::OURS.newest, bytes)?;
        Ok(Self {
            from,
            message,
            _room: None,
        })
    }
}

/// Most bytes that may wait for a peer that does not read; with more, its connection is dropped.
const BACKLOG_BYTES_MAX: usize = 40 << 20;

/// How connections are made and given up.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub heartbeat: Duration,
    /// For connecting.
    pub patience: Duration,
    /// For the handshake.
    pub handshake: Duration,
    /// Between two attempts.
    pub pause: Duration,
    /// A heartbeat without an answer for so long makes a link silent, and another is used: noticed at the third
    /// heartbeat after the last that was answered.
    pub silence: Duration,
    /// Data that the peer's kernel has not acknowledged for so long ends the connection.
    pub unacknowledged: Duration,
    /// A packet of full size that the peer's kernel has not acknowledged for so long is lost.
    pub full: Duration,
    /// A peer's connection on which nothing comes for so long is closed.
    pub idle: Duration,
}

impl Pace {
    /// Follows the heartbeat: a connection that is slower to come than a lease is of no use.
    pub fn of(heartbeat: Duration, lease: Duration) -> Self {
        Self {
            heartbeat,
            patience: (lease / 2).clamp(Duration::from_millis(300), Duration::from_secs(5)),
            handshake: lease.clamp(Duration::from_millis(500), Duration::from_secs(5)),
            pause: (heartbeat / 2).clamp(Duration::from_millis(20), Duration::from_millis(100)),
            silence: heartbeat * 7 / 4,
            unacknowledged: (lease * 2).clamp(Duration::from_secs(1), Duration::from_secs(30)),
            // Longer than the 200 ms after which the kernel sends again what was lost by accident.
            full: (lease / 4).clamp(Duration::from_millis(300), Duration::from_secs(2)),
            idle: (lease * 10).clamp(Duration::from_secs(10), Duration::from_secs(300)),
        }
    }
}

/// What all dialing tasks share.
#[derive(Debug)]
struct Calling {
    identity: Rc<Identity>,
    pace: Pace,
    /// The reconfiguration for which connections are made.
    epoch: Cell<Epoch>,
    /// Connections made so far.
    links: Cell<u64>,
    /// Peers with a new connection, until the event loop has heard of it.
    reachable: RefCell<BTreeSet<NodeId>>,
    /// Peers that refused this node because another server has its number, until the event loop has heard of it.
    disowned: RefCell<VecDeque<Disowned>>,
    /// What peers that refused this node know of the cluster, until the event loop has heard of it.
    progress_of_others: RefCell<VecDeque<(NodeId, Progress)>>,
    /// What was found of the size of packets, until the event loop has heard of it.
    found: RefCell<VecDeque<PacketsFound>>,
    bell: Bell,
    arrivals: Rc<Arrivals>,
}

/// A peer says that by its configuration of this epoch another server has this node's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disowned {
    pub by: NodeId,
    pub epoch: Epoch,
    pub server: ServerId,
}

/// What was found of the size of packets that a network to a peer passes.
#[derive(Clone, Copy, Debug)]
pub struct PacketsFound {
    pub node: NodeId,
    pub address: SocketAddr,
    pub packets: Packets,
}

/// One heartbeat of so many proves that packets of full size pass: an update must not be the first to find out that they do not.
const FULL_EVERY: u64 = 10;

/// All peers of this node.
#[derive(Debug)]
pub struct Peers {
    calling: Rc<Calling>,
    peers: Vec<Rc<Peer>>,
    /// The tasks that dial, with whom.
    dialing: Vec<(NodeId, AbortHandle)>,
    scratch: Vec<u8>,
}

impl Peers {
    /// The bell rings when a peer can be reached anew.
    pub fn new(identity: Rc<Identity>, pace: Pace, bell: &Bell) -> Self {
        let calling = Calling {
            identity,
            pace,
            epoch: Cell::default(),
            links: Cell::default(),
            reachable: RefCell::default(),
            disowned: RefCell::default(),
            progress_of_others: RefCell::default(),
            found: RefCell::default(),
            bell: bell.clone(),
            arrivals: Rc::default(),
        };
        Self {
            calling: Rc::new(calling),
            peers: Vec::new(),
            dialing: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Starts to keep connections to this node, at a port of each address's range. `own` are the addresses at which this
    /// node listens itself. Call inside a local runtime.
    pub fn dial(&mut self, node: NodeId, addresses: &[SocketAddr], port_range: u16, own: &[SocketAddr]) {
        let peer = Rc::new(Peer::new(node, addresses, self.calling.pace.silence));
        self.peers.push(peer.clone());
        for (index, address) in addresses.iter().enumerate() {
            let ports = PortTurn::new(*address, port_range, own);
            let keep = dial::keep_connected(self.calling.clone(), peer.clone(), index, ports);
            let task = tokio::task::spawn_local(keep).abort_handle();
            self.dialing.push((node, task));
        }
    }

    /// What the listening side is to tell those that dial.
    pub fn arrivals(&self) -> Rc<Arrivals> {
        self.calling.arrivals.clone()
    }

    pub fn has(&self, node: NodeId) -> bool {
        self.peers.iter().any(|peer| peer.node == node)
    }

    /// One to whom a connection was made since this was last asked.
    pub fn take_reachable(&self) -> Option<NodeId> {
        self.calling.reachable.borrow_mut().pop_first()
    }

    /// One that refused this node, since this was last asked.
    pub fn take_disowned(&self) -> Option<Disowned> {
        self.calling.disowned.borrow_mut().pop_front()
    }

    /// What one that refused this node knows, since this was last asked.
    pub fn take_progress(&self) -> Option<(NodeId, Progress)> {
        self.calling.progress_of_others.borrow_mut().pop_front()
    }

    /// What was found of the size of packets since this was last asked: what is in trouble now, and what no longer is.
    pub fn take_found(&self) -> Option<PacketsFound> {
        self.calling.found.borrow_mut().pop_front()
    }

    /// Networks that do not pass packets of full size.
    pub fn narrow(&self) -> Vec<PacketsFound> {
        let networks =
            (self.peers.iter()).flat_map(|peer| peer.networks.iter().map(|network| (peer.node, network)));
        networks
            .map(|(node, network)| PacketsFound {
                node,
                address: network.address,
                packets: network.packets.get(),
            })
            .filter(|found| found.packets.is_trouble())
            .collect()
    }

    /// How far the clock of a node is ahead of this one's, in seconds, if it has answered.
    pub fn clock_ahead_s(&self, node: NodeId) -> Option<i64> {
        let peer = self.peers.iter().find(|peer| peer.node == node)?;
        peer.clock.ahead_s()
    }

    /// Ends the connections to all but these.
    pub fn keep_only(&mut self, nodes: NodeSet) {
        self.dialing.retain(|(node, task)| {
            let stays = nodes.contains(*node);
            if !stays {
                task.abort();
            }
            stays
        });
        self.peers.retain(|peer| {
            let stays = nodes.contains(peer.node);
            if !stays {
                peer.networks.iter().for_each(|network| network.revoke(|_| false));
            }
            stays
        });
    }

    /// Connections are made anew if this reconfiguration is a later one. The old ones are used until the new ones are
    /// proven, so nothing waits.
    pub fn set_progress(&self, progress: Progress, servers: impl FnOnce() -> Servers) {
        let epoch = progress.epoch;
        if self.calling.identity.progress.replace(progress).epoch != epoch {
            self.calling.identity.servers.set(servers());
        }
        if self.calling.epoch.replace(epoch) != epoch {
            self.wake(|_| {});
        }
    }

    /// From now on the first of these keys is used and all are accepted. Connections under a key that is no more end;
    /// those under another than the first are replaced while they go on being used.
    pub fn set_keys(&self, keys: Authkeys) {
        let first = keys.first().id();
        self.wake(|network| {
            network.revoke(|key| keys.find(key).is_some());
            let current = network.current.borrow();
            let is_first = current.as_ref().is_none_or(|link| link.key == first);
            network.rekey.set(!is_first);
        });
        *self.calling.identity.keys.borrow_mut() = keys;
    }

    fn wake(&self, change: impl Fn(&Network)) {
        for network in self.peers.iter().flat_map(|peer| &peer.networks) {
            change(network);
            network.changed.notify_one();
        }
    }

    /// Puts a message on its way; [`flush`](Self::flush) sends it. Dropped if there is no connection.
    pub fn send(&mut self, to: NodeId, message: &Message) {
        let Some(peer) = self.peers.iter().find(|peer| peer.node == to).cloned() else {
            return;
        };
        match message {
            Message::Heartbeat(_) => {
                let now = Instant::now();
                for network in &peer.networks {
                    if let Some(link) = &mut *network.current.borrow_mut() {
                        link.pad_if_due();
                        self.put(to, link, message);
                        link.beats.on_sent(now);
                    }
                    if network.stalled(now, peer.patience).is_some() {
                        network.changed.notify_one();
                    }
                }
                peer.choose(now);
            }
            Message::HeartbeatAck { .. } => {
                for network in &peer.networks {
                    if let Some(link) = &mut *network.current.borrow_mut() {
                        self.put(to, link, message);
                    }
                }
            }
            _ => {
                if let Some(link) = &mut *peer.preferred().current.borrow_mut() {
                    self.put(to, link, message);
                }
            }
        }
    }

    fn put(&mut self, to: NodeId, link: &mut Link, message: &Message) {
        self.scratch.clear();
        let scratch = std::mem::take(&mut self.scratch);
        match version::encode(link.version, message, scratch) {
            Ok(bytes) => {
                let (sealer, outbox) = (&mut link.sealer, &link.outbox);
                if let Err(error) = outbox.append(|out| sealer.seal(&bytes, out)) {
                    tracing::error!(node = %to, %error, "a message cannot be sent");
                }
                self.scratch = bytes;
                self.scratch.shrink_to(1 << 20);
            }
            Err(error) => tracing::error!(node = %to, %error, "a message cannot be encoded"),
        }
    }

    /// Hands everything that waits to the kernel.
    pub fn flush(&self) {
        for network in self.peers.iter().flat_map(|peer| &peer.networks) {
            if let Some(link) = &*network.current.borrow()
                && !link.outbox.is_empty()
            {
                link.outbox.flush();
            }
        }
    }

    /// Whether everything that was sent is with the kernel, as far as the ways over which it goes still carry.
    pub fn is_drained(&self) -> bool {
        self.peers.iter().all(|peer| {
            let link = peer.preferred().current.borrow();
            link.as_ref().is_none_or(|link| link.outbox.is_empty())
        })
    }

    /// The ways to all peers, for `ccdadm status`.
    pub fn report(&self) -> Vec<LinkReport> {
        let now = Instant::now();
        self.peers.iter().flat_map(|peer| peer.report(now)).collect()
    }
}
