//! What a seed means in the family of groups: one to seven nodes with and without devices, faults that hit several
//! nodes at once, and clients on every node. Drawn by `plan.rs`, which has the fault budget.

use super::plan::{FaultBudget, FaultKind, Load, Shape};
use super::random::Random;
use core::time::Duration;

/// Weighted towards three and five nodes, where most clusters of this kind are.
const NODES: [(u64, usize); 7] = [(2, 1), (8, 2), (32, 3), (14, 4), (26, 5), (8, 6), (10, 7)];

/// Most have none.
const DEVICES: [(u64, usize); 3] = [(55, 0), (18, 1), (27, 2)];

fn weighted(random: &mut Random, table: &[(u64, usize)]) -> usize {
    let total = table.iter().map(|(weight, _)| weight).sum();
    let mut drawn = random.below(total);
    for (weight, value) in table {
        if drawn < *weight {
            return *value;
        }
        drawn -= weight;
    }
    unreachable!("a draw is below the total")
}

pub(super) fn shape(random: &mut Random) -> Shape {
    let nodes = weighted(random, &NODES);
    let devices = weighted(random, &DEVICES);
    Shape { nodes, devices }
}

pub(super) fn faults(random: &mut Random, shape: Shape) -> FaultBudget {
    let mut faults = FaultBudget::draw(random, shape);
    let mut consider = |kind: FaultKind, nodes_min: usize, per_mille: u64, random: &mut Random| {
        if shape.nodes >= nodes_min && random.chance(per_mille) {
            faults.kinds.push(kind);
        }
    };
    consider(FaultKind::CrashSome, 3, 350, random);
    consider(FaultKind::Partition, 3, 450, random);
    consider(FaultKind::CutsOneWay, 3, 350, random);
    consider(FaultKind::FlapLink, 2, 250, random);
    consider(FaultKind::FlapProcess, 2, 250, random);
    consider(FaultKind::DateJump, 1, 300, random);
    // More nodes make more events: shorter histories, so that there can be more of them.
    faults.end = Duration::from_millis(random.between(5_000, 12_000));
    // With each node another target, the same number of faults in all would leave each of them alone.
    faults.interval = faults.interval * 3 / (2 + shape.nodes as u32);
    faults
}

/// One history in eight has a synchronization command, whatever else it has.
pub(super) fn draws_command(random: &Random) -> bool {
    random.clone().fork("commands").chance(125)
}

pub(super) fn load(random: &mut Random, shape: Shape) -> Load {
    let command = draws_command(random);
    Load {
        // One on every node at least.
        clients: shape.nodes + random.below(4) as usize,
        think_max: Duration::from_millis(random.skewed(30, 500)),
        operations_max: random.between(80, 240) as usize,
        keys: random.between(1, 4) as usize,
        registers: random.between(1, 3) as u8,
        command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_from_one_to_seven_nodes_and_none_to_two_devices_is_drawn() {
        let mut random = Random::new(3);
        let mut met = [[false; 3]; 7];
        for _ in 0..5_000 {
            let shape = shape(&mut random);
            met[shape.nodes - 1][shape.devices] = true;
        }
        assert!(met.iter().flatten().all(|met| *met), "{met:?}");
    }
}
