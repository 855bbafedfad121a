//! Telling the driver of every committed update, once and in order: for histories and for those who watch.
//!
//! Nothing is told before it is known to be committed, which is known to whoever serves; so what a restart finds at the end
//! of its journal, or a copy brings, is told when the configuration that decided on it is open here. Told is the way from
//! what was told last to what is committed now; where this node does not have it (a whole image came), that there is a gap.
//! Called at the end of every event; owns `told`.

use super::Node;
use super::interface::{Action, Committed};
use crate::database::Database;
use crate::ids::Position;
use crate::replica::Loaded;

/// Up to where the driver was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    position: Position,
    /// The version there, if it is at hand: after a restart the journal may not reach back so far.
    database: Option<Database>,
}

/// Whether two positions have the same content: a configuration that opens changes the epoch alone.
fn is_same(one: Position, other: Position) -> bool {
    one.lineage == other.lineage && one.stamp.generation == other.stamp.generation
}

impl Node {
    /// What the driver keeps of earlier runs reaches to `position`: telling goes on from there. Called once, before the
    /// first event.
    pub fn tell_from(&mut self, position: Position) {
        self.told = Told {
            position,
            database: None,
        };
    }

    /// The local copy was read: it may lead past the version that was told last. Where it begins later, telling goes on
    /// from its beginning, after a gap.
    pub(super) fn note_told_version(&mut self, loaded: &Loaded) {
        if self.told.database.is_some() || loaded.damage.is_some() {
            return;
        }
        let told = self.told.position;
        let mut database = loaded.checkpoint.clone();
        if database.position().stamp.generation < told.stamp.generation {
            for record in &loaded.records {
                match database.apply(record) {
                    Ok(next) => database = next,
                    Err(_) => break,
                }
                if database.position().stamp.generation >= told.stamp.generation {
                    break;
                }
            }
        }
        let position = database.position();
        if is_same(position, told) || position.stamp.generation > told.stamp.generation {
            self.told = Told {
                position,
                database: Some(database),
            };
        }
    }

    pub(super) fn tell_committed(&mut self) {
        let now = self.committed.position();
        if now == self.told.position || self.serving != Some(self.known.epoch) {
            return;
        }
        let before = self.told.database.replace(self.committed.clone());
        let told = core::mem::replace(&mut self.told.position, now);
        // Only a configuration was opened on what is known already.
        if is_same(told, now) {
            return;
        }
        let way = before.and_then(|before| {
            let records = self.history.since(told, now)?;
            Some((before, records))
        });
        let after = self.committed.clone();
        self.actions.push(Action::Committed(Committed { way, after }));
    }
}
