//! Nodes that die, hang, leave, or are cut off.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};

/// Nothing is heard of beta.
pub const AWAY: &[&str] = &[
    "serving, degraded: without beta: nothing is heard of it",
    "queries and updates work, and would stop with the loss of alpha",
    "next: on beta: systemctl status ccdd",
];

pub const GONE: &[&str] = &["CCD-1101", "ccdd does not run"];

const MEND: &str = "ping the other node's addresses";

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
        alpha: seen(124, &["CCD-1105", "is stopped: by a signal, or by a debugger"]),
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
        alpha: seen(124, &["CCD-1105", "is stopped: by a signal, or by a debugger"]),
        beta: seen(124, &["CCD-1105", "is stopped: by a signal, or by a debugger"]),
        cure: Some(|stage| {
            stage.alpha().resume();
            stage.beta().resume();
        }),
    },
    Situation {
        name: "The master left by request",
        cause: |stage| drop(stage.alpha().ctl(&["leave"]).done()),
        alpha: seen(
            2,
            &[
                "NOT SERVING, left",
                "ccdctl join",
                "beta serves, and answers queries and updates",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on alpha: left by request",
                "would stop with the loss of beta",
                "next, on alpha: ccdctl join",
            ],
        ),
        cure: Some(|stage| drop(stage.alpha().ctl(&["join"]).done())),
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
        name: "The network is cut from the master to the other node only",
        cause: |stage| stage.network.cut_sender(ALPHA),
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta: the network between it and another node is cut",
                "queries and updates work",
                MEND,
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING",
                "alpha owns the devices and is alive",
                "the network between us is cut",
                MEND,
            ],
        ),
        cure: Some(|stage| stage.network.heal_sender(ALPHA)),
    },
    Situation {
        name: "The network is cut from the other node to the master only",
        cause: |stage| stage.network.cut_sender(BETA),
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta: the network between it and another node is cut",
                "queries and updates work",
                MEND,
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING",
                "alpha owns the devices and is alive",
                "the network between us is cut",
                MEND,
            ],
        ),
        cure: Some(|stage| stage.network.heal_sender(BETA)),
    },
    Situation {
        name: "The network is cut, and the master has lost both devices",
        cause: |stage| {
            stage.path(ALPHA, PRIMARY).fail();
            stage.path(ALPHA, SECONDARY).fail();
            stage.network.cut();
        },
        alpha: seen(
            2,
            &[
                "NOT SERVING",
                "on alpha: the primary",
                "cannot be used",
                "next: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &["serving, degraded: without alpha", "queries and updates work"],
        ),
        cure: Some(|stage| {
            stage.path(ALPHA, PRIMARY).repair();
            stage.path(ALPHA, SECONDARY).repair();
            stage.network.heal();
        }),
    },
    Situation {
        name: "The master left by request, and the other node dies",
        cause: |stage| {
            stage.alpha().ctl(&["leave"]).done();
            stage.beta().wait_for("serving solo");
            stage.node_mut(BETA).kill();
        },
        alpha: seen(
            2,
            &["NOT SERVING, left: on alpha: left by request", "ccdctl join"],
        ),
        beta: seen(69, GONE),
        cure: Some(|stage| {
            stage.alpha().ctl(&["join"]).done();
            stage.node_mut(BETA).start();
        }),
    },
    Situation {
        name: "A node was removed while it was down, and is started",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            stage.alpha().wait_for("serving solo");
            stage.alpha().ctl(&["remove-node", "beta", "--yes"]).done();
            stage.node_mut(BETA).start();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: would not survive the loss of alpha",
                "queries and updates work",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING, waiting: on beta: beta was removed from the cluster (epoch 3, by alpha)",
                "stop ccdd here; `ccdctl add-node` on a node of the cluster takes it in again",
            ],
        ),
        cure: None,
    },
    Situation {
        name: "Maintenance is on, and both nodes were started again",
        cause: |stage| {
            stage.alpha().ctl(&["maintenance", "on"]).done();
            stage.restart(BETA);
            stage.restart(ALPHA);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: maintenance",
                "queries and updates work",
                "next: ccdctl maintenance off",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: maintenance",
                "queries and updates work",
                "next: ccdctl maintenance off",
            ],
        ),
        cure: Some(|stage| drop(stage.alpha().ctl(&["maintenance", "off"]).done())),
    },
    Situation {
        name: "Quorum is off, and a node dies",
        cause: |stage| {
            stage
                .alpha()
                .adm(&["quorum", "off", "--force", "--cluster", "test"])
                .done();
            stage.node_mut(BETA).kill();
        },
        alpha: seen(1, AWAY),
        beta: seen(69, GONE),
        cure: Some(|stage| {
            stage.node_mut(BETA).start();
            stage.alpha().adm(&["quorum", "on"]).done();
        }),
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
        beta: seen(124, &["CCD-1105", "is stopped: by a signal, or by a debugger"]),
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
                "NOT SERVING, waiting: on beta: the primary",
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
        name: "Quorum is off",
        cause: |stage| {
            drop(
                stage
                    .alpha()
                    .adm(&["quorum", "off", "--force", "--cluster", "test"])
                    .done(),
            )
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: QUORUM IS OFF",
                "queries and updates work",
                "next: ccdadm quorum on",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: QUORUM IS OFF",
                "queries and updates work",
                "next: ccdadm quorum on",
            ],
        ),
        cure: Some(|stage| drop(stage.alpha().adm(&["quorum", "on"]).done())),
    },
    Situation {
        name: "One node left by request",
        cause: |stage| drop(stage.beta().ctl(&["leave"]).done()),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: left by request",
                "queries and updates work",
                "would stop with the loss of alpha",
                "next, on beta: ccdctl join",
            ],
        ),
        beta: seen(2, &["NOT SERVING, left", "ccdctl join"]),
        cure: Some(|stage| drop(stage.beta().ctl(&["join"]).done())),
    },
    Situation {
        name: "Maintenance is on",
        cause: |stage| drop(stage.alpha().ctl(&["maintenance", "on"]).done()),
        alpha: seen(
            1,
            &[
                "serving, degraded: maintenance",
                "queries and updates work",
                "next: ccdctl maintenance off",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: maintenance",
                "queries and updates work",
                "next: ccdctl maintenance off",
            ],
        ),
        cure: Some(|stage| drop(stage.alpha().ctl(&["maintenance", "off"]).done())),
    },
    Situation {
        name: "Maintenance is on, and a node is away",
        cause: |stage| {
            stage.alpha().ctl(&["maintenance", "on"]).done();
            stage.node_mut(BETA).kill();
        },
        alpha: seen(
            2,
            &[
                "NOT SERVING, waiting: maintenance: beta is waited for",
                "next: ccdctl maintenance off",
            ],
        ),
        beta: seen(69, &["CCD-1101", "ccdd does not run"]),
        cure: Some(|stage| {
            stage.node_mut(BETA).start();
            stage.alpha().ctl(&["maintenance", "off"]).done();
        }),
    },
    Situation {
        name: "The network between the nodes is cut",
        cause: |stage| stage.network.cut(),
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "without beta: the network between it and another node is cut",
                "queries and updates work",
            ],
        ),
        beta: seen(2, &["NOT SERVING", "network"]),
        cure: Some(|stage| stage.network.heal()),
    },
];
