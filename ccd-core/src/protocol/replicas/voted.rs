//! How far a node's own area on a device has come in votes and decisions. Neither goes back, unless somebody puts the device back.

use crate::configuration::{Ballot, BallotBlock};
use crate::ids::Epoch;
use crate::replica::AreaSurvey;
use crate::time::Time;

/// The furthest that was found there.
#[derive(Debug, Default)]
pub(super) struct Voted {
    most: Progress,
    /// When it was raised last.
    at: Time,
}

/// A voter's block, then the newest configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    ballot: Option<(Epoch, Ballot, Option<Ballot>)>,
    epoch: Option<Epoch>,
}

impl Voted {
    fn of(area: &AreaSurvey) -> Progress {
        let rank = |block: &BallotBlock| {
            let accepted = block.accepted.as_ref().map(|(ballot, _)| *ballot);
            (block.instance, block.promised, accepted)
        };
        Progress {
            ballot: area.ballot.as_ref().map(rank),
            epoch: (area.configuration.as_ref()).map(|configuration| configuration.epoch),
        }
    }

    /// Whether a look that was begun then found no less than was known before.
    pub fn is_kept(&self, area: &AreaSurvey, begun: Time) -> bool {
        let found = Self::of(area);
        // A claim may have been written and read while the look was under way.
        begun < self.at || found.ballot >= self.most.ballot && found.epoch >= self.most.epoch
    }

    /// What was read; some reads leave out the configuration.
    pub fn note(&mut self, area: &AreaSurvey, now: Time) {
        let found = Self::of(area);
        let most = Progress {
            ballot: found.ballot.max(self.most.ballot),
            epoch: found.epoch.max(self.most.epoch),
        };
        if most != self.most {
            *self = Self { most, at: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration;
    use crate::ids::{DeviceSet, Incarnation, NodeId, NodeSet};

    fn area(epoch: Option<u64>, instance: Option<u64>) -> AreaSurvey {
        let configuration = Configuration::genesis(NodeSet::of(NodeId::FIRST), DeviceSet::EMPTY);
        AreaSurvey {
            node: NodeId::FIRST,
            heartbeat: None,
            heartbeat_before: None,
            ballot: instance.map(|instance| BallotBlock {
                instance: Epoch(instance),
                promised: Ballot {
                    round: 1,
                    node: NodeId::FIRST,
                    incarnation: Incarnation(1),
                },
                accepted: None,
            }),
            configuration: epoch.map(|epoch| Configuration {
                epoch: Epoch(epoch),
                ..configuration
            }),
            damaged: false,
        }
    }

    #[test]
    fn a_look_that_finds_less_than_an_earlier_one_is_told_from_one_that_was_begun_before() {
        let (early, late) = (Time::from_nanos(1), Time::from_nanos(3));
        let mut voted = Voted::default();
        voted.note(&area(Some(5), Some(5)), Time::from_nanos(2));
        // A read without the configuration takes nothing back.
        voted.note(&area(None, Some(4)), late);
        for (epoch, instance, is_kept) in [
            (Some(5), Some(5), true),
            (Some(6), Some(7), true),
            (Some(4), Some(5), false),
            (None, Some(5), false),
            (Some(5), Some(4), false),
            (Some(5), None, false),
        ] {
            let found = area(epoch, instance);
            assert_eq!(voted.is_kept(&found, late), is_kept, "{epoch:?} {instance:?}");
            assert!(voted.is_kept(&found, early), "{epoch:?} {instance:?}");
        }
    }
}
