//! What to do next on one device, from what was read back: the algorithm of fencing as a pure function. A table tests it.
//!
//! ```text
//! look → register, if this node may → reserve, if nobody holds it → preempt and abort every key that must go → look: done
//! ```
//!
//! Called by `fencing.rs` after every step with what was read back. So each step can be repeated after a crash, and a
//! command whose outcome is not known is judged by what came of it.

use crate::ids::{ClusterId, NodeId, NodeSet};
use crate::reservation::{FenceOp, KeyOwner, Registrations, ReservationKey};
use alloc::format;
use alloc::string::String;

/// What is known of one device, and what this node wants there.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub me: NodeId,
    pub cluster: ClusterId,
    /// What this run of the node registered here last.
    pub key: Option<ReservationKey>,
    /// Never used before: what it registers if it must.
    pub fresh: ReservationKey,
    pub seen: &'a Registrations,
    /// Nodes that must not be able to write.
    pub victims: NodeSet,
    /// This node does not serve and its votes could let it go on, or it was let in. A node that serves never registers
    /// by itself: that would undo its own fencing (trap 10 of docs/fencing.md).
    pub may_register: bool,
    /// Missing paths have been registered once; a dead one must not hold everything up.
    pub paths_tried: bool,
    /// Taking the reservation, or a key, has changed nothing since this node registered.
    pub in_vain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Do(FenceOp),
    /// Read back: this node is registered, the reservation is held, and no victim is registered.
    Done,
    /// This node's registration is gone, and others have one.
    Fenced,
    /// Only an operator can go on here.
    Blocked(String),
}

/// The next step on this device.
pub fn next(situation: &Situation) -> Next {
    let Situation {
        me,
        cluster,
        key,
        fresh,
        seen,
        victims,
        may_register,
        paths_tried,
        in_vain,
    } = *situation;
    if let Some(holder) = seen.holder {
        let owner = holder.key.owner(cluster);
        if !matches!(owner, KeyOwner::Node(_)) {
            return Next::Blocked(format!(
                "it is reserved by {}; nothing is taken from others: look with `ccd-disk fence status`, and if that key \
                 is a left-over, remove it with `ccd-disk fence clear`",
                described(holder.key, cluster)
            ));
        }
        if !holder.right_type {
            return Next::Blocked(format!(
                "{} holds a reservation of another type than write exclusive, registrants only; remove it with \
                 `ccd-disk fence clear`",
                described(holder.key, cluster)
            ));
        }
    }
    let Some(mine) = key.filter(|key| seen.has(*key)) else {
        return if may_register || !others_registered(seen, cluster) {
            Next::Do(FenceOp::Register { key: fresh })
        } else {
            Next::Fenced
        };
    };
    if seen.paths_missing > 0 && !paths_tried {
        return Next::Do(FenceOp::Register { key: mine });
    }
    // PREEMPT with nobody holding the reservation removes keys and protects nothing (trap 5).
    let Some(holder) = seen.holder else {
        return Next::Do(if in_vain {
            FenceOp::Register { key: mine }
        } else {
            FenceOp::Reserve { key: mine }
        });
    };
    // A key of this node's own earlier run goes as well; the one it has now never does.
    let goes = |key: &ReservationKey| {
        *key != mine
            && matches!(key.owner(cluster), KeyOwner::Node(node) if node == me || victims.contains(node))
    };
    // The holder first: with its key the reservation comes here, and what it has in flight is surely aborted (trap 3).
    match core::iter::once(&holder.key)
        .chain(&seen.keys)
        .find(|key| goes(key))
    {
        // The key is there, and the target does not know this node's way to it by it: a session made anew. It is registered there.
        Some(_) if in_vain => Next::Do(FenceOp::Register { key: mine }),
        Some(&victim) => Next::Do(FenceOp::PreemptAbort { key: mine, victim }),
        None => Next::Done,
    }
}

/// Some node of the cluster is registered: whose own key is not there has been fenced, rather than forgotten by the target.
pub(in crate::protocol) fn others_registered(seen: &Registrations, cluster: ClusterId) -> bool {
    seen.keys
        .iter()
        .any(|key| matches!(key.owner(cluster), KeyOwner::Node(_)))
}

/// The nodes of the cluster that are registered.
pub(in crate::protocol) fn registered(seen: &Registrations, cluster: ClusterId) -> NodeSet {
    (seen.keys.iter())
        .filter_map(|key| match key.owner(cluster) {
            KeyOwner::Node(node) => Some(node),
            _ => None,
        })
        .collect()
}

/// A key and whose it is, for people.
pub(in crate::protocol) fn described(key: ReservationKey, cluster: ClusterId) -> String {
    match key.owner(cluster) {
        KeyOwner::Node(node) => format!("key {key} of node {node}"),
        KeyOwner::OtherCluster { prefix, node } => {
            format!("key {key} of node {node} of another cluster, whose id begins with {prefix:06x}")
        }
        KeyOwner::Foreign => format!("key {key}, which is of no cluster of ccd"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reservation::Holder;
    use alloc::vec::Vec;

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();
    const OURS: ClusterId = ClusterId([7; 16]);

    fn key(node: NodeId, incarnation: u64) -> ReservationKey {
        ReservationKey::new(OURS, node, incarnation)
    }

    fn seen(keys: &[ReservationKey], holder: Option<ReservationKey>) -> Registrations {
        let mut keys: Vec<_> = keys.to_vec();
        keys.sort();
        let holder = holder.map(|key| Holder {
            key,
            right_type: true,
        });
        Registrations {
            keys,
            holder,
            paths_missing: 0,
        }
    }

    fn told(step: Next) -> String {
        match step {
            Next::Do(FenceOp::Look) => "look".into(),
            Next::Do(FenceOp::Register { key }) => format!("register {:x}", key.bits() & 0xff),
            Next::Do(FenceOp::Unregister { .. }) => "unregister".into(),
            Next::Do(FenceOp::Reserve { .. }) => "reserve".into(),
            Next::Do(FenceOp::PreemptAbort { victim, .. }) => format!(
                "preempt {:x}",
                victim.bits() >> 24 & 0xff | victim.bits() << 8 & 0xff00
            ),
            Next::Done => "done".into(),
            Next::Fenced => "fenced".into(),
            Next::Blocked(_) => "blocked".into(),
        }
    }

    #[test]
    fn each_state_of_a_device_has_its_step() {
        // Node A; its key of this run is 1, an earlier one 9, a fresh one 2. Node B has 3, and 4 from an earlier run.
        let (mine, old, fresh, b, b_old) = (key(A, 1), key(A, 9), key(A, 2), key(B, 3), key(B, 4));
        let stranger = ReservationKey::from_bits(0x1234);
        let other_cluster = ReservationKey::new(ClusterId([8; 16]), B, 1);
        let none = NodeSet::EMPTY;
        let fence_b = NodeSet::of(B);
        #[rustfmt::skip]
        let table = [
            // what                                    what is there                     held by              victims  may    step
            ("a new device",                           seen(&[], None),                  none,    true,  "register 2"),
            ("a target that forgot",                   seen(&[], None),                  none,    false, "register 2"),
            ("registered, nobody holds it",            seen(&[mine], None),              none,    false, "reserve"),
            ("all is well alone",                      seen(&[mine], Some(mine)),        fence_b, false, "done"),
            ("the peer holds it, and stays",           seen(&[mine, b], Some(b)),        none,    false, "done"),
            ("the peer holds it, and goes",            seen(&[mine, b], Some(b)),        fence_b, false, "preempt 301"),
            ("the peer is registered, and goes",       seen(&[mine, b], Some(mine)),     fence_b, false, "preempt 301"),
            ("the holder goes before the other",       seen(&[mine, b, b_old], Some(b_old)), fence_b, false, "preempt 401"),
            ("nobody holds it: first the reservation", seen(&[mine, b], None),           fence_b, false, "reserve"),
            ("its own old key goes",                   seen(&[mine, old], Some(old)),    none,    false, "preempt 900"),
            ("a restart does not take its old key for its own", seen(&[old], Some(old)), none,    true,  "register 2"),
            ("a node that serves finds its key gone",  seen(&[b], Some(b)),              fence_b, false, "fenced"),
            ("also if nobody holds it",                seen(&[b], None),                 fence_b, false, "fenced"),
            ("a cold start may register",              seen(&[b], Some(b)),              fence_b, true,  "register 2"),
            ("a stranger holds it",                    seen(&[stranger], Some(stranger)), fence_b, true, "blocked"),
            ("another cluster holds it",               seen(&[other_cluster], Some(other_cluster)), fence_b, true, "blocked"),
            ("a stranger's key is let be",             seen(&[mine, stranger], Some(mine)), fence_b, true, "done"),
            ("another cluster's key is let be",        seen(&[mine, other_cluster], Some(mine)), fence_b, true, "done"),
        ];
        for (situation, seen, victims, may_register, expected) in table {
            let step = next(&Situation {
                me: A,
                cluster: OURS,
                key: Some(mine),
                fresh,
                seen: &seen,
                victims,
                may_register,
                paths_tried: false,
                in_vain: false,
            });
            assert_eq!(told(step), expected, "{situation}");
        }
    }

    #[test]
    fn a_session_that_is_not_registered_although_the_key_is_there_is_registered() {
        let (mine, b) = (key(A, 1), key(B, 3));
        let table = [
            ("nobody holds the reservation", seen(&[mine], None)),
            ("the victim holds it", seen(&[mine, b], Some(b))),
            ("the victim is registered", seen(&[mine, b], Some(mine))),
        ];
        for (situation, seen) in table {
            let step = next(&Situation {
                me: A,
                cluster: OURS,
                key: Some(mine),
                fresh: key(A, 2),
                seen: &seen,
                victims: NodeSet::of(B),
                may_register: false,
                paths_tried: false,
                in_vain: true,
            });
            assert_eq!(step, Next::Do(FenceOp::Register { key: mine }), "{situation}");
        }
    }

    #[test]
    fn a_missing_path_is_registered_once_and_a_wrong_type_is_refused() {
        let mine = key(A, 1);
        let mut seen = seen(&[mine], Some(mine));
        seen.paths_missing = 1;
        let mut situation = Situation {
            me: A,
            cluster: OURS,
            key: Some(mine),
            fresh: key(A, 2),
            seen: &seen,
            victims: NodeSet::EMPTY,
            may_register: false,
            paths_tried: false,
            in_vain: false,
        };
        assert_eq!(next(&situation), Next::Do(FenceOp::Register { key: mine }));
        situation.paths_tried = true;
        assert_eq!(next(&situation), Next::Done);
        let mut wrong = seen.clone();
        wrong.holder = Some(Holder {
            key: mine,
            right_type: false,
        });
        situation.seen = &wrong;
        assert!(matches!(next(&situation), Next::Blocked(_)));
    }
}
