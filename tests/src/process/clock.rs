//! A daemon whose clock shows another date than the machine's.

use super::programs::{command, run_command};
use std::path::Path;

/// Variables with which a daemon starts whose clock is so many seconds ahead. What they name is made in `folder`.
pub fn clock_ahead(folder: &Path, seconds: u32) -> [(&'static str, String); 2] {
    let library = folder.join("clock.so");
    let library = library.to_str().expect("the folder has a plain name");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/process/clock.c");
    run_command(&mut command(
        "cc",
        &["-shared", "-fPIC", "-O1", "-o", library, source],
    ))
    .done();
    [
        ("LD_PRELOAD", library.to_owned()),
        ("CCD_TEST_CLOCK_AHEAD_S", seconds.to_string()),
    ]
}
