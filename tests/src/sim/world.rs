//! The simulated world: servers, network, devices and clients on one line of virtual time.
//!
//! Everything happens in [`World::step`], one event at a time, in the order of time and then of scheduling. The
//! world carries out the actions of the real [`Node`](ccd_core::protocol::Node) and shows each of them to the
//! [`Ledger`] first.

use super::asks::Ask;
use super::backups::Setbacks;
use super::client::Workload;
use super::commands::Commands;
use super::durable::Durable;
use super::happening::{Happening, Scheduled};
use super::history::Instant;
use super::ledger::Ledger;
use super::log::Log;
use super::media::Media;
use super::moment::{Clock, DRIFT_PPM_MAX, Moment};
use super::network::Network;
use super::plan::{FaultBudget, Plan, Shape};
use super::random::Random;
use super::replaced::Replaced;
use super::server::Server;
use super::store::Store;
use super::telling::Tellings;
use super::unsound::Unsound;
use super::voters::Voters;
use ccd_core::client::RequestBody;
use ccd_core::configuration::Configuration;
use ccd_core::ids::{ClusterId, Epoch, NodeId};
use ccd_core::init::{Fencing, Propagation};
use ccd_core::protocol::{Event, Ticket};
use ccd_core::replica::ReplicaOp;
use core::time::Duration;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

pub const CLUSTER: ClusterId = ClusterId(*b"simulated world!");
pub const HEARTBEAT: Duration = Duration::from_millis(100);
pub const LEASE: Duration = Duration::from_millis(1_000);
pub const DISK_DEADLINE: Duration = Duration::from_millis(500);

const LOCAL_LATENCY_MAX: Duration = Duration::from_micros(200);

/// More events than this at one moment mean that a node spins.
const EVENTS_AT_ONE_MOMENT_MAX: u32 = 20_000;

/// More events than this in one history, or as many that are still to come, mean that nodes answer each other without end.
/// A usual history has ten thousand.
const EVENTS_MAX: u64 = 3_000_000;

/// The same within one heartbeat: there a usual history has some hundreds, and thousands when a process that stood still goes on.
const EVENTS_A_HEARTBEAT_MAX: u64 = 30_000;

/// A write that outlives the process that made it.
#[derive(Debug)]
pub(super) struct Ghost {
    pub server: usize,
    pub slot: usize,
    pub store: Store,
    pub op: ReplicaOp,
}

#[derive(Debug)]
pub struct World {
    pub now: Moment,
    pub shape: Shape,
    pub fencing: Fencing,
    /// How copies travel, and how updates do.
    pub propagation: Propagation,
    pub update_propagation: Propagation,
    /// Every update is offered and fetched piece by piece, as one that loads a database.
    pub updates_in_pieces: bool,
    /// Reads of more than a row or two, and updates of more than one, are worked out beside the loop.
    pub work_takes_long: bool,
    /// Dry runs that each node has worked out beside the loop.
    pub dry_runs_worked: Vec<usize>,
    pub faults: FaultBudget,
    /// Faults of the budget happen.
    pub faulty: bool,
    pub servers: Vec<Server>,
    pub network: Network,
    pub(super) media: Media,
    pub ledger: Ledger,
    pub(super) tellings: Tellings,
    pub(super) voters: Voters,
    pub(super) durable: Durable,
    pub(super) setbacks: Setbacks,
    pub workload: Workload,
    pub commands: Commands,
    pub log: Log,
    pub unsound: Option<Unsound>,
    /// Some copy was damaged on purpose: what is kept of it is not what its position says.
    pub damaged: bool,
    /// A server that dies just before it carries out an action that changes something, and how many it carries out
    /// before that. Taken when it has happened.
    pub dies_after: Option<(usize, u64)>,
    /// A copy of a server opened a configuration while its original hung: both may write to one area of a device, and what one has
    /// written the other may write over. A start then waits and says so, and an operator must look.
    pub two_runs: bool,
    /// A copy of a server had its network: what it promised went with it.
    pub copy_was_connected: bool,
    /// Every operation on a device takes so much longer.
    pub device_lag: Duration,
    /// Which server has promised or voted as this node in an instance.
    pub voted_by: BTreeMap<(NodeId, Epoch), usize>,
    /// Servers that were put into other hardware so far.
    pub moves: usize,
    /// The server whose number is given to another one.
    pub(super) replaced: Option<Replaced>,
    /// A server is shown a copy of a disk.
    pub(super) clone: Option<super::clones::Clone>,
    /// Who sent whom something of a copy, in order.
    pub copies: Vec<(usize, usize)>,
    /// How long an operation on each server's local copy takes at most.
    pub local_latency_max: Vec<Duration>,
    /// A defect that the harness puts in on purpose, to see that it is found.
    pub sabotage: Option<Sabotage>,
    pub(super) asks: BTreeMap<u64, Ask>,
    pub(super) ghosts: BTreeMap<u64, Ghost>,
    pub(super) chance: Random,
    queue: BinaryHeap<Reverse<Scheduled>>,
    next_serial: u64,
    pub(super) next_token: u64,
    next_instant: u64,
    events_now: u32,
    /// When the present stretch of one heartbeat began, and how many events there were before.
    stretch: (Moment, u64),
    pub events: u64,
}

/// Defects that [`World`] can put in between the nodes and the rest of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Some strict queries are answered with what the same query answered earlier.
    StaleAnswers,
    /// Some updates that were refused because the node does not serve are acked.
    FalseAcks,
    /// Some acked updates are not: the client hears that they were rolled back.
    FalseRollbacks,
    /// Some ballots are answered as written, and are not.
    ForgottenBallots,
}

impl World {
    pub fn new(plan: &Plan, random: &mut Random, recording: bool) -> Self {
        let shape = plan.shape;
        let mut clocks = random.fork("clocks");
        let init = super::inits::init_of(shape);
        let servers = shape
            .node_set()
            .iter()
            .map(|id| {
                let ppm = DRIFT_PPM_MAX as u64;
                let drift = if plan.faults.drift {
                    clocks.between(0, 2 * ppm) as i64 - ppm as i64
                } else {
                    0
                };
                Server::new(id, Clock::new(clocks.below(1 << 50), drift), init.clone())
            })
            .collect();
        let genesis = Configuration::genesis(shape.node_set(), shape.device_set());
        Self {
            now: Moment::ZERO,
            shape,
            fencing: plan.seed.fencing,
            propagation: plan.propagation,
            update_propagation: plan.update_propagation,
            updates_in_pieces: plan.seed.number / 4 % 4 == 3,
            work_takes_long: plan.seed.number / 16 % 4 == 3,
            dry_runs_worked: vec![0; shape.nodes],
            faults: plan.faults.clone(),
            faulty: false,
            servers,
            network: Network::new(shape.nodes, plan.faults.weather, random.fork("network")),
            media: Media::format(shape),
            ledger: Ledger::new(genesis.clone()),
            tellings: Tellings::default(),
            voters: Voters::new(genesis),
            durable: Durable::default(),
            setbacks: Setbacks::default(),
            workload: Workload::new(plan.load, shape, random.fork("workload")),
            commands: Commands::new(random.clone().fork("commands")),
            log: Log::new(recording),
            unsound: None,
            sabotage: None,
            damaged: false,
            dies_after: None,
            two_runs: false,
            copy_was_connected: false,
            device_lag: Duration::ZERO,
            voted_by: BTreeMap::new(),
            moves: 0,
            replaced: None,
            clone: None,
            copies: Vec::new(),
            local_latency_max: vec![LOCAL_LATENCY_MAX; shape.nodes],
            asks: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            chance: random.fork("world"),
            queue: BinaryHeap::new(),
            next_serial: 0,
            next_token: 0,
            next_instant: 0,
            events_now: 0,
            stretch: (Moment::ZERO, 0),
            events: 0,
        }
    }

    /// What everybody starts from.
    pub(super) fn begin_from(&mut self, genesis: Configuration) {
        self.ledger = Ledger::new(genesis.clone());
        self.voters = Voters::new(genesis);
    }

    pub(super) fn at(&mut self, at: Moment, happening: Happening) {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.queue.push(Reverse(Scheduled {
            at,
            serial,
            happening: Box::new(happening),
        }));
    }

    pub(super) fn after(&mut self, span: Duration, happening: Happening) {
        self.at(self.now + span, happening);
    }

    /// Nanoseconds between these two, drawn with a preference for the shorter.
    pub(super) fn draw(&mut self, low: Duration, high: Duration) -> Duration {
        Duration::from_nanos(self.chance.skewed(low.as_nanos() as u64, high.as_nanos() as u64))
    }

    pub(super) fn instant(&mut self) -> Instant {
        self.next_instant += 1;
        Instant(self.next_instant)
    }

    /// Keeps the first finding: what comes after it may only follow from it.
    pub fn judge(&mut self, result: Result<(), Unsound>) {
        // After what nobody could know nothing is promised.
        if let Err(unsound) = result
            && !self.is_over()
        {
            self.log.line(self.now, format_args!("UNSOUND {unsound}"));
            self.unsound.get_or_insert(unsound);
        }
    }

    /// The next event. False when nothing is left to happen, or something unsound has.
    pub fn step(&mut self) -> bool {
        if self.unsound.is_some() || self.is_over() {
            return false;
        }
        let Some(Reverse(Scheduled { at, happening, .. })) = self.queue.pop() else {
            return false;
        };
        self.events += 1;
        self.events_now = if at == self.now { self.events_now + 1 } else { 0 };
        if self.events_now > EVENTS_AT_ONE_MOMENT_MAX {
            let text = format!("{EVENTS_AT_ONE_MOMENT_MAX} events at {at:?}; the last: {happening:?}");
            self.judge(Err(Unsound::liveness("invariant_time_goes_on", text)));
            return false;
        }
        if at.since(self.stretch.0) >= HEARTBEAT {
            self.stretch = (at, self.events);
        }
        if self.next_serial > EVENTS_MAX || self.events - self.stretch.1 > EVENTS_A_HEARTBEAT_MAX {
            let text = format!(
                "{} events and {} since {:?}, until {at:?}; the next: {happening:?}",
                self.next_serial,
                self.events - self.stretch.1,
                self.stretch.0
            );
            self.judge(Err(Unsound::liveness("invariant_events_are_bounded", text)));
            return false;
        }
        self.now = at;
        self.log.mix(at.0);
        self.happen(*happening);
        self.unsound.is_none() && !self.is_over()
    }

    /// Lets the world run for so long.
    pub fn run_for(&mut self, span: Duration) -> bool {
        let end = self.now + span;
        while self.queue.peek().is_some_and(|next| next.0.at <= end) {
            if !self.step() {
                return false;
            }
        }
        self.now = end;
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Start { server } => self.start(server),
            Happening::Resume { server } => self.resume(server),
            Happening::Timer { server, run } => {
                if self.servers[server].run == run {
                    self.servers[server].timer = None;
                    self.tell(server, Event::Timer);
                }
            }
            Happening::Deliver { from, to, run, bytes } => self.deliver(from, to, run, &bytes),
            Happening::Answer { server, run, event } => {
                if self.servers[server].run == run {
                    self.tell(server, *event);
                }
            }
            Happening::Disk { server, run, step } => {
                if self.servers[server].run == run {
                    self.disk_step(server, step);
                }
            }
            Happening::Expire {
                server,
                run,
                slot,
                serial,
            } => {
                if self.servers[server].run == run {
                    self.expire_op(server, slot, serial);
                }
            }
            Happening::Fence {
                server,
                run,
                ticket,
                device,
                op,
                answers,
            } => self.land_fence(server, run, ticket, device, op, answers),
            Happening::LateLanding { ghost } => self.land_late(ghost),
            Happening::Client { client } => self.client_acts(client),
            Happening::AskOverdue { token } => self.ask_overdue(token),
            Happening::CommandEnds {
                server,
                run,
                ticket,
                result,
            } => self.command_ends(server, run, ticket, *result),
            Happening::ReadEnds {
                server,
                run,
                client,
                read,
            } => self.read_ends(server, run, client, read),
            Happening::ReplacedReturns => self.replaced_returns(),
            Happening::OperatorLooks => self.operator_looks(),
            Happening::Fault => self.fault_begins(),
            Happening::Clone(step) => self.clone_goes_on(step),
            Happening::Moves { copy, of } => self.moves(copy, of),
            Happening::MovesBack { copy, of } => self.moves_back(copy, of),
            Happening::FaultEnds { kind, first, second } => self.fault_ends(kind, first, second),
            Happening::Cut { links } => {
                if self.faulty {
                    self.cut_links(&links);
                }
            }
            Happening::Mend { links } => self.mend_links(&links),
            Happening::Dies { server } => {
                if self.faulty {
                    self.crash(server, false);
                }
            }
        }
    }

    /// An event for a node: handled now, or when its process goes on.
    pub(super) fn tell(&mut self, index: usize, event: Event) {
        let server = &mut self.servers[index];
        if let Some(stopped) = &mut server.stopped {
            stopped.inbox.push(event);
            return;
        }
        let Some(process) = &mut server.process else {
            return;
        };
        if let Event::Client { request, .. } = &event
            && matches!(request.body, RequestBody::Join | RequestBody::Takeover { .. })
        {
            server.left_in = None;
        }
        if self.log.is_recording() {
            self.log.line(
                self.now,
                format_args!("n{index} <- {}", super::brief::event(&event)),
            );
        }
        let mut actions = Vec::new();
        process
            .node
            .handle(server.clock.show(self.now), event, &mut actions);
        self.perform(index, actions);
        self.schedule_timer(index);
    }

    pub(super) fn schedule_timer(&mut self, index: usize) {
        let server = &mut self.servers[index];
        let Some(process) = &server.process else {
            return;
        };
        let deadline = process.node.next_deadline();
        if deadline == ccd_core::time::Time::NEVER {
            return;
        }
        // A driver needs a moment to come round.
        let due = server
            .clock
            .moment_of(deadline)
            .max(self.now + Duration::from_micros(5));
        if server.timer.is_none_or(|timer| due < timer) {
            server.timer = Some(due);
            let run = server.run;
            self.at(due, Happening::Timer { server: index, run });
        }
    }

    fn deliver(&mut self, from: usize, to: usize, run: u64, bytes: &[u8]) {
        if self.servers[to].run != run {
            return;
        }
        self.log.mix_bytes(bytes);
        match postcard::from_bytes(bytes) {
            Ok(message) => {
                let from = self.servers[from].id;
                self.tell(to, Event::Message { from, message });
            }
            Err(error) => {
                let text = format!("a message does not decode: {error}");
                self.judge(Err(Unsound::new("invariant_messages_survive_the_wire", text)));
            }
        }
    }

    pub(super) fn answer(&mut self, index: usize, span: Duration, event: Event) {
        let run = self.servers[index].run;
        self.after(
            span,
            Happening::Answer {
                server: index,
                run,
                event: Box::new(event),
            },
        );
    }

    pub(super) fn answer_replica(&mut self, index: usize, ticket: Ticket, result: super::drive::OpResult) {
        self.answer(index, Duration::ZERO, Event::Replica { ticket, result });
    }

    pub fn node_id(&self, index: usize) -> NodeId {
        self.servers[index].id
    }
}
