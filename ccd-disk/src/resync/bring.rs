//! Reads what a replica says, and writes what was decided about one. Called by the command line and the crash tests.

use super::{Copy, Seen};
use crate::error::RegionError;
use crate::format::geometry::{BALLOT_AT, BALLOT_BLOCKS, CONFIGURATION_AT, CONFIGURATION_BLOCKS};
use crate::region::Region;
use ccd_core::database::Database;
use ccd_core::ids::Position;
use ccd_core::protocol::rules::Source;
use ccd_core::replica::Loaded;

/// Why something was not written although it was decided on.
#[derive(Debug, thiserror::Error)]
pub enum Unwanted<E> {
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Whoever looked before the last write wants none.
    #[error("it is not wanted any more")]
    Stopped(E),
}

/// What a replica says of configurations, votes and content, and the database that it holds.
///
/// # Errors
/// When the device cannot be read.
pub fn see(region: &mut Region, source: Source) -> Result<(Seen, Database), RegionError> {
    let areas = region.control()?;
    let geometry = region.superblock().geometry;
    let votes = [
        BALLOT_AT..BALLOT_AT + BALLOT_BLOCKS,
        CONFIGURATION_AT..CONFIGURATION_AT + CONFIGURATION_BLOCKS,
    ];
    let votes_are_whole = areas.iter().all(|area| {
        let first = geometry.control(area.node);
        (area.faults.iter()).all(|(block, _)| votes.iter().all(|kind| !kind.contains(&(block - first))))
    });
    let configuration = (areas.iter())
        .filter_map(|area| Some((area.node, area.configuration.clone()?)))
        .max_by_key(|(_, configuration)| configuration.epoch);
    let ballots = areas.into_iter().filter_map(|area| area.ballot).collect();
    let loaded = region.load()?;
    let (database, way) = follow(&loaded);
    let mut damage = loaded.damage;
    if damage.is_none() && database.position() != loaded.position {
        damage = Some(format!("its records do not apply beyond {}", database.position()));
    }
    let seen = Seen {
        source,
        configuration,
        ballots,
        votes_are_whole,
        position: loaded.position,
        has_state: !loaded.heads.is_empty(),
        damage,
        way,
    };
    Ok((seen, database))
}

/// The database as its last record left it, and the versions on the way there.
fn follow(loaded: &Loaded) -> (Database, Vec<Position>) {
    let mut database = loaded.checkpoint.clone();
    let mut way = vec![database.position()];
    for record in &loaded.records {
        let Ok(next) = database.apply(record) else { break };
        database = next;
        way.push(database.position());
    }
    (database, way)
}

/// Writes what was decided into the area of the node that opened `target`: first the configuration, which is true wherever it stands, then
/// the content, which counts from its last write on. `step` is told how many bytes of how many are written, also before that last
/// write; its error ends it, and leaves what was there.
///
/// # Errors
/// When a write fails, or `step` does.
pub fn bring<E>(
    target: &mut Region,
    copy: &Copy,
    database: &Database,
    step: &mut dyn FnMut(u64, u64) -> Result<(), E>,
) -> Result<(), Unwanted<E>> {
    assert_eq!(
        database.position(),
        copy.position,
        "what is written is what was decided on"
    );
    // Where this node may not write it hears so before anything is changed.
    target.try_write()?;
    if let Some(configuration) = &copy.configuration {
        let configuration = configuration.clone();
        target.write_configuration(&configuration)?;
    }
    if copy.with_image {
        let mut stopped = None;
        let image = database.to_image();
        let done = target.write_image_in_steps(copy.position, image, &mut |done, total| {
            step(done, total).map_err(|why| stopped = Some(why)).is_ok()
        })?;
        if let Some(why) = stopped.filter(|_| !done) {
            return Err(Unwanted::Stopped(why));
        }
    }
    Ok(())
}
