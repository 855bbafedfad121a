//! How copies and updates travel among the members: what this copy gives to others, whom a member gets its copy from
//! (Fig. 4, step 416), and to whom an update is passed on (Fig. 3, the nearest-neighbour scheme).
//!
//! With *forward*, the members stand in a circle by their numbers that begins at the coordinator (or the master): each has
//! it from the next lower-numbered one, as soon as that one holds it. Nothing depends on the circle being whole: a copy
//! that does not come is asked of the coordinator, and an update that is not acked is sent by the master itself at the
//! next heartbeat.
//!
//! Owns `spread`. Called by `install.rs`, `catch_up.rs`, `round.rs` and `prepared.rs`.

use super::incoming::CHUNKS_AHEAD;
use crate::database::{Database, ImageWriter, RECORD_BYTES_MAX, Record};
use crate::ids::{Epoch, NodeId, NodeSet, Position};
use crate::init::Propagation;
use crate::protocol::Node;
use crate::protocol::message::{Message, Replaces};
use crate::time::Time;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most records in one [`Message::Tail`], and most bytes unless a single record has more: they are written with one flush.
pub(in crate::protocol) const TAIL_RECORDS_MAX: usize = 256;
pub(in crate::protocol) const TAIL_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub(in crate::protocol) struct Spread {
    /// The images that are being sent, to whom.
    sending: BTreeMap<NodeId, Sending>,
    /// Who waits here for the base of this epoch, and what was asked last.
    waiting: BTreeMap<NodeId, (Epoch, Asked)>,
}

/// An image on its way to one node: made as it is asked for.
#[derive(Debug)]
struct Sending {
    writer: ImageWriter,
    chunk_bytes: usize,
    /// The last pieces that were made, for one that is asked for again: as many as a node asks for ahead.
    kept: VecDeque<Vec<u8>>,
    /// How many were made before them.
    pieces_dropped: u64,
    /// When a piece of it was last asked for.
    used_at: Time,
}

impl Sending {
    fn new(database: &Database, chunk_bytes: usize, now: Time) -> Self {
        Self {
            writer: ImageWriter::new(database),
            chunk_bytes,
            kept: VecDeque::new(),
            pieces_dropped: 0,
            used_at: now,
        }
    }

    fn position(&self) -> Position {
        self.writer.database().position()
    }

    /// The piece that begins at or before this offset, and where it begins.
    fn piece(&mut self, offset: u64) -> (u64, &[u8]) {
        let chunk = self.chunk_bytes as u64;
        let last = self.writer.total_bytes().saturating_sub(1);
        // A piece of no bytes begins everywhere.
        let index = offset.min(last).checked_div(chunk).unwrap_or(0);
        if index < self.pieces_dropped {
            // Nobody who asks in order gets here; it is made again from the start.
            *self = Self::new(self.writer.database(), self.chunk_bytes, self.used_at);
        }
        let at = |dropped: u64| usize::try_from(index.saturating_sub(dropped)).unwrap_or(usize::MAX);
        while self.kept.len() <= at(self.pieces_dropped) {
            if self.kept.len() > CHUNKS_AHEAD as usize {
                self.kept.pop_front();
                self.pieces_dropped = self.pieces_dropped.saturating_add(1);
            }
            self.kept.push_back(self.writer.piece(self.chunk_bytes));
        }
        let piece = self.kept.get(at(self.pieces_dropped));
        (index.saturating_mul(chunk), piece.map_or(&[], Vec::as_slice))
    }
}

/// How many of these records travel together.
pub(in crate::protocol) fn records_in_one_tail(records: &[Arc<Record>]) -> usize {
    let mut bytes = 0_usize;
    let fits = records.iter().take(TAIL_RECORDS_MAX).take_while(|record| {
        bytes = bytes.saturating_add(record.bytes_max());
        bytes <= TAIL_BYTES_MAX
    });
    fits.count().max(1)
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    have: Position,
    image: Option<(Position, u64)>,
}

/// How many of these records go into one message; none if one of them loads more than so many bytes: then the database itself is
/// less, and a node with rounds in doubt needs a way that reaches beyond them.
fn tail_len(records: &[Arc<Record>], loaded_bytes_max: usize) -> usize {
    let records = records.get(..TAIL_RECORDS_MAX).unwrap_or(records);
    if records
        .iter()
        .any(|record| record.loaded_bytes() > loaded_bytes_max)
    {
        return 0;
    }
    let mut bytes = 0_usize;
    let fits = |record: &&Arc<Record>| {
        bytes = bytes.saturating_add(record.encoded_bytes_max());
        bytes <= RECORD_BYTES_MAX
    };
    // The first goes in any case: no record of another kind is larger than a message may be.
    records.iter().take_while(fits).count().max(records.len().min(1))
}

/// The member before `node` in the circle, and the one after it.
fn before(members: NodeSet, node: NodeId) -> Option<NodeId> {
    let others = members.without(node);
    let lower = others.iter().filter(|other| *other < node).last();
    lower.or(others.iter().last())
}

fn after(members: NodeSet, node: NodeId) -> Option<NodeId> {
    let others = members.without(node);
    let higher = others.iter().find(|other| *other > node);
    higher.or(others.lowest())
}

impl Node {
    /// Whom a member of a decided configuration gets its base from.
    pub(in crate::protocol) fn base_source(&self, members: NodeSet, coordinator: NodeId) -> NodeId {
        match self.settings.propagation {
            Propagation::Broadcast => coordinator,
            Propagation::Forward => before(members, self.me())
                .filter(|source| self.hears(*source))
                .unwrap_or(coordinator),
        }
    }

    /// To whom the master sends an update itself.
    pub(in crate::protocol) fn first_receivers(&self) -> NodeSet {
        match self.settings.update_propagation {
            Propagation::Broadcast => self.other_members(),
            Propagation::Forward => after(self.known.members, self.me())
                .map(NodeSet::of)
                .unwrap_or_default(),
        }
    }

    /// An update has come for the first time: the next member gets it before this node writes it.
    pub(in crate::protocol) fn pass_on(&mut self, epoch: Epoch, record: &Arc<Record>) {
        if self.settings.update_propagation == Propagation::Broadcast {
            return;
        }
        let next = after(self.known.members, self.me()).filter(|next| self.known.master() != Some(*next));
        if let Some(next) = next {
            self.send_update_req(next, epoch, record);
        }
    }

    /// Whether this copy has reached the base of the configuration of this epoch.
    fn holds_base(&self, epoch: Epoch) -> bool {
        self.known.epoch == epoch
            && (self.serving == Some(epoch)
                || (self.install.as_ref()).is_some_and(|install| install.epoch() == epoch)
                || (self.member.as_ref()).is_some_and(|member| member.awaited_base().is_none())
                || self.head.position() == self.known.base)
    }

    pub(in crate::protocol) fn on_fetch(
        &mut self,
        from: NodeId,
        have: Position,
        image: Option<(Position, u64)>,
        base: Option<Epoch>,
    ) {
        let asked = Asked { have, image };
        match base {
            Some(epoch) if epoch < self.known.epoch => {
                self.send(from, Message::Decided(self.known.clone()));
            }
            Some(epoch) if !self.holds_base(epoch) => {
                self.spread.waiting.insert(from, (epoch, asked));
            }
            _ => self.give(from, asked, base.is_some()),
        }
    }

    /// This copy has reached the base: those who wait for it get it.
    pub(in crate::protocol) fn give_to_waiting(&mut self) {
        let waiting = core::mem::take(&mut self.spread.waiting);
        for (node, (epoch, asked)) in waiting {
            self.on_fetch(node, asked.have, asked.image, Some(epoch));
        }
    }

    /// At every heartbeat: those who wait here hear that it goes on; an image that nobody asks for any more is dropped.
    pub(in crate::protocol) fn tend_spread(&mut self, epoch: Option<Epoch>) {
        let oldest = self.now.since(Time::ZERO).saturating_sub(self.settings.lease);
        let known = self.known.epoch;
        let is_used = |sending: &Sending| sending.used_at.since(Time::ZERO) >= oldest;
        self.spread.sending.retain(|_, sending| is_used(sending));
        self.spread.waiting.retain(|_, (epoch, _)| *epoch >= known);
        if let Some(epoch) = epoch {
            let waiting: Vec<NodeId> = self.spread.waiting.keys().copied().collect();
            for node in waiting {
                self.send(node, Message::Installing { epoch });
            }
        }
    }

    /// What a copy at `have` is to what this node holds.
    fn what_is_replaced(&self, have: Position) -> Replaces {
        if self.history.went_through(have) {
            return Replaces::Earlier;
        }
        match self.history.round_of(have.stamp.generation) {
            Some(_) => Replaces::Branch,
            None if self.is_before_base(have) => Replaces::Earlier,
            None => Replaces::Unknown,
        }
    }

    fn give(&mut self, to: NodeId, asked: Asked, wants_base: bool) {
        let Asked { have, image } = asked;
        let until = self.offered_position();
        if image.is_none() && have.stamp > until.stamp && self.history.has(have) {
            // It holds a round that is prepared here too: it must not go back behind it.
            let records = Vec::new();
            self.send(to, Message::Tail { have, records });
            return;
        }
        if image.is_none()
            && let Some(mut records) = self.history.between(have, until)
        {
            let len = tail_len(&records, self.settings.image_chunk_bytes).min(records_in_one_tail(&records));
            records.truncate(len);
            // One that loads a database is larger than a message may be: the database itself goes, in pieces.
            if !records.is_empty() || have == until {
                self.send(to, Message::Tail { have, records });
                return;
            }
        }
        let database = if self.is_open() {
            &self.committed
        } else {
            &self.head
        };
        let (now, chunk_bytes) = (self.now, self.settings.image_chunk_bytes);
        let is_asked = |sending: &Sending| match image {
            Some((wanted, _)) => sending.position() == wanted,
            None => false,
        };
        // One that leads the other node on; it takes nothing else.
        let is_of_use = |sending: &Sending| {
            let position = sending.position();
            position.stamp > have.stamp || wants_base && position == self.known.base
        };
        // One that was begun for this node is gone on with, also when it asks for one that is no more: it hears which there is.
        let begun = (self.spread.sending.get(&to))
            .filter(|sending| is_asked(sending) || self.history.has(sending.position()) && is_of_use(sending))
            .is_some();
        if !begun {
            let sending = Sending::new(database, chunk_bytes, now);
            self.spread.sending.insert(to, sending);
        }
        let replaces = self.what_is_replaced(have);
        if let Some(sending) = self.spread.sending.get_mut(&to) {
            sending.used_at = now;
            let position = sending.position();
            let wanted = image.filter(|_| is_asked(sending));
            let total = sending.writer.total_bytes();
            let (offset, bytes) = sending.piece(wanted.map_or(0, |(_, offset)| offset));
            let chunk = Message::ImageChunk {
                position,
                total,
                offset,
                bytes: bytes.to_vec(),
                replaces,
            };
            self.send(to, chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_made_in_order_and_made_again_when_they_are_asked_for_again() {
        let database = crate::database::fixture::figure_6();
        let image = database.to_image();
        for chunk in [image.len() + 1, image.len(), image.len() / 3, 10, 1] {
            let mut sending = Sending::new(&database, chunk, Time::ZERO);
            let (first, last) = (0, image.len() as u64 - 1);
            let in_order = (first..=last).step_by(chunk);
            let again = [
                last,
                last.saturating_sub(chunk as u64),
                first,
                last / 2,
                last,
                u64::MAX,
                first,
            ];
            for asked in in_order.chain(again) {
                let (offset, piece) = sending.piece(asked);
                let start = offset as usize;
                assert_eq!(
                    piece,
                    &image[start..image.len().min(start + chunk)],
                    "{asked} of {chunk}"
                );
                assert_eq!(offset, asked.min(last) / chunk as u64 * chunk as u64);
                assert!(sending.kept.len() <= 1 + CHUNKS_AHEAD as usize);
            }
        }
    }

    #[test]
    fn the_circle_goes_to_the_next_higher_numbered_member_and_round_to_the_lowest() {
        let node = |number| NodeId::new(number).unwrap();
        let members: NodeSet = [1, 3, 4, 31].into_iter().map(node).collect();
        for (one, next) in [(1, 3), (3, 4), (4, 31), (31, 1)] {
            assert_eq!(after(members, node(one)), Some(node(next)));
            assert_eq!(before(members, node(next)), Some(node(one)));
        }
        assert_eq!(after(NodeSet::of(node(2)), node(2)), None);
        assert_eq!(before(NodeSet::of(node(2)), node(2)), None);
    }
}
