//! What leads from one generation to another: the effects of the updates between them, added up from the older one on.

use super::frame::{Effects, Frame};
use super::read::{ReadError, Reader, not_kept, unless_gone};
use super::segment;
use super::turns::Pace;
use ccd_client::wire::{self, ChangesAsk};
use ccd_core::database::{Difference, Key};
use ccd_core::ids::{Generation, Position};

/// An answer has so many bytes at most.
const CHANGES_BYTES_MAX: usize = wire::REPLY_BYTES_MAX - (1 << 20);

impl Reader {
    /// What leads from one generation to another; `head` is where the history ends.
    pub fn changes(&self, ask: &ChangesAsk, head: Position, pace: &Pace) -> Result<Difference, ReadError> {
        let (from, to) = (ask.from.min(ask.to), ask.from.max(ask.to));
        let newest = head.stamp.generation;
        if to > newest {
            let text = format!("generation {to} has not been reached: the newest here is {newest}");
            return Err(ReadError::NotKept(text));
        }
        let mut forward = Forward::new(self, ask.key.as_ref(), from, to, pace)?;
        let difference = Difference::composed(&mut forward);
        forward.finish()?;
        if difference.encode().len() > CHANGES_BYTES_MAX {
            let text =
                format!("what changed from generation {from} to {to} is too much for one answer; name a key");
            return Err(ReadError::NotKept(text));
        }
        Ok(if ask.from > ask.to {
            difference.inverse()
        } else {
            difference
        })
    }
}

/// The effects of the updates after one generation, up to another, one after the other.
struct Forward<'a> {
    reader: &'a Reader,
    pace: &'a Pace,
    key: Option<&'a Key>,
    from: Generation,
    to: Generation,
    /// What comes before so many places where a branch was replaced is not the way that was gone.
    replaced: u32,
    /// Up to where effects were given out.
    reached: Generation,
    serials: std::vec::IntoIter<u64>,
    /// The file that is read: its content, its frames that are left.
    file: (Vec<u8>, std::vec::IntoIter<usize>),
    /// The differences that are left of the frame that is read.
    ready: std::vec::IntoIter<Difference>,
    failed: Option<ReadError>,
}

impl<'a> Forward<'a> {
    fn new(
        reader: &'a Reader,
        key: Option<&'a Key>,
        from: Generation,
        to: Generation,
        pace: &'a Pace,
    ) -> Result<Self, ReadError> {
        // From the newest file on that begins no later.
        let mut serials = segment::serials(&reader.folder)?;
        let mut first = None;
        for (index, serial) in serials.iter().enumerate().rev() {
            let head = segment::read_begins(&reader.folder, *serial, reader.cluster);
            if let Some(Ok(begins)) = unless_gone(head)?
                && begins.stamp.generation <= from
            {
                first = Some(index);
                break;
            }
        }
        let Some(first) = first else {
            let oldest = reader.oldest()?;
            let text = format!("generation {from} is not kept any more: the oldest here is {oldest}");
            return Err(ReadError::NotKept(text));
        };
        Ok(Self {
            reader,
            pace,
            key,
            from,
            to,
            replaced: reader.replaced_since(serials[first], from, pace)?,
            reached: from,
            serials: serials.split_off(first).into_iter(),
            file: Default::default(),
            ready: Vec::new().into_iter(),
            failed: None,
        })
    }

    fn take(&mut self, frame: &Frame) -> Result<(), ReadError> {
        let end = frame.next().stamp.generation;
        if let Frame::Gap { after, .. } = frame {
            if *after >= end {
                self.replaced = self.replaced.saturating_sub(1);
                return Ok(());
            }
            return if self.replaced == 0 && end > self.from && *after < self.to {
                Err(not_kept(after.next().min(end), end))
            } else {
                Ok(())
            };
        }
        if self.replaced > 0 {
            return Ok(());
        }
        let mut ready = Vec::new();
        for (generation, kept) in frame.updates() {
            if generation <= self.reached || generation > self.to {
                continue;
            }
            if generation != self.reached.next() {
                return Err(not_kept(self.reached.next(), Generation(generation.0 - 1)));
            }
            self.reached = generation;
            match (&kept.effects, self.key) {
                (Effects::Rows(difference), None) => ready.push(difference.clone()),
                (Effects::Rows(difference), Some(key)) => ready.push(difference.clone().of_key(key)),
                (Effects::Counts(keys), Some(key)) if keys.iter().all(|change| change.key != *key) => {}
                (Effects::Counts(_), _) => {
                    let text = format!("generation {generation} changed more rows than are kept");
                    return Err(ReadError::NotKept(text));
                }
            }
        }
        self.ready = ready.into_iter();
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<Difference>, ReadError> {
        loop {
            self.pace.step()?;
            if let Some(next) = self.ready.next() {
                return Ok(Some(next));
            }
            if self.reached == self.to {
                return Ok(None);
            }
            let (bytes, places) = &mut self.file;
            if let Some(at) = places.next() {
                if let Some(frame) = segment::frame_at(bytes, at) {
                    self.take(&frame)?;
                }
                continue;
            }
            let Some(serial) = self.serials.next() else {
                return Ok(None);
            };
            if let Some(bytes) = unless_gone(segment::read(&self.reader.folder, serial))?
                && segment::begins(&bytes, self.reader.cluster).is_ok()
            {
                let places = segment::places(&bytes).0.into_iter();
                self.file = (bytes, places);
            }
        }
    }

    fn finish(self) -> Result<(), ReadError> {
        match self.failed {
            Some(failed) => Err(failed),
            None if self.reached < self.to => Err(not_kept(self.reached.next(), self.to)),
            None => Ok(()),
        }
    }
}

impl Iterator for Forward<'_> {
    type Item = Difference;

    fn next(&mut self) -> Option<Difference> {
        self.advance().unwrap_or_else(|failed| {
            self.failed = Some(failed);
            None
        })
    }
}
