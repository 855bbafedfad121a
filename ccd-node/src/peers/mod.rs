//! Connections to the other nodes: proven, encrypted, and never waited for.
//!
//! ```text
//! hello.rs       what two nodes compare before they talk; why they do not
//! handshake.rs   who holds the key, bytes in and bytes out
//! roster.rs      who the peers are, while nodes are added and removed
//! sealed.rs      messages of any length in sealed frames
//! dial.rs        this node's connection to one peer: what it *sends* goes here
//! listen.rs      the peers' connections to this node: what it *receives* comes here
//! ```
//!
//! Each node dials every other and sends on the connection it dialed; so there are two for each pair, and neither
//! side has to agree which one counts. A message may be lost with its connection: the protocol is made for that.

mod dial;
mod handshake;
mod hello;
mod listen;
mod roster;
mod sealed;

pub use hello::Identity;
pub use listen::{bind, listen};
pub use roster::Roster;

use crate::outbox::Outbox;
use ccd_core::ids::{NodeId, NodeSet};
use ccd_core::protocol::Message;
use sealed::Sealer;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A message from a peer whose identity is proven.
#[derive(Debug)]
pub struct FromPeer {
    pub from: NodeId,
    pub message: Message,
}

/// So much may wait for a peer that does not read; more, and its connection is dropped.
const BACKLOG_BYTES_MAX: usize = 40 << 20;

/// How connections are made and given up.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For connecting and for the handshake, each.
    pub patience: Duration,
    /// Between two attempts.
    pub pause: Duration,
    /// Data that the peer's kernel has not acknowledged for so long ends the connection.
    pub unacknowledged: Duration,
}

impl Pace {
    /// Follows the heartbeat: a connection that is slower to come than a lease is of no use.
    pub fn of(heartbeat: Duration, lease: Duration) -> Self {
        Self {
            patience: lease.clamp(Duration::from_millis(500), Duration::from_secs(5)),
            pause: (heartbeat / 2).clamp(Duration::from_millis(20), Duration::from_millis(100)),
            unacknowledged: (lease * 2).clamp(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

/// An open connection to a peer.
#[derive(Debug)]
struct Link {
    sealer: Sealer,
    outbox: Rc<Outbox<TcpStream>>,
}

/// Where the event loop sends from.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    link: RefCell<Option<Link>>,
    task: RefCell<Option<tokio::task::AbortHandle>>,
}

/// All peers of this node.
#[derive(Debug, Default)]
pub struct Peers {
    peers: Vec<Rc<Peer>>,
    scratch: Vec<u8>,
}

impl Peers {
    /// Starts to keep a connection to this node. Call inside a `LocalSet`.
    pub fn dial(&mut self, identity: &Rc<Identity>, node: NodeId, addresses: Vec<SocketAddr>, pace: Pace) {
        let peer = Rc::new(Peer {
            node,
            link: RefCell::default(),
            task: RefCell::default(),
        });
        self.peers.push(peer.clone());
        let keep = dial::keep_connected(identity.clone(), peer.clone(), addresses, pace);
        *peer.task.borrow_mut() = Some(tokio::task::spawn_local(keep).abort_handle());
    }

    pub fn has(&self, node: NodeId) -> bool {
        self.peers.iter().any(|peer| peer.node == node)
    }

    /// Ends the connections to all but these.
    pub fn keep_only(&mut self, nodes: NodeSet) {
        self.peers.retain(|peer| {
            let stays = nodes.contains(peer.node);
            if !stays && let Some(task) = peer.task.take() {
                task.abort();
            }
            stays
        });
    }

    /// Puts a message on its way; [`flush`](Self::flush) sends it. Dropped if there is no connection.
    pub fn send(&mut self, to: NodeId, message: &Message) {
        let Some(peer) = self.peers.iter().find(|peer| peer.node == to) else {
            return;
        };
        let mut link = peer.link.borrow_mut();
        let Some(Link { sealer, outbox }) = &mut *link else {
            return;
        };
        self.scratch.clear();
        let scratch = std::mem::take(&mut self.scratch);
        match postcard::to_extend(message, scratch) {
            Ok(bytes) => {
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
        for peer in &self.peers {
            if let Some(link) = &*peer.link.borrow()
                && !link.outbox.is_empty()
            {
                link.outbox.flush();
            }
        }
    }

    /// Whether everything that was sent is with the kernel.
    pub fn is_drained(&self) -> bool {
        self.peers.iter().all(|peer| {
            peer.link
                .borrow()
                .as_ref()
                .is_none_or(|link| link.outbox.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{ClusterId, Position};
    use tokio::sync::mpsc;
    use tokio::task::LocalSet;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn node(number: u8) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn identity(me: u8, key: u8) -> Rc<Identity> {
        Rc::new(Identity {
            me: node(me),
            cluster: ClusterId([7; 16]),
            roster: RefCell::new(Roster {
                nodes: [node(0), node(1)].into_iter().collect(),
                digest: [8; 32],
                other: None,
            }),
            key: [key; 32],
        })
    }

    fn pace() -> Pace {
        Pace::of(Duration::from_millis(100), Duration::from_secs(1))
    }

    fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            tokio::time::timeout(PATIENCE, work).await.unwrap()
        })
    }

    /// Node 1 listens; node 0 dials it.
    fn pair(dialer_key: u8) -> (Peers, mpsc::Receiver<FromPeer>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (to_core, inlet) = mpsc::channel(4);
        listen(vec![listener], identity(1, 9), to_core);
        let mut peers = Peers::default();
        peers.dial(&identity(0, dialer_key), node(1), vec![address], pace());
        (peers, inlet)
    }

    fn chunk(bytes: usize) -> Message {
        Message::ImageChunk {
            position: Position::EMPTY,
            total: bytes as u64,
            offset: 0,
            bytes: vec![7; bytes],
            ancestor: false,
        }
    }

    #[test]
    fn messages_arrive_whole_and_in_order_however_long() {
        on_one_thread(async {
            let (mut peers, mut inlet) = pair(9);
            while peers.peers[0].link.borrow().is_none() {
                tokio::task::yield_now().await;
            }
            let messages: Vec<Message> = (0..20).map(|number| chunk(number * 100_000)).collect();
            for message in &messages {
                peers.send(node(1), message);
                peers.flush();
            }
            for message in messages {
                let arrived = inlet.recv().await.unwrap();
                assert_eq!(arrived.from, node(0));
                assert!(arrived.message == message);
            }
            assert!(peers.is_drained());
        });
    }

    #[test]
    fn a_node_with_another_key_gets_no_connection() {
        on_one_thread(async {
            let (peers, mut inlet) = pair(1);
            let attempts = pace().pause * 5;
            assert!(tokio::time::timeout(attempts, inlet.recv()).await.is_err());
            assert!(peers.peers[0].link.borrow().is_none());
        });
    }

    #[test]
    fn a_peer_that_does_not_read_is_dropped_and_not_waited_for() {
        on_one_thread(async {
            let (mut peers, inlet) = pair(9);
            while peers.peers[0].link.borrow().is_none() {
                tokio::task::yield_now().await;
            }
            // The inlet is full after a few messages, so the listener stops reading and TCP pushes back.
            let big = chunk(1 << 20);
            let mut sent = 0;
            while peers.peers[0].link.borrow().is_some() {
                peers.send(node(1), &big);
                peers.flush();
                sent += 1;
                assert!(sent < 200, "nothing bounds what waits for a peer");
                tokio::task::yield_now().await;
            }
            drop(inlet);
        });
    }
}
