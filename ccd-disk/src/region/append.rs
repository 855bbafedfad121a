//! An append of this node's own area in parts: what is decided before, between and after its transfers. One code for two ways:
//! [`Region::execute`] carries the transfers out itself, and for who must not wait for a device, such as the event loop through
//! ccd-mirror, [`Region::begin_append`] hands them out one after the other.
//!
//! Always holds: the claim check reads only after the record is known to be durable; an append that is dropped before its first
//! transfer was begun has changed nothing.

use super::Region;
use super::own::{OwnArea, PlacedRecord};
use super::survey::ClaimCheck;
use crate::device::{Buffer, RingTarget, Transfer, Way};
use crate::error::RegionError;
use crate::format::batch;
use crate::format::journal::{Entry, Step};
use ccd_core::database::Record;
use ccd_core::replica::ReplicaAnswer;
use std::io;
use std::slice::from_ref;

/// Most bytes of a batch: more do not make its flush matter less.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// A batch takes no more than this part of the largest record, so that one fits a journal that is half in use.
const BATCH_RECORDS_MIN: usize = 2;

/// An append between two of its transfers. Until it is done the region must be asked for nothing else.
#[derive(Debug)]
pub struct Appending {
    /// Until it is written.
    record: Option<PlacedRecord>,
    claims: Option<ClaimCheck>,
}

/// An append whose transfers the caller carries out.
#[derive(Debug)]
pub struct AppendBegun {
    pub appending: Appending,
    /// Where all its transfers go.
    pub target: RingTarget,
    pub transfer: Transfer,
}

/// What comes after a transfer.
#[derive(Debug)]
pub enum AppendStep {
    Next(Appending, Transfer),
    Done(ReplicaAnswer),
}

impl Region {
    /// Begins an append whose transfers others carry out, each told by [`Region::go_on_append`]; never touches the device itself.
    /// `None`: only [`Region::execute`] can do it now, because the device takes no such transfers, or something else must be read or
    /// written before.
    pub fn begin_append(
        &mut self,
        record: &Record,
        then_survey: bool,
    ) -> Result<Option<AppendBegun>, RegionError> {
        if self.own.as_ref().is_none_or(OwnArea::has_left_over) {
            return Ok(None);
        }
        let Some(target) = self.handle.ring_target() else {
            return Ok(None);
        };
        let (appending, transfer) = self.prepare_append(&entry_of(record), then_survey)?;
        Ok(Some(AppendBegun {
            appending,
            target,
            transfer,
        }))
    }

    /// A transfer of the append has ended so: what comes next. A failed write poisons the region.
    pub fn go_on_append(
        &mut self,
        mut appending: Appending,
        transfer: Transfer,
        done: io::Result<()>,
    ) -> Result<AppendStep, RegionError> {
        match (appending.record.take(), &mut appending.claims) {
            (Some(record), _) => {
                self.handle.judge(Way::Write, done)?;
                self.with_own(|own, _| {
                    own.note_written(record, transfer.blocks);
                    Ok(())
                })?;
            }
            (None, Some(claims)) => match done {
                Err(error) if error.kind() == io::ErrorKind::Interrupted && claims.may_look_again() => {}
                done => {
                    self.handle.judge(Way::Read, done)?;
                    claims.look(&self.superblock, &transfer.blocks);
                    self.claims_blocks = transfer.blocks;
                }
            },
            (None, None) => unreachable!("an append without claim check is done when it is written"),
        }
        let wanted = (appending.claims.as_mut()).and_then(|claims| claims.wanted(&self.superblock));
        if let Some((block, count)) = wanted {
            let mut blocks = std::mem::replace(&mut self.claims_blocks, Buffer::zeroed(0));
            blocks.clear_to(count);
            let transfer = self.handle.transfer(Way::Read, block, blocks)?;
            return Ok(AppendStep::Next(appending, transfer));
        }
        Ok(AppendStep::Done(ReplicaAnswer::Appended {
            survey: appending.claims.map(ClaimCheck::into_survey),
            journal_used_percent: self.with_own(|own, _| Ok(own.journal_used_percent()))?,
        }))
    }

    /// Appends one record, durable on return.
    pub(super) fn append(&mut self, entry: &Entry, then_survey: bool) -> Result<ReplicaAnswer, RegionError> {
        let (mut appending, mut transfer) = self.prepare_append(entry, then_survey)?;
        self.with_own(OwnArea::retire_left_over)?;
        loop {
            let done = self.handle.carry_out(&mut transfer);
            match self.go_on_append(appending, transfer, done)? {
                AppendStep::Next(next, wanted) => (appending, transfer) = (next, wanted),
                AppendStep::Done(answer) => return Ok(answer),
            }
        }
    }

    /// Appends the records of a tail, durable on return: as few writes as hold them.
    pub(super) fn append_tail(&mut self, tail: impl Iterator<Item = Entry>) -> Result<(), RegionError> {
        let bytes_max = (self.record_bytes_max() / BATCH_RECORDS_MIN).min(BATCH_BYTES_MAX);
        let mut waiting: Vec<Entry> = Vec::new();
        for entry in tail {
            let fits = batch::len_bytes(&waiting) + batch::len_bytes(from_ref(&entry)) <= bytes_max;
            if !fits || !batch::may_be_part(&entry) {
                self.append_batch(&mut waiting)?;
            }
            waiting.push(entry);
            if !waiting.iter().all(batch::may_be_part) {
                self.append_batch(&mut waiting)?;
            }
        }
        self.append_batch(&mut waiting)
    }

    fn append_batch(&mut self, waiting: &mut Vec<Entry>) -> Result<(), RegionError> {
        match std::mem::take(waiting).as_slice() {
            [] => Ok(()),
            [alone] => self.append(alone, false).map(drop),
            several => self.append(&batch::batch(several), false).map(drop),
        }
    }

    fn prepare_append(
        &mut self,
        entry: &Entry,
        then_survey: bool,
    ) -> Result<(Appending, Transfer), RegionError> {
        let (record, blocks) = self.with_own(|own, handle| own.place_record(handle, entry))?;
        let transfer = self.handle.transfer(Way::Write, record.block, blocks)?;
        let claims =
            then_survey.then(|| ClaimCheck::new(&self.superblock, self.node, self.own_ballot.as_ref()));
        let record = Some(record);
        Ok((Appending { record, claims }, transfer))
    }
}

/// A record as the journal knows it.
pub(super) fn entry_of(record: &Record) -> Entry {
    Entry {
        step: Step::of(record),
        prev: record.prev,
        next: record.next,
        payload: record.bytes().into_owned(),
    }
}
