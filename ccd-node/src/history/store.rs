//! The folder of a history: files that are appended to, the oldest of which goes when the budget is used up.
//!
//! One thread writes (`writer.rs`). What a crash can leave: a last file that ends in the middle of a frame, or has not even a
//! whole head; an index that is missing or cut off; one more file than the budget allows. None of them is repaired: a new file
//! begins where the last whole frame ended, so nothing that was written is ever written over.

use super::frame::{Cut, Frame};
use super::index::{FileIndex, Noted};
use super::segment::{self, HEAD_BYTES, HeadFlaw, SEGMENT_BYTES_MAX};
use ccd_core::ids::{ClusterId, Position};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Into so many files the budget is cut.
const SEGMENTS: u64 = 16;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SEGMENT_BYTES_USUAL_MAX: u64 = 8 << 20;
/// More files than that are never kept, however small they are.
const FILES_MAX: usize = 4096;

#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    cluster: ClusterId,
    budget_bytes: u64,
    /// The largest frame that is kept with its rows, if that is more than a quarter of the budget.
    large_bytes: u64,
    /// Where the last whole frame leads.
    head: Position,
    serial_last: u64,
    /// The file that is written; none until there is something to write.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    serial: u64,
    file: File,
    len_bytes: u64,
    index: FileIndex,
    synced: bool,
}

impl Store {
    /// Finds out where the history ends.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path, cluster: ClusterId, budget_bytes: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut store = Self {
            folder: folder.to_owned(),
            cluster,
            budget_bytes,
            large_bytes: 0,
            head: Position::EMPTY,
            serial_last: 0,
            open: None,
        };
        if let Err(error) = segment::remove_useless_indexes(folder) {
            tracing::warn!(%error, path = %folder.display(), "an index without its file stays in the history");
        }
        let mut serials = segment::serials(folder)?;
        store.serial_last = serials.last().copied().unwrap_or(0);
        while let Some(serial) = serials.pop() {
            if store.take_up(serial)? {
                break;
            }
        }
        Ok(store)
    }

    /// Updates that replace a database of so many bytes are kept with their rows, whatever the budget.
    pub fn keep_replaced(&mut self, image_bytes_max: u64) {
        // What goes, what comes, and who asked for it.
        let around = image_bytes_max.min(1 << 20);
        self.large_bytes = image_bytes_max.saturating_mul(2).saturating_add(around);
    }

    /// Whether the history ends in this file. It is written to again if it ends cleanly.
    fn take_up(&mut self, serial: u64) -> io::Result<bool> {
        let path = segment::history_path(&self.folder, serial);
        let bytes = segment::read(&self.folder, serial)?;
        self.head = match segment::begins(&bytes, self.cluster) {
            Ok(begins) => begins,
            Err(HeadFlaw::Foreign) => {
                tracing::warn!(path = %path.display(), "a history of another cluster was set aside");
                fs::rename(&path, path.with_extension("foreign"))?;
                return Ok(false);
            }
            // Cut off before it had a frame, or damaged: the one before it says where the history ends.
            Err(HeadFlaw::Damaged) => {
                if bytes.len() > HEAD_BYTES {
                    tracing::warn!(path = %path.display(), "the head of a file of the history is damaged; it is passed over");
                }
                return Ok(false);
            }
        };
        let mut index = FileIndex::empty(self.head);
        while index.note(&bytes[index.end_bytes as usize..]) {}
        self.head = index.end;
        match Frame::cut(&bytes[index.end_bytes as usize..]) {
            Cut::End => {
                let file = OpenOptions::new().append(true).open(&path)?;
                self.open = Some(Open {
                    serial,
                    file,
                    len_bytes: bytes.len() as u64,
                    index,
                    synced: true,
                });
            }
            Cut::Damaged => tracing::warn!(
                path = %path.display(),
                "the history is damaged after generation {}; what follows in this file is passed over",
                self.head.stamp.generation
            ),
            Cut::Torn | Cut::Whole(_) => {}
        }
        Ok(true)
    }

    /// Up to where the history reaches.
    pub fn head(&self) -> Position {
        self.head
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes frames that follow each other. After an error those count that [`Store::head`] says.
    ///
    /// # Errors
    /// When a file cannot be written. It then ends where it ended before; if not even that can be done, the next call begins a new
    /// one.
    pub fn append(&mut self, frames: Vec<Frame>) -> io::Result<()> {
        let segment_bytes = (self.budget_bytes / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_USUAL_MAX);
        let frame_bytes_max = (self.budget_bytes / 4)
            .max(self.large_bytes)
            .min(SEGMENT_BYTES_MAX - SEGMENT_BYTES_USUAL_MAX) as usize;
        let mut frames = frames.into_iter().peekable();
        while frames.peek().is_some() {
            if self
                .open
                .as_ref()
                .is_some_and(|open| open.len_bytes >= segment_bytes)
            {
                self.seal()?;
            }
            let folder = self.folder.clone();
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.begin()?,
            };
            let mut bytes = Vec::new();
            // Noted once they are written.
            let mut noted: Vec<(Noted, usize)> = Vec::new();
            let mut head = self.head;
            while open.len_bytes + (bytes.len() as u64) < segment_bytes
                && let Some(frame) = frames.next()
            {
                head = frame.next();
                let of = Noted::of(&frame);
                let encoded = frame.encode(frame_bytes_max);
                noted.push((of.once_written(&encoded), encoded.len()));
                bytes.extend(encoded);
            }
            if let Err(error) = open.file.write_all(&bytes) {
                let error = named(&folder, open.serial, &error);
                // Frames that are there whole, and do not count, would be told beside those that come in their place.
                if open.file.set_len(open.len_bytes).is_ok() {
                    self.open = Some(open);
                }
                return Err(error);
            }
            open.len_bytes += bytes.len() as u64;
            open.synced = false;
            let mut rest = bytes.as_slice();
            for (noted, len) in noted {
                open.index.add(noted, &rest[..len]);
                rest = &rest[len..];
            }
            self.head = head;
            self.open = Some(open);
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<Open> {
        self.make_room()?;
        let serial = self.serial_last + 1;
        let path = segment::history_path(&self.folder, serial);
        let mut file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| named(&self.folder, serial, &error))?;
        if let Err(error) = file.write_all(&segment::head(self.cluster, self.head)) {
            // One that stays is passed over, but on a full disk there would be one more with each attempt.
            if fs::remove_file(&path).is_err() {
                self.serial_last = serial;
            }
            return Err(named(&self.folder, serial, &error));
        }
        self.serial_last = serial;
        Ok(Open {
            serial,
            file,
            len_bytes: HEAD_BYTES as u64,
            index: FileIndex::empty(self.head),
            synced: false,
        })
    }

    /// The file is full: its index is written beside it.
    fn seal(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        open.file.sync_data()?;
        let path = segment::index_path(&self.folder, open.serial);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&open.index.to_bytes())
    }

    /// Removes the oldest files until another one fits into the budget.
    fn make_room(&self) -> io::Result<()> {
        let serials = segment::serials(&self.folder)?;
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let mut sizes = Vec::with_capacity(serials.len());
        for serial in serials {
            let bytes = size(segment::history_path(&self.folder, serial))
                + size(segment::index_path(&self.folder, serial));
            // What one large update takes more goes beside the budget: two of them at most.
            sizes.push((serial, bytes.min(self.budget_bytes / 2)));
        }
        let segment_bytes = (self.budget_bytes / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_USUAL_MAX);
        let mut total = sizes.iter().map(|(_, bytes)| bytes).sum::<u64>() + segment_bytes;
        let mut left = sizes.len();
        for (serial, bytes) in sizes {
            if total <= self.budget_bytes && left < FILES_MAX {
                break;
            }
            // The index first: one without its file would stay for ever.
            for path in [
                segment::index_path(&self.folder, serial),
                segment::history_path(&self.folder, serial),
            ] {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            total -= bytes;
            left -= 1;
        }
        Ok(())
    }

    /// What was appended outlives a power cut.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&mut self) -> io::Result<()> {
        match &mut self.open {
            Some(open) if !open.synced => {
                open.synced = true;
                open.file.sync_data()
            }
            _ => Ok(()),
        }
    }

    pub fn is_synced(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.synced)
    }
}

fn named(folder: &Path, serial: u64, error: &io::Error) -> io::Error {
    let path = segment::history_path(folder, serial);
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::frame::tests::{position, round};
    use super::super::read::{Reader, tests::generations};
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);
    const BUDGET: u64 = 1 << 20;

    fn open(folder: &Path) -> Store {
        Store::open(folder, CLUSTER, BUDGET).unwrap()
    }

    #[test]
    fn every_prefix_of_what_wonce_written_is_a_history() {
        let made = tempfile::tempdir().unwrap();
        let mut store = open(made.path());
        for generation in 1..=5 {
            store
                .append(vec![round(generation, &format!("K:{generation}"))])
                .unwrap();
        }
        drop(store);
        let bytes = fs::read(segment::history_path(made.path(), 1)).unwrap();
        let (places, _) = segment::places(&bytes);
        for len in 0..=bytes.len() {
            let cut = tempfile::tempdir().unwrap();
            fs::write(segment::history_path(cut.path(), 1), &bytes[..len]).unwrap();
            // Nothing comes after the frame that was cut.
            let whole = places
                .iter()
                .skip(1)
                .chain([&bytes.len()])
                .filter(|end| **end <= len)
                .count() as u64;
            let mut store = open(cut.path());
            assert_eq!(store.head().stamp.generation.0, whole, "{len} bytes");
            store.append(vec![round(whole + 1, "K:again")]).unwrap();
            drop(store);
            let store = open(cut.path());
            assert_eq!(store.head(), position(whole + 1), "{len} bytes");
            let reader = Reader::new(cut.path(), CLUSTER);
            assert_eq!(
                generations(&reader),
                (1..=whole + 1).collect::<Vec<_>>(),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn damage_costs_the_rest_of_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let long = "x".repeat(900);
        for generation in 1..=200 {
            store
                .append(vec![round(generation, &format!("K:{long}"))])
                .unwrap();
        }
        drop(store);
        let path = segment::history_path(folder.path(), 2);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let found = generations(&Reader::new(folder.path(), CLUSTER));
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
        assert!((150..200).contains(&found.len()), "{}", found.len());
        assert_eq!(open(folder.path()).head(), position(200));
    }

    #[test]
    fn the_oldest_goes_when_the_budget_is_used_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path());
        let long = "x".repeat(900);
        for generation in 1..=3000 {
            store
                .append(vec![round(generation, &format!("K:{long}"))])
                .unwrap();
        }
        let total: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= BUDGET + (8 << 10), "{total}");
        let found = generations(&Reader::new(folder.path(), CLUSTER));
        assert_eq!(found.last(), Some(&3000));
        assert!(found.len() > 700, "{}", found.len());
        assert!(found.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }

    #[test]
    fn a_history_of_another_cluster_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).append(vec![round(1, "K:1")]).unwrap();
        let mut store = Store::open(folder.path(), ClusterId([8; 16]), BUDGET).unwrap();
        assert_eq!(store.head(), Position::EMPTY);
        store.append(vec![round(1, "K:2")]).unwrap();
        assert_eq!(generations(&Reader::new(folder.path(), ClusterId([8; 16]))), [1]);
    }
}
