//! The least that the job can cost: bare programs with blocking calls.
//!
//! Paired: client → Unix socket → server → TCP → each peer; server and peers append 4 KiB durably at the same time; the
//! answers come back. Solo: 4 KiB durable on two files at once, then 4 KiB read back from both at once; one submission for both
//! where the kernel has io_uring, else two threads.

use super::placement;
use super::rig::{ALPHA, BETA};
use super::ring::Ring;
use super::samples::Samples;
use anyhow::{Context, Result};
use ccd_disk::device::Buffer;
use ccd_disk::{Access, BLOCK_BYTES, Blocks, RawDevice};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

pub const SERVER: &str = "floor-server";
pub const PEER: &str = "floor-peer";
pub const ECHO: &str = "floor-echo";

const REQUEST_BYTES: usize = 128;
const FILE_BYTES: u64 = 16 << 20;

/// A journal: zero-filled, appended to from its start again and again.
struct Journal {
    device: RawDevice,
    block: u64,
    data: Buffer,
}

impl Journal {
    fn create(path: &Path) -> Result<Self> {
        let mut device = RawDevice::create_file(path, FILE_BYTES)?;
        device.zero_at(0, FILE_BYTES)?;
        device.flush()?;
        Ok(Self {
            device,
            block: 0,
            data: Buffer::zeroed(1),
        })
    }

    fn append(&mut self) -> Result<()> {
        self.data.block_mut(0)[0] = self.block as u8;
        self.device
            .write_at(self.block * BLOCK_BYTES as u64, &self.data)?;
        self.block = (self.block + 1) % (FILE_BYTES / BLOCK_BYTES as u64);
        Ok(())
    }
}

/// A program that ends with the benchmark.
pub struct Program(Child);

impl Program {
    /// Starts this program in another role, where this node is, and waits for its first line.
    pub fn start(node: usize, args: &[&str]) -> Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()?;
        placement::place_child(&child, node)?;
        let out = child.stdout.take().context("the program's output")?;
        let program = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        Ok((program, line.trim().to_owned()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both only fail if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The floor of two or more nodes, ready to be asked again and again.
pub struct Paired {
    client: UnixStream,
    /// Ended with this.
    _programs: Vec<Program>,
}

impl Paired {
    pub fn start(folder: &Path, peers: usize) -> Result<Self> {
        let path = |name: &str| {
            folder
                .join(name)
                .to_str()
                .map(str::to_owned)
                .context("a readable path")
        };
        let (journal, socket) = (path("floor-server")?, path("floor.sock")?);
        let mut programs = Vec::new();
        let mut args = vec![SERVER.to_owned(), journal, socket.clone()];
        for peer in 0..peers {
            let (program, address) =
                Program::start(BETA + peer, &[PEER, &path(&format!("floor-peer-{peer}"))?])?;
            programs.push(program);
            args.push(address);
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        programs.push(Program::start(ALPHA, &args)?.0);
        let client = UnixStream::connect(&socket)?;
        Ok(Self {
            client,
            _programs: programs,
        })
    }

    pub fn measure(&mut self, rounds: u32, samples: &mut Samples) -> Result<()> {
        let mut buffer = [0; REQUEST_BYTES];
        for _ in 0..rounds {
            samples.time(|| -> Result<()> {
                self.client.write_all(&buffer)?;
                Ok(self.client.read_exact(&mut buffer)?)
            })?;
        }
        Ok(())
    }
}

/// The server's part: `JOURNAL SOCKET ADDRESS…`.
pub fn serve(args: &[String]) -> Result<()> {
    let [journal, socket, addresses @ ..] = args else {
        anyhow::bail!("JOURNAL SOCKET ADDRESS…");
    };
    let mut journal = Journal::create(Path::new(journal))?;
    let mut peers = Vec::new();
    for address in addresses {
        let peer = TcpStream::connect(address.as_str())?;
        peer.set_nodelay(true)?;
        peers.push(peer);
    }
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    let (mut client, _) = listener.accept()?;
    let mut buffer = [0; REQUEST_BYTES];
    while client.read_exact(&mut buffer).is_ok() {
        for peer in &mut peers {
            peer.write_all(&buffer)?;
        }
        journal.append()?;
        for peer in &mut peers {
            peer.read_exact(&mut buffer)?;
        }
        client.write_all(&buffer)?;
    }
    Ok(())
}

/// The peer's part: `JOURNAL`.
pub fn answer(args: &[String]) -> Result<()> {
    let [journal] = args else {
        anyhow::bail!("JOURNAL");
    };
    let mut journal = Journal::create(Path::new(journal))?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?);
    let (mut server, _) = listener.accept()?;
    server.set_nodelay(true)?;
    let mut buffer = [0; REQUEST_BYTES];
    while server.read_exact(&mut buffer).is_ok() {
        journal.append()?;
        server.write_all(&buffer)?;
    }
    Ok(())
}

/// The floor of a query: so many bytes over a Unix socket, and so many back.
pub struct Echo {
    stream: UnixStream,
    asked: Vec<u8>,
    told: Vec<u8>,
    /// Ended with this.
    _server: Program,
}

impl Echo {
    pub fn start(folder: &Path, asked_bytes: usize, told_bytes: usize) -> Result<Self> {
        let socket = folder.join("floor-echo.sock");
        let path = socket.to_str().context("a plain path")?.to_owned();
        let (server, _) = Program::start(
            ALPHA,
            &[ECHO, &path, &asked_bytes.to_string(), &told_bytes.to_string()],
        )?;
        Ok(Self {
            stream: UnixStream::connect(&socket)?,
            asked: vec![1; asked_bytes],
            told: vec![0; told_bytes],
            _server: server,
        })
    }

    pub fn measure(&mut self, rounds: u32, samples: &mut Samples) -> Result<()> {
        for _ in 0..rounds {
            samples.time(|| {
                self.stream.write_all(&self.asked)?;
                self.stream.read_exact(&mut self.told)
            })?;
        }
        Ok(())
    }
}

/// The answering part: `SOCKET BYTES BYTES`.
pub fn echo(args: &[String]) -> Result<()> {
    let [socket, asked, told] = args else {
        anyhow::bail!("SOCKET BYTES BYTES")
    };
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    let (mut stream, _) = listener.accept()?;
    let (mut asked, told) = (vec![0; asked.parse()?], vec![1; told.parse()?]);
    while stream.read_exact(&mut asked).is_ok() {
        stream.write_all(&told)?;
    }
    Ok(())
}

/// The floor of a solo owner, ready to be asked again and again.
pub enum Solo {
    /// Both devices in one submission.
    Together(Box<Ring>),
    /// The second device has a thread of its own; the first is driven from here.
    Threads {
        first: Box<Twin>,
        ask: Sender<()>,
        told: Receiver<Result<()>>,
    },
}

impl Solo {
    pub fn start(folder: &Path) -> Result<Self> {
        let paths = [folder.join("floor-3"), folder.join("floor-4")];
        let mut first = Twin::open(&paths[0])?;
        let mut second = Twin::open(&paths[1])?;
        match Ring::open(&paths, FILE_BYTES) {
            Ok(mut ring) => {
                ring.round()?;
                return Ok(Self::Together(Box::new(ring)));
            }
            Err(error) => {
                println!("the solo floor uses two threads, for this kernel refuses io_uring: {error}");
            }
        }
        first.append_and_read()?;
        let (ask, asked) = channel::<()>();
        let (tell, told) = channel::<Result<()>>();
        std::thread::spawn(move || {
            let mut writes = true;
            while asked.recv().is_ok() {
                let done = if writes {
                    second.journal.append()
                } else {
                    second.read()
                };
                writes = !writes;
                if tell.send(done).is_err() {
                    return;
                }
            }
        });
        let first = Box::new(first);
        Ok(Self::Threads { first, ask, told })
    }

    pub fn measure(&mut self, rounds: u32, samples: &mut Samples) -> Result<()> {
        for _ in 0..rounds {
            samples.time(|| self.round())?;
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        match self {
            Self::Together(ring) => Ok(ring.round()?),
            Self::Threads { first, ask, told } => {
                ask.send(())?;
                first.journal.append()?;
                told.recv()??;
                ask.send(())?;
                first.read()?;
                told.recv()?
            }
        }
    }
}

pub struct Twin {
    journal: Journal,
    reader: RawDevice,
}

impl Twin {
    fn open(path: &Path) -> Result<Self> {
        let journal = Journal::create(path)?;
        let reader = RawDevice::open(path, Access::ReadOnly)?;
        Ok(Self { journal, reader })
    }

    fn append_and_read(&mut self) -> Result<()> {
        self.journal.append()?;
        self.read()
    }

    fn read(&mut self) -> Result<()> {
        let mut block = Buffer::zeroed(1);
        Ok(self.reader.read_at(FILE_BYTES / 2, &mut block)?)
    }
}
