//! The history of updates that this node keeps: who changed what and when, for `history`, `diff` and `rollback`.
//!
//! ```text
//!   event loop ── tell ──→ writer.rs   a thread: what did each record do?      frame.rs    what is written, as bytes
//!              ── ask ───→    ↓                                                segment.rs  one file of frames
//!                          store.rs    files, budget                           index.rs    what is where in a file
//!                             ↓                                                read.rs     answers, on threads of their own
//!                          Listener    who is told, once it is written          between.rs  what two generations differ by
//!                                                                              turns.rs    whose question goes on
//!                                                                              trail.rs    as a watcher goes through it
//! ```
//!
//! It is beside the database, not part of it: nothing waits for it, and an update is as durable without it. What is missing
//! (this node received a whole copy, the disk was full, the budget is used up) is said in every answer it concerns.

mod between;
mod frame;
mod index;
mod read;
mod segment;
mod store;
pub mod trail;
mod turns;
mod writer;

pub use frame::{Effects, Kept};
pub use index::Which;
pub use writer::be_nice;

use crate::branches;
use crate::fair::Owner;
use crate::outlet::Bell;
use ccd_client::wire::{self, ChangesAsk, Fault, HistoryAsk};
use ccd_core::client::ClientToken;
use ccd_core::database::{Database, Key};
use ccd_core::ids::{ClusterId, Position};
use ccd_core::protocol::Committed;
use read::{ReadError, Reader};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use store::Store;
use tokio::sync::mpsc;
use trail::{Step, Trail};
use turns::{Pace, Turns};
use writer::Desk;

/// A question to the history.
#[derive(Clone, Debug)]
pub enum Ask {
    History(HistoryAsk),
    Changes(ChangesAsk),
    /// The branches that were kept in a folder, or the text of one.
    Branches {
        folder: PathBuf,
        name: Option<String>,
    },
}

/// What one telling of the node came to.
#[derive(Debug)]
pub struct Told {
    pub steps: Vec<Step>,
    /// The version that the first round was made on, if it is known.
    pub before: Option<Database>,
    pub after: Database,
}

/// A listener is told of every update, once it is written or could not be.
pub trait Listener: Send {
    /// Whether it wants to hear anything now.
    fn is_listening(&self) -> bool;
    fn told(&mut self, told: Vec<Told>);
}

/// An answer on its way to its client.
#[derive(Debug)]
pub struct Answered {
    pub client: ClientToken,
    pub told: wire::Told,
}

/// The way of answers to the event loop. Bounded by the questions, of which so many wait.
#[derive(Clone, Debug)]
struct Answers {
    sender: mpsc::UnboundedSender<Answered>,
    bell: Bell,
}

impl Answers {
    fn send(&self, answered: Answered) {
        // The daemon may be gone.
        if self.sender.send(answered).is_ok() {
            self.bell.notify_one();
        }
    }
}

/// What a history may take on its disk.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub bytes: u64,
    /// Bytes of the largest database: what replaces one by another is kept beside the budget, twice at most.
    pub image_bytes_max: u64,
}

/// The event loop's hold on it.
#[derive(Debug)]
pub struct History {
    desk: Arc<Desk>,
    head: Position,
    reader: Arc<Reader>,
    turns: Turns,
    answers: Answers,
    writer: Option<JoinHandle<()>>,
}

impl History {
    /// Finds out where the history in this folder ends, and gets ready to go on. Answers come through the channel.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(
        folder: &Path,
        cluster: ClusterId,
        budget: Budget,
        bell: &Bell,
        listener: Box<dyn Listener>,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Answered>)> {
        let mut store = Store::open(folder, cluster, budget.bytes)?;
        store.keep_replaced(budget.image_bytes_max);
        let head = store.head();
        let reader = Arc::new(Reader::new(store.folder(), cluster));
        // At most one for each question; `clients/limits.rs` bounds those.
        let (sender, inlet) = mpsc::unbounded_channel();
        let bell = bell.clone();
        let answers = Answers { sender, bell };
        let desk = Arc::new(Desk::default());
        let shared = desk.clone();
        let writer = std::thread::Builder::new()
            .name("ccd-history".into())
            .spawn(move || writer::run(&shared, store, listener))?;
        let history = Self {
            desk,
            head,
            reader,
            turns: Turns::default(),
            answers,
            writer: Some(writer),
        };
        Ok((history, inlet))
    }

    /// Where it ended when it was opened.
    pub fn head(&self) -> Position {
        self.head
    }

    /// This was committed.
    pub fn tell(&self, committed: Committed) {
        self.desk.tell(committed);
    }

    /// Done before anything that is told from now on is written.
    pub fn before_what_follows(&self, first: impl FnOnce() + Send + 'static) {
        self.desk.first(Box::new(first));
    }

    /// Answered when everything that was told before is written, and it is this user's turn.
    pub fn ask(&self, client: ClientToken, owner: Owner, ask: Ask) {
        let (turns, reader, answers) = (self.turns.clone(), self.reader.clone(), self.answers.clone());
        turns.announce(client);
        self.desk.then(Box::new(move |head, _| {
            turns.push(owner, client, move |pace| {
                let told = match pace {
                    Some(pace) => answer(&reader, &ask, head, pace),
                    None => Some(wire::Told::Failed(Fault::Overloaded)),
                };
                if let Some(told) = told {
                    answers.send(Answered { client, told });
                }
            });
        }));
    }

    /// The one who asked has gone.
    pub fn forget(&self, client: ClientToken) {
        self.turns.forget(client);
    }
}

impl History {
    /// The way through it, for whoever watches.
    pub fn trail(folder: &Path, cluster: ClusterId) -> Trail {
        Trail::new(folder, cluster)
    }

    /// Done when everything that was told before is written, with the version that was told last, if any was.
    pub fn afterwards(&self, then: impl FnOnce(Option<&Database>) + Send + 'static) {
        self.desk.then(Box::new(move |_, newest| then(newest)));
    }

    /// The branches in this folder, or the one of this name.
    pub fn ask_branches(&self, client: ClientToken, owner: Owner, folder: PathBuf, name: Option<String>) {
        self.ask(client, owner, Ask::Branches { folder, name });
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.desk.close();
        self.turns.close();
        if let Some(writer) = self.writer.take() {
            // A panic there was printed there.
            let _ = writer.join();
        }
    }
}

/// `None` if nobody waits for it any more.
fn answer(reader: &Reader, ask: &Ask, head: Position, pace: &Pace) -> Option<wire::Told> {
    let answered = match ask {
        Ask::Branches { folder, name: None } => branches::list(folder)
            .map(wire::Told::Branches)
            .map_err(ReadError::Io),
        Ask::Branches {
            folder,
            name: Some(name),
        } => match branches::read(folder, name) {
            Ok(Some(text)) => Ok(wire::Told::Branch { text }),
            Ok(None) => Err(ReadError::NotKept(format!(
                "no branch {name:?} is kept on this node"
            ))),
            Err(error) => Err(ReadError::Io(error)),
        },
        Ask::History(ask) => reader.history(ask, pace).map(wire::Told::History),
        Ask::Changes(ask) => reader.changes(ask, head, pace).map(wire::Told::Changes),
    };
    let fault = match answered {
        Ok(told) => return Some(told),
        Err(ReadError::Gone) => return None,
        Err(ReadError::NotKept(why)) => Fault::NotKept { why },
        Err(ReadError::Io(error)) => Fault::Internal {
            why: error.to_string(),
        },
    };
    Some(wire::Told::Failed(fault))
}

/// For `measured.rs` alone: the store of a history, with no threads around it.
pub struct Writer(Store);

impl Writer {
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: &Path, cluster: ClusterId, budget_bytes: u64) -> io::Result<Self> {
        Store::open(folder, cluster, budget_bytes).map(Self)
    }

    /// # Errors
    /// When the disk does not take it.
    pub fn append(&mut self, updates: impl Iterator<Item = (Position, Kept)>) -> io::Result<()> {
        let frames = updates.map(|(next, kept)| frame::Frame::Round {
            next,
            updates: vec![kept],
        });
        self.0.append(frames.collect())
    }

    /// # Errors
    /// When the disk does not take it.
    pub fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }
}

/// For `measured.rs` alone: how many updates `history KEY` is told of.
///
/// # Errors
/// When the history cannot be read.
pub fn count(folder: &Path, cluster: ClusterId, key: Key, last: u32) -> io::Result<usize> {
    let ask = HistoryAsk {
        key: Some(key),
        last,
        before: None,
        rows: true,
    };
    let told = Reader::new(folder, cluster)
        .history(&ask, &Pace::free())
        .map_err(io::Error::other)?;
    Ok(told.items.len())
}
