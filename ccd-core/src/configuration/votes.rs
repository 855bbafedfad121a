//! The vote rule (DESIGN §7): who may decide the successor of a configuration.
//!
//! > Voters that weigh more than half of the configuration's total, or exactly half with the arbiter among them,
//! > decide.
//!
//! Takeover, restart, degrade and refuse are all this one question. Any two sets that decide have a voter in
//! common, and every set that decides has one of the replicas that the configuration's updates are written to
//! (both are tests below): so there is one successor, and it starts from every acked update.

use super::{Configuration, Mode, Quorum};
use crate::ids::{DeviceRole, DeviceSet, NodeId, NodeSet};
use core::fmt;

/// A set of voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voters {
    pub nodes: NodeSet,
    pub devices: DeviceSet,
}

impl Voters {
    pub const NONE: Self = Self {
        nodes: NodeSet::EMPTY,
        devices: DeviceSet::EMPTY,
    };

    pub const fn new(nodes: NodeSet, devices: DeviceSet) -> Self {
        Self { nodes, devices }
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.union(other.nodes),
            devices: self.devices.union(other.devices),
        }
    }

    fn is_superset(self, other: Self) -> bool {
        self.nodes.is_superset(other.nodes) && other.devices.iter().all(|role| self.devices.contains(role))
    }
}

impl fmt::Display for Voters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for node in self.nodes.iter() {
            write!(f, "{separator}node {node}")?;
            separator = ", ";
        }
        for role in self.devices.iter() {
            write!(f, "{separator}{role}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("nobody")
        } else {
            Ok(())
        }
    }
}

/// All voters of a configuration.
///
/// Solo: the owner and the devices. Paired with devices: the members and the devices. Without devices: all nodes of
/// the cluster, members or not.
pub fn voters(configuration: &Configuration) -> Voters {
    let nodes = match configuration.mode {
        _ if configuration.is_genesis() => configuration.nodes,
        Mode::Solo(owner) => NodeSet::of(owner),
        Mode::Paired if configuration.devices.is_empty() => configuration.nodes,
        Mode::Paired => configuration.members,
    };
    Voters {
        nodes,
        devices: configuration.devices,
    }
}

/// A device never outweighs a node, so that two live nodes never need one; a solo owner weighs as much as each of
/// its devices, so that it survives losing either.
fn node_weight(configuration: &Configuration) -> usize {
    match configuration.mode {
        Mode::Paired if !configuration.devices.is_empty() => 2,
        _ => 1,
    }
}

const DEVICE_WEIGHT: usize = 1;

fn weight(configuration: &Configuration, ayes: Voters) -> usize {
    let nodes = ayes.nodes.count().saturating_mul(node_weight(configuration));
    nodes.saturating_add(ayes.devices.count().saturating_mul(DEVICE_WEIGHT))
}

/// The device whose side wins a tie: the primary, or the secondary once the primary is lost.
pub fn arbiter(configuration: &Configuration) -> Option<DeviceRole> {
    configuration.devices.iter().next()
}

/// Whether these voters decide the successor. The first configuration of a cluster needs every node and every
/// device once: only so is it certain that nothing older exists anywhere.
pub fn decide(configuration: &Configuration, ayes: Voters) -> bool {
    let voters = voters(configuration);
    let ayes = Voters {
        nodes: ayes.nodes.intersection(voters.nodes),
        devices: ayes
            .devices
            .iter()
            .filter(|role| voters.devices.contains(*role))
            .collect(),
    };
    if configuration.is_genesis() {
        return ayes.is_superset(voters);
    }
    let (for_it, total) = (weight(configuration, ayes), weight(configuration, voters));
    let is_half = total.is_multiple_of(2) && for_it == total / 2;
    for_it > total / 2 || is_half && arbiter(configuration).is_some_and(|a| ayes.devices.contains(a))
}

/// Whether no successor can be decided without one of these voters: what is left of the others does not decide. Voters that
/// decide also hold; so do those that weigh exactly half where there is no arbiter. Nothing new is decided by holding,
/// and nothing old can be overtaken while it lasts.
pub fn hold(configuration: &Configuration, ayes: Voters) -> bool {
    let voters = voters(configuration);
    let rest = Voters {
        nodes: voters.nodes.minus(ayes.nodes),
        devices: (voters.devices.iter())
            .filter(|role| !ayes.devices.contains(*role))
            .collect(),
    };
    !configuration.is_genesis() && !decide(configuration, rest)
}

/// Whether exactly half of the voters is a case of its own: an even number of nodes, and no device to tip the scales.
pub fn has_halves(configuration: &Configuration) -> bool {
    let is_even = voters(configuration).nodes.count().is_multiple_of(2);
    !configuration.is_genesis() && configuration.devices.is_empty() && is_even
}

/// Whether a configuration may be proposed at all: its updates must reach a voter of every deciding set.
pub fn admissible(configuration: &Configuration) -> bool {
    match configuration.mode {
        Mode::Solo(owner) => configuration.members == NodeSet::of(owner) && !configuration.devices.is_empty(),
        Mode::Paired if configuration.devices.is_empty() => configuration
            .members
            .is_more_than_half_of(configuration.nodes.count()),
        Mode::Paired => configuration.members.count() >= 2,
    }
}

/// The members without a vote that a successor with these members and devices, of so many nodes, could not do without. `at_hand`: the
/// devices that vote for it.
///
/// It gives up the last of them, and should one of these members fail before it has stored the successor, and come back knowing as little
/// as now, nobody could decide any more. Nobody, if it keeps a device, has none to give up, or if the other members decide without them.
pub fn leaned_on(at_hand: DeviceSet, next: Voters, nodes: NodeSet, voteless: NodeSet) -> NodeSet {
    let gives_up = !at_hand.is_empty() && next.devices.is_empty();
    let rest = next.nodes.minus(voteless);
    if gives_up && !rest.is_more_than_half_of(nodes.count()) {
        next.nodes.intersection(voteless)
    } else {
        NodeSet::EMPTY
    }
}

/// The members and devices to go on with instead of such a successor, if it is one: the devices that vote, `me`, and those members that
/// have a vote and use all of these devices.
pub fn instead_of_leaning(
    me: NodeId,
    at_hand: DeviceSet,
    next: Voters,
    nodes: NodeSet,
    voteless: NodeSet,
    uses: impl Fn(NodeId) -> DeviceSet,
) -> Option<Voters> {
    let leaned = leaned_on(at_hand, next, nodes, voteless);
    let uses_all = |node: &NodeId| at_hand.iter().all(|role| uses(*node).contains(role));
    let members: NodeSet = next
        .nodes
        .minus(leaned.with(me))
        .iter()
        .filter(uses_all)
        .collect();
    (!leaned.is_empty()).then(|| Voters::new(members.with(me), at_hand))
}

/// Whether the cluster goes on serving if, of these live voters, one part is lost.
pub fn survives_loss(configuration: &Configuration, live: Voters, lost: Lost) -> bool {
    let rest = match lost {
        Lost::Node(node) => Voters {
            nodes: live.nodes.without(node),
            ..live
        },
        Lost::Device(role) => Voters {
            devices: live.devices.without(role),
            ..live
        },
    };
    // With quorum off whoever is left goes on.
    let is_waived = configuration.quorum == Quorum::Waived;
    let someone_to_serve = match configuration.mode {
        // Another node can take over a solo owner's devices, if it is up.
        Mode::Solo(_) => !rest.nodes.is_empty() && !rest.devices.is_empty(),
        Mode::Paired => {
            !rest.nodes.intersection(configuration.members).is_empty()
                && (rest.nodes.count() >= 2 && configuration.nodes.count() > 0
                    || !rest.devices.is_empty()
                    || is_waived)
        }
    };
    someone_to_serve && (is_waived || decide(configuration, rest))
}

/// A part that [`survives_loss`] takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Node(NodeId),
    Device(DeviceRole),
}

/// What is missing for these voters to decide, for people: `primary, or node 1 and secondary`.
pub fn missing(configuration: &Configuration, ayes: Voters) -> alloc::string::String {
    use alloc::string::ToString;
    use alloc::vec::Vec;
    let voters = voters(configuration);
    let absent_nodes: Vec<NodeId> = voters.nodes.minus(ayes.nodes).iter().collect();
    let absent_devices: Vec<DeviceRole> = voters
        .devices
        .iter()
        .filter(|role| !ayes.devices.contains(*role))
        .collect();
    let absent = absent_nodes.len().saturating_add(absent_devices.len());
    // The smallest additions that decide, by number of parts; at most 34 voters, and single parts come first.
    let with = |nodes: &[NodeId], devices: &[DeviceRole]| Voters {
        nodes: nodes.iter().fold(ayes.nodes, |set, node| set.with(*node)),
        devices: devices.iter().fold(ayes.devices, |set, role| set.with(*role)),
    };
    let mut ways: Vec<alloc::string::String> = Vec::new();
    for count in 1..=absent {
        for devices in 0..=absent_devices.len().min(count) {
            let nodes = count.saturating_sub(devices);
            let Some(added) = absent_nodes.get(..nodes) else {
                continue;
            };
            let device_choices: Vec<Vec<DeviceRole>> = match devices {
                0 => alloc::vec![Vec::new()],
                1 => absent_devices.iter().map(|role| alloc::vec![*role]).collect(),
                _ => alloc::vec![absent_devices.clone()],
            };
            for choice in device_choices {
                // Nodes weigh alike: which ones does not matter.
                if decide(configuration, with(added, &choice)) {
                    let devices: DeviceSet = choice.iter().copied().collect();
                    ways.push(if nodes == 0 || nodes == absent_nodes.len() {
                        Voters {
                            nodes: added.iter().copied().collect(),
                            devices,
                        }
                        .to_string()
                    } else {
                        let any = Voters {
                            nodes: absent_nodes.iter().copied().collect(),
                            devices,
                        };
                        alloc::format!("{nodes} of {any}")
                    });
                }
            }
        }
        if !ways.is_empty() {
            break;
        }
    }
    ways.join(", or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use alloc::vec::Vec;

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();
    const C: NodeId = NodeId::new(2).unwrap();
    const P: DeviceRole = DeviceRole::Primary;
    const S: DeviceRole = DeviceRole::Secondary;

    fn set(nodes: &[NodeId]) -> NodeSet {
        nodes.iter().copied().collect()
    }
    fn ayes(nodes: &[NodeId], devices: &[DeviceRole]) -> Voters {
        Voters::new(set(nodes), devices.iter().copied().collect())
    }
    fn paired(members: &[NodeId], devices: &[DeviceRole]) -> Configuration {
        Configuration {
            epoch: Epoch(5),
            members: set(members),
            ..Configuration::genesis(set(members), devices.iter().copied().collect())
        }
    }
    fn solo(owner: NodeId, devices: &[DeviceRole]) -> Configuration {
        Configuration {
            mode: Mode::Solo(owner),
            members: NodeSet::of(owner),
            ..paired(&[A, B], devices)
        }
    }
    fn shapes() -> Vec<Configuration> {
        let mut shapes = Vec::new();
        for devices in [&[P, S][..], &[P], &[S]] {
            shapes.push(paired(&[A, B], devices));
            shapes.push(paired(&[A, B, C], devices));
            shapes.push(solo(A, devices));
        }
        shapes.push(paired(&[A, B], &[]));
        for nodes in 1..=5 {
            let all: NodeSet = NodeId::all().take(nodes).collect();
            for members in 1..=nodes {
                let members: NodeSet = NodeId::all().take(members).collect();
                shapes.push(Configuration {
                    members,
                    nodes: all,
                    ..paired(&[A], &[])
                });
            }
        }
        shapes.retain(admissible);
        shapes
    }
    /// Every subset of a configuration's voters.
    fn subsets(configuration: &Configuration) -> Vec<Voters> {
        let all = voters(configuration);
        let nodes: Vec<NodeId> = all.nodes.iter().collect();
        let devices: Vec<DeviceRole> = all.devices.iter().collect();
        (0..1u32 << (nodes.len() + devices.len()))
            .map(|bits| Voters {
                nodes: nodes
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| bits >> i & 1 == 1)
                    .map(|(_, n)| *n)
                    .collect(),
                devices: (devices.iter().enumerate())
                    .filter(|(i, _)| bits >> (nodes.len() + i) & 1 == 1)
                    .map(|(_, d)| *d)
                    .collect(),
            })
            .collect()
    }

    #[test]
    fn the_table_of_configurations_decides_as_designed() {
        let both = [P, S];
        #[rustfmt::skip]
        let table: &[(Configuration, Voters, bool, &str)] = &[
            (paired(&[A, B], &both), ayes(&[A], &[P]),    true,  "either node with the arbiter takes over"),
            (paired(&[A, B], &both), ayes(&[B], &[P]),    true,  "either node with the arbiter takes over"),
            (paired(&[A, B], &both), ayes(&[A], &[S]),    false, "a node with only the other device does not"),
            (paired(&[A, B], &both), ayes(&[B], &[S]),    false, "a node with only the other device does not"),
            (paired(&[A, B], &both), ayes(&[A, B], &[]),  true,  "two live nodes never need a device"),
            (paired(&[A, B], &both), ayes(&[A], &[]),     false, "a node alone does not"),
            (paired(&[A, B], &both), ayes(&[], &both),    false, "devices alone do not"),
            (paired(&[A, B], &[P]),  ayes(&[A], &[P]),    true,  "secondary lost: the primary is arbiter"),
            (paired(&[A, B], &[P]),  ayes(&[A], &[]),     false, "secondary lost: nobody without the primary"),
            (paired(&[A, B], &[S]),  ayes(&[B], &[S]),    true,  "primary lost: the secondary is arbiter"),
            (paired(&[A, B], &[S]),  ayes(&[B], &[P]),    false, "primary lost: its return says nothing"),
            (paired(&[A, B], &[]),   ayes(&[A, B], &[]),  true,  "both lost: the two nodes go on"),
            (paired(&[A, B], &[]),   ayes(&[A], &both),   false, "both lost: neither goes on alone"),
            (solo(A, &both),         ayes(&[A], &[P]),    true,  "a solo owner survives losing the secondary"),
            (solo(A, &both),         ayes(&[A], &[S]),    true,  "a solo owner survives losing the primary"),
            (solo(A, &both),         ayes(&[], &both),    true,  "the other node needs both devices"),
            (solo(A, &both),         ayes(&[B], &[P]),    false, "the other node with the primary only does not"),
            (solo(A, &both),         ayes(&[B], &[S]),    false, "the other node with the secondary only does not"),
            (solo(A, &both),         ayes(&[A], &[]),     false, "the owner without its devices does not"),
            (solo(A, &[P]),          ayes(&[B], &[P]),    true,  "one recorded lost: the other device is enough"),
            (solo(A, &[S]),          ayes(&[B], &[S]),    true,  "one recorded lost: the other device is enough"),
            (solo(A, &[S]),          ayes(&[A], &[P]),    false, "one recorded lost: it says nothing when back"),
            (paired(&[A, B, C], &[]), ayes(&[A, C], &[]), true,  "N nodes: more than half"),
            (paired(&[A, B, C], &[]), ayes(&[C], &[]),    false, "N nodes: not fewer"),
        ];
        for (configuration, ayes, expected, rule) in table {
            assert_eq!(
                decide(configuration, *ayes),
                *expected,
                "{rule}: {configuration} by {ayes}"
            );
        }
    }

    #[test]
    fn the_first_configuration_needs_every_node_and_device() {
        let genesis = Configuration::genesis(set(&[A, B]), [P, S].into_iter().collect());
        for subset in subsets(&genesis) {
            assert_eq!(decide(&genesis, subset), subset == voters(&genesis));
        }
    }

    #[test]
    fn any_two_deciding_sets_have_a_voter_in_common() {
        for configuration in shapes() {
            let deciding: Vec<Voters> = subsets(&configuration)
                .into_iter()
                .filter(|s| decide(&configuration, *s))
                .collect();
            assert!(!deciding.is_empty(), "{configuration} can never be left");
            for one in &deciding {
                for two in &deciding {
                    let common = !one.nodes.intersection(two.nodes).is_empty()
                        || one.devices.iter().any(|role| two.devices.contains(role));
                    assert!(common, "{configuration}: {one} and {two}");
                }
            }
        }
    }

    #[test]
    fn every_deciding_set_has_a_replica_that_updates_are_written_to() {
        for configuration in shapes() {
            let writers = configuration.writers();
            for subset in subsets(&configuration)
                .into_iter()
                .filter(|s| decide(&configuration, *s))
            {
                let has_one = !subset.nodes.intersection(writers.nodes).is_empty()
                    || subset.devices.iter().any(|role| writers.devices.contains(role));
                assert!(has_one, "{configuration}: {subset} holds no acked update");
            }
        }
    }

    #[test]
    fn exactly_half_holds_only_where_no_arbiter_tips_the_scales() {
        const D: NodeId = NodeId::new(3).unwrap();
        #[rustfmt::skip]
        let table: &[(Configuration, Voters, bool, &str)] = &[
            (paired(&[A, B, C, D], &[]), ayes(&[C, D], &[]), true,  "half of four"),
            (paired(&[A, B, C, D], &[]), ayes(&[D], &[]),    false, "fewer than half of four"),
            (paired(&[A, B], &[]),       ayes(&[B], &[]),    true,  "half of two"),
            (paired(&[A, B, C], &[]),    ayes(&[C], &[]),    false, "half of three is rounded up"),
            (paired(&[A, B, C], &[]),    ayes(&[A, C], &[]), true,  "half of three, rounded up"),
            (paired(&[A, B], &[P, S]),   ayes(&[A], &[S]),   false, "half of a pair without the arbiter"),
            (paired(&[A, B], &[P, S]),   ayes(&[A], &[P]),   true,  "half of a pair with it decides"),
            (solo(A, &[P]),              ayes(&[A], &[]),    false, "an owner without its arbiter"),
            (Configuration::genesis(set(&[A, B]), DeviceSet::EMPTY), ayes(&[A], &[]), false, "nothing was decided yet"),
        ];
        for (configuration, ayes, expected, rule) in table {
            assert_eq!(
                hold(configuration, *ayes),
                *expected,
                "{rule}: {configuration} by {ayes}"
            );
        }
    }

    #[test]
    fn whoever_holds_has_a_voter_in_every_deciding_set() {
        for configuration in shapes() {
            for holding in (subsets(&configuration).into_iter()).filter(|s| hold(&configuration, *s)) {
                for deciding in (subsets(&configuration).into_iter()).filter(|s| decide(&configuration, *s)) {
                    let common = !holding.nodes.intersection(deciding.nodes).is_empty()
                        || holding.devices.iter().any(|role| deciding.devices.contains(role));
                    assert!(common, "{configuration}: {holding} and {deciding}");
                }
            }
        }
    }

    #[test]
    fn no_device_is_given_up_for_members_without_a_vote() {
        const D: NodeId = NodeId::new(3).unwrap();
        let (two, three, four) = (set(&[A, B]), set(&[A, B, C]), set(&[A, B, C, D]));
        let (none, p, both) = (
            ayes(&[], &[]).devices,
            ayes(&[], &[P]).devices,
            ayes(&[], &[P, S]).devices,
        );
        // Who uses which devices: A and B both, C the secondary only.
        let uses = |node| if node == C { ayes(&[], &[S]).devices } else { both };
        #[rustfmt::skip]
        let table = [
            (p,    ayes(&[A, B], &[]),       two,   set(&[B]),    Some(ayes(&[A], &[P])),       "a joiner with a new copy, and the last device"),
            (p,    ayes(&[A, B], &[S]),      two,   set(&[B]),    None,                         "another device takes its place"),
            (p,    ayes(&[A, B], &[]),       two,   set(&[]),     None,                         "the joiner has a vote"),
            (none, ayes(&[A, B], &[]),       two,   set(&[B]),    None,                         "no device votes any more"),
            (p,    ayes(&[A, B, C], &[]),    three, set(&[C]),    None,                         "two of three decide without the third"),
            (p,    ayes(&[A, B, C], &[]),    three, set(&[B, C]), Some(ayes(&[A], &[P])),       "one of three does not"),
            (both, ayes(&[A, B, C, D], &[]), four,  set(&[C, D]), Some(ayes(&[A, B], &[P, S])), "half of four does not"),
            (both, ayes(&[A, B, C, D], &[]), four,  set(&[B, D]), Some(ayes(&[A], &[P, S])),    "who has a vote and does not use them all stays out"),
            (p,    ayes(&[A, B], &[]),       two,   set(&[A]),    Some(ayes(&[A, B], &[P])),    "the proposer itself has none"),
        ];
        for (at_hand, next, nodes, voteless, expected, rule) in table {
            let instead = instead_of_leaning(A, at_hand, next, nodes, voteless, uses);
            assert_eq!(instead, expected, "{rule}");
            let leaned = leaned_on(at_hand, next, nodes, voteless);
            assert_eq!(leaned.is_empty(), expected.is_none(), "{rule}");
            if let Some(instead) = instead {
                assert!(leaned_on(at_hand, instead, nodes, voteless).is_empty(), "{rule}");
            }
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        #[rustfmt::skip]
        let table = [
            (paired(&[A, B], &[P, S]), ayes(&[B], &[S]), "node 0, or primary"),
            (paired(&[A, B], &[P, S]), ayes(&[A], &[]),  "node 1, or primary"),
            (solo(A, &[P, S]),         ayes(&[], &[S]),  "node 0, or primary"),
            (paired(&[A, B], &[]),     ayes(&[A], &[]),  "node 1"),
            (paired(&[A, B, C], &[]),  ayes(&[A], &[]),  "1 of node 1, node 2"),
        ];
        for (configuration, ayes, expected) in table {
            assert_eq!(missing(&configuration, ayes), expected);
        }
    }

    #[test]
    fn a_healthy_pair_survives_any_single_loss_and_two_nodes_without_devices_none() {
        let all = ayes(&[A, B], &[P, S]);
        for lost in [Lost::Node(A), Lost::Node(B), Lost::Device(P), Lost::Device(S)] {
            assert!(survives_loss(&paired(&[A, B], &[P, S]), all, lost), "{lost:?}");
        }
        assert!(!survives_loss(
            &paired(&[A, B], &[]),
            ayes(&[A, B], &[]),
            Lost::Node(A)
        ));
        // A solo owner whose peer is down cannot itself be lost.
        assert!(!survives_loss(
            &solo(A, &[P, S]),
            ayes(&[A], &[P, S]),
            Lost::Node(A)
        ));
        assert!(survives_loss(
            &solo(A, &[P, S]),
            ayes(&[A], &[P, S]),
            Lost::Device(P)
        ));
    }
}
