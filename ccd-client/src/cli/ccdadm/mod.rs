//! `ccdadm`: for the administrator, from any node.
//!
//! ```text
//! query.rs     query, keys
//! change.rs    add, remove, format, remove-format, apply
//! backup.rs    checkpoint, restore
//! checkpoints.rs  checkpoints
//! offline.rs   convert, purify
//! verify.rs    verify
//! drill.rs     drill
//! quorum.rs    quorum
//! sync_command.rs  sync-command
//! status.rs    status
//! why.rs       why, explain
//! report.rs    report
//! history.rs   history
//! watch.rs     watch
//! diff.rs      diff
//! rollback.rs  rollback
//! branches.rs  branches
//! authkey.rs   authkey
//! setup.rs     setup; devices.rs what it says about devices
//! edit_init.rs edit-init
//! ```

mod authkey;
mod backup;
mod branches;
mod change;
mod checkpoints;
mod devices;
mod diff;
mod drill;
mod edit_init;
mod history;
mod offline;
mod query;
mod quorum;
mod report;
mod rollback;
mod setup;
pub(super) mod status;
mod sync_command;
mod verify;
mod watch;
mod why;

use super::{Common, completions, finish, finish_parse};
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

pub(super) const PROGRAM: &str = "ccdadm";

/// Administrate the cluster configuration database
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
struct Ccdadm {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  ccdadm status
  ccdadm format MY_KEY clustname number_nodes network_type node_names
  ccdadm add MY_KEY clust0 4 sci foo,bar,moo,boo
  ccdadm query MY_KEY network_type=sci
  ccdadm status --json | jq .cluster.state

Exit codes:
  0 done, 1 answered \"no\", 2 not serving, 64 usage, 65 bad data, 66 no such file,
  69 daemon not reachable, 70 internal, 73 cannot create, 74 I/O error, 77 not permitted,
  103 stale or diverged, 104 integrity, 105 no such key or row, 106 no quorum,
  107 refused for safety, 108 exists, 109 busy, 110 fenced, 111 outcome unknown, 124 timed out";

#[derive(Debug, Subcommand)]
enum Verb {
    Status(status::Status),
    Query(query::Query),
    Keys(query::Keys),
    Add(change::Add),
    Remove(change::Remove),
    Format(change::Format),
    RemoveFormat(change::RemoveFormat),
    Apply(change::Apply),
    Checkpoint(backup::Checkpoint),
    Checkpoints(checkpoints::Checkpoints),
    Restore(backup::Restore),
    Verify(verify::Verify),
    Drill(drill::Drill),
    Quorum(quorum::Quorum),
    SyncCommand(sync_command::SyncCommand),
    Purify(offline::Purify),
    Convert(offline::Convert),
    History(history::History),
    Watch(watch::Watch),
    Diff(diff::Diff),
    Rollback(rollback::Rollback),
    Branches(branches::Branches),
    Why(why::Why),
    Explain(why::Explain),
    Report(report::Report),
    Setup(setup::Setup),
    EditInit(edit_init::EditInit),
    Authkey(authkey::AuthkeyVerb),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        shell: clap_complete::Shell,
    },
}

/// The definition of the command line, for completions and manual pages.
pub fn command() -> clap::Command {
    Ccdadm::command()
}

/// Runs `ccdadm`; the first argument is the program's own name.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    super::report_full_files();
    let Ccdadm { common, verb } = match Ccdadm::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => return finish_parse(PROGRAM, &error),
    };
    let mut terminal = common.terminal(PROGRAM);
    let outcome = match verb {
        Verb::Status(verb) => verb.run(&common, &mut terminal),
        Verb::Query(verb) => verb.run(&common, &mut terminal),
        Verb::Keys(verb) => verb.run(&common, &mut terminal),
        Verb::Add(verb) => verb.run(&common, &mut terminal),
        Verb::Remove(verb) => verb.run(&common, &mut terminal),
        Verb::Format(verb) => verb.run(&common, &mut terminal),
        Verb::RemoveFormat(verb) => verb.run(&common, &mut terminal),
        Verb::Apply(verb) => verb.run(&common, &mut terminal),
        Verb::Checkpoint(verb) => verb.run(&common, &mut terminal),
        Verb::Checkpoints(verb) => verb.run(&common, &mut terminal),
        Verb::Restore(verb) => verb.run(&common, &mut terminal),
        Verb::Verify(verb) => verb.run(&common, &mut terminal),
        Verb::Drill(verb) => verb.run(&common, &mut terminal),
        Verb::Quorum(verb) => verb.run(&common, &mut terminal),
        Verb::SyncCommand(verb) => verb.run(&common, &mut terminal),
        Verb::Purify(verb) => verb.run(&common, &mut terminal),
        Verb::Convert(verb) => verb.run(&common, &mut terminal),
        Verb::History(verb) => verb.run(&common, &mut terminal),
        Verb::Watch(verb) => verb.run(&common, &mut terminal),
        Verb::Diff(verb) => verb.run(&common, &mut terminal),
        Verb::Rollback(verb) => verb.run(&common, &mut terminal),
        Verb::Branches(verb) => verb.run(&common, &mut terminal),
        Verb::Why(verb) => verb.run(&common, &mut terminal),
        Verb::Explain(verb) => verb.run(&mut terminal),
        Verb::Report(verb) => verb.run(&common, &mut terminal),
        Verb::Setup(verb) => verb.run(&common, &mut terminal),
        Verb::EditInit(verb) => verb.run(&common, &mut terminal),
        Verb::Authkey(verb) => verb.run(&common, &mut terminal),
        Verb::Completions { shell } => completions::<Ccdadm>(&mut terminal, shell, PROGRAM),
    };
    finish(terminal, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_defined() {
        command().debug_assert();
        crate::cli::check_help(&command());
    }
}
