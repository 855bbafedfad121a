//! What comes of a watch.

use crate::wire::{HistoryUpdate, KeyChange, WatchChange, WatchEffects, WatchPlace};
use ccd_core::database::{Key, Row};
use ccd_core::ids::{Generation, Position};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// It has begun; the database was at this position.
    Began {
        position: Position,
        /// Watched keys that do not exist yet.
        absent: Vec<Key>,
    },
    /// Rows that match, of the start.
    Rows {
        /// Of the keys whose first rows follow, with or without rows.
        formats: Vec<(Key, Vec<String>)>,
        rows: Vec<Row>,
    },
    /// The daemon was lost before all rows had come: those that came are void, and all of them come anew.
    RowsAnew,
    /// That were all rows; what follows are the changes from there on.
    AllRows {
        place: WatchPlace,
    },
    Change(Box<WatchUpdate>),
    /// Nothing else that matches has happened up to here.
    Progress {
        place: WatchPlace,
    },
    /// What came after this generation, up to that of the place, is not known here: the node was away or its history is full.
    Missed {
        after: Generation,
        place: WatchPlace,
    },
    /// An operator overruled the votes. What was watched up to this generation is, or may be, of a branch that lost; the changes that
    /// follow are of the one at the place. Who keeps rows reads them anew.
    Diverged {
        after: Generation,
        place: WatchPlace,
    },
    /// The daemon is away, or does not serve. What happens meanwhile comes when it is back.
    Away {
        why: String,
    },
    Back,
}

impl WatchEvent {
    /// Where a later watch goes on behind it.
    pub fn place(&self) -> Option<WatchPlace> {
        match self {
            Self::AllRows { place }
            | Self::Progress { place }
            | Self::Missed { place, .. }
            | Self::Diverged { place, .. } => Some(*place),
            Self::Change(update) => Some(update.place),
            Self::Began { .. } | Self::Rows { .. } | Self::RowsAnew | Self::Away { .. } | Self::Back => None,
        }
    }
}

/// One update, as far as it is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchUpdate {
    /// Who, when, from where, why; and what it changed of what is watched.
    pub update: HistoryUpdate,
    /// A later watch from here goes on behind this update.
    pub place: WatchPlace,
}

impl WatchUpdate {
    pub(super) fn new(change: WatchChange, place: WatchPlace) -> Self {
        let (keys, rows) = match change.effects {
            WatchEffects::Rows(rows) => (KeyChange::all(&rows), Some(rows)),
            WatchEffects::Counts(keys) => (keys, None),
        };
        let update = HistoryUpdate {
            epoch: place.round.stamp.epoch,
            generation: change.generation,
            date: change.date,
            who: change.who,
            reason: change.reason,
            request: change.request,
            keys,
            rows,
        };
        Self { update, place }
    }
}
