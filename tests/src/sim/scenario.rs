//! Directed scenarios on the machinery of the random ones: a test says what happens, and asks what follows.
//!
//! All invariants are checked as always; the load and the faults of the budget are off.

use super::asks::{AskEnd, Asker};
use super::client::update;
use super::media::{Media, Room};
use super::plan::{Family, FaultBudget, Load, Plan, Seed, Shape};
use super::random::Random;
use super::world::{LEASE, World};
use ccd_core::client::{Answer, Refusal, RequestBody};
use ccd_core::configuration::{Configuration, RestoreFlag};
use ccd_core::database::{Content, ContentText, Key, Op, Pattern, Row, Update};
use ccd_core::ids::{Epoch, NodeId, NodeSet, Position, RequestId, ServerId, Stamp};
use ccd_core::init::{Fencing, Propagation};
use ccd_core::problem::Problem;
use ccd_core::protocol::{Decision, DecisionKind, Event, Loss, ServingState, Status};
use core::time::Duration;
use std::ops::{Deref, DerefMut};

/// How long one request of a scenario waits.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// Long enough for any takeover, restart or rejoin to be over.
pub const SETTLED: Duration = LEASE.saturating_mul(8);

/// The nodes with these numbers.
pub fn set(nodes: &[usize]) -> NodeSet {
    nodes.iter().filter_map(|node| NodeId::new(*node as u8)).collect()
}

/// `CCD_SIM_FENCING`, else leases: every scenario must end in the same way with both.
fn usual_fencing() -> Fencing {
    match std::env::var("CCD_SIM_FENCING") {
        Ok(name) => {
            Fencing::named(&name).unwrap_or_else(|| panic!("CCD_SIM_FENCING is {name:?}, not scsi or lease"))
        }
        Err(_) => Fencing::Lease,
    }
}

/// A cluster under the control of a test.
#[derive(Debug)]
pub struct Cluster {
    world: World,
    next_request: u64,
}

impl Deref for Cluster {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut World {
        &mut self.world
    }
}

impl Drop for Cluster {
    /// A scenario in which something unsound happened has failed, whatever it looked for.
    fn drop(&mut self) {
        let unsound = self.world.unsound.as_ref().map(ToString::to_string);
        if !std::thread::panicking() && unsound.is_none() {
            return;
        }
        let name = std::thread::current()
            .name()
            .unwrap_or("scenario")
            .replace(':', "_");
        let log = match super::campaign::write_named_log(&format!("scenario-{name}"), &self.world.log) {
            Ok(path) => path.display().to_string(),
            Err(error) => format!("not written: {error}"),
        };
        let found = unsound.unwrap_or_else(|| "nothing unsound".into());
        assert!(std::thread::panicking(), "{found}; event log: {log}");
        eprintln!("{found}; event log: {log}");
    }
}

impl Cluster {
    /// A cluster that has just been set up: nothing runs yet.
    pub fn stopped(shape: Shape) -> Self {
        Self::stopped_with(shape, usual_fencing())
    }

    /// The same, with this kind of fencing.
    pub fn stopped_with(shape: Shape, fencing: Fencing) -> Self {
        Self::stopped_as(shape, fencing, Propagation::Forward, Propagation::Broadcast)
    }

    /// The same; copies travel in this way, and updates in that one.
    fn stopped_as(
        shape: Shape,
        fencing: Fencing,
        propagation: Propagation,
        update_propagation: Propagation,
    ) -> Self {
        let load = Load {
            clients: 0,
            think_max: LEASE,
            operations_max: 0,
            keys: 1,
            registers: 1,
            command: false,
        };
        let plan = Plan {
            seed: Seed {
                number: 0,
                family: Family::Pairs,
                fencing,
            },
            propagation,
            update_propagation,
            shape,
            faults: FaultBudget::none(),
            load,
        };
        let world = World::new(&plan, &mut Random::new(7), true);
        Self {
            world,
            next_request: 0,
        }
    }

    /// A cluster that serves, with the key `K` defined.
    pub fn serving(shape: Shape) -> Self {
        Self::serving_with(shape, usual_fencing())
    }

    /// The same, with this kind of fencing.
    pub fn serving_with(shape: Shape, fencing: Fencing) -> Self {
        Self::stopped_with(shape, fencing).started()
    }

    /// A cluster that serves; copies travel in this way, and updates in that one.
    pub fn serving_by(shape: Shape, propagation: Propagation, update_propagation: Propagation) -> Self {
        Self::stopped_as(shape, usual_fencing(), propagation, update_propagation).started()
    }

    /// A cluster that serves, and whose regions have this room.
    pub fn serving_with_room(shape: Shape, room: Room) -> Self {
        let mut cluster = Self::stopped(shape);
        cluster.world.media = Media::format_with(shape, room);
        cluster.started()
    }

    /// Starts what has been set up, and waits until it serves.
    pub fn started(mut self) -> Self {
        let shape = self.world.shape;
        self.start_all(Duration::from_millis(10));
        let formats = self.world.define_formats(1, SETTLED);
        assert!(formats, "a new cluster takes updates");
        for server in 0..shape.nodes {
            assert!(self.serves_within(server, SETTLED), "n{server} serves");
        }
        self
    }

    /// A cluster that serves, beside so many servers that are of no cluster yet.
    pub fn serving_with_spares(shape: Shape, spares: usize) -> Self {
        let nodes = shape.nodes + spares;
        let mut cluster = Self::stopped_with(Shape { nodes, ..shape }, usual_fencing());
        cluster.world.keep_spare(spares);
        cluster.started()
    }

    /// A peer that has proven its identity refuses this server, and says that another one has its number.
    pub fn disowned(&mut self, server: usize, by: NodeId, epoch: Epoch, owner: ServerId) {
        let event = Event::Disowned {
            by,
            epoch,
            server: owner,
        };
        self.world.tell(server, event);
    }

    /// That node refuses the server's connections, for their init databases differ, and tells what it knows.
    pub fn refused_by(&mut self, server: usize, by: NodeId, epoch: Epoch, newest: Stamp) {
        self.world.tell(server, Event::RefusedBy { by, epoch, newest });
    }

    pub fn settle(&mut self) {
        self.world.run_for(SETTLED);
    }

    pub fn status(&self, server: usize) -> Option<Status> {
        let server = &self.world.servers[server];
        Some(
            server
                .process
                .as_ref()?
                .node
                .status(server.clock.show(self.world.now)),
        )
    }

    /// Whether the node says that it serves, and answers a strict query.
    pub fn serves(&mut self, server: usize) -> bool {
        let says = self
            .status(server)
            .is_some_and(|status| status.state == ServingState::Serving);
        says && self.rows(server).is_some()
    }

    pub fn serves_within(&mut self, server: usize, limit: Duration) -> bool {
        let end = self.world.now + limit;
        while self.world.now < end && self.goes_on() {
            if self.serves(server) {
                return true;
            }
            self.world.run_for(Duration::from_millis(10));
        }
        false
    }

    /// The driver of this server finds this wrong with it, and nothing else.
    pub fn driver_finds(&mut self, server: usize, problems: Vec<Problem>) {
        self.world.tell(server, Event::Problems(problems));
    }

    /// Why the node does not serve.
    pub fn verdict(&self, server: usize) -> String {
        self.status(server)
            .map_or_else(String::new, |status| status.verdict)
    }

    /// The request with which the next row is added, and its body.
    pub fn addition(&mut self, value: &str) -> (RequestId, RequestBody) {
        self.next_request += 1;
        let request = RequestId {
            client: 0xa1,
            sequence: self.next_request,
        };
        (request, Self::addition_as(request, value))
    }

    /// The request that makes this the only row, and its body: the database does not grow by it.
    pub fn replacement(&mut self, value: &str) -> RequestBody {
        self.next_request += 1;
        let request = RequestId {
            client: 0xa1,
            sequence: self.next_request,
        };
        let ops = vec![Op::Remove(Pattern::all(scenario_key())), Op::Add(row(value))];
        RequestBody::Update(update(request, Vec::new(), ops, false))
    }

    /// Asks a node for a strict query of the key `K`, without waiting for the answer.
    pub fn begin_query(&mut self, server: usize) -> u64 {
        let pattern = Pattern::all(scenario_key());
        self.begin(
            server,
            RequestBody::Query {
                pattern,
                stale: false,
            },
        )
    }

    /// The same update under a known id: asking again.
    pub fn addition_as(request: RequestId, value: &str) -> RequestBody {
        RequestBody::Update(update(request, Vec::new(), vec![Op::Add(row(value))], false))
    }

    /// Adds a row through this node.
    pub fn add(&mut self, server: usize, value: &str) -> Result<Position, Refusal> {
        let (_, body) = self.addition(value);
        match self.world.call(server, body, TIMEOUT) {
            AskEnd::Reply(Ok(Answer::Committed { position, .. })) => Ok(position),
            AskEnd::Reply(Err(refusal)) => Err(refusal),
            other => Err(Refusal::Unknown {
                why: format!("{other:?}"),
            }),
        }
    }

    /// Adds so many rows of some 900 bytes through this node, in one update.
    pub fn add_many(&mut self, server: usize, rows: usize) -> AskEnd {
        self.next_request += 1;
        let request = RequestId {
            client: 0xa1,
            sequence: self.next_request,
        };
        let value = |index| row(&format!("{index} {}", "x".repeat(900)));
        let ops = (0..rows).map(|index| Op::Add(value(index))).collect();
        self.command(
            server,
            RequestBody::Update(update(request, Vec::new(), ops, false)),
        )
    }

    /// Tries for so long to add a row through this node; another row with each attempt, of which the first may stay.
    pub fn add_within(&mut self, server: usize, value: &str, limit: Duration) -> bool {
        let end = self.world.now + limit;
        let (_, body) = self.addition(value);
        while self.world.now < end && self.goes_on() {
            if let AskEnd::Reply(Ok(Answer::Committed { .. })) =
                self.world.call(server, body.clone(), TIMEOUT)
            {
                return true;
            }
            self.world.run_for(Duration::from_millis(10));
        }
        false
    }

    /// Nothing unsound has been found.
    ///
    /// # Panics
    /// If time stands still because what was acknowledged is lost with what was set back: see [`Self::promise_nothing`].
    fn goes_on(&self) -> bool {
        assert!(
            !self.world.is_over(),
            "the history is over: what was acknowledged is lost"
        );
        self.world.unsound.is_none()
    }

    /// What was acknowledged until now may be lost, since replicas were set back to this epoch, and what comes after it be decided anew.
    pub fn promise_nothing(&mut self, epoch: Epoch) {
        self.world.promise_nothing(epoch);
    }

    /// Asks without waiting for the answer.
    pub fn begin(&mut self, server: usize, body: RequestBody) -> u64 {
        self.world
            .ask(server, Asker::Script, body, TIMEOUT)
            .expect("the process runs")
    }

    /// The values of the key `K` by a strict query; `None` if the node does not answer it.
    pub fn rows(&mut self, server: usize) -> Option<Vec<String>> {
        self.query(server, false)
    }

    /// The values of the key `K` as the node's local copy has them.
    pub fn stale_rows(&mut self, server: usize) -> Option<Vec<String>> {
        self.query(server, true)
    }

    fn query(&mut self, server: usize, stale: bool) -> Option<Vec<String>> {
        let body = RequestBody::Query {
            pattern: Pattern::all(scenario_key()),
            stale,
        };
        match self.world.call(server, body, Duration::from_millis(300)) {
            AskEnd::Reply(Ok(Answer::Rows { rows, .. })) => {
                Some(rows.into_iter().map(|row| row.values[1].clone()).collect())
            }
            _ => None,
        }
    }

    /// A row comes to this node's copy that no update added.
    pub fn damage_copy(&mut self, server: usize, value: &str) {
        let (_, body) = self.addition(value);
        let RequestBody::Update(asked) = body else {
            return;
        };
        let damage = Update {
            request: asked.request,
            who: asked.who,
            date: asked.date,
            reason: asked.reason,
            preconditions: asked.preconditions,
            ops: asked.ops,
        };
        self.world.damaged = true;
        let process = self.world.servers[server].process.as_mut();
        process.expect("the process runs").node.damage_copy(&damage);
    }

    /// Replaces the whole database by one row, or only the key `K`.
    pub fn restore(&mut self, server: usize, value: &str, key_only: bool) -> AskEnd {
        self.next_request += 1;
        let request = RequestId {
            client: 0xa2,
            sequence: self.next_request,
        };
        let content = Content {
            formats: vec![(scenario_key(), vec!["register".into(), "value".into()])],
            rows: vec![row(value)],
        };
        // What a client says of the flag counts for nothing.
        let (key, restore) = (scenario_key(), RestoreFlag::AllActive);
        let op = if key_only {
            Op::ReplaceKey {
                key,
                content,
                restore,
            }
        } else {
            Op::ReplaceAll { content, restore }
        };
        self.command(
            server,
            RequestBody::Update(update(request, Vec::new(), vec![op], false)),
        )
    }

    /// Loads a database with so many rows as text.
    pub fn load(&mut self, server: usize, rows: usize, key_only: bool) -> AskEnd {
        let body = self.loading(rows, key_only);
        self.command(server, body)
    }

    /// The same for a whole database; it is not waited for.
    pub fn begin_load(&mut self, server: usize, rows: usize) -> u64 {
        let body = self.loading(rows, false);
        self.begin(server, body)
    }

    fn loading(&mut self, rows: usize, key_only: bool) -> RequestBody {
        self.next_request += 1;
        let request = RequestId {
            client: 0xa2,
            sequence: self.next_request,
        };
        let content = Content {
            formats: vec![(scenario_key(), vec!["register".into(), "value".into()])],
            rows: (0..rows).map(|index| row(&format!("loaded {index}"))).collect(),
        };
        let text = ContentText::new(&content, None).expect("the rows fit");
        let (key, restore) = (scenario_key(), RestoreFlag::AllActive);
        let op = if key_only {
            Op::LoadKey { key, text, restore }
        } else {
            Op::LoadAll { text, restore }
        };
        RequestBody::Update(update(request, Vec::new(), vec![op], false))
    }

    /// The flag that this node answers with, as its consistency record has it.
    pub fn restore_flag(&mut self, server: usize) -> Option<char> {
        match self.command(server, RequestBody::Snapshot { stale: false }) {
            AskEnd::Reply(Ok(Answer::Snapshot(database))) => Some(database.restore_flag().digit()),
            _ => None,
        }
    }

    /// What became of an update.
    pub fn outcome(&mut self, server: usize, request: RequestId) -> Option<bool> {
        match self.world.call(server, RequestBody::Outcome { request }, TIMEOUT) {
            AskEnd::Reply(Ok(Answer::Outcome { committed })) => Some(committed.is_some()),
            _ => None,
        }
    }

    pub fn command(&mut self, server: usize, body: RequestBody) -> AskEnd {
        self.world.call(server, body, Duration::from_secs(5))
    }

    /// The newest configuration that anybody decided.
    pub fn configuration(&self) -> &Configuration {
        self.world.ledger.latest_configuration()
    }

    /// Whether this configuration is reached in time.
    pub fn reaches(&mut self, limit: Duration, holds: impl Fn(&Configuration) -> bool) -> bool {
        self.world
            .run_until(limit, |world| holds(world.ledger.latest_configuration()))
    }

    pub fn decisions(&self, server: usize, kind: DecisionKind) -> Vec<&Decision> {
        self.world.servers[server]
            .decisions
            .iter()
            .filter(|decision| decision.kind == kind)
            .collect()
    }

    /// The losses that a node says until an operator removes them.
    pub fn losses(&self, server: usize) -> &[Loss] {
        &self.world.servers[server].losses
    }
}

fn scenario_key() -> Key {
    super::client::key(0)
}

/// A row of the key `K`.
pub fn row(value: &str) -> Row {
    Row::new(scenario_key(), ["r0", value]).expect("a small row")
}
