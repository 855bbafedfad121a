//! Decision records: what was seen, which rule was applied, what followed. For `ccdadm why`.
//!
//! One line of JSON each in the state folder, written by a thread of its own so that the event loop never waits for the
//! disk. When the file has grown it becomes `….1` and a new one begins; so at most two files are kept.

use ccd_client::wire::DatedDecision;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// A file that is longer is set aside.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Decisions in memory, which `why` answers from.
const REMEMBERED_MAX: usize = 512;
/// Lines on their way to the disk. Full means that the disk hangs; then lines are dropped, and counted in the log.
const QUEUE_MAX: usize = 1024;

/// The decisions of this node.
#[derive(Debug)]
pub struct Decisions {
    remembered: VecDeque<DatedDecision>,
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
}

impl Decisions {
    /// Reads the last decisions and gets ready to write more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut remembered = VecDeque::new();
        for path in [&set_aside(path), path] {
            remembered.extend(read(path)?);
        }
        let surplus = remembered.len().saturating_sub(REMEMBERED_MAX);
        remembered.drain(..surplus);
        let mut log = Log::open(path)?;
        let (lines, waiting) = sync_channel::<String>(QUEUE_MAX);
        let writer = std::thread::Builder::new().name("ccd-decisions".into()).spawn(move || {
            for line in waiting {
                if let Err(error) = log.append(&line) {
                    tracing::error!(path = %log.path.display(), %error, "a decision record was not written");
                }
            }
        })?;
        Ok(Self {
            remembered,
            lines: Some(lines),
            writer: Some(writer),
        })
    }

    pub fn add(&mut self, decision: DatedDecision) {
        match serde_json::to_string(&decision) {
            Ok(line) => {
                if let Some(lines) = &self.lines
                    && let Err(TrySendError::Full(line) | TrySendError::Disconnected(line)) =
                        lines.try_send(line)
                {
                    tracing::error!(line, "a decision record was not written: the disk is too slow");
                }
            }
            Err(error) => tracing::error!(%error, "a decision record cannot be encoded"),
        }
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(decision);
    }

    /// The last so many, oldest first.
    pub fn last(&self, count: usize) -> Vec<DatedDecision> {
        let skip = self.remembered.len().saturating_sub(count);
        self.remembered.iter().skip(skip).cloned().collect()
    }
}

impl Drop for Decisions {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // A panic there was printed there.
            let _ = writer.join();
        }
    }
}

struct Log {
    path: PathBuf,
    file: File,
    len_bytes: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let len_bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            len_bytes,
        })
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.len_bytes > FILE_BYTES_MAX {
            fs::rename(&self.path, set_aside(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()?;
        self.len_bytes += line.len() as u64;
        Ok(())
    }
}

fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Every line that can be read: one that was cut off by a crash, or written by a later release, is passed over.
fn read(path: &Path) -> io::Result<Vec<DatedDecision>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let lines = BufReader::new(file.take(2 * FILE_BYTES_MAX)).split(b'\n');
    let mut decisions = Vec::new();
    for line in lines {
        decisions.extend(serde_json::from_slice(&line?).ok());
    }
    Ok(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::NodeId;
    use ccd_core::protocol::{Decision, DecisionKind};
    use ccd_core::time::Date;

    fn decision(number: u64, text: &str) -> DatedDecision {
        DatedDecision {
            date: Date(number),
            node: NodeId::new(0).unwrap(),
            decision: Decision {
                kind: DecisionKind::Start,
                configuration: None,
                text: text.to_owned(),
            },
        }
    }

    #[test]
    fn decisions_outlive_the_daemon_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let mut decisions = Decisions::open(&path).unwrap();
        for number in 0..3 {
            decisions.add(decision(number, "seen"));
        }
        drop(decisions);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"date\":").unwrap();
        let decisions = Decisions::open(&path).unwrap();
        assert_eq!(decisions.last(2), [decision(1, "seen"), decision(2, "seen")]);
        assert_eq!(decisions.last(100).len(), 3);
    }

    #[test]
    fn the_files_stay_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let mut log = Log::open(&path).unwrap();
        let line = "x".repeat(100 << 10);
        for _ in 0..50 {
            log.append(&line).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        for path in [path.clone(), set_aside(&path)] {
            assert!(fs::metadata(path).unwrap().len() <= FILE_BYTES_MAX + (101 << 10));
        }
    }
}
