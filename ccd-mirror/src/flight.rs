//! A small append to a device, and the claim check after it, through a ring: without the replica's thread, which has nothing to do
//! meanwhile. Used by the [`Mirror`](crate::Mirror) only.
//!
//! ```text
//! take_off: region prepares ─→ ring carries the write ─→ land: region judges ─→ ring carries a read ─→ land: … ─→ answer
//! ```
//!
//! Always holds: one flight at a time for a replica, and nothing else is done on that replica before it has landed, also when it
//! was answered `TimedOut` long before. What the ring leaves unfinished the thread does from the beginning, which writes the same
//! bytes to the same place.

use crate::lane::{Job, Work};
use crate::mirror::Completion;
use crate::side::{Side, describe};
use ccd_core::database::{Record, RecordBody};
use ccd_core::ids::Replica;
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_core::time::Time;
use ccd_disk::RegionError;
use ccd_disk::device::{Carrier, Landed, Landing, RingTarget, Transfer, Way};
use ccd_disk::region::{AppendBegun, AppendStep, Appending};
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Most operations of a record that the event loop makes into blocks itself.
const SMALL_UPDATES_MAX: usize = 64;
/// And so many bytes: what a device takes in one write that nobody notices.
const SMALL_BYTES_MAX: usize = 256 << 10;

/// An append that is being carried.
#[derive(Debug)]
pub(crate) struct Flight {
    serial: u64,
    /// For the thread, if the ring does not finish it.
    record: Arc<Record>,
    then_survey: bool,
    target: RingTarget,
    appending: Appending,
}

/// What became of the wish to use the ring.
#[derive(Debug)]
pub(crate) enum TakeOff {
    /// It will be told by [`Side::land`].
    Flying,
    /// Nothing will be written.
    Refused(ReplicaError),
    /// The thread must do it.
    Grounded,
}

pub(crate) fn is_small(record: &Record) -> bool {
    match &record.body {
        RecordBody::Updates { updates, .. } => {
            // One operation may bring a whole database.
            updates.iter().map(|update| update.ops.len()).sum::<usize>() <= SMALL_UPDATES_MAX
                && record.encoded_bytes_max() <= SMALL_BYTES_MAX
        }
        RecordBody::Rollback | RecordBody::Open | RecordBody::OpenAll => true,
    }
}

impl Side {
    /// Begins an append through the ring, if that can be done now. `tag` is what its landing will be told by.
    pub fn take_off(
        &mut self,
        now: Time,
        ticket: Ticket,
        op: &ReplicaOp,
        deadline: Duration,
        tag: u64,
        ring: &mut dyn Carrier,
    ) -> TakeOff {
        let ReplicaOp::Append { record, then_survey } = op else {
            return TakeOff::Grounded;
        };
        if self.replica == Replica::Local || self.grounded || !self.is_free() || !is_small(record) {
            return TakeOff::Grounded;
        }
        let begun = match self.store.try_lock() {
            Ok(mut store) => (store.region()).map(|region| region.begin_append(record, *then_survey)),
            Err(_) => None,
        };
        let AppendBegun {
            appending,
            target,
            transfer,
        } = match begun {
            None | Some(Ok(None)) => return TakeOff::Grounded,
            Some(Ok(Some(begun))) => begun,
            Some(Err(error)) => return TakeOff::Refused(error.into()),
        };
        if ring.start(tag, &target, transfer).is_err() {
            return TakeOff::Grounded;
        }
        self.flight = Some(Flight {
            serial: self.note(now, ticket, describe(op), deadline),
            record: record.clone(),
            then_survey: *then_survey,
            target,
            appending,
        });
        TakeOff::Flying
    }

    /// A transfer of the flight has come back: the next one follows, or the answer.
    pub fn land(&mut self, now: Time, mut landed: Landed, ring: &mut dyn Carrier) -> Option<Completion> {
        let mut flight = self.flight.take()?;
        let is_late = self.stuck.is_some();
        let ended = loop {
            let Landed {
                tag,
                transfer,
                landing,
            } = landed;
            let done = match landing {
                Landing::Whole => Ok(()),
                Landing::Failed(error) => Err(error),
                Landing::Unfinished if transfer.way == Way::Write && !is_late => {
                    self.ground(flight);
                    return None;
                }
                Landing::Unfinished => Err(io::ErrorKind::Interrupted.into()),
            };
            match self.go_on(flight.appending, transfer, done) {
                Ok(AppendStep::Next(appending, transfer)) if !is_late => {
                    flight.appending = appending;
                    match ring.start(tag, &flight.target, transfer) {
                        Err(refused) => landed = refused,
                        Ok(()) => {
                            self.flight = Some(flight);
                            return None;
                        }
                    }
                }
                ended => break ended,
            }
        };
        if is_late {
            // The region knows what became of it, and nobody waits for it any more.
            self.stuck = None;
            return None;
        }
        self.release_held();
        let result: Result<_, ReplicaError> = match ended {
            Ok(AppendStep::Done(answer)) => Ok(answer),
            Ok(AppendStep::Next(..)) => unreachable!("only what is late ends before its last transfer"),
            Err(error) => Err(error),
        };
        self.counted.note_result(&result);
        Some(Completion {
            ticket: self.settle(now, flight.serial)?,
            replica: self.replica,
            result,
        })
    }

    fn go_on(
        &mut self,
        appending: Appending,
        transfer: Transfer,
        done: io::Result<()>,
    ) -> Result<AppendStep, ReplicaError> {
        // The thread has nothing to do, so nobody holds it.
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(region) = store.region() else {
            let text = format!("{}: closed while an append was under way", self.replica);
            let kind = ReplicaErrorKind::Poisoned;
            return Err(ReplicaError { kind, text });
        };
        let step = region.go_on_append(appending, transfer, done);
        step.map_err(|error: RegionError| error.into())
    }

    fn ground(&mut self, flight: Flight) {
        tracing::info!(replica = %self.replica, "io_uring does not finish appends here: the thread does them");
        self.grounded = true;
        let Flight {
            serial,
            record,
            then_survey,
            ..
        } = flight;
        let work = Work::Op(ReplicaOp::Append { record, then_survey });
        self.lane.push(Job { serial, work });
        self.release_held();
    }
}
