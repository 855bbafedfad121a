//! How far long work is: a line on a terminal, written anew, when it takes longer than a second; lines with `--verbose` elsewhere.
//!
//! Always holds: it is on standard error, there is none with `--quiet`, and on a terminal it is gone when the work ends.

use super::Global;
use crate::device::Blocks;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Work that is done sooner shows nothing, unless `--verbose` asks for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line on a terminal is written anew.
const STEP: Duration = Duration::from_millis(200);
/// How often another line is written elsewhere.
const LINE_STEP: Duration = Duration::from_secs(2);
/// What is read at once, so that there is something to tell in between.
const READ_BYTES: usize = 8 << 20;

const MIB: f64 = (1 << 20) as f64;

/// A line stands on the terminal.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// Whatever else is written to the terminal stands on a line of its own.
pub fn clear_line() {
    if IS_SHOWN.swap(false, Ordering::Relaxed) {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

/// Tells how far one piece of work is.
#[derive(Debug)]
pub struct Progress {
    what: String,
    how: How,
    begun: Instant,
    told: Option<Instant>,
    last: (u64, Option<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Silent,
    Line,
    Lines,
}

impl Progress {
    /// `what` is being done, as `reading /dev/sdb`.
    pub fn of(global: &Global, what: String) -> Self {
        let how = match io::stderr().is_terminal() {
            _ if global.quiet => How::Silent,
            true => How::Line,
            false if global.verbose => How::Lines,
            false => How::Silent,
        };
        Self {
            what: what.chars().filter(|c| !c.is_control()).collect(),
            how,
            begun: Instant::now(),
            told: None,
            last: (0, None),
        }
    }

    /// So many bytes are done, of so many if that is known.
    pub fn tell(&mut self, done_bytes: u64, total_bytes: Option<u64>) {
        self.last = (done_bytes, total_bytes);
        let now = Instant::now();
        let wait = match (self.how, self.told) {
            (How::Silent, _) => return,
            (How::Line, None) => PATIENCE.saturating_sub(now - self.begun),
            (How::Line, Some(told)) => STEP.saturating_sub(now - told),
            (How::Lines, told) => LINE_STEP.saturating_sub(now - told.unwrap_or(self.begun)),
        };
        if wait.is_zero() {
            self.told = Some(now);
            self.show();
        }
    }

    fn show(&self) {
        let text = line(&self.what, self.last, self.begun.elapsed());
        // There is nobody to tell if standard error is gone.
        let _ = match self.how {
            How::Silent => Ok(()),
            How::Line => {
                IS_SHOWN.store(true, Ordering::Relaxed);
                write!(io::stderr(), "\r\x1b[K{text}")
            }
            How::Lines => writeln!(io::stderr(), "ccd-disk: {text}"),
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match self.how {
            How::Line => clear_line(),
            // Where lines are asked for there is one at least.
            How::Lines if self.last.0 > 0 => self.show(),
            _ => {}
        }
    }
}

/// `copying: 40 %, 12.8 of 32.0 MiB, 64.0 MiB/s`.
fn line(what: &str, (done_bytes, total_bytes): (u64, Option<u64>), elapsed: Duration) -> String {
    let done = done_bytes as f64 / MIB;
    let amount = match total_bytes {
        Some(total_bytes) => format!(
            "{} %, {done:.1} of {:.1} MiB",
            done_bytes.min(total_bytes) * 100 / total_bytes.max(1),
            total_bytes as f64 / MIB
        ),
        None => format!("{done:.1} MiB"),
    };
    let rate = done / elapsed.as_secs_f64().max(0.001);
    format!("{what}: {amount}, {rate:.1} MiB/s")
}

/// A device of which it is told how much has been read.
#[derive(Debug)]
pub struct Watched<B> {
    device: B,
    progress: Progress,
    done_bytes: u64,
}

impl<B: Blocks> Watched<B> {
    pub fn new(global: &Global, device: B) -> Self {
        let progress = Progress::of(global, format!("reading {}", device.name()));
        Self {
            device,
            progress,
            done_bytes: 0,
        }
    }
}

impl<B: Blocks> Blocks for Watched<B> {
    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for piece in into.chunks_mut(READ_BYTES) {
            self.device.read_at(at, piece)?;
            at += piece.len() as u64;
            self.done_bytes += piece.len() as u64;
            self.progress.tell(self.done_bytes, None);
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device.write_at(offset, data)
    }

    fn write_unflushed_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device.write_unflushed_at(offset, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.device.flush()
    }

    fn reserve_zeros_at(&mut self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.device.reserve_zeros_at(offset, len_bytes)
    }

    fn name(&self) -> String {
        self.device.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much_and_how_fast() {
        let second = Duration::from_secs(2);
        let half = (16 << 20, Some(32 << 20));
        assert_eq!(
            line("copying", half, second),
            "copying: 50 %, 16.0 of 32.0 MiB, 8.0 MiB/s"
        );
        assert_eq!(
            line("reading x", (1 << 20, None), second),
            "reading x: 1.0 MiB, 0.5 MiB/s"
        );
        assert_eq!(
            line("copying", (0, Some(0)), Duration::ZERO),
            "copying: 0 %, 0.0 of 0.0 MiB, 0.0 MiB/s"
        );
    }
}
