//! Updates that load a whole database: larger than one message, than a record in a journal, and than a tail.

use ccd_core::client::Answer;
use ccd_core::init::Propagation;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Some 30 KiB: sixty pieces, and more than half of a journal.
const MANY_ROWS: usize = 1200;

fn is_committed(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. })))
}

fn assert_all_hold(cluster: &mut Cluster, servers: &[usize], rows: usize, why: &str) {
    for server in servers {
        let found = cluster.rows(*server).map(|rows| rows.len());
        assert_eq!(found, Some(rows), "n{server}, {why}");
    }
}

#[test]
fn a_database_of_many_pieces_is_loaded_through_the_master_and_through_every_other_member() {
    for update_propagation in [Propagation::Broadcast, Propagation::Forward] {
        for key_only in [false, true] {
            let shape = Shape { nodes: 3, devices: 0 };
            let mut cluster = Cluster::serving_by(shape, Propagation::Forward, update_propagation);
            for (count, server) in [A, B, C].into_iter().enumerate() {
                let rows = MANY_ROWS + count;
                assert!(
                    is_committed(&cluster.load(server, rows, key_only)),
                    "through n{server}"
                );
                let why = format!("through n{server}, {update_propagation:?}, key only: {key_only}");
                assert_all_hold(&mut cluster, &[A, B, C], rows, &why);
                cluster.add(server, &format!("after {server}")).unwrap();
            }
        }
    }
}

#[test]
fn a_solo_owner_loads_a_database_that_no_journal_holds_and_its_peer_gets_it_when_it_is_back() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    assert!(is_committed(&cluster.load(A, MANY_ROWS, false)));
    assert!(is_committed(&cluster.load(A, MANY_ROWS + 1, false)));
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
    assert_all_hold(&mut cluster, &[A, B], MANY_ROWS + 1, "after the join");
    cluster.crash(A, true);
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
    assert_all_hold(&mut cluster, &[B], MANY_ROWS + 1, "after the takeover");
}

#[test]
fn a_node_that_missed_a_load_gets_the_database_and_the_records_after_it() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
    cluster.crash(C, false);
    assert!(cluster.add_within(A, "before", SETTLED));
    assert!(is_committed(&cluster.load(A, MANY_ROWS, false)));
    cluster.add(A, "behind").unwrap();
    cluster.start(C);
    assert!(cluster.serves_within(C, SETTLED), "{}", cluster.verdict(C));
    assert_all_hold(&mut cluster, &[A, B, C], MANY_ROWS + 1, "after the join");
}

#[test]
fn loads_at_once_through_all_members_are_applied_one_after_the_other() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
    let asks: Vec<u64> = [A, B, C, B, C]
        .into_iter()
        .enumerate()
        .map(|(index, server)| cluster.begin_load(server, MANY_ROWS / 2 + index))
        .collect();
    for ask in asks {
        let end = cluster.await_end(ask);
        assert!(is_committed(&end), "{end:?}");
    }
    let rows = cluster.rows(A).map(|rows| rows.len());
    assert!(rows.is_some_and(|rows| rows >= MANY_ROWS / 2), "{rows:?}");
    assert_all_hold(&mut cluster, &[B, C], rows.unwrap(), "the last one");
}

#[test]
fn a_load_is_whole_or_not_at_all_when_a_node_dies_on_the_way() {
    for shape in [Shape::PAIR, Shape { nodes: 3, devices: 0 }] {
        for victim in [A, B] {
            for through in [A, B] {
                for millis in (0..120).step_by(6) {
                    let mut cluster = Cluster::serving(shape);
                    cluster.add(A, "before").unwrap();
                    let ask = cluster.begin_load(through, MANY_ROWS);
                    cluster.run_for(Duration::from_millis(millis));
                    cluster.crash(victim, false);
                    let survivor = A + B - victim;
                    assert!(
                        cluster.serves_within(survivor, 4 * SETTLED),
                        "{}",
                        cluster.verdict(survivor)
                    );
                    let rows = cluster.rows(survivor).map(|rows| rows.len());
                    assert!(matches!(rows, Some(1 | MANY_ROWS)), "{rows:?} after {millis} ms");
                    if through == survivor {
                        let committed = is_committed(&cluster.await_end(ask));
                        let now = cluster.rows(survivor).map(|rows| rows.len());
                        assert!(!committed || now == Some(MANY_ROWS), "acked, and {now:?} rows");
                    }
                    cluster.start(victim);
                    assert!(
                        cluster.serves_within(victim, 4 * SETTLED),
                        "{}",
                        cluster.verdict(victim)
                    );
                    let held = cluster.rows(survivor).map(|rows| rows.len()).unwrap();
                    assert_all_hold(&mut cluster, &[A, B], held, "in the end");
                }
            }
        }
    }
}
