//! The view that a node's plans are made from, and what it does about them.

use super::Node;
use super::membership::external::corrected;
use super::membership::sharing::Share;
use super::message::CopyTrouble;
use super::plan::{Facts, Plan, View, plan};
use super::voting::lower_bound::below_text;
use crate::configuration::votes::{self, Voters};
use crate::ids::{DeviceRole, NodeId, NodeSet, Replica};
use alloc::string::{String, ToString};

/// After this many leases of waiting for another node to act, this one acts.
const PATIENCE_LEASES: u32 = 3;

impl Node {
    /// Two nodes are linked if each hears the other: a cut in one direction is a cut.
    pub(super) fn linked(&self, node: NodeId) -> bool {
        self.peer_state(node)
            .is_some_and(|state| state.hears.contains(self.settings.me))
    }

    /// Not linked for a whole lease.
    pub(super) fn apart(&self, node: NodeId) -> bool {
        (self.peers.get(&node)).is_some_and(|peer| self.now.since(peer.linked_at) >= self.settings.lease)
    }

    pub(super) fn facts(&self, node: NodeId) -> Facts {
        let linked = self.linked(node);
        let state = self.peer_state(node);
        let (fell_out, member) = (self.fell_out(node), self.known.members.contains(node));
        // A member that serves lacks no more than the round under way.
        let caught_up = member && !fell_out
            || state.is_some_and(|state| self.is_near(state.position, self.told_at(node)));
        let settled = self.now.since(self.started) > self.settings.lease.saturating_mul(3);
        let facts = Facts {
            linked,
            alive_apart: self.apart(node) && (self.moves_on_disk(node) || self.hears(node)),
            silent: self.silent(node),
            epoch: state.map(|state| state.epoch).unwrap_or_default(),
            no_vote: state.and_then(|state| state.no_vote),
            willing: state.is_some_and(|state| state.willing),
            ready: state.is_some_and(|state| state.ready) && self.copy_fits(node),
            trouble: state.and_then(|state| state.trouble).or_else(|| {
                let is_small = linked && !self.copy_fits(node);
                is_small.then_some(CopyTrouble::TooSmall)
            }),
            serving: state.is_some_and(|state| state.serving),
            fell_out,
            caught_up: state.is_some() && caught_up,
            settled,
            held_back: self.held_back(node),
            slow: self.slow(node),
            flapping: self.flapping(node),
            hears: state.map(|state| state.hears).unwrap_or_default(),
            lasting: linked && self.linked_for_a_lease(node),
            shares: self.shared_as(node, |share| share == Share::Proven),
            may_share: self.may_share(node),
            undecided: self.shared_as(node, |share| share == Share::Undecided),
            unwritten: self.shared_as(node, |share| share == Share::Unwritten { is_early: true }),
            unshared: self.shared_as(node, |share| matches!(share, Share::Other(_) | Share::Copied)),
            ..Facts::default()
        };
        corrected(facts, node, self.me(), self.external, &self.known)
    }

    fn view(&self) -> View<'_> {
        let (usable, lease) = (self.fit_devices(), self.settings.lease);
        let (small, cluster) = (self.small_devices(), self.cluster_nodes());
        let has_returned = |role: &crate::ids::DeviceRole| {
            (self.replica(Replica::Device(*role))).has_returned(self.now, lease)
        };
        // What is too small stays so; what does not work may work again in a moment.
        let is_lost = |role: &crate::ids::DeviceRole| {
            small.contains(*role) || self.now.since(self.replica(Replica::Device(*role)).since) >= lease
        };
        let early = self.now.since(self.started) < self.settings.lease;
        View {
            me: self.me(),
            all: cluster,
            known: &self.known,
            serving: self.is_open()
                && self
                    .lease_lost
                    .is_none_or(|since| self.now.since(since) < self.settings.lease),
            no_vote: self.no_vote(),
            ready: self.ready(),
            willing: self.takes_part_in_plans(),
            called_gone: self.willing && !self.in_view(self.me()),
            // One that was removed is heard until this node goes by the new init database.
            nodes: (self.peers.keys())
                .filter(|node| cluster.contains(**node))
                .map(|node| (*node, self.facts(*node)))
                .collect(),
            usable,
            unshared: self.unshared_text(),
            returned: (usable.iter())
                .filter(|role| has_returned(role) && self.may_return(*role) && self.registered_on(*role))
                .filter(|role| !self.was_other_elsewhere(*role))
                .collect(),
            lost: (self.known.devices.iter())
                .filter(|role| !usable.contains(*role) && is_lost(role))
                .collect(),
            small,
            untried: (self.settings.devices.iter())
                .filter(|role| {
                    early && self.replica(Replica::Device(*role)).untried() || self.watches_area(*role)
                })
                .collect(),
            local_near: self.local_near(),
            prewritten: (usable.iter())
                .filter(|role| !self.was_other_elsewhere(*role))
                .filter(|role| {
                    let own = self.replica(Replica::Device(*role)).own;
                    !self.known.devices.contains(*role)
                        && self.may_return(*role)
                        && own.is_some_and(|own| self.is_near(own, self.now))
                })
                .collect(),
            // Of one that was removed nothing is waited for.
            fenced_by: self.fenced_by().intersection(cluster),
            // Of a node that served until now the others have not been waited for at all.
            patience_over: !self.waiting.0.is_empty()
                && self.now.since(self.waiting.1.max(self.known_since))
                    > self.settings.lease.saturating_mul(PATIENCE_LEASES),
            impatient: self.impatient || self.ends_maintenance(),
            copies: if self.lacks_majority() {
                self.no_quorum_text()
            } else {
                String::new()
            },
            decides: votes::decide(&self.known, self.live_voters()),
            serves: self.serving == Some(self.known.epoch),
            restore: self.head.restore_flag(),
            below: self.starts_below(),
            designation: self.wanted_designation(),
        }
    }

    /// Nodes that follow, and that this node takes in only with a device.
    pub(super) fn held_out(&self) -> NodeSet {
        if self.serving.is_some() {
            self.view().held_out()
        } else {
            NodeSet::EMPTY
        }
    }

    /// A member's copy of a configuration that opened, and those of the nodes that it is linked to, are all there is to start
    /// from in paired mode; where less is certain, a proposal finds out.
    fn starts_below(&self) -> Option<String> {
        let here = self.head.position().stamp;
        let decides_alone = self.known.owner().is_none()
            && self.known.members.contains(self.me())
            && here.epoch == self.known.epoch
            && self.damaged.is_none();
        if !decides_alone {
            return None;
        }
        let others = (self.peers.keys()).filter_map(|node| Some(self.peer_state(*node)?.position.stamp));
        let newest = others.fold(here, Ord::max);
        let shown = self.bound.allows(&self.known, newest).err()?;
        Some(below_text(&shown))
    }

    /// Looks at what is here, and does what must be done about it.
    pub(super) fn plan(&mut self) {
        self.hold_rounds = false;
        if self.proposal.is_some() || self.install.is_some() || self.backing_off() {
            return;
        }
        if self.member.is_some() && !self.coordinator_is_gone() {
            return;
        }
        if self.has_lost_number() {
            self.leave_area_alone();
            return;
        }
        self.enter_returned_devices();
        if self.propose_quorum_wish() {
            return;
        }
        if self.wants_override() && !self.takes_updates() && !self.is_served_elsewhere() {
            if self.is_reading_replicas() {
                return;
            }
            let want = super::plan::Want {
                members: crate::ids::NodeSet::of(self.me()),
                devices: self.fit_devices(),
                why: "an operator's override".to_string(),
                settles: super::plan::Settles::default(),
            };
            self.propose_override(want);
            return;
        }
        let waits = (self.other_run_text())
            .or_else(|| self.waits_for_choice())
            .or_else(|| self.contradicted_text())
            .or_else(|| self.ahead_text().filter(|_| !self.removed()));
        if let Some(text) = waits {
            if self.waiting.0 != text {
                self.waiting = (text, self.now);
            }
            return;
        }
        let present = self.linked_nodes();
        let mut found = match self.wanted_nodes().or_else(|| self.wanted_maintenance()) {
            _ if self.removed() => Plan::Wait(self.removed_text()),
            Some(want) => Plan::Propose(want),
            None => {
                let found = plan(&self.view());
                super::membership::maintenance::kept_to(found, &self.known, present, self.ends_maintenance())
            }
        };
        if let Plan::Propose(want) = &mut found
            && self.ends_maintenance()
        {
            want.settles.maintenance = Some(false);
        }
        match found {
            // With a member missing a round would not end; no update is begun that may end as unknown.
            Plan::Serve => self.hold_rounds = !self.waited_for().is_empty(),
            Plan::Wait(why) => {
                self.hold_rounds = !self.waited_for().is_empty();
                // The numbers in it may change; what is waited for is what counts.
                if self.waiting.0 != why {
                    self.waiting = (why, self.now);
                }
                self.impatient = false;
            }
            Plan::Override(want) => self.propose_waived(want),
            Plan::Prewrite(devices) => self.prewrite(devices.iter().map(Replica::Device)),
            Plan::PrewriteLocal => self.prewrite([Replica::Local].into_iter()),
            Plan::Propose(want) => {
                // A round does not end with a member that does not take part in it any more.
                let gone = self.other_members().iter().any(|node| {
                    self.silent(node)
                        || self.apart(node)
                        || self.fell_out(node)
                        || self.peer_state(node).is_some_and(|state| !state.ready)
                });
                if self.is_open() && self.round.is_some() && !gone {
                    // Let the round under way end first.
                    self.hold_rounds = true;
                    return;
                }
                self.propose(want);
            }
        }
    }

    /// A node that is heard serves what this one knows, or newer: it lets this one in, and nothing is to be overruled.
    fn is_served_elsewhere(&self) -> bool {
        let known = self.known.epoch;
        let serves = |node: NodeId| {
            let state = self.peer_state(node);
            state.is_some_and(|state| state.serving && state.epoch >= known) && !self.is_at_odds_with(node)
        };
        self.cluster_nodes().without(self.me()).iter().any(serves)
    }

    /// What an override would go on from may stand on a replica that has not answered yet.
    fn is_reading_replicas(&self) -> bool {
        let local = self.replica(Replica::Local);
        let is_untried = |role: DeviceRole| self.replica(Replica::Device(role)).untried();
        local.untried() || local.usable() && !local.loaded || self.settings.devices.iter().any(is_untried)
    }

    /// The serving master registers on a device that is there again before it means to take it in.
    fn enter_returned_devices(&mut self) {
        if !self.is_open() || !self.is_master() {
            return;
        }
        for role in self.fit_devices().iter() {
            if !self.known.devices.contains(role) && !self.registered_on(role) {
                self.enter(role);
            }
        }
    }

    fn linked_nodes(&self) -> crate::ids::NodeSet {
        let linked = self.peers.keys().copied().filter(|node| self.linked(*node));
        linked.collect::<crate::ids::NodeSet>().with(self.me())
    }

    /// Nobody goes on with the configuration that this node is getting ready for.
    fn coordinator_is_gone(&self) -> bool {
        self.member.as_ref().is_some_and(|member| {
            let coordinator = member.coordinator();
            let has_trouble = |state: &super::PeerState| state.trouble.is_some();
            self.silent(coordinator) || self.peer_state(coordinator).is_some_and(has_trouble)
        })
    }

    /// Replicas that the next configuration writes come to hold nearly all of the database, while this one goes on.
    fn prewrite(&mut self, replicas: impl Iterator<Item = Replica>) {
        for replica in replicas {
            let view = self.replica_mut(replica);
            if view.usable() && !view.prewrite_in_flight {
                view.prewrite_in_flight = true;
                self.bring_nearer(replica);
            }
        }
    }

    /// Updates of a solo owner go to its devices alone; as a member of a pair its local copy holds them all.
    fn local_near(&self) -> bool {
        let local = self.replica(Replica::Local);
        let is_near = || local.own.is_some_and(|own| self.is_near(own, self.now));
        self.known.owner() != Some(self.me()) || !local.prewrite_in_flight && is_near()
    }

    pub(super) fn live_voters(&self) -> Voters {
        let nodes = self
            .settings
            .nodes
            .iter()
            .filter(|node| *node == self.me() || self.linked(*node));
        Voters::new(nodes.collect(), self.usable_devices())
    }
}
