//! What happens when a shared device fails and returns, and which lone starts are allowed, with real daemons on loop
//! devices. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};
use ccd_tests::process::{Cluster, Writer, never, until};
use serde_json::Value;
use std::time::Duration;

/// While it serves: what a configuration that is not opened yet says does not count.
fn in_sync(cluster: &Cluster, node: usize, role: usize) -> Result<bool, String> {
    let status = cluster.nodes[node].status()?;
    if status["cluster"]["state"] != "serving" {
        return Err(cluster.nodes[node].adm(&["status"]).out);
    }
    Ok(status["devices"][role]["in_sync"] == Value::Bool(true))
}

fn wait_for_sync(cluster: &Cluster, node: usize, role: usize, expected: bool) {
    until(
        &format!("device {role} to be in sync: {expected}"),
        || match in_sync(cluster, node, role)? {
            found if found == expected => Ok(()),
            _ => Err(cluster.nodes[node].adm(&["status"]).out),
        },
    );
}

#[test]
fn a_pair_goes_on_without_either_device_and_takes_it_back_when_it_returns() {
    for role in [PRIMARY, SECONDARY] {
        let cluster = Cluster::start();
        let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
        writer.wait_for_more(20);
        cluster.devices[role].fail();
        wait_for_sync(&cluster, ALPHA, role, false);
        cluster.alpha().wait_for("serving paired");
        assert_eq!(
            cluster.alpha().adm(&["status"]).code,
            1,
            "a lost device is degraded"
        );
        writer.wait_for_more(20);
        cluster.devices[role].repair();
        cluster.wait_until_redundant();
        writer.wait_for_more(20);
        let ledger = writer.end();
        for node in &cluster.nodes {
            ledger.check(node);
        }
        cluster.verify();
    }
}

#[test]
fn two_live_nodes_need_no_device_at_all() {
    let cluster = Cluster::start();
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(20);
    for role in [PRIMARY, SECONDARY] {
        cluster.devices[role].fail();
        wait_for_sync(&cluster, ALPHA, role, false);
        writer.wait_for_more(20);
    }
    cluster.beta().wait_for("serving paired");
    for device in &cluster.devices {
        device.repair();
    }
    cluster.wait_until_redundant();
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
}

#[test]
fn a_replaced_disk_is_made_a_region_while_the_pair_serves_and_taken_in() {
    for role in [PRIMARY, SECONDARY] {
        let cluster = Cluster::start();
        let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
        writer.wait_for_more(20);
        cluster.devices[role].fail();
        wait_for_sync(&cluster, ALPHA, role, false);
        cluster.devices[role].replace();
        cluster.mkfs(role);
        cluster.wait_until_redundant();
        writer.wait_for_more(20);
        let ledger = writer.end();
        for node in &cluster.nodes {
            ledger.check(node);
        }
    }
}

#[test]
fn a_solo_owner_goes_on_with_either_device_and_brings_a_new_one_up_to_date() {
    for role in [PRIMARY, SECONDARY] {
        let mut cluster = Cluster::start();
        cluster.nodes[BETA].kill();
        cluster.alpha().wait_for("serving solo");
        let writer = Writer::start(&[cluster.alpha()]);
        writer.wait_for_more(20);
        cluster.devices[role].fail();
        wait_for_sync(&cluster, ALPHA, role, false);
        writer.wait_for_more(20);
        cluster.devices[role].repair();
        wait_for_sync(&cluster, ALPHA, role, true);
        writer.wait_for_more(20);
        // The device that came back is enough to know everything.
        cluster.devices[1 - role].fail();
        wait_for_sync(&cluster, ALPHA, 1 - role, false);
        let ledger = writer.end();
        cluster.nodes[ALPHA].kill();
        cluster.nodes[ALPHA].start();
        cluster.alpha().wait_for("serving solo");
        ledger.check(cluster.alpha());
        cluster.devices[1 - role].repair();
        cluster.nodes[BETA].start();
        cluster.wait_until_redundant();
        ledger.check(cluster.beta());
    }
}

#[test]
fn a_secondary_made_anew_is_resynced_with_no_daemon_and_both_are_in_sync_from_the_start() {
    let mut cluster = Cluster::start();
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    let writer = Writer::start(&[cluster.alpha()]);
    cluster.devices[SECONDARY].fail();
    wait_for_sync(&cluster, ALPHA, SECONDARY, false);
    writer.wait_for_more(20);
    let [primary, secondary] = [PRIMARY, SECONDARY].map(|role| cluster.devices[role].name().to_owned());
    // The daemon has the devices.
    let refused = cluster.disk(&["resync", "--yes", &secondary]);
    assert_ne!(refused.code, 0, "{}", refused.err);
    let ledger = writer.end();
    cluster.nodes[ALPHA].kill();
    cluster.devices[SECONDARY].replace();
    cluster.mkfs(SECONDARY);
    let planned = cluster.disk(&["resync", "--dry-run", &secondary]).expect(0).out;
    assert!(planned.contains("would write"), "{planned}");
    let done = cluster.disk(&["resync", "--yes", &secondary]).expect(0).out;
    assert!(done.contains("wrote"), "{done}");
    let dumped = [&primary, &secondary].map(|device| cluster.disk(&["dump", device]).expect(0).out);
    assert_eq!(dumped[0], dumped[1]);
    cluster.disk(&["check", &secondary]).done();
    let again = cluster.disk(&["resync", &secondary]).expect(0).out;
    assert!(again.contains("nothing to do"), "{again}");
    cluster.nodes[ALPHA].start();
    cluster.alpha().wait_for("serving solo");
    wait_for_sync(&cluster, ALPHA, SECONDARY, true);
    ledger.check(cluster.alpha());
    let refused = cluster.disk(&["resync", "--yes", &secondary]).expect(109);
    assert!(refused.err.contains("CCD-2130"), "{}", refused.err);
    // The one that was made anew is enough to know everything.
    cluster.devices[PRIMARY].fail();
    wait_for_sync(&cluster, ALPHA, PRIMARY, false);
    cluster.nodes[ALPHA].kill();
    cluster.nodes[ALPHA].start();
    cluster.alpha().wait_for("serving solo");
    ledger.check(cluster.alpha());
    cluster.devices[PRIMARY].repair();
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    ledger.check(cluster.beta());
}

/// A lone start: what was lost before both nodes ended, who starts, with which devices, and whether it may.
struct LoneStart {
    title: &'static str,
    /// Lost one after the other while the pair served.
    lost_by_pair: &'static [usize],
    /// Whether alpha was alone before the end, and the device that it lost then.
    solo: Option<Option<usize>>,
    starts: usize,
    /// Devices that work when it starts.
    with: &'static [usize],
    /// The word that the refusal must have; allowed without one.
    missing: Option<&'static str>,
}

/// DESIGN §7: every row of its table, each with the nearest allowed and refused start.
const LONE_STARTS: &[LoneStart] = &[
    LoneStart {
        title: "paired, with both devices",
        lost_by_pair: &[],
        solo: None,
        starts: BETA,
        with: &[PRIMARY, SECONDARY],
        missing: None,
    },
    LoneStart {
        title: "paired, with the primary",
        lost_by_pair: &[],
        solo: None,
        starts: BETA,
        with: &[PRIMARY],
        missing: None,
    },
    LoneStart {
        title: "paired, with the secondary",
        lost_by_pair: &[],
        solo: None,
        starts: ALPHA,
        with: &[SECONDARY],
        missing: Some("primary"),
    },
    LoneStart {
        title: "paired without secondary, with the primary",
        lost_by_pair: &[SECONDARY],
        solo: None,
        starts: BETA,
        with: &[PRIMARY],
        missing: None,
    },
    LoneStart {
        title: "paired without secondary, with the secondary",
        lost_by_pair: &[SECONDARY],
        solo: None,
        starts: BETA,
        with: &[SECONDARY],
        missing: Some("primary"),
    },
    LoneStart {
        title: "paired without primary, with the secondary",
        lost_by_pair: &[PRIMARY],
        solo: None,
        starts: ALPHA,
        with: &[SECONDARY],
        missing: None,
    },
    LoneStart {
        title: "paired without primary, with the primary",
        lost_by_pair: &[PRIMARY],
        solo: None,
        starts: ALPHA,
        with: &[PRIMARY],
        missing: Some("secondary"),
    },
    LoneStart {
        title: "paired without any device",
        lost_by_pair: &[PRIMARY, SECONDARY],
        solo: None,
        starts: ALPHA,
        with: &[PRIMARY, SECONDARY],
        missing: Some("beta"),
    },
    LoneStart {
        title: "solo, owner with the primary",
        lost_by_pair: &[],
        solo: Some(None),
        starts: ALPHA,
        with: &[PRIMARY],
        missing: None,
    },
    LoneStart {
        title: "solo, owner with the secondary",
        lost_by_pair: &[],
        solo: Some(None),
        starts: ALPHA,
        with: &[SECONDARY],
        missing: None,
    },
    LoneStart {
        title: "solo, the other with both",
        lost_by_pair: &[],
        solo: Some(None),
        starts: BETA,
        with: &[PRIMARY, SECONDARY],
        missing: None,
    },
    LoneStart {
        title: "solo, the other with the primary",
        lost_by_pair: &[],
        solo: Some(None),
        starts: BETA,
        with: &[PRIMARY],
        missing: Some("secondary"),
    },
    LoneStart {
        title: "solo on the primary, the other with it",
        lost_by_pair: &[],
        solo: Some(Some(SECONDARY)),
        starts: BETA,
        with: &[PRIMARY],
        missing: None,
    },
    LoneStart {
        title: "solo on the primary, the other with the secondary",
        lost_by_pair: &[],
        solo: Some(Some(SECONDARY)),
        starts: BETA,
        with: &[SECONDARY],
        missing: Some("primary"),
    },
    LoneStart {
        title: "solo on the secondary, the other with it",
        lost_by_pair: &[],
        solo: Some(Some(PRIMARY)),
        starts: BETA,
        with: &[SECONDARY],
        missing: None,
    },
];

#[test]
fn a_lone_start_is_allowed_or_refused_as_the_votes_say_and_the_refusal_names_what_is_missing() {
    let only = std::env::var("CCD_TEST_ROW").ok();
    for row in LONE_STARTS {
        if only.as_deref().is_none_or(|only| only == row.title) {
            check_lone_start(row);
        }
    }
}

fn check_lone_start(row: &LoneStart) {
    let mut cluster = Cluster::start();
    let writer = Writer::start(&[cluster.alpha()]);
    for role in row.lost_by_pair {
        cluster.devices[*role].fail();
        wait_for_sync(&cluster, ALPHA, *role, false);
    }
    if let Some(lost) = row.solo {
        cluster.nodes[BETA].kill();
        cluster.alpha().wait_for("serving solo");
        if let Some(role) = lost {
            cluster.devices[role].fail();
            wait_for_sync(&cluster, ALPHA, role, false);
        }
    }
    writer.wait_for_more(10);
    let ledger = writer.end();
    // Both at once, as in a power cut: nobody takes over from the other.
    for node in &cluster.nodes {
        if node.is_running() {
            node.stop();
        }
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    for (role, device) in cluster.devices.iter().enumerate() {
        if row.with.contains(&role) {
            device.repair();
        } else {
            device.fail();
        }
    }
    cluster.nodes[row.starts].start();
    let lone = &cluster.nodes[row.starts];
    match row.missing {
        None => {
            let took = lone.wait_for("serving solo");
            println!("{}: serves after {} ms", row.title, took.as_millis());
            ledger.check(lone);
        }
        Some(missing) => {
            lone.wait_for("waiting");
            let (verdict, _) = until("the refusal to name what is missing", || match lone.verdict() {
                verdict if verdict.contains("missing") && verdict.contains(missing) => Ok(verdict),
                verdict => Err(verdict),
            });
            // It does not change its mind: longer than any takeover takes.
            never("it serves after all", Duration::from_secs(4), || {
                Some(lone.state()).filter(|state| state.starts_with("serving"))
            });
            println!("{}: refused: {verdict}", row.title);
            lone.adm(&["query", "LOAD", "1"]).expect(2).says_what_to_try();
        }
    }
    for device in &cluster.devices {
        device.repair();
    }
    cluster.nodes[1 - row.starts].start();
    cluster.wait_until_redundant();
    for node in &cluster.nodes {
        ledger.check(node);
    }
}
