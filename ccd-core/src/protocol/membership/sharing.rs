//! Which devices this node shares with another one: both have the same region open, and each finds in it what the other writes now.
//!
//! Two disks under one name would each vote for the node that sees them, and both nodes would go on alone. So a configuration counts a
//! device only if its members have shown each other that it is one: by the region's id, which mkfs draws, and by heartbeats, which carry
//! the incarnation of the run that writes them: a node cannot read that anywhere but where it was written.
//!
//! Called with every heartbeat of a peer; the plan and the voter ask. Owns `Peer::sharing`.

use crate::configuration::Configuration;
use crate::ids::{DeviceRole, DeviceSet, NodeId, PerDevice, RegionId, Replica};
use crate::protocol::Node;
use crate::protocol::message::{DeviceReport, PeerState, SeenHeartbeat};
use crate::time::Time;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// A device that both nodes write must be proven shared within this many leases, and again each time.
const PROOF_LEASES: u32 = 3;

/// A heartbeat that the other node has read counts if it is one of the last that were written in this many leases.
const RECENT_LEASES: u32 = 2;

/// What is known of one device and one other node.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::protocol) struct Sharing {
    /// When each had last found the other's present heartbeat there.
    proven_at: Option<Time>,
    /// Since when it is not proven, although the other node is heard.
    doubted_since: Option<Time>,
    /// Since when both write there, as far as is known: before that nothing could be found.
    written_since: Option<Time>,
    /// The last heartbeat of this run that the other node has said to find there, and when it had found a later one than before.
    found_mine: u64,
    found_later_at: Option<Time>,
    /// When the other node was last heard, it was another disk there.
    was_other: bool,
}

/// Whether a device is one for this node and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Share {
    /// The other node has not been heard lately, or this node cannot use the device.
    Unknown,
    /// It is too early to tell.
    Undecided,
    /// The other node cannot use it.
    Absent,
    /// Both see the same id, and at least one of them may not write there yet.
    Unwritten {
        is_early: bool,
    },
    Proven,
    /// The other node has another region in its place.
    Other(RegionId),
    /// Both see the same id, and what one writes does not reach the other: a copy of the disk.
    Copied,
}

impl Node {
    /// What this node sees of its devices, for the others.
    pub(super) fn device_reports(&self) -> PerDevice<DeviceReport> {
        PerDevice::from_fn(|role| {
            if !self.settings.devices.contains(role) {
                return DeviceReport::default();
            }
            let view = self.replica(Replica::Device(role));
            let seen = self.peers.iter().filter_map(|(node, peer)| {
                let (heartbeat, _) = peer.on_disk(role)?;
                Some(SeenHeartbeat {
                    node: *node,
                    incarnation: heartbeat.incarnation,
                    sequence: heartbeat.sequence,
                })
            });
            DeviceReport {
                region: if view.usable() {
                    view.region
                } else {
                    RegionId::default()
                },
                opening: view.untried(),
                writes: self.writes_heartbeats(role),
                has_forgotten: view.was_overwritten,
                beat: view.beat_sequence,
                seen: if view.usable() {
                    seen.collect()
                } else {
                    Default::default()
                },
            }
        })
    }

    /// This node's heartbeats go to the device.
    pub(in crate::protocol) fn writes_heartbeats(&self, role: DeviceRole) -> bool {
        // A copy of a machine that nobody hears leaves no trace, and a node that left looks as if it were down.
        let is_wanted = !self.is_moved_copy() || !self.heard_nodes().is_empty();
        (self.serving.is_some() || self.willing && is_wanted && !self.lacks_own_trace(role))
            && self.replica(Replica::Device(role)).usable()
            && !self.lacks_durable_beat(role)
            && self.registered_on(role)
            && self.owns_area(role)
    }

    /// A heartbeat of this node came: what it has found on the devices is compared with what is found here.
    pub(in crate::protocol) fn note_sharing(&mut self, node: NodeId, after: Duration) {
        let (now, lease) = (self.now, self.settings.lease);
        for role in self.device_roles() {
            self.note_found(node, role);
            let proven = self.finds_each_other(node, role);
            let both_write = self.both_write(node, role);
            let Some(peer) = self.peers.get_mut(&node) else {
                return;
            };
            let sharing = peer.sharing.of_mut(role);
            if both_write {
                sharing.written_since.get_or_insert(now);
            } else {
                sharing.written_since = None;
            }
            // What is to be proven takes some heartbeats of both.
            let is_back = after >= lease;
            if proven {
                sharing.proven_at = Some(now);
                sharing.doubted_since = None;
            } else if is_back || sharing.doubted_since.is_none() {
                sharing.doubted_since = Some(now);
            }
            let was_other = match self.share(node, role) {
                Share::Proven => Some(false),
                Share::Other(_) | Share::Copied => Some(true),
                _ => None,
            };
            if let (Some(was_other), Some(peer)) = (was_other, self.peers.get_mut(&node)) {
                peer.sharing.of_mut(role).was_other = was_other;
            }
        }
    }

    /// The last heartbeat of this run that the other node finds on the device, by what it said last.
    fn note_found(&mut self, node: NodeId, role: DeviceRole) {
        let (now, me, run) = (self.now, self.me(), self.settings.incarnation);
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let Some(state) = &peer.state else {
            return;
        };
        let seen = state.device_reports.of(role).seen.iter();
        let mine = seen.filter(|seen| (seen.node, seen.incarnation) == (me, run));
        let found = mine.map(|seen| seen.sequence).max().unwrap_or_default();
        let sharing = peer.sharing.of_mut(role);
        // Over a slow network it is told late. A copy has none that was written after it was made.
        if sharing.found_mine > 0 && found > sharing.found_mine {
            sharing.found_later_at = Some(now);
        }
        sharing.found_mine = found;
    }

    /// The first heartbeat of this run is on the device, and the others' are read: they are told at once, so that whoever waits for it
    /// waits for no heartbeat that is due.
    pub(in crate::protocol) fn greet_with_first_beat(&mut self, role: DeviceRole) {
        if self.replica(Replica::Device(role)).beat_sequence == 1 {
            for node in self.heard_nodes().iter() {
                self.greet(node);
            }
        }
    }

    /// A node says that it has written to the device, and this one has not seen it yet.
    pub(super) fn look_for_heartbeat(&mut self, node: NodeId) {
        for role in self.device_roles() {
            let is_missed = (self.peers.get(&node)).is_some_and(|peer| {
                peer.state.as_ref().is_some_and(|state| {
                    let report = state.device_reports.of(role);
                    let found = peer.on_disk(role).map(|(heartbeat, _)| heartbeat.incarnation);
                    report.beat > 0
                        && report.region == self.replica(Replica::Device(role)).region
                        && found != Some(state.incarnation)
                })
            });
            if is_missed {
                self.beat_device(role);
            }
        }
    }

    /// A member of the newest configuration had another disk here when it was last heard: what that configuration counts on is its disk,
    /// and not this one.
    pub(in crate::protocol) fn is_apart(&self, role: DeviceRole) -> bool {
        let others = self.known.members.without(self.me());
        (others.iter().filter_map(|node| self.peers.get(&node))).any(|peer| peer.sharing.of(role).was_other)
    }

    /// What an override can read here: also disks that another node had other ones for. They hold what they hold, and there may be
    /// nothing newer.
    pub(in crate::protocol) fn readable_devices(&self) -> DeviceSet {
        let is_readable = |role: &DeviceRole| {
            let is_whole = self.replica(Replica::Device(*role)).usable() && !self.was_made_anew(*role);
            is_whole && self.is_apart(*role) && self.owns_area(*role)
        };
        let apart: DeviceSet = self.settings.devices.iter().filter(is_readable).collect();
        self.usable_devices().iter().chain(apart.iter()).collect()
    }

    /// When some node of the cluster was last heard it had another disk in this role: nobody takes this one in alone.
    pub(in crate::protocol) fn was_other_elsewhere(&self, role: DeviceRole) -> bool {
        (self.cluster_nodes().without(self.me()).iter())
            .filter_map(|node| self.peers.get(&node))
            .any(|peer| peer.sharing.of(role).was_other)
    }

    fn finds_each_other(&self, node: NodeId, role: DeviceRole) -> bool {
        let view = self.replica(Replica::Device(role));
        let Some((peer, state)) = (self.peers.get(&node)).and_then(|peer| Some((peer, peer.state.as_ref()?)))
        else {
            return false;
        };
        let report = state.device_reports.of(role);
        if !view.usable() || report.region != view.region {
            return false;
        }
        let recent = self.settings.lease.saturating_mul(RECENT_LEASES);
        let beats = (recent.as_nanos()).checked_div(self.settings.heartbeat.as_nanos());
        let beats = beats
            .and_then(|beats| u64::try_from(beats).ok())
            .unwrap_or(u64::MAX);
        // Counted in heartbeats and not in time: a slow device is no other device.
        let is_recent = |found: u64, last: u64| found.saturating_add(beats) >= last;
        let found_later =
            (peer.sharing.of(role).found_later_at).is_some_and(|at| self.now.since(at) < recent);
        let found_mine = report.seen.iter().any(|seen| {
            (seen.node, seen.incarnation) == (self.me(), self.settings.incarnation)
                && (found_later || is_recent(seen.sequence, view.beat_sequence))
        });
        let found_its = peer.on_disk(role).is_some_and(|(heartbeat, _)| {
            heartbeat.incarnation == state.incarnation && is_recent(heartbeat.sequence, report.beat)
        });
        found_mine && found_its
    }

    /// Whether this device is one for this node and that one.
    pub(in crate::protocol) fn share(&self, node: NodeId, role: DeviceRole) -> Share {
        let view = self.replica(Replica::Device(role));
        let (Some(state), Some(peer)) = (self.peer_state(node), self.peers.get(&node)) else {
            return Share::Unknown;
        };
        if !view.usable() {
            return Share::Unknown;
        }
        let report = state.device_reports.of(role);
        let sharing = peer.sharing.of(role);
        let span = self.settings.lease.saturating_mul(PROOF_LEASES);
        let is_recent = |since: Option<Time>| since.is_none_or(|since| self.now.since(since) < span);
        let is_early = is_recent(sharing.doubted_since);
        if report.region == RegionId::default() {
            return if report.opening && is_early {
                Share::Undecided
            } else {
                Share::Absent
            };
        }
        if report.region != view.region {
            return Share::Other(report.region);
        }
        if sharing.doubted_since.is_none() && sharing.proven_at.is_some() {
            return Share::Proven;
        }
        if !self.both_write(node, role) {
            Share::Unwritten { is_early }
        } else if is_early || is_recent(sharing.written_since) {
            Share::Undecided
        } else {
            Share::Copied
        }
    }

    fn both_write(&self, node: NodeId, role: DeviceRole) -> bool {
        let writes = |state: &PeerState| state.device_reports.of(role).writes;
        self.peer_state(node).is_some_and(writes) && self.writes_heartbeats(role)
    }

    /// The devices for which this holds between this node and that one.
    pub(in crate::protocol) fn shared_as(&self, node: NodeId, holds: impl Fn(Share) -> bool) -> DeviceSet {
        (self.settings.devices.iter())
            .filter(|role| holds(self.share(node, *role)))
            .collect()
    }

    /// The devices that a configuration with that node may count: proven ones, those that cannot be proven yet because one of the two
    /// may not write there, and what it has shown before it became a member of this configuration.
    pub(in crate::protocol) fn may_share(&self, node: NodeId) -> DeviceSet {
        let has_shown =
            |role: DeviceRole| self.known.members.contains(node) && self.known.devices.contains(role);
        (self.settings.devices.iter())
            .filter(|role| match self.share(node, *role) {
                Share::Proven | Share::Unwritten { .. } => true,
                Share::Absent => has_shown(*role),
                Share::Unknown | Share::Undecided | Share::Other(_) | Share::Copied => false,
            })
            .collect()
    }

    /// Why a configuration cannot have this node as a member with the devices that it counts, for people: one of them is
    /// another disk here.
    pub(in crate::protocol) fn other_disk(&self, configuration: &Configuration) -> Option<String> {
        if !configuration.members.contains(self.me()) {
            return None;
        }
        configuration.devices.iter().find_map(|role| {
            let view = Some(self.replica(Replica::Device(role))).filter(|view| view.usable())?;
            let meant = configuration.regions.get(role)?;
            (view.region != meant).then(|| {
                format!(
                    "the {role} is not the same disk here: region {}, and {meant} was to be counted",
                    view.region
                )
            })
        })
    }

    /// For people: a device that is not the same one on another node.
    pub(in crate::protocol) fn unshared_text(&self) -> Option<String> {
        (self.settings.devices.iter()).find_map(|role| self.unshared_text_of(role))
    }

    pub(in crate::protocol) fn unshared_text_of(&self, role: DeviceRole) -> Option<String> {
        let here = self.replica(Replica::Device(role)).region;
        self.peers.iter().find_map(|(node, peer)| match self.share(*node, role) {
            Share::Other(there) => Some(format!(
                "the {role} is not the same disk on node {node} (region {here} here, {there} there), so it has no vote: correct \
                 the path of one of them, or run `ccd-disk show` on both"
            )),
            Share::Copied => Some(format!(
                "the {role} is not the same disk on node {node}: both have region {here}, but what one node writes there the \
                 other does not find, so it has no vote: one of them is a copy"
            )),
            Share::Unknown if peer.sharing.of(role).was_other => Some(format!(
                "the {role} was not the same disk on node {node} when that one was last heard, so it has no vote"
            )),
            _ => None,
        })
    }
}
