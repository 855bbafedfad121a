//! A whole node, driven with whatever a faulty or hostile member can send and a replica can hold.
//!
//! ```text
//! node/choices.rs   the bytes of an input as choices; values that were seen
//! node/values.rs    a value of any type from choices: new, or a real one with parts changed
//! node/bench.rs     a cluster of the product's own nodes and regions, event by event
//! node/answers.rs   answers of replicas that are wrong, and blocks that should not stand there
//! ```
//!
//! An input is a kind of cluster and a list of steps: go on honestly, or do one thing that no honest node, disk or client does.
//! At its end the cluster goes on honestly, every node is started anew from what it stored, and goes on again. No node ever
//! panics, answers one event with more than a bounded number of actions, or grows; messages never breed messages for ever.

mod answers;
mod bench;
mod choices;
mod values;

use crate::sim::world::{HEARTBEAT, LEASE};
use bench::{Bench, Due, Kind, node_id};
use ccd_core::client::{ClientToken, Request};
use ccd_core::init::{Fencing, Propagation};
use ccd_core::protocol::{CommandFailure, Event, Message};
use ccd_core::time::Date;
use choices::Choices;
use std::time::Duration;

const fn kind(nodes: usize, devices: usize) -> Kind {
    Kind {
        nodes,
        devices,
        fencing: Fencing::Lease,
        propagation: Propagation::Forward,
        update_propagation: Propagation::Broadcast,
        pieces: false,
    }
}

const KINDS: [Kind; 6] = [
    kind(2, 2),
    kind(2, 0),
    Kind {
        propagation: Propagation::Broadcast,
        update_propagation: Propagation::Forward,
        pieces: true,
        ..kind(5, 0)
    },
    Kind {
        fencing: Fencing::Scsi,
        pieces: true,
        ..kind(2, 2)
    },
    kind(3, 0),
    kind(2, 1),
];

/// The first byte: a kind of cluster, and whether it serves before anything goes wrong.
const SERVES: u8 = 8;

/// Until a new cluster serves.
const SERVING_AFTER: Duration = Duration::from_secs(2);

const SPANS: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(30),
    HEARTBEAT,
    HEARTBEAT,
    Duration::from_millis(500),
    LEASE,
    Duration::from_secs(5),
    Duration::from_secs(7200),
];

/// Clients that ask.
const CLIENTS: usize = 8;

/// Most steps of an input that each deliver many events.
const STEPS_MAX: usize = 400;

pub fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let first = choices.byte();
    let mut bench = Bench::new(KINDS[usize::from(first % SERVES) % KINDS.len()]);
    for server in 0..bench.servers() {
        bench.deliver(server, Event::Timer);
    }
    if first & SERVES != 0 {
        bench.go_on(SERVING_AFTER);
    }
    for _ in 0..STEPS_MAX {
        if choices.is_over() {
            break;
        }
        step(&mut bench, &mut choices);
    }
    bench.go_on(2 * LEASE);
    bench.check_memory();
    for server in 0..bench.servers() {
        bench.restart(server);
    }
    bench.go_on(2 * LEASE);
}

fn step(bench: &mut Bench, choices: &mut Choices<'_>) {
    let server = |bench: &Bench, choices: &mut Choices<'_>| choices.below(bench.servers());
    match choices.below(20) {
        0..3 => {
            for _ in 0..=choices.below(64) {
                deliver_next(bench);
            }
        }
        3 => bench.go_on(SPANS[choices.below(SPANS.len() - 1)]),
        // The machine sleeps: nothing is delivered meanwhile.
        4 => {
            let until = bench.now + SPANS[choices.below(SPANS.len())];
            bench.pass_time(until);
        }
        5 => wrong_next(bench, choices),
        6..9 => {
            let (from, to) = (server(bench, choices), server(bench, choices));
            if let Some(message) = old_message(bench, choices) {
                deliver_from(bench, from, to, message);
            }
        }
        9..11 => {
            let (from, to) = (server(bench, choices), server(bench, choices));
            if let Some(message) = values::new(choices, &mut bench.seen, bench.kind.nodes) {
                deliver_from(bench, from, to, message);
            }
        }
        11 => flood(bench, choices),
        12 | 13 => {
            let to = server(bench, choices);
            let body = values::new(choices, &mut bench.seen, bench.kind.nodes);
            let client = ClientToken(choices.below(CLIENTS) as u64);
            if let Some(body) = body {
                let timeout = SPANS[choices.below(SPANS.len())];
                let (request, date) = (Request { timeout, body }, Date(choices.word()));
                let event = Event::Client {
                    client,
                    request,
                    date,
                };
                bench.deliver(to, event);
            }
        }
        14 => {
            let (to, node) = (server(bench, choices), node_id(server(bench, choices)));
            if choices.byte() & 1 == 1 {
                bench.deliver(to, Event::Reachable { node });
            } else {
                let client = ClientToken(choices.below(CLIENTS) as u64);
                bench.deliver(to, Event::ClientGone { client });
            }
        }
        15 | 16 => answers::write_block(bench, choices),
        17 => {
            let server = server(bench, choices);
            bench.restart(server);
        }
        // Lost.
        18 => drop(bench.next_due()),
        _ => {
            if let Some(due) = bench.due.front().cloned() {
                bench.due.push_back(due);
            }
        }
    }
}

fn deliver_next(bench: &mut Bench) {
    match bench.next_due() {
        Some(Due { server, event, .. }) => bench.deliver(server, event),
        None => {
            let until = bench.now + HEARTBEAT;
            bench.pass_time(until);
        }
    }
}

/// A node gets nothing from itself.
fn deliver_from(bench: &mut Bench, from: usize, to: usize, message: Message) {
    let from = node_id(from);
    bench.deliver(to, Event::Message { from, message });
}

/// The next event that can be wrong is: everything before it is delivered.
fn wrong_next(bench: &mut Bench, choices: &mut Choices<'_>) {
    let skipped = choices.below(16);
    for _ in 0..skipped {
        deliver_next(bench);
    }
    let Some(Due { server, event, .. }) = bench.next_due() else {
        return;
    };
    let nodes = bench.kind.nodes;
    let seen = &mut bench.seen;
    let event = match event {
        Event::Message { from, message } => {
            let encoded = postcard::to_allocvec(&message).expect("messages are plain data");
            let message = values::changed(&encoded, choices, seen, nodes).unwrap_or(message);
            Event::Message { from, message }
        }
        Event::Replica { ticket, result } => Event::Replica {
            ticket,
            result: answers::damage(result, choices, seen, nodes),
        },
        Event::Fenced { ticket, result } => Event::Fenced {
            ticket,
            result: match values::new(choices, seen, nodes) {
                Some(registrations) if !choices.rarely(3) => Ok(registrations),
                _ => result.and(Err(answers::error(choices))),
            },
        },
        Event::Staged { digest, .. } => Event::Staged {
            digest,
            result: Err("there is no room".to_owned()),
        },
        Event::CommandDone { ticket, .. } => Event::CommandDone {
            ticket,
            result: Err(CommandFailure::NotRun {
                why: "there is none".to_owned(),
            }),
        },
        other => other,
    };
    bench.deliver(server, event);
}

/// A real message of some moment ago, as it was or changed.
fn old_message(bench: &mut Bench, choices: &mut Choices<'_>) -> Option<Message> {
    let at = choices.below(bench.sent.len().max(1));
    let encoded = bench.sent.get(at)?.clone();
    if choices.rarely(5) {
        return postcard::from_bytes(&encoded).ok();
    }
    values::changed(&encoded, choices, &mut bench.seen, bench.kind.nodes)
}

/// Hundreds of messages of one kind.
fn flood(bench: &mut Bench, choices: &mut Choices<'_>) {
    let (from, to) = (choices.below(bench.servers()), choices.below(bench.servers()));
    let at = choices.below(bench.sent.len().max(1));
    let Some(encoded) = bench.sent.get(at).cloned() else {
        return;
    };
    let seed = choices.word();
    for number in 0..200_u64 {
        let word = (seed ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let bytes = [word, word.map(|byte| byte.rotate_left(3)), word].concat();
        let message = values::changed(
            &encoded,
            &mut Choices::new(&bytes),
            &mut bench.seen,
            bench.kind.nodes,
        );
        if let Some(message) = message {
            deliver_from(bench, from, to, message);
        }
    }
}

/// Clusters of every kind that go on honestly for a while, and steps of every kind in some order.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kind in 0..KINDS.len() as u8 {
        for serves in [0, SERVES] {
            let mut seed = vec![kind | serves];
            for step in 0..60_u8 {
                seed.extend([
                    step.wrapping_mul(7) % 20,
                    step.wrapping_mul(29),
                    step,
                    kind,
                    3,
                    200 - step,
                ]);
            }
            seeds.push(seed);
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_cluster_serves_before_anything_goes_wrong() {
        for kind in KINDS {
            let mut bench = Bench::new(kind);
            for server in 0..bench.servers() {
                bench.deliver(server, Event::Timer);
            }
            bench.go_on(SERVING_AFTER);
            assert_eq!(bench.serving(), kind.nodes, "{kind:?}");
        }
    }

    #[test]
    fn a_real_message_of_which_nothing_is_replaced_stays_as_it_is() {
        let mut bench = Bench::new(kind(2, 2));
        for server in 0..bench.servers() {
            bench.deliver(server, Event::Timer);
        }
        bench.go_on(SERVING_AFTER);
        assert!(bench.sent.len() > 8, "{}", bench.sent.len());
        for encoded in bench.sent.clone() {
            let message: Message = postcard::from_bytes(&encoded).expect("a node sent it");
            assert_eq!(values::same(&encoded, &mut bench.seen), Some(message));
        }
    }
}
