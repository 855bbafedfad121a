//! Standard output and error, and questions to whoever sits there.
//!
//! Always holds: output goes to standard output, messages to standard error; colour only on a terminal and never with
//! `NO_COLOR`; JSON is one document a line; control characters of files, databases and names never reach a terminal.

use super::failure::{Failure, Stop};
use super::progress::Progress;
use crate::messages;
use std::borrow::Cow;
use std::fmt::Write as _;
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
        let text = shown(text, self.colour);
        writeln!(self.out, "{text}").map_err(|error| Stop::output(&error))
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.write_all(bytes).map_err(|error| Stop::output(&error))
    }

    pub fn document(&mut self, document: &serde_json::Value) -> Result<(), Stop> {
        let text = document.to_string();
        writeln!(self.out, "{}", shown_json(&text)).map_err(|error| Stop::output(&error))
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
        let _ = writeln!(io::stderr(), "{}: {}", self.program, shown(text, false));
    }

    /// Two lines: what failed and why, and what to try.
    pub fn report(&self, failure: &Failure) {
        let Failure {
            message, doing, why, ..
        } = failure;
        self.say(&format!("{message}: cannot {doing}: {why}"));
        let _ = writeln!(io::stderr(), "try: {}", shown(failure.action(), false));
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
        let _ = write!(io::stderr(), "{} [y/N] ", shown(question, false));
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

/// What this program itself colours a text with.
const COLOURS: [&str; 4] = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"];

/// Whether a terminal does something else with it than to show it: control characters, and those that change the direction of
/// what follows.
fn is_acted_on(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text with such characters escaped, but for line breaks, tabulators and, if `coloured`, this program's colours.
pub(super) fn shown(text: &str, coloured: bool) -> Cow<'_, str> {
    let is_escaped = |c: char| is_acted_on(c) && !matches!(c, '\n' | '\t');
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = COLOURS
            .iter()
            .find(|colour| coloured && rest.starts_with(**colour));
        let taken = match colour {
            Some(colour) => {
                shown.push_str(colour);
                colour.len()
            }
            None if is_escaped(c) => {
                let _ = write!(shown, "{}", c.escape_unicode());
                c.len_utf8()
            }
            None => {
                shown.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Cow::Owned(shown)
}

/// The same for a JSON document, which stays one. Outside of its strings there are no such characters.
fn shown_json(text: &str) -> Cow<'_, str> {
    if !text.contains(is_acted_on) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_acted_on(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_acted_on() {
        let table = [
            ("plain \u{e4} \t\n", "plain \u{e4} \t\n"),
            ("K:\x1b]0;title\x07", "K:\\u{1b}]0;title\\u{7}"),
            ("a\rb\x08\x7f", "a\\u{d}b\\u{8}\\u{7f}"),
            ("c1 \u{9b}2J", "c1 \\u{9b}2J"),
            ("to the left \u{202e}", "to the left \\u{202e}"),
            ("\x1b[31mred\x1b[0m", "\\u{1b}[31mred\\u{1b}[0m"),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text, false), expected);
        }
        assert_eq!(
            shown("\x1b[31mred\x1b[0m\x1b[2J", true),
            "\x1b[31mred\x1b[0m\\u{1b}[2J"
        );
    }

    #[test]
    fn a_json_document_stays_the_same_document() {
        let document = serde_json::json!({ "text": "\x1b[2J \u{9b} \x7f \u{202e} \u{e4}" });
        let text = document.to_string();
        let shown = shown_json(&text);
        assert!(!shown.contains(is_acted_on), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).ok(),
            Some(document)
        );
    }
}
