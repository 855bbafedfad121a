//! Which state a successor starts from (DESIGN §7): the newest on sealed replicas, if they are certain to hold every
//! acked update. Pure; a table tests it.

use crate::configuration::{Configuration, Writers};
use crate::ids::{DeviceRole, Folders, NodeId, Position, Regions};
use alloc::format;
use alloc::string::String;

/// What one sealed replica shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub source: Source,
    pub position: Position,
    /// Its content is whole.
    pub whole: bool,
    /// The round that this replica rolled back from `position`, if that was the last thing it did.
    pub rolled_back: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Node(NodeId),
    Device(DeviceRole),
}

impl Evidence {
    fn wrote_for(&self, writers: Writers) -> bool {
        match self.source {
            Source::Node(node) => writers.nodes.contains(node),
            Source::Device(role) => writers.devices.contains(role),
        }
    }
}

/// Chooses the state that the successor of `configuration` starts from, or says which evidence is missing.
///
/// Some whole replica that the configuration's updates were written to must be among the evidence; the votes bring
/// one, unless it is damaged or cannot be read. If it has a state of this epoch, the newest such state is it. If none
/// has, the configuration never opened, and the state is that of the epoch it was to start from: at least its base,
/// or what one of the writers of that epoch holds.
///
/// # Errors
/// Says in words which evidence is missing.
pub fn newest_state<'a>(
    configuration: &Configuration,
    evidence: &'a [Evidence],
) -> Result<&'a Evidence, String> {
    let writers = configuration.writers();
    let whole = || evidence.iter().filter(|replica| replica.whole);
    if !configuration.is_genesis() && !whole().any(|replica| replica.wrote_for(writers)) {
        return Err(format!(
            "no whole replica that epoch {} was written to ({}) could be read",
            configuration.epoch,
            votes_text(writers),
        ));
    }
    let epoch = if whole().any(|replica| replica.position.stamp.epoch == configuration.epoch) {
        configuration.epoch
    } else {
        configuration.base.stamp.epoch
    };
    let opened = epoch == configuration.epoch;
    let newest = whole()
        .filter(|replica| replica.position.stamp.epoch == epoch)
        .filter(|replica| {
            opened
                || replica.position.stamp >= configuration.base.stamp
                || replica.wrote_for(configuration.base_writers)
        })
        .max_by_key(|replica| (replica.position.stamp, replica.position == configuration.base));
    // Epochs in between that never opened either may have left their number on the same content.
    let same = |replica: &&Evidence| {
        replica.position.lineage == configuration.base.lineage
            && replica.position.stamp.generation == configuration.base.stamp.generation
    };
    let Some(newest) = newest.or_else(|| whole().filter(same).max_by_key(|replica| replica.position.stamp))
    else {
        return Err(format!(
            "epoch {} never opened, and the state it was to start from ({}) was not found",
            configuration.epoch, configuration.base,
        ));
    };
    // A round that one replica is known to have rolled back must not come back by way of another.
    let undone = whole().find(|replica| {
        replica.rolled_back == Some(newest.position) && replica.position.stamp.epoch == epoch
    });
    Ok(undone.unwrap_or(newest))
}

/// Who holds every update that was acked before `base`, as the successor of `known` from it has to name them: those that wrote it. A
/// state folder or a region that the successor counts on in the place of another one has written nothing yet, though it
/// bears the writer's number.
pub fn base_writers(known: &Configuration, base: Position, folders: &Folders, regions: &Regions) -> Writers {
    let wrote = if base.stamp.epoch == known.epoch {
        known.writers()
    } else {
        known.base_writers
    };
    let is_same_folder = |node: &NodeId| known.folders.get(*node) == folders.get(*node);
    let is_same_region = |role: &DeviceRole| match (known.regions.get(*role), regions.get(*role)) {
        (Some(before), Some(next)) => before == next,
        (None, _) | (_, None) => true,
    };
    Writers {
        nodes: wrote.nodes.iter().filter(is_same_folder).collect(),
        devices: wrote.devices.iter().filter(is_same_region).collect(),
    }
}

fn votes_text(writers: Writers) -> String {
    use alloc::string::ToString;
    crate::configuration::votes::Voters::new(writers.nodes, writers.devices).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Mode;
    use crate::ids::{DeviceSet, Epoch, FolderId, Generation, Lineage, NodeSet, RegionId, Stamp};

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
    fn node(node: NodeId, position: Position) -> Evidence {
        Evidence {
            source: Source::Node(node),
            position,
            whole: true,
            rolled_back: None,
        }
    }
    fn device(role: DeviceRole, position: Position) -> Evidence {
        Evidence {
            source: Source::Device(role),
            ..node(A, position)
        }
    }
    fn damaged(evidence: Evidence) -> Evidence {
        Evidence {
            whole: false,
            ..evidence
        }
    }
    /// Epoch 6, started from (5, 10); epoch 5 was written by `before`.
    fn paired(before: Writers) -> Configuration {
        let nodes = NodeSet::of(A).with(B);
        Configuration {
            epoch: Epoch(6),
            members: nodes,
            base: at(5, 10, 1),
            base_writers: before,
            ..Configuration::genesis(nodes, DeviceSet::EMPTY.with(P).with(S))
        }
    }
    fn solo(before: Writers) -> Configuration {
        Configuration {
            mode: Mode::Solo(A),
            members: NodeSet::of(A),
            ..paired(before)
        }
    }

    #[test]
    fn the_newest_state_that_holds_every_acked_update_is_chosen_or_its_lack_named() {
        let pair = Writers {
            nodes: NodeSet::of(A).with(B),
            devices: DeviceSet::EMPTY,
        };
        let disks = Writers {
            nodes: NodeSet::EMPTY,
            devices: DeviceSet::EMPTY.with(P).with(S),
        };
        let undone = Evidence {
            rolled_back: Some(at(6, 12, 2)),
            ..node(B, at(6, 11, 1))
        };
        #[rustfmt::skip]
        let table = [
            ("a prepared round rolls forward", paired(disks),
             alloc::vec![node(A, at(6, 11, 1)), node(B, at(6, 12, 1))], Some(at(6, 12, 1))),
            ("unless a replica rolled it back", paired(disks),
             alloc::vec![node(A, at(6, 12, 2)), undone], Some(at(6, 11, 1))),
            ("a member's copy is newer than the devices", paired(disks),
             alloc::vec![node(B, at(6, 11, 1)), device(P, at(5, 10, 1))], Some(at(6, 11, 1))),
            ("the devices are newer than the local copy", solo(pair),
             alloc::vec![node(B, at(5, 10, 1)), device(P, at(6, 14, 1))], Some(at(6, 14, 1))),
            ("a damaged member is no evidence, and old devices none either", paired(disks),
             alloc::vec![damaged(node(A, at(6, 11, 1))), device(P, at(5, 10, 1))], None),
            ("never opened: its base is found on a device", paired(disks),
             alloc::vec![node(B, at(4, 3, 1)), device(P, at(5, 10, 1))], Some(at(5, 10, 1))),
            ("never opened: a learner behind the base is not enough", paired(disks),
             alloc::vec![node(A, at(4, 3, 1)), node(B, at(5, 8, 1))], None),
            ("never opened: a writer of the epoch before holds all that was acked", solo(pair),
             alloc::vec![node(B, at(5, 9, 1)), device(P, at(4, 1, 1)), device(S, at(4, 1, 1))], Some(at(5, 9, 1))),
            ("never opened: the base is known by its content, whatever epoch was begun on it",
             Configuration { epoch: Epoch(8), ..paired(disks) },
             alloc::vec![node(A, at(7, 10, 1)), node(B, at(6, 10, 1))], Some(at(7, 10, 1))),
            ("never opened: an equal stamp of another lineage loses to the base", paired(disks),
             alloc::vec![node(A, at(5, 10, 9)), node(B, at(5, 10, 1))], Some(at(5, 10, 1))),
        ];
        for (rule, configuration, evidence, expected) in table {
            let found = newest_state(&configuration, &evidence).map(|e| e.position).ok();
            assert_eq!(found, expected, "{rule}");
        }
    }

    #[test]
    fn whoever_is_counted_on_in_the_place_of_a_writer_has_written_nothing() {
        let (both, folder) = (NodeSet::of(A).with(B), |node, id| {
            let mut folders = Folders::default();
            for other in [A, B] {
                folders.set(other, FolderId(if other == node { id } else { 7 }));
            }
            folders
        });
        let region = |role, id| {
            Regions::default()
                .with(P, RegionId([8; 16]))
                .with(S, RegionId([8; 16]))
                .with(role, id)
        };
        let known = |configuration: Configuration| Configuration {
            folders: alloc::boxed::Box::new(folder(A, 7)),
            regions: region(P, RegionId([8; 16])),
            ..configuration
        };
        let disks = DeviceSet::EMPTY.with(P).with(S);
        let before = Writers {
            nodes: both,
            devices: disks,
        };
        let nodes = |nodes| Writers {
            nodes,
            devices: DeviceSet::EMPTY,
        };
        let devices = |devices| Writers {
            nodes: NodeSet::EMPTY,
            devices,
        };
        let (same, made_anew) = (RegionId([8; 16]), RegionId([9; 16]));
        #[rustfmt::skip]
        let table = [
            ("the members of the epoch that ends", known(paired(before)), 6, folder(A, 7), region(P, same), nodes(both)),
            ("but one whose folder is another", known(paired(before)), 6, folder(A, 9), region(P, same), nodes(NodeSet::of(B))),
            ("or whose number is given anew", known(paired(before)), 6, folder(A, 0), region(P, same), nodes(NodeSet::of(B))),
            ("the owner's devices", known(solo(before)), 6, folder(A, 9), region(P, same), devices(disks)),
            ("but one that was made anew", known(solo(before)), 6, folder(A, 7), region(P, made_anew), devices(DeviceSet::EMPTY.with(S))),
            ("never opened: those before", known(paired(before)), 5, folder(A, 7), region(P, same), before),
            ("never opened: those before that are the same", known(paired(before)), 5, folder(B, 9), region(S, made_anew),
             Writers { nodes: NodeSet::of(A), devices: DeviceSet::EMPTY.with(P) }),
        ];
        for (rule, known, epoch, folders, regions, expected) in table {
            assert_eq!(
                base_writers(&known, at(epoch, 10, 1), &folders, &regions),
                expected,
                "{rule}"
            );
        }
    }
}
