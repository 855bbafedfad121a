//! The daemon as the tasks of its thread reach it: the loop has its turns; what a connection's task has for it is handled at once
//! if it may, in between.

use super::{Daemon, EVENTS_PER_TURN_MAX};
use crate::door::AtOnce;
use crate::outlet::Bell;
use ccd_core::time::Time;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// An item that took this long is the last in a row: an answer of many rows takes a while to make, and peers' heartbeats wait.
const ENTRY_SPAN_MAX: Duration = Duration::from_millis(1);

/// Where the daemon is, once it is there.
pub(super) type Home = Rc<RefCell<Option<Daemon>>>;

/// What the loop and those who enter in between know of each other.
pub(super) struct Entries {
    /// How many more may enter before the loop has its turn.
    left: usize,
    /// When the loop wakes by itself.
    pub alarm_at: Time,
    panicked: Option<Box<dyn Any + Send>>,
}

impl Entries {
    pub fn new() -> Self {
        Self {
            left: 0,
            alarm_at: Time::ZERO,
            panicked: None,
        }
    }

    /// The loop's turn begins. A panic of somebody who entered is the loop's: nobody else would end for it.
    pub fn begin_turn(&mut self) {
        self.left = EVENTS_PER_TURN_MAX;
        if let Some(panicked) = self.panicked.take() {
            resume_unwind(panicked);
        }
    }
}

/// A way in for what `take` takes.
pub(super) fn entry<T: 'static>(
    home: &Home,
    bell: &Bell,
    take: impl Fn(&mut Daemon, T) + 'static,
) -> AtOnce<T> {
    // Not to own it: the daemon owns the connections that hold this.
    let (home, bell) = (Rc::downgrade(home), bell.clone());
    Rc::new(move |item| {
        let Some(home) = home.upgrade() else {
            return Some(item);
        };
        let Ok(mut daemon) = home.try_borrow_mut() else {
            return Some(item);
        };
        let Some(daemon) = daemon.as_mut().filter(|daemon| daemon.lets_in()) else {
            return Some(item);
        };
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| take(daemon, item)));
        if daemon.wants_its_turn(begun.elapsed(), outcome.err()) {
            bell.notify_one();
        }
        None
    })
}

impl Daemon {
    fn lets_in(&self) -> bool {
        self.entries.left > 0 && self.entries.panicked.is_none() && !self.is_over()
    }

    /// After somebody was let in, who took so long.
    fn wants_its_turn(&mut self, span: Duration, panicked: Option<Box<dyn Any + Send>>) -> bool {
        let entries = &mut self.entries;
        entries.left = if span > ENTRY_SPAN_MAX {
            0
        } else {
            entries.left - 1
        };
        entries.panicked = panicked;
        if entries.left == 0 || entries.panicked.is_some() || self.is_over() {
            return true;
        }
        self.next_deadline() < self.entries.alarm_at
    }
}
