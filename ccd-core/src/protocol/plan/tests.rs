//! Situations of a node, and the plan for each.

use super::*;
use crate::configuration::{Mode, Quorum};

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
        shares: BOTH,
        may_share: BOTH,
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
        no_vote: None,
        ready: true,
        willing: true,
        called_gone: false,
        nodes: [(peer, other)].into(),
        usable: BOTH,
        unshared: None,
        returned: BOTH,
        lost: DeviceSet::EMPTY,
        small: DeviceSet::EMPTY,
        untried: DeviceSet::EMPTY,
        prewritten: DeviceSet::EMPTY,
        local_near: true,
        fenced_by: NodeSet::EMPTY,
        patience_over: false,
        impatient: false,
        copies: String::new(),
        decides: true,
        serves: serving,
        restore: RestoreFlag::AllActive,
        below: None,
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
        Plan::PrewriteLocal => "prewrite local".to_string(),
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
        no_vote: Some(NoVote::NewCopy),
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
    let behind = Facts {
        caught_up: false,
        ..healthy()
    };
    let restarted = Facts {
        fell_out: true,
        ..healthy()
    };
    let lost_copy = Facts {
        fell_out: true,
        ..behind.clone()
    };
    let bare = Configuration {
        devices: DeviceSet::EMPTY,
        ..pair.clone()
    };
    let no_devices = View {
        usable: DeviceSet::EMPTY,
        returned: DeviceSet::EMPTY,
        ..view(A, &bare, true, lost_copy.clone())
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
        ("the owner is there and has no vote yet: it leads", view(B, &solo_a, false, Facts { no_vote: Some(NoVote::Unsigned), ..healthy() }), "wait"),
        ("the lowest has no vote yet: the other leads", view(B, &pair, false, Facts { no_vote: Some(NoVote::Unsigned), ..healthy() }), "{0,1} {Primary, Secondary}"),
        ("and the lowest lets it",               View { no_vote: Some(NoVote::Unsigned), ..view(A, &pair, false, healthy()) }, "wait"),
        ("the peer is back: it is let in",       view(A, &solo_a, true, healthy()),     "{0,1} {Primary, Secondary}"),
        ("the peer lacks much: it is not let in yet", view(A, &solo_a, true, behind.clone()), "serve"),
        ("without a device a new copy is not let in", View { usable: DeviceSet::EMPTY, lost: BOTH, ..view(A, &solo_a, true, Facts { no_vote: Some(NoVote::NewCopy), shares: DeviceSet::EMPTY, ..healthy() }) }, "serve"),
        ("and one that knows its votes is",      View { usable: DeviceSet::EMPTY, lost: BOTH, ..view(A, &solo_a, true, Facts { shares: DeviceSet::EMPTY, ..healthy() }) }, "{0,1} {}"),
        ("the owner's own copy lacks much",      View { local_near: false, ..view(A, &solo_a, true, healthy()) }, "prewrite local"),
        ("a member has lost its copy: it goes", view(A, &pair, true, lost_copy),        "{0} {Primary, Secondary}"),
        ("and stays where it is needed",         no_devices,                                     "{0,1} {}"),
        ("a member has started again",           view(A, &pair, true, restarted),       "{0,1} {Primary, Secondary}"),
        ("a restart takes those who lack much",  view(A, &pair, false, behind),         "{0,1} {Primary, Secondary}"),
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

#[test]
fn a_member_whose_copy_is_older_than_what_was_committed_waits_unless_it_served_all_along() {
    let pair = pair();
    let below = |serves| View {
        below: Some(
            "the primary's heartbeat of node 0 shows 5/54, and the newest state found is 5/4".to_string(),
        ),
        serves,
        ..view(B, &pair, false, silent())
    };
    let Plan::Wait(why) = plan(&below(false)) else {
        panic!("it waits");
    };
    assert_eq!(
        why,
        "the primary's heartbeat of node 0 shows 5/54, and the newest state found is 5/4"
    );
    assert_eq!(told(plan(&below(true))), "{1} {Primary, Secondary}");
}

#[test]
fn what_the_external_monitor_says_is_not_taken_for_a_cut_or_a_wish_to_leave() {
    let solo_a = solo(A, BOTH);
    let pair = pair();
    let wait = |view: View<'_>| match plan(&view) {
        Plan::Wait(why) => why,
        other => panic!("it waits: {other:?}"),
    };
    let called_gone = Facts {
        called_gone: true,
        ..apart()
    };
    for known in [&solo_a, &pair] {
        let why = wait(view(B, known, false, called_gone.clone()));
        assert!(why.contains("calls it gone") && !why.contains("cut"), "{why}");
        let why = wait(view(B, known, false, apart()));
        assert!(why.contains("cut"), "{why}");
    }
    let unwilling = |called_gone| View {
        willing: false,
        called_gone,
        ..view(B, &solo_a, false, healthy())
    };
    assert_eq!(
        wait(unwilling(true)),
        "the external membership monitor says that this node is gone"
    );
    assert!(wait(unwilling(false)).starts_with("left by request"));
}

#[test]
fn a_device_is_counted_only_with_those_that_share_it() {
    let (pair, solo_a) = (pair(), solo(A, BOTH));
    let genesis = Configuration::genesis(pair.nodes, BOTH);
    let shares = |proven, unproven| Facts {
        shares: proven,
        may_share: proven,
        unshared: unproven,
        ..healthy()
    };
    let other_secondary = shares(P, DeviceSet::EMPTY.with(DeviceRole::Secondary));
    let other_both = shares(DeviceSet::EMPTY, BOTH);
    let unsure = Facts {
        undecided: BOTH,
        ..shares(DeviceSet::EMPTY, DeviceSet::EMPTY)
    };
    let unwritten = Facts {
        unwritten: BOTH,
        may_share: BOTH,
        ..shares(DeviceSet::EMPTY, DeviceSet::EMPTY)
    };
    let no_path = shares(DeviceSet::EMPTY, DeviceSet::EMPTY);
    let new = |facts: &Facts| Facts {
        epoch: Epoch(0),
        no_vote: Some(NoVote::NewCopy),
        ..facts.clone()
    };
    #[rustfmt::skip]
    let table = [
        ("a first start with another disk",        view(A, &genesis, false, new(&other_secondary)), "wait"),
        ("a first start before it is known",       view(A, &genesis, false, new(&unsure)),          "wait"),
        ("serving, and one turns out to be other", view(A, &pair, true, other_secondary.clone()),   "{0,1} {Primary}"),
        ("serving, and both do",                   view(A, &pair, true, other_both.clone()),        "{0,1} {}"),
        ("serving, and a path of the other is lost: it was shown", view(A, &pair, true, no_path.clone()), "serve"),
        ("a joiner with another secondary",        view(A, &solo_a, true, other_secondary.clone()), "{0,1} {Primary}"),
        ("a joiner that is not known yet",         view(A, &solo_a, true, unsure.clone()),          "serve"),
        ("a joiner that is about to write",        view(A, &solo_a, true, unwritten.clone()),       "serve"),
        ("a joiner that shares nothing",           view(A, &solo_a, true, other_both.clone()),      "serve"),
        ("a joiner without a path",                view(A, &solo_a, true, no_path.clone()),         "serve"),
        ("a restart with another secondary",       view(A, &pair, false, other_secondary),          "{0,1} {Primary}"),
        ("a restart before it is known",           view(A, &pair, false, unsure),                   "wait"),
        ("a restart where nobody may write yet",   view(A, &pair, false, unwritten),                "{0,1} {Primary, Secondary}"),
        ("a restart with one that shares nothing", view(A, &pair, false, other_both),               "{0} {Primary, Secondary}"),
    ];
    for (situation, view, expected) in table {
        assert_eq!(told(plan(&view)), expected, "{situation}");
    }
}

#[test]
fn a_replica_that_is_too_small_or_takes_no_writes_is_left_out_for_that_reason() {
    let (pair, solo_a) = (pair(), solo(A, BOTH));
    let in_trouble = |trouble, settled| Facts {
        ready: false,
        trouble: Some(trouble),
        settled,
        ..healthy()
    };
    fn with_small(view: View<'_>) -> View<'_> {
        let small = DeviceSet {
            primary: false,
            secondary: true,
        };
        View {
            usable: P,
            returned: P,
            lost: small,
            small,
            ..view
        }
    }
    let owner_in_trouble = View {
        ready: false,
        ..view(A, &solo_a, true, healthy())
    };
    #[rustfmt::skip]
    let table = [
        ("a member's copy fails",          view(A, &pair, true, in_trouble(CopyTrouble::Failed, true)),    "{0} {Primary, Secondary}", "node 1 cannot write its local copy"),
        ("right after this node started",  view(A, &pair, true, in_trouble(CopyTrouble::Failed, false)),   "{0} {Primary, Secondary}", "node 1 cannot write its local copy"),
        ("the master's copy fails",        view(B, &pair, true, in_trouble(CopyTrouble::Failed, true)),    "{1} {Primary, Secondary}", "node 0 cannot write its local copy"),
        ("a copy is too small",            view(A, &pair, true, in_trouble(CopyTrouble::TooSmall, true)),  "{0} {Primary, Secondary}", "node 1 has a local copy that is too small for the database"),
        ("nobody serves, and a copy failed", view(B, &pair, false, in_trouble(CopyTrouble::Failed, true)), "{1} {Primary, Secondary}", "node 0 cannot write its local copy"),
        ("a joiner's copy is too small",   view(A, &solo_a, true, in_trouble(CopyTrouble::TooSmall, true)), "serve", ""),
        ("the owner's own copy failed",    owner_in_trouble,                                               "serve", ""),
        ("a device is too small",          with_small(view(A, &pair, true, healthy())),                    "{0,1} {Primary}", "the secondary is too small for the database"),
        ("an owner's device is too small", with_small(view(A, &solo_a, true, silent())),                   "{0} {Primary}", "the secondary is too small for the database"),
    ];
    for (situation, view, expected, reason) in table {
        let found = plan(&view);
        let why = match &found {
            Plan::Propose(want) => want.why.clone(),
            _ => String::new(),
        };
        assert_eq!(
            (told(found).as_str(), why.as_str()),
            (expected, reason),
            "{situation}"
        );
    }
}

#[test]
fn a_member_that_this_nodes_init_database_does_not_name_is_planned_for_as_one_that_is_not_seen() {
    const STRANGER: NodeId = NodeId::new(9).unwrap();
    let grown = Configuration {
        members: pair().members.with(STRANGER),
        nodes: pair().nodes.with(STRANGER),
        cluster: pair().cluster.with(STRANGER),
        ..pair()
    };
    for (serving, expected) in [(true, "serve"), (false, "wait")] {
        let view = View {
            fenced_by: NodeSet::of(STRANGER),
            ..view(A, &grown, serving, healthy())
        };
        assert_eq!(told(plan(&view)), expected, "serving: {serving}");
    }
}

#[test]
fn of_those_who_fell_out_none_is_left_out_without_whom_nobody_goes_on() {
    let node = |number| NodeId::new(number).unwrap();
    let all: NodeSet = (0..4).map(node).collect();
    let bare = Configuration {
        nodes: all,
        cluster: all,
        members: all,
        devices: DeviceSet::EMPTY,
        ..pair()
    };
    let fallen = Facts {
        fell_out: true,
        shares: DeviceSet::EMPTY,
        ..healthy()
    };
    let behind = Facts {
        caught_up: false,
        ..fallen.clone()
    };
    // Of two that lack much each is needed, whatever devices there are that nobody shares yet.
    for usable in [DeviceSet::EMPTY, P, BOTH] {
        let of_four = View {
            all,
            usable,
            nodes: [
                (A, behind.clone()),
                (B, behind.clone()),
                (node(2), fallen.clone()),
            ]
            .into(),
            ..view(node(3), &bare, true, healthy())
        };
        assert_eq!(told(plan(&of_four)), "{0,1,2,3} {}", "{usable:?}");
        let of_three = View {
            nodes: [
                (A, behind.clone()),
                (B, fallen.clone()),
                (node(2), fallen.clone()),
            ]
            .into(),
            ..of_four
        };
        assert_eq!(told(plan(&of_three)), "{1,2,3} {}", "{usable:?}");
    }
}
