//! What a node says of the cluster: what is wrong with one node is said by all, and what would be survived is computed from what each
//! of them can use.

use ccd_core::client::{Answer, Reply, RequestBody};
use ccd_core::drill::Rehearsed;
use ccd_core::ids::{DeviceRole, NodeId};
use ccd_core::init::Fencing;
use ccd_core::problem::{Cause, Health, Problem};
use ccd_core::protocol::{Part, Status};
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::{HEARTBEAT, LEASE};
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const PAIR: Shape = Shape { nodes: 2, devices: 2 };
const THREE: Shape = Shape { nodes: 3, devices: 0 };

fn node(server: usize) -> NodeId {
    NodeId::new(server as u8).unwrap()
}

fn status(cluster: &Cluster, server: usize) -> Status {
    cluster.status(server).expect("it runs")
}

/// What is wrong, as every node says it; they must agree.
fn agreed(cluster: &Cluster, servers: &[usize]) -> Vec<(Cause, Option<NodeId>, Option<DeviceRole>)> {
    let seen = |server: &usize| -> Vec<_> {
        let problems = status(cluster, *server).problems;
        (problems.iter())
            .map(|problem| (problem.cause, problem.node, problem.device))
            .collect()
    };
    let mut all = servers.iter().map(seen);
    let first = all.next().expect("a node");
    for (other, server) in all.zip(&servers[1..]) {
        assert_eq!(other, first, "n{server}");
    }
    first
}

fn survives(status: &Status, lost: Part) -> bool {
    let found = status.survives.iter().find(|(part, _)| *part == lost);
    found.expect("it is named").1
}

#[test]
fn what_one_node_cannot_use_is_said_by_both_and_counts_for_what_would_be_survived() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.run_for(SETTLED);
    assert_eq!(agreed(&cluster, &[A, B]), []);
    for role in DeviceRole::ALL {
        cluster.lose_path(B, role);
    }
    cluster.run_for(SETTLED);
    let missing = DeviceRole::ALL.map(|role| (Cause::DeviceUnusable, Some(node(B)), Some(role)));
    let found = agreed(&cluster, &[A, B]);
    assert_eq!(found[..2], missing, "{found:?}");
    for server in [A, B] {
        let status = status(&cluster, server);
        assert_eq!(status.health(), Health::Degraded, "n{server}");
        assert!(
            !survives(&status, Part::Node(node(A))),
            "n{server}: B has no device to go on with"
        );
        assert!(survives(&status, Part::Node(node(B))), "n{server}");
        assert!(survives(&status, Part::Device(DeviceRole::Primary)), "n{server}");
        assert!(
            status.problems[0].text.contains("/dev/primary"),
            "{}",
            status.problems[0].text
        );
    }
    // What A shows of the devices names what B sees.
    for device in status(&cluster, A).devices {
        assert!(device.usable);
        let seen = device
            .elsewhere
            .iter()
            .find(|seen| seen.node == node(B))
            .expect("B is named");
        assert_eq!(seen.usable, Some(false));
        assert!(
            seen.error
                .as_ref()
                .is_some_and(|error| error.contains("cannot be used")),
            "{seen:?}"
        );
    }
    // A drill on either node says the same.
    for server in [A, B] {
        let goes_on = [A, B].map(|lost| rehearsed_death(&mut cluster, server, lost));
        assert_eq!(goes_on, [Some(false), Some(true)], "n{server}");
    }
    for role in DeviceRole::ALL {
        cluster.return_path(B, role);
    }
    cluster.run_for(LEASE * 30);
    assert_eq!(agreed(&cluster, &[A, B]), []);
    assert_eq!(status(&cluster, A).health(), Health::Redundant);
}

/// Every path that can be lost, on either node, and then each single loss: 64 outages.
#[test]
fn what_is_said_to_be_survived_is_what_is_survived() {
    let parts = [
        Part::Node(node(A)),
        Part::Node(node(B)),
        Part::Device(DeviceRole::Primary),
        Part::Device(DeviceRole::Secondary),
    ];
    for lost_paths in 0..16_usize {
        for lost in parts {
            let mut cluster = Cluster::serving(PAIR);
            cluster.run_for(SETTLED);
            for (bit, role) in DeviceRole::ALL.into_iter().cycle().take(4).enumerate() {
                if lost_paths & 1 << bit != 0 {
                    cluster.lose_path(bit / 2, role);
                }
            }
            cluster.run_for(SETTLED);
            let said = [A, B].map(|server| survives(&status(&cluster, server), lost));
            assert_eq!(
                said[0], said[1],
                "paths {lost_paths:04b}, {lost:?}: both say the same"
            );
            let left: &[usize] = match lost {
                Part::Node(gone) if gone == node(A) => {
                    cluster.crash(A, false);
                    &[B]
                }
                Part::Node(_) => {
                    cluster.crash(B, false);
                    &[A]
                }
                Part::Device(role) => {
                    cluster.lose_device(role);
                    &[A, B]
                }
            };
            // What it had of its lease is over.
            cluster.run_for(LEASE * 2);
            let goes_on = left.iter().any(|server| cluster.serves_within(*server, SETTLED));
            assert_eq!(
                goes_on,
                said[0],
                "paths {lost_paths:04b}, {lost:?}: {:?}",
                left.iter()
                    .map(|server| cluster.verdict(*server))
                    .collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn a_link_that_is_cut_in_a_group_leaves_a_cluster_that_comes_to_rest() {
    for devices in [0, 1, 2] {
        for (one, other) in [(A, B), (A, 2), (B, 2)] {
            for is_one_way in [false, true] {
                let mut cluster = Cluster::serving(Shape { nodes: 3, devices });
                if is_one_way {
                    cluster.network.cut(one, other);
                } else {
                    cluster.cut_pair(one, other);
                }
                cluster.run_for(LEASE * 90);
                let epoch = cluster.configuration().epoch;
                let mut unanswered = [0; 3];
                for _ in 0..60 {
                    cluster.run_for(LEASE / 2);
                    for (server, count) in unanswered.iter_mut().enumerate() {
                        *count += usize::from(!cluster.serves(server));
                    }
                }
                let epochs = cluster.configuration().epoch.0 - epoch.0;
                let what = format!(
                    "{devices} devices, {one}-{other}, one way: {is_one_way}: {unanswered:?}, {epochs} epochs, {} | {} | {}",
                    cluster.verdict(0),
                    cluster.verdict(1),
                    cluster.verdict(2)
                );
                assert!(epochs <= 2, "{what}");
                // One may be left out; the others answer.
                assert!(
                    unanswered.iter().filter(|count| **count <= 4).count() >= 2,
                    "{what}"
                );
            }
        }
    }
}

/// What a drill on this server makes of the death of that member.
fn rehearsed_death(cluster: &mut Cluster, server: usize, member: usize) -> Option<bool> {
    let AskEnd::Reply(Reply::Ok(Answer::Drilled(report))) = cluster.command(server, RequestBody::Drill)
    else {
        panic!("a drill");
    };
    let dies = Rehearsed::NodeDies(node(member));
    let found = report
        .rehearsals
        .iter()
        .find(|rehearsal| rehearsal.event == dies)?;
    assert_ne!(found.goes_on, !found.missing.is_empty(), "{found:?}");
    Some(found.goes_on)
}

/// Every set of links that can be cut in a group of three, each link of a group of four, and then each node. What a node says that serves holds.
#[test]
fn what_a_group_with_cut_links_is_said_to_survive_is_what_it_survives() {
    for (nodes, devices, cut_max) in [(3, 0, 3), (3, 2, 3), (4, 0, 1), (4, 2, 1)] {
        let all: Vec<usize> = (0..nodes).collect();
        let links: Vec<(usize, usize)> = (all.iter())
            .flat_map(|one| (one + 1..nodes).map(move |other| (*one, other)))
            .collect();
        for cut in (0..1_usize << links.len()).filter(|cut| cut.count_ones() <= cut_max) {
            for lost in 0..nodes {
                let mut cluster = Cluster::serving(Shape { nodes, devices });
                for (bit, (one, other)) in links.iter().enumerate() {
                    if cut & 1 << bit != 0 {
                        cluster.cut_pair(*one, *other);
                    }
                }
                // A node that comes and goes is let in again after longer and longer pauses.
                cluster.run_for(LEASE * 60);
                let serving: Vec<usize> = all.iter().copied().filter(|node| cluster.serves(*node)).collect();
                let part = Part::Node(node(lost));
                let said: Vec<bool> = (serving.iter())
                    .map(|server| survives(&status(&cluster, *server), part))
                    .collect();
                let what = format!(
                    "{nodes} nodes, {devices} devices, links {cut:b}, n{lost}, by {serving:?}: {said:?}"
                );
                if cut.count_ones() < 2 {
                    assert!(!serving.is_empty(), "{what}");
                }
                if cut.count_ones() == 1 {
                    for server in &serving {
                        assert_eq!(status(&cluster, *server).health(), Health::Degraded, "{what}");
                    }
                }
                for (server, said) in serving.iter().zip(&said) {
                    let drilled = rehearsed_death(&mut cluster, *server, lost);
                    assert!(
                        drilled.is_none_or(|goes_on| goes_on == *said),
                        "{what}, a drill on n{server}"
                    );
                }
                cluster.crash(lost, false);
                cluster.run_for(LEASE * 2);
                let mut goes_on = false;
                for server in all.iter().filter(|server| **server != lost) {
                    goes_on |= cluster.add_within(*server, &format!("by n{server}"), SETTLED / 2);
                }
                // A node that nobody hears does not know what the others could do; and of four some can decide now and then, and serve for a moment.
                let is_known = cut.count_ones() < 2 && nodes == 3;
                let holds = |said: &bool| *said == goes_on || !*said && !is_known;
                assert!(said.iter().all(holds), "{what}, in fact {goes_on}");
            }
        }
    }
}

#[test]
fn what_a_node_that_is_not_there_can_use_is_said_to_be_unknown() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(B, false);
    cluster.run_for(SETTLED);
    let status = status(&cluster, A);
    assert_eq!(status.health(), Health::Degraded);
    let found: Vec<Cause> = status.problems.iter().map(|problem| problem.cause).collect();
    assert_eq!(found, [Cause::NodeOut]);
    assert!(
        status.problems[0].text.contains("not known"),
        "{}",
        status.problems[0].text
    );
    for device in status.devices {
        assert!(
            device.elsewhere.iter().all(|seen| seen.usable.is_none()),
            "{device:?}"
        );
    }
}

#[test]
fn what_the_driver_of_one_node_finds_is_said_by_all_until_it_finds_it_no_more() {
    let mut cluster = Cluster::serving(THREE);
    cluster.run_for(SETTLED);
    let edited = Problem::new(Cause::InitFile, "init.ccd was edited").next("put it back");
    cluster.driver_finds(B, vec![edited.clone()]);
    cluster.run_for(LEASE);
    assert_eq!(
        agreed(&cluster, &[0, 1, 2]),
        [(Cause::InitFile, Some(node(B)), None)]
    );
    assert_eq!(status(&cluster, 2).problems, [edited.on(node(B))]);
    assert_eq!(status(&cluster, 2).health(), Health::Degraded);
    // A run that starts again has nothing to say before its driver has.
    cluster.crash(B, false);
    cluster.start(B);
    cluster.run_for(SETTLED);
    assert_eq!(agreed(&cluster, &[0, 1, 2]), []);
    cluster.driver_finds(B, vec![Problem::new(Cause::BranchKept, "a branch is kept")]);
    cluster.run_for(LEASE);
    assert_eq!(
        agreed(&cluster, &[0, 1, 2]),
        [(Cause::BranchKept, Some(node(B)), None)]
    );
    assert_eq!(
        status(&cluster, 2).health(),
        Health::Redundant,
        "nothing is less safe for it"
    );
    cluster.driver_finds(B, Vec::new());
    cluster.run_for(LEASE);
    assert_eq!(agreed(&cluster, &[0, 1, 2]), []);
}

#[test]
fn a_node_that_has_left_is_not_counted_on_for_going_on() {
    for shape in [PAIR, THREE] {
        let mut cluster = Cluster::serving(shape);
        cluster.run_for(SETTLED);
        cluster.command(B, RequestBody::Leave);
        cluster.run_for(SETTLED);
        let said = survives(&status(&cluster, A), Part::Node(node(A)));
        let left: Vec<usize> = (1..shape.nodes).collect();
        cluster.crash(A, false);
        cluster.run_for(LEASE * 2);
        let served = left.iter().any(|server| cluster.serves_within(*server, SETTLED));
        assert_eq!((said, served), (false, false), "{shape:?}");
    }
}

/// Neither when the first configuration opens, nor later.
#[test]
fn a_new_cluster_has_no_problems_from_the_moment_that_it_serves() {
    for shape in [PAIR, THREE] {
        let mut cluster = Cluster::stopped(shape);
        for server in 0..shape.nodes {
            cluster.start(server);
        }
        for _ in 0..4_000 {
            cluster.run_for(LEASE / 2_000);
            for server in 0..shape.nodes {
                let status = status(&cluster, server);
                if status.health() != Health::NotServing {
                    let known: Vec<&Problem> = (status.problems.iter())
                        .filter(|problem| problem.cause != Cause::NodeOut)
                        .collect();
                    assert!(known.is_empty(), "{shape:?}, n{server}: {known:?}");
                }
            }
        }
        let all: Vec<usize> = (0..shape.nodes).collect();
        assert_eq!(agreed(&cluster, &all), []);
    }
}

/// Copies of two of four servers were counted on, and are no more. Their originals have older copies than the other two.
#[test]
fn the_node_with_the_newest_copy_is_the_one_to_overrule_on() {
    let mut cluster = Cluster::serving(Shape { nodes: 4, devices: 0 });
    assert!(cluster.add_within(A, "first", SETTLED));
    let copies = [2, 3].map(|server| {
        let copy = cluster.copy_server(server);
        cluster.crash(server, true);
        cluster.connect_instead(copy, server);
        cluster.start(copy);
        assert!(
            cluster.serves_within(copy, 2 * SETTLED),
            "{}",
            cluster.verdict(copy)
        );
        copy
    });
    assert!(cluster.add_within(A, "since", SETTLED));
    for copy in copies {
        cluster.crash(copy, true);
    }
    // Nobody serves any more, and gives its copy to those who come.
    cluster.run_for(3 * LEASE);
    for (copy, server) in copies.into_iter().zip([2, 3]) {
        cluster.connect_instead(server, copy);
        cluster.start(server);
    }
    cluster.run_for(6 * LEASE);
    for server in [2, 3] {
        let problems = status(&cluster, server).problems;
        let moved = problems
            .iter()
            .filter(|problem| problem.cause == Cause::Moved && problem.node == Some(node(server)));
        let next: Vec<&str> = moved.map(|problem| problem.next.as_str()).collect();
        let [next] = next[..] else {
            panic!("n{server}: {problems:?}");
        };
        assert!(
            next.starts_with("on node 0, which has the newest copy: ccdctl takeover --force")
                || next.starts_with("on node 1, which has the newest copy: ccdctl takeover --force"),
            "n{server}: {next}"
        );
    }
}

#[test]
fn a_device_that_is_slower_than_heartbeats_is_said_to_be_and_the_cluster_is_redundant() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.device_lag = HEARTBEAT * 3 / 2;
    cluster.run_for(10 * LEASE);
    let slow = |cluster: &Cluster| {
        let problems = status(cluster, A).problems;
        problems
            .iter()
            .filter(|problem| problem.cause == Cause::DeviceSlow)
            .count()
    };
    assert!(slow(&cluster) > 0, "{:?}", status(&cluster, A).problems);
    assert!(cluster.serves(A));
    cluster.device_lag = Duration::ZERO;
    cluster.run_for(10 * LEASE);
    assert_eq!(slow(&cluster), 0, "{:?}", status(&cluster, A).problems);
    assert_eq!(status(&cluster, A).health(), Health::Redundant);
}

/// The daemon says that the other one refuses the connection: it is there, and its heartbeats move on the devices.
#[test]
fn a_refused_connection_is_no_cut_network() {
    for (fencing, is_refused) in [
        (Fencing::Lease, false),
        (Fencing::Lease, true),
        (Fencing::Scsi, true),
    ] {
        let mut cluster = Cluster::serving_with(PAIR, fencing);
        cluster.cut_pair(A, B);
        for (server, other) in [(A, B), (B, A)] {
            let text =
                format!("node{other} is there, and there is no connection: refused: the authkey differs");
            if is_refused {
                cluster.driver_finds(server, vec![Problem::new(Cause::Refused, text)]);
            }
        }
        cluster.run_for(6 * LEASE);
        for server in [A, B] {
            let problems = status(&cluster, server).problems;
            let speaks_of_cut = problems.iter().any(|problem| {
                problem.cause == Cause::NetworkCut || problem.text.contains("the network between us is cut")
            });
            assert_eq!(speaks_of_cut, !is_refused, "n{server}, {fencing:?}: {problems:?}");
            assert_eq!(
                problems[0].cause == Cause::Refused,
                is_refused,
                "n{server}, {fencing:?}: {problems:?}"
            );
        }
    }
}
