//! What is where in a file of the history: which frames changed a key, which of them its columns, and where the gaps are. So whoever reads
//! of some keys passes over everything else, whole files above all.
//!
//! ```text
//! 0000000007.index     8 "ccdhidx2", 8 checksum; a FileIndex (postcard)
//! ```
//!
//! The writer keeps the index of the file that it appends to, and writes it down when the file is full. Readers keep those that they
//! used in memory, up to a limit; what no index is there for they find out from the file itself, and write it down if the file is full:
//! a file is read whole once, and not again after each start.
//!
//! Always holds: an index that is missing, damaged or old costs time and nothing else. What is read by an index is what is read
//! without, of the keys that were asked for.

use super::frame::{Cut, FRAME_HEAD_BYTES, Frame};
use super::segment::{self, CHECKSUM_BYTES, HEAD_BYTES, SEGMENT_BYTES_MAX, checksum};
use ccd_core::database::{FormatEffect, Key};
use ccd_core::ids::{ClusterId, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MAGIC: &[u8; 8] = b"ccdhidx2";

/// All indexes that a reader keeps in memory take no more. Those of eight MiB of the shortest updates take half a MiB.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// Where frames are, by the place of their first byte in the file, ascending.
type Places = BTreeMap<Key, Vec<u32>>;

/// Which frames.
#[derive(Clone, Copy)]
pub enum Which<'a> {
    All,
    /// Those that changed one of these keys.
    Keys(&'a dyn Fn(&Key) -> bool),
    /// Those that changed the columns of one of these.
    Formats(&'a dyn Fn(&Key) -> bool),
    /// None but gaps, which belong to all.
    Gaps,
}

/// The index of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIndex {
    keys: Places,
    formats: Places,
    /// Frames whose updates changed nothing.
    idle: Vec<u32>,
    /// Gaps, and where what is before each leads.
    gaps: Vec<(u32, Position)>,
    /// Where the last whole frame leads, and where it ends.
    pub end: Position,
    pub end_bytes: u64,
    /// The head of the last frame, to know it again.
    last: Option<(u32, [u8; FRAME_HEAD_BYTES])>,
}

/// What an index has of a frame.
#[derive(Debug)]
pub struct Noted {
    next: Position,
    is_gap: bool,
    /// What it changed, and whether that was columns.
    keys: Vec<(Key, bool)>,
}

impl Noted {
    pub fn of(frame: &Frame) -> Self {
        let updates = frame.updates();
        let keys = updates.flat_map(|(_, kept)| kept.effects.keys());
        Self {
            next: frame.next(),
            is_gap: segment::is_gap(frame),
            keys: keys
                .map(|change| (change.key, change.format != FormatEffect::default()))
                .collect(),
        }
    }

    /// As it is written: what was too large may be a gap.
    pub fn once_written(mut self, bytes: &[u8]) -> Self {
        let body = bytes.get(FRAME_HEAD_BYTES..).unwrap_or_default();
        if let Some((_, true)) = Frame::peek(body) {
            self.is_gap = true;
            self.keys.clear();
        }
        self
    }
}

impl FileIndex {
    /// The index of a file without frames.
    pub fn empty(begins: Position) -> Self {
        Self {
            keys: Places::new(),
            formats: Places::new(),
            idle: Vec::new(),
            gaps: Vec::new(),
            end: begins,
            end_bytes: HEAD_BYTES as u64,
            last: None,
        }
    }

    /// Notes the frame that stands in these bytes, at the end of what is known. `false` if there is no whole one.
    pub fn note(&mut self, bytes: &[u8]) -> bool {
        let Cut::Whole(body) = Frame::cut(bytes) else {
            return false;
        };
        let whole = FRAME_HEAD_BYTES + body.len();
        match Frame::decode(body) {
            Some(frame) => self.add(Noted::of(&frame), &bytes[..whole]),
            // A decoder is not told of it, either.
            None => self.end_bytes += whole as u64,
        }
        true
    }

    /// Notes a frame with these bytes, at the end of what is known.
    pub fn add(&mut self, noted: Noted, bytes: &[u8]) {
        if let Ok(at) = u32::try_from(self.end_bytes) {
            if noted.is_gap {
                self.gaps.push((at, self.end));
            } else if noted.keys.is_empty() {
                self.idle.push(at);
            }
            for (key, has_format) in noted.keys {
                if has_format {
                    add(&mut self.formats, key.clone(), at);
                }
                add(&mut self.keys, key, at);
            }
            self.last = bytes.first_chunk().map(|head| (at, *head));
        }
        self.end = noted.next;
        self.end_bytes += bytes.len() as u64;
    }

    /// The places of these frames and of all gaps, from an offset on, ascending.
    pub fn places(&self, which: Which<'_>, from: u64) -> Vec<u32> {
        let behind = |places: &[u32]| -> usize { places.partition_point(|at| u64::from(*at) < from) };
        let of = |all: &Places, names: &dyn Fn(&Key) -> bool| -> Vec<u32> {
            let found = all.iter().filter(|(key, _)| names(key));
            found
                .flat_map(|(_, places)| places[behind(places)..].iter().copied())
                .collect()
        };
        let mut places = match which {
            Which::All => {
                let mut places = of(&self.keys, &|_| true);
                places.extend(&self.idle[behind(&self.idle)..]);
                places
            }
            Which::Keys(names) => of(&self.keys, names),
            Which::Formats(names) => of(&self.formats, names),
            Which::Gaps => Vec::new(),
        };
        let gaps = self.gaps.iter().map(|(at, _)| *at);
        places.extend(gaps.filter(|at| u64::from(*at) >= from));
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Whether every key that occurs in the file is one of these: then nothing is to be passed over.
    pub fn are_all(&self, which: Which<'_>) -> bool {
        match which {
            Which::All => true,
            Which::Keys(names) => self.keys.keys().all(names),
            Which::Formats(_) | Which::Gaps => false,
        }
    }

    pub fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Where what is before the gap at this place leads.
    pub fn before_gap(&self, at: u32) -> Option<Position> {
        let index = self.gaps.binary_search_by_key(&at, |(at, _)| *at).ok()?;
        Some(self.gaps[index].1)
    }

    /// As it is on disk.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Writing to memory does not fail, and the types hold nothing that postcard cannot write.
        let body = postcard::to_allocvec(self).expect("plain data encodes");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&checksum(&body));
        bytes.extend_from_slice(&body);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (sum, body) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
        if checksum(body) != *sum {
            return None;
        }
        postcard::from_bytes(body).ok()
    }

    fn read(folder: &Path, serial: u64) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(segment::index_path(folder, serial)).ok()?;
        file.take(SEGMENT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Self::from_bytes(&bytes)
    }

    /// Writes it beside the file. It is there whole or not at all, however many write it.
    fn write(&self, folder: &Path, serial: u64) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let path = segment::index_path(folder, serial);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unfinished = path.with_extension(format!("index.{number}"));
        let written = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(&self.to_bytes()))
            .and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            // What stays is removed at the next start.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Goes on where the file has grown, or anew where it is not what it was.
    fn follow(&mut self, file: &mut File, begins: Position) -> io::Result<()> {
        let is_same = match &self.last {
            None => true,
            Some((at, head)) => {
                let mut now = [0; FRAME_HEAD_BYTES];
                match file.read_exact_at(&mut now, u64::from(*at)) {
                    Ok(()) => now == *head && file.metadata()?.len() >= self.end_bytes,
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                    Err(error) => return Err(error),
                }
            }
        };
        if !is_same {
            *self = Self::empty(begins);
        }
        let start = self.end_bytes;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(SEGMENT_BYTES_MAX).read_to_end(&mut bytes)?;
        while self.note(&bytes[(self.end_bytes - start) as usize..]) {}
        Ok(())
    }

    /// About so many bytes in memory.
    fn size_bytes(&self) -> usize {
        let of = |places: &Places| -> usize {
            places
                .iter()
                .map(|(key, places)| 96 + key.as_str().len() + 4 * places.len())
                .sum()
        };
        256 + of(&self.keys)
            + of(&self.formats)
            + 4 * self.idle.len()
            + self.gaps.len() * size_of::<(u32, Position)>()
    }
}

fn add(all: &mut Places, key: Key, at: u32) {
    let places = all.entry(key).or_default();
    if places.last() != Some(&at) {
        places.push(at);
    }
}

/// Indexes that were used.
#[derive(Debug)]
pub struct Indexes {
    folder: PathBuf,
    cluster: ClusterId,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: BTreeMap<u64, KeptFile>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct KeptFile {
    index: Arc<FileIndex>,
    /// The file has a successor, so nothing is appended to it.
    is_full: bool,
    bytes: usize,
    used: u64,
}

impl Indexes {
    pub fn new(folder: &Path, cluster: ClusterId) -> Self {
        Self {
            folder: folder.to_owned(),
            cluster,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What is counted wrong costs time.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index of a file; `None` if it cannot be used or has gone. `has_successor`: there was a later file before this was called.
    pub fn of(&self, serial: u64, has_successor: bool) -> io::Result<Option<Arc<FileIndex>>> {
        let known = {
            let mut kept = self.kept();
            kept.uses += 1;
            let uses = kept.uses;
            kept.files.get_mut(&serial).map(|file| {
                file.used = uses;
                (file.index.clone(), file.is_full)
            })
        };
        if let Some((index, true)) = known {
            return Ok(Some(index));
        }
        let mut file = match File::open(segment::history_path(&self.folder, serial)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut head = Vec::with_capacity(HEAD_BYTES);
        (&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        let Ok(begins) = segment::begins(&head, self.cluster) else {
            return Ok(None);
        };
        let index = match known {
            Some((mut index, _)) => {
                let len = file.metadata()?.len();
                if len != index.end_bytes {
                    Arc::make_mut(&mut index).follow(&mut file, begins)?;
                }
                index
            }
            None => match FileIndex::read(&self.folder, serial).filter(|_| has_successor) {
                Some(index) => Arc::new(index),
                None => {
                    let mut index = FileIndex::empty(begins);
                    index.follow(&mut file, begins)?;
                    if has_successor && let Err(error) = index.write(&self.folder, serial) {
                        tracing::debug!(%error, serial, "the index of a file of the history is not written down");
                    }
                    Arc::new(index)
                }
            },
        };
        self.keep(serial, &index, has_successor);
        Ok(Some(index))
    }

    fn keep(&self, serial: u64, index: &Arc<FileIndex>, is_full: bool) {
        let bytes = index.size_bytes();
        let mut kept = self.kept();
        let used = kept.uses;
        let file = KeptFile {
            index: index.clone(),
            is_full,
            bytes,
            used,
        };
        kept.bytes += bytes;
        if let Some(old) = kept.files.insert(serial, file) {
            kept.bytes -= old.bytes;
        }
        while kept.bytes > CACHE_BYTES_MAX && kept.files.len() > 1 {
            let oldest = kept.files.iter().min_by_key(|(_, file)| file.used);
            let Some(serial) = oldest.map(|(serial, _)| *serial) else {
                return;
            };
            if let Some(old) = kept.files.remove(&serial) {
                kept.bytes -= old.bytes;
            }
        }
    }
}

/// Reads frames of one file by their places, some at a time where they stand close together.
#[derive(Debug)]
pub struct Window {
    file: File,
    start: u64,
    bytes: Vec<u8>,
    /// To be read next.
    length: usize,
}

const WINDOW_BYTES_MIN: usize = 4 << 10;
const WINDOW_BYTES_MAX: usize = 256 << 10;

impl Window {
    /// `None` if the file has gone.
    pub fn open(folder: &Path, serial: u64) -> io::Result<Option<Self>> {
        match File::open(segment::history_path(folder, serial)) {
            Ok(file) => Ok(Some(Self {
                file,
                start: 0,
                bytes: Vec::new(),
                length: WINDOW_BYTES_MIN,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The frame at a place, and its length in bytes; `None` if there is no whole one.
    pub fn frame(&mut self, at: u64) -> io::Result<Option<(Frame, u64)>> {
        let mut wanted = FRAME_HEAD_BYTES;
        loop {
            let here = at.checked_sub(self.start).and_then(|skip| {
                let bytes = self.bytes.get(usize::try_from(skip).ok()?..)?;
                (bytes.len() >= wanted).then_some(bytes)
            });
            let Some(bytes) = here else {
                if !self.load(at, wanted)? {
                    return Ok(None);
                }
                continue;
            };
            let length = [bytes[0], bytes[1], bytes[2], bytes[3]];
            let whole = FRAME_HEAD_BYTES + u32::from_le_bytes(length) as usize;
            if bytes.len() < whole {
                wanted = whole;
                continue;
            }
            return Ok(match Frame::cut(&bytes[..whole]) {
                Cut::Whole(body) => Frame::decode(body).map(|frame| (frame, whole as u64)),
                _ => None,
            });
        }
    }

    /// Reads on from a place, at least so many bytes; `false` if the file has not so many.
    fn load(&mut self, at: u64, wanted: usize) -> io::Result<bool> {
        let left = self.file.metadata()?.len().saturating_sub(at);
        if left < wanted as u64 {
            return Ok(false);
        }
        // Places side by side are read with fewer and fewer calls, places far apart with short ones.
        let end = self.start + self.bytes.len() as u64;
        let is_near = at >= self.start && at <= end + WINDOW_BYTES_MIN as u64 && !self.bytes.is_empty();
        self.length = if is_near {
            (self.length * 4).min(WINDOW_BYTES_MAX)
        } else {
            WINDOW_BYTES_MIN
        };
        let length = (self.length.max(wanted) as u64).min(left);
        self.bytes.clear();
        self.file.seek(SeekFrom::Start(at))?;
        (&mut self.file).take(length).read_to_end(&mut self.bytes)?;
        self.start = at;
        Ok(self.bytes.len() >= wanted)
    }
}

#[cfg(test)]
mod tests;
