//! One task for each connection of a client.

use super::access::{AccessRules, Caller, Rights};
use super::groups::peer_groups;
use super::limits::{Accounts, Kind, Seat};
use super::names::LateNames;
use super::scrape;
use super::sockets::{Socket, Sockets, open_sockets};
use super::{BACKLOG_BYTES_MAX, Clients, Connection, FromClient, SMALL_BYTES};
use crate::clock;
use crate::descriptors;
use crate::door::Door;
use crate::fair::Owner;
use crate::gauge::Held;
use crate::history;
use crate::outbox::Outbox;
use crate::quiet::Quiet;
use crate::watch::Seats;
use ccd_client::wire::{self, Ask, FRAME_PREFIX_BYTES, Fault, PREAMBLE, ToDaemon, Told, WatchAsk};
use ccd_core::client::{Request, RequestBody};
use ccd_core::database::{content_digest, loaded_bytes};
use ccd_core::ids::NodeId;
use ccd_core::time::Date;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::task::spawn_local;

/// A preamble or request that has begun must be whole in this time: nobody needs longer who is not stopped or hostile.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Requests are not read as long as a client has so much to read itself.
const UNREAD_BYTES_MAX: usize = 1 << 20;
/// A decoded operation takes at most so many times its bytes on the wire.
const DECODED_TIMES: usize = 24;
/// And text that is loaded: as tables, as a record, and as what goes to the members.
const LOADED_TIMES: usize = 4;
/// Requests of more bytes are decoded on another thread: the loop has heartbeats to answer.
const DECODED_HERE_BYTES_MAX: usize = 64 << 10;
/// No client waits longer, whatever it asks for.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// The id with which a request begins takes no more.
const ID_BYTES_MAX: usize = 10;
/// Longest name of a program that a client gives.
const PROGRAM_BYTES_MAX: usize = 64;

pub(super) struct Shared {
    me: NodeId,
    rules: RefCell<Rc<AccessRules>>,
    pub(super) clients: Rc<Clients>,
    pub(super) to_core: Door<FromClient>,
    accounts: Rc<Accounts>,
    /// Places of watchers.
    pub(super) seats: Seats,
    /// Largest request: the content that this node's replicas hold, and its frame.
    request_bytes_max: usize,
    quiet: RefCell<Quiet>,
}

impl Shared {
    /// As far as names are known by now.
    pub(super) fn rules(&self) -> Rc<AccessRules> {
        self.rules.borrow().clone()
    }

    /// Connections of clients, on both sockets.
    pub(super) fn connections(&self) -> usize {
        self.accounts.connections()
    }

    /// What clients were told instead of an answer, by reason.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.accounts.faults()
    }

    /// A client that can cause this can cause it often.
    fn warn(&self, what: &str) {
        if let Some(repeated) = self.quiet.borrow_mut().admit(Instant::now(), what) {
            tracing::warn!(repeated, "{what}");
        }
    }
}

/// Starts to serve. `to_core` is bounded: when it is full, clients' sockets are not read until there is room.
pub fn serve(
    sockets: Sockets,
    me: NodeId,
    (rules, late_names): (AccessRules, LateNames),
    clients: Rc<Clients>,
    to_core: Door<FromClient>,
    seats: Seats,
    image_bytes_max: u64,
) {
    rules.warn_of_unknown();
    let shared = Rc::new(Shared {
        me,
        rules: RefCell::new(Rc::new(rules.clone())),
        clients,
        to_core,
        accounts: Rc::new(Accounts::new(descriptors::raise())),
        seats,
        request_bytes_max: wire::request_bytes_max(image_bytes_max),
        quiet: RefCell::default(),
    });
    let Sockets { clients, control } = sockets;
    let paths = [clients.path().to_owned(), control.path().to_owned()];
    let with_names = shared.clone();
    spawn_local(late_names.keep_looking(rules, move |rules| {
        with_names.rules.replace(Rc::new(rules.clone()));
        open_sockets(&paths, rules);
    }));
    spawn_local(accept(clients, shared.clone(), false));
    spawn_local(accept(control, shared, true));
}

async fn accept(mut socket: Socket, shared: Rc<Shared>, control: bool) {
    loop {
        match socket.accept(|| shared.rules()).await {
            Ok(stream) => {
                // One that is gone already is no news.
                let Ok(caller) = caller(&stream) else { continue };
                let trusted = shared.rules().is_trusted(caller.uid);
                let seat = match shared.accounts.enter(caller.uid, trusted) {
                    Ok(seat) => seat,
                    Err(full) => {
                        shared.warn(&full.to_string());
                        continue;
                    }
                };
                let shared = shared.clone();
                spawn_local(async move {
                    let uid = caller.uid;
                    // How a connection ended is mostly the client's affair.
                    let ended = match control {
                        true => on_control(stream, caller, seat, &shared).await,
                        false => converse(stream, caller, seat, &shared, false).await,
                    };
                    if let Err(error) = ended {
                        match error.downcast_ref::<Hostile>() {
                            Some(hostile) => {
                                shared.warn(&format!("a client of user {uid} was hung up on: {hostile}"))
                            }
                            None => tracing::debug!(%error, "a client's connection ended"),
                        }
                    }
                });
            }
            Err(error) => {
                shared.warn(&format!("a client could not be accepted: {error}"));
                // Out of descriptors: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What no client does that means well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hostile {
    #[error("a preamble or request that had begun was not whole after {} s", PATIENCE.as_secs())]
    Slow,
    #[error("a request of {bytes} bytes, and its user may write nothing")]
    Large { bytes: usize },
    #[error("a request of {bytes} bytes, and this node takes {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("too much is held for its user already, and it sends a large request")]
    Crowded,
    #[error(transparent)]
    Nonsense(#[from] wire::WireError),
}

/// What controls the cluster speaks the client protocol, what collects metrics speaks HTTP; either speaks first.
async fn on_control(stream: UnixStream, caller: Caller, seat: Seat, shared: &Shared) -> anyhow::Result<()> {
    if scrape::is_http(&stream).await? {
        let rights = shared.rules().rights_of(&caller);
        scrape::answer(stream, shared, &seat, &rights).await
    } else {
        converse(stream, caller, seat, shared, true).await
    }
}

async fn converse(
    stream: UnixStream,
    caller: Caller,
    seat: Seat,
    shared: &Shared,
    control: bool,
) -> anyhow::Result<()> {
    let rights = shared.rules().rights_of(&caller);
    let (mut reader, writer) = stream.into_split();
    let connection = Rc::new(Connection {
        outbox: Outbox::counted(Rc::new(writer), BACKLOG_BYTES_MAX, seat.gauges()),
        seat,
    });
    connection.outbox.append(|out| out.extend_from_slice(&PREAMBLE));
    connection.outbox.flush();
    let outcome = tokio::select! {
        biased;
        outcome = read(&mut reader, shared, &connection, &caller, &rights, control) => outcome,
        () = connection.outbox.drain() => Ok(None),
    };
    for client in shared.clients.forget(&connection) {
        shared.to_core.send(FromClient::Gone { client }).await?;
    }
    match outcome? {
        Some(ask) => super::watching::hand_over(shared, reader, connection, ask, &caller, &rights).await,
        None => Ok(()),
    }
}

/// The caller, by the kernel's word.
fn caller(stream: &UnixStream) -> io::Result<Caller> {
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
    let mut gids = peer_groups(stream).unwrap_or_default();
    gids.push(credentials.gid());
    Ok(Caller {
        uid: credentials.uid(),
        pid: pid.unwrap_or(0),
        gids,
    })
}

/// Takes requests until the client hangs up or makes no sense, or asks for something that takes the whole connection.
async fn read(
    stream: &mut OwnedReadHalf,
    shared: &Shared,
    connection: &Rc<Connection>,
    caller: &Caller,
    rights: &Rights,
    control: bool,
) -> anyhow::Result<Option<WatchAsk>> {
    let mut inbox = Inbox {
        bytes: Vec::new(),
        held: Held::new(connection.seat.gauges()),
        begun: None,
    };
    let (mut greeted, mut is_first) = (false, true);
    loop {
        if !greeted {
            if let Some(preamble) = inbox.bytes.first_chunk() {
                wire::check_preamble(*preamble).map_err(Hostile::from)?;
                inbox.took(PREAMBLE.len());
                greeted = true;
                continue;
            }
        } else if let Some(frame) = inbox
            .frame(rights, shared.request_bytes_max)
            .map_err(|error| refused(connection, &inbox, error))?
        {
            let bytes = frame.len();
            let (asked, content) = inbox
                .decode(frame.clone())
                .await
                .map_err(|error| refused(connection, &inbox, error))?;
            inbox.took(frame.end);
            let is_alone = std::mem::take(&mut is_first) && inbox.bytes.is_empty();
            if let Err(why) = rights.check(&asked.body, control) {
                connection.tell(asked.id, Told::Failed(Fault::NotPermitted { why }));
                continue;
            }
            let kind = Kind::of(&asked.body);
            let body = match super::watching::taken(asked.body, is_alone) {
                Ok(body) => body,
                Err(Ok(watch)) => return Ok(Some(watch)),
                Err(Err(fault)) => {
                    connection.tell(asked.id, Told::Failed(fault));
                    return Ok(None);
                }
            };
            let bytes = held_bytes(&body, bytes);
            let turn = connection.seat.turn(kind).await;
            let timeout = match &body {
                Ask::Request(request) => request.timeout.min(TIMEOUT_MAX),
                _ => TIMEOUT_MAX,
            };
            let deadline = clock::now() + timeout;
            match shared
                .clients
                .register(connection, asked.id, bytes, turn, deadline)
            {
                None => connection.tell(asked.id, Told::Failed(Fault::Overloaded)),
                Some(client) => {
                    let owner = connection.seat.owner();
                    let event = from_client(client, body, caller, owner, shared.me, content);
                    shared.to_core.send(event).await?;
                }
            }
            if connection.outbox.backlog_bytes() > UNREAD_BYTES_MAX {
                connection.outbox.drained().await;
            }
            continue;
        }
        if !inbox.fill(stream, greeted).await? {
            return Ok(None);
        }
        if inbox.bytes.len() > SMALL_BYTES && !connection.seat.has_room() {
            return Err(Hostile::Crowded.into());
        }
    }
}

/// The client is told why before it is hung up on.
fn refused(connection: &Connection, inbox: &Inbox, error: Hostile) -> Hostile {
    match error {
        Hostile::TooLarge { bytes, max } => {
            let (bytes, max) = (bytes as u64, max as u64);
            connection.tell(
                inbox.begun_id(),
                Told::Failed(Fault::RequestTooLarge { bytes, max }),
            );
        }
        _ => {
            let why = error.to_string();
            connection.tell(0, Told::Failed(Fault::BadRequest { why }));
        }
    }
    error
}

/// How much memory a request of so many bytes takes until it is answered.
fn held_bytes(ask: &Ask, bytes: usize) -> usize {
    if bytes <= SMALL_BYTES {
        return bytes;
    }
    let loaded = match ask {
        Ask::Request(request) => match &request.body {
            RequestBody::Update(update) => loaded_bytes(&update.ops).min(bytes),
            _ => 0,
        },
        _ => 0,
    };
    loaded * LOADED_TIMES + (bytes - loaded) * DECODED_TIMES
}

/// The digest of what an update asks for.
fn content_of(asked: &ToDaemon) -> Option<u32> {
    match &asked.body {
        Ask::Request(Request {
            body: RequestBody::Update(update),
            ..
        }) => Some(content_digest(&update.preconditions, &update.ops)),
        _ => None,
    }
}

/// Fills in what only the daemon knows.
fn from_client(
    client: ccd_core::client::ClientToken,
    ask: Ask,
    caller: &Caller,
    owner: Owner,
    me: NodeId,
    content: Option<u32>,
) -> FromClient {
    let mut request = match ask {
        Ask::Status => return FromClient::Status { client },
        Ask::Why { count } => return FromClient::Why { client, count },
        Ask::History(ask) => {
            let ask = history::Ask::History(ask);
            return FromClient::History { client, owner, ask };
        }
        Ask::Changes(ask) => {
            let ask = history::Ask::Changes(ask);
            return FromClient::History { client, owner, ask };
        }
        Ask::Branches => {
            let name = None;
            return FromClient::Branches { client, owner, name };
        }
        Ask::Branch { name } => {
            let name = Some(name);
            return FromClient::Branches { client, owner, name };
        }
        Ask::Request(request) => request,
        Ask::Watch(_) => unreachable!("it was taken before"),
    };
    request.timeout = request.timeout.min(TIMEOUT_MAX);
    if let RequestBody::Outcome { request } = &mut request.body {
        // What it held is not looked at.
        *request = request.bound(caller.uid, 0);
    }
    if let RequestBody::Update(update) = &mut request.body {
        let content = content.unwrap_or_else(|| content_digest(&update.preconditions, &update.ops));
        update.request = update.request.bound(caller.uid, content);
        update.date = today();
        update.who.node = Some(me);
        update.who.uid = caller.uid;
        update.who.pid = caller.pid;
        let program = &mut update.who.program;
        program.truncate(program.floor_char_boundary(PROGRAM_BYTES_MAX));
    }
    FromClient::Asked { client, request }
}

/// The date by this machine's clock: for people.
pub fn today() -> Date {
    Date(clock::date_ms())
}

/// What has come and is not yet a whole frame.
struct Inbox {
    bytes: Vec<u8>,
    held: Held,
    /// Since when there is something that is not whole.
    begun: Option<Instant>,
}

impl Inbox {
    /// Where the body of the first frame is, if it is whole. Its length is checked before its bytes are waited for.
    fn frame(&self, rights: &Rights, bytes_max: usize) -> Result<Option<std::ops::Range<usize>>, Hostile> {
        let Some(prefix) = self.bytes.first_chunk() else {
            return Ok(None);
        };
        let bytes = wire::request_len(*prefix)?;
        if bytes > bytes_max {
            // Its beginning says which request it is.
            let enough = self.bytes.len() >= FRAME_PREFIX_BYTES + ID_BYTES_MAX;
            return if enough {
                Err(Hostile::TooLarge {
                    bytes,
                    max: bytes_max,
                })
            } else {
                Ok(None)
            };
        }
        // Only updates are large, and decoding one takes many times its bytes.
        if bytes > SMALL_BYTES && !rights.may_write() {
            return Err(Hostile::Large { bytes });
        }
        let end = FRAME_PREFIX_BYTES + bytes;
        Ok((self.bytes.len() >= end).then_some(FRAME_PREFIX_BYTES..end))
    }

    /// The request in this frame. A long one is decoded on another thread, which also makes the digest of what it asks for.
    async fn decode(&mut self, frame: std::ops::Range<usize>) -> Result<(ToDaemon, Option<u32>), Hostile> {
        if frame.len() <= DECODED_HERE_BYTES_MAX {
            return Ok((wire::decode_request(&self.bytes[frame])?, None));
        }
        let bytes = std::mem::take(&mut self.bytes);
        let decode = move || {
            let decoded = wire::decode_request(&bytes[frame]).map(|asked| {
                let content = content_of(&asked);
                (asked, content)
            });
            (bytes, decoded)
        };
        match tokio::task::spawn_blocking(decode).await {
            Ok((bytes, decoded)) => {
                self.bytes = bytes;
                Ok(decoded?)
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// The id of the request that has begun to come; 0 if that is not known.
    fn begun_id(&self) -> u64 {
        let body = self.bytes.get(FRAME_PREFIX_BYTES..).unwrap_or_default();
        wire::request_id(body).unwrap_or(0)
    }

    fn took(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
        // One big request must not keep its memory for ever.
        self.bytes.shrink_to(SMALL_BYTES);
        self.begun = None;
        self.held.set(self.bytes.len());
    }

    /// Waits for more bytes; `false` at the end of the stream.
    async fn fill(&mut self, stream: &mut OwnedReadHalf, greeted: bool) -> anyhow::Result<bool> {
        // More room than a usual request takes: a read that does not fill it tells that nothing is left, and the
        // socket is not asked in vain.
        self.bytes.reserve(8 << 10);
        // A client may be silent between requests for as long as it likes, but not in the middle of one.
        let read = if greeted && self.bytes.is_empty() {
            stream.read_buf(&mut self.bytes).await?
        } else {
            let begun = *self.begun.get_or_insert_with(Instant::now);
            let read = stream.read_buf(&mut self.bytes);
            tokio::time::timeout_at((begun + PATIENCE).into(), read)
                .await
                .map_err(|_| Hostile::Slow)??
        };
        if self.bytes.len() > SMALL_BYTES {
            self.held.set(self.bytes.len());
        }
        Ok(read > 0)
    }
}
