//! One of something for each of the two devices: there is always one for a role.

use super::DeviceRole;
use serde::{Deserialize, Serialize};

/// Encoded as its two parts, the primary's first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerDevice<T> {
    pub primary: T,
    pub secondary: T,
}

impl<T> PerDevice<T> {
    pub fn from_fn(mut make: impl FnMut(DeviceRole) -> T) -> Self {
        Self {
            primary: make(DeviceRole::Primary),
            secondary: make(DeviceRole::Secondary),
        }
    }

    pub const fn of(&self, role: DeviceRole) -> &T {
        match role {
            DeviceRole::Primary => &self.primary,
            DeviceRole::Secondary => &self.secondary,
        }
    }

    pub const fn of_mut(&mut self, role: DeviceRole) -> &mut T {
        match role {
            DeviceRole::Primary => &mut self.primary,
            DeviceRole::Secondary => &mut self.secondary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_encoded_as_an_array_of_two() {
        let devices = PerDevice {
            primary: 300_u64,
            secondary: 7,
        };
        let encoded = postcard::to_allocvec(&devices).unwrap();
        assert_eq!(encoded, postcard::to_allocvec(&[300_u64, 7]).unwrap());
        assert_eq!(postcard::from_bytes::<PerDevice<u64>>(&encoded), Ok(devices));
        for (role, value) in DeviceRole::ALL.into_iter().zip([300, 7]) {
            assert_eq!(*devices.of(role), value);
        }
    }
}
