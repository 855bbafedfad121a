//! What the daemon finds wrong with this node that the state machine cannot see: addresses, networks, refused connections, files.

use super::Daemon;
use ccd_client::wire::{LinkReport, LinkState};
use ccd_core::ids::NodeId;
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::Event;

impl Daemon {
    /// Tells the state machine, which tells the other nodes, if something has changed.
    pub(super) fn tell_problems(&mut self) {
        let found = self.found();
        if found != self.told_problems {
            self.told_problems.clone_from(&found);
            self.handle(Event::Problems(found));
        }
    }

    fn found(&self) -> Vec<Problem> {
        let (digest, keys) = {
            let digest = self.identity.roster.borrow().digest;
            (digest.0, self.identity.keys.borrow().ids().to_string())
        };
        let mut found = self.surroundings.problems(&self.places, digest, &keys);
        let missing = self.listening.missing_text();
        found.extend(missing.map(|text| Problem::new(Cause::Address, text).next("ip address")));
        let narrow = self.peers.narrow();
        let narrow = narrow.iter().filter_map(|found| self.packets_text(found));
        found.extend(narrow.map(|text| Problem::new(Cause::Packets, text)));
        found.extend(self.link_problems());
        found
    }

    fn link_problems(&self) -> Vec<Problem> {
        let links = self.peers.report();
        let others = self.init.nodes().iter().filter(|node| node.id != self.me);
        let of = |id: NodeId| links.iter().filter(move |link| link.node == id);
        let mut found = Vec::new();
        for node in others {
            let is_up = of(node.id).any(|link| link.state == LinkState::Up);
            if let Some(refused) = of(node.id).find(|link| link.refused && !is_up) {
                let text = format!(
                    "{} is there, and there is no connection: {}",
                    node.name, refused.trouble
                );
                found.push(Problem::new(Cause::Refused, text));
                continue;
            }
            let is_down = |link: &&LinkReport| link.state != LinkState::Up && !link.trouble.is_empty();
            for link in of(node.id).filter(|_| is_up).filter(is_down) {
                // Why, differs from try to try: that is in the table of links.
                let text = format!(
                    "one of the networks to {} does not work: nothing comes from {}; another one works",
                    node.name, link.address
                );
                found.push(Problem::new(Cause::LinkDown, text).next(format!("ping {}", link.address.ip())));
            }
        }
        found
    }
}
