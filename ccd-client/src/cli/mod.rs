//! The command-line programs. Each is a function from arguments to an exit code, so that tests and the demo can call
//! them, and a thin program in `src/bin`.
//!
//! ```text
//! arguments.rs   options that every verb takes; times
//! address.rs     where a node listens, as people write it
//! terminal.rs    output, colour, questions, closed pipes
//! failure.rs     how a verb ends if not well: CCD-1042, what failed, why, what to try
//! progress.rs    that work goes on, on a terminal
//! table.rs       tables and dates for people
//! ccdadm/        one file for each group of verbs
//! ccdctl/        the same
//! ```
//!
//! The parser's definitions are the only ones: help, completions and manual pages are generated from them.

mod address;
mod arguments;
pub mod ccdadm;
pub mod ccdctl;
mod failure;
mod progress;
mod table;
mod terminal;

pub use arguments::{Common, parse_duration};

use crate::exit::Exit;
use failure::Stop;
use nix::sys::signal::{SigSet, Signal};
use std::io::Write;
use std::process::ExitCode;
use terminal::Terminal;

/// A file that would grow beyond its limit (`ulimit -f`) is an error of the write, and not the silent end of the process. Called
/// before any thread is started; programs that are started from here have the signal again.
pub fn report_full_files() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // It fails for no signal that exists.
    let _ = signals.thread_block();
}

/// What both programs do around their verbs: flush, report, choose the exit code.
fn finish(mut terminal: Terminal, outcome: Result<Exit, Stop>) -> ExitCode {
    let outcome = outcome.and_then(|exit| terminal.flush().map(|()| exit));
    match outcome {
        Ok(exit) => exit.into(),
        // Nobody reads on; that is no error.
        Err(Stop::ClosedPipe) => Exit::Done.into(),
        Err(Stop::Failed(failure)) => {
            // What was put out before it must not come after it.
            let _ = terminal.flush();
            terminal.report(&failure);
            failure.exit().into()
        }
    }
}

/// What the parser says is help (exit 0) or a usage error (exit 64).
fn finish_parse(program: &'static str, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help and version. A closed pipe is no error.
        let _ = error.print();
        return Exit::Done.into();
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Exit::Usage.into();
    }
    let text = plain_words(&error.render().to_string());
    // A message that nobody can read is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{program}: {}: {text}", crate::messages::USAGE,);
    Exit::Usage.into()
}

/// What the parser says, without what nobody asked for: folders that only the environment names, and verbs that are hidden.
fn plain_words(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered).trim_end();
    let lines = text.lines().map(|line| {
        if line.starts_with("Usage:") {
            line.replace(" --etc <DIR> --state <DIR> --run <DIR>", " [OPTIONS]")
        } else if line.trim_start().starts_with("[subcommands:") {
            line.replace("completions, ", "").replace(", help]", "]")
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Writes a completion script for a shell.
fn completions<P: clap::CommandFactory>(
    terminal: &mut Terminal,
    shell: clap_complete::Shell,
    program: &str,
) -> Result<Exit, Stop> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut P::command(), program, &mut script);
    terminal.bytes(&script)?;
    Ok(Exit::Done)
}

/// Every verb has examples, and no line below its options is so long that a terminal of the usual width breaks it again.
#[cfg(test)]
fn check_help(command: &clap::Command) {
    assert_eq!(too_wide(command), Vec::<String>::new());
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let text = verb.get_after_help().map(ToString::to_string);
        let text = text.unwrap_or_default();
        assert!(text.contains("Examples:"), "{}: {text}", verb.get_name());
    }
}

#[cfg(test)]
fn too_wide(command: &clap::Command) -> Vec<String> {
    let text = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let own = text.lines().filter(|line| line.chars().count() > 100);
    let own = own.map(|line| format!("{}: {line}", command.get_name()));
    own.chain(command.get_subcommands().flat_map(too_wide)).collect()
}
