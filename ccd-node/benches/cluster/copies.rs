//! The floors of a join: so many bytes from one bare program over a socket to another, and there durable in a file.
//!
//! *Plain*: TCP, and nothing else. *Sealed*: through the cipher that nodes talk through, in frames of the same size: the socket
//! that a copy really takes.

use super::floors::Program;
use super::rig::GAMMA;
use anyhow::{Context, Result, bail};
use snow::{Builder, HandshakeState, TransportState};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

pub const RECEIVER: &str = "floor-receiver";

const PLAIN: &str = "plain";
const SEALED: &str = "sealed";

/// As the nodes' channel has it.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const KEY: [u8; 32] = [7; 32];
const FRAME_BYTES_MAX: usize = 65_535;
const TAG_BYTES: usize = 16;

/// The sending program.
pub struct Copy {
    receiver: TcpStream,
    channel: Option<TransportState>,
    bytes: Vec<u8>,
    _program: Program,
}

impl Copy {
    pub fn plain(folder: &Path, len_bytes: usize) -> Result<Self> {
        Self::start(folder, len_bytes, PLAIN)
    }

    pub fn sealed(folder: &Path, len_bytes: usize) -> Result<Self> {
        Self::start(folder, len_bytes, SEALED)
    }

    fn start(folder: &Path, len_bytes: usize, kind: &str) -> Result<Self> {
        let path = folder.join(format!("floor-copy-{kind}"));
        let (program, address) = Program::start(
            GAMMA,
            &[RECEIVER, kind, path.to_str().context("a readable path")?],
        )?;
        let mut receiver = TcpStream::connect(address)?;
        receiver.set_nodelay(true)?;
        receiver.write_all(&(len_bytes as u64).to_le_bytes())?;
        let channel = match kind {
            SEALED => Some(dial(&mut receiver)?),
            _ => None,
        };
        Ok(Self {
            receiver,
            channel,
            bytes: vec![7; len_bytes],
            _program: program,
        })
    }

    /// Until the receiver says that the bytes are durable.
    pub fn copy(&mut self) -> Result<()> {
        match &mut self.channel {
            None => self.receiver.write_all(&self.bytes)?,
            Some(channel) => {
                let mut frame = [0; 2 + FRAME_BYTES_MAX];
                for plain in self.bytes.chunks(FRAME_BYTES_MAX - TAG_BYTES) {
                    let sealed_bytes = channel.write_message(plain, &mut frame[2..])?;
                    frame[..2].copy_from_slice(&(sealed_bytes as u16).to_le_bytes());
                    self.receiver.write_all(&frame[..2 + sealed_bytes])?;
                }
            }
        }
        Ok(self.receiver.read_exact(&mut [0])?)
    }
}

/// The receiver's part: `KIND FILE`.
pub fn receive(args: &[String]) -> Result<()> {
    let [kind, path] = args else {
        bail!("KIND FILE");
    };
    let mut file = File::create(path)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?);
    let (mut sender, _) = listener.accept()?;
    let mut length = [0; 8];
    sender.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length))?];
    let mut channel = match kind.as_str() {
        SEALED => Some(answer(&mut sender)?),
        _ => None,
    };
    // The sender ends when it has had enough.
    while take(&mut sender, channel.as_mut(), &mut bytes).is_ok() {
        file.rewind()?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        sender.write_all(&[1])?;
    }
    Ok(())
}

fn take(sender: &mut TcpStream, channel: Option<&mut TransportState>, bytes: &mut [u8]) -> Result<()> {
    let Some(channel) = channel else {
        return Ok(sender.read_exact(bytes)?);
    };
    let mut frame = [0; FRAME_BYTES_MAX];
    for plain in bytes.chunks_mut(FRAME_BYTES_MAX - TAG_BYTES) {
        let mut prefix = [0; 2];
        sender.read_exact(&mut prefix)?;
        let frame = &mut frame[..usize::from(u16::from_le_bytes(prefix))];
        sender.read_exact(frame)?;
        channel.read_message(frame, plain)?;
    }
    Ok(())
}

fn handshake() -> Result<Builder<'static>> {
    Ok(Builder::new(PATTERN.parse()?).psk(0, &KEY)?)
}

fn dial(stream: &mut TcpStream) -> Result<TransportState> {
    let mut state = handshake()?.build_initiator()?;
    say(stream, &mut state)?;
    hear(stream, &mut state)?;
    Ok(state.into_transport_mode()?)
}

fn answer(stream: &mut TcpStream) -> Result<TransportState> {
    let mut state = handshake()?.build_responder()?;
    hear(stream, &mut state)?;
    say(stream, &mut state)?;
    Ok(state.into_transport_mode()?)
}

fn say(stream: &mut TcpStream, state: &mut HandshakeState) -> Result<()> {
    let mut frame = [0; 256];
    let len_bytes = state.write_message(&[], &mut frame)?;
    stream.write_all(&[len_bytes as u8])?;
    Ok(stream.write_all(&frame[..len_bytes])?)
}

fn hear(stream: &mut TcpStream, state: &mut HandshakeState) -> Result<()> {
    let (mut len_bytes, mut frame) = ([0], [0; 256]);
    stream.read_exact(&mut len_bytes)?;
    let frame = &mut frame[..usize::from(len_bytes[0])];
    stream.read_exact(frame)?;
    state.read_message(frame, &mut [])?;
    Ok(())
}
