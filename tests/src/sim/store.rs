//! One node's way to a medium, with what goes wrong on it: the product's own region code over a path to a device in memory.

use super::checkpoints::Checkpoints;
use super::reservations::{Nexus, Reservations, Write};
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaOp};
use ccd_core::reservation::{FenceOp, Registrations};
use ccd_disk::device::MemoryHandle;
use ccd_disk::{Blocks, ReplicaDriver};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The smallest unit that a medium writes whole.
pub(super) const SECTOR_BYTES: usize = 512;

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nothing gets through.
    Dead,
    /// Reads fail, writes do not.
    Reads,
    /// So many writes get through; of the next one, the sectors with a set bit; then nothing.
    Break {
        after_writes: u64,
        kept: u64,
    },
}

/// One node's way to one medium.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) fault: Arc<Mutex<Fault>>,
    /// A shared device's reservation, and this node's session with it.
    pub(super) initiator: Option<Initiator>,
    /// The operation under way was begun when this node could write.
    pub(super) begun_registered: Arc<Mutex<bool>>,
}

/// One server's side of a device's reservation.
#[derive(Clone, Debug)]
pub struct Initiator {
    pub(super) server: usize,
    pub(super) session: Arc<AtomicU32>,
    pub(super) target: Arc<Mutex<Reservations>>,
}

impl Initiator {
    fn nexus(&self) -> Nexus {
        Nexus {
            server: self.server,
            session: self.session.load(Ordering::Relaxed),
        }
    }

    pub fn target(&self) -> MutexGuard<'_, Reservations> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn execute(&self, op: FenceOp) -> Registrations {
        self.target().execute(self.nexus(), op)
    }

    /// The session ends and another begins: what it registered stays, and is not this one's.
    pub(super) fn reconnect(&self) {
        self.session.fetch_add(1, Ordering::Relaxed);
    }
}

impl Path {
    fn fault(&self) -> MutexGuard<'_, Fault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun_registered(&self) -> MutexGuard<'_, bool> {
        self.begun_registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn meet_write(&self) -> Write {
        let begun_registered = *self.begun_registered();
        self.initiator.as_ref().map_or(Write::Taken, |initiator| {
            initiator.target().meet_write(initiator.nexus(), begun_registered)
        })
    }
}

/// The medium at the end of a path.
#[derive(Debug)]
pub(super) struct PathBlocks {
    pub(super) medium: MemoryHandle,
    pub(super) path: Path,
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// What a write without registration meets.
fn conflict() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADE)
}

impl PathBlocks {
    fn write(&mut self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let fault = *self.path.fault();
        match fault {
            Fault::Dead => return Err(broken()),
            Fault::Break {
                after_writes: 0,
                kept,
            } => {
                *self.path.fault() = Fault::Dead;
                let mut torn = vec![0; data.len()];
                self.medium.read_at(offset, &mut torn)?;
                for (sector, bytes) in data.chunks(SECTOR_BYTES).enumerate() {
                    if kept >> (sector % 64) & 1 == 1 {
                        torn[sector * SECTOR_BYTES..][..bytes.len()].copy_from_slice(bytes);
                    }
                }
                self.medium.write_at(offset, &torn)?;
                return Err(broken());
            }
            Fault::Break { after_writes, kept } => {
                *self.path.fault() = Fault::Break {
                    after_writes: after_writes - 1,
                    kept,
                };
            }
            Fault::None | Fault::Reads => {}
        }
        let outcome = self.path.meet_write();
        if outcome == Write::Refused {
            return Err(conflict());
        }
        if durable {
            self.medium.write_at(offset, data)?;
        } else {
            self.medium.write_unflushed_at(offset, data)?;
        }
        if outcome == Write::RefusedAndTaken {
            return Err(conflict());
        }
        Ok(())
    }
}

impl Blocks for PathBlocks {
    fn len_bytes(&self) -> u64 {
        self.medium.len_bytes()
    }
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if matches!(*self.path.fault(), Fault::Dead | Fault::Reads) {
            return Err(broken());
        }
        self.medium.read_at(offset, into)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, true)
    }
    fn write_unflushed_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data, false)
    }
    fn flush(&mut self) -> io::Result<()> {
        if *self.path.fault() == Fault::Dead {
            return Err(broken());
        }
        self.medium.flush()
    }
    fn name(&self) -> String {
        self.medium.name()
    }
}

/// One node's region on one medium, as its process drives it.
#[derive(Debug)]
pub struct Store {
    pub(super) driver: ReplicaDriver,
    pub(super) path: Path,
    pub(super) checkpoints: Checkpoints,
}

impl Store {
    /// What the next operation meets.
    pub fn meet(&mut self, fault: Fault) {
        *self.path.fault() = fault;
    }

    /// An operation is begun: whether its writes are this node's to make is seen now, and again when they land.
    pub fn begin(&mut self) {
        let may_write = (self.path.initiator.as_ref())
            .is_none_or(|initiator| initiator.target().may_write(initiator.nexus()));
        *self.path.begun_registered() = may_write;
    }

    pub fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        let is_checkpoint = matches!(op, ReplicaOp::Checkpoint { .. });
        let answer = self.driver.execute(op)?;
        if is_checkpoint {
            self.checkpoints.note(self.driver.region()?.own_segments()?);
        }
        Ok(answer)
    }
}
