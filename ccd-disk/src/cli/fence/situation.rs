//! What is registered on one device, whose it is, and which nodes are alive there.

use super::super::cluster::{self, node_text};
use super::super::{Failure, Global, exit};
use crate::device::{Access, RawDevice};
use crate::fencing::{DeviceIdentity, Fence, FenceError, Inspection, identify};
use crate::region::handle::Handle;
use crate::region::label::Label;
use crate::region::survey;
use ccd_core::ids::{ClusterId, NodeId};
use ccd_core::init::ClusterInit;
use ccd_core::replica::Heartbeat;
use ccd_core::reservation::{KeyOwner, ReservationKey};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

impl From<FenceError> for Failure {
    fn from(error: FenceError) -> Self {
        let code = match &error {
            FenceError::NotSupported { .. } | FenceError::Senseless { .. } => exit::REFUSED,
            FenceError::Open { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => exit::NO_SUCH_FILE,
                std::io::ErrorKind::PermissionDenied => exit::NOT_PERMITTED,
                std::io::ErrorKind::InvalidInput => exit::BAD_DATA,
                _ => exit::IO,
            },
            FenceError::Unreadable { .. } | FenceError::NoPath { .. } => exit::IO,
        };
        Self::new(code, error.to_string())
    }
}

/// Whose region a device holds.
#[derive(Clone, Debug)]
pub struct RegionOf {
    pub cluster: ClusterId,
    pub name: String,
}

/// Everything that a verb needs to know of one device.
#[derive(Debug)]
pub struct Situation {
    pub device: String,
    pub identity: DeviceIdentity,
    /// The cluster whose nodes the keys are compared with: the region's, or else that of init.ccd.
    pub cluster: Option<RegionOf>,
    pub init: Option<ClusterInit>,
    /// `None`: this device has no reservations.
    pub fence: Option<Fence>,
    pub found: Inspection,
}

/// One key, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct ShownKey {
    pub key: String,
    /// `node`, `other cluster` or `foreign`.
    pub owner_kind: &'static str,
    pub node: Option<u8>,
    pub owner: String,
    pub holds: bool,
    /// On how many paths it is registered.
    pub paths: usize,
    pub target_ports: Vec<u16>,
    /// The servers' names in their transport, where the target tells them.
    pub initiators: Vec<String>,
}

impl Situation {
    /// Looks at a device and changes nothing.
    pub fn of(global: &Global, device: &Path) -> Result<Self, Failure> {
        let identity = identify(device)?;
        let init = cluster::of(global).ok();
        let region = region_of(device);
        let from_init = |init: &ClusterInit| RegionOf {
            cluster: init.id(),
            name: init.name().to_owned(),
        };
        let cluster = region.or_else(|| init.as_ref().map(from_init));
        let mut fence = if identity.kind.has_reservations() {
            Some(Fence::open(device)?)
        } else {
            None
        };
        let found = match &mut fence {
            Some(fence) => fence.inspect()?,
            None => Inspection {
                generation: 0,
                keys: Vec::new(),
                holder: None,
            },
        };
        Ok(Self {
            device: device.display().to_string(),
            identity,
            cluster,
            init,
            fence,
            found,
        })
    }

    pub fn owner(&self, key: ReservationKey) -> KeyOwner {
        // Of no cluster: then every key of ccd is another cluster's.
        let cluster = self.cluster.as_ref().map_or(ClusterId([0; 16]), |of| of.cluster);
        key.owner(cluster)
    }

    pub fn owner_text(&self, key: ReservationKey) -> String {
        match (self.owner(key), &self.cluster) {
            (KeyOwner::Node(node), Some(of)) => node_text(self.init.as_ref(), of.cluster, node),
            (KeyOwner::Node(node), None) => format!("node {node}"),
            (KeyOwner::OtherCluster { prefix, node }, _) => {
                format!("node {node} of another ccd cluster, whose id begins with {prefix:06x}")
            }
            (KeyOwner::Foreign, _) => "another program".to_owned(),
        }
    }

    /// The same, with the servers that it was registered from.
    pub fn whereabouts(&self, key: ReservationKey) -> String {
        let found = self.found.keys.iter().find(|found| found.key == key);
        let owner = self.owner_text(key);
        match found.map(|found| found.initiators.join(" and ")) {
            Some(initiators) if !initiators.is_empty() => format!("{owner}, registered from {initiators}"),
            _ => owner,
        }
    }

    pub fn is_foreign(&self, key: ReservationKey) -> bool {
        !matches!(self.owner(key), KeyOwner::Node(_))
    }

    /// Keys of strangers, the holder's among them even if it is registered nowhere.
    pub fn foreign_keys(&self) -> Vec<ReservationKey> {
        let holder = self.found.holder.map(|holder| holder.key);
        let mut keys: Vec<_> = self.keys().chain(holder).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| self.is_foreign(*key));
        keys
    }

    pub fn keys_of(&self, node: NodeId) -> Vec<ReservationKey> {
        self.keys()
            .filter(|key| self.owner(*key) == KeyOwner::Node(node))
            .collect()
    }

    pub fn keys(&self) -> impl Iterator<Item = ReservationKey> + '_ {
        self.found.keys.iter().map(|found| found.key)
    }

    pub fn shown_keys(&self) -> Vec<ShownKey> {
        let holder = self.found.holder.map(|holder| holder.key);
        let shown = |found: &crate::fencing::InspectedKey| {
            let (owner_kind, node) = match self.owner(found.key) {
                KeyOwner::Node(node) => ("node", Some(u8::from(node))),
                KeyOwner::OtherCluster { node, .. } => ("other cluster", Some(node)),
                KeyOwner::Foreign => ("foreign", None),
            };
            ShownKey {
                key: found.key.to_string(),
                owner_kind,
                node,
                owner: self.owner_text(found.key),
                holds: holder == Some(found.key),
                paths: found.times,
                target_ports: found.ports.clone(),
                initiators: found.initiators.clone(),
            }
        };
        self.found.keys.iter().map(shown).collect()
    }

    /// Nodes whose heartbeat on this device moves within a lease. Takes that long.
    pub fn living(&self) -> Result<Vec<NodeId>, Failure> {
        let path = Path::new(&self.device);
        let Some(before) = heartbeats(path) else {
            return Ok(Vec::new());
        };
        let lease = self
            .init
            .as_ref()
            .map_or(LEASE_DEFAULT, |init| init.options().lease);
        std::thread::sleep(lease + lease / 4);
        let after = heartbeats(path).ok_or_else(|| {
            Failure::new(
                exit::IO,
                format!(
                    "CCD-2110 the heartbeats on {} cannot be read again; check its paths and `dmesg`",
                    self.device
                ),
            )
        })?;
        Ok(moved(&before, &after))
    }
}

/// As the protocol's default.
const LEASE_DEFAULT: Duration = Duration::from_millis(1000);

fn region_of(device: &Path) -> Option<RegionOf> {
    let label = label_of(&mut handle(device)?)?;
    Some(RegionOf {
        cluster: label.superblock.identity.cluster,
        name: label.superblock.label,
    })
}

fn handle(device: &Path) -> Option<Handle> {
    let device = RawDevice::open(device, Access::ReadOnly).ok()?;
    Some(Handle::new(Box::new(device)))
}

/// What is no region has no label; that is no failure here.
fn label_of(handle: &mut Handle) -> Option<Label> {
    Label::read(handle).ok()
}

/// The newest heartbeat of each node, if it ever wrote one.
type Heartbeats = Vec<(NodeId, Option<Heartbeat>)>;

/// Who wrote in between: compared for change only, never by clock.
fn moved(before: &Heartbeats, after: &Heartbeats) -> Vec<NodeId> {
    let stood_still = |node: &NodeId, beat: &Heartbeat| {
        let earlier = before.iter().find(|(other, _)| other == node);
        earlier.is_some_and(|(_, earlier)| earlier.as_ref() == Some(beat))
    };
    let alive = after.iter().filter_map(|(node, beat)| {
        let beat = beat.as_ref()?;
        (!stood_still(node, beat)).then_some(*node)
    });
    alive.collect()
}

fn heartbeats(device: &Path) -> Option<Heartbeats> {
    let mut handle = handle(device)?;
    let label = label_of(&mut handle)?;
    let areas = survey::read_all(&mut handle, &label.superblock).ok()?;
    Some(
        areas
            .into_iter()
            .map(|area| (area.node, area.heartbeat))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_alive_if_its_heartbeat_changed() {
        let [a, b] = [0, 1].map(|number| NodeId::new(number).unwrap());
        let beat = |sequence| {
            Some(Heartbeat {
                sequence,
                ..Heartbeat::default()
            })
        };
        for (before, after, alive) in [
            (vec![(a, None), (b, None)], vec![(a, None), (b, None)], vec![]),
            (
                vec![(a, beat(1)), (b, beat(7))],
                vec![(a, beat(2)), (b, beat(7))],
                vec![a],
            ),
            (
                vec![(a, None), (b, beat(7))],
                vec![(a, beat(1)), (b, beat(8))],
                vec![a, b],
            ),
            // Unreadable the second time: not alive by that.
            (
                vec![(a, beat(1)), (b, beat(7))],
                vec![(a, None), (b, beat(7))],
                vec![],
            ),
        ] {
            assert_eq!(moved(&before, &after), alive, "{before:?} {after:?}");
        }
    }
}
