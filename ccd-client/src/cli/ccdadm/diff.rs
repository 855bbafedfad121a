//! `ccdadm diff`: what is different between two generations, files, kept branches, and the database as it is now.

use super::PROGRAM;
use super::backup::text_stop;
use super::history::{difference_document, show_lines};
use super::query::parse_key;
use crate::backup::TEXT_BYTES_MAX;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::Terminal;
use crate::client::{Client, Freshness};
use crate::exit::Exit;
use crate::files;
use crate::wire::ChangesAsk;
use ccd_core::database::{Content, Difference, Key, ParsedText, Pattern, RecordCheck};
use ccd_core::ids::Generation;
use serde_json::json;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Show what leads from one state of the database to another
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm diff 4711 now                    what was changed since generation 4711
  ccdadm diff 4710 4711                   what the update of generation 4711 changed
  ccdadm diff backup.ccd now              against a file, as checkpoint or convert wrote it
  ccdadm diff branch:7-4711-0123456789ab now
  ccdadm diff --key MY_KEY 4000 now

A state is a generation, now, a file (a file called 12 is ./12), or branch:NAME (ccdadm branches).
Lines with '-' are only in the first, lines with '+' only in the second.

Exit codes: 0 no difference, 1 a difference, 105 a generation or branch is not kept on this node.")]
pub(super) struct Diff {
    #[arg(value_name = "A")]
    from: State,
    #[arg(value_name = "B")]
    to: State,
    /// Only what is about this key
    #[arg(long)]
    key: Option<String>,
}

/// A state of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Now,
    Generation(Generation),
    Branch(String),
    File(PathBuf),
}

impl FromStr for State {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse::<u64>() {
            Ok(number) => Self::Generation(Generation(number)),
            Err(_) if text == "now" => Self::Now,
            Err(_) => match text.strip_prefix("branch:") {
                Some("") => return Err("a branch has a name; ccdadm branches lists them"),
                Some(name) => Self::Branch(name.to_owned()),
                None => Self::File(text.into()),
            },
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => write!(f, "now"),
            Self::Generation(generation) => write!(f, "generation {generation}"),
            Self::Branch(name) => write!(f, "branch {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Diff {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = format!("compare {} with {}", self.from, self.to);
        let key = self
            .key
            .as_deref()
            .map(|key| parse_key(key, &doing))
            .transpose()?;
        let mut sight = Sight {
            common,
            doing: &doing,
            client: None,
        };
        let difference = sight.difference(&self.from, &self.to, key)?;
        show(
            &difference,
            &self.from.to_string(),
            &self.to.to_string(),
            terminal,
        )
    }
}

/// The exit code says whether there is any.
pub(super) fn show(
    difference: &Difference,
    from: &str,
    to: &str,
    terminal: &mut Terminal,
) -> Result<Exit, Stop> {
    if terminal.json {
        let mut document = difference_document(difference);
        document["from"] = json!(from);
        document["to"] = json!(to);
        document["same"] = json!(difference.is_empty());
        terminal.document(&document)?;
    } else if !difference.is_empty() {
        terminal.line(&format!("--- {from}"))?;
        terminal.line(&format!("+++ {to}"))?;
        show_lines(difference, "", terminal)?;
    }
    Ok(if difference.is_empty() {
        Exit::Done
    } else {
        Exit::No
    })
}

/// Looks at states; attaches to the daemon only if one of them needs it.
struct Sight<'a> {
    common: &'a Common,
    doing: &'a str,
    client: Option<Client>,
}

impl Sight<'_> {
    fn client(&mut self) -> Result<&Client, Stop> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.common.attach(PROGRAM, self.doing)?,
        };
        Ok(self.client.insert(client))
    }

    fn difference(&mut self, from: &State, to: &State, key: Option<Key>) -> Result<Difference, Stop> {
        let doing = self.doing;
        let is_generation = |state: &State| matches!(state, State::Now | State::Generation(_));
        // The history knows it: what it costs follows the change, not the database.
        if is_generation(from) && is_generation(to) {
            let (from, to) = (
                self.generation(from, key.as_ref())?,
                self.generation(to, key.as_ref())?,
            );
            return self.client()?.changes(ChangesAsk { key, from, to }).doing(doing);
        }
        let (from, to) = (self.content(from)?, self.content(to)?);
        let mut difference = Content::diff(&from, &to);
        for rows in [&mut difference.rows_removed, &mut difference.rows_added] {
            rows.sort_by_cached_key(|row| (row.key.clone(), row.to_text()));
        }
        Ok(match key {
            Some(key) => difference.of_key(&key),
            None => difference,
        })
    }

    /// Of the database as it is now: by a strict question, for which it is enough to be allowed to read the key.
    fn generation(&mut self, state: &State, key: Option<&Key>) -> Result<Generation, Stop> {
        let doing = self.doing;
        if let State::Generation(generation) = state {
            return Ok(*generation);
        }
        let client = self.client()?;
        if let Some(key) = key
            && let Ok(rows) = client.query(Pattern::all(key.clone()), Freshness::Strict)
        {
            return Ok(rows.position.stamp.generation);
        }
        Ok(client
            .keys(Freshness::Strict)
            .doing(doing)?
            .position
            .stamp
            .generation)
    }

    fn content(&mut self, state: &State) -> Result<Content, Stop> {
        let doing = self.doing;
        match state {
            State::File(path) => {
                let text = files::read_bytes(path, TEXT_BYTES_MAX).doing(doing)?;
                let parsed = ParsedText::parse(&text, RecordCheck::Verify);
                Ok(parsed.map_err(|error| text_stop(&error, doing))?.content)
            }
            State::Branch(name) => Ok(branch(self.client()?, name, doing)?.content),
            State::Now => Ok(self.client()?.snapshot(Freshness::Strict).doing(doing)?.content()),
            State::Generation(to) => {
                let client = self.client()?;
                let now = client.snapshot(Freshness::Strict).doing(doing)?;
                let ask = ChangesAsk {
                    key: None,
                    from: now.position().stamp.generation,
                    to: *to,
                };
                Ok(client.changes(ask).doing(doing)?.applied_to(now.content()))
            }
        }
    }
}

/// A kept branch.
pub(super) fn branch(client: &Client, name: &str, doing: &str) -> Result<ParsedText, Stop> {
    let text = client.branch(name).doing(doing)?;
    ParsedText::parse(&text, RecordCheck::Verify).map_err(|error| text_stop(&error, doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_a_generation_now_a_branch_or_a_file() {
        for (text, state) in [
            ("12", State::Generation(Generation(12))),
            ("now", State::Now),
            ("branch:7-12-ab", State::Branch("7-12-ab".to_owned())),
            ("./12", State::File("./12".into())),
            ("-1", State::File("-1".into())),
            ("backup.ccd", State::File("backup.ccd".into())),
        ] {
            assert_eq!(text.parse(), Ok(state), "{text}");
        }
    }
}
