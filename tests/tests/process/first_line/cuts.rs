//! Networks that are cut, in one direction or both.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};

const MEND: &str = "ping the other node's addresses";

pub const SITUATIONS: &[Situation] = &[
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
                "on alpha: both devices: the primary",
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
