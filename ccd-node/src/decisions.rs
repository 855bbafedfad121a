//! Decision records: what was seen, which rule was applied, what followed. For `ccdadm why`.
//!
//! One line of JSON each in the state folder, written by a thread of its own so that the event loop never waits for the
//! disk. When the file has grown it becomes `….1` and a new one begins; so at most two files are kept.
//!
//! A decision that is made again and again (a device that flaps) is one record with a count: it takes the place of the one
//! before it, in memory at once, and in the file by a line for the 2nd, 4th, 8th, … time, of which the last one counts.

use ccd_client::wire::DatedDecision;
use ccd_core::protocol::DecisionKind;
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

/// A decision that was made so short a time before, in milliseconds, is repeated by the same one, and counted.
const REPEATED_WITHIN_MS: u64 = 60_000;
/// Decisions among which a repeated one is looked for: those of one turn of a cycle.
const REPEATED_AMONG: usize = 32;

/// The decisions of this node.
#[derive(Debug)]
pub struct Decisions {
    remembered: VecDeque<Remembered>,
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
            for read in read(path)? {
                let read = Remembered::new(read);
                if read.dated.count > 1 {
                    remembered.retain(|earlier| !read.replaces(earlier));
                }
                remembered.push_back(read);
            }
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
        let mut decision = Remembered::new(decision);
        let repeated = (self.remembered.iter().enumerate().rev())
            .take(REPEATED_AMONG)
            .find(|(_, earlier)| decision.repeats(earlier))
            .map(|(index, _)| index);
        if let Some(earlier) = repeated.and_then(|index| self.remembered.remove(index)) {
            decision.dated.count = earlier.dated.count.saturating_add(1);
            decision.dated.first = earlier.dated.first;
        }
        if decision.dated.count.is_power_of_two() {
            self.write(&decision.dated);
        }
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(decision);
    }

    fn write(&self, decision: &DatedDecision) {
        match serde_json::to_string(decision) {
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
    }

    /// The last so many, oldest first.
    pub fn last(&self, count: usize) -> Vec<DatedDecision> {
        let skip = self.remembered.len().saturating_sub(count);
        let last = self.remembered.iter().skip(skip);
        last.map(|remembered| remembered.dated.clone()).collect()
    }
}

/// A decision, and what makes another one the same.
#[derive(Debug)]
struct Remembered {
    dated: DatedDecision,
    likeness: (DecisionKind, String),
}

impl Remembered {
    fn new(mut dated: DatedDecision) -> Self {
        if dated.count <= 1 {
            // A line of an earlier release has neither.
            (dated.count, dated.first) = (1, dated.date);
        }
        let likeness = (dated.decision.kind, without_measures(&dated.decision.text));
        Self { dated, likeness }
    }

    /// The same was decided a short time before.
    fn repeats(&self, earlier: &Self) -> bool {
        self.likeness == earlier.likeness
            && self.dated.node == earlier.dated.node
            && self.dated.date.0.abs_diff(earlier.dated.date.0) <= REPEATED_WITHIN_MS
    }

    /// The same record, written when it had been repeated less often.
    fn replaces(&self, earlier: &Self) -> bool {
        self.likeness == earlier.likeness
            && self.dated.node == earlier.dated.node
            && self.dated.first == earlier.dated.first
    }
}

/// A text without what differs each time: epochs, rounds, positions, keys, durations. Nodes and sets of them stay.
fn without_measures(text: &str) -> String {
    let mut words = text.split_whitespace().peekable();
    let mut kept: Vec<&str> = Vec::new();
    let mut last = "";
    while let Some(word) = words.next() {
        let bare = word.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let has_digit = bare.contains(|letter: char| letter.is_ascii_digit());
        let is_counted = matches!(last, "epoch" | "(round" | "round")
            || matches!(
                words
                    .peek()
                    .map(|next| next.trim_end_matches([',', ';', ':', '.', ')'])),
                Some("ms" | "bytes")
            );
        let is_measure =
            is_counted || bare.contains(['.', '/']) || bare.starts_with("0x") || bare.starts_with("Attempt(");
        kept.push(if has_digit && is_measure { "#" } else { word });
        last = word;
    }
    kept.join(" ")
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
        let decision = Decision {
            kind: DecisionKind::Start,
            configuration: None,
            text: text.to_owned(),
        };
        DatedDecision::once(Date(number), NodeId::new(0).unwrap(), decision)
    }

    #[test]
    fn decisions_outlive_the_daemon_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let mut decisions = Decisions::open(&path).unwrap();
        for (number, text) in ["first", "second", "third"].iter().enumerate() {
            decisions.add(decision(number as u64, text));
        }
        drop(decisions);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"date\":").unwrap();
        let decisions = Decisions::open(&path).unwrap();
        assert_eq!(decisions.last(2), [decision(1, "second"), decision(2, "third")]);
        assert_eq!(decisions.last(100).len(), 3);
    }

    #[test]
    fn what_is_decided_again_and_again_is_one_record_with_a_count_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let mut decisions = Decisions::open(&path).unwrap();
        decisions.add(decision(1, "started"));
        let turn = |number: u64| {
            let epoch = 2 * number;
            [
                format!("the primary failed (Heartbeat {{ begun: 81{number}.3 }}): CCD-2001 cannot write"),
                format!(
                    "decided epoch {epoch}, solo(0) secondary by node 0: a device is lost; starts from {epoch}/7.a{number}f"
                ),
                format!(
                    "decided epoch {}, solo(0) primary secondary by node 0: a device has come back",
                    epoch + 1
                ),
            ]
        };
        for number in 0..9 {
            for text in turn(number) {
                decisions.add(decision(1_000 * number, &text));
            }
        }
        let last = decisions.last(100);
        assert_eq!(last.len(), 4, "{last:?}");
        for (told, text) in last[1..].iter().zip(turn(8)) {
            assert_eq!((told.count, told.first, told.date), (9, Date(0), Date(8_000)));
            assert_eq!(told.decision.text, text);
        }
        drop(decisions);
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(lines, 1 + 3 * 4, "the 1st, 2nd, 4th and 8th time");
        let mut decisions = Decisions::open(&path).unwrap();
        let last = decisions.last(100);
        assert_eq!(
            last.iter().map(|told| told.count).collect::<Vec<_>>(),
            [1, 8, 8, 8]
        );
        // Much later it is news.
        decisions.add(decision(200_000, &turn(9)[0]));
        assert_eq!(decisions.last(1)[0].count, 1);
        assert_eq!(decisions.last(100).len(), 5);
    }

    #[test]
    fn decisions_about_other_nodes_or_for_other_reasons_are_not_taken_for_the_same() {
        #[rustfmt::skip]
        let table = [
            ("node 1 has been silent for a lease",        "node 2 has been silent for a lease",          false),
            ("proposes members {0,1}, devices {Primary}", "proposes members {0,2}, devices {Primary}",   false),
            ("decided epoch 3, solo(0) primary",          "decided epoch 4, solo(1) primary",            false),
            ("decided epoch 3, solo(0) primary",          "decided epoch 4, solo(0) primary",            true),
            ("has not acked an update for 951 ms",        "has not acked an update for 1,002 ms",        true),
            ("opened at 2/2.d956: after 899.1 ms: x",     "opened at 4/2.00ff: after 1.5 ms: x",         true),
            ("takes the registration of key 0xcd of node 0", "takes the registration of key 0xef of node 0", true),
            ("the primary failed: no answer",             "the secondary failed: no answer",             false),
        ];
        for (one, other, is_same) in table {
            assert_eq!(
                without_measures(one) == without_measures(other),
                is_same,
                "{one} / {other}"
            );
        }
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
