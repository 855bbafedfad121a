//! The text of a new init database, from node to node, and onto the disk of each before it is voted for.
//!
//! Owns `changes.staging` and `settings.staged`.

use super::Digest;
use super::change::Change;
use crate::client::Refusal;
use crate::ids::{NodeId, NodeSet};
use crate::init::InitFile;
use crate::protocol::Node;
use crate::protocol::interface::Action;
use crate::protocol::message::Message;
use alloc::format;
use alloc::string::{String, ToString};

impl Node {
    pub(super) fn repeat_staging(&mut self) {
        let Some(change) = &self.changes.change else {
            return;
        };
        let (digest, text) = (change.init.digest, change.init.text.clone());
        // A node that is to be removed votes as well, and so is told.
        let gone = self.settings.nodes.minus(change.init.nodes);
        let to = if change.proposed {
            change.waiting
        } else {
            change.waiting.union(gone)
        };
        for node in to.without(self.me()).iter() {
            let text = text.clone();
            self.send(node, Message::StageInit { digest, text });
        }
    }

    pub(in crate::protocol) fn ask_for_init(&mut self, from: NodeId, digest: Digest) {
        self.send(from, Message::InitAsk { digest });
    }

    pub(in crate::protocol) fn on_init_ask(&mut self, from: NodeId, digest: Digest) {
        let here = [Some(&self.settings.init), self.settings.staged.as_ref()];
        let found = here.into_iter().flatten().find(|init| init.digest == digest);
        if let Some(text) = found.map(|init| init.text.clone()) {
            self.send(from, Message::StageInit { digest, text });
        }
    }

    pub(in crate::protocol) fn on_stage_init(&mut self, from: NodeId, digest: Digest, text: &str) {
        let refused = match InitFile::parse(text) {
            Err(error) => Some(error.to_string()),
            Ok(init) if init.digest != digest => {
                Some("its digest differs from what was announced".to_string())
            }
            Ok(init) if init.cluster != self.settings.cluster => Some("it is of another cluster".to_string()),
            Ok(init) => {
                let here = [Some(&self.settings.init), self.settings.staged.as_ref()];
                if here.into_iter().flatten().any(|init| init.digest == digest) {
                    None
                } else if let Some(other) = self.voted_for_other_nodes(digest) {
                    Some(other)
                } else if let Some(other) = self.sees_to_another_change(digest) {
                    Some(other)
                } else if self.is_about_to_adopt() {
                    // It is wanted no more, or is sent again once this node goes by what it has.
                    return;
                } else {
                    self.stage(init, from);
                    return;
                }
            }
        };
        self.send(from, Message::InitStaged { digest, refused });
    }

    /// What was decided is staged, and is adopted at the next heartbeat: another text in its place, which a node sends that knows less or
    /// more, would leave this node with none that anybody else goes by.
    fn is_about_to_adopt(&self) -> bool {
        let decided = self.known.init_digest;
        let staged = self.settings.staged.as_ref();
        staged.is_some_and(|staged| staged.digest == decided)
            && self.settings.init.digest != decided
            && self.known.cluster.contains(self.me())
            && !self.number_is_anothers()
    }

    /// A node has room for one text, and goes by its own once that is decided: nobody else may hold it.
    fn sees_to_another_change(&self, digest: Digest) -> Option<String> {
        let change = self.changes.change.as_ref()?;
        (change.init.digest != digest).then(|| {
            format!(
                "it sees to another change of the nodes (to {{{}}})",
                change.init.nodes
            )
        })
    }

    /// Its text must stay until it is decided, or something else is.
    fn voted_for_other_nodes(&self, digest: Digest) -> Option<String> {
        let (ballot, configuration) = self.accepted_in(self.known.epoch)?;
        (!self.keeps_nodes(&configuration) && configuration.init_digest != digest).then(|| {
            format!(
                "it has voted for another set of nodes ({{{}}}, by node {}) that may still be decided",
                configuration.cluster, ballot.node
            )
        })
    }

    pub(super) fn stage(&mut self, init: InitFile, asker: NodeId) {
        match &mut self.changes.staging {
            Some((under_way, askers)) if under_way.digest == init.digest => askers.insert(asker),
            Some(_) => {
                let refused = Some("it is storing another init database".to_string());
                let digest = init.digest;
                if asker == self.me() {
                    self.on_init_staged(asker, digest, refused);
                } else {
                    self.send(asker, Message::InitStaged { digest, refused });
                }
            }
            None => {
                self.changes.staging = Some((init.clone(), NodeSet::of(asker)));
                self.actions.push(Action::StageInit { init });
            }
        }
    }

    /// The driver has stored the text, or could not.
    pub(in crate::protocol) fn on_staged(&mut self, digest: Digest, result: Result<(), String>) {
        let staging = (self.changes.staging).take_if(|(init, _)| init.digest == digest);
        let Some((init, askers)) = staging else {
            return;
        };
        let refused = result.err();
        if refused.is_none() {
            self.settings.staged = Some(init);
        }
        for asker in askers.iter() {
            if asker == self.me() {
                self.on_init_staged(asker, digest, refused.clone());
            } else {
                let refused = refused.clone();
                self.send(asker, Message::InitStaged { digest, refused });
            }
        }
    }

    pub(in crate::protocol) fn on_init_staged(
        &mut self,
        from: NodeId,
        digest: Digest,
        refused: Option<String>,
    ) {
        self.look = true;
        let of_this = |change: &&mut Change| change.init.digest == digest && !change.proposed;
        let Some(change) = self.changes.change.as_mut().filter(of_this) else {
            return;
        };
        let staying = change.init.nodes.contains(from);
        match refused {
            None => change.waiting.remove(from),
            // One that goes need not hold it.
            Some(_) if !staying => {}
            Some(why) => {
                let why = format!("node {from} does not take the new init database: {why}");
                if let Some(change) = self.changes.change.take() {
                    self.end_change(change.origin, Err(Refusal::Unsafe { why }));
                }
            }
        }
    }
}
