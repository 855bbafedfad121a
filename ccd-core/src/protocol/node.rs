//! The node: what it knows, and how an event reaches the part that handles it.
//!
//! The parts, one file each, are all `impl Node`; each owns the fields that its header names.

use super::copies::catch_up::CatchUp;
use super::copies::history::History;
use super::copies::install::Install;
use super::copies::member::Member;
use super::copies::pace::Pace;
use super::copies::parcels::Parcels;
use super::copies::spread::Spread;
use super::credible::Doubted;
use super::fencing::Fence;
use super::interface::{Action, Decision, DecisionKind, Event, Settings, Ticket};
use super::membership::ahead::Ahead;
use super::membership::designation::Designation;
use super::membership::elsewhere::{Contradiction, Tenure};
use super::membership::nodes::NodeChanges;
use super::membership::nodes::owner::Claimed;
use super::membership::peers::Peer;
use super::membership::returns::Returns;
use super::membership::twice::Twice;
use super::message::Message;
use super::replicas::Folder;
use super::replicas::each::Replicas;
use super::replicas::last_words::LastWords;
use super::replicas::own_area::OtherRun;
use super::replicas::{Attempt, Purpose, ReplicaView, Writes};
use super::reports::OwnReport;
use super::requests::Requests;
use super::requests::drill::Drill;
use super::updates::commands::Commands;
use super::updates::freeze::FreezeDriven;
use super::updates::large::LargeUpdates;
use super::updates::prepared::Prepared;
use super::updates::round::Round;
use super::updates::settled::Settled;
use super::updates::telling::Told;
use super::voting::lower_bound::LowerBound;
use super::voting::propose::Proposal;
use crate::configuration::{BallotBlock, Configuration, Mode, Quorum};
use crate::database::{Database, Update};
use crate::ids::{
    DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, PerDevice, Position, Replica, Servers, Stamp,
};
use crate::init::Fencing;
use crate::replica::Trace;
use crate::time::{Date, Time};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

/// One node of a cluster. Pure: it learns the time and everything else from events, and acts only through actions.
///
/// ```text
/// loop {
///     wait for an event, at most until node.next_deadline();
///     node.handle(now, event, &mut actions);
///     execute the actions in order;
/// }
/// ```
#[derive(Debug)]
pub struct Node {
    pub(super) settings: Settings,
    pub(super) now: Time,
    /// The date the last event with one came with, for people.
    pub(super) date: Date,
    pub(super) actions: Vec<Action>,
    pub(super) started: Time,
    pub(super) next_beat: Time,

    // What was agreed. `known` is the newest configuration known to be decided; genesis until then.
    pub(super) known: Configuration,
    /// The local copy holds no configuration: what it may have promised before it was replaced is not known.
    pub(super) blank: bool,
    /// This node's promises and votes, as its local copy holds them.
    pub(super) ballot: Option<BallotBlock>,
    /// The highest ballot round seen anywhere.
    pub(super) round_max: u64,

    // The content. `committed` is what queries see; `head` also has the prepared round, if there is one.
    pub(super) head: Database,
    pub(super) committed: Database,
    /// The version before, until a replica has answered again.
    pub(super) spent: Option<Database>,
    pub(super) history: History,
    /// Up to where the driver was told what is committed.
    pub(super) told: Told,
    /// The last override this node knows of: its epoch, and the state it went on from. What others decided after that
    /// state and before that epoch is a branch that lost.
    pub(super) overridden: Option<(Epoch, Position)>,
    /// The local copy was found damaged: its content is no evidence for anything until it is replaced.
    pub(super) damaged: Option<String>,
    /// Up to where this copy is known to hold nothing but what was committed.
    pub(super) settled: Settled,
    /// The newest state that is known to have been committed, whether this copy holds it or not.
    pub(super) bound: LowerBound,
    /// Since when `known` is known.
    pub(super) known_since: Time,
    /// The last thing this copy did was to roll back the round that led here.
    pub(super) rolled_back: Option<Position>,

    pub(super) replicas: Replicas,
    /// What was asked of replicas: of which, what it writes of the state of an area, and what for. A handful; a map would
    /// allocate for each.
    pub(super) pending: Vec<(Ticket, Replica, Writes, Purpose)>,
    pub(super) ticket_last: u64,
    /// Damaged control blocks of other nodes that have been counted as a claim.
    pub(super) damage_noted: BTreeSet<(DeviceRole, NodeId, bool)>,
    /// Peers and areas that said what cannot be: each was recorded once.
    pub(super) doubted: BTreeSet<Doubted>,

    /// One for each device with reservations; empty with lease fencing.
    pub(super) fences: BTreeMap<DeviceRole, Fence>,
    /// How often this run has registered anywhere.
    pub(super) registrations: u64,

    /// Another run of this node, while it lives.
    pub(super) other_run: Option<OtherRun>,
    /// A peer that says that this server's number belongs to another one.
    pub(super) claimed_by: Option<Claimed>,
    /// A node that knows another configuration of this epoch.
    pub(super) twice: Option<Twice>,
    /// What nodes tell that the voters here have not decided.
    pub(super) elsewhere: BTreeMap<NodeId, Contradiction>,
    /// Nodes that serve apart from this one.
    pub(super) apart: BTreeMap<NodeId, Contradiction>,
    pub(super) tenure: Tenure,
    /// The latest epoch that a node knows which does not talk to this one.
    pub(super) ahead: Option<Ahead>,
    /// Which state folder this is, and where it came from.
    pub(super) folder: Folder,

    /// What each device must show of this node, for whoever reads another one.
    pub(super) traces: PerDevice<Trace>,

    /// What is wrong with this node, for the others.
    pub(super) report: OwnReport,
    pub(super) drills: Vec<Drill>,
    pub(super) last_words: LastWords,

    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// How the devices came and went.
    pub(super) returns: Returns,
    pub(super) changes: NodeChanges,
    /// The view of an external membership monitor.
    pub(super) external: Option<NodeSet>,
    /// What an operator has asked this node for and is not decided yet.
    pub(super) maintenance_wish: Option<bool>,
    /// The operator did not take it out.
    pub(super) willing: bool,
    pub(super) impatient: bool,
    /// Whether an operator wants quorum to be required from now on.
    pub(super) quorum_wish: Option<Quorum>,
    pub(super) designation: Option<Designation>,

    // Becoming part of a configuration.
    pub(super) attempt: Attempt,
    pub(super) proposal: Option<Proposal>,
    pub(super) install: Option<Install>,
    pub(super) member: Option<Member>,
    pub(super) catch_up: Option<CatchUp>,
    /// Why it does not serve, as `plan` last found; since when.
    pub(super) waiting: (String, Time),
    pub(super) back_off_until: Time,
    /// Proposals given up one after the other: each lets more time pass before the next.
    pub(super) failures: u32,
    /// Configurations that this node decided one after the other and that it could not open.
    pub(super) unopened: u32,
    /// Something changed that the plan depends on.
    pub(super) look: bool,
    /// Since when this node is open without a lease.
    pub(super) lease_lost: Option<Time>,
    /// What was last recorded as proposed, so that trying again is not recorded again.
    pub(super) last_proposed: String,

    // Serving.
    /// The epoch of `known`, while this node serves it.
    pub(super) serving: Option<Epoch>,
    /// The epoch this node opened last and whose content it holds in memory ever since.
    pub(super) opened: Option<Epoch>,
    pub(super) opened_at: Time,
    pub(super) round: Option<Round>,
    pub(super) prepared: Option<Prepared>,
    /// The other members have not been told that this round is committed, and are then, unless a round begins before.
    pub(super) owes_unfreeze: Option<(Epoch, Position, Time)>,
    /// The last rounds that were rolled back: their requests come too late.
    pub(super) undone_unseen: VecDeque<Position>,
    /// A reconfiguration is due as soon as the round under way has ended.
    pub(super) hold_rounds: bool,
    /// The prepared round went into an image, because the journal had no room.
    pub(super) journal_was_full: bool,
    /// Before an update of a key with a synchronization command, if this node is the master; how many there were.
    pub(super) freeze: Option<FreezeDriven>,
    pub(super) freezes: u64,
    /// No rehearsal begins before.
    pub(super) rehearse_after: Time,
    pub(super) commands: Commands,
    pub(super) large_updates: LargeUpdates,
    pub(super) spread: Spread,
    pub(super) pace: Pace,
    pub(super) parcels: Parcels,
    pub(super) requests: Requests,
}

impl Node {
    /// A node that has just started and knows nothing: its first actions, asked for by the first
    /// [`Event::Timer`], open its replicas.
    pub fn new(settings: Settings, now: Time) -> Self {
        let known = Configuration::genesis(settings.nodes, settings.devices);
        let replicas = Replicas::new(settings.devices, now);
        let fences = match settings.fencing {
            Fencing::Scsi => settings.devices.iter().map(|role| (role, Fence::new())).collect(),
            Fencing::Lease => BTreeMap::new(),
        };
        let peers = settings
            .nodes
            .without(settings.me)
            .iter()
            .map(|node| (node, Peer::new(now)))
            .collect();
        Self {
            now,
            date: Date::default(),
            actions: Vec::new(),
            started: now,
            next_beat: now,
            known,
            blank: true,
            ballot: None,
            round_max: 0,
            head: Database::default(),
            committed: Database::default(),
            spent: None,
            history: History::default(),
            told: Told::default(),
            overridden: None,
            damaged: None,
            rolled_back: None,
            settled: Settled::default(),
            bound: LowerBound::default(),
            known_since: now,
            replicas,
            pending: Vec::new(),
            ticket_last: 0,
            damage_noted: BTreeSet::new(),
            doubted: BTreeSet::new(),
            fences,
            registrations: 0,
            other_run: None,
            claimed_by: None,
            twice: None,
            elsewhere: BTreeMap::new(),
            apart: BTreeMap::new(),
            tenure: Tenure::default(),
            ahead: None,
            folder: Folder::default(),
            traces: PerDevice::default(),
            report: OwnReport::default(),
            drills: Vec::new(),
            last_words: LastWords::default(),
            peers,
            returns: Returns::default(),
            changes: NodeChanges::default(),
            external: None,
            maintenance_wish: None,
            willing: true,
            impatient: false,
            quorum_wish: None,
            designation: None,
            attempt: Attempt(0),
            proposal: None,
            install: None,
            member: None,
            catch_up: None,
            waiting: (String::from("starting: reading the replicas"), now),
            back_off_until: now,
            failures: 0,
            unopened: 0,
            look: true,
            lease_lost: None,
            last_proposed: String::new(),
            serving: None,
            opened: None,
            opened_at: now,
            round: None,
            prepared: None,
            owes_unfreeze: None,
            undone_unseen: VecDeque::new(),
            hold_rounds: false,
            journal_was_full: false,
            freeze: None,
            freezes: 0,
            rehearse_after: Time::default(),
            commands: Commands::default(),
            large_updates: LargeUpdates::default(),
            spread: Spread::default(),
            pace: Pace::default(),
            parcels: Parcels::default(),
            requests: Requests::default(),
            settings,
        }
    }

    /// Takes one event and appends what must be done to `actions`.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        if self.now >= self.next_beat + self.settings.lease {
            self.on_stood_still();
        }
        match event {
            Event::Timer => {}
            Event::Message { from, message } => self.on_message(from, message),
            Event::Reachable { node } => self.on_reachable(node),
            Event::Disowned { by, epoch, server } => self.on_disowned(by, epoch, server),
            Event::RefusedBy { by, epoch, newest } => self.on_refused_by(by, epoch, newest),
            Event::Client {
                client,
                request,
                date,
            } => {
                self.date = date;
                self.on_request(client, request);
            }
            Event::ClientGone { client } => self.on_client_gone(client),
            Event::Replica { ticket, result } => self.on_replica(ticket, result),
            Event::Fenced { ticket, result } => self.on_fenced(ticket, result),
            Event::Staged { digest, result } => self.on_staged(digest, result),
            Event::CommandDone { ticket, result } => self.on_command_done(ticket, result),
            Event::Problems(problems) => self.on_problems(problems),
            Event::Worked { ticket, worked } => self.on_worked(ticket, worked),
        }
        self.on_time();
        self.tell_committed();
        actions.append(&mut self.actions);
    }

    /// Everything that depends on the time alone, or that an event may have made possible.
    fn on_time(&mut self) {
        if self.now >= self.next_beat {
            self.next_beat = self.now + self.settings.heartbeat;
            self.look = true;
            self.lease_lost = if self.is_open() && !self.lease_holds() {
                self.lease_lost.or(Some(self.now))
            } else {
                None
            };
            self.pace.note(self.now, self.committed.position().stamp);
            self.watch_fences();
            self.forgive_new_devices();
            self.forget_disproved_claim();
            self.follow_init();
            self.beat();
            self.re_open_replicas();
            self.repeat_what_was_not_answered();
        }
        self.begin_due_proofs();
        self.drive_proposal();
        self.drive_install();
        self.drive_member();
        if core::mem::take(&mut self.look) || !self.is_open() {
            self.plan();
        }
        self.drive_updates();
        self.drive_commands();
        self.drive_requests();
    }

    /// Messages get lost: at every heartbeat, what is still waited for is asked for again.
    fn repeat_what_was_not_answered(&mut self) {
        self.repeat_proposal();
        self.repeat_install();
        self.repeat_catch_up();
        self.repeat_parcels();
        self.repeat_freeze();
        self.tell_freeze();
        self.repeat_round();
        self.repeat_forwards();
        self.repeat_changes();
        self.hand_on_designations();
    }

    /// Number of the newest reconfiguration that this node knows to be decided.
    pub fn epoch(&self) -> Epoch {
        self.known.epoch
    }

    /// The newest state that is known to have been committed. What a copy holds beyond that may never have been.
    pub fn newest_stamp(&self) -> Stamp {
        if self.serving.is_some() {
            self.bound.stamp().max(self.committed.position().stamp)
        } else {
            self.bound.stamp()
        }
    }

    /// Which server has each number by that configuration.
    pub fn servers(&self) -> Servers {
        *self.known.servers
    }

    /// When [`Event::Timer`] is due.
    pub fn next_deadline(&self) -> Time {
        let mut deadline = self.next_beat;
        for due in [
            self.next_silence(),
            self.owes_unfreeze.map_or(Time::NEVER, |(_, _, due)| due),
            self.proposal_deadline(),
            self.install_deadline(),
            self.requests.next_deadline(),
            self.changes.next_deadline(),
            self.freeze_deadline(),
            self.rehearsals_deadline(),
            self.commands_deadline(),
            self.drills
                .iter()
                .map(|drill| drill.deadline)
                .min()
                .unwrap_or(Time::NEVER),
        ] {
            if due > self.now {
                deadline = deadline.min(due);
            }
        }
        deadline
    }

    /// Damage to this copy in memory, for whoever tests what is made of it: an update that no record holds.
    #[doc(hidden)]
    pub fn damage_copy(&mut self, update: &Update) {
        if let Ok((damaged, _)) = self.committed.admit(update) {
            self.committed = damaged.misplaced_at(self.committed.position());
            self.head = self.committed.clone();
        }
    }

    // Small words that every part uses.

    pub(super) fn me(&self) -> NodeId {
        self.settings.me
    }

    /// For the next action that is answered.
    pub(super) fn next_ticket(&mut self) -> Ticket {
        self.ticket_last = self.ticket_last.saturating_add(1);
        Ticket(self.ticket_last)
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.actions.push(Action::Send { to, message });
    }

    pub(super) fn send_to_all(&mut self, message: &Message) {
        for to in self.settings.nodes.without(self.me()).iter() {
            self.send(to, message.clone());
        }
    }

    pub(super) fn record(&mut self, kind: DecisionKind, text: String) {
        let configuration = (!self.known.is_genesis()).then(|| self.known.clone());
        self.last_words.add(&text);
        self.actions.push(Action::Record(Decision {
            kind,
            configuration,
            text,
        }));
    }

    /// Whether this node has promised to take part in deciding the successor of `known`: then it acks nothing in it.
    pub(super) fn sealed(&self) -> bool {
        self.ballot
            .as_ref()
            .is_some_and(|ballot| ballot.instance >= self.known.epoch)
            || self.proposal.is_some()
    }

    /// Serving the newest configuration it knows, not about to leave it, and not fenced.
    pub(super) fn is_open(&self) -> bool {
        self.serving == Some(self.known.epoch) && !self.sealed() && !self.shut_out()
    }

    /// It serves, and what it has is enough for updates. An operator may overrule what keeps it from that.
    pub(super) fn takes_updates(&self) -> bool {
        self.is_open() && self.lease_holds() && !self.is_owner_without_votes()
    }

    pub(super) fn is_master(&self) -> bool {
        self.known.master() == Some(self.me())
    }

    pub(super) fn usable_devices(&self) -> DeviceSet {
        self.settings
            .devices
            .iter()
            .filter(|role| self.replica(Replica::Device(*role)).usable())
            .filter(|role| !self.distrusted(*role) && !self.was_made_anew(*role) && !self.is_apart(*role))
            .filter(|role| self.owns_area(*role) && !self.is_unjudged(*role))
            .collect()
    }

    pub(super) fn replica(&self, replica: Replica) -> &ReplicaView {
        self.replicas.of(replica)
    }

    pub(super) fn replica_mut(&mut self, replica: Replica) -> &mut ReplicaView {
        self.replicas.of_mut(replica)
    }

    /// The local copy is read, says which folder it is, can be written, and has room for the database; and no other run or server is this node.
    pub(super) fn ready(&self) -> bool {
        let local = self.replica(Replica::Local);
        local.loaded
            && local.usable()
            && self.knows_folder()
            && self.local_copy_fits()
            && self.other_run.is_none()
            && !self.number_is_anothers()
    }

    /// Nodes of the configuration other than this one.
    pub(super) fn other_members(&self) -> NodeSet {
        self.known.members.without(self.me())
    }

    pub(super) fn solo(&self) -> bool {
        matches!(self.known.mode, Mode::Solo(_))
    }

    pub(super) fn device_roles(&self) -> Vec<DeviceRole> {
        self.settings.devices.iter().collect()
    }
}
