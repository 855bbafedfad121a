//! Nodes that die, hang, leave, or are cut off.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};

pub const SITUATIONS: &[Situation] = &[
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
        beta: seen(124, &["CCD-1", "no answer within"]),
        cure: Some(|stage| stage.beta().resume()),
    },
    Situation {
        name: "The socket of one node is removed",
        cause: |stage| {
            let socket = stage.beta().places().client_socket();
            std::fs::remove_file(socket).expect("it listens there");
        },
        alpha: seen(0, &["serving, all redundant"]),
        beta: seen(69, &["CCD-1101", "ccdd runs (process", "its socket in"]),
        cure: Some(|stage| stage.restart(BETA)),
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
