//! The built-in cluster membership monitor: heartbeats over the network and through the devices, and leases.
//!
//! Owns `peers`. A lease is asked for by a heartbeat and counts from when that was sent; it is granted by the answer
//! and is waited out from when that was sent, so the holder's end is never later than the grantor's.

use super::sharing::Sharing;
use super::slow::TrackRecord;
use super::twice::mark_of;
use crate::configuration::Configuration;
use crate::configuration::votes::{self, Voters};
use crate::ids::{DeviceRole, DeviceSet, Epoch, Incarnation, NodeId, NodeSet, PerDevice, Position, Replica};
use crate::protocol::Node;
use crate::protocol::message::{Message, PeerState};
use crate::protocol::reports::HeardReport;
use crate::protocol::voting::lower_bound::Witness;
use crate::replica::Heartbeat;
use crate::time::Time;
use alloc::vec::Vec;
use core::time::Duration;

/// A holder counts its lease this much shorter, as a part of it, than the grantor does: clocks need not agree, but must run
/// at the same rate within this margin (6 %).
const DRIFT_MARGIN_DIVISOR: u32 = 16;

/// What is known of another node.
#[derive(Debug)]
pub(in crate::protocol) struct Peer {
    /// When its last message came; `None` until one came.
    pub heard: Option<Time>,
    /// What it said last, and when.
    pub state: Option<PeerState>,
    state_at: Time,
    /// Its last answer that granted a lease: when the heartbeat that was answered had been sent, and for which epoch.
    granted: Option<(Time, Epoch)>,
    /// Until when this node has promised to take part in no configuration without it.
    pub promised_until: Time,
    /// Its heartbeats on the devices: the last one, and when it was first seen.
    disk: PerDevice<Option<(Heartbeat, Time)>>,
    /// When a heartbeat of it on a device was last seen to change.
    pub moved_on_disk: Option<Time>,
    /// Since when it says that it does not serve.
    idle_since: Option<Time>,
    /// The run of it that took part when this node opened the configuration it serves.
    pub taken_in: Option<Incarnation>,
    /// When each last heard the other, or when this node started.
    pub linked_at: Time,
    /// Since when they do so without a break of a lease, and with which run of it.
    linked_since: Option<(Time, Incarnation)>,
    /// When it was last seen alive in any way, or when this node started.
    pub alive_at: Time,
    /// Whether the devices are the same ones for both.
    pub sharing: PerDevice<Sharing>,
    /// How it kept up as a member, and whether it may become one again.
    pub record: TrackRecord,
    /// What it says is wrong with it.
    pub report: HeardReport,
}

impl Peer {
    /// A node that has just started may have promised a lease before: the promise of its earlier self is assumed and
    /// kept (see [`Node::assume_promises`]).
    pub fn new(now: Time) -> Self {
        Self {
            heard: None,
            state: None,
            state_at: now,
            granted: None,
            promised_until: now,
            disk: PerDevice::default(),
            moved_on_disk: None,
            idle_since: None,
            taken_in: None,
            linked_at: now,
            linked_since: None,
            alive_at: now,
            sharing: Default::default(),
            record: TrackRecord::default(),
            report: HeardReport::default(),
        }
    }

    /// Its heartbeat on a device as it was last read, and when it was first seen so.
    pub fn on_disk(&self, role: DeviceRole) -> Option<&(Heartbeat, Time)> {
        self.disk.of(role).as_ref()
    }

    /// The device is another one now: what was read from it before says nothing.
    pub fn forget_disk(&mut self, role: DeviceRole) {
        *self.disk.of_mut(role) = None;
        *self.sharing.of_mut(role) = Sharing::default();
    }

    /// A heartbeat of it was read from a device. Returns whether it is of another run than the one before.
    pub fn on_disk_heartbeat(&mut self, role: DeviceRole, heartbeat: &Heartbeat, now: Time) -> bool {
        let slot = self.disk.of_mut(role);
        let is_new_run = (slot.as_ref()).is_none_or(|(last, _)| last.incarnation != heartbeat.incarnation);
        match slot {
            Some((last, _)) if last == heartbeat => {}
            // The first sight says nothing: it may be years old.
            None => *slot = Some((heartbeat.clone(), now)),
            Some(_) => {
                *slot = Some((heartbeat.clone(), now));
                self.moved_on_disk = Some(now);
                self.alive_at = now;
            }
        }
        is_new_run
    }
}

impl Node {
    /// How long a lease may last that another node holds: one that goes by the same configuration, and perhaps by another init database.
    pub(in crate::protocol) fn longest_lease(&self) -> Duration {
        self.settings.lease.max(self.known.lease)
    }

    /// How long this node's lease lasts: no longer than others will wait for its end.
    fn own_lease(&self) -> Duration {
        let (own, known) = (self.settings.lease, self.known.lease);
        if known.is_zero() { own } else { own.min(known) }
    }

    /// A node that starts again does not remember whom it promised what: it waits as if it had promised everybody.
    pub(in crate::protocol) fn promise_left(&self, to: NodeId) -> Duration {
        let assumed = self.started + self.longest_lease();
        let peer = (self.peers.get(&to)).map(|peer| peer.promised_until.max(assumed).since(self.now));
        let former = self
            .former_leases()
            .filter(|(node, _)| *node == to)
            .map(|(_, left)| left);
        peer.into_iter().chain(former).max().unwrap_or_default()
    }

    /// Whom this node, or one that has told it, has promised a lease that has not run out.
    pub(in crate::protocol) fn still_promised(&self) -> NodeSet {
        let promised = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.promised_until > self.now);
        let former = self.former_leases().filter(|(_, left)| !left.is_zero());
        promised
            .map(|(node, _)| *node)
            .chain(former.map(|(node, _)| node))
            .collect()
    }

    pub(in crate::protocol) fn beat(&mut self) {
        self.settle_committed();
        self.renew_report();
        if !self.keeps_quiet() {
            let state = self.own_state();
            self.send_to_all(&Message::Heartbeat(state));
        }
        self.beat_devices();
        self.mark_settled();
        self.store_folder();
        self.write_last_words();
    }

    fn own_state(&self) -> PeerState {
        PeerState {
            incarnation: self.settings.incarnation,
            echo: self.now.nanos(),
            epoch: self.known.epoch,
            mark: mark_of(&self.known),
            serving: self.is_open() && self.lease_holds(),
            served_ms: u64::try_from(self.served_for().as_millis()).unwrap_or(u64::MAX),
            position: self.offered_position(),
            no_vote: self.no_vote(),
            folder: self.offered_folder(),
            willing: self.takes_part_in_plans(),
            ready: self.ready(),
            devices: self.fit_devices(),
            hears: self.heard_nodes(),
            able: self.able_peers(),
            lets_in: self.let_in(),
            device_reports: self.device_reports(),
            room: self.own_room(),
            trouble: self.trouble(),
            report: self.report.number,
        }
    }

    /// The newest state that another node may fetch from here: what is committed, and once this node acks nothing any
    /// more, also what is prepared.
    pub(in crate::protocol) fn offered_position(&self) -> Position {
        if self.is_open() {
            self.committed.position()
        } else {
            self.head.position()
        }
    }

    pub(in crate::protocol) fn heard(&mut self, from: NodeId) {
        let is_news = !self.hears(from);
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.heard = Some(now);
            peer.alive_at = now;
            if is_news {
                self.greet(from);
            }
        }
    }

    /// The last heartbeat may have gone with the connection before.
    pub(in crate::protocol) fn on_reachable(&mut self, node: NodeId) {
        if self.peers.contains_key(&node) {
            self.greet(node);
        }
    }

    /// A heartbeat out of turn, to a node that has come or can be reached again: two nodes know that each hears the other
    /// after a round trip, and not after two heartbeats. It answers news only, so greetings do not answer each other without end.
    pub(in crate::protocol) fn greet(&mut self, node: NodeId) {
        if self.keeps_quiet() {
            return;
        }
        let state = self.own_state();
        self.send(node, Message::Heartbeat(state));
    }

    pub(in crate::protocol) fn on_heartbeat(&mut self, from: NodeId, mut state: PeerState) {
        state.willing &= self.agrees_with(from, &state);
        let is_elsewhere = self.note_epoch(from, state.epoch);
        self.note_serving(from, &state);
        self.forget_ahead(from, state.epoch);
        state.willing &= self.known.members.contains(from) || !is_elsewhere;
        let lease = state.epoch == self.known.epoch && self.lends_to(from);
        let (lease_span, longest) = (self.settings.lease, self.longest_lease());

        let (now, me) = (self.now, self.me());
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.idle_since = if state.serving {
            None
        } else {
            peer.idle_since.or(Some(now))
        };
        if state.hears.contains(me) {
            let is_same = (peer.linked_since).is_some_and(|(_, run)| run == state.incarnation);
            if !is_same || now.since(peer.linked_at) >= lease_span {
                peer.linked_since = Some((now, state.incarnation));
            }
            peer.linked_at = now;
        }
        if lease {
            peer.promised_until = now + longest;
        }
        let (incarnation, echo, epoch) = (state.incarnation, state.echo, self.known.epoch);
        let (told, position, serving) = (state.epoch, state.position, state.serving);
        if serving {
            self.bound.note(position.stamp, Witness::Peer(from));
        }
        // A peer that comes, leaves or changes is looked at now rather than at the next heartbeat.
        self.look |= peer.state.as_ref().is_none_or(|last| {
            (
                last.willing,
                last.ready,
                last.serving,
                last.epoch,
                last.hears,
                last.trouble,
            ) != (
                state.willing,
                state.ready,
                state.serving,
                state.epoch,
                state.hears,
                state.trouble,
            ) || !self.known.members.contains(from) && last.position != state.position
        });
        // Its earlier run had heard this node; this one may not yet.
        let is_new_run = (peer.state.as_ref()).is_some_and(|last| last.incarnation != state.incarnation);
        peer.state = Some(state);
        let after = now.since(peer.state_at);
        peer.state_at = now;
        self.note_sharing(from, after);
        self.take_in_what_was_overwritten(from);
        self.look_for_heartbeat(from);
        self.look_for_report(from);
        self.enter_where_let_in(from);
        if is_new_run {
            self.greet(from);
        }
        self.send(
            from,
            Message::HeartbeatAck {
                incarnation,
                echo,
                epoch,
                lease,
            },
        );
        if told < self.known.epoch {
            self.send(from, Message::Decided(self.known.clone()));
            // Once it has learned that, it hears what this node serves of it, and need not wait for the next heartbeat.
            self.greet(from);
        }
        if serving && told == self.known.epoch {
            self.on_peer_serves(from, position);
        }
    }

    pub(in crate::protocol) fn on_heartbeat_ack(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        echo: u64,
        epoch: Epoch,
        lease: bool,
    ) {
        if incarnation != self.settings.incarnation || !lease {
            return;
        }
        let sent = Time::from_nanos(echo);
        if let Some(peer) = self.peers.get_mut(&from)
            && peer
                .granted
                .is_none_or(|(last, last_epoch)| (last_epoch, last) < (epoch, sent))
        {
            peer.granted = Some((sent, epoch));
        }
    }

    /// When this node's lease ends: until then nobody opens a configuration without it, and voters that decide know that
    /// it is here.
    pub(in crate::protocol) fn lease_until(&self) -> Time {
        let mut grants: Vec<(Time, Voters)> = self.grants().collect();
        // The latest time by which enough voters had granted: newest first until they are enough.
        grants.sort_by_key(|(end, _)| core::cmp::Reverse(*end));
        let mut ayes = self.own_vote();
        if votes::decide(&self.known, ayes) {
            return Time::NEVER;
        }
        for (end, voter) in grants {
            ayes = ayes.union(voter);
            if votes::decide(&self.known, ayes) {
                return end;
            }
        }
        Time::ZERO
    }

    /// What each voter has granted, and until when.
    fn grants(&self) -> impl Iterator<Item = (Time, Voters)> {
        let configuration = &self.known;
        let lease = self.own_lease();
        let margin = (lease.checked_div(DRIFT_MARGIN_DIVISOR)).unwrap_or_default();
        let span = lease.saturating_sub(margin);
        let of_nodes = self.peers.iter().filter_map(|(node, peer)| {
            let (sent, epoch) = peer.granted?;
            let voter = Voters::new(NodeSet::of(*node), DeviceSet::EMPTY);
            (!self.solo() && epoch == configuration.epoch).then_some((sent, voter))
        });
        let of_devices = configuration.devices.iter().filter_map(|role| {
            let (begun, claimed) = self.replica(Replica::Device(role)).clean_beat?;
            let voter = Voters::new(NodeSet::EMPTY, DeviceSet::EMPTY.with(role));
            (self.solo() && claimed < configuration.epoch).then_some((begun, voter))
        });
        of_nodes
            .chain(of_devices)
            .map(move |(begun, voter)| (begun + span, voter))
    }

    fn own_vote(&self) -> Voters {
        Voters::new(NodeSet::of(self.me()), DeviceSet::EMPTY)
    }

    /// Whether those whose grants still last are enough: asked at every update, and so without putting them in order.
    fn granted(&self, enough: fn(&Configuration, Voters) -> bool) -> bool {
        let lasting = self.grants().filter(|(end, _)| self.now < *end);
        let ayes = lasting.fold(self.own_vote(), |ayes, (_, voter)| ayes.union(voter));
        enough(&self.known, ayes)
    }

    /// Whether it is before [`lease_until`](Self::lease_until).
    pub(in crate::protocol) fn lease_holds(&self) -> bool {
        self.granted(votes::decide)
    }

    /// Whether it may answer strict queries: nobody opens a configuration without it now. Exactly half of the voters is
    /// enough for that, because nothing is decided without one of them.
    pub(in crate::protocol) fn read_lease_holds(&self) -> bool {
        self.granted(votes::hold)
    }

    /// Heard over the network within the last lease.
    pub(in crate::protocol) fn hears(&self, node: NodeId) -> bool {
        (self.peers.get(&node).and_then(|peer| peer.heard))
            .is_some_and(|heard| self.now.since(heard) < self.settings.lease)
    }

    /// Its last few heartbeats came.
    pub(in crate::protocol) fn heard_lately(&self, node: NodeId) -> bool {
        (self.peers.get(&node).and_then(|peer| peer.heard))
            .is_some_and(|heard| self.now.since(heard) < self.settings.heartbeat.saturating_mul(3))
    }

    pub(in crate::protocol) fn heard_nodes(&self) -> NodeSet {
        self.peers
            .keys()
            .copied()
            .filter(|node| self.hears(*node))
            .collect()
    }

    /// Its heartbeat on a device changed within the last lease.
    pub(in crate::protocol) fn moves_on_disk(&self, node: NodeId) -> bool {
        (self.peers.get(&node).and_then(|peer| peer.moved_on_disk))
            .is_some_and(|moved| self.now.since(moved) < self.settings.lease)
    }

    /// A member that started again since this configuration opened, or has not served it for a lease, must be taken in
    /// anew.
    pub(in crate::protocol) fn fell_out(&self, node: NodeId) -> bool {
        let Some(peer) = self
            .peers
            .get(&node)
            .filter(|_| self.known.members.contains(node))
        else {
            return false;
        };
        if peer.state.is_none() {
            return false;
        }
        let restarted = self.restarted(node);
        let since = peer.idle_since.map(|since| since.max(self.opened_at));
        restarted || since.is_some_and(|since| self.now.since(since) >= self.settings.lease)
    }

    /// Each has heard the other for so long that it has heard everybody else as well whom it can hear.
    pub(in crate::protocol) fn linked_for_a_lease(&self, node: NodeId) -> bool {
        let since = self.peers.get(&node).and_then(|peer| peer.linked_since);
        since.is_some_and(|(since, _)| self.now.since(since) >= self.settings.lease)
    }

    /// This run of it is not the one that the configuration opened with.
    pub(in crate::protocol) fn restarted(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| {
            let run = peer.state.as_ref().map(|state| state.incarnation);
            peer.taken_in
                .zip(run)
                .is_some_and(|(taken_in, run)| taken_in != run)
        })
    }

    /// Remembers which runs of the members this configuration opened with.
    pub(in crate::protocol) fn take_in_members(&mut self) {
        let members = self.known.members;
        for (node, peer) in &mut self.peers {
            let here = peer.state.as_ref().filter(|_| members.contains(*node));
            peer.taken_in = here.map(|state| state.incarnation);
        }
    }

    /// When the first member that was not seen, or heard, lately will have been silent or apart for a lease.
    pub(in crate::protocol) fn next_silence(&self) -> Time {
        (self.peers.iter())
            .filter(|(node, _)| self.known.members.contains(**node))
            .flat_map(|(_, peer)| [peer.alive_at, peer.linked_at])
            .map(|seen| seen + self.settings.lease)
            .filter(|due| *due > self.now)
            .min()
            .unwrap_or(Time::NEVER)
    }

    /// Not seen in any way for a whole lease, and looked for: a heartbeat on a device stands still only if a look that was
    /// begun a lease after the last sign of life saw nothing new. A node whose own looks are slow knows nothing.
    pub(in crate::protocol) fn silent(&self, node: NodeId) -> bool {
        let Some(peer) = self.peers.get(&node) else {
            return false;
        };
        let due = peer.alive_at + self.settings.lease;
        let looked = |role: DeviceRole| {
            let looked_at = self.replica(Replica::Device(role)).looked_at;
            looked_at.is_some_and(|looked_at| looked_at >= due)
        };
        self.now >= due && self.usable_devices().iter().all(looked)
    }

    /// When it last said where it is.
    pub(in crate::protocol) fn told_at(&self, node: NodeId) -> Time {
        self.peers.get(&node).map_or(self.now, |peer| peer.state_at)
    }

    pub(in crate::protocol) fn peer_state(&self, node: NodeId) -> Option<&PeerState> {
        let peer = self.peers.get(&node)?;
        // What it said before a cut says nothing about now.
        let is_fresh = self.now.since(peer.state_at) < self.settings.lease;
        peer.state.as_ref().filter(|_| is_fresh && self.hears(node))
    }
}
