//! The names of things: nodes, replicas, and the two numbers that give a replica its age.
//!
//! Every other file of the workspace uses these types; none of them can be mixed up with another, and none
//! knows anything about how it is stored.

mod folder;
mod per_device;
mod per_node;
mod region;
mod request;
mod server;

pub use folder::FolderId;
pub use per_device::PerDevice;
pub use per_node::{Folders, PerNode, Servers};
pub use region::{RegionId, Regions};
pub use request::{MalformedRequestId, PublicRequestId, RequestId};
pub use server::ServerId;

use core::fmt;
use serde::{Deserialize, Serialize};

/// Most nodes a cluster can have; node numbers are `0..NODES_MAX`.
pub const NODES_MAX: usize = 32;

/// The number of a server of the cluster, `0..=31`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct NodeId(u8);

impl NodeId {
    pub const FIRST: Self = Self(0);

    /// Returns the node with this number, or `None` if the number is 32 or more.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < NODES_MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number, `0..=31`; also the index of the node's area in a shared region.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All node numbers in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..NODES_MAX as u8).map(Self)
    }
}

impl TryFrom<u8> for NodeId {
    type Error = NodeIdOutOfRange;
    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::new(number).ok_or(NodeIdOutOfRange { number })
    }
}

impl From<NodeId> for u8 {
    fn from(node: NodeId) -> Self {
        node.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A node number was not in `0..=31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node number {number} is not between 0 and 31")]
pub struct NodeIdOutOfRange {
    pub number: u8,
}

/// A set of nodes, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeSet(u32);

impl NodeSet {
    pub const EMPTY: Self = Self(0);
    /// Every node that any cluster can have.
    pub const ALL: Self = Self(u32::MAX);

    pub const fn of(node: NodeId) -> Self {
        Self(1 << node.0)
    }
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }
    pub fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }
    pub fn remove(&mut self, node: NodeId) {
        self.0 &= !(1 << node.0);
    }
    #[must_use]
    pub const fn with(self, node: NodeId) -> Self {
        Self(self.0 | 1 << node.0)
    }
    #[must_use]
    pub const fn without(self, node: NodeId) -> Self {
        Self(self.0 & !(1 << node.0))
    }
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    pub const fn is_superset(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// How many nodes are in the set.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }
    /// Whether these are more than half of so many.
    pub const fn is_more_than_half_of(self, total: usize) -> bool {
        self.count() > total / 2
    }
    /// The lowest-numbered node of the set.
    pub fn lowest(self) -> Option<NodeId> {
        self.iter().next()
    }
    /// The nodes in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        NodeId::all().filter(move |node| self.contains(*node))
    }
    /// One bit a node, node 0 lowest; the form stored on disk.
    pub const fn bits(self) -> u32 {
        self.0
    }
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// Members as Fig. 6 writes them: `0,1,2,3`.
impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, node) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            write!(f, "{node}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Which of the two shared devices (Fig. 7, 704 and 706).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceRole {
    Primary,
    Secondary,
}

impl DeviceRole {
    /// In the order in which they are fenced and claimed.
    pub const ALL: [Self; 2] = [Self::Primary, Self::Secondary];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

impl fmt::Display for DeviceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of the two devices.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceSet {
    pub primary: bool,
    pub secondary: bool,
}

impl DeviceSet {
    pub const EMPTY: Self = Self {
        primary: false,
        secondary: false,
    };

    pub const fn contains(self, role: DeviceRole) -> bool {
        match role {
            DeviceRole::Primary => self.primary,
            DeviceRole::Secondary => self.secondary,
        }
    }
    #[must_use]
    pub const fn with(mut self, role: DeviceRole) -> Self {
        match role {
            DeviceRole::Primary => self.primary = true,
            DeviceRole::Secondary => self.secondary = true,
        }
        self
    }
    #[must_use]
    pub const fn without(mut self, role: DeviceRole) -> Self {
        match role {
            DeviceRole::Primary => self.primary = false,
            DeviceRole::Secondary => self.secondary = false,
        }
        self
    }
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            primary: self.primary || other.primary,
            secondary: self.secondary || other.secondary,
        }
    }
    pub const fn is_empty(self) -> bool {
        !self.primary && !self.secondary
    }
    pub const fn count(self) -> usize {
        match (self.primary, self.secondary) {
            (false, false) => 0,
            (true, true) => 2,
            _ => 1,
        }
    }
    /// Primary before secondary.
    pub fn iter(self) -> impl Iterator<Item = DeviceRole> {
        DeviceRole::ALL
            .into_iter()
            .filter(move |role| self.contains(*role))
    }
}

impl FromIterator<DeviceRole> for DeviceSet {
    fn from_iter<I: IntoIterator<Item = DeviceRole>>(roles: I) -> Self {
        roles.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for DeviceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// One place that stores the database, seen from the node that drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Replica {
    /// The node's own local copy: a region on a file.
    Local,
    /// A shared device.
    Device(DeviceRole),
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.pad("local copy"),
            Self::Device(role) => role.fmt(f),
        }
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after it. The last one, which nothing ever reaches, stays what it is.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Number of a reconfiguration that opened the database for writing. 0 is the state before the first.
    Epoch
);
number!(
    /// Number of an update (the patent's generation number). 0 is the empty database.
    Generation
);
number!(
    /// Distinguishes one run of a node from its earlier ones; chosen at random when the daemon starts.
    Incarnation
);

/// What no number that counts up ever reaches: at one a microsecond it takes two thousand years. An override of an operator jumps
/// by a hundred thousand, so sums and steps beyond it stay far below the end of the type. Nothing larger is believed.
const COUNTED_MAX: u64 = 1 << 56;

impl Epoch {
    pub const MAX: Self = Self(COUNTED_MAX);
}

impl Generation {
    pub const MAX: Self = Self(COUNTED_MAX);
}

/// The highest round of a ballot.
pub const ROUND_MAX: u64 = COUNTED_MAX;

/// The age of a replica, ordered lexicographically: epoch first.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    pub epoch: Epoch,
    pub generation: Generation,
}

impl fmt::Display for Stamp {
    /// As the patent's table writes it: `epoch/generation`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.generation)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// BLAKE3 chain over update records: equal stamp and lineage means equal content.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage(pub [u8; 32]);

impl Serialize for Lineage {
    /// In one piece: every message has some, and serde would take them number by number.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Lineage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(LineageBytes)
    }
}

struct LineageBytes;

impl<'de> serde::de::Visitor<'de> for LineageBytes {
    type Value = Lineage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Lineage, E> {
        let hash = bytes.try_into();
        hash.map(Lineage)
            .map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    /// Text formats have no bytes but lists of numbers.
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Lineage, A::Error> {
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            let next = items.next_element()?;
            *byte = next.ok_or_else(|| serde::de::Error::invalid_length(at, &self))?;
        }
        Ok(Lineage(hash))
    }
}

impl Lineage {
    /// The lineage of the empty database.
    pub const EMPTY: Self = Self([0; 32]);
}

impl fmt::Display for Lineage {
    /// The whole hash in hexadecimal; `{:.12}` shortens it for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(64);
        for byte in self.0.iter().take(digits / 2) {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}

/// Where a replica stands: how old it is and which history led there.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    pub stamp: Stamp,
    pub lineage: Lineage,
}

impl Position {
    /// The empty database, before any configuration.
    pub const EMPTY: Self = Self {
        stamp: Stamp {
            epoch: Epoch(0),
            generation: Generation(0),
        },
        lineage: Lineage::EMPTY,
    };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:.12}", self.stamp, self.lineage)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:?}", self.stamp, self.lineage)
    }
}

/// Identity of a cluster, made once by `ccdadm setup`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_last_number_is_the_last_number() {
        assert_eq!(Epoch(4).next(), Epoch(5));
        assert_eq!(Epoch(u64::MAX).next(), Epoch(u64::MAX));
        assert_eq!(Generation(u64::MAX).next(), Generation(u64::MAX));
    }

    #[test]
    fn more_than_half_is_what_twice_is_more_than_all() {
        for count in 0..=NODES_MAX {
            let nodes: NodeSet = NodeId::all().take(count).collect();
            for total in 0..=NODES_MAX {
                assert_eq!(
                    nodes.is_more_than_half_of(total),
                    count * 2 > total,
                    "{count} of {total}"
                );
            }
        }
    }
}
