//! Persistent reservations of one simulated device, as targets have been measured to do them.
//!
//! A registration belongs to a nexus: one session of one server's initiator. A session made anew is another nexus, and what
//! the old one registered stays. Only write exclusive, registrants only is modelled, which is all that is ever asked for.

use ccd_core::reservation::{FenceOp, Holder, Registrations, ReservationKey};
use std::collections::{BTreeMap, BTreeSet};

/// A server's session with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nexus {
    pub server: usize,
    pub session: u32,
}

#[derive(Debug, Default)]
pub struct Reservations {
    registered: BTreeMap<Nexus, ReservationKey>,
    holder: Option<Nexus>,
    /// Preempted while they did not hold the reservation: what they had in flight was not waited for, and can land.
    undrained: BTreeSet<Nexus>,
    refused_writes: u64,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Taken,
    /// Refused with EBADE.
    Refused,
    /// Refused in the same way, but on the medium all the same.
    RefusedAndTaken,
}

impl Reservations {
    pub fn execute(&mut self, nexus: Nexus, op: FenceOp) -> Registrations {
        match op {
            FenceOp::Look => {}
            FenceOp::Register { key } => {
                self.registered.insert(nexus, key);
                self.undrained.remove(&nexus);
            }
            FenceOp::Reserve { key } => {
                if self.registered.get(&nexus) == Some(&key) && self.holder.is_none() {
                    self.holder = Some(nexus);
                }
            }
            FenceOp::Unregister { key } => {
                if self.registered.get(&nexus) == Some(&key) {
                    self.registered.remove(&nexus);
                    // With its holder the reservation goes (trap 6).
                    if self.holder == Some(nexus) {
                        self.holder = None;
                    }
                }
            }
            FenceOp::PreemptAbort { key, victim } => {
                if self.registered.get(&nexus) == Some(&key) {
                    self.preempt(nexus, victim);
                }
            }
        }
        self.read_back()
    }

    fn preempt(&mut self, by: Nexus, victim: ReservationKey) {
        let victims: Vec<Nexus> = (self.registered.iter())
            .filter(|(nexus, key)| **key == victim && **nexus != by)
            .map(|(nexus, _)| *nexus)
            .collect();
        for nexus in victims {
            self.registered.remove(&nexus);
            if self.holder == Some(nexus) {
                self.holder = Some(by);
            } else {
                self.undrained.insert(nexus);
            }
        }
    }

    fn read_back(&self) -> Registrations {
        let keys: BTreeSet<ReservationKey> = self.registered.values().copied().collect();
        let holder = self.holder.and_then(|nexus| self.registered.get(&nexus));
        Registrations {
            keys: keys.into_iter().collect(),
            holder: holder.map(|key| Holder {
                key: *key,
                right_type: true,
            }),
            paths_missing: 0,
        }
    }

    pub fn may_write(&self, nexus: Nexus) -> bool {
        self.holder.is_none() || self.registered.contains_key(&nexus)
    }

    /// A write of this nexus reaches the device; `begun_registered`: it was begun when the nexus could still write.
    pub fn meet_write(&mut self, nexus: Nexus, begun_registered: bool) -> Write {
        if self.may_write(nexus) || begun_registered && self.undrained.contains(&nexus) {
            return Write::Taken;
        }
        self.refused_writes += 1;
        if self.refused_writes.is_multiple_of(3) {
            Write::RefusedAndTaken
        } else {
            Write::Refused
        }
    }

    /// The target is reset and did not store registrations (APTPL off).
    pub fn forget(&mut self) {
        self.registered.clear();
        self.holder = None;
        self.undrained.clear();
    }

    /// Somebody else's key, for scenarios.
    pub fn register_stranger(&mut self, key: ReservationKey) {
        let nexus = Nexus {
            server: usize::MAX,
            session: 0,
        };
        self.registered.insert(nexus, key);
        self.holder.get_or_insert(nexus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Nexus = Nexus {
        server: 0,
        session: 0,
    };
    const B: Nexus = Nexus {
        server: 1,
        session: 0,
    };

    fn key(bits: u64) -> ReservationKey {
        ReservationKey::from_bits(bits)
    }

    #[test]
    fn a_preempted_holder_cannot_write_and_the_reservation_moves() {
        let mut device = Reservations::default();
        assert_eq!(device.meet_write(B, false), Write::Taken);
        for (nexus, bits) in [(A, 1), (B, 2)] {
            device.execute(nexus, FenceOp::Register { key: key(bits) });
        }
        let held = device.execute(B, FenceOp::Reserve { key: key(2) });
        assert!(held.held_by(key(2)));
        let after = device.execute(
            A,
            FenceOp::PreemptAbort {
                key: key(1),
                victim: key(2),
            },
        );
        assert!(after.held_by(key(1)) && after.keys == [key(1)]);
        assert_ne!(device.meet_write(B, true), Write::Taken);
        // The loser's own attempt does nothing.
        let late = device.execute(
            B,
            FenceOp::PreemptAbort {
                key: key(2),
                victim: key(1),
            },
        );
        assert!(late.held_by(key(1)));
    }

    #[test]
    fn what_a_preempted_registrant_had_in_flight_can_land() {
        let mut device = Reservations::default();
        for (nexus, bits) in [(A, 1), (B, 2)] {
            device.execute(nexus, FenceOp::Register { key: key(bits) });
        }
        device.execute(A, FenceOp::Reserve { key: key(1) });
        device.execute(
            A,
            FenceOp::PreemptAbort {
                key: key(1),
                victim: key(2),
            },
        );
        assert_eq!(device.meet_write(B, true), Write::Taken);
        assert_ne!(device.meet_write(B, false), Write::Taken);
    }
}
