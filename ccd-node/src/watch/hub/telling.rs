//! What happened, and to whom it is told: from the ring to those who have heard everything before it, and from the disk to the others.
//!
//! The other half of `hub.rs`, which owns the state and calls this with each word that the inlet has.

use super::super::group::encoded;
use super::super::past::{Answer, Outcome};
use super::super::refuse;
use super::super::ring::What;
use super::super::watcher::Stage;
use super::{DISK_PATIENCE, Hub, PIECE_BYTES, not_reached};
use crate::history::Told as Telling;
use crate::history::trail::{self, Step};
use ccd_client::wire::{Fault, Told, WatchItem, WatchPlace};
use ccd_core::database::Database;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

impl Hub {
    pub(super) fn on_told(&mut self, told: Vec<Telling>, now: Instant) {
        let Some(mut version) = self.version.take() else {
            return;
        };
        let mut from = self.ring.end();
        let mut bytes = 0;
        for telling in told {
            let after = telling.after.clone();
            bytes += self.ring.tell(telling, &version);
            version = after;
            // What is sent to each at once is bounded.
            if bytes >= PIECE_BYTES {
                self.deliver(from..self.ring.end(), now);
                from = self.ring.end();
                bytes = 0;
            }
        }
        self.deliver(from..self.ring.end(), now);
        self.version = Some(version);
        self.ring.trim();
        self.look_between(now);
    }

    /// Tells entries to those who were told everything before, of all groups that see something of it.
    pub(super) fn deliver(&mut self, numbers: Range<u64>, now: Instant) {
        let end = numbers.end;
        let head = self.ring.head();
        for number in self.concerned(numbers.clone()) {
            let Some(group) = self.groups.get_mut(&number) else {
                continue;
            };
            let mut pieces: Vec<Arc<[u8]>> = Vec::new();
            for entry in numbers.clone() {
                if let Some(entry) = self.ring.entry(entry) {
                    pieces.extend(group.encode(number, entry));
                }
            }
            let bytes = match &pieces[..] {
                [] => continue,
                [one] => one.clone(),
                _ => pieces.concat().into(),
            };
            group.told = Some((now, head.stamp.generation.0));
            for (index, sent) in group.live.tell(&bytes, &mut self.volley) {
                self.leave_live(index, Stage::Ring(end), head);
                let Some(watcher) = self.watcher(index) else {
                    continue;
                };
                let sent = sent.map(|sent| watcher.hold(&bytes, sent, now));
                let held = watcher.held_bytes();
                // A watcher that is removed for it is none that anything more is done with here.
                let _ = self.after_write(index, sent, 0, held);
            }
        }
    }

    /// The groups that may see something of these entries.
    pub(super) fn concerned(&mut self, numbers: Range<u64>) -> BTreeSet<usize> {
        let mut groups = BTreeSet::new();
        for number in numbers {
            match self.ring.entry(number).map(|entry| &entry.what) {
                Some(What::Round(updates)) => {
                    groups.extend(&self.broad);
                    for change in updates.iter().flat_map(|update| update.kept.effects.keys()) {
                        groups.extend(self.by_key.get(&change.key).into_iter().flatten());
                    }
                }
                Some(_) => return self.groups.keys().copied().collect(),
                None => {}
            }
        }
        groups
    }

    /// What led to this version was not told: whoever was told everything reads it from the disk.
    pub(super) fn jump(&mut self, version: Database, now: Instant) {
        let (head, end) = (self.ring.head(), self.ring.end());
        self.ring.reset(version.position());
        self.version = Some(version);
        for index in 0..self.watchers.len() as u32 {
            if self.leave_live(index, Stage::Ring(end), head) {
                self.pump(index, now);
            }
        }
    }

    pub(super) fn on_answer(&mut self, answer: Answer, now: Instant) {
        let Answer {
            name,
            past,
            bytes,
            outcome,
        } = answer;
        let Some(index) = self.index_of(name) else {
            return;
        };
        if !bytes.is_empty() && self.send(index, &bytes.into(), now).is_err() {
            return;
        }
        let head = self.ring.head();
        let in_ring = match &outcome {
            Outcome::Rows(position) => self.ring.after(*position),
            Outcome::End(place) => self.ring.after(place.round),
            _ => None,
        };
        let Some(watcher) = self.watcher(index) else {
            return;
        };
        let refused = match outcome {
            Outcome::NotReached(newest) => not_reached(head.stamp.generation, newest),
            Outcome::Failed(error) => Told::Failed(Fault::Internal {
                why: format!("the history cannot be read: {error}"),
            }),
            Outcome::More => {
                watcher.stage = Stage::Past(Some(past));
                return self.pump(index, now);
            }
            Outcome::Rows(position) => {
                watcher.place = WatchPlace::at(position);
                watcher.stage = in_ring.map_or(Stage::Past(Some(past)), Stage::Ring);
                return self.pump(index, now);
            }
            Outcome::End(place) => {
                watcher.place = place;
                watcher.stage = in_ring.map_or(Stage::Between(now), Stage::Ring);
                if in_ring.is_none() {
                    self.between.push(name);
                }
                return self.pump(index, now);
            }
        };
        refuse(&watcher.socket, refused);
        self.remove(index);
    }

    /// Those who were told what is on the disk, and whom the ring does not reach back to.
    pub(super) fn look_between(&mut self, now: Instant) {
        for name in std::mem::take(&mut self.between) {
            let Some(index) = self.index_of(name) else {
                continue;
            };
            let Some(watcher) = self.watcher(index) else {
                continue;
            };
            let Stage::Between(since) = watcher.stage else {
                continue;
            };
            let (place, is_blocked) = (watcher.place, watcher.is_blocked());
            if let Some(number) = self.ring.after(place.round) {
                self.go_on(index, Stage::Ring(number), now);
            } else if is_blocked || now.duration_since(since) <= DISK_PATIENCE {
                self.between.push(name);
            } else {
                let base = self.ring.base();
                let number = self.ring.first();
                let item = match trail::gap(place.seen, place.round, base) {
                    Step::Diverged { after, up_to } => WatchItem::Diverged { after, up_to },
                    _ => WatchItem::Missed {
                        after: place.seen,
                        up_to: base,
                    },
                };
                if self.send(index, &encoded(item).into(), now).is_ok() {
                    self.go_on(index, Stage::Ring(number), now);
                }
            }
        }
    }

    pub(super) fn go_on(&mut self, index: u32, stage: Stage, now: Instant) {
        if let Some(watcher) = self.watcher(index) {
            watcher.stage = stage;
        }
        self.pump(index, now);
    }

    pub(super) fn on_service(&mut self, why: Option<String>, now: Instant) {
        self.not_serving.clone_from(&why);
        if self.version.is_none() {
            return;
        }
        let number = self.ring.end();
        let head = self.ring.head();
        self.ring.push(why.map_or(What::Serving, What::NotServing), head);
        self.deliver(number..number + 1, now);
        self.ring.trim();
    }
}
