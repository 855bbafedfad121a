//! One value for each number that a node can have.

use super::{FolderId, NODES_MAX, NodeId, ServerId};
use serde::{Deserialize, Serialize};

/// Values by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerNode<T>([[T; ROW]; NODES_MAX / ROW]);

/// The servers that have the numbers of a cluster.
pub type Servers = PerNode<ServerId>;

/// The state folders that the nodes of a cluster are counted by.
pub type Folders = PerNode<FolderId>;

/// In rows, so that 32 of them are not taken for a hash where only the form is known.
const ROW: usize = 8;
const _: () = assert!(NODES_MAX.is_multiple_of(ROW));

impl<T: Copy + Default> PerNode<T> {
    /// In the order of the numbers, as they are stored.
    pub fn new(values: [T; NODES_MAX]) -> Self {
        let mut rows = Self::default();
        rows.0.as_flattened_mut().copy_from_slice(&values);
        rows
    }

    pub fn iter(&self) -> impl Iterator<Item = T> {
        self.0.as_flattened().iter().copied()
    }

    pub fn get(&self, node: NodeId) -> T {
        (self.0.as_flattened().get(node.index()).copied()).unwrap_or_default()
    }

    pub fn set(&mut self, node: NodeId, value: T) {
        if let Some(slot) = self.0.as_flattened_mut().get_mut(node.index()) {
            *slot = value;
        }
    }
}
