//! What runs inside a guest: the agent that the test talks to, a writer that never ends, and a probe that writes one
//! block to a device and says what became of it.

mod poke;
mod serve;

use anyhow::{Context, Result};
use ccd_client::Places;
use ccd_tests::process::writer::{Fate, write_until};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[derive(Debug, Parser)]
#[command(about = "Inside the guests of ccd's tests")]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Answers the test on the virtio serial port.
    Agent,
    /// Adds rows without end, and prints what became of each.
    Load {
        /// Number of the first row, less one.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// Folders that have etc, state and run of a node each; tried in turn.
        folders: Vec<PathBuf>,
    },
    /// Writes one block, past the page cache, and prints `written` or the error.
    Poke {
        device: PathBuf,
        /// Again and again, so many milliseconds apart; prints what became of it whenever that changes.
        #[arg(long)]
        every_ms: Option<u64>,
        /// In bytes.
        #[arg(long, default_value_t = poke::FREE_PLACE)]
        at: u64,
        #[arg(long, default_value_t = 0x5a)]
        byte: u8,
    },
}

fn main() -> Result<()> {
    match Line::parse().verb {
        Verb::Agent => serve::serve(),
        Verb::Load { first, folders } => {
            load(first, &folders);
            Ok(())
        }
        Verb::Poke {
            device,
            every_ms,
            at,
            byte,
        } => poke::poke(&device, at, byte, every_ms.map(Duration::from_millis))
            .with_context(|| format!("cannot write to {} at {at}", device.display())),
    }
}

fn load(first: u64, folders: &[PathBuf]) {
    let places: Vec<Places> = folders
        .iter()
        .map(|folder| Places {
            etc: folder.join("etc"),
            state: folder.join("state"),
            run: folder.join("run"),
        })
        .collect();
    // Ended by a signal.
    write_until(&places, &AtomicBool::new(false), first, |number, fate| {
        let word = match fate {
            Fate::Acked => "acked",
            Fate::Refused => "refused",
            Fate::Unknown => "unknown",
        };
        println!("{word} {number}");
    });
}
