//! Devices in use that were cleared or put back to an earlier state, and what only a history still shows.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};
use ccd_tests::process::until;
use std::time::Duration;

/// What was told is on the disk of its node after so long.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

const LAST_SUPERBLOCK: &[&str] = &[
    "serving, degraded: on alpha and beta: the primary",
    "its last superblock is gone",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk check",
];

const FIRST_SUPERBLOCK: &[&str] = &[
    "serving, degraded: on alpha and beta: the primary",
    "its first superblock is gone",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk check",
];

const WRITTEN_TO: &[&str] = &[
    "serving, degraded: on",
    "the primary",
    "it is corrupted, or another program writes to it",
    "queries and updates work, and would go on after any single loss",
];

const CLEARED: &[&str] = &[
    "serving, degraded: on alpha and beta: the primary",
    "is no region: its first block: zero, its last block: zero",
    "queries and updates work, and would go on after any single loss",
    "ccd-disk show",
];

const NOWHERE: &[&str] = &[
    "serving, degraded: on alpha: the primary",
    "its name leads nowhere",
    "queries and updates work, and would go on after any single loss",
    "ls -l",
];

const TWICE: &[&str] = &[
    "on alpha: epoch 2 was decided twice",
    "of this node are on its devices, if those were not put back, and in its history",
    "`ccdctl takeover --force --cluster test` on the node that does not serve goes on with its local copy",
];

const LOST: &[&str] = &[
    "serving, degraded: on alpha: updates that this node acknowledged or told of are not in the database any more",
    "the devices or another node were put back to an earlier state",
    "in the history of this node",
    "when this has been seen",
    "ccdadm history --rows --before",
];

/// What an operator does who has seen that updates of alpha are lost.
fn remove_losses(stage: &super::stage::Stage) {
    until("alpha to say what is lost", || {
        let verdict = stage.alpha().verdict();
        if verdict.contains("are not in the database any more") {
            Ok(())
        } else {
            Err(verdict)
        }
    });
    // It is said before it is written.
    let folder = stage.alpha().places().branches_dir();
    let (loss, _) = until("the file of the loss", || {
        let files = std::fs::read_dir(&folder).map_err(|error| error.to_string())?;
        let losses: Vec<_> = (files.flatten().map(|file| file.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "lost"))
            .collect();
        match <[_; 1]>::try_from(losses) {
            Ok([loss]) => Ok(loss),
            Err(losses) => Err(format!("{losses:?}")),
        }
    });
    std::fs::remove_file(loss).expect("it is there");
}

/// Alpha is alone, acknowledges something, and dies; the devices are put back, and beta goes on from there.
fn lose_what_alpha_acknowledged(stage: &mut super::stage::Stage) {
    stage.alpha().adm(&["format", "K", "value"]).done();
    let contents = stage.contents();
    stage.node_mut(BETA).kill();
    stage.alpha().wait_for("serving solo");
    stage.alpha().adm(&["add", "K", "lost"]).done();
    std::thread::sleep(KEPT_WITHIN);
    stage.node_mut(ALPHA).kill();
    stage.put_back(&contents);
    stage.node_mut(BETA).start();
    stage.beta().wait_for("serving solo");
}

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "The names of both devices lead to copies on one node, which started while the network was cut",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            stage.alpha().wait_for("serving solo");
            stage.alpha().adm(&["format", "K", "value"]).done();
            stage.copy_devices(BETA);
            stage.alpha().adm(&["add", "K", "since"]).done();
            stage.network.cut();
            stage.node_mut(BETA).start();
            stage.beta().wait_for("serving solo");
            stage.beta().adm(&["add", "K", "on the copies"]).done();
            stage.network.heal();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: beta runs, or ran, on copies of the devices",
                "queries and updates work",
                "next: on beta: systemctl stop ccdd",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING",
                "not the same disk on beta",
                "one of them is a copy",
                "alpha serves, and answers queries and updates",
            ],
        ),
        // What the owner acknowledged is there, and on both.
        cure: Some(|stage| {
            stage.node_mut(BETA).kill();
            for role in [PRIMARY, SECONDARY] {
                stage.connect(BETA, role);
            }
            stage.node_mut(BETA).start();
            stage.beta().wait_for_log("serves nothing while that one does");
            stage.restart_beta_after(|stage| stage.beta().move_state_away());
            stage.beta().wait_until_redundant();
            assert_eq!(stage.beta().adm(&["query", "K"]).done().out, "K:since\n");
        }),
    },
    Situation {
        name: "The primary in use is cleared",
        cause: |stage| stage.path(ALPHA, PRIMARY).replace(),
        alpha: seen(1, CLEARED),
        beta: seen(1, CLEARED),
        cure: Some(|stage| stage.make_anew(PRIMARY)),
    },
    Situation {
        name: "The last superblock of a device in use is overwritten",
        cause: |stage| {
            let disk = stage.path(ALPHA, PRIMARY);
            disk.scribble(0x5A, disk.len_bytes() - 4096, 4096);
        },
        alpha: seen(1, LAST_SUPERBLOCK),
        beta: seen(1, LAST_SUPERBLOCK),
        cure: Some(|stage| stage.make_anew(PRIMARY)),
    },
    Situation {
        name: "The first superblock of the primary in use is overwritten",
        cause: |stage| stage.path(ALPHA, PRIMARY).scribble(0x5A, 0, 4096),
        alpha: seen(1, FIRST_SUPERBLOCK),
        beta: seen(1, FIRST_SUPERBLOCK),
        cure: Some(|stage| stage.make_anew(PRIMARY)),
    },
    Situation {
        name: "Somebody else writes into the primary in use",
        cause: |stage| {
            let disk = stage.path(ALPHA, PRIMARY);
            disk.scribble(0x5A, 1 << 20, disk.len_bytes() - (3 << 20));
        },
        alpha: seen(1, WRITTEN_TO),
        beta: seen(1, WRITTEN_TO),
        cure: Some(|stage| stage.make_anew(PRIMARY)),
    },
    Situation {
        name: "The name of a device in use is gone on the master",
        cause: |stage| stage.disconnect(ALPHA, PRIMARY),
        alpha: seen(1, NOWHERE),
        beta: seen(1, NOWHERE),
        cure: Some(|stage| stage.connect(ALPHA, PRIMARY)),
    },
    Situation {
        name: "One node is alone, and both devices are put back to a backup",
        cause: |stage| {
            let contents = stage.contents();
            stage.node_mut(BETA).kill();
            stage.alpha().wait_for("serving solo");
            stage.alpha().adm(&["format", "K", "value"]).done();
            stage.put_back(&contents);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha: both devices: the primary was cleared, or put back to an earlier state, while it was in use",
                "queries work, updates wait",
                "next: ccdctl takeover --force --cluster test: this node holds all that was acknowledged",
            ],
        ),
        beta: seen(69, &["CCD-1101", "ccdd does not run"]),
        // As the line says; then the database has what it had.
        cure: Some(|stage| {
            let force = ["takeover", "--force", "--cluster", "test"];
            stage.alpha().ctl(&force).done();
            stage.alpha().adm(&["add", "K", "after"]).done();
            stage.node_mut(BETA).start();
        }),
    },
    Situation {
        name: "The devices were put back to a backup while the node that was alone is down, and it meets the other one",
        cause: |stage| {
            lose_what_alpha_acknowledged(stage);
            stage.node_mut(ALPHA).start();
        },
        alpha: seen(2, TWICE),
        beta: seen(1, TWICE),
        // As the line says: alpha goes on with its local copy, once beta is down.
        cure: Some(|stage| {
            stage.node_mut(BETA).kill();
            let force = ["takeover", "--force", "--cluster", "test"];
            stage.alpha().ctl(&force).done();
            stage.node_mut(BETA).start();
            remove_losses(stage);
        }),
    },
    Situation {
        name: "The same, and the other one has been started again meanwhile",
        cause: |stage| {
            lose_what_alpha_acknowledged(stage);
            stage.restart(BETA);
            stage.beta().wait_for("serving solo");
            stage.node_mut(ALPHA).start();
        },
        alpha: seen(1, LOST),
        beta: seen(1, LOST),
        // It is said after a restart too, and what was lost is found.
        cure: Some(|stage| {
            stage.restart(ALPHA);
            remove_losses(stage);
            let history = stage.alpha().adm(&["history", "--rows"]).done();
            assert!(history.out.contains("lost"), "{}", history.out);
        }),
    },
];
