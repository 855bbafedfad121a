//! What operators have decided, and what becomes of it: nodes that left or were removed, maintenance, quorum.

use super::nodes::GONE;
use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA};

pub const SITUATIONS: &[Situation] = &[
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
                "serving, degraded: the cluster has this node alone, and would not survive the loss of alpha",
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
        name: "Maintenance is on, and both nodes left",
        cause: |stage| {
            stage.alpha().ctl(&["maintenance", "on"]).done();
            stage.beta().ctl(&["leave"]).done();
            stage.alpha().ctl(&["leave"]).done();
        },
        alpha: seen(
            2,
            &[
                "NOT SERVING, left: maintenance",
                "next: ccdctl join; ccdctl maintenance off",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING, left: maintenance",
                "next: ccdctl join; ccdctl maintenance off",
            ],
        ),
        // As the line says, on both.
        cure: Some(|stage| {
            stage.alpha().ctl(&["join"]);
            stage.beta().ctl(&["join"]).done();
            stage.alpha().ctl(&["maintenance", "off"]).done();
        }),
    },
    Situation {
        name: "An external membership monitor says nothing of a node that died",
        cause: |stage| {
            for node in [ALPHA, BETA] {
                let node = stage.node_mut(node);
                node.ctl(&["reconfigure", "--members", "alpha,beta"]).done();
            }
            stage.node_mut(ALPHA).kill();
        },
        alpha: seen(69, GONE),
        beta: seen(
            2,
            &[
                "NOT SERVING, waiting: the external membership monitor says that alpha is there, but it is not heard: it is waited for",
                "next: ccdctl reconfigure --built-in",
            ],
        ),
        cure: Some(|stage| {
            stage.beta().ctl(&["reconfigure", "--built-in"]);
            stage.node_mut(ALPHA).start();
        }),
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
        alpha: seen(
            1,
            &[
                "serving, degraded: QUORUM IS OFF",
                "queries and updates work",
                "next: ccdadm quorum on",
            ],
        ),
        beta: seen(69, GONE),
        cure: Some(|stage| {
            stage.node_mut(BETA).start();
            stage.alpha().adm(&["quorum", "on"]).done();
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
];
