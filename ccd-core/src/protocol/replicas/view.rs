//! What this node knows of one of its replicas.

use super::lacking::Proof;
use super::own_area::OwnArea;
use super::track::{Track, WORKED_LEASES};
use super::voted::Voted;
use crate::configuration::BallotBlock;
use crate::ids::{Epoch, Position, RegionId};
use crate::replica::Survey;
use crate::time::Time;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// How many heartbeats' durations are remembered, for people.
const BEATS_KEPT: usize = 64;

/// What is known of one replica.
#[derive(Debug)]
pub(in crate::protocol) struct ReplicaView {
    pub(super) state: State,
    /// The last failure that was recorded, until it works again.
    pub(super) recorded: Option<String>,
    /// When it became usable, or stopped being so.
    pub since: Time,
    /// The newest control blocks read from it.
    pub survey: Survey,
    /// Which region it is, as found when it was opened.
    pub region: RegionId,
    /// While a configuration without it served, it was found to be another region than the one before: that is no lack any more.
    pub is_forgiven: bool,
    /// A device: whether this run writes this node's own area.
    pub own_area: OwnArea,
    /// When it was opened nobody had voted on anything there, nor recorded a configuration: it was just made.
    pub is_new: bool,
    /// What this run had written there was gone: somebody cleared the device, or put it back to an earlier state. What it voted for is
    /// gone, too.
    pub was_overwritten: bool,
    /// A device: what the other one proves to have been written there.
    pub(super) proof: Proof,
    /// What is wrong with it although it is used, as its last survey says.
    pub(in crate::protocol) damage: Option<String>,
    /// This region is corrupted, or another program writes to it: it is left out while there is another device.
    pub(super) condemned: Option<Condemned>,
    /// Local copy: its content has been read.
    pub loaded: bool,
    /// The durable position of this node's own area; `None` while it is not known.
    pub own: Option<Position>,
    /// Writes of state under way, and where the last one leads.
    pub writes_in_flight: usize,
    pub(super) leads_to: Position,
    /// A record did not fit its journal: the next write there is a whole image.
    pub journal_full: bool,
    /// Bytes of the largest image that it has room for, as its superblock says.
    pub(super) room: Option<u64>,
    /// Bytes of the smallest image that it refused for want of room.
    pub(super) refused_bytes: Option<u64>,
    /// How often it failed soon after it had worked, and how long it is left alone for that.
    pub(super) track: Track,
    /// One of the records that were to bring it to a state did not fit: an image of that state is asked for instead.
    pub(super) image_instead: bool,
    /// When the newest heartbeat that was written without meeting a claim was begun, and the highest epoch another
    /// node's control blocks spoke of then: a solo owner's lease.
    pub clean_beat: Option<(Time, Epoch)>,
    pub beat_in_flight: bool,
    /// The next heartbeat is a look only: this process stood still, and others may have gone on.
    pub looks_first: bool,
    /// When the last look at all control blocks that succeeded was begun.
    pub looked_at: Option<Time>,
    /// Heartbeats in a row, or nearly, that took longer than there is from one to the next.
    pub slow_beats: u8,
    /// How long the last heartbeats took, the newest last.
    beats: VecDeque<Duration>,
    pub beat_sequence: u64,
    pub(super) checkpoint_in_flight: bool,
    /// Claims under way, and the last of them.
    pub(super) claims_in_flight: usize,
    /// This node's newest ballot block there, as it was last read.
    pub own_ballot: Option<BallotBlock>,
    /// The most that was found there of what this node voted and decided.
    pub(super) voted: Voted,
    pub(super) last_claim: Option<BallotBlock>,
    /// It is being brought nearer to what is committed: a device that is to come back, or the local copy of a solo owner.
    pub prewrite_in_flight: bool,
}

/// What was found in a region that is to be left out.
#[derive(Debug)]
pub(super) struct Condemned {
    pub text: String,
    /// A region that is opened anew comes across it late, so it is remembered until another one is there.
    pub is_lasting: bool,
}

#[derive(Debug)]
pub(super) enum State {
    Closed {
        error: Option<String>,
    },
    Opening,
    /// It failed before, and was opened again: it is used once a write shows that it takes writes.
    Proving,
    Open,
}

impl ReplicaView {
    pub fn new(now: Time) -> Self {
        Self {
            state: State::Closed { error: None },
            recorded: None,
            since: now,
            survey: Survey::default(),
            region: RegionId::default(),
            is_forgiven: false,
            own_area: OwnArea::default(),
            is_new: false,
            was_overwritten: false,
            proof: Proof::default(),
            damage: None,
            condemned: None,
            loaded: false,
            own: None,
            writes_in_flight: 0,
            leads_to: Position::EMPTY,
            journal_full: false,
            room: None,
            refused_bytes: None,
            track: Track::new(now),
            image_instead: false,
            clean_beat: None,
            beat_in_flight: false,
            looks_first: false,
            looked_at: None,
            slow_beats: 0,
            beats: VecDeque::new(),
            beat_sequence: 0,
            checkpoint_in_flight: false,
            claims_in_flight: 0,
            own_ballot: None,
            voted: Voted::default(),
            last_claim: None,
            prewrite_in_flight: false,
        }
    }

    /// A heartbeat has been written, and what the others wrote read.
    pub fn note_beat(&mut self, took: Duration) {
        if self.beats.len() == BEATS_KEPT {
            self.beats.pop_front();
        }
        self.beats.push_back(took);
    }

    pub fn beats_took(&self) -> Vec<Duration> {
        self.beats.iter().copied().collect()
    }

    pub fn usable(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// It has not been tried yet, so whether it is there is not known.
    pub fn untried(&self) -> bool {
        match &self.state {
            State::Closed { error } => error.is_none(),
            State::Opening => !self.track.has_failed(),
            State::Proving | State::Open => false,
        }
    }

    /// It failed, and has not shown since that it works.
    pub(super) fn is_failed(&self) -> bool {
        !self.usable() && self.track.has_failed()
    }

    /// It has worked for so long since it last failed that a configuration may take it in.
    pub fn has_returned(&self, now: Time, lease: Duration) -> bool {
        now.since(self.since) >= self.track.return_after(lease)
    }

    /// It failed more than once, soon after it had worked again, and has not worked for long since.
    pub fn is_flapping(&self, now: Time, lease: Duration) -> bool {
        self.track.is_flapping() && now.since(self.since) < lease.saturating_mul(WORKED_LEASES)
    }

    pub fn error(&self) -> Option<&str> {
        match &self.state {
            State::Closed { error } => error.as_deref(),
            // What is being tried again has not worked yet.
            State::Opening | State::Proving => self.recorded.as_deref(),
            State::Open => None,
        }
    }
}
