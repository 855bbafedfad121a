//! The peers' connections to this node: accepted, proven, read.

use super::FromPeer;
use super::handshake::{self, HANDSHAKE_FRAME_BYTES_MAX, PREAMBLE, REFUSED_PREAMBLE, TAG_REFUSED};
use super::hello::Identity;
use super::sealed::Opener;
use crate::quiet::Quiet;
use ccd_core::ids::NodeId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

/// So many strangers may be in their handshake; who comes when it is full is hung up on.
const UNPROVEN_MAX: usize = 64;
/// How long a stranger may take to prove itself.
const UNPROVEN_PATIENCE: Duration = Duration::from_secs(2);
/// Connections that the kernel keeps until they are accepted.
const LISTEN_BACKLOG: u32 = 64;

struct Shared {
    identity: Rc<Identity>,
    to_core: mpsc::Sender<FromPeer>,
    unproven: Rc<Semaphore>,
    /// The connection of each peer that counts: the last one proven.
    current: RefCell<BTreeMap<NodeId, AbortHandle>>,
    quiet: RefCell<Quiet>,
}

/// Takes one of this node's addresses.
///
/// # Errors
/// When it is in use or not of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
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

/// Starts to serve peers on these sockets. `to_core` is bounded: when it is full the peers' connections are not
/// read, and TCP holds them back.
pub fn listen(listeners: Vec<TcpListener>, identity: Rc<Identity>, to_core: mpsc::Sender<FromPeer>) {
    let shared = Rc::new(Shared {
        identity,
        to_core,
        unproven: Rc::new(Semaphore::new(UNPROVEN_MAX)),
        current: RefCell::default(),
        quiet: RefCell::default(),
    });
    for listener in listeners {
        spawn_local(accept(listener, shared.clone()));
    }
}

async fn accept(listener: TcpListener, shared: Rc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // One permit less is one stranger more in the handshake.
                if shared.unproven.available_permits() == 0 {
                    shared.complain(address, "too many connections that prove nothing");
                    continue;
                }
                let shared = shared.clone();
                let (hand_over, handle) = tokio::sync::oneshot::channel();
                let task = spawn_local(serve(stream, address, shared, handle));
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
    shared: Rc<Shared>,
    handle: tokio::sync::oneshot::Receiver<AbortHandle>,
) {
    let (Ok(permit), Ok(handle)) = (shared.unproven.try_acquire(), handle.await) else {
        return;
    };
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    match timeout(UNPROVEN_PATIENCE, prove(&mut reader, &shared.identity)).await {
        Err(_) => shared.complain(address, "the handshake was not finished in time"),
        Ok(Err(error)) => shared.complain(address, &error.to_string()),
        Ok(Ok((from, mut opener))) => {
            drop(permit);
            shared.quiet.borrow_mut().reset();
            tracing::info!(node = %from, %address, "peer connected");
            if let Some(older) = shared.current.borrow_mut().insert(from, handle) {
                older.abort();
            }
            // Nothing is ever sent back here, so no answer could carry TCP's acknowledgements along: without this each
            // message would cost a segment of its own. The kernel still sends one in time.
            if let Err(error) = reader.get_ref().set_quickack(false) {
                tracing::debug!(%error, "acknowledgements stay immediate");
            }
            let error = read(&mut reader, from, &mut opener, &shared).await;
            tracing::info!(node = %from, %address, "peer's connection ended: {error}");
        }
    }
}

impl Shared {
    fn complain(&self, address: SocketAddr, text: &str) {
        if let Some(swallowed) = self.quiet.borrow_mut().admit(Instant::now(), text) {
            tracing::warn!(from = %address.ip(), swallowed, "connection refused: {text}");
        }
    }
}

/// The handshake, up to the frame that proves that it is no recording.
async fn prove(reader: &mut BufReader<TcpStream>, identity: &Identity) -> anyhow::Result<(NodeId, Opener)> {
    reader.get_ref().set_nodelay(true)?;
    let mut preamble = [0; PREAMBLE.len()];
    reader.read_exact(&mut preamble).await?;
    if preamble != PREAMBLE {
        reader
            .get_mut()
            .write_all(&[TAG_REFUSED, REFUSED_PREAMBLE])
            .await?;
        anyhow::bail!("it does not speak this version of the node protocol (first bytes {preamble:02x?})");
    }
    let frame = read_frame(reader, HANDSHAKE_FRAME_BYTES_MAX).await?;
    let answer = handshake::answer(identity, &frame);
    reader.get_mut().write_all(&answer.bytes).await?;
    let (from, transport) = answer.outcome?;
    let mut opener = Opener::new(transport);
    let proof = read_frame(reader, usize::from(u16::MAX)).await?;
    anyhow::ensure!(
        opener.open_frame(&proof)?.is_none(),
        "the first sealed frame is not empty"
    );
    Ok((from, opener))
}

/// Reads messages until the connection ends; says why it did.
async fn read(
    reader: &mut BufReader<TcpStream>,
    from: NodeId,
    opener: &mut Opener,
    shared: &Shared,
) -> anyhow::Error {
    loop {
        let frame = match read_frame(reader, usize::from(u16::MAX)).await {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        let bytes = match opener.open_frame(&frame) {
            Ok(None) => continue,
            Ok(Some(bytes)) => bytes,
            Err(error) => return error.into(),
        };
        let message = match postcard::take_from_bytes(&bytes) {
            Ok((message, [])) => message,
            Ok((_, rest)) => return anyhow::anyhow!("{} bytes too many in a message", rest.len()),
            Err(error) => return anyhow::anyhow!("a message does not decode: {error}"),
        };
        if !shared.identity.roster.borrow().nodes.contains(from) {
            return anyhow::anyhow!("node {from} is no node of the cluster any more");
        }
        if shared.to_core.send(FromPeer { from, message }).await.is_err() {
            return anyhow::anyhow!("this daemon is stopping");
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
