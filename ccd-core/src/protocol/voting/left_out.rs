//! Whose leases must have run out before a configuration opens (DESIGN §6). Pure; a table tests it.
//!
//! Called by `conclude.rs` when a successor is decided.

use crate::configuration::Configuration;
use crate::ids::{NodeId, NodeSet};

/// Nodes that may hold a lease of an earlier configuration, and are not part of `next`, the successor of `known`.
///
/// Of a configuration that opened those are its members: whoever opened it had waited for everybody else. One that was decided
/// and perhaps never opened waited for nobody, so any node may still hold a lease of one before it. That it opened is certain
/// to whoever served it, and by an update that was made in it.
pub fn may_hold_leases(known: &Configuration, next: &Configuration, served: bool) -> NodeSet {
    let updated =
        next.base.stamp.epoch == known.epoch && next.base.stamp.generation > known.base.stamp.generation;
    let holders = if known.is_genesis() {
        NodeSet::EMPTY
    } else if served || updated {
        known.members
    } else {
        known.nodes.union(next.nodes)
    };
    holders.minus(staying(known, next))
}

/// Members of `next` that need no waiting: whatever lease they hold is theirs in `next` as well, and a run that started again has ended the
/// one before. That does not hold where another state folder is counted on: a run with the one before may live elsewhere, and serve.
pub fn staying(known: &Configuration, next: &Configuration) -> NodeSet {
    let is_same = |node: &NodeId| {
        let (before, now) = (known.folders.get(*node), next.folders.get(*node));
        !before.is_known() || !now.is_known() || before == now
    };
    next.members.iter().filter(is_same).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceSet, Epoch, FolderId, Generation, Position, Stamp};

    #[test]
    fn after_a_configuration_that_may_never_have_opened_everybody_else_is_waited_for() {
        let set = |bits| NodeSet::from_bits(bits);
        let all = Configuration::genesis(set(0b111), DeviceSet::EMPTY);
        let at = |epoch, generation| Position {
            stamp: Stamp {
                epoch: Epoch(epoch),
                generation: Generation(generation),
            },
            ..Position::EMPTY
        };
        let known = Configuration {
            epoch: Epoch(5),
            members: set(0b011),
            base: at(4, 7),
            ..all.clone()
        };
        let next = |base| Configuration {
            epoch: Epoch(6),
            members: set(0b001),
            base,
            ..all.clone()
        };
        #[rustfmt::skip]
        let table = [
            ("served here: its members",          &known, at(5, 7), true,  0b010),
            ("an update was made: its members",   &known, at(5, 8), false, 0b010),
            ("ready, and perhaps not opened",     &known, at(5, 7), false, 0b110),
            ("surely not opened",                 &known, at(4, 7), false, 0b110),
            ("nobody served before the first",    &all,   at(0, 0), false, 0),
        ];
        for (rule, known, base, served, expected) in table {
            assert_eq!(
                may_hold_leases(known, &next(base), served),
                set(expected),
                "{rule}"
            );
        }
    }

    #[test]
    fn a_member_with_another_folder_may_have_a_run_elsewhere_that_holds_a_lease() {
        let of = |folders: [u64; 2]| {
            let mut configuration = Configuration::genesis(NodeSet::from_bits(0b11), DeviceSet::EMPTY);
            configuration.members = configuration.nodes;
            configuration.epoch = Epoch(5);
            for (node, folder) in configuration.nodes.iter().zip(folders) {
                configuration.folders.set(node, FolderId(folder));
            }
            configuration
        };
        #[rustfmt::skip]
        let table = [
            ("the same folders",     [7, 8], [7, 8], 0),
            ("another one",          [7, 8], [7, 9], 0b10),
            ("none was counted on",  [7, 0], [7, 9], 0),
            ("both are others",      [7, 8], [1, 2], 0b11),
        ];
        for (rule, before, now, expected) in table {
            let holders = may_hold_leases(&of(before), &of(now), true);
            assert_eq!(holders, NodeSet::from_bits(expected), "{rule}");
        }
    }
}
