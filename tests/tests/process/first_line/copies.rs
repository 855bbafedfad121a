//! The local copy and what is kept beside it: not a copy, somebody else's, gone; and databases that only others remember.

use super::{Seen, Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA, PRIMARY, SECONDARY};
use std::fs;

const TAKE_A_COPY: &str = "stop ccdd, move it aside, and start ccdd: it takes a whole copy from another node";
const START_THE_OTHERS: &str = "start ccdd on the nodes that are away";

/// As the line says.
const MOVE_ASIDE: fn(&mut super::stage::Stage) = |stage| {
    stage.restart_beta_after(|stage| {
        let path = stage.beta().places().local_copy_path();
        fs::rename(&path, path.with_extension("aside")).expect("the folder is ours");
    });
};

const fn unusable(words: &'static [&'static str]) -> (Seen, Seen) {
    (seen(1, words), seen(2, words))
}

const NO_REGION: (Seen, Seen) = unusable(&[
    "on beta: the local copy cannot be used: CCD-2010 it is no region",
    TAKE_A_COPY,
]);
const CUT_SHORT: (Seen, Seen) = unusable(&[
    "on beta: the local copy cannot be used: CCD-2015 it was cut short",
    TAKE_A_COPY,
]);
const OF_ALPHA: (Seen, Seen) = unusable(&[
    "on beta: the local copy cannot be used: CCD-2013 it is the copy of alpha",
    TAKE_A_COPY,
]);

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "The local copy of one node is garbage when it starts",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let path = stage.beta().places().local_copy_path();
                let len_bytes = fs::metadata(&path).expect("it is there").len();
                let len_bytes = usize::try_from(len_bytes).expect("it is small");
                fs::write(path, vec![0x5A; len_bytes]).expect("the folder is ours");
            });
        },
        alpha: NO_REGION.0,
        beta: NO_REGION.1,
        cure: Some(MOVE_ASIDE),
    },
    Situation {
        name: "The local copy of one node was cut short when it starts",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(stage.beta().places().local_copy_path());
                file.and_then(|file| file.set_len(1 << 16))
                    .expect("the folder is ours");
            });
        },
        alpha: CUT_SHORT.0,
        beta: CUT_SHORT.1,
        cure: Some(MOVE_ASIDE),
    },
    Situation {
        name: "One node starts with the local copy of the other",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().local_copy_path());
                fs::copy(from, to).expect("the folder is ours");
            });
        },
        alpha: OF_ALPHA.0,
        beta: OF_ALPHA.1,
        cure: Some(MOVE_ASIDE),
    },
    Situation {
        name: "Another program writes into the local copy of one node while ccdd runs",
        cause: |stage| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(stage.beta().places().local_copy_path());
            let file = file.expect("the folder is ours");
            std::os::unix::fs::FileExt::write_all_at(&file, &[0x5A; 4096], 0).expect("the folder is ours");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the local copy",
                "is damaged: its first superblock is gone",
                "queries and updates work",
                "next, on beta: with another node serving: stop ccdd, move the local copy aside",
            ],
        ),
        beta: seen(
            1,
            &[
                "on beta: the local copy",
                "is damaged: its first superblock is gone",
                "move the local copy aside",
            ],
        ),
        cure: Some(MOVE_ASIDE),
    },
    Situation {
        name: "The state folder of one node is removed while ccdd runs",
        cause: |stage| fs::remove_dir_all(&stage.beta().places().state).expect("the folder is ours"),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the local copy",
                "was removed while ccdd has it open",
                "queries and updates work",
                "systemctl restart ccdd",
            ],
        ),
        beta: seen(
            1,
            &[
                "on beta: the local copy",
                "was removed while ccdd has it open",
                "systemctl restart ccdd",
            ],
        ),
        cure: Some(|stage| stage.restart(BETA)),
    },
    Situation {
        name: "Two branches that lost are kept",
        cause: |stage| {
            let folder = stage.beta().places().branches_dir();
            fs::create_dir_all(&folder).expect("the folder is ours");
            for name in ["7-306-abc", "8-306-abc"] {
                fs::write(folder.join(name), "x").expect("the folder is ours");
            }
        },
        alpha: seen(
            0,
            &[
                "all redundant: on beta: 2 branches that lost are kept",
                "next, on beta: ccdadm branches",
            ],
        ),
        beta: seen(
            0,
            &[
                "all redundant: on beta: 2 branches that lost are kept",
                "next: ccdadm branches",
            ],
        ),
        cure: Some(|stage| {
            let folder = stage.beta().places().branches_dir();
            fs::remove_dir_all(folder).expect("it was made");
        }),
    },
    Situation {
        name: "The state folder of one node is renamed while ccdd runs",
        cause: |stage| {
            let path = &stage.beta().places().state;
            fs::rename(path, path.with_extension("aside")).expect("the folder is ours");
        },
        alpha: seen(
            1,
            &[
                "on beta: the local copy",
                "was removed while ccdd has it open",
                "systemctl restart ccdd",
            ],
        ),
        beta: seen(
            1,
            &[
                "on beta: the local copy",
                "was removed while ccdd has it open",
                "systemctl restart ccdd",
            ],
        ),
        cure: Some(|stage| stage.restart(BETA)),
    },
    Situation {
        name: "A branch that lost is kept",
        cause: |stage| {
            let folder = stage.beta().places().branches_dir();
            fs::create_dir_all(&folder).expect("the folder is ours");
            fs::write(folder.join("7-306-abc"), "x").expect("the folder is ours");
        },
        alpha: seen(
            0,
            &[
                "serving, all redundant: on beta: a branch that lost is kept",
                "next, on beta: ccdadm branches",
            ],
        ),
        beta: seen(
            0,
            &[
                "serving, all redundant: on beta: a branch that lost is kept",
                "next: ccdadm branches",
            ],
        ),
        cure: Some(|stage| {
            fs::remove_file(stage.beta().places().branches_dir().join("7-306-abc")).expect("it was made");
        }),
    },
    Situation {
        name: "Both nodes are down, and one starts alone with a new local copy",
        cause: |stage| {
            stage.kill_both();
            fs::remove_dir_all(&stage.beta().places().state).expect("the folder is ours");
            stage.node_mut(BETA).start();
        },
        alpha: seen(69, &["CCD-1101", "ccdd does not run"]),
        beta: seen(
            2,
            &[
                "NOT SERVING, waiting: on beta: the local copy is new and has forgotten what it voted for",
                START_THE_OTHERS,
            ],
        ),
        cure: Some(|stage| stage.node_mut(ALPHA).start()),
    },
    Situation {
        name: "Both local copies are lost at once",
        cause: |stage| {
            stage.kill_both();
            for node in [ALPHA, BETA] {
                fs::remove_dir_all(&stage.nodes[node].places().state).expect("the folder is ours");
                stage.node_mut(node).start();
            }
        },
        alpha: seen(
            2,
            &[
                "NOT SERVING, waiting: on alpha: the local copy is new",
                "ccdctl takeover --force --cluster test where the newest copy is",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING, waiting: on alpha: the local copy is new",
                "ccdctl takeover --force --cluster test where the newest copy is",
            ],
        ),
        // As the line says.
        cure: Some(|stage| {
            stage
                .alpha()
                .ctl(&["takeover", "--force", "--cluster", "test"])
                .done();
        }),
    },
    Situation {
        name: "Both devices were made anew, and one node starts alone",
        cause: |stage| {
            stage.kill_both();
            stage.make_anew(PRIMARY);
            stage.make_anew(SECONDARY);
            stage.node_mut(ALPHA).start();
        },
        alpha: seen(
            2,
            &[
                "NOT SERVING, waiting: on alpha: both devices: the primary was made anew",
                "it does not count before it was left out and taken in again",
                START_THE_OTHERS,
            ],
        ),
        beta: seen(69, &["CCD-1101", "ccdd does not run"]),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
    Situation {
        name: "The database was restored while a node was away, and the other one starts alone",
        cause: |stage| {
            stage.alpha().adm(&["format", "K", "value"]).done();
            let saved = stage.folder().join("saved.ccd");
            let saved = saved.to_str().expect("the path is ours").to_owned();
            stage.alpha().adm(&["checkpoint", &saved]).done();
            stage.node_mut(BETA).kill();
            stage.alpha().wait_for("serving solo");
            stage.alpha().adm(&["restore", "--yes", &saved]).done();
            stage.restart(ALPHA);
        },
        alpha: seen(
            2,
            &[
                "NOT SERVING, waiting: on alpha: the database was restored while not all nodes were active (restore flag 3)",
                "missing: beta",
                START_THE_OTHERS,
            ],
        ),
        beta: seen(69, &["CCD-1101", "ccdd does not run"]),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
];
