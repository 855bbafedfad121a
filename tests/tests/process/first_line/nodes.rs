//! Nodes that die, hang, leave, or are cut off.

use super::{Situation, seen};
use ccd_tests::process::cluster::BETA;

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
        beta: seen(69, &["CCD-1", "ccdd"]),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
    Situation {
        name: "One node left by request",
        cause: |stage| drop(stage.beta().ctl(&["leave"]).done()),
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta: it left by request",
                "queries and updates work",
                "would stop with the loss of alpha",
                "next: ccdctl join",
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
        name: "The network between the nodes is cut",
        cause: |stage| stage.network.cut(),
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "the network between us is cut",
                "queries and updates work",
            ],
        ),
        beta: seen(2, &["NOT SERVING", "network"]),
        cure: Some(|stage| stage.network.heal()),
    },
];
