//! Nodes on a bench: a cluster of the product's own nodes and regions, whose messages and answers are delivered one by one, each
//! at once and in the order in which they came, by whoever holds it.

use super::choices::Seen;
use super::values;
use crate::sim::inits::init_of;
use crate::sim::media::Media;
use crate::sim::plan::Shape;
use crate::sim::server::slot;
use crate::sim::store::Store;
use crate::sim::world::{CLUSTER, HEARTBEAT, LEASE};
use ccd_core::ids::{Incarnation, NodeId, Replica};
use ccd_core::init::{Fencing, InitFile, Propagation};
#[cfg(test)]
use ccd_core::protocol::ServingState;
use ccd_core::protocol::{Action, Event, Message, Node, Settings};
use ccd_core::replica::{Host, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_core::time::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Most actions of one event: a tail or an image to every node, and what each replica is asked for, stays well below.
const ACTIONS_MAX: usize = 600;

/// Most events while the time stands still: more is a storm.
const EVENTS_AT_ONCE_MAX: usize = 20_000;

/// Most bytes of what a node holds, as text for debugging: far more than the small databases here take.
const NODE_TEXT_BYTES_MAX: usize = 4 << 20;

/// Real messages that are kept for changes.
const SENT_KEPT: usize = 96;

/// One of the clusters that are tried.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub nodes: usize,
    pub devices: usize,
    pub fencing: Fencing,
    pub propagation: Propagation,
    pub update_propagation: Propagation,
    /// Updates travel in pieces.
    pub pieces: bool,
}

/// A server of the cluster.
#[derive(Debug)]
struct Seat {
    init: InitFile,
    staged: Option<InitFile>,
    node: Node,
    stores: Vec<Option<Store>>,
    run: u64,
}

/// What is to be delivered.
#[derive(Clone, Debug)]
pub struct Due {
    pub server: usize,
    pub run: u64,
    pub event: Event,
}

#[derive(Debug)]
pub struct Bench {
    pub kind: Kind,
    pub now: Time,
    pub media: Media,
    seats: Vec<Seat>,
    pub due: VecDeque<Due>,
    /// The last real messages, encoded.
    pub sent: VecDeque<Vec<u8>>,
    pub seen: Seen,
    sent_count: usize,
}

pub fn node_id(server: usize) -> NodeId {
    NodeId::all().nth(server).expect("a cluster has few nodes")
}

impl Bench {
    pub fn new(kind: Kind) -> Self {
        let shape = Shape {
            nodes: kind.nodes,
            devices: kind.devices,
        };
        let (media, init, now) = (Media::format(shape), init_of(shape), Time::from_millis(10_000));
        let mut bench = Self {
            kind,
            now,
            seats: Vec::new(),
            due: VecDeque::new(),
            sent: VecDeque::new(),
            seen: Seen::default(),
            sent_count: 0,
            media,
        };
        bench.seen.bytes("digest", &init.digest);
        bench.seen.text("text", &init.text);
        for server in 0..kind.nodes {
            let node = Node::new(bench.settings(server, 0, &init, None), now);
            let stores = bench.stores(server);
            bench.seats.push(Seat {
                init: init.clone(),
                staged: None,
                node,
                stores,
                run: 0,
            });
        }
        bench
    }

    fn settings(&self, server: usize, run: u64, init: &InitFile, staged: Option<InitFile>) -> Settings {
        let machine = [server as u8 + 1; 16];
        let shape = Shape {
            nodes: self.kind.nodes,
            devices: self.kind.devices,
        };
        Settings {
            me: node_id(server),
            cluster: CLUSTER,
            nodes: init.nodes,
            init: init.clone(),
            staged,
            devices: shape.device_set(),
            incarnation: Incarnation(run << 8 | server as u64),
            host: Host {
                name: format!("machine{server}"),
                machine,
                lock: machine,
                hardware: machine,
                server: init.servers.get(node_id(server)),
            },
            heartbeat: HEARTBEAT,
            lease: LEASE,
            fencing: self.kind.fencing,
            disk_deadline: LEASE,
            propagation: self.kind.propagation,
            update_propagation: self.kind.update_propagation,
            content_bytes_max: self.media.room.content_bytes,
            image_chunk_bytes: 512,
            update_bytes_whole_max: if self.kind.pieces { 0 } else { 1 << 20 },
            sync_timeout: LEASE,
            // Some of what is asked for is worked out beside the loop.
            read_budget: 8,
            update_budget: 2,
        }
    }

    fn stores(&self, server: usize) -> Vec<Option<Store>> {
        (0..3).map(|slot| self.media.store(server, slot)).collect()
    }

    /// The process of a server ends, and another one begins with what is stored.
    pub fn restart(&mut self, server: usize) {
        let seat = &self.seats[server];
        let (run, init, staged) = (seat.run + 1, seat.init.clone(), seat.staged.clone());
        let node = Node::new(self.settings(server, run, &init, staged), self.now);
        let stores = self.stores(server);
        let seat = &mut self.seats[server];
        (seat.node, seat.stores, seat.run) = (node, stores, run);
        self.deliver(server, Event::Timer);
    }

    /// A way of another process of this node to its replica.
    pub fn intruder(&self, server: usize, slot: usize) -> Option<Store> {
        let mut store = self.media.store(server, slot)?;
        store.begin();
        store.execute(ReplicaOp::Open).ok()?;
        Some(store)
    }

    pub fn queue(&mut self, server: usize, event: Event) {
        let run = self.seats[server].run;
        self.due.push_back(Due { server, run, event });
    }

    /// The next event, if there is one and its process still runs.
    pub fn next_due(&mut self) -> Option<Due> {
        loop {
            let due = self.due.pop_front()?;
            if self.seats[due.server].run == due.run {
                return Some(due);
            }
        }
    }

    pub fn deliver(&mut self, server: usize, event: Event) {
        let node = &mut self.seats[server].node;
        let mut actions = Vec::new();
        node.handle(self.now, event, &mut actions);
        assert!(
            actions.len() <= ACTIONS_MAX,
            "one event leads to {} actions: {:?}",
            actions.len(),
            &actions[..8]
        );
        assert!(node.next_deadline() > self.now, "node {server} never waits");
        for action in actions {
            self.perform(server, action);
        }
    }

    fn perform(&mut self, server: usize, action: Action) {
        match action {
            Action::Send { to, message } => self.send(server, to, message),
            Action::Replica { ticket, replica, op } => {
                let result = self.execute(server, replica, op);
                self.queue(server, Event::Replica { ticket, result });
            }
            Action::Fence { ticket, device, op } => {
                let initiator = self.media.initiator(server, device);
                let result = initiator
                    .map(|initiator| initiator.execute(op))
                    .ok_or_else(missing);
                self.queue(server, Event::Fenced { ticket, result });
            }
            Action::StageInit { init } => {
                let digest = init.digest;
                self.seats[server].staged = Some(init);
                let result = Ok(());
                self.queue(server, Event::Staged { digest, result });
            }
            Action::AdoptInit { init } => {
                self.seats[server].init = init;
                self.seats[server].staged = None;
            }
            Action::RunCommand { ticket, .. } => {
                let result = Ok(());
                self.queue(server, Event::CommandDone { ticket, result });
            }
            Action::Unpack { from, bytes } => {
                if let Ok(message) = postcard::from_bytes(&bytes) {
                    self.queue(server, Event::Message { from, message });
                }
            }
            Action::Work { ticket, work } => {
                let worked = work.run();
                self.queue(server, Event::Worked { ticket, worked });
            }
            Action::Reply { .. }
            | Action::Read { .. }
            | Action::StopCommand { .. }
            | Action::Record(_)
            | Action::KeepLoss(_)
            | Action::Committed(_) => {}
        }
    }

    fn send(&mut self, server: usize, to: NodeId, message: Message) {
        // What is not kept is not looked at: most messages are heartbeats.
        let is_heartbeat = matches!(message, Message::Heartbeat(_) | Message::HeartbeatAck { .. });
        self.sent_count += 1;
        if !is_heartbeat || self.sent_count.is_multiple_of(32) {
            let bytes = postcard::to_allocvec(&message).expect("messages are plain data");
            values::note::<Message>(&bytes, &mut self.seen);
            if self.sent.len() == SENT_KEPT {
                self.sent.pop_front();
            }
            self.sent.push_back(bytes);
        }
        if to.index() < self.seats.len() {
            let from = node_id(server);
            self.queue(to.index(), Event::Message { from, message });
        }
    }

    fn execute(
        &mut self,
        server: usize,
        replica: Replica,
        op: ReplicaOp,
    ) -> Result<ReplicaAnswer, ReplicaError> {
        let store = (self.seats[server].stores)[slot(replica)]
            .as_mut()
            .ok_or_else(missing)?;
        store.begin();
        store.execute(op)
    }

    /// The time goes on to the next deadline of any node, but not beyond `until`.
    pub fn pass_time(&mut self, until: Time) {
        let next = (self.seats.iter().map(|seat| seat.node.next_deadline()).min()).unwrap_or(until);
        self.now = next.min(until).max(self.now);
        for server in 0..self.seats.len() {
            if self.seats[server].node.next_deadline() <= self.now {
                self.deliver(server, Event::Timer);
            }
        }
    }

    /// Everything is delivered, and the time goes on so far.
    pub fn go_on(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            self.calm_down();
            if self.now >= until {
                return;
            }
            self.pass_time(until);
        }
    }

    /// Everything is delivered at once.
    fn calm_down(&mut self) {
        let mut count = 0;
        while let Some(Due { server, event, .. }) = self.next_due() {
            count += 1;
            assert!(
                count <= EVENTS_AT_ONCE_MAX,
                "a storm: node {server} gets {event:?}, and {} more wait",
                self.due.len()
            );
            self.deliver(server, event);
        }
    }

    pub fn servers(&self) -> usize {
        self.seats.len()
    }

    /// How many nodes serve.
    #[cfg(test)]
    pub fn serving(&self) -> usize {
        let nodes = self.seats.iter().map(|seat| seat.node.status(self.now));
        nodes
            .filter(|status| status.state == ServingState::Serving)
            .count()
    }

    /// No node holds more than a small cluster needs.
    pub fn check_memory(&self) {
        for (server, seat) in self.seats.iter().enumerate() {
            let bytes = format!("{:?}", seat.node).len();
            assert!(
                bytes <= NODE_TEXT_BYTES_MAX,
                "node {server} holds {bytes} bytes of text"
            );
        }
    }
}

fn missing() -> ReplicaError {
    ReplicaError {
        kind: ReplicaErrorKind::Io,
        text: "this cluster has no such device".to_owned(),
    }
}
