//! Two network namespaces joined by one link, which can be cut in several ways.

use super::programs::run;
use std::sync::atomic::{AtomicU32, Ordering};

/// How the names of namespaces begin. `tests/run` sets it, to find what was left behind.
pub const TAG_VARIABLE: &str = "CCD_TEST_TAG";

/// Name of the link on both sides.
const LINK: &str = "ccd0";

/// Addresses of the nodes, in order; the namespaces are cut off from everything else.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// Two namespaces, deleted when it is dropped.
#[derive(Debug)]
pub struct Network {
    names: [String; 2],
}

impl Network {
    /// # Panics
    /// Without root, or without iproute2.
    pub fn make() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = std::env::var(TAG_VARIABLE).unwrap_or_else(|_| "ccd-test".to_owned());
        let process = std::process::id();
        let network = Self {
            names: ["a", "b"].map(|side| format!("{tag}-{process}-{count}{side}")),
        };
        for name in &network.names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let [a, b] = &network.names;
        ip(&[
            "-n", a, "link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", b,
        ]);
        for (name, address) in network.names.iter().zip(ADDRESSES) {
            let address = format!("{address}/24");
            ip(&["-n", name, "address", "add", &address, "dev", LINK]);
            ip(&["-n", name, "link", "set", LINK, "up"]);
        }
        network
    }

    /// The namespace of a node.
    pub fn name(&self, node: usize) -> &str {
        &self.names[node]
    }

    /// A node's side gets one more address.
    pub fn add_address(&self, node: usize, address: &str) {
        let address = format!("{address}/24");
        ip(&["-n", &self.names[node], "address", "add", &address, "dev", LINK]);
    }

    /// Pulls the cable.
    pub fn cut(&self) {
        ip(&["-n", &self.names[0], "link", "set", LINK, "down"]);
    }

    pub fn heal(&self) {
        ip(&["-n", &self.names[0], "link", "set", LINK, "up"]);
    }

    /// Loses, without a word, everything that `node` sends to the other; the other direction stays whole.
    pub fn cut_sender(&self, node: usize) {
        let to = format!("{}/32", ADDRESSES[1 - node]);
        ip(&["-n", &self.names[node], "route", "add", "blackhole", &to]);
    }

    pub fn heal_sender(&self, node: usize) {
        let to = format!("{}/32", ADDRESSES[1 - node]);
        ip(&["-n", &self.names[node], "route", "del", "blackhole", &to]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            // The link goes with its namespace; what is not there any more needs no deleting.
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    run("ip", arguments).done();
}
