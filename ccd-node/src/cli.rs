//! The command line of `ccdd`; and, when the program is called by another of their names, the other programs.
//!
//! One file can be all four programs (a symbolic link for each name), so that the demo needs nothing but itself.

use crate::startup::{self, Startup, StartupError};
use crate::{daemon, demo, log};
use ccd_client::cli::parse_duration;
use ccd_client::{Exit, Places};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime::LocalOptions;

/// The daemon of a node of a highly-available cluster configuration database
#[derive(Debug, Parser)]
#[command(name = "ccdd", version, max_term_width = 100, after_help = EXAMPLES)]
struct Ccdd {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  ccdd run                                  as the unit does; the node is in /etc/ccd/node
  ccdd run --node beta --etc ./etc --state ./beta --run ./beta
  ccdd demo                                 a whole cluster on files, in half a minute
  ccdd demo --keep                          and leave it running

Exit codes: 0 stopped after SIGTERM, 64 usage, 73 cannot create a file, 74 I/O error, 100 what is
set up here must be changed first, 109 another ccdd uses the state folder.
CCD_LOG=debug says more on standard error.";

const RUN: &str = "\
SIGTERM leaves the cluster gracefully; SIGHUP reads the authkey file again.

Examples:
  ccdd run
  ccdd run --node beta --etc ./etc --state ./beta --run ./beta
  CCD_LOG=debug ccdd run";

const DEMO: &str = "\
Examples:
  ccdd demo
  ccdd demo --keep";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon of this node, until SIGTERM
    #[command(after_help = RUN)]
    Run {
        /// This node's number or name [default: what /etc/ccd/node says]
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Read everything on the devices and compare it this often: 30s, 60m
        #[arg(long, value_name = "TIME", default_value = "60m", value_parser = parse_duration)]
        scrub_every: Duration,
        /// End when the process that started this one ends
        #[arg(long, hide = true)]
        with_parent: bool,
    },
    /// Show a two-node cluster at work, on files in a temporary folder
    #[command(after_help = DEMO)]
    Demo {
        /// Leave the cluster running
        #[arg(long)]
        keep: bool,
    },
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
}

/// The definition of the command line, for completions and manual pages.
pub fn command() -> clap::Command {
    <Ccdd as clap::CommandFactory>::command()
}

/// Runs whichever program these arguments name; the first is the program's own name.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let called = args.first().map(Path::new).and_then(Path::file_name);
    match called.and_then(|name| name.to_str()) {
        Some("ccdadm") => ccd_client::cli::ccdadm::run(args.into_iter()),
        Some("ccdctl") => ccd_client::cli::ccdctl::run(args.into_iter()),
        Some("ccd-disk") => ccd_disk::cli::run(args.into_iter()),
        _ => run_ccdd(args),
    }
}

fn run_ccdd(args: Vec<OsString>) -> ExitCode {
    let Ccdd { places, verb } = match Ccdd::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => {
            // A closed pipe is no error.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    match verb {
        Verb::Run {
            node,
            scrub_every,
            with_parent,
        } => {
            log::to_stderr();
            ccd_client::cli::report_full_files();
            let refusal = Refusal::new(&places);
            let outcome = die_with_parent(with_parent)
                .and_then(|()| startup::prepare(places, node.as_deref(), scrub_every))
                .and_then(run_daemon);
            match outcome {
                Ok(()) => Exit::Done.into(),
                Err(StartupError { exit_code, text }) => {
                    log::failure(&text);
                    refusal.keep(&text);
                    exit_code.into()
                }
            }
        }
        Verb::Demo { keep } => demo::run(keep),
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "ccdd", &mut std::io::stdout());
            Exit::Done.into()
        }
    }
}

/// Where it is kept why the daemon did not start, for `ccdadm status`.
struct Refusal(std::path::PathBuf);

impl Refusal {
    fn new(places: &Places) -> Self {
        Self(places.refusal_path())
    }

    /// A text that cannot be kept is still printed.
    fn keep(&self, text: &str) {
        if let Some(folder) = self.0.parent() {
            let _ = crate::locks::make_folder(folder, crate::locks::RUN_FOLDER_MODE);
        }
        let _ = ccd_client::files::write_whole(&self.0, format!("{text}\n").as_bytes(), 0o644);
    }
}

fn die_with_parent(with_parent: bool) -> Result<(), StartupError> {
    if with_parent {
        let asked = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        asked.map_err(|error| StartupError::new(Exit::Internal, error))?;
    }
    Ok(())
}

fn run_daemon(startup: Startup) -> Result<(), StartupError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = runtime.map_err(|error| StartupError::new(Exit::Internal, error))?;
    let outcome = runtime.block_on(daemon::run(startup));
    // A thread that hangs in a lookup must not keep the process.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        command().debug_assert();
        for verb in command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let text = verb.get_after_help().map(ToString::to_string);
            assert!(
                text.is_some_and(|text| text.contains("Examples:")),
                "{}",
                verb.get_name()
            );
        }
    }
}
