//! Devices that fail, are missing, or are other ones.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};

const BLOCK: u64 = 4096;

const OVERWRITTEN: &[&str] = &[
    "serving, degraded",
    "the secondary (/proc/self/cwd/secondary) cannot be used: it is corrupted, or another program writes to it",
    "holds what ccd did not write",
    "make it anew with `ccd-disk mkfs --role secondary --force test /proc/self/cwd/secondary`",
    "queries and updates work",
];

const SUPERBLOCK_GONE: &[&str] = &[
    "serving, degraded",
    "the secondary (/proc/self/cwd/secondary) cannot be used: it is corrupted, or another program writes to it",
    "its first superblock is gone",
    "make it anew with `ccd-disk mkfs --role secondary --force test /proc/self/cwd/secondary`",
    "queries and updates work",
];

/// The first node's ballots.
const BALLOTS_AT: u64 = (256 + 2) * BLOCK;

/// Behind the control blocks of two areas.
const DATA_AT: u64 = (256 + 32) * BLOCK;

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "A device fails for both nodes",
        cause: |stage| {
            stage.path(ALPHA, SECONDARY).fail();
            stage.path(BETA, SECONDARY).fail();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "the secondary (/proc/self/cwd/secondary) cannot be used",
                "queries and updates work",
                "next",
                "ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded",
                "the secondary (/proc/self/cwd/secondary) cannot be used",
                "queries and updates work",
                "next",
                "ccd-disk show",
            ],
        ),
        cure: Some(|stage| {
            stage.path(ALPHA, SECONDARY).repair();
            stage.path(BETA, SECONDARY).repair();
        }),
    },
    Situation {
        name: "One node loses its path to a device",
        cause: |stage| stage.path(BETA, PRIMARY).fail(),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the primary",
                "cannot be used",
                "queries and updates work",
                "next, on beta: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: the primary",
                "cannot be used",
                "queries and updates work",
                "next: ccd-disk show",
            ],
        ),
        cure: Some(|stage| stage.path(BETA, PRIMARY).repair()),
    },
    Situation {
        name: "One node loses its paths to both devices",
        cause: |stage| {
            stage.path(BETA, PRIMARY).fail();
            stage.path(BETA, SECONDARY).fail();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: both devices: the primary",
                "would stop with the loss of alpha",
                "next, on beta: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: both devices: the primary",
                "would stop with the loss of alpha",
                "next: ccd-disk show",
            ],
        ),
        cure: Some(|stage| {
            stage.path(BETA, PRIMARY).repair();
            stage.path(BETA, SECONDARY).repair();
        }),
    },
    Situation {
        name: "A device is missing when one node starts",
        cause: |stage| {
            stage.disconnect(BETA, SECONDARY);
            stage.restart(BETA);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary",
                "No such file",
                "next, on beta: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary",
                "No such file",
                "next: ccd-disk show",
            ],
        ),
        cure: Some(|stage| stage.connect(BETA, SECONDARY)),
    },
    Situation {
        name: "The name of a device leads to another disk on one node",
        cause: |stage| {
            stage.exchange(BETA, SECONDARY);
            stage.restart(BETA);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "the secondary",
                "not the same disk",
                "queries and updates work",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded",
                "the secondary",
                "not the same disk",
                "queries and updates work",
            ],
        ),
        cure: None,
    },
    Situation {
        name: "The paths of the two devices are mixed up on one node",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            // One that is back at once can stay a member, without the devices.
            stage.alpha().wait_for("serving solo");
            let [primary, secondary] =
                [PRIMARY, SECONDARY].map(|role| stage.path(BETA, role).path().to_owned());
            for (name, path) in [("primary", secondary), ("secondary", primary)] {
                let link = stage.beta().folder().join(name);
                std::fs::remove_file(&link).expect("it was connected");
                std::os::unix::fs::symlink(path, link).expect("the folder is ours");
            }
            stage.node_mut(BETA).start();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: both devices: the primary",
                "mixed up",
                "would stop with the loss of alpha",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING, waiting: on beta: both devices: the primary",
                "mixed up",
                "alpha serves",
            ],
        ),
        cure: Some(|stage| {
            stage.connect(BETA, PRIMARY);
            stage.connect(BETA, SECONDARY);
        }),
    },
    Situation {
        name: "A device in use is cleared",
        cause: |stage| stage.path(ALPHA, SECONDARY).replace(),
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "the secondary",
                "cleared, or put back",
                "queries and updates work",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded",
                "the secondary",
                "cleared, or put back",
                "queries and updates work",
            ],
        ),
        cure: None,
    },
    Situation {
        name: "One node is away, and then a device fails",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            stage.path(ALPHA, SECONDARY).fail();
            stage.alpha().wait_for("serving solo");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha: the secondary",
                "cannot be used",
                "would stop with the loss of alpha",
            ],
        ),
        beta: seen(69, &["CCD-1101", "ccdd does not run"]),
        cure: Some(|stage| {
            stage.path(ALPHA, SECONDARY).repair();
            stage.node_mut(BETA).start();
        }),
    },
    Situation {
        name: "Somebody else writes into a device in use",
        cause: |stage| {
            let disk = stage.path(ALPHA, SECONDARY);
            disk.scribble(0x5A, DATA_AT, disk.len_bytes() - DATA_AT - (2 << 20));
        },
        alpha: seen(1, OVERWRITTEN),
        beta: seen(1, OVERWRITTEN),
        // As the line says.
        cure: Some(|stage| stage.make_anew(SECONDARY)),
    },
    Situation {
        name: "Somebody else writes over a node's votes on a device in use",
        cause: |stage| stage.path(ALPHA, SECONDARY).scribble(0x5A, BALLOTS_AT, 2 * BLOCK),
        alpha: seen(1, OVERWRITTEN),
        beta: seen(1, OVERWRITTEN),
        cure: Some(|stage| stage.make_anew(SECONDARY)),
    },
    Situation {
        name: "The first superblock of a device in use is overwritten",
        cause: |stage| stage.path(ALPHA, SECONDARY).scribble(0x5A, 0, BLOCK),
        alpha: seen(1, SUPERBLOCK_GONE),
        beta: seen(1, SUPERBLOCK_GONE),
        cure: Some(|stage| stage.make_anew(SECONDARY)),
    },
    Situation {
        name: "Both superblocks of a device in use are overwritten",
        cause: |stage| {
            let disk = stage.path(ALPHA, PRIMARY);
            disk.scribble(0x5A, 0, BLOCK);
            disk.scribble(0x5A, disk.len_bytes() - BLOCK, BLOCK);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "the primary (/proc/self/cwd/primary) cannot be used",
                "is no region",
                "queries and updates work",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded",
                "the primary (/proc/self/cwd/primary) cannot be used",
                "is no region",
                "queries and updates work",
            ],
        ),
        cure: Some(|stage| stage.make_anew(PRIMARY)),
    },
    Situation {
        name: "The name of a device in use is gone on one node",
        cause: |stage| stage.disconnect(BETA, SECONDARY),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary (/proc/self/cwd/secondary) is damaged",
                "its name leads nowhere",
                "queries and updates work",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary (/proc/self/cwd/secondary) is damaged",
                "its name leads nowhere",
                "queries and updates work",
            ],
        ),
        cure: Some(|stage| stage.connect(BETA, SECONDARY)),
    },
    Situation {
        name: "The name of a device in use comes to lead to another disk on one node",
        cause: |stage| stage.exchange(BETA, SECONDARY),
        alpha: seen(
            1,
            &[
                "serving, degraded",
                "the secondary",
                "not the same disk",
                "queries and updates work",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded",
                "the secondary",
                "not the same disk",
                "queries and updates work",
            ],
        ),
        cure: None,
    },
];
