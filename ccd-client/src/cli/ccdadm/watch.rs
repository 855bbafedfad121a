//! `ccdadm watch`: every change as it comes.

use super::PROGRAM;
use super::history::{document as update_document, show_gap_text, show_update};
use super::query::parse_key;
use crate::cli::Common;
use crate::cli::failure::{Doing, Stop};
use crate::cli::terminal::{Terminal, Tone};
use crate::exit::Exit;
use crate::messages;
use crate::watch::{Watch as Watching, WatchEvent, WatchUpdate};
use crate::wire::{WatchFrom, WatchPlace};
use ccd_core::database::{Key, Pattern, WILDCARD, format_text};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde_json::json;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Print every change as it comes, until it is interrupted
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ccdadm watch                            every update of the database
  ccdadm watch MY_KEY --rows              those of one key, with the rows
  ccdadm watch MY_KEY network_type=sci    only rows that match, as in a query
  ccdadm watch --key WEB --key DNS        of several keys
  ccdadm watch MY_KEY --initial           the rows that there are, then every change of them
  ccdadm watch --from 4711                what came after generation 4711, and goes on
  ccdadm watch --count 1 --timeout 1m     wait for one update, at most a minute
  ccdadm watch --json | jq -r .place      what --from takes to go on exactly there, later

Each change is printed once and in order, also when the daemon is restarted, or the other node takes
over. What the node does not know is said.

Exit codes: 0 it was interrupted, or printed as many as asked for; with --timeout: 0 something was
printed, 1 nothing was, 124 fewer than --count.")]
pub(super) struct Watch {
    /// Only rows of this key; without it, all keys that may be read
    key: Option<String>,
    /// Patterns by position, or COLUMN=PATTERN by name
    #[arg(value_name = "PATTERN", allow_negative_numbers = true)]
    patterns: Vec<String>,
    /// Also this key, whole; may be repeated
    #[arg(long = "key", value_name = "KEY")]
    also: Vec<String>,
    /// Character that matches any run of characters, also none
    #[arg(long, value_name = "CHAR", default_value_t = WILDCARD)]
    wildcard: char,
    /// No character is a wildcard
    #[arg(long, conflicts_with = "wildcard")]
    exact: bool,
    /// From this generation on, or from a place that was printed with --json
    #[arg(long, value_name = "GENERATION", conflicts_with = "initial")]
    from: Option<WatchFrom>,
    /// The rows that there are first
    #[arg(long)]
    initial: bool,
    /// End after so many updates
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// With the rows that were removed and added
    #[arg(long)]
    rows: bool,
}

/// What ends a watch.
enum Ended {
    Enough,
    Interrupted,
    TimeOver,
}

impl Watch {
    fn watched(&self, doing: &str) -> Result<Vec<Pattern>, Stop> {
        let wildcard = (!self.exact).then_some(self.wildcard);
        let mut patterns = Vec::new();
        if let Some(key) = &self.key {
            let key = parse_key(key, doing)?;
            patterns.push(Pattern::from_arguments(key, &self.patterns).with_wildcard(wildcard));
        }
        for key in &self.also {
            patterns.push(Pattern::all(parse_key(key, doing)?));
        }
        Ok(patterns)
    }

    pub fn run(&self, common: &Common, terminal: &mut Terminal) -> Result<Exit, Stop> {
        let doing = "watch";
        let deadline = common.timeout.map(|timeout| Instant::now() + timeout);
        let patterns = self.watched(doing)?;
        // Before anything is printed: who interrupts it then means to end it.
        let signals =
            Signals::catch().map_err(|error| Stop::new(&messages::INTERNAL, doing, error.to_string()))?;
        let client = common.attach(PROGRAM, doing)?;
        let mut builder = client.watch();
        for pattern in patterns {
            builder = builder.pattern(pattern);
        }
        if let Some(from) = self.from {
            builder = builder.from(from);
        } else if self.initial {
            builder = builder.with_rows();
        }
        let mut watch = builder.start().doing(doing)?;
        let mut shown = Shown::default();
        let ended = self.follow(&mut watch, &signals, deadline, &mut shown, terminal)?;
        terminal.flush()?;
        Ok(match (ended, self.count) {
            (Ended::Enough | Ended::Interrupted, _) => Exit::Done,
            (Ended::TimeOver, Some(count)) => {
                let why = format!("{} of {count} updates came within the time-out", shown.changes);
                return Err(Stop::new(&messages::WATCH_TIMED_OUT, doing, why));
            }
            (Ended::TimeOver, None) if shown.changes + shown.rows > 0 => Exit::Done,
            (Ended::TimeOver, None) => Exit::No,
        })
    }

    fn follow(
        &self,
        watch: &mut Watching,
        signals: &Signals,
        deadline: Option<Instant>,
        shown: &mut Shown,
        terminal: &mut Terminal,
    ) -> Result<Ended, Stop> {
        loop {
            while let Some(event) = watch.poll().doing("go on watching")? {
                self.show(event, shown, terminal)?;
                if self.count.is_some_and(|count| shown.changes >= count) {
                    return Ok(Ended::Enough);
                }
                if signals.are_pending() {
                    return Ok(Ended::Interrupted);
                }
            }
            terminal.flush()?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Ended::TimeOver);
            }
            wait(watch, signals, left)?;
            if signals.are_pending() {
                return Ok(Ended::Interrupted);
            }
        }
    }

    fn show(&self, event: WatchEvent, shown: &mut Shown, terminal: &mut Terminal) -> Result<(), Stop> {
        match event {
            WatchEvent::Began { position, absent } => {
                for key in &absent {
                    terminal.note(&format!("there is no key {key} yet; it is watched for"));
                }
                if terminal.json {
                    let absent: Vec<&str> = absent.iter().map(Key::as_str).collect();
                    return terminal.document(&json!({
                        "event": "began", "generation": position.stamp.generation.0,
                        "epoch": position.stamp.epoch.0, "absent": absent,
                    }));
                }
                terminal.detail(&format!("watching from generation {}", position.stamp.generation));
                Ok(())
            }
            WatchEvent::Rows { formats, rows } => {
                shown.rows += rows.len() as u64;
                if terminal.json {
                    for (key, columns) in &formats {
                        terminal
                            .document(&json!({ "event": "key", "key": key.as_str(), "columns": columns }))?;
                    }
                    for row in &rows {
                        terminal.document(&json!({
                            "event": "row", "key": row.key.as_str(), "values": row.values,
                        }))?;
                    }
                    return Ok(());
                }
                for (key, columns) in &formats {
                    terminal.line(&format_text(key, columns))?;
                }
                rows.iter().try_for_each(|row| terminal.line(&row.to_text()))
            }
            WatchEvent::RowsAnew => remark(
                terminal,
                json!({ "event": "rows_anew" }),
                "the daemon was lost: all rows come anew",
                Tone::Worrying,
            ),
            WatchEvent::AllRows { place } => {
                let text = format!("that were all rows of generation {}", place.seen);
                remark(terminal, placed("rows_end", place), &text, Tone::Good)
            }
            WatchEvent::Change(change) => {
                shown.changes += 1;
                self.show_change(*change, terminal)
            }
            WatchEvent::Progress { place } => {
                if terminal.json {
                    terminal.document(&placed("progress", place))?;
                } else {
                    terminal.detail(&format!("nothing else up to generation {}", place.seen));
                }
                Ok(())
            }
            WatchEvent::Missed { after, place } => {
                let mut document = placed("missed", place);
                document["after"] = json!(after.0);
                remark(
                    terminal,
                    document,
                    &show_gap_text(after, place.seen),
                    Tone::Worrying,
                )
            }
            WatchEvent::Diverged { after, place } => {
                let mut document = placed("diverged", place);
                document["after"] = json!(after.0);
                let text = format!(
                    "the votes were overruled: what came before, up to generation {after}, may be of a branch that lost; it goes on \
                     from generation {} of epoch {}; ccdadm query shows the rows there are, ccdadm branches what was lost",
                    place.seen, place.round.stamp.epoch
                );
                remark(terminal, document, &text, Tone::Bad)
            }
            WatchEvent::Away { why } => {
                if terminal.json {
                    return terminal.document(&json!({ "event": "away", "why": why }));
                }
                terminal.note(&format!("waiting for the daemon: {why}"));
                Ok(())
            }
            WatchEvent::Back => {
                if terminal.json {
                    return terminal.document(&json!({ "event": "back" }));
                }
                terminal.note("the daemon is back");
                Ok(())
            }
        }
    }

    fn show_change(&self, change: WatchUpdate, terminal: &mut Terminal) -> Result<(), Stop> {
        let WatchUpdate { mut update, place } = change;
        if !self.rows {
            update.rows = None;
        }
        if !terminal.json {
            return show_update(&update, terminal);
        }
        let mut document = update_document(&update);
        document["event"] = json!("change");
        document["place"] = json!(place.to_string());
        terminal.document(&document)
    }
}

#[derive(Debug, Default)]
struct Shown {
    changes: u64,
    rows: u64,
}

fn placed(event: &str, place: WatchPlace) -> serde_json::Value {
    json!({ "event": event, "generation": place.seen.0, "place": place.to_string() })
}

/// What is no change, in parentheses.
fn remark(terminal: &mut Terminal, document: serde_json::Value, text: &str, tone: Tone) -> Result<(), Stop> {
    if terminal.json {
        return terminal.document(&document);
    }
    let text = terminal.toned(text, tone);
    terminal.line(&format!("({text})"))
}

/// What asks the program to end, as something that can be waited for.
struct Signals(SignalFd);

impl Signals {
    fn catch() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// A signal that has come stays for whoever asks again.
    fn are_pending(&self) -> bool {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Until there is something to do, or nobody reads on.
fn wait(watch: &Watching, signals: &Signals, left: Option<Duration>) -> Result<(), Stop> {
    let timeout = left.map_or(PollTimeout::NONE, |left| {
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    });
    let stdout = io::stdout();
    let mut descriptors = [
        PollFd::new(watch.descriptor(), PollFlags::POLLIN),
        PollFd::new(signals.0.as_fd(), PollFlags::POLLIN),
        // Nothing but errors: that the reader of a pipe has gone.
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
    ];
    // What interrupts it is looked at by the caller.
    let _ = poll(&mut descriptors, timeout);
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    match descriptors[2].revents() {
        Some(events) if events.intersects(gone) => Err(Stop::ClosedPipe),
        _ => Ok(()),
    }
}
