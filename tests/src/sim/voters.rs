//! Who has voted for what, as the media hold it, and whether that was enough: DESIGN §7 written a second time,
//! straight from its table, so that a mistake in the product's own rule is not repeated here.

use super::ledger::Ledger;
use super::unsound::Unsound;
use ccd_core::configuration::{Ballot, BallotBlock, Configuration, Decider, Mode};
use ccd_core::ids::{DeviceRole, Epoch, Incarnation, NodeId, Replica};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Voter {
    Node(NodeId),
    Device(DeviceRole),
}

impl Voter {
    /// Who votes by what this node writes to this replica.
    pub fn by(node: NodeId, replica: Replica) -> Self {
        match replica {
            Replica::Local => Self::Node(node),
            Replica::Device(role) => Self::Device(role),
        }
    }
}

/// Votes that are durable.
#[derive(Debug)]
pub struct Voters {
    genesis: Configuration,
    /// Instance and ballot → the value, and who has accepted it.
    accepted: BTreeMap<(Epoch, Ballot), (Configuration, Vec<Voter>)>,
}

impl Voters {
    pub fn new(genesis: Configuration) -> Self {
        Self {
            genesis,
            accepted: BTreeMap::new(),
        }
    }

    /// A ballot block is durable.
    pub fn on_ballot(&mut self, voter: Voter, block: &BallotBlock) -> Result<(), Unsound> {
        let Some((ballot, value)) = &block.accepted else {
            return Ok(());
        };
        let known = self
            .accepted
            .entry((block.instance, *ballot))
            .or_insert_with(|| (value.clone(), Vec::new()));
        if known.0 != *value {
            let text = format!(
                "{ballot:?} of {} proposes {} and {value}",
                block.instance, known.0
            );
            return Err(Unsound::new("invariant_one_value_a_ballot", text));
        }
        if !known.1.contains(&voter) {
            known.1.push(voter);
        }
        Ok(())
    }

    /// The configuration votes intersect: whatever is taken for decided was accepted, in one ballot, by voters of
    /// its predecessor that decide.
    pub fn invariant_decided_by_voters(
        &self,
        ledger: &Ledger,
        decided: &Configuration,
    ) -> Result<(), Unsound> {
        if decided.decider == Decider::Operator {
            return Ok(());
        }
        let instance = Epoch(decided.epoch.0 - 1);
        let Some(before) = ledger.configuration(instance) else {
            let text = format!("{decided} is decided, but nobody knew what came before it");
            return Err(Unsound::new("invariant_decided_by_voters", text));
        };
        let of_this = |voted: &&(Configuration, Vec<Voter>)| voted.0 == *decided;
        let ballots = self.accepted.range((instance, FIRST)..(instance.next(), FIRST));
        let enough = ballots
            .map(|(_, voted)| voted)
            .filter(of_this)
            .any(|(_, voters)| self.decide(before, voters));
        if enough {
            return Ok(());
        }
        let votes: Vec<_> = self
            .accepted
            .range((instance, FIRST)..(instance.next(), FIRST))
            .collect();
        let text =
            format!("{decided} is taken for decided without the votes of {before}; there are {votes:?}");
        Err(Unsound::new("invariant_decided_by_voters", text))
    }

    pub(super) fn decide(&self, before: &Configuration, voters: &[Voter]) -> bool {
        if *before == self.genesis {
            let nodes = before.nodes.iter().map(Voter::Node);
            let mut all = nodes.chain(before.devices.iter().map(Voter::Device));
            return all.all(|voter| voters.contains(&voter));
        }
        let weights = weights(before);
        let weigh = |voter: &Voter| {
            weights
                .iter()
                .find(|known| known.0 == *voter)
                .map_or(0, |known| known.1)
        };
        let total: u32 = weights.iter().map(|known| known.1).sum();
        let weight: u32 = voters.iter().map(weigh).sum();
        let arbiter = DeviceRole::ALL
            .into_iter()
            .find(|role| before.devices.contains(*role));
        let with_arbiter = arbiter.is_some_and(|role| voters.contains(&Voter::Device(role)));
        2 * weight > total || 2 * weight == total && with_arbiter
    }
}

const FIRST: Ballot = Ballot {
    round: 0,
    node: NodeId::new(0).unwrap(),
    incarnation: Incarnation(7),
};

/// The table of DESIGN §7.
fn weights(configuration: &Configuration) -> Vec<(Voter, u32)> {
    let devices = configuration.devices.iter().map(|role| (Voter::Device(role), 1));
    match configuration.mode {
        Mode::Solo(owner) => core::iter::once((Voter::Node(owner), 1)).chain(devices).collect(),
        Mode::Paired => {
            let (nodes, weight) = if configuration.devices.is_empty() {
                (configuration.nodes, 1)
            } else {
                (configuration.members, 2)
            };
            nodes
                .iter()
                .map(|node| (Voter::Node(node), weight))
                .chain(devices)
                .collect()
        }
    }
}
