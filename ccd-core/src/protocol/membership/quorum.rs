//! Clusters whose nodes alone vote, when no majority of them is here.
//!
//! ```text
//! more than half      decide a successor; open
//! exactly half        decide nothing, but nothing is decided without one of them: valid, and closed
//! fewer               invalid
//! ```
//!
//! A member's own copy holds every update that was ever acked in its configuration. So it is current for as long as no
//! later configuration opens, and none does while half of the voters, this one among them, lend each other leases. What
//! may be missing is the knowledge whether the last round was acked: see `settled.rs`. docs/decisions.md has the argument.

use super::operator::{Operator, Wish};
use crate::client::{ClientToken, Refusal};
use crate::configuration::votes::{self, Voters};
use crate::configuration::{Configuration, Mode, Quorum, RestoreFlag};
use crate::database::{Database, Op};
use crate::ids::{DeviceSet, NodeId, NodeSet, Stamp};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::plan::{Settles, Want};
use crate::protocol::updates::settled::Doubt;
use crate::time::Time;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The warning that stays for as long as quorum is waived.
pub(in crate::protocol) const WAIVED: &str =
    "QUORUM IS OFF: nodes that lose each other both go on, and the updates of one side are lost";

impl Node {
    /// Whether this node may promise `node` to take part in no configuration without it, if both know the same one: among
    /// members always; where nodes alone vote, a voter that is no member also lends its weight to a member.
    pub(in crate::protocol) fn lends_to(&self, node: NodeId) -> bool {
        let known = &self.known;
        let voter = known.members.contains(self.me())
            || votes::has_halves(known) && known.nodes.contains(self.me()) && self.ready();
        // A newcomer needs no lease before it serves, and one that it has is waited out if it does not get ready.
        let voter = voter && !self.awaits_newcomer(node);
        // A blank copy does not know what its earlier self took part in.
        voter
            && known.members.contains(node)
            && !known.is_genesis()
            && !self.sealed()
            && !self.holds_no_copy()
            && !self.number_is_anothers()
    }

    /// This node has not opened the configuration since it started, and answers strict queries in it all the same.
    pub(in crate::protocol) fn valid_by_half(&self) -> bool {
        let known = &self.known;
        // Whoever was left out of this configuration may answer queries in the one before, for one lease at most.
        let since = self.started.max(self.known_since);
        votes::has_halves(known)
            && known.quorum == Quorum::Required
            && known.members.contains(self.me())
            && self.serving != Some(known.epoch)
            && self.willing
            && self.ready()
            && !self.holds_no_copy()
            && self.damaged.is_none()
            && !self.sealed()
            && self.install.is_none()
            && self.member.is_none()
            && !self.is_catching_up()
            && self.head.position().stamp.epoch == known.epoch
            && !self.needs_all_nodes()
            && self.newer_copy().is_none()
            && self.now >= since + self.longest_lease()
            && self.read_lease_holds()
    }

    /// The state that strict queries are answered from.
    pub(in crate::protocol) fn strict_state(&self) -> &Database {
        match self.doubt() {
            Doubt::Round { before, .. } if !self.is_open() => before,
            _ => &self.committed,
        }
    }

    /// Queries are answered, and updates are not taken.
    pub(in crate::protocol) fn valid_but_closed(&self) -> bool {
        if self.is_open() {
            !self.lease_holds() && self.read_lease_holds()
        } else {
            self.valid_by_half()
        }
    }

    /// Updates have had no majority for so long that they are refused at once.
    pub(in crate::protocol) fn closed_for_long(&self) -> bool {
        if self.is_owner_without_votes() {
            return true;
        }
        if !self.nodes_alone_vote() {
            return false;
        }
        if self.is_open() {
            let lost = self.lease_lost;
            !self.lease_holds() && lost.is_some_and(|since| self.now.since(since) >= self.settings.lease)
        } else {
            self.valid_by_half()
        }
    }

    pub(in crate::protocol) fn nodes_alone_vote(&self) -> bool {
        !self.known.is_genesis() && self.known.mode == Mode::Paired && self.known.devices.is_empty()
    }

    /// The copies of the cluster that are here: this node's, and those of the nodes that it is linked to. A new local copy
    /// is none.
    fn copies_found(&self) -> BTreeMap<Stamp, NodeSet> {
        let mine = (self.ready() && !self.holds_no_copy() && self.damaged.is_none())
            .then(|| (self.me(), self.offered_position().stamp));
        let others = (self.peers.keys()).filter_map(|node| {
            let state = self.peer_state(*node).filter(|_| self.linked(*node))?;
            (state.ready && !state.is_blank()).then_some((*node, state.position.stamp))
        });
        let mut copies: BTreeMap<Stamp, NodeSet> = BTreeMap::new();
        for (node, stamp) in mine.into_iter().chain(others) {
            copies.entry(stamp).or_default().insert(node);
        }
        copies
    }

    /// `1 of 5 copies found: 7/42 on node 0; 3 are needed to make it valid`, for a cluster whose nodes alone vote.
    pub(in crate::protocol) fn copies_text(&self) -> String {
        let voters = votes::voters(&self.known).nodes;
        let total = voters.count();
        let copies = self.copies_found();
        let here = (copies.values()).fold(NodeSet::EMPTY, |all, nodes| all.union(*nodes));
        let mut list = String::new();
        for (stamp, nodes) in copies.iter().rev() {
            let separator = if list.is_empty() { ": " } else { ", " };
            let word = if nodes.count() == 1 { "node" } else { "nodes" };
            list.push_str(&format!("{separator}{stamp} on {word} {nodes}"));
        }
        let found = format!("{} of {total} copies found{list}", here.count());
        let (valid, open) = (total.div_ceil(2), (total / 2).saturating_add(1));
        let ayes = Voters::new(here.intersection(voters), DeviceSet::EMPTY);
        let missing = votes::missing(&self.known, ayes);
        if here.count() < valid {
            format!("invalid: {found}; {valid} are needed to make it valid")
        } else if here.count() >= open {
            found
        } else {
            format!("closed: {found}; {open} are needed to take updates; missing: {missing}")
        }
    }

    /// A node that is linked holds more of this configuration: this copy was put back, or lacks a round that may be committed.
    fn newer_copy(&self) -> Option<(NodeId, Stamp)> {
        let here = self.offered_position().stamp;
        let states = (self.peers.keys()).filter_map(|node| Some((*node, self.peer_state(*node)?)));
        states
            .filter(|(node, state)| self.linked(*node) && state.ready && !state.is_blank())
            .map(|(node, state)| (node, state.position.stamp))
            .find(|(_, stamp)| stamp.epoch == self.known.epoch && *stamp > here)
    }

    /// What keeps this node from answering by half, although half of the nodes is here.
    fn half_text(&self) -> Option<String> {
        let known = &self.known;
        if !votes::has_halves(known) {
            return None;
        }
        if !known.members.contains(self.me()) {
            return Some(format!(
                "this node is no member of epoch {}: ask one of its members, {}",
                known.epoch, known.members
            ));
        }
        if self.sealed() {
            return Some(format!(
                "this node has taken part in deciding the successor of epoch {}, which only a majority can end",
                known.epoch
            ));
        }
        if self.head.position().stamp.epoch != known.epoch {
            return Some(format!(
                "epoch {} was decided, and never opened here",
                known.epoch
            ));
        }
        if let Some((node, stamp)) = self.newer_copy() {
            return Some(format!(
                "the copy of node {node}, at {stamp}, is newer than the one here, at {}: ask that node",
                self.offered_position().stamp
            ));
        }
        None
    }

    /// What may or may not have been committed.
    fn doubt_text(&self) -> Option<String> {
        let what = if self.is_open() {
            let position = self.prepared.as_ref()?.position();
            format!(
                "the last round, {}, was committed is known to the other nodes only: queries of the keys it changed",
                position.stamp
            )
        } else {
            match self.doubt() {
                Doubt::Nothing => return None,
                Doubt::Round { record, .. } => format!(
                    "the last round, {}, was committed is known to the other nodes only: queries of the keys it changed",
                    record.next.stamp
                ),
                Doubt::Everything => format!(
                    "the last round, {}, was committed is known to the other nodes only: queries",
                    self.head.position().stamp
                ),
            }
        };
        Some(format!("whether {what} wait for one of them"))
    }

    /// Why there is no quorum and what is missing, for status and refusals.
    pub(in crate::protocol) fn no_quorum_text(&self) -> String {
        let mut text = self.copies_text();
        if self.valid_but_closed() {
            text = format!("valid, but {text}");
        }
        let why = self.half_text().filter(|_| !self.is_open());
        match why.or_else(|| self.doubt_text().filter(|_| votes::has_halves(&self.known))) {
            Some(why) => format!("{text}; {why}"),
            None => text,
        }
    }

    /// The answer to an update that no majority is here for.
    pub(in crate::protocol) fn refuse_update(&self) -> Refusal {
        if self.waits_for_all_nodes() {
            Refusal::NoQuorum {
                why: self.obstacle_text(),
            }
        } else if self.is_owner_without_votes() {
            let forgot = self
                .device_roles()
                .into_iter()
                .filter(|role| self.is_found_made_anew(*role));
            let texts: Vec<String> = forgot.map(|role| self.made_anew_text_of(role)).collect();
            Refusal::NoQuorum {
                why: format!("{}; no other device votes", texts.join("; ")),
            }
        } else if self.lacks_majority() {
            Refusal::NoQuorum {
                why: self.no_quorum_text(),
            }
        } else {
            self.not_serving()
        }
    }

    /// Nodes alone vote, and as far as links tell too few are here to decide. A node that was removed lacks more than that.
    pub(in crate::protocol) fn lacks_majority(&self) -> bool {
        self.nodes_alone_vote() && !self.removed() && !votes::decide(&self.known, self.live_voters())
    }

    /// The operations with the flag that a restore leaves: whether all nodes are active is the master's to say, and in the
    /// configuration in which it commits the update.
    pub(in crate::protocol) fn flagged(known: &Configuration, ops: &[Op]) -> Vec<Op> {
        let flag = if known.all_active() {
            RestoreFlag::AllActive
        } else {
            RestoreFlag::NotAllActive
        };
        let mut ops = ops.to_vec();
        for op in &mut ops {
            if let Op::ReplaceAll { restore, .. }
            | Op::ReplaceKey { restore, .. }
            | Op::LoadAll { restore, .. }
            | Op::LoadKey { restore, .. } = op
            {
                *restore = flag;
            }
        }
        ops
    }

    /// An operator wants quorum on or off: the successor that says so is decided by votes, while there is a quorum.
    pub(in crate::protocol) fn begin_quorum_wish(
        &mut self,
        client: ClientToken,
        deadline: Time,
        wanted: Quorum,
    ) {
        if !self.is_open() || !self.lease_holds() {
            let refusal = self.refuse_quorum_wish();
            self.reply(client, Err(refusal));
            return;
        }
        self.look = true;
        self.quorum_wish = Some(wanted);
        self.requests.operator.push(Operator {
            client,
            deadline,
            wish: Wish::Quorum(wanted),
        });
    }

    pub(in crate::protocol) fn refuse_quorum_wish(&self) -> Refusal {
        let why = if self.lacks_majority() {
            self.no_quorum_text()
        } else {
            self.obstacle_text()
        };
        Refusal::NoQuorum {
            why: format!(
                "quorum is turned on and off by a majority, while there is one; to go on without: ccdctl takeover --force; {why}"
            ),
        }
    }

    /// Proposes what the operator wants as soon as the round under way has ended.
    pub(in crate::protocol) fn propose_quorum_wish(&mut self) -> bool {
        let Some(wanted) = self.quorum_wish.filter(|wanted| *wanted != self.known.quorum) else {
            return false;
        };
        if !self.is_open() || !self.lease_holds() {
            return false;
        }
        if self.round.is_some() {
            self.hold_rounds = true;
            return true;
        }
        let why = match wanted {
            Quorum::Required => "an operator has turned quorum on",
            Quorum::Waived => "an operator has turned quorum OFF: whoever is left will go on alone",
        };
        self.propose(Want {
            members: self.known.members,
            devices: self.known.devices,
            why: String::from(why),
            settles: Settles::default(),
        });
        true
    }

    /// Said whenever a configuration opens without the rule.
    pub(in crate::protocol) fn warn_of_waived_quorum(&mut self) {
        if self.known.quorum == Quorum::Waived {
            self.record(DecisionKind::Alarm, format!("{WAIVED}; ccdadm quorum on"));
        }
    }

    /// Whether a restart waits for this now.
    pub(in crate::protocol) fn waits_for_all_nodes(&self) -> bool {
        self.needs_all_nodes() && self.serving.is_none()
    }

    /// All nodes must be active once before this node takes part in a restart (Fig. 6, column 4).
    pub(in crate::protocol) fn needs_all_nodes(&self) -> bool {
        let flags = [self.known.restore, self.head.restore_flag()];
        flags.contains(&RestoreFlag::NotAllActive)
    }
}
