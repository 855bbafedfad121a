//! A router between the two nodes of a cluster, whose links can be made narrower than the nodes' own while they run: what is larger is
//! lost without a word, as on a path whose tunnel or switch has a smaller MTU and whose ICMP somebody filters.

use super::cluster::Cluster;
use super::network::ADDRESSES;
use super::programs::run;

const LINK: &str = "ccd0";

/// The router's ends of the two links.
const ENDS: [&str; 2] = ["to0", "to1"];

/// A router; it is deleted when it is dropped.
#[derive(Debug)]
pub struct Router {
    name: String,
}

fn ip(arguments: &[&str]) {
    run("ip", arguments).done();
}

impl Router {
    /// Puts it into the link between the nodes of a cluster that does not run yet.
    ///
    /// # Panics
    /// Without root, or without iproute2.
    pub fn between(cluster: &Cluster) -> Self {
        let nodes = [0, 1].map(|node| cluster.network.name(node));
        let router = Self {
            name: format!("{}r", nodes[0]),
        };
        let name = &router.name;
        ip(&["-n", nodes[0], "link", "del", LINK]);
        ip(&["netns", "add", name]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        for ((node, end), address) in nodes.into_iter().zip(ENDS).zip(ADDRESSES) {
            ip(&[
                "-n", name, "link", "add", end, "type", "veth", "peer", "name", LINK, "netns", node,
            ]);
            ip(&["-n", name, "link", "set", end, "up"]);
            let with_mask = format!("{address}/24");
            ip(&["-n", node, "address", "add", &with_mask, "dev", LINK]);
            ip(&["-n", node, "link", "set", LINK, "up"]);
            let host = format!("{address}/32");
            ip(&["-n", name, "route", "add", &host, "dev", end]);
            // It answers for the other node, which seems to be on the same network.
            router.set(&format!("net/ipv4/conf/{end}/proxy_arp"));
        }
        router.set("net/ipv4/ip_forward");
        // What the router itself would say: that packets are too large.
        ip(&["-n", name, "rule", "add", "iif", "lo", "blackhole"]);
        router
    }

    fn set(&self, key: &str) {
        let set = format!("echo 1 > /proc/sys/{key}");
        ip(&["netns", "exec", &self.name, "sh", "-c", &set]);
    }

    /// From now on packets of more than so many bytes are lost, both ways.
    pub fn narrow(&self, bytes: u32) {
        for end in ENDS {
            let bytes = bytes.to_string();
            ip(&["-n", &self.name, "link", "set", end, "mtu", &bytes]);
        }
    }

    pub fn widen(&self) {
        self.narrow(1_500);
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // Its links go with it.
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}
