//! Five real daemons without shared disks: what clients see while nodes die, stand still and are cut off.

use ccd_tests::process::chaos::rage;
use ccd_tests::process::clients::Clients;
use ccd_tests::process::quorum::Quorum;
use ccd_tests::process::{never, until};
use ccd_tests::sim::Random;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;

/// From the environment, to try others: `CCD_CHAOS_SEED=7 tests/run process chaos`.
fn seed() -> u64 {
    let given = std::env::var("CCD_CHAOS_SEED").ok();
    given.map_or(1, |seed| seed.parse().expect("CCD_CHAOS_SEED is a number"))
}

#[test]
fn five_nodes_in_chaos_answer_as_one() {
    let mut random = Random::new(seed());
    let mut cluster = Quorum::start(5, &[]);
    let clients = Clients::start(&cluster.nodes, CLIENTS, &mut random);
    clients.wait_for_more(50);
    let told = rage(&mut cluster, &mut random, Duration::from_secs(40));
    println!("{}", told.join("\n"));
    let healed = Instant::now();
    cluster.wait_until_whole();
    println!("whole {} ms after the last trouble", healed.elapsed().as_millis());
    clients.wait_for_more(50);
    clients.end_and_check(&cluster.nodes);
    cluster.verify();
}

#[test]
fn five_nodes_go_on_while_two_are_dead_and_stand_still_when_a_third_dies() {
    let mut random = Random::new(seed());
    let mut cluster = Quorum::start(5, &[]);
    let clients = Clients::start(&cluster.nodes, CLIENTS, &mut random);
    clients.wait_for_more(20);
    // The master among them.
    for node in [0, 3] {
        let killed = Instant::now();
        cluster.nodes[node].kill();
        until("the others to go on without it", || {
            let status = cluster.nodes[1].status()?;
            let state = &status["nodes"][node]["state"];
            if status["cluster"]["state"] == "serving" && state == "absent" {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
        println!(
            "{} died: reconfigured after {} ms",
            cluster.nodes[node].name,
            killed.elapsed().as_millis()
        );
        clients.wait_for_more(20);
    }
    cluster.nodes[4].kill();
    until("the rest to stop", || match cluster.nodes[1].state().as_str() {
        "serving paired" => Err("still serving".to_owned()),
        _ => Ok(()),
    });
    let acked = clients.acked();
    never(
        "an update was acked by two of five",
        Duration::from_secs(3),
        || (clients.acked() > acked).then(|| clients.acked().to_string()),
    );
    for node in [0, 3, 4] {
        cluster.nodes[node].start();
    }
    cluster.wait_until_whole();
    clients.wait_for_more(20);
    clients.end_and_check(&cluster.nodes);
    cluster.verify();
}

#[test]
fn a_node_that_is_cut_off_from_four_others_stops_and_they_go_on() {
    let mut random = Random::new(seed());
    let cluster = Quorum::start(5, &[]);
    let clients = Clients::start(&cluster.nodes, CLIENTS, &mut random);
    // The master, then another one.
    for node in [0, 2] {
        clients.wait_for_more(20);
        cluster.switch.unplug(node);
        let other = &cluster.nodes[4];
        until("four nodes to go on", || {
            let status = other.status()?;
            let member = status["nodes"][node]["state"] == "absent";
            if member && status["cluster"]["state"] == "serving" {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
        let alone = &cluster.nodes[node];
        assert_ne!(alone.state(), "serving paired");
        alone
            .adm(&["query", "K0", "--timeout", "1s"])
            .expect(2)
            .says_what_to_try();
        clients.wait_for_more(20);
        cluster.switch.plug_in(node);
        cluster.wait_until_whole();
    }
    clients.end_and_check(&cluster.nodes);
    cluster.verify();
}
