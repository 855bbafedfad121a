//! What a drill finds: would the cluster survive, and do its devices do what they are there for? Made by `protocol`, shown by
//! `ccdadm drill`.

use crate::configuration::votes::{self, Lost, Voters};
use crate::configuration::{Configuration, Mode, RestoreFlag};
use crate::ids::{DeviceRole, DeviceSet, NodeId, NodeSet};
use crate::reservation::Registrations;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReport {
    pub devices: Vec<DrilledDevice>,
    pub rehearsals: Vec<Rehearsal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledDevice {
    pub role: DeviceRole,
    pub usable: bool,
    /// Read back during the drill; `None` with lease fencing.
    pub reservation: Option<Registrations>,
    pub proof: Enforcement,
    /// One block of zeros, written durably again and again.
    pub write: Latency,
    /// The last heartbeats, each a durable write and a read of all control blocks.
    pub heartbeat: Latency,
}

/// Whether the device refuses the write of a node that is not registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enforcement {
    /// This node took its registration away, wrote, was refused, and registered again.
    Refused {
        node: NodeId,
        how: String,
    },
    /// It was not refused: reservations do not protect this device.
    Taken {
        node: NodeId,
    },
    NotShown {
        why: String,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u32,
    pub median: Duration,
    pub longest: Duration,
}

impl Latency {
    pub fn of(mut spans: Vec<Duration>) -> Self {
        spans.sort_unstable();
        Self {
            count: u32::try_from(spans.len()).unwrap_or(u32::MAX),
            median: spans.get(spans.len() / 2).copied().unwrap_or_default(),
            longest: spans.last().copied().unwrap_or_default(),
        }
    }
}

/// One thing that can happen, and what would come of it today.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    pub event: Rehearsed,
    pub goes_on: bool,
    /// What would be missing, if it does not.
    pub missing: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rehearsed {
    NodeDies(NodeId),
    DeviceFails(DeviceRole),
    /// All nodes stop; this one starts alone, with these devices.
    LoneStart {
        node: NodeId,
        devices: DeviceSet,
    },
}

/// What would come of each single loss and each lone start, with these nodes at hand today. `survives` says it of a loss. `voters_of` has the
/// nodes that a node hears and the devices that it can use itself; `None`: it is not heard.
pub fn rehearse(
    configuration: &Configuration,
    live: NodeSet,
    survives: impl Fn(Lost) -> bool,
    voters_of: impl Fn(NodeId) -> Option<Voters>,
) -> Vec<Rehearsal> {
    let mut rehearsals = Vec::new();
    let voters = |node| voters_of(node).unwrap_or_default();
    for node in configuration.members.iter() {
        let left = live.without(node);

        let rest = |other| {
            let all: Voters = voters(other);
            Voters::new(all.nodes.without(node), all.devices)
        };
        rehearsals.push(Rehearsal {
            event: Rehearsed::NodeDies(node),
            goes_on: survives(Lost::Node(node)),
            missing: missing(configuration, left, rest),
        });
    }
    for role in configuration.devices.iter() {
        let rest = |other| {
            let all: Voters = voters(other);
            Voters::new(all.nodes, all.devices.without(role))
        };
        rehearsals.push(Rehearsal {
            event: Rehearsed::DeviceFails(role),
            goes_on: survives(Lost::Device(role)),
            missing: missing(configuration, live, rest),
        });
    }
    for node in configuration.cluster.iter() {
        let Some(Voters { devices: all, .. }) = voters_of(node) else {
            rehearsals.push(Rehearsal {
                event: Rehearsed::LoneStart {
                    node,
                    devices: DeviceSet::EMPTY,
                },
                goes_on: false,
                missing: String::from("it is not heard, so what it can use is not known"),
            });
            continue;
        };
        let single = all.iter().map(|role| DeviceSet::EMPTY.with(role));
        let mut with: Vec<DeviceSet> = core::iter::once(all).chain(single).collect();
        with.dedup();
        for devices in with {
            rehearsals.push(lone_start(configuration, node, devices));
        }
    }
    for rehearsal in &mut rehearsals {
        if rehearsal.goes_on {
            rehearsal.missing.clear();
        }
    }
    rehearsals
}

/// What those that are left lack, as the one of them sees it that can use most.
fn missing(configuration: &Configuration, left: NodeSet, rest: impl Fn(NodeId) -> Voters) -> String {
    let most = left
        .iter()
        .map(rest)
        .max_by_key(|rest| (rest.nodes.count(), rest.devices.count()));
    let missing = votes::missing(configuration, most.unwrap_or_default());
    if !missing.is_empty() {
        missing
    } else if configuration.maintenance {
        String::from("maintenance: no node is replaced until it ends")
    } else if !configuration.devices.is_empty() {
        String::from("a node that can serve with the devices that are left")
    } else {
        String::from("links between those that are left: too few of them hear each other")
    }
}

fn lone_start(configuration: &Configuration, node: NodeId, devices: DeviceSet) -> Rehearsal {
    let ayes = Voters::new(NodeSet::of(node), devices);
    let others = configuration.cluster.without(node);
    let flagged = configuration.restore == RestoreFlag::NotAllActive && !others.is_empty();
    // Somebody must be left who can be written to: the node itself, or devices it owns.
    let serves = !devices.is_empty() || configuration.mode == Mode::Paired && others.is_empty();
    let decides = votes::decide(configuration, ayes);
    let missing = if flagged {
        format!("nodes {others}: after an operator's override all nodes must be active once")
    } else {
        votes::missing(configuration, ayes)
    };
    Rehearsal {
        event: Rehearsed::LoneStart { node, devices },
        goes_on: decides && serves && !flagged,
        missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use alloc::string::ToString;

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();
    const BOTH: DeviceSet = DeviceSet {
        primary: true,
        secondary: true,
    };

    fn pair() -> Configuration {
        let nodes = NodeSet::of(A).with(B);
        Configuration {
            epoch: Epoch(5),
            members: nodes,
            ..Configuration::genesis(nodes, BOTH)
        }
    }

    /// With a loss survived where the vote rule says so.
    fn rehearsed(
        configuration: &Configuration,
        live: NodeSet,
        voters_of: impl Fn(NodeId) -> Option<Voters>,
    ) -> Vec<Rehearsal> {
        let survives = |lost: Lost| {
            (live.iter())
                .filter(|node| lost != Lost::Node(*node))
                .filter_map(&voters_of)
                .any(|voters| votes::survives_loss(configuration, voters, lost))
        };
        rehearse(configuration, live, survives, &voters_of)
    }

    fn goes_on(configuration: &Configuration, live: Voters, event: Rehearsed) -> bool {
        rehearsed(configuration, live.nodes, |node| {
            live.nodes.contains(node).then_some(live)
        })
        .into_iter()
        .find(|rehearsal| rehearsal.event == event)
        .unwrap_or_else(|| panic!("{event:?} is rehearsed"))
        .goes_on
    }

    #[test]
    fn a_healthy_pair_survives_every_single_loss_and_starts_alone_with_the_arbiter() {
        let live = Voters::new(NodeSet::of(A).with(B), BOTH);
        let only = |role| DeviceSet::EMPTY.with(role);
        for rehearsal in rehearsed(&pair(), live.nodes, |_| Some(live)) {
            let expected = !matches!(
                rehearsal.event,
                Rehearsed::LoneStart { devices, .. } if devices == only(DeviceRole::Secondary)
            );
            assert_eq!(rehearsal.goes_on, expected, "{rehearsal:?}");
            assert_eq!(rehearsal.missing.is_empty(), expected);
        }
    }

    #[test]
    fn a_solo_owner_restarts_with_either_device_and_the_other_node_needs_both() {
        let solo = Configuration {
            mode: Mode::Solo(A),
            members: NodeSet::of(A),
            ..pair()
        };
        let live = Voters::new(NodeSet::of(A), BOTH);
        let with_b = Voters::new(live.nodes.with(B), BOTH);
        for node in [A, B] {
            let event = Rehearsed::LoneStart { node, devices: BOTH };
            assert!(goes_on(&solo, with_b, event));
        }
        for role in DeviceRole::ALL {
            let devices = DeviceSet::EMPTY.with(role);
            assert!(goes_on(&solo, with_b, Rehearsed::LoneStart { node: A, devices }));
            assert!(!goes_on(&solo, with_b, Rehearsed::LoneStart { node: B, devices }));
        }
        assert!(!goes_on(&solo, live, Rehearsed::NodeDies(A)), "B is not here");
        let unknown = Rehearsed::LoneStart {
            node: B,
            devices: DeviceSet::EMPTY,
        };
        assert!(!goes_on(&solo, live, unknown), "what B can use is not known");
    }

    #[test]
    fn whoever_is_left_must_go_on_with_the_devices_that_it_can_use_itself() {
        let live = NodeSet::of(A).with(B);
        let only_a_sees_them = |node| {
            let devices = if node == A { BOTH } else { DeviceSet::EMPTY };
            Some(Voters::new(live, devices))
        };
        for rehearsal in rehearsed(&pair(), live, only_a_sees_them) {
            let expected = match rehearsal.event {
                Rehearsed::NodeDies(node) => node == B,
                Rehearsed::DeviceFails(_) => true,
                Rehearsed::LoneStart { node, devices } => node == A && devices.primary,
            };
            assert_eq!(rehearsal.goes_on, expected, "{rehearsal:?}");
        }
    }

    #[test]
    fn after_an_override_nobody_starts_alone() {
        let flagged = Configuration {
            restore: RestoreFlag::NotAllActive,
            ..pair()
        };
        let live = Voters::new(NodeSet::of(A).with(B), BOTH);
        let lone = rehearsed(&flagged, live.nodes, |_| Some(live))
            .into_iter()
            .find(|rehearsal| {
                rehearsal.event
                    == Rehearsed::LoneStart {
                        node: A,
                        devices: BOTH,
                    }
            });
        let lone = lone.unwrap();
        assert!(!lone.goes_on && lone.missing.contains("override"), "{lone:?}");
        assert!(!lone.missing.to_string().is_empty());
    }

    #[test]
    fn latencies_are_summed_up() {
        let spans = [3, 1, 2].map(Duration::from_millis).to_vec();
        let latency = Latency::of(spans);
        assert_eq!(
            (latency.count, latency.median, latency.longest),
            (3, Duration::from_millis(2), Duration::from_millis(3))
        );
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
