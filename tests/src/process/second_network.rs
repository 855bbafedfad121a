//! A second network between the two nodes, and ways in which networks fail.

use super::cluster::Cluster;
use super::network::ADDRESSES;
use super::programs::run;
use std::fs;

/// Addresses of the nodes on the second network, in order.
pub const SECOND_ADDRESSES: [&str; 2] = ["10.78.0.1", "10.78.0.2"];

const LINKS: [&str; 2] = ["ccd0", "ccd1"];
const NAMES: [&str; 2] = ["alpha", "beta"];

/// Where frames go that nobody is to get.
const NOBODY: &str = "02:00:00:00:00:99";

fn ip(arguments: &[&str]) {
    run("ip", arguments).done();
}

/// Lays a second network between the nodes of a cluster that does not run yet, and adds it to both init databases.
///
/// # Panics
/// Without root, or without iproute2.
pub fn add(cluster: &Cluster) {
    let [a, b] = [0, 1].map(|node| cluster.network.name(node));
    let link = LINKS[1];
    ip(&[
        "-n", a, "link", "add", link, "type", "veth", "peer", "name", link, "netns", b,
    ]);
    for (node, name) in [a, b].into_iter().enumerate() {
        let address = format!("{}/24", SECOND_ADDRESSES[node]);
        ip(&["-n", name, "address", "add", &address, "dev", link]);
        ip(&["-n", name, "link", "set", link, "up"]);
    }
    for node in &cluster.nodes {
        let path = node.places().init_path();
        let mut text = fs::read_to_string(&path).expect("setup wrote it");
        for (name, address) in NAMES.iter().zip(SECOND_ADDRESSES) {
            text.push_str(&format!("ADDRESS:{name}:{address}:\n"));
        }
        fs::write(&path, text).expect("the folder is ours");
    }
}

/// Pulls the cable of a network, counted from 0.
pub fn pull(cluster: &Cluster, network: usize) {
    ip(&[
        "-n",
        cluster.network.name(0),
        "link",
        "set",
        LINKS[network],
        "down",
    ]);
}

pub fn plug(cluster: &Cluster, network: usize) {
    ip(&["-n", cluster.network.name(0), "link", "set", LINKS[network], "up"]);
}

/// From now on the network loses every packet, both ways, and nobody is told.
pub fn swallow(cluster: &Cluster, network: usize) {
    neighbours(cluster, network, |to| {
        vec!["replace", to, "lladdr", NOBODY, "nud", "permanent"]
    });
}

pub fn carry(cluster: &Cluster, network: usize) {
    neighbours(cluster, network, |to| vec!["del", to]);
}

fn neighbours(cluster: &Cluster, network: usize, words: impl Fn(&'static str) -> Vec<&'static str>) {
    let addresses = [ADDRESSES, SECOND_ADDRESSES][network];
    for node in 0..2 {
        let mut all = vec!["-n", cluster.network.name(node), "neigh"];
        all.extend(words(addresses[1 - node]));
        all.extend(["dev", LINKS[network]]);
        ip(&all);
    }
}
