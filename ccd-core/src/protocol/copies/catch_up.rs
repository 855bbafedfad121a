//! Getting the database from another node: the missing tail of the journal if the histories agree, else a whole image.
//!
//! Owns `catch_up` and, while not serving, `head`.

use super::history::is_same;
use super::incoming::Incoming;
use crate::configuration::Decider;
use crate::database::{Database, ImageError, Record};
use crate::ids::{Epoch, NodeId, Position, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::{Message, Replaces};
use crate::protocol::replicas::loading::Replayed;
use crate::protocol::replicas::{Brought, Purpose};
use crate::protocol::voting::conclude::is_overruled;
use crate::replica::{ReplicaError, ReplicaOp};
use crate::time::Time;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most bytes of an image that is accepted from a peer; bounds what a wrong length can make this node allocate.
const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// Pieces of an image that may be on their way to the disk: twice as many as may be on their way here. No more are asked for
/// meanwhile, so that a slow disk does not fill the memory.
const STAGING_MAX: usize = 16;

/// A transfer under way.
#[derive(Debug)]
pub(in crate::protocol) struct CatchUp {
    from: NodeId,
    /// It is the base of this epoch that is wanted, and not just whatever is newer.
    base: Option<Epoch>,
    /// When something last came, and whether something did since that was told.
    moved_at: Time,
    moved: bool,
    asked: bool,
    /// What was asked for follows this state: what this copy holds, or what it held before the rounds that are in doubt.
    have: Position,
    /// The other node has this state of its own, with all that is in doubt here.
    confirmed: Option<Position>,
    /// What came is of no use here. The same node is not asked again before the next heartbeat: two nodes that answer each
    /// other at once would do so without end.
    in_vain: bool,
    image: Option<Incoming>,
    /// Operations on the local copy not yet answered, and what it holds after them.
    storing: usize,
    next: Option<Next>,
}

/// What the local copy holds once it is stored.
#[derive(Clone, Debug)]
struct Next {
    database: Database,
    /// What leads there from what it holds now, or from `back_to`. None: a whole image came.
    tail: Vec<Arc<Record>>,
    /// Rounds that were prepared here, and that the other node does not have, are given up: back to this state.
    back_to: Option<Position>,
}

impl Node {
    pub(in crate::protocol) fn catch_up_storing(&self) -> bool {
        self.catch_up
            .as_ref()
            .is_some_and(|catch_up| catch_up.storing > 0)
    }

    /// The node that something is being got from, and since when nothing new has come: for ever, if what came is of no use.
    pub(in crate::protocol) fn fetching(&self) -> Option<(NodeId, Time)> {
        self.catch_up.as_ref().map(|catch_up| {
            let moved_at = if catch_up.in_vain {
                Time::ZERO
            } else {
                catch_up.moved_at
            };
            (catch_up.from, moved_at)
        })
    }

    /// Something is being got from another node.
    pub(in crate::protocol) fn is_catching_up(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|catch_up| !catch_up.in_vain)
    }

    /// What came is of no use here: see [`CatchUp::in_vain`].
    fn give_up_until_next_beat(&mut self) {
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.in_vain = true;
            catch_up.image = None;
        }
    }

    /// Asks `from` for what this copy lacks (with `base`, of the base of this epoch), unless that is under way.
    pub(in crate::protocol) fn fetch_from(&mut self, from: NodeId, base: Option<Epoch>) {
        let under_way =
            |catch_up: &CatchUp| catch_up.from == from && catch_up.base == base || catch_up.storing > 0;
        if self.catch_up.as_ref().is_some_and(under_way) {
            return;
        }
        self.catch_up = Some(CatchUp {
            from,
            base,
            moved_at: self.now,
            moved: false,
            asked: false,
            have: self.head.position(),
            confirmed: None,
            in_vain: false,
            image: None,
            storing: 0,
            next: None,
        });
        self.ask_for_more();
    }

    /// A learner gets what it lacks from one of those that serve, and from another one only if that one is stuck.
    pub(in crate::protocol) fn learn_from(&mut self, from: NodeId) {
        let stuck = |(source, moved_at): (NodeId, Time)| {
            !self.hears(source) || self.now.since(moved_at) > self.settings.lease
        };
        if self.fetching().is_none_or(stuck) {
            self.fetch_from(from, None);
        }
    }

    fn ask_for_more(&mut self) {
        let here = self.head.position();
        let is_confirmed = (self.catch_up.as_ref()).is_some_and(|catch_up| catch_up.confirmed == Some(here));
        let before = self.before_what_is_in_doubt().filter(|_| !is_confirmed);
        let have = before.map_or(here, Database::position);
        let room = self.staging_room();
        let Some(catch_up) = self.catch_up.as_mut().filter(|catch_up| catch_up.storing == 0) else {
            return;
        };
        catch_up.asked = true;
        catch_up.have = have;
        let (from, base) = (catch_up.from, catch_up.base);
        let wanted: Vec<Option<(Position, u64)>> = match &mut catch_up.image {
            None => alloc::vec![None],
            Some(incoming) => {
                let position = incoming.position;
                let offsets = incoming.wanted(room);
                offsets
                    .into_iter()
                    .map(|offset| Some((position, offset)))
                    .collect()
            }
        };
        for image in wanted {
            self.send(from, Message::Fetch { have, image, base });
        }
    }

    /// Something came of what is waited for, if only word that it is on its way.
    fn note_moved(&mut self) {
        let now = self.now;
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.moved_at = now;
            catch_up.moved = true;
        }
    }

    /// Whether something came since this was last asked.
    pub(in crate::protocol) fn take_moved(&mut self) -> bool {
        // What is being written has a deadline of its own.
        (self.catch_up.as_mut())
            .is_some_and(|catch_up| core::mem::take(&mut catch_up.moved) || catch_up.storing > 0)
    }

    /// The source waits for its own copy, and that is coming.
    pub(in crate::protocol) fn on_source_installing(&mut self, from: NodeId) {
        if self.fetching().is_some_and(|(source, _)| source == from) {
            self.note_moved();
        }
    }

    /// At every heartbeat: an answer that did not come is asked for again, from a node that is still there.
    pub(in crate::protocol) fn repeat_catch_up(&mut self) {
        let heartbeat = self.settings.heartbeat;
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let (from, storing) = (catch_up.from, catch_up.storing);
        if catch_up.in_vain {
            self.catch_up = None;
            return;
        }
        if storing == 0 && core::mem::replace(&mut catch_up.asked, false) {
            // Asked within the last interval: the answer may be on its way.
            return;
        }
        if storing == 0 && (!self.hears(from) || self.is_open()) {
            self.catch_up = None;
            return;
        }
        let now = self.now;
        if let Some(catch_up) = &mut self.catch_up
            && let Some(incoming) = &mut catch_up.image
            && now.since(catch_up.moved_at) >= heartbeat
        {
            incoming.forget_asked();
        }
        self.ask_for_more();
    }

    /// Whether what a peer sends was asked for and can be taken now.
    fn expects(&self, from: NodeId) -> bool {
        let is_bringing = (self.member.as_ref()).is_some_and(|member| member.awaited_base().is_none());
        !self.is_open()
            && self.ready()
            && !self.is_at_odds_with(from)
            && self.install.is_none()
            && !is_bringing
            && (self.catch_up.as_ref())
                .is_some_and(|catch_up| catch_up.from == from && catch_up.storing == 0 && !catch_up.in_vain)
    }

    pub(in crate::protocol) fn on_tail(
        &mut self,
        from: NodeId,
        have: Position,
        mut records: Vec<Arc<Record>>,
    ) {
        if !self.expects(from) {
            return;
        }
        let here = self.head.position();
        if have != here {
            let Some(before) = self
                .before_what_is_in_doubt()
                .filter(|before| before.position() == have)
            else {
                return;
            };
            // Which of the rounds in doubt the other node has as well.
            let Some(own) = self.history.between(have, here) else {
                return;
            };
            let has_all = own.len() <= records.len()
                && own
                    .iter()
                    .zip(&records)
                    .all(|(own, other)| own.next == other.next);
            if !has_all {
                let before = before.clone();
                self.go_back_and_on(from, before, records);
                return;
            }
            records.drain(..own.len());
            if records.is_empty() {
                // What follows them may be too large for one message with them.
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.confirmed = Some(here);
                }
                self.note_moved();
                self.ask_for_more();
                return;
            }
        }
        if records.is_empty() {
            if self
                .catch_up
                .as_ref()
                .is_some_and(|catch_up| catch_up.base.is_some())
            {
                // The base is another state, and that is not what the other node has.
                self.give_up_until_next_beat();
                return;
            }
            self.catch_up = None;
            // Whoever lets this node in need not wait for its next heartbeat.
            self.beat();
            return;
        }
        let Some(next) = self.led_on(from, self.head.clone(), &records) else {
            return;
        };
        let tail = records;
        self.note_moved();
        let purpose = Purpose::CatchUp {
            position: next.position(),
        };
        let op = if self.replica(Replica::Local).own == Some(here) {
            ReplicaOp::AppendTail {
                records: tail.clone(),
            }
        } else {
            ReplicaOp::WriteImage {
                database: next.clone(),
            }
        };
        self.ask(Replica::Local, op, purpose);
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.storing = 1;
            catch_up.image = None;
            catch_up.next = Some(Next {
                database: next,
                tail,
                back_to: None,
            });
        }
    }

    /// Where the records of a node lead from this version. `None`: one of them does not apply, which is recorded, and nothing more is
    /// taken from it before the next heartbeat.
    fn led_on(&mut self, from: NodeId, base: Database, records: &[Arc<Record>]) -> Option<Database> {
        let applied = records
            .iter()
            .try_fold(base, |database, record| database.apply(record));
        if let Err(error) = &applied {
            let text = format!("node {from} sent a record that does not apply: {error}");
            self.record(DecisionKind::Damage, text);
            self.give_up_until_next_beat();
        }
        applied.ok()
    }

    /// The newest rounds of this copy were prepared and never committed, and the other node has gone on without them.
    fn go_back_and_on(&mut self, from: NodeId, before: Database, tail: Vec<Arc<Record>>) {
        let here = self.head.position();
        let back_to = before.position();
        let Some(next) = self.led_on(from, before, &tail) else {
            return;
        };
        let position = next.position();
        let is_base = (self.member.as_ref()).is_some_and(|member| member.awaited_base() == Some(position));
        if position.stamp <= here.stamp && !is_base {
            self.give_up_until_next_beat();
            return;
        }
        if is_overruled(here.stamp.epoch, position.stamp.epoch) {
            self.keep_branch(&format!("replaced by the state of node {from} at {position}"));
        }
        self.note_moved();
        let op = ReplicaOp::WriteImage {
            database: next.clone(),
        };
        self.ask(Replica::Local, op, Purpose::CatchUp { position });
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.storing = 1;
            catch_up.image = None;
            catch_up.next = Some(Next {
                database: next,
                tail,
                back_to: Some(back_to),
            });
        }
    }

    pub(in crate::protocol) fn on_image_chunk(
        &mut self,
        from: NodeId,
        position: Position,
        total: u64,
        offset: u64,
        bytes: Vec<u8>,
        replaces: Replaces,
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
        let here = self.head.position();
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        if position == here && catch_up.have != here {
            // An image that was begun for this node earlier: the rounds in doubt are in it, and what follows them is asked for.
            catch_up.confirmed = Some(here);
            self.ask_for_more();
            return;
        }
        if position.stamp <= here.stamp && !is_base {
            self.give_up_until_next_beat();
            return;
        }
        let is_other = |incoming: &mut Incoming| incoming.position != position;
        if catch_up.image.as_mut().is_none_or(is_other) {
            // Another one than before: from the start.
            catch_up.image = match Incoming::new(position, total, self.settings.image_chunk_bytes) {
                Ok(incoming) => Some(incoming),
                Err(error) => return self.refuse_image(from, &error),
            };
        }
        let Some(incoming) = &mut catch_up.image else {
            return;
        };
        let pieces = match incoming.take(offset, bytes) {
            Ok(Some(pieces)) => pieces,
            Ok(None) => return,
            Err(error) => return self.refuse_image(from, &error),
        };
        let whole = catch_up.image.take_if(|incoming| incoming.is_whole());
        self.note_moved();
        // What was read goes to the disk at once. Nothing of it counts before the whole is known to be right.
        for (offset, bytes) in pieces {
            let op = ReplicaOp::StageImage {
                position,
                len_bytes: total,
                offset,
                bytes,
            };
            self.ask(Replica::Local, op, Purpose::StageImage);
        }
        let Some(whole) = whole else {
            self.ask_for_more();
            return;
        };
        match whole.finish() {
            Ok(database) => {
                let why = format!("replaced by the database of node {from} at {position}");
                let here = self.head.position();
                // Rounds in doubt were not told of; after an override they may have been acked.
                let have = self.catch_up.as_ref().map_or(here, |catch_up| catch_up.have);
                let untold = have != here;
                if replaces != Replaces::Earlier
                    || untold && is_overruled(here.stamp.epoch, position.stamp.epoch)
                {
                    self.keep_branch(&why);
                }
                self.note_told_replaced(have, position, replaces);
                let purpose = Purpose::CatchUp { position };
                let op = ReplicaOp::AdoptImage {
                    database: database.clone(),
                };
                self.ask(Replica::Local, op, purpose);
                if let Some(catch_up) = &mut self.catch_up {
                    catch_up.storing = 1;
                    catch_up.next = Some(Next {
                        database,
                        tail: Vec::new(),
                        back_to: None,
                    });
                }
            }
            Err(error) => self.refuse_image(from, &error),
        }
    }

    fn refuse_image(&mut self, from: NodeId, error: &ImageError) {
        let text = format!("node {from} sent an image that does not decode: {error}");
        self.record(DecisionKind::Damage, text);
        self.give_up_until_next_beat();
    }

    /// A piece was staged, or could not be: then the copy must be opened anew, and what was got is in vain.
    pub(in crate::protocol) fn on_image_staged(&mut self, error: Option<ReplicaError>) {
        let Some(catch_up) = self.catch_up.as_ref().filter(|catch_up| catch_up.image.is_some()) else {
            return;
        };
        if error.is_some() {
            self.catch_up = None;
        } else if catch_up.storing == 0 {
            self.note_moved();
            self.ask_for_more();
        }
    }

    /// How many pieces may be asked for, so that no more wait for this node's disk than it keeps up with.
    fn staging_room(&self) -> usize {
        let staging = (self.pending.iter())
            .filter(|(_, _, _, purpose)| matches!(purpose, Purpose::StageImage))
            .count();
        STAGING_MAX.saturating_sub(staging)
    }

    pub(in crate::protocol) fn on_catch_up_stored(
        &mut self,
        position: Position,
        error: Option<ReplicaError>,
    ) {
        if self.is_open() {
            // It became a member meanwhile, with what it held.
            self.catch_up = None;
            return;
        }
        let next = self.catch_up.as_ref().and_then(|catch_up| catch_up.next.as_ref());
        let Some(next) =
            (next.filter(|next| next.database.position() == position)).map(|next| next.database.clone())
        else {
            self.catch_up = None;
            return;
        };
        let purpose = Purpose::CatchUp { position };
        match self.on_brought(Replica::Local, error.as_ref(), &next, purpose) {
            Brought::Done => {}
            Brought::Anew => return,
            Brought::Failed => {
                self.catch_up = None;
                return;
            }
        }
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        catch_up.storing = catch_up.storing.saturating_sub(1);
        if catch_up.storing > 0 {
            return;
        }
        if let Some(next) = catch_up.next.take() {
            match next.back_to {
                Some(back_to) => self.history.return_to(back_to),
                None if next.tail.is_empty() => self.history.clear(),
                None => {}
            }
            for record in next.tail {
                self.history.push(record);
            }
            self.take_uncommitted(next.database);
            self.ask_for_more();
        }
    }

    /// Takes the state found on a device as this node's own.
    pub(in crate::protocol) fn adopt_head(&mut self, found: Replayed, from: &str) {
        let Replayed {
            base,
            head: database,
            history,
            ..
        } = found;
        let here = self.head.position();
        let leads_on = is_same(base.position(), here) || history.went_through(here);
        if !leads_on && !self.is_before_base(here) {
            self.keep_branch(&format!(
                "replaced by the state on {from} at {}",
                database.position()
            ));
        }
        self.note_told_version(base, &history);
        self.history = history;
        self.take_uncommitted(database);
    }

    /// This state becomes the newest that this copy holds. Whether all of it is committed is decided when a configuration opens on
    /// it: a proposer that still serves the configuration before may have got a round that only one member had prepared,
    /// and that its own proposal or another one leaves out. What it serves stays what it knows to be committed.
    fn take_uncommitted(&mut self, database: Database) {
        if self.serving.is_none() {
            self.committed = database.clone();
        }
        self.head = database;
        self.prepared = None;
        self.rolled_back = None;
        self.damaged = None;
    }

    /// Whether a copy that stands here is known to be an earlier state of what the newest configuration starts from.
    pub(in crate::protocol) fn is_before_base(&self, here: Position) -> bool {
        let base = self.known.base;
        if self.known.decider == Decider::Operator || self.sides().is_some() {
            return here == Position::EMPTY || is_same(here, base);
        }
        // Of one configuration there is one way: a round that was undone was so on every member, or there is a successor.
        let on_the_way =
            here.stamp.epoch == base.stamp.epoch && here.stamp.generation < base.stamp.generation;
        here == Position::EMPTY || is_same(here, base) || on_the_way
    }

    /// What is about to be replaced may be a branch that lost: an operator can look at it later.
    pub(in crate::protocol) fn keep_branch(&mut self, why: &str) {
        let here = self.head.position();
        if here == Position::EMPTY || !self.replica(Replica::Local).usable() {
            return;
        }
        self.keep_aside(self.head.clone(), "", why);
    }
}
