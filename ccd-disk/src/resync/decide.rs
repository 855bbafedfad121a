//! Whether a device may be brought to what its twin holds. Pure; a table tests it.
//!
//! Which configuration is the newest, whether a later one can have been decided, and which state counts is decided by the rules of
//! the protocol (`votes`, `newest_state`), asked about what lies on the replicas now. What these rules need other nodes for is refused:
//! the daemon does it.

use ccd_core::configuration::votes::{self, Voters};
use ccd_core::configuration::{BallotBlock, Configuration, Mode};
use ccd_core::ids::{DeviceRole, DeviceSet, NodeId, NodeSet, Position};
use ccd_core::protocol::rules::{Evidence, Source, is_overruled, newest_state};

/// What one replica says.
#[derive(Clone, Debug)]
pub struct Seen {
    pub source: Source,
    /// The newest in any of its areas, and in which.
    pub configuration: Option<(NodeId, Configuration)>,
    /// Of all areas.
    pub ballots: Vec<BallotBlock>,
    /// Every ballot and configuration block is whole, so that nothing it took part in can be missing.
    pub votes_are_whole: bool,
    pub position: Position,
    /// Whether it holds a state at all.
    pub has_state: bool,
    /// What is missing of its content.
    pub damage: Option<String>,
    /// Versions that it went through, as far as it remembers, up to the present one.
    pub way: Vec<Position>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The target holds it already.
    InSync,
    /// The nodes' own copies hold the database, and devices only vote: there is nothing to copy.
    Paired(Box<Configuration>),
    Copy(Box<Copy>),
}

/// What the target is to get.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// That of the twin.
    pub position: Position,
    /// Where the target stands; `None`: it holds nothing, or what it holds is damaged.
    pub replaces: Option<Position>,
    /// The content is to be written; else only the configuration.
    pub with_image: bool,
    /// If the target does not know it yet, and in whose area it was found.
    pub configuration: Option<Configuration>,
}

/// Why nothing may be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no configuration was ever decided here: the first start of a cluster makes both devices equal")]
    NothingDecided,
    #[error(
        "a vote on the successor of epoch {epoch} was begun and its outcome is not recorded: what is newest depends on it"
    )]
    VoteOpen { epoch: u64 },
    #[error(
        "epoch {epoch} counts on the vote of the {role}, which was made anew since and has forgotten what it took part in"
    )]
    Forgot { role: DeviceRole, epoch: u64 },
    #[error(
        "others may have gone on after epoch {epoch} without what is seen here ({seen}), so whether the {role} is the newest is not certain"
    )]
    NotCertain {
        role: DeviceRole,
        epoch: u64,
        seen: Voters,
    },
    #[error("what epoch {epoch} starts from is not certain: {why}")]
    NoEvidence { epoch: u64, why: String },
    #[error(
        "the state to go on from, {position}, is in the local copy of this node, and not on the {role} ({held})"
    )]
    HeldByNode {
        role: DeviceRole,
        position: Position,
        held: Position,
    },
    #[error("the {role} is damaged: {damage}")]
    SourceDamaged { role: DeviceRole, damage: String },
    #[error(
        "the {twin} is not part of epoch {epoch}, the newest that is known: it is not the good one of the two"
    )]
    TwinLeftOut { twin: DeviceRole, epoch: u64 },
    #[error("the {target} is the newer one: it is at {got}, and the {twin} at {held}")]
    TargetNewer {
        target: DeviceRole,
        twin: DeviceRole,
        got: Position,
        held: Position,
    },
    #[error("the {target} has diverged: {got} is not on the way to {held}, which the {twin} holds")]
    Diverged {
        target: DeviceRole,
        twin: DeviceRole,
        got: Position,
        held: Position,
    },
}

/// Whether `target` may be brought to what `twin` holds. `local` is the copy of the node on whose server this runs, if there is one.
///
/// # Errors
/// Says why not.
pub fn decide(twin: &Seen, target: &Seen, local: Option<&Seen>) -> Result<Decision, Refusal> {
    let (from, to) = (role_of(twin), role_of(target));
    let all: Vec<&Seen> = [twin, target].into_iter().chain(local).collect();
    let newest = (all.iter())
        .filter_map(|seen| seen.configuration.as_ref())
        .map(|(_, configuration)| configuration)
        .max_by_key(|configuration| configuration.epoch);
    let Some(known) = newest.filter(|known| !known.is_genesis()) else {
        return Err(Refusal::NothingDecided);
    };
    let epoch = known.epoch.0;
    // A promise alone decides nothing; a vote may have.
    let is_open = |block: &BallotBlock| {
        block.instance > known.epoch || block.instance == known.epoch && block.accepted.is_some()
    };
    if all.iter().any(|seen| seen.ballots.iter().any(is_open)) {
        return Err(Refusal::VoteOpen { epoch });
    }
    if known.devices.contains(to) && target.configuration.is_none() {
        return Err(Refusal::Forgot { role: to, epoch });
    }
    let voters = sure_voters(&all);
    if !votes::hold(known, voters) {
        let seen = voters;
        return Err(Refusal::NotCertain {
            role: from,
            epoch,
            seen,
        });
    }
    if known.mode == Mode::Paired {
        return Ok(Decision::Paired(Box::new(known.clone())));
    }
    if let Some(damage) = &twin.damage {
        let damage = damage.clone();
        return Err(Refusal::SourceDamaged { role: from, damage });
    }
    let evidence: Vec<Evidence> = all.iter().map(|seen| evidence_of(seen)).collect();
    let chosen = newest_state(known, &evidence).map_err(|why| Refusal::NoEvidence { epoch, why })?;
    let held = twin.position;
    if chosen.position != held {
        return Err(match chosen.source {
            Source::Device(_) if chosen.position.stamp == held.stamp => {
                diverged(to, from, target.position, held)
            }
            Source::Device(_) => newer(to, from, target.position, held),
            Source::Node(_) => Refusal::HeldByNode {
                role: from,
                position: chosen.position,
                held,
            },
        });
    }
    if !known.devices.contains(from) {
        return Err(Refusal::TwinLeftOut { twin: from, epoch });
    }
    compare(twin, target, known)
}

/// The twin holds what counts: what of it does the target lack?
fn compare(twin: &Seen, target: &Seen, known: &Configuration) -> Result<Decision, Refusal> {
    let (from, to) = (role_of(twin), role_of(target));
    let (held, got) = (twin.position, target.position);
    let is_whole = target.has_state && target.damage.is_none();
    let knows = (target.configuration.as_ref()).is_some_and(|(_, newest)| newest.epoch >= known.epoch);
    let configuration = (!knows).then(|| known.clone());
    if is_whole && got == held {
        return Ok(match configuration {
            None => Decision::InSync,
            Some(_) => Decision::Copy(Box::new(Copy {
                position: held,
                replaces: Some(got),
                with_image: false,
                configuration,
            })),
        });
    }
    // Also of a damaged one: what is left of it may be another history's.
    if target.has_state {
        if got.stamp > held.stamp {
            return Err(newer(to, from, got, held));
        }
        let on_the_way = twin.way.contains(&got);
        let beside = twin.way.iter().any(|passed| passed.stamp == got.stamp);
        if !on_the_way && (beside || is_overruled(got.stamp.epoch, held.stamp.epoch)) {
            return Err(diverged(to, from, got, held));
        }
    }
    Ok(Decision::Copy(Box::new(Copy {
        position: held,
        replaces: is_whole.then_some(got),
        with_image: true,
        configuration,
    })))
}

fn newer(target: DeviceRole, twin: DeviceRole, got: Position, held: Position) -> Refusal {
    Refusal::TargetNewer {
        target,
        twin,
        got,
        held,
    }
}

fn diverged(target: DeviceRole, twin: DeviceRole, got: Position, held: Position) -> Refusal {
    Refusal::Diverged {
        target,
        twin,
        got,
        held,
    }
}

/// Those whose word on what they took part in is complete. A replica that knows no configuration is new.
fn sure_voters(all: &[&Seen]) -> Voters {
    let mut voters = Voters::new(NodeSet::EMPTY, DeviceSet::EMPTY);
    for seen in (all.iter()).filter(|seen| seen.configuration.is_some() && seen.votes_are_whole) {
        match seen.source {
            Source::Node(node) => voters.nodes.insert(node),
            Source::Device(role) => voters.devices = voters.devices.with(role),
        }
    }
    voters
}

fn evidence_of(seen: &Seen) -> Evidence {
    Evidence {
        source: seen.source,
        position: seen.position,
        whole: seen.damage.is_none(),
        rolled_back: None,
    }
}

fn role_of(seen: &Seen) -> DeviceRole {
    match seen.source {
        Source::Device(role) => role,
        Source::Node(_) => unreachable!("a pair is two devices"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::configuration::{Ballot, Writers};
    use ccd_core::ids::{Epoch, Generation, Lineage, Stamp};

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();
    const P: DeviceRole = DeviceRole::Primary;
    const S: DeviceRole = DeviceRole::Secondary;

    fn at(epoch: u64, generation: u64, lineage: u8) -> Position {
        Position {
            stamp: Stamp {
                epoch: Epoch(epoch),
                generation: Generation(generation),
            },
            lineage: Lineage([lineage; 32]),
        }
    }
    fn devices(roles: &[DeviceRole]) -> DeviceSet {
        roles.iter().copied().collect()
    }
    /// Epoch `epoch`, owned by A on these devices, which started from (epoch - 1, 10), written there on both devices.
    fn solo(epoch: u64, roles: &[DeviceRole]) -> Configuration {
        let nodes = NodeSet::of(A).with(B);
        Configuration {
            epoch: Epoch(epoch),
            mode: Mode::Solo(A),
            members: NodeSet::of(A),
            base: at(epoch - 1, 10, 1),
            base_writers: Writers {
                nodes: NodeSet::EMPTY,
                devices: devices(&[P, S]),
            },
            devices: devices(roles),
            ..Configuration::genesis(nodes, devices(&[P, S]))
        }
    }
    fn paired(epoch: u64) -> Configuration {
        let nodes = NodeSet::of(A).with(B);
        Configuration {
            mode: Mode::Paired,
            members: nodes,
            ..solo(epoch, &[P, S])
        }
    }
    fn seen(source: Source, configuration: Option<Configuration>, position: Position) -> Seen {
        Seen {
            source,
            configuration: configuration.map(|configuration| (A, configuration)),
            ballots: Vec::new(),
            votes_are_whole: true,
            position,
            has_state: position != Position::EMPTY,
            damage: None,
            way: vec![position],
        }
    }
    fn primary(configuration: Configuration, position: Position) -> Seen {
        seen(Source::Device(P), Some(configuration), position)
    }
    fn secondary(configuration: Configuration, position: Position) -> Seen {
        seen(Source::Device(S), Some(configuration), position)
    }
    fn new_secondary() -> Seen {
        seen(Source::Device(S), None, Position::EMPTY)
    }
    fn own(node: NodeId, configuration: Configuration, position: Position) -> Seen {
        seen(Source::Node(node), Some(configuration), position)
    }
    fn damaged(seen: Seen) -> Seen {
        Seen {
            damage: Some("rot".into()),
            ..seen
        }
    }
    fn vote(instance: u64, accepted: bool) -> BallotBlock {
        let ballot = Ballot {
            round: 3,
            node: B,
            incarnation: ccd_core::ids::Incarnation(7),
        };
        BallotBlock {
            instance: Epoch(instance),
            promised: ballot,
            accepted: accepted.then(|| (ballot, solo(instance + 1, &[S]))),
        }
    }
    fn with_ballot(seen: Seen, ballot: BallotBlock) -> Seen {
        Seen {
            ballots: vec![ballot],
            ..seen
        }
    }
    /// The decision in a word.
    fn word(decided: &Result<Decision, Refusal>) -> &'static str {
        match decided {
            Ok(Decision::InSync) => "in sync",
            Ok(Decision::Paired(_)) => "paired",
            Ok(Decision::Copy(copy)) if !copy.with_image => "configuration",
            Ok(Decision::Copy(copy)) if copy.configuration.is_none() => "image",
            Ok(Decision::Copy(_)) => "both",
            Err(Refusal::NothingDecided) => "nothing decided",
            Err(Refusal::VoteOpen { .. }) => "vote open",
            Err(Refusal::Forgot { .. }) => "forgot",
            Err(Refusal::NotCertain { .. }) => "not certain",
            Err(Refusal::NoEvidence { .. }) => "no evidence",
            Err(Refusal::HeldByNode { .. }) => "held by node",
            Err(Refusal::SourceDamaged { .. }) => "source damaged",
            Err(Refusal::TwinLeftOut { .. }) => "twin left out",
            Err(Refusal::TargetNewer { .. }) => "target newer",
            Err(Refusal::Diverged { .. }) => "diverged",
        }
    }

    #[test]
    fn the_table_of_pairs_is_decided_as_designed() {
        let lone = || solo(8, &[P]);
        let both = || solo(7, &[P, S]);
        let branch = at(8, 6, 9);
        let far = 100_001;
        #[rustfmt::skip]
        let table = [
            ("the secondary was replaced after it was dropped",
             primary(lone(), at(8, 20, 1)), new_secondary(), None, "both"),
            ("it missed updates since it was dropped",
             primary(lone(), at(8, 20, 1)), secondary(both(), at(7, 10, 1)), None, "both"),
            ("it has an update of then that was never acked",
             primary(lone(), at(8, 20, 1)), secondary(both(), at(7, 11, 5)), None, "both"),
            ("it was resynced before",
             primary(lone(), at(8, 20, 1)), secondary(lone(), at(8, 20, 1)), None, "in sync"),
            ("a resync was cut off behind the configuration",
             primary(lone(), at(8, 20, 1)), secondary(lone(), at(7, 10, 1)), None, "image"),
            ("only the configuration is missing",
             primary(lone(), at(8, 20, 1)), secondary(both(), at(8, 20, 1)), None, "configuration"),
            ("it is damaged, and not in the configuration",
             primary(lone(), at(8, 20, 1)), damaged(secondary(lone(), at(8, 3, 1))), None, "image"),
            ("a member of the pair is damaged, and its votes are not",
             primary(both(), at(7, 20, 1)), damaged(secondary(both(), at(7, 3, 1))), None, "image"),
            ("the twin is damaged",
             damaged(primary(lone(), at(8, 20, 1))), new_secondary(), None, "source damaged"),
            ("nothing was ever decided",
             seen(Source::Device(P), None, Position::EMPTY), new_secondary(), None, "nothing decided"),
            ("the twin is the new one",
             seen(Source::Device(P), None, Position::EMPTY), secondary(solo(8, &[S]), at(8, 20, 1)), None, "target newer"),
            ("the one that went on alone is not overwritten by the one that was dropped",
             primary(both(), at(7, 10, 1)), secondary(solo(8, &[S]), at(8, 20, 1)), None, "target newer"),
            ("nor by one that is behind it in the same epoch",
             primary(both(), at(7, 20, 1)), secondary(both(), at(7, 21, 1)), None, "target newer"),
            ("a voter that was made anew",
             primary(both(), at(7, 20, 1)), new_secondary(), Some(own(A, both(), at(6, 10, 1))), "forgot"),
            ("the owner's copy knows that its secondary went on alone",
             primary(both(), at(7, 20, 1)), new_secondary(), Some(own(A, solo(8, &[S]), at(6, 10, 1))), "forgot"),
            ("the same, with a stale secondary that forgot nothing",
             primary(both(), at(7, 20, 1)), secondary(both(), at(7, 20, 1)), Some(own(A, solo(8, &[S]), at(6, 10, 1))), "twin left out"),
            ("the twin's ballots are damaged",
             Seen { votes_are_whole: false, ..primary(lone(), at(8, 20, 1)) }, new_secondary(), None, "not certain"),
            ("a vote was left open",
             with_ballot(primary(lone(), at(8, 20, 1)), vote(8, true)), new_secondary(), None, "vote open"),
            ("or decided for a later configuration, which is not there",
             with_ballot(primary(lone(), at(8, 20, 1)), vote(9, false)), new_secondary(), None, "vote open"),
            ("a promise decides nothing",
             with_ballot(primary(lone(), at(8, 20, 1)), vote(8, false)), new_secondary(), None, "both"),
            ("votes of before are over",
             with_ballot(primary(lone(), at(8, 20, 1)), vote(7, true)), new_secondary(), None, "both"),
            ("devices only vote",
             primary(paired(8), at(7, 10, 1)), secondary(paired(8), at(3, 1, 1)), Some(own(A, paired(8), at(8, 12, 1))), "paired"),
            ("the pair may have gone on without this node and both devices",
             primary(paired(8), at(7, 10, 1)), secondary(paired(8), at(3, 1, 1)), None, "not certain"),
            ("the epoch never opened, and starts from what the twin holds",
             primary(lone(), at(7, 10, 1)), new_secondary(), None, "both"),
            ("the epoch never opened, and starts from this node's copy",
             primary(lone(), at(3, 2, 1)), new_secondary(), Some(own(A, lone(), at(7, 10, 1))), "held by node"),
            ("the epoch never opened, and what it starts from is nowhere here",
             primary(Configuration { base_writers: Writers::default(), ..lone() }, at(7, 9, 1)), new_secondary(), None, "no evidence"),
            ("the twin was left out of an epoch that never opened, and has what was not acked then",
             primary(both(), at(7, 11, 1)), secondary(solo(8, &[S]), at(7, 10, 1)), None, "twin left out"),
            ("an override went on without the target's updates",
             primary(solo(far, &[P]), at(far, 5, 1)), secondary(both(), at(7, 30, 2)), None, "diverged"),
            ("an override that the target's state is part of",
             Seen { way: vec![at(7, 3, 1), at(far, 5, 1)], ..primary(solo(far, &[P]), at(far, 5, 1)) }, secondary(both(), at(7, 3, 1)),
             None, "both"),
            ("another history at the same place",
             Seen { way: vec![at(8, 6, 1), at(8, 20, 1)], ..primary(lone(), at(8, 20, 1)) }, secondary(both(), branch), None, "diverged"),
            ("the same stamp, another lineage",
             primary(lone(), at(8, 20, 1)), secondary(lone(), at(8, 20, 2)), None, "diverged"),
        ];
        for (rule, twin, target, local, expected) in table {
            let decided = decide(&twin, &target, local.as_ref());
            assert_eq!(word(&decided), expected, "{rule}: {decided:?}");
        }
    }

    /// Of all pairs of states: what is copied is what the rule for successors would start from, and never over something newer.
    #[test]
    fn nothing_is_ever_copied_that_a_successor_would_not_start_from() {
        let configurations = [
            None,
            Some(paired(6)),
            Some(solo(7, &[P, S])),
            Some(solo(8, &[P])),
            Some(solo(8, &[S])),
            Some(solo(100_000, &[P])),
        ];
        let positions = [
            Position::EMPTY,
            at(5, 10, 1),
            at(6, 10, 1),
            at(7, 10, 1),
            at(7, 11, 1),
            at(8, 12, 1),
            at(8, 12, 2),
            at(100_000, 3, 3),
        ];
        let replica = |source, configuration: &Option<Configuration>, position| {
            seen(source, configuration.clone(), position)
        };
        let (mut copies, mut refusals) = (0, 0);
        for twin_knows in &configurations {
            for target_knows in &configurations {
                for twin_at in positions {
                    for target_at in positions {
                        let twin = replica(Source::Device(P), twin_knows, twin_at);
                        let target = replica(Source::Device(S), target_knows, target_at);
                        let Ok(Decision::Copy(copy)) = decide(&twin, &target, None) else {
                            refusals += 1;
                            continue;
                        };
                        copies += 1;
                        let known = (twin_knows.iter().chain(target_knows))
                            .max_by_key(|known| known.epoch)
                            .unwrap();
                        let evidence = [evidence_of(&twin), evidence_of(&target)];
                        let chosen = newest_state(known, &evidence).unwrap();
                        assert_eq!(chosen.position, twin_at);
                        assert_eq!(copy.position, twin_at);
                        assert!(target_at.stamp <= twin_at.stamp);
                        assert!(
                            known.owner().is_some() && known.devices.contains(P),
                            "{known}: the twin holds every acked update"
                        );
                        // Done, it is done; and what was written changes nothing about which state counts.
                        let written = replica(Source::Device(S), &Some(known.clone()), twin_at);
                        assert_eq!(decide(&twin, &written, None), Ok(Decision::InSync));
                    }
                }
            }
        }
        assert!(copies > 10 && refusals > copies, "{copies} {refusals}");
    }
}
