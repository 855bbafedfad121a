//! What the service manager hears: ready, stopping, one line of status, and that the loop is alive. Does nothing
//! when the daemon was started by hand.
//!
//! Ready means that this node serves, so that what is ordered after the unit finds a database that answers. Until then the start
//! goes on, however long the other node or a device lets it wait; that the loop is alive is told meanwhile by asking for more time.

use crate::clock;
use crate::severity;
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::{ServingState, Status};
use ccd_core::time::Time;
use sd_notify::NotifyState;
use std::time::Duration;

/// Between two looks at the status.
const INTERVAL: Duration = Duration::from_secs(1);

/// The same until it is ready: what is ordered after it waits for this word.
const INTERVAL_STARTING: Duration = Duration::from_millis(100);

/// More time to start, asked for again and again: who hangs before it is ready asks no more (`TimeoutStartSec` of the unit).
const START_MORE: Duration = Duration::from_secs(30);

/// The daemon as its service manager sees it.
#[derive(Debug)]
pub struct Service {
    /// How often a sign of life is due, if the manager watches.
    watchdog: Option<Duration>,
    next: Time,
    told: String,
    logged: String,
    ready: bool,
}

impl Service {
    pub fn new() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().map(|timeout| timeout / 3),
            next: Time::ZERO,
            told: String::new(),
            logged: String::new(),
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
        self.next = now + self.interval();
        let mut text = status.state.name().to_owned();
        if let Some(configuration) = &status.configuration {
            text.push_str(&format!(", {configuration}"));
        }
        if !status.verdict.is_empty() {
            text.push_str(&format!(": {}", status.verdict));
        }
        self.log(status);
        if text != self.told {
            notify(&[NotifyState::Status(&text)]);
            self.told = text;
        }
    }

    /// Says in the log what has changed in kind. Numbers in a text change all the time, and connections have their own lines.
    fn log(&mut self, status: &Status) {
        let has_own_line = |cause| {
            matches!(
                cause,
                Cause::Refused | Cause::LinkDown | Cause::Packets | Cause::Address
            )
        };
        let problems: Vec<&Problem> = (status.problems.iter())
            .filter(|problem| !has_own_line(problem.cause))
            .collect();
        let mut kind = status.state.name().to_owned();
        if let Some(configuration) = &status.configuration {
            kind.push_str(&format!(", {configuration}"));
        }
        let mut text = kind.clone();
        for (index, problem) in problems.into_iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            kind.push_str(&format!(
                "{:?} {:?} {:?}",
                problem.cause, problem.node, problem.device
            ));
            text.push_str(&format!("{separator}{}", problem.text));
        }
        if kind != self.logged {
            severity::log_at!(severity::of_status(status), "{text}");
            self.logged = kind;
        }
    }

    fn interval(&self) -> Duration {
        let longest = if self.ready { INTERVAL } else { INTERVAL_STARTING };
        self.watchdog.map_or(longest, |watchdog| watchdog.min(longest))
    }
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}

#[cfg(test)]
mod tests {
    use super::Service;
    use ccd_core::ids::{NodeId, Position};
    use ccd_core::protocol::{ServingState, Status};
    use ccd_core::time::{Date, Time};
    use std::time::Duration;

    fn status(state: ServingState) -> Status {
        Status {
            me: NodeId::new(0).expect("a node's number"),
            state,
            problems: Vec::new(),
            verdict: String::new(),
            configuration: None,
            position: Position::EMPTY,
            rows: 0,
            date: Date(0),
            nodes: Vec::new(),
            devices: Vec::new(),
            external: None,
            takes_updates: true,
            survives: Vec::new(),
        }
    }

    #[test]
    fn that_it_serves_is_told_within_a_tenth_of_a_second_and_it_looks_seldom_after() {
        let mut service = Service::new();
        let mut now = Time::ZERO;
        for state in [
            ServingState::Starting,
            ServingState::Waiting,
            ServingState::Reconfiguring,
        ] {
            service.tell(now, &status(state));
            assert!(!service.ready);
            assert_eq!(
                service.next_deadline(),
                now + Duration::from_millis(100),
                "{state:?}"
            );
            now = service.next_deadline();
        }
        service.tell(now, &status(ServingState::Serving));
        assert!(service.ready);
        assert_eq!(service.next_deadline(), now + Duration::from_secs(1));
        // Once ready, it stays so.
        service.tell(now, &status(ServingState::Waiting));
        assert!(service.ready);
        assert_eq!(service.next_deadline(), now + Duration::from_secs(1));
    }
}
