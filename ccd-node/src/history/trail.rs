//! The history as a watcher goes through it: from where it had come to, step by step, to the end. Called by `watch/past.rs`.
//!
//! What is on disk is one way: places (a position each) with steps between them: a round, or a gap. A gap stands in a frame, or
//! is what is missing between the end of one file and the beginning of the next. Somebody who says to have come to a place
//! goes on from where the way last led through it; what follows is exactly what was told to those who stayed.
//!
//! Always holds: a step is told whole or not at all; what is missing is a step of its own; nothing before the last gap at which
//! a branch was replaced is taken for what led to the present, unless the watcher proves by lineage that it was on it.

use super::frame::{Cut, FRAME_HEAD_BYTES, Frame, Kept};
use super::segment::{self, HEAD_BYTES};
use ccd_client::wire::{WatchFrom, WatchPlace};
use ccd_core::database::Key;
use ccd_core::ids::{ClusterId, Generation, Position};
use ccd_core::protocol::rules::is_overruled;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Read at once.
const PIECE_BYTES: u64 = 256 << 10;

/// The files of a history.
#[derive(Clone, Debug)]
pub struct Trail {
    folder: PathBuf,
    cluster: ClusterId,
}

/// A place on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    serial: u64,
    /// Of the next frame in that file.
    offset: u64,
    /// Where the frames before lead.
    pub position: Position,
    /// Updates up to here were told already.
    pub seen: Generation,
}

/// Where to go on, and what is to be told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    At(Footing),
    /// What came after this generation, up to the footing, is not kept.
    Missed(Generation, Footing),
    /// What the watcher saw up to this generation did not lead here.
    Diverged(Generation, Footing),
    /// There is no such generation yet.
    NotReached {
        newest: Generation,
    },
}

/// One step of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Round {
        next: Position,
        updates: Vec<(Generation, Kept)>,
    },
    Missed {
        after: Generation,
        up_to: Position,
    },
    Diverged {
        after: Generation,
        up_to: Position,
    },
}

/// Equal content: a configuration that opens changes the epoch alone.
pub fn is_same(one: Position, other: Position) -> bool {
    one.lineage == other.lineage && one.stamp.generation == other.stamp.generation
}

/// What a watcher is told of a gap. Only an operator's override loses a branch.
pub fn gap(after: Generation, from: Position, up_to: Position) -> Step {
    if up_to.stamp.generation <= after || is_overruled(from.stamp.epoch, up_to.stamp.epoch) {
        Step::Diverged { after, up_to }
    } else {
        Step::Missed { after, up_to }
    }
}

/// A file, read whole.
struct Segment {
    serial: u64,
    begins: Position,
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Segment {
    /// Behind the frame at this place.
    fn behind(&self, at: usize) -> u64 {
        match Frame::cut(&self.bytes[at..]) {
            Cut::Whole(body) => (at + FRAME_HEAD_BYTES + body.len()) as u64,
            _ => at as u64,
        }
    }

    fn footing(&self, offset: u64, position: Position, seen: Generation) -> Footing {
        Footing {
            serial: self.serial,
            offset,
            position,
            seen,
        }
    }
}

impl Trail {
    pub fn new(folder: &Path, cluster: ClusterId) -> Self {
        Self {
            folder: folder.to_owned(),
            cluster,
        }
    }

    fn segment(&self, serial: u64) -> io::Result<Option<Segment>> {
        let bytes = match segment::read(&self.folder, serial) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(begins) = segment::begins(&bytes, self.cluster) else {
            return Ok(None);
        };
        let places = segment::places(&bytes).0;
        Ok(Some(Segment {
            serial,
            begins,
            bytes,
            places,
        }))
    }

    /// The usable files with where they begin, oldest first.
    fn files(&self) -> io::Result<Vec<(u64, Position)>> {
        let mut files = Vec::new();
        for serial in segment::serials(&self.folder)? {
            match segment::read_begins(&self.folder, serial, self.cluster) {
                Ok(Ok(begins)) => files.push((serial, begins)),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(files)
    }

    /// The end of the way: what comes from now on.
    pub fn end(&self) -> io::Result<Footing> {
        for (serial, begins) in self.files()?.into_iter().rev() {
            let Some(segment) = self.segment(serial)? else {
                continue;
            };
            let last = segment.places.last().copied();
            let frame = last.and_then(|at| segment::frame_at(&segment.bytes, at));
            let position = frame.map_or(begins, |frame| frame.next());
            let offset = last.map_or(HEAD_BYTES as u64, |at| segment.behind(at));
            return Ok(segment.footing(offset, position, position.stamp.generation));
        }
        Ok(Footing {
            serial: 0,
            offset: 0,
            position: Position::EMPTY,
            seen: Generation(0),
        })
    }

    /// Where to go on; `head` is where the node is.
    pub fn locate(&self, from: &WatchFrom, head: Position) -> io::Result<Found> {
        match from {
            WatchFrom::Now | WatchFrom::Rows => Ok(Found::At(self.end()?)),
            WatchFrom::Generation(generation) if *generation > head.stamp.generation => {
                Ok(Found::NotReached {
                    newest: head.stamp.generation,
                })
            }
            WatchFrom::Generation(generation) => self.locate_generation(*generation),
            WatchFrom::Place(place) => self.locate_place(place, head),
        }
    }

    fn locate_place(&self, place: &WatchPlace, head: Position) -> io::Result<Found> {
        let round = place.round;
        if let Some(footing) = self.find(place)? {
            return Ok(Found::At(footing));
        }
        // It is not on the way, but may have been before what is kept, or in a gap.
        if round.stamp.generation <= head.stamp.generation
            && !is_overruled(round.stamp.epoch, head.stamp.epoch)
        {
            match self.locate_generation(place.seen)? {
                Found::Missed(after, footing) => return Ok(Found::Missed(after, footing)),
                Found::At(footing) if self.is_unknown_between(footing, round)? => {
                    let seen = place.seen;
                    return Ok(Found::At(Footing { seen, ..footing }));
                }
                _ => {}
            }
        }
        Ok(Found::Diverged(place.seen, self.end()?))
    }

    /// Whether nothing is kept of the way from the footing to this place: it leads through a gap that reaches as far, or has not come
    /// so far on the disk.
    fn is_unknown_between(&self, mut footing: Footing, place: Position) -> io::Result<bool> {
        let from = footing.position.stamp.generation;
        let mut next = None;
        self.follow(&mut footing, |step| {
            next = Some(step);
            ControlFlow::Break(())
        })?;
        Ok(match next {
            // What was there is known, and is another.
            _ if from >= place.stamp.generation => false,
            None => true,
            Some(Step::Missed { up_to, .. }) => up_to.stamp.generation >= place.stamp.generation,
            Some(_) => false,
        })
    }

    /// Where the way last led through this place.
    fn find(&self, place: &WatchPlace) -> io::Result<Option<Footing>> {
        let round = place.round;
        // Those that begin later hold it only if a branch was replaced in them: they are looked at last.
        let files = self.files()?.into_iter().rev();
        let (first, last): (Vec<_>, Vec<_>) =
            files.partition(|(_, begins)| begins.stamp.generation <= round.stamp.generation);
        for (serial, begins) in first.into_iter().chain(last) {
            let Some(segment) = self.segment(serial)? else {
                continue;
            };
            for at in segment.places.iter().rev() {
                let Some(frame) = segment::frame_at(&segment.bytes, *at) else {
                    continue;
                };
                if !is_same(frame.next(), round) {
                    continue;
                }
                // The rest of its round, if some of it was seen.
                let whole = place.seen >= round.stamp.generation || segment::is_gap(&frame);
                let offset = if whole { segment.behind(*at) } else { *at as u64 };
                return Ok(Some(segment.footing(offset, round, place.seen)));
            }
            if is_same(begins, round) {
                return Ok(Some(segment.footing(HEAD_BYTES as u64, begins, place.seen)));
            }
        }
        Ok(None)
    }

    fn locate_generation(&self, seen: Generation) -> io::Result<Found> {
        // Where what was looked at begins.
        let mut later: Option<Footing> = None;
        for (serial, begins) in self.files()?.into_iter().rev() {
            let Some(segment) = self.segment(serial)? else {
                continue;
            };
            // Those that begin later hold nothing to start from, but perhaps the place where a branch was replaced.
            let indexed = (begins.stamp.generation > seen)
                .then(|| Key::new("ANY").ok())
                .flatten()
                .and_then(|any| segment::read_index(&self.folder, serial, &any));
            let places = indexed.map_or_else(|| segment.places.clone(), |(places, _)| places);
            let end = segment.places.last();
            let end = end.and_then(|at| segment::frame_at(&segment.bytes, *at));
            let end = end.map_or(begins, |frame| frame.next());
            if let Some(later) = later
                && !is_same(end, later.position)
                && matches!(
                    gap(end.stamp.generation, end, later.position),
                    Step::Diverged { .. }
                )
                && later.position.stamp.generation > seen
            {
                return Ok(missed(seen, later));
            }
            for at in places.iter().rev() {
                let Some(frame) = segment::frame_at(&segment.bytes, *at) else {
                    continue;
                };
                let next = frame.next();
                let behind = segment.footing(segment.behind(*at), next, seen);
                if next.stamp.generation <= seen {
                    return Ok(Found::At(behind));
                }
                if let Frame::Gap { after, to } = frame
                    && matches!(gap(after, before(&segment, *at), to), Step::Diverged { .. })
                {
                    return Ok(missed(seen, behind));
                }
            }
            let first = segment.footing(HEAD_BYTES as u64, begins, seen);
            if begins.stamp.generation <= seen {
                return Ok(Found::At(first));
            }
            later = Some(first);
        }
        match later {
            Some(later) => Ok(missed(seen, later)),
            None => Ok(Found::At(self.end()?)),
        }
    }

    /// Goes on step by step until `take` has enough, or there is nothing more now. Tells whether it is at the end.
    pub fn follow(
        &self,
        footing: &mut Footing,
        mut take: impl FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        loop {
            // Looked up first: once a file has a successor, it is not appended to any more.
            let next = self
                .files()?
                .into_iter()
                .find(|(serial, _)| *serial > footing.serial);
            if self.follow_file(footing, &mut take)?.is_break() {
                return Ok(false);
            }
            let Some((serial, begins)) = next else {
                return Ok(true);
            };
            let left = footing.position;
            footing.serial = serial;
            footing.offset = HEAD_BYTES as u64;
            footing.position = begins;
            if !is_same(left, begins) {
                let after = footing.seen;
                footing.seen = begins.stamp.generation;
                if take(gap(after, left, begins)).is_break() {
                    return Ok(false);
                }
            }
        }
    }

    fn follow_file(
        &self,
        footing: &mut Footing,
        take: &mut impl FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let mut length = PIECE_BYTES;
        loop {
            let (bytes, more) = match self.piece(footing, length) {
                Ok(read) => read,
                // The budget was used up: what it held is missing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(ControlFlow::Continue(()));
                }
                Err(error) => return Err(error),
            };
            let mut at = 0;
            while let Cut::Whole(body) = Frame::cut(&bytes[at..]) {
                let frame = Frame::decode(body);
                let behind = FRAME_HEAD_BYTES + body.len();
                at += behind;
                footing.offset += behind as u64;
                if let Some(step) = frame.and_then(|frame| advance(footing, frame))
                    && take(step).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if !more {
                return Ok(ControlFlow::Continue(()));
            }
            // A frame that is larger than the piece; or damage, and then the piece comes to hold the rest of the file.
            length = if at > 0 {
                PIECE_BYTES
            } else {
                length.saturating_mul(4)
            };
        }
    }

    /// Bytes from the footing on, and whether the file has more.
    fn piece(&self, footing: &Footing, length: u64) -> io::Result<(Vec<u8>, bool)> {
        let mut file = File::open(segment::history_path(&self.folder, footing.serial))?;
        file.seek(SeekFrom::Start(footing.offset))?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes)?;
        let more = bytes.len() as u64 == length && length < segment::SEGMENT_BYTES_MAX;
        Ok((bytes, more))
    }
}

/// Nothing is known of what came after this generation up to the footing.
fn missed(after: Generation, footing: Footing) -> Found {
    let seen = footing.position.stamp.generation;
    Found::Missed(after, Footing { seen, ..footing })
}

/// What was told in these frames, to whoever stands at `from`.
pub(super) fn steps(from: Position, frames: &[Frame]) -> Vec<Step> {
    let mut footing = Footing {
        serial: 0,
        offset: 0,
        position: from,
        seen: from.stamp.generation,
    };
    let steps = frames
        .iter()
        .filter_map(|frame| advance(&mut footing, frame.clone()));
    steps.collect()
}

/// Where the frame before the one at this place leads.
fn before(segment: &Segment, at: usize) -> Position {
    let index = segment.places.iter().position(|place| *place == at);
    let before = index.and_then(|index| segment.places.get(index.checked_sub(1)?));
    let frame = before.and_then(|at| segment::frame_at(&segment.bytes, *at));
    frame.map_or(segment.begins, |frame| frame.next())
}

/// What a frame is to whoever stands before it; nothing if all of it was seen.
fn advance(footing: &mut Footing, frame: Frame) -> Option<Step> {
    let from = footing.position;
    let after = footing.seen;
    let next = frame.next();
    footing.position = next;
    match frame {
        Frame::Gap { .. } => {
            if is_same(from, next) {
                return None;
            }
            footing.seen = next.stamp.generation;
            Some(gap(after, from, next))
        }
        Frame::Round { .. } => {
            let before = frame.before();
            footing.seen = after.max(next.stamp.generation);
            let Frame::Round { updates, .. } = frame else {
                return None;
            };
            let numbered = (before.0 + 1..).map(Generation).zip(updates);
            let updates: Vec<_> = numbered.filter(|(generation, _)| *generation > after).collect();
            (!updates.is_empty()).then_some(Step::Round { next, updates })
        }
    }
}

#[cfg(test)]
mod tests;
