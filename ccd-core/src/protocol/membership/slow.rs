//! Members that do not keep up are left out, and nodes that come and go are let in with growing pauses.
//!
//! ```text
//! a round           acked by all within   disk_deadline + 4 heartbeats     else a successor without the late ones
//! one that loads a database within 8      disk_deadlines + 4 heartbeats    since its last piece was fetched; else the same
//! an installation   progress every        2 disk_deadlines + a lease       else the same
//!                   a newcomer is ready   within half a lease              else the same: the others served without it until now
//! a short stay      less than 8 leases    the next joining waits 1, 2, 4, at most 8 leases
//! too slow, again   within 8 pauses       the next joining waits 1, 2, 4, at most 128 leases
//! ```
//!
//! An operation on a local copy is answered within `disk_deadline`, so who takes longer for a round does not work as it
//! should, even if it answers heartbeats. What was under way is part of what the successor starts from: its clients hear
//! that it is committed, well within their time-out. A node that was left out while it was alive must show that it is quick
//! again: it follows the cluster as a learner, and joins once its copy has taken in what came after it had to go.
//!
//! Called by `round.rs`, `install.rs` and `status.rs`. Owns [`TrackRecord`] of each peer. Nothing here is needed for safety.

use crate::configuration::{Configuration, Mode, votes};
use crate::ids::{DeviceSet, NodeId, NodeSet};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::plan::{Settles, Want};
use crate::time::Time;
use alloc::format;
use core::time::Duration;

/// A message may be lost, and is repeated at the next heartbeat: an ack may be late by a few of these.
const ROUND_PATIENCE_BEATS: u32 = 4;

/// A record that is too large for the journal is written as an image, which a driver gives so many deadlines.
const IMAGE_DEADLINES: u32 = 8;

/// A node that was a member for fewer leases than this was there for a short stay.
const SHORT_STAY_LEASES: u32 = 8;

/// After so many short stays in a row, a member that has started again is not taken in anew without a pause.
const FLAPPING_STAYS: u32 = 3;

/// The longest pause before a node is let in again is `1 << PAUSE_DOUBLINGS_MAX` leases; and that of one which was too slow, which
/// holds up the others each time, `1 << SLOW_PAUSE_DOUBLINGS_MAX` leases.
const PAUSE_DOUBLINGS_MAX: u32 = 3;
const SLOW_PAUSE_DOUBLINGS_MAX: u32 = 7;

/// How a node kept up as a member, as this node saw it.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol) struct TrackRecord {
    /// When it became a member.
    joined_at: Option<Time>,
    /// Stays in a row that were short, and that ended because it was too slow: one that only comes and goes is not kept out for as
    /// long as one that holds up the others.
    short_stays: u32,
    slow_stays: u32,
    /// Not let in again before this.
    held_back_until: Time,
    /// It was left out although it was alive, and has not yet shown that it follows.
    must_follow: bool,
}

impl TrackRecord {
    /// Its stay as a member has ended.
    fn on_left(&mut self, now: Time, lease: Duration, how: Departure) {
        let stay = self.joined_at.take().map(|joined_at| now.since(joined_at));
        let is_short = |leases: u32| stay.map(|stay| stay < lease.saturating_mul(leases));
        self.must_follow = how == Departure::TooSlow;
        let pause_leases = match how {
            Departure::AtWill => {
                self.short_stays = 0;
                self.slow_stays = 0;
                0
            }
            Departure::Gone => {
                self.short_stays = match is_short(SHORT_STAY_LEASES) {
                    Some(true) => self.short_stays.saturating_add(1),
                    Some(false) => 0,
                    // It never became a member, or its stay is counted already.
                    None => self.short_stays,
                };
                pause_leases(self.short_stays, PAUSE_DOUBLINGS_MAX)
            }
            Departure::TooSlow => {
                // It may take as long to show it again as it was kept out.
                let last = pause_leases(self.slow_stays, SLOW_PAUSE_DOUBLINGS_MAX).max(1);
                self.slow_stays = match is_short(SHORT_STAY_LEASES.saturating_mul(last)) {
                    Some(true) => self.slow_stays.saturating_add(1),
                    // What made a node slow gets a pause to pass in any case.
                    Some(false) => 1,
                    None => self.slow_stays.max(1),
                };
                pause_leases(self.slow_stays, SLOW_PAUSE_DOUBLINGS_MAX)
            }
        };
        self.held_back_until = now + lease.saturating_mul(pause_leases);
    }
}

/// The pause after so many stays in a row that ended badly.
fn pause_leases(stays: u32, doublings_max: u32) -> u32 {
    match stays {
        0 => 0,
        stays => 1_u32
            .checked_shl(stays.saturating_sub(1).min(doublings_max))
            .unwrap_or(u32::MAX),
    }
}

/// How a member left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Departure {
    /// It said that it would.
    AtWill,
    /// Alive and ready, and yet left out.
    TooSlow,
    /// It died, was cut off, or could not serve.
    Gone,
}

impl Node {
    /// How long the members may take over a round since they last got some of it.
    fn round_patience(&self) -> Duration {
        let deadlines = if self.round_is_large() { IMAGE_DEADLINES } else { 1 };
        let beats = self.settings.heartbeat.saturating_mul(ROUND_PATIENCE_BEATS);
        self.settings
            .disk_deadline
            .saturating_mul(deadlines)
            .saturating_add(beats)
    }

    /// How long a member may go without progress while a configuration is installed.
    pub(in crate::protocol) fn install_patience(&self) -> Duration {
        (self.settings.disk_deadline.saturating_mul(2)).saturating_add(self.settings.lease)
    }

    /// How long the others wait for a member that they served without until now. A lease in all is not exceeded with what comes
    /// before and after: the decision that takes it in, and the one that leaves it out again.
    pub(in crate::protocol) fn newcomer_patience(&self) -> Duration {
        self.settings.lease.checked_div(2).unwrap_or_default()
    }

    /// Whether these nodes go on without the others.
    pub(in crate::protocol) fn are_enough(&self, members: NodeSet) -> bool {
        members.is_more_than_half_of(self.cluster_nodes().count()) || !self.usable_devices().is_empty()
    }

    /// Nodes that this one, which serves, does so without: no members, or such as do not serve.
    pub(in crate::protocol) fn served_without(&self) -> NodeSet {
        if self.serving != Some(self.known.epoch) {
            return NodeSet::EMPTY;
        }
        let fallen = (self.other_members().iter()).filter(|node| self.fell_out(*node));
        NodeSet::ALL.minus(self.known.members).union(fallen.collect())
    }

    /// Takes note of who joins and who leaves by the configuration that is about to replace `known`.
    pub(in crate::protocol) fn note_changes(&mut self, next: NodeSet) {
        let (now, lease, members) = (self.now, self.settings.lease, self.known.members);
        for node in members.minus(next).without(self.me()).iter() {
            let how = match self.peer_state(node) {
                Some(state) if !state.willing => Departure::AtWill,
                Some(state) if state.ready && self.linked(node) && !self.restarted(node) => {
                    Departure::TooSlow
                }
                _ => Departure::Gone,
            };
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.record.on_left(now, lease, how);
            }
        }
        for node in next.without(self.me()).iter() {
            let stayed = members.contains(node);
            let restarted = stayed && self.restarted(node);
            let Some(peer) = self.peers.get_mut(&node) else {
                continue;
            };
            if restarted {
                peer.record.on_left(now, lease, Departure::Gone);
            }
            if !stayed || restarted {
                peer.record.joined_at = Some(now);
                peer.record.must_follow = false;
            }
        }
    }

    /// Not to become a member yet.
    pub(in crate::protocol) fn held_back(&self, node: NodeId) -> bool {
        (self.peers.get(&node)).is_some_and(|peer| self.now < peer.record.held_back_until) || self.slow(node)
    }

    /// It did not keep up, and has not shown since that it does. To follow is to hold what came after it had to go.
    pub(in crate::protocol) fn slow(&self, node: NodeId) -> bool {
        let follows = || {
            self.peer_state(node)
                .is_some_and(|state| state.position.stamp.epoch == self.known.epoch)
        };
        (self.peers.get(&node)).is_some_and(|peer| peer.record.must_follow) && !follows()
    }

    pub(in crate::protocol) fn flapping(&self, node: NodeId) -> bool {
        (self.peers.get(&node)).is_some_and(|peer| {
            let short = (peer.record.joined_at).is_some_and(|joined_at| {
                self.now.since(joined_at) < self.settings.lease.saturating_mul(SHORT_STAY_LEASES)
            });
            short && peer.record.short_stays >= FLAPPING_STAYS
        })
    }

    /// A member did not get ready in time for a configuration that was decided.
    pub(in crate::protocol) fn note_slow(&mut self, nodes: NodeSet) {
        let (now, lease) = (self.now, self.settings.lease);
        for node in nodes.iter() {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.record.on_left(now, lease, Departure::TooSlow);
            }
        }
    }

    /// A round that some members do not ack goes on without them, in a successor.
    pub(in crate::protocol) fn leave_out_the_slow(&mut self) {
        let Some((since, acked)) = self.round_waits() else {
            return;
        };
        let waited = self.now.since(since);
        if waited < self.round_patience()
            || self.solo()
            || self.known.maintenance
            || !self.is_open()
            || self.backing_off()
            || self.install.is_some()
        {
            return;
        }
        let late = self.other_members().minus(acked);
        if late.is_empty() {
            // This node's own copy: its driver has a deadline.
            return;
        }
        let members = self.known.members.minus(late);
        let fit = self.fit_devices();
        let devices: DeviceSet = if members.count() == 1 {
            fit
        } else {
            fit.iter()
                .filter(|role| self.known.devices.contains(*role))
                .collect()
        };
        let rest = Configuration {
            mode: if members.count() == 1 && !devices.is_empty() {
                Mode::Solo(self.me())
            } else {
                Mode::Paired
            },
            members,
            devices,
            nodes: self.cluster_nodes(),
            ..self.known.clone()
        };
        if !votes::admissible(&rest) {
            return;
        }
        let why = format!(
            "node {late} is too slow: it answers heartbeats, and has not acked an update for {} ms",
            waited.as_millis()
        );
        self.record(DecisionKind::Degraded, why.clone());
        self.propose(Want {
            members,
            devices,
            why,
            settles: Settles::default(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    /// The pauses in leases after stays of these lengths, in leases.
    fn pauses(how: Departure, stays: &[u32]) -> alloc::vec::Vec<u32> {
        let mut now = Time::from_nanos(1_000_000_000);
        let mut record = TrackRecord::default();
        (stays.iter())
            .map(|stay| {
                record.joined_at = Some(now);
                now = now + LEASE * *stay;
                record.on_left(now, LEASE, how);
                let pause = record.held_back_until.since(now);
                now = now + pause;
                pause.as_secs() as u32
            })
            .collect()
    }

    #[test]
    fn pauses_grow_with_short_stays_up_to_a_bound_and_a_long_stay_ends_them() {
        #[rustfmt::skip]
        let table = [
            ("it dies after a long stay",   Departure::Gone,    &[60][..],                 &[0][..]),
            ("short stays",                 Departure::Gone,    &[1, 2, 1, 7, 3, 1],       &[1, 2, 4, 8, 8, 8]),
            ("a long stay ends it",         Departure::Gone,    &[1, 2, 1, 8, 1],          &[1, 2, 4, 0, 1]),
            ("slow after a long stay",      Departure::TooSlow, &[60, 60, 1, 1],           &[1, 1, 2, 4]),
            ("slow after short stays",      Departure::TooSlow, &[1, 1, 1, 1, 1, 1, 1, 1, 1], &[1, 2, 4, 8, 16, 32, 64, 128, 128]),
            ("slow again and again",        Departure::TooSlow, &[9, 7, 15, 31, 63, 127],  &[1, 2, 4, 8, 16, 32]),
            ("slow once in a while",        Departure::TooSlow, &[1, 8, 1, 16, 1],         &[1, 1, 2, 1, 2]),
            ("an operator's leave",         Departure::AtWill,  &[1, 1, 1],                &[0, 0, 0]),
        ];
        for (what, how, stays, expected) in table {
            assert_eq!(pauses(how, stays), expected, "{what}");
        }
    }
}
