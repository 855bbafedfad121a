//! Replicas with less room than the database may become, and a node whose disk fails, with real daemons. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA, SECONDARY, Shape};
use ccd_tests::process::device::LoopDevice;
use ccd_tests::process::programs::run;
use ccd_tests::process::{Cluster, TestNode, Writer, until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Adds rows of a kilobyte, 100 at a time, until an update is refused for want of room, and returns what the refusal said.
fn fill(node: &TestNode, folder: &Path) -> String {
    node.adm(&["format", "LARGE", "number", "value"]).done();
    let path = folder.join("rows");
    let value = "x".repeat(960);
    for batch in 0..100 {
        let rows: String = (0..100)
            .map(|row| format!("add LARGE:{}:{value}\n", batch * 100 + row))
            .collect();
        fs::write(&path, rows).expect("the folder is ours");
        let applied = node.adm(&["apply", path.to_str().expect("the path is ours")]);
        if applied.code != 0 {
            return applied.expect(73).err;
        }
    }
    panic!("10 MB were taken");
}

fn epoch(node: &TestNode) -> u64 {
    let status = node.status().expect("it runs");
    status["cluster"]["epoch"].as_u64().expect("it serves")
}

#[test]
fn a_pair_does_not_outgrow_its_smallest_device_and_goes_on_with_it_when_a_node_dies() {
    let mut cluster = Cluster::make(Shape::default());
    let device = cluster.devices[SECONDARY].name().to_owned();
    // Images of 4 MiB are what the cluster's option asks for.
    let made = cluster.disk(&[
        "mkfs",
        "--role",
        "secondary",
        "--image-mib",
        "1",
        "--force",
        "test",
        "--yes",
        &device,
    ]);
    assert!(made.expect(0).err.contains("CCD-2092"));
    cluster.start_both();
    let refused = fill(cluster.alpha(), cluster.folder());
    assert!(
        refused.contains("CCD-1208") && refused.contains("the secondary"),
        "{refused}"
    );
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    cluster.alpha().wait_until_done(&["format", "SMALL", "value"]);
    let before = epoch(cluster.alpha());
    for number in 0..20 {
        cluster.alpha().adm(&["add", "SMALL", &number.to_string()]).done();
    }
    assert_eq!(epoch(cluster.alpha()), before, "nothing is decided again");
    let status = cluster.alpha().status().expect("it serves");
    for device in status["devices"].as_array().expect("two devices") {
        assert_eq!(device["in_sync"], Value::Bool(true), "{status}");
    }
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    cluster.verify();
}

/// A file system of its own, on a loop device; unmounted when it is dropped.
struct FileSystem {
    path: PathBuf,
    device: LoopDevice,
}

impl FileSystem {
    fn mount(at: &Path, file: &Path) -> Self {
        let device = LoopDevice::make(file, 40 << 20);
        run("mkfs.ext4", &["-q", "-F", device.name()]).done();
        fs::create_dir_all(at).expect("the folder is ours");
        let path = at.to_str().expect("the path is ours");
        run("mount", &["-o", "errors=remount-ro", device.name(), path]).done();
        Self {
            path: at.to_owned(),
            device,
        }
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let path = self.path.to_str().expect("the path is ours");
        run("umount", &["--lazy", path]);
    }
}

#[test]
fn a_node_whose_disk_fails_is_left_out_at_once_and_for_that_reason() {
    for fails in [ALPHA, BETA] {
        let mut cluster = Cluster::make(Shape::default());
        let state = cluster.nodes[fails].places().state.clone();
        let disk = FileSystem::mount(&state, &cluster.folder().join("disk"));
        cluster.start_both();
        let goes_on = 1 - fails;
        let writer = Writer::start(&[&cluster.nodes[goes_on]]);
        writer.wait_for_more(20);
        let before = epoch(&cluster.nodes[goes_on]);
        disk.device.fail();
        let (_, took) = until("the other node to go on alone", || {
            match cluster.nodes[goes_on].state().as_str() {
                "serving solo" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        writer.wait_for_more(20);
        assert!(took < Duration::from_secs(6), "{took:?}");
        let why = cluster.nodes[goes_on].adm(&["why", "-c", "20"]).done();
        let why = why.shows(&format!("node {fails} cannot write its local copy"));
        assert!(!why.out.contains("has started again"), "{}", why.out);
        assert_eq!(epoch(&cluster.nodes[goes_on]), before + 1);
        let ledger = writer.end();
        ledger.check(&cluster.nodes[goes_on]);
        cluster.nodes[fails].kill();
        drop(disk);
    }
}
