//! This node's own area on a device is written by this run and by nobody else.
//!
//! The network tells two runs of one node apart, devices do not: both would write the same area, and claim what the other owns. A machine
//! that was copied, or restored while the old one runs, has the same name, the same keys and the same disks. So each run looks at its own
//! area with every heartbeat and before every claim: a run that has just started writes nothing there before the area has stood still for
//! a lease, and a run that finds another one's heartbeats in between its own closes.
//!
//! Where the last one was on another machine and no reservation keeps others away, there may be several copies, which all find the area
//! still at the same moment. So such a run leaves its mark there first, one heartbeat, and goes on only if it alone stands there a lease
//! later: whoever overwrote it has seen it by then, or was seen.
//!
//! A single heartbeat of an earlier run may land late, after its process has died: it only keeps this node's lease from being renewed for
//! a moment. Two that differ are written by somebody who lives.
//!
//! Owns `ReplicaView::own_area` and `other_run`.

use crate::configuration::BallotBlock;
use crate::ids::{DeviceRole, Incarnation, NodeId, Replica, ServerId};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::replicas::Purpose;
use crate::replica::{AreaSurvey, Heartbeat, Host, ReplicaOp};
use crate::time::Time;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

/// Of two runs that find each other, the one with the higher incarnation waits for so many leases that the other one is first.
const GIVE_WAY_LEASES: u32 = 3;

/// What is known of this node's own area on one device.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol) struct OwnArea {
    state: State,
    /// The last heartbeat found there that this run did not write.
    foreign: Option<(Incarnation, u64)>,
    /// The newest one, when this run began to write: at most one more of that run can still land.
    pub(super) predecessor: Option<(Incarnation, u64)>,
    /// The last heartbeat that this run wrote and found there since the device was opened.
    pub(super) found_last: Option<u64>,
    /// The one before it, which is durable by then; kept when the device is opened anew.
    pub(super) durable: Option<u64>,
    /// The device was opened anew, and did not show that one.
    pub(super) lacks_durable: bool,
    /// What was found when the device was opened, from a run on another machine: the local copy, which was not read yet, tells what to make of
    /// it.
    elsewhere: Option<Heartbeat>,
}

impl OwnArea {
    /// The device is another one now, or is taken in anew: it need not show what an earlier one held.
    pub(super) fn forget_durable(&mut self) {
        self.durable = None;
        self.lacks_durable = false;
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It was not looked at yet.
    #[default]
    Unknown,
    /// Somebody else wrote there last. This run writes nothing before it has stood still.
    Watched { still_since: Time, leases: u32 },
    /// It has stood still. This run writes one heartbeat there, and nothing else before that one has stood there alone for a lease.
    Marked { since: Option<Time> },
    /// This run writes there.
    Ours,
    /// This run writes there, and something was found that it has not written.
    Suspect,
}

/// Another run of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct OtherRun {
    pub incarnation: Incarnation,
    pub host: Host,
    pub role: DeviceRole,
    /// When it was found last.
    pub at: Time,
}

impl OtherRun {
    fn new(role: DeviceRole, heartbeat: &Heartbeat, at: Time) -> Self {
        Self {
            at,
            incarnation: heartbeat.incarnation,
            host: heartbeat.host.clone(),
            role,
        }
    }

    /// For people; `server` is which one has this run's number by its own init database.
    pub fn text(&self, me: NodeId, server: ServerId) -> String {
        let theirs = self.host.server;
        if server.differs_from(theirs) {
            return format!(
                "the number {me} was given to two servers, one after the other, and the other one (id {theirs}, host {}; this one is {server}) \
                 writes to this node's area on the {}: the one that was removed stops by itself once it learns that, from a device or from \
                 a node that refuses it, or stop ccdd there; this one goes on when the area has been still for a lease",
                self.host.name, self.role
            );
        }
        let name = match self.host.name.as_str() {
            "" => "not known",
            name => name,
        };
        let machine = u128::from_be_bytes(self.host.machine);
        format!(
            "another ccdd runs as node {me} (incarnation {:016x}, host {name}, machine-id {machine:032x}): it writes to this node's area on \
             the {}; this one stays closed until the other has been stopped for a lease",
            self.incarnation.0, self.role
        )
    }
}

/// How long an area must stand still before a run that has found another one there writes again.
fn leases_before(gives_way: bool) -> u32 {
    if gives_way { GIVE_WAY_LEASES } else { 1 }
}

impl Node {
    /// Nobody else writes this node's area on the device, so it may write heartbeats and claims there.
    pub(in crate::protocol) fn owns_area(&self, role: DeviceRole) -> bool {
        let state = self.replica(Replica::Device(role)).own_area.state;
        matches!(state, State::Ours | State::Suspect) && !self.has_lost_number()
    }

    /// It is being looked at whether somebody else writes there.
    pub(in crate::protocol) fn watches_area(&self, role: DeviceRole) -> bool {
        let view = self.replica(Replica::Device(role));
        let state = view.own_area.state;
        view.usable() && matches!(state, State::Watched { .. } | State::Marked { .. })
    }

    /// This run's mark is to be written there.
    pub(in crate::protocol) fn marks_area(&self, role: DeviceRole) -> bool {
        let state = self.replica(Replica::Device(role)).own_area.state;
        state == State::Marked { since: None } && !self.has_lost_number()
    }

    /// Another run of this node lives, or may live: this one neither speaks nor listens to other nodes, who must not take it for the other.
    pub(in crate::protocol) fn keeps_quiet(&self) -> bool {
        let is_unsure =
            || self.other_run.is_some() || self.settings.devices.iter().any(|role| self.watches_area(role));
        // Without a number it is no node, and what it says and hears is bounded by that.
        is_unsure() && !self.has_lost_number()
    }

    /// Whatever this run knew of its area: it must stand still for a lease before this run writes there again.
    pub(in crate::protocol) fn watch_own_area(&mut self, role: DeviceRole) {
        let now = self.now;
        let own = &mut self.replica_mut(Replica::Device(role)).own_area;
        if own.state != State::Unknown {
            own.state = State::Watched {
                still_since: now,
                leases: 1,
            };
        }
    }

    /// This process was stopped for a lease or more. Others may have gone on without it, and given its number to another server: it looks
    /// before it writes, and gives up what it was about to decide.
    pub(in crate::protocol) fn on_stood_still(&mut self) {
        self.abandon("this process stood still for longer than a lease");
        for role in self.device_roles() {
            self.replica_mut(Replica::Device(role)).looks_first = true;
        }
    }

    /// Nothing was found there that this run has not written.
    pub(in crate::protocol) fn area_is_clean(&self, role: DeviceRole) -> bool {
        self.replica(Replica::Device(role)).own_area.state == State::Ours
    }

    /// The device has been opened: what was known of the area is looked at anew.
    pub(in crate::protocol) fn open_own_area(&mut self, role: DeviceRole, area: Option<&AreaSurvey>) {
        let own = &mut self.replica_mut(Replica::Device(role)).own_area;
        if !matches!(own.state, State::Ours | State::Suspect) {
            // Another run has written there since.
            own.forget_durable();
        }
        self.look_for_durable_beat(role, area);
        let newest = area.and_then(|area| area.heartbeat.as_ref());
        let is_old = newest.is_none_or(|found| self.is_mine(role, found) || self.is_of_ended_run(found));
        let elsewhere = newest.filter(|found| self.was_elsewhere(found)).cloned();
        let now = self.now;
        let view = self.replica_mut(Replica::Device(role));
        let seen = newest.map(|found| (found.incarnation, found.sequence));
        view.own_area = OwnArea {
            state: match view.own_area.state {
                // What was found before the device failed is found no more if this run's own heartbeats are the last ones there.
                State::Watched { leases, .. } => State::Watched {
                    still_since: now,
                    leases,
                },
                State::Unknown | State::Ours | State::Suspect if is_old => State::Ours,
                _ => State::Watched {
                    still_since: now,
                    leases: 1,
                },
            },
            foreign: seen,
            predecessor: seen,
            found_last: None,
            durable: view.own_area.durable,
            lacks_durable: view.own_area.lacks_durable,
            elsewhere,
        };
        self.judge_runs_elsewhere();
    }

    /// The local copy was read, or a device was opened.
    pub(super) fn judge_runs_elsewhere(&mut self) {
        for role in self.device_roles() {
            let own = &self.replica(Replica::Device(role)).own_area;
            if let Some(found) = own.elsewhere.clone() {
                self.note_run_elsewhere(role, &found);
            }
        }
    }

    /// What other machines have written as this node is of the past: this folder is counted on.
    pub(super) fn forget_runs_elsewhere(&mut self) {
        for role in self.device_roles() {
            self.replica_mut(Replica::Device(role)).own_area.elsewhere = None;
        }
    }

    /// The run that wrote it has ended, and it was not one of several copies.
    fn is_of_ended_run(&self, found: &Heartbeat) -> bool {
        found.moved_from.is_none() && found.host.has_lock_of(&self.settings.host)
    }

    fn is_mine(&self, role: DeviceRole, found: &Heartbeat) -> bool {
        let last = self.replica(Replica::Device(role)).beat_sequence;
        found.incarnation == self.settings.incarnation && found.sequence <= last
    }

    /// All control blocks of the device have been read, in a look that was begun at `begun`.
    pub(in crate::protocol) fn look_at_own_area(&mut self, role: DeviceRole, area: &AreaSurvey, begun: Time) {
        if self.has_lost_number() {
            return;
        }
        let now = self.now;
        let blocks = [&area.heartbeat, &area.heartbeat_before];
        let foreign = (blocks.into_iter().flatten())
            .find(|found| !self.is_mine(role, found))
            .cloned();
        let is_there = (blocks.into_iter().flatten()).any(|found| self.is_mine(role, found));
        let (lease, run) = (self.longest_lease(), self.settings.incarnation);
        let view = self.replica_mut(Replica::Device(role));
        let own = &mut view.own_area;
        let seen = foreign.as_ref().map(|found| (found.incarnation, found.sequence));
        let is_expected = |(run, sequence): (Incarnation, u64)| {
            (own.predecessor).is_some_and(|(last, to)| run == last && sequence <= to.saturating_add(1))
        };
        match own.state {
            State::Unknown => {}
            State::Watched { still_since, leases } => {
                if seen.is_some() && seen != own.foreign {
                    own.foreign = seen;
                    own.state = State::Watched {
                        still_since: now,
                        leases,
                    };
                    if let Some(found) = foreign {
                        self.found_other_run(OtherRun::new(role, &found, now));
                    }
                } else if begun >= still_since + lease.saturating_mul(leases) {
                    own.predecessor = own.foreign;
                    if let Some(found) = foreign.filter(|found| self.was_elsewhere(found)) {
                        self.note_run_elsewhere(role, &found);
                        self.replica_mut(Replica::Device(role)).own_area.elsewhere = Some(found);
                    }
                    if self.is_for_one_copy_of_several(role) {
                        self.replica_mut(Replica::Device(role)).own_area.state =
                            State::Marked { since: None };
                    } else {
                        self.take_area(role);
                    }
                }
            }
            State::Marked { since } => {
                if let Some(found) = foreign.filter(|_| seen != own.predecessor) {
                    // Of two copies that wrote their marks at once the one with the lower incarnation goes first.
                    own.foreign = seen;
                    let gives_way = found.incarnation < run;
                    own.state = State::Watched {
                        still_since: now,
                        leases: leases_before(gives_way),
                    };
                    self.found_other_run(OtherRun::new(role, &found, now));
                } else if let Some(since) = since {
                    if !is_there {
                        own.state = State::Watched {
                            still_since: now,
                            leases: 1,
                        };
                    } else if begun >= since + lease {
                        self.take_area(role);
                    }
                } else if is_there {
                    own.state = State::Marked { since: Some(now) };
                }
            }
            State::Ours | State::Suspect => {
                let Some(found) = foreign.filter(|_| !seen.is_some_and(is_expected)) else {
                    own.state = State::Ours;
                    return;
                };
                let is_first = own.state == State::Ours;
                let moves = seen != own.foreign;
                own.foreign = seen;
                own.state = State::Suspect;
                // What this run wrote there may be gone.
                own.durable = None;
                // What an earlier run on this machine began may land late; another machine has lived after this run began.
                let is_alive = !is_first && moves || found.host.is_other_machine(&self.settings.host);
                if is_alive {
                    let waits = found.incarnation < self.settings.incarnation;
                    self.close_for_other_run(&found, role, waits);
                }
            }
        }
    }

    /// No reservation keeps another run from the device, and copies may live on several machines.
    fn is_for_one_copy_of_several(&self, role: DeviceRole) -> bool {
        self.is_moved_copy() && !self.fences.contains_key(&role)
    }

    /// Writes this node's ballot block on a device, over the one that it knows to be there. Another run of this node may have voted
    /// since, and that one's vote may have decided: whoever has been kept from writing since finds it.
    pub(in crate::protocol) fn claim_with(
        &mut self,
        role: DeviceRole,
        ballot: BallotBlock,
        purpose: Purpose,
    ) {
        let replica = Replica::Device(role);
        let view = self.replica_mut(replica);
        let over = if view.claims_in_flight > 0 {
            view.last_claim.clone()
        } else {
            view.own_ballot.clone()
        };
        view.claims_in_flight = view.claims_in_flight.saturating_add(1);
        view.last_claim = Some(ballot.clone());
        let over = over.map(Box::new);
        self.ask(replica, ReplicaOp::Claim { ballot, over }, purpose);
    }

    /// Nobody else writes there.
    fn take_area(&mut self, role: DeviceRole) {
        let own = &mut self.replica_mut(Replica::Device(role)).own_area;
        own.state = State::Ours;
        // What this run wrote there before another one did is not to be found any more.
        own.found_last = None;
        own.forget_durable();
        self.forget_other_run(role);
        self.look = true;
    }

    /// Both wrote there: this run stops whatever it does, and begins anew once the other is gone.
    fn close_for_other_run(&mut self, found: &Heartbeat, role: DeviceRole, gives_way: bool) {
        let now = self.now;
        let leases = leases_before(gives_way);
        let other = OtherRun::new(role, found, now);
        for role in self.device_roles() {
            let own = &mut self.replica_mut(Replica::Device(role)).own_area;
            own.durable = None;
            if matches!(own.state, State::Ours | State::Suspect | State::Marked { .. }) {
                own.state = State::Watched {
                    still_since: now,
                    leases,
                };
            }
        }
        let text = other.text(self.me(), self.settings.host.server);
        self.stop_serving(&text);
        self.proposal = None;
        self.install = None;
        self.member = None;
        // What it remembers of a configuration is no evidence: the other run may have written since, and voted.
        self.opened = None;
        if self.was_elsewhere(found) {
            self.note_run_elsewhere(role, found);
        }
        self.found_other_run(other);
    }

    fn found_other_run(&mut self, other: OtherRun) {
        let text = other.text(self.me(), self.settings.host.server);
        if self
            .other_run
            .as_ref()
            .is_none_or(|known| known.incarnation != other.incarnation)
        {
            self.record(DecisionKind::Alarm, text.clone());
        }
        self.waiting = (text, self.now);
        self.other_run = Some(other);
        self.look = true;
    }

    fn forget_other_run(&mut self, role: DeviceRole) {
        if self.other_run.as_ref().is_some_and(|other| other.role == role) {
            self.other_run = None;
        }
    }

    /// The device on which another run was found is lost, and nothing of it is found on the others: it cannot be waited for.
    pub(in crate::protocol) fn forget_other_run_with_its_device(&mut self) {
        let patience = self.settings.lease.saturating_mul(GIVE_WAY_LEASES);
        let is_due = (self.other_run.as_ref()).is_some_and(|other| self.now >= other.at + patience);
        if is_due
            && !self
                .device_roles()
                .into_iter()
                .any(|role| self.watches_area(role))
        {
            self.other_run = None;
            self.look = true;
        }
    }

    /// Another run of this node lives: this one does nothing.
    pub(in crate::protocol) fn other_run_text(&self) -> Option<String> {
        self.other_run
            .as_ref()
            .map(|other| other.text(self.me(), self.settings.host.server))
    }
}
