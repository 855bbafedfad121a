//! The event loop: one task owns the node and executes its actions; nothing here is locked.
//!
//! ```text
//!   peers ─┐                                      ┌→ peers.send   (written at once)
//!   clients ─→ handle(now, event) → actions ──────┼→ mirror.submit
//!   mirror ─┤   ▲                                 ├→ clients.reply (written at once)
//!   timer ──┘   └── answers of the mirror ────────┴→ decisions.add
//!
//! entry.rs    what a connection's task has for it is handled at once, if it may be
//! run.rs      setting up: threads, sockets, connections; and tidying at the end
//! ring.rs     the ring that carries appends to devices past their threads
//! signals.rs  what SIGTERM and the like ask for
//! strict.rs   what waits for a strict snapshot: watchers, questions to the history
//! problems.rs what is wrong with this node and only the daemon sees
//! own.rs      what the daemon does by itself: scrub, checkpoints, leave at its end, authkey file read again, report
//! ```

mod entry;
mod own;
mod problems;
mod ring;
mod run;
mod signals;
mod strict;

pub use run::run;

use crate::checkpoints::{Checkpoints, Saved};
use crate::clients::{Clients, FromClient, today};
use crate::clock;
use crate::commands::Commands;
use crate::decisions::Decisions;
use crate::fences::Fences;
use crate::history::{Answered, History};
use crate::losses::Losses;
use crate::metrics::Counters;
use crate::nodes;
use crate::outlet::{Bell, Outlet};
use crate::peers::{Digest, Disowned, FromPeer, Identity, Listening, Peers, Progress, Roster};
use crate::reads::{self, Finished, Long, Reads};
use crate::scrub::{self, Scrub};
use crate::service::Service;
use crate::severity;
use crate::surroundings::Surroundings;
use crate::update_workers::UpdateWorkers;
use crate::warm::{self, Warming};
use ccd_client::Places;
use ccd_client::wire::{DatedDecision, Fault, Told};
use ccd_core::client::{Answer, ClientToken, Refusal, Reply};
use ccd_core::ids::NodeId;
use ccd_core::init::{ClusterInit, InitFile};
use ccd_core::problem::Problem;
use ccd_core::protocol::{Action, Decision, Event, Node};
use ccd_core::replica::ReplicaOp;
use ccd_core::time::Time;
use ccd_mirror::Mirror;
use entry::{Entries, Home};
use own::{OWN_CHECKPOINT, OWN_LEAVE, OWN_REPAIR, OWN_SCRUB};
use ring::Landings;
use signals::Word;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Events that are handled before the sockets are looked at again.
const EVENTS_PER_TURN_MAX: usize = 64;
/// No more requests of clients in one turn after this time: large answers take a while to make, and peers' heartbeats wait.
const CLIENTS_TURN_MAX: Duration = Duration::from_millis(5);
/// A larger image is written for a client by another thread.
const IMAGE_HERE_BYTES_MAX: u64 = 64 << 10;
/// How long the last messages may take to reach the kernel.
const DRAIN_PATIENCE: Duration = Duration::from_millis(250);

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
    staged: Outlet<Staged>,
    /// Where messages that came in pieces are handed over, decoded.
    unpacked: Outlet<FromPeer>,
    clients: Rc<Clients>,
    decisions: Decisions,
    history: History,
    strict: strict::Strict,
    reads: Reads,
    update_workers: UpdateWorkers,
    service: Service,
    fences: Fences,
    commands: Commands,
    scrub: Scrub,
    checkpoints: Checkpoints,
    init: ClusterInit,
    me: NodeId,
    started: Instant,
    /// Results that were there at once, to be handled after the actions they came from.
    follow_ups: VecDeque<Event>,
    actions: Vec<Action>,
    /// When the process ends at the latest, once it is asked to.
    leave_by: Option<Time>,
    left: bool,
    entries: Entries,
    counters: Counters,
    /// While a copy of the database comes.
    warming: Option<Warming>,
    surroundings: Surroundings,
    losses: Losses,
    /// What the state machine was told last of what this daemon finds.
    told_problems: Vec<Problem>,
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
    /// Rings when something is on any of them, or a thread has finished something.
    bell: Bell,
    landings: Landings,
    scrub: mpsc::Receiver<scrub::Outcome>,
    checkpoints: mpsc::Receiver<Saved>,
    staged: mpsc::Receiver<Staged>,
    unpacked: mpsc::Receiver<FromPeer>,
    history: mpsc::UnboundedReceiver<Answered>,
    reads: mpsc::UnboundedReceiver<Finished>,
    worked: mpsc::UnboundedReceiver<Event>,
    signals: mpsc::Receiver<Word>,
}

/// What the loop does after a turn.
enum After {
    /// More waits, or may: sockets get their turn also when timers or requests come thick and fast.
    Yield,
    /// Nothing is to be done before this.
    Sleep {
        now: Time,
        due: Time,
    },
    End,
}

/// The loop: turns, until the daemon ends. Between them it is at home for others, too.
async fn turn(home: &Home, mut inlets: Inlets) {
    // Set anew only for what is due earlier: ringing too early costs less than setting it after every event.
    let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    let mut alarm_at = Time::NEVER;
    loop {
        let after = match &mut *home.borrow_mut() {
            Some(daemon) => daemon.take_turn(&mut inlets),
            None => After::End,
        };
        match after {
            After::End => break,
            After::Yield => tokio::task::yield_now().await,
            After::Sleep { now, due } => {
                if due < alarm_at || alarm.is_elapsed() {
                    alarm
                        .as_mut()
                        .reset(tokio::time::Instant::now() + clock::until(now, due));
                    alarm_at = due;
                }
                tokio::select! {
                    biased;
                    () = inlets.bell.notified() => {}
                    () = inlets.landings.landed() => {}
                    () = &mut alarm => {}
                }
            }
        }
    }
    // Nobody enters any more.
    let Some(mut daemon) = home.take() else { return };
    daemon.finish().await;
    daemon.commands.finish();
}

impl Daemon {
    fn take_turn(&mut self, inlets: &mut Inlets) -> After {
        self.entries.begin_turn();
        if self.is_over() {
            return After::End;
        }
        let more = self.take_what_came(inlets);
        let now = clock::now();
        let due = self.next_deadline();
        if due <= now {
            self.on_time(now);
        }
        if due <= now || more {
            return After::Yield;
        }
        self.entries.alarm_at = due;
        After::Sleep { now, due }
    }

    /// Handles what waits, but not so much that the sockets would starve. Returns whether more may wait.
    fn take_what_came(&mut self, inlets: &mut Inlets) -> bool {
        // Each has its own share: peers do not keep clients waiting, nor the other way round.
        let (mut of_peers, mut of_clients) = (EVENTS_PER_TURN_MAX, EVENTS_PER_TURN_MAX);
        while of_peers > 0
            && let Ok(from_peer) = inlets.peers.try_recv()
        {
            self.on_peer(from_peer);
            of_peers -= 1;
        }
        if let Ok(from_peer) = inlets.unpacked.try_recv() {
            self.on_peer(from_peer);
        }
        while let Some(node) = self.peers.take_reachable() {
            self.handle(Event::Reachable { node });
        }
        while let Some(Disowned { by, epoch, server }) = self.peers.take_disowned() {
            self.handle(Event::Disowned { by, epoch, server });
        }
        while let Some((by, Progress { epoch, newest })) = self.peers.take_progress() {
            self.handle(Event::RefusedBy { by, epoch, newest });
        }
        while let Some(found) = self.peers.take_found() {
            self.on_packets_found(&found);
        }
        let begun = Instant::now();
        while of_clients > 0
            && begun.elapsed() < CLIENTS_TURN_MAX
            && let Ok(from_client) = inlets.clients.try_recv()
        {
            self.on_client(from_client);
            of_clients -= 1;
        }
        self.take_completions();
        if let Ok(outcome) = inlets.scrub.try_recv() {
            self.end_scrub(&outcome);
        }
        if let Ok(saved) = inlets.checkpoints.try_recv() {
            self.checkpoints.end(saved);
        }
        if let Ok(Staged { digest, result }) = inlets.staged.try_recv() {
            self.end_staging(digest, result);
        }
        while let Ok(Answered { client, told }) = inlets.history.try_recv() {
            self.clients.reply(client, told);
        }
        while let Ok(finished) = inlets.reads.try_recv() {
            self.end_read(finished);
        }
        while let Ok(worked) = inlets.worked.try_recv() {
            self.handle(worked);
        }
        while let Ok(word) = inlets.signals.try_recv() {
            match word {
                Word::Leave => self.begin_to_leave(),
                Word::Reload => self.reload(),
            }
        }
        of_peers == 0 || !inlets.clients.is_empty()
    }

    fn next_deadline(&self) -> Time {
        let deadlines = [
            self.node.next_deadline(),
            self.mirror.next_deadline(),
            self.fences.next_deadline(),
            self.service.next_deadline(),
            self.scrub.next_deadline(),
            self.checkpoints.next_deadline(),
            self.reads.next_deadline(),
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
            self.tell_problems();
            let status = self.status();
            self.service.tell(now, &status);
            self.strict.note(&status);
        }
        for client in self.reads.take_late(now) {
            self.counters.note_refusal(&Refusal::TimedOut);
            self.clients.reply(client, reads::timed_out());
        }
        if self.scrub.next_deadline() <= now {
            self.ask_for_scrub();
        }
        if self.checkpoints.next_deadline() <= now {
            self.ask_for_checkpoint(now);
        }
    }

    fn record(&mut self, decision: Decision) {
        self.counters.note_decision(decision.kind);
        severity::log_at!(severity::of_decision(&decision), "{}", decision.text);
        self.decisions
            .add(DatedDecision::once(today(), self.me, decision));
        self.service.hurry();
    }

    fn take_completions(&mut self) {
        while self.mirror.has_news(clock::now())
            && let Some(done) = self.mirror.next_completion(clock::now())
        {
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
        while let Some(event) = self.commands.next_event() {
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
            self.mirror.depart();
            next = self.follow_ups.pop_front().or_else(|| {
                let done = self.mirror.next_direct()?;
                Some(Event::Replica {
                    ticket: done.ticket,
                    result: done.result,
                })
            });
        }
        let progress = Progress {
            epoch: self.node.epoch(),
            newest: self.node.newest_stamp(),
        };
        self.peers.set_progress(progress, || self.node.servers());
        self.peers.flush();
        self.strict.go_on(&self.history);
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Send { to, message } => self.peers.send(to, &message),
            Action::Replica { ticket, replica, op } => {
                // The peers' disks and ours work at the same time: theirs hear of it first.
                self.peers.flush();
                self.note_copy(&op);
                self.mirror.submit(clock::now(), ticket, replica, op);
            }
            Action::Fence { ticket, device, op } => self.fences.submit(clock::now(), ticket, device, op),
            Action::Reply { client, reply } => self.reply(client, reply),
            Action::Work { ticket, work } => self.update_workers.begin(ticket, work),
            Action::Read { client, read } => self.read_beside(client, Long::Read(read)),
            Action::RunCommand { ticket, run } => self.commands.start(ticket, run),
            Action::StopCommand { ticket } => self.commands.stop(ticket),
            Action::Unpack { from, bytes } => self.unpack(from, bytes),
            Action::StageInit { init } => nodes::stage(&self.places, init, self.staged.clone()),
            Action::AdoptInit { init } => self.adopt_init(&init),
            Action::Record(decision) => self.record(decision),
            Action::KeepLoss(loss) => {
                let write = self.losses.keep(&self.places.branches_dir(), &loss);
                self.history.before_what_follows(write);
            }
            Action::Committed(committed) => self.history.tell(committed),
        }
    }

    /// Decodes a large message on another thread: the loop has heartbeats to answer.
    fn unpack(&self, from: NodeId, bytes: Vec<u8>) {
        let unpacked = self.unpacked.clone();
        tokio::task::spawn_blocking(move || match FromPeer::unpack(from, &bytes) {
            // The loop may have ended.
            Ok(from_peer) => drop(unpacked.blocking_send(from_peer)),
            Err(error) => tracing::error!(node = %from, %error, "what came in pieces is no message"),
        });
    }

    /// A copy of the database comes in pieces, or has come.
    fn note_copy(&mut self, op: &ReplicaOp) {
        match op {
            ReplicaOp::StageImage {
                len_bytes, offset: 0, ..
            } => self.warming = warm::begin(*len_bytes),
            ReplicaOp::AdoptImage { .. } => self.warming = None,
            _ => {}
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
        let adopted = init.cluster_init();
        let was_there = |node: &NodeId| {
            let name = |init: &ClusterInit| init.node(*node).map(|node| node.name.clone());
            name(&self.init) == name(&adopted)
        };
        let added = init.nodes.iter().filter(|node| !was_there(node)).collect();
        let stays = (self.identity.roster.borrow()).staying(init.nodes, &init.servers);
        *self.identity.roster.borrow_mut() = Roster {
            nodes: init.nodes,
            digest: Digest(init.digest),
            other: Some(before),
            added,
            servers: init.servers,
        };
        self.surroundings.note_change();
        self.init = adopted;
        self.peers.keep_only(stays);
        self.listening.keep_only(stays, self.init.ips());
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
        if client == OWN_CHECKPOINT {
            self.begin_checkpoint(reply);
            return;
        }
        let Some(reply) = self.strict.take_reply(client, reply) else {
            return;
        };
        let reply = match reply {
            Ok(Answer::Snapshot(database)) if database.image_len_bytes() > IMAGE_HERE_BYTES_MAX => {
                return self.read_beside(client, Long::Snapshot(database));
            }
            reply => reply,
        };
        self.counters.note_reply(&reply);
        self.clients.reply(client, reply.into());
    }

    /// The rest of a read that takes too long here.
    fn read_beside(&mut self, client: ClientToken, long: Long) {
        let Some(asker) = self.clients.takes_long(client) else {
            return;
        };
        if self.clients.has_room(client) {
            self.reads.begin(asker, long);
        } else {
            self.clients.reply(client, Told::Failed(Fault::Overloaded));
        }
    }

    fn end_read(&mut self, Finished { client, reply }: Finished) {
        if !self.reads.take_finished(client) {
            return;
        }
        match reply {
            Ok(reply) => {
                self.counters.note_long_read();
                self.clients.reply_encoded(client, reply);
            }
            Err(told) => self.clients.reply(client, *told),
        }
    }

    fn on_peer(&mut self, FromPeer { from, message, .. }: FromPeer) {
        self.handle(Event::Message { from, message });
    }

    fn on_client(&mut self, from_client: FromClient) {
        match from_client {
            FromClient::Gone { client } => {
                self.strict.forget(client);
                self.reads.forget(client);
                self.history.forget(client);
                self.handle(Event::ClientGone { client });
            }
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
            FromClient::Metrics(scrape) => {
                let page = self.metrics(&scrape);
                // The client that asked may have gone.
                let _ = scrape.answer.send(page);
            }
            FromClient::Watch { client, start } => self.ask_to_watch(client, start),
            FromClient::History { client, owner, ask } => self.ask_history(client, owner, ask),
            FromClient::Branches { client, owner, name } => {
                self.history
                    .ask_branches(client, owner, self.places.branches_dir(), name);
            }
            FromClient::Why { client, count } => {
                let decisions = self.decisions.last(count as usize);
                self.clients.reply(client, Told::Decisions(decisions));
            }
        }
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
