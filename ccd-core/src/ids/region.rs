//! The identity of a region, and which region plays which role.

use super::DeviceRole;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Identity of a region: random, made by mkfs. The same device formatted again is another region.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegionId(pub [u8; 16]);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The region that plays each role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions([RegionId; 2]);

impl Regions {
    /// The region in this role; `None` if it is not known.
    pub fn get(&self, role: DeviceRole) -> Option<RegionId> {
        let [primary, secondary] = self.0;
        let region = match role {
            DeviceRole::Primary => primary,
            DeviceRole::Secondary => secondary,
        };
        Some(region).filter(|region| *region != RegionId::default())
    }

    /// The same with this region in this role.
    #[must_use]
    pub fn with(mut self, role: DeviceRole, region: RegionId) -> Self {
        let [primary, secondary] = &mut self.0;
        *match role {
            DeviceRole::Primary => primary,
            DeviceRole::Secondary => secondary,
        } = region;
        self
    }

    /// As they are stored: primary, then secondary; zeros where one is not known.
    pub const fn bytes(&self) -> [[u8; 16]; 2] {
        let [RegionId(primary), RegionId(secondary)] = self.0;
        [primary, secondary]
    }

    /// Back from [`Regions::bytes`].
    pub const fn from_bytes([primary, secondary]: [[u8; 16]; 2]) -> Self {
        Self([RegionId(primary), RegionId(secondary)])
    }
}
