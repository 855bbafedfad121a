//! Updates at the members that do not drive them: prepared, then committed or rolled back as the master says (Fig. 3,
//! steps 4 to 6), and which queries wait meanwhile.
//!
//! Owns `prepared`.

use crate::database::{Key, Op, Record, RecordBody};
use crate::ids::{Epoch, NodeId, Position, Replica};
use crate::protocol::Node;
use crate::protocol::message::Message;
use crate::protocol::replicas::Purpose;
use crate::replica::{ReplicaError, ReplicaErrorKind, ReplicaOp};
use alloc::string::ToString;
use alloc::sync::Arc;

/// How many rounds that were rolled back are remembered: more than can overtake a copy of one of them.
const UNDONE_MAX: usize = 1024;

/// A round that another node drives: durable here, and waiting for its unfreeze.
#[derive(Debug)]
pub(in crate::protocol) struct Prepared {
    record: Arc<Record>,
    stored: bool,
    undone: bool,
    /// The master was told that a query waits for it.
    asked: bool,
}

impl Prepared {
    pub fn position(&self) -> Position {
        self.record.next
    }

    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// Whether a query of this key must wait until the record is committed or rolled back.
pub(in crate::protocol) fn affects(record: &Record, key: Option<&Key>) -> bool {
    let RecordBody::Updates { updates, .. } = &record.body else {
        return false;
    };
    updates
        .iter()
        .flat_map(|update| &update.ops)
        .any(|op| match (op, key) {
            (_, None) | (Op::ReplaceAll { .. } | Op::LoadAll { .. } | Op::Purify, _) => true,
            (Op::Add(row), Some(key)) => row.key == *key,
            (Op::Remove(pattern), Some(key)) => pattern.key == *key,
            (
                Op::Format { key: of, .. }
                | Op::RemoveFormat(of)
                | Op::ReplaceKey { key: of, .. }
                | Op::LoadKey { key: of, .. },
                Some(key),
            ) => of == key,
        })
}

impl Node {
    /// Whether a strict query of this key (of all keys, if `None`) can be answered now.
    pub(in crate::protocol) fn can_read(&self, key: Option<&Key>) -> bool {
        if self.is_open() {
            self.read_lease_holds()
                && !self
                    .prepared
                    .as_ref()
                    .is_some_and(|prepared| affects(&prepared.record, key))
        } else {
            self.valid_by_half() && self.doubt().spares(key)
        }
    }

    /// A query waits: if it is for the unfreeze of the prepared round, the master sends that as soon as it can.
    pub(in crate::protocol) fn ask_for_unfreeze(&mut self) {
        if !self.is_open() || !self.read_lease_holds() {
            return;
        }
        let (epoch, master) = (self.known.epoch, self.known.master());
        let prepared = self.prepared.as_mut();
        if let Some(prepared) = prepared.filter(|prepared| !prepared.asked && !prepared.undone)
            && let Some(master) = master
        {
            prepared.asked = true;
            let position = prepared.record.next;
            self.send(master, Message::UnfreezeAsk { epoch, position });
        }
    }

    /// Who drives the rounds of this epoch, if this node takes part in them now.
    fn master_of_rounds(&mut self, from: NodeId, epoch: Epoch) -> Option<NodeId> {
        if epoch != self.known.epoch || self.sealed() || self.is_master() {
            return None;
        }
        // Only the master makes rounds; any member may pass them on.
        let master = self
            .known
            .master()
            .filter(|_| self.known.members.contains(from))?;
        if self.serving != Some(epoch) {
            // The master is open, so all members were ready.
            self.on_open(epoch);
        }
        self.is_open().then_some(master)
    }

    /// Whether the request of this round is to be fetched; the master hears it if this node has it already.
    pub(in crate::protocol) fn wants_update(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        position: Position,
    ) -> bool {
        let Some(master) = self.master_of_rounds(from, epoch) else {
            return false;
        };
        let prepared = self.prepared.as_ref();
        let here = prepared.filter(|prepared| prepared.record.next == position);
        if position == self.committed.position()
            || here.is_some_and(|prepared| prepared.stored && !prepared.undone)
        {
            self.send(master, Message::UpdateAck { epoch, position });
            return false;
        }
        here.is_none()
            && position.stamp > self.committed.position().stamp
            && !self.undone_unseen.contains(&position)
    }

    pub(in crate::protocol) fn on_update_req(&mut self, from: NodeId, epoch: Epoch, record: Arc<Record>) {
        let Some(master) = self.master_of_rounds(from, epoch) else {
            return;
        };
        let position = record.next;
        if self.undone_unseen.contains(&position) {
            return;
        }
        if position == self.committed.position() {
            self.send(master, Message::UpdateAck { epoch, position });
            return;
        }
        if let Some(prepared) = &self.prepared {
            if prepared.record.next == position {
                if prepared.stored && !prepared.undone {
                    self.send(master, Message::UpdateAck { epoch, position });
                }
                return;
            }
            if prepared.record.next == record.prev && prepared.stored {
                // The master goes on from it: it is committed.
                self.commit_prepared();
            }
        }
        let Some(applied) = self.apply_to_head(from, epoch, &record) else {
            return;
        };
        match applied {
            Ok(next) if self.prepared.is_none() => {
                self.pass_on(epoch, &record);
                self.head = next;
                self.history.push(Arc::clone(&record));
                self.rolled_back = None;
                let op = ReplicaOp::Append {
                    record: Arc::clone(&record),
                    then_survey: false,
                };
                self.ask(Replica::Local, op, Purpose::Prepare { position });
                self.prepared = Some(Prepared {
                    record,
                    stored: false,
                    undone: false,
                    asked: false,
                });
            }
            Ok(_) => {}
            // A copy of an earlier round's message.
            Err(_) if record.next.stamp <= self.committed.position().stamp => {}
            Err(error) => {
                let why = error.to_string();
                self.send(master, Message::UpdateNack { epoch, position, why });
            }
        }
    }

    pub(in crate::protocol) fn on_prepared_stored(
        &mut self,
        position: Position,
        error: Option<ReplicaError>,
    ) {
        let (epoch, sealed, master) = (self.known.epoch, self.sealed(), self.known.master());
        let Some(prepared) = self
            .prepared
            .as_mut()
            .filter(|prepared| prepared.record.next == position)
        else {
            return;
        };
        let Some(master) = master else {
            return;
        };
        match error {
            None => {
                prepared.stored = true;
                if !sealed {
                    self.send(master, Message::UpdateAck { epoch, position });
                }
            }
            Some(error) if error.kind == ReplicaErrorKind::Full && !prepared.undone => {
                let first = !self.journal_was_full;
                self.journal_was_full = true;
                if first {
                    let op = ReplicaOp::WriteImage {
                        database: self.head.clone(),
                    };
                    self.ask(Replica::Local, op, Purpose::Prepare { position });
                } else {
                    self.send(
                        master,
                        Message::UpdateNack {
                            epoch,
                            position,
                            why: error.text,
                        },
                    );
                }
            }
            // The copy cannot be written. That is no word against the update: this node has stopped serving, and the round
            // ends in a successor without it.
            Some(_) => {}
        }
    }

    /// No late copy of its request may bring this round back. One that was committed since makes that impossible anyway.
    pub(in crate::protocol) fn note_undone(&mut self, position: Position) {
        if self.undone_unseen.contains(&position) {
            return;
        }
        if self.undone_unseen.len() == UNDONE_MAX {
            self.undone_unseen.pop_front();
        }
        self.undone_unseen.push_back(position);
    }

    fn commit_prepared(&mut self) {
        if self.prepared.take().is_some() {
            self.undone_unseen.clear();
            self.committed = self.head.clone();
            self.journal_was_full = false;
        }
    }

    pub(in crate::protocol) fn on_unfreeze(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        position: Position,
        commit: bool,
    ) {
        if epoch != self.known.epoch || self.sealed() || self.known.master() != Some(from) {
            return;
        }
        let here = self
            .prepared
            .as_ref()
            .is_some_and(|prepared| prepared.record.next == position);
        if commit {
            if here {
                self.commit_prepared();
            }
            return;
        }
        if !here {
            // It never came here, or is undone already. Should its request come yet, it comes too late.
            self.note_undone(position);
            if self.head.position() != position && self.prepared.is_none() {
                self.send(from, Message::UnfreezeAck { epoch, position });
            }
            return;
        }
        let Some(prepared) = self.prepared.as_mut().filter(|prepared| !prepared.undone) else {
            return;
        };
        prepared.undone = true;
        let shadow = self.committed.clone();
        self.return_to_shadow(position, shadow, Purpose::UndoPrepared { position });
    }

    pub(in crate::protocol) fn on_undo_stored(&mut self, position: Position, error: Option<ReplicaError>) {
        let undone = (self.prepared.as_ref())
            .is_some_and(|prepared| prepared.undone && prepared.record.next == position);
        if !undone || error.is_some() {
            return;
        }
        self.prepared = None;
        if let Some(master) = self.known.master().filter(|_| !self.sealed()) {
            let epoch = self.known.epoch;
            self.send(master, Message::UnfreezeAck { epoch, position });
        }
    }

    /// The master's heartbeat says how far it has committed, in case an unfreeze was lost.
    pub(in crate::protocol) fn on_master_position(&mut self, from: NodeId, position: Position) {
        let committed = (self.prepared.as_ref())
            .is_some_and(|prepared| prepared.stored && !prepared.undone && prepared.record.next == position);
        if committed && self.known.master() == Some(from) && !self.sealed() {
            self.commit_prepared();
        }
    }
}
