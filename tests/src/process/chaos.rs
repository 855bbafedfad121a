//! Faults at random, one after the other, on a cluster of real daemons.

use super::quorum::Quorum;
use crate::sim::Random;
use std::time::{Duration, Instant};

/// What can be wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Killed,
    Stopped,
    Unplugged,
    /// It is not heard by this one.
    Unheard(usize),
}

/// How long one trouble lasts: from a blink to several leases.
const LASTS_MS: (u64, u64) = (50, 4_000);

/// Between the beginnings of two troubles.
const PAUSE_MS: (u64, u64) = (100, 1_500);

/// Puts trouble on random nodes for so long, then ends all of it. More than half of the nodes may be in trouble at
/// once, so that the cluster also has to stand still now and then.
pub fn rage(cluster: &mut Quorum, random: &mut Random, span: Duration) -> Vec<String> {
    let end = Instant::now() + span;
    let count = cluster.nodes.len();
    let mut troubles: Vec<Option<(Trouble, Instant)>> = vec![None; count];
    let mut told = Vec::new();
    while Instant::now() < end {
        for (node, slot) in troubles.iter_mut().enumerate() {
            if let Some((trouble, _)) = slot.take_if(|(_, until)| Instant::now() >= *until) {
                mend(cluster, node, trouble);
            }
        }
        let node = random.below(count as u64) as usize;
        if troubles[node].is_none() {
            let trouble = match random.below(10) {
                0..3 => Trouble::Killed,
                3..6 => Trouble::Stopped,
                6..8 => Trouble::Unplugged,
                _ => Trouble::Unheard((node + 1 + random.below(count as u64 - 1) as usize) % count),
            };
            begin(cluster, node, trouble);
            let lasts = if random.chance(500) {
                random.skewed(LASTS_MS.0, LASTS_MS.1)
            } else {
                random.between(LASTS_MS.0, LASTS_MS.1)
            };
            let lasts = Duration::from_millis(lasts);
            told.push(format!(
                "{}: {trouble:?} for {} ms",
                cluster.nodes[node].name,
                lasts.as_millis()
            ));
            troubles[node] = Some((trouble, Instant::now() + lasts));
        }
        std::thread::sleep(Duration::from_millis(random.between(PAUSE_MS.0, PAUSE_MS.1)));
    }
    for (node, trouble) in troubles.into_iter().enumerate() {
        if let Some((trouble, _)) = trouble {
            mend(cluster, node, trouble);
        }
    }
    told
}

fn begin(cluster: &mut Quorum, node: usize, trouble: Trouble) {
    match trouble {
        Trouble::Killed => cluster.nodes[node].kill(),
        Trouble::Stopped => cluster.nodes[node].stop(),
        Trouble::Unplugged => cluster.switch.unplug(node),
        Trouble::Unheard(by) => cluster.switch.deafen(node, by),
    }
}

fn mend(cluster: &mut Quorum, node: usize, trouble: Trouble) {
    match trouble {
        Trouble::Killed => cluster.nodes[node].start(),
        Trouble::Stopped => cluster.nodes[node].resume(),
        Trouble::Unplugged => cluster.switch.plug_in(node),
        Trouble::Unheard(by) => cluster.switch.undeafen(node, by),
    }
}
