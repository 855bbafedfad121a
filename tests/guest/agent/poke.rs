//! One direct write to a device, as a node that does not know that it was fenced would do it.

use anyhow::{Result, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

const BLOCK_BYTES: usize = 4096;

/// In the first MiB of a region nothing but the superblock in its first block is kept.
pub const FREE_PLACE: u64 = 64 * 1024;

/// Prints what became of it; a refused write is no failure of this program. With `every`, it goes on until it is killed, and
/// opens the device anew each time: a path may have been replaced.
pub fn poke(device: &Path, at: u64, byte: u8, every: Option<Duration>) -> Result<()> {
    ensure!(
        at != 0 && at.is_multiple_of(BLOCK_BYTES as u64),
        "it must be a block, and not the first"
    );
    // Direct writes want memory that begins with a block.
    let memory = vec![byte; 2 * BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let block = &memory[start..start + BLOCK_BYTES];
    let mut said = String::new();
    loop {
        let came = match write(device, at, block) {
            Ok(()) => "written".to_owned(),
            Err(refused) => format!("refused: errno {} {refused}", refused.raw_os_error().unwrap_or(0)),
        };
        if came != said {
            println!("{came}");
            said = came;
        }
        match every {
            Some(pause) => std::thread::sleep(pause),
            None => return Ok(()),
        }
    }
}

fn write(device: &Path, at: u64, block: &[u8]) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_DIRECT | nix::libc::O_DSYNC)
        .open(device)?;
    file.write_all_at(block, at)
}
