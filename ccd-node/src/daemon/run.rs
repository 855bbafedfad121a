//! From what start-up found to a running loop: replicas and fences get their threads, sockets are bound, peers are dialled;
//! and what a stopped daemon tidies away.

use super::entry::{Entries, Home, entry};
use super::ring::Landings;
use super::{Daemon, Inlets, signals, strict, turn};
use crate::checkpoints::Checkpoints;
use crate::clients::{self, Clients, Sockets, today};
use crate::clock;
use crate::commands::Commands;
use crate::door::Door;
use crate::fences::Fences;
use crate::file_id::OpenFile;
use crate::history::{Budget, History};
use crate::locks::{Locks, RunLock};
use crate::losses::Losses;
use crate::metrics::Counters;
use crate::outlet::{self, Bell};
use crate::peers::{self, LateAddress, Pace, Peers};
use crate::reads::Reads;
use crate::replicas::{LocalCopyError, RegionStore};
use crate::scrub::Scrub;
use crate::service::Service;
use crate::startup::{Startup, StartupError};
use crate::surroundings::{InUse, Surroundings};
use crate::update_workers::UpdateWorkers;
use crate::watch::Watching;
use ccd_client::{Exit, Places};
use ccd_core::database::FileOrigin;
use ccd_core::ids::{NodeId, Replica};
use ccd_core::init::ClusterInit;
use ccd_core::protocol::{Event, Node};
use ccd_mirror::Mirror;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Messages of peers that wait for the loop. Full: their connections are not read, and TCP holds them back.
const FROM_PEERS_MAX: usize = 256;
/// Requests that wait for the loop. Full: clients' sockets are not read until there is room.
const FROM_CLIENTS_MAX: usize = 1024;
/// Large messages that were decoded and wait for the loop: each peer sends one at a time.
const UNPACKED_MAX: usize = 32;
/// Init databases on their way to the disk: the protocol stores one at a time.
const STAGED_MAX: usize = 4;

/// Runs the daemon until it is told to end. Call inside a local runtime.
///
/// # Errors
/// When it cannot start to serve.
pub async fn run(startup: Startup) -> Result<(), StartupError> {
    let Startup {
        places,
        init,
        me,
        identity,
        names,
        settings,
        decisions,
        local_copy,
        devices,
        scrub_every,
        node: told,
        locks,
    } = startup;
    let Locks {
        state: state_lock,
        run: run_lock,
    } = locks;
    let run_lock = Rc::new(RefCell::new(run_lock));
    let woken = Bell::default();
    let on_signal = |error| StartupError::new(Exit::Internal, format!("cannot receive signals: {error}"));
    let signals = signals::listen(&woken).map_err(on_signal)?;

    let wake = woken.clone();
    let mut mirror = Mirror::new(settings.disk_deadline, Arc::new(move || wake.notify_one()));
    let wake = woken.clone();
    let wake: ccd_mirror::Wake = Arc::new(move || wake.notify_one());
    let fences = Fences::start(&init, settings.disk_deadline, &wake)
        .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    let (listeners, late) = bind_node(&init, me)?;
    let identity = Rc::new(identity);
    let home = Home::default();
    let (from_peers, peers_inlet) = outlet::channel(FROM_PEERS_MAX, &woken);
    let from_peers = Door::new(from_peers, entry(&home, &woken, Daemon::on_peer));
    let (from_clients, clients_inlet) = outlet::channel(FROM_CLIENTS_MAX, &woken);
    let from_clients = Door::new(from_clients, entry(&home, &woken, Daemon::on_client));
    let pace = Pace::of(settings.heartbeat, settings.lease);
    let mut peers = Peers::new(identity.clone(), pace, &woken);
    let own: Vec<SocketAddr> = listeners.iter().filter_map(|one| one.local_addr().ok()).collect();
    for node in init.nodes().iter().filter(|node| node.id != me) {
        peers.dial(node.id, &node.addresses, init.options().port_range, &own);
    }
    let (staged, staged_inlet) = outlet::channel(STAGED_MAX, &woken);
    let (unpacked, unpacked_inlet) = outlet::channel(UNPACKED_MAX, &woken);
    let arrivals = peers.arrivals();
    let listening = peers::listen(
        listeners,
        late,
        identity.clone(),
        init.ips(),
        pace,
        from_peers,
        arrivals,
    );
    // Peers are met while the local copy is made.
    let (local, local_file) = local_store(local_copy, &places, &init, me).await?;
    let local = (Replica::Local, local);
    for (replica, store) in std::iter::once(local).chain(devices) {
        mirror
            .attach(replica, store)
            .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    }
    let landings = match init.devices() {
        [] => Landings::NONE,
        _ => Landings::of(&mut mirror),
    };
    let (rules, late_names) = names.first().await;
    let sockets = bind_clients(&places, &rules, &run_lock).await?;
    let clients = Rc::new(Clients::default());

    let budget = Budget {
        bytes: u64::from(init.options().history_mib) << 20,
        image_bytes_max: u64::from(init.options().image_mib) << 20,
    };
    let folder = places.history_dir();
    let watching = Watching::start(History::trail(&folder, init.id()))
        .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    clients::serve(
        sockets,
        me,
        (rules, late_names),
        clients.clone(),
        from_clients,
        watching.seats(),
        u64::from(init.options().image_mib) << 20,
    );
    let opened = History::open(&folder, init.id(), budget, &woken, watching.listener());
    let (history, history_inlet) = opened.map_err(|error| {
        let text = format!(
            "cannot use the history {}: {error}; check the folder and its file system",
            folder.display()
        );
        StartupError::new(Exit::Io, text)
    })?;
    let (reads, reads_inlet) = Reads::start(&woken)
        .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    let (update_workers, worked) = UpdateWorkers::start(&woken)
        .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    let in_use = InUse::new(&init, me, told, local_file);
    let surroundings = Surroundings::watch(&places, in_use, state_lock)
        .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    let mut node = Node::new(settings, clock::now());
    node.tell_from(history.head());
    let (scrub, scrub_inlet) = Scrub::new(&init, me, scrub_every, clock::now(), &woken);
    let options = init.options();
    let (every, keep) = (options.checkpoint_interval, options.checkpoint_keep);
    let origin = FileOrigin {
        cluster: init.id(),
        name: init.name().to_owned(),
    };
    let (checkpoints, checkpoints_inlet) =
        Checkpoints::new(&places, every, keep, origin, clock::now(), today(), &woken);
    let mut daemon = Daemon {
        node,
        mirror,
        fences,
        commands: Commands::new(&places, wake),
        peers,
        identity,
        listening,
        places: places.clone(),
        own,
        staged,
        unpacked,
        clients,
        decisions,
        history,
        strict: strict::Strict::new(watching),
        reads,
        update_workers,
        service: Service::new(),
        scrub,
        checkpoints,
        init,
        me,
        started: Instant::now(),
        follow_ups: VecDeque::new(),
        actions: Vec::new(),
        leave_by: None,
        left: false,
        entries: Entries::new(),
        counters: Counters::default(),
        warming: None,
        surroundings,
        losses: Losses::default(),
        told_problems: Vec::new(),
    };
    daemon.handle(Event::Timer);
    tracing::info!(cluster = daemon.init.name(), node = %me, "clients are answered");
    // The reason why the last start was refused is over; mostly there is none.
    let _ = std::fs::remove_file(places.refusal_path());
    let inlets = Inlets {
        peers: peers_inlet,
        clients: clients_inlet,
        bell: woken,
        landings,
        scrub: scrub_inlet,
        checkpoints: checkpoints_inlet,
        staged: staged_inlet,
        unpacked: unpacked_inlet,
        history: history_inlet,
        reads: reads_inlet,
        worked,
        signals,
    };
    // A task beside those that read the sockets: what they hand over is taken in the same turn of the runtime, with no
    // look at the kernel in between.
    home.replace(Some(daemon));
    let ended = tokio::task::spawn_local(async move { turn(&home, inlets).await }).await;
    if let Err(panicked) = ended {
        std::panic::resume_unwind(panicked.into_panic());
    }
    // Sockets of a stopped daemon would only mislead: nobody answers there. In a folder that another daemon has they are its own.
    let own = run_lock.borrow().is_held();
    let sockets = [places.client_socket(), places.control_socket()];
    for path in sockets.into_iter().filter(|_| own) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "a socket could not be removed");
        }
    }
    Ok(())
}

/// The local copy, which may just have been made.
async fn local_store(
    local_copy: oneshot::Receiver<Result<bool, LocalCopyError>>,
    places: &Places,
    init: &ClusterInit,
    me: NodeId,
) -> Result<(RegionStore, OpenFile), StartupError> {
    let made = match local_copy.await {
        Ok(made) => made.map_err(|error| StartupError::new(Exit::CannotCreate, error))?,
        Err(gone) => {
            return Err(StartupError::new(
                Exit::Internal,
                format!("the local copy was not made: {gone}"),
            ));
        }
    };
    if made {
        tracing::info!(path = %places.local_copy_path().display(), "made a new local copy");
    }
    Ok(RegionStore::local(places, init, me, made))
}

/// Takes the addresses of this node that are there. An interface may be broken, or come later in the boot: what is missing is tried
/// again while the daemon runs.
///
/// # Errors
/// When nothing can be listened on, and this machine has an address of another node (it is the wrong one), or all ports are taken.
fn bind_node(init: &ClusterInit, me: NodeId) -> Result<(Vec<TcpListener>, Vec<LateAddress>), StartupError> {
    let own = init
        .node(me)
        .map(|node| node.addresses.as_slice())
        .unwrap_or_default();
    let count = init.options().port_range;
    let (mut listeners, mut late) = (Vec::new(), Vec::new());
    for address in own {
        match peers::bind(*address, count) {
            Ok(listener) => {
                if let Ok(bound) = listener.local_addr()
                    && bound != *address
                {
                    tracing::warn!(%bound, "port {} is taken; the next free one of the range is used", address.port());
                }
                listeners.push(listener);
            }
            Err(error) => late.push(LateAddress {
                first: *address,
                count,
                error,
            }),
        }
    }
    let all = |kind| late.iter().all(|late| late.error.kind() == kind);
    if let Some(first) = late.first().filter(|_| listeners.is_empty()) {
        if all(std::io::ErrorKind::AddrInUse) {
            // No boot brings that: another program has the ports.
            let text = format!("cannot listen for the other nodes on {}", first.advice());
            return Err(StartupError::new(Exit::Io, text));
        }
        if all(std::io::ErrorKind::AddrNotAvailable) {
            refuse_as_wrong_node(init, me)?;
        }
    }
    Ok((listeners, late))
}

/// A machine that has an address of another node, and none of this one's, was told the wrong number or name.
fn refuse_as_wrong_node(init: &ClusterInit, me: NodeId) -> Result<(), StartupError> {
    let is_here =
        |address: &SocketAddr| std::net::TcpListener::bind(SocketAddr::new(address.ip(), 0)).is_ok();
    let name = |id| init.node(id).map(|node| node.name.clone()).unwrap_or_default();
    for other in init.nodes().iter().filter(|node| node.id != me) {
        if let Some(address) = other.addresses.iter().find(|address| is_here(address)) {
            return Err(StartupError::configuration(format!(
                "this machine has the address {} of node {}, and none of node {}, which it is told to be: correct it with \
                 `ccdadm setup --this {}`, or the ADDRESS rows in init.ccd on all nodes",
                address.ip(),
                other.name,
                name(me),
                other.name
            )));
        }
    }
    Ok(())
}

async fn bind_clients(
    places: &Places,
    rules: &clients::AccessRules,
    lock: &Rc<RefCell<RunLock>>,
) -> Result<Sockets, StartupError> {
    let paths = [places.client_socket(), places.control_socket()];
    clients::bind(paths, rules, lock).await.map_err(|error| {
        let run = places.run.display();
        if error.kind() == std::io::ErrorKind::AddrInUse {
            let text = format!("{error}, or give this ccdd a run folder of its own with --run (now {run})");
            return StartupError::new(Exit::Busy, text);
        }
        StartupError::new(
            Exit::CannotCreate,
            format!("cannot make the sockets in {run}: {error}; check the folder's owner, or name another with --run"),
        )
    })
}
