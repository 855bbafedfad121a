//! What a background pass over the devices found, and what to do about it. Pure: the daemon reads and writes.
//!
//! The pass takes a snapshot of the served database *first*, then loads each device whole, which checks every
//! checksum of checkpoint and journal. So a healthy device that holds every update can be newer than the snapshot,
//! but never older. The repair is a fresh checkpoint from memory: it replaces every block that can be damaged.

use ccd_core::ids::{DeviceRole, Position};

/// What loading one device showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It could not be read; the text says why.
    Unreadable(String),
    Read {
        /// Of the newest state that it holds.
        position: Position,
        /// Of that state's content.
        digest: [u8; 32],
        /// Damage before the tail of the journal, or in a checkpoint.
        damage: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFinding {
    pub role: DeviceRole,
    /// It holds every update of the configuration that is served now (solo mode).
    pub in_sync: bool,
    pub finding: Finding,
}

/// What to do with one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    Nothing,
    /// Tell people; writing could make it worse, or would help nobody.
    Report(String),
    /// Write a fresh checkpoint of the served database, then tell people.
    Rewrite(String),
}

/// One remedy for each device, in the order of the findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubPlan {
    pub remedies: Vec<(DeviceRole, Remedy)>,
}

impl ScrubPlan {
    pub fn is_clean(&self) -> bool {
        self.remedies.iter().all(|(_, remedy)| *remedy == Remedy::Nothing)
    }
}

/// Judges what was found against the snapshot that was taken before.
pub fn judge(served: Position, served_digest: [u8; 32], findings: &[DeviceFinding]) -> ScrubPlan {
    let remedies = findings
        .iter()
        .map(|device| (device.role, remedy(served, served_digest, device)))
        .collect();
    ScrubPlan { remedies }
}

fn remedy(served: Position, served_digest: [u8; 32], device: &DeviceFinding) -> Remedy {
    let role = device.role;
    let (position, digest, damage) = match &device.finding {
        Finding::Unreadable(why) => return Remedy::Report(format!("{role} cannot be read: {why}")),
        Finding::Read {
            position,
            digest,
            damage,
        } => (*position, *digest, damage),
    };
    if !device.in_sync {
        // Its image is known to be old and is written whole before it counts again.
        return match damage {
            Some(damage) => Remedy::Report(format!("{role} is damaged where it is not in use: {damage}")),
            None => Remedy::Nothing,
        };
    }
    if position.stamp == served.stamp && position.lineage != served.lineage {
        return Remedy::Report(format!(
            "{role} holds {position}, this node serves {served}: the same stamp with another history. \
             Nothing was changed; save both with `ccd-disk dump` and look at them"
        ));
    }
    if let Some(damage) = damage {
        return Remedy::Rewrite(format!("{role} is damaged: {damage}"));
    }
    if position.stamp < served.stamp {
        return Remedy::Rewrite(format!("{role} holds {position} and lost updates up to {served}"));
    }
    if position == served && digest != served_digest {
        return Remedy::Rewrite(format!(
            "{role} holds other content at {position} than this node serves"
        ));
    }
    Remedy::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{Epoch, Generation, Lineage, Stamp};

    fn at(generation: u64, lineage: u8) -> Position {
        let stamp = Stamp {
            epoch: Epoch(3),
            generation: Generation(generation),
        };
        let lineage = Lineage([lineage; 32]);
        Position { stamp, lineage }
    }

    fn read(position: Position, digest: u8, damage: Option<&str>) -> Finding {
        Finding::Read {
            position,
            digest: [digest; 32],
            damage: damage.map(String::from),
        }
    }

    #[test]
    fn each_finding_has_its_remedy() {
        // (in sync, finding, expected: - nothing, r report, w rewrite); served is generation 7, lineage 7, digest 1.
        let table = [
            (true, read(at(7, 7), 1, None), '-'),
            (true, read(at(8, 8), 2, None), '-'),
            (true, read(at(7, 7), 2, None), 'w'),
            (true, read(at(7, 7), 1, Some("block 9")), 'w'),
            (true, read(at(6, 6), 1, None), 'w'),
            (true, read(at(6, 6), 1, Some("block 9")), 'w'),
            (true, read(at(7, 9), 1, None), 'r'),
            (true, read(at(7, 9), 1, Some("block 9")), 'r'),
            (true, Finding::Unreadable("I/O error".into()), 'r'),
            (false, Finding::Unreadable("I/O error".into()), 'r'),
            (false, read(at(2, 2), 1, None), '-'),
            (false, read(at(7, 9), 1, None), '-'),
            (false, read(at(2, 2), 1, Some("block 9")), 'r'),
        ];
        for (in_sync, finding, expected) in table {
            let role = DeviceRole::Secondary;
            let device = DeviceFinding {
                role,
                in_sync,
                finding,
            };
            let plan = judge(at(7, 7), [1; 32], std::slice::from_ref(&device));
            let got = match &plan.remedies[0].1 {
                Remedy::Nothing => '-',
                Remedy::Report(_) => 'r',
                Remedy::Rewrite(_) => 'w',
            };
            assert_eq!(got, expected, "{device:?}: {plan:?}");
            assert_eq!(plan.is_clean(), expected == '-');
        }
    }
}
