//! The peers' connections to this node: accepted, proven, read.

use super::arrivals::Arrivals;
use super::handshake::{self, CLEAR_BYTES, HANDSHAKE_FRAME_BYTES_MAX};
use super::hello::{Hello, Identity};
use super::inbound::{Connection, InboundPeers};
use super::late::{LateAddress, Missing, bind_late};
use super::measure::is_probe;
use super::sealed::{HeartbeatAnswer, Opener};
use super::version::{self, Version};
use super::{FromPeer, Pace, ports};
use crate::clock;
use crate::door::Door;
use crate::quiet::Quiet;
use ccd_client::files::AuthkeyId;
use ccd_core::ids::{NodeId, NodeSet};
use ccd_core::protocol::Message;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

/// Most connections from addresses of the cluster that may be in their handshake: 31 peers with two networks at once.
const UNPROVEN_PEERS_MAX: usize = 64;
/// And so many from elsewhere, which cannot take the others' place. When it is full the oldest one is hung up on: who proves nothing
/// cannot keep out who does.
const UNPROVEN_STRANGERS_MAX: usize = 16;
/// How long a stranger may take to prove itself.
const UNPROVEN_PATIENCE: Duration = Duration::from_secs(2);
/// Connections that the kernel keeps until they are accepted.
const LISTEN_BACKLOG: u32 = 128;
/// Messages longer than this take room, of which there is so much for all peers together. Full: nothing more is read.
const SMALL_BYTES: usize = 64 << 10;
const ROOM_BYTES: usize = 64 << 20;
/// Two bytes of length, and a frame.
const FRAME_ROOM_BYTES: usize = 2 + u16::MAX as usize;

struct Shared {
    identity: Rc<Identity>,
    to_core: Door<FromPeer>,
    /// Where peers come from.
    known: RefCell<BTreeSet<IpAddr>>,
    unproven_peers: Unproven,
    unproven_strangers: Unproven,
    room: Arc<Semaphore>,
    inbound: InboundPeers,
    arrivals: Rc<Arrivals>,
    count: Cell<u64>,
    quiet: RefCell<Quiet>,
    missing: Missing,
}

/// Connections in their handshake, the oldest first.
struct Unproven {
    most: usize,
    tasks: RefCell<VecDeque<(u64, SocketAddr, AbortHandle)>>,
}

impl Unproven {
    fn new(most: usize) -> Self {
        Self {
            most,
            tasks: RefCell::default(),
        }
    }

    /// Takes one more. When there are too many the oldest ends; returns from where that was.
    fn enter(&self, number: u64, from: SocketAddr, task: AbortHandle) -> Option<SocketAddr> {
        let mut tasks = self.tasks.borrow_mut();
        tasks.push_back((number, from, task));
        if tasks.len() <= self.most {
            return None;
        }
        let (_, ended, oldest) = tasks.pop_front()?;
        oldest.abort();
        Some(ended)
    }

    /// It has proven itself, or failed to.
    fn leave(&self, number: u64) {
        self.tasks.borrow_mut().retain(|(other, ..)| *other != number);
    }
}

/// The listening side, for whoever changes the keys.
pub struct Listening {
    shared: Rc<Shared>,
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listening")
    }
}

impl Listening {
    /// The identity's keys have changed: connections under a key that is no more end.
    pub fn revoke(&self) {
        let keys = self.shared.identity.keys.borrow();
        self.shared.inbound.revoke(|key| keys.find(key).is_some());
    }

    /// Which addresses of this node are not listened on, for the status.
    pub fn missing_text(&self) -> Option<String> {
        self.shared.missing.text()
    }

    /// Ends the connections of all but these nodes; from now on `known` are the addresses of the cluster.
    pub fn keep_only(&self, nodes: NodeSet, known: BTreeSet<IpAddr>) {
        self.shared.known.replace(known);
        self.shared.inbound.keep_only(nodes);
    }
}

/// Takes one of this node's addresses, at the first port of its range that is free.
///
/// # Errors
/// When all are in use, or the address is not of this machine.
pub fn bind(first: SocketAddr, count: u16) -> io::Result<TcpListener> {
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for address in ports::range(first, count) {
        outcome = bind_one(address);
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    outcome
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A daemon that was killed must get its port back at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Starts to serve peers on these sockets, and on those of `late` once they are there; `known` are the addresses of the cluster. `to_core` is bounded: when it is
/// full the peers' connections are not read, and TCP holds them back. `arrivals` hear of each peer that has proven itself.
pub fn listen(
    listeners: Vec<TcpListener>,
    late: Vec<LateAddress>,
    identity: Rc<Identity>,
    known: BTreeSet<IpAddr>,
    pace: Pace,
    to_core: Door<FromPeer>,
    arrivals: Rc<Arrivals>,
) -> Listening {
    let shared = Rc::new(Shared {
        identity,
        to_core,
        known: RefCell::new(known),
        unproven_peers: Unproven::new(UNPROVEN_PEERS_MAX),
        unproven_strangers: Unproven::new(UNPROVEN_STRANGERS_MAX),
        room: Arc::new(Semaphore::new(ROOM_BYTES)),
        inbound: InboundPeers::new(pace.heartbeat * 3),
        arrivals,
        count: Cell::new(0),
        quiet: RefCell::default(),
        missing: Missing::default(),
    });
    for listener in listeners {
        spawn_local(accept(listener, shared.clone()));
    }
    for address in late {
        let shared = shared.clone();
        spawn_local(async move {
            let listener = bind_late(address, &shared.missing).await;
            accept(listener, shared).await;
        });
    }
    spawn_local(end_idle(shared.clone(), pace.idle));
    Listening { shared }
}

/// A peer that lost its power sends no end. What it left behind must not keep its memory.
async fn end_idle(shared: Rc<Shared>, idle: Duration) {
    loop {
        tokio::time::sleep(idle / 2).await;
        shared.inbound.end_idle(Instant::now(), idle);
    }
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let (hand_over, handle) = tokio::sync::oneshot::channel();
                let number = shared.count.replace(shared.count.get() + 1);
                let task = spawn_local(serve(stream, address, number, shared.clone(), handle));
                let unproven = shared.unproven(address.ip());
                if let Some(ended) = unproven.enter(number, address, task.abort_handle()) {
                    shared.complain(
                        ended,
                        None,
                        "too many connections that prove nothing, and this was the oldest; find out who makes them, and keep them from \
                         this port",
                    );
                }
                // The task waits for its own handle, so it cannot be gone.
                let _ = hand_over.send(task.abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of descriptors: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    number: u64,
    shared: Rc<Shared>,
    handle: tokio::sync::oneshot::Receiver<AbortHandle>,
) {
    let Ok(task) = handle.await else {
        return;
    };
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let mut claimed = Claimed::default();
    let digest = || shared.identity.roster.borrow().digest;
    let goes_by = digest();
    let proven = match timeout(UNPROVEN_PATIENCE, prove(&mut reader, &shared, &mut claimed)).await {
        Err(_) => Err("the handshake was not finished in time".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        // The nodes were changed since it was looked whether this is one: who is one calls again.
        Ok(Ok(_)) if digest() != goes_by => {
            Err("the init database was changed during the handshake".to_owned())
        }
        Ok(Ok(proven)) if shared.identity.keys.borrow().find(proven.key).is_none() => {
            Err("its authkey was taken away during the handshake".to_owned())
        }
        Ok(Ok(proven)) => Ok(proven),
    };
    shared.leave_unproven(number);
    let proven = match proven {
        Ok(proven) => proven,
        Err(text) if claimed.measures => return tracing::debug!(%address, "a peer's packet was lost: {text}"),
        Err(text) => return shared.complain(address, claimed.node, &text),
    };
    let Proven {
        hello,
        opener,
        version,
        key,
    } = proven;
    let (node, epoch) = (hello.from, hello.epoch);
    if is_probe(hello.network) {
        tracing::debug!(%node, %address, "a peer measures packets");
        let _ = timeout(
            UNPROVEN_PATIENCE,
            tokio::io::copy(&mut reader, &mut tokio::io::sink()),
        )
        .await;
        return;
    }
    tracing::info!(%node, %address, %epoch, version = version.0, authkey = %key, "peer connected");
    let id = shared.count.replace(shared.count.get() + 1);
    shared.inbound.enter(
        node,
        Connection {
            id,
            run: hello.run,
            network: hello.network,
            epoch,
            key,
            from: address.ip(),
            heard_at: Instant::now(),
            speaks: false,
            task,
        },
    );
    shared.arrivals.note(node);
    let _entered = Entered {
        shared: shared.clone(),
        node,
        id,
    };
    // Only answers to heartbeats are ever sent back here, so nothing could carry TCP's acknowledgements along: without
    // this each message would cost a segment of its own. The kernel still sends one in time.
    if let Err(error) = reader.get_ref().set_quickack(false) {
        tracing::debug!(%error, "acknowledgements stay immediate");
    }
    let mut reading = Reading {
        arrived: reader.buffer().to_vec(),
        stream: reader.into_inner(),
        taken_bytes: 0,
        opener,
        shared: shared.clone(),
        hello,
        version,
        id,
        beats: 0,
    };
    let error = reading.read().await;
    tracing::info!(%node, %address, %epoch, "peer's connection ended: {error}");
}

/// Takes the connection out of the books when its task ends, however it does.
struct Entered {
    shared: Rc<Shared>,
    node: NodeId,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.shared.inbound.leave(self.node, self.id);
    }
}

impl Shared {
    fn leave_unproven(&self, number: u64) {
        self.unproven_peers.leave(number);
        self.unproven_strangers.leave(number);
    }

    fn unproven(&self, from: IpAddr) -> &Unproven {
        if self.known.borrow().contains(&from.to_canonical()) {
            &self.unproven_peers
        } else {
            &self.unproven_strangers
        }
    }

    fn complain(&self, address: SocketAddr, claimed: Option<NodeId>, text: &str) {
        let from = address.ip().to_canonical();
        let who = match claimed {
            Some(node) => format!("node {node} at {from}"),
            None => from.to_string(),
        };
        let text = format!("connection of {who} refused: {text}");
        if let Some(swallowed) = self.quiet.borrow_mut().admit(Instant::now(), &text) {
            tracing::warn!(swallowed, "{text}");
        }
    }
}

/// The peer that a connection is from, and its purpose, as it says itself.
#[derive(Debug, Default)]
struct Claimed {
    node: Option<NodeId>,
    /// It only finds out how large packets may be.
    measures: bool,
}

struct Proven {
    hello: Hello,
    opener: Opener,
    version: Version,
    key: AuthkeyId,
}

/// The handshake, up to the frame that proves that it is no recording. `claimed` is who it says it is.
async fn prove(
    reader: &mut BufReader<TcpStream>,
    shared: &Shared,
    claimed: &mut Claimed,
) -> anyhow::Result<Proven> {
    reader.get_ref().set_nodelay(true)?;
    let mut clear = [0; CLEAR_BYTES];
    reader.read_exact(&mut clear).await?;
    let greeted = match handshake::greet(&shared.identity, &clear) {
        Ok(greeted) => greeted,
        Err(answer) => {
            reader.get_mut().write_all(&answer.bytes).await?;
            return match answer.outcome {
                Err(error) => Err(error.into()),
                Ok(_) => Err(anyhow::anyhow!("a refusal that refuses nothing")),
            };
        }
    };
    let frame = read_frame(reader, HANDSHAKE_FRAME_BYTES_MAX).await?;
    let answer = handshake::answer(&shared.identity, &greeted, &frame, |hello, ephemeral, checked| {
        claimed.node = Some(hello.from);
        claimed.measures = checked.is_ok() && is_probe(hello.network);
        checked.and_then(|()| shared.inbound.admit(Instant::now(), hello, ephemeral))
    });
    reader.get_mut().write_all(&answer.bytes).await?;
    let (hello, channel) = answer.outcome?;
    let mut opener = Opener::new(channel.transport);
    let proof = read_frame(reader, usize::from(u16::MAX)).await;
    if matches!(&proof, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof) {
        anyhow::bail!(
            "it ended before its first packet of full size came: if this comes again, see there whether the network loses large packets \
             (`ccdadm status`)"
        );
    }
    let proof = proof.and_then(|proof| opener.open_frame(&proof).map_err(io::Error::other));
    anyhow::ensure!(
        matches!(proof, Ok(None)),
        "it does not prove that its handshake is no recording; if this comes again and again, find out who is on that \
         network"
    );
    Ok(Proven {
        hello,
        opener,
        version: channel.version,
        key: channel.key,
    })
}

/// One proven connection.
struct Reading {
    stream: TcpStream,
    /// What has come, and how much of it was taken.
    arrived: Vec<u8>,
    taken_bytes: usize,
    opener: Opener,
    shared: Rc<Shared>,
    hello: Hello,
    version: Version,
    id: u64,
    /// Heartbeats that came.
    beats: u64,
}

impl Reading {
    /// Reads messages until the connection ends; says why it did.
    async fn read(&mut self) -> anyhow::Error {
        let (from, epoch) = (self.hello.from, self.hello.epoch);
        let shared = self.shared.clone();
        loop {
            let (message, len_bytes) = match self.next_message().await {
                Ok(message) => message,
                Err(error) => return error,
            };
            shared.inbound.heard(from, self.id, Instant::now());
            if let Message::Heartbeat(_) = message
                && let Err(error) = self.answer()
            {
                return error;
            }
            if !shared.inbound.make_way(from, self.id, epoch).await {
                return anyhow::anyhow!("a later reconfiguration has its own");
            }
            if !shared.inbound.is_news(from, epoch, &message) {
                continue;
            }
            let room = if len_bytes > SMALL_BYTES {
                shared
                    .room
                    .clone()
                    .acquire_many_owned(len_bytes as u32)
                    .await
                    .ok()
            } else {
                None
            };
            let from_peer = FromPeer {
                from,
                message,
                _room: room,
            };
            if shared.to_core.send(from_peer).await.is_err() {
                return anyhow::anyhow!("this daemon is stopping");
            }
        }
    }

    /// The next message and its length.
    async fn next_message(&mut self) -> anyhow::Result<(Message, usize)> {
        loop {
            let rest = &self.arrived[self.taken_bytes..];
            let frame = rest.split_first_chunk().and_then(|(prefix, rest)| {
                let len_bytes = usize::from(u16::from_le_bytes(*prefix));
                rest.get(..len_bytes)
            });
            let Some(frame) = frame else {
                self.fill().await?;
                continue;
            };
            self.taken_bytes += 2 + frame.len();
            if let Some(bytes) = self.opener.open_frame(frame)? {
                return Ok((version::decode(self.version, bytes)?, bytes.len()));
            }
        }
    }

    /// Waits for more bytes. There is room for a whole frame more than what is there: a read that does not fill it tells that
    /// nothing is left, and the socket is not asked in vain.
    async fn fill(&mut self) -> io::Result<()> {
        self.arrived.drain(..std::mem::take(&mut self.taken_bytes));
        self.arrived.reserve(FRAME_ROOM_BYTES);
        match self.stream.read_buf(&mut self.arrived).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Tells the peer that this way carries. Never waited for: who lets so many answers pile up that the kernel takes no
    /// more does not read them.
    fn answer(&mut self) -> anyhow::Result<()> {
        self.beats += 1;
        let answer = self.opener.answer(HeartbeatAnswer {
            count: self.beats,
            date_ms: clock::date_ms(),
        })?;
        match self.stream.try_write(&answer) {
            Ok(len) if len == answer.len() => Ok(()),
            Ok(_) => Err(anyhow::anyhow!("answers to heartbeats are not read")),
            Err(error) => Err(error.into()),
        }
    }
}

/// A length and that many bytes. The length is checked before anything is allocated.
pub(super) async fn read_frame<R: AsyncReadExt + Unpin>(
    reader: &mut R,
    bytes_max: usize,
) -> io::Result<Vec<u8>> {
    let len_bytes = usize::from(reader.read_u16_le().await?);
    if len_bytes > bytes_max {
        let text = format!("a frame of {len_bytes} bytes where at most {bytes_max} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut frame = vec![0; len_bytes];
    reader.read_exact(&mut frame).await?;
    Ok(frame)
}
