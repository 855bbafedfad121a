//! `ccdadm` as users run it, against a daemon: every verb that reads or changes the database, and every wrong input.

mod support;

use ccd_core::database::FileOrigin;
use ccd_core::ids::ClusterId;
use support::{Ran, fake_with_rows, run};

const ROW0: &str = "MY_KEY:clust0:4:sci:foo,bar,moo,boo\n";
const ROW1: &str = "MY_KEY:clust1:2:eth:fd00%3A%3A1\n";

#[test]
fn query_prints_rows_that_match() {
    let fake = fake_with_rows();
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
    let fake = fake_with_rows();
    fake.ccdadm(&["keys"])
        .expect(0)
        .says("MY_KEY  2     clustname number_nodes network_type node_names\n");
    let document = fake.ccdadm(&["keys", "--json"]).expect(0).json();
    assert_eq!(document["keys"][0]["rows"], 2);
}

#[test]
fn changes_are_committed_or_refused() {
    let fake = fake_with_rows();
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
    let fake = fake_with_rows();
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
    let fake = fake_with_rows();
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
    let fake = fake_with_rows();
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
    let fake = fake_with_rows();
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
    fake_with_rows().ccdadm(&["purify"]).expect(0);
}

#[test]
fn a_file_that_another_cluster_saved_is_restored_with_force_only() {
    let fake = fake_with_rows();
    let path = fake.folder.path().join("saved.ccd");
    let file = path.to_str().expect("UTF-8");
    let origin = FileOrigin {
        cluster: ClusterId([7; 16]),
        name: "lab".to_owned(),
    };
    let text = fake.with(|state| state.database.to_file_text(&origin));
    std::fs::write(&path, &text).expect("it is written");
    fake.ccdadm(&["restore", "--yes", file])
        .expect_error(65, "CCD-1153", "saved by cluster \"lab\" (0707");
    fake.ccdadm(&["restore", "--dry-run", file])
        .expect(0)
        .says("a restore needs --force");
    fake.ccdadm(&["restore", "--yes", "--force", file])
        .expect(0)
        .says("warning: ");
    // A mark that an editor has put in front is no part of it.
    std::fs::write(&path, format!("\u{feff}{text}")).expect("it is written");
    fake.ccdadm(&["restore", "--yes", "--force", file]).expect(0);
    // Whoever changes a column of the record is found out.
    let flag = text.replace(":4:", ":3:");
    assert_ne!(flag, text);
    std::fs::write(&path, flag).expect("it is written");
    fake.ccdadm(&["restore", "--yes", "--force", file]).expect_error(
        104,
        "CCD-1031",
        "the columns of the record itself were changed",
    );
}

#[test]
fn what_a_bad_file_holds_reaches_no_terminal_as_it_stands() {
    let fake = fake_with_rows();
    let path = fake.folder.path().join("bad.ccd");
    let file = path.to_str().expect("UTF-8");
    let bad = "MY_KEY_fmt:a\nMY_KEY:\x1b]0;owned\x07\x1b[2J:\u{9b}31m:x\n";
    std::fs::write(&path, bad).expect("it is written");
    let converted = fake.folder.path().join("out.ccd");
    let out = converted.to_str().expect("UTF-8");
    for words in [
        &["apply", file] as &[&str],
        &["restore", "--yes", file],
        &["convert", file, out],
        &["purify", file],
        &["diff", file, "now"],
        &["purify", "--json", file],
    ] {
        let ran = fake.ccdadm(words);
        let all = format!("{}{}", ran.stdout, ran.stderr);
        assert!(all.contains("MY_KEY"), "{words:?}: {all}");
        let acted_on = all.chars().find(|c| c.is_control() && *c != '\n' && *c != '\t');
        assert_eq!(acted_on, None, "{words:?}: {all:?}");
    }
}
