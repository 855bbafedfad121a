//! Persistent reservations as the protocol sees them: keys, what can be done on a device, and what is read back.
//!
//! Decided by `protocol`; executed by `ccd-disk` on a real device and by the simulator on a modelled one. Every step ends
//! with reading back what is registered and who holds the reservation. That alone is the outcome: status codes of
//! single commands differ between kernels and targets, and some of them mean "not known" (docs/fencing.md).

use crate::ids::{ClusterId, NodeId};
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The first byte of every key of ccd, so that another program's key is told from another cluster's.
const TAG: u8 = 0xcd;

/// A registration key: `tag 8 | cluster 24 | node 8 | incarnation 24` bits, most significant first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReservationKey(u64);

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    /// A node of this cluster.
    Node(NodeId),
    /// Another cluster of ccd; `prefix` is the start of its id.
    OtherCluster { prefix: u32, node: u8 },
    /// Some other program.
    Foreign,
}

impl ReservationKey {
    /// The key of one registration of a node; of `incarnation` the lowest 24 bits count.
    pub fn new(cluster: ClusterId, node: NodeId, incarnation: u64) -> Self {
        let cluster = u64::from(cluster_prefix(cluster));
        let node = u64::from(u8::from(node));
        Self(u64::from(TAG) << 56 | cluster << 32 | node << 24 | incarnation & 0xff_ffff)
    }

    /// A key as it was read from a device: anybody's.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The node of this cluster whose key it is.
    pub fn node(self, cluster: ClusterId) -> Option<NodeId> {
        match self.owner(cluster) {
            KeyOwner::Node(node) => Some(node),
            _ => None,
        }
    }

    pub fn owner(self, cluster: ClusterId) -> KeyOwner {
        let [tag, a, b, c, node, ..] = self.0.to_be_bytes();
        let prefix = u32::from_be_bytes([0, a, b, c]);
        match NodeId::new(node) {
            _ if tag != TAG => KeyOwner::Foreign,
            Some(node) if prefix == cluster_prefix(cluster) => KeyOwner::Node(node),
            _ => KeyOwner::OtherCluster { prefix, node },
        }
    }
}

/// The first 24 bits of the cluster's id.
fn cluster_prefix(cluster: ClusterId) -> u32 {
    let [a, b, c, ..] = cluster.0;
    u32::from_be_bytes([0, a, b, c])
}

/// As the tools of the operating system print keys.
impl fmt::Display for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for ReservationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One step on one device. Each can be repeated after a crash, and each answers with [`Registrations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOp {
    /// Only read back.
    Look,
    /// Register this key on every path of this node, whatever key was registered there before.
    Register { key: ReservationKey },
    /// Hold the reservation: write exclusive, registrants only. `key` is registered.
    Reserve { key: ReservationKey },
    /// Take this node's own registration away, on every path. Only a drill does this, and registers again.
    Unregister { key: ReservationKey },
    /// Remove every registration of `victim`, abort what it has in flight, and take the reservation if it held it.
    PreemptAbort {
        key: ReservationKey,
        victim: ReservationKey,
    },
}

/// What is registered on a device and who holds the reservation, read after a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registrations {
    /// Every key that is registered, each once, in ascending order.
    pub keys: Vec<ReservationKey>,
    pub holder: Option<Holder>,
    /// Paths of this node on which the key it registered last is missing although others have it: a new path, or one whose
    /// session was made anew. 0 if it has registered none.
    pub paths_missing: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub key: ReservationKey,
    /// The reservation is write exclusive, registrants only. Any other type does not protect as it should.
    pub right_type: bool,
}

impl Registrations {
    pub fn has(&self, key: ReservationKey) -> bool {
        self.keys.contains(&key)
    }

    /// Nobody is registered and nobody holds it: never used, cleared, or forgotten by its target.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.holder.is_none()
    }

    pub fn held_by(&self, key: ReservationKey) -> bool {
        self.holder
            == Some(Holder {
                key,
                right_type: true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_it_is() {
        let ours = ClusterId([0xab; 16]);
        let theirs = ClusterId([0x12; 16]);
        let node = NodeId::new(5).unwrap();
        let key = ReservationKey::new(ours, node, 0x1_0000_0007);
        assert_eq!(key.bits(), 0xcdab_abab_0500_0007);
        assert_eq!(key.owner(ours), KeyOwner::Node(node));
        assert_eq!(
            key.owner(theirs),
            KeyOwner::OtherCluster {
                prefix: 0xab_abab,
                node: 5
            }
        );
        assert_eq!(ReservationKey::from_bits(0x1234).owner(ours), KeyOwner::Foreign);
        let no_node = ReservationKey::from_bits(0xcdab_abab_ff00_0007);
        assert!(matches!(
            no_node.owner(ours),
            KeyOwner::OtherCluster { node: 255, .. }
        ));
    }
}
