//! `ccdadm history`: who changed what, when, from where and why.

use super::PROGRAM;
use super::query::parse_key;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::table::date_text;
use crate::cli::terminal::{Terminal, Tone};
use crate::exit::Exit;
use crate::wire::{HistoryAsk, HistoryGap, HistoryItem, HistoryUpdate, KeyChange};
use ccd_core::database::{Difference, FormatEffect};
use ccd_core::ids::Generation;
use nix::unistd::{Uid, User};
use serde_json::{Value, json};

/// Print the last updates: who, when, from where, why, and what they changed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm history                          the last 20 updates
  ccdadm history MY_KEY --rows            those that changed MY_KEY, with the rows
  ccdadm history --last 1000 --json | jq 'select(.uid == 1000) | .generation'
  ccdadm history --before 4711 --last 1   the update before generation 4711

Each node keeps its own history, as much as the option history_mib allows. What it did not see,
because it was away and received a whole copy, is said; another node may know it.

Exit codes: 0 updates were printed, 1 there are none.")]
pub(super) struct History {
    /// Those that changed this key; without it, all
    key: Option<String>,
    /// How many
    #[arg(short = 'c', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    last: u32,
    /// Only what came before this generation
    #[arg(long, value_name = "GENERATION")]
    before: Option<u64>,
    /// With the rows that were removed and added
    #[arg(long)]
    rows: bool,
}

impl History {
    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "read the history of this node";
        let key = self.key.as_deref().map(|key| parse_key(key, doing)).transpose()?;
        let client = common.attach(PROGRAM, doing)?;
        let ask = HistoryAsk {
            key,
            last: self.last,
            before: self.before.map(Generation),
            rows: self.rows,
        };
        let told = client.history(ask).doing(doing)?;
        let mut found = false;
        for item in &told.items {
            match item {
                HistoryItem::Update(update) => {
                    found = true;
                    show_update(update, terminal)?;
                }
                HistoryItem::Gap(gap) => show_gap(*gap, terminal)?,
            }
        }
        let since = format!("this node keeps what came since generation {}", told.oldest);
        if told.more {
            terminal.detail("there are earlier ones: --last N, or --before GENERATION");
        } else if found {
            terminal.detail(&since);
        } else {
            terminal.note(&format!("{}: {since}", self.none()));
        }
        Ok(if found { Exit::Done } else { Exit::No })
    }

    /// That nothing was found, in words.
    fn none(&self) -> String {
        let mut text = "no update".to_owned();
        if let Some(key) = &self.key {
            text += &format!(" of {key}");
        }
        if let Some(before) = self.before {
            text += &format!(" before generation {before}");
        }
        text
    }
}

pub(super) fn show_update(update: &HistoryUpdate, terminal: &mut Terminal) -> Result<(), Stop> {
    if terminal.json {
        return terminal.document(&document(update));
    }
    let who = &update.who;
    let node = who.node.map_or_else(|| "?".to_owned(), |node| node.to_string());
    let reason = update
        .reason
        .as_ref()
        .map(|reason| format!(": {}", one_line(reason)));
    terminal.line(&format!(
        "generation {}  {}  node {node}  {}  {}[{}]{}",
        update.generation,
        date_text(update.date),
        user(who.uid).unwrap_or_else(|| format!("uid {}", who.uid)),
        one_line(&who.program),
        who.pid,
        reason.unwrap_or_default(),
    ))?;
    match &update.rows {
        Some(rows) => show_lines(rows, "    ", terminal),
        None => update
            .keys
            .iter()
            .try_for_each(|change| terminal.line(&format!("    {}", counts(change)))),
    }
}

/// What a control character could do to a terminal, it does not.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// `MY_KEY: +1 -2 rows, format made`
fn counts(change: &KeyChange) -> String {
    let format = match change.format {
        FormatEffect::None => "",
        FormatEffect::Made => ", format made",
        FormatEffect::Removed => ", format removed",
        FormatEffect::Changed => ", format changed",
    };
    format!(
        "{}: +{} -{} rows{format}",
        change.key, change.rows_added, change.rows_removed
    )
}

/// A difference as lines with `-` and `+`.
pub(super) fn show_lines(difference: &Difference, indent: &str, terminal: &mut Terminal) -> Result<(), Stop> {
    for line in difference.to_string().lines() {
        let tone = if line.starts_with('+') {
            Tone::Good
        } else {
            Tone::Bad
        };
        let line = terminal.toned(line, tone);
        terminal.line(&format!("{indent}{line}"))?;
    }
    Ok(())
}

fn show_gap(gap: HistoryGap, terminal: &mut Terminal) -> Result<(), Stop> {
    let HistoryGap { after, up_to } = gap;
    if terminal.json {
        return terminal.document(&json!({ "gap": { "after": after.0, "up_to": up_to.0 } }));
    }
    let text = if after >= up_to {
        format!(
            "the copy was replaced at generation {up_to}; what it held before, up to {after}, was a branch that lost"
        )
    } else {
        show_gap_text(after, up_to)
    };
    let text = terminal.toned(&text, Tone::Worrying);
    terminal.line(&format!("({text})"))
}

/// What is missing between two generations.
pub(super) fn show_gap_text(after: Generation, up_to: Generation) -> String {
    let what = match after.next() {
        first if first >= up_to => format!("generation {first} is"),
        first => format!("generations {first} to {up_to} are"),
    };
    format!("{what} not kept on this node: it received a whole copy, or its history was damaged")
}

fn user(uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map(|user| user.name)
}

/// One update a line.
pub(super) fn document(update: &HistoryUpdate) -> Value {
    let keys: Vec<Value> = update
        .keys
        .iter()
        .map(|change| {
            json!({
                "key": change.key.as_str(), "rows_added": change.rows_added,
                "rows_removed": change.rows_removed, "format": change.format,
            })
        })
        .collect();
    let mut document = json!({
        "generation": update.generation.0,
        "epoch": update.epoch.0,
        "date": date_text(update.date),
        "node": update.who.node.map(u8::from),
        "uid": update.who.uid,
        "user": user(update.who.uid),
        "pid": update.who.pid,
        "program": update.who.program,
        "reason": update.reason,
        "request": update.request.public().to_string(),
        "keys": keys,
    });
    if let Some(rows) = &update.rows {
        document["changes"] = difference_document(rows);
    }
    document
}

/// Formats as lists of columns, rows in text form.
pub(super) fn difference_document(difference: &Difference) -> Value {
    let mut formats: Vec<Value> = Vec::new();
    let removed = difference
        .formats_removed
        .iter()
        .map(|(key, columns)| (key, Some(columns), None));
    let added = difference
        .formats_added
        .iter()
        .map(|(key, columns)| (key, None, Some(columns)));
    let changed = difference
        .formats_changed
        .iter()
        .map(|change| (&change.key, Some(&change.from), Some(&change.to)));
    for (key, from, to) in removed.chain(added).chain(changed) {
        formats.push(json!({ "key": key.as_str(), "from": from, "to": to }));
    }
    let texts = |rows: &[ccd_core::database::Row]| rows.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "formats": formats,
        "removed": texts(&difference.rows_removed),
        "added": texts(&difference.rows_added),
    })
}
