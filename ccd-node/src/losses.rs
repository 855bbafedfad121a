//! Updates that this node acknowledged and that are lost: a file for each loss beside the branches says so, after a restart too, until an
//! operator removes it.
//!
//! The thread of the history writes the file before it goes on to what the cluster goes on from: the next start finds the one or the
//! other. What cannot be written at once is said from memory, and tried again.

use ccd_client::files::write_whole;
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::Loss;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How the names of the files end.
const EXTENSION: &str = "lost";

/// Most losses that are said at once, the newest ones.
const SAID_MAX: usize = 8;

/// A file is read no further.
const FILE_BYTES_MAX: u64 = 4096;

/// Between two attempts to write a file.
const RETRY: Duration = Duration::from_secs(5);

/// Losses of this run that were not looked for on the disk yet.
#[derive(Debug, Default)]
pub struct Losses {
    in_memory: Vec<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    problem: Problem,
    /// When its file was there.
    written: Arc<OnceLock<Instant>>,
}

impl Losses {
    /// Says this loss from now on. Returns what writes it into the folder: a file is durable when that returns, if it can be written.
    pub fn keep(&mut self, folder: &Path, loss: &Loss) -> impl FnOnce() + Send + use<> {
        let path = path_of(folder, loss);
        let written = Arc::<OnceLock<Instant>>::default();
        self.in_memory.push(Remembered {
            problem: problem(&path, &loss.text, &loss.next),
            written: Arc::clone(&written),
        });
        let content = format!("{}\n{}\n", loss.text, loss.next);
        move || {
            let Err(error) = write(&path, &content) else {
                // Nobody else sets it.
                let _ = written.set(Instant::now());
                return;
            };
            let shown = path.display();
            tracing::error!(path = %shown, %error, "a loss cannot be written; it is said until ccdd ends, and tried again");
            let spawned = thread::Builder::new().name("ccd-losses".into()).spawn(move || {
                while write(&path, &content).is_err() {
                    thread::sleep(RETRY);
                }
                let _ = written.set(Instant::now());
            });
            if let Err(error) = spawned {
                tracing::error!(%error, "a loss is said until ccdd ends, for there is no thread to write it");
            }
        }
    }

    /// Those that the last look at the files, begun at that time, came too early for. What it found is among `found`.
    pub fn problems(&mut self, looked: Option<Instant>, found: &[Problem]) -> Vec<Problem> {
        self.in_memory
            .retain(|loss| loss.written.get().is_none_or(|written| looked <= Some(*written)));
        let problems = self.in_memory.iter().map(|loss| &loss.problem);
        problems
            .filter(|problem| !found.contains(problem))
            .cloned()
            .collect()
    }
}

/// What the files in this folder say.
pub fn problems(folder: &Path) -> Vec<Problem> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| is_of_loss(&entry.path()))
        .map(|entry| {
            let written = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            (written, entry.path())
        })
        .collect();
    files.sort();
    let said = files.iter().rev().take(SAID_MAX);
    said.map(|(_, path)| read(path)).collect()
}

/// Whether this file says that updates are lost.
pub fn is_of_loss(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == EXTENSION)
}

/// A loss that is noted again, because a crash came before the history went on, has the same file.
fn path_of(folder: &Path, loss: &Loss) -> PathBuf {
    let (stamp, lineage) = (loss.told.stamp, loss.told.lineage);
    folder.join(format!(
        "{}-{}-{lineage:.12}.{EXTENSION}",
        stamp.epoch, stamp.generation
    ))
}

fn problem(path: &Path, text: &str, next: &str) -> Problem {
    let text = format!("{text}; remove {} when this has been seen", path.display());
    Problem::new(Cause::UpdatesLost, text).next(next)
}

fn read(path: &Path) -> Problem {
    let mut content = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut content));
    if let Err(error) = read {
        let text = format!("updates that this node acknowledged are lost; which, cannot be read: {error}");
        return problem(path, &text, "ccdadm why");
    }
    let mut lines = content.lines();
    let text = lines
        .next()
        .unwrap_or("updates that this node acknowledged are lost");
    problem(path, text, lines.next().unwrap_or("ccdadm why"))
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    write_whole(path, content.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{Epoch, Generation, Lineage, Position, Stamp};

    fn loss(generation: u64) -> Loss {
        Loss {
            told: Position {
                stamp: Stamp {
                    epoch: Epoch(2),
                    generation: Generation(generation),
                },
                lineage: Lineage([generation as u8; 32]),
            },
            text: format!("updates up to generation {generation} are lost"),
            next: "ccdadm history --rows".into(),
        }
    }

    #[test]
    fn a_loss_is_said_after_a_restart_too_until_its_file_is_removed() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("branches");
        assert_eq!(problems(&folder), []);
        let mut losses = Losses::default();
        let write_it = losses.keep(&folder, &loss(9));
        let began = Instant::now();
        let said = losses.problems(Some(began), &[]);
        assert_eq!(said.len(), 1, "before it is written");
        assert_eq!(problems(&folder), []);
        write_it();
        assert_eq!(
            (said[0].cause, &*said[0].next),
            (Cause::UpdatesLost, "ccdadm history --rows")
        );
        assert!(said[0].cause.degrades());
        let path = path_of(&folder, &loss(9));
        assert!(said[0].text.contains(&path.display().to_string()), "{said:?}");
        let until = Instant::now() + Duration::from_secs(60);
        let found = problems(&folder);
        assert_eq!(found, said, "the file says the same");
        assert_eq!(losses.problems(Some(began), &found), [], "it is said once");
        assert_eq!(
            losses.problems(Some(began), &[]),
            said,
            "that look came too early"
        );
        // It is noted again, and another one.
        write(&path, "again\n").unwrap();
        write(&path_of(&folder, &loss(12)), "\n").unwrap();
        assert_eq!(problems(&folder).len(), 2);
        fs::remove_file(path).unwrap();
        assert_eq!(problems(&folder).len(), 1);
        // Whoever removes the file before anybody has looked has seen it all the same.
        while !losses.problems(Some(Instant::now()), &[]).is_empty() {
            assert!(Instant::now() < until, "the next look counts");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(losses.problems(None, &[]), [], "it is forgotten");
    }

    #[test]
    fn a_loss_that_cannot_be_written_at_once_is_tried_again() {
        let above = tempfile::tempdir().unwrap();
        // A file stands where the folder is to be.
        let folder = above.path().join("branches");
        fs::write(&folder, "").unwrap();
        let mut losses = Losses::default();
        losses.keep(&folder, &loss(9))();
        assert_eq!(losses.problems(Some(Instant::now()), &[]).len(), 1);
        fs::remove_file(&folder).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while problems(&folder).is_empty() {
            assert!(Instant::now() < until, "it is written");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_still_says_that_updates_are_lost() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("2-9-abc.lost")).unwrap();
        fs::write(folder.path().join("2-9-abd.lost"), [0xff, 0xfe]).unwrap();
        fs::write(folder.path().join("2-9-abc.ccd"), "x").unwrap();
        let found = problems(folder.path());
        assert_eq!(found.len(), 2, "{found:?}");
        for problem in found {
            assert!(problem.text.contains("cannot be read"), "{problem:?}");
        }
    }
}
