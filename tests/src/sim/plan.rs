//! What a seed means: the shape of the cluster, and which faults its history has.
//!
//! # The fault budget
//!
//! Swarm testing: each seed draws which kinds of faults are on, so that rare mixes are met too. While faults are on
//! (the first 6 to 16 seconds), *anything* of what is on may happen at once, to any number of nodes and devices:
//!
//! | kind | what is drawn |
//! | --- | --- |
//! | crash | a process is killed (also in the middle of carrying out one event's actions), and started again after 50 ms to 6 s; its writes in flight may be lost, torn, or land up to 4 s later, but before it starts again |
//! | power | as a crash, and the local copy loses what was not flushed; or the whole cluster at once |
//! | pause | a process stands still for 50 ms to 6 s; its clock, its sockets and its writes in flight do not |
//! | network | delay to 300 ms, loss to 20 %, repetition (to 3 s later) to 10 %, order at random |
//! | cuts | one direction of a pair, a whole pair, or one node from all |
//! | device errors | reads and writes fail; a write that failed may be on the device whole or in part |
//! | device stalls | a device or a path does not answer for 50 ms to 6 s: longer than the deadline |
//! | device loss | a device is gone for all nodes, or for one only, and returns with what it held |
//! | slow devices | every operation takes up to 60 ms; with reservations up to 900 ms, nearly a lease, with a deadline to match |
//! | reservations | (with reservations) a session to a device is made anew under a running process; a target is reset, and forgets its reservation unless it stores it; a step has been done and is answered as failed |
//! | leave | nodes leave gracefully and join again |
//! | copy | a machine that is a copy of a server, with its state folder of that moment, runs beside it on the same devices; if it opens a configuration while its original hangs, the cluster may stop for good, but loses nothing without saying so |
//! | replaced | once a history: a server is stopped, cut off or dead; an operator removes it, and gives its number to another server with an empty state folder; it returns, and both run to the end (see `replaced.rs`); not together with copies |
//! | commands | one history in eight: updates of a key run a synchronization command that agrees, refuses, is slow, or never ends |
//! | drift | clocks run up to 2 % fast or slow (always: they start anywhere) |
//!
//! Groups (see `groups.rs`) have these as well:
//!
//! | kind | what is drawn |
//! | --- | --- |
//! | crash of some | two or more processes are killed at the same moment, with or without power |
//! | partition | the nodes fall into two or three groups that hear nothing of each other |
//! | cuts one way | any number of directions between any nodes are cut at once |
//! | flapping link | a node is cut off from all and let in again, over and over, from every 30 ms to every 1.5 s |
//! | flapping process | a process is killed and started again, over and over |
//! | date jump | the calendar of a node (not its clock) goes up to ten years forward or back |
//!
//! The family of replicas (see `episodes.rs`) has faults of its own: while all power is off, any replicas are set back to an earlier
//! moment, with and without the history beside them, or made anew; any devices are away when the servers start again.
//!
//! The family of clones (see `clones.rs`): one of two servers is shown a copy of one disk while the other one owns both, and loses its way
//! to the other disk.
//!
//! The family of moves (see `moves.rs`): copies of servers, of now or of some seconds ago, have the network of their servers in turn, and
//! who decides a configuration dies just then.
//!
//! Never in the budget, because nothing could be promised then: content of a device or local copy that changes by
//! itself, a flush that lies, clocks whose rates differ by more than the protocol's margin, and operators who
//! overrule the votes. Directed scenarios have some of them.

use super::network::Weather;
use super::random::Random;
use super::world::DISK_DEADLINE;
use super::{edits, groups, moves};
use ccd_core::ids::{DeviceRole, DeviceSet, NodeId, NodeSet};
use ccd_core::init::{Fencing, Propagation};
use core::fmt;
use core::time::Duration;

/// Which nodes and devices a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub nodes: usize,
    pub devices: usize,
}

impl Shape {
    pub const PAIR: Self = Self { nodes: 2, devices: 2 };

    pub fn node_set(self) -> NodeSet {
        NodeId::all().take(self.nodes).collect()
    }

    pub fn device_set(self) -> DeviceSet {
        DeviceRole::ALL.into_iter().take(self.devices).collect()
    }

    fn draw(random: &mut Random) -> Self {
        let (nodes, devices) = match random.below(100) {
            0..54 => (2, 2),
            54..64 => (2, 1),
            64..74 => (3, 0),
            74..83 => (2, 0),
            83..90 => (4, 0),
            90..95 => (1, 2),
            _ => (1, 1),
        };
        Self { nodes, devices }
    }
}

/// One kind of fault, started at a random moment. See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    Crash,
    PowerCut,
    PowerCutAll,
    Pause,
    CutOneWay,
    CutPair,
    Isolate,
    DeviceLoss,
    PathLoss,
    DeviceStall,
    PathStall,
    Leave,
    /// A node's session with a device is made anew: it is not registered there.
    Reconnect,
    /// A target is reset, and forgets its reservation if it does not store it.
    TargetReset,
    /// A machine that is a copy of a server runs for a while beside it, on the same devices and without a network.
    Copy,
    /// A server is removed while it does not hear of it, its number is given to another one, and it returns.
    Replace,
    /// A server is shown a copy of a disk, while the other one owns it.
    Clone,
    /// A copy of a server has its network for a while, or to the end.
    Move,
    /// An option is edited in a server's init database, and put right later.
    Edit,
    /// Several processes die at once.
    CrashSome,
    /// The nodes fall into groups that do not hear each other.
    Partition,
    /// Many directions are cut at once.
    CutsOneWay,
    /// A node is cut off and let in again, over and over.
    FlapLink,
    /// A process dies and starts again, over and over.
    FlapProcess,
    /// A node's calendar jumps.
    DateJump,
}

/// The faults of one history.
#[derive(Clone, Debug)]
pub struct FaultBudget {
    pub kinds: Vec<FaultKind>,
    /// Mean time from one fault to the next.
    pub interval: Duration,
    pub weather: Weather,
    /// An operation on a device fails this often.
    pub disk_error_per_mille: u64,
    pub disk_delay_max: Duration,
    /// How long a node waits for one operation: shorter than a lease, or longer.
    pub disk_deadline: Duration,
    /// The process dies, or stands still, just before it carries out an action that changes something.
    pub crash_at_action_per_mille: u64,
    pub pause_at_action_per_mille: u64,
    /// Who has decided a configuration dies within some milliseconds.
    pub dies_deciding_per_mille: u64,
    /// Writes in flight at a crash may land late.
    pub late_writes: bool,
    pub torn_writes: bool,
    pub drift: bool,
    /// Targets store registrations (APTPL).
    pub targets_remember: bool,
    /// A step with a reservation fails this often, or is done and answered as failed.
    pub fence_error_per_mille: u64,
    /// Nodes are started up to this far apart.
    pub start_spread: Duration,
    /// Faults begin before the cluster has opened for the first time.
    pub from_the_start: bool,
    /// When all faults end.
    pub end: Duration,
}

impl FaultBudget {
    /// A world without faults, for directed scenarios.
    pub fn none() -> Self {
        Self {
            kinds: Vec::new(),
            interval: Duration::MAX,
            weather: Weather::FAIR,
            disk_error_per_mille: 0,
            disk_delay_max: Duration::from_micros(300),
            disk_deadline: DISK_DEADLINE,
            crash_at_action_per_mille: 0,
            pause_at_action_per_mille: 0,
            dies_deciding_per_mille: 0,
            late_writes: false,
            torn_writes: false,
            drift: false,
            targets_remember: true,
            fence_error_per_mille: 0,
            start_spread: Duration::from_millis(20),
            from_the_start: false,
            end: Duration::ZERO,
        }
    }

    /// Reservations have faults of their own.
    pub(super) fn draw_for_reservations(&mut self, random: &mut Random) {
        if random.chance(400) {
            self.kinds.push(FaultKind::Reconnect);
        }
        if random.chance(400) {
            self.kinds.push(FaultKind::TargetReset);
        }
        self.targets_remember = random.chance(500);
        if random.chance(500) {
            self.disk_deadline = DISK_DEADLINE * 4;
            if random.chance(300) {
                self.disk_delay_max = Duration::from_millis(random.skewed(60, 900));
            }
        }
        self.fence_error_per_mille = if random.chance(350) {
            random.skewed(1, 50)
        } else {
            0
        };
    }

    /// Drawn apart, so that the same number has the same other faults without reservations.
    fn draw_reservations_of(&mut self, seed: Seed, shape: Shape, draws: &Random) {
        if seed.fencing == Fencing::Scsi && shape.devices > 0 {
            self.draw_for_reservations(&mut draws.clone().fork("reservations"));
        }
    }

    pub(super) fn draw(random: &mut Random, shape: Shape) -> Self {
        let mut kinds = Vec::new();
        let mut consider = |kind: FaultKind, possible: bool, random: &mut Random| {
            if possible && random.chance(400) {
                kinds.push(kind);
            }
        };
        let (pair, shared) = (shape.nodes > 1, shape.devices > 0);
        consider(FaultKind::Crash, true, random);
        consider(FaultKind::PowerCut, true, random);
        consider(FaultKind::PowerCutAll, random.chance(500), random);
        consider(FaultKind::Pause, true, random);
        consider(FaultKind::CutOneWay, pair, random);
        consider(FaultKind::CutPair, pair, random);
        consider(FaultKind::Isolate, pair, random);
        consider(FaultKind::DeviceLoss, shared, random);
        consider(FaultKind::PathLoss, shared, random);
        consider(FaultKind::DeviceStall, shared, random);
        consider(FaultKind::PathStall, shared, random);
        consider(FaultKind::Leave, pair && random.chance(500), random);
        // Drawn apart, so that what other draws give does not depend on it.
        if shared && random.clone().fork("copies").chance(200) {
            kinds.push(FaultKind::Copy);
        }
        // Between removal and addition one node may be left without a device, and no device shows it a copy of itself.
        let has_copies = kinds.contains(&FaultKind::Copy);
        if shared && pair && !has_copies && random.clone().fork("replaced").chance(150) {
            kinds.push(FaultKind::Replace);
        }
        let on = |random: &mut Random, high: u64| {
            if random.chance(350) {
                random.skewed(1, high)
            } else {
                0
            }
        };
        Self {
            kinds,
            interval: Duration::from_millis(random.skewed(250, 4_000)),
            weather: Weather {
                delay_max: if random.chance(400) {
                    Duration::from_micros(random.skewed(500, 300_000))
                } else {
                    Weather::FAIR.delay_max
                },
                loss_per_mille: on(random, 200),
                repeat_per_mille: on(random, 100),
            },
            disk_error_per_mille: on(random, 30),
            disk_delay_max: if random.chance(400) {
                Duration::from_micros(random.skewed(500, 60_000))
            } else {
                Duration::from_micros(500)
            },
            crash_at_action_per_mille: on(random, 20),
            pause_at_action_per_mille: if random.chance(200) {
                random.skewed(1, 10)
            } else {
                0
            },
            dies_deciding_per_mille: 0,
            late_writes: random.chance(600),
            torn_writes: random.chance(600),
            disk_deadline: DISK_DEADLINE,
            drift: random.chance(700),
            targets_remember: true,
            fence_error_per_mille: 0,
            start_spread: Duration::from_millis(if random.chance(200) {
                random.below(4_000)
            } else {
                100
            }),
            from_the_start: random.chance(150),
            end: Duration::from_millis(random.between(6_000, 16_000)),
        }
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub clients: usize,
    /// Longest pause between two operations of one client.
    pub think_max: Duration,
    /// Most operations of all clients together: bounds the checker's work.
    pub operations_max: usize,
    pub keys: usize,
    pub registers: u8,
    /// The first key has a synchronization command that does anything.
    pub command: bool,
}

/// How a seed becomes a plan. The same seed means another history in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Mostly two nodes with two devices.
    Pairs,
    /// One to seven nodes, none to two devices.
    Groups,
    /// One to three nodes; replicas are set back to an earlier moment, or made anew.
    Replicas,
    /// Two nodes with two devices; one of them is shown a copy of a disk.
    Clones,
    /// Two to five nodes; copies of servers have their network in turn.
    Moves,
    /// Pairs and groups; an option is edited on one server.
    Edits,
}

impl Family {
    pub const ALL: [Self; 6] = [
        Self::Pairs,
        Self::Groups,
        Self::Replicas,
        Self::Clones,
        Self::Moves,
        Self::Edits,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Groups => "groups",
            Self::Replicas => "replicas",
            Self::Clones => "clones",
            Self::Moves => "moves",
            Self::Edits => "edits",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// Which history: everything follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub number: u64,
    pub family: Family,
    pub fencing: Fencing,
}

impl Seed {
    /// Odd numbers have reservations, even ones leases only; of four in a row two are pairs and two are groups.
    pub const fn usual(number: u64) -> Self {
        Self {
            number,
            family: if number % 4 < 2 {
                Family::Pairs
            } else {
                Family::Groups
            },
            fencing: if number % 2 == 1 {
                Fencing::Scsi
            } else {
                Fencing::Lease
            },
        }
    }
}

impl fmt::Display for Seed {
    /// As the program `simulate` takes it: `4711 --family pairs --fencing scsi`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            family,
            fencing,
        } = self;
        write!(f, "{number} --family {} --fencing {fencing}", family.name())
    }
}

/// Everything that a seed decides before the first event.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: Seed,
    pub propagation: Propagation,
    pub update_propagation: Propagation,
    pub shape: Shape,
    pub faults: FaultBudget,
    pub load: Load,
}

/// Of histories that are about replicas: few clients, and not for long.
fn small_load(draws: &mut Random) -> Load {
    Load {
        clients: draws.between(2, 4) as usize,
        think_max: Duration::from_millis(draws.skewed(30, 400)),
        operations_max: draws.between(100, 350) as usize,
        keys: draws.between(1, 3) as usize,
        registers: draws.between(1, 3) as u8,
        command: false,
    }
}

/// Odd numbers of nodes where there are no devices: half of the nodes answers queries, and without a vote nobody can tell that they
/// are old.
fn replicas_shape(random: &mut Random) -> Shape {
    let (nodes, devices) = match random.below(100) {
        0..56 => (2, 2),
        56..72 => (2, 1),
        72..82 => (1, 2),
        82..86 => (1, 1),
        86..93 => (3, 2),
        _ => (3, 0),
    };
    Shape { nodes, devices }
}

fn draw_propagation(random: &mut Random) -> Propagation {
    if random.chance(500) {
        Propagation::Forward
    } else {
        Propagation::Broadcast
    }
}

/// How copies travel, and how updates do. Drawn apart, so that what other draws give does not depend on it.
fn draw_ways(draws: &Random) -> (Propagation, Propagation) {
    let mut ways = draws.clone().fork("propagation");
    (draw_propagation(&mut ways), draw_propagation(&mut ways))
}

impl Plan {
    /// The same number has the same shape, load and other faults with both kinds of fencing.
    pub fn draw(seed: Seed) -> (Self, Random) {
        let mut random = Random::new(seed.number);
        let mut draws = random.fork("plan");
        let plan = match seed.family {
            Family::Pairs => {
                let shape = Shape::draw(&mut draws);
                let mut faults = FaultBudget::draw(&mut draws, shape);
                faults.draw_reservations_of(seed, shape, &draws);
                let (propagation, update_propagation) = draw_ways(&draws);
                let command = groups::draws_command(&draws);
                let load = Load {
                    clients: draws.between(2, 5) as usize,
                    think_max: Duration::from_millis(draws.skewed(20, 400)),
                    operations_max: draws.between(100, 350) as usize,
                    keys: draws.between(1, 3) as usize,
                    registers: draws.between(1, 3) as u8,
                    command,
                };
                Self {
                    seed,
                    propagation,
                    update_propagation,
                    shape,
                    faults,
                    load,
                }
            }
            Family::Replicas => {
                let mut draws = draws.fork("replicas");
                let shape = replicas_shape(&mut draws);
                let faults = FaultBudget {
                    start_spread: Duration::from_millis(100),
                    late_writes: draws.chance(500),
                    torn_writes: draws.chance(500),
                    targets_remember: draws.chance(500),
                    drift: draws.chance(500),
                    ..FaultBudget::none()
                };
                let load = small_load(&mut draws);
                let (propagation, update_propagation) = draw_ways(&draws);
                Self {
                    seed,
                    propagation,
                    update_propagation,
                    shape,
                    faults,
                    load,
                }
            }
            Family::Clones => {
                let mut draws = draws.fork("clones");
                let faults = super::clones::faults(&mut draws);
                let load = small_load(&mut draws);
                let (propagation, update_propagation) = draw_ways(&draws);
                Self {
                    seed,
                    propagation,
                    update_propagation,
                    shape: Shape::PAIR,
                    faults,
                    load,
                }
            }
            Family::Moves => Self::of_a_group(
                seed,
                draws.fork("moves"),
                moves::shape,
                moves::faults,
                moves::load,
            ),
            Family::Edits => Self::of_a_group(
                seed,
                draws.fork("edits"),
                edits::shape,
                edits::faults,
                groups::load,
            ),
            Family::Groups => Self::of_a_group(
                seed,
                draws.fork("groups"),
                groups::shape,
                groups::faults,
                groups::load,
            ),
        };
        (plan, random)
    }

    /// Of a family that draws its own shapes, faults and loads.
    fn of_a_group(
        seed: Seed,
        mut draws: Random,
        shape: fn(&mut Random) -> Shape,
        faults: fn(&mut Random, Shape) -> FaultBudget,
        load: fn(&mut Random, Shape) -> Load,
    ) -> Self {
        let shape = shape(&mut draws);
        let mut faults = faults(&mut draws, shape);
        faults.draw_reservations_of(seed, shape, &draws);
        let (propagation, update_propagation) = draw_ways(&draws);
        Self {
            seed,
            propagation,
            update_propagation,
            shape,
            faults,
            load: load(&mut draws, shape),
        }
    }
}
