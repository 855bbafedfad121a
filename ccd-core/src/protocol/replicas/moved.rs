//! A state folder that came from another machine: what its copy there has promised since is not known here.
//!
//! ```text
//! the last run with a vote was elsewhere → no vote, and the local copy notes that
//!   → a member of a configuration that was decided without its vote: its heartbeats say that the folder is at home here
//!   → such a heartbeat stands on every device that votes: it has its vote
//! ```
//!
//! The run that stayed behind has a vote by its own copy of the folder. Two runs with one vote would decide twice, each with another
//! device. So the run that moved votes last: whichever device the other one votes with, it finds there a heartbeat of this run and gives up
//! its vote, or this run finds the other one's.
//!
//! Owns `moved` and `taken_in`. Called with each heartbeat, when a device or the local copy is opened, and when a configuration is installed.

use crate::configuration::{Configuration, votes};
use crate::ids::{DeviceRole, DeviceSet, Epoch, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::replicas::Purpose;
use crate::replica::{AreaSurvey, Heartbeat, Host, ReplicaOp};
use alloc::format;
use alloc::string::String;

/// The machine that the state folder came from, and how far this run has got since.
#[derive(Clone, Debug)]
pub(in crate::protocol) struct Moved {
    host: Host,
    /// The device whose heartbeats told it; not known if an earlier run noted it.
    role: Option<DeviceRole>,
    note: Note,
    /// The configuration that the local copy held then. It takes no other before one has taken it in.
    since: Epoch,
    /// It is a member of a configuration that was decided without its vote.
    is_taken_in: bool,
    /// Where a heartbeat of this run stands that says that the folder is at home here.
    marked: DeviceSet,
}

/// Whether the local copy says it too, so that the next run finds it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    Wanted,
    UnderWay,
    Stored,
}

/// A run that was installed in a configuration that was decided without its vote is counted on, whatever it promised before. The proposer
/// names the run that it counts on: an earlier one, or that of another machine, may have voted since.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::protocol) struct TakenIn {
    /// That configuration, or the last one of those after it that this run voted for in turn.
    by: Option<Epoch>,
    /// The newest configuration, if this node's vote may have decided it.
    voted_for: Option<Epoch>,
    /// The last one that was decided without a vote of this folder and counted on it, on this machine; 0: none is known.
    pub since: Epoch,
    /// What the local copy says of `since`, and what is being written to it.
    stored: Epoch,
    writing: Epoch,
}

impl Moved {
    /// From here on the devices may say that the folder is at home here.
    fn is_at_home(&self) -> bool {
        self.is_taken_in && self.note == Note::Stored
    }
}

impl Node {
    /// The state folder is a copy that has no vote, and no configuration has taken it in.
    pub(in crate::protocol) fn is_moved_copy(&self) -> bool {
        self.moved.as_ref().is_some_and(|moved| !moved.is_taken_in)
    }

    /// What a heartbeat on a device says of where the state folder is at home.
    pub(in crate::protocol) fn moved_from(&self) -> Option<Host> {
        let moved = self.moved.as_ref().filter(|moved| !moved.is_at_home());
        moved.map(|moved| moved.host.clone())
    }

    /// The last run that had a vote was on another machine: there, and not here, is what this node has promised.
    pub(super) fn was_elsewhere(&self, found: &Heartbeat) -> bool {
        let folder = found.folder_of();
        // A server that had the number before, or has it now, has promised nothing for this one.
        folder.is_other_machine(&self.settings.host) && !self.is_of_another_server(folder)
    }

    /// The last run of this node that wrote to the device was on another machine, and may have promised what this one must know.
    ///
    /// It is of the past if it did not know the configuration that has taken in this one: what it promised before is not counted on. What it
    /// may have done since it would do on the devices that vote, and this run has left its heartbeats there.
    pub(super) fn has_moved_since(&self, role: DeviceRole, found: &Heartbeat) -> bool {
        let is_past = found.known != Epoch(0) && found.known < self.taken_in.since;
        let has_vote = votes::voters(&self.known).devices.contains(role);
        self.was_elsewhere(found) && (has_vote || !is_past)
    }

    /// The last run of this node was on another machine. Its state folder may have been copied from there at any time: what this copy
    /// lacks, and what it has promised since, is not known. So it has no vote before others have taken it in, or before it has opened what
    /// the devices hold.
    pub(super) fn distrust_state_folder(&mut self, role: DeviceRole, found: &Heartbeat) {
        if self.serving.is_some() || self.is_moved_copy() {
            return;
        }
        // What was served before is served by others since.
        self.opened = None;
        // The configuration that everybody goes by has taken this run in before the device could be read: it is a member as if it had
        // known where its folder came from. Should the other run have been taken in since, then by a later configuration.
        let is_taken_in = self.taken_in.by == Some(self.known.epoch) && self.other_run.is_none();
        let since = if is_taken_in {
            Epoch(self.known.epoch.0.saturating_sub(1))
        } else {
            self.stored_epoch()
        };
        let was_blank = self.blank;
        self.distrust_folder_of(Some(role), found.folder_of().clone(), Note::Wanted, since);
        if is_taken_in {
            self.blank = was_blank;
            self.take_in_moved_copy();
        }
        if let Some(text) = self.moved_text() {
            self.record(DecisionKind::Alarm, text);
        }
    }

    fn distrust_folder_of(&mut self, role: Option<DeviceRole>, host: Host, note: Note, since: Epoch) {
        self.moved = Some(Moved {
            host,
            role,
            note,
            since,
            is_taken_in: false,
            marked: DeviceSet::EMPTY,
        });
        self.blank = true;
        self.look = true;
    }

    /// The local copy was read: an earlier run had found that it came from elsewhere, and had no vote since.
    pub(super) fn recall_move(&mut self) {
        let areas = &self.replica(Replica::Local).survey.areas;
        let own = areas.iter().find(|area| area.node == self.me());
        let noted = own.and_then(|area| area.heartbeat.as_ref());
        // A copy of this folder that starts elsewhere was not taken in there.
        let is_of_here = |noted: &&Heartbeat| !noted.host.is_other_machine(&self.settings.host);
        let since = noted.filter(is_of_here).map_or(Epoch(0), |noted| noted.known);
        let told = noted.and_then(|noted| Some((noted.moved_from.clone()?, Epoch(noted.sequence))));
        // A copy that is read again says what this run knows better.
        let is_first = self.moved.is_none() && self.taken_in.by.is_none() && self.serving.is_none();
        self.taken_in.since = self.taken_in.since.max(since);
        self.taken_in.stored = since;
        if let Some((host, since)) = told.filter(|_| is_first) {
            self.distrust_folder_of(None, host, Note::Stored, since);
            if self.stored_epoch() > since {
                self.take_in_moved_copy();
            }
        }
    }

    /// Of the configuration that the local copy holds.
    fn stored_epoch(&self) -> Epoch {
        let areas = &self.replica(Replica::Local).survey.areas;
        let own = areas.iter().find(|area| area.node == self.me());
        let stored = own.and_then(|area| area.configuration.as_ref());
        stored.map_or(Epoch(0), |configuration| configuration.epoch)
    }

    /// A later configuration was decided: whoever was taken in, and voted for it, is still counted on.
    pub(in crate::protocol) fn note_vote_on(&mut self, next: &Configuration) {
        let accepted = self.ballot.as_ref().and_then(|ballot| ballot.accepted.as_ref());
        let has_voted = accepted.is_some_and(|(_, configuration)| configuration.epoch == next.epoch)
            && votes::voters(&self.known).nodes.contains(self.me());
        let (known, taken_in) = (self.known.epoch, &mut self.taken_in);
        taken_in.voted_for = has_voted.then_some(next.epoch);
        if has_voted && taken_in.by == Some(known) {
            taken_in.by = Some(next.epoch);
        }
    }

    /// This run is about to install the newest configuration, which counts on it.
    pub(in crate::protocol) fn note_taken_in(&mut self) {
        let known = self.known.epoch;
        if self.taken_in.voted_for != Some(known) {
            self.taken_in.by = Some(known);
            self.taken_in.since = known;
        }
    }

    /// A configuration that was decided without this node's vote counts on it.
    pub(in crate::protocol) fn take_in_moved_copy(&mut self) {
        if let Some(moved) = &mut self.moved {
            moved.is_taken_in = true;
        }
    }

    /// At every heartbeat: the local copy learns that it came from elsewhere, or that this is over.
    pub(in crate::protocol) fn store_move(&mut self) {
        self.end_move();
        if !self.ready() {
            return;
        }
        if let Some(moved) = self.moved.as_mut().filter(|moved| moved.note == Note::Wanted) {
            moved.note = Note::UnderWay;
            self.write_move();
        } else if self.taken_in.since > self.taken_in.stored.max(self.taken_in.writing) {
            self.write_move();
        }
    }

    /// Until this is stored, the next run has no vote again, which is safe.
    fn write_move(&mut self) {
        let heartbeat = self.local_heartbeat();
        self.taken_in.writing = heartbeat.known;
        self.ask(
            Replica::Local,
            ReplicaOp::WriteHeartbeat { heartbeat },
            Purpose::NoteMove,
        );
    }

    pub(in crate::protocol) fn on_move_noted(&mut self, done: bool) {
        if let Some(moved) = self.moved.as_mut().filter(|moved| moved.note == Note::UnderWay) {
            moved.note = if done { Note::Stored } else { Note::Wanted };
            self.look = true;
        }
        let writing = core::mem::take(&mut self.taken_in.writing);
        if done {
            self.taken_in.stored = self.taken_in.stored.max(writing);
        }
    }

    /// In the local copy a heartbeat counts nothing up: it says which configuration the copy held when it was found to be moved.
    pub(in crate::protocol) fn noted_sequence(&self) -> Option<u64> {
        self.moved.as_ref().map(|moved| moved.since.0)
    }

    /// What a heartbeat in the local copy says of where the state folder is at home.
    pub(in crate::protocol) fn noted_move(&self) -> Option<Host> {
        self.moved.as_ref().map(|moved| moved.host.clone())
    }

    /// A heartbeat of this run was written to the device, and this node's area read after it.
    pub(super) fn note_mark(&mut self, role: DeviceRole, area: Option<&AreaSurvey>) {
        let (run, is_clean) = (self.settings.incarnation, self.area_is_clean(role));
        let newest = area.and_then(|area| area.heartbeat.as_ref());
        let says_so =
            newest.is_some_and(|found| found.incarnation == run && found.moved_from.is_none()) && is_clean;
        if let Some(moved) = self.moved.as_mut().filter(|_| says_so) {
            moved.marked = moved.marked.with(role);
            self.end_move();
        }
    }

    /// Every device that votes says that the folder is at home here, and that this node has voted for nothing that may be decided yet.
    fn end_move(&mut self) {
        let voting = votes::voters(&self.known).devices;
        let is_over = self.moved.as_ref().is_some_and(|moved| {
            let is_settled = |role| moved.marked.contains(role) && !self.may_have_voted(role);
            moved.is_at_home() && voting.iter().all(is_settled)
        });
        if !is_over {
            return;
        }
        self.moved = None;
        self.taken_in.by = Some(self.known.epoch);
        self.taken_in.since = self.known.epoch;
        self.look = true;
        let text = format!(
            "node {} has its vote again: its state folder is at home here",
            self.me()
        );
        self.record(DecisionKind::Start, text);
        self.write_move();
    }

    /// By the ballot in this node's area an earlier run may have voted on what comes next, which the state folder does not know.
    fn may_have_voted(&self, role: DeviceRole) -> bool {
        let view = self.replica(Replica::Device(role));
        let ballot = view.own_ballot.as_ref();
        ballot
            .filter(|ballot| ballot.instance >= self.known.epoch)
            .is_some_and(|ballot| ballot.accepted.is_some() || view.last_claim.as_ref() != Some(ballot))
    }

    /// Why this node has no vote, for people.
    pub(in crate::protocol) fn moved_text(&self) -> Option<String> {
        let Moved { host, role, .. } = self.moved.as_ref()?;
        let until = if self.is_moved_copy() {
            "it has no vote before it was taken in again"
        } else {
            "it has no vote before every device that votes shows that it was taken in"
        };
        let wrote = role.map_or(String::new(), |role| format!("; it wrote to the {role}"));
        Some(format!(
            "the last ccdd of node {} ran on another machine (host {}, machine-id {:032x}{wrote}): what this state folder lacks is not \
             known, so {until}",
            self.me(),
            host.name,
            u128::from_be_bytes(host.machine)
        ))
    }
}
