//! `ccdd`: the daemon of a node. See `ccd_node::cli`.

fn main() -> std::process::ExitCode {
    ccd_node::cli::run(std::env::args_os().collect())
}
