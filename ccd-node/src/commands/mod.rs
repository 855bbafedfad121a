//! Synchronization commands, as the daemon runs them: each on a thread of its own, so that one which hangs holds up nothing.
//!
//! ```text
//! lookup.rs    a name becomes a file in sync.d that only root could have put there
//! process.rs   one process group: its end, its standard error, its time
//! orphans.rs   what left that group, found and killed
//! ```
//!
//! Called by the event loop, which asks for one at a time. Always holds: each that was asked for is answered once, within
//! its limit and twice [`KILL_PATIENCE`](process::KILL_PATIENCE); the file it was given is gone when it is answered.

mod lookup;
mod orphans;
mod process;

use ccd_client::Places;
use ccd_core::protocol::{CommandFailure, CommandRun, Event, Ticket};
use ccd_mirror::Wake;
use process::{Ended, Stopper};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Where the copies of the database lie while commands read them; below the run folder.
const FOLDER: &str = "sync";

/// Stands for the row among the arguments where that is on standard input alone. No row is that.
const ROW_ON_INPUT: &str = "-";

/// How long the end of a command is waited for when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// A command has ended.
#[derive(Debug)]
struct Done {
    ticket: Ticket,
    result: Result<(), CommandFailure>,
}

/// The commands of this node.
pub struct Commands {
    sync_dir: PathBuf,
    folder: PathBuf,
    wake: Wake,
    ended: Sender<Done>,
    done: Receiver<Done>,
    running: Option<(Ticket, Stopper)>,
    /// What could not be begun, to be answered next.
    refused: Option<Done>,
}

impl Commands {
    /// `wake` is called when there may be something to answer.
    pub fn new(places: &Places, wake: Wake) -> Self {
        let folder = places.run.join(FOLDER);
        // What a daemon that was killed has left there.
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "old copies for synchronization commands stay");
        }
        let (ended, done) = channel();
        Self {
            sync_dir: places.sync_dir(),
            folder,
            wake,
            ended,
            done,
            running: None,
            refused: None,
        }
    }

    /// Runs it; nothing here waits for it.
    pub fn start(&mut self, ticket: Ticket, run: CommandRun) {
        let begun = Instant::now();
        let (stopper, stopped) = match process::stopping() {
            Ok(pair) => pair,
            Err(error) => return self.refuse(ticket, format!("cannot make a pipe: {error}")),
        };
        let (sync_dir, folder) = (self.sync_dir.clone(), self.folder.clone());
        let (ended, wake) = (self.ended.clone(), self.wake.clone());
        let thread = std::thread::Builder::new()
            .name(String::from("sync-command"))
            .spawn(move || {
                let result = execute(&sync_dir, &folder, ticket, &run, begun, stopped);
                told(&run, begun.elapsed(), &result);
                // The daemon may have stopped; then nobody waits for it.
                let _ = ended.send(Done { ticket, result });
                wake();
            });
        match thread {
            Ok(_) => self.running = Some((ticket, stopper)),
            Err(error) => self.refuse(ticket, format!("cannot start a thread: {error}")),
        }
    }

    fn refuse(&mut self, ticket: Ticket, why: String) {
        let result = Err(CommandFailure::NotRun { why });
        self.refused = Some(Done { ticket, result });
        (self.wake)();
    }

    /// Kills this one, if it still runs; it is answered as usual.
    pub fn stop(&mut self, ticket: Ticket) {
        if let Some((_, stopper)) = self.running.as_mut().filter(|(of, _)| *of == ticket) {
            stopper.stop();
        }
    }

    /// What has ended since. Costs nothing while no command runs.
    pub fn next_event(&mut self) -> Option<Event> {
        let Done { ticket, result } = match self.refused.take() {
            Some(refused) => refused,
            None => {
                self.running.as_ref()?;
                let done = self.done.try_recv().ok()?;
                self.running = None;
                done
            }
        };
        Some(Event::CommandDone { ticket, result })
    }

    /// The daemon has stopped: what still runs is killed.
    pub fn finish(&mut self) {
        let Some((_, mut stopper)) = self.running.take() else {
            return;
        };
        stopper.stop();
        if self.done.recv_timeout(STOP_PATIENCE).is_err() {
            tracing::warn!("a synchronization command does not end");
        }
    }
}

fn told(run: &CommandRun, took: Duration, result: &Result<(), CommandFailure>) {
    let (command, keyword, took_ms) = (run.name.as_str(), run.keyword.name(), took.as_millis());
    match result {
        Ok(()) => tracing::info!(command, keyword, took_ms, "synchronization command agreed"),
        Err(CommandFailure::Stopped) => {
            tracing::info!(command, keyword, took_ms, "synchronization command stopped")
        }
        Err(failure) => {
            let failure = failure.for_the_record(run.is_private());
            tracing::warn!(command, keyword, took_ms, "synchronization command: {failure}");
        }
    }
}

/// Everything about one command that may block.
fn execute(
    sync_dir: &Path,
    folder: &Path,
    ticket: Ticket,
    run: &CommandRun,
    begun: Instant,
    stopped: process::Stopped,
) -> Result<(), CommandFailure> {
    let not_run = |why: String| CommandFailure::NotRun { why };
    let program = lookup::find(sync_dir, &run.name).map_err(|error| not_run(error.to_string()))?;
    let file = Copy::write(folder, ticket, &run.database.to_text()).map_err(|error| {
        not_run(format!(
            "the copy of the database for it cannot be written to {}: {error}; check the space there",
            folder.display()
        ))
    })?;
    let input = run
        .row
        .as_deref()
        .map(|row| input(folder, ticket, row))
        .transpose();
    let input = input.map_err(|error| {
        not_run(format!(
            "the row for it cannot be written to {}: {error}; check the space there",
            folder.display()
        ))
    })?;
    let mut arguments: Vec<OsString> = vec![run.keyword.name().into()];
    // Every user of the machine can read the arguments of every process.
    let private = run.has_private_row().then_some(ROW_ON_INPUT);
    arguments.extend(run.row.as_deref().map(|row| private.unwrap_or(row).into()));
    arguments.push(file.path.clone().into());
    for number in [run.nodes, run.nodes_up, run.me.index()] {
        arguments.push(number.to_string().into());
    }
    let ended = process::run(&program, &arguments, input, begun + run.limit, stopped).map_err(|error| {
        not_run(format!(
            "{} cannot be started: {error}; a script begins with #! and its interpreter",
            program.display()
        ))
    })?;
    match ended {
        Ended::Agreed => Ok(()),
        Ended::Failed { how, stderr } => Err(CommandFailure::Failed { how, stderr }),
        Ended::TimedOut { stderr } => Err(CommandFailure::TimedOut {
            after: run.limit,
            stderr,
        }),
        Ended::Stopped => Err(CommandFailure::Stopped),
    }
}

/// What a command reads on its standard input: the row in a line of its own, in a file that has no name any more.
fn input(folder: &Path, ticket: Ticket, row: &str) -> io::Result<File> {
    let path = folder.join(format!("{}.row", ticket.0));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.write_all(row.as_bytes())?;
    file.write_all(b"\n")?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// A copy of the database for one command.
#[derive(Debug)]
struct Copy {
    path: PathBuf,
}

impl Copy {
    fn write(folder: &Path, ticket: Ticket, text: &str) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let path = folder.join(format!("{}.ccd", ticket.0));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let copy = Self { path };
        file.write_all(text.as_bytes())?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a copy for a synchronization command stays");
        }
    }
}

#[cfg(test)]
mod tests;
