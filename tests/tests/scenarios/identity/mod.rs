//! Which run is the node: two runs of one node, a number with a new owner, and runs that remember nothing.

mod copies;
mod folders;
mod notes;
mod removed;
mod votes;

use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use core::time::Duration;

/// Shorter than any write takes.
const MOMENT: Duration = Duration::from_micros(2);

const PAIR: Shape = Shape { nodes: 2, devices: 2 };

fn alarms_of(cluster: &Cluster, server: usize, text: &str) -> usize {
    let alarms = cluster.decisions(server, DecisionKind::Alarm);
    alarms
        .iter()
        .filter(|decision| decision.text.contains(text))
        .count()
}

fn is_whole(cluster: &mut Cluster, successor: usize, row: &str) {
    for server in [0, successor] {
        assert!(
            cluster.serves_within(server, SETTLED),
            "n{server}: {}; n1: {}",
            cluster.verdict(server),
            cluster.verdict(1)
        );
    }
    let both = set(&[0, 1]);
    assert!(cluster.reaches(SETTLED, |known| known.members == both
        && known.devices.count() == 2));
    assert!(cluster.add(successor, row).is_ok());
}
