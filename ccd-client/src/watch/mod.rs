//! Watching: every committed change that matches, once and in order, for as long as anybody asks for the next.
//!
//! ```text
//! mod.rs     WatchBuilder, Watch: what is watched, how far it has come, and going on after whatever happens
//! event.rs   what comes of it
//! link.rs    one connection that never blocks
//! bell.rs    one descriptor to wait on, whatever becomes of the connections
//! ```
//!
//! Always holds: what was given out is never given out again, and nothing after it is left out without being said: the place
//! of the last event goes to the daemon whenever a connection is made anew. There are no threads; all is done in [`Watch::next`],
//! within the time that it is given.

mod bell;
mod event;
mod link;

pub use event::{WatchEvent, WatchUpdate};

use crate::client::Client;
use crate::error::CcdError;
use crate::wire::{Fault, Told, WatchAsk, WatchFrom, WatchItem, WatchPlace};
use bell::Bell;
use ccd_core::client::Refusal;
use ccd_core::database::Pattern;
use ccd_core::ids::Position;
use link::{Link, Received};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two attempts to reach a daemon that is away: at first, and after some.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A daemon that accepts a connection and says nothing for so long is taken for hung, and asked anew.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a node may take until it serves, before it is asked again.
const SERVE_WITHIN: Duration = Duration::from_secs(10);

/// Events that wait to be given out: no more is read before.
const READY_MAX: usize = 1024;

/// What to watch, and from where: begun by [`WatchBuilder::start`].
#[derive(Clone, Debug)]
#[must_use]
pub struct WatchBuilder {
    client: Client,
    patterns: Vec<Pattern>,
    from: WatchFrom,
}

impl WatchBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            patterns: Vec::new(),
            from: WatchFrom::Now,
        }
    }

    /// Also the rows that match this, matched as in a query. Without any: all keys that this user may read.
    pub fn pattern(mut self, pattern: Pattern) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// From where: unless set, from now.
    pub fn from(mut self, from: WatchFrom) -> Self {
        self.from = from;
        self
    }

    /// With the rows that match now first, and then every change from there on.
    pub fn with_rows(self) -> Self {
        self.from(WatchFrom::Rows)
    }

    /// Begins to watch. The first event is [`WatchEvent::Began`].
    ///
    /// # Errors
    /// If the daemon refuses it, or cannot be reached, or does not serve, within the client's time-out.
    pub fn start(self) -> Result<Watch, CcdError> {
        let timeout = self.client.timeout();
        let retry = self.client.retry();
        let deadline = Instant::now() + timeout;
        let mut watch = Watch {
            socket: self.client.socket().to_owned(),
            patterns: self.patterns,
            from: self.from,
            bell: Bell::new().map_err(|source| not_reachable(self.client.socket(), source))?,
            link: None,
            ready: VecDeque::new(),
            heard: None,
            place: None,
            rows_left: self.from == WatchFrom::Rows,
            lost: None,
            is_away: false,
            pause: PAUSE_MIN,
            attempt_at: None,
            began: false,
            ended: None,
            serve_within: timeout.min(SERVE_WITHIN),
        };
        loop {
            let outcome = watch.turn();
            if watch.began {
                return Ok(watch);
            }
            let why = match outcome {
                Err(error) => error,
                Ok(()) => match watch.lost.take() {
                    Some(error) if !(retry && error.is_worth_retrying()) => error,
                    _ => {
                        let now = Instant::now();
                        if now >= deadline {
                            return Err(CcdError::NoAnswer {
                                socket: watch.socket,
                                timeout,
                            });
                        }
                        watch.wait(deadline - now);
                        continue;
                    }
                },
            };
            return Err(why);
        }
    }
}

fn not_reachable(socket: &std::path::Path, source: std::io::Error) -> CcdError {
    CcdError::NotReachable {
        socket: socket.to_owned(),
        source,
    }
}

/// A watch that goes on until it is dropped. May be moved to another thread.
#[derive(Debug)]
pub struct Watch {
    socket: PathBuf,
    patterns: Vec<Pattern>,
    from: WatchFrom,
    bell: Bell,
    link: Option<Link>,
    /// What came and was not given out.
    ready: VecDeque<WatchEvent>,
    /// Up to where the daemon was heard.
    heard: Option<WatchPlace>,
    /// That of the last event that was given out.
    place: Option<WatchPlace>,
    /// The rows of the start have not all come.
    rows_left: bool,
    /// Why there is no connection.
    lost: Option<CcdError>,
    /// That the daemon is away was said, and not that it is back.
    is_away: bool,
    pause: Duration,
    /// When it is tried again.
    attempt_at: Option<Instant>,
    began: bool,
    /// It cannot go on.
    ended: Option<()>,
    serve_within: Duration,
}

impl Watch {
    /// The next event; `None` if there is none within this time. Without a time it waits for as long as it takes.
    ///
    /// # Errors
    /// When it cannot go on: its user may not read the key any more, or the daemon is of another release. Every later call fails
    /// as well. That the daemon is away is no error, but [`WatchEvent::Away`].
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<WatchEvent>, CcdError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(event) = self.poll()? {
                return Ok(Some(event));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.wait(left.unwrap_or(Duration::MAX));
        }
    }

    /// As [`Watch::next`] without any time: what is there now.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn poll(&mut self) -> Result<Option<WatchEvent>, CcdError> {
        if self.ready.is_empty() {
            self.turn()?;
        }
        let event = self.ready.pop_front();
        if let Some(place) = event.as_ref().and_then(WatchEvent::place) {
            self.place = Some(place);
        }
        self.hold_bell();
        Ok(event)
    }

    /// Behind the last event that was given out: a later watch with [`WatchFrom::Place`] goes on from here, in this process or
    /// another one. None before the first event that says where it is.
    pub fn place(&self) -> Option<WatchPlace> {
        self.place
    }

    fn hold_bell(&self) {
        let held = self.link.as_ref().is_some_and(Link::holds_message);
        self.bell.hold(held || !self.ready.is_empty());
    }

    /// Readable when [`Watch::poll`] has something to do; the same descriptor for as long as the watch lives.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Waits for the descriptor.
    fn wait(&self, time: Duration) {
        self.bell.wait(time);
    }

    /// Takes what there is, and tries again what is due.
    fn turn(&mut self) -> Result<(), CcdError> {
        if self.ended.is_some() {
            return Err(CcdError::UnexpectedAnswer {
                socket: self.socket.clone(),
            });
        }
        self.bell.silence();
        if self.link.is_none() && self.attempt_at.is_none_or(|at| at <= Instant::now()) {
            self.connect();
        }
        let outcome = self.receive();
        self.hold_bell();
        if outcome.is_err() {
            self.ended = Some(());
        }
        outcome
    }

    fn connect(&mut self) {
        let from = match self.heard {
            Some(place) if !self.rows_left => WatchFrom::Place(place),
            // Rows of which a part came are of no use: they come anew.
            _ => self.from,
        };
        let ask = WatchAsk {
            patterns: self.patterns.clone(),
            from,
            timeout: self.serve_within,
        };
        match Link::open(&self.socket, ask) {
            Ok(link) => {
                self.bell.watch(&link);
                self.bell.ring_within(SILENCE_MAX);
                self.link = Some(link);
            }
            Err(error) => self.lose(error),
        }
    }

    /// The connection is gone, or none could be made.
    fn lose(&mut self, error: CcdError) {
        self.link = None;
        self.attempt_at = Some(Instant::now() + self.pause);
        self.bell.ring_within(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        if self.began {
            self.say_away(error.to_string());
        }
        self.lost = Some(error);
    }

    /// Once, until it is back.
    fn say_away(&mut self, why: String) {
        if !self.is_away {
            self.is_away = true;
            self.ready.push_back(WatchEvent::Away { why });
        }
    }

    fn receive(&mut self) -> Result<(), CcdError> {
        while self.ready.len() < READY_MAX
            && let Some(link) = &mut self.link
        {
            let told = match link.receive() {
                Ok(Received::Told(told)) => told,
                Ok(Received::Nothing) => {
                    if link.quiet_for() >= SILENCE_MAX {
                        let error = CcdError::NoAnswer {
                            socket: self.socket.clone(),
                            timeout: SILENCE_MAX,
                        };
                        self.lose(error);
                    } else {
                        self.bell.ring_within(SILENCE_MAX - link.quiet_for());
                    }
                    return Ok(());
                }
                Err(error @ CcdError::Wire { .. }) => return Err(error),
                Err(error) => {
                    self.lose(error);
                    return Ok(());
                }
            };
            match told {
                Told::Watched(item) => self.take(item),
                Told::Refused(refusal) => self.refused(refusal.into())?,
                Told::Failed(fault) => self.refused(fault.into())?,
                _ => {
                    return Err(CcdError::UnexpectedAnswer {
                        socket: self.socket.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// What passes is tried again; the rest ends the watch.
    fn refused(&mut self, error: CcdError) -> Result<(), CcdError> {
        let passes = match &error {
            CcdError::Refused(Refusal::Op(_)) => false,
            CcdError::Fault(Fault::TooManyWatchers { .. }) => self.began,
            error => error.is_worth_retrying(),
        };
        if !passes {
            return Err(error);
        }
        self.lose(error);
        Ok(())
    }

    fn come_to(&mut self, round: Position) -> WatchPlace {
        let place = WatchPlace::at(round);
        self.heard = Some(place);
        place
    }

    fn take(&mut self, item: WatchItem) {
        let item = match item {
            WatchItem::NotServing { why } => return self.say_away(why),
            // Rows of which a part came are void.
            WatchItem::Began { .. } if self.began && self.rows_left => {
                self.ready.push_back(WatchEvent::RowsAnew);
                item
            }
            item => item,
        };
        if std::mem::take(&mut self.is_away) {
            self.ready.push_back(WatchEvent::Back);
        }
        match item {
            WatchItem::Began { position, absent } => {
                self.pause = PAUSE_MIN;
                self.attempt_at = None;
                if !self.began {
                    self.began = true;
                    if !matches!(self.from, WatchFrom::Generation(_) | WatchFrom::Place(_)) {
                        self.come_to(position);
                    }
                    self.ready.push_back(WatchEvent::Began { position, absent });
                }
            }
            WatchItem::Rows { formats, rows } => self.ready.push_back(WatchEvent::Rows { formats, rows }),
            WatchItem::AllRows { position } => {
                self.rows_left = false;
                let place = self.come_to(position);
                self.ready.push_back(WatchEvent::AllRows { place });
            }
            WatchItem::Round { round, changes } => {
                let count = changes.len();
                for (index, change) in changes.into_iter().enumerate() {
                    let seen = if index + 1 == count {
                        round.stamp.generation
                    } else {
                        change.generation
                    };
                    let place = WatchPlace { seen, round };
                    let update = WatchUpdate::new(change, place);
                    self.ready.push_back(WatchEvent::Change(Box::new(update)));
                }
                self.come_to(round);
            }
            WatchItem::Progress { position } => {
                let place = self.come_to(position);
                self.ready.push_back(WatchEvent::Progress { place });
            }
            WatchItem::Missed { after, up_to } => {
                let place = self.come_to(up_to);
                self.ready.push_back(WatchEvent::Missed { after, place });
            }
            WatchItem::Diverged { after, up_to } => {
                let place = self.come_to(up_to);
                self.ready.push_back(WatchEvent::Diverged { after, place });
            }
            WatchItem::NotServing { .. } => {}
        }
    }
}

/// Every event as it comes, for ever; ends after an error.
impl Iterator for Watch {
    type Item = Result<WatchEvent, CcdError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended.is_some() {
            return None;
        }
        Self::next(self, None).transpose()
    }
}
