//! `ccdadm`: see `ccd_client::cli::ccdadm`.

fn main() -> std::process::ExitCode {
    ccd_client::cli::ccdadm::run(std::env::args_os())
}
