//! `ccdadm` and `ccdctl` as users run them: every verb against a daemon, every wrong input.

mod support;

use ccd_client::wire::Told;
use ccd_core::client::{Finding, Refusal, VerifiedCopy};
use ccd_core::configuration::Quorum;
use ccd_core::drill::{DrillReport, DrilledDevice, Enforcement, Latency, Rehearsal, Rehearsed};
use ccd_core::ids::{DeviceRole, NodeSet, Position};
use ccd_core::protocol::ServingState;
use std::time::Duration;
use support::{Fake, Ran, Trick, node, run};

/// A daemon with the key of Fig. 6 and two rows.
fn fake() -> Fake {
    let fake = Fake::start();
    fake.ccdadm(&[
        "format",
        "MY_KEY",
        "clustname",
        "number_nodes",
        "network_type",
        "node_names",
    ])
    .expect(0);
    fake.ccdadm(&["add", "MY_KEY", "clust0", "4", "sci", "foo,bar,moo,boo"])
        .expect(0);
    fake.ccdadm(&["add", "MY_KEY", "clust1", "2", "eth", "fd00::1"])
        .expect(0);
    fake
}

const ROW0: &str = "MY_KEY:clust0:4:sci:foo,bar,moo,boo\n";
const ROW1: &str = "MY_KEY:clust1:2:eth:fd00%3A%3A1\n";

#[test]
fn query_prints_rows_that_match() {
    let fake = fake();
    let both = format!("{ROW0}{ROW1}");
    let table: [(&[&str], i32, &str); 12] = [
        (&["query", "MY_KEY"], 0, &both),
        (&["query", "MY_KEY", "clust*", "*", "sci"], 0, ROW0),
        (&["query", "MY_KEY", "network_type=eth"], 0, ROW1),
        (&["query", "MY_KEY", "clust*", "network_type=eth"], 0, ROW1),
        (&["query", "MY_KEY", "node_names=fd00::1"], 0, ROW1),
        (&["query", "MY_KEY", "--wildcard", "%", "clust%"], 0, &both),
        (&["query", "MY_KEY", "--exact", "clust*"], 1, ""),
        (&["query", "MY_KEY", "--exact", "clust0"], 0, ROW0),
        (&["query", "MY_KEY", "--stale", "clust1"], 0, ROW1),
        (&["query", "MY_KEY", "none"], 1, ""),
        (&["query", "NONE"], 105, ""),
        (&["query", "MY_KEY", "colour=red"], 64, ""),
    ];
    for (args, code, stdout) in table {
        let ran = fake.ccdadm(args).expect(code);
        assert_eq!(ran.stdout, stdout, "{args:?}");
    }
    let document = fake
        .ccdadm(&["query", "MY_KEY", "clust0", "--json"])
        .expect(0)
        .json();
    assert_eq!(document["rows"][0]["network_type"], "sci");
    assert_eq!(document["columns"][0], "clustname");
    assert_eq!(document["generation"], 3);
    fake.ccdadm(&["query", "bad:key"])
        .expect_error(64, "CCD-1034", "contains ':'");
}

#[test]
fn keys_lists_formats_and_numbers_of_rows() {
    let fake = fake();
    fake.ccdadm(&["keys"])
        .expect(0)
        .says("MY_KEY  2     clustname number_nodes network_type node_names\n");
    let document = fake.ccdadm(&["keys", "--json"]).expect(0).json();
    assert_eq!(document["keys"][0]["rows"], 2);
}

#[test]
fn changes_are_committed_or_refused() {
    let fake = fake();
    let add = ["add", "MY_KEY", "clust0", "4", "sci", "foo,bar,moo,boo"];
    fake.ccdadm(&add)
        .expect_error(108, "CCD-1212", "is there already");
    fake.ccdadm(&["add", "MY_KEY", "x"])
        .expect_error(65, "CCD-1213", "4 columns");
    fake.ccdadm(&["add", "NONE", "x"])
        .expect_error(105, "CCD-1210", "NONE");
    fake.ccdadm(&["add", "MY_KEY", "1", "2", "3", &"x".repeat(1100)])
        .expect_error(65, "CCD-1037", "1024");
    fake.ccdadm(&["format", "MY_KEY", "other"])
        .expect_error(108, "CCD-1212", "MY_KEY");
    fake.ccdadm(&["format", "NEW", "a", "a"])
        .expect_error(65, "CCD-1037", "twice");
    fake.ccdadm(&["format", "A_fmt", "a"])
        .expect_error(64, "CCD-1034", "_fmt");
    fake.ccdadm(&["remove-format", "MY_KEY"])
        .expect_error(107, "CCD-1215", "2 rows");
    fake.ccdadm(&["remove", "MY_KEY", "none"])
        .expect_error(105, "CCD-1211", "none");
    fake.ccdadm(&["add", "--if-generation", "9", "MY_KEY", "a", "1", "b", "c"])
        .expect_error(1, "CCD-1214", "generation = 9");

    let dry = fake
        .ccdadm(&["remove", "--dry-run", "--json", "MY_KEY", "clust*"])
        .expect(0)
        .json();
    assert_eq!((&dry["removed"], &dry["committed"]), (&2.into(), &false.into()));
    let done = fake
        .ccdadm(&["add", "--json", "MY_KEY", "-1", "2", "3", "4"])
        .expect(0)
        .json();
    assert_eq!(
        (&done["generation"], &done["committed"]),
        (&4.into(), &true.into())
    );
    fake.ccdadm(&["remove", "-v", "MY_KEY", "clust0"])
        .expect(0)
        .says("generation 5, 1 rows removed");
    fake.ccdadm(&["remove", "--yes", "MY_KEY"]).expect(0);
    fake.ccdadm(&["remove-format", "MY_KEY"]).expect(0);
    assert_eq!(fake.ccdadm(&["keys"]).expect(0).stdout, "");
}

#[test]
fn what_removes_everything_must_be_confirmed() {
    let fake = fake();
    for args in [
        &["remove", "MY_KEY"] as &[&str],
        &["remove", "MY_KEY", "*", "**"],
        &["remove", "MY_KEY", "clustname=*"],
    ] {
        fake.ccdadm(args).expect_error(107, "CCD-1002", "all 2 rows");
    }
    fake.ccdadm(&["remove", "--dry-run", "MY_KEY"])
        .expect(0)
        .says("2 rows removed");
    fake.ccdadm(&["remove", "MY_KEY", "--wildcard", "%", "*"])
        .expect(105);
    assert_eq!(
        fake.ccdadm(&["query", "MY_KEY"]).expect(0).stdout.lines().count(),
        2
    );
}

#[test]
fn the_reason_and_the_program_travel_with_an_update() {
    let fake = fake();
    fake.ccdadm(&[
        "add",
        "--reason",
        "ticket 4711",
        "--no-wait",
        "MY_KEY",
        "a",
        "b",
        "c",
        "d",
    ])
    .expect(0);
    let asked = fake.with(|state| format!("{:?}", state.asked.last()));
    for text in ["ticket 4711", "program: \"ccdadm\"", "no_wait: true"] {
        assert!(asked.contains(text), "{asked}");
    }
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let fake = fake();
    let apply = |text: &str, args: &[&str]| -> Ran {
        let args: Vec<&str> = ["apply", "-"].iter().chain(args).copied().collect();
        run("ccdadm", Some(fake.folder.path()), &args, text)
    };
    apply("MY_KEY:a:1:b:c\nremove MY_KEY:none\n", &[]).expect_error(105, "CCD-1211", "none");
    fake.ccdadm(&["query", "MY_KEY", "a"]).expect(1);
    apply(
        "MY_KEY:a:1:b:c\nif generation = 3\nremove MY_KEY:clust*\n",
        &["--dry-run"],
    )
    .expect(0);
    fake.ccdadm(&["query", "MY_KEY", "a"]).expect(1);
    apply("MY_KEY:a:1:b:c\nif generation = 3\nremove MY_KEY:clust*\n", &[]).expect(0);
    fake.ccdadm(&["query", "MY_KEY"])
        .expect(0)
        .says("MY_KEY:a:1:b:c\n");
    apply("if generation = 3\nMY_KEY:x:1:b:c\n", &[]).expect_error(1, "CCD-1214", "generation = 3");
    apply("frobnicate\n", &[]).expect_error(65, "CCD-1035", "line 1");
    fake.ccdadm(&["apply", "/none"])
        .expect_error(66, "CCD-1010", "/none");
}

#[test]
fn a_checkpoint_restores_the_database() {
    let fake = fake();
    let path = fake.folder.path().join("saved.ccd");
    let file = path.to_str().expect("UTF-8");
    fake.ccdadm(&["checkpoint", file]).expect(0);
    fake.ccdadm(&["checkpoint", file])
        .expect_error(108, "CCD-1014", "exists");
    fake.ccdadm(&["checkpoint", "--yes", file, "-v"])
        .expect(0)
        .says("2 rows");
    let saved = std::fs::read_to_string(&path).expect("it is there");
    assert!(saved.lines().last().expect("the record").starts_with("CCD_CHK:"));
    assert_eq!(fake.ccdadm(&["checkpoint", "-"]).expect(0).stdout, saved);

    fake.ccdadm(&["add", "MY_KEY", "clust2", "1", "a", "b"]).expect(0);
    fake.ccdadm(&["format", "OTHER", "a"]).expect(0);
    fake.ccdadm(&["restore", file])
        .expect_error(107, "CCD-1002", "whole database");
    fake.ccdadm(&["restore", "--dry-run", file]).expect(0);
    fake.ccdadm(&["restore", "--yes", "--key", "NONE", file])
        .expect_error(105, "CCD-1210", "no key NONE");
    fake.ccdadm(&["restore", "--yes", "--key", "MY_KEY", file])
        .expect(0);
    assert_eq!(
        fake.ccdadm(&["query", "MY_KEY"]).expect(0).stdout,
        format!("{ROW0}{ROW1}")
    );
    fake.ccdadm(&["restore", "--yes", file]).expect(0);
    fake.ccdadm(&["query", "OTHER"]).expect(105);
    assert_eq!(fake.with(|state| state.database.restore_flag().digit()), '4');

    std::fs::write(&path, saved.replace("sci", "scx")).expect("it is written");
    fake.ccdadm(&["restore", "--yes", file])
        .expect_error(104, "CCD-1031", "saved.ccd: ");
    let rows: String = saved
        .lines()
        .filter(|line| !line.starts_with("CCD_CHK"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&path, rows).expect("it is written");
    fake.ccdadm(&["restore", "--yes", file])
        .expect_error(65, "CCD-1032", "no consistency record");
    std::fs::write(&path, "MY_KEY:1").expect("it is written");
    fake.ccdadm(&["restore", "--yes", file])
        .expect_error(65, "CCD-1030", "no format row");
    fake.ccdadm(&["checkpoint", "/none/file"])
        .expect_error(73, "CCD-1013", "/none/file");
}

#[test]
fn purify_of_the_running_database_finds_nothing_to_do() {
    fake().ccdadm(&["purify"]).expect(0);
}

#[test]
fn a_drill_says_what_would_not_be_survived_and_what_does_not_protect() {
    let fake = fake();
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
    let fake = fake();
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
    let fake = fake();
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
    let fake = fake();
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
}

#[test]
fn status_warns_of_a_closed_cluster_and_of_waived_quorum() {
    let fake = fake();
    fake.with(|state| {
        let status = &mut state.status.status;
        if let Some(configuration) = &mut status.configuration {
            configuration.quorum = Quorum::Waived;
        }
        status.verdict = "QUORUM IS OFF".into();
    });
    let ran = fake.ccdadm(&["status"]).expect(1);
    assert_eq!(
        ran.stdout.lines().next(),
        Some("prod: serving, degraded: QUORUM IS OFF")
    );
    let document = fake.ccdadm(&["status", "--json"]).expect(1).json();
    assert_eq!(document["cluster"]["quorum_required"], false);
    fake.with(|state| {
        state.status.status.state = ServingState::Closed;
        state.status.status.verdict = "valid, but closed: 1 of 2 copies found".into();
    });
    let ran = fake.ccdadm(&["status"]).expect(1);
    assert_eq!(
        ran.stdout.lines().next(),
        Some("prod: QUERIES ONLY: valid, but closed: 1 of 2 copies found")
    );
    let document = fake.ccdadm(&["status", "--json"]).expect(1).json();
    assert_eq!(document["cluster"]["state"], "closed");
    assert_eq!(document["cluster"]["quorum"], false);
}

#[test]
fn status_has_a_verdict_and_says_what_would_survive() {
    let fake = fake();
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
    });
    let ran = fake.ccdadm(&["status"]).expect(1);
    assert_eq!(
        ran.stdout.lines().next(),
        Some("prod: serving, degraded: secondary is failed")
    );
    ran.says("secondary NO");

    fake.with(|state| {
        state.status.status.state = ServingState::Waiting;
        state.status.status.verdict = "the primary is missing".into();
    });
    let ran = fake.ccdadm(&["status"]).expect(2);
    assert_eq!(
        ran.stdout.lines().next(),
        Some("prod: NOT SERVING, waiting: the primary is missing")
    );
}

#[test]
fn status_as_json_has_the_fields_of_the_contract() {
    let fake = fake();
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
    let fake = fake();
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
fn ccdctl_changes_who_takes_part() {
    let fake = fake();
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
    fake.ccdctl(&["master", "gamma"])
        .expect_error(65, "CCD-1024", "\"gamma\"");
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
    let fake = fake();
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
    fake.with(|state| state.status.status.external = Some(NodeSet::of(node(1))));
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
    let fake = fake();
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
        state.status.status.verdict = "maintenance: no node is taken over from".into();
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
}

#[test]
fn ccdctl_adds_and_removes_nodes_and_says_what_comes_next() {
    let fake = fake();
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
        (&["remove-node", "beta"], "ChangeNodes(Remove { node: \"1\" })"),
        (&["remove-node", "0"], "ChangeNodes(Remove { node: \"0\" })"),
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
    fake.ccdctl(&["remove-node", "beta", "--dry-run"])
        .expect(0)
        .says("would be asked");
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
        (&["add-node", "gamma=10.0.0.3:0"], 64, "CCD-1001", "IP address"),
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
    for verb in [
        &["members"] as &[&str],
        &["leave"],
        &["join"],
        &["takeover"],
        &["reconfigure", "--built-in"],
        &["maintenance", "on"],
        &["add-node", "gamma=10.0.0.3"],
        &["remove-node", "alpha"],
    ] {
        run("ccdctl", Some(folder.path()), verb, "").expect_error(69, "CCD-1101", "ccdd.sock");
    }
    run("ccdctl", Some(folder.path()), &["master", "--lowest"], "").expect_error(69, "CCD-1101", "ccdd.sock");
}
