//! Ways to devices that fail, of one node or of both, and nodes that die then.

use super::nodes::GONE;
use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};
use std::time::Duration;

const OF_ALPHA: &[(usize, usize)] = &[(ALPHA, PRIMARY), (ALPHA, SECONDARY)];
const OF_BETA: &[(usize, usize)] = &[(BETA, PRIMARY), (BETA, SECONDARY)];
const ALL: &[(usize, usize)] = &[
    (ALPHA, PRIMARY),
    (ALPHA, SECONDARY),
    (BETA, PRIMARY),
    (BETA, SECONDARY),
];
const CROSSWISE: &[(usize, usize)] = &[(ALPHA, PRIMARY), (BETA, SECONDARY)];

const PRIMARY_OF_ALPHA: &[&str] = &[
    "serving, degraded: on alpha: the primary",
    "cannot be used",
    "ccd-disk show",
];
const ONE_LEFT: &[&str] = &[
    "serving, degraded: on alpha: the primary",
    "cannot be used",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk show",
];
const NONE_LEFT: &[&str] = &[
    "serving, degraded: on alpha",
    ": both devices: the primary",
    "cannot be used",
    "queries and updates work, and would stop with the loss of alpha, or of beta",
    "ccd-disk show",
];
const STOPPED: &[&str] = &[
    "NOT SERVING",
    "the primary",
    "cannot be used",
    "no update is taken here",
    "next: ccd-disk show",
];

/// Until the nodes have seen it.
fn missed(stage: &super::stage::Stage, words: &str) {
    ccd_tests::process::until_within(
        Duration::from_secs(30),
        Duration::from_millis(200),
        "the devices to be missed",
        || {
            let status = stage.alpha().adm(&["status"]).out;
            if status.contains(words) {
                Ok(())
            } else {
                Err(status)
            }
        },
    );
}

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "The master loses its path to a device",
        cause: |stage| stage.fail(&[(ALPHA, PRIMARY)]),
        alpha: seen(1, ONE_LEFT),
        beta: seen(1, ONE_LEFT),
        cure: Some(|stage| stage.repair(&[(ALPHA, PRIMARY)])),
    },
    Situation {
        name: "The master loses its paths to both devices",
        cause: |stage| stage.fail(OF_ALPHA),
        alpha: seen(1, NONE_LEFT),
        beta: seen(1, NONE_LEFT),
        cure: Some(|stage| stage.repair(OF_ALPHA)),
    },
    Situation {
        name: "Each node loses its path to another device",
        cause: |stage| stage.fail(CROSSWISE),
        alpha: seen(1, PRIMARY_OF_ALPHA),
        beta: seen(1, PRIMARY_OF_ALPHA),
        cure: Some(|stage| stage.repair(CROSSWISE)),
    },
    Situation {
        name: "Both devices fail for both nodes",
        cause: |stage| stage.fail(ALL),
        alpha: seen(1, NONE_LEFT),
        beta: seen(1, NONE_LEFT),
        cure: Some(|stage| stage.repair(ALL)),
    },
    Situation {
        name: "Both devices fail for both nodes, and then one node dies",
        cause: |stage| {
            stage.fail(ALL);
            // The two devices have been left out.
            missed(stage, "out of sync");
            stage.node_mut(BETA).kill();
        },
        alpha: seen(
            1,
            &[
                "QUERIES ONLY: on alpha: both devices: the primary",
                "missing: beta; queries work",
                "queries work, updates do not",
                "next: ccd-disk show",
            ],
        ),
        beta: seen(69, GONE),
        cure: Some(|stage| {
            stage.repair(ALL);
            stage.node_mut(BETA).start();
        }),
    },
    Situation {
        name: "One node dies, and the other one loses both devices",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            stage.alpha().wait_for("serving solo");
            stage.fail(OF_ALPHA);
        },
        alpha: seen(2, STOPPED),
        beta: seen(69, GONE),
        cure: Some(|stage| {
            stage.repair(OF_ALPHA);
            stage.node_mut(BETA).start();
        }),
    },
    Situation {
        name: "One node has lost both devices, and the master dies",
        cause: |stage| {
            stage.fail(OF_BETA);
            missed(stage, "would stop with the loss of alpha");
            stage.node_mut(ALPHA).kill();
        },
        alpha: seen(69, GONE),
        beta: seen(2, STOPPED),
        cure: Some(|stage| {
            stage.repair(OF_BETA);
            stage.node_mut(ALPHA).start();
        }),
    },
    Situation {
        name: "The network is cut, and one node has lost both devices",
        cause: |stage| {
            stage.fail(OF_BETA);
            stage.network.cut();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta",
                "queries and updates work",
                "would stop with the loss of alpha",
            ],
        ),
        beta: seen(2, STOPPED),
        cure: Some(|stage| {
            stage.repair(OF_BETA);
            stage.network.heal();
        }),
    },
    Situation {
        name: "The network is cut, and both devices fail for both nodes",
        cause: |stage| {
            stage.fail(ALL);
            stage.network.cut();
        },
        alpha: seen(2, STOPPED),
        beta: seen(2, STOPPED),
        cure: Some(|stage| {
            stage.repair(ALL);
            stage.network.heal();
        }),
    },
    Situation {
        name: "One node loses its path to the secondary",
        cause: |stage| stage.fail(&[(BETA, SECONDARY)]),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary",
                "cannot be used",
                "queries and updates work, and would go on after any single loss",
                "next, on beta: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary",
                "cannot be used",
                "next: ccd-disk show",
            ],
        ),
        cure: Some(|stage| stage.repair(&[(BETA, SECONDARY)])),
    },
];
