//! `cargo bench -p ccd-node`: real clusters against bare programs that do only the necessary system calls, in one run.
//!
//! ```text
//! pair.rs      two nodes and two devices
//! many.rs      three and five nodes without devices
//! joins.rs     a node that starts with nothing joins
//! updates.rs   one update of each kind alone: `-- paired`, `-- solo`, `-- three`
//! watchers.rs  ten thousand watchers
//! questions.rs a query; a history of a million updates
//! load.rs      what a client asks for
//! floors.rs    the bare programs            ring.rs      two writes in one submission
//! copies.rs    those of a copy              crowd.rs     that of many watchers
//! rig.rs       daemons on files             samples.rs   percentiles
//! placement.rs which processor runs what
//! ```
//!
//! `cargo bench -p ccd-node -- pair`, `-- many`, `-- join`, `-- watch`, `-- query` or `-- history` runs one of them. Only the ratios carry over from one machine to another.
//! Nothing here fails because it is slow.

mod copies;
mod crowd;
mod floors;
mod joins;
mod load;
mod many;
mod pair;
mod placement;
mod questions;
mod rig;
mod ring;
mod samples;
mod updates;
mod watchers;

use anyhow::Result;
use std::time::Duration;

/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(floors::SERVER) => return floors::serve(&args[2..]),
        Some(floors::PEER) => return floors::answer(&args[2..]),
        Some(floors::ECHO) => return floors::echo(&args[2..]),
        Some(crowd::TELLER) => return crowd::tell(&args[2..]),
        Some(watchers::WATCHERS) => return watchers::watch(&args[2..]),
        Some(copies::RECEIVER) => return copies::receive(&args[2..]),
        // What `cargo bench` itself passes does not matter.
        _ => {}
    }
    let named = |name: &str| args.iter().any(|word| word == name);
    let parts = [
        "pair", "many", "join", "paired", "solo", "three", "watch", "query", "history",
    ];
    let all = !parts.into_iter().any(named);
    updates::run(named)?;
    if all || named("pair") {
        pair::run()?;
    }
    if all || named("many") {
        many::run()?;
    }
    if named("join") {
        joins::run()?;
    }
    if all || named("watch") {
        watchers::run()?;
    }
    if all || named("query") {
        questions::query()?;
    }
    if all || named("history") {
        questions::history()?;
    }
    Ok(())
}
