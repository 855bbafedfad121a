//! Getting the database from another node: the missing tail of the journal if the histories agree, else a whole image.
//!
//! Owns `catch_up` and, while not serving, `head`.

use super::Node;
use super::history::History;
use super::interface::DecisionKind;
use super::message::{IMAGE_CHUNK_BYTES, Message};
use super::replicas::Purpose;
use crate::database::{Database, Record};
use crate::ids::{NodeId, Position, Replica};
use crate::replica::{ReplicaError, ReplicaOp};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most records in one [`Message::Tail`].
const TAIL_RECORDS_MAX: usize = 256;

/// Most bytes of an image that is accepted from a peer; bounds what a wrong length can make this node allocate.
const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// A transfer under way.
#[derive(Debug)]
pub(super) struct CatchUp {
    from: NodeId,
    asked: bool,
    image: Option<(Position, Vec<u8>)>,
    /// Operations on the local copy not yet answered, and what it holds after them.
    storing: usize,
    next: Option<(Database, Vec<Arc<Record>>)>,
}

/// The image that is being sent: made once for a position, then cut into chunks.
pub(super) type Snapshot = Option<(Position, Vec<u8>)>;

impl Node {
    pub(super) fn catch_up_storing(&self) -> bool {
        self.catch_up
            .as_ref()
            .is_some_and(|catch_up| catch_up.storing > 0)
    }

    /// Asks `from` for what this copy lacks, unless that is under way.
    pub(super) fn fetch_from(&mut self, from: NodeId) {
        if self
            .catch_up
            .as_ref()
            .is_some_and(|catch_up| catch_up.from == from || catch_up.storing > 0)
        {
            return;
        }
        self.catch_up = Some(CatchUp {
            from,
            asked: false,
            image: None,
            storing: 0,
            next: None,
        });
        self.ask_for_more();
    }

    fn ask_for_more(&mut self) {
        let have = self.head.position();
        if let Some(catch_up) = self.catch_up.as_mut().filter(|catch_up| catch_up.storing == 0) {
            catch_up.asked = true;
            let image = catch_up
                .image
                .as_ref()
                .map(|(position, bytes)| (*position, bytes.len() as u64));
            let from = catch_up.from;
            self.send(from, Message::Fetch { have, image });
        }
    }

    /// At every heartbeat: an answer that did not come is asked for again, from a node that is still there.
    pub(super) fn repeat_catch_up(&mut self) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let (from, storing) = (catch_up.from, catch_up.storing);
        if storing == 0 && core::mem::replace(&mut catch_up.asked, false) {
            // Asked within the last interval: the answer may be on its way.
            return;
        }
        if storing == 0 && (!self.hears(from) || self.is_open()) {
            self.catch_up = None;
            return;
        }
        self.ask_for_more();
    }

    pub(super) fn on_fetch(&mut self, from: NodeId, have: Position, image: Option<(Position, u64)>) {
        let until = self.offered_position();
        if image.is_none() && have.stamp > until.stamp && self.history.has(have) {
            // It holds a round that is prepared here too: it must not go back behind it.
            let records = Vec::new();
            self.send(from, Message::Tail { have, records });
            return;
        }
        if image.is_none()
            && let Some(records) = self.history.between(have, until)
        {
            let records = records
                .iter()
                .take(TAIL_RECORDS_MAX)
                .map(|record| (**record).clone())
                .collect();
            self.send(from, Message::Tail { have, records });
            return;
        }
        let database = if self.is_open() {
            &self.committed
        } else {
            &self.head
        };
        let offset = match (&self.snapshot, image) {
            (Some((position, _)), Some((wanted, offset))) if *position == wanted => offset,
            // An image already made is good for a first chunk too: what came after it is in the journal.
            (Some((position, _)), _) if self.history.has(*position) => 0,
            _ => {
                self.snapshot = Some((database.position(), database.to_image()));
                0
            }
        };
        let ancestor = have == Position::EMPTY || self.history.has(have);
        if let Some((position, bytes)) = &self.snapshot {
            let (position, total) = (*position, bytes.len() as u64);
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(IMAGE_CHUNK_BYTES).min(bytes.len());
            let chunk = bytes[start..end].to_vec();
            let offset = start as u64;
            if end == bytes.len() {
                self.snapshot = None;
            }
            self.send(
                from,
                Message::ImageChunk {
                    position,
                    total,
                    offset,
                    bytes: chunk,
                    ancestor,
                },
            );
        }
    }

    /// Whether what a peer sends was asked for and can be taken now.
    fn expects(&self, from: NodeId) -> bool {
        !self.is_open()
            && self.ready()
            && (self.catch_up.as_ref()).is_some_and(|catch_up| catch_up.from == from && catch_up.storing == 0)
    }

    pub(super) fn on_tail(&mut self, from: NodeId, have: Position, records: Vec<Record>) {
        if !self.expects(from) || have != self.head.position() {
            return;
        }
        if records.is_empty() {
            self.catch_up = None;
            return;
        }
        let mut next = self.head.clone();
        let mut tail = Vec::new();
        for record in records {
            match next.apply(&record) {
                Ok(database) => next = database,
                Err(error) => {
                    let text = format!("node {from} sent a record that does not apply: {error}");
                    self.record(DecisionKind::Damage, text);
                    self.catch_up = None;
                    return;
                }
            }
            tail.push(Arc::new(record));
        }
        let purpose = Purpose::CatchUp {
            position: next.position(),
        };
        let storing = if self.replica(Replica::Local).own == Some(have) {
            for record in &tail {
                let op = ReplicaOp::Append {
                    record: Arc::clone(record),
                    then_survey: false,
                };
                self.ask(Replica::Local, op, purpose.clone());
            }
            tail.len()
        } else {
            self.ask(
                Replica::Local,
                ReplicaOp::WriteImage {
                    database: next.clone(),
                },
                purpose,
            );
            1
        };
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.storing = storing;
            catch_up.image = None;
            catch_up.next = Some((next, tail));
        }
    }

    pub(super) fn on_image_chunk(
        &mut self,
        from: NodeId,
        position: Position,
        total: u64,
        offset: u64,
        bytes: Vec<u8>,
        ancestor: bool,
    ) {
        if !self.expects(from) || total > IMAGE_BYTES_MAX {
            return;
        }
        // What this copy holds may have been acked with its help: it never goes back, unless to the base that was decided
        // on with every acked update in it.
        let is_base = self
            .member
            .as_ref()
            .is_some_and(|member| member.awaited_base() == Some(position));
        if position.stamp <= self.head.position().stamp && !is_base {
            self.catch_up = None;
            return;
        }
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        if catch_up.image.as_ref().is_none_or(|(of, _)| *of != position) {
            catch_up.image = Some((position, Vec::new()));
        }
        let Some((_, image)) = &mut catch_up.image else {
            return;
        };
        if offset != image.len() as u64 || image.len() as u64 + bytes.len() as u64 > total {
            return;
        }
        image.extend_from_slice(&bytes);
        if (image.len() as u64) < total {
            self.ask_for_more();
            return;
        }
        match Database::from_image(image) {
            Ok(database) if database.position() == position => {
                let why = format!("replaced by the database of node {from} at {position}");
                if !ancestor {
                    self.keep_branch(&why);
                }
                let purpose = Purpose::CatchUp { position };
                let op = ReplicaOp::WriteImage {
                    database: database.clone(),
                };
                self.ask(Replica::Local, op, purpose);
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.storing = 1;
                    catch_up.image = None;
                    catch_up.next = Some((database, Vec::new()));
                }
            }
            Ok(_) | Err(_) => {
                self.record(
                    DecisionKind::Damage,
                    format!("node {from} sent an image that does not decode"),
                );
                self.catch_up = None;
            }
        }
    }

    pub(super) fn on_catch_up_stored(&mut self, position: Position, error: Option<ReplicaError>) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        if error.is_some()
            || !catch_up
                .next
                .as_ref()
                .is_some_and(|(next, _)| next.position() == position)
        {
            self.catch_up = None;
            return;
        }
        catch_up.storing -= 1;
        if catch_up.storing > 0 {
            return;
        }
        if let Some((next, tail)) = catch_up.next.take() {
            if tail.is_empty() {
                self.history.clear();
            }
            for record in tail {
                self.history.push(record);
            }
            self.head = next.clone();
            self.committed = next;
            self.prepared = None;
            self.rolled_back = None;
            self.damaged = None;
            self.ask_for_more();
        }
    }

    /// Takes the state found on a device as this node's own.
    pub(super) fn adopt_head(&mut self, database: Database, history: History, from: &str) {
        let here = self.head.position();
        if here != Position::EMPTY && !history.has(here) {
            self.keep_branch(&format!(
                "replaced by the state on {from} at {}",
                database.position()
            ));
        }
        self.head = database.clone();
        self.committed = database;
        self.history = history;
        self.prepared = None;
        self.rolled_back = None;
        self.damaged = None;
    }

    /// What is about to be replaced may be a branch that lost: an operator can look at it later.
    pub(super) fn keep_branch(&mut self, why: &str) {
        let here = self.head.position();
        if here == Position::EMPTY || !self.replica(Replica::Local).usable() {
            return;
        }
        self.record(DecisionKind::BranchKept, format!("kept {here} aside: {why}"));
        let op = ReplicaOp::KeepBranch {
            database: self.head.clone(),
            reason: why.into(),
        };
        self.ask(Replica::Local, op, Purpose::Unattended);
    }
}
