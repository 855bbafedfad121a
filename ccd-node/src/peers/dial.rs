//! This node's connections to one address of one peer: made, kept, made again, and replaced at every reconfiguration; and made
//! with smaller packets where those of full size are lost.

use super::handshake::{
    self, CLEAR_BYTES, Channel, Dialing, HANDSHAKE_FRAME_BYTES_MAX, HandshakeError, REFUSAL_BYTES,
};
use super::hello::Mismatch;
use super::link::{Link, LinkId, Peer};
use super::listen::read_frame;
use super::measure::Review;
use super::packets::{Packets, Sizes};
use super::ports::PortTurn;
use super::sealed::{ANSWER_BYTES, Sealer};
use super::segments::{TcpInfo, header_bytes};
use super::version::Version;
use super::{BACKLOG_BYTES_MAX, Calling, Disowned, PacketsFound};
use crate::outbox::Outbox;
use crate::quiet::Quiet;
use ccd_client::files::{Authkey, AuthkeyId};
use ccd_core::ids::{Epoch, NodeId};
use nix::sys::socket::sockopt::{TcpMaxSeg, TcpUserTimeout};
use nix::sys::socket::{Shutdown, setsockopt, shutdown};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

/// How long a connection that was replaced may take to hand over what it still has.
const RETIREMENT: Duration = Duration::from_secs(1);
/// How often to look whether a packet of full size was acknowledged: at once in a local network, then less often.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LONGEST: Duration = Duration::from_millis(10);
/// No network has larger packets; loopback devices do, and prove nothing.
const PAD_BYTES_MAX: usize = 10 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the connection ended during the handshake: {0}")]
    Cut(io::Error),
    #[error("refused: {0}")]
    Refused(#[from] HandshakeError),
    /// The handshake was finished.
    #[error("a packet of {packet_bytes} bytes was lost, though small ones pass")]
    Narrow { packet_bytes: u32 },
}

impl DialError {
    /// The other node is there, and one of the two does not take the other: only a change of files or programs helps.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(error) if !matches!(error, HandshakeError::Noise(_)))
    }
}

/// Runs for as long as the daemon does.
pub(super) async fn keep_connected(calling: Rc<Calling>, peer: Rc<Peer>, index: usize, mut ports: PortTurn) {
    let network = &peer.networks[index];
    let node = peer.node;
    let pace = calling.pace;
    let mut quiet = Quiet::default();
    let mut haste = Haste::default();
    let mut sizes = Sizes::new(pace.pause);
    let mut review = Review::default();
    loop {
        let epoch = calling.epoch.get();
        let is_valid = |key| calling.identity.keys.borrow().find(key).is_some();
        let stalled = network.stalled(Instant::now(), peer.patience);
        if stalled.is_none() && network.is_served(epoch, is_valid) {
            sizes.on_served();
            if network.staged.borrow().is_some() {
                // Its turn comes when the preferred network has its own, but it does not wait for ever.
                let turn = timeout(pace.heartbeat * 3, network.changed.notified());
                if turn.await.is_err() {
                    peer.switch();
                }
            } else {
                let looked = review.look(&calling, node, index as u8, network);
                tokio::select! {
                    () = network.changed.notified() => {}
                    packets = looked => learn(&calling, &peer, index, packets),
                }
            }
            haste.is_cut = false;
            continue;
        }
        network.rekey.set(false);
        let has_other = network.current.borrow().is_some();
        if haste.try_now() {
            ports.came();
        }
        let address = ports.turn();
        let begun = Instant::now();
        let arrivals = calling.arrivals.of(node);
        let mut arrival = std::pin::pin!(arrivals.notified());
        // It may come while it is dialled in vain.
        arrival.as_mut().enable();
        let attempt = Attempt {
            node,
            network: index as u8,
            address,
            epoch,
            packet_bytes_max: sizes.next(network.packets.get(), stalled.map(|(_, bytes)| bytes)),
        };
        match connect(&calling, attempt).await {
            Ok(_) if stalled.is_some_and(|(id, _)| !network.is_stalled(id, peer.patience)) => {
                // It goes on: something was lost by accident, or the peer was busy.
                sizes.on_served();
            }
            Ok(proven) => {
                ports.worked(address);
                quiet.reset();
                network.trouble.borrow_mut().clear();
                network.refused.set(false);
                let lost_bytes = sizes.take_lost().or(stalled.map(|(_, bytes)| bytes));
                learn(
                    &calling,
                    &peer,
                    index,
                    network.packets.get().proven(proven.packet_bytes, lost_bytes),
                );
                let version = proven.version;
                tracing::info!(%node, %address, %epoch, version = version.0, authkey = %proven.key, "connected");
                let link = open(&calling, &peer, index, attempt, proven);
                peer.stage(index, link);
                calling.reachable.borrow_mut().insert(node);
                calling.bell.notify_one();
                // Something that ends as soon as it begins is not begun without end.
                let pause = pace.pause.saturating_sub(begun.elapsed());
                haste.pause(pause, pace.pause, arrival).await;
            }
            Err(DialError::Narrow { packet_bytes }) => {
                // The port is the right one.
                ports.worked(address);
                let (packets, pause) = sizes.on_lost(packet_bytes);
                if let Some(packets) = packets {
                    learn(&calling, &peer, index, packets);
                }
                haste.pause(pause, pace.pause, arrival).await;
            }
            Err(error) => {
                ports.failed(address, &error);
                sizes.on_cut();
                note_disowned(&calling, node, &error);
                note_progress(&calling, node, &error);
                let text = format!("{address}: {error}");
                if ports.is_best(address) {
                    complain(&mut quiet, node, &error, &text);
                    network.trouble.replace(text);
                    network.refused.set(error.is_refusal());
                } else {
                    tracing::debug!(%node, "another port of the range: {text}");
                }
                // What still works is not worth haste.
                let pause = if has_other { pace.patience } else { pace.pause };
                haste.pause(pause, pace.pause, arrival).await;
            }
        }
    }
}

/// Notes what is known of the packets to an address, and tells the event loop if it is news.
fn learn(calling: &Calling, peer: &Peer, index: usize, packets: Packets) {
    let network = &peer.networks[index];
    let before = network.packets.replace(packets);
    if before == packets {
        return;
    }
    let (node, address) = (peer.node, network.address);
    tracing::debug!(%node, %address, ?packets, "size of packets");
    if before.short_text() != packets.short_text() && (before.is_trouble() || packets.is_trouble()) {
        calling.found.borrow_mut().push_back(PacketsFound {
            node,
            address,
            packets,
        });
        calling.bell.notify_one();
    }
}

/// The event loop hears of a peer by whose configuration another server has this node's number.
fn note_disowned(calling: &Calling, by: NodeId, error: &DialError) {
    let me = calling.identity.me;
    if let DialError::Refused(HandshakeError::Mismatch(
        Mismatch::OtherServer {
            node,
            listener: server,
            epoch,
            ..
        },
        _,
    )) = *error
        && node == me
    {
        let mut disowned = calling.disowned.borrow_mut();
        // Each is told once, and again with the next attempt.
        disowned.retain(|told| told.by != by);
        disowned.push_back(Disowned { by, epoch, server });
        calling.bell.notify_one();
    }
}

/// The event loop hears how far the cluster has come by a peer that does not talk to this node.
fn note_progress(calling: &Calling, by: NodeId, error: &DialError) {
    if let DialError::Refused(HandshakeError::Mismatch(mismatch, theirs)) = error
        && mismatch.is_of_the_cluster(calling.identity.me)
    {
        let mut refusals = calling.progress_of_others.borrow_mut();
        // Each is told once, and again with the next attempt.
        refusals.retain(|(other, _)| *other != by);
        refusals.push_back((by, *theirs));
        calling.bell.notify_one();
    }
}

/// A pause is cut short by the peer that comes, but not so often that two nodes whose connections end as soon as they begin would
/// call each other without end.
#[derive(Debug, Default)]
struct Haste {
    /// The last pause was cut short, and when the last attempt was made because one was.
    is_cut: bool,
    tried_at: Option<Instant>,
}

impl Haste {
    /// Waits for this span, or for the peer; between two attempts for that reason at least for `least`.
    async fn pause(&mut self, span: Duration, least: Duration, arrival: impl Future<Output = ()>) {
        tokio::select! {
            () = sleep(span) => self.is_cut = false,
            () = arrival => {
                let since = self.tried_at.map_or(least, |tried_at| tried_at.elapsed());
                sleep(least.saturating_sub(since)).await;
                self.is_cut = true;
            }
        }
    }

    /// An attempt is made now. Returns whether because the peer has come.
    fn try_now(&mut self) -> bool {
        let is_cut = std::mem::take(&mut self.is_cut);
        if is_cut {
            self.tried_at = Some(Instant::now());
        }
        is_cut
    }
}

fn complain(quiet: &mut Quiet, node: NodeId, error: &DialError, text: &str) {
    if let Some(swallowed) = quiet.admit(Instant::now(), text) {
        match error {
            DialError::Refused(_) => tracing::error!(%node, swallowed, "not connected: {text}"),
            _ => tracing::info!(%node, swallowed, "not connected: {text}"),
        }
    }
}

/// Starts the task that holds the connection.
fn open(calling: &Calling, peer: &Rc<Peer>, index: usize, attempt: Attempt, proven: Proven) -> Link {
    let stream = Rc::new(proven.stream);
    let outbox = Rc::new(Outbox::new(stream.clone(), BACKLOG_BYTES_MAX));
    let id = LinkId(calling.links.replace(calling.links.get() + 1));
    let retired = Rc::new(Notify::new());
    spawn_local(hold(
        peer.clone(),
        index,
        id,
        stream,
        outbox.clone(),
        retired.clone(),
    ));
    Link {
        id,
        sealer: proven.sealer,
        outbox,
        version: proven.version,
        epoch: attempt.epoch,
        key: proven.key,
        address: attempt.address,
        limit_bytes: peer.networks[index].packets.get().limit_bytes(),
        packet_bytes: proven.packet_bytes,
        segment_bytes: proven.segment_bytes,
        beats: Default::default(),
        retired,
    }
}

/// Serves as a way to the peer until it ends or is replaced.
async fn hold(
    peer: Rc<Peer>,
    index: usize,
    id: LinkId,
    stream: Rc<TcpStream>,
    outbox: Rc<Outbox<TcpStream>>,
    retired: Rc<Notify>,
) {
    let is_retired = tokio::select! {
        () = outbox.drain() => false,
        () = answers(&peer, index, id, &stream) => false,
        () = retired.notified() => true,
    };
    if is_retired {
        let finish = async {
            outbox.drained().await;
            // Data that is not read when a socket closes would make the kernel throw away what it still has to send.
            if shutdown(stream.as_raw_fd(), Shutdown::Write).is_ok() {
                answers(&peer, index, id, &stream).await;
            }
        };
        if timeout(RETIREMENT, finish).await.is_err() {
            tracing::debug!(node = %peer.node, "what was left on a replaced connection is lost");
        }
    } else {
        tracing::info!(node = %peer.node, address = %peer.networks[index].address, "connection lost");
        peer.on_ended(index, id);
    }
}

/// Takes the answers to heartbeats until the connection ends. Nothing else comes.
async fn answers(peer: &Peer, index: usize, id: LinkId, stream: &TcpStream) {
    let mut partial: Vec<u8> = Vec::with_capacity(ANSWER_BYTES * 8);
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let mut bytes = [0; ANSWER_BYTES * 8];
        match stream.try_read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Ok(0) | Err(_) => return,
            Ok(len) => partial.extend_from_slice(&bytes[..len]),
        }
        let mut rest = partial.as_slice();
        while let Some((answer, after)) = rest.split_first_chunk::<ANSWER_BYTES>() {
            rest = after;
            let genuine = peer.networks[index].with_link(id, |link| {
                let answer = link.sealer.read_answer(answer)?;
                let sent = link.beats.on_answer(answer.count);
                Ok::<_, super::sealed::SealedError>(sent.map(|sent| (sent, answer.date_ms)))
            });
            match genuine {
                Some(Ok(Some((sent, date_ms)))) => peer.clock.on_answer(sent.elapsed(), date_ms),
                // A link that is retired has no use for answers.
                Some(Ok(None)) | None => {}
                Some(Err(_)) => return,
            }
        }
        let done = partial.len() - rest.len();
        partial.drain(..done);
    }
}

/// Where to connect to, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub node: NodeId,
    /// Which of the peer's addresses it is, or [`probe_of`](super::measure::probe_of) that.
    pub network: u8,
    pub address: SocketAddr,
    pub epoch: Epoch,
    /// With headers; `None`: as large as the interface allows.
    pub packet_bytes_max: Option<u32>,
}

/// A connection that is proven, and that has carried a packet of full size.
#[derive(Debug)]
pub(super) struct Proven {
    stream: TcpStream,
    sealer: Sealer,
    version: Version,
    key: AuthkeyId,
    /// The size that it has carried, with headers; and without.
    pub packet_bytes: u32,
    segment_bytes: usize,
}

/// With each key in turn, the first one first, until one is accepted.
pub(super) async fn connect(calling: &Calling, attempt: Attempt) -> Result<Proven, DialError> {
    let keys: Vec<Authkey> = calling.identity.keys.borrow().iter().cloned().collect();
    let mut outcome = Err(HandshakeError::Malformed.into());
    for key in &keys {
        let next = connect_with(calling, key, attempt).await;
        match (&outcome, next) {
            // What was said of the first key is what helps.
            (
                Err(DialError::Refused(HandshakeError::KeyRefused { .. })),
                Err(DialError::Refused(HandshakeError::KeyRefused { .. })),
            ) => {}
            (_, next) => outcome = next,
        }
        if !matches!(
            outcome,
            Err(DialError::Refused(HandshakeError::KeyRefused { .. }))
        ) {
            break;
        }
    }
    outcome
}

async fn connect_with(calling: &Calling, key: &Authkey, attempt: Attempt) -> Result<Proven, DialError> {
    let pace = calling.pace;
    let socket = socket(attempt).map_err(DialError::Connect)?;
    let mut stream = timeout(pace.patience, socket.connect(attempt.address))
        .await
        .map_err(|_| DialError::Silent(pace.patience))?
        .map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    let unacknowledged_ms = pace.unacknowledged.as_millis() as u32;
    setsockopt(&stream, TcpUserTimeout, &unacknowledged_ms)
        .map_err(|errno| DialError::Connect(errno.into()))?;
    let dialing = Dialing::begin(
        &calling.identity,
        key,
        attempt.node,
        attempt.network,
        attempt.epoch,
    )?;
    let channel = timeout(pace.handshake, shake_hands(dialing, &mut stream))
        .await
        .map_err(|_| DialError::Silent(pace.handshake))??;
    prove(stream, channel, attempt, pace.full).await
}

/// A socket whose packets have at most the wanted size; the peer hears of it and keeps to it as well.
fn socket(attempt: Attempt) -> io::Result<TcpSocket> {
    let socket = if attempt.address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(packet_bytes) = attempt.packet_bytes_max {
        let segment_bytes = packet_bytes.saturating_sub(header_bytes(&attempt.address));
        setsockopt(&socket, TcpMaxSeg, &segment_bytes)?;
    }
    Ok(socket)
}

/// Proves that the handshake was no recording, and that packets of full size pass: the peer's kernel must acknowledge one
/// within `patience`. The handshake has just shown that small ones do.
async fn prove(
    mut stream: TcpStream,
    channel: Channel,
    attempt: Attempt,
    patience: Duration,
) -> Result<Proven, DialError> {
    let info = TcpInfo::of(&stream).map_err(DialError::Connect)?;
    let segment_bytes = (info.segment_bytes() as usize).min(PAD_BYTES_MAX);
    let packet_bytes = info.packet_bytes(&attempt.address);
    let mut sealer = Sealer::new(channel.transport);
    let mut proof = Vec::new();
    // The second of two segments is acknowledged without a delay.
    (sealer.prove(&mut proof))
        .and_then(|()| sealer.pad(2 * segment_bytes, &mut proof))
        .map_err(|error| DialError::Cut(io::Error::other(error)))?;
    stream.write_all(&proof).await.map_err(DialError::Cut)?;
    let begun = Instant::now();
    let mut pause = LOOK_FIRST;
    loop {
        sleep(pause).await;
        let info = TcpInfo::of(&stream).map_err(DialError::Cut)?;
        if info.is_acknowledged() {
            return Ok(Proven {
                stream,
                sealer,
                version: channel.version,
                key: channel.key,
                packet_bytes,
                segment_bytes,
            });
        }
        if begun.elapsed() >= patience {
            return Err(DialError::Narrow { packet_bytes });
        }
        pause = (pause * 2).min(LOOK_LONGEST);
    }
}

async fn shake_hands(
    (dialing, first): (Dialing, Vec<u8>),
    stream: &mut TcpStream,
) -> Result<Channel, DialError> {
    stream.write_all(&first).await.map_err(DialError::Cut)?;
    match stream.read_u8().await.map_err(DialError::Cut)? {
        handshake::TAG_NOISE => {
            let frame = read_frame(stream, HANDSHAKE_FRAME_BYTES_MAX)
                .await
                .map_err(DialError::Cut)?;
            Ok(dialing.finish(&frame)?)
        }
        handshake::TAG_REFUSED => {
            let mut refusal = [0; REFUSAL_BYTES];
            stream.read_exact(&mut refusal).await.map_err(DialError::Cut)?;
            Err(dialing.refused(refusal).into())
        }
        // What comes back is what was sent.
        first_byte if first_byte == first[0] => {
            let mut rest = [0; CLEAR_BYTES - 1];
            stream.read_exact(&mut rest).await.map_err(DialError::Cut)?;
            if rest == first[1..CLEAR_BYTES] {
                Err(HandshakeError::Reflected.into())
            } else {
                Err(HandshakeError::Preamble.into())
            }
        }
        _ => Err(HandshakeError::Preamble.into()),
    }
}
