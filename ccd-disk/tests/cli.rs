//! The program `ccd-disk`: the verbs that read, check and measure, wrong input included, with exit codes and what they say.
//! The other verbs: `cli_mkfs.rs`, `cli_sharing.rs`.

mod support;

use ccd_core::ids::Position;
use ccd_core::replica::{Heartbeat, ReplicaOp};
use ccd_disk::device::{Access, Blocks, RawDevice};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use support::node;
use support::program::{ID, append, flip, made, region, says, with_a_segment};

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    says(&[], 64, "Usage");
    says(&["frob"], 64, "unrecognized subcommand");
    says(&["show"], 64, "required");
    says(
        &["show", "--frob", "x"],
        64,
        "ccd-disk: CCD-2073 unexpected argument",
    );
    says(&["mkfs", "--role", "third", "x"], 64, "invalid value");
    says(
        &["mkfs", "--role", "primary", "--cluster-id", "xyz", "x"],
        64,
        "hexadecimal",
    );
    says(&["mkfs", "--role", "primary", "--nodes", "33", "x"], 64, "33");
    says(
        &["mkfs", "--role", "local", "--cluster-id", ID, "x"],
        64,
        "CCD-2084",
    );
    says(
        &[
            "mkfs",
            "--role",
            "primary",
            "--node",
            "1",
            "--cluster-id",
            ID,
            "x",
        ],
        64,
        "CCD-2085",
    );
    says(&["heartbeats", "--interval-ms", "0", "x"], 64, "interval");
    says(&["bench", "x", "x"], 64, "CCD-2100");
    says(&["--help"], 0, "Examples");
    for verb in [
        "mkfs",
        "show",
        "check",
        "dump",
        "heartbeats",
        "probe",
        "fence",
        "bench",
    ] {
        says(&[verb, "--help"], 0, "Examples");
    }
    says(&["--version"], 0, "ccd-disk");
}

#[test]
fn what_is_missing_or_no_region_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for verb in ["show", "check", "dump", "heartbeats"] {
        says(&[verb, missing.to_str().unwrap()], 66, "CCD-2001");
        says(
            &[verb, folder.path().to_str().unwrap()],
            65,
            "neither a file nor a block device",
        );
        says(&[verb, "/dev/null"], 65, "neither a file nor a block device");
    }
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    says(&["show", empty.to_str().unwrap()], 65, "CCD-2010");
    let text = folder.path().join("text");
    fs::write(&text, "no region ".repeat(100_000)).unwrap();
    says(&["check", text.to_str().unwrap()], 65, "ccd-disk mkfs");
    says(&["bench", text.to_str().unwrap()], 107, "Nothing was written");
    says(
        &["bench", text.to_str().unwrap(), missing.to_str().unwrap()],
        64,
        "CCD-2101",
    );
    let path = missing.to_str().unwrap();
    says(&["mkfs", "--role", "primary", path], 66, "ccdadm setup");
    says(
        &[
            "mkfs",
            "--role",
            "primary",
            "--cluster-id",
            ID,
            "/dev/no-such-device",
        ],
        66,
        "by-id",
    );
    assert!(!missing.exists());
}

#[test]
fn show_dump_and_heartbeats_tell_what_is_there() {
    let (_folder, path, name) = made();
    says(&["dump", &name], 1, "CCD-2090 no area of ");
    says(&["dump", "--area", "9", &name], 1, "the area of node 9 of ");
    append(&path, 3);
    says(&["show", &name], 0, "0/3.");
    let json = says(&["show", "--json", &name], 0, "");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["areas"][0]["records"], 3);
    assert_eq!(value["areas"][1]["position"], serde_json::Value::Null);
    assert_eq!(value["label"]["role"], "primary");
    let text = says(&["dump", &name], 0, "KEY2_fmt:name");
    assert!(text.contains("CCD_CHK:"), "{text}");
    says(&["dump", "--area", "1", &name], 1, "node 1");
    says(&["dump", "--json", &name], 0, "\"text\": \"KEY1_fmt");
    let blocks = says(&["dump", "--blocks", &name], 0, "superblock");
    assert_eq!(blocks.matches("record").count(), 3, "{blocks}");

    // Works while a daemon holds the region, and sees its heartbeat move.
    let mut held = region(&path, 0);
    says(&["heartbeats", "--interval-ms", "1", &name], 1, "never seen");
    let heartbeat = |sequence| ReplicaOp::WriteHeartbeat {
        heartbeat: Heartbeat {
            sequence,
            ..Heartbeat::default()
        },
    };
    held.execute(heartbeat(1)).unwrap();
    says(&["heartbeats", "--interval-ms", "1", &name], 1, "stands still");
    let watcher = Command::new(env!("CARGO_BIN_EXE_ccd-disk"))
        .args(["heartbeats", "--interval-ms", "1000", &name])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Beats until the watcher has looked twice.
    let watcher = std::thread::spawn(move || watcher.wait_with_output().unwrap());
    for sequence in 2.. {
        held.execute(heartbeat(sequence)).unwrap();
        if watcher.is_finished() {
            break;
        }
    }
    let output = watcher.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("moves"));
    says(&["show", &name], 0, "beat");
    says(&["check", "--repair", &name], 109, "CCD-2002");
    let mkfs = [
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--force",
        "prod",
        "--yes",
        &name,
    ];
    says(&mkfs, 109, "in use");
}

#[test]
fn check_tells_torn_from_damaged_and_repairs_superblocks() {
    let (_folder, path, name) = made();
    append(&path, 4);
    says(&["check", &name], 0, "sound");
    let ring = region(&path, 0).superblock().geometry.journal(node(0)) * 4096;
    flip(&path, ring + 3 * 4096 + 200);
    says(&["check", &name], 0, "torn record");
    flip(&path, ring + 4096 + 200);
    let said = says(&["check", &name], 104, "record 2 of the journal");
    assert!(said.contains("not sound") && said.contains("0/1."), "{said}");
    says(&["dump", &name], 104, "KEY1_fmt");
    flip(&path, ring + 4096 + 200);
    flip(&path, ring + 3 * 4096 + 200);

    flip(&path, 130);
    says(&["check", &name], 1, "first superblock");
    says(&["check", "--repair", "--dry-run", &name], 1, "would write");
    says(&["check", "--repair", &name], 107, "--yes");
    says(&["check", "--repair", "--yes", &name], 0, "repaired");
    says(&["check", &name], 0, "sound");
    let last = fs::metadata(&path).unwrap().len() - 4096;
    flip(&path, last + 5);
    says(&["check", "--repair", "--yes", &name], 0, "last superblock");
    assert_eq!(says(&["check", "-q", &name], 0, ""), format!("{name}: sound\n"));
    flip(&path, 130);
    flip(&path, last + 130);
    says(&["check", &name], 65, "CCD-2010");
}

#[test]
fn check_mends_a_segment_that_the_journal_makes_up_for_and_names_one_that_is_lost() {
    let (_folder, path, name) = made();
    let room = with_a_segment(&path, 0) * 4096;
    let json = says(&["show", "--json", &name], 0, "");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["areas"][0]["segments"], 2);
    assert_eq!(value["areas"][0]["records"], 15);
    says(&["dump", "--blocks", &name], 0, "part of segment");
    let sound = says(&["dump", &name], 0, "KEY115_fmt");

    // A head: as a power cut leaves it.
    flip(&path, room + 3000);
    says(&["check", &name], 0, "segment 0 of the checkpoint is unusable");
    flip(&path, room + 3000);
    // A part: it was whole once.
    flip(&path, room + 4096 + 3000);
    let said = says(
        &["check", &name],
        1,
        "segment 0 of checkpoint 1 (slot A) is damaged",
    );
    assert!(said.contains("Nothing is missing"), "{said}");
    says(&["dump", &name], 104, "KEY115_fmt");
    says(&["check", "--repair", "--dry-run", &name], 1, "a new checkpoint");
    says(&["check", "--repair", &name], 107, "1 checkpoints of");
    says(&["check", "--repair", "--yes", &name], 0, "repaired");
    says(&["check", &name], 0, "sound");
    assert_eq!(says(&["dump", &name], 0, ""), sound);

    let (_folder, path, name) = made();
    let room = with_a_segment(&path, 250) * 4096;
    says(&["check", &name], 0, "sound");
    flip(&path, room + 4096 + 3000);
    let said = says(
        &["check", &name],
        104,
        "segment 0 of checkpoint 1 (slot A) is damaged",
    );
    assert!(
        said.contains("record 101 of the journal") && said.contains("full copy"),
        "{said}"
    );
    says(&["check", "--repair", "--yes", &name], 104, "DAMAGE");
    says(&["dump", &name], 104, "KEY100_fmt");
}

#[test]
fn a_region_that_was_cut_short_says_so() {
    let (_folder, path, name) = made();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(5 << 20).unwrap();
    says(&["show", &name], 104, "CCD-2015");
}

#[test]
fn bench_measures_on_scratch_files_and_removes_them() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let args = [
        "bench",
        "--json",
        "--count",
        "20",
        one.to_str().unwrap(),
        two.to_str().unwrap(),
    ];
    let json = says(&args, 0, "claim check");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(
        value
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["p50_us"].as_f64().unwrap() > 0.0)
    );
    assert!(!one.exists() && !two.exists());
    let (_made, path, name) = made();
    says(&["bench", "--count", "10", &name], 107, "--yes");
    says(&["bench", "--count", "10", "--yes", &name], 0, "durable");
    says(&["check", &name], 0, "sound");
    assert_eq!(region(&path, 0).own_position().unwrap(), Position::EMPTY);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let (_folder, path, name) = made();
    append(&path, 2);
    let mut child = Command::new(env!("CARGO_BIN_EXE_ccd-disk"))
        .args(["dump", "--blocks", &name])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}

#[test]
fn a_loop_device_holds_a_region_exclusively() {
    // Needs root and losetup, and fails without: the test command provides them.
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    fs::File::create(&backing).unwrap().set_len(32 << 20).unwrap();
    let made = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&backing)
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "losetup: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let name = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let detach = Detach(name.clone());
    let path = Path::new(&name);
    let mkfs = [
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--journal-mib",
        "1",
        &name,
    ];
    says(&mkfs, 0, "made region");
    append(path, 3);
    let held = region(path, 0);
    let refused = RawDevice::open(path, Access::Exclusive).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ResourceBusy);
    says(&["show", &name], 0, "0/3.");
    says(&["check", "--repair", &name], 109, "CCD-2002");
    drop(held);
    says(&["dump", &name], 0, "KEY3_fmt");
    assert_eq!(
        RawDevice::open(path, Access::ReadOnly).unwrap().len_bytes(),
        32 << 20
    );
    drop(detach);
}

/// Detaches the loop device also when the test fails.
struct Detach(String);

impl Drop for Detach {
    fn drop(&mut self) {
        let done = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
