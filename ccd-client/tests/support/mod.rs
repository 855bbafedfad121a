//! A daemon of one node that keeps its database in memory, speaks the real protocol on real sockets, and can be told
//! to misbehave; and a way to run the programs. Used by the tests that need a daemon or the programs.
//!
//! ```text
//! report.rs     what it says of its cluster
//! past.rs       its history and branches
//! bench.rs      a folder in which nothing runs
//! programs.rs   running ccdadm and ccdctl
//! ```

#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

mod bench;
mod past;
mod programs;
mod report;

pub use bench::{Bench, LEASE};
pub use programs::{Ran, run};

use ccd_client::Places;
use ccd_client::wire::{self, Ask, FromDaemon, HistoryUpdate, Service, StatusReport, Told, WatchItem};
use ccd_core::client::{Refusal, RequestBody, UpdateRequest, VerifiedCopy};
use ccd_core::database::{Database, OpError, Record, Update};
use ccd_core::drill::DrillReport;
use ccd_core::ids::{Epoch, NodeId, NodeSet};
use report::{decision, report};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// What the daemon does wrong, once.
#[derive(Clone, Debug)]
pub enum Trick {
    /// Takes the request and closes the connection.
    Drop,
    /// Applies the update and closes the connection.
    ApplyAndDrop,
    /// Applies the update and says that it does not know.
    ApplyAndForget,
    /// Never answers.
    Hang,
    /// Answers this.
    Say(Told),
}

pub struct Fake {
    pub folder: TempDir,
    pub state: Arc<Mutex<State>>,
}

pub struct State {
    pub database: Database,
    pub tricks: VecDeque<Trick>,
    pub status: StatusReport,
    pub copies: Vec<VerifiedCopy>,
    pub drilled: DrillReport,
    /// Every update with its rows, and the branches that are kept.
    pub history: Vec<HistoryUpdate>,
    pub branches: Vec<(String, String)>,
    /// What each watcher that comes is told, besides that it began.
    pub watched: VecDeque<Vec<WatchItem>>,
    /// Everything that was asked, in order.
    pub asked: Vec<Ask>,
    connections: Vec<UnixStream>,
}

pub fn node(number: u8) -> NodeId {
    NodeId::new(number).expect("a node number")
}

impl Fake {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let state = Arc::new(Mutex::new(State {
            database: Database::default(),
            tricks: VecDeque::new(),
            status: report(),
            copies: Vec::new(),
            drilled: DrillReport {
                devices: Vec::new(),
                rehearsals: Vec::new(),
            },
            history: Vec::new(),
            branches: Vec::new(),
            watched: VecDeque::new(),
            asked: Vec::new(),
            connections: Vec::new(),
        }));
        let fake = Self { folder, state };
        fake.listen("ccdd.sock", Service::Write);
        fake.listen("control.sock", Service::Control);
        fake
    }

    pub fn places(&self) -> Places {
        let folder = self.folder.path();
        Places {
            etc: folder.into(),
            state: folder.into(),
            run: folder.into(),
        }
    }

    pub fn trick(&self, trick: Trick) {
        self.state.lock().expect("no panic").tricks.push_back(trick);
    }

    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no panic"))
    }

    /// As a restart of the daemon looks to those who are attached.
    pub fn drop_connections(&self) {
        for connection in self.with(|state| std::mem::take(&mut state.connections)) {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Nobody listens any more.
    pub fn stop(&self) {
        for name in ["ccdd.sock", "control.sock"] {
            std::fs::remove_file(self.folder.path().join(name)).expect("the socket is there");
        }
        self.drop_connections();
    }

    fn listen(&self, name: &str, service: Service) {
        let listener = UnixListener::bind(self.folder.path().join(name)).expect("the socket is free");
        let state = Arc::clone(&self.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state, service));
            }
        });
    }

    pub fn ccdadm(&self, args: &[&str]) -> Ran {
        run("ccdadm", Some(self.folder.path()), args, "")
    }

    pub fn ccdctl(&self, args: &[&str]) -> Ran {
        run("ccdctl", Some(self.folder.path()), args, "")
    }
}

/// Ends with the connection; a failure to read or write is the client's going away.
fn serve(mut stream: UnixStream, state: &Mutex<State>, service: Service) -> Option<()> {
    let handle = stream.try_clone().ok()?;
    state.lock().expect("no panic").connections.push(handle);
    let mut preamble = [0; 4];
    stream.read_exact(&mut preamble).ok()?;
    stream.write_all(&wire::PREAMBLE).ok()?;
    wire::check_preamble(preamble).expect("the client speaks the protocol");
    loop {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).ok()?;
        let mut body = vec![0; wire::request_len(prefix).expect("within the limit")];
        stream.read_exact(&mut body).ok()?;
        let request = wire::decode_request(&body).expect("it decodes");
        assert!(
            request.body.service() <= service,
            "{request:?} on the wrong socket"
        );
        let mut state = state.lock().expect("no panic");
        state.asked.push(request.body.clone());
        let told = match state.tricks.pop_front() {
            None if matches!(request.body, Ask::Watch(_)) => {
                let position = state.database.position();
                let absent = Vec::new();
                let mut items = vec![WatchItem::Began { position, absent }];
                items.extend(state.watched.pop_front().unwrap_or_default());
                for item in items {
                    let body = Told::Watched(item);
                    let frame = wire::encode_reply(&FromDaemon { id: 0, body }).expect("it is small");
                    stream.write_all(&frame).ok()?;
                }
                continue;
            }
            None => state.answer(&request.body),
            Some(Trick::Say(told)) => told,
            Some(Trick::Hang) => continue,
            Some(Trick::Drop) => {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return None;
            }
            Some(Trick::ApplyAndDrop) => {
                state.answer(&request.body);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return None;
            }
            Some(Trick::ApplyAndForget) => {
                state.answer(&request.body);
                Told::Refused(Refusal::Unknown {
                    why: "the server was lost".into(),
                })
            }
        };
        drop(state);
        let reply = FromDaemon {
            id: request.id,
            body: told,
        };
        stream
            .write_all(&wire::encode_reply(&reply).expect("it is small"))
            .ok()?;
    }
}

impl State {
    fn answer(&mut self, ask: &Ask) -> Told {
        let request = match ask {
            Ask::Status => return Told::Status(Box::new(self.status.clone())),
            Ask::Why { count } => return Told::Decisions(vec![decision(); (*count).min(2) as usize]),
            Ask::History(_) | Ask::Changes(_) | Ask::Branches | Ask::Branch { .. } | Ask::Watch(_) => {
                return past::answer(self, ask);
            }
            Ask::Request(request) => request,
        };
        let refused = |error: OpError| Told::Refused(Refusal::Op(error));
        let position = self.database.position();
        match &request.body {
            RequestBody::Query { pattern, .. } => match self.database.query(pattern) {
                Ok(rows) => Told::Rows { position, rows },
                Err(error) => refused(error),
            },
            RequestBody::Keys { .. } => Told::Keys {
                position,
                keys: self.database.keys(),
            },
            RequestBody::Snapshot { .. } => Told::Snapshot {
                image: self.database.to_image(),
            },
            RequestBody::Update(update) => self.update(update).unwrap_or_else(refused),
            RequestBody::Outcome { request } => Told::Outcome {
                committed: self.database.outcome(*request),
            },
            RequestBody::Verify { .. } => Told::Verified(self.copies.clone()),
            RequestBody::Drill => Told::Drilled(self.drilled.clone()),
            RequestBody::Leave
            | RequestBody::Join
            | RequestBody::Takeover { .. }
            | RequestBody::Reconfigure { .. }
            | RequestBody::Maintenance { .. }
            | RequestBody::ChangeNodes(_)
            | RequestBody::Quorum(_)
            | RequestBody::Designate { .. } => Told::Done,
        }
    }

    fn update(&mut self, asked: &UpdateRequest) -> Result<Told, OpError> {
        let update = Update {
            request: asked.request,
            who: asked.who.clone(),
            date: asked.date,
            reason: asked.reason.clone(),
            preconditions: asked.preconditions.clone(),
            ops: asked.ops.clone(),
        };
        let (admitted, removed) = self.database.admit(&update)?;
        if asked.dry_run {
            return Ok(Told::WouldApply { removed });
        }
        let (record, next) = Record::updates(
            &self.database,
            Epoch(1),
            admitted,
            vec![update],
            NodeSet::of(node(0)),
        );
        past::remember(self, &record);
        self.database = next;
        Ok(Told::Committed {
            position: self.database.position(),
            removed: Some(removed),
        })
    }
}

/// A daemon with the key of Fig. 6 and two rows.
pub fn fake_with_rows() -> Fake {
    let fake = Fake::start();
    fake.ccdadm(&[
        "format",
        "MY_KEY",
        "clustname",
        "number_nodes",
        "network_type",
        "node_names",
    ])
    .expect(0);
    fake.ccdadm(&["add", "MY_KEY", "clust0", "4", "sci", "foo,bar,moo,boo"])
        .expect(0);
    fake.ccdadm(&["add", "MY_KEY", "clust1", "2", "eth", "fd00::1"])
        .expect(0);
    fake
}
