//! What this node should do next, decided from what it sees: serve, wait, follow, or propose. Pure; a table tests it.
//!
//! Nothing here is needed for safety, which is the votes' and the leases' business: a wrong plan costs time.

use crate::configuration::{Configuration, Mode, Quorum, RestoreFlag};
use crate::ids::{DeviceSet, Epoch, NodeId, NodeSet};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};

/// What a node sees of another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Each hears the other over the network.
    pub linked: bool,
    /// Not linked for a whole lease, but alive: its heartbeat on a device moves, or it is heard and does not hear back.
    pub alive_apart: bool,
    /// Not seen in any way for a whole lease.
    pub silent: bool,
    /// What it said last, if it is linked.
    pub epoch: Epoch,
    pub blank: bool,
    pub willing: bool,
    pub ready: bool,
    pub serving: bool,
    /// A member that does not serve what this node serves, and will not by itself.
    pub fell_out: bool,
    /// Its copy is close enough to be brought up to date by a journal tail.
    pub caught_up: bool,
    /// It has been linked for a whole lease, so it will be here for a while.
    pub settled: bool,
    /// An external membership monitor says that it is there, or gone.
    pub expected: bool,
    pub called_gone: bool,
    /// It did not keep up, or came and went too often: it is not to become a member yet.
    pub held_back: bool,
    /// The same, because it did not get ready or ack in time.
    pub slow: bool,
    /// It came and went so often that it is not taken in anew without a pause.
    pub flapping: bool,
}

/// What a node sees.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub me: NodeId,
    /// All nodes of the cluster.
    pub all: NodeSet,
    pub known: &'a Configuration,
    pub serving: bool,
    pub blank: bool,
    pub ready: bool,
    pub willing: bool,
    pub nodes: BTreeMap<NodeId, Facts>,
    /// Devices that this node can use, and those that every linked member can use as well.
    pub usable: DeviceSet,
    pub usable_by_all: DeviceSet,
    /// Devices usable for so long that they may join, and unusable for so long that they must go.
    pub returned: DeviceSet,
    pub lost: DeviceSet,
    /// Devices not yet tried, while there is still time to.
    pub untried: DeviceSet,
    /// Solo: devices outside of the configuration that hold a recent image already.
    pub prewritten: DeviceSet,
    /// Nodes that fenced this one on a device of the configuration.
    pub fenced_by: NodeSet,
    /// It has waited for others to act for so long that it acts itself.
    pub patience_over: bool,
    /// An operator asked for a takeover now.
    pub impatient: bool,
    /// Which copies are here and how many are needed, where nodes alone vote and too few are here.
    pub copies: String,
    /// The voters that are linked or usable decide.
    pub decides: bool,
    /// It opened the known configuration and has not stopped since: whatever it does is no restart.
    pub serves: bool,
    /// The flag of the database itself.
    pub restore: RestoreFlag,
    /// Who an operator wants to be master, if that is not what was decided.
    pub designation: Option<Option<NodeId>>,
}

/// A configuration to propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub members: NodeSet,
    pub devices: DeviceSet,
    pub why: String,
    /// What an operator has decided on with it.
    pub settles: Settles,
}

/// Parts of a configuration that change only because an operator says so; `None` leaves them as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settles {
    /// Other nodes, and the digest of the init database that names them.
    pub nodes: Option<(NodeSet, [u8; 32])>,
    pub maintenance: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// All is as it should be.
    Serve,
    /// Somebody or something else must act first.
    Wait(String),
    /// A device that comes back in solo mode gets an image first.
    Prewrite(DeviceSet),
    Propose(Want),
    /// The same without the votes, which an operator has waived.
    Override(Want),
}

pub(super) fn plan(view: &View) -> Plan {
    if !view.ready && !view.serving {
        return Plan::Wait("the local copy is not read yet, or cannot be".to_string());
    }
    if view.serving {
        let gone = |facts: &Facts| facts.silent || facts.alive_apart;
        let missing = view
            .others(view.known.members)
            .any(|node| gone(&view.nodes[&node]));
        if !missing {
            return improve(view);
        }
    } else if let Some(peer) = view.serving_peer() {
        return Plan::Wait(if view.willing {
            format!("node {peer} serves: catching up with it, to join")
        } else {
            "left by request; `ccdctl join` takes part again".to_string()
        });
    }
    if !view.willing {
        return Plan::Wait("left by request; `ccdctl join` takes part again".to_string());
    }
    if view.known.is_genesis() {
        first(view)
    } else {
        go_on(view)
    }
}

impl View<'_> {
    fn others(&self, set: NodeSet) -> impl Iterator<Item = NodeId> {
        let me = self.me;
        set.iter().filter(move |node| *node != me)
    }

    fn serving_peer(&self) -> Option<NodeId> {
        (self.nodes.iter())
            .find(|(_, facts)| facts.linked && facts.serving && facts.epoch >= self.known.epoch)
            .map(|(node, _)| *node)
    }

    /// This node and those that it can form a configuration with.
    fn candidates(&self) -> NodeSet {
        (self.nodes.iter())
            .filter(|(_, facts)| facts.linked && facts.ready && facts.willing)
            .map(|(node, _)| *node)
            .collect::<NodeSet>()
            .with(self.me)
    }

    /// The candidates that keep up, if they are enough to go on; else all of them.
    fn quick_candidates(&self) -> NodeSet {
        let candidates = self.candidates();
        let quick = (candidates.iter())
            .filter(|node| *node == self.me || !self.nodes[node].slow)
            .collect();
        if self.enough(quick) { quick } else { candidates }
    }

    /// Whether these go on without anybody else.
    fn enough(&self, nodes: NodeSet) -> bool {
        nodes.count() * 2 > self.all.count() || !self.usable.is_empty()
    }

    fn is_blank(&self, node: NodeId) -> bool {
        if node == self.me {
            self.blank
        } else {
            self.nodes[&node].blank
        }
    }

    /// Who reconfigures: the owner, who has the newest state at hand; else the designated master, or the lowest-numbered member; else the
    /// lowest-numbered candidate. One with a new local copy cannot vote, and only acts if there is nobody else.
    fn leader(&self, candidates: NodeSet) -> NodeId {
        let known = |node: &NodeId| !self.is_blank(*node);
        let members = self.known.members.intersection(candidates);
        (self
            .known
            .owner()
            .into_iter()
            .filter(|owner| candidates.contains(*owner)))
        // The designated master first: it is going to be master of what is formed.
        .chain(
            (self.known.designated.into_iter())
                .filter(|node| members.contains(*node))
                .filter(known),
        )
        .chain(members.iter().filter(known))
        .chain(candidates.iter().filter(known))
        .chain(candidates.iter())
        .next()
        .expect("this node is a candidate")
    }
}

/// A new cluster: every node and every device must be seen once, so that nothing older is overlooked.
fn first(view: &View) -> Plan {
    let candidates = view.candidates();
    let absent_nodes = view.known.nodes.minus(candidates);
    let fresh = |node: NodeId| view.nodes[&node].epoch == Epoch(0);
    if let Some(node) = view.others(candidates).find(|node| !fresh(*node)) {
        return Plan::Wait(format!("node {node} knows a configuration: waiting to hear it"));
    }
    let absent_devices: DeviceSet = view
        .known
        .devices
        .iter()
        .filter(|role| !view.usable_by_all.contains(*role))
        .collect();
    if !absent_nodes.is_empty() || !absent_devices.is_empty() {
        let mut missing = String::new();
        for part in absent_nodes.iter().map(|n| format!("node {n}")) {
            missing = if missing.is_empty() {
                part
            } else {
                format!("{missing}, {part}")
            };
        }
        for part in absent_devices.iter().map(|r| r.to_string()) {
            missing = if missing.is_empty() {
                part
            } else {
                format!("{missing}, {part}")
            };
        }
        return Plan::Wait(format!(
            "the first start of a cluster needs every node and every device once, and these are missing: {missing}"
        ));
    }
    if view.leader(candidates) != view.me && !view.patience_over {
        return Plan::Wait("the lowest-numbered node forms the cluster".to_string());
    }
    let why = "the first start of the cluster, with every node and device present".to_string();
    form(view, candidates, view.usable, why)
}

/// Not serving, or serving a configuration of which a member has gone silent.
fn go_on(view: &View) -> Plan {
    let is_flagged = [view.known.restore, view.restore].contains(&RestoreFlag::NotAllActive);
    let candidates = if is_flagged {
        view.candidates()
    } else {
        view.quick_candidates()
    };
    if is_flagged && !view.serves && candidates != view.all {
        let what = if view.known.restore == RestoreFlag::NotAllActive {
            "the database was last opened by an operator's override"
        } else {
            "the database was restored while not all nodes were active"
        };
        return Plan::Wait(format!(
            "{what} (restore flag 3): all nodes must be active once before an unattended restart; missing: nodes {}",
            view.all.minus(candidates)
        ));
    }
    let waived = view.known.quorum == Quorum::Waived && !view.decides;
    if view.known.owner().is_none() && view.known.devices.is_empty() && !view.copies.is_empty() && !waived {
        return Plan::Wait(format!("no quorum: {}", view.copies));
    }
    if !view.untried.is_empty() && !view.impatient {
        return Plan::Wait("the devices are being opened".to_string());
    }
    for node in view.others(view.fenced_by) {
        let facts = &view.nodes[&node];
        if !facts.linked && !facts.silent && !view.impatient {
            return Plan::Wait(format!(
                "fenced by node {node}, which was alive less than a lease ago: it goes on, or this node does once that \
                 one has been silent for a lease"
            ));
        }
    }
    // A solo owner that starts again excludes nobody.
    let mine = view.known.owner() == Some(view.me);
    if !mine && !view.impatient {
        for node in view.others(view.known.members.minus(candidates)) {
            let facts = &view.nodes[&node];
            if facts.linked && facts.willing && !facts.ready && !view.patience_over {
                return Plan::Wait(format!("node {node} is starting"));
            }
            if facts.alive_apart {
                if view.known.owner() == Some(node) {
                    return Plan::Wait(format!(
                        "node {node} owns the devices and is alive: its heartbeat there moves, but the network \
                         between us is cut"
                    ));
                }
                if node < view.me && !view.patience_over {
                    return Plan::Wait(format!(
                        "the network to node {node} is cut, but it is alive: the lowest-numbered node takes over"
                    ));
                }
            } else if !facts.linked && facts.expected {
                return Plan::Wait(format!(
                    "node {node} is there, says the external membership monitor, and is waited for"
                ));
            } else if !facts.linked && !facts.silent {
                return Plan::Wait(format!("node {node} was seen or heard less than a lease ago"));
            }
        }
    }
    let leader = view.leader(candidates);
    if leader != view.me && !view.patience_over && !view.impatient {
        return Plan::Wait(format!(
            "node {leader} reconfigures: it is master, or the lowest-numbered one here"
        ));
    }
    let gone = view.known.members.minus(candidates);
    let why = if gone.is_empty() {
        format!("restart with nodes {candidates}")
    } else if view
        .nodes
        .get(&gone.lowest().unwrap_or(view.me))
        .is_some_and(|facts| facts.linked)
    {
        format!("node {gone} leaves or cannot serve")
    } else if gone
        .iter()
        .all(|node| view.nodes.get(&node).is_some_and(|facts| facts.called_gone))
    {
        format!("node {gone} is gone, says the external membership monitor")
    } else {
        format!("node {gone} has been silent for a lease")
    };
    // In solo mode a device outside of the configuration holds nothing yet: it joins later, with an image.
    let devices = match view.known.mode {
        Mode::Solo(_) => view
            .usable
            .iter()
            .filter(|role| view.known.devices.contains(*role))
            .collect(),
        Mode::Paired => view.usable,
    };
    if waived {
        return Plan::Override(Want {
            members: candidates,
            devices,
            why: format!("{why}; quorum is off, and whoever is left goes on"),
            settles: Settles::default(),
        });
    }
    form(view, candidates, devices, why)
}

fn form(view: &View, candidates: NodeSet, devices: DeviceSet, why: String) -> Plan {
    let total = view.all.count();
    if candidates.count() == 1 && devices.is_empty() && total > 1
        || candidates.count() * 2 <= total && devices.is_empty()
    {
        return Plan::Wait(format!(
            "no quorum: {} of {total} nodes are here, and no device can be used",
            candidates.count()
        ));
    }
    Plan::Propose(Want {
        members: candidates,
        devices,
        why,
        settles: Settles::default(),
    })
}

/// Serving: does the configuration still fit what is here?
fn improve(view: &View) -> Plan {
    let known = view.known;
    // The master acts if it stays, else the lowest member that does: so a master can leave.
    let mut staying: NodeSet = (known.members.iter())
        .filter(|node| {
            if *node == view.me {
                view.willing && view.ready || known.owner() == Some(view.me)
            } else {
                let facts = &view.nodes[node];
                !facts.linked || facts.willing && (facts.ready || !facts.settled)
            }
        })
        .collect();
    let steady: NodeSet = (staying.iter())
        .filter(|node| *node == view.me || !(view.nodes[node].fell_out && view.nodes[node].flapping))
        .collect();
    if view.enough(steady) {
        staying = steady;
    }
    let serves = |node: &NodeId| view.nodes[node].linked && !view.nodes[node].fell_out;
    let acts = |node: &NodeId| staying.contains(*node) && (*node == view.me || serves(node));
    let acting = known.master().filter(acts).or_else(|| staying.iter().find(acts));
    if acting != Some(view.me) {
        return Plan::Serve;
    }
    if !view.willing {
        // A solo owner that leaves has nobody to hand over to.
        return Plan::Serve;
    }
    let joiners: NodeSet = (view.nodes.iter())
        .filter(|(node, facts)| {
            !known.members.contains(**node)
                && facts.linked
                && facts.ready
                && facts.willing
                && facts.caught_up
                && !facts.held_back
                && facts.epoch <= known.epoch
        })
        .map(|(node, _)| *node)
        .collect();
    let members = staying.union(joiners);
    let stays_solo = members.count() == 1 && view.all.count() > 1;
    let kept = known.devices.iter().filter(|role| !view.lost.contains(*role));
    let devices: DeviceSet = if stays_solo && known.mode != Mode::Paired {
        kept.chain(view.prewritten.iter()).collect()
    } else if known.mode == Mode::Paired && joiners.is_empty() && !stays_solo {
        kept.chain(
            view.returned
                .iter()
                .filter(|role| view.usable_by_all.contains(*role)),
        )
        .collect()
    } else {
        view.usable
    };
    let fallen = view
        .others(known.members)
        .find(|node| view.nodes[node].linked && view.nodes[node].fell_out);
    if members == known.members && devices == known.devices && fallen.is_none() && view.designation.is_none()
    {
        let bare: DeviceSet = (view.returned.iter())
            .filter(|role| known.owner().is_some() && !known.devices.contains(*role))
            .collect();
        return if bare.is_empty() {
            Plan::Serve
        } else {
            Plan::Prewrite(bare)
        };
    }
    let why = if members != known.members {
        let (left, joined) = (known.members.minus(members), members.minus(known.members));
        match (left.is_empty(), joined.is_empty()) {
            (true, _) => format!("node {joined} joins"),
            (_, true) => format!("node {left} leaves"),
            _ => format!("node {left} leaves, node {joined} joins"),
        }
    } else if let Some(node) = fallen {
        format!("node {node} has started again")
    } else if devices.count() > known.devices.count() {
        "a device has come back".to_string()
    } else if devices == known.devices {
        match view.designation.flatten() {
            Some(node) => format!("an operator designates node {node} as master"),
            None => "an operator makes the lowest-numbered node master".to_string(),
        }
    } else {
        "a device is lost".to_string()
    };
    if devices.is_empty() && members.count() * 2 <= view.all.count() {
        return Plan::Serve;
    }
    Plan::Propose(Want {
        members,
        devices,
        why,
        settles: Settles::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();
    const BOTH: DeviceSet = DeviceSet {
        primary: true,
        secondary: true,
    };
    const P: DeviceSet = DeviceSet {
        primary: true,
        secondary: false,
    };

    fn pair() -> Configuration {
        let nodes = NodeSet::of(A).with(B);
        Configuration {
            epoch: Epoch(5),
            members: nodes,
            ..Configuration::genesis(nodes, BOTH)
        }
    }
    fn solo(owner: NodeId, devices: DeviceSet) -> Configuration {
        Configuration {
            mode: Mode::Solo(owner),
            members: NodeSet::of(owner),
            devices,
            ..pair()
        }
    }
    fn healthy() -> Facts {
        Facts {
            linked: true,
            epoch: Epoch(5),
            willing: true,
            ready: true,
            caught_up: true,
            settled: true,
            ..Facts::default()
        }
    }
    fn silent() -> Facts {
        Facts {
            silent: true,
            ..Facts::default()
        }
    }
    fn apart() -> Facts {
        Facts {
            alive_apart: true,
            ..Facts::default()
        }
    }
    fn view(me: NodeId, known: &Configuration, serving: bool, other: Facts) -> View<'_> {
        let peer = if me == A { B } else { A };
        View {
            me,
            all: NodeSet::of(A).with(B),
            known,
            serving,
            blank: false,
            ready: true,
            willing: true,
            nodes: [(peer, other)].into(),
            usable: BOTH,
            usable_by_all: BOTH,
            returned: BOTH,
            lost: DeviceSet::EMPTY,
            untried: DeviceSet::EMPTY,
            prewritten: DeviceSet::EMPTY,
            fenced_by: NodeSet::EMPTY,
            patience_over: false,
            impatient: false,
            copies: String::new(),
            decides: true,
            serves: serving,
            restore: RestoreFlag::AllActive,
            designation: None,
        }
    }
    fn fenced(view: View<'_>) -> View<'_> {
        let fenced_by = view.all.without(view.me);
        View { fenced_by, ..view }
    }
    /// What a plan comes to, in one word or the members and devices.
    fn told(plan: Plan) -> String {
        match plan {
            Plan::Serve => "serve".to_string(),
            Plan::Wait(_) => "wait".to_string(),
            Plan::Prewrite(devices) => format!("prewrite {devices:?}"),
            Plan::Propose(want) => format!("{:?} {:?}", want.members, want.devices),
            Plan::Override(want) => format!("override {:?} {:?}", want.members, want.devices),
        }
    }

    #[test]
    fn each_situation_of_two_nodes_has_its_plan() {
        let (pair, solo_a, solo_b) = (pair(), solo(A, BOTH), solo(B, BOTH));
        let degraded = solo(A, P);
        let genesis = Configuration::genesis(pair.nodes, BOTH);
        let new = |facts: Facts| Facts {
            epoch: Epoch(0),
            blank: true,
            ..facts
        };
        let serving = Facts {
            serving: true,
            ..healthy()
        };
        let leaving = Facts {
            willing: false,
            ..healthy()
        };
        #[rustfmt::skip]
        let table = [
            ("both up: nothing to do",               view(A, &pair, true, healthy()),       "serve"),
            ("the peer dies: the survivor goes on",  view(B, &pair, true, silent()),        "{1} {Primary, Secondary}"),
            ("the peer was seen a moment ago",       view(B, &pair, false, Facts::default()), "wait"),
            ("network cut: the lowest takes over",   view(A, &pair, false, apart()),        "{0} {Primary, Secondary}"),
            ("network cut under load: the lowest takes over", view(A, &pair, true, apart()), "{0} {Primary, Secondary}"),
            ("network cut: the other waits",         view(B, &pair, false, apart()),        "wait"),
            ("the peer leaves: hand over at once",   view(A, &pair, true, leaving.clone()), "{0} {Primary, Secondary}"),
            ("the master leaves: the other acts",    view(B, &pair, true, leaving),         "{1} {Primary, Secondary}"),
            ("restart with both: the lowest acts",   view(A, &pair, false, healthy()),      "{0,1} {Primary, Secondary}"),
            ("restart with both: the other waits",   view(B, &pair, false, healthy()),      "wait"),
            ("the owner restarts alone at once",     view(A, &solo_a, false, Facts::default()), "{0} {Primary, Secondary}"),
            ("an owner that is alive is left alone", view(B, &solo_a, false, apart()),      "wait"),
            ("an owner that is silent is replaced",  view(B, &solo_a, false, silent()),     "{1} {Primary, Secondary}"),
            ("the owner is back first: it leads",    view(A, &solo_b, false, healthy()),    "wait"),
            ("the owner serves: join it",            view(B, &solo_a, false, serving),      "wait"),
            ("the peer is back: it is let in",       view(A, &solo_a, true, healthy()),     "{0,1} {Primary, Secondary}"),
            ("an owner that was fenced waits for the fencer", fenced(view(A, &solo_a, false, apart())), "wait"),
            ("and goes on when that one is silent",  fenced(view(A, &solo_a, false, silent())), "{0} {Primary, Secondary}"),
            ("a device is back: it gets an image",   view(A, &degraded, true, silent()),    "prewrite {Secondary}"),
            ("a new cluster waits for every node",   view(A, &genesis, false, new(silent())), "wait"),
            ("a new cluster is formed",              view(A, &genesis, false, new(healthy())), "{0,1} {Primary, Secondary}"),
        ];
        for (situation, view, expected) in table {
            assert_eq!(told(plan(&view)), expected, "{situation}");
        }
    }

    #[test]
    fn with_quorum_off_whoever_is_left_goes_on_and_a_restore_flag_still_needs_all_nodes() {
        let bare = Configuration {
            devices: DeviceSet::EMPTY,
            quorum: Quorum::Waived,
            ..pair()
        };
        let flagged = Configuration {
            restore: RestoreFlag::NotAllActive,
            ..bare.clone()
        };
        let lone = |known, serves| View {
            usable: DeviceSet::EMPTY,
            decides: false,
            copies: "1 of 2 copies found".to_string(),
            serves,
            ..view(A, known, false, silent())
        };
        let required = Configuration {
            quorum: Quorum::Required,
            ..bare.clone()
        };
        assert_eq!(told(plan(&lone(&required, true))), "wait");
        assert_eq!(told(plan(&lone(&bare, true))), "override {0} {}");
        assert_eq!(told(plan(&lone(&bare, false))), "override {0} {}");
        assert_eq!(told(plan(&lone(&flagged, true))), "override {0} {}");
        assert_eq!(told(plan(&lone(&flagged, false))), "wait");
    }

    #[test]
    fn after_a_restore_without_all_nodes_a_restart_names_who_is_missing() {
        let pair = pair();
        let restored = View {
            restore: RestoreFlag::NotAllActive,
            ..view(B, &pair, false, silent())
        };
        let Plan::Wait(why) = plan(&restored) else {
            panic!("it waits");
        };
        assert_eq!(
            why,
            "the database was restored while not all nodes were active (restore flag 3): all nodes must be active once \
             before an unattended restart; missing: nodes 0"
        );
        let served = View {
            serves: true,
            ..restored
        };
        assert_eq!(told(plan(&served)), "{1} {Primary, Secondary}");
    }

    #[test]
    fn after_an_override_nothing_restarts_before_all_nodes_were_active() {
        let flagged = Configuration {
            restore: RestoreFlag::NotAllActive,
            ..solo(A, BOTH)
        };
        assert_eq!(told(plan(&view(A, &flagged, false, silent()))), "wait");
        assert_eq!(
            told(plan(&view(A, &flagged, false, healthy()))),
            "{0,1} {Primary, Secondary}"
        );
    }
}
