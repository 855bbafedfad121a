//! The peers that have just proven themselves on a connection that they made: an attempt to reach one of them need not wait any longer.
//! No input or output. Told by `listen.rs`, waited for in `dial.rs`.

use ccd_core::ids::NodeId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::Notify;

/// For whoever dials, by node.
#[derive(Debug, Default)]
pub struct Arrivals {
    nodes: RefCell<BTreeMap<NodeId, Rc<Notify>>>,
}

impl Arrivals {
    /// Wakes those who wait now when this node comes.
    pub(super) fn of(&self, node: NodeId) -> Rc<Notify> {
        self.nodes.borrow_mut().entry(node).or_default().clone()
    }

    pub(super) fn note(&self, node: NodeId) {
        self.of(node).notify_waiters();
    }
}
