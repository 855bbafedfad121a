//! A server that is removed while it does not hear of it, and whose number is given to another one: it returns, and both run.
//!
//! ```text
//! node 1's server is stopped, cut off from everything, or dead
//! an operator removes node 1, as soon as the others can, and adds a server with its number
//! the new one starts with an empty state folder; the removed one returns at some time, before, meanwhile or after
//! ```
//!
//! Once a history. The operator goes on until it is done, also after all faults have ended: then the new server is a member like any other,
//! and the removed one still runs. The invariant of its own: a run that knows that its number is another server's writes to no device.

use super::asks::Asker;
use super::happening::Happening;
use super::run::RECOVERY_MAX;
use super::server::Server;
use super::unsound::Unsound;
use super::world::World;
use ccd_core::client::RequestBody;
use ccd_core::ids::{DeviceRole, Replica, ServerId};
use ccd_core::init::NodeEdit;
use ccd_core::protocol::Event;
use ccd_core::replica::ReplicaOp;
use core::time::Duration;

/// How often the operator looks, and how long a command waits.
const OPERATOR_LOOKS: Duration = Duration::from_millis(150);
const OPERATOR_PATIENCE: Duration = Duration::from_secs(3);

/// How a server is kept from hearing that it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Stopped,
    CutOff,
    Isolated,
    Dead,
}

/// A server that gives its number to another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced {
    server: usize,
    id: ServerId,
    away: Away,
    /// Where the new one is.
    by: Option<usize>,
}

impl World {
    /// Where the server is that has the number of this one now.
    pub fn holder(&self, server: usize) -> usize {
        let replaced = self.replaced.filter(|replaced| replaced.server == server);
        replaced.and_then(|replaced| replaced.by).unwrap_or(server)
    }

    /// Begins, unless it was begun before. Returns whether.
    pub(super) fn replace_begins(&mut self, server: usize, until: super::moment::Moment) -> bool {
        if self.replaced.is_some() {
            return false;
        }
        let away = [Away::Stopped, Away::CutOff, Away::Isolated, Away::Dead];
        let away = *self.chance.pick(&away);
        self.log.line(
            self.now,
            format_args!("n{server} is {away:?}, and is to be replaced by another server"),
        );
        self.replaced = Some(Replaced {
            server,
            id: self.servers[server].server_id(),
            away,
            by: None,
        });
        match away {
            Away::Stopped => self.pause(server),
            Away::CutOff | Away::Isolated => {
                for other in (0..self.shape.nodes).filter(|other| *other != server) {
                    self.network.cut(server, other);
                    self.network.cut(other, server);
                }
                if away == Away::CutOff {
                    DeviceRole::ALL
                        .into_iter()
                        .for_each(|role| self.media.lose_path(server, role));
                }
            }
            Away::Dead => self.crash(server, false),
        }
        self.at(until, Happening::ReplacedReturns);
        self.after(OPERATOR_LOOKS, Happening::OperatorLooks);
        true
    }

    pub(super) fn replaced_returns(&mut self) {
        // All faults have ended: it is back.
        let Some(Replaced { server, away, .. }) = self.replaced.filter(|_| self.faulty) else {
            return;
        };
        match away {
            Away::Stopped => self.resume(server),
            Away::CutOff | Away::Isolated => {
                for other in (0..self.servers.len()).filter(|other| *other != server) {
                    if self.servers[other].is_copy() || other >= self.shape.nodes {
                        continue;
                    }
                    self.network.mend(server, other);
                    self.network.mend(other, server);
                    let node = self.node_id(other);
                    self.tell(server, Event::Reachable { node });
                }
                if away == Away::CutOff {
                    DeviceRole::ALL
                        .into_iter()
                        .for_each(|role| self.media.return_path(server, role));
                }
            }
            Away::Dead => self.start(server),
        }
    }

    /// The operator takes the next step, as far as the cluster is ready for it, and looks again.
    pub(super) fn operator_looks(&mut self) {
        let Some(replaced) = self.replaced.filter(|replaced| replaced.by.is_none()) else {
            return;
        };
        self.after(OPERATOR_LOOKS, Happening::OperatorLooks);
        let Replaced { server, id, .. } = replaced;
        let node = self.node_id(server);
        let latest = self.ledger.latest_configuration().clone();
        if latest.is_genesis() {
            return;
        }
        if latest.nodes.contains(node) && latest.servers.get(node).differs_from(id) {
            // The init database that names the new one is copied from a server that goes by it.
            let has_it = |other: &Server| other.inits.file.digest == latest.init_digest;
            let from = (0..self.shape.nodes).find(|other| *other != server && has_it(&self.servers[*other]));
            if let Some(from) = from {
                let by = self.succeed_server(server, from);
                self.replaced = Some(Replaced {
                    by: Some(by),
                    ..replaced
                });
                self.log
                    .line(self.now, format_args!("n{by} has the number of n{server}"));
                self.start(by);
            }
            return;
        }
        let edit = if latest.nodes.contains(node) {
            NodeEdit::Remove {
                node: super::inits::name(server),
            }
        } else {
            NodeEdit::Add {
                number: Some(node),
                name: super::inits::name(server),
                addresses: vec![format!("10.0.1.{}", server + 1).parse().expect("an address")],
            }
        };
        let others: Vec<usize> = (0..self.shape.nodes)
            .filter(|other| *other != server && self.servers[*other].is_awake())
            .collect();
        if !others.is_empty() {
            let asked = *self.chance.pick(&others);
            self.ask(
                asked,
                Asker::Nobody,
                RequestBody::ChangeNodes(edit),
                OPERATOR_PATIENCE,
            );
        }
    }

    /// After all faults: the number is given to the new server, which then runs.
    pub(super) fn finish_replacing(&mut self) -> Result<(), Unsound> {
        let done = |world: &Self| world.replaced.is_none_or(|replaced| replaced.by.is_some());
        if !self.run_until(RECOVERY_MAX, done) {
            return self.liveness("invariant_a_number_can_be_given_to_another_server", "an operator");
        }
        if let Some(by) = self.replaced.and_then(|replaced| replaced.by) {
            self.start(by);
        }
        Ok(())
    }

    /// A run whose own newest configuration gives its number to another server leaves the devices alone.
    pub(super) fn invariant_removed_servers_write_nothing(
        &self,
        index: usize,
        replica: Replica,
        op: &ReplicaOp,
    ) -> Result<(), Unsound> {
        let is_read = matches!(op, ReplicaOp::Open | ReplicaOp::Survey | ReplicaOp::Load);
        if is_read || replica == Replica::Local {
            return Ok(());
        }
        let server = &self.servers[index];
        let known = server.process.as_ref().map(|process| process.node.epoch());
        let known = known.and_then(|epoch| self.ledger.configuration(epoch));
        let owner = known.map_or(ServerId::default(), |known| known.servers.get(server.id));
        if owner.differs_from(server.server_id()) {
            let text = format!("n{index} writes to the {replica} and knows that it was removed: {op:?}");
            return Err(Unsound::new("invariant_removed_servers_write_nothing", text));
        }
        Ok(())
    }
}
