//! A whole cluster: two nodes, two devices, one init database; as an administrator makes it.

use super::device::LoopDevice;
use super::network::{ADDRESSES, Network};
use super::node::TestNode;
use super::programs::{command, program, run, run_command};
use super::until::until;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// Where temporary things go, if not to the system's folder. `tests/run` sets it, to find what was left behind.
pub const FOLDER_VARIABLE: &str = "CCD_TEST_FOLDER";

/// What a cluster is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub lease_ms: u32,
    pub devices: usize,
    /// Of local copies and regions.
    pub image_mib: u32,
    pub journal_mib: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            lease_ms: 1000,
            devices: 2,
            image_mib: 4,
            journal_mib: 2,
        }
    }
}

impl Shape {
    /// Room for two nodes' areas: each has two images with a journal's room behind them, and a journal.
    pub fn device_bytes(self) -> u64 {
        let area_mib = 2 * (self.image_mib + self.journal_mib) + self.journal_mib;
        u64::from(2 * area_mib + 8) << 20
    }
}

/// A cluster of two nodes that do not run yet. Everything is unmade, in this order, when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: [TestNode; 2],
    pub network: Network,
    shape: Shape,
    /// Primary, secondary.
    pub devices: Vec<LoopDevice>,
    folder: TempDir,
    /// Only one cluster at a time where something is measured: that must not depend on what other tests do.
    _turn: Option<File>,
}

pub const ALPHA: usize = 0;
pub const BETA: usize = 1;
pub const PRIMARY: usize = 0;
pub const SECONDARY: usize = 1;

const NAMES: [&str; 2] = ["alpha", "beta"];
const ROLES: [&str; 2] = ["primary", "secondary"];

impl Cluster {
    /// With both nodes running and the pair whole.
    pub fn start() -> Self {
        Self::start_shaped(Shape::default())
    }

    pub fn start_shaped(shape: Shape) -> Self {
        let mut cluster = Self::make(shape);
        cluster.start_both();
        cluster
    }

    /// Sets up the cluster, and makes the regions.
    ///
    /// # Panics
    /// Without root.
    pub fn make(shape: Shape) -> Self {
        Self::make_in_turn(shape, true)
    }

    /// The same beside others, where nothing is measured.
    pub fn make_beside_others(shape: Shape) -> Self {
        Self::make_in_turn(shape, false)
    }

    fn make_in_turn(shape: Shape, is_alone: bool) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the process tests need root, for network namespaces and loop devices: sudo tests/run process"
        );
        let base = std::env::var_os(FOLDER_VARIABLE).map_or_else(std::env::temp_dir, Into::into);
        let turn = is_alone.then(|| take_turn(&base));
        let folder = tempfile::Builder::new().prefix("ccd-test-").tempdir_in(&base);
        let folder = folder.expect("a folder for the test");
        let network = Network::make();
        let devices: Vec<LoopDevice> = ROLES[..shape.devices]
            .iter()
            .map(|role| LoopDevice::make(&folder.path().join(format!("{role}.disk")), shape.device_bytes()))
            .collect();
        let nodes = [ALPHA, BETA].map(|node| {
            let path = folder.path().join(NAMES[node]);
            TestNode::new(NAMES[node], path, network.name(node))
        });
        let cluster = Self {
            nodes,
            network,
            shape,
            devices,
            folder,
            _turn: turn,
        };
        cluster.set_up();
        cluster
    }

    fn set_up(&self) {
        let node = |index: usize| format!("{}={}", NAMES[index], ADDRESSES[index]);
        let (alpha, beta) = (node(ALPHA), node(BETA));
        let lease = format!("lease_ms={}", self.shape.lease_ms);
        let image = format!("image_mib={}", self.shape.image_mib);
        let journal = format!("journal_mib={}", self.shape.journal_mib);
        let mut words = vec![
            "setup",
            "--cluster",
            "test",
            "--node",
            &alpha,
            "--node",
            &beta,
            "--option",
            &image,
            "--option",
            &journal,
            "--option",
            &lease,
            "--this",
            "alpha",
        ];
        for (device, flag) in self.devices.iter().zip(["--primary", "--secondary"]) {
            words.extend([flag, device.name()]);
        }
        if !self.devices.is_empty() {
            words.extend(["--fencing", "lease"]);
        }
        self.nodes[ALPHA].adm(&words).done();
        let [from, to] = [ALPHA, BETA].map(|node| self.nodes[node].places().etc.clone());
        fs::create_dir_all(&to).expect("the folder is ours");
        for name in ["init.ccd", "authkey"] {
            fs::copy(from.join(name), to.join(name)).expect("setup wrote it");
        }
        self.nodes[BETA].adm(&["setup", "--this", "beta"]).done();
        for role in 0..self.devices.len() {
            self.mkfs(role);
        }
    }

    /// Makes the region of a device, as `ccd-disk mkfs` does it for an administrator.
    pub fn mkfs(&self, role: usize) {
        let image_mib = self.shape.image_mib.to_string();
        let journal_mib = self.shape.journal_mib.to_string();
        self.disk(&[
            "mkfs",
            "--role",
            ROLES[role],
            "--image-mib",
            &image_mib,
            "--journal-mib",
            &journal_mib,
            self.devices[role].name(),
        ])
        .done();
    }

    /// `ccd-disk`, with the first node's init database.
    pub fn disk(&self, words: &[&str]) -> super::Finished {
        let folders = self.nodes[ALPHA].folders();
        let mut all: Vec<&str> = words.to_vec();
        all.extend(folders.iter().map(String::as_str));
        run_command(&mut command(program("ccd-disk"), &all))
    }

    /// Gives this node the authkey of another cluster in the place of its own.
    pub fn give_another_key(&self, index: usize) {
        let other = self.folder.path().join("other");
        let other = other.to_str().expect("the path is ours");
        let words = [
            "--etc",
            other,
            "setup",
            "--cluster",
            "other",
            "--node",
            "a=10.0.0.1",
            "--node",
            "b=10.0.0.2",
        ];
        run(program("ccdadm"), &words).done();
        let key = self.nodes[index].places().authkey_path();
        fs::remove_file(&key).expect("setup wrote it");
        fs::copy(format!("{other}/authkey"), &key).expect("setup wrote it");
    }

    pub fn start_both(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        self.wait_until_redundant();
    }

    /// Waits until the pair is whole, as seen from both nodes.
    pub fn wait_until_redundant(&self) {
        for node in &self.nodes {
            node.wait_until_redundant();
        }
    }

    pub fn alpha(&self) -> &TestNode {
        &self.nodes[ALPHA]
    }

    pub fn beta(&self) -> &TestNode {
        &self.nodes[BETA]
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Both copies hold the same, as `ccdadm verify` sees it.
    pub fn verify(&self) {
        until("both copies to be the same", || {
            let verified = self.nodes[ALPHA].adm(&["verify"]);
            if verified.code == 0 {
                Ok(())
            } else {
                Err(verified.out + &verified.err)
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                node.show_log();
            }
        }
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

/// Clusters at once on this machine, whatever runs them: they wait more than they work, but leases must not run out because
/// too many work.
const CLUSTERS_MAX: usize = 3;

/// Waits for one of the places; it is given back with the file.
pub(super) fn take_turn(base: &Path) -> File {
    let places = (0..CLUSTERS_MAX).map(|place| base.join(format!("ccd-test-{place}.lock")));
    let places: Vec<File> = places
        .map(|path| {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path);
            file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect();
    loop {
        for file in &places {
            match file.try_lock() {
                Ok(()) => return file.try_clone().expect("a file can be cloned"),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("a file cannot be locked: {error}"),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
