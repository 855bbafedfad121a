//! Whose leases must have run out before a configuration opens (DESIGN §6). Pure; a table tests it.
//!
//! Called by `conclude.rs` when a successor is decided.

use crate::configuration::Configuration;
use crate::ids::NodeSet;

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
    holders.minus(next.members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DeviceSet, Epoch, Generation, Position, Stamp};

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
}
