//! What the service manager hears: ready, stopping, one line of status, and that the loop is alive. Does nothing
//! when the daemon was started by hand.
//!
//! Ready means that this node serves, so that what is ordered after the unit finds a database that answers. Until then the start
//! goes on, however long the other node or a device lets it wait; that the loop is alive is told meanwhile by asking for more time.

use crate::clock;
use ccd_core::protocol::{ServingState, Status};
use ccd_core::time::Time;
use sd_notify::NotifyState;
use std::time::Duration;

/// Between two looks at the status.
const INTERVAL: Duration = Duration::from_secs(1);

/// More time to start, asked for again and again: who hangs before it is ready asks no more (`TimeoutStartSec` of the unit).
const START_MORE: Duration = Duration::from_secs(30);

/// The daemon as its service manager sees it.
#[derive(Debug)]
pub struct Service {
    /// How often a sign of life is due, if the manager watches.
    watchdog: Option<Duration>,
    next: Time,
    told: String,
    ready: bool,
}

impl Service {
    pub fn new() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().map(|timeout| timeout / 3),
            next: Time::ZERO,
            told: String::new(),
            ready: false,
        }
    }

    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping, NotifyState::Status("leaving the cluster")]);
    }

    pub fn next_deadline(&self) -> Time {
        self.next
    }

    /// Something was decided: tell it now.
    pub fn hurry(&mut self) {
        self.next = clock::now();
    }

    pub fn tell(&mut self, now: Time, status: &Status) {
        self.next = now + self.watchdog.unwrap_or(INTERVAL).min(INTERVAL);
        if self.watchdog.is_some() {
            notify(&[NotifyState::Watchdog]);
        }
        if !self.ready {
            // Closed: queries are answered, and updates wait for a majority.
            self.ready = matches!(status.state, ServingState::Serving | ServingState::Closed);
            let more = u32::try_from(START_MORE.as_micros()).unwrap_or(u32::MAX);
            notify(&[if self.ready {
                NotifyState::Ready
            } else {
                NotifyState::ExtendTimeoutUsec(more)
            }]);
        }
        let mut text = status.state.name().to_owned();
        if let Some(configuration) = &status.configuration {
            text.push_str(&format!(", {configuration}"));
        }
        if !status.verdict.is_empty() {
            text.push_str(&format!(": {}", status.verdict));
        }
        if text != self.told {
            tracing::info!("{text}");
            notify(&[NotifyState::Status(&text)]);
            self.told = text;
        }
    }
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}
