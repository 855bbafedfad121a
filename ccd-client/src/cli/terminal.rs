//! Standard output and error, and questions to whoever sits there.
//!
//! Always holds: output goes to standard output, messages to standard error; colour only on a terminal and never with
//! `NO_COLOR`; JSON is one document a line.

use super::failure::{Failure, Stop};
use super::progress::Progress;
use crate::messages;
use std::io::{self, BufRead, BufWriter, IsTerminal, StdoutLock, Write};

#[derive(Debug)]
pub(super) struct Terminal {
    program: &'static str,
    pub json: bool,
    quiet: bool,
    verbose: bool,
    colour: bool,
    out: BufWriter<StdoutLock<'static>>,
}

/// What a coloured text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Worrying,
    Bad,
}

impl Terminal {
    pub fn new(program: &'static str, json: bool, quiet: bool, verbose: bool) -> Self {
        let stdout = io::stdout();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            program,
            json,
            quiet,
            verbose,
            colour: stdout.is_terminal() && !no_color,
            out: BufWriter::new(stdout.lock()),
        }
    }

    pub fn is_coloured(&self) -> bool {
        self.colour
    }

    /// The plain counterpart of [`Terminal::json`].
    pub fn line(&mut self, text: &str) -> Result<(), Stop> {
        writeln!(self.out, "{text}").map_err(|error| Stop::output(&error))
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.write_all(bytes).map_err(|error| Stop::output(&error))
    }

    pub fn document(&mut self, document: &serde_json::Value) -> Result<(), Stop> {
        self.line(&document.to_string())
    }

    pub fn flush(&mut self) -> Result<(), Stop> {
        self.out.flush().map_err(|error| Stop::output(&error))
    }

    /// Colours a text if this is a terminal.
    pub fn toned(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Good => 32,
            Tone::Worrying => 33,
            Tone::Bad => 31,
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Says that work goes on, until what comes back is dropped. `doing` completes "cannot …".
    pub fn progress(&self, doing: &str) -> Progress {
        Progress::of(doing, !self.quiet)
    }

    /// What someone who asked for it may want to know.
    pub fn detail(&self, text: &str) {
        if self.verbose {
            self.say(text);
        }
    }

    /// What everyone should know who did not ask for quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    pub fn warn(&self, text: &str) {
        self.note(&format!("warning: {text}"));
    }

    fn say(&self, text: &str) {
        // A message that nobody can read is no reason to fail.
        let _ = writeln!(io::stderr(), "{}: {text}", self.program);
    }

    /// Two lines: what failed and why, and what to try.
    pub fn report(&self, failure: &Failure) {
        let Failure {
            message, doing, why, ..
        } = failure;
        self.say(&format!("{message}: cannot {doing}: {why}"));
        let _ = writeln!(io::stderr(), "try: {}", failure.action());
    }

    /// Goes on only if `--yes` was given, or someone on the terminal says yes.
    pub fn confirm(&mut self, yes: bool, doing: &str, question: &str) -> Result<(), Stop> {
        if yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Stop::new(
                &messages::NOT_CONFIRMED,
                doing,
                format!("{question} Nobody is there to confirm it"),
            ));
        }
        self.flush()?;
        let _ = write!(io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        // An answer that cannot be read is no yes.
        let _ = io::stdin().lock().read_line(&mut answer);
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Stop::new(&messages::NOT_CONFIRMED, doing, "it was not confirmed"))
        }
    }
}
