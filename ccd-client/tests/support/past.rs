//! The history of the daemon in memory: every update since it started.

use super::State;
use ccd_client::wire::{Ask, BranchReport, Fault, HistoryItem, HistoryTold, HistoryUpdate, KeyChange, Told};
use ccd_core::database::{Difference, Record, RecordBody};
use ccd_core::ids::Generation;
use ccd_core::time::Date;

pub fn remember(state: &mut State, record: &Record) {
    let RecordBody::Updates { updates, .. } = &record.body else {
        return;
    };
    let (effects, _) = state.database.effects(record).expect("it was admitted");
    for (update, rows) in updates.iter().zip(effects) {
        state.history.push(HistoryUpdate {
            epoch: record.next.stamp.epoch,
            generation: record.next.stamp.generation,
            date: update.date,
            who: update.who.clone(),
            reason: update.reason.clone(),
            request: update.request,
            keys: KeyChange::all(&rows),
            rows: Some(rows),
        });
    }
}

pub fn answer(state: &State, ask: &Ask) -> Told {
    let not_kept = |why: &str| Told::Failed(Fault::NotKept { why: why.into() });
    match ask {
        Ask::History(ask) => {
            let wanted = state.history.iter().filter(|update| {
                let before = ask.before.is_none_or(|before| update.generation < before);
                let key = ask.key.as_ref();
                before && key.is_none_or(|key| update.keys.iter().any(|change| change.key == *key))
            });
            let mut items: Vec<HistoryItem> = wanted
                .map(|update| {
                    let mut update = update.clone();
                    update.rows = update.rows.filter(|_| ask.rows);
                    HistoryItem::Update(Box::new(update))
                })
                .collect();
            let surplus = items.len().saturating_sub(ask.last as usize);
            items.drain(..surplus);
            Told::History(HistoryTold {
                items,
                oldest: Generation(1),
                more: surplus > 0,
            })
        }
        Ask::Changes(ask) => {
            let (from, to) = (ask.from.min(ask.to), ask.from.max(ask.to));
            if to > state.database.position().stamp.generation {
                return not_kept("it has not been reached");
            }
            let between = state
                .history
                .iter()
                .filter(|update| update.generation > from && update.generation <= to);
            let all = between.filter_map(|update| update.rows.clone());
            let mut difference = Difference::composed(all);
            if let Some(key) = &ask.key {
                difference = difference.of_key(key);
            }
            Told::Changes(if ask.from > ask.to {
                difference.inverse()
            } else {
                difference
            })
        }
        Ask::Branches => {
            let branches = state.branches.iter().map(|(name, text)| BranchReport {
                name: name.clone(),
                kept: Date(0),
                bytes: text.len() as u64,
            });
            Told::Branches(branches.collect())
        }
        Ask::Branch { name } => match state.branches.iter().find(|(known, _)| known == name) {
            Some((_, text)) => Told::Branch {
                text: text.clone().into_bytes(),
            },
            None => not_kept("no such branch"),
        },
        Ask::Status | Ask::Why { .. } | Ask::Request(_) | Ask::Watch(_) => {
            not_kept("it is no question about the past")
        }
    }
}
