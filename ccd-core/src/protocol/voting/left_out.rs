//! Whose leases must have run out before a configuration opens (DESIGN §6). Pure; a table tests it.
//!
//! Called by `conclude.rs` when a successor is decided.

use crate::configuration::Configuration;
use crate::ids::{Folders, NodeId, NodeSet, Position};

/// Whether `known` is certain to have opened when its successor starts from `base`: whoever served it knows, and an update was made in it
/// else. Whoever opened it had waited for everybody else's lease of an earlier configuration.
pub fn has_opened(known: &Configuration, base: Position, served: bool) -> bool {
    let updated = base.stamp.epoch == known.epoch && base.stamp.generation > known.base.stamp.generation;
    served || updated
}

/// Nodes that may hold a lease of an earlier configuration, and are not part of `next`, the successor of `known`.
///
/// Of a configuration that opened those are its members. One that was decided and perhaps never opened waited for nobody, so any node
/// may still hold a lease of one before it.
pub fn may_hold_leases(known: &Configuration, next: &Configuration, served: bool) -> NodeSet {
    let holders = if known.is_genesis() {
        NodeSet::EMPTY
    } else if has_opened(known, next.base, served) {
        known.members
    } else {
        known.cluster.union(next.cluster).union(known.replaced)
    };
    holders.minus(staying(next))
}

/// Members of `next` that need no waiting: whatever lease they hold is theirs in `next` as well, and a run that started again has ended the
/// one before. That does not hold where another state folder is counted on: a run with the one before may live elsewhere, and serve.
pub fn staying(next: &Configuration) -> NodeSet {
    next.members.minus(next.replaced)
}

/// Nodes whose promise ends no lease, for a run with another folder made it: the successor of `known` waits for the run before all the same.
pub fn replaced_before(known: &Configuration, base: Position, served: bool) -> NodeSet {
    if has_opened(known, base, served) {
        NodeSet::EMPTY
    } else {
        known.replaced
    }
}

/// Nodes that the successor of `known` names as counted by another folder.
pub fn replaced(known: &Configuration, base: Position, folders: &Folders, served: bool) -> NodeSet {
    if known.is_genesis() {
        return NodeSet::EMPTY;
    }
    let is_replaced = |node: &NodeId| {
        let (before, now) = (known.folders.get(*node), folders.get(*node));
        before != now && (before.is_known() || known.members.contains(*node))
    };
    let now: NodeSet = NodeId::all().filter(is_replaced).collect();
    now.union(replaced_before(known, base, served))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceSet, Epoch, FolderId, Generation, Stamp};

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
        let set = |bits| NodeSet::from_bits(bits);
        let of = |folders: [u64; 2], replaced: u32| {
            let mut configuration = Configuration::genesis(set(0b11), DeviceSet::EMPTY);
            configuration.members = configuration.nodes;
            configuration.epoch = Epoch(5);
            configuration.replaced = set(replaced);
            for (node, folder) in configuration.nodes.iter().zip(folders) {
                configuration.folders.set(node, FolderId(folder));
            }
            configuration
        };
        #[rustfmt::skip]
        let table = [
            ("the same folders",                             of([7, 8], 0),    [7, 8], true,  0),
            ("another one",                                  of([7, 8], 0),    [7, 9], true,  0b10),
            ("none was counted on",                          of([7, 0], 0),    [7, 9], true,  0b10),
            ("a number that is given anew",                  of([7, 8], 0),    [7, 0], true,  0b10),
            ("both are others",                              of([7, 8], 0),    [1, 2], true,  0b11),
            ("another one before: the one before it waited", of([7, 8], 0b10), [7, 8], true,  0),
            ("another one before, and it may not have",      of([7, 8], 0b10), [7, 8], false, 0b10),
            ("another one before, and now",                  of([7, 8], 0b10), [9, 8], false, 0b11),
        ];
        for (rule, known, folders, served, expected) in table {
            let mut next = of(folders, 0);
            next.replaced = replaced(&known, next.base, &next.folders, served);
            assert_eq!(next.replaced, set(expected), "{rule}");
            assert_eq!(may_hold_leases(&known, &next, served), set(expected), "{rule}");
        }
    }
}
