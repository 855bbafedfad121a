//! What can go wrong between a client and its daemon, and with the files that both read.
//!
//! Every variant has its entry in the catalogue (`messages.rs`), from which the exit code follows.

use crate::exit::Exit;
use crate::messages::{self as m, Message};
use crate::wire::{Fault, WireError};
use ccd_core::client::Refusal;
use ccd_core::database::{ErrorClass, ImageError, OpError, TextError};
use ccd_core::ids::RequestId;
use ccd_core::init::InitError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum CcdError {
    /// Nothing listens, or the socket may not be used.
    #[error("{}: {source}", socket.display())]
    NotReachable { socket: PathBuf, source: io::Error },
    /// The connection ended before the answer came.
    #[error("{}: the connection was lost: {source}", socket.display())]
    ConnectionLost { socket: PathBuf, source: io::Error },
    #[error("{}: {source}", socket.display())]
    Wire { socket: PathBuf, source: WireError },
    /// The daemon answered something that does not belong to the request.
    #[error("{}: the answer does not belong to the request", socket.display())]
    UnexpectedAnswer { socket: PathBuf },
    /// A question that the daemon did not answer in time. An update ends in `Unknown` instead.
    #[error("{}: no answer within {} ms", socket.display(), timeout.as_millis())]
    NoAnswer { socket: PathBuf, timeout: Duration },
    /// The update may or may not become part of the database.
    #[error("outcome unknown: {why} (request {request})")]
    Unknown { request: RequestId, why: String },
    /// The cluster's answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon's answer.
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{}: {source}", path.display())]
    Init { path: PathBuf, source: InitError },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Authkey { path: PathBuf, why: AuthkeyFlaw },
    #[error("{}: no node is called {name:?}; there are {known}", path.display())]
    NodeUnknown {
        path: PathBuf,
        name: String,
        known: String,
    },
    #[error("{}: it is not there, so nothing says which node this is; there are {known}", path.display())]
    NodeNotSaid { path: PathBuf, known: String },
    #[error("{}: it is larger than {} MiB", path.display(), bytes_max >> 20)]
    FileTooLarge { path: PathBuf, bytes_max: u64 },
    #[error("{}: it is not UTF-8 text", path.display())]
    NotUtf8 { path: PathBuf },
    /// A database file with a wrong row, or one that does not match its record.
    #[error("{}: {source}", path.display())]
    Text { path: PathBuf, source: Box<TextError> },
    #[error("{}: it has no consistency record at its end", path.display())]
    NoRecord { path: PathBuf },
}

/// What is wrong with an authkey file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthkeyFlaw {
    #[error("line {line} is not 32 bytes in base64")]
    Malformed { line: u32 },
    #[error("there is no key in it")]
    Empty,
    #[error("the key of line {line} is there twice")]
    Twice { line: u32 },
    #[error("there are {count} keys, and there may be 4")]
    TooMany { count: usize },
    #[error("others than its owner may read it (mode {mode:04o})")]
    Open { mode: u32 },
}

impl CcdError {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }

    /// Its entry in the catalogue.
    pub fn message(&self) -> &'static Message {
        match self {
            Self::NotReachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                &m::SOCKET_NOT_PERMITTED
            }
            Self::NotReachable { .. } => &m::DAEMON_NOT_REACHABLE,
            Self::ConnectionLost { .. } => &m::CONNECTION_LOST,
            Self::Wire {
                source: WireError::TooLong { .. },
                ..
            } => &m::REQUEST_TOO_LARGE,
            Self::Wire { .. } => &m::OTHER_PROTOCOL,
            Self::UnexpectedAnswer { .. } => &m::DAEMON_FAULT,
            Self::NoAnswer { .. } => &m::DAEMON_TIMED_OUT,
            Self::Unknown { .. } => &m::UNKNOWN,
            Self::Refused(refusal) => refusal_message(refusal),
            Self::Fault(fault) => match fault {
                Fault::NotPermitted { .. } => &m::NOT_PERMITTED,
                Fault::TooLarge { .. } => &m::ANSWER_TOO_LARGE,
                Fault::NotKept { .. } => &m::NOT_KEPT,
                Fault::Overloaded | Fault::Stopping => &m::DAEMON_OVERLOADED,
                Fault::BadRequest { .. } | Fault::Internal { .. } => &m::DAEMON_FAULT,
                Fault::TooManyWatchers { .. } => &m::TOO_MANY_WATCHERS,
                Fault::RequestTooLarge { .. } => &m::LARGER_THAN_REPLICAS,
            },
            Self::Image(_) => &m::IMAGE_DAMAGED,
            Self::Init { .. } => &m::INIT_BAD,
            Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => &m::NO_SUCH_FILE,
                io::ErrorKind::PermissionDenied => &m::FILE_NOT_PERMITTED,
                _ => &m::FILE_NOT_READABLE,
            },
            Self::Authkey {
                why: AuthkeyFlaw::Open { .. },
                ..
            } => &m::AUTHKEY_OPEN,
            Self::Authkey { .. } => &m::AUTHKEY_BAD,
            Self::NodeUnknown { .. } | Self::NodeNotSaid { .. } => &m::NODE_UNKNOWN,
            Self::FileTooLarge { .. } => &m::FILE_TOO_LARGE,
            Self::NotUtf8 { .. } => &m::NOT_UTF8,
            Self::Text { source, .. } => text_message(source),
            Self::NoRecord { .. } => &m::RECORD_MISSING,
        }
    }

    pub fn exit(&self) -> Exit {
        self.message().exit
    }

    /// Whether the same request may succeed a moment later (patent: `ccd_retry_error`). Repeating it is safe:
    /// nothing was changed.
    pub fn is_worth_retrying(&self) -> bool {
        self.message().is_worth_retrying()
    }
}

fn refusal_message(refusal: &Refusal) -> &'static Message {
    match refusal {
        Refusal::Op(error) => op_message(error),
        Refusal::NotServing { .. } => &m::NOT_SERVING,
        Refusal::NoQuorum { .. } => &m::NO_QUORUM,
        Refusal::Busy => &m::BUSY,
        Refusal::RolledBack { .. } => &m::ROLLED_BACK,
        Refusal::TimedOut => &m::TIMED_OUT,
        Refusal::Unknown { .. } => &m::UNKNOWN,
        Refusal::Full { .. } => &m::FULL,
        Refusal::Unsafe { .. } => &m::UNSAFE,
        Refusal::Vetoed { veto, .. } if veto.timed_out => &m::COMMAND_TIMED_OUT,
        Refusal::Vetoed { .. } => &m::VETOED,
    }
}

/// The entry for a database file that cannot be used.
pub fn text_message(error: &TextError) -> &'static Message {
    match error {
        TextError::Rows(_) | TextError::Record { .. } => &m::TEXT_BAD,
        TextError::Integrity(_) => &m::TEXT_DAMAGED,
    }
}

/// The entry for an operation that a database refuses, on the daemon or offline.
pub fn op_message(error: &OpError) -> &'static Message {
    match (error, error.class()) {
        (OpError::UnknownColumn { .. }, _) => &m::COLUMN_UNKNOWN,
        (OpError::NoSuchRow { .. }, _) => &m::NO_SUCH_ROW,
        (OpError::OtherContent { .. }, _) => &m::REQUEST_REUSED,
        (OpError::TransactionTooLarge { .. } | OpError::TooManyOperations { .. }, _) => &m::REQUEST_TOO_LARGE,
        (OpError::KeyNotEmpty { .. }, _) => &m::KEY_NOT_EMPTY,
        (_, ErrorClass::Missing) => &m::NO_SUCH_KEY,
        (_, ErrorClass::Exists) => &m::EXISTS,
        (_, ErrorClass::Conflict) => &m::PRECONDITION,
        (_, ErrorClass::BadData) => &m::UPDATE_WRONG,
    }
}
