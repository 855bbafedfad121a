//! Running `ccd-disk`, and regions in files for it.

use super::{committed, node};
use ccd_core::database::{Database, Key, Op};
use ccd_core::ids::{ClusterId, DeviceRole, Replica};
use ccd_core::replica::ReplicaOp;
use ccd_disk::device::RawDevice;
use ccd_disk::format::geometry::Slot;
use ccd_disk::{ExpectedIdentity, Region};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub const ID: &str = "00112233445566778899aabbccddeeff";

fn ccd_disk(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ccd-disk"))
        .args(args)
        .env("CCD_ETC", "/nonexistent/etc")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Runs the program and checks its exit code and that it says something.
pub fn says(args: &[&str], code: i32, text: &str) -> String {
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
pub fn made() -> (TempDir, PathBuf, String) {
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

pub fn region(path: &Path, number: u8) -> Region {
    let cluster = ClusterId(u128::from_str_radix(ID, 16).unwrap().to_be_bytes());
    let replica = Replica::Device(DeviceRole::Primary);
    let device = RawDevice::open_when_free(path).unwrap();
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
pub fn append(path: &Path, count: u64) {
    let mut region = region(path, 0);
    let mut database = Database::default();
    for sequence in 1..=count {
        let op = Op::Format {
            key: Key::new(&format!("KEY{sequence}")).unwrap(),
            columns: vec!["name".to_owned()],
        };
        let (record, next) = committed(&database, sequence, op);
        region
            .execute(ReplicaOp::Append {
                record,
                then_survey: true,
            })
            .unwrap();
        database = next;
    }
}

/// Defines 100 keys, which an image holds, and 15 that are in two segments behind it; so many more follow in the journal. Returns
/// the first block of the segments.
pub fn with_a_segment(path: &Path, behind: u64) -> u64 {
    let mut region = region(path, 0);
    let mut database = Database::default();
    for sequence in 1..=115 + behind {
        let op = Op::Format {
            key: Key::new(&format!("KEY{sequence}")).unwrap(),
            columns: (0..20).map(|column| format!("column_number_{column}")).collect(),
        };
        let (record, next) = committed(&database, sequence, op);
        database = next;
        let append = ReplicaOp::Append {
            record,
            then_survey: false,
        };
        region.execute(append).unwrap();
        if [100, 110, 115].contains(&sequence) {
            let database = database.clone();
            region.execute(ReplicaOp::Checkpoint { database }).unwrap();
        }
    }
    assert_eq!(region.own_segments().unwrap(), 2);
    region.superblock().geometry.segments(node(0), Slot::A)
}

pub fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], offset).unwrap();
}

/// An init database beside two region files of its cluster, and the arguments that name its folder.
pub fn with_init(fencing: &str) -> (TempDir, PathBuf, Vec<String>) {
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

pub fn mkfs_with<'a>(etc: &'a [String], role: &'a str, path: &'a str) -> Vec<&'a str> {
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
