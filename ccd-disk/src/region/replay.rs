//! From the bytes of an area to databases and records. Called when a region is loaded.
//!
//! Of a large database with all its segments this is what a restart waits for: records are taken apart on a second thread
//! while image and earlier records are put together on this one.

use super::recovery::RecoveredArea;
use crate::format::journal::Entry;
use ccd_core::database::{Database, Record};
use ccd_core::replica::RECORDS_LOADED_MAX;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Fewer records are not worth a thread.
const THREAD_FROM_RECORDS: usize = 1024;

/// So many records are handed over at once, and so many such pieces may wait.
const PIECE_RECORDS: usize = 64;
const PIECES_WAITING_MAX: usize = 32;

/// The image of an area with the older ones of its records applied to it, and the newer ones. What does not decode although its
/// checksums are right was written wrong, or by another version: the text says what.
pub(super) fn replay(area: &RecoveredArea) -> Result<(Database, Vec<Record>), String> {
    let standing = area.standing();
    if standing.len() < THREAD_FROM_RECORDS {
        return follow(area, standing.len(), standing.iter().map(|entry| decoded(entry)));
    }
    thread::scope(|scope| {
        let (pieces, taken) = sync_channel(PIECES_WAITING_MAX);
        let entries = &standing;
        let decode = move || {
            for piece in entries.chunks(PIECE_RECORDS) {
                let records: Vec<_> = piece.iter().map(|entry| decoded(entry)).collect();
                // Nobody takes them any more once one was wrong.
                if pieces.send(records).is_err() {
                    return;
                }
            }
        };
        match thread::Builder::new()
            .name("ccd-decode".into())
            .spawn_scoped(scope, decode)
        {
            Ok(_) => follow(area, standing.len(), taken.into_iter().flatten()),
            Err(_) => follow(area, standing.len(), standing.iter().map(|entry| decoded(entry))),
        }
    })
}

fn follow(
    area: &RecoveredArea,
    count: usize,
    records: impl Iterator<Item = Result<Record, String>>,
) -> Result<(Database, Vec<Record>), String> {
    let mut database = match &area.checkpoint {
        Some(_) => Database::from_image(&area.image).map_err(|error| error.to_string())?,
        None => Database::default(),
    };
    if database.position() != area.base() {
        let (expected, got) = (area.base(), database.position());
        return Err(format!(
            "the image says it is at {got}, its checkpoint's head at {expected}"
        ));
    }
    let old = count.saturating_sub(RECORDS_LOADED_MAX);
    let mut newer = Vec::with_capacity(count - old);
    for (index, record) in records.enumerate() {
        let record = record?;
        if index < old {
            database = database.apply(&record).map_err(|error| error.to_string())?;
        } else {
            newer.push(record);
        }
    }
    Ok((database, newer))
}

fn decoded(entry: &Entry) -> Result<Record, String> {
    let record = Record::decode(&entry.payload).map_err(|error| error.to_string())?;
    if (record.prev, record.next) != (entry.prev, entry.next) {
        return Err(format!(
            "the record that leads to {} says it leads to {}",
            entry.next, record.next
        ));
    }
    Ok(record)
}
