//! The program `ccd-disk`: every verb, wrong input included, with its exit code and what it says.

mod support;

use ccd_core::database::{Database, Key, Op, Record, Update, Who};
use ccd_core::ids::{ClusterId, DeviceRole, NodeSet, Position, Replica, RequestId};
use ccd_core::replica::{Heartbeat, ReplicaOp};
use ccd_core::time::Date;
use ccd_disk::device::{Access, Blocks, RawDevice};
use ccd_disk::{ExpectedIdentity, Region};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use support::node;
use tempfile::TempDir;

const ID: &str = "00112233445566778899aabbccddeeff";

fn ccd_disk(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccd-disk"))
        .args(args)
        .env("CCD_ETC", "/nonexistent/etc")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs the program and checks its exit code and that it says something.
fn says(args: &[&str], code: i32, text: &str) -> String {
    let output = ccd_disk(args);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(text), "{args:?}: {text:?} is not in: {said}");
    assert!(!said.contains("panicked"), "{args:?}: {said}");
    said
}

/// A folder with a region of small size in it.
fn made() -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("primary");
    let name = path.to_str().unwrap().to_owned();
    let sizes = ["--image-mib", "1", "--journal-mib", "1"];
    let mut args = vec![
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--cluster-name",
        "prod",
    ];
    args.extend(sizes);
    args.push(&name);
    says(&args, 0, "areas for 2 nodes");
    (folder, path, name)
}

fn region(path: &Path, number: u8) -> Region {
    let cluster = ClusterId(u128::from_str_radix(ID, 16).unwrap().to_be_bytes());
    let replica = Replica::Device(DeviceRole::Primary);
    let device = RawDevice::open(path, Access::Exclusive).unwrap();
    Region::open(
        Box::new(device),
        ExpectedIdentity {
            cluster,
            replica,
            node: node(number),
        },
    )
    .unwrap()
}

/// Appends updates that each define a key.
fn append(path: &Path, count: u64) {
    let mut region = region(path, 0);
    let mut database = Database::default();
    for sequence in 1..=count {
        let update = Update {
            request: RequestId { client: 1, sequence },
            who: Who::default(),
            date: Date(sequence),
            reason: None,
            preconditions: Vec::new(),
            ops: vec![Op::Format {
                key: Key::new(&format!("KEY{sequence}")).unwrap(),
                columns: vec!["name".to_owned()],
            }],
        };
        let (admitted, _) = database.admit(&update).unwrap();
        let epoch = database.position().stamp.epoch;
        let (record, next) = Record::updates(&database, epoch, admitted, vec![update], NodeSet::from_bits(3));
        region
            .execute(ReplicaOp::Append {
                record: Arc::new(record),
                then_survey: true,
            })
            .unwrap();
        database = next;
    }
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], offset).unwrap();
}

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    says(&[], 64, "Usage");
    says(&["frob"], 64, "unrecognized subcommand");
    says(&["show"], 64, "required");
    says(&["show", "--frob", "x"], 64, "unexpected argument");
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
    for verb in ["mkfs", "show", "check", "dump", "heartbeats", "bench"] {
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
fn mkfs_makes_what_it_says_and_dry_run_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r");
    let name = path.to_str().unwrap();
    let mkfs = [
        "mkfs",
        "--role",
        "secondary",
        "--cluster-id",
        ID,
        "--size",
        "20M",
        "--journal-mib",
        "1",
    ];
    says(&[&mkfs[..], &["--dry-run", name]].concat(), 0, "would make");
    assert!(!path.exists());
    let json = says(&[&mkfs[..], &["--json", name]].concat(), 0, "\"written\": true");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["len_bytes"], 20 << 20);
    assert_eq!(value["image_bytes_max"], 3 << 20, "what 20 MiB have room for");
    assert_eq!(fs::metadata(&path).unwrap().len(), 20 << 20);
    let small = folder.path().join("small");
    let args = [
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--size",
        "3M",
        small.to_str().unwrap(),
    ];
    says(&args, 73, "CCD-2040");
    assert!(!small.exists());
    says(&[&mkfs[..], &[name]].concat(), 64, "CCD-2080");
}

#[test]
fn mkfs_destroys_nothing_by_mistake() {
    let (_folder, path, name) = made();
    let mkfs = [
        "mkfs",
        "--role",
        "primary",
        "--cluster-id",
        ID,
        "--image-mib",
        "1",
        "--journal-mib",
        "1",
    ];
    let again = [&mkfs[..], &[&name]].concat();
    says(&again, 108, "--force prod");
    says(&[&again[..], &["--yes"]].concat(), 108, "already is a region");
    says(
        &[&again[..], &["--force", "other", "--yes"]].concat(),
        108,
        "already is a region",
    );
    says(&[&again[..], &["--force", "prod"]].concat(), 107, "--yes");
    says(&["show", &name], 0, "prod");
    says(
        &[&again[..], &["--force", "prod", "--yes"]].concat(),
        0,
        "made region",
    );

    let other = path.with_file_name("ext4");
    let mut content = vec![0; 12 << 20];
    content[0x438] = 0x53;
    content[0x439] = 0xef;
    fs::write(&other, &content).unwrap();
    let other = other.to_str().unwrap();
    says(&[&mkfs[..], &["--yes", other]].concat(), 107, "ext2/3/4");
    assert!(fs::read(other).unwrap() == content, "untouched");
    let unknown = path.with_file_name("unknown");
    content[0x438] = 0;
    fs::write(&unknown, &content).unwrap();
    let unknown = unknown.to_str().unwrap();
    says(&[&mkfs[..], &[unknown]].concat(), 107, "unknown kind");
    assert!(fs::read(unknown).unwrap() == content, "untouched");
    says(&[&mkfs[..], &["--yes", unknown]].concat(), 0, "made region");
}

#[test]
fn the_init_database_gives_cluster_and_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().to_str().unwrap();
    let name = folder.path().join("r");
    let mkfs = [
        "--etc",
        etc,
        "mkfs",
        "--role",
        "primary",
        "--image-mib",
        "1",
        "--journal-mib",
        "1",
    ];
    let mkfs = [&mkfs[..], &[name.to_str().unwrap()]].concat();
    fs::write(folder.path().join("init.ccd"), "rubbish\n").unwrap();
    says(&mkfs, 65, "CCD-2086");
    let rows = format!(
        "CLUSTER:lab:{ID}\nNODE:0:a\nNODE:1:b\nNODE:2:c\nADDRESS:a:10.0.0.1:7900\nADDRESS:b:10.0.0.2:7900\nADDRESS:c:10.0.0.3:7900\n"
    );
    fs::write(folder.path().join("init.ccd"), rows).unwrap();
    says(&mkfs, 0, "areas for 3 nodes");
    says(&["show", name.to_str().unwrap()], 0, "cluster lab");
}

#[test]
fn show_dump_and_heartbeats_tell_what_is_there() {
    let (_folder, path, name) = made();
    says(&["dump", &name], 1, "CCD-2090");
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

/// An init database beside two region files of its cluster, and the arguments that name its folder.
fn with_init(fencing: &str) -> (TempDir, PathBuf, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (primary, secondary) = (folder.path().join("primary"), folder.path().join("secondary"));
    let init = format!(
        "CLUSTER:prod:{ID}\nNODE:0:alpha\nNODE:1:beta\nADDRESS:alpha:10.0.0.1:5640\nADDRESS:beta:10.0.0.2:5640\n\
         DEVICE:primary:{}\nDEVICE:secondary:{}\nOPTION:fencing:{fencing}\n",
        primary.display(),
        secondary.display()
    );
    fs::write(folder.path().join("init.ccd"), init).unwrap();
    let etc = vec!["--etc".to_owned(), folder.path().display().to_string()];
    (folder, primary, etc)
}

fn mkfs_with<'a>(etc: &'a [String], role: &'a str, path: &'a str) -> Vec<&'a str> {
    let mut args: Vec<&str> = etc.iter().map(String::as_str).collect();
    args.extend([
        "mkfs",
        "--role",
        role,
        "--image-mib",
        "1",
        "--journal-mib",
        "1",
        path,
    ]);
    args
}

#[test]
fn probe_prints_what_udev_needs_and_nothing_for_the_rest() {
    let (folder, _, name) = made();
    let said = says(&["probe", &name], 0, "CCD_CLUSTER=prod\n");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert_eq!(
        lines[1..3],
        [&format!("CCD_CLUSTER_ID={ID}")[..], "CCD_ROLE=primary"]
    );
    assert!(lines[3].starts_with("CCD_REGION="), "{said}");
    says(&["probe", "--json", &name], 0, "\"CCD_ROLE\": \"primary\"");
    let other = folder.path().join("other");
    fs::write(&other, vec![7; 1 << 20]).unwrap();
    assert_eq!(says(&["probe", other.to_str().unwrap()], 1, ""), "");
    fs::write(&other, "").unwrap();
    assert_eq!(says(&["probe", other.to_str().unwrap()], 1, ""), "");
    says(&["probe", "/no/such"], 66, "CCD-2001");
}

/// What is on a disk becomes part of a path and of udev's properties.
#[test]
fn probe_prints_no_dangerous_name() {
    for label in ["../../sda", "a b", "x\nCCD_ROLE=primary", "$env{x}", "ä"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("region");
        let name = path.to_str().unwrap();
        let mut args = vec![
            "mkfs",
            "--role",
            "secondary",
            "--cluster-id",
            ID,
            "--cluster-name",
            label,
        ];
        args.extend(["--image-mib", "1", "--journal-mib", "1", name]);
        says(&args, 0, "made region");
        let said = says(&["probe", name], 0, "CCD_ROLE=secondary");
        assert!(
            !said.contains("CCD_CLUSTER=") && said.lines().count() == 3,
            "{said}"
        );
    }
}

#[test]
fn files_cannot_be_fenced_and_say_so() {
    let (_folder, _, name) = made();
    let said = says(
        &["fence", "status", &name],
        1,
        "no reservations here: a file has no reservations",
    );
    assert!(said.contains("--fencing lease"), "{said}");
    let json = says(&["fence", "status", "--json", &name], 1, "\"supported\": false");
    assert!(
        json.contains("\"kind\": \"file\"") && json.contains("\"cluster\": \"prod\""),
        "{json}"
    );
    says(
        &["fence", "register", "--node", "0", "--yes", &name],
        107,
        "CCD-2060",
    );
    says(
        &["fence", "preempt", "--node", "0", "--victim", "1", "--yes", &name],
        107,
        "CCD-2060",
    );
    says(&["fence", "clear", "--yes", &name], 107, "CCD-2060");
    says(&["fence", "status", "/no/such"], 66, "CCD-2061");
    says(&["fence", "status", "/dev/null"], 65, "CCD-2061");
    says(&["fence", "status"], 66, "CCD-2086");
    says(&["fence", "preempt", &name], 64, "--victim");
    says(&["fence"], 64, "Usage");
}

#[test]
fn fence_status_finds_the_devices_of_the_init_database() {
    let (_folder, primary, etc) = with_init("lease");
    let secondary = primary.with_file_name("secondary");
    for (role, path) in [("primary", &primary), ("secondary", &secondary)] {
        says(&mkfs_with(&etc, role, path.to_str().unwrap()), 0, "made region");
    }
    let args: Vec<&str> = etc
        .iter()
        .map(String::as_str)
        .chain(["fence", "status"])
        .collect();
    let said = says(&args, 1, primary.to_str().unwrap());
    assert!(said.contains(secondary.to_str().unwrap()), "{said}");
}

#[test]
fn mkfs_refuses_one_disk_given_twice() {
    let (_folder, primary, etc) = with_init("lease");
    let secondary = primary.with_file_name("secondary");
    fs::write(&primary, vec![0; 16 << 20]).unwrap();
    std::os::unix::fs::symlink(&primary, &secondary).unwrap();
    let said = says(
        &mkfs_with(&etc, "secondary", secondary.to_str().unwrap()),
        107,
        "CCD-2087",
    );
    assert!(said.contains(primary.to_str().unwrap()), "{said}");
    fs::remove_file(&secondary).unwrap();
    fs::write(&secondary, vec![0; 16 << 20]).unwrap();
    says(
        &mkfs_with(&etc, "secondary", secondary.to_str().unwrap()),
        0,
        "made region",
    );
}

#[test]
fn mkfs_tells_that_scsi_fencing_cannot_work_on_a_file() {
    let (_folder, primary, etc) = with_init("scsi");
    fs::write(&primary, vec![0; 16 << 20]).unwrap();
    let said = says(
        &mkfs_with(&etc, "primary", primary.to_str().unwrap()),
        0,
        "made region",
    );
    assert!(said.contains("ccdd will not start on it"), "{said}");
}
