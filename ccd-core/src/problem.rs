//! What is not as it should be in a cluster. Each node finds what is wrong with itself and tells the others; all of them together,
//! in order, are what `ccdadm status` says on any node.
//!
//! Made by `protocol/reports`; the daemon adds what only it sees (addresses, files, connections).

use crate::ids::{DeviceRole, NodeId};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Most problems that a node tells of itself.
pub const PROBLEMS_MAX: usize = 64;

/// Most bytes of a text or a command of a problem.
pub const PROBLEM_TEXT_BYTES_MAX: usize = 1024;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    pub cause: Cause,
    /// The node that has it; `None`: it is the cluster's.
    pub node: Option<NodeId>,
    pub device: Option<DeviceRole>,
    /// What is wrong, without the node.
    pub text: String,
    /// What to run or to do, on that node if there is one; empty if there is nothing to do but wait.
    pub next: String,
}

/// What is wrong. In the order of explanation: what comes first explains what comes later, so the first of all problems is the one to
/// look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Another process runs as this node.
    OtherRun,
    /// The node was removed from the cluster.
    Removed,
    /// Two configurations of one epoch were decided.
    DecidedTwice,
    /// Updates that the node acknowledged or told of are not in the database any more, and no operator has seen it.
    UpdatesLost,
    /// The init database on the disk is not the one in use, or cannot be read.
    InitFile,
    /// The authkey file cannot be read, or is not the one in use.
    AuthkeyFile,
    /// The other node refuses the connection, or is refused: another authkey, init database, version or server.
    Refused,
    /// The device is another disk on another node.
    NotSameDisk,
    /// The local copy cannot be used.
    LocalCopy,
    /// The state folder or what is kept in it is damaged, full or not private.
    StateFolder,
    /// The node ran on another machine last.
    Moved,
    /// The local copy is new and has no vote.
    LocalCopyNew,
    /// The device cannot be opened, read or written.
    DeviceUnusable,
    /// The device was made anew, cleared or put back.
    DeviceForgot,
    /// The device is corrupted, another program writes to it, or its name leads nowhere.
    DeviceDamaged,
    /// The device, or the local copy, is too small for the database.
    TooSmall,
    /// Reservations keep the node off a device.
    Fenced,
    /// No node is replaced, and updates wait for those that are away.
    Maintenance,
    /// Nodes that lose each other both go on.
    QuorumOff,
    /// The node left by request.
    Left,
    /// Nodes hear each other in no direction, or in one, and are alive.
    NetworkCut,
    /// The node is not a member.
    NodeOut,
    /// An address of the node itself cannot be listened on.
    Address,
    /// One of several ways between two nodes does not work.
    LinkDown,
    /// The network does not pass packets of full size.
    Packets,
    /// The clocks of two nodes differ.
    Clock,
    /// The device takes longer for a heartbeat than there is from one to the next.
    DeviceSlow,
    /// The device is not in the configuration.
    DeviceOut,
    /// An external membership monitor contradicts what is seen.
    ExternalView,
    /// What the node waits for.
    Waits,
    RestoreFlag,
    /// A branch that lost is kept.
    BranchKept,
    /// A single loss would stop the cluster, and nothing above says why.
    NotRedundant,
}

impl Cause {
    /// In the order of explanation.
    pub const ALL: [Self; 33] = [
        Self::OtherRun,
        Self::Removed,
        Self::DecidedTwice,
        Self::UpdatesLost,
        Self::InitFile,
        Self::AuthkeyFile,
        Self::Refused,
        Self::NotSameDisk,
        Self::LocalCopy,
        Self::StateFolder,
        Self::Moved,
        Self::LocalCopyNew,
        Self::DeviceUnusable,
        Self::DeviceForgot,
        Self::DeviceDamaged,
        Self::TooSmall,
        Self::Fenced,
        Self::Maintenance,
        Self::QuorumOff,
        Self::Left,
        Self::NetworkCut,
        Self::NodeOut,
        Self::Address,
        Self::LinkDown,
        Self::Packets,
        Self::Clock,
        Self::DeviceSlow,
        Self::DeviceOut,
        Self::ExternalView,
        Self::Waits,
        Self::RestoreFlag,
        Self::BranchKept,
        Self::NotRedundant,
    ];

    /// Whether a cluster that serves counts as degraded for it.
    pub fn degrades(self) -> bool {
        !matches!(
            self,
            Self::Packets | Self::Clock | Self::DeviceSlow | Self::ExternalView | Self::BranchKept
        )
    }
}

/// The verdict of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every single loss would be survived, and nothing is wrong.
    Redundant,
    /// Serving, and something is wrong, or queries only.
    Degraded,
    NotServing,
}

impl Health {
    pub fn name(self) -> &'static str {
        match self {
            Self::Redundant => "redundant",
            Self::Degraded => "degraded",
            Self::NotServing => "not_serving",
        }
    }
}

impl Problem {
    /// Of the cluster as a whole.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            node: None,
            device: None,
            text: text.into(),
            next: String::new(),
        }
    }

    #[must_use]
    pub fn on(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    #[must_use]
    pub fn of(mut self, device: DeviceRole) -> Self {
        self.device = Some(device);
        self
    }

    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Within the limits of what travels.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        for text in [&mut self.text, &mut self.next] {
            let end = (0..=PROBLEM_TEXT_BYTES_MAX)
                .rev()
                .find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
        }
        self
    }

    fn is_said_by(&self, other: &Self) -> bool {
        other.text.contains(self.text.as_str())
            && (self.node.is_none() || self.node == other.node)
            && (self.device.is_none() || self.device == other.device)
    }
}

/// In the order of explanation, each once.
pub fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    let mut kept: Vec<Problem> = Vec::with_capacity(problems.len());
    for problem in problems {
        if !kept.iter().any(|other| problem.is_said_by(other)) {
            kept.push(problem);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();

    #[test]
    fn what_explains_the_others_comes_first_and_nothing_twice() {
        let waits = Problem::new(Cause::Waits, "the primary is missing");
        let refused = Problem::new(Cause::Refused, "it has another authkey").on(B);
        let unusable = Problem::new(Cause::DeviceUnusable, "the primary is missing: no such file")
            .on(A)
            .of(DeviceRole::Primary);
        let same_on_b = unusable.clone().on(B);
        let all = vec![
            waits,
            same_on_b.clone(),
            refused.clone(),
            unusable.clone(),
            unusable.clone(),
        ];
        assert_eq!(sorted(all), [refused, unusable, same_on_b]);
    }

    #[test]
    fn a_text_that_travels_is_cut_between_two_characters() {
        let long: String = core::iter::repeat_n('ß', PROBLEM_TEXT_BYTES_MAX).collect();
        let problem = Problem::new(Cause::Waits, long.as_str()).next("x").shortened();
        assert!(problem.text.len() <= PROBLEM_TEXT_BYTES_MAX && long.starts_with(problem.text.as_str()));
        assert!(problem.text.len() > PROBLEM_TEXT_BYTES_MAX - 2);
        assert_eq!(problem.next, "x");
    }
}
