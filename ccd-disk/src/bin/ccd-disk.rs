//! The program `ccd-disk`: one region, with no daemon needed. Everything is in [`ccd_disk::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ccd_disk::cli::run(std::env::args_os())
}
