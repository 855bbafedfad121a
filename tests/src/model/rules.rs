//! The decisions that the model asks for: the product's, or a known bad variant of one of them.

use super::parts::{Conf, Set, Shown, device_set, members, node_id, node_set};
use ccd_core::configuration::Configuration;
use ccd_core::configuration::votes::{self, Voters};
use ccd_core::ids::{DeviceRole, Epoch};
use ccd_core::protocol::rules::{Evidence, Source, may_hold_leases, newest_state, override_epoch};

/// What is put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// A device weighs as much as a node.
    DevicesWeighAsNodes,
    /// A solo owner acks without having looked for claims after its write.
    NoLookAfterTheWrite,
    /// A challenger does not look at the others' ballots, nor at the owner's area, after its own ballot has landed, but before.
    LookBeforeTheBallot,
    /// The newest date is taken, whatever the epoch; the clock of node 0 is an hour ahead.
    DateBeforeStamp,
    /// The newest of all whole replicas is taken, whoever wrote it.
    NewestOfAll,
    /// An override takes the next epoch.
    OverrideWithoutJump,
    /// An override jumps a thousand epochs and its node's number, as it once did.
    OverrideJumpsTooShort,
    /// A configuration opens while those it leaves out may still answer.
    NoWaitForLeases,
    /// Only the members of the configuration before are waited for, also if it never opened.
    WaitForMembersOnly,
    /// More than half of the members decide, and may go on, however few they are.
    MajorityOfMembers,
    /// A restarted node has forgotten its ballot block.
    BallotForgotten,
    /// A sealed node goes on storing and acking updates.
    SealedGoesOn,
}

/// The product's rules, with at most one of them replaced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    pub variant: Option<Variant>,
}

impl Rules {
    pub const SOUND: Self = Self { variant: None };

    pub const fn with(variant: Variant) -> Self {
        Self {
            variant: Some(variant),
        }
    }

    pub fn is(&self, variant: Variant) -> bool {
        self.variant == Some(variant)
    }

    /// Whether these nodes and devices decide the successor.
    pub fn decide(&self, conf: &Conf, ayes: (Set, Set)) -> bool {
        let configuration = conf.configuration();
        match self.variant {
            Some(Variant::DevicesWeighAsNodes) => equal_weights(&configuration, ayes),
            Some(Variant::MajorityOfMembers) => {
                (ayes.0 & conf.members).count_ones() * 2 > conf.members.count_ones()
            }
            _ => votes::decide(&configuration, Voters::new(node_set(ayes.0), device_set(ayes.1))),
        }
    }

    pub fn admissible(&self, conf: &Conf) -> bool {
        self.is(Variant::MajorityOfMembers) || votes::admissible(&conf.configuration())
    }

    /// The state that the successor starts from.
    pub fn newest(&self, conf: &Conf, nodes: &[Option<Shown>], devices: &[Option<Shown>]) -> Option<Shown> {
        let named = |source: Source, shown: &Option<Shown>| {
            shown.map(|shown| {
                let evidence = Evidence {
                    source,
                    position: shown.content.position(),
                    whole: shown.whole,
                    rolled_back: None,
                };
                (evidence, shown)
            })
        };
        let of_nodes = nodes
            .iter()
            .enumerate()
            .filter_map(|(index, shown)| named(Source::Node(node_id(index)), shown));
        let of_devices = devices
            .iter()
            .enumerate()
            .filter_map(|(index, shown)| named(Source::Device(DeviceRole::ALL[index]), shown));
        let (evidence, shown): (Vec<Evidence>, Vec<Shown>) = of_nodes.chain(of_devices).unzip();
        let whole = || shown.iter().filter(|shown| shown.whole).copied();
        match self.variant {
            Some(Variant::NewestOfAll) => {
                whole().max_by_key(|shown| (shown.content.epoch(), shown.content.generation()))
            }
            // The first epoch was written by node 0, whose clock is ahead.
            Some(Variant::DateBeforeStamp) => whole().max_by_key(|shown| {
                let epoch = shown.content.epoch();
                (
                    if epoch == 1 { u32::MAX } else { epoch },
                    shown.content.generation(),
                )
            }),
            _ => {
                let chosen = newest_state(&conf.configuration(), &evidence).ok()?;
                let index = evidence.iter().position(|known| known == chosen)?;
                Some(shown[index])
            }
        }
    }

    /// Nodes whose leases must have run out before a successor opens.
    pub fn may_hold_leases(&self, known: &Conf, next: &Conf) -> Set {
        if self.is(Variant::WaitForMembersOnly) {
            return known.members & !next.members;
        }
        may_hold_leases(&known.configuration(), &next.configuration(), false).bits() as Set
    }

    pub fn override_epoch(&self, known: u32, node: usize) -> u32 {
        match self.variant {
            Some(Variant::OverrideWithoutJump) => known + 1,
            Some(Variant::OverrideJumpsTooShort) => known + 1_000 + node as u32,
            _ => override_epoch(Epoch(u64::from(known)), node_id(node)).0 as u32,
        }
    }
}

fn equal_weights(configuration: &Configuration, ayes: (Set, Set)) -> bool {
    let voters = votes::voters(configuration);
    let nodes = node_set(ayes.0).intersection(voters.nodes).count();
    let mine: Vec<DeviceRole> = members(ayes.1)
        .map(|index| DeviceRole::ALL[index])
        .filter(|role| voters.devices.contains(*role))
        .collect();
    let (ayes, total) = (nodes + mine.len(), voters.nodes.count() + voters.devices.count());
    let with_arbiter = votes::arbiter(configuration).is_some_and(|arbiter| mine.contains(&arbiter));
    ayes * 2 > total || ayes * 2 == total && with_arbiter
}
