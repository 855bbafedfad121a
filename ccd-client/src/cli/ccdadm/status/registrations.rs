//! Who is registered with the devices, and so can write to them.

use super::node_name;
use crate::wire::StatusReport;
use ccd_core::protocol::DeviceStatus;
use ccd_core::reservation::{KeyOwner, ReservationKey};
use serde_json::{Value, json};

/// One key that is registered on a device.
pub(super) struct Registration {
    key: ReservationKey,
    /// The node's name, or whose key it is if it is not of this cluster.
    whose: String,
    holds: bool,
}

impl Registration {
    pub fn to_json(&self) -> Value {
        json!({ "key": self.key.to_string(), "node": self.whose, "holds": self.holds })
    }
}

pub(super) fn registrations(report: &StatusReport, device: &DeviceStatus) -> Vec<Registration> {
    let Some(seen) = &device.reservation else {
        return Vec::new();
    };
    let whose = |key: ReservationKey| match key.owner(report.cluster_id) {
        KeyOwner::Node(node) => node_name(report, node),
        KeyOwner::OtherCluster { .. } => String::from("another cluster"),
        KeyOwner::Foreign => String::from("foreign"),
    };
    (seen.keys.iter())
        .map(|key| Registration {
            key: *key,
            whose: whose(*key),
            holds: seen.holder.is_some_and(|holder| holder.key == *key),
        })
        .collect()
}

/// Who can write to a device by its reservation, the holder marked.
pub(super) fn writers(report: &StatusReport, device: &DeviceStatus) -> String {
    let registrations = registrations(report, device);
    if registrations.is_empty() {
        return String::from("nobody");
    }
    let names: Vec<String> = (registrations.iter())
        .map(|one| format!("{}{}", one.whose, if one.holds { "*" } else { "" }))
        .collect();
    names.join(", ")
}
