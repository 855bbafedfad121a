//! The id of the state folder, and whether the configuration counts this node by it.
//!
//! A node's promises are in its state folder. A copy of it, on another machine or put back here, does not hold what the other one has
//! promised since, and both would vote. So each folder has an id, and a configuration names for each node the folder that it counts on:
//! a run with another one has no vote on the successor. A folder that is new, or starts on another machine than before, gets another id, which
//! stands in the local copy before anybody is told of it.
//!
//! ```text
//! the local copy says: this folder, on this machine → the same id     else → another id, no vote where a configuration names one
//!   → a member of a configuration that was decided without this node's vote, and names the id: it has its vote
//! ```
//!
//! A node that no configuration names yet, as one that was just added, has its vote unless its folder came from elsewhere.
//!
//! Owns `folder`. Called with each heartbeat, when a device or the local copy is opened, and when a configuration is learned.

use crate::configuration::Configuration;
use crate::ids::{DeviceRole, FolderId, NodeId, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::replicas::Purpose;
use crate::replica::{AreaSurvey, Heartbeat, Host, ReplicaOp};
use alloc::format;
use alloc::string::String;

/// Blocks of the local copy that say which folder it is.
const NOTES: u8 = 2;

/// The state folder of this run.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol) struct Folder {
    /// Not known before the local copy was read.
    pub id: FolderId,
    /// How many ids this run has given.
    given: u64,
    /// The last run of this node, if it was on another machine; until a configuration counts on this folder.
    elsewhere: Option<Elsewhere>,
    /// The local copy says which folder this is.
    is_stored: bool,
    /// It has said so in this run: what was promised since then, this folder has promised.
    was_stored: bool,
    /// In how many blocks of the local copy that is still to be written, or no more where the folder came from: two hold it, so that one
    /// damaged block takes no vote. And what is being written.
    notes_due: u8,
    writing: Option<FolderId>,
    /// The blocks that say so cannot be read.
    is_damaged: bool,
    /// It was told that another folder is counted on.
    is_told: bool,
}

/// A run of this node on another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Elsewhere {
    host: Host,
    /// The device whose heartbeats told it; `None`: the local copy did.
    role: Option<DeviceRole>,
}

/// The folder that the newest configuration counts this node by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    ThisFolder,
    AnotherFolder,
    /// It names none.
    Any,
}

impl Folder {
    /// Another id than any run of this node had.
    fn give_id(&mut self, run: u64, host: &Host) {
        self.given = self.given.saturating_add(1);
        let lock = u64::from_be_bytes(core::array::from_fn(|index| {
            host.lock.get(index).copied().unwrap_or_default()
        }));
        // The run is drawn at random; the lock is that of this folder in this boot.
        let id = lock.rotate_left(24) ^ run.rotate_left(1) ^ self.given.rotate_left(56);
        self.id = FolderId(id.max(1));
        (self.is_stored, self.notes_due) = (false, NOTES);
        self.is_told = false;
    }
}

impl Configuration {
    /// It counts on this node by another state folder.
    pub(in crate::protocol) fn names_another_folder(&self, node: NodeId, folder: FolderId) -> bool {
        let named = self.folders.get(node);
        named.is_known() && named != folder
    }
}

impl Node {
    fn counted(&self) -> Counted {
        let named = self.known.folders.get(self.me());
        if !named.is_known() {
            Counted::Any
        } else if named == self.folder.id {
            Counted::ThisFolder
        } else {
            Counted::AnotherFolder
        }
    }

    /// The state folder is a copy that has no vote, and no configuration has taken it in.
    pub(in crate::protocol) fn is_moved_copy(&self) -> bool {
        let came_from_elsewhere = self.folder.elsewhere.is_some();
        match self.counted() {
            Counted::ThisFolder => false,
            // Else the local copy is new.
            Counted::AnotherFolder => came_from_elsewhere || self.folder.id.is_known() && !self.blank,
            Counted::Any => came_from_elsewhere,
        }
    }

    /// The local copy of this node is none of the cluster's copies.
    pub(in crate::protocol) fn holds_no_copy(&self) -> bool {
        self.blank || self.is_moved_copy()
    }

    /// An owner decides by its devices: it is counted by the folder of this run, also where the local copy cannot say which one it is.
    pub(in crate::protocol) fn owners_folder(&mut self) -> FolderId {
        if !self.folder.id.is_known() {
            let (run, host) = (self.settings.incarnation.0, self.settings.host.clone());
            self.folder.give_id(run, &host);
        }
        self.folder.id
    }

    /// The folder that this node may be counted by.
    pub(in crate::protocol) fn offered_folder(&self) -> FolderId {
        if self.knows_folder() {
            self.folder.id
        } else {
            FolderId::default()
        }
    }

    /// The local copy says which folder it is: what is promised from here on is promised by that.
    pub(in crate::protocol) fn knows_folder(&self) -> bool {
        self.folder.is_stored
    }

    /// The machine where the state folder is at home, for a heartbeat.
    pub(in crate::protocol) fn moved_from(&self) -> Option<Host> {
        let elsewhere = self.folder.elsewhere.as_ref().filter(|_| self.is_moved_copy());
        elsewhere.map(|elsewhere| elsewhere.host.clone())
    }

    /// The last run of this node that wrote to the device was on another machine.
    pub(super) fn was_elsewhere(&self, found: &Heartbeat) -> bool {
        let folder = found.folder_of();
        // A server that had the number before, or has it now, has promised nothing for this one.
        folder.is_other_machine(&self.settings.host) && !self.is_of_another_server(folder)
    }

    /// A device shows a run of this node on another machine. Nothing follows from it while this folder is counted on.
    pub(super) fn note_run_elsewhere(&mut self, role: DeviceRole, found: &Heartbeat) {
        let is_counted = self.counted() == Counted::ThisFolder || !self.folder.id.is_known();
        if is_counted || self.serving.is_some() || self.folder.elsewhere.is_some() {
            return;
        }
        // Others serve since then.
        self.opened = None;
        self.folder.elsewhere = Some(Elsewhere {
            host: found.folder_of().clone(),
            role: Some(role),
        });
        self.distrust_folder();
    }

    /// This folder may lack promises that were made elsewhere since.
    fn distrust_folder(&mut self) {
        self.blank |= self.counted() == Counted::Any;
        self.folder.is_told = true;
        self.look = true;
        if let Some(text) = self.moved_text() {
            self.record(DecisionKind::Alarm, text);
        }
    }

    /// The local copy was read: it says which folder it is, and on which machine that was. Read again in one run, it may be another one.
    pub(super) fn recall_folder(&mut self) {
        let noted = self.noted_folder();
        let host = self.settings.host.clone();
        let run = self.settings.incarnation.0;
        // Counted on as an owner whose local copy could not say which folder it is: it has promised nothing there.
        let is_new_here = self.counted() == Counted::ThisFolder && !self.folder.was_stored;
        let folder = &mut self.folder;
        match noted {
            Some(noted) if noted.folder.is_known() && noted.folder == folder.id => folder.is_stored = true,
            _ if is_new_here => folder.is_stored = false,
            Some(noted)
                if noted.folder.is_known() && !noted.host.is_other_machine(&host) && !folder.was_stored =>
            {
                folder.id = noted.folder;
                folder.is_stored = true;
                folder.elsewhere = noted.moved_from.map(|host| Elsewhere { host, role: None });
            }
            Some(noted) => {
                folder.give_id(run, &host);
                let is_elsewhere = noted.host.is_other_machine(&host) || noted.moved_from.is_some();
                let host = noted.folder_of().clone();
                folder.elsewhere = is_elsewhere.then_some(Elsewhere { host, role: None });
            }
            None => folder.give_id(run, &host),
        }
        self.complete_notes();
    }

    /// A local copy was read while this node serves. It may have been put in the place of the one before: what this run has promised it
    /// has to hold before it says that it is this folder.
    pub(super) fn recall_folder_of_run(&mut self) {
        let is_same = self
            .noted_folder()
            .is_some_and(|noted| noted.folder == self.folder.id);
        self.folder.is_stored &= is_same;
        // Also where it is this folder: it may be a backup of it, with the ballots of then.
        if let Some(ballot) = self.ballot.clone() {
            self.ask(
                Replica::Local,
                ReplicaOp::WriteBallot { ballot },
                Purpose::Unattended,
            );
        }
        self.complete_notes();
        self.store_folder();
    }

    /// The newest note of the local copy about its folder.
    fn noted_folder(&self) -> Option<Heartbeat> {
        let own = self.own_area_of_copy()?;
        let blocks = [own.heartbeat.as_ref(), own.heartbeat_before.as_ref()];
        let known = blocks.into_iter().flatten().find(|noted| noted.folder.is_known());
        // Earlier programs wrote no id, but where the folder came from.
        known.or(own.heartbeat.as_ref()).cloned()
    }

    fn own_area_of_copy(&self) -> Option<&AreaSurvey> {
        let areas = &self.replica(Replica::Local).survey.areas;
        areas.iter().find(|area| area.node == self.me())
    }

    /// Each block of the local copy that does not say which folder this is is to be written.
    fn complete_notes(&mut self) {
        let id = self.folder.id;
        let (mut due, mut is_damaged) = (NOTES, false);
        if let Some(own) = self.own_area_of_copy() {
            let blocks = [&own.heartbeat, &own.heartbeat_before];
            let said = blocks
                .into_iter()
                .flatten()
                .filter(|noted| noted.folder == id)
                .count();
            due = NOTES.saturating_sub(u8::try_from(said).unwrap_or(NOTES));
            is_damaged = own.damaged;
        }
        self.folder.is_damaged = is_damaged && !self.folder.is_stored;
        self.folder.was_stored |= self.folder.is_stored;
        self.folder.notes_due = due;
    }

    /// A configuration was learned, or the local copy read.
    pub(in crate::protocol) fn judge_folder(&mut self) {
        match self.counted() {
            Counted::ThisFolder => {
                if self.folder.elsewhere.take().is_some() {
                    self.folder.notes_due = NOTES;
                    let text = format!(
                        "node {} has its vote again: {} counts on its state folder here",
                        self.me(),
                        self.known
                    );
                    self.record(DecisionKind::Start, text);
                }
                self.folder.is_told = false;
                self.forget_runs_elsewhere();
            }
            Counted::AnotherFolder | Counted::Any if self.is_moved_copy() && !self.folder.is_told => {
                self.distrust_folder();
            }
            Counted::AnotherFolder | Counted::Any => {}
        }
    }

    /// The local copy learns which folder it is. Before that nobody is told, and nothing is promised.
    pub(in crate::protocol) fn store_folder(&mut self) {
        let is_readable = self.replica(Replica::Local).loaded && self.replica(Replica::Local).usable();
        if self.folder.notes_due > 0 && self.folder.writing.is_none() && is_readable {
            self.folder.writing = Some(self.folder.id);
            let heartbeat = self.local_heartbeat();
            let op = ReplicaOp::WriteHeartbeat { heartbeat };
            self.ask(Replica::Local, op, Purpose::NoteFolder);
        }
    }

    pub(in crate::protocol) fn on_folder_noted(&mut self, done: bool) {
        let written = self.folder.writing.take();
        if done && written == Some(self.folder.id) {
            self.folder.notes_due = self.folder.notes_due.saturating_sub(1);
            (self.folder.is_stored, self.folder.was_stored) = (true, true);
        }
        self.look = true;
    }

    /// The machine where the state folder is at home, for a heartbeat in the local copy.
    pub(in crate::protocol) fn noted_move(&self) -> Option<Host> {
        let elsewhere = self.folder.elsewhere.as_ref();
        elsewhere.map(|elsewhere| elsewhere.host.clone())
    }

    /// Why this node has no vote, for people.
    pub(in crate::protocol) fn moved_text(&self) -> Option<String> {
        if !self.is_moved_copy() {
            return None;
        }
        let me = self.me();
        let until =
            "what this state folder lacks is not known, so it has no vote before it was taken in again";
        Some(match &self.folder.elsewhere {
            Some(Elsewhere { host, role }) => {
                let wrote = role.map_or(String::new(), |role| format!("; it wrote to the {role}"));
                format!(
                    "the last ccdd of node {me} ran on another machine (host {}, machine-id {:032x}{wrote}): {until}",
                    host.name,
                    u128::from_be_bytes(host.machine)
                )
            }
            None if self.folder.is_damaged => {
                format!("the blocks of the local copy that say which state folder it is are damaged: {until}")
            }
            None => format!(
                "epoch {} counts node {me} by another copy of its state folder: {until}",
                self.known.epoch
            ),
        })
    }
}
