//! `ccdadm history`, `diff`, `rollback` and `branches` as users run them, against a daemon, wrong input included.

mod support;

use ccd_client::wire::{Fault, HistoryGap, HistoryItem, HistoryTold, Told};
use ccd_core::ids::Generation;
use support::{Trick, fake_with_rows, run};

const ROW0: &str = "MY_KEY:clust0:4:sci:foo,bar,moo,boo";
const ROW1: &str = "MY_KEY:clust1:2:eth:fd00%3A%3A1";

#[test]
fn history_says_who_changed_what() {
    let fake = fake_with_rows();
    fake.ccdadm(&["format", "OTHER", "a"]).expect(0);
    fake.ccdadm(&["remove", "--reason", "ticket 4711", "MY_KEY", "clust0"])
        .expect(0);
    let all = fake.ccdadm(&["history"]).expect(0);
    assert_eq!(all.stdout.matches("generation ").count(), 5, "{all:?}");
    let all = all
        .says("ccdadm[")
        .says(": ticket 4711\n    MY_KEY: +0 -1 rows\n");
    assert!(all.stdout.contains("OTHER: +0 -0 rows, format made"), "{all:?}");
    let of_key = fake
        .ccdadm(&["history", "MY_KEY", "--rows", "--last", "2"])
        .expect(0);
    assert!(!of_key.stdout.contains("OTHER"), "{of_key:?}");
    of_key
        .says(&format!("    -{ROW0}\n"))
        .says(&format!("    +{ROW1}\n"));
    let document = fake
        .ccdadm(&["history", "--json", "--rows", "--last", "1"])
        .expect(0)
        .json();
    assert_eq!(document["generation"], 5);
    assert_eq!(document["reason"], "ticket 4711");
    assert_eq!(document["changes"]["removed"][0], ROW0);
    assert_eq!(document["keys"][0]["rows_removed"], 1);
    for (args, text) in [
        (
            &["history", "NONE"][..],
            "no update of NONE: this node keeps what came since generation ",
        ),
        (
            &["history", "--before", "1"],
            "no update before generation 1: this node keeps ",
        ),
    ] {
        let none = fake.ccdadm(args).expect(1);
        assert!(none.stdout.is_empty() && none.stderr.contains(text), "{none:?}");
    }
    fake.ccdadm(&["history", "--last", "0"]).expect(64);
    fake.ccdadm(&["history", "bad:key"])
        .expect_error(64, "CCD-1034", "contains ':'");
}

#[test]
fn gaps_are_said() {
    let fake = fake_with_rows();
    let gap = |after, up_to| {
        HistoryItem::Gap(HistoryGap {
            after: Generation(after),
            up_to: Generation(up_to),
        })
    };
    let told = |item| {
        Trick::Say(Told::History(HistoryTold {
            items: vec![item],
            oldest: Generation(41),
            more: false,
        }))
    };
    fake.trick(told(gap(16, 40)));
    fake.ccdadm(&["history"])
        .expect(1)
        .says("(generations 17 to 40 are not kept on this node");
    fake.trick(told(gap(20, 19)));
    fake.ccdadm(&["history"]).expect(1).says("a branch that lost");
    fake.trick(told(gap(16, 40)));
    let document = fake.ccdadm(&["history", "--json"]).expect(1).json();
    assert_eq!(document["gap"]["up_to"], 40);
}

#[test]
fn diff_shows_what_leads_from_one_state_to_another() {
    let fake = fake_with_rows();
    let saved = fake.folder.path().join("saved.ccd");
    let saved = saved.to_str().expect("UTF-8");
    fake.ccdadm(&["checkpoint", saved]).expect(0);
    fake.ccdadm(&["remove", "MY_KEY", "clust0"]).expect(0);
    fake.ccdadm(&["add", "MY_KEY", "clust2", "1", "sci", "x"])
        .expect(0);
    let expected = format!("-{ROW0}\n+MY_KEY:clust2:1:sci:x\n");
    let file = format!("--- {saved}\n+++ now\n{expected}");
    assert_eq!(fake.ccdadm(&["diff", saved, "now"]).expect(1).stdout, file);
    let generations = format!("--- generation 3\n+++ generation 5\n{expected}");
    assert_eq!(fake.ccdadm(&["diff", "3", "5"]).expect(1).stdout, generations);
    let back = fake.ccdadm(&["diff", "now", "3"]).expect(1);
    assert!(
        back.stdout
            .ends_with(&format!("-MY_KEY:clust2:1:sci:x\n+{ROW0}\n")),
        "{back:?}"
    );
    // A generation against a file.
    assert_eq!(fake.ccdadm(&["diff", "3", saved]).expect(0).stdout, "");
    fake.ccdadm(&["diff", "5", "now"]).expect(0);
    fake.ccdadm(&["diff", "--key", "OTHER", "0", "now"]).expect(0);
    // Files alone need no daemon.
    let copy = fake.folder.path().join("copy.ccd");
    std::fs::copy(saved, &copy).expect("a copy");
    let copy = copy.to_str().expect("UTF-8");
    assert_eq!(
        run("ccdadm", None, &["diff", saved, copy], "").expect(0).stdout,
        ""
    );
    let document = fake.ccdadm(&["diff", "4", "5", "--json"]).expect(1).json();
    assert_eq!(document["added"][0], "MY_KEY:clust2:1:sci:x");
    assert_eq!(document["same"], false);
    fake.ccdadm(&["diff", "3", "99"])
        .expect_error(105, "CCD-1220", "not been reached");
    fake.ccdadm(&["diff", "3", "missing.ccd"])
        .expect_error(66, "CCD-1010", "missing.ccd");
    fake.ccdadm(&["diff", "branch:none", "now"])
        .expect_error(105, "CCD-1220", "no such branch");
}

#[test]
fn rollback_is_a_new_update() {
    let fake = fake_with_rows();
    fake.ccdadm(&["remove", "MY_KEY", "clust0"]).expect(0);
    fake.ccdadm(&["format", "OTHER", "a"]).expect(0);
    fake.ccdadm(&["add", "OTHER", "x"]).expect(0);
    fake.ccdadm(&["rollback", "3"])
        .expect_error(107, "CCD-1002", "1 rows are removed, 1 added");
    let dry = fake.ccdadm(&["rollback", "--dry-run", "3"]).expect(0);
    assert_eq!(dry.stdout, format!("-OTHER_fmt:a\n-OTHER:x\n+{ROW0}\n"));
    fake.ccdadm(&["rollback", "--yes", "--key", "MY_KEY", "3"])
        .expect(0);
    assert_eq!(fake.ccdadm(&["query", "OTHER"]).expect(0).stdout, "OTHER:x\n");
    fake.ccdadm(&["rollback", "--yes", "3"]).expect(0);
    fake.ccdadm(&["diff", "3", "now"]).expect(0);
    fake.ccdadm(&["history", "--last", "1"])
        .expect(0)
        .says(": roll back to generation 3");
    fake.ccdadm(&["rollback", "--yes", "3"])
        .expect(0)
        .says("nothing to undo");
    // And back again.
    fake.ccdadm(&["rollback", "--yes", "6"]).expect(0);
    fake.ccdadm(&["diff", "6", "now"]).expect(0);
    fake.ccdadm(&["rollback", "--yes", "99"])
        .expect_error(105, "CCD-1220", "at generation");
    fake.ccdadm(&["rollback", "--yes", "--if-generation", "2", "3"])
        .expect_error(1, "CCD-1214", "generation = 2");
    fake.ccdadm(&["rollback", "--yes", "x"]).expect(64);
    fake.trick(Trick::Say(Told::Failed(Fault::NotKept {
        why: "it is gone".into(),
    })));
    fake.ccdadm(&["diff", "1", "2"])
        .expect_error(105, "CCD-1220", "it is gone");
}

#[test]
fn a_rollback_brings_back_other_columns() {
    let fake = fake_with_rows();
    let key = "MY_KEY_fmt:name\nMY_KEY:only\n";
    let file = fake.folder.path().join("other.txt");
    std::fs::write(&file, key).expect("written");
    let converted = fake.folder.path().join("other.ccd");
    let (file, converted) = (file.to_str().expect("UTF-8"), converted.to_str().expect("UTF-8"));
    fake.ccdadm(&["convert", file, converted]).expect(0);
    fake.ccdadm(&["restore", "--yes", "--key", "MY_KEY", converted])
        .expect(0);
    fake.ccdadm(&["rollback", "--yes", "3"]).expect(0);
    fake.ccdadm(&["diff", "3", "now"]).expect(0);
    fake.ccdadm(&["query", "MY_KEY", "network_type=sci"])
        .expect(0)
        .says(ROW0);
}

#[test]
fn branches_are_listed_shown_compared_and_adopted() {
    let fake = fake_with_rows();
    fake.ccdadm(&["branches"]).expect(1);
    let text = fake.with(|state| state.database.to_text());
    fake.with(|state| state.branches.push(("7-3-0123456789ab".into(), text.clone())));
    fake.ccdadm(&["branches"])
        .expect(0)
        .says("7-3-0123456789ab  1970-01-01T00:00:00.000Z");
    let name = fake.ccdadm(&["branches", "--json"]).expect(0).json();
    assert_eq!(name["branches"][0]["name"], "7-3-0123456789ab");
    assert_eq!(
        fake.ccdadm(&["branches", "show", "7-3-0123456789ab"])
            .expect(0)
            .stdout,
        text
    );
    fake.ccdadm(&["branches", "diff", "7-3-0123456789ab"]).expect(0);
    fake.ccdadm(&["remove", "MY_KEY", "clust0"]).expect(0);
    let different = fake.ccdadm(&["branches", "diff", "7-3-0123456789ab"]).expect(1);
    assert!(different.stdout.ends_with(&format!("+{ROW0}\n")), "{different:?}");
    fake.ccdadm(&["diff", "branch:7-3-0123456789ab", "now"])
        .expect(1)
        .says(&format!("-{ROW0}"));
    fake.ccdadm(&["branches", "adopt", "7-3-0123456789ab"])
        .expect_error(107, "CCD-1002", "replaces the whole database");
    fake.ccdadm(&["branches", "adopt", "--dry-run", "7-3-0123456789ab"])
        .expect(0);
    fake.ccdadm(&["branches", "adopt", "--yes", "7-3-0123456789ab"])
        .expect(0);
    fake.ccdadm(&["branches", "diff", "7-3-0123456789ab"]).expect(0);
    fake.ccdadm(&["branches", "adopt", "--yes", "none"])
        .expect_error(105, "CCD-1220", "no such branch");
}
