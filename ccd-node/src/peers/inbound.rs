//! What comes from each peer: which of its connections count, and what of them is news. No input or output.
//!
//! A peer has a connection on each of its networks, and makes them anew, tagged with the number, at every
//! reconfiguration. Always holds: once a message of a connection with a later tag is handed on, none of an earlier one
//! is; of a heartbeat that comes over several networks the first is handed on, and never an earlier one after it; two
//! daemons that claim one number never both get in.

use super::handshake::Ephemeral;
use super::hello::{Hello, Mismatch};
use ccd_client::files::AuthkeyId;
use ccd_core::ids::{Epoch, Incarnation, NodeId, NodeSet};
use ccd_core::protocol::{Message, PeerState};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

/// Handshakes of each node that are remembered, to recognise repeated ones.
const REMEMBERED_MAX: usize = 128;

/// How long messages of a new connection wait for the end of those it replaces.
const MAKE_WAY: Duration = Duration::from_millis(50);

/// A proven connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub id: u64,
    pub run: Incarnation,
    pub network: u8,
    pub epoch: Epoch,
    pub key: AuthkeyId,
    pub from: IpAddr,
    pub heard_at: Instant,
    /// A message came on it, and those that it replaces are done.
    pub speaks: bool,
    pub task: AbortHandle,
}

#[derive(Debug, Default)]
struct Inbound {
    run: Option<Incarnation>,
    connections: Vec<Connection>,
    /// The latest tag that a message came with.
    newest: Epoch,
    /// The last heartbeat.
    beat: Option<(Incarnation, u64)>,
    handshakes: VecDeque<Ephemeral>,
    /// Something has ended.
    ended: Rc<Notify>,
}

/// All peers' connections to this node.
#[derive(Debug)]
pub(super) struct InboundPeers {
    peers: RefCell<BTreeMap<NodeId, Inbound>>,
    /// A connection that was heard within that is alive.
    alive: Duration,
}

impl InboundPeers {
    pub fn new(alive: Duration) -> Self {
        Self {
            peers: RefCell::default(),
            alive,
        }
    }

    /// Whether a dialer with whom everything agrees may come in.
    pub fn admit(&self, now: Instant, hello: &Hello, ephemeral: Ephemeral) -> Result<(), Mismatch> {
        let mut peers = self.peers.borrow_mut();
        let inbound = peers.entry(hello.from).or_default();
        if inbound.handshakes.contains(&ephemeral) {
            return Err(Mismatch::Replayed { from: hello.from });
        }
        if inbound.handshakes.len() == REMEMBERED_MAX {
            inbound.handshakes.pop_front();
        }
        inbound.handshakes.push_back(ephemeral);
        let other = inbound.connections.iter().find(|connection| {
            connection.run != hello.run && now.duration_since(connection.heard_at) < self.alive
        });
        match other {
            Some(other) => Err(Mismatch::Claimed {
                node: hello.from,
                by: other.from,
            }),
            None => Ok(()),
        }
    }

    /// The connection is proven. It replaces connections of the daemon's earlier runs at once, and that of the same network and tag
    /// with its first message: the peer uses the old one until the new one has carried a packet of full size.
    pub fn enter(&self, node: NodeId, connection: Connection) {
        let mut peers = self.peers.borrow_mut();
        let inbound = peers.entry(node).or_default();
        if inbound.run != Some(connection.run) {
            inbound.run = Some(connection.run);
            inbound.newest = Epoch::default();
            inbound.beat = None;
        }
        for older in &inbound.connections {
            if older.run != connection.run {
                older.task.abort();
            }
        }
        // One in use, one staged; more of a network is nothing that a daemon does.
        let of_network = |one: &&Connection| one.network == connection.network;
        if inbound.connections.iter().filter(of_network).count() > 2
            && let Some(oldest) = inbound.connections.iter().find(of_network)
        {
            oldest.task.abort();
        }
        inbound.connections.push(connection);
    }

    pub fn leave(&self, node: NodeId, id: u64) {
        if let Some(inbound) = self.peers.borrow_mut().get_mut(&node) {
            inbound.connections.retain(|connection| connection.id != id);
            inbound.ended.notify_waiters();
        }
    }

    /// Ends the connections that are proven by a key that is no more.
    pub fn revoke(&self, is_valid: impl Fn(AuthkeyId) -> bool) {
        for inbound in self.peers.borrow().values() {
            for connection in inbound.connections.iter().filter(|one| !is_valid(one.key)) {
                connection.task.abort();
            }
        }
    }

    /// Ends the connections of all but these nodes.
    pub fn keep_only(&self, nodes: NodeSet) {
        let peers = self.peers.borrow();
        for (_, inbound) in peers.iter().filter(|(node, _)| !nodes.contains(**node)) {
            inbound
                .connections
                .iter()
                .for_each(|connection| connection.task.abort());
        }
    }

    /// Ends the connections on which nothing came for so long.
    pub fn end_idle(&self, now: Instant, idle: Duration) {
        for inbound in self.peers.borrow().values() {
            for connection in &inbound.connections {
                if now.duration_since(connection.heard_at) >= idle {
                    connection.task.abort();
                }
            }
        }
    }

    /// Before a message of this connection is handed on: waits a moment for what was sent earlier on connections that it
    /// replaces, of earlier reconfigurations or of the same network, and ends those. `false`: this one is itself of an earlier one.
    pub async fn make_way(&self, node: NodeId, id: u64, epoch: Epoch) -> bool {
        let deadline = tokio::time::Instant::now() + MAKE_WAY;
        loop {
            let ended = {
                let mut peers = self.peers.borrow_mut();
                let inbound = peers.entry(node).or_default();
                if epoch < inbound.newest {
                    return false;
                }
                let this = inbound.connections.iter().find(|connection| connection.id == id);
                if epoch == inbound.newest && this.is_none_or(|this| this.speaks) {
                    return true;
                }
                let network = this.map(|this| this.network);
                let is_older = |other: &&Connection| {
                    other.epoch < epoch
                        || (other.epoch == epoch && Some(other.network) == network && other.id < id)
                };
                let now = Instant::now();
                let mut waits = false;
                for older in inbound.connections.iter().filter(is_older) {
                    if now.duration_since(older.heard_at) < self.alive
                        && tokio::time::Instant::now() < deadline
                    {
                        waits = true;
                    } else {
                        older.task.abort();
                    }
                }
                if !waits {
                    inbound.newest = epoch;
                    if let Some(this) = inbound.connections.iter_mut().find(|one| one.id == id) {
                        this.speaks = true;
                    }
                    return true;
                }
                inbound.ended.clone()
            };
            // Nothing else runs between the look above and this: all is one thread.
            let _ = timeout_at(deadline, ended.notified()).await;
        }
    }

    /// Bytes came on this connection.
    pub fn heard(&self, node: NodeId, id: u64, now: Instant) {
        if let Some(inbound) = self.peers.borrow_mut().get_mut(&node)
            && let Some(connection) = inbound.connections.iter_mut().find(|one| one.id == id)
        {
            connection.heard_at = now;
        }
    }

    /// Whether to hand this on: `false` for a message with an earlier tag than another had, and for a heartbeat that is
    /// no news.
    pub fn is_news(&self, node: NodeId, epoch: Epoch, message: &Message) -> bool {
        let mut peers = self.peers.borrow_mut();
        let inbound = peers.entry(node).or_default();
        if epoch < inbound.newest {
            return false;
        }
        let Message::Heartbeat(PeerState {
            incarnation, echo, ..
        }) = message
        else {
            return true;
        };
        let repeated = inbound
            .beat
            .is_some_and(|(last_run, last)| last_run == *incarnation && *echo <= last);
        if !repeated {
            inbound.beat = Some((*incarnation, *echo));
        }
        !repeated
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{beat, node, on_one_thread};
    use super::*;
    use ccd_core::ids::ClusterId;

    fn hello(run: u64) -> Hello {
        Hello {
            cluster: ClusterId([7; 16]),
            init_digest: super::super::hello::Digest([8; 32]),
            from: node(1),
            to: node(0),
            run: Incarnation(run),
            network: 0,
            epoch: Epoch(1),
            init_other: None,
            server: Default::default(),
            to_server: Default::default(),
        }
    }

    /// A connection with a task that never ends by itself.
    fn connection(id: u64, run: u64, network: u8, epoch: u64) -> (Connection, tokio::task::JoinHandle<()>) {
        let task = tokio::task::spawn_local(std::future::pending());
        let connection = Connection {
            id,
            run: Incarnation(run),
            network,
            epoch: Epoch(epoch),
            key: AuthkeyId([0; 8]),
            from: IpAddr::from([10, 0, 0, 1]),
            heard_at: Instant::now(),
            speaks: false,
            task: task.abort_handle(),
        };
        (connection, task)
    }

    fn peers() -> InboundPeers {
        InboundPeers::new(Duration::from_secs(5))
    }

    #[test]
    fn of_a_heartbeat_over_several_networks_the_first_counts_and_none_that_is_older() {
        let peers = peers();
        let is_news = |run, echo| peers.is_news(node(1), Epoch(1), &beat(run, echo));
        let seen = [(1, 100), (1, 100), (1, 200), (1, 100), (2, 50), (2, 50), (2, 60)]
            .map(|(run, echo)| is_news(run, echo));
        assert_eq!(seen, [true, false, true, false, true, false, true]);
    }

    #[test]
    fn after_a_message_of_a_later_reconfiguration_none_of_an_earlier_one_is_handed_on() {
        on_one_thread(async {
            let peers = peers();
            let (old, old_task) = connection(1, 1, 0, 4);
            let (other, other_task) = connection(2, 1, 1, 4);
            peers.enter(node(1), old);
            peers.enter(node(1), other);
            assert!(peers.make_way(node(1), 1, Epoch(4)).await);
            assert!(peers.make_way(node(1), 2, Epoch(4)).await);
            assert!(peers.is_news(node(1), Epoch(4), &Message::Open { epoch: Epoch(4) }));
            let (new, _task) = connection(3, 1, 0, 5);
            peers.enter(node(1), new);
            assert!(peers.is_news(node(1), Epoch(4), &Message::Open { epoch: Epoch(4) }));
            // One of the old ones ends in time, the other does not.
            peers.leave(node(1), 1);
            assert!(peers.make_way(node(1), 3, Epoch(5)).await);
            assert!(!peers.is_news(node(1), Epoch(4), &Message::Open { epoch: Epoch(4) }));
            assert!(!peers.make_way(node(1), 2, Epoch(4)).await);
            assert!(other_task.await.unwrap_err().is_cancelled());
            old_task.abort();
        });
    }

    #[test]
    fn a_connection_of_the_same_network_ends_when_its_successor_speaks() {
        on_one_thread(async {
            let peers = peers();
            let (old, old_task) = connection(1, 1, 0, 4);
            let (other, other_task) = connection(2, 1, 1, 4);
            let (new, new_task) = connection(3, 1, 0, 4);
            for connection in [old, other] {
                peers.enter(node(1), connection);
            }
            assert!(peers.make_way(node(1), 1, Epoch(4)).await);
            peers.enter(node(1), new);
            tokio::task::yield_now().await;
            assert!(!old_task.is_finished(), "the new one has said nothing");
            assert!(peers.make_way(node(1), 1, Epoch(4)).await);
            assert!(peers.make_way(node(1), 3, Epoch(4)).await);
            assert!(old_task.await.unwrap_err().is_cancelled());
            assert!(!other_task.is_finished() && !new_task.is_finished());
        });
    }

    #[test]
    fn what_was_sent_before_is_handed_on_before() {
        on_one_thread(async {
            let peers = Rc::new(peers());
            let (old, _task) = connection(1, 1, 0, 4);
            peers.enter(node(1), old);
            let order = Rc::new(RefCell::new(Vec::new()));
            let (inbound, done) = (peers.clone(), order.clone());
            let newer = tokio::task::spawn_local(async move {
                assert!(inbound.make_way(node(1), 2, Epoch(5)).await);
                done.borrow_mut().push("new");
            });
            tokio::task::yield_now().await;
            assert!(peers.is_news(node(1), Epoch(4), &Message::Open { epoch: Epoch(4) }));
            order.borrow_mut().push("old");
            peers.leave(node(1), 1);
            newer.await.unwrap();
            assert_eq!(*order.borrow(), ["old", "new"]);
        });
    }

    #[test]
    fn the_second_daemon_with_a_number_is_refused_while_the_first_is_heard() {
        on_one_thread(async {
            let peers = peers();
            let start = Instant::now();
            assert_eq!(peers.admit(start, &hello(1), [1; 32]), Ok(()));
            let (first, _task) = connection(1, 1, 0, 1);
            peers.enter(node(1), first);
            let claimed = Mismatch::Claimed {
                node: node(1),
                by: IpAddr::from([10, 0, 0, 1]),
            };
            assert_eq!(peers.admit(start, &hello(2), [2; 32]), Err(claimed));
            assert_eq!(peers.admit(start, &hello(1), [3; 32]), Ok(()), "its own next one");
            let later = start + Duration::from_secs(10);
            assert_eq!(
                peers.admit(later, &hello(2), [4; 32]),
                Ok(()),
                "the first is silent"
            );
            peers.leave(node(1), 1);
            assert_eq!(
                peers.admit(start, &hello(2), [5; 32]),
                Ok(()),
                "the first is gone"
            );
        });
    }

    #[test]
    fn a_handshake_that_was_here_before_is_refused() {
        let peers = peers();
        let now = Instant::now();
        assert_eq!(peers.admit(now, &hello(1), [1; 32]), Ok(()));
        let replayed = Mismatch::Replayed { from: node(1) };
        assert_eq!(peers.admit(now, &hello(1), [1; 32]), Err(replayed));
        for byte in 0..=255 {
            let _ = peers.admit(now, &hello(1), [byte; 32]);
        }
        assert!(peers.peers.borrow()[&node(1)].handshakes.len() <= REMEMBERED_MAX);
    }

    #[test]
    fn a_connection_on_which_nothing_comes_ends() {
        on_one_thread(async {
            let peers = peers();
            let (one, task) = connection(1, 1, 0, 4);
            let begun = one.heard_at;
            peers.enter(node(1), one);
            let idle = Duration::from_secs(10);
            peers.heard(node(1), 1, begun + idle);
            peers.end_idle(begun + idle, idle);
            assert!(!task.is_finished());
            peers.end_idle(begun + idle * 2, idle);
            assert!(task.await.unwrap_err().is_cancelled());
        });
    }

    #[test]
    fn a_key_that_is_no_more_ends_its_connections() {
        on_one_thread(async {
            let peers = peers();
            let (mut old, old_task) = connection(1, 1, 0, 4);
            old.key = AuthkeyId([1; 8]);
            let (kept, kept_task) = connection(2, 1, 1, 4);
            peers.enter(node(1), old);
            peers.enter(node(1), kept);
            peers.revoke(|key| key == AuthkeyId([0; 8]));
            assert!(old_task.await.unwrap_err().is_cancelled());
            assert!(!kept_task.is_finished());
        });
    }
}
