//! The floor of ten thousand watchers: a bare program that sends so many bytes to each of as many sockets, one after the other.

use super::floors::Program;
use super::rig::ALPHA;
use anyhow::{Context, Result, bail};
use ccd_client::wire::PREAMBLE;
use nix::sys::socket::{MsgFlags, send};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

pub const TELLER: &str = "floor-teller";

/// The hold on the program.
pub struct Crowd {
    control: BufReader<UnixStream>,
    /// Ended with this.
    _program: Program,
}

impl Crowd {
    /// Whoever connects to the socket is told the first frame at once, and then the second again and again.
    pub fn start(folder: &Path, socket: &Path, count: usize, frames: &[Vec<u8>; 2]) -> Result<Self> {
        let paths = ["crowd-began", "crowd-round"].map(|name| folder.join(name));
        for (path, frame) in paths.iter().zip(frames) {
            fs::write(path, frame)?;
        }
        let [began, round] = paths.each_ref().map(|path| path.to_str());
        let control = folder.join("crowd-control.sock");
        let (program, _) = Program::start(
            ALPHA,
            &[
                TELLER,
                control.to_str().context("a readable path")?,
                socket.to_str().context("a readable path")?,
                &count.to_string(),
                began.context("a readable path")?,
                round.context("a readable path")?,
            ],
        )?;
        let control = BufReader::new(UnixStream::connect(control)?);
        Ok(Self {
            control,
            _program: program,
        })
    }

    /// Tells all; returns the processor time that it took.
    pub fn tell(&mut self) -> Result<Duration> {
        self.control.get_mut().write_all(&[1])?;
        let mut line = String::new();
        self.control.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse()?))
    }
}

/// The program's part: `CONTROL SOCKET COUNT FRAME FRAME`.
pub fn tell(args: &[String]) -> Result<()> {
    let [control, socket, count, began, round] = args else {
        bail!("CONTROL SOCKET COUNT FRAME FRAME");
    };
    super::watchers::raise_limit()?;
    let (began, round) = (fs::read(began)?, fs::read(round)?);
    let control = UnixListener::bind(control)?;
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    let (mut control, _) = control.accept()?;
    let mut crowd = Vec::new();
    for _ in 0..count.parse()? {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(&PREAMBLE)?;
        stream.write_all(&began)?;
        crowd.push(stream);
    }
    while control.read_exact(&mut [0]).is_ok() {
        let before = spent()?;
        for stream in &crowd {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            if send(stream.as_raw_fd(), &round, flags)? < round.len() {
                bail!("a watcher does not read");
            }
        }
        writeln!(control, "{}", (spent()? - before).as_nanos())?;
    }
    Ok(())
}

/// Processor time of this thread.
fn spent() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
