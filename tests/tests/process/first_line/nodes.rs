//! Nodes that die, hang, or start alone.

use super::{Situation, seen};
use ccd_tests::process::clock::clock_ahead;
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};

/// Nothing is heard of beta.
pub const AWAY: &[&str] = &[
    "serving, degraded: without beta: nothing is heard of it",
    "queries and updates work, and would stop with the loss of alpha",
    "next: on beta: systemctl status ccdd",
];

pub const GONE: &[&str] = &["CCD-1101", "ccdd does not run"];

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "One node is stopped by systemd",
        cause: |stage| {
            stage.node_mut(BETA).terminate();
        },
        alpha: seen(1, AWAY),
        beta: seen(69, GONE),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
    Situation {
        name: "The master dies",
        cause: |stage| stage.node_mut(ALPHA).kill(),
        alpha: seen(69, GONE),
        beta: seen(
            1,
            &[
                "serving, degraded: without alpha: nothing is heard of it",
                "queries and updates work, and would stop with the loss of beta",
                "next: on alpha: systemctl status ccdd",
            ],
        ),
        cure: Some(|stage| stage.node_mut(ALPHA).start()),
    },
    Situation {
        name: "The master hangs",
        cause: |stage| stage.alpha().stop(),
        alpha: seen(124, &["CCD-1105", "is stopped by a signal"]),
        beta: seen(
            1,
            &[
                "serving, degraded: without alpha: nothing is heard of it",
                "queries and updates work, and would stop with the loss of beta",
            ],
        ),
        cure: Some(|stage| stage.alpha().resume()),
    },
    Situation {
        name: "Both nodes hang",
        cause: |stage| {
            stage.alpha().stop();
            stage.beta().stop();
        },
        alpha: seen(124, &["CCD-1105", "is stopped by a signal"]),
        beta: seen(124, &["CCD-1105", "is stopped by a signal"]),
        cure: Some(|stage| {
            stage.alpha().resume();
            stage.beta().resume();
        }),
    },
    Situation {
        name: "Both nodes were down, and the master starts alone",
        cause: |stage| {
            stage.kill_both();
            stage.node_mut(ALPHA).start();
        },
        alpha: seen(1, AWAY),
        beta: seen(69, GONE),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
    Situation {
        name: "Both nodes were down, and the other one starts alone",
        cause: |stage| {
            stage.kill_both();
            stage.node_mut(BETA).start();
        },
        alpha: seen(69, GONE),
        beta: seen(
            1,
            &[
                "serving, degraded: without alpha: nothing is heard of it",
                "queries and updates work, and would stop with the loss of beta",
                "next: on alpha: systemctl status ccdd",
            ],
        ),
        cure: Some(|stage| stage.node_mut(ALPHA).start()),
    },
    Situation {
        name: "One node dies",
        cause: |stage| stage.node_mut(BETA).kill(),
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta: nothing is heard of it",
                "queries and updates work",
            ],
        ),
        beta: seen(69, &["CCD-1101", "ccdd does not run"]),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
    Situation {
        name: "One node hangs",
        cause: |stage| stage.beta().stop(),
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta: nothing is heard of it",
                "queries and updates work",
            ],
        ),
        beta: seen(124, &["CCD-1105", "is stopped by a signal"]),
        cure: Some(|stage| stage.beta().resume()),
    },
    Situation {
        name: "Both nodes stop, and one starts alone without a device",
        cause: |stage| {
            for node in [ALPHA, BETA] {
                stage.node_mut(node).kill();
            }
            stage.disconnect(BETA, PRIMARY);
            stage.disconnect(BETA, SECONDARY);
            stage.node_mut(BETA).start();
        },
        alpha: seen(69, &["CCD-1101", "ccdd does not run"]),
        beta: seen(
            2,
            &[
                "NOT SERVING, waiting: on beta: both devices: the primary",
                "No such file",
                "no update is taken here",
                "next: ccd-disk show",
            ],
        ),
        cure: Some(|stage| {
            stage.connect(BETA, PRIMARY);
            stage.connect(BETA, SECONDARY);
            stage.node_mut(ALPHA).start();
        }),
    },
    Situation {
        name: "The clock of one node is wrong",
        cause: |stage| {
            let wrong = clock_ahead(stage.folder(), 95);
            stage.node_mut(BETA).kill();
            stage.node_mut(BETA).start_with(&wrong);
        },
        alpha: seen(
            0,
            &[
                "serving, all redundant: on alpha: the clock of beta is 9",
                "s ahead of that of alpha",
                "; next: timedatectl",
            ],
        ),
        beta: seen(
            0,
            &[
                "serving, all redundant: on alpha: the clock of beta is 9",
                "s ahead of that of alpha",
                "; next, on alpha: timedatectl",
            ],
        ),
        cure: Some(|stage| stage.restart(BETA)),
    },
    Situation {
        name: "The clock of the master is wrong",
        cause: |stage| {
            let wrong = clock_ahead(stage.folder(), 3_605);
            stage.node_mut(ALPHA).kill();
            stage.node_mut(ALPHA).start_with(&wrong);
        },
        alpha: seen(0, &["the clock of beta is 360", "s behind that of alpha"]),
        beta: seen(
            0,
            &["on alpha: the clock of beta is 360", "s behind that of alpha"],
        ),
        cure: Some(|stage| stage.restart(ALPHA)),
    },
];
