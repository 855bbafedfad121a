//! A pair in which each node has ways of its own to the two devices, so that one node's can fail alone.

use ccd_tests::process::cluster::{ALPHA, BETA, Shape};
use ccd_tests::process::device::LoopDevice;
use ccd_tests::process::{Cluster, Finished, TestNode, until};
use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

const ROLES: [&str; 2] = ["primary", "secondary"];

pub struct Stage {
    cluster: Cluster,
    /// By role: beta's way to the device that alpha reaches by `cluster.devices`.
    paths_of_beta: Vec<LoopDevice>,
    /// Disks that take the place of others.
    strangers: Vec<LoopDevice>,
}

impl Deref for Stage {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Stage {
    /// Both nodes run, and all is redundant.
    pub fn set() -> Self {
        let cluster = Cluster::make_beside_others(Shape::default());
        let paths_of_beta: Vec<LoopDevice> = cluster.devices.iter().map(LoopDevice::second_path).collect();
        for node in [ALPHA, BETA] {
            let init = cluster.nodes[node].places().init_path();
            let mut text = fs::read_to_string(&init).expect("setup wrote it");
            for (role, device) in ROLES.iter().zip(&cluster.devices) {
                // The daemon runs in the folder of its node.
                // The name of one may begin with that of the other: loop1, loop10.
                text = text.replace(
                    &format!(":{}\n", device.name()),
                    &format!(":/proc/self/cwd/{role}\n"),
                );
            }
            fs::write(&init, text).expect("the folder is ours");
        }
        let mut stage = Self {
            cluster,
            paths_of_beta,
            strangers: Vec::new(),
        };
        for role in 0..ROLES.len() {
            for node in [ALPHA, BETA] {
                stage.connect(node, role);
            }
        }
        stage.start_both();
        stage
    }

    fn link(&self, node: usize, role: usize) -> PathBuf {
        self.nodes[node].folder().join(ROLES[role])
    }

    pub fn path(&self, node: usize, role: usize) -> &LoopDevice {
        if node == ALPHA {
            &self.cluster.devices[role]
        } else {
            &self.paths_of_beta[role]
        }
    }

    /// The node's name for the device leads to it.
    pub fn connect(&self, node: usize, role: usize) {
        let link = self.link(node, role);
        // It may not be there.
        let _ = fs::remove_file(&link);
        symlink(self.path(node, role).path(), link).expect("the folder is ours");
    }

    /// The device is not there at the next start of the node.
    pub fn disconnect(&self, node: usize, role: usize) {
        fs::remove_file(self.link(node, role)).expect("it was connected");
    }

    /// Another disk, with a region of the same cluster and role, is there instead at the next start of the node.
    pub fn exchange(&mut self, node: usize, role: usize) {
        let file = self.folder().join(format!("other-{node}-{role}.disk"));
        let other = LoopDevice::make(&file, Shape::default().device_bytes());
        self.mkfs(role, &[other.name()]).done();
        let link = self.link(node, role);
        fs::remove_file(&link).expect("it was connected");
        symlink(other.path(), link).expect("the folder is ours");
        self.strangers.push(other);
    }

    /// What both devices hold now, on disks of its own, is there instead at the next start of the node.
    pub fn copy_devices(&mut self, node: usize) {
        for (role, content) in self.contents().into_iter().enumerate() {
            let file = self.folder().join(format!("copy-{node}-{role}.disk"));
            let copy = LoopDevice::make(&file, Shape::default().device_bytes());
            fs::write(copy.path(), content).expect("it is our device");
            let link = self.link(node, role);
            fs::remove_file(&link).expect("it was connected");
            symlink(copy.path(), link).expect("the folder is ours");
            self.strangers.push(copy);
        }
    }

    /// A region of the usual size.
    fn mkfs(&self, role: usize, more: &[&str]) -> Finished {
        let words = [
            "mkfs",
            "--role",
            ROLES[role],
            "--image-mib",
            "4",
            "--journal-mib",
            "2",
        ];
        self.disk(&[&words[..], more].concat())
    }

    /// Makes the region anew while the cluster runs, as soon as no daemon uses it any more.
    pub fn make_anew(&self, role: usize) {
        let path = self.path(ALPHA, role).name();
        until("the device to be free", || {
            let made = self.mkfs(role, &["--force", "test", "--yes", path]);
            if made.code == 0 { Ok(()) } else { Err(made.err) }
        });
    }

    /// What both devices hold now.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        let read = |role: usize| {
            let disk = self.path(ALPHA, role);
            disk.content(0, disk.len_bytes())
        };
        (0..ROLES.len()).map(read).collect()
    }

    /// Both devices hold this again.
    pub fn put_back(&self, contents: &[Vec<u8>]) {
        for (role, content) in contents.iter().enumerate() {
            fs::write(self.path(ALPHA, role).path(), content).expect("it is our device");
        }
    }

    /// These ways to devices fail.
    pub fn fail(&self, ways: &[(usize, usize)]) {
        for (node, role) in ways {
            self.path(*node, *role).fail();
        }
    }

    pub fn repair(&self, ways: &[(usize, usize)]) {
        for (node, role) in ways {
            self.path(*node, *role).repair();
        }
    }

    pub fn kill_both(&mut self) {
        for node in [ALPHA, BETA] {
            self.nodes[node].kill();
        }
    }

    /// Beta is down for that.
    pub fn restart_beta_after(&mut self, change: impl Fn(&Self)) {
        self.nodes[BETA].kill();
        change(self);
        self.nodes[BETA].start();
    }

    pub fn restart(&mut self, node: usize) {
        self.nodes[node].kill();
        self.nodes[node].start();
    }

    pub fn node_mut(&mut self, node: usize) -> &mut TestNode {
        &mut self.cluster.nodes[node]
    }
}
