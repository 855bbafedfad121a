//! What operators wait for: leave, join, takeover.

use super::Node;
use crate::client::{Answer, ClientToken, Refusal};
use crate::configuration::Quorum;
use crate::ids::NodeId;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct Operator {
    pub client: ClientToken,
    pub deadline: Time,
    pub wish: Wish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Out,
    In,
    Serve,
    Quorum(Quorum),
    /// This node is to be master, or the lowest-numbered one.
    Master(Option<NodeId>),
}

impl Node {
    pub(super) fn drive_operator(&mut self) {
        if self.requests.operator.is_empty() {
            return;
        }
        let now = self.now;
        let waiting = core::mem::take(&mut self.requests.operator);
        for operator in waiting {
            let late = now >= operator.deadline;
            let open = self.is_open() && self.lease_holds();
            let reply = match operator.wish {
                Wish::Out => {
                    let member = self.known.members.contains(self.me()) && self.serving.is_some();
                    let alone = self.known.members.count() <= 1;
                    if member && (alone || late) {
                        // Nobody to hand over to: the replicas stay as they are, and prove it at the next start.
                        self.stop_serving("left by request; `ccdctl join` takes part again");
                    }
                    (!member || alone || late).then_some(Ok(Answer::Done))
                }
                Wish::In if open => Some(Ok(Answer::Done)),
                // A member that is open beside a silent peer has not taken over yet.
                Wish::Serve if open && self.other_members().iter().all(|node| self.heard_lately(node)) => {
                    Some(Ok(Answer::Done))
                }
                Wish::Master(node) if open && self.known.designated == node => Some(Ok(Answer::Done)),
                Wish::In | Wish::Master(_) if late => Some(Err(self.not_serving())),
                Wish::Serve if late || self.proposal.is_none() && !self.impatient && !self.busy() => {
                    Some(Err(Refusal::NoQuorum {
                        why: self.obstacle_text(),
                    }))
                }
                Wish::Quorum(wanted) if open && self.known.quorum == wanted => {
                    self.quorum_wish = None;
                    Some(Ok(Answer::Done))
                }
                Wish::Quorum(_) if late => {
                    self.quorum_wish = None;
                    Some(Err(self.refuse_quorum_wish()))
                }
                Wish::In | Wish::Serve | Wish::Master(_) | Wish::Quorum(_) => None,
            };
            match reply {
                Some(reply) => self.reply(operator.client, reply),
                None => self.requests.operator.push(operator),
            }
        }
    }

    /// Becoming part of a configuration, or about to be.
    fn busy(&self) -> bool {
        self.install.is_some() || self.member.is_some() || self.serving.is_some() || !self.ready()
    }
}
