//! A cluster of any number of nodes without shared disks, as an administrator makes it.

use super::cluster::{FOLDER_VARIABLE, take_turn};
use super::node::TestNode;
use super::switch::{Switch, address};
use super::until::{until, until_within};
use std::fs::{self, File};
use std::time::Duration;
use tempfile::TempDir;

const NAMES: [&str; 7] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta"];

/// How long a cluster that was torn apart may take to be whole.
const PATIENCE: Duration = Duration::from_secs(60);

/// A quorum cluster. Everything is unmade, in this order, when it is dropped.
#[derive(Debug)]
pub struct Quorum {
    pub nodes: Vec<TestNode>,
    pub switch: Switch,
    folder: TempDir,
    /// Only one cluster at a time: what is measured must not depend on what other tests do.
    _turn: File,
}

impl Quorum {
    /// With all nodes running, and all of them members.
    pub fn start(nodes: usize, options: &[&str]) -> Self {
        let mut cluster = Self::make(nodes, options);
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_until_whole();
        cluster
    }

    /// Sets up the cluster; nothing runs yet. Options are `name=value`.
    ///
    /// # Panics
    /// Without root.
    pub fn make(nodes: usize, options: &[&str]) -> Self {
        Self::make_with_spares(nodes, 0, options)
    }

    /// The same, beside so many servers that are no nodes of it yet.
    ///
    /// # Panics
    /// Without root.
    pub fn make_with_spares(nodes: usize, spares: usize, options: &[&str]) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the process tests need root, for network namespaces: sudo tests/run process"
        );
        let base = std::env::var_os(FOLDER_VARIABLE).map_or_else(std::env::temp_dir, Into::into);
        let turn = take_turn(&base);
        let folder = tempfile::Builder::new().prefix("ccd-test-").tempdir_in(&base);
        let folder = folder.expect("a folder for the test");
        let switch = Switch::make(nodes + spares);
        let made = Self {
            nodes: (0..nodes + spares)
                .map(|node| TestNode::new(NAMES[node], folder.path().join(NAMES[node]), switch.name(node)))
                .collect(),
            switch,
            folder,
            _turn: turn,
        };
        made.set_up(nodes, options);
        made
    }

    fn set_up(&self, nodes: usize, options: &[&str]) {
        let all = &self.nodes[..nodes];
        let nodes: Vec<String> = (all.iter().enumerate())
            .map(|(number, node)| format!("{}={}", node.name, address(number)))
            .collect();
        let mut words = vec!["setup", "--cluster", "test", "--this", self.nodes[0].name];
        for node in &nodes {
            words.extend(["--node", node]);
        }
        for option in ["image_mib=4", "journal_mib=2"].iter().chain(options) {
            words.extend(["--option", option]);
        }
        let (first, others) = all.split_first().expect("a cluster has a node");
        first.adm(&words).done();
        for (index, node) in others.iter().enumerate() {
            self.copy_files(0, index + 1);
            node.adm(&["setup", "--this", node.name]).done();
        }
    }

    /// Copies what every node of the cluster has, from one to another.
    pub fn copy_files(&self, from: usize, to: usize) {
        let [from, to] = [from, to].map(|node| &self.nodes[node].places().etc);
        fs::create_dir_all(to).expect("the folder is ours");
        for name in ["init.ccd", "authkey"] {
            fs::copy(from.join(name), to.join(name)).expect("they are there");
        }
    }

    /// As the init database names it.
    pub fn address(&self, node: usize) -> String {
        address(node)
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Waits until every node serves with all nodes as members.
    pub fn wait_until_whole(&self) {
        for node in &self.nodes {
            let what = format!("{} to serve with all nodes as members", node.name);
            until_within(PATIENCE, Duration::from_millis(100), &what, || {
                let status = node.status()?;
                let whole = status["cluster"]["state"] == "serving"
                    && (status["nodes"].as_array().into_iter().flatten())
                        .all(|node| node["state"].as_str().is_some_and(|state| state == "serving"));
                if whole { Ok(()) } else { Err(status.to_string()) }
            });
        }
    }

    /// All copies hold the same, as `ccdadm verify` sees it.
    pub fn verify(&self) {
        until("all copies to be the same", || {
            let verified = self.nodes[0].adm(&["verify"]);
            if verified.code == 0 {
                Ok(())
            } else {
                Err(verified.out + &verified.err)
            }
        });
    }
}

impl Drop for Quorum {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                node.show_log();
            }
        }
        for node in &mut self.nodes {
            if node.is_running() {
                node.resume();
            }
            node.kill();
        }
    }
}
