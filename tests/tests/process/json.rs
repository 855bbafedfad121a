//! What `--json` prints is what docs/json.md says, for every verb of a cluster that runs. Needs root.

use ccd_tests::process::Cluster;
use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::programs::{program, run};
use ccd_tests::process::schema::Schemas;
use std::fs;

/// Without a branch that was kept, a disk that has reservations, and rows that no update lets in.
const NOT_HERE: [&str; 6] = [
    "ccd-disk-fence-clear",
    "ccd-disk-fence-preempt",
    "ccd-disk-fence-register",
    "ccdadm-branches-adopt",
    "ccdadm-branches-diff",
    "ccdadm-purify",
];

#[test]
fn every_verb_prints_what_its_schema_says() {
    let mut cluster = Cluster::start();
    let mut schemas = Schemas::written();
    let folder = cluster.folder().to_owned();
    let text = |name: &str| folder.join(name).to_str().expect("the path is ours").to_owned();
    let (ascii, file, other) = (text("rows.txt"), text("rows.ccd"), text("other"));
    fs::write(&ascii, "K_fmt:a:b\nK:1:x\n").expect("the folder is ours");
    fs::write(text("change.txn"), "add K:2:y\n").expect("the folder is ours");
    fs::write(text("broken.txt"), "K_fmt:a:b\nK:1\nK:1:x\n").expect("the folder is ours");
    let new_init = text("init.new");

    {
        let alpha = cluster.alpha();
        let mut adm = |verb: &str, code: i32, words: &[&str]| {
            let verbs: Vec<&str> = verb.split(' ').collect();
            let all = [&["--json"], &verbs[..], words].concat();
            schemas.check(&format!("ccdadm {verb}"), &alpha.adm(&all).expect(code));
        };
        adm("status", 0, &[]);
        adm("format", 0, &["K", "a", "b"]);
        adm("add", 0, &["K", "1", "x"]);
        adm("add", 0, &["--dry-run", "K", "9", "z"]);
        adm("apply", 0, &[&text("change.txn")]);
        adm("query", 0, &["K"]);
        adm("query", 0, &["--static", "NODE"]);
        adm("keys", 0, &[]);
        adm("keys", 0, &["--static"]);
        adm("checkpoint", 0, &[&text("saved.ccd")]);
        adm("checkpoint", 0, &["--name", "one"]);
        adm("checkpoints", 0, &[]);
        adm("checkpoints", 0, &["--drop", "one", "--yes"]);
        adm("convert", 0, &[&ascii, &file]);
        adm("restore", 0, &["--yes", "--key", "K", &file]);
        adm("purify", 1, &[&text("broken.txt")]);
        adm("purify", 0, &[]);
        adm("verify", 0, &[]);
        adm("drill", 0, &[]);
        adm("quorum", 0, &["on", "--dry-run"]);
        adm("sync-command set", 0, &["K", "none-there"]);
        adm("sync-command show", 0, &[]);
        adm("sync-command unset", 0, &["K"]);
        adm("history", 0, &[]);
        adm("history", 0, &["--rows", "K"]);
        adm("watch", 0, &["--count", "1", "--rows", "--from", "1", "K"]);
        adm("watch", 0, &["--initial", "--timeout", "1s", "K"]);
        adm("diff", 1, &["1", "now"]);
        adm("diff", 0, &["now", "now"]);
        adm("rollback", 0, &["--dry-run", "1"]);
        adm("rollback", 0, &["--yes", "2"]);
        adm("branches", 1, &[]);
        adm("why", 0, &[]);
        adm("explain", 0, &[]);
        adm("report", 0, &["--output", &text("report.tar.gz")]);
        adm("remove", 0, &["--yes", "K"]);
        adm("remove-format", 0, &["K"]);
        adm("edit-init", 0, &["--check"]);
        adm("edit-init", 0, &["--options"]);
        let init = fs::read_to_string(alpha.places().init_path()).expect("it is there");
        fs::write(&new_init, init + "# a comment\n").expect("the folder is ours");
        adm("edit-init", 0, &["--dry-run", "--from", &new_init]);
        adm("authkey list", 0, &[]);
        adm("authkey add", 0, &["--dry-run"]);
        adm("authkey add", 0, &[]);
        adm("authkey promote", 0, &[]);
        adm("authkey drop", 0, &["--yes", "--force"]);
    }

    let words = [
        "--etc",
        &other,
        "setup",
        "--json",
        "--cluster",
        "x",
        "--node",
        "a=127.0.0.1",
    ];
    schemas.check("ccdadm setup", &run(program("ccdadm"), &words).done());
    let broken = ["--json", "purify", "--drop", "--yes", &text("broken.txt")];
    schemas.check("ccdadm purify", &run(program("ccdadm"), &broken).done());

    {
        let beta = &cluster.nodes[BETA];
        let mut ctl = |verb: &str, words: &[&str]| {
            let all = [&["--json", verb], words].concat();
            schemas.check(&format!("ccdctl {verb}"), &beta.ctl(&all).done());
        };
        ctl("members", &[]);
        ctl("metrics", &[]);
        ctl("reconfigure", &["--members", "all", "--dry-run"]);
        ctl("takeover", &["--dry-run"]);
        ctl("add-node", &["gamma=10.0.0.3", "--dry-run"]);
        ctl("remove-node", &["alpha", "--dry-run"]);
        ctl("master", &["beta"]);
        ctl("maintenance", &["on"]);
        ctl("maintenance", &["off"]);
        ctl("leave", &[]);
        cluster.nodes[ALPHA].wait_for("serving solo");
        let degraded = cluster.nodes[ALPHA].adm(&["--json", "status"]).expect(1);
        ctl("join", &[]);
        schemas.check("ccdadm status", &degraded);
    }
    cluster.wait_until_redundant();

    let mut disk = |verb: &str, codes: &[i32], words: &[&str]| {
        let verbs: Vec<&str> = verb.split(' ').collect();
        let finished = cluster.disk(&[&["--json"], &verbs[..], words].concat());
        assert!(
            codes.contains(&finished.code),
            "$ {}\n{}{}",
            finished.line,
            finished.out,
            finished.err
        );
        schemas.check(&format!("ccd-disk {verb}"), &finished);
    };
    let device = cluster.devices[0].name();
    let made = text("made.region");
    let id = "0123456789abcdef0123456789abcdef";
    disk(
        "mkfs",
        &[0],
        &[
            "--role",
            "primary",
            "--cluster-id",
            id,
            "--nodes",
            "2",
            "--size",
            "64M",
            &made,
        ],
    );
    disk("show", &[0], &[device]);
    disk("check", &[0], &[device]);
    disk("check", &[0], &[&made]);
    disk("heartbeats", &[0], &[device]);
    disk("probe", &[0], &[device]);
    disk("fence status", &[0, 1], &[device]);
    disk("bench", &[0], &["--count", "10", &text("scratch")]);
    cluster.nodes[BETA].terminate();
    cluster.nodes[ALPHA].wait_for("serving solo");
    disk_dump(&mut schemas, &cluster, device);
    cluster.nodes[ALPHA].kill();
    let other = cluster.devices[1].name();
    let resynced = cluster.disk(&["--json", "resync", "--yes", other]).expect(0);
    schemas.check("ccd-disk resync", &resynced);

    let unchecked: Vec<&str> = schemas
        .unchecked()
        .into_iter()
        .filter(|name| !NOT_HERE.contains(name))
        .collect();
    assert_eq!(unchecked, Vec::<&str>::new());
}

/// A solo owner has its database on the devices.
fn disk_dump(schemas: &mut Schemas, cluster: &Cluster, device: &str) {
    schemas.check("ccd-disk dump", &cluster.disk(&["--json", "dump", device]).done());
}
