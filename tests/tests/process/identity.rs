//! Disks that are not shared, a second daemon with the identity of the first, and a removed one beside the new owner of its number, with
//! real daemons. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA, SECONDARY, Shape};
use ccd_tests::process::device::LoopDevice;
use ccd_tests::process::network::Network;
use ccd_tests::process::{Cluster, TestNode, never, until};
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// Both servers have the same name for the secondary, and each its own disk there.
fn with_two_secondaries() -> (Cluster, LoopDevice) {
    let cluster = Cluster::make(Shape::default());
    let shared = cluster.devices[SECONDARY].name().to_owned();
    let private = LoopDevice::make(
        &cluster.folder().join("private.disk"),
        Shape::default().device_bytes(),
    );
    let mkfs = [
        "mkfs",
        "--role",
        "secondary",
        "--image-mib",
        "4",
        "--journal-mib",
        "2",
        private.name(),
    ];
    cluster.disk(&mkfs).done();
    for (index, device) in [(ALPHA, shared.as_str()), (BETA, private.name())] {
        let init = cluster.nodes[index].places().init_path();
        let text = fs::read_to_string(&init).expect("setup wrote it");
        fs::write(&init, text.replace(&shared, "/proc/self/cwd/secondary")).expect("it can be written");
        symlink(device, cluster.nodes[index].folder().join("secondary")).expect("the folder is ours");
    }
    (cluster, private)
}

#[test]
fn servers_with_different_disks_under_one_name_form_no_cluster() {
    let (mut cluster, _private) = with_two_secondaries();
    for node in &mut cluster.nodes {
        node.start();
    }
    // Both say the same once they have told each other: what alpha finds comes first. Beta says what it finds itself before.
    for node in [ALPHA, BETA] {
        until("the first line to name the disk", || {
            let told = cluster.nodes[node].adm(&["status"]);
            let first = told.out.lines().next().unwrap_or_default().to_owned();
            let expected = "on alpha: the secondary is not the same disk on beta";
            if first.contains(expected) && told.code == 2 {
                Ok(())
            } else {
                Err(format!("{}: {}", told.code, told.out))
            }
        });
    }
    never("a cluster to be formed", Duration::from_secs(4), || {
        let told = cluster.alpha().adm(&["status"]);
        (told.code != 2).then_some(told.out)
    });
}

#[test]
fn a_second_daemon_with_the_identity_of_a_node_stays_closed_and_says_where_the_other_runs() {
    let cluster = Cluster::start();
    // A copy of the machine of beta, with no network to the others.
    let folder = cluster.folder().join("copy");
    let copied = std::process::Command::new("cp")
        .args(["-a", "--"])
        .arg(cluster.beta().folder())
        .arg(&folder)
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    let elsewhere = Network::make();
    let mut copy = TestNode::new("copy", folder, elsewhere.name(BETA));
    copy.start();
    until("the copy to find the other", || {
        let told = copy.adm(&["status"]);
        let first = told.out.lines().next().unwrap_or_default().to_owned();
        if first.contains("another ccdd runs as beta (incarnation ")
            && first.contains("host ")
            && told.code == 2
        {
            Ok(())
        } else {
            Err(format!("{}: {}", told.code, told.out))
        }
    });
    never("the pair to be disturbed", Duration::from_secs(4), || {
        let told = cluster.alpha().adm(&["status"]);
        (told.code != 0).then_some(told.out)
    });
    copy.kill();
}

/// A server with the name of beta and an address of its own, which the cluster has given beta's number.
fn successor_of_beta(cluster: &Cluster) -> TestNode {
    const ADDRESS: &str = "10.77.0.3";
    cluster.network.add_address(BETA, ADDRESS);
    until("alpha to go on without beta", || {
        let added = cluster.alpha().ctl(&["remove-node", "--yes", "beta"]);
        if added.code == 0 { Ok(()) } else { Err(added.err) }
    });
    (cluster.alpha().ctl(&["add-node", &format!("beta={ADDRESS}")])).done();
    let successor = TestNode::new(
        "beta",
        cluster.folder().join("successor"),
        cluster.network.name(BETA),
    );
    let [from, to] = [cluster.alpha(), &successor].map(|node| node.places().etc.clone());
    fs::create_dir_all(&to).expect("the folder is ours");
    for name in ["init.ccd", "authkey"] {
        fs::copy(from.join(name), to.join(name)).expect("they are there");
    }
    successor.adm(&["setup", "--this", "beta"]).done();
    successor
}

fn says_that_it_was_removed(node: &TestNode) {
    until("the removed server to say so in its first line", || {
        let told = node.adm(&["status"]);
        let first = told.out.lines().next().unwrap_or_default().to_owned();
        let expected = [
            "was removed from the cluster",
            "the number 1 belongs to the server with id",
            "stop ccdd here",
        ];
        if expected.iter().all(|expected| first.contains(expected)) && told.code == 2 {
            Ok(())
        } else {
            Err(format!("{}: {}", told.code, told.out))
        }
    });
}

#[test]
fn a_removed_daemon_that_was_stopped_leaves_its_number_and_name_to_their_new_owner() {
    for goes_on_first in [true, false] {
        let mut cluster = Cluster::start();
        cluster.beta().stop();
        let mut successor = successor_of_beta(&cluster);
        if goes_on_first {
            cluster.beta().resume();
            says_that_it_was_removed(cluster.beta());
            successor.start();
        } else {
            successor.start();
            successor.wait_until_redundant();
            cluster.beta().resume();
            says_that_it_was_removed(cluster.beta());
        }
        for node in [&successor, cluster.alpha()] {
            node.wait_until_redundant();
        }
        // Also after a restart, however it ended.
        cluster.nodes[BETA].kill();
        cluster.nodes[BETA].start();
        says_that_it_was_removed(cluster.beta());
        never("the pair to be disturbed", Duration::from_secs(4), || {
            let told = [cluster.alpha(), &successor].map(|node| node.adm(&["status"]));
            let disturbed = told.into_iter().find(|told| told.code != 0);
            disturbed.map(|told| told.out)
        });
        says_that_it_was_removed(cluster.beta());
        // The new owner goes on alone, beside the removed one.
        cluster.nodes[ALPHA].kill();
        until("the new owner to serve alone", || {
            let found = successor.state();
            if found == "serving solo" {
                Ok(())
            } else {
                Err(format!("{found}: {}", successor.verdict()))
            }
        });
        says_that_it_was_removed(cluster.beta());
        successor.kill();
    }
}
