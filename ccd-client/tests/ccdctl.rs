//! `ccdctl` as users run it, against a daemon: who takes part, and every wrong input.

mod support;

use ccd_client::wire::Told;
use ccd_core::client::Refusal;
use ccd_core::ids::NodeSet;
use ccd_core::problem::{Cause, Problem};
use support::{Fake, Trick, node, run};

#[test]
fn ccdctl_changes_who_takes_part() {
    let fake = Fake::start();
    fake.ccdctl(&["members"])
        .expect(0)
        .says("1     beta   yes     serving\n");
    let document = fake.ccdctl(&["members", "--json"]).expect(0).json();
    assert_eq!(document["nodes"][1]["name"], "beta");
    fake.ccdctl(&["leave", "--dry-run"])
        .expect(0)
        .says("node alpha of prod");
    assert!(fake.with(|state| !format!("{:?}", state.asked).contains("Leave")));
    for (args, asked) in [
        (&["leave"] as &[&str], "Leave"),
        (&["join"], "Join"),
        (&["takeover"], "Takeover { force: false }"),
        (
            &["takeover", "--force", "--cluster", "prod"],
            "Takeover { force: true }",
        ),
        (&["master", "beta"], "Designate { node: Some(n1) }"),
        (&["master", "0"], "Designate { node: Some(n0) }"),
        (&["master", "--lowest"], "Designate { node: None }"),
    ] {
        fake.ccdctl(args).expect(0);
        let last = fake.with(|state| format!("{:?}", state.asked.last()));
        assert!(last.contains(asked), "{last}");
    }
    fake.ccdctl(&["takeover", "--force"]).expect(64).says("--cluster");
    let asked = fake.with(|state| state.asked.len());
    fake.ccdctl(&["master", "beta", "--dry-run"])
        .expect(0)
        .says("make beta the master");
    let dry = fake.with(|state| format!("{:?}", &state.asked[asked..]));
    assert!(!dry.contains("Designate"), "{dry}");
    fake.ccdctl(&["master"]).expect(64).says("--lowest");
    fake.ccdctl(&["master", "beta", "--lowest"]).expect(64);
    fake.ccdctl(&["master", "gamma"]).expect_error(
        105,
        "CCD-1029",
        "there is no node \"gamma\"; there are 0 alpha, 1 beta",
    );
    let document = fake.ccdctl(&["master", "beta", "--json"]).expect(0).json();
    assert_eq!(document["master"], "beta");
    fake.ccdctl(&["takeover", "--force", "--cluster", "test"])
        .expect_error(107, "CCD-1003", "\"test\"");
    fake.trick(Trick::Say(Told::Refused(Refusal::NoQuorum {
        why: "the primary is missing".into(),
    })));
    fake.ccdctl(&["join"])
        .expect_error(106, "CCD-1202", "the primary is missing");
}

#[test]
fn ccdctl_hands_over_the_view_of_an_external_monitor() {
    let fake = Fake::start();
    let both = "Reconfigure { members: Some({0,1}) }";
    for (args, asked) in [
        (&["--members", "alpha,beta"] as &[&str], both),
        (&["--members", "0, 1"], both),
        (&["--members", "all"], both),
        (&["--members", "beta"], "Reconfigure { members: Some({1}) }"),
        (&["--built-in"], "Reconfigure { members: None }"),
    ] {
        fake.ccdctl(&[&["reconfigure"], args].concat()).expect(0);
        let last = fake.with(|state| format!("{:?}", state.asked.last()));
        assert!(last.contains(asked), "{args:?}: {last}");
    }
    for args in [&[] as &[&str], &["--members", "alpha", "--built-in"]] {
        fake.ccdctl(&[&["reconfigure"], args].concat())
            .expect(64)
            .says("--members");
    }
    fake.ccdctl(&["reconfigure", "--members", "alpha,gamma"])
        .expect_error(
            105,
            "CCD-1029",
            "there is no node \"gamma\"; there are 0 alpha, 1 beta",
        );
    fake.ccdctl(&["reconfigure", "--members", ""])
        .expect_error(105, "CCD-1029", "no node");
    fake.ccdctl(&["reconfigure", "--members", "1", "--dry-run"])
        .expect(0)
        .says("would be asked to follow the view beta");
    fake.with(|state| state.status.status.external = Some(NodeSet::of(node(1))));
    fake.ccdadm(&["status"])
        .expect(0)
        .says("an external membership monitor says that these are there: beta\n");
    fake.ccdctl(&["members"])
        .expect(0)
        .says("external membership monitor says that these are there: beta");
    let document = fake.ccdctl(&["members", "--json"]).expect(0).json();
    assert_eq!(document["view"], serde_json::json!(["beta"]));
    let document = fake.ccdadm(&["status", "--json"]).expect(0).json();
    assert_eq!(document["cluster"]["view"], serde_json::json!(["beta"]));
    for (refusal, code, id, text) in [
        (
            Refusal::NoQuorum {
                why: "missing: node 1".into(),
            },
            106,
            "CCD-1202",
            "missing: node 1",
        ),
        (
            Refusal::NotServing {
                why: "node 1 has not joined".into(),
            },
            2,
            "CCD-1201",
            "has not joined",
        ),
        (
            Refusal::Unsafe {
                why: "another view came".into(),
            },
            107,
            "CCD-1207",
            "another view came",
        ),
    ] {
        fake.trick(Trick::Say(Told::Refused(refusal)));
        fake.ccdctl(&["reconfigure", "--built-in"])
            .expect_error(code, id, text);
    }
}

#[test]
fn ccdctl_begins_and_ends_maintenance_and_status_says_it() {
    let fake = Fake::start();
    for (word, asked) in [
        ("on", "Maintenance { on: true }"),
        ("off", "Maintenance { on: false }"),
    ] {
        fake.ccdctl(&["maintenance", word]).expect(0);
        let last = fake.with(|state| format!("{:?}", state.asked.last()));
        assert!(last.contains(asked), "{last}");
    }
    fake.ccdctl(&["maintenance"]).expect(64);
    fake.ccdctl(&["maintenance", "maybe"]).expect(64).says("on, off");
    fake.ccdctl(&["maintenance", "on", "--dry-run"])
        .expect(0)
        .says("would be asked to begin maintenance");
    fake.with(|state| {
        if let Some(configuration) = &mut state.status.status.configuration {
            configuration.maintenance = true;
        }
        state.status.status.problems = vec![Problem::new(
            Cause::Maintenance,
            "maintenance: no node is taken over from",
        )];
    });
    fake.ccdadm(&["status"])
        .expect(1)
        .says("maintenance: no node is taken over from");
    let document = fake.ccdadm(&["status", "--json"]).expect(1).json();
    assert_eq!(document["cluster"]["maintenance"], true);
    fake.ccdctl(&["members"]).expect(0).says("ccdctl maintenance off");
    fake.trick(Trick::Say(Told::Refused(Refusal::NotServing {
        why: "node 1 is not heard".into(),
    })));
    fake.ccdctl(&["maintenance", "on"])
        .expect_error(2, "CCD-1201", "node 1 is not heard");
    // Whether it is decided is not known: that is no update, and is looked for elsewhere.
    let why = "it was put to the vote, and may still be decided";
    for args in [&["maintenance", "on"] as &[&str], &["leave"]] {
        fake.trick(Trick::Say(Told::Refused(Refusal::Unknown { why: why.into() })));
        fake.ccdctl(args)
            .expect_error(111, "CCD-1209", why)
            .says("ccdctl members");
    }
}

#[test]
fn ccdctl_adds_and_removes_nodes_and_says_what_comes_next() {
    let fake = Fake::start();
    for (args, asked) in [
        (
            &["add-node", "gamma=10.0.0.3"] as &[&str],
            "ChangeNodes(Add { number: None, name: \"gamma\", addresses: [NodeAddress { ip: 10.0.0.3, port: None }] })",
        ),
        (
            &["add-node", "7:gamma=10.0.0.3:7001", "gamma=[fd00::3]:7001"],
            "ChangeNodes(Add { number: Some(n7), name: \"gamma\", addresses: [NodeAddress { ip: 10.0.0.3, port: Some(7001) }, \
             NodeAddress { ip: fd00::3, port: Some(7001) }] })",
        ),
        (
            &["remove-node", "--yes", "beta"],
            "ChangeNodes(Remove { node: \"1\" })",
        ),
        (&["remove-node", "-y", "0"], "ChangeNodes(Remove { node: \"0\" })"),
    ] {
        let ran = fake.ccdctl(args).expect(0);
        let next = if args[0] == "add-node" {
            "ccdadm setup --this gamma"
        } else {
            "disable --now ccdd"
        };
        ran.says(next);
        let last = fake.with(|state| format!("{:?}", state.asked.last()));
        assert!(last.contains(asked), "{last}");
    }
    let document = fake
        .ccdctl(&["add-node", "gamma=10.0.0.3", "--json"])
        .expect(0)
        .json();
    assert!(document["next"][0].as_str().unwrap().contains("authkey"));
    fake.ccdctl(&["remove-node", "beta"])
        .expect_error(107, "CCD-1002", "Node beta is up");
    fake.ccdctl(&["remove-node", "beta", "--dry-run"])
        .expect(0)
        .says("dry run: node alpha of prod, now serving, would be asked to remove the node beta");
    let last = fake.with(|state| format!("{:?}", state.asked.last()));
    assert!(last.contains("Status"), "nothing was asked for: {last}");
    for (args, code, id, text) in [
        (
            &["add-node", "beta=10.0.0.3"] as &[&str],
            108,
            "CCD-1028",
            "node 1 is called beta",
        ),
        (
            &["add-node", "1:gamma=10.0.0.3"],
            108,
            "CCD-1028",
            "node 1 is called beta",
        ),
        (&["add-node", "gamma"], 64, "CCD-1001", "NAME=ADDRESS"),
        (&["add-node", "gamma=host"], 64, "CCD-1001", "IP address"),
        (
            &["add-node", "gamma=10.0.0.3:0"],
            64,
            "CCD-1001",
            "its port is not between 1 and 65535",
        ),
        (
            &["add-node", "32:gamma=10.0.0.3"],
            64,
            "CCD-1001",
            "between 0 and 31",
        ),
        (
            &["add-node", "9lives=10.0.0.3"],
            64,
            "CCD-1001",
            "a name is a letter",
        ),
        (
            &["add-node", "gamma=10.0.0.3", "delta=10.0.0.4"],
            64,
            "CCD-1001",
            "one node at a time",
        ),
        (&["remove-node", "gamma"], 105, "CCD-1029", "there is no node"),
    ] {
        fake.ccdctl(args).expect_error(code, id, text);
    }
    fake.ccdctl(&["add-node"]).expect(64);
    fake.ccdctl(&["remove-node"]).expect(64);
    let missing = "every node that stays must be active, and node 1 is not";
    let report = Box::new(fake.with(|state| state.status.clone()));
    fake.trick(Trick::Say(Told::Status(report)));
    fake.trick(Trick::Say(Told::Refused(Refusal::Unsafe { why: missing.into() })));
    fake.ccdctl(&["add-node", "gamma=10.0.0.3"])
        .expect_error(107, "CCD-1207", missing);
}

#[test]
fn without_a_daemon_every_verb_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    for verb in [
        &["members"] as &[&str],
        &["leave"],
        &["join"],
        &["takeover"],
        &["reconfigure", "--built-in"],
        &["maintenance", "on"],
        &["add-node", "gamma=10.0.0.3"],
        &["remove-node", "alpha"],
        &["master", "--lowest"],
    ] {
        run("ccdctl", Some(folder.path()), verb, "").expect_error(69, "CCD-1101", "ccdd.sock");
    }
}
