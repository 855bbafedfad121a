//! The test's end of the line to the agent of one guest: run a command there, or start one and read what it says.

use super::wire::{Ask, Tell, line_of};
use crate::process::Finished;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// No command in a guest may take longer; the agent kills it.
const RUN_DEADLINE: Duration = Duration::from_secs(60);

/// For the agent to answer after that. A guest that does not is hung.
const GRACE: Duration = Duration::from_secs(15);

/// Something that was started and goes on.
#[derive(Debug, Default)]
struct Started {
    pid: Option<i32>,
    lines: Vec<(Instant, String)>,
    code: Option<i32>,
    /// Where the lines are kept.
    log: Option<std::fs::File>,
}

#[derive(Debug, Default)]
struct Told {
    /// Greetings so far: how often the guest has booted.
    boots: u32,
    kernel: String,
    next_id: u64,
    ended: BTreeMap<u64, (i32, String, String)>,
    /// Asked before this boot and not answered: nobody will.
    lost: BTreeMap<u64, ()>,
    started: BTreeMap<u64, Started>,
    /// Commands that wait for an answer.
    waiting: Vec<u64>,
    closed: bool,
}

/// Cheap to clone: all clones are the same line.
#[derive(Clone, Debug)]
pub struct Agent {
    name: String,
    told: Arc<(Mutex<Told>, Condvar)>,
    writer: Arc<Mutex<UnixStream>>,
}

/// A process in a guest that goes on after it was started.
#[derive(Clone, Debug)]
pub struct Job {
    agent: Agent,
    id: u64,
}

/// What the guest did instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    #[error("the guest was reset or ended")]
    Gone,
    #[error("the guest does not answer")]
    Hung,
}

impl Agent {
    /// Takes over the line and listens.
    ///
    /// # Panics
    /// When the system gives no second descriptor.
    pub fn listen(name: &str, stream: UnixStream) -> Self {
        let reader = stream.try_clone().expect("a socket can be doubled");
        let agent = Self {
            name: name.to_owned(),
            told: Arc::default(),
            writer: Arc::new(Mutex::new(stream)),
        };
        let listener = agent.clone();
        std::thread::spawn(move || listener.hear(reader));
        agent
    }

    fn hear(&self, stream: UnixStream) {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            // A reset cuts lines in two.
            if let Ok(tell) = serde_json::from_slice(&line) {
                self.on_tell(tell);
            }
        }
        let mut told = self.lock();
        told.closed = true;
        for started in told.started.values_mut() {
            started.code.get_or_insert(-1);
        }
        self.told.1.notify_all();
    }

    fn on_tell(&self, tell: Tell) {
        let mut told = self.lock();
        match tell {
            Tell::Hello { kernel } => {
                told.boots += 1;
                told.kernel = kernel;
                let lost = std::mem::take(&mut told.waiting);
                told.lost.extend(lost.into_iter().map(|id| (id, ())));
                for started in told.started.values_mut() {
                    started.code.get_or_insert(-1);
                }
            }
            Tell::Started { id, pid } => {
                if let Some(started) = told.started.get_mut(&id) {
                    started.pid = Some(pid);
                }
            }
            Tell::Line { id, text } => {
                if let Some(started) = told.started.get_mut(&id) {
                    if let Some(log) = &mut started.log {
                        // A log that cannot be written is missed by whoever looks for it; the test goes on.
                        let _ = writeln!(log, "{text}");
                    }
                    started.lines.push((Instant::now(), text));
                }
            }
            Tell::Ended { id, code, out, err } => {
                told.waiting.retain(|waiting| *waiting != id);
                if let Some(started) = told.started.get_mut(&id) {
                    if let Some(log) = &mut started.log {
                        let _ = writeln!(log, "-- ended with {code} {err}");
                    }
                    started.code = Some(code);
                } else {
                    told.ended.insert(id, (code, out, err));
                }
            }
        }
        drop(told);
        self.told.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the guest has booted.
    pub fn boots(&self) -> u32 {
        self.lock().boots
    }

    /// `uname -r` there.
    pub fn kernel(&self) -> String {
        self.lock().kernel.clone()
    }

    /// Waits until the guest has booted more than `before` times; false when it takes longer than `patience`.
    pub fn wait_for_boot(&self, before: u32, patience: Duration) -> bool {
        self.wait(patience, |told| (told.boots > before).then_some(()))
            .is_some()
    }

    /// Waits for something in what was told.
    fn wait<T>(&self, patience: Duration, mut look: impl FnMut(&mut Told) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut told = self.lock();
        loop {
            if let Some(found) = look(&mut told) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            (told, _) = self
                .told
                .1
                .wait_timeout(told, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn send(&self, ask: &Ask) -> Result<(), Silence> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = writer.write_all(line_of(ask).as_bytes());
        sent.map_err(|_| Silence::Gone)
    }

    /// Runs a command to its end, whatever that is.
    pub fn try_run(&self, words: &[&str], input: &str) -> Result<Finished, Silence> {
        let started = Instant::now();
        let id = {
            let mut told = self.lock();
            told.next_id += 1;
            let id = told.next_id;
            told.waiting.push(id);
            id
        };
        self.send(&Ask::Run {
            id,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            input: input.to_owned(),
            deadline_ms: u64::try_from(RUN_DEADLINE.as_millis()).expect("a minute fits"),
        })?;
        let answer = self.wait(RUN_DEADLINE + GRACE, |told| {
            if let Some(ended) = told.ended.remove(&id) {
                return Some(Ok(ended));
            }
            (told.closed || told.lost.remove(&id).is_some()).then_some(Err(Silence::Gone))
        });
        let (code, out, err) = answer.unwrap_or(Err(Silence::Hung))?;
        Ok(Finished {
            line: format!("{}: {}", self.name, words.join(" ")),
            code,
            out,
            err,
            took: started.elapsed(),
        })
    }

    /// Starts a command that goes on; its lines are kept in `log`, too.
    ///
    /// # Panics
    /// When the log cannot be written.
    pub fn start(&self, words: &[&str], log: Option<PathBuf>) -> Result<Job, Silence> {
        let log = log.map(|path| {
            let opened = std::fs::File::options().create(true).append(true).open(&path);
            opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        });
        let id = {
            let mut told = self.lock();
            told.next_id += 1;
            let id = told.next_id;
            told.started.insert(
                id,
                Started {
                    log,
                    ..Started::default()
                },
            );
            id
        };
        self.send(&Ask::Start {
            id,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        })?;
        let job = Job {
            agent: self.clone(),
            id,
        };
        let began = self.wait(RUN_DEADLINE, |told| {
            let started = &told.started[&id];
            (started.pid.is_some() || started.code.is_some()).then_some(())
        });
        began.ok_or(Silence::Hung)?;
        Ok(job)
    }
}

impl Job {
    /// In the guest; 0 when it could not be started.
    pub fn pid(&self) -> i32 {
        self.agent.lock().started[&self.id].pid.unwrap_or_default()
    }

    /// Its exit code, when it has ended; -1 for a signal, or when its guest is gone.
    pub fn ended(&self) -> Option<i32> {
        self.agent.lock().started[&self.id].code
    }

    /// Waits for its end.
    pub fn wait_for_end(&self, patience: Duration) -> Option<i32> {
        self.agent.wait(patience, |told| told.started[&self.id].code)
    }

    /// Lines from the `from`th on, and when each came.
    pub fn lines(&self, from: usize) -> Vec<(Instant, String)> {
        let told = self.agent.lock();
        let lines = &told.started[&self.id].lines;
        lines[from.min(lines.len())..].to_vec()
    }

    /// All it said so far.
    pub fn text(&self) -> String {
        let lines = self.lines(0);
        lines.into_iter().map(|(_, text)| text + "\n").collect()
    }
}
