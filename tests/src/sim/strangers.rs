//! What should not be there: a second machine that is a copy of a server, or that got the number of one that still runs, and a disk that
//! only one server sees under the name of a shared one.

use super::moment::{Clock, Moment};
use super::server::Server;
use super::unsound::Unsound;
use super::world::World;
use ccd_core::ids::{DeviceRole, Replica};
use ccd_core::protocol::Decision;
use ccd_core::replica::ReplicaOp;

/// Numbers of machines from this one on are of servers that were moved.
const MACHINES_MAX: usize = 100;

impl World {
    /// A machine that is a copy of this server as it is now, with its state folder and its way to the shared devices, and no network. Its
    /// process does not run yet. Returns its number.
    pub fn copy_server(&mut self, index: usize) -> usize {
        let copy = self.servers.len();
        let from = &self.servers[index];
        let mut server = Server::new(
            from.id,
            Clock::new(from.clock.show(Moment::ZERO).nanos() + 1, 0),
            from.inits.file.clone(),
        );
        server.inits = from.inits.clone();
        server.told = from.told;
        server.machine = copy;
        server.copy_of = Some(index);
        self.servers.push(server);
        self.media.copy_server(index);
        self.local_latency_max.push(self.local_latency_max[index]);
        copy
    }

    /// The address of the node leads to this server, and no more to that other one of it.
    pub fn connect_instead(&mut self, server: usize, other: usize) {
        self.network.grow_to(self.servers.len());
        self.servers[server].copy_of = None;
        self.servers[other].copy_of = Some(server);
    }

    /// This server is another machine from its next start on, with the same state folder: it was put into other hardware.
    pub fn move_server(&mut self, index: usize) {
        self.moves += 1;
        self.servers[index].machine = MACHINES_MAX + self.moves;
    }

    /// This server opens a configuration.
    pub(super) fn note_two_runs(&mut self, index: usize) {
        let mut others = self.servers.iter().enumerate().filter(|(other, server)| {
            server.copy_of == Some(index) || self.servers[index].copy_of == Some(*other)
        });
        self.two_runs |= others.any(|(_, server)| server.process.is_some());
    }

    /// A server more, with an empty state folder, the number of this one and the init database of that one: the number was given to it
    /// after this server was removed. Its process does not run yet. Returns where it is.
    pub fn succeed_server(&mut self, index: usize, init_of: usize) -> usize {
        let successor = self.copy_server(index);
        let server = &mut self.servers[successor];
        server.copy_of = None;
        server.told = ccd_core::ids::Position::EMPTY;
        self.network.grow_to(self.servers.len());
        self.copy_init(init_of, successor);
        self.wipe_local(successor);
        successor
    }

    /// A copy of a server is started: each third one has the node's address, and the server has no network while that lasts.
    pub(super) fn start_copy(&mut self, copy: usize, of: usize) {
        if copy.is_multiple_of(3) && !self.servers[of].is_copy() {
            self.connect_instead(copy, of);
            self.copy_was_connected = true;
        }
        self.start(copy);
    }

    /// It is switched off for ever, and the server has its network again.
    pub(super) fn end_copy(&mut self, copy: usize, of: usize) {
        if self.servers[of].copy_of == Some(copy) {
            self.connect_instead(of, copy);
        }
        self.retire(copy);
    }

    /// All copies of servers are.
    pub(super) fn end_copies(&mut self) {
        for index in 0..self.shape.nodes {
            if let Some(copy) = self.servers[index].copy_of {
                self.end_copy(copy, index);
            }
        }
        (0..self.servers.len()).for_each(|index| self.retire(index));
    }

    /// If it is a copy of a server, it is switched off for ever.
    pub fn retire(&mut self, index: usize) {
        if self.servers[index].is_copy() {
            self.crash(index, true);
            self.servers[index].is_retired = true;
        }
    }

    /// From now on this server sees a disk of its own in place of the shared device: one that was made for the cluster as the other was,
    /// or a copy of it as it is now.
    pub fn separate_device(&mut self, index: usize, role: DeviceRole, is_copy: bool) {
        self.media.separate(index, role, is_copy);
    }

    /// As long as no device is put back or copied, each shows what was written to it, and nobody says that it does not.
    pub(super) fn invariant_nothing_is_missed_on_devices_that_keep_it(
        &self,
        index: usize,
        decision: &Decision,
    ) -> Result<(), Unsound> {
        if self.media.has_lost_writes || !decision.text.contains("lacks what") {
            return Ok(());
        }
        let text = format!("n{index}: {}", decision.text);
        Err(Unsound::new(
            "invariant_nothing_is_missed_on_devices_that_keep_it",
            text,
        ))
    }

    /// A configuration counts each node by one state folder: of a server and its copies, one promises and votes on its successor.
    pub(super) fn invariant_one_server_votes_as_a_node(
        &mut self,
        index: usize,
        replica: Replica,
        op: &ReplicaOp,
    ) -> Result<(), Unsound> {
        let (Replica::Local, ReplicaOp::WriteBallot { ballot }) = (replica, op) else {
            return Ok(());
        };
        let (node, instance) = (self.servers[index].id, ballot.instance);
        let known = self.ledger.configuration(instance);
        if !known.is_some_and(|known| known.folders.get(node).is_known()) {
            return Ok(());
        }
        let voter = *self.voted_by.entry((node, instance)).or_insert(index);
        if voter == index {
            return Ok(());
        }
        let text = format!("n{voter} and n{index} both promise as node {node} what comes after {instance}");
        Err(Unsound::new("invariant_one_server_votes_as_a_node", text))
    }

    /// This server sees the shared device again.
    pub fn share_device(&mut self, index: usize, role: DeviceRole) {
        self.media.share(index, role);
    }
}
