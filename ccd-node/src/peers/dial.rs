//! This node's connection to one peer: made, kept, and made again.

use super::handshake::{self, Dialing, HANDSHAKE_FRAME_BYTES_MAX, HandshakeError};
use super::hello::Identity;
use super::listen::read_frame;
use super::sealed::Sealer;
use super::{BACKLOG_BYTES_MAX, Link, Pace, Peer};
use crate::outbox::Outbox;
use crate::quiet::Quiet;
use ccd_core::ids::NodeId;
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within {0:?}")]
    Silent(std::time::Duration),
    #[error("the connection ended during the handshake: {0}")]
    Cut(io::Error),
    #[error(transparent)]
    Refused(#[from] HandshakeError),
}

/// Runs for as long as the daemon does.
pub(super) async fn keep_connected(
    identity: Rc<Identity>,
    peer: Rc<Peer>,
    addresses: Vec<SocketAddr>,
    pace: Pace,
) {
    let node = peer.node;
    let mut quiet = Quiet::default();
    for address in addresses.iter().cycle() {
        match connect(&identity, node, *address, pace).await {
            Ok((stream, sealer)) => {
                tracing::info!(%node, %address, "connected");
                quiet.reset();
                hold(&peer, stream, sealer).await;
                tracing::info!(%node, %address, "connection lost");
            }
            Err(error) => {
                let text = format!("{address}: {error}");
                if let Some(swallowed) = quiet.admit(Instant::now(), &text) {
                    match error {
                        DialError::Refused(error) => {
                            tracing::error!(%node, %address, swallowed, "refused: {error}");
                        }
                        error => tracing::info!(%node, %address, swallowed, "not connected: {error}"),
                    }
                }
            }
        }
        sleep(pace.pause).await;
    }
}

/// Serves as the way to the peer until it ends.
async fn hold(peer: &Peer, stream: TcpStream, mut sealer: Sealer) {
    let stream = Rc::new(stream);
    let outbox = Rc::new(Outbox::new(stream.clone(), BACKLOG_BYTES_MAX));
    if outbox.append(|out| sealer.prove(out)).is_err() {
        return;
    }
    outbox.flush();
    *peer.link.borrow_mut() = Some(Link {
        sealer,
        outbox: outbox.clone(),
    });
    tokio::select! {
        () = outbox.drain() => {}
        () = ended(&stream) => {}
    }
    *peer.link.borrow_mut() = None;
}

/// The listener never sends after the handshake: whatever can be read is the end.
async fn ended(stream: &TcpStream) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut [0; 1]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

async fn connect(
    identity: &Identity,
    to: NodeId,
    address: SocketAddr,
    pace: Pace,
) -> Result<(TcpStream, Sealer), DialError> {
    let silent = |_| DialError::Silent(pace.patience);
    let mut stream = timeout(pace.patience, TcpStream::connect(address))
        .await
        .map_err(silent)?
        .map_err(DialError::Connect)?;
    stream.set_nodelay(true).map_err(DialError::Connect)?;
    let unacknowledged_ms = pace.unacknowledged.as_millis() as u32;
    setsockopt(&stream, TcpUserTimeout, &unacknowledged_ms)
        .map_err(|errno| DialError::Connect(errno.into()))?;
    let sealer = timeout(pace.patience, shake_hands(identity, to, &mut stream))
        .await
        .map_err(silent)??;
    Ok((stream, sealer))
}

async fn shake_hands(identity: &Identity, to: NodeId, stream: &mut TcpStream) -> Result<Sealer, DialError> {
    let (dialing, first) = Dialing::begin(identity, to)?;
    stream.write_all(&first).await.map_err(DialError::Cut)?;
    match stream.read_u8().await.map_err(DialError::Cut)? {
        handshake::TAG_NOISE => {
            let frame = read_frame(stream, HANDSHAKE_FRAME_BYTES_MAX)
                .await
                .map_err(DialError::Cut)?;
            Ok(Sealer::new(dialing.finish(&frame)?))
        }
        handshake::TAG_REFUSED => {
            let code = stream.read_u8().await.map_err(DialError::Cut)?;
            Err(handshake::refused(code).into())
        }
        _ => Err(HandshakeError::Preamble.into()),
    }
}
