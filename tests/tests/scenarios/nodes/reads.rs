//! Queries at a member right after an update was acked elsewhere.

use super::{A, B, C, FIVE, THREE};
use ccd_tests::sim::scenario::Cluster;
use core::time::Duration;

/// Two trips over the simulated network and what the nodes need; the master would send its unfreeze later by itself.
const ROUND_TRIP: Duration = Duration::from_millis(2);

#[test]
fn a_query_sees_what_was_acked_before_and_waits_no_longer_than_a_round_trip() {
    for shape in [THREE, FIVE] {
        let mut cluster = Cluster::serving(shape);
        for number in 0..50 {
            let value = format!("row{number}");
            cluster.add(A, &value).expect("it serves");
            for reader in [B, C] {
                let begun = cluster.now;
                let rows = cluster.rows(reader).expect("it serves");
                assert!(rows.contains(&value), "{value} at {reader}");
                let took = cluster.now.since(begun);
                assert!(took < ROUND_TRIP, "{took:?} at {reader}");
            }
        }
    }
}
