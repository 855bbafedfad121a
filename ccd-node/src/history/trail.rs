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
            && let Found::Missed(after, footing) = self.locate_generation(place.seen)?
        {
            return Ok(Found::Missed(after, footing));
        }
        Ok(Found::Diverged(place.seen, self.end()?))
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
mod tests {
    use super::super::frame::tests::{position, round};
    use super::super::store::Store;
    use super::*;
    use ccd_core::ids::{Epoch, Lineage};

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn walk(trail: &Trail, mut footing: Footing, count: usize) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let mut left = count;
            let at_end = trail
                .follow(&mut footing, |step| {
                    told.push(match step {
                        Step::Round { updates, .. } => {
                            let numbers = updates.iter().map(|(generation, _)| generation.0.to_string());
                            numbers.collect::<Vec<_>>().join("+")
                        }
                        Step::Missed { after, up_to } => {
                            format!("missed {after}..{}", up_to.stamp.generation)
                        }
                        Step::Diverged { after, up_to } => {
                            format!("diverged {after}..{}", up_to.stamp.generation)
                        }
                    });
                    left -= 1;
                    if left == 0 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .unwrap();
            if at_end {
                return told;
            }
        }
    }

    /// What is told to whoever comes from there.
    fn told(trail: &Trail, from: &str, head: Position) -> String {
        let from: WatchFrom = from.parse().unwrap();
        let (first, footing) = match trail.locate(&from, head).unwrap() {
            Found::At(footing) => (None, footing),
            Found::Missed(after, footing) => (
                Some(format!("missed {after}..{}", footing.position.stamp.generation)),
                footing,
            ),
            Found::Diverged(after, footing) => (
                Some(format!("diverged {after}..{}", footing.position.stamp.generation)),
                footing,
            ),
            Found::NotReached { newest } => return format!("newest is {newest}"),
        };
        let whole = walk(trail, footing, usize::MAX);
        assert_eq!(walk(trail, footing, 1), whole, "one by one");
        let all: Vec<String> = first.into_iter().chain(whole).collect();
        all.join(" ")
    }

    fn place(seen: u64, round: Position) -> String {
        let seen = Generation(seen);
        WatchPlace { seen, round }.to_string()
    }

    fn with_epoch(epoch: u64, generation: u64) -> Position {
        let mut position = position(generation);
        position.stamp.epoch = Epoch(epoch);
        position
    }

    fn other(generation: u64) -> Position {
        let mut position = position(generation);
        position.lineage = Lineage([0xee; 32]);
        position
    }

    fn batch(first: u64, last: u64) -> Frame {
        let Frame::Round { updates, .. } = round(last, "K:batch") else {
            unreachable!("it is a round");
        };
        Frame::Round {
            next: position(last),
            updates: vec![updates[0].clone(); (last - first + 1) as usize],
        }
    }

    #[test]
    fn who_comes_back_goes_on_behind_what_it_saw() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let frames = vec![round(1, "K:1"), round(2, "K:2"), batch(3, 5), round(6, "K:6")];
        store.append(frames).unwrap();
        let trail = Trail::new(folder.path(), CLUSTER);
        let head = position(6);
        for (from, expected) in [
            ("0".to_owned(), "1 2 3+4+5 6"),
            ("1".to_owned(), "2 3+4+5 6"),
            ("3".to_owned(), "4+5 6"),
            ("6".to_owned(), ""),
            ("7".to_owned(), "newest is 6"),
            (place(0, position(0)), "1 2 3+4+5 6"),
            (place(2, position(2)), "3+4+5 6"),
            (place(4, position(5)), "5 6"),
            (place(5, position(5)), "6"),
            (place(6, position(6)), ""),
            // Another history than this one.
            (place(2, other(2)), "diverged 2..6"),
            (place(9, position(9)), "diverged 9..6"),
        ] {
            assert_eq!(told(&trail, &from, head), expected, "{from}");
        }
    }

    #[test]
    fn what_is_not_kept_is_told_as_missed() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let gap = |after, to| Frame::Gap {
            after: Generation(after),
            to: position(to),
        };
        let frames = vec![gap(0, 10), round(11, "K:11"), gap(11, 20), round(21, "K:21")];
        store.append(frames).unwrap();
        let trail = Trail::new(folder.path(), CLUSTER);
        for (from, expected) in [
            ("0".to_owned(), "missed 0..10 11 missed 11..20 21"),
            ("5".to_owned(), "missed 5..10 11 missed 11..20 21"),
            ("11".to_owned(), "missed 11..20 21"),
            ("15".to_owned(), "missed 15..20 21"),
            ("20".to_owned(), "21"),
            (place(11, position(11)), "missed 11..20 21"),
            // In a gap: nobody here knows whether it was on the way, and no override came in between.
            (place(20, position(20)), "21"),
        ] {
            assert_eq!(told(&trail, &from, position(21)), expected, "{from}");
        }
        let overruled = with_epoch(200_000, 21);
        assert_eq!(
            told(&trail, &place(15, position(15)), overruled),
            "diverged 15..21"
        );
    }

    #[test]
    fn a_branch_that_lost_is_told_to_who_was_on_it_and_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let lost = |generation| {
            let Frame::Round { updates, .. } = round(generation, "K:lost") else {
                unreachable!("it is a round");
            };
            let next = other(generation);
            Frame::Round { next, updates }
        };
        let replaced = Frame::Gap {
            after: Generation(3),
            to: with_epoch(100_000, 2),
        };
        let frames = vec![round(1, "K:1"), lost(2), lost(3), replaced, round(3, "K:3")];
        store.append(frames).unwrap();
        let trail = Trail::new(folder.path(), CLUSTER);
        for (from, expected) in [
            (place(2, other(2)), "3 diverged 3..2 3"),
            (place(3, other(3)), "diverged 3..2 3"),
            (place(2, position(2)), "3"),
            ("1".to_owned(), "missed 1..2 3"),
            ("2".to_owned(), "3"),
        ] {
            assert_eq!(told(&trail, &from, position(3)), expected, "{from}");
        }
        // A later one whose generations are higher: only the epochs tell.
        let to = with_epoch(300_000, 9);
        store
            .append(vec![Frame::Gap {
                after: Generation(3),
                to,
            }])
            .unwrap();
        assert_eq!(told(&trail, "3", to), "missed 3..9");
        assert_eq!(told(&trail, &place(3, position(3)), to), "diverged 3..9");
    }

    #[test]
    fn many_files_are_one_way_and_one_that_went_or_is_damaged_is_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let long = "x".repeat(900);
        for generation in 1..=400 {
            store
                .append(vec![round(generation, &format!("K:{long}"))])
                .unwrap();
        }
        drop(store);
        let trail = Trail::new(folder.path(), CLUSTER);
        let head = position(400);
        let numbers = |from: u64| {
            (from..=400)
                .map(|number| number.to_string())
                .collect::<Vec<_>>()
                .join(" ")
        };
        for from in [0, 1, 69, 70, 71, 200, 399] {
            assert_eq!(told(&trail, &from.to_string(), head), numbers(from + 1));
            assert_eq!(
                told(&trail, &place(from, position(from)), head),
                numbers(from + 1)
            );
        }
        let files = trail.files().unwrap();
        assert!(files.len() > 4, "{files:?}");
        let mut footing = match trail.locate(&WatchFrom::Generation(Generation(0)), head).unwrap() {
            Found::At(footing) => footing,
            other => panic!("{other:?}"),
        };
        trail.follow(&mut footing, |_| ControlFlow::Break(())).unwrap();
        // The budget takes two files from under it.
        for (serial, _) in &files[..2] {
            std::fs::remove_file(segment::history_path(folder.path(), *serial)).unwrap();
        }
        let kept = files[2].1.stamp.generation.0;
        let told = walk(&trail, footing, usize::MAX);
        assert_eq!(told[0], format!("missed 1..{kept}"));
        assert_eq!(told[1..].join(" "), numbers(kept + 1));
        // Damage costs the rest of its file.
        let path = segment::history_path(folder.path(), files[2].0);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let told = walk(&trail, footing, usize::MAX);
        let missed = told.iter().filter(|step| step.starts_with("missed")).count();
        assert_eq!(missed, 2, "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("400"));
    }
}
