//! Looks through the local copy, which nothing reads before the next start: what another program wrote into it is known while the
//! copies elsewhere are whole. Started by `surroundings.rs`, which takes what was found last.
//!
//! Always holds: it takes little of the disk that the journal is on. A thread of its own reads a block at a time, with pauses, and
//! after the daemon's other transfers.

use crate::file_id::{FileId, OpenFile};
use crate::priority::low_priority_thread;
use ccd_core::problem::{Cause, Problem};
use ccd_disk::RegionWatch;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// Between two looks at a superblock.
const INTERVAL: Duration = Duration::from_secs(5);

/// Blocks from one look at a superblock to the next: a copy of 64 MiB images is gone through in an hour or two.
const BLOCKS_A_LOOK: u32 = 64;

/// What was found last.
#[derive(Clone, Debug, Default)]
pub struct CopyWatch(Arc<Mutex<Option<Problem>>>);

impl CopyWatch {
    /// Starts to look through the file under this name, as long as it is the one that the daemon has open.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(path: PathBuf, open: OpenFile) -> io::Result<Self> {
        let watch = Self::default();
        let found = Arc::downgrade(&watch.0);
        thread::Builder::new()
            .name("ccd-copy".into())
            .spawn(move || look_again_and_again(&path, &open, &found))?;
        Ok(watch)
    }

    /// What another program has written into the local copy.
    pub fn problem(&self) -> Option<Problem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Ends when the daemon's loop has.
fn look_again_and_again(path: &Path, open: &OpenFile, found: &Weak<Mutex<Option<Problem>>>) {
    low_priority_thread();
    let mut walk = Walk::default();
    while let Some(shared) = found.upgrade() {
        let problem = walk.look(path, open);
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        drop(shared);
        for _ in 0..BLOCKS_A_LOOK {
            thread::sleep(INTERVAL / BLOCKS_A_LOOK);
            if found.strong_count() == 0 {
                return;
            }
            walk.look_at_block();
        }
    }
}

/// How far it has come.
#[derive(Debug, Default)]
struct Walk(Option<RegionWatch>);

impl Walk {
    fn look(&mut self, path: &Path, open: &OpenFile) -> Option<Problem> {
        let is_open = open.id().is_some_and(|id| FileId::of(path) == Some(id));
        if !is_open {
            self.0 = None;
            return None;
        }
        let looked = match self.0.take() {
            Some(mut watch) => watch.look().map(|damage| (watch, damage)),
            None => RegionWatch::open(path).map(|watch| (watch, None)),
        };
        let text = match looked {
            Ok((watch, damage)) => {
                self.0 = Some(watch);
                format!("the local copy {} is damaged: {}", path.display(), damage?)
            }
            Err(error) => format!("the local copy would not be one at the next start: {error}"),
        };
        let next = "with another node serving: stop ccdd, move the local copy aside, and start ccdd: it takes a whole copy from there";
        Some(Problem::new(Cause::LocalCopy, text).next(next))
    }

    fn look_at_block(&mut self) {
        if let Some(watch) = &mut self.0 {
            watch.look_at_block();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{ClusterId, NodeId, RegionId};
    use ccd_disk::{Access, MkfsOptions, RawDevice, create_in_file};
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_local_copy_is_looked_through_as_long_as_the_daemon_has_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.region");
        let options =
            MkfsOptions::local(ClusterId([7; 16]), RegionId([9; 16]), NodeId::new(0).unwrap()).tiny();
        let len_bytes = options.len_bytes().unwrap();
        create_in_file(&path, len_bytes, &options, &mut |_, _| {}).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let open = OpenFile::default();
        let device = RawDevice::open(&path, Access::ReadOnly).unwrap();
        open.note(&device);
        let mut walk = Walk::default();
        assert_eq!(walk.look(&path, &open), None);
        file.write_all_at(&[0x5A; 4096], 0).unwrap();
        let found = (0..6).find_map(|_| walk.look(&path, &open)).unwrap();
        assert!(
            found.text.contains("its first superblock is gone"),
            "{}",
            found.text
        );
        // Once it is closed, its holder says what is wrong.
        drop(device);
        assert_eq!(walk.look(&path, &open), None);
        assert!(walk.0.is_none());
    }

    #[test]
    fn what_is_no_local_copy_any_more_is_told_with_the_advice_for_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.region");
        std::fs::write(&path, vec![0; 64 << 10]).unwrap();
        let open = OpenFile::default();
        let device = RawDevice::open(&path, Access::ReadOnly).unwrap();
        open.note(&device);
        let found = Walk::default().look(&path, &open).unwrap();
        assert!(
            found.text.contains("CCD-2010") && !found.text.contains("mkfs"),
            "{}",
            found.text
        );
    }
}
