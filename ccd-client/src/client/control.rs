//! What a client tells a node to do (patent: CCDCTL). Sent once: who gets no answer looks at the status first.

use super::Client;
use crate::connection::Unanswered;
use crate::error::CcdError;
use crate::wire::{Ask, Told};
use ccd_core::client::{Refusal, Request, RequestBody};
use ccd_core::configuration::Quorum;
use ccd_core::ids::{NodeId, NodeSet};
use ccd_core::init::NodeEdit;

impl Client {
    /// This node leaves the cluster, and stays out until [`Client::join`].
    pub fn leave(&self) -> Result<(), CcdError> {
        self.control(RequestBody::Leave)
    }

    /// This node takes part again.
    pub fn join(&self) -> Result<(), CcdError> {
        self.control(RequestBody::Join)
    }

    /// This node tries to take over now; with `force` against the vote rule.
    pub fn takeover(&self, force: bool) -> Result<(), CcdError> {
        self.control(RequestBody::Takeover { force })
    }

    /// Hands over the view of an external membership monitor (patent: CCDCTL); `None` gives control back to the built-in
    /// one. Returns when the configuration that is open on this node matches it.
    pub fn reconfigure(&self, members: Option<NodeSet>) -> Result<(), CcdError> {
        self.control(RequestBody::Reconfigure { members })
    }

    /// Planned work begins or ends: while it goes on, no node is taken over from.
    pub fn maintenance(&self, on: bool) -> Result<(), CcdError> {
        self.control(RequestBody::Maintenance { on })
    }

    /// Adds a node to the running cluster, or removes one.
    pub fn change_nodes(&self, edit: NodeEdit) -> Result<(), CcdError> {
        self.control(RequestBody::ChangeNodes(edit))
    }

    /// Whether a majority is needed to go on, from now on.
    pub fn set_quorum(&self, rule: Quorum) -> Result<(), CcdError> {
        self.control(RequestBody::Quorum(rule))
    }

    /// This node is to be master for as long as it is a member; `None`: the lowest-numbered member.
    pub fn designate(&self, node: Option<NodeId>) -> Result<(), CcdError> {
        self.control(RequestBody::Designate { node })
    }

    fn control(&self, body: RequestBody) -> Result<(), CcdError> {
        let ask = Ask::Request(Request {
            timeout: self.timeout,
            body,
        });
        match self.ask_once(&ask, self.last_moment()) {
            Ok(Told::Done) => Ok(()),
            Ok(other) => Err(self.other(other)),
            // It may have been done.
            Err(Unanswered::Sent(error @ (CcdError::ConnectionLost { .. } | CcdError::NoAnswer { .. }))) => {
                let why = error.to_string();
                Err(CcdError::Refused(Refusal::Unknown { why }))
            }
            Err(unanswered) => Err(unanswered.into_error()),
        }
    }
}
