//! Nodes that do not talk to this one, because their init databases differ, and have gone on meanwhile.
//!
//! A group that grew, or whose init database was edited, and some of its servers are put back to an earlier state: they are a majority of the
//! nodes that there were, and would go on by themselves beside those that went on. What a connection would show is refused with it; so the
//! refusal tells how far the cluster has come.
//!
//! ```text
//! a refusal tells of a state            → no start from less
//! it tells of a later epoch             → this node serves nothing, proposes nothing, and votes for nobody
//! ```
//!
//! An operator can overrule that, and so can devices which show that no later epoch was decided (`elsewhere.rs`). Forgotten by a restart: whoever
//! is still ahead refuses the next connection as well.
//!
//! Owns `Node::ahead`.

use crate::ids::{Epoch, NodeId, Stamp};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::voting::lower_bound::Witness;
use alloc::format;
use alloc::string::String;

/// The latest epoch that was told of in a refusal, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Ahead {
    epoch: Epoch,
    by: NodeId,
}

impl Node {
    pub(in crate::protocol) fn on_refused_by(&mut self, by: NodeId, epoch: Epoch, newest: Stamp) {
        if epoch.max(newest.epoch) > Epoch::MAX
            || !self.settings.nodes.contains(by)
            || self.note_epoch(by, epoch)
        {
            return;
        }
        self.bound.note(newest, Witness::Peer(by));
        let is_news = self.ahead.is_none_or(|ahead| ahead.epoch < epoch);
        if epoch <= self.known.epoch || !is_news {
            return;
        }
        self.ahead = Some(Ahead { epoch, by });
        self.look = true;
        let Some(text) = self.ahead_text() else {
            return;
        };
        if self.serving.is_some() {
            self.record(DecisionKind::Alarm, text.clone());
            self.stop_serving(&text);
        }
        if (self.proposal.as_ref()).is_some_and(|proposal| !proposal.forced) {
            self.abandon(&text);
        }
    }

    /// A node that was ahead talks to this one after all, and tells of an earlier epoch: another server had refused, or the node was put back
    /// itself.
    pub(in crate::protocol) fn forget_ahead(&mut self, node: NodeId, epoch: Epoch) {
        self.ahead
            .take_if(|ahead| ahead.by == node && epoch < ahead.epoch);
    }

    /// Why this node takes part in nothing.
    pub(in crate::protocol) fn ahead_text(&self) -> Option<String> {
        let Ahead { epoch, by } = self.ahead.filter(|ahead| ahead.epoch > self.known.epoch)?;
        Some(format!(
            "node {by} refuses this node's connections, and knows epoch {epoch}, which is later than epoch {} here: the others have gone on with \
             another init database. This node takes part in nothing before it goes by the same one",
            self.known.epoch
        ))
    }
}
