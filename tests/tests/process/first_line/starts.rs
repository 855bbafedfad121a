//! What keeps the ccdd of one node from starting: its files in `/etc/ccd` and its folders.

use super::nodes::AWAY;
use super::{Seen, Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// No daemon, and this is why.
const fn refused(words: &'static [&'static str]) -> Seen {
    seen(69, words)
}

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "One node does not start, for its node file is gone",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                fs::remove_file(stage.beta().places().node_path()).expect("setup wrote it");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&[
            "CCD-1101",
            "cannot start",
            "node: it is not there",
            "0 alpha, 1 beta",
        ]),
        cure: Some(|stage| {
            stage.beta().adm(&["setup", "--this", "beta"]).done();
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for its node file names nobody",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                fs::write(stage.beta().places().node_path(), "gamma\n").expect("the folder is ours");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&[
            "CCD-1101",
            "cannot start",
            "no node is called \"gamma\"",
            "0 alpha, 1 beta",
        ]),
        cure: Some(|stage| {
            stage.beta().adm(&["setup", "--this", "beta"]).done();
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for its authkey file is gone",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                fs::remove_file(stage.beta().places().authkey_path()).expect("setup wrote it");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&["CCD-1101", "cannot start", "authkey: No such file"]),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().authkey_path());
            fs::copy(from, to).expect("the folder is ours");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for others may read its authkey file",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let path = stage.beta().places().authkey_path();
                fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&[
            "CCD-1101",
            "cannot start",
            "authkey: others than its owner may read it (mode 0644)",
        ]),
        cure: Some(|stage| {
            let path = stage.beta().places().authkey_path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o400)).expect("the file is ours");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for its authkey file is empty",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let path = stage.beta().places().authkey_path();
                fs::remove_file(&path).expect("setup wrote it");
                fs::write(&path, "").expect("the folder is ours");
                fs::set_permissions(path, fs::Permissions::from_mode(0o400)).expect("the file is ours");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&["CCD-1101", "cannot start", "authkey: there is no key in it"]),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().authkey_path());
            fs::remove_file(&to).expect("it was made");
            fs::copy(from, to).expect("the folder is ours");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for its init database is gone",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                fs::remove_file(stage.beta().places().init_path()).expect("setup wrote it");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&["CCD-1101", "cannot start", "init.ccd: No such file"]),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().init_path());
            fs::copy(from, to).expect("the folder is ours");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for its init database is empty",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                fs::write(stage.beta().places().init_path(), "").expect("the folder is ours");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&[
            "CCD-1101",
            "cannot start",
            "init.ccd: the CLUSTER row: it is missing",
        ]),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().init_path());
            fs::copy(from, to).expect("the folder is ours");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for there is a file where its state folder should be",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let path = &stage.beta().places().state;
                fs::rename(path, path.with_extension("aside")).expect("the folder is ours");
                fs::write(path, "x").expect("the folder is ours");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&[
            "CCD-1101",
            "it refused to start: cannot make the folder",
            "File exists",
        ]),
        cure: Some(|stage| {
            let path = &stage.beta().places().state;
            fs::remove_file(path).expect("it was made");
            fs::rename(path.with_extension("aside"), path).expect("the folder is ours");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node does not start, for it cannot write its record of decisions",
        cause: |stage| {
            stage.restart_beta_after(|stage| {
                let path = stage.beta().places().decisions_path();
                fs::rename(&path, path.with_extension("aside")).expect("the folder is ours");
                fs::create_dir(path).expect("the folder is ours");
            });
        },
        alpha: seen(1, AWAY),
        beta: refused(&[
            "CCD-1101",
            "it refused to start: cannot write",
            "decisions.log",
            "Is a directory",
        ]),
        cure: Some(|stage| {
            let path = stage.beta().places().decisions_path();
            fs::remove_dir(&path).expect("it was made");
            stage.restart(BETA);
        }),
    },
    Situation {
        name: "One node was never started",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            fs::remove_dir_all(&stage.beta().places().state).expect("the folder is ours");
            let _ = fs::remove_file(stage.beta().places().refusal_path());
        },
        alpha: seen(1, AWAY),
        beta: refused(&["CCD-1101", "ccdd does not run, and never has", "is set up"]),
        cure: Some(|stage| stage.node_mut(BETA).start()),
    },
];
