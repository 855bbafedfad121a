//! The event loop: one task owns the node and executes its actions; nothing here is locked.
//!
//! ```text
//!   peers ─┐                                      ┌→ peers.send   (written at once)
//!   clients ─→ handle(now, event) → actions ──────┼→ mirror.submit
//!   mirror ─┤   ▲                                 ├→ clients.reply (written at once)
//!   timer ──┘   └── answers of the mirror ────────┴→ decisions.add
//! ```

use crate::clients::{self, Clients, FromClient, Sockets, today};
use crate::clock;
use crate::commands::{self, Commands};
use crate::decisions::Decisions;
use crate::fences::Fences;
use crate::nodes;
use crate::peers::{self, Digest, FromPeer, Identity, Listening, Pace, Peers, Roster};
use crate::scrub::{self, Scrub};
use crate::service::Service;
use crate::startup::{Startup, StartupError};
use ccd_client::files::Authkeys;
use ccd_client::wire::{DatedDecision, Fault, NodeName, StatusReport, Told};
use ccd_client::{Exit, Places};
use ccd_core::client::{Answer, ClientToken, Reply, Request, RequestBody};
use ccd_core::ids::{DeviceSet, NodeId, Replica};
use ccd_core::init::{ClusterInit, InitFile};
use ccd_core::protocol::{Action, Decision, DecisionKind, Event, Node, Ticket};
use ccd_core::time::Time;
use ccd_mirror::{Mirror, Remedy};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

/// Messages of peers that wait for the loop. Full: their connections are not read, and TCP holds them back.
const FROM_PEERS_MAX: usize = 256;
/// Requests that wait for the loop. Full: clients' sockets are not read until there is room.
const FROM_CLIENTS_MAX: usize = 1024;
/// Init databases on their way to the disk: the protocol stores one at a time.
const STAGED_MAX: usize = 4;
/// Synchronization commands that have ended: one runs at a time.
const COMMANDS_DONE_MAX: usize = 4;
/// Events that are handled before the sockets are looked at again.
const EVENTS_PER_TURN_MAX: usize = 64;
/// How long a graceful leave may take before the process ends anyway.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last messages may take to reach the kernel.
const DRAIN_PATIENCE: Duration = Duration::from_millis(250);

/// The daemon's own requests: no client ever gets these tokens, for they count from 1.
const OWN_LEAVE: ClientToken = ClientToken(0);
const OWN_SCRUB: ClientToken = ClientToken(u64::MAX);
/// The daemon's own repairs; the node counts its tickets from the other end.
const OWN_REPAIR: Ticket = Ticket(u64::MAX);
/// The scrub waits no longer for its snapshot.
const SCRUB_PATIENCE: Duration = Duration::from_secs(5);

/// A running daemon.
struct Daemon {
    node: Node,
    mirror: Mirror,
    peers: Peers,
    identity: Rc<Identity>,
    listening: Listening,
    places: Places,
    /// Where this node listens for the others.
    own: Vec<SocketAddr>,
    /// Where it is said that a staged init database is durable.
    staged: mpsc::Sender<Staged>,
    clients: Rc<Clients>,
    decisions: Decisions,
    service: Service,
    fences: Fences,
    commands: Commands,
    scrub: Scrub,
    init: ClusterInit,
    me: NodeId,
    started: Instant,
    /// Results that were there at once, to be handled after the actions they came from.
    follow_ups: VecDeque<Event>,
    actions: Vec<Action>,
    /// When the process ends at the latest, once it is asked to.
    leave_by: Option<Time>,
    left: bool,
}

/// An init database with other nodes is stored, or could not be.
#[derive(Debug)]
pub struct Staged {
    pub digest: [u8; 32],
    pub result: Result<(), String>,
}

/// What the loop listens to.
struct Inlets {
    peers: mpsc::Receiver<FromPeer>,
    clients: mpsc::Receiver<FromClient>,
    mirror: Arc<Notify>,
    scrub: mpsc::Receiver<scrub::Outcome>,
    staged: mpsc::Receiver<Staged>,
    commands: mpsc::Receiver<commands::Done>,
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// Runs the daemon until it is told to end. Call inside a `LocalSet`.
///
/// # Errors
/// When it cannot start to serve.
pub async fn run(startup: Startup) -> Result<(), StartupError> {
    let Startup {
        places,
        init,
        me,
        identity,
        rules,
        settings,
        decisions,
        stores,
        scrub_every,
        lock: _lock,
    } = startup;
    let on_signal = |error| StartupError::new(Exit::Internal, format!("cannot receive signals: {error}"));
    let terminate = signal(SignalKind::terminate()).map_err(on_signal)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(on_signal)?;
    let hang_up = signal(SignalKind::hangup()).map_err(on_signal)?;

    let woken = Arc::new(Notify::new());
    let wake = woken.clone();
    let mut mirror = Mirror::new(settings.disk_deadline, Arc::new(move || wake.notify_one()));
    let wake = woken.clone();
    let wake: ccd_mirror::Wake = Arc::new(move || wake.notify_one());
    let fences = Fences::start(&init, settings.disk_deadline, &wake)
        .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    for (replica, store) in stores {
        mirror
            .attach(replica, store)
            .map_err(|error| StartupError::new(Exit::Internal, format!("cannot start a thread: {error}")))?;
    }

    let listeners = bind_node(&init, me)?;
    let sockets = bind_clients(&places, &rules)?;
    let identity = Rc::new(identity);
    let (from_peers, peers_inlet) = mpsc::channel(FROM_PEERS_MAX);
    let (from_clients, clients_inlet) = mpsc::channel(FROM_CLIENTS_MAX);
    let pace = Pace::of(settings.heartbeat, settings.lease);
    let mut peers = Peers::new(identity.clone(), pace);
    let own: Vec<SocketAddr> = listeners.iter().filter_map(|one| one.local_addr().ok()).collect();
    for node in init.nodes().iter().filter(|node| node.id != me) {
        peers.dial(node.id, &node.addresses, init.options().port_range, &own);
    }
    let (staged, staged_inlet) = mpsc::channel(STAGED_MAX);
    let (commands_done, commands_inlet) = mpsc::channel(COMMANDS_DONE_MAX);
    let listening = peers::listen(listeners, identity.clone(), init.ips(), pace, from_peers);
    let clients = Rc::new(Clients::default());
    clients::serve(sockets, me, rules, clients.clone(), from_clients);

    let (scrub, scrub_inlet) = Scrub::new(&init, me, scrub_every, clock::now());
    let mut daemon = Daemon {
        node: Node::new(settings, clock::now()),
        mirror,
        fences,
        commands: Commands::new(&places, commands_done),
        peers,
        identity,
        listening,
        places: places.clone(),
        own,
        staged,
        clients,
        decisions,
        service: Service::new(),
        scrub,
        init,
        me,
        started: Instant::now(),
        follow_ups: VecDeque::new(),
        actions: Vec::new(),
        leave_by: None,
        left: false,
    };
    daemon.service.ready();
    tracing::info!(cluster = daemon.init.name(), node = %me, "ready");
    let inlets = Inlets {
        peers: peers_inlet,
        clients: clients_inlet,
        mirror: woken,
        scrub: scrub_inlet,
        staged: staged_inlet,
        commands: commands_inlet,
        terminate,
        interrupt,
        hang_up,
    };
    // A task beside those that read the sockets: what they hand over is taken in the same turn of the runtime, with no
    // look at the kernel in between.
    let ended = tokio::task::spawn_local(async move { daemon.turn(inlets).await }).await;
    if let Err(panicked) = ended {
        std::panic::resume_unwind(panicked.into_panic());
    }
    // What a stopped daemon leaves behind would only mislead: nobody answers there.
    for path in [places.client_socket(), places.control_socket()] {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), %error, "a socket could not be removed");
        }
    }
    Ok(())
}

impl Daemon {
    async fn turn(&mut self, mut inlets: Inlets) {
        self.handle(Event::Timer);
        // Set anew only for what is due earlier: ringing too early costs less than setting it after every event.
        let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut alarm_at = Time::NEVER;
        while !self.is_over() {
            let now = clock::now();
            let due = self.next_deadline();
            if due <= now {
                self.on_time(now);
                // Sockets get their turn also when timers come thick and fast.
                tokio::task::yield_now().await;
                continue;
            }
            if due < alarm_at || alarm.is_elapsed() {
                alarm
                    .as_mut()
                    .reset(tokio::time::Instant::now() + clock::until(now, due));
                alarm_at = due;
            }
            let mut budget = EVENTS_PER_TURN_MAX;
            tokio::select! {
                Some(first) = inlets.peers.recv() => {
                    let mut next = Some(first);
                    while let Some(FromPeer { from, message, .. }) = next {
                        self.handle(Event::Message { from, message });
                        budget -= 1;
                        next = if budget > 0 { inlets.peers.try_recv().ok() } else { None };
                    }
                }
                Some(first) = inlets.clients.recv() => {
                    let mut next = Some(first);
                    while let Some(from_client) = next {
                        self.on_client(from_client);
                        budget -= 1;
                        next = if budget > 0 { inlets.clients.try_recv().ok() } else { None };
                    }
                }
                Some(outcome) = inlets.scrub.recv() => self.end_scrub(&outcome),
                Some(Staged { digest, result }) = inlets.staged.recv() => self.end_staging(digest, result),
                Some(commands::Done { ticket, result }) = inlets.commands.recv() => {
                    self.commands.ended(ticket);
                    self.handle(Event::CommandDone { ticket, result });
                }
                () = inlets.mirror.notified() => self.take_completions(),
                () = &mut alarm => {}
                _ = inlets.terminate.recv() => self.begin_to_leave(),
                _ = inlets.interrupt.recv() => self.begin_to_leave(),
                Some(()) = inlets.hang_up.recv() => self.reload(),
            }
        }
        self.finish().await;
        self.commands.finish(&mut inlets.commands).await;
    }

    fn next_deadline(&self) -> Time {
        let deadlines = [
            self.node.next_deadline(),
            self.mirror.next_deadline(),
            self.fences.next_deadline(),
            self.service.next_deadline(),
            self.scrub.next_deadline(),
            self.leave_by.unwrap_or(Time::NEVER),
        ];
        deadlines.into_iter().min().unwrap_or(Time::NEVER)
    }

    fn on_time(&mut self, now: Time) {
        self.take_completions();
        if self.node.next_deadline() <= now {
            self.handle(Event::Timer);
        }
        if self.service.next_deadline() <= now {
            let status = self.node.status(now);
            self.service.tell(now, &status);
        }
        if self.scrub.next_deadline() <= now {
            self.scrub.asked();
            let request = Request {
                timeout: SCRUB_PATIENCE,
                body: RequestBody::Snapshot { stale: false },
            };
            self.handle(Event::Client {
                client: OWN_SCRUB,
                request,
                date: today(),
            });
        }
    }

    /// The snapshot that a scrub compares with is there, or this node does not serve.
    fn begin_scrub(&mut self, reply: Reply) {
        let now = clock::now();
        match reply {
            Ok(Answer::Snapshot(database)) => {
                let in_sync = match self.node.status(now).configuration {
                    Some(configuration) if configuration.owner().is_some() => configuration.devices,
                    _ => DeviceSet::EMPTY,
                };
                self.scrub.begin(now, database, in_sync);
            }
            _ => self.scrub.put_off(now),
        }
    }

    fn end_scrub(&mut self, outcome: &scrub::Outcome) {
        let now = clock::now();
        for (role, remedy) in self.scrub.end(now, outcome) {
            let text = match remedy {
                Remedy::Nothing => continue,
                Remedy::Report(text) => text,
                Remedy::Rewrite(text) => {
                    let replica = Replica::Device(role);
                    self.mirror
                        .submit_repair(now, OWN_REPAIR, replica, outcome.database.clone());
                    format!("{text}; it is written anew from memory")
                }
            };
            self.record(Decision {
                kind: DecisionKind::Damage,
                configuration: None,
                text,
            });
        }
    }

    fn record(&mut self, decision: Decision) {
        tracing::info!(kind = ?decision.kind, "{}", decision.text);
        self.decisions.add(DatedDecision {
            date: today(),
            node: self.me,
            decision,
        });
        self.service.hurry();
    }

    fn take_completions(&mut self) {
        while let Some(done) = self.mirror.next_completion(clock::now()) {
            let (ticket, result) = (done.ticket, done.result);
            if ticket == OWN_REPAIR {
                match result {
                    Ok(_) => tracing::info!(replica = %done.replica, "repaired"),
                    Err(error) => tracing::warn!("{error}"),
                }
                continue;
            }
            self.handle(Event::Replica { ticket, result });
        }
        while let Some(event) = self.fences.next_event(clock::now()) {
            self.handle(event);
        }
    }

    /// Hands one event to the node, executes what comes of it, and so on until nothing is left.
    fn handle(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            let mut actions = std::mem::take(&mut self.actions);
            self.node.handle(clock::now(), event, &mut actions);
            for action in actions.drain(..) {
                self.execute(action);
            }
            self.actions = actions;
            next = self.follow_ups.pop_front().or_else(|| {
                let done = self.mirror.next_direct()?;
                Some(Event::Replica {
                    ticket: done.ticket,
                    result: done.result,
                })
            });
        }
        self.peers.set_epoch(self.node.epoch());
        self.peers.flush();
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Send { to, message } => self.peers.send(to, &message),
            Action::Replica { ticket, replica, op } => {
                // The peers' disks and ours work at the same time: theirs hear of it first.
                self.peers.flush();
                self.mirror.submit(clock::now(), ticket, replica, op);
            }
            Action::Fence { ticket, device, op } => self.fences.submit(clock::now(), ticket, device, op),
            Action::Reply { client, reply } => self.reply(client, reply),
            Action::RunCommand { ticket, run } => self.commands.start(ticket, run),
            Action::StopCommand { ticket } => self.commands.stop(ticket),
            Action::StageInit { init } => nodes::stage(&self.places, init, self.staged.clone()),
            Action::AdoptInit { init } => self.adopt_init(&init),
            Action::Record(decision) => self.record(decision),
        }
    }

    /// From now on whoever goes by this init database is met as well.
    fn end_staging(&mut self, digest: [u8; 32], result: Result<(), String>) {
        match &result {
            Ok(()) => self.identity.roster.borrow_mut().other = Some(Digest(digest)),
            Err(error) => tracing::error!("{error}"),
        }
        self.handle(Event::Staged { digest, result });
    }

    /// Nodes were added or removed: their connections come and go, and the file on disk follows.
    fn adopt_init(&mut self, init: &InitFile) {
        if let Err(error) = nodes::adopt(&self.places, init) {
            let path = self.places.init_path();
            tracing::error!(
                "{} was not replaced: {error}; the next start tries again",
                path.display()
            );
        }
        let before = self.identity.roster.borrow().digest;
        *self.identity.roster.borrow_mut() = Roster {
            nodes: init.nodes,
            digest: Digest(init.digest),
            other: Some(before),
        };
        self.init = init.cluster_init();
        self.peers.keep_only(init.nodes);
        self.listening.keep_only(init.nodes, self.init.ips());
        for node in self.init.nodes().iter().filter(|node| node.id != self.me) {
            if !self.peers.has(node.id) {
                let range = self.init.options().port_range;
                self.peers.dial(node.id, &node.addresses, range, &self.own);
            }
        }
    }

    fn reply(&mut self, client: ClientToken, reply: Reply) {
        if client == OWN_LEAVE {
            if let Err(refusal) = reply {
                tracing::warn!("not left gracefully: {refusal}");
            }
            self.left = true;
            return;
        }
        if client == OWN_SCRUB {
            self.begin_scrub(reply);
            return;
        }
        self.clients.reply(client, reply.into());
    }

    fn on_client(&mut self, from_client: FromClient) {
        match from_client {
            FromClient::Gone { client } => self.handle(Event::ClientGone { client }),
            FromClient::Asked { client, .. } if self.leave_by.is_some() => {
                self.clients.reply(client, Told::Failed(Fault::Stopping));
            }
            FromClient::Asked { client, request } => {
                let date = today();
                self.handle(Event::Client {
                    client,
                    request,
                    date,
                });
            }
            FromClient::Status { client } => {
                let report = Box::new(self.report());
                self.clients.reply(client, Told::Status(report));
            }
            FromClient::Why { client, count } => {
                let decisions = self.decisions.last(count as usize);
                self.clients.reply(client, Told::Decisions(decisions));
            }
        }
    }

    fn report(&self) -> StatusReport {
        let init = &self.init;
        StatusReport {
            cluster_name: init.name().to_owned(),
            cluster_id: init.id(),
            status: self.node.status(clock::now()),
            node_names: init
                .nodes()
                .iter()
                .map(|node| NodeName {
                    id: node.id,
                    name: node.name.clone(),
                })
                .collect(),
            device_paths: init
                .devices()
                .iter()
                .map(|device| (device.role, device.path.clone()))
                .collect(),
            fencing: init.options().fencing,
            lease: init.options().lease,
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon_pid: std::process::id(),
            uptime: self.started.elapsed(),
            links: self.peers.report(),
        }
    }

    /// SIGHUP: the authkey file is read again. What is wrong with it changes nothing.
    fn reload(&mut self) {
        match Authkeys::read(&self.places) {
            Ok(keys) => {
                tracing::info!(
                    "authkey read again: connections begin with {}; accepted: {}",
                    keys.first().id(),
                    keys.ids()
                );
                self.peers.set_keys(keys);
                self.listening.revoke();
            }
            Err(error) => {
                let message = error.message();
                tracing::error!(
                    "{message}: not reloaded, the keys in use stay: {error}; try: {}",
                    message.action
                );
            }
        }
    }

    /// SIGTERM: the others take over at once instead of waiting for a lease to run out.
    fn begin_to_leave(&mut self) {
        if self.leave_by.is_some() {
            // Asked twice: no more patience.
            self.left = true;
            return;
        }
        tracing::info!("leaving");
        self.service.stopping();
        let patience = LEAVE_PATIENCE.min(self.init.options().request_timeout);
        self.leave_by = Some(clock::now() + patience);
        let request = Request {
            timeout: patience,
            body: RequestBody::Leave,
        };
        let (client, date) = (OWN_LEAVE, today());
        self.handle(Event::Client {
            client,
            request,
            date,
        });
    }

    fn is_over(&self) -> bool {
        self.left || self.leave_by.is_some_and(|leave_by| leave_by <= clock::now())
    }

    /// Lets the last words reach the peers.
    async fn finish(&mut self) {
        self.peers.flush();
        let drained = async {
            while !self.peers.is_drained() {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(DRAIN_PATIENCE, drained).await.is_err() {
            tracing::warn!("a peer did not take the last messages");
        }
        tracing::info!("stopped");
    }
}

fn bind_node(init: &ClusterInit, me: NodeId) -> Result<Vec<TcpListener>, StartupError> {
    let own = init
        .node(me)
        .map(|node| node.addresses.as_slice())
        .unwrap_or_default();
    let count = init.options().port_range;
    own.iter()
        .map(|address| {
            let listener = peers::bind(*address, count).map_err(|error| cannot_bind(*address, count, &error))?;
            if let Ok(bound) = listener.local_addr()
                && bound != *address
            {
                tracing::warn!(%bound, "port {} is taken; the next free one of the range is used", address.port());
            }
            Ok(listener)
        })
        .collect()
}

fn cannot_bind(address: SocketAddr, count: u16, error: &std::io::Error) -> StartupError {
    let last = address.port().saturating_add(count - 1);
    let text = if error.kind() == std::io::ErrorKind::AddrInUse {
        let ports: Vec<String> = (address.port()..=last).map(|port| port.to_string()).collect();
        format!(
            "cannot listen for the other nodes on {}: all ports of the range are taken: {}; find out with `ss -ltnp` by \
             whom, or change the options port and port_range in init.ccd on all nodes",
            address.ip(),
            ports.join(", ")
        )
    } else {
        format!(
            "cannot listen for the other nodes on {address}: {error}; check that this is the right node \
             (`ccdadm setup --this NAME`), the ADDRESS rows of this node in init.ccd, and with `ip address` that this \
             machine has the address"
        )
    };
    StartupError::new(Exit::Io, text)
}

fn bind_clients(places: &ccd_client::Places, rules: &clients::AccessRules) -> Result<Sockets, StartupError> {
    clients::bind(&places.client_socket(), &places.control_socket(), rules).map_err(|error| {
        StartupError::new(
            Exit::CannotCreate,
            format!(
                "cannot make the sockets in {}: {error}; check the folder's owner, or name another with --run",
                places.run.display()
            ),
        )
    })
}
