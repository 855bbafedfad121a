//! The sockets that clients connect to, and one task for each connection.

use super::access::{AccessRules, Caller, READERS_GROUP, Rights, groups_of};
use super::{BACKLOG_BYTES_MAX, Clients, Connection, FromClient};
use crate::history;
use crate::outbox::Outbox;
use crate::watch::Seats;
use ccd_client::wire::{self, Ask, FRAME_PREFIX_BYTES, Fault, PREAMBLE, Told, WatchAsk};
use ccd_core::client::RequestBody;
use ccd_core::ids::NodeId;
use ccd_core::time::Date;
use std::cell::Cell;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, spawn_local};

/// Connections at once; who comes when it is full is hung up on.
const CONNECTIONS_MAX: usize = 4096;
/// No client waits longer, whatever it asks for.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Of the program's name that a client gives.
const PROGRAM_BYTES_MAX: usize = 64;

/// Both sockets, ready to be served.
#[derive(Debug)]
pub struct Sockets {
    pub clients: UnixListener,
    pub control: UnixListener,
}

/// Makes both sockets. The state folder's lock is held, so a socket that is there belongs to no live daemon.
///
/// # Errors
/// When the folder cannot be written.
pub fn bind(client_path: &Path, control_path: &Path, rules: &AccessRules) -> io::Result<Sockets> {
    let open = if rules.has_rules() { 0o666 } else { 0o660 };
    let clients = bind_one(client_path, open)?;
    if let Some(gid) = rules.readers_gid()
        && let Err(error) = std::os::unix::fs::chown(client_path, None, Some(gid.as_raw()))
    {
        tracing::warn!(%error, "{} cannot be given to the group {READERS_GROUP}", client_path.display());
    }
    let control = bind_one(control_path, 0o600)?;
    Ok(Sockets { clients, control })
}

fn bind_one(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Under another name until its permissions are right: nobody can connect before.
    let hidden = path.with_extension("new");
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, Permissions::from_mode(mode))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}

pub(super) struct Shared {
    me: NodeId,
    pub(super) rules: AccessRules,
    pub(super) clients: Rc<Clients>,
    pub(super) to_core: mpsc::Sender<FromClient>,
    connections: Cell<usize>,
    pub(super) seats: Seats,
}

/// Starts to serve. `to_core` is bounded: when it is full, clients' sockets are not read until there is room.
pub fn serve(
    sockets: Sockets,
    me: NodeId,
    rules: AccessRules,
    clients: Rc<Clients>,
    to_core: mpsc::Sender<FromClient>,
    seats: Seats,
) {
    let shared = Rc::new(Shared {
        me,
        rules,
        clients,
        to_core,
        connections: Cell::new(0),
        seats,
    });
    spawn_local(accept(sockets.clients, shared.clone(), false));
    spawn_local(accept(sockets.control, shared, true));
}

async fn accept(listener: UnixListener, shared: Rc<Shared>, control: bool) {
    loop {
        match listener.accept().await {
            Ok(_) if shared.connections.get() >= CONNECTIONS_MAX => {}
            Ok((stream, _)) => {
                let shared = shared.clone();
                shared.connections.set(shared.connections.get() + 1);
                spawn_local(async move {
                    // How a connection ended is the client's affair.
                    if let Err(error) = converse(stream, &shared, control).await {
                        tracing::debug!(%error, "a client's connection ended");
                    }
                    shared.connections.set(shared.connections.get() - 1);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                // Out of descriptors: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, shared: &Shared, control: bool) -> anyhow::Result<()> {
    let credentials = stream.peer_cred()?;
    let uid = credentials.uid();
    let gid = credentials.gid();
    let gids = if shared.rules.is_trusted(uid) {
        Vec::new()
    } else {
        spawn_blocking(move || groups_of(uid, gid)).await?
    };
    let pid = credentials
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or(0);
    let caller = Caller { uid, pid, gids };
    let rights = shared.rules.rights_of(&caller);
    let (mut reader, writer) = stream.into_split();
    let connection = Rc::new(Connection {
        outbox: Outbox::new(Rc::new(writer), BACKLOG_BYTES_MAX),
        waiting: Cell::new(0),
    });
    connection.outbox.append(|out| out.extend_from_slice(&PREAMBLE));
    connection.outbox.flush();
    let outcome = tokio::select! {
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

/// Takes requests until the client hangs up or makes no sense, or asks for something that takes the whole connection.
async fn read(
    stream: &mut OwnedReadHalf,
    shared: &Shared,
    connection: &Rc<Connection>,
    caller: &Caller,
    rights: &Rights,
    control: bool,
) -> anyhow::Result<Option<WatchAsk>> {
    let mut inbox = Inbox::default();
    let mut greeted = false;
    loop {
        if !greeted {
            if let Some(preamble) = inbox.bytes.first_chunk() {
                wire::check_preamble(*preamble)?;
                inbox.bytes.drain(..PREAMBLE.len());
                greeted = true;
                continue;
            }
        } else if let Some(frame) = inbox.frame()? {
            let asked = match wire::decode_request(&inbox.bytes[frame.clone()]) {
                Ok(asked) => asked,
                Err(error) => {
                    let why = error.to_string();
                    connection.tell(0, Told::Failed(Fault::BadRequest { why }));
                    return Err(error.into());
                }
            };
            inbox.bytes.drain(..frame.end);
            // One big request must not keep its memory for ever.
            inbox.bytes.shrink_to(1 << 16);
            if let Err(why) = rights.check(&asked.body, control) {
                connection.tell(asked.id, Told::Failed(Fault::NotPermitted { why }));
                continue;
            }
            let body = match super::watching::taken(asked.body, connection, &inbox.bytes) {
                Ok(body) => body,
                Err(Ok(watch)) => return Ok(Some(watch)),
                Err(Err(fault)) => {
                    connection.tell(asked.id, Told::Failed(fault));
                    return Ok(None);
                }
            };
            match shared.clients.register(connection, asked.id) {
                None => connection.tell(asked.id, Told::Failed(Fault::Overloaded)),
                Some(client) => {
                    let event = from_client(client, body, caller, shared.me);
                    shared.to_core.send(event).await?;
                }
            }
            continue;
        }
        if !inbox.fill(stream).await? {
            return Ok(None);
        }
    }
}

/// Fills in what only the daemon knows.
fn from_client(client: ccd_core::client::ClientToken, ask: Ask, caller: &Caller, me: NodeId) -> FromClient {
    let mut request = match ask {
        Ask::Status => return FromClient::Status { client },
        Ask::Why { count } => return FromClient::Why { client, count },
        Ask::History(ask) => {
            let ask = history::Ask::History(ask);
            return FromClient::History { client, ask };
        }
        Ask::Changes(ask) => {
            let ask = history::Ask::Changes(ask);
            return FromClient::History { client, ask };
        }
        Ask::Branches => return FromClient::Branches { client, name: None },
        Ask::Branch { name } => {
            let name = Some(name);
            return FromClient::Branches { client, name };
        }
        Ask::Request(request) => request,
        Ask::Watch(_) => unreachable!("it was taken before"),
    };
    request.timeout = request.timeout.min(TIMEOUT_MAX);
    if let RequestBody::Update(update) = &mut request.body {
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
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date(since.as_millis() as u64)
}

/// What has come and is not yet a whole frame.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Where the body of the first frame is, if it is whole. Its length is checked before its bytes are waited for.
    fn frame(&self) -> Result<Option<std::ops::Range<usize>>, wire::WireError> {
        let Some(prefix) = self.bytes.first_chunk() else {
            return Ok(None);
        };
        let end = FRAME_PREFIX_BYTES + wire::request_len(*prefix)?;
        Ok((self.bytes.len() >= end).then_some(FRAME_PREFIX_BYTES..end))
    }

    /// Waits for more bytes; `false` at the end of the stream.
    async fn fill(&mut self, stream: &mut OwnedReadHalf) -> io::Result<bool> {
        // More room than a usual request takes: a read that does not fill it tells that nothing is left, and the
        // socket is not asked in vain.
        self.bytes.reserve(8 << 10);
        Ok(stream.read_buf(&mut self.bytes).await? > 0)
    }
}
