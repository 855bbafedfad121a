//! A daemon of one node that keeps its database in memory, speaks the real protocol on real sockets, and can be told
//! to misbehave; and a way to run the programs. Used by `client.rs` and `commands.rs`.

#![allow(dead_code, reason = "each test program uses a part")]

use ccd_client::Places;
use ccd_client::wire::{
    self, Ask, ConnectionReport, DatedDecision, FromDaemon, LinkReport, LinkState, NodeName, Service,
    StatusReport, Told,
};
use ccd_core::client::{Refusal, RequestBody, UpdateRequest, VerifiedCopy};
use ccd_core::configuration::{Configuration, Mode};
use ccd_core::database::{Database, OpError, Record, Update};
use ccd_core::drill::DrillReport;
use ccd_core::ids::{ClusterId, DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, Position};
use ccd_core::init::Fencing;
use ccd_core::protocol::{Decision, DecisionKind, DeviceStatus, NodeStatus, Part, ServingState, Status};
use ccd_core::time::Date;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
        let (_, next) = Record::updates(
            &self.database,
            Epoch(1),
            admitted,
            vec![update],
            NodeSet::of(node(0)),
        );
        self.database = next;
        Ok(Told::Committed {
            position: self.database.position(),
            removed: Some(removed),
        })
    }
}

fn decision() -> DatedDecision {
    DatedDecision {
        date: Date(861_184_187_000),
        node: node(0),
        decision: Decision {
            kind: DecisionKind::StoppedServing,
            configuration: Some(configuration()),
            text: "the lease ran out".into(),
        },
    }
}

fn configuration() -> Configuration {
    let nodes: NodeSet = [node(0), node(1)].into_iter().collect();
    let devices: DeviceSet = DeviceRole::ALL.into_iter().collect();
    Configuration {
        epoch: Epoch(6),
        mode: Mode::Paired,
        members: nodes,
        ..Configuration::genesis(nodes, devices)
    }
}

/// Two nodes and two devices, all well.
fn report() -> StatusReport {
    let nodes = [node(0), node(1)];
    StatusReport {
        cluster_name: "prod".into(),
        cluster_id: ClusterId([0xab; 16]),
        status: Status {
            me: node(0),
            state: ServingState::Serving,
            verdict: String::new(),
            configuration: Some(configuration()),
            position: Position::EMPTY,
            rows: 12,
            date: Date(0),
            nodes: nodes
                .map(|id| NodeStatus {
                    id,
                    member: true,
                    heard: true,
                    seen_on_disk: true,
                    serving: true,
                    position: Some(Position::EMPTY),
                    lease: (id != node(0)).then_some(Duration::from_millis(870)),
                })
                .to_vec(),
            devices: DeviceRole::ALL
                .map(|role| DeviceStatus {
                    role,
                    usable: true,
                    in_sync: true,
                    error: None,
                    reservation: None,
                    registered: true,
                })
                .to_vec(),
            external: None,
            survives: nodes
                .map(|id| (Part::Node(id), true))
                .into_iter()
                .chain(DeviceRole::ALL.map(|role| (Part::Device(role), true)))
                .collect(),
        },
        node_names: vec![
            NodeName {
                id: node(0),
                name: "alpha".into(),
            },
            NodeName {
                id: node(1),
                name: "beta".into(),
            },
        ],
        device_paths: DeviceRole::ALL
            .map(|role| (role, format!("/dev/{role}")))
            .to_vec(),
        fencing: Fencing::Lease,
        lease: Duration::from_secs(1),
        daemon_version: "0.1.0".into(),
        daemon_pid: 4711,
        uptime: Duration::from_secs(9),
        links: vec![
            LinkReport {
                node: node(1),
                address: "10.0.0.2:5640".parse().expect("it is an address"),
                state: LinkState::Up,
                preferred: true,
                connection: Some(ConnectionReport {
                    version: 1,
                    epoch: Epoch(6),
                    authkey: "0123456789abcdef".into(),
                }),
                trouble: String::new(),
            },
            LinkReport {
                node: node(1),
                address: "10.1.0.2:5640".parse().expect("it is an address"),
                state: LinkState::Down,
                preferred: false,
                connection: None,
                trouble: "cannot connect: no route".into(),
            },
        ],
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics, showing everything, unless the program ended so.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?} in {self:#?}"
        );
        self
    }

    /// An error has an id, what failed, why, and what to try.
    #[track_caller]
    pub fn expect_error(self, code: i32, id: &str, text: &str) -> Self {
        let ran = self.expect(code).says(text);
        assert!(
            ran.stderr.contains(&format!(": {id}: cannot ")),
            "no {id} in {ran:#?}"
        );
        assert!(ran.stderr.contains("\ntry: "), "nothing to try in {ran:#?}");
        ran
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

/// Runs a program with all three folders in `folder`, and `input` on standard input.
pub fn run(program: &str, folder: Option<&Path>, args: &[&str], input: &str) -> Ran {
    let path = match program {
        "ccdadm" => env!("CARGO_BIN_EXE_ccdadm"),
        _ => env!("CARGO_BIN_EXE_ccdctl"),
    };
    let mut command = Command::new(path);
    for name in ["CCD_ETC", "CCD_STATE", "CCD_RUN"] {
        match folder {
            Some(folder) => command.env(name, folder),
            None => command.env_remove(name),
        };
    }
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that reads no input may be gone already.
    let _ = child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    Ran {
        code: status.code().expect("it was not killed"),
        stdout: String::from_utf8(stdout).expect("it writes UTF-8"),
        stderr: String::from_utf8(stderr).expect("it writes UTF-8"),
    }
}
