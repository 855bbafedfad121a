//! What the benchmark measures of the insides, and nobody else calls.

use crate::history::{self, Effects, Kept};
use ccd_core::database::{Difference, Key, Row, Who};
use ccd_core::ids::{ClusterId, Epoch, Generation, Lineage, Position, RequestId, Stamp};
use ccd_core::time::Date;
use std::io;
use std::path::Path;

const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Updates that are written at once, as a busy daemon does.
const UPDATES_AT_ONCE: u64 = 500;
/// One update of so many changes the rare key.
const RARE_EVERY: u64 = 10_000;

/// Writes so many small updates, as the daemon's own thread does.
///
/// # Errors
/// When the folder cannot be written.
pub fn fill_history(folder: &Path, budget_bytes: u64, updates: u64) -> io::Result<()> {
    let mut writer = history::Writer::open(folder, CLUSTER, budget_bytes)?;
    let mut first = 1;
    while first <= updates {
        let last = (first + UPDATES_AT_ONCE - 1).min(updates);
        writer.append((first..=last).map(|number| (position(number), update(number))))?;
        first = last + 1;
    }
    writer.sync()
}

/// Asks as `ccdadm history KEY` does; returns how many updates it was told of.
///
/// # Errors
/// When the history cannot be read.
pub fn ask_history(folder: &Path, key: &str, last: u32) -> io::Result<usize> {
    let key = Key::new(key).map_err(io::Error::other)?;
    history::count(folder, CLUSTER, key, last)
}

fn position(generation: u64) -> Position {
    let mut lineage = [0; 32];
    lineage[..8].copy_from_slice(&generation.to_le_bytes());
    Position {
        stamp: Stamp {
            epoch: Epoch(1),
            generation: Generation(generation),
        },
        lineage: Lineage(lineage),
    }
}

/// A row goes and another one comes.
fn update(number: u64) -> Kept {
    let key = if number.is_multiple_of(RARE_EVERY) {
        "RARE"
    } else {
        "BUSY"
    };
    let row = |number: u64| {
        let key = Key::new(key).expect("it is a key");
        let values = [format!("row{:06}", number % 100_000), format!("value {number}")];
        Row::new(key, values).expect("it is a row")
    };
    let effects = Difference {
        rows_removed: vec![row(number.saturating_sub(1))],
        rows_added: vec![row(number)],
        ..Difference::default()
    };
    Kept {
        who: Who {
            program: "balancer".into(),
            ..Who::default()
        },
        date: Date(1_700_000_000_000 + number),
        reason: None,
        request: RequestId {
            client: 1 << 100,
            sequence: number,
        },
        effects: Effects::Rows(effects),
    }
}
