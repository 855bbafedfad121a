//! What operators wait for: leave, join, takeover, maintenance, and the view of an external membership monitor.

use crate::client::{Answer, ClientToken, Refusal};
use crate::configuration::{Configuration, Decider, Quorum};
use crate::ids::{Epoch, NodeId, NodeSet};
use crate::protocol::Node;
use crate::time::Time;
use alloc::format;
use alloc::string::{String, ToString};

#[derive(Debug)]
pub(in crate::protocol) struct Operator {
    pub client: ClientToken,
    pub deadline: Time,
    pub wish: Wish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Wish {
    Out,
    In,
    /// Taken over, by the votes or, if `overrules`, whatever they say.
    Serve {
        overrules: bool,
        /// The configuration that was known when it was asked for.
        since: Epoch,
    },
    /// The configuration matches this view.
    Match(Option<NodeSet>),
    Maintenance(bool),
    Quorum(Quorum),
    /// This node is to be master, or the lowest-numbered one.
    Master(Option<NodeId>),
}

impl Node {
    pub(in crate::protocol) fn drive_operator(&mut self) {
        self.end_leave();
        if self.requests.operator.is_empty() {
            return;
        }
        let now = self.now;
        let waiting = core::mem::take(&mut self.requests.operator);
        for operator in waiting {
            let late = now >= operator.deadline;
            let open = self.is_open() && self.lease_holds();
            let reply = match operator.wish {
                Wish::Out if !self.may_serve() => Some(Ok(Answer::Done)),
                Wish::Out if late || self.is_open() && self.keeps_the_others_going() => {
                    let me = self.me();
                    let says = |configuration: &Configuration| !configuration.members.contains(me);
                    let undecided = self.undecided(says);
                    // What may still be decided is not taken back.
                    self.willing = undecided.is_none();
                    self.beat();
                    Some(Err(undecided.unwrap_or_else(|| self.why_no_leave())))
                }
                Wish::Out => None,
                Wish::Match(view) if self.matches_view(view) => Some(Ok(Answer::Done)),
                Wish::Match(view) if view != self.external => {
                    let why = "another view came from the external membership monitor".to_string();
                    Some(Err(Refusal::Unsafe { why }))
                }
                Wish::Match(view) if late => Some(Err(self.why_no_match(view))),
                Wish::Maintenance(on) if self.known.maintenance == on && open => Some(Ok(Answer::Done)),
                Wish::Maintenance(on) if late => {
                    self.maintenance_wish = None;
                    let says = |configuration: &Configuration| configuration.maintenance == on;
                    let refusal = self
                        .undecided(says)
                        .unwrap_or_else(|| self.why_no_maintenance(on));
                    Some(Err(refusal))
                }
                Wish::Match(_) | Wish::Maintenance(_) => None,
                Wish::In if open => Some(Ok(Answer::Done)),
                // A member that is open beside a silent peer has not taken over yet.
                Wish::Serve { .. }
                    if open
                        && !self.is_owner_without_votes()
                        && self.other_members().iter().all(|node| self.heard_lately(node)) =>
                {
                    Some(Ok(Answer::Done))
                }
                Wish::Master(node) if open && self.known.designated == node => Some(Ok(Answer::Done)),
                Wish::Master(node) if late => {
                    let says = |configuration: &Configuration| configuration.designated == node;
                    let refusal = self.undecided(says).unwrap_or_else(|| self.not_serving());
                    Some(Err(refusal))
                }
                Wish::In if late => Some(Err(self.not_serving())),
                Wish::Serve { .. } if !self.willing => Some(Err(self.not_serving())),
                // Each would overrule the other's, for as long as the two operators wait.
                Wish::Serve {
                    overrules: true,
                    since,
                } if self.is_overruled_by_another(since) => {
                    let (node, epoch) = (self.known.proposer, self.known.epoch);
                    let why = format!(
                        "node {node} has overruled the votes meanwhile (epoch {epoch}), by an operator's word or with quorum off: look at it there \
                         first, and ask again if it is to be overruled"
                    );
                    Some(Err(Refusal::Unsafe { why }))
                }
                Wish::Serve { overrules, .. } if late || self.gave_up_takeover() => {
                    let is_unknown = overrules && self.may_still_overrule();
                    let refusal = self.not_known_yet(false, is_unknown);
                    Some(Err(refusal.unwrap_or_else(|| self.why_no_takeover())))
                }
                Wish::Quorum(wanted) if open && self.known.quorum == wanted => {
                    self.quorum_wish = None;
                    Some(Ok(Answer::Done))
                }
                Wish::Quorum(wanted) if late => {
                    self.quorum_wish = None;
                    let says = |configuration: &Configuration| configuration.quorum == wanted;
                    let refusal = self.undecided(says).unwrap_or_else(|| self.refuse_quorum_wish());
                    Some(Err(refusal))
                }
                Wish::In | Wish::Serve { .. } | Wish::Master(_) | Wish::Quorum(_) => None,
            };
            match reply {
                Some(reply) => self.reply(operator.client, reply),
                None => self.requests.operator.push(operator),
            }
        }
        self.end_unwanted_takeover();
    }

    /// An operator waits for an override.
    pub(in crate::protocol) fn wants_override(&self) -> bool {
        let is_override = |operator: &Operator| matches!(operator.wish, Wish::Serve { overrules: true, .. });
        self.willing && self.requests.operator.iter().any(is_override)
    }

    /// What nobody waits for any more, because it was done, refused or withdrawn, is not done later.
    pub(in crate::protocol) fn end_unwanted_takeover(&mut self) {
        let is_takeover = |operator: &Operator| matches!(operator.wish, Wish::Serve { .. });
        self.impatient &= self.requests.operator.iter().any(is_takeover);
        let is_undecided =
            (self.proposal.as_ref()).is_some_and(|found| found.is_attended && !found.is_voting());
        if is_undecided && !self.wants_override() {
            self.abandon("no operator waits for this override any more");
        }
    }

    /// Another node has decided alone since that configuration, by its operator's word.
    fn is_overruled_by_another(&self, since: Epoch) -> bool {
        self.known.decider == Decider::Operator
            && self.known.proposer != self.me()
            && self.known.epoch > since
    }

    /// It was tried, and is not under way.
    fn gave_up_takeover(&self) -> bool {
        self.proposal.is_none() && !self.impatient && !self.busy()
    }

    /// An override has been put to the vote, or decided, and is not open yet.
    fn may_still_overrule(&self) -> bool {
        let is_voting = (self.proposal.as_ref()).is_some_and(|found| found.is_attended && found.is_voting());
        let is_own = self.known.decider == Decider::Operator && self.known.proposer == self.me();
        is_voting || is_own && self.install.is_some()
    }

    fn why_no_takeover(&self) -> Refusal {
        if self.is_owner_without_votes() {
            return self.refuse_update();
        }
        Refusal::NoQuorum {
            why: self.obstacle_text(),
        }
    }

    /// A node that serves beside others leaves, and they take over at once; or it stays, for they could not go on.
    pub(in crate::protocol) fn begin_to_leave(&mut self, client: ClientToken, deadline: Time) {
        self.look = true;
        if self.may_serve() && self.keeps_the_others_going() {
            let refusal = self.why_no_leave();
            self.reply(client, Err(refusal));
            return;
        }
        self.willing = false;
        if (self.proposal.as_ref()).is_some_and(|proposal| !proposal.is_voting()) {
            self.abandon("left by request");
        }
        self.requests.operator.push(Operator {
            client,
            deadline,
            wish: Wish::Out,
        });
        self.beat();
    }

    /// It serves, or may in a moment: also by what it has put to the vote itself.
    fn may_serve(&self) -> bool {
        let is_member = self.known.members.contains(self.me());
        is_member && (self.serving.is_some() || self.member.is_some() || self.install.is_some())
            || self.proposal.is_some()
    }

    /// It takes part in nothing until an operator says otherwise.
    pub(in crate::protocol) fn has_left(&self) -> bool {
        !self.willing && self.serving.is_none()
    }

    /// There is nobody to hand over to. During maintenance nobody takes over: the others wait for this node.
    fn leaves_alone(&self) -> bool {
        self.known.members.count() <= 1 || self.known.maintenance
    }

    /// Other members are left, and could not go on if this node left now.
    fn keeps_the_others_going(&self) -> bool {
        !self.leaves_alone() && !self.can_others_go_on()
    }

    /// What was decided while this node was leaving may have it as a member: it does not serve on by that.
    fn end_leave(&mut self) {
        if self.willing || self.serving.is_none() {
            return;
        }
        if self.leaves_alone() {
            // The replicas stay as they are, and prove it at the next start.
            self.stop_serving("left by request; `ccdctl join` takes part again");
        } else if !self.is_leaving() && self.is_open() && !self.can_others_go_on() {
            self.willing = true;
            self.beat();
        }
    }

    /// An operator waits until this node has left.
    fn is_leaving(&self) -> bool {
        (self.requests.operator.iter()).any(|operator| operator.wish == Wish::Out)
    }

    /// The other members that are heard outweigh this node, or one of them can use a device.
    fn can_others_go_on(&self) -> bool {
        let others = self.other_members();
        let stays = |node: &NodeId| {
            self.heard_lately(*node) && self.peer_state(*node).is_some_and(|state| state.willing)
        };
        let staying: NodeSet = others.iter().filter(stays).collect();
        let has_device = |node: NodeId| {
            self.peer_state(node)
                .is_some_and(|state| !state.devices.is_empty())
        };
        staying.is_more_than_half_of(self.cluster_nodes().count())
            || self.known.quorum == Quorum::Waived && !staying.is_empty()
            || !self.device_roles().is_empty() && staying.iter().any(has_device)
    }

    fn why_no_leave(&self) -> Refusal {
        let others = self.other_members();
        if others.is_empty() {
            let why = String::from("what this node has put to the vote is not decided yet: ask again");
            return Refusal::NotServing { why };
        }
        Refusal::NoQuorum {
            why: format!(
                "node {others} could not go on without this node, or did not in time: it takes more than half of the {} nodes, or a device that \
                 one of them can use. This node goes on; look at `ccdadm status`, or stop the daemon if the cluster may stop with it",
                self.cluster_nodes().count()
            ),
        }
    }

    pub(in crate::protocol) fn reconfigure(
        &mut self,
        client: ClientToken,
        view: Option<NodeSet>,
        deadline: Time,
    ) {
        let unknown = view.unwrap_or_default().minus(self.cluster_nodes());
        if view.is_some_and(NodeSet::is_empty) || !unknown.is_empty() {
            let why = if unknown.is_empty() {
                "a view names at least one node".to_string()
            } else {
                format!(
                    "node {unknown} of the view is none of the nodes {{{}}} of the cluster",
                    self.cluster_nodes()
                )
            };
            self.reply(client, Err(Refusal::Unsafe { why }));
            return;
        }
        self.take_view(view);
        self.back_off_until = self.now;
        self.requests.operator.push(Operator {
            client,
            deadline,
            wish: Wish::Match(view),
        });
        self.beat();
    }

    fn why_no_match(&self, view: Option<NodeSet>) -> Refusal {
        if !self.is_open() || !self.lease_holds() {
            return Refusal::NoQuorum {
                why: self.obstacle_text(),
            };
        }
        let (view, members) = (view.unwrap_or_default(), self.known.members);
        let mut why = String::new();
        for (nodes, text) in [
            (view.minus(members), "is in the view and has not joined"),
            (members.minus(view), "is not in the view and still a member"),
        ] {
            if !nodes.is_empty() {
                let separator = if why.is_empty() { "" } else { ", " };
                why = format!("{why}{separator}node {nodes} {text}");
            }
        }
        Refusal::NotServing {
            why: format!("the view is taken, but the configuration is another: {why}"),
        }
    }

    fn why_no_maintenance(&self, on: bool) -> Refusal {
        let absent = self
            .other_members()
            .iter()
            .filter(|node| !self.linked(*node))
            .collect::<NodeSet>();
        if on && self.is_open() && !absent.is_empty() {
            return Refusal::NotServing {
                why: format!("maintenance begins with all members present, and node {absent} is not heard"),
            };
        }
        Refusal::NoQuorum {
            why: self.obstacle_text(),
        }
    }

    /// To an operator whose time is over: what was asked for is decided and not open here, or was voted for by this node and
    /// may still be decided. `says`: a configuration is as was asked for.
    fn undecided(&self, says: impl Fn(&Configuration) -> bool) -> Option<Refusal> {
        let voted = self.accepted_in(self.known.epoch);
        let voted = voted.is_some_and(|(_, configuration)| says(&configuration));
        self.not_known_yet(says(&self.known), voted)
    }

    /// The same, of what is `decided`, or was `voted` for.
    pub(in crate::protocol) fn not_known_yet(&self, decided: bool, voted: bool) -> Option<Refusal> {
        let what = if decided {
            "it is decided, but not open here yet"
        } else if voted {
            "it was put to the vote, and may still be decided"
        } else {
            return None;
        };
        let why = format!("{what}: {}", self.obstacle_text());
        Some(Refusal::Unknown { why })
    }

    /// Becoming part of a configuration, or about to be.
    fn busy(&self) -> bool {
        self.install.is_some() || self.member.is_some() || self.serving.is_some() || !self.ready()
    }
}
