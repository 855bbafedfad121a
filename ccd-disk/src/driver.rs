//! A replica that can be opened again: what a node's replica thread and the simulator hand operations to.

use crate::device::Blocks;
use crate::error::RegionError;
use crate::region::{ExpectedIdentity, Region, not_open};
use ccd_core::database::Database;
use ccd_core::ids::Replica;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use std::fmt;
use std::io;

/// Opens the device of a replica: called at every [`ReplicaOp::Open`], after the earlier handle was closed.
pub type Opener = Box<dyn FnMut() -> io::Result<Box<dyn Blocks>> + Send>;
/// Stores a branch that lost, so that an operator can look at it.
pub type BranchKeeper = Box<dyn FnMut(&Database, &str) -> io::Result<()> + Send>;

/// One replica of a node: closed, open, or poisoned until it is opened again.
pub struct ReplicaDriver {
    identity: ExpectedIdentity,
    opener: Opener,
    branches: BranchKeeper,
    region: Option<Region>,
}

impl ReplicaDriver {
    /// A replica that is not open yet. `branches` is asked for local copies only; a device's may refuse.
    pub fn new(identity: ExpectedIdentity, opener: Opener, branches: BranchKeeper) -> Self {
        Self {
            identity,
            opener,
            branches,
            region: None,
        }
    }

    /// Does one operation to its end; blocks as long as the device does.
    pub fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        match op {
            ReplicaOp::Open => self.open(),
            ReplicaOp::Close => {
                self.close();
                Ok(ReplicaAnswer::Written)
            }
            ReplicaOp::KeepBranch { database, reason } => {
                (self.branches)(&database, &reason).map_err(|error| {
                    // What follows would write over the only other place where the branch is.
                    self.region = None;
                    ReplicaError {
                        kind: ReplicaErrorKind::Io,
                        text: format!(
                            "CCD-2050 cannot keep the branch at {}: {error}; is the state folder full?",
                            database.position()
                        ),
                    }
                })?;
                Ok(ReplicaAnswer::Written)
            }
            op => self.region()?.execute(op),
        }
    }

    /// The open region, for what is no [`ReplicaOp`]: checkpoints in steps.
    pub fn region(&mut self) -> Result<&mut Region, ReplicaError> {
        let replica = self.identity.replica;
        self.region.as_mut().ok_or_else(|| {
            not_open(format!(
                "CCD-2051 the {replica} is not open; its last opening failed"
            ))
        })
    }

    /// Closes the device, and lets others have it.
    pub fn close(&mut self) {
        self.region = None;
    }

    fn open(&mut self) -> Result<ReplicaAnswer, ReplicaError> {
        // First the old handle goes: it holds the lock that the new one needs.
        self.region = None;
        let name = self.identity.replica.to_string();
        let blocks = (self.opener)().map_err(|error| RegionError::io("open", name, error))?;
        let mut region =
            Region::open(blocks, self.identity).map_err(|error| match self.identity.replica {
                Replica::Local => error.of_local_copy(),
                Replica::Device(_) => error,
            })?;
        let answer = region.execute(ReplicaOp::Survey)?;
        self.region = Some(region);
        Ok(answer)
    }
}

impl fmt::Debug for ReplicaDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaDriver")
            .field("identity", &self.identity)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}
