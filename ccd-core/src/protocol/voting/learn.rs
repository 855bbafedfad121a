//! Taking note of a later configuration, and what ends with the one before it.
//!
//! Owns `known`, `known_since` and `overridden`. Whatever shows a node something decided calls it: a message, a
//! replica, a vote.

use super::vote::TURN_BEATS;
use crate::configuration::{Configuration, Decider};
use crate::ids::Replica;
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use alloc::string::String;
use core::time::Duration;

impl Node {
    /// Stops answering and acking at once, and says why.
    pub(in crate::protocol) fn stop_serving(&mut self, why: &str) {
        self.look = true;
        self.settle_committed();
        if let Some(epoch) = self.serving.take() {
            self.end_tenure();
            let text = alloc::format!("stopped serving epoch {epoch}: {why}");
            self.record(DecisionKind::StoppedServing, text);
            self.waiting = (String::from(why), self.now);
        }
    }

    /// Takes note of a configuration that was decided. A later one than any known replaces it: whoever holds an
    /// earlier one starts over from here.
    pub(in crate::protocol) fn learn(&mut self, configuration: Configuration) {
        if configuration.epoch <= self.known.epoch || self.is_by_other_side(&configuration) {
            return;
        }
        if self.serving.is_some() {
            let why = alloc::format!(
                "a later configuration was decided ({configuration}) by node {}: {}",
                configuration.proposer,
                configuration.reason
            );
            self.stop_serving(&why);
        }
        if self
            .proposal
            .as_ref()
            .is_some_and(|proposal| proposal.instance < configuration.epoch)
        {
            self.proposal = None;
        }
        if self
            .install
            .as_ref()
            .is_some_and(|install| install.epoch() < configuration.epoch)
        {
            self.install = None;
        }
        if self
            .member
            .as_ref()
            .is_some_and(|member| member.epoch() < configuration.epoch)
        {
            self.member = None;
        }
        // Who has voted for the first configuration knows all that it ever promised.
        let voted = self
            .ballot
            .as_ref()
            .is_some_and(|ballot| ballot.accepted.is_some());
        let voted_first = self.known.is_genesis() && voted;
        let maintenance = self.known.maintenance;
        self.note_changes(configuration.members);
        self.note_devices(&configuration);
        self.known = configuration;
        self.judge_folder();
        self.blank &= !voted_first || self.is_moved_copy();
        self.note_nodes();
        self.note_maintenance(maintenance);
        self.known_since = self.now;
        self.failures = 0;
        // Whatever was backed off from is decided. Who decided it, if it is here, is about to install it.
        let proposer = self.known.proposer;
        let turn = if self.linked(proposer) {
            self.settings.heartbeat.saturating_mul(TURN_BEATS)
        } else {
            Duration::ZERO
        };
        self.back_off_until = self.now + turn;
        self.note_override();
        self.note_designation();
        self.look = true;
        // A blank node must not look as if it had voted with what it was told: it stays blank until it is installed
        // as a member of a configuration that was decided without its vote.
        if !self.blank {
            self.store_configuration(Replica::Local, self.known.clone());
        }
    }

    pub(in crate::protocol) fn note_override(&mut self) {
        if self.known.decider == Decider::Operator {
            self.overridden = Some((self.known.epoch, self.known.base));
        }
    }
}
