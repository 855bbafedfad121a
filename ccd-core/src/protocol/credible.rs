//! Checks what comes from outside against the init database before any part of the node believes it.
//!
//! A peer has proven that it holds the key of the cluster, and a block that it belongs to the region. Neither proves that the
//! content makes sense: a member may run a faulty release, and a stored configuration may be older than an edited `init.ccd`.
//! [`Bounds`] says what is possible; everything else is refused here, at the edge, so that no part behind it meets a device
//! that the cluster does not have, or a number that cannot be counted on.
//!
//! Called by `received.rs` with every message and by `replicas/mod.rs` with every answer of a replica. Pure; a table tests it.
//!
//! Owns `doubted`.

use super::Node;
use super::copies::parcels::Parcel;
use super::interface::DecisionKind;
use super::message::{DeviceReport, ForwardOutcome, Message, Obstacle, PeerState, Promise};
use crate::configuration::{Ballot, BallotBlock, Configuration, Mode, REASON_BYTES_MAX};
use crate::database::Record;
use crate::drill::Enforcement;
use crate::ids::{
    DeviceRole, DeviceSet, Epoch, Generation, Incarnation, NODES_MAX, NodeId, NodeSet, Position, ROUND_MAX,
    Replica, Stamp,
};
use crate::init::LEASE_MAX;
use crate::problem::{PROBLEM_TEXT_BYTES_MAX, Problem};
use crate::replica::{AreaSurvey, Loaded, ReplicaAnswer, ReplicaError, ReplicaErrorKind};
use crate::synchronization::COMMANDS_MAX;
use crate::time::Time;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// Most bytes of a text for people in a message: it ends in decision records. Standard error of a command has 4 KiB.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What the init database and the state of this node allow others to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub devices: DeviceSet,
    /// The nodes that the init database with this digest names.
    pub nodes: NodeSet,
    pub init_digest: [u8; 32],
    pub incarnation: Incarnation,
    pub now: Time,
}

/// Why something is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Incredible {
    #[error("it names the {role}, and the init database has no such device")]
    Device { role: DeviceRole },
    #[error("epoch {0} is more than the largest possible one, {max}", max = Epoch::MAX)]
    Epoch(Epoch),
    #[error("generation {0} is more than the largest possible one, {max}", max = Generation::MAX)]
    Generation(Generation),
    #[error("ballot round {0} is more than the largest possible one, {ROUND_MAX}")]
    Round(u64),
    #[error("the ballot is that of node {0}")]
    BallotOf(NodeId),
    #[error("the configuration of epoch {0} has no members")]
    NoMembers(Epoch),
    #[error("the configuration of epoch {epoch} is owned by node {owner}, which is not its only member")]
    Owner { epoch: Epoch, owner: NodeId },
    #[error("the configuration of epoch {epoch} counts node {nodes}, which its init database does not name")]
    Nodes { epoch: Epoch, nodes: NodeSet },
    #[error("the configuration of epoch {epoch} counts node {nodes}, which is not in its cluster")]
    NotInCluster { epoch: Epoch, nodes: NodeSet },
    #[error("the configuration of epoch {epoch} starts from {base}, which is not before it")]
    Base { epoch: Epoch, base: Stamp },
    #[error("a successor of epoch {instance} has epoch {epoch}")]
    Successor { instance: Epoch, epoch: Epoch },
    #[error("a text of {0} bytes is longer than any that a node writes")]
    Text(usize),
    #[error("a lease of {0:?} is longer than any init database allows")]
    Lease(Duration),
    #[error("{0} leases are more than there can be")]
    Leases(usize),
    #[error("{0} synchronization commands are not what an update runs")]
    Commands(usize),
    #[error("it answers a heartbeat that was not sent yet")]
    Echo,
}

/// From where something came that was not believed: recorded once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubted {
    Peer(NodeId),
    /// The area of this node on the replica.
    Area(Replica, NodeId),
}

type Checked = Result<(), Incredible>;

impl Bounds {
    pub fn message(&self, from: NodeId, message: &Message) -> Checked {
        match message {
            Message::Heartbeat(state) => self.peer_state(state),
            Message::HeartbeatAck {
                incarnation,
                echo,
                epoch: of,
                lease: _,
            } => {
                // An answer to an earlier run echoes that run's clock, and is ignored.
                if *incarnation == self.incarnation && Time::from_nanos(*echo) > self.now {
                    return Err(Incredible::Echo);
                }
                epoch(*of)
            }
            Message::ReportAsk => Ok(()),
            Message::Report { problems, .. } => problems.iter().try_for_each(|problem| self.problem(problem)),
            Message::Decided(configuration) | Message::Install { configuration, .. } => {
                self.configuration(configuration)
            }
            Message::Prepare { instance, ballot } => {
                epoch(*instance)?;
                ballot_of(from, *ballot)
            }
            Message::Promise {
                instance,
                ballot,
                promise,
            } => {
                epoch(*instance)?;
                round(*ballot)?;
                self.promise(*instance, promise)
            }
            Message::Accept {
                instance,
                ballot,
                configuration,
            } => {
                ballot_of(from, *ballot)?;
                self.successor(*instance, configuration)
            }
            Message::Accepted { instance, ballot } => {
                epoch(*instance)?;
                round(*ballot)
            }
            Message::BallotRefused {
                instance,
                ballot,
                obstacle,
            } => {
                epoch(*instance)?;
                round(*ballot)?;
                match obstacle {
                    Obstacle::Promised(ballot) => round(*ballot),
                    Obstacle::Later(configuration) => self.configuration(configuration),
                    Obstacle::Behind { epoch: of } => epoch(*of),
                    Obstacle::NoVote(_) => Ok(()),
                    Obstacle::Failed(why) | Obstacle::Unfit(why) => text(why),
                }
            }
            Message::Installed { epoch: of }
            | Message::Installing { epoch: of }
            | Message::Open { epoch: of }
            | Message::Designate { epoch: of, node: _ } => epoch(*of),
            Message::Fetch { have, image, base } => {
                position(*have)?;
                if let Some((of, _)) = image {
                    position(*of)?;
                }
                base.map_or(Ok(()), epoch)
            }
            Message::Tail { have, records } => {
                position(*have)?;
                records.iter().try_for_each(|record| self::record(record))
            }
            Message::ImageChunk { position: of, .. } => position(*of),
            Message::UpdateReq { epoch: of, record } => {
                epoch(*of)?;
                self::record(record)
            }
            Message::UpdateNack {
                epoch: of,
                position: at,
                why,
            } => {
                epoch(*of)?;
                position(*at)?;
                text(why)
            }
            Message::UpdateAck {
                epoch: of,
                position: at,
            }
            | Message::Unfreeze {
                epoch: of,
                position: at,
                commit: _,
            }
            | Message::UnfreezeAck {
                epoch: of,
                position: at,
            }
            | Message::UnfreezeAsk {
                epoch: of,
                position: at,
            } => {
                epoch(*of)?;
                position(*at)
            }
            Message::FreezeReq(freeze) => {
                epoch(freeze.id.epoch)?;
                let commands = freeze.summons.commands.len();
                if !(1..=COMMANDS_MAX).contains(&commands) {
                    return Err(Incredible::Commands(commands));
                }
                position(freeze.at)
            }
            Message::FreezeAck { id, result } => {
                epoch(id.epoch)?;
                (result.as_ref().err()).map_or(Ok(()), |veto| text(&veto.why))
            }
            Message::FreezeOver { id } => epoch(id.epoch),
            Message::Forward { epoch: of, .. } => epoch(*of),
            Message::ForwardReply {
                epoch: of, outcome, ..
            } => {
                epoch(*of)?;
                match outcome {
                    ForwardOutcome::Committed { position: at, .. } => position(*at),
                    ForwardOutcome::WouldApply { .. }
                    | ForwardOutcome::Refused(_)
                    | ForwardOutcome::NotMaster => Ok(()),
                }
            }
            Message::DrillReq { serial: _, role } => self.device(*role),
            Message::DrillAck {
                serial: _,
                role,
                proof,
            } => {
                self.device(*role)?;
                match proof {
                    Enforcement::Refused { how, .. } => text(how),
                    Enforcement::NotShown { why } => text(why),
                    Enforcement::Taken { .. } => Ok(()),
                }
            }
            Message::VerifyReq { position: at, .. } => position(*at),
            Message::VerifyAck { copy, .. } => position(copy.position),
            Message::InitStaged { refused, .. } => refused.as_deref().map_or(Ok(()), text),
            Message::Invalidate { epoch: of, why } => {
                epoch(*of)?;
                text(why)
            }
            Message::Offer { parcel, total: _ } => self::parcel(parcel),
            Message::ParcelFetch { parcel, offset: _ } => self::parcel(parcel),
            Message::ParcelPiece {
                parcel,
                offset: _,
                bytes: _,
            } => self::parcel(parcel),
            // Parsed and checked where they are read.
            Message::ChangeNodes { .. }
            | Message::NodesChanged { .. }
            | Message::StageInit { .. }
            | Message::InitAsk { .. } => Ok(()),
        }
    }

    /// The control blocks of one area.
    pub fn area(&self, area: &AreaSurvey) -> Checked {
        for heartbeat in area.heartbeat.iter().chain(&area.heartbeat_before) {
            stamp(heartbeat.stamp)?;
            for role in DeviceRole::ALL {
                epoch(heartbeat.traces.of(role).epoch)?;
            }
        }
        if let Some(block) = &area.ballot {
            self.ballot_block(block)?;
        }
        area.configuration
            .as_ref()
            .map_or(Ok(()), |configuration| self.configuration(configuration))
    }

    fn ballot_block(&self, block: &BallotBlock) -> Checked {
        epoch(block.instance)?;
        round(block.promised)?;
        self.accepted(block.instance, block.accepted.as_ref())
    }

    fn accepted(&self, instance: Epoch, accepted: Option<&(Ballot, Configuration)>) -> Checked {
        let Some((ballot, configuration)) = accepted else {
            return Ok(());
        };
        round(*ballot)?;
        self.successor(instance, configuration)
    }

    fn successor(&self, instance: Epoch, configuration: &Configuration) -> Checked {
        self.configuration(configuration)?;
        if configuration.epoch <= instance {
            return Err(Incredible::Successor {
                instance,
                epoch: configuration.epoch,
            });
        }
        Ok(())
    }

    fn configuration(&self, configuration: &Configuration) -> Checked {
        let of = configuration.epoch;
        epoch(of)?;
        position(configuration.base)?;
        self.device_set(configuration.devices)?;
        self.device_set(configuration.base_writers.devices)?;
        if configuration.reason.len() > REASON_BYTES_MAX {
            return Err(Incredible::Text(configuration.reason.len()));
        }
        if configuration.lease > LEASE_MAX {
            return Err(Incredible::Lease(configuration.lease));
        }
        if configuration.is_genesis() {
            return Ok(());
        }
        if configuration.members.is_empty() {
            return Err(Incredible::NoMembers(of));
        }
        if let Mode::Solo(owner) = configuration.mode
            && configuration.members != NodeSet::of(owner)
        {
            return Err(Incredible::Owner { epoch: of, owner });
        }
        if configuration.base.stamp.epoch >= of {
            let base = configuration.base.stamp;
            return Err(Incredible::Base { epoch: of, base });
        }
        let outside = configuration
            .nodes
            .union(configuration.members)
            .minus(configuration.cluster);
        if !outside.is_empty() {
            return Err(Incredible::NotInCluster {
                epoch: of,
                nodes: outside,
            });
        }
        // Another init database may name other nodes: its text is asked for before anything is voted on.
        let unnamed = (configuration.nodes.union(configuration.cluster))
            .union(configuration.members)
            .minus(self.nodes);
        if configuration.init_digest == self.init_digest && !unnamed.is_empty() {
            return Err(Incredible::Nodes {
                epoch: of,
                nodes: unnamed,
            });
        }
        Ok(())
    }

    fn peer_state(&self, state: &PeerState) -> Checked {
        epoch(state.epoch)?;
        position(state.position)?;
        self.device_set(state.devices)?;
        // What is said of a device is looked up by its role. Which nodes were found there says nothing: a node that a change has
        // added or removed may not be one of this init database yet, or still be.
        for role in DeviceRole::ALL {
            if *state.device_reports.of(role) != DeviceReport::default() {
                self.device(role)?;
            }
        }
        state.room.device.map_or(Ok(()), |(role, _)| self.device(role))
    }

    fn promise(&self, instance: Epoch, promise: &Promise) -> Checked {
        position(promise.position)?;
        promise.rolled_back.map_or(Ok(()), position)?;
        stamp(promise.settled)?;
        self.accepted(instance, promise.accepted.as_ref())?;
        // One for each node, and one for each that was removed.
        if promise.leases.len() > 2 * NODES_MAX {
            return Err(Incredible::Leases(promise.leases.len()));
        }
        let too_long = promise.leases.iter().find(|(_, left)| *left > LEASE_MAX);
        too_long.map_or(Ok(()), |(_, left)| Err(Incredible::Lease(*left)))
    }

    fn problem(&self, problem: &Problem) -> Checked {
        problem.device.map_or(Ok(()), |role| self.device(role))?;
        match problem.text.len().max(problem.next.len()) {
            bytes if bytes > PROBLEM_TEXT_BYTES_MAX => Err(Incredible::Text(bytes)),
            _ => Ok(()),
        }
    }

    fn device(&self, role: DeviceRole) -> Checked {
        if self.devices.contains(role) {
            Ok(())
        } else {
            Err(Incredible::Device { role })
        }
    }

    fn device_set(&self, devices: DeviceSet) -> Checked {
        devices.iter().try_for_each(|role| self.device(role))
    }
}

fn epoch(of: Epoch) -> Checked {
    if of > Epoch::MAX {
        return Err(Incredible::Epoch(of));
    }
    Ok(())
}

fn stamp(stamp: Stamp) -> Checked {
    epoch(stamp.epoch)?;
    if stamp.generation > Generation::MAX {
        return Err(Incredible::Generation(stamp.generation));
    }
    Ok(())
}

fn position(position: Position) -> Checked {
    stamp(position.stamp)
}

fn round(ballot: Ballot) -> Checked {
    if ballot.round > ROUND_MAX {
        return Err(Incredible::Round(ballot.round));
    }
    Ok(())
}

/// A node asks for votes on its own ballots only.
fn ballot_of(from: NodeId, ballot: Ballot) -> Checked {
    round(ballot)?;
    if ballot.node != from {
        return Err(Incredible::BallotOf(ballot.node));
    }
    Ok(())
}

fn record(record: &Record) -> Checked {
    position(record.prev)?;
    position(record.next)
}

fn parcel(parcel: &Parcel) -> Checked {
    match parcel {
        Parcel::Update {
            epoch: of,
            position: to,
        } => {
            epoch(*of)?;
            position(*to)
        }
        Parcel::Forward {
            epoch: of,
            request: _,
        } => epoch(*of),
    }
}

fn text(text: &str) -> Checked {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Incredible::Text(text.len()));
    }
    Ok(())
}

fn loaded(loaded: &Loaded) -> Checked {
    position(loaded.position)?;
    position(loaded.checkpoint.position())?;
    loaded.heads.iter().try_for_each(|(_, head)| position(*head))?;
    loaded.records.iter().try_for_each(record)
}

impl Node {
    fn bounds(&self) -> Bounds {
        Bounds {
            devices: self.settings.devices,
            nodes: self.settings.nodes,
            init_digest: self.settings.init.digest,
            incarnation: self.settings.incarnation,
            now: self.now,
        }
    }

    /// Whether a message may be believed; if not, that is recorded.
    pub(super) fn believes(&mut self, from: NodeId, message: &Message) -> bool {
        let Err(why) = self.bounds().message(from, message) else {
            return true;
        };
        self.call_incredible(
            Doubted::Peer(from),
            format!(
                "refused a message of node {from}: {why}; compare the release there (`ccdd --version`) and its \
                 /etc/ccd/init.ccd with this node's"
            ),
        );
        false
    }

    /// What a replica holds, as far as it can be believed. Blocks of another node that cannot be count as damaged: they say
    /// nothing, and the region is not taken for a new one.
    ///
    /// # Errors
    /// When the node's own area is not what this node can have written, or the content carries impossible numbers: nothing
    /// that the replica says may be used then, and nothing is written over what somebody must look at.
    pub(super) fn believed(
        &mut self,
        replica: Replica,
        mut answer: ReplicaAnswer,
    ) -> Result<ReplicaAnswer, ReplicaError> {
        let bounds = self.bounds();
        let survey = match &mut answer {
            ReplicaAnswer::Survey(survey)
            | ReplicaAnswer::Appended {
                survey: Some(survey), ..
            } => survey,
            ReplicaAnswer::Loaded(content) => {
                return match loaded(content) {
                    Ok(()) => Ok(answer),
                    Err(why) => Err(not_believed(replica, &why)),
                };
            }
            ReplicaAnswer::Written | ReplicaAnswer::Appended { survey: None, .. } => return Ok(answer),
        };
        for area in &mut survey.areas {
            let Err(why) = bounds.area(area) else {
                continue;
            };
            if area.node == self.settings.me {
                return Err(not_believed(replica, &why));
            }
            let node = area.node;
            *area = AreaSurvey {
                node,
                heartbeat: None,
                heartbeat_before: None,
                ballot: None,
                configuration: None,
                damaged: true,
            };
            self.call_incredible(
                Doubted::Area(replica, node),
                format!(
                    "refused the blocks of node {node} on the {replica}: {why}; `ccd-disk show` prints what stands there"
                ),
            );
        }
        Ok(answer)
    }

    fn call_incredible(&mut self, source: Doubted, text: String) {
        if self.doubted.insert(source) {
            self.record(DecisionKind::Alarm, text);
        }
    }
}

fn not_believed(replica: Replica, why: &Incredible) -> ReplicaError {
    ReplicaError {
        kind: ReplicaErrorKind::Foreign,
        text: format!(
            "what the {replica} holds does not fit the init database: {why}; `ccd-disk show` prints what it holds: give this \
             node the init.ccd that the cluster was last run with, and restart ccdd"
        ),
    }
}

#[cfg(test)]
mod tests;
