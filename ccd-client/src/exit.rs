//! The exit codes of all programs, in one place. Scripts depend on them.

use std::process::ExitCode;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// Answered "no": no row matched, a difference was found, the cluster is degraded.
    No = 1,
    /// The cluster does not serve.
    NotServing = 2,
    Usage = 64,
    BadData = 65,
    NoSuchFile = 66,
    /// The daemon cannot be reached.
    NoDaemon = 69,
    Internal = 70,
    CannotCreate = 73,
    Io = 74,
    NotPermitted = 77,
    /// Stale or diverged.
    Stale = 103,
    /// A checksum or hash does not match.
    Integrity = 104,
    /// No such key or row.
    NoSuchKey = 105,
    NoQuorum = 106,
    /// Refused for safety.
    Unsafe = 107,
    Exists = 108,
    Busy = 109,
    Fenced = 110,
    /// The outcome of an update is not known.
    Unknown = 111,
    TimedOut = 124,
}

impl Exit {
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
