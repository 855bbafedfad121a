//! Messages that are too large for one piece: an update that loads a whole database, on its way to the master or to the members.
//!
//! ```text
//! sender     Offer        which message it is, and its bytes; again at every heartbeat until it is answered otherwise
//! receiver   ParcelFetch  from which byte on: several at once, the next as pieces come
//! sender     ParcelPiece
//! receiver   Action::Unpack, then handles the message as if it had come in one piece
//! ```
//!
//! The receiver asks, so heartbeats never wait behind more than what was asked for, and what gets lost is asked for again. A
//! node takes one parcel of each other node at a time, and no larger one than its replicas could hold.
//!
//! Owns `parcels`. Called by `round.rs`, `prepared.rs`, `spread.rs` and `requests/updates.rs`.

use super::incoming::CHUNKS_AHEAD;
use crate::database::{RECORD_BYTES_MAX, Record};
use crate::ids::{Epoch, NodeId, Position, RequestId};
use crate::protocol::Node;
use crate::protocol::interface::Action;
use crate::protocol::message::Message;
use crate::time::Time;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Parcels that are kept for others to fetch. The one that was asked for longest ago goes first, and is made again if need be.
const OUTGOING_MAX: usize = 4;

/// What a message in pieces is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parcel {
    /// [`Message::UpdateReq`] of the record that leads to this position.
    Update { epoch: Epoch, position: Position },
    /// [`Message::Forward`].
    Forward { epoch: Epoch, request: RequestId },
}

impl Parcel {
    fn epoch(&self) -> Epoch {
        match self {
            Self::Update { epoch, .. } | Self::Forward { epoch, .. } => *epoch,
        }
    }

    /// What this message would come as.
    fn of(message: &Message) -> Option<Self> {
        match message {
            Message::UpdateReq { epoch, record } => Some(Self::Update {
                epoch: *epoch,
                position: record.next,
            }),
            Message::Forward { epoch, update, .. } => Some(Self::Forward {
                epoch: *epoch,
                request: update.request,
            }),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(in crate::protocol) struct Parcels {
    outgoing: Vec<Outgoing>,
    arriving: BTreeMap<NodeId, Arriving>,
}

#[derive(Debug)]
struct Outgoing {
    parcel: Parcel,
    bytes: Vec<u8>,
    used_at: Time,
}

/// A parcel on its way here.
#[derive(Debug)]
struct Arriving {
    parcel: Parcel,
    total: u64,
    chunk: u64,
    bytes: Vec<u8>,
    /// Pieces that overtook others, by their offset.
    early: BTreeMap<u64, Vec<u8>>,
    asked_to: u64,
    moved_at: Time,
    /// All of it came, and is with the driver.
    unpacking: bool,
}

impl Arriving {
    fn end(&self) -> u64 {
        let read = self.bytes.len() as u64;
        self.total
            .min(read.saturating_add(CHUNKS_AHEAD.saturating_mul(self.chunk)))
    }

    /// Takes a piece that was asked for. Returns whether it was new.
    fn take(&mut self, offset: u64, piece: Vec<u8>) -> bool {
        let read = self.bytes.len() as u64;
        let is_asked = (read..self.end()).contains(&offset) && offset.is_multiple_of(self.chunk);
        if self.unpacking
            || !is_asked
            || piece.len() as u64 != self.chunk.min(self.total.saturating_sub(offset))
            || self.early.contains_key(&offset)
        {
            return false;
        }
        self.early.insert(offset, piece);
        while let Some(next) = self.early.remove(&(self.bytes.len() as u64)) {
            self.bytes.extend_from_slice(&next);
        }
        true
    }

    /// The offsets to ask for now.
    fn wanted(&mut self) -> Vec<u64> {
        let end = self.end();
        let mut wanted = Vec::new();
        while self.asked_to < end {
            if !self.early.contains_key(&self.asked_to) {
                wanted.push(self.asked_to);
            }
            self.asked_to = self.asked_to.saturating_add(self.chunk);
        }
        wanted
    }
}

impl Node {
    /// UPDATE_REQ, in pieces if it loads much.
    pub(in crate::protocol) fn send_update_req(&mut self, to: NodeId, epoch: Epoch, record: &Arc<Record>) {
        let record = Arc::clone(record);
        let large = self.is_large(&record);
        self.send_in_pieces_if(large, to, Message::UpdateReq { epoch, record });
    }

    /// Whether this record travels in pieces.
    pub(in crate::protocol) fn is_large(&self, record: &Record) -> bool {
        let whole_max = self.settings.update_bytes_whole_max;
        record.loaded_bytes() > self.settings.image_chunk_bytes
            || (whole_max < RECORD_BYTES_MAX && record.encoded_bytes_max() > whole_max)
    }

    /// Sends an update's message, in pieces if it is large; then returns how many bytes were offered.
    pub(in crate::protocol) fn send_in_pieces_if(
        &mut self,
        large: bool,
        to: NodeId,
        message: Message,
    ) -> Option<u64> {
        let Some(parcel) = Parcel::of(&message).filter(|_| large) else {
            self.send(to, message);
            return None;
        };
        let now = self.now;
        let outgoing = &mut self.parcels.outgoing;
        let known = outgoing.iter().position(|outgoing| outgoing.parcel == parcel);
        let mut outgoing_now = match known {
            Some(index) => outgoing.remove(index),
            None => {
                if outgoing.len() == OUTGOING_MAX {
                    outgoing.remove(0);
                }
                // Writing plain data to memory does not fail; what did would go the usual way, and fail there.
                let Ok(bytes) = postcard::to_allocvec(&message) else {
                    self.send(to, message);
                    return None;
                };
                Outgoing {
                    parcel,
                    bytes,
                    used_at: now,
                }
            }
        };
        outgoing_now.used_at = now;
        let total = outgoing_now.bytes.len() as u64;
        outgoing.push(outgoing_now);
        self.send(to, Message::Offer { parcel, total });
        Some(total)
    }

    /// The bytes of a forward that was offered and is not kept any more are made again, once its receiver asks for them.
    fn keep_for_fetching(&mut self, parcel: Parcel) {
        let used_at = self.now;
        let outgoing = &mut self.parcels.outgoing;
        if outgoing.iter().any(|known| known.parcel == parcel) {
            return;
        }
        let Parcel::Forward { epoch, request } = parcel else {
            return;
        };
        let Some(message) = self.requests.offered_forward(epoch, request) else {
            return;
        };
        if let Ok(bytes) = postcard::to_allocvec(&message) {
            if outgoing.len() == OUTGOING_MAX {
                outgoing.remove(0);
            }
            outgoing.push(Outgoing {
                parcel,
                bytes,
                used_at,
            });
        }
    }

    pub(in crate::protocol) fn on_offer(&mut self, from: NodeId, parcel: Parcel, total: u64) {
        let bytes_max = self
            .settings
            .content_bytes_max
            .saturating_add(RECORD_BYTES_MAX as u64);
        if parcel.epoch() != self.known.epoch || total == 0 || total > bytes_max || !self.wants(from, parcel)
        {
            return;
        }
        let (now, lease) = (self.now, self.settings.lease);
        if let Some(arriving) = self.parcels.arriving.get(&from) {
            let moves = now.since(arriving.moved_at) < lease && arriving.parcel.epoch() == parcel.epoch();
            // What is under way is finished first: two that take turns would never come.
            if moves || (arriving.parcel == parcel && arriving.total == total && !arriving.unpacking) {
                return;
            }
        }
        let arriving = Arriving {
            parcel,
            total,
            chunk: self.settings.image_chunk_bytes as u64,
            bytes: Vec::new(),
            early: BTreeMap::new(),
            asked_to: 0,
            moved_at: now,
            unpacking: false,
        };
        self.parcels.arriving.insert(from, arriving);
        self.ask_for_pieces(from);
    }

    /// Whether the message of this parcel would be worked on; if it was already, its sender hears what came of it.
    fn wants(&mut self, from: NodeId, parcel: Parcel) -> bool {
        match parcel {
            Parcel::Update { epoch, position } => self.wants_update(from, epoch, position),
            Parcel::Forward { epoch, request } => self.wants_forward(from, epoch, request),
        }
    }

    fn ask_for_pieces(&mut self, from: NodeId) {
        let Some(arriving) = self.parcels.arriving.get_mut(&from) else {
            return;
        };
        let parcel = arriving.parcel;
        for offset in arriving.wanted() {
            self.send(from, Message::ParcelFetch { parcel, offset });
        }
    }

    pub(in crate::protocol) fn on_parcel_fetch(&mut self, from: NodeId, parcel: Parcel, offset: u64) {
        let (now, chunk) = (self.now, self.settings.image_chunk_bytes);
        self.keep_for_fetching(parcel);
        let known = self.parcels.outgoing.iter_mut();
        let Some(outgoing) = known.into_iter().find(|outgoing| outgoing.parcel == parcel) else {
            return;
        };
        outgoing.used_at = now;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| outgoing.bytes.get(offset..));
        let Some(bytes) = rest.filter(|rest| !rest.is_empty()) else {
            return;
        };
        let bytes = bytes.iter().take(chunk).copied().collect();
        if let Parcel::Update { position, .. } = parcel {
            self.note_round_moves(position);
        }
        self.send(
            from,
            Message::ParcelPiece {
                parcel,
                offset,
                bytes,
            },
        );
    }

    pub(in crate::protocol) fn on_parcel_piece(
        &mut self,
        from: NodeId,
        parcel: Parcel,
        offset: u64,
        bytes: Vec<u8>,
    ) {
        let now = self.now;
        let arriving = self.parcels.arriving.get_mut(&from);
        let Some(arriving) = arriving.filter(|arriving| arriving.parcel == parcel) else {
            return;
        };
        if !arriving.take(offset, bytes) {
            return;
        }
        arriving.moved_at = now;
        if arriving.bytes.len() as u64 == arriving.total {
            arriving.unpacking = true;
            let bytes = core::mem::take(&mut arriving.bytes);
            self.actions.push(Action::Unpack { from, bytes });
        } else {
            self.ask_for_pieces(from);
        }
    }

    /// A message came whole, in whatever way.
    pub(in crate::protocol) fn note_unpacked(&mut self, from: NodeId, message: &Message) {
        if let Some(parcel) = Parcel::of(message) {
            (self.parcels.arriving).retain(|of, arriving| *of != from || arriving.parcel != parcel);
        }
    }

    /// At every heartbeat: what did not come is asked for again, and what nobody asks for is dropped.
    pub(in crate::protocol) fn repeat_parcels(&mut self) {
        let (now, epoch) = (self.now, self.known.epoch);
        let (heartbeat, lease) = (self.settings.heartbeat, self.settings.lease);
        (self.parcels.outgoing).retain(|outgoing| {
            outgoing.parcel.epoch() == epoch && now.since(outgoing.used_at) < lease.saturating_mul(2)
        });
        (self.parcels.arriving).retain(|_, arriving| {
            arriving.parcel.epoch() == epoch && now.since(arriving.moved_at) < lease.saturating_mul(2)
        });
        let late: Vec<NodeId> = (self.parcels.arriving.iter())
            .filter(|(_, arriving)| !arriving.unpacking && now.since(arriving.moved_at) >= heartbeat)
            .map(|(node, _)| *node)
            .collect();
        for from in late {
            if let Some(arriving) = self.parcels.arriving.get_mut(&from) {
                arriving.asked_to = arriving.bytes.len() as u64;
            }
            self.ask_for_pieces(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arriving(total: u64, chunk: u64) -> Arriving {
        Arriving {
            parcel: Parcel::Update {
                epoch: Epoch(1),
                position: Position::EMPTY,
            },
            total,
            chunk,
            bytes: Vec::new(),
            early: BTreeMap::new(),
            asked_to: 0,
            moved_at: Time::ZERO,
            unpacking: false,
        }
    }

    #[test]
    fn a_parcel_is_whole_whatever_the_order_loss_and_repetition_of_its_pieces() {
        let sent: Vec<u8> = (0..1000_u32).map(|index| index as u8).collect();
        for chunk in [1, 7, 333, 1000, 2000] {
            let mut arriving = arriving(sent.len() as u64, chunk);
            let mut rounds = 0;
            while arriving.bytes.len() < sent.len() {
                rounds += 1;
                assert!(rounds <= 2 * sent.len(), "{chunk}");
                let asked = arriving.wanted();
                assert!(asked.len() as u64 <= CHUNKS_AHEAD);
                if asked.is_empty() {
                    arriving.asked_to = arriving.bytes.len() as u64;
                }
                // Every third piece is lost, the others come twice and backwards.
                let came = asked.iter().rev().enumerate();
                for (_, offset) in came.filter(|(index, _)| index % 3 != 1) {
                    let start = *offset as usize;
                    let piece = || sent[start..sent.len().min(start + chunk as usize)].to_vec();
                    assert!(arriving.take(*offset, piece()));
                    assert!(!arriving.take(*offset, piece()), "known already");
                }
            }
            assert_eq!(arriving.bytes, sent);
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_kept() {
        const CHUNK: u64 = 1000;
        let mut arriving = arriving(10 * CHUNK, CHUNK);
        for (offset, len) in [
            (1, CHUNK),
            (CHUNKS_AHEAD * CHUNK, CHUNK),
            (0, CHUNK - 1),
            (0, CHUNK + 1),
            (u64::MAX, CHUNK),
            (0, 0),
        ] {
            assert!(
                !arriving.take(offset, alloc::vec![0; len as usize]),
                "{len} at {offset}"
            );
        }
        assert!(arriving.early.is_empty() && arriving.bytes.is_empty());
    }
}
