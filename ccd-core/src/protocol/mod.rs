//! The node as a state machine.

mod interface;
mod message;

pub use interface::{
    Action, Decision, DecisionKind, DeviceStatus, Event, NodeStatus, Part, ServingState, Settings, Status,
    Ticket,
};
pub use message::{ForwardOutcome, IMAGE_CHUNK_BYTES, Message, Obstacle, PeerState, Promise};

use crate::time::Time;
use alloc::vec::Vec;

/// One node.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
}

impl Node {
    /// A node that has just started and knows nothing: its first actions, asked for by the first
    /// [`Event::Timer`], open its replicas.
    pub fn new(settings: Settings, now: Time) -> Self {
        let _ = now;
        Self { settings }
    }

    /// Takes one event and appends what must be done to `actions`.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let _ = (now, event, actions, &self.settings);
    }

    /// When [`Event::Timer`] is due.
    pub fn next_deadline(&self) -> Time {
        Time::NEVER
    }

    pub fn status(&self, now: Time) -> Status {
        let _ = now;
        unreachable!()
    }
}
