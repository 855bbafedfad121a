//! The library's client: attach once, then ask from any thread.
//!
//! Always holds: an update keeps its request id however often it is sent, so it is applied once; and every call
//! returns within its time-out and [`GRACE`].
//!
//! A [`Client`] is two things: what is shared (connections, the name under which requests are numbered) and settings.
//! A clone shares the former and has settings of its own, so one call can have another time-out than the others:
//! `client.clone().with_timeout(…).query(…)`.
//!
//! ```text
//! client.rs             attaching, updates, and how a request is asked and asked again
//! client/questions.rs   what is asked: rows, status, history, branches
//! client/control.rs     what a node is told to do
//! ```

mod control;
mod questions;

use crate::connection::{Connection, Unanswered};
use crate::error::CcdError;
use crate::files;
use crate::places::Places;
use crate::watch::WatchBuilder;
use crate::wire::{Ask, Service, Told};
use ccd_core::client::{Refusal, Request, RequestBody, UpdateRequest};
use ccd_core::database::{Key, Op, OpError, Precondition, Row, Who};
use ccd_core::ids::{Generation, Position, RequestId};
use ccd_core::time::Date;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long a request may take unless the init database or the client says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than a request's time-out a client waits for the daemon's own word on it.
pub const GRACE: Duration = Duration::from_secs(1);

/// Between two attempts of the same request while its server is away or its outcome not known.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Idle connections kept for the next request.
const IDLE_MAX: usize = 8;

/// Attached to the daemon of this machine. Shared between threads by reference, or cloned: clones share connections.
/// Not to be used on both sides of a `fork`: attach again in the child.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
    retry: bool,
}

#[derive(Debug)]
struct Shared {
    client_socket: PathBuf,
    control_socket: PathBuf,
    program: String,
    client: u128,
    sequence: AtomicU64,
    idle: Mutex<Vec<Connection>>,
}

/// How current an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Contains every update that was acked before the question, on any node.
    #[default]
    Strict,
    /// Whatever the local copy holds, even if it may be old.
    Stale,
}

/// Rows, and where the database stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub position: Position,
    pub rows: Vec<Row>,
}

/// Keys with their columns and number of rows, and where the database stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    pub position: Position,
    pub keys: Vec<(Key, Vec<String>, u64)>,
}

/// A transaction to be applied whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub preconditions: Vec<Precondition>,
    pub ops: Vec<Op>,
    /// Kept with the update.
    pub reason: Option<String>,
    /// Fail with [`Refusal::Busy`] rather than wait for a round under way.
    pub no_wait: bool,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// Run no synchronization commands.
    pub no_sync: bool,
}

impl Transaction {
    pub fn of(ops: Vec<Op>) -> Self {
        Self {
            ops,
            ..Self::default()
        }
    }
}

/// What became of a transaction that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Durable on every replica of the configuration.
    Committed {
        generation: Generation,
        /// How many rows it removed; not known if the server was lost in between.
        removed: Option<u64>,
    },
    /// `dry_run`.
    WouldApply { removed: u64 },
}

impl Client {
    /// Attaches to the daemon whose sockets are in `places.run`. `program` is recorded with every update. Requests may
    /// take as long as the init database says, or else [`TIMEOUT`]. Fails if the daemon cannot be reached now.
    pub fn attach(places: &Places, program: &str) -> Result<Self, CcdError> {
        let timeout = files::read_init(places).map_or(TIMEOUT, |init| init.options().request_timeout);
        Self::attach_within(places, program, timeout)
    }

    /// As [`Client::attach`]; this and every later request may take so long.
    pub fn attach_within(places: &Places, program: &str, timeout: Duration) -> Result<Self, CcdError> {
        let shared = Shared {
            client_socket: places.client_socket(),
            control_socket: places.control_socket(),
            program: program.to_owned(),
            client: random_u128(),
            sequence: AtomicU64::new(0),
            idle: Mutex::default(),
        };
        let connection = Connection::open(&shared.client_socket, Instant::now() + timeout)?;
        let client = Self {
            shared: Arc::new(shared),
            timeout,
            retry: false,
        };
        client.keep(connection);
        Ok(client)
    }

    /// Sets how long requests through this value may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether an error that is [worth retrying](CcdError::is_worth_retrying) is retried until the time-out, by the
    /// same request, instead of returned at once. Off unless set. Control requests are never repeated.
    #[must_use]
    pub fn with_retry(mut self, retry: bool) -> Self {
        self.retry = retry;
        self
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Watches for changes: see [`WatchBuilder`].
    pub fn watch(&self) -> WatchBuilder {
        WatchBuilder::new(self.clone())
    }

    /// Whether what is worth it is tried again.
    pub(crate) fn retry(&self) -> bool {
        self.retry
    }

    /// Applies a transaction. If the server is lost on the way, it is asked for again under the same request id until
    /// the time-out; only then is the outcome unknown.
    pub fn update(&self, transaction: Transaction) -> Result<Applied, CcdError> {
        self.update_as(self.new_request(), transaction)
    }

    /// An id that no other update has, for [`Client::update_as`].
    pub fn new_request(&self) -> RequestId {
        RequestId {
            client: self.shared.client,
            sequence: self.shared.sequence.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// As [`Client::update`], under an id that the caller keeps: after [`CcdError::Unknown`], or after a crash of the
    /// caller itself, the same transaction under the same id is applied only if it was not. The cluster remembers the
    /// ids of its last [`OUTCOMES_MAX`](ccd_core::database::OUTCOMES_MAX) updates.
    pub fn update_as(&self, request: RequestId, transaction: Transaction) -> Result<Applied, CcdError> {
        let deadline = Instant::now() + self.timeout;
        // Set once an earlier attempt may have reached the database.
        let mut doubt: Option<String> = None;
        let mut ask = Ask::Request(Request {
            timeout: self.timeout,
            body: RequestBody::Update(self.update_request(request, transaction)),
        });
        loop {
            if let Ask::Request(request) = &mut ask {
                request.timeout = deadline.saturating_duration_since(Instant::now());
            }
            // Why this attempt did not succeed, and its error if it changed nothing.
            let (why, harmless) = match self.ask_once(&ask, deadline + GRACE) {
                Ok(Told::Committed { position, removed }) => {
                    return Ok(Applied::Committed {
                        generation: position.stamp.generation,
                        removed,
                    });
                }
                Ok(Told::WouldApply { removed }) => return Ok(Applied::WouldApply { removed }),
                Ok(Told::Refused(Refusal::Op(OpError::AlreadyApplied { generation, .. }))) => {
                    return Ok(Applied::Committed {
                        generation,
                        removed: None,
                    });
                }
                Ok(Told::Refused(Refusal::Unknown { why })) => {
                    doubt = Some(why.clone());
                    (why, None)
                }
                // The database itself judged it, after all that was sent before: no earlier attempt is part of it.
                Ok(Told::Refused(refusal @ Refusal::Op(_))) => return Err(refusal.into()),
                Ok(told) => {
                    let error = self.other(told);
                    if doubt.is_none() && !self.is_retried(&error, deadline) {
                        return Err(error);
                    }
                    (error.to_string(), Some(error))
                }
                Err(Unanswered::NotSent(error)) => {
                    if doubt.is_none() && !self.is_retried(&error, deadline) {
                        return Err(error);
                    }
                    (error.to_string(), Some(error))
                }
                Err(Unanswered::Sent(error @ CcdError::Wire { .. })) => return Err(error),
                Err(Unanswered::Sent(error)) => {
                    doubt = Some(error.to_string());
                    (error.to_string(), None)
                }
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(match (doubt, harmless) {
                    (None, Some(error)) => error,
                    (doubt, _) => CcdError::Unknown {
                        request,
                        why: doubt.unwrap_or(why),
                    },
                });
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Whether there is still time to try again after this error, and that is wished.
    fn is_retried(&self, error: &CcdError, deadline: Instant) -> bool {
        self.retry && error.is_worth_retrying() && Instant::now() + RETRY_PAUSE < deadline
    }

    fn update_request(&self, request: RequestId, transaction: Transaction) -> UpdateRequest {
        UpdateRequest {
            request,
            // The daemon fills in the rest from the socket.
            who: Who {
                program: self.shared.program.clone(),
                ..Who::default()
            },
            date: now(),
            reason: transaction.reason,
            preconditions: transaction.preconditions,
            ops: transaction.ops,
            no_wait: transaction.no_wait,
            dry_run: transaction.dry_run,
            no_sync: transaction.no_sync,
        }
    }

    /// A question; asked again if that is wished and may help.
    fn request(&self, body: RequestBody) -> Result<Told, CcdError> {
        let deadline = Instant::now() + self.timeout;
        let mut ask = Ask::Request(Request {
            timeout: self.timeout,
            body,
        });
        loop {
            let answer = match self.ask_again(&ask, deadline + GRACE) {
                Ok(told @ (Told::Refused(_) | Told::Failed(_))) => Err(self.other(told)),
                answer => answer,
            };
            match answer {
                Err(error) if self.is_retried(&error, deadline) => std::thread::sleep(RETRY_PAUSE),
                answer => return answer,
            }
            if let Ask::Request(request) = &mut ask {
                request.timeout = deadline.saturating_duration_since(Instant::now());
            }
        }
    }

    /// When a request that is sent now must have been answered.
    fn last_moment(&self) -> Instant {
        Instant::now() + self.timeout + GRACE
    }

    /// A question may be asked twice: once more if the daemon is restarted meanwhile.
    fn ask_again(&self, ask: &Ask, deadline: Instant) -> Result<Told, CcdError> {
        match self.ask_once(ask, deadline) {
            Err(Unanswered::Sent(CcdError::ConnectionLost { .. })) => self.ask_once(ask, deadline),
            answer => answer,
        }
        .map_err(|unanswered| match unanswered.into_error() {
            CcdError::NoAnswer { socket, .. } => CcdError::NoAnswer {
                socket,
                timeout: self.timeout + GRACE,
            },
            error => error,
        })
    }

    fn ask_once(&self, ask: &Ask, deadline: Instant) -> Result<Told, Unanswered> {
        if ask.service() == Service::Control {
            return Connection::open(&self.shared.control_socket, deadline)
                .map_err(Unanswered::NotSent)?
                .ask(ask, deadline);
        }
        let idle = self
            .shared
            .idle
            .lock()
            .expect("no thread panics with the lock")
            .pop();
        if let Some(mut connection) = idle {
            match connection.ask(ask, deadline) {
                // The daemon was restarted since: no idle connection is worth anything.
                Err(Unanswered::NotSent(CcdError::ConnectionLost { .. })) => {
                    self.shared
                        .idle
                        .lock()
                        .expect("no thread panics with the lock")
                        .clear();
                }
                Err(unanswered) => return Err(unanswered),
                Ok(told) => {
                    self.keep(connection);
                    return Ok(told);
                }
            }
        }
        let mut connection =
            Connection::open(&self.shared.client_socket, deadline).map_err(Unanswered::NotSent)?;
        let told = connection.ask(ask, deadline)?;
        self.keep(connection);
        Ok(told)
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.shared.idle.lock().expect("no thread panics with the lock");
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }

    fn other(&self, told: Told) -> CcdError {
        match told {
            Told::Refused(refusal) => refusal.into(),
            Told::Failed(fault) => fault.into(),
            _ => self.unexpected(),
        }
    }

    fn unexpected(&self) -> CcdError {
        CcdError::UnexpectedAnswer {
            socket: self.shared.client_socket.clone(),
        }
    }

    /// The socket it asks on.
    pub fn socket(&self) -> &Path {
        &self.shared.client_socket
    }
}

/// By this machine's clock; for people.
pub fn now() -> Date {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Date(since.map_or(0, |since| since.as_millis() as u64))
}

/// Names this client among all that ever attached. Chance makes it unique, not secrecy.
fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    files::random(&mut bytes).expect("the kernel gives random bytes");
    u128::from_le_bytes(bytes)
}
