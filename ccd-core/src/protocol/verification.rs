//! Verify: each member's own word on its copy, computed anew, for the client to compare.

use super::Node;
use super::message::Message;
use crate::client::{Answer, ClientToken, VerifiedCopy};
use crate::ids::{NodeId, NodeSet, Position};
use crate::time::Time;
use alloc::vec::Vec;

#[derive(Debug)]
pub(super) struct Verification {
    pub client: ClientToken,
    pub deadline: Time,
    pub serial: u64,
    pub waiting: NodeSet,
    pub copies: Vec<VerifiedCopy>,
}

impl Node {
    pub(super) fn begin_verification(&mut self, client: ClientToken, deadline: Time) {
        self.requests.serial += 1;
        let (serial, position) = (self.requests.serial, self.committed.position());
        let waiting = self.other_members();
        let copies = alloc::vec![self.own_copy()];
        for to in waiting.iter() {
            self.send(to, Message::VerifyReq { serial, position });
        }
        self.requests.verifications.push(Verification {
            client,
            deadline,
            serial,
            waiting,
            copies,
        });
    }

    fn own_copy(&self) -> VerifiedCopy {
        VerifiedCopy {
            node: self.me(),
            position: self.committed.position(),
            digest: Some(self.committed.content_digest()),
        }
    }

    pub(super) fn on_verify_req(&mut self, from: NodeId, serial: u64, position: Position) {
        // An update that is about to be committed here was committed there already.
        if let Some(master) = self.known.master() {
            self.on_master_position(master, position);
        }
        let copy = self.own_copy();
        self.send(from, Message::VerifyAck { serial, copy });
    }

    pub(super) fn on_verify_ack(&mut self, from: NodeId, serial: u64, copy: VerifiedCopy) {
        for verification in &mut self.requests.verifications {
            if verification.serial == serial && verification.waiting.contains(from) && copy.node == from {
                verification.waiting.remove(from);
                verification.copies.push(copy.clone());
            }
        }
    }

    pub(super) fn drive_verifications(&mut self) {
        let now = self.now;
        let running = core::mem::take(&mut self.requests.verifications);
        for mut verification in running {
            if verification.waiting.is_empty() || now >= verification.deadline {
                for node in verification.waiting.iter() {
                    verification.copies.push(VerifiedCopy {
                        node,
                        position: Position::EMPTY,
                        digest: None,
                    });
                }
                verification.copies.sort_by_key(|copy| copy.node);
                self.reply(verification.client, Ok(Answer::Verified(verification.copies)));
            } else {
                self.requests.verifications.push(verification);
            }
        }
    }
}
