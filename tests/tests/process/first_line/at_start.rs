//! Devices that are not what they should be when nodes start.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Beta starts with something else under the name of the secondary.
fn restart_beta_with(stage: &mut super::stage::Stage, make: impl Fn(&Path)) {
    stage.restart_beta_after(|stage| {
        let link = stage.beta().folder().join("secondary");
        fs::remove_file(&link).expect("it was connected");
        make(&link);
    });
}

const NO_REGION: &[&str] = &[
    "serving, degraded: on beta: the secondary",
    "CCD-2010",
    "is no region",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk show",
];

const NO_DISK: &[&str] = &[
    "serving, degraded: on beta: the secondary",
    "is neither a file nor a block device",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk show",
];

const MIXED_UP: &[&str] = &[
    "serving, degraded: on beta: the secondary",
    "is the primary of its cluster, not the secondary; are the two paths mixed up?",
    "queries and updates work",
    "ccd-disk show",
];

const ANOTHER_DISK: &[&str] = &[
    "serving, degraded: on alpha: the primary is not the same disk on beta",
    "so it has no vote: correct the path of one of them, or run `ccd-disk show` on both",
    "queries and updates work, and would go on after any single loss",
];

const ANOTHER_CLUSTER: &[&str] = &[
    "serving, degraded: on beta: the secondary",
    "belongs to cluster 00112233445566778899aabbccddeeff",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk show",
];

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "A device is an empty file when one node starts",
        cause: |stage| restart_beta_with(stage, |link| fs::write(link, "").expect("the folder is ours")),
        alpha: seen(1, NO_REGION),
        beta: seen(1, NO_REGION),
        cure: Some(|stage| stage.connect(BETA, SECONDARY)),
    },
    Situation {
        name: "The name of a device is a folder when one node starts",
        cause: |stage| restart_beta_with(stage, |link| fs::create_dir(link).expect("the folder is ours")),
        alpha: seen(1, NO_DISK),
        beta: seen(1, NO_DISK),
        cure: Some(|stage| {
            fs::remove_dir(stage.beta().folder().join("secondary")).expect("it was made");
            stage.connect(BETA, SECONDARY);
        }),
    },
    Situation {
        name: "The name of a device leads to no disk when one node starts",
        cause: |stage| {
            restart_beta_with(stage, |link| {
                symlink("/dev/null", link).expect("the folder is ours")
            })
        },
        alpha: seen(1, NO_DISK),
        beta: seen(1, NO_DISK),
        cure: Some(|stage| stage.connect(BETA, SECONDARY)),
    },
    Situation {
        name: "Both names lead to the same device when one node starts",
        cause: |stage| {
            let primary = stage.path(BETA, PRIMARY).path().to_owned();
            restart_beta_with(stage, |link| symlink(&primary, link).expect("the folder is ours"));
        },
        alpha: seen(1, MIXED_UP),
        beta: seen(1, MIXED_UP),
        cure: Some(|stage| stage.connect(BETA, SECONDARY)),
    },
    Situation {
        name: "A device is missing when the master starts",
        cause: |stage| {
            stage.disconnect(ALPHA, PRIMARY);
            stage.restart(ALPHA);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha: the primary",
                "No such file",
                "queries and updates work, and would go on after any single loss",
                "next: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on alpha: the primary",
                "No such file",
                "next, on alpha: ccd-disk show",
            ],
        ),
        cure: Some(|stage| stage.connect(ALPHA, PRIMARY)),
    },
    Situation {
        name: "The name of a device leads to another disk on the master",
        cause: |stage| {
            stage.exchange(ALPHA, PRIMARY);
            stage.restart(ALPHA);
        },
        alpha: seen(1, ANOTHER_DISK),
        beta: seen(1, ANOTHER_DISK),
        cure: None,
    },
    Situation {
        name: "The name of a device leads to a disk of another cluster on one node",
        cause: |stage| {
            stage.exchange(BETA, SECONDARY);
            let disk = fs::read_link(stage.beta().folder().join("secondary")).expect("it is a link");
            let disk = disk.to_str().expect("the path is ours");
            let words = [
                "mkfs",
                "--role",
                "secondary",
                "--cluster-id",
                "00112233445566778899aabbccddeeff",
                "--cluster-name",
                "foreign",
                "--force",
                "test",
                "--yes",
                disk,
            ];
            stage.disk(&words).done();
            stage.restart(BETA);
        },
        alpha: seen(1, ANOTHER_CLUSTER),
        beta: seen(1, ANOTHER_CLUSTER),
        cure: Some(|stage| stage.connect(BETA, SECONDARY)),
    },
    Situation {
        name: "A device is missing for both nodes when they start",
        cause: |stage| {
            stage.kill_both();
            for node in [ALPHA, BETA] {
                stage.disconnect(node, SECONDARY);
                stage.node_mut(node).start();
            }
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha and beta: the secondary",
                "No such file",
                "queries and updates work, and would go on after any single loss",
                "next: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on alpha and beta: the secondary",
                "No such file",
                "next, on alpha: ccd-disk show",
            ],
        ),
        cure: Some(|stage| {
            stage.connect(ALPHA, SECONDARY);
            stage.connect(BETA, SECONDARY);
        }),
    },
    Situation {
        name: "Both devices are missing for both nodes when they start",
        cause: |stage| {
            stage.kill_both();
            for node in [ALPHA, BETA] {
                stage.disconnect(node, PRIMARY);
                stage.disconnect(node, SECONDARY);
                stage.node_mut(node).start();
            }
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha and beta: both devices: the primary",
                "No such file",
                "queries and updates work, and would stop with the loss of alpha, or of beta",
                "next: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on alpha and beta: both devices: the primary",
                "No such file",
                "next, on alpha: ccd-disk show",
            ],
        ),
        cure: Some(|stage| {
            for (node, role) in [
                (ALPHA, PRIMARY),
                (ALPHA, SECONDARY),
                (BETA, PRIMARY),
                (BETA, SECONDARY),
            ] {
                stage.connect(node, role);
            }
        }),
    },
    Situation {
        name: "A device is garbage when both nodes start",
        cause: |stage| {
            stage.kill_both();
            let disk = stage.path(ALPHA, SECONDARY);
            disk.scribble(0x5A, 0, disk.len_bytes());
            for node in [ALPHA, BETA] {
                stage.node_mut(node).start();
            }
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha and beta: the secondary",
                "is no region",
                "queries and updates work, and would go on after any single loss",
                "next: ccd-disk show",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on alpha and beta: the secondary",
                "is no region",
                "next, on alpha: ccd-disk show",
            ],
        ),
        cure: Some(|stage| stage.make_anew(SECONDARY)),
    },
    Situation {
        name: "One node starts alone, and a device is missing",
        cause: |stage| {
            stage.kill_both();
            stage.disconnect(BETA, SECONDARY);
            stage.node_mut(BETA).start();
        },
        alpha: seen(69, &["CCD-1101", "ccdd does not run"]),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: the secondary",
                "No such file",
                "queries and updates work, and would stop with the loss of beta, or of the primary",
                "next: ccd-disk show",
            ],
        ),
        cure: Some(|stage| {
            stage.connect(BETA, SECONDARY);
            stage.node_mut(ALPHA).start();
        }),
    },
];
