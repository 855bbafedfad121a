//! One synchronization command as a process group: started with nothing of the daemon's, waited for no longer than its time,
//! and killed with all of its children.
//!
//! A thread looks at its standard error, its end and the word to stop at once; a second one waits for the end without
//! taking the process away: so its number, which is that of the group, stays its own until the group was killed.
//! Whatever is left of the group when the command ends is killed, too, and so is what has left the group (`orphans.rs`). It runs
//! with the priority of an ordinary process (`priority.rs`). Called by `mod.rs`.

use super::orphans::{self, Started};
use crate::priority::{ordinary_process, ordinary_thread};
use ccd_core::synchronization::STDERR_BYTES_MAX;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A command that writes more than this to its standard error is killed.
const FLOOD_BYTES: usize = 1 << 20;

/// How long the end of a process that was killed is waited for: one that hangs in the kernel is left to itself.
pub const KILL_PATIENCE: Duration = Duration::from_millis(200);

/// What commands find their programs by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is written to the pipe that the thread listens to.
const WORD_STOP: u8 = b's';
const WORD_ENDED: u8 = b'e';

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Agreed,
    Failed { how: String, stderr: String },
    TimedOut { stderr: String },
    Stopped,
}

/// Tells a command to stop.
#[derive(Debug)]
pub struct Stopper(PipeWriter);

/// Where it is told.
#[derive(Debug)]
pub struct Stopped {
    words: PipeReader,
    ended: PipeWriter,
}

/// The two ends of the word to stop.
pub fn stopping() -> io::Result<(Stopper, Stopped)> {
    let (words, writer) = io::pipe()?;
    let ended = writer.try_clone()?;
    Ok((Stopper(writer), Stopped { words, ended }))
}

impl Stopper {
    pub fn stop(&mut self) {
        // Nobody listens: it has ended.
        let _ = self.0.write_all(&[WORD_STOP]);
    }
}

/// Runs a program with these arguments, and this on its standard input, until it ends, is stopped, writes too much, or the time has come.
///
/// # Errors
/// When it cannot be started.
pub fn run(
    program: &Path,
    arguments: &[OsString],
    input: Option<File>,
    deadline: Instant,
    stopped: Stopped,
) -> io::Result<Ended> {
    let Stopped { mut words, mut ended } = stopped;
    ordinary_thread();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", "/")
        .current_dir("/")
        .process_group(0)
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let (mut child, started) = orphans::start(&mut command)?;
    ordinary_process(child.id());
    let group = Pid::from_raw(child.id().cast_signed());
    let waiter = std::thread::Builder::new()
        .name(String::from("sync-wait"))
        .spawn(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(group), flags) == Err(Errno::EINTR) {}
            let _ = ended.write_all(&[WORD_ENDED]);
        });
    let mut said = Said::default();
    let mut stderr = child.stderr.take();
    let why = match waiter {
        Ok(_) => {
            if let Some(stderr) = &stderr {
                set_nonblocking(stderr)?;
            }
            watch(&mut words, &mut stderr, &mut said, deadline)
        }
        Err(_) => Why::Unwatched,
    };
    // While the process has not been waited for, its number cannot be another's.
    let _ = killpg(group, Signal::SIGKILL);
    let status = reap(child, started, &mut words, why);
    let swept = orphans::sweep(Instant::now() + KILL_PATIENCE);
    if swept != orphans::Swept::default() {
        let (killed, left) = (swept.killed, swept.left);
        tracing::warn!(
            killed,
            left,
            "a synchronization command left processes behind outside of its group: {}",
            program.display()
        );
    }
    if let Some(stderr) = &mut stderr {
        said.drain(stderr);
    }
    let stderr = said.text();
    Ok(match why {
        Why::Ended => match status {
            Some(status) if status.success() => Ended::Agreed,
            Some(status) => Ended::Failed {
                how: how(status),
                stderr,
            },
            None => Ended::Failed {
                how: String::from("its end is not known"),
                stderr,
            },
        },
        Why::Stopped => Ended::Stopped,
        Why::Late => Ended::TimedOut { stderr },
        Why::Flood => Ended::Failed {
            how: format!("killed, for it wrote more than {FLOOD_BYTES} bytes to standard error"),
            stderr,
        },
        Why::Unwatched => Ended::Failed {
            how: String::from("killed, for no thread could be started to watch it"),
            stderr,
        },
    })
}

/// Why it is not waited for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Ended,
    Stopped,
    Late,
    Flood,
    Unwatched,
}

fn set_nonblocking(stderr: &ChildStderr) -> io::Result<()> {
    fcntl(stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn watch(
    words: &mut PipeReader,
    stderr: &mut Option<ChildStderr>,
    said: &mut Said,
    deadline: Instant,
) -> Why {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Why::Late;
        }
        // A millisecond more than is left: less would look again in vain.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let (word, text) = {
            let mut fds = vec![PollFd::new(words.as_fd(), PollFlags::POLLIN)];
            if let Some(stderr) = &*stderr {
                fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Why::Unwatched,
            }
            let ready = |fd: Option<&PollFd>| fd.and_then(PollFd::any).unwrap_or(false);
            (ready(fds.first()), ready(fds.get(1)))
        };
        if text
            && let Some(pipe) = stderr
            && !said.take(pipe)
        {
            *stderr = None;
        }
        if said.total > FLOOD_BYTES {
            return Why::Flood;
        }
        if word {
            let mut word = [0];
            return match words.read(&mut word) {
                Ok(1) if word == [WORD_STOP] => Why::Stopped,
                _ => Why::Ended,
            };
        }
    }
}

/// Takes the process away once it has ended. One that does not although it was killed is left to a thread of its own.
fn reap(mut child: Child, started: Started, words: &mut PipeReader, why: Why) -> Option<ExitStatus> {
    if why == Why::Ended {
        return child.wait().ok();
    }
    let until = Instant::now() + KILL_PATIENCE;
    let mut fds = [PollFd::new(words.as_fd(), PollFlags::POLLIN)];
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        // The word that it has ended; or, if that was read already, a moment.
        let _ = poll(&mut fds, PollTimeout::from(10_u8));
    }
    tracing::warn!(process = child.id(), "killed, and does not end");
    let waits = std::thread::Builder::new().spawn(move || {
        let _ended = child.wait();
        drop(started);
    });
    drop(waits);
    None
}

/// What a command wrote to its standard error.
#[derive(Debug, Default)]
struct Said {
    kept: Vec<u8>,
    total: usize,
}

impl Said {
    /// Reads once; `false` when there is nothing more to come.
    fn take(&mut self, from: &mut ChildStderr) -> bool {
        let mut buffer = [0; 16 << 10];
        match from.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.total += count;
                let room = STDERR_BYTES_MAX.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&buffer[..count.min(room)]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// What is still in the pipe.
    fn drain(&mut self, from: &mut ChildStderr) {
        let mut before = usize::MAX;
        while self.total < FLOOD_BYTES && before != self.total {
            before = self.total;
            if !self.take(from) {
                return;
            }
        }
    }

    /// For people, and for terminals: nothing in it but text.
    fn text(&self) -> String {
        let plain = |c: char| {
            if c.is_control() && c != '\n' && c != '\t' {
                '?'
            } else {
                c
            }
        };
        let mut text: String = String::from_utf8_lossy(&self.kept).chars().map(plain).collect();
        let more = self.total - self.kept.len();
        if more > 0 {
            text = format!("{}\n(and {more} bytes more)", text.trim_end());
        }
        text
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("ended by {signal}"),
            Err(_) => format!("ended by signal {signal}"),
        },
        _ => status.to_string(),
    }
}
