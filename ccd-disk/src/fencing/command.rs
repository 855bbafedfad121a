//! PERSISTENT RESERVE IN and OUT: the bytes that are sent (SPC-4 §6.15 and §6.16).

use ccd_core::reservation::ReservationKey;

/// Write exclusive, registrants only, as SCSI numbers it; scope "logical unit" is 0.
pub const SCSI_TYPE: u8 = 5;
/// The same type as `linux/pr.h` and NVMe number it. (There, 5 is what SCSI calls 7.)
pub const BLOCK_TYPE: u32 = 3;

const PERSISTENT_RESERVE_IN: u8 = 0x5e;
const PERSISTENT_RESERVE_OUT: u8 = 0x5f;

/// A SCSI command block of ten bytes.
pub type Cdb = [u8; 10];
/// What a PERSISTENT RESERVE OUT carries.
pub type Parameters = [u8; 24];

/// What is changed on a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Always whatever was registered before: a plain REGISTER conflicts on the path that already has the key (trap 8), and
    /// a node that crashed does not know its earlier one.
    Register {
        key: ReservationKey,
        /// Ask the target to keep registrations through its own loss of power (APTPL, PTPL).
        persist: bool,
    },
    Reserve {
        key: ReservationKey,
    },
    /// Never a plain PREEMPT: it leaves the victim's writes in flight (trap 2).
    PreemptAbort {
        key: ReservationKey,
        victim: ReservationKey,
    },
    /// Removes every registration of everybody.
    Clear {
        key: ReservationKey,
    },
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    Keys,
    Reservation,
    /// Whether the target keeps registrations through a loss of power.
    Capabilities,
    FullStatus,
}

impl ReadKind {
    pub fn cdb(self, room_bytes: u16) -> Cdb {
        let service_action = match self {
            Self::Keys => 0,
            Self::Reservation => 1,
            Self::Capabilities => 2,
            Self::FullStatus => 3,
        };
        let [high, low] = room_bytes.to_be_bytes();
        [PERSISTENT_RESERVE_IN, service_action, 0, 0, 0, 0, 0, high, low, 0]
    }
}

impl Change {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Reserve { .. } => "reserve",
            Self::PreemptAbort { .. } => "preempt and abort",
            Self::Clear { .. } => "clear",
        }
    }

    pub fn cdb(self) -> Cdb {
        let (service_action, reservation_type) = match self {
            Self::Reserve { .. } => (0x01, SCSI_TYPE),
            Self::Clear { .. } => (0x03, 0),
            Self::PreemptAbort { .. } => (0x05, SCSI_TYPE),
            // REGISTER AND IGNORE EXISTING KEY.
            Self::Register { .. } => (0x06, 0),
        };
        let len_bytes = size_of::<Parameters>() as u8;
        [
            PERSISTENT_RESERVE_OUT,
            service_action,
            reservation_type,
            0,
            0,
            0,
            0,
            0,
            len_bytes,
            0,
        ]
    }

    pub fn parameters(self) -> Parameters {
        let (own, other, persist) = match self {
            // The first field is ignored, as the name of the service action says.
            Self::Register { key, persist } => (0, key.bits(), persist),
            Self::Reserve { key } | Self::Clear { key } => (key.bits(), 0, false),
            Self::PreemptAbort { key, victim } => (key.bits(), victim.bits(), false),
        };
        let mut list = [0; 24];
        list[..8].copy_from_slice(&own.to_be_bytes());
        list[8..16].copy_from_slice(&other.to_be_bytes());
        list[20] = u8::from(persist);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_bytes_of_the_standard() {
        let key = ReservationKey::from_bits(0xcdab_abab_0500_0007);
        let victim = ReservationKey::from_bits(0xcdab_abab_0600_0001);
        let own = [0xcd, 0xab, 0xab, 0xab, 5, 0, 0, 7];
        let other = [0xcd, 0xab, 0xab, 0xab, 6, 0, 0, 1];
        let none = [0; 8];
        let list = |first: [u8; 8], second: [u8; 8], flags: u8| {
            let mut list = [0; 24];
            list[..8].copy_from_slice(&first);
            list[8..16].copy_from_slice(&second);
            list[20] = flags;
            list
        };
        for (change, service_action, kind, expected) in [
            (Change::Register { key, persist: true }, 6, 0, list(none, own, 1)),
            (Change::Register { key, persist: false }, 6, 0, list(none, own, 0)),
            (Change::Reserve { key }, 1, 5, list(own, none, 0)),
            // Trap 1: 5Fh/05h, which aborts, and not 04h.
            (Change::PreemptAbort { key, victim }, 5, 5, list(own, other, 0)),
            (Change::Clear { key }, 3, 0, list(own, none, 0)),
        ] {
            let cdb = [0x5f, service_action, kind, 0, 0, 0, 0, 0, 24, 0];
            assert_eq!(change.cdb(), cdb, "{change:?}");
            assert_eq!(change.parameters(), expected, "{change:?}");
        }
        assert_eq!(
            ReadKind::Keys.cdb(0x0208),
            [0x5e, 0, 0, 0, 0, 0, 0, 0x02, 0x08, 0]
        );
        assert_eq!(ReadKind::Reservation.cdb(24), [0x5e, 1, 0, 0, 0, 0, 0, 0, 24, 0]);
        assert_eq!(ReadKind::Capabilities.cdb(8), [0x5e, 2, 0, 0, 0, 0, 0, 0, 8, 0]);
        assert_eq!(
            ReadKind::FullStatus.cdb(0xffff),
            [0x5e, 3, 0, 0, 0, 0, 0, 0xff, 0xff, 0]
        );
    }
}
