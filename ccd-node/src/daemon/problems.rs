//! What the daemon finds wrong with this node that the state machine cannot see: addresses, networks, refused connections, files.

use super::Daemon;
use ccd_client::wire::{LinkReport, LinkState};
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::Event;

/// Clocks of two nodes may differ by so much.
const CLOCK_DIFFERENCE_MAX_S: u64 = 60;

impl Daemon {
    /// Tells the state machine, which tells the other nodes, if something has changed.
    pub(super) fn tell_problems(&mut self) {
        let found = self.found();
        if found != self.told_problems {
            self.told_problems.clone_from(&found);
            self.handle(Event::Problems(found));
        }
    }

    fn found(&mut self) -> Vec<Problem> {
        let (digest, keys) = {
            let digest = self.identity.roster.borrow().digest;
            (digest.0, self.identity.keys.borrow().ids().to_string())
        };
        let looked = self.surroundings.looked();
        let mut found = self.surroundings.problems(&self.places, digest, &keys);
        found.extend(self.losses.problems(looked, &found));
        let missing = self.listening.missing_text();
        found.extend(missing.map(|text| Problem::new(Cause::Address, text).next("ip address")));
        let narrow = self.peers.narrow();
        let narrow = narrow.iter().filter_map(|found| self.packets_text(found));
        found.extend(narrow.map(|text| Problem::new(Cause::Packets, text)));
        let links = self.peers.report();
        let here = (self.init.node(self.me)).map_or_else(|| self.me.to_string(), |node| node.name.clone());
        let others = self.init.nodes().iter().filter(|node| node.id != self.me);
        found.extend(others.flat_map(|node| {
            let of_node: Vec<_> = links
                .iter()
                .filter(|link| link.node == node.id)
                .cloned()
                .collect();
            let mut problems = link_problems(&node.name, &of_node);
            // Of two nodes one says it.
            if self.me < node.id && is_up(&of_node) {
                let ahead_s = self.peers.clock_ahead_s(node.id);
                problems.extend(ahead_s.and_then(|ahead_s| clock_problem(&here, &node.name, ahead_s)));
            }
            problems
        }));
        found
    }
}

fn is_up(links: &[LinkReport]) -> bool {
    links.iter().any(|link| link.state == LinkState::Up)
}

/// Nothing is decided by dates, but people compare the records of both nodes.
fn clock_problem(here: &str, there: &str, ahead_s: i64) -> Option<Problem> {
    let differs_s = ahead_s.unsigned_abs();
    let side = if ahead_s > 0 { "ahead of" } else { "behind" };
    (differs_s > CLOCK_DIFFERENCE_MAX_S).then(|| {
        let text = format!(
            "the clock of {there} is {differs_s} s {side} that of {here}: dates in the history and in the records of the two do not agree; \
             nothing else goes by them"
        );
        Problem::new(Cause::Clock, text).next("timedatectl, on both nodes")
    })
}

/// What is wrong with the connections to one node. A network counts as broken as soon as nothing comes over it, also while its
/// connection still stands; before the first attempt has ended, nothing is known of it.
fn link_problems(name: &str, links: &[LinkReport]) -> Vec<Problem> {
    if !is_up(links) {
        let refused = links.iter().find(|link| link.refused);
        let text =
            refused.map(|link| format!("{name} is there, and there is no connection: {}", link.trouble));
        return text
            .map(|text| Problem::new(Cause::Refused, text))
            .into_iter()
            .collect();
    }
    let is_broken = |link: &&LinkReport| match link.state {
        LinkState::Up => false,
        LinkState::Silent => true,
        LinkState::Down => !link.trouble.is_empty(),
    };
    let broken = links.iter().filter(is_broken);
    // Why, differs from try to try: that is in the table of links.
    let problem = |link: &LinkReport| {
        let text = format!(
            "one of the networks to {name} does not work: nothing comes from {}; another one works",
            link.address
        );
        Problem::new(Cause::LinkDown, text).next(format!("ping {}", link.address.ip()))
    };
    broken.map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::NodeId;

    fn link(state: LinkState, trouble: &str) -> LinkReport {
        LinkReport {
            node: NodeId::new(1).unwrap(),
            address: "10.0.0.2:5640".parse().unwrap(),
            state,
            preferred: false,
            connection: None,
            trouble: trouble.to_owned(),
            refused: false,
        }
    }

    fn causes(links: &[LinkReport]) -> Vec<Cause> {
        let found = link_problems("beta", links);
        found.iter().map(|problem| problem.cause).collect()
    }

    #[test]
    fn clocks_that_differ_by_more_than_a_minute_are_told() {
        for within in [0, 60, -60] {
            assert_eq!(clock_problem("alpha", "beta", within), None);
        }
        let text = |ahead_s| clock_problem("alpha", "beta", ahead_s).unwrap().text;
        assert!(text(61).starts_with("the clock of beta is 61 s ahead of that of alpha: "));
        assert!(text(-90).starts_with("the clock of beta is 90 s behind that of alpha: "));
        assert!(text(i64::MIN).contains(" s behind "));
    }

    #[test]
    fn a_network_is_broken_as_soon_as_nothing_comes_over_it() {
        let up = link(LinkState::Up, "");
        let second = |state, trouble| causes(&[up.clone(), link(state, trouble)]);
        assert_eq!(second(LinkState::Up, ""), []);
        assert_eq!(
            second(LinkState::Silent, ""),
            [Cause::LinkDown],
            "its connection stands"
        );
        assert_eq!(second(LinkState::Silent, "no answer"), [Cause::LinkDown]);
        assert_eq!(second(LinkState::Down, "no answer"), [Cause::LinkDown]);
        assert_eq!(
            second(LinkState::Down, ""),
            [],
            "it is being tried for the first time"
        );
    }

    #[test]
    fn a_refusal_is_told_while_there_is_no_connection() {
        let refusing = LinkReport {
            refused: true,
            ..link(LinkState::Down, "the authkey differs")
        };
        assert_eq!(
            causes(&[refusing.clone(), link(LinkState::Silent, "")]),
            [Cause::Refused]
        );
        assert_eq!(causes(&[refusing, link(LinkState::Up, "")]), [Cause::LinkDown]);
        assert_eq!(
            causes(&[link(LinkState::Down, "no answer")]),
            [],
            "the node is silent: the state machine says so"
        );
    }
}
