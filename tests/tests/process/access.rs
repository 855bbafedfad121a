//! What users other than root may do, against a running cluster: by user, by group, by pattern, by nothing. Which right each
//! request needs is a table of its own (`ccd-node/src/clients/access_tests.rs`). Needs root.

use ccd_tests::process::cluster::ALPHA;
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, Shape};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

const READER: User<'_> = user(2001, &[]);
const WRITER: User<'_> = user(2002, &[]);
const ADMIN: User<'_> = user(2003, &[]);
const IN_GROUP: User<'_> = user(2004, &[17, 3050]);
const STRANGER: User<'_> = user(2004, &[17]);

const fn user(uid: u32, groups: &[u32]) -> User<'_> {
    User {
        uid,
        gid: 2000,
        groups,
    }
}

const ROWS: &str = "ACCESS:read:2001:*\nACCESS:write:2002:APP*\nACCESS:admin:2003:*\nACCESS:read:@3050:NET_*\n\
                    ACCESS:write:no-such-user:*\n";

#[test]
fn users_and_groups_may_do_what_rows_grant_and_refusals_name_the_row_that_is_missing() {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let init = File::options().append(true).open(node.places().init_path());
        let written = init.and_then(|mut file| file.write_all(ROWS.as_bytes()));
        written.expect("setup wrote it");
    }
    cluster.start_both();
    let door = Door::open(&cluster);
    let adm = |user, words: &[&str]| door.ask(user, "ccdadm", words);
    let ctl = |user, words: &[&str]| door.ask(user, "ccdctl", words);
    cluster
        .alpha()
        .wait_for_log("ACCESS:write:no-such-user:* in init.ccd grants nothing");
    for key in ["APP", "APP_TWO", "NET_A", "OTHER"] {
        cluster.alpha().adm(&["format", key, "what"]).done();
        cluster.alpha().adm(&["add", key, "it"]).done();
    }

    // A reader.
    adm(READER, &["query", "OTHER"]).done().shows("OTHER:it");
    adm(READER, &["keys"]).done();
    adm(READER, &["history", "--rows"]).done();
    adm(READER, &["add", "OTHER", "more"])
        .expect(77)
        .says("user 2001")
        .says("grant only ACCESS:read:2001:*")
        .says("ACCESS:write:2001:*")
        .says_what_to_try();

    // A writer of some keys: everything about them, and nothing of others, not even whether a row is there.
    adm(WRITER, &["query", "APP"]).done();
    adm(WRITER, &["add", "--reason", "ours", "APP_TWO", "more"]).done();
    adm(WRITER, &["format", "APP_NEW", "what"]).done();
    adm(WRITER, &["remove", "APP_TWO", "more"]).done();
    adm(WRITER, &["status"]).done();
    adm(WRITER, &["query", "OTHER"])
        .expect(77)
        .says("read on key OTHER");
    adm(WRITER, &["add", "OTHER", "x"])
        .expect(77)
        .says("ACCESS:write:2002:OTHER")
        .says("ACCESS:write:2002:APP*");
    adm(WRITER, &["checkpoint", "-"])
        .expect(77)
        .says("whole database");
    adm(WRITER, &["history"]).expect(77);
    adm(WRITER, &["history", "APP"]).done();
    adm(WRITER, &["sync-command", "set", "APP", "realloc"])
        .expect(77)
        .says("on key CCD_SYNC");
    let probe = cluster.folder().join("probe");
    fs::write(&probe, "if row present OTHER:it\nadd APP:probe\n").expect("the folder is ours");
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o644)).expect("the folder is ours");
    adm(WRITER, &["apply", probe.to_str().expect("the path is ours")])
        .expect(77)
        .says("read on key OTHER");
    ctl(WRITER, &["leave"]).expect(77).says("admin on the cluster");
    let history = cluster.alpha().adm(&["history", "APP_TWO", "--json"]).done().out;
    assert!(
        history.contains("2002"),
        "the history does not say who: {history}"
    );

    // An administrator who is not root.
    ctl(ADMIN, &["maintenance", "on"]).done();
    ctl(ADMIN, &["maintenance", "off"]).done();
    adm(ADMIN, &["sync-command", "set", "APP", "realloc"]).done();
    adm(ADMIN, &["sync-command", "unset", "APP"]).done();
    adm(ADMIN, &["verify"]).done();

    // By group: the process's, whatever its user is a member of.
    adm(IN_GROUP, &["query", "NET_A"]).done();
    adm(IN_GROUP, &["query", "OTHER"]).expect(77);
    adm(STRANGER, &["query", "NET_A"])
        .expect(77)
        .says("no ACCESS row is for this user or its groups");
    adm(STRANGER, &["status"]).expect(77);
    adm(STRANGER, &["why"]).expect(77);
    let primary = User {
        gid: 3050,
        ..STRANGER
    };
    adm(primary, &["query", "NET_A"]).done();

    let run = &cluster.alpha().places().run;
    for (name, expected) in [("ccdd.sock", 0o666), ("control.sock", 0o666)] {
        let found = fs::metadata(run.join(name)).expect("the daemon runs");
        assert_eq!(found.permissions().mode() & 0o777, expected, "{name}");
    }
    assert!(cluster.nodes[ALPHA].is_running());
    cluster.wait_until_redundant();
}
