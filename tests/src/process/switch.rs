//! Any number of network namespaces on one switch: nodes can be unplugged, and deafened to one another.

use super::network::TAG_VARIABLE;
use super::programs::run;
use std::sync::atomic::{AtomicU32, Ordering};

/// Name of the link in each node's namespace.
const LINK: &str = "ccd0";

/// The address of a node; the namespaces are cut off from everything else.
pub fn address(node: usize) -> String {
    format!("10.78.0.{}", node + 1)
}

/// A namespace for each node and one for the switch, deleted when it is dropped.
#[derive(Debug)]
pub struct Switch {
    names: Vec<String>,
    switch: String,
}

impl Switch {
    /// # Panics
    /// Without root, or without iproute2.
    pub fn make(nodes: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let tag = std::env::var(TAG_VARIABLE).unwrap_or_else(|_| "ccd-test".to_owned());
        let process = std::process::id();
        let made = Self {
            names: (0..nodes)
                .map(|node| format!("{tag}-{process}-m{count}n{node}"))
                .collect(),
            switch: format!("{tag}-{process}-m{count}s"),
        };
        let switch = &made.switch;
        ip(&["netns", "add", switch]);
        ip(&["-n", switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", switch, "link", "set", "br0", "up"]);
        for (node, name) in made.names.iter().enumerate() {
            let port = port(node);
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&[
                "-n", name, "link", "add", LINK, "type", "veth", "peer", "name", &port, "netns", switch,
            ]);
            ip(&["-n", switch, "link", "set", &port, "master", "br0"]);
            ip(&["-n", switch, "link", "set", &port, "up"]);
            let address = format!("{}/24", address(node));
            ip(&["-n", name, "address", "add", &address, "dev", LINK]);
            ip(&["-n", name, "link", "set", LINK, "up"]);
        }
        made
    }

    /// The namespace of a node.
    pub fn name(&self, node: usize) -> &str {
        &self.names[node]
    }

    /// Pulls the node's cable.
    pub fn unplug(&self, node: usize) {
        ip(&["-n", &self.switch, "link", "set", &port(node), "down"]);
    }

    pub fn plug_in(&self, node: usize) {
        ip(&["-n", &self.switch, "link", "set", &port(node), "up"]);
    }

    /// Loses, without a word, what `from` sends to `to`; the other direction stays whole.
    pub fn deafen(&self, from: usize, to: usize) {
        let to = format!("{}/32", address(to));
        ip(&["-n", &self.names[from], "route", "replace", "blackhole", &to]);
    }

    /// Also if nothing was cut there.
    pub fn undeafen(&self, from: usize, to: usize) {
        let to = format!("{}/32", address(to));
        let _ = run("ip", &["-n", &self.names[from], "route", "del", "blackhole", &to]);
    }
}

/// The node's port on the switch.
fn port(node: usize) -> String {
    format!("port{node}")
}

impl Drop for Switch {
    fn drop(&mut self) {
        for name in self.names.iter().chain([&self.switch]) {
            // The links go with their namespaces; what is not there any more needs no deleting.
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    run("ip", arguments).done();
}
