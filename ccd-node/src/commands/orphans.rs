//! What a command started and left behind: found and killed when the command has ended, also if it left the process group and
//! the session.
//!
//! The daemon is a *subreaper*: a process whose parent has ended becomes the daemon's child, and not init's. So whatever child it
//! has that it did not start itself is an orphan of a command. Called by `process.rs`. Always holds: only processes are signalled
//! that nobody has waited for yet, so a number is never another's by then.

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks, while what was killed is ending.
const PAUSE: Duration = Duration::from_millis(2);

/// The children that were started on purpose and have not been waited for.
static STARTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A child that is no orphan, until this is dropped: after it has been waited for.
#[derive(Debug)]
pub struct Started(i32);

impl Drop for Started {
    fn drop(&mut self) {
        (STARTED.lock().unwrap_or_else(PoisonError::into_inner)).remove(&self.0);
    }
}

/// Starts a child whose orphans will be found.
///
/// # Errors
/// When it cannot be started.
pub fn start(command: &mut Command) -> io::Result<(Child, Started)> {
    if let Err(error) = set_child_subreaper(true) {
        tracing::warn!(%error, "what commands leave behind cannot be found by this kernel");
    }
    // Nobody looks for orphans between its start and its entry.
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn()?;
    let pid = child.id().cast_signed();
    started.insert(pid);
    Ok((child, Started(pid)))
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub killed: usize,
    /// Did not end in time; the next look finds them again.
    pub left: usize,
}

/// Kills all orphans, and those that become orphans by that, until there are none or the time is over.
pub fn sweep(until: Instant) -> Swept {
    let mut killed = BTreeSet::new();
    loop {
        let found = orphans();
        if found.is_empty() {
            return Swept {
                killed: killed.len(),
                left: 0,
            };
        }
        for pid in &found {
            // Fails only for one that has ended.
            let _ = kill(*pid, Signal::SIGKILL);
            killed.insert(*pid);
        }
        let reaped = found.iter().filter(|pid| has_ended(**pid)).count();
        if Instant::now() >= until {
            return Swept {
                killed: killed.len(),
                left: found.len() - reaped,
            };
        }
        if reaped == 0 {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Takes it away if it has ended.
fn has_ended(pid: Pid) -> bool {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => status.pid().is_some(),
        Err(error) => error == Errno::ECHILD,
    }
}

fn orphans() -> Vec<Pid> {
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let own_group = getpgrp().as_raw();
    let mut found = children();
    // Commands are in groups of their own from the beginning: what is in ours was started by something else.
    found.retain(|pid| !started.contains(pid) && group_of(*pid).is_some_and(|group| group != own_group));
    found.into_iter().map(Pid::from_raw).collect()
}

/// Every child of this process, whichever of its threads has it.
fn children() -> Vec<i32> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        // A thread may have ended meanwhile; its children are then another's.
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(
            text.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    found
}

/// The process group, from the fifth column of `stat`; the second, a name in parentheses, may hold anything.
fn group_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(2)?.parse().ok()
}
