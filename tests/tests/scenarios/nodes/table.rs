//! The patent's table of three nodes (WO 99/17203, "Turning now to Fig. 5", the table below "Assume for the purposes of the
//! example below that there are three active nodes"): X/Y of each node, where X counts reconfigurations and Y updates.
//!
//! | A   | B   | C   | state, event                                        |
//! | --- | --- | --- | --------------------------------------------------- |
//! | 1/1 | 1/1 | 1/1 | initial state, 3 nodes up                           |
//! | 1/2 | 1/2 | 1/2 | update                                              |
//! | X   | 2/2 | 2/2 | A crashed, B and C reconfigure                      |
//! | X   | 2/3 | 2/3 | update                                              |
//! | X   | X   | 3/3 | B leaves, C reconfigures                            |
//! | X   | X   | X   | C leaves                                            |
//!
//! One line differs, by the restriction on updates that the patent itself puts below the table: C alone is no majority, so
//! it forms no configuration, stays at 2/3 and is closed. That is what makes any two nodes enough for a restart, where the
//! patent's table without the restriction needs all three.

use super::{A, B, C, THREE, nodes};
use ccd_core::client::{Refusal, RequestBody};
use ccd_core::ids::Stamp;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::scenario::Cluster;

struct Table {
    cluster: Cluster,
    /// What the table calls 1/1.
    origin: Stamp,
}

impl Table {
    fn begin() -> Self {
        let cluster = Cluster::serving(THREE);
        let origin = cluster.status(A).expect("it runs").position.stamp;
        Self { cluster, origin }
    }

    /// X/Y of a node that runs, and whether it is valid and open; `X` of one that does not run.
    fn stamp(&mut self, server: usize) -> String {
        let Some(status) = self.cluster.status(server) else {
            return "X".to_owned();
        };
        let stamp = status.position.stamp;
        let (x, y) = (
            stamp.epoch.0 - self.origin.epoch.0 + 1,
            stamp.generation.0 - self.origin.generation.0 + 1,
        );
        let valid = if self.cluster.serves(server) {
            "open"
        } else {
            "closed"
        };
        format!("{x}/{y} {valid}")
    }

    fn expect(&mut self, line: &str, stamps: [&str; 3]) {
        let found = [A, B, C].map(|server| self.stamp(server));
        assert_eq!(found, stamps.map(str::to_owned), "{line}");
    }

    /// To the last line but one; then C leaves as well.
    fn to_the_end() -> Self {
        let mut table = Self::begin();
        table.expect("initial state, 3 nodes up", ["1/1 open"; 3]);
        table.cluster.add(B, "second").unwrap();
        table.cluster.settle();
        table.expect("update", ["1/2 open"; 3]);
        table.cluster.crash(A, false);
        table.cluster.settle();
        table.expect("A crashed, B and C reconfigure", ["X", "2/2 open", "2/2 open"]);
        assert_eq!(table.cluster.configuration().members, nodes(&[B, C]));
        table.cluster.add(C, "third").unwrap();
        table.cluster.settle();
        table.expect("update", ["X", "2/3 open", "2/3 open"]);
        let end = table.cluster.command(B, RequestBody::Leave);
        // The one that asks is told so; a daemon that is stopped goes all the same.
        assert!(
            matches!(end, AskEnd::Reply(Err(Refusal::NoQuorum { .. }))),
            "{end:?}"
        );
        table.cluster.crash(B, false);
        table.cluster.settle();
        table.expect("B leaves, and C is no majority", ["X", "X", "2/3 closed"]);
        assert!(table.cluster.add(C, "alone").is_err());
        table.cluster.crash(C, false);
        table.expect("C leaves", ["X"; 3]);
        table
    }
}

#[test]
fn the_patents_table_of_three_nodes_line_by_line() {
    Table::to_the_end();
}

#[test]
fn after_the_table_no_node_restarts_alone() {
    for alone in [A, B, C] {
        let mut table = Table::to_the_end();
        table.cluster.start(alone);
        table.cluster.settle();
        let mut stamps = ["X"; 3];
        stamps[alone] = if alone == A { "1/2 closed" } else { "2/3 closed" };
        table.expect("one node alone", stamps);
        let verdict = table.cluster.verdict(alone);
        assert!(verdict.contains("1 of 3 copies found"), "{verdict}");
    }
}

#[test]
fn after_the_table_any_two_nodes_restart_with_the_newest_copy() {
    for (pair, stamps) in [
        ([B, C], ["X", "3/3 open", "3/3 open"]),
        ([A, B], ["3/3 open", "3/3 open", "X"]),
        ([A, C], ["3/3 open", "X", "3/3 open"]),
    ] {
        let mut table = Table::to_the_end();
        for server in pair {
            table.cluster.start(server);
        }
        table.cluster.settle();
        table.expect("two of three", stamps);
        assert_eq!(table.cluster.rows(pair[0]).unwrap(), ["second", "third"]);
    }
}
