//! One history from seed to verdict: start, load and faults, healing, and then the questions that every history
//! must answer.

use super::asks::{AskEnd, Asker};
use super::client::{format, key, update};
use super::commands::set_command;
use super::linear::{self, Verdict};
use super::log::Log;
use super::plan::{Family, Plan, Seed};
use super::unsound::{Kind, Unsound};
use super::world::{LEASE, Sabotage, World};
use ccd_core::client::{Answer, Refusal, RequestBody};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_core::ids::RequestId;
use ccd_core::protocol::rules::RE_OPEN_AFTER_MAX;
use core::time::Duration;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Within this time after the last fault the cluster must serve: leases, elections and restarts together.
pub const RECOVERY_MAX: Duration = LEASE.saturating_mul(20);

/// How long until all devices are back: one that failed again and again is left alone for so long at the most, and then shows for
/// some leases that it works.
const REDUNDANCY_MAX: Duration = RECOVERY_MAX.saturating_mul(2).saturating_add(RE_OPEN_AFTER_MAX);

/// How long one question of the end game waits.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// What became of one seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: Seed,
    pub unsound: Option<Unsound>,
    /// Of everything that happened: equal for equal seeds.
    pub hash: u64,
    pub log: Log,
    pub counts: Counts,
}

/// What a history consisted of, to see that the faults leave something to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub histories: u64,
    pub events: u64,
    pub operations: u64,
    pub acked: u64,
    pub configurations: u64,
    /// Checkpoints written as segments, and as whole images.
    pub segments: u64,
    pub images: u64,
    /// The checker gave up on it.
    pub too_hard: u64,
    /// Of the family of replicas: something was lost that nothing showed any more, or the cluster waited for an operator.
    pub over: u64,
    pub overruled: u64,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.events += other.events;
        self.operations += other.operations;
        self.acked += other.acked;
        self.configurations += other.configurations;
        self.segments += other.segments;
        self.images += other.images;
        self.too_hard += other.too_hard;
        self.over += other.over;
        self.overruled += other.overruled;
    }
}

/// Runs the history of a seed. `recording` keeps the event log as text.
pub fn run_seed(seed: Seed, recording: bool, sabotage: Option<Sabotage>) -> Outcome {
    let (plan, mut random) = Plan::draw(seed);
    let mut world = World::new(&plan, &mut random, recording);
    world.sabotage = sabotage;
    world.log.line(world.now, format_args!("{plan:?}"));
    let mut counts = Counts {
        histories: 1,
        ..Counts::default()
    };
    if let Err(unsound) = caught(|| history(&mut world, &plan, &mut counts)) {
        world.judge(Err(unsound));
    }
    counts.events = world.events;
    counts.operations = world.workload.operations as u64;
    counts.acked = world.workload.acked;
    counts.configurations = world.ledger.latest_configuration().epoch.0;
    counts.segments = world.media.checkpoints.segments();
    counts.images = world.media.checkpoints.images();
    Outcome {
        seed,
        unsound: world.unsound.take(),
        hash: world.log.hash(),
        log: world.log,
        counts,
    }
}

/// Runs something of the code under test; a panic becomes a finding.
pub fn caught(run: impl FnOnce() -> Result<(), Unsound>) -> Result<(), Unsound> {
    thread_local! {
        static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
        static CATCHING: RefCell<bool> = const { RefCell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if CATCHING.with(|catching| *catching.borrow()) {
                MESSAGE.with(|message| *message.borrow_mut() = Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
    CATCHING.with(|catching| *catching.borrow_mut() = true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CATCHING.with(|catching| *catching.borrow_mut() = false);
    result.unwrap_or_else(|_| {
        let text = MESSAGE
            .with(|message| message.borrow_mut().take())
            .unwrap_or_default();
        Err(Unsound {
            kind: Kind::Crash,
            invariant: "invariant_no_panic",
            text,
        })
    })
}

fn history(world: &mut World, plan: &Plan, counts: &mut Counts) -> Result<(), Unsound> {
    if plan.seed.family == Family::Replicas {
        return super::episodes::history(world, plan, counts);
    }
    world.start_all(plan.faults.start_spread);
    if plan.faults.from_the_start {
        world.let_faults_begin();
    }
    let limit = if plan.faults.from_the_start {
        plan.faults.end
    } else {
        plan.faults.start_spread + RECOVERY_MAX
    };
    let formatted = world.define_formats(plan.load.keys, limit);
    if formatted {
        world.let_clients_begin();
    } else if !plan.faults.from_the_start {
        return world.liveness("invariant_a_new_cluster_serves", "no node took the first update");
    }
    if !world.faulty {
        world.let_faults_begin();
    }
    world.run_for(plan.faults.end);
    world.heal();
    world.finish_replacing()?;
    if !formatted && !world.define_formats(plan.load.keys, RECOVERY_MAX) {
        return world.liveness(
            "invariant_faults_end_and_the_cluster_serves",
            "no node took an update",
        );
    }
    world.run_for(LEASE);
    world.workload.stop();
    end_game(world)?;
    linearizable(world, counts)
}

/// What the clients saw is what one database would have shown them.
pub(super) fn linearizable(world: &mut World, counts: &mut Counts) -> Result<(), Unsound> {
    world.workload.close();
    world.log.line(
        world.now,
        format_args!("{} operations to check", world.workload.history.len()),
    );
    match linear::check(&world.workload.history) {
        Verdict::Linearizable => Ok(()),
        Verdict::TooHard { object } => {
            counts.too_hard += 1;
            for operation in world
                .workload
                .history
                .iter()
                .filter(|known| known.object == object)
            {
                world.log.line(world.now, format_args!("too hard: {operation:?}"));
            }
            Ok(())
        }
        Verdict::Violation { object, stuck } => {
            let text = format!("key K{object}: no order of the operations explains {stuck:?}");
            Err(Unsound::new("invariant_strict_operations_are_linearizable", text))
        }
    }
}

/// After the faults: the cluster takes updates, then every node answers strictly, and all agree on the content.
pub(super) fn end_game(world: &mut World) -> Result<(), Unsound> {
    let sequence = 1_000_000 + world.events;
    let row = probe_row(sequence);
    if !world.some_node_takes(row.clone(), sequence, RECOVERY_MAX) {
        return world.liveness(
            "invariant_faults_end_and_the_cluster_serves",
            "no node took an update",
        );
    }
    for server in 0..world.shape.nodes {
        let server = world.holder(server);
        if !world.shows(server, &row, RECOVERY_MAX) {
            let text = format!("n{server} does not answer strict queries");
            return world.liveness("invariant_faults_end_and_all_nodes_serve", &text);
        }
    }
    let whole = |world: &World| {
        let configuration = world.ledger.latest_configuration();
        configuration.members == world.shape.node_set() && configuration.devices == world.shape.device_set()
    };
    if !world.run_until(REDUNDANCY_MAX, whole) {
        let text = format!("it ends as {}", world.ledger.latest_configuration());
        return world.liveness("invariant_faults_end_and_redundancy_returns", &text);
    }
    // Requests that were made before the end are answered.
    world.run_for(Duration::from_secs(5));
    for server in 0..world.shape.nodes {
        let server = world.holder(server);
        world.call(server, RequestBody::Snapshot { stale: false }, PROBE_TIMEOUT);
    }
    world.found()?;
    let applied = world.ledger.requests_up_to(world.ledger.seen());
    match world
        .workload
        .never
        .iter()
        .find(|request| applied.contains(request))
    {
        None => Ok(()),
        Some(request) => {
            let text = format!("{request:?} was refused, and is part of the database");
            Err(Unsound::new("invariant_refused_updates_never_appear", text))
        }
    }
}

fn probe_key() -> Key {
    Key::new("PROBE").expect("a good key")
}

fn probe_row(sequence: u64) -> Row {
    Row::new(probe_key(), [sequence.to_string()]).expect("a small row")
}

impl World {
    /// Starts all servers, up to `spread` apart.
    pub fn start_all(&mut self, spread: Duration) {
        for server in 0..self.shape.nodes {
            let later = self.draw(Duration::ZERO, spread);
            self.after(later, super::happening::Happening::Start { server });
        }
    }

    /// What was found unsound so far.
    pub fn found(&self) -> Result<(), Unsound> {
        self.unsound.clone().map_or(Ok(()), Err)
    }

    pub(super) fn liveness(&self, invariant: &'static str, text: &str) -> Result<(), Unsound> {
        self.found()?;
        let states: Vec<String> = (self.servers.iter())
            .filter(|server| !server.is_copy())
            .map(|server| match &server.process {
                Some(process) => {
                    let status = process.node.status(server.clock.show(self.now));
                    format!("n{} {:?}: {}", server.id, status.state, status.verdict)
                }
                None => format!("n{} is down", server.id),
            })
            .collect();
        // A cluster that may stop for good says what it lacks; so do servers whose copies were counted on, and are no more.
        let says = |text: &str| states.iter().any(|state| state.contains(text));
        if self.two_runs && says("a start would lose what was acknowledged")
            || self.copy_was_connected && says("has no vote before it was taken in again")
        {
            return Ok(());
        }
        Err(Unsound::liveness(
            invariant,
            format!("{text}; {}", states.join("; ")),
        ))
    }

    /// Lets the world run until this holds, at most so long.
    pub fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if holds(self) {
                return true;
            }
            if self.now >= end || !self.run_for(Duration::from_millis(5)) {
                return false;
            }
        }
    }

    /// Asks, and lets the world run until there is an answer. A server that is down answers [`AskEnd::Lost`].
    pub fn call(&mut self, server: usize, body: RequestBody, timeout: Duration) -> AskEnd {
        let Some(token) = self.ask(server, Asker::Script, body, timeout) else {
            return AskEnd::Lost;
        };
        self.await_end(token)
    }

    /// Lets the world run until this request has ended.
    pub fn await_end(&mut self, token: u64) -> AskEnd {
        while self.end_of(token).is_none() && self.step() {}
        self.end_of(token).cloned().unwrap_or(AskEnd::Lost)
    }

    /// Defines the keys that the load and the end game use.
    pub fn define_formats(&mut self, keys: usize, limit: Duration) -> bool {
        let end = self.now + limit;
        let probe = Op::Format {
            key: probe_key(),
            columns: vec!["sequence".into()],
        };
        let mut ops: Vec<Op> = (0..keys).map(format).chain([probe]).collect();
        if self.workload.has_command() {
            ops.extend(set_command(&key(0), "anything"));
        }
        let request = RequestId {
            client: 0xf0,
            sequence: 1,
        };
        while self.now < end && self.unsound.is_none() {
            for server in 0..self.shape.nodes {
                let body = RequestBody::Update(update(request, Vec::new(), ops.clone(), false));
                match self.call(server, body, PROBE_TIMEOUT) {
                    AskEnd::Reply(Ok(Answer::Committed { .. })) => return true,
                    // Defined by an earlier attempt whose answer got lost.
                    AskEnd::Reply(Err(Refusal::Op(_))) => return true,
                    _ => {}
                }
            }
            self.run_for(Duration::from_millis(50));
        }
        false
    }

    /// Asks one node after the other until one has taken this row.
    fn some_node_takes(&mut self, row: Row, sequence: u64, limit: Duration) -> bool {
        let end = self.now + limit;
        let request = RequestId {
            client: 0xf1,
            sequence,
        };
        while self.now < end && self.unsound.is_none() {
            for server in 0..self.shape.nodes {
                let body =
                    RequestBody::Update(update(request, Vec::new(), vec![Op::Add(row.clone())], false));
                if let AskEnd::Reply(Ok(Answer::Committed { .. })) = self.call(server, body, PROBE_TIMEOUT) {
                    return true;
                }
            }
            self.run_for(Duration::from_millis(20));
        }
        false
    }

    /// Asks this node strictly until it shows the row.
    fn shows(&mut self, server: usize, row: &Row, limit: Duration) -> bool {
        let end = self.now + limit;
        while self.now < end && self.unsound.is_none() {
            let body = RequestBody::Query {
                pattern: Pattern::exact(row),
                stale: false,
            };
            if let AskEnd::Reply(Ok(Answer::Rows { rows, .. })) = self.call(server, body, PROBE_TIMEOUT)
                && rows.contains(row)
            {
                return true;
            }
            self.run_for(Duration::from_millis(20));
        }
        false
    }
}
