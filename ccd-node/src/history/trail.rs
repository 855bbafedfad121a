//! The history as a watcher goes through it: from where it had come to, step by step, to the end. Called by `watch/past.rs`.
//!
//! What is on disk is one way: places (a position each) with steps between them: a round, or a gap. A gap stands in a frame, or
//! is what is missing between the end of one file and the beginning of the next. Somebody who says to have come to a place
//! goes on from where the way last led through it; what follows is exactly what was told to those who stayed.
//!
//! Always holds: a step is told whole or not at all; what is missing is a step of its own; nothing before the last gap at which
//! a branch was replaced is taken for what led to the present, unless the watcher proves by lineage that it was on it.

use super::frame::{Cut, FRAME_HEAD_BYTES, Frame, Kept};
use super::index::{FileIndex, Indexes, Which, Window};
use super::segment::{self, HEAD_BYTES};
use ccd_client::wire::{WatchFrom, WatchPlace};
use ccd_core::ids::{ClusterId, Generation, Position};
use ccd_core::protocol::rules::is_overruled;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Read at once.
const PIECE_BYTES: u64 = 256 << 10;

/// The files of a history.
#[derive(Clone, Debug)]
pub struct Trail {
    folder: PathBuf,
    cluster: ClusterId,
    indexes: Arc<Indexes>,
}

/// A place on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    serial: u64,
    /// Offset of the next frame in that file.
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

    /// Where the frame at this place leads, and whether it is a gap.
    fn peek(&self, at: usize) -> Option<(Position, bool)> {
        Frame::peek(self.bytes.get(at + FRAME_HEAD_BYTES..)?)
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
            indexes: Arc::new(Indexes::new(folder, cluster)),
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
        let mut has_successor = false;
        for serial in segment::serials(&self.folder)?.into_iter().rev() {
            if let Some(index) = self.indexes.of(serial, has_successor)? {
                return Ok(Footing {
                    serial,
                    offset: index.end_bytes,
                    position: index.end,
                    seen: index.end.stamp.generation,
                });
            }
            has_successor = true;
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

    /// Whether nothing that is kept says that the way leads past this place: it leads through a gap that reaches as far, or has not come
    /// so far on the disk. That may be written meanwhile: what leads nearer says nothing yet.
    fn is_unknown_between(&self, mut footing: Footing, place: Position) -> io::Result<bool> {
        let wanted = place.stamp.generation;
        if footing.position.stamp.generation >= wanted {
            // What was there is known, and is another.
            return Ok(false);
        }
        let mut is_unknown = true;
        self.follow(&mut footing, |step| {
            is_unknown = match step {
                Step::Round { next, .. } if next.stamp.generation < wanted => {
                    return ControlFlow::Continue(());
                }
                Step::Missed { up_to, .. } if up_to.stamp.generation < wanted => {
                    return ControlFlow::Continue(());
                }
                Step::Round { next, .. } => is_same(next, place),
                Step::Missed { .. } => true,
                Step::Diverged { .. } => false,
            };
            ControlFlow::Break(())
        })?;
        Ok(is_unknown)
    }

    /// Where the way last led through this place.
    fn find(&self, place: &WatchPlace) -> io::Result<Option<Footing>> {
        let round = place.round;
        // Those that begin later hold it only if a branch was replaced in them: they are looked at last.
        let files = self.files()?.into_iter().rev();
        let newest = files.clone().next().map(|(serial, _)| serial);
        let (first, last): (Vec<_>, Vec<_>) =
            files.partition(|(_, begins)| begins.stamp.generation <= round.stamp.generation);
        for (serial, begins) in first.into_iter().chain(last) {
            let Some(index) = self.indexes.of(serial, Some(serial) != newest)? else {
                continue;
            };
            let between = (begins.stamp.generation)..=index.end.stamp.generation;
            if !between.contains(&round.stamp.generation) && !index.has_gaps() {
                continue;
            }
            let Some(segment) = self.segment(serial)? else {
                continue;
            };
            for at in segment.places.iter().rev() {
                let Some((next, is_gap)) = segment.peek(*at) else {
                    continue;
                };
                if !is_same(next, round) {
                    continue;
                }
                // The rest of its round, if some of it was seen.
                let whole = place.seen >= round.stamp.generation || is_gap;
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
        let mut has_successor = false;
        for (serial, begins) in self.files()?.into_iter().rev() {
            let index = self
                .indexes
                .of(serial, std::mem::replace(&mut has_successor, true))?;
            let Some(index) = index else {
                continue;
            };
            let end = index.end;
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
            // One that begins later holds nothing to start from, but perhaps the place where a branch was replaced.
            let found = if begins.stamp.generation > seen {
                self.gap_before(serial, &index, seen)?
            } else {
                self.round_before(serial, seen)?
            };
            if let Some(found) = found {
                return Ok(found);
            }
            let first = Footing {
                serial,
                offset: HEAD_BYTES as u64,
                position: begins,
                seen,
            };
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

    /// The last gap of a file that a watcher which has seen up to this generation goes on behind.
    fn gap_before(&self, serial: u64, index: &FileIndex, seen: Generation) -> io::Result<Option<Found>> {
        let Some(mut window) = Window::open(&self.folder, serial)? else {
            return Ok(None);
        };
        for at in index.places(Which::Gaps, 0).into_iter().rev() {
            let Some((Frame::Gap { after, to }, bytes)) = window.frame(u64::from(at))? else {
                continue;
            };
            let behind = Footing {
                serial,
                offset: u64::from(at) + bytes,
                position: to,
                seen,
            };
            if to.stamp.generation <= seen {
                return Ok(Some(Found::At(behind)));
            }
            let from = index.before_gap(at).unwrap_or(to);
            if matches!(gap(after, from, to), Step::Diverged { .. }) {
                return Ok(Some(missed(seen, behind)));
            }
        }
        Ok(None)
    }

    /// The last frame of a file that leads no further than to this generation, unless a branch was replaced behind it.
    fn round_before(&self, serial: u64, seen: Generation) -> io::Result<Option<Found>> {
        let Some(segment) = self.segment(serial)? else {
            return Ok(None);
        };
        for at in segment.places.iter().rev() {
            let Some((next, is_gap)) = segment.peek(*at) else {
                continue;
            };
            let behind = segment.footing(segment.behind(*at), next, seen);
            if next.stamp.generation <= seen {
                return Ok(Some(Found::At(behind)));
            }
            if is_gap
                && let Some(Frame::Gap { after, to }) = segment::frame_at(&segment.bytes, *at)
                && matches!(gap(after, before(&segment, *at), to), Step::Diverged { .. })
            {
                return Ok(Some(missed(seen, behind)));
            }
        }
        Ok(None)
    }

    /// Goes on step by step until `take` has enough, or there is nothing more now. Tells whether it is at the end.
    pub fn follow(
        &self,
        footing: &mut Footing,
        take: impl FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        self.follow_some(footing, None, take)
    }

    /// As [`follow`](Self::follow), of these frames only, and gaps: what is between them is not read. `take` may be told of others.
    pub fn follow_which(
        &self,
        footing: &mut Footing,
        which: Which<'_>,
        take: impl FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        self.follow_some(footing, Some(which), take)
    }

    fn follow_some(
        &self,
        footing: &mut Footing,
        which: Option<Which<'_>>,
        mut take: impl FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<bool> {
        loop {
            // Looked up first: once a file has a successor, it is not appended to any more.
            let next = self.next_file(footing.serial)?;
            let went = match which {
                Some(which) => self.follow_places(footing, which, next.is_some(), &mut take)?,
                None => self.follow_file(footing, &mut take)?,
            };
            if went.is_break() {
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

    /// The next usable file with where it begins.
    fn next_file(&self, after: u64) -> io::Result<Option<(u64, Position)>> {
        let serials = segment::serials(&self.folder)?;
        for serial in serials.into_iter().filter(|serial| *serial > after) {
            match segment::read_begins(&self.folder, serial, self.cluster) {
                Ok(Ok(begins)) => return Ok(Some((serial, begins))),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// From one of these frames of a file to the next.
    fn follow_places(
        &self,
        footing: &mut Footing,
        which: Which<'_>,
        has_successor: bool,
        take: &mut impl FnMut(Step) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let Some(index) = self.indexes.of(footing.serial, has_successor)? else {
            return Ok(ControlFlow::Continue(()));
        };
        if index.are_all(which) {
            return self.follow_file(footing, take);
        }
        let places = index.places(which, footing.offset);
        if !places.is_empty() {
            let Some(mut window) = Window::open(&self.folder, footing.serial)? else {
                return Ok(ControlFlow::Continue(()));
            };
            for at in places {
                let Some((frame, bytes)) = window.frame(u64::from(at))? else {
                    // The file is not what it was: as far as it can be read, it is read whole.
                    return self.follow_file(footing, take);
                };
                if footing.offset < u64::from(at)
                    && let Some(before) = index.before_gap(at)
                {
                    footing.position = before;
                    footing.seen = footing.seen.max(before.stamp.generation);
                }
                footing.offset = u64::from(at) + bytes;
                if let Some(step) = advance(footing, frame)
                    && take(step).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        if footing.offset < index.end_bytes {
            footing.offset = index.end_bytes;
            footing.position = index.end;
            footing.seen = footing.seen.max(index.end.stamp.generation);
        }
        Ok(ControlFlow::Continue(()))
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
