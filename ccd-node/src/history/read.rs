//! Answers from a history's files, while another thread appends to them: what is read of the last file is what of it is whole.
//!
//! `history KEY` goes from the newest file to the oldest and reads only the frames that the index names: files without the key are
//! not read at all. A file that goes meanwhile, because the budget is used up, looks like one that went before. `between.rs` goes the
//! other way. Both take turns (`turns.rs`).

use super::frame::{Effects, Frame, Kept};
use super::index::{Indexes, Which, Window};
use super::segment::{self, HEAD_BYTES};
use super::turns::Pace;
use ccd_client::wire::{HistoryAsk, HistoryGap, HistoryItem, HistoryTold, HistoryUpdate};
use ccd_core::database::Key;
use ccd_core::ids::{ClusterId, Generation};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// An answer has so many bytes of rows at most, or one update.
const ANSWER_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub struct Reader {
    pub(super) folder: PathBuf,
    pub(super) cluster: ClusterId,
    indexes: Indexes,
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the history cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    NotKept(String),
    #[error("nobody waits for the answer any more")]
    Gone,
}

/// What a walk back through the history comes by.
enum Step {
    Frame(Frame),
    Gap(HistoryGap),
}

impl Reader {
    pub fn new(folder: &Path, cluster: ClusterId) -> Self {
        Self {
            folder: folder.to_owned(),
            cluster,
            indexes: Indexes::new(folder, cluster),
        }
    }

    /// The newest updates, oldest first.
    pub fn history(&self, ask: &HistoryAsk, pace: &Pace) -> Result<HistoryTold, ReadError> {
        let mut items = Vec::new();
        let mut more = false;
        let (mut count, mut bytes) = (0, 0);
        // Whatever has this generation or a later one was seen already, or was replaced by it.
        let asked = ask.before.unwrap_or(Generation(u64::MAX));
        let mut below = asked;
        let of_key = |known: &Key| Some(known) == ask.key.as_ref();
        let which = match &ask.key {
            Some(_) => Which::Keys(&of_key),
            None => Which::All,
        };
        self.walk(which, asked, pace, |_, step| {
            let frame = match step {
                Step::Frame(frame) => frame,
                Step::Gap(gap) => {
                    if gap.after > gap.up_to {
                        // What comes now is a branch that lost; it may have gone further than where the other one begins.
                        below = asked.min(gap.after.next());
                        items.push(HistoryItem::Gap(gap));
                    } else if gap.up_to < below {
                        below = gap.up_to.next();
                        items.push(HistoryItem::Gap(gap));
                    }
                    return ControlFlow::Continue(());
                }
            };
            for (generation, kept) in frame.updates().rev() {
                if generation >= below {
                    continue;
                }
                below = generation;
                let Some(update) = told(&frame, generation, kept, ask) else {
                    continue;
                };
                bytes += update.rows.as_ref().map_or(256, |rows| 256 + rows.encode().len());
                if count == ask.last || count > 0 && bytes > ANSWER_BYTES_MAX {
                    more = true;
                    return ControlFlow::Break(());
                }
                count += 1;
                items.push(HistoryItem::Update(Box::new(update)));
            }
            ControlFlow::Continue(())
        })?;
        items.reverse();
        let oldest = self.oldest()?;
        Ok(HistoryTold { items, oldest, more })
    }

    /// The first generation that is kept.
    pub(super) fn oldest(&self) -> Result<Generation, ReadError> {
        for serial in segment::serials(&self.folder)? {
            let head = segment::read_begins(&self.folder, serial, self.cluster);
            let Some(Ok(begins)) = unless_gone(head)? else {
                continue;
            };
            let Some(mut window) = Window::open(&self.folder, serial)? else {
                continue;
            };
            return Ok(match window.frame(HEAD_BYTES as u64)? {
                Some((gap @ Frame::Gap { .. }, _)) => gap.next().stamp.generation.next(),
                _ => begins.stamp.generation.next(),
            });
        }
        Ok(Generation(1))
    }

    /// Goes from the newest frame to the oldest: all of them, or these and gaps. Files that begin at `below` or later are passed
    /// over.
    fn walk(
        &self,
        which: Which<'_>,
        below: Generation,
        pace: &Pace,
        mut visit: impl FnMut(u64, Step) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        // Where the file after the one that is looked at begins.
        let mut upper: Option<Generation> = None;
        let mut has_successor = false;
        for serial in segment::serials(&self.folder)?.into_iter().rev() {
            let is_full = std::mem::replace(&mut has_successor, true);
            let head = segment::read_begins(&self.folder, serial, self.cluster);
            let Some(Ok(begins)) = unless_gone(head)? else {
                continue;
            };
            let begins = begins.stamp.generation;
            pace.step()?;
            if begins.next() >= below {
                upper = Some(begins);
                continue;
            }
            let Some(index) = self.indexes.of(serial, is_full)? else {
                continue;
            };
            let end = index.end.stamp.generation;
            let places = index.places(which, 0);
            if let Some(up_to) = upper.filter(|upper| *upper > end)
                && visit(serial, Step::Gap(HistoryGap { after: end, up_to })).is_break()
            {
                return Ok(());
            }
            upper = Some(begins);
            if places.is_empty() {
                continue;
            }
            let Some(mut window) = Window::open(&self.folder, serial)? else {
                continue;
            };
            for at in places.into_iter().rev() {
                pace.step()?;
                let frame = window.frame(u64::from(at))?.map(|(frame, _)| frame);
                let step = match frame {
                    Some(frame @ Frame::Gap { .. }) => Step::Gap(HistoryGap {
                        after: frame.before(),
                        up_to: frame.next().stamp.generation,
                    }),
                    Some(frame) => Step::Frame(frame),
                    // The index is whole and the file is not.
                    None => Step::Gap(HistoryGap {
                        after: begins,
                        up_to: end,
                    }),
                };
                if visit(serial, step).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How many times a branch that lost was replaced in the files from `first` on. An error if the way from a generation to
    /// the present leads over such a place.
    pub(super) fn replaced_since(&self, first: u64, from: Generation, pace: &Pace) -> Result<u32, ReadError> {
        let (mut count, mut crossed) = (0, None);
        self.walk(Which::Gaps, Generation(u64::MAX), pace, |serial, step| {
            if serial < first {
                return ControlFlow::Break(());
            }
            if let Step::Gap(HistoryGap { after, up_to }) = step
                && after >= up_to
            {
                count += 1;
                crossed = crossed.max(Some(up_to).filter(|up_to| *up_to > from));
            }
            ControlFlow::Continue(())
        })?;
        match crossed {
            Some(up_to) => Err(not_kept(from.next(), up_to)),
            None => Ok(count),
        }
    }
}

/// An update as it is told, if it is about the key.
fn told(frame: &Frame, generation: Generation, kept: &Kept, ask: &HistoryAsk) -> Option<HistoryUpdate> {
    let mut keys = kept.effects.keys();
    if let Some(key) = &ask.key {
        keys.retain(|change| change.key == *key);
        if keys.is_empty() {
            return None;
        }
    }
    let rows = match &kept.effects {
        Effects::Rows(difference) if ask.rows => Some(match &ask.key {
            Some(key) => difference.clone().of_key(key),
            None => difference.clone(),
        }),
        _ => None,
    };
    Some(HistoryUpdate {
        epoch: frame.next().stamp.epoch,
        generation,
        date: kept.date,
        who: kept.who.clone(),
        reason: kept.reason.clone(),
        request: kept.request,
        keys,
        rows,
    })
}

/// A file that is not there any more is no error.
pub(super) fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn not_kept(first: Generation, last: Generation) -> ReadError {
    let what = if first == last {
        format!("generation {first} is")
    } else {
        format!("generations {first} to {last} are")
    };
    ReadError::NotKept(format!(
        "{what} not kept on this node: it received a whole copy instead, or the file with them is damaged"
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::frame::tests::{position, round};
    use super::super::store::Store;
    use super::*;
    use ccd_client::wire::ChangesAsk;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    /// The generations of all updates that are kept.
    pub fn generations(reader: &Reader) -> Vec<u64> {
        let told = reader.history(&ask(None, u32::MAX), &Pace::free()).unwrap();
        let updates = told.items.iter().filter_map(|item| match item {
            HistoryItem::Update(update) => Some(update.generation.0),
            HistoryItem::Gap(_) => None,
        });
        updates.collect()
    }

    fn ask(key: Option<&str>, last: u32) -> HistoryAsk {
        HistoryAsk {
            key: key.map(|key| Key::new(key).unwrap()),
            last,
            before: None,
            rows: true,
        }
    }

    fn changes(reader: &Reader, from: u64, to: u64, head: u64) -> Result<String, String> {
        let ask = ChangesAsk {
            key: None,
            from: Generation(from),
            to: Generation(to),
        };
        let changes = reader.changes(&ask, position(head), &Pace::free());
        changes
            .map(|difference| difference.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_found_in_full_files_and_in_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let long = "x".repeat(500);
        for generation in 1..=700 {
            let key = if generation % 100 == 0 { "RARE" } else { "K" };
            store
                .append(vec![round(generation, &format!("{key}:{long}{generation}"))])
                .unwrap();
        }
        let reader = Reader::new(folder.path(), CLUSTER);
        let found = |last| {
            let told = reader.history(&ask(Some("RARE"), last), &Pace::free()).unwrap();
            let updates = told.items.iter().map(|item| match item {
                HistoryItem::Update(update) => update.generation.0,
                HistoryItem::Gap(gap) => panic!("{gap:?}"),
            });
            (updates.collect::<Vec<_>>(), told.more)
        };
        assert_eq!(found(3), (vec![500, 600, 700], true));
        assert_eq!(found(100), (vec![100, 200, 300, 400, 500, 600, 700], false));
        // Without indexes it takes longer.
        for serial in segment::serials(folder.path()).unwrap() {
            let _ = std::fs::remove_file(segment::index_path(folder.path(), serial));
        }
        let reader = Reader::new(folder.path(), CLUSTER);
        assert_eq!(found(100), (vec![100, 200, 300, 400, 500, 600, 700], false));
        assert!(changes(&reader, 698, 700, 700).unwrap().contains("+RARE:"));
        assert_eq!(changes(&reader, 1, 700, 700).unwrap().lines().count(), 699);
        assert!(changes(&reader, 700, 699, 700).unwrap().starts_with("-RARE:"));
        assert_eq!(changes(&reader, 5, 5, 700).unwrap(), "");
        assert!(
            changes(&reader, 5, 701, 700)
                .unwrap_err()
                .contains("not been reached")
        );
    }

    #[test]
    fn gaps_are_told_and_not_crossed() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let gap = Frame::Gap {
            after: Generation(2),
            to: position(10),
        };
        let frames = vec![
            round(1, "K:1"),
            round(2, "K:2"),
            gap,
            round(11, "K:11"),
            round(12, "K:12"),
        ];
        store.append(frames).unwrap();
        let reader = Reader::new(folder.path(), CLUSTER);
        assert_eq!(generations(&reader), [1, 2, 11, 12]);
        let told = reader.history(&ask(Some("K"), 3), &Pace::free()).unwrap();
        let gap = HistoryGap {
            after: Generation(2),
            up_to: Generation(10),
        };
        assert!(told.items.contains(&HistoryItem::Gap(gap)), "{told:?}");
        assert!(told.more);
        assert_eq!(changes(&reader, 10, 12, 12).unwrap(), "+K:11\n+K:12\n");
        assert_eq!(changes(&reader, 0, 2, 12).unwrap(), "+K:1\n+K:2\n");
        for (from, to) in [(2, 10), (9, 11), (1, 12), (2, 3)] {
            let error = changes(&reader, from, to, 12).unwrap_err();
            assert!(error.contains("generations 3 to 10 are not kept"), "{error}");
        }
    }

    #[test]
    fn a_branch_that_was_replaced_is_not_taken_for_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let gap = Frame::Gap {
            after: Generation(3),
            to: position(2),
        };
        let frames = vec![
            round(1, "K:1"),
            round(2, "K:lost"),
            round(3, "K:lost"),
            gap,
            round(3, "K:3"),
        ];
        store.append(frames).unwrap();
        let reader = Reader::new(folder.path(), CLUSTER);
        assert_eq!(generations(&reader), [1, 2, 3, 3], "what was lost, and what is");
        assert!(changes(&reader, 1, 3, 3).is_err());
        assert_eq!(changes(&reader, 2, 3, 3).unwrap(), "+K:3\n");
    }
}
