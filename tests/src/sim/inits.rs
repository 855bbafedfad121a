//! The init databases of the simulated servers: a file and a staged one each, which survive crashes, and which decide whether
//! two servers have a connection, as the handshake of the daemon does.

use super::plan::Shape;
use super::world::{CLUSTER, LEASE, World};
use ccd_core::configuration::Configuration;
use ccd_core::ids::NodeId;
use ccd_core::init::InitFile;
use ccd_core::protocol::Event;
use core::time::Duration;
use std::fmt::Write;

/// What the folder of one server holds, and what its process goes by.
#[derive(Clone, Debug)]
pub struct Inits {
    pub file: InitFile,
    pub staged: Option<InitFile>,
    /// The one that the process went by before, which it still accepts.
    before: Option<[u8; 32]>,
}

/// How long storing a text takes.
const STAGING: Duration = Duration::from_millis(2);

/// How long it takes to be refused by a peer.
const HANDSHAKE: Duration = Duration::from_millis(1);

/// `node0`, `node1`, …
pub fn name(server: usize) -> String {
    format!("node{server}")
}

/// The init database of a cluster of this shape.
pub fn init_of(shape: Shape) -> InitFile {
    let mut text = format!("CLUSTER:sim:{CLUSTER}\n");
    for node in shape.node_set().iter() {
        let (number, name) = (node.index(), name(node.index()));
        writeln!(
            text,
            "NODE:{number}:{name}:{:016x}\nADDRESS:{name}:10.0.0.{}:",
            number + 1,
            number + 1
        )
        .expect("it is memory");
    }
    for role in shape.device_set().iter() {
        writeln!(text, "DEVICE:{role}:/dev/{role}").expect("it is memory");
    }
    if shape.devices > 0 {
        text.push_str("OPTION:fencing:lease\n");
    }
    InitFile::parse(&text).expect("it is a good init database")
}

impl Inits {
    pub fn new(file: InitFile) -> Self {
        Self {
            file,
            staged: None,
            before: None,
        }
    }

    /// The administrator writes another file while the server is down.
    pub fn replace(&mut self, file: InitFile) {
        *self = Self::new(file);
    }

    /// What the option says, or the simulator's own.
    pub fn lease(&self) -> Duration {
        let said = (self.file.text.lines()).find_map(|row| row.strip_prefix("OPTION:lease_ms:"));
        said.map_or(LEASE, |ms| {
            Duration::from_millis(ms.parse().expect("the file was read"))
        })
    }

    /// The process of this server is gone.
    pub fn forget(&mut self) {
        self.before = None;
    }

    fn accepts(&self) -> impl Iterator<Item = [u8; 32]> {
        let staged = self.staged.as_ref().map(|staged| staged.digest);
        [Some(self.file.digest), staged, self.before]
            .into_iter()
            .flatten()
    }

    /// Whether the one, as `from`, has a connection to the other, as `to`.
    fn meets(&self, from: NodeId, other: &Self, to: NodeId) -> bool {
        let is_same = |node| !(self.file.servers.get(node)).differs_from(other.file.servers.get(node));
        is_same(from)
            && is_same(to)
            && self.file.nodes.contains(to)
            && other.file.nodes.contains(from)
            && self
                .accepts()
                .any(|digest| other.accepts().any(|other| other == digest))
    }
}

impl World {
    /// The last servers of the shape are there, but of no cluster yet. Before anything runs.
    pub fn keep_spare(&mut self, spares: usize) {
        self.shape.nodes -= spares;
        let init = init_of(self.shape);
        for server in &mut self.servers {
            server.inits = Inits::new(init.clone());
        }
        self.begin_from(Configuration::genesis(
            self.shape.node_set(),
            self.shape.device_set(),
        ));
    }

    pub(super) fn are_connected(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.servers[from], &self.servers[to]);
        from.inits.meets(from.id, &to.inits, to.id)
    }

    /// Which server this one reaches at the addresses of a node: the one that its init database means, if it is there.
    pub(super) fn server_at(&self, from: usize, node: NodeId) -> usize {
        let meant = self.servers[from].inits.file.servers.get(node);
        (self.servers.iter())
            .position(|server| {
                server.id == node && !server.is_copy() && !server.server_id().differs_from(meant)
            })
            .unwrap_or(node.index())
    }

    /// A server is refused by one that is up. It is told how far the cluster has come, if that one is the node that it means, and which server
    /// has its number, if that is another one.
    pub(super) fn refuse(&mut self, from: usize, by: usize) {
        let (dialer, listener) = (&self.servers[from], &self.servers[by]);
        let is_cut = self.network.is_cut(from, by) || self.network.is_cut(by, from);
        let Some(process) = listener
            .process
            .as_ref()
            .filter(|_| listener.is_awake() && !is_cut)
        else {
            return;
        };
        let (id, epoch) = (listener.id, process.node.epoch());
        let newest = process.node.newest_stamp();
        let server = listener.inits.file.servers.get(dialer.id);
        let is_disowned = server.differs_from(dialer.server_id());
        let means = dialer.inits.file.servers.get(id);
        let is_meant = !means.differs_from(listener.inits.file.servers.get(id));
        self.judge(self.invariant_refusals_tell_of_what_was_committed(newest));
        if is_meant {
            self.answer(
                from,
                HANDSHAKE,
                Event::RefusedBy {
                    by: id,
                    epoch,
                    newest,
                },
            );
        }
        if is_disowned {
            let event = Event::Disowned {
                by: id,
                epoch,
                server,
            };
            self.answer(from, HANDSHAKE, event);
        }
    }

    pub(super) fn stage_init(&mut self, index: usize, init: InitFile) {
        let digest = init.digest;
        self.servers[index].inits.staged = Some(init);
        let result = Ok(());
        self.answer(index, STAGING, Event::Staged { digest, result });
    }

    pub(super) fn adopt_init(&mut self, index: usize, init: InitFile) {
        let inits = &mut self.servers[index].inits;
        inits.before = Some(inits.file.digest);
        inits.file = init;
        inits.staged = None;
    }

    /// The administrator appends a row to the init database of a server that is down.
    pub fn edit_init(&mut self, index: usize, row: &str) {
        assert!(
            self.servers[index].process.is_none(),
            "it reads it when it starts"
        );
        let text = format!("{}{row}\n", self.servers[index].inits.file.text);
        let file = InitFile::parse(&text).expect("the row is a good one");
        self.servers[index].inits.replace(file);
    }

    /// The administrator deletes the rows of a node from the init database of a server that is down.
    pub fn drop_node(&mut self, index: usize, node: usize) {
        assert!(
            self.servers[index].process.is_none(),
            "it reads it when it starts"
        );
        let name = name(node);
        let text: String = (self.servers[index].inits.file.text.lines())
            .filter(|line| !line.split(':').any(|column| column == name))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = InitFile::parse(&text).expect("the other rows are good ones");
        self.servers[index].inits.replace(file);
    }

    /// The administrator copies one server's init database to another.
    pub fn copy_init(&mut self, from: usize, to: usize) {
        let file = self.servers[from].inits.file.clone();
        self.servers[to].inits = Inits::new(file);
    }
}
