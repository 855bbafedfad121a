//! Watchers that see the same: what one of them is told is encoded once for all.

use super::ring::{Entry, Update, What};
use super::volley::{SHOTS_MAX, Volley};
use super::watcher::{Gone, Watcher};
use crate::history::{Effects, Kept};
use ccd_client::wire::{self, FromDaemon, KeyChange, Told, WatchChange, WatchEffects, WatchItem};
use ccd_core::database::{Key, Pattern, View};
use ccd_core::ids::Generation;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

/// What of the database a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Tells one from another.
    pub name: Arc<[u8]>,
    patterns: Arc<[Pattern]>,
    /// Without patterns: the keys that its user may read, `*` for any run of characters.
    keys: Arc<[String]>,
}

impl Sight {
    /// The rows that match; without patterns, those of all keys that may be read.
    pub fn new(patterns: Vec<Pattern>, keys: Vec<String>) -> Self {
        let keys = if patterns.is_empty() { keys } else { Vec::new() };
        // Writing to memory does not fail, and the types hold nothing that postcard cannot write.
        let name = postcard::to_allocvec(&(&patterns, &keys)).expect("plain data encodes");
        Self {
            name: name.into(),
            patterns: patterns.into(),
            keys: keys.into(),
        }
    }

    pub fn view(&self) -> View {
        if self.patterns.is_empty() {
            View::of_keys(self.keys.iter().map(String::as_str))
        } else {
            View::of_patterns(self.patterns.iter().cloned())
        }
    }
}

/// All watchers with one sight.
#[derive(Debug)]
pub struct Group {
    pub sight: Sight,
    view: View,
    /// Indexes of watchers, in no order.
    pub members: Vec<u32>,
    pub live: Live,
    /// When those in `live` were told something all together, and of which generation.
    pub told: Option<(Instant, u64)>,
}

/// Those of a group who were told everything before: what happens next goes to all of them. Side by side in memory, so that
/// telling ten thousand does not touch what else is known of each.
#[derive(Debug, Default)]
pub struct Live {
    sockets: Vec<RawFd>,
    indexes: Vec<u32>,
}

impl Live {
    /// Returns where it is.
    pub fn add(&mut self, index: u32, socket: RawFd) -> usize {
        self.sockets.push(socket);
        self.indexes.push(index);
        self.indexes.len() - 1
    }

    /// Takes one out; returns the index of the watcher that is there now, if any.
    pub fn remove(&mut self, at: usize) -> Option<u32> {
        self.sockets.swap_remove(at);
        self.indexes.swap_remove(at);
        self.indexes.get(at).copied()
    }

    pub fn indexes(&self) -> &[u32] {
        &self.indexes
    }

    /// Writes to all. Returns those whose socket did not take everything, and how much it took.
    pub fn tell(&self, bytes: &[u8], volley: &mut Volley) -> Vec<(u32, Result<usize, Gone>)> {
        let mut short = Vec::new();
        let sockets = self.sockets.chunks(SHOTS_MAX);
        for (sockets, indexes) in sockets.zip(self.indexes.chunks(SHOTS_MAX)) {
            let sent = volley.fire(sockets, bytes);
            let told = indexes.iter().copied().zip(sent);
            short.extend(told.filter(|(_, sent)| *sent != Ok(bytes.len())));
        }
        short
    }
}

impl Group {
    pub fn new(sight: Sight) -> Self {
        Self {
            view: sight.view(),
            sight,
            members: Vec::new(),
            live: Live::default(),
            told: None,
        }
    }

    /// When one of those in `live` was told something last, and of which generation.
    pub fn told_last(&self, watcher: &Watcher) -> (Instant, u64) {
        let own = (watcher.told_at, watcher.told);
        let shared = self.told.filter(|(at, _)| *at >= watcher.live_since);
        shared.map_or(own, |shared| shared.max(own))
    }

    /// The keys that it names one by one.
    pub fn keys(&self) -> Option<Vec<Key>> {
        self.view.keys().map(|keys| keys.cloned().collect())
    }

    /// What is told of an entry, as bytes; nothing if nothing of it is seen.
    pub fn encode(&mut self, number: usize, entry: &mut Entry) -> Option<Arc<[u8]>> {
        if let Some((_, encoded)) = entry.encoded.iter().find(|(group, _)| *group == number) {
            return encoded.clone();
        }
        let item = self.item(entry);
        let encoded: Option<Arc<[u8]>> = item.map(|item| encoded(item).into());
        entry.encoded.push((number, encoded.clone()));
        encoded
    }

    fn item(&mut self, entry: &Entry) -> Option<WatchItem> {
        let up_to = entry.next;
        Some(match &entry.what {
            What::Round(updates) => {
                let changes = updates.iter().filter_map(|update| self.change(update));
                let changes: Vec<WatchChange> = changes.collect();
                if changes.is_empty() {
                    return None;
                }
                let round = up_to;
                WatchItem::Round { round, changes }
            }
            What::Missed { after } => WatchItem::Missed { after: *after, up_to },
            What::Diverged { after } => WatchItem::Diverged { after: *after, up_to },
            What::NotServing(why) => WatchItem::NotServing { why: why.clone() },
            What::Serving => WatchItem::Progress { position: up_to },
        })
    }

    fn change(&mut self, update: &Update) -> Option<WatchChange> {
        let before = |key: &Key| update.before.get(key).and_then(|columns| columns.as_deref());
        seen(&mut self.view, update.generation, &update.kept, before)
    }
}

/// What is seen of an update.
pub fn seen<'a>(
    view: &mut View,
    generation: Generation,
    kept: &'a Kept,
    before: impl Fn(&Key) -> Option<&'a [String]>,
) -> Option<WatchChange> {
    let effects = match &kept.effects {
        Effects::Rows(effects) => {
            let rows = view.seen(effects, before);
            if rows.is_empty() {
                return None;
            }
            WatchEffects::Rows(rows)
        }
        Effects::Counts(keys) => {
            let keys: Vec<KeyChange> = keys
                .iter()
                .filter(|change| view.names(&change.key))
                .cloned()
                .collect();
            if keys.is_empty() {
                return None;
            }
            WatchEffects::Counts(keys)
        }
    };
    Some(WatchChange {
        generation,
        date: kept.date,
        who: kept.who.clone(),
        reason: kept.reason.clone(),
        request: kept.request,
        effects,
    })
}

/// An item as it goes over the socket. A round that is too large for that is told as missed.
pub fn encoded(item: WatchItem) -> Vec<u8> {
    let missed = match &item {
        WatchItem::Round { round, changes } => {
            let first = changes
                .first()
                .map_or(round.stamp.generation.0, |change| change.generation.0);
            let after = Generation(first.saturating_sub(1));
            Some(WatchItem::Missed { after, up_to: *round })
        }
        _ => None,
    };
    let frame = |item| {
        wire::encode_reply(&FromDaemon {
            id: 0,
            body: Told::Watched(item),
        })
    };
    let bytes = frame(item).or_else(|error| missed.map_or(Err(error), frame));
    bytes.unwrap_or_else(|error| {
        // Whatever else is told is far smaller than what may be sent.
        tracing::error!(%error, "a watcher's item cannot be encoded");
        Vec::new()
    })
}
