//! One path with a thread of its own, so that one whose cable was pulled does not stop what the others could do: a command on
//! a dead iSCSI path comes back after 46 seconds.
//!
//! A path works on one command at a time. Whoever waited in vain finds it busy until the command has come back; what it
//! says then is thrown away. The thread ends, and closes the descriptor, when the path is dropped and nothing hangs.

use super::command::Change;
use super::disk::Unit;
use super::outcome::Outcome;
use super::readback::ReadBack;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// What is asked of a path.
#[derive(Clone, Copy, Debug)]
enum Job {
    Change(Change),
    Read { ports: bool },
    Persists,
}

#[derive(Debug)]
enum Answer {
    Persists(Option<bool>),
    Changed(Outcome),
    Read(Result<ReadBack, Outcome>),
}

/// The owner's side.
#[derive(Debug)]
pub struct Path {
    jobs: Sender<Job>,
    answers: Receiver<Answer>,
    /// Since when an answer is owed.
    busy_since: Option<Instant>,
}

impl Path {
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: &str, mut unit: Box<dyn Unit>) -> io::Result<Self> {
        let (jobs, todo) = channel();
        let (done, answers) = channel();
        std::thread::Builder::new()
            .name(format!("ccd-path-{name}"))
            .spawn(move || {
                while let Ok(job) = todo.recv() {
                    let answer = match job {
                        Job::Change(change) => Answer::Changed(unit.change(change)),
                        Job::Read { ports } => Answer::Read(unit.read(ports)),
                        Job::Persists => Answer::Persists(unit.persists()),
                    };
                    if done.send(answer).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            jobs,
            answers,
            busy_since: None,
        })
    }

    /// Sends a change and waits for its outcome.
    pub fn change(&mut self, change: Change, patience: Duration) -> Outcome {
        match self.ask(Job::Change(change), patience) {
            Ok(Answer::Changed(outcome)) => outcome,
            Ok(_) => wrong_answer(),
            Err(silent) => silent,
        }
    }

    /// See [`Unit::persists`].
    pub fn persists(&mut self, patience: Duration) -> Option<bool> {
        match self.ask(Job::Persists, patience) {
            Ok(Answer::Persists(persists)) => persists,
            _ => None,
        }
    }

    pub fn read(&mut self, ports: bool, patience: Duration) -> Result<ReadBack, Outcome> {
        match self.ask(Job::Read { ports }, patience)? {
            Answer::Read(read) => read,
            _ => Err(wrong_answer()),
        }
    }

    /// A command has not come back although nobody waits for it any more.
    pub fn is_busy(&mut self) -> bool {
        if self.busy_since.is_some() && !matches!(self.answers.try_recv(), Err(TryRecvError::Empty)) {
            self.busy_since = None;
        }
        self.busy_since.is_some()
    }

    fn ask(&mut self, job: Job, patience: Duration) -> Result<Answer, Outcome> {
        if self.is_busy() {
            let since = self.busy_since.map_or(0, |since| since.elapsed().as_millis());
            return Err(Outcome::Path(format!(
                "a command has not come back for {since} ms"
            )));
        }
        let gone = || Outcome::Path("its thread is gone".to_owned());
        self.jobs.send(job).map_err(|_| gone())?;
        self.busy_since = Some(Instant::now());
        match self.answers.recv_timeout(patience) {
            Ok(answer) => {
                self.busy_since = None;
                Ok(answer)
            }
            Err(RecvTimeoutError::Timeout) => Err(Outcome::Path(format!(
                "no answer within {} ms",
                patience.as_millis()
            ))),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

/// Answers come in the order of the jobs, so this does not happen; if it did, nothing would be known.
fn wrong_answer() -> Outcome {
    Outcome::Path("it answered another question".to_owned())
}
