//! `ccdadm` as users run it, against a daemon: what it says of the cluster, and every verb without a daemon.

mod support;

use ccd_client::wire::Told;
use ccd_core::client::{Finding, Refusal, VerifiedCopy};
use ccd_core::configuration::Quorum;
use ccd_core::drill::{DrillReport, DrilledDevice, Enforcement, Latency, Rehearsal, Rehearsed};
use ccd_core::ids::{DeviceRole, Position};
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::ServingState;
use serde_json::json;
use std::time::Duration;
use support::{Fake, Trick, fake_with_rows, node, run};

#[test]
fn a_drill_says_what_would_not_be_survived_and_what_does_not_protect() {
    let fake = Fake::start();
    let latency = Latency::of(vec![Duration::from_micros(1_500)]);
    let device = DrilledDevice {
        role: DeviceRole::Primary,
        usable: true,
        reservation: None,
        proof: Enforcement::Refused {
            node: node(1),
            how: "errno 52".into(),
        },
        write: latency,
        heartbeat: latency,
    };
    let dies = Rehearsal {
        event: Rehearsed::NodeDies(node(0)),
        goes_on: true,
        missing: String::new(),
    };
    fake.with(|state| {
        state.drilled = DrillReport {
            devices: vec![device],
            rehearsals: vec![dies],
        }
    });
    fake.ccdadm(&["drill"])
        .expect(0)
        .says("goes on")
        .says("1.5 ms")
        .says("refused (tried by ");
    let json = fake.ccdadm(&["drill", "--json"]).expect(0).json();
    assert_eq!(json["survives_every_single_loss"], true);
    assert_eq!(json["devices"][0]["unregistered_write"]["outcome"], "refused");
    assert_eq!(json["devices"][0]["write"]["median_us"], 1_500);
    fake.with(|state| {
        state.drilled.rehearsals[0].goes_on = false;
        state.drilled.rehearsals[0].missing = "primary".into();
    });
    fake.ccdadm(&["drill"])
        .expect_error(1, "CCD-1310", "missing then: primary");
    fake.with(|state| state.drilled.devices[0].proof = Enforcement::Taken { node: node(1) });
    fake.ccdadm(&["drill"])
        .expect_error(107, "CCD-1311", "the primary took a write");
}

#[test]
fn verify_tells_stale_from_damaged() {
    let fake = fake_with_rows();
    let copy = |number, digest| VerifiedCopy {
        node: node(number),
        position: Position::EMPTY,
        digest,
        whole: true,
        finding: Finding::Sound,
    };
    fake.with(|state| state.copies = vec![copy(0, Some([1; 32])), copy(1, Some([1; 32]))]);
    fake.ccdadm(&["verify"]).expect(0).says("0101010101010101\n");
    assert_eq!(fake.ccdadm(&["verify", "--json"]).expect(0).json()["same"], true);
    fake.with(|state| state.copies[1].digest = Some([2; 32]));
    fake.ccdadm(&["verify"])
        .expect_error(104, "CCD-1303", "nodes 0 and 1");
    fake.with(|state| state.copies[1].digest = None);
    fake.ccdadm(&["verify"]).expect_error(1, "CCD-1301", "node 1");
    fake.with(|state| {
        state.copies[1] = VerifiedCopy {
            position: state.database.position(),
            ..copy(1, Some([1; 32]))
        }
    });
    fake.ccdadm(&["verify"])
        .expect_error(103, "CCD-1302", "nodes 0 and 1");
}

#[test]
fn verify_repairs_and_with_dry_run_only_reports() {
    let fake = Fake::start();
    let copy = |number, digest: u8, finding| VerifiedCopy {
        node: node(number),
        position: Position::EMPTY,
        digest: Some([digest; 32]),
        whole: true,
        finding,
    };
    let found = |finding, digest| {
        fake.with(|state| state.copies = vec![copy(0, 1, Finding::Sound), copy(1, digest, finding)]);
    };
    let asked = |fake: &Fake| fake.with(|state| format!("{:?}", state.asked.last()));
    found(Finding::Inconsistent, 2);
    fake.ccdadm(&["verify", "--dry-run"]).expect_error(
        104,
        "CCD-1303",
        "nodes 1: inconsistent, and left as it is",
    );
    assert!(asked(&fake).contains("Verify { repair: false }"));
    found(Finding::Repaired, 1);
    fake.ccdadm(&["verify"]).expect_error(
        1,
        "CCD-1306",
        "nodes 1: inconsistent, and replaced by a sound copy",
    );
    assert!(asked(&fake).contains("Verify { repair: true }"));
    found(Finding::Invalidated, 2);
    fake.ccdadm(&["verify"])
        .expect_error(104, "CCD-1303", "nodes 1: inconsistent, and not replaced in time");
    let ran = fake.ccdadm(&["verify", "--json"]).expect(104);
    assert_eq!(ran.json()["copies"][1]["finding"], "invalidated");
}

#[test]
fn quorum_goes_off_by_force_and_name_only() {
    let fake = Fake::start();
    let asked = |fake: &Fake| fake.with(|state| format!("{:?}", state.asked));
    fake.ccdadm(&["quorum", "off"])
        .expect_error(107, "CCD-1002", "--force --cluster prod");
    fake.ccdadm(&["quorum", "off", "--force"])
        .expect(64)
        .says("--cluster");
    fake.ccdadm(&["quorum", "off", "--force", "--cluster", "test"])
        .expect_error(107, "CCD-1003", "\"test\"");
    fake.ccdadm(&["quorum", "perhaps"]).expect(64).says("on, off");
    fake.ccdadm(&["quorum", "off", "--dry-run", "--force", "--cluster", "prod"])
        .expect(0)
        .says("cluster prod would be asked to turn quorum off");
    assert!(!asked(&fake).contains("Quorum("));
    fake.ccdadm(&["quorum", "off", "--force", "--cluster", "prod"])
        .expect(0);
    assert!(asked(&fake).contains("Quorum(Waived)"));
    fake.ccdadm(&["quorum", "on"]).expect(0);
    assert!(asked(&fake).contains("Quorum(Required)"));
    fake.trick(Trick::Say(Told::Refused(Refusal::NoQuorum {
        why: "closed: 1 of 2 copies found".into(),
    })));
    fake.ccdadm(&["quorum", "on"])
        .expect_error(106, "CCD-1202", "1 of 2 copies found");
    let report = Box::new(fake.with(|state| state.status.clone()));
    fake.trick(Trick::Say(Told::Status(report)));
    fake.trick(Trick::Say(Told::Refused(Refusal::Unknown {
        why: "it is decided, but not open here yet".into(),
    })));
    fake.ccdadm(&["quorum", "on"])
        .expect_error(111, "CCD-1209", "it is decided");
}

#[test]
fn status_warns_of_a_closed_cluster_and_of_waived_quorum() {
    let fake = Fake::start();
    fake.with(|state| {
        let status = &mut state.status.status;
        if let Some(configuration) = &mut status.configuration {
            configuration.quorum = Quorum::Waived;
        }
        status.problems = vec![Problem::new(Cause::QuorumOff, "QUORUM IS OFF")];
    });
    let ran = fake.ccdadm(&["status"]).expect(1);
    assert_eq!(
        ran.stdout.lines().next(),
        Some(
            "prod: serving, degraded: QUORUM IS OFF; queries and updates work, and would go on after any single loss"
        )
    );
    let document = fake.ccdadm(&["status", "--json"]).expect(1).json();
    assert_eq!(document["cluster"]["quorum_required"], false);
    fake.with(|state| {
        state.status.status.state = ServingState::Closed;
        state.status.status.problems = vec![Problem::new(
            Cause::Waits,
            "valid, but closed: 1 of 2 copies found",
        )];
    });
    let ran = fake.ccdadm(&["status"]).expect(1);
    assert_eq!(
        ran.stdout.lines().next(),
        Some("prod: QUERIES ONLY: valid, but closed: 1 of 2 copies found; queries work, updates do not")
    );
    let document = fake.ccdadm(&["status", "--json"]).expect(1).json();
    assert_eq!(document["cluster"]["state"], "closed");
    assert_eq!(document["cluster"]["quorum"], false);
}

#[test]
fn status_has_a_verdict_and_says_what_would_survive() {
    let fake = Fake::start();
    let ran = fake.ccdadm(&["status"]).expect(0);
    assert_eq!(ran.stdout.lines().next(), Some("prod: serving, all redundant"));
    ran.says("epoch 6, paired, master alpha")
        .says("0     alpha  serving  0/0    -       this node\n")
        .says("1     beta   serving  0/0    870 ms\n")
        .says("primary    in sync  lease    /dev/primary\n")
        .says("survives the loss of: node 0 yes, node 1 yes, primary yes, secondary yes\n");

    fake.with(|state| {
        let status = &mut state.status.status;
        status.devices[1].usable = false;
        status.devices[1].error = Some("I/O error".into());
        status.survives[3].1 = false;
        status.problems = vec![
            Problem::new(Cause::DeviceUnusable, "the secondary cannot be used: I/O error")
                .on(node(1))
                .of(DeviceRole::Secondary)
                .next("ccd-disk show /dev/secondary"),
            Problem::new(Cause::BranchKept, "a branch that lost is kept")
                .on(node(0))
                .next("ccdadm branches"),
        ];
    });
    let ran = fake.ccdadm(&["status"]).expect(1);
    assert_eq!(
        ran.stdout.lines().next(),
        Some(
            "prod: serving, degraded: on beta: the secondary cannot be used: I/O error; queries and updates work, and would stop with the \
             loss of the secondary; next, on beta: ccd-disk show /dev/secondary"
        )
    );
    ran.says("  also on alpha: a branch that lost is kept; next: ccdadm branches\n")
        .says("secondary NO");
    let document = fake.ccdadm(&["status", "--json"]).expect(1).json();
    let first = &document["problems"][0];
    assert_eq!(
        (&first["cause"], &first["node"], &first["device"]),
        (&json!("device_unusable"), &json!("beta"), &json!("secondary"))
    );

    fake.with(|state| {
        state.status.status.state = ServingState::Waiting;
        state.status.status.problems = vec![Problem::new(Cause::DeviceUnusable, "the primary is missing")];
    });
    let ran = fake.ccdadm(&["status"]).expect(2);
    assert_eq!(
        ran.stdout.lines().next(),
        Some(
            "prod: NOT SERVING, waiting: the primary is missing; beta serves, and answers queries and updates"
        )
    );
}

#[test]
fn status_as_json_has_the_fields_of_the_contract() {
    let fake = Fake::start();
    let document = fake.ccdadm(&["status", "--json"]).expect(0).json();
    for field in [
        "name",
        "id",
        "state",
        "mode",
        "epoch",
        "generation",
        "lineage",
        "master",
        "quorum",
    ] {
        assert!(!document["cluster"][field].is_null(), "cluster.{field}");
    }
    for field in ["id", "name", "state", "stamp", "lease_ms"] {
        assert!(!document["nodes"][1][field].is_null(), "nodes[].{field}");
    }
    for field in ["role", "path", "state", "fencing", "keys", "in_sync"] {
        assert!(!document["devices"][0][field].is_null(), "devices[].{field}");
    }
    assert_eq!(document["cluster"]["state"], "serving");
    assert_eq!(document["cluster"]["master"], "alpha");
    for part in ["node 0", "node 1", "primary", "secondary"] {
        assert_eq!(document["survives"][part], true, "{part}");
    }
}

#[test]
fn why_prints_decisions() {
    let fake = Fake::start();
    let ran = fake.ccdadm(&["why"]).expect(0);
    assert!(
        ran.stdout
            .starts_with("1997-04-16T09:49:47.000Z node 0 stopped_serving: the lease ran out\n")
    );
    let ran = fake.ccdadm(&["why", "-c", "1", "--json"]).expect(0);
    assert_eq!(ran.json()["kind"], "stopped_serving");
    fake.ccdadm(&["why", "-c", "0"]).expect(64);
}

#[test]
fn without_a_daemon_every_verb_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "add K:1\n").expect("it is written");
    let file = file.to_str().expect("UTF-8");
    for args in [
        &["status"] as &[&str],
        &["query", "K"],
        &["keys"],
        &["add", "K", "1"],
        &["remove", "K"],
        &["format", "K", "c"],
        &["remove-format", "K"],
        &["apply", file],
        &["checkpoint", "-"],
        &["verify"],
        &["quorum", "on"],
        &["purify"],
        &["why"],
    ] {
        run("ccdadm", Some(folder.path()), args, "").expect_error(69, "CCD-1101", "ccdd.sock");
    }
}
