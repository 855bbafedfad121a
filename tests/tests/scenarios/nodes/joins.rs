//! How long a node that comes back keeps the others from serving, by the clock of the simulated world. What it has missed, how
//! slow its disk is and how fast the others go on must not matter.

use super::{A, THREE, THREE_WITH_DEVICES};
use ccd_core::client::Answer;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::media::Room;
use ccd_tests::sim::moment::Moment;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::Cluster;
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

/// A client asks again so long after an answer.
const PAUSE: Duration = Duration::from_millis(4);

/// One client that asks again and again, and the longest time that it went without what it asked for.
#[derive(Debug)]
struct Client {
    token: Option<u64>,
    asks_at: Moment,
    served_at: Moment,
    longest: Duration,
}

impl Client {
    fn new(now: Moment) -> Self {
        Self {
            token: None,
            asks_at: now,
            served_at: now,
            longest: Duration::ZERO,
        }
    }

    fn look(&mut self, cluster: &mut Cluster, ask: impl FnOnce(&mut Cluster) -> u64) {
        let now = cluster.now;
        match self.token.map(|token| cluster.end_of(token).cloned()) {
            // It waits.
            Some(None) => {}
            None if now < self.asks_at => {}
            None => self.token = Some(ask(cluster)),
            Some(Some(end)) => {
                self.token = None;
                self.asks_at = now + PAUSE;
                if let AskEnd::Reply(Ok(Answer::Committed { .. } | Answer::Rows { .. })) = end {
                    self.longest = self.longest.max(now.since(self.served_at));
                    self.served_at = now;
                }
            }
        }
    }

    fn longest(&self, now: Moment) -> Duration {
        self.longest.max(now.since(self.served_at))
    }
}

/// Clients of one node: one that updates, and one that reads.
#[derive(Debug)]
struct Clients {
    server: usize,
    updates: Client,
    queries: Client,
    asked: u64,
}

impl Clients {
    fn of(server: usize, now: Moment) -> Self {
        Self {
            server,
            updates: Client::new(now),
            queries: Client::new(now),
            asked: 0,
        }
    }

    fn run_for(&mut self, cluster: &mut Cluster, span: Duration) {
        let end = cluster.now + span;
        while cluster.now < end {
            let server = self.server;
            self.asked += 1;
            let value = format!("row{}", self.asked);
            self.updates.look(cluster, |cluster| {
                let body = cluster.replacement(&value);
                cluster.begin(server, body)
            });
            self.queries.look(cluster, |cluster| cluster.begin_query(server));
            cluster.run_for(Duration::from_millis(1));
        }
    }

    /// The longest time without an acked update, or without an answered query.
    fn outage(&self, now: Moment) -> Duration {
        self.updates.longest(now).max(self.queries.longest(now))
    }
}

/// So many updates through this node, one after the other.
fn update(cluster: &mut Cluster, server: usize, count: usize) {
    for number in 0..count {
        let body = cluster.replacement(&format!("missed{number}"));
        let end = cluster.command(server, body);
        assert!(
            matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. }))),
            "{end:?}"
        );
    }
}

/// What a joining was like.
#[derive(Debug)]
struct Joining {
    /// How long the others did not serve.
    outage: Duration,
    joined: bool,
    /// What the master decided meanwhile, and the joiner.
    decisions: Vec<String>,
    of_the_joiner: Vec<String>,
}

/// A node misses so many updates and comes back with a disk that takes up to so long for an operation.
fn join(shape: Shape, joiner: usize, missed: usize, latency_max: Duration, limit: Duration) -> Joining {
    let mut cluster = Cluster::serving_with_room(shape, Room::ROOMY);
    cluster.crash(joiner, false);
    assert!(cluster.add_within(A, "without it", 8 * LEASE));
    update(&mut cluster, A, missed);
    cluster.local_latency_max[joiner] = latency_max;
    cluster.start(joiner);
    let decided = [A, joiner].map(|server| cluster.servers[server].decisions.len());
    let mut clients = Clients::of(A, cluster.now);
    let end = cluster.now + limit;
    let mut joined = false;
    while cluster.now < end && !joined {
        clients.run_for(&mut cluster, LEASE / 4);
        joined = cluster.serves(joiner);
    }
    clients.run_for(&mut cluster, 2 * LEASE);
    let since = |server: usize, from: usize| {
        let decisions = cluster.servers[server].decisions.iter().skip(from);
        decisions.map(|decision| decision.text.clone()).collect()
    };
    Joining {
        outage: clients.outage(cluster.now),
        joined,
        decisions: since(A, decided[0]),
        of_the_joiner: since(joiner, decided[1]),
    }
}

/// As [`join`] of the last node in each of these situations; none keeps the others from serving for a lease.
#[track_caller]
fn joins_unnoticed(shapes: &[Shape], missed: &[usize], latencies_ms: &[u64]) {
    let mut measured = Vec::new();
    let mut fine = true;
    for (shape, missed, latency_ms) in (shapes.iter()).flat_map(|shape| {
        (missed.iter()).flat_map(move |missed| latencies_ms.iter().map(move |ms| (*shape, *missed, *ms)))
    }) {
        let latency_max = Duration::from_millis(latency_ms);
        let joining = join(shape, shape.nodes - 1, missed, latency_max, 20 * LEASE);
        // Nothing that was on its way when it became a member harms its copy.
        let failed = |text: &String| text.contains("failed") || text.contains("does not get ready");
        let mut all = joining.decisions.iter().chain(&joining.of_the_joiner);
        fine &= joining.joined && joining.outage < LEASE / 2 && !all.any(failed);
        measured.push(format!(
            "{shape:?}, {missed} missed, {latency_ms} ms: {joining:#?}"
        ));
    }
    assert!(fine, "{}", measured.join("\n"));
}

#[test]
fn the_others_serve_while_a_node_catches_up_whatever_it_has_missed() {
    joins_unnoticed(
        &[Shape::PAIR, THREE, THREE_WITH_DEVICES],
        &[3, 300, 2_000, 4_500],
        &[1, 30],
    );
}

#[test]
fn a_node_with_a_disk_of_a_few_operations_a_second_does_not_hold_up_the_others() {
    for shape in [Shape::PAIR, THREE] {
        for missed in [3, 2_000] {
            // Nearly the deadline of an operation: it is no failure, and no update of the others waits longer than that.
            let latency_max = Duration::from_millis(320);
            let joining = join(shape, shape.nodes - 1, missed, latency_max, 40 * LEASE);
            assert!(
                joining.outage < 3 * LEASE / 2,
                "{shape:?}, {missed} missed: {joining:#?}"
            );
            let attempts = (joining.decisions.iter())
                .filter(|text| text.contains("does not get ready"))
                .count();
            assert!(attempts <= 5, "the pauses grow: {joining:#?}");
        }
    }
}
