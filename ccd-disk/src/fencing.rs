//! Keeping other nodes from writing to a device: the wall that stands beside the ballots.
//!
//! What decides who may go on are the votes and ballots of DESIGN.md §7, which depend neither on this nor on time. Fencing
//! only stops a writer that is hung or wrong. Devices without reservations (files, loop, nbd) have [`LeaseFencing`], which
//! stops nobody; a cluster must opt in to it. Reservations (SCSI-3, NVMe) are another implementation of [`Fencing`].

use ccd_core::ids::{Incarnation, NodeId, NodeSet};
use std::fmt;

/// How a device keeps others out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FencingKind {
    /// Not at all: a challenger waits until the owner's heartbeat has stood still for a lease.
    Lease,
    /// By persistent reservation, write exclusive, registrants only.
    Reservation,
}

impl fmt::Display for FencingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lease => "lease",
            Self::Reservation => "scsi",
        })
    }
}

/// Who may write to a device, as read back from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencingState {
    pub kind: FencingKind,
    /// Nodes of this cluster that can write. For [`FencingKind::Lease`] nobody knows: `None`.
    pub registered: Option<NodeSet>,
    /// The node that holds the reservation.
    pub holder: Option<NodeId>,
    /// Keys of nobody in this cluster: never removed without an operator.
    pub foreign_keys: Vec<u64>,
}

/// What became of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// Read back: no victim can write any more.
    Excluded,
    /// This device cannot exclude anybody; the victims' leases must be waited out, and the ballots decide.
    LeaseOnly,
}

/// Why fencing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FencingError {
    /// This node's own key is gone: it must stop serving at once, and must not register again by itself.
    #[error("CCD-2060 this node is itself fenced on {device}; it stops serving and waits to be invited")]
    SelfFenced { device: String },
    #[error("CCD-2061 {device} has keys of strangers ({keys:x?}); look with `ccd-disk fence status`")]
    Foreign { device: String, keys: Vec<u64> },
    #[error("CCD-2062 cannot fence on {device}: {why}")]
    Device { device: String, why: String },
}

/// Fencing on one device, for one node. Every step can be repeated after a crash.
pub trait Fencing: Send + fmt::Debug {
    fn kind(&self) -> FencingKind;

    /// Lets this node write. Done when a node starts, where the vote rule could let it go on; never by one that runs.
    fn register(&mut self, node: NodeId, incarnation: Incarnation) -> Result<(), FencingError>;

    /// Takes the right to write from the victims, and judges by reading back, not by the return code.
    fn fence(&mut self, victims: NodeSet) -> Result<Fenced, FencingError>;

    /// Who can write, read from the device: asked with every heartbeat, since an array may forget.
    fn state(&mut self) -> Result<FencingState, FencingError>;
}

/// For devices without reservations: keeps nobody out, and says so.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaseFencing;

impl Fencing for LeaseFencing {
    fn kind(&self) -> FencingKind {
        FencingKind::Lease
    }

    fn register(&mut self, _: NodeId, _: Incarnation) -> Result<(), FencingError> {
        Ok(())
    }

    fn fence(&mut self, _: NodeSet) -> Result<Fenced, FencingError> {
        Ok(Fenced::LeaseOnly)
    }

    fn state(&mut self) -> Result<FencingState, FencingError> {
        Ok(FencingState {
            kind: FencingKind::Lease,
            registered: None,
            holder: None,
            foreign_keys: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_fencing_never_claims_to_have_excluded_anybody() {
        let mut fencing: Box<dyn Fencing> = Box::new(LeaseFencing);
        let node = NodeId::new(0).unwrap();
        fencing.register(node, Incarnation(1)).unwrap();
        assert_eq!(fencing.fence(NodeSet::of(node)), Ok(Fenced::LeaseOnly));
        assert_eq!(fencing.state().unwrap().registered, None);
    }
}
