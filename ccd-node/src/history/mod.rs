//! The history of updates that this node keeps: who changed what and when, for `history`, `diff` and `rollback`.
//!
//! ```text
//!   event loop ── tell ──→ writer.rs   a thread: what did each record do?      frame.rs    what is written, as bytes
//!              ── ask ───→    ↓                                                segment.rs  one file of frames
//!                          store.rs    files, budget                           read.rs     answers, on another thread
//! ```
//!
//! It is beside the database, not part of it: nothing waits for it, and an update is as durable without it. What is missing
//! (this node received a whole copy, the disk was full, the budget is used up) is said in every answer it concerns.

mod frame;
mod read;
mod segment;
mod store;
mod writer;

pub use writer::be_nice;

use crate::branches;
use crate::outlet::Bell;
use ccd_client::wire::{ChangesAsk, Fault, HistoryAsk, Told};
use ccd_core::client::ClientToken;
use ccd_core::ids::{ClusterId, Position};
use ccd_core::protocol::Committed;
use read::{ReadError, Reader};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use store::Store;
use tokio::sync::mpsc;
use writer::Desk;

/// Questions that wait to be answered; more are refused.
const ASKS_MAX: usize = 64;

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

/// An answer on its way to its client.
#[derive(Debug)]
pub struct Answered {
    pub client: ClientToken,
    pub told: Told,
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

/// The event loop's hold on it.
#[derive(Debug)]
pub struct History {
    desk: Arc<Desk>,
    head: Position,
    asks: SyncSender<(ClientToken, Ask, Position)>,
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
        budget_bytes: u64,
        bell: &Bell,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Answered>)> {
        let store = Store::open(folder, cluster, budget_bytes)?;
        let head = store.head();
        let reader = Reader::new(store.folder(), cluster);
        // At most one for each question, of which there are few.
        let (sender, inlet) = mpsc::unbounded_channel();
        let bell = bell.clone();
        let answers = Answers { sender, bell };
        let (asks, waiting) = sync_channel::<(ClientToken, Ask, Position)>(ASKS_MAX);
        let outlet = answers.clone();
        // Ends when the last question is answered that the writer may still hand on.
        std::thread::Builder::new()
            .name("ccd-asks".into())
            .spawn(move || {
                for (client, ask, head) in waiting {
                    let told = answer(&reader, &ask, head);
                    outlet.send(Answered { client, told });
                }
            })?;
        let desk = Arc::new(Desk::default());
        let shared = desk.clone();
        let writer = std::thread::Builder::new()
            .name("ccd-history".into())
            .spawn(move || writer::run(&shared, store))?;
        let history = Self {
            desk,
            head,
            asks,
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

    /// Answered when everything that was told before is written.
    pub fn ask(&self, client: ClientToken, ask: Ask) {
        let (asks, answers) = (self.asks.clone(), self.answers.clone());
        self.desk.then(Box::new(move |head| {
            if let Err(TrySendError::Full(_)) = asks.try_send((client, ask, head)) {
                let told = Told::Failed(Fault::Overloaded);
                answers.send(Answered { client, told });
            }
        }));
    }
}

impl History {
    /// The branches in this folder, or the one of this name.
    pub fn ask_branches(&self, client: ClientToken, folder: PathBuf, name: Option<String>) {
        self.ask(client, Ask::Branches { folder, name });
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.desk.close();
        if let Some(writer) = self.writer.take() {
            // A panic there was printed there.
            let _ = writer.join();
        }
    }
}

fn answer(reader: &Reader, ask: &Ask, head: Position) -> Told {
    let answered = match ask {
        Ask::Branches { folder, name: None } => {
            branches::list(folder).map(Told::Branches).map_err(ReadError::Io)
        }
        Ask::Branches {
            folder,
            name: Some(name),
        } => match branches::read(folder, name) {
            Ok(Some(text)) => Ok(Told::Branch { text }),
            Ok(None) => Err(ReadError::NotKept(format!(
                "no branch {name:?} is kept on this node"
            ))),
            Err(error) => Err(ReadError::Io(error)),
        },
        Ask::History(ask) => reader.history(ask).map(Told::History),
        Ask::Changes(ask) => reader.changes(ask, head).map(Told::Changes),
    };
    answered.unwrap_or_else(|error| {
        Told::Failed(match error {
            ReadError::NotKept(why) => Fault::NotKept { why },
            ReadError::Io(error) => Fault::Internal {
                why: error.to_string(),
            },
        })
    })
}
