//! One view for every replica that can be named.

use super::ReplicaView;
use crate::ids::{DeviceSet, PerDevice, Replica};
use crate::time::Time;

/// The local copy and both devices. A device that the cluster does not have is one that was never opened: nothing is asked of it,
/// and whoever names it learns that it cannot be used.
#[derive(Debug)]
pub(in crate::protocol) struct Replicas {
    local: ReplicaView,
    devices: PerDevice<ReplicaView>,
    configured: DeviceSet,
}

impl Replicas {
    pub fn new(configured: DeviceSet, now: Time) -> Self {
        Self {
            local: ReplicaView::new(now),
            devices: PerDevice::from_fn(|_| ReplicaView::new(now)),
            configured,
        }
    }

    pub const fn of(&self, replica: Replica) -> &ReplicaView {
        match replica {
            Replica::Local => &self.local,
            Replica::Device(role) => self.devices.of(role),
        }
    }

    pub const fn of_mut(&mut self, replica: Replica) -> &mut ReplicaView {
        match replica {
            Replica::Local => &mut self.local,
            Replica::Device(role) => self.devices.of_mut(role),
        }
    }

    /// Those that the cluster has: the local copy first.
    pub fn iter(&self) -> impl Iterator<Item = (Replica, &ReplicaView)> {
        let devices = self.configured.iter().map(Replica::Device);
        core::iter::once(Replica::Local)
            .chain(devices)
            .map(|replica| (replica, self.of(replica)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DeviceRole;
    use alloc::vec::Vec;

    #[test]
    fn a_device_that_the_cluster_lacks_has_a_view_that_cannot_be_used_and_is_not_opened() {
        let (primary, secondary) = (DeviceRole::Primary, DeviceRole::Secondary);
        let replicas = Replicas::new(DeviceSet::EMPTY.with(primary), Time::ZERO);
        assert!(!replicas.of(Replica::Device(secondary)).usable());
        let opened: Vec<Replica> = replicas.iter().map(|(replica, _)| replica).collect();
        assert_eq!(opened, [Replica::Local, Replica::Device(primary)]);
    }
}
