//! `ccdctl`: see `ccd_client::cli::ccdctl`.

fn main() -> std::process::ExitCode {
    ccd_client::cli::ccdctl::run(std::env::args_os())
}
