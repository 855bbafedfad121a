//! `ccdadm report` as users run it: what is in it, and above all what is not.

mod support;

use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use support::{Fake, fake_with_rows};

const SECRET: &str = "hunter2-in-a-value";
const STATIC_SECRET: &str = "hunter3-in-the-init-database";
const REASON: &str = "hunter4-in-a-reason";

/// A daemon with secrets in rows, reasons and files.
fn fake() -> Fake {
    let fake = fake_with_rows();
    let folder = fake.folder.path();
    let setup = [
        "--cluster",
        "prod",
        "--node",
        "alpha=10.0.0.1",
        "--node",
        "beta=10.0.0.2",
    ];
    fake.ccdadm(&[&["setup", "--this", "alpha"], &setup[..]].concat())
        .expect(0);
    let init = std::fs::read_to_string(folder.join("init.ccd")).expect("it is there");
    let own = format!("MINE_fmt:name:password\nMINE:web:{STATIC_SECRET}\n");
    std::fs::write(folder.join("init.ccd"), init + &own).expect("the folder is ours");
    fake.ccdadm(&["add", "--reason", REASON, "MY_KEY", "c9", "9", SECRET, "x"])
        .expect(0);
    fake
}

fn unpacked(bytes: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    let entries = archive.entries().expect("it is an archive");
    let read = entries.map(|entry| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a name").into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("it is whole");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, String::from_utf8_lossy(&content).into_owned())
    });
    read.collect()
}

fn read(path: &Path) -> BTreeMap<String, String> {
    unpacked(&std::fs::read(path).expect("it was written"))
}

#[test]
fn a_report_has_no_value_of_a_row_and_no_key() {
    let fake = fake();
    let path = fake.folder.path().join("report.tar.gz");
    let name = path.to_str().expect("the path is ours");
    fake.ccdadm(&["report", "--output", name]).expect(0).says(name);
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let parts = read(&path);
    let key = std::fs::read_to_string(fake.folder.path().join("authkey")).expect("setup made it");
    for secret in [SECRET, STATIC_SECRET, REASON, key.trim(), "foo,bar,moo,boo"] {
        assert!(!secret.is_empty());
        for (name, content) in &parts {
            assert!(!content.contains(secret), "{secret} is in {name}");
        }
    }
    for (name, text) in [
        ("MANIFEST", "status.json"),
        ("status.json", "\"redundant\""),
        ("decisions.jsonl", "the lease ran out"),
        ("keys.json", "\"rows\": 3"),
        ("record.txt", "CCD_CHK:"),
        ("history.jsonl", "(left out)"),
        ("init.ccd", "# 1 rows of MINE, values left out"),
        ("init.ccd", "ADDRESS:alpha:10.0.0.1:"),
        ("options.txt", "lease_ms = 1000 (by default)"),
        ("files.txt", "authkey"),
        ("machine.txt", "MemTotal"),
        ("versions.txt", "running daemon: 0.1.0"),
    ] {
        assert!(
            parts.get(name).is_some_and(|part| part.contains(text)),
            "{name}: {text}: {:?}",
            parts.get(name)
        );
    }
}

#[test]
fn with_values_the_rows_are_there_and_the_key_is_not() {
    let fake = fake();
    let path = fake.folder.path().join("report.tar.gz");
    fake.ccdadm(&["report", "--values", "--output", path.to_str().expect("ours")])
        .expect(0);
    let parts = read(&path);
    assert!(parts["database.ccd"].contains(SECRET));
    assert!(parts["init.ccd"].contains(STATIC_SECRET));
    assert!(parts["history.jsonl"].contains(REASON) && parts["history.jsonl"].contains(SECRET));
    let key = std::fs::read_to_string(fake.folder.path().join("authkey")).expect("setup made it");
    assert!(parts.values().all(|part| !part.contains(key.trim())));
}

#[test]
fn a_report_replaces_no_file_and_goes_to_standard_output_on_request() {
    let fake = fake();
    let path = fake.folder.path().join("report.tar.gz");
    std::fs::write(&path, "mine").expect("the folder is ours");
    let name = path.to_str().expect("the path is ours");
    fake.ccdadm(&["report", "--output", name])
        .expect_error(108, "CCD-1014", "exists");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
    fake.ccdadm(&["report", "--output", "/no/such/folder/x"])
        .expect_error(73, "CCD-1013", "/no/such/folder/x");
    let output = Command::new(env!("CARGO_BIN_EXE_ccdadm"))
        .args(["report", "--output", "-"])
        .env("CCD_RUN", fake.folder.path())
        .env("CCD_ETC", fake.folder.path())
        .env("CCD_STATE", fake.folder.path())
        .output()
        .expect("it runs");
    assert!(unpacked(&output.stdout).contains_key("status.json"));
}

#[test]
fn without_a_daemon_the_report_says_what_is_missing() {
    let fake = fake();
    fake.stop();
    let path = fake.folder.path().join("report.tar.gz");
    let json = fake
        .ccdadm(&["report", "--json", "--output", path.to_str().expect("ours")])
        .expect(0)
        .json();
    let missing = json["parts"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|part| part["name"] == "status.json");
    assert!(
        missing.expect("it is listed")["missing"]
            .as_str()
            .is_some_and(|why| why.contains("CCD-1101"))
    );
    let parts = read(&path);
    assert!(!parts.contains_key("status.json"));
    assert!(parts["MANIFEST"].contains("status.json: ccdadm status --json: MISSING: CCD-1101"));
    assert!(parts["init.ccd"].contains("CLUSTER:prod:"));
}
