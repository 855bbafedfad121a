//! `ccdadm status --watch`: a live view on a terminal; elsewhere, the status anew whenever it changes.
//!
//! Always holds: the terminal is as it was when this ends: by q, by a signal, by an error, or by a panic (whose hook
//! ratatui sets).

use super::live::View;
use super::picture::Pen;
use super::{PROGRAM, document, exit, print};
use crate::cli::Common;
use crate::cli::failure::Stop;
use crate::cli::table::date_text;
use crate::cli::terminal::Terminal;
use crate::client::{Client, now};
use crate::exit::Exit;
use crate::wire::{DatedDecision, StatusReport};
use crate::{CcdError, messages};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::Value;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How soon a key or signal is answered.
const GLANCE: Duration = Duration::from_millis(50);

/// So many of the last decisions are shown at most.
const DECISIONS: u32 = 30;

const DOING: &str = "watch the status";

pub fn run(common: &Common, every: Duration, terminal: &mut Terminal) -> Result<Exit, Stop> {
    let signals =
        Signals::taken().map_err(|error| Stop::new(&messages::INTERNAL, DOING, error.to_string()))?;
    if !terminal.json && io::stdout().is_terminal() && io::stdin().is_terminal() {
        live(common, every, terminal, &signals)
    } else {
        changes(common, every, terminal, &signals)
    }
}

/// Signals that end a watch: they are read, so that the terminal is restored first.
struct Signals(SignalFd);

impl Signals {
    fn taken() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        SignalFd::with_flags(&set, flags).map(Self)
    }

    fn came(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

/// One look at the daemon, which may be gone or come back.
fn look(
    common: &Common,
    client: &mut Option<Client>,
    decisions: u32,
) -> Result<(StatusReport, Vec<DatedDecision>), CcdError> {
    let attached = match client.take() {
        Some(attached) => attached,
        None => match common.timeout {
            Some(timeout) => Client::attach_within(&common.places, PROGRAM, timeout)?,
            None => Client::attach(&common.places, PROGRAM)?,
        },
    };
    let report = attached.status()?;
    let decisions = if decisions == 0 {
        Vec::new()
    } else {
        attached.decisions(decisions)?
    };
    *client = Some(attached);
    Ok((report, decisions))
}

fn exit_of(report: Option<&StatusReport>) -> Exit {
    report.map_or(Exit::NoDaemon, |report| exit(report.status.health()))
}

fn live(common: &Common, every: Duration, terminal: &Terminal, signals: &Signals) -> Result<Exit, Stop> {
    let failed = |error: io::Error| Stop::new(&messages::OUTPUT_FAILED, DOING, error.to_string());
    let mut view = View::new(Pen::of_locale(), terminal.is_coloured());
    let mut client = None;
    let mut screen = ratatui::try_init().map_err(failed)?;
    let outcome = (|| {
        loop {
            let began = Instant::now();
            match look(common, &mut client, DECISIONS) {
                Ok((report, decisions)) => view.update(began, report, decisions),
                Err(error) => view.trouble = Some(format!("{}: {error}", error.message())),
            }
            screen.draw(|frame| view.draw(frame))?;
            while began.elapsed() < every {
                if signals.came() {
                    return Ok(());
                }
                if !event::poll(GLANCE.min(every))? {
                    continue;
                }
                match event::read()? {
                    Event::Key(key) if key.kind == KeyEventKind::Press && ends(key.code, key.modifiers) => {
                        return Ok(());
                    }
                    Event::Resize(..) => {
                        screen.draw(|frame| view.draw(frame))?;
                    }
                    _ => {}
                }
            }
        }
    })();
    ratatui::restore();
    outcome.map_err(failed)?;
    Ok(exit_of(view.report.as_ref().filter(|_| view.trouble.is_none())))
}

fn ends(code: KeyCode, modifiers: KeyModifiers) -> bool {
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// Prints the status when something else than leases and the passing of updates has changed.
fn changes(
    common: &Common,
    every: Duration,
    terminal: &mut Terminal,
    signals: &Signals,
) -> Result<Exit, Stop> {
    let mut client = None;
    let mut shown = None;
    loop {
        let began = Instant::now();
        let looked = look(common, &mut client, 0);
        let essence = match &looked {
            Ok((report, _)) => essence(document(report)),
            Err(error) => Value::String(error.message().to_string()),
        };
        if shown.as_ref() != Some(&essence) {
            match &looked {
                Ok((report, _)) if terminal.json => terminal.document(&document(report))?,
                Ok((report, _)) => {
                    let gap = if shown.is_some() { "\n" } else { "" };
                    terminal.line(&format!("{gap}{}", date_text(now())))?;
                    print(report, terminal)?;
                }
                // JSON says only what a daemon said.
                Err(error) => terminal.note(&format!("{} {}: {error}", date_text(now()), error.message())),
            }
            terminal.flush()?;
            shown = Some(essence);
        }
        while began.elapsed() < every {
            if signals.came() {
                return Ok(exit_of(looked.as_ref().ok().map(|(report, _)| report)));
            }
            std::thread::sleep(GLANCE.min(every.saturating_sub(began.elapsed())));
        }
    }
}

/// What must differ for a change to be one: not what changes with every update and every heartbeat.
fn essence(mut document: Value) -> Value {
    for name in ["generation", "lineage", "rows"] {
        document["cluster"][name] = Value::Null;
    }
    for node in document["nodes"].as_array_mut().into_iter().flatten() {
        for name in ["stamp", "lineage", "lease_ms"] {
            node[name] = Value::Null;
        }
    }
    for work in document["work"].as_array_mut().into_iter().flatten() {
        for name in ["done_bytes", "total_bytes", "elapsed_ms", "rate_bytes_s"] {
            work[name] = Value::Null;
        }
    }
    document["daemon"]["uptime_ms"] = Value::Null;
    document
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{solo, whole};
    use super::*;
    use crate::wire::{WorkKind, WorkReport};
    use ccd_core::ids::{DeviceRole, Replica};

    #[test]
    fn updates_and_heartbeats_are_no_change_and_a_lost_disk_is_one() {
        let essence_of = |report: &StatusReport| essence(document(report));
        let before = whole(2, true);
        let mut later = before.clone();
        later.status.position.stamp.generation.0 += 9;
        later.status.nodes[1].lease = None;
        later.uptime = Duration::from_secs(99);
        assert_eq!(essence_of(&before), essence_of(&later));
        // That a copy has begun is a change, how far it is none.
        let copying = |done_bytes| {
            let mut report = before.clone();
            report.work.push(WorkReport {
                replica: Replica::Device(DeviceRole::Primary),
                kind: WorkKind::Copy,
                done_bytes,
                total_bytes: 100,
                elapsed: Duration::from_millis(done_bytes),
            });
            essence_of(&report)
        };
        assert_ne!(essence_of(&before), copying(1));
        assert_eq!(copying(1), copying(50));
        assert_ne!(essence_of(&before), essence_of(&solo()));
    }

    #[test]
    fn q_escape_and_control_c_end_it() {
        assert!(ends(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(ends(KeyCode::Esc, KeyModifiers::NONE));
        assert!(ends(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!ends(KeyCode::Char('c'), KeyModifiers::NONE));
    }
}
