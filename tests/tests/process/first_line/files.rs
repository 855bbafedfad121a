//! Files in `/etc/ccd`, and the state folder.

use super::{Situation, seen};
use ccd_tests::process::cluster::{ALPHA, BETA};
use std::fs;
use std::os::unix::fs::PermissionsExt;

pub const SITUATIONS: &[Situation] = &[
    Situation {
        name: "The init database was edited on one node, and ccdd not restarted",
        cause: |stage| {
            let path = stage.beta().places().init_path();
            let text = fs::read_to_string(&path).expect("setup wrote it");
            assert!(text.contains("lease_ms:1000"), "{text}");
            fs::write(&path, text.replace("lease_ms:1000", "lease_ms:1100")).expect("the folder is ours");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd was edited and is not what is in use",
                "queries and updates work",
                "next, on beta:",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd was edited and is not what is in use",
                "queries and updates work",
                "next:",
            ],
        ),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().init_path());
            fs::copy(from, to).expect("the folder is ours");
        }),
    },
    Situation {
        name: "The init database of one node is gone",
        cause: |stage| fs::remove_file(stage.beta().places().init_path()).expect("setup wrote it"),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd",
                "No such file",
                "could not start again",
                "next, on beta: copy",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd",
                "No such file",
                "could not start again",
                "next: copy",
            ],
        ),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().init_path());
            fs::copy(from, to).expect("the folder is ours");
        }),
    },
    Situation {
        name: "The authkey file of one node is gone",
        cause: |stage| fs::remove_file(stage.beta().places().authkey_path()).expect("setup wrote it"),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "authkey",
                "could not start again",
                "next, on beta: copy",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "authkey",
                "could not start again",
                "next: copy",
            ],
        ),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().authkey_path());
            fs::copy(from, to).expect("the folder is ours");
        }),
    },
    Situation {
        name: "One node is started with another authkey",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            stage.give_another_key(BETA);
            stage.node_mut(BETA).start();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha: beta is there, and there is no connection",
                "authkey differs",
                "copy one authkey to all nodes",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING",
                "on beta: alpha is there, and there is no connection",
                "authkey differs",
                "copy one authkey to all nodes",
            ],
        ),
        cure: None,
    },
    Situation {
        name: "The node file of one node names another node",
        cause: |stage| fs::write(stage.beta().places().node_path(), "alpha\n").expect("the folder is ours"),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "node says alpha, and this ccdd runs as beta: it would start as another node",
                "queries and updates work",
                "next, on beta: ccdadm setup --this beta",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "it would start as another node",
                "next: ccdadm setup --this beta",
            ],
        ),
        cure: Some(|stage| {
            stage.beta().adm(&["setup", "--this", "beta"]).done();
        }),
    },
    Situation {
        name: "The local copy of one node was moved away while ccdd runs",
        cause: |stage| {
            let path = stage.beta().places().local_copy_path();
            fs::rename(&path, path.with_extension("old")).expect("the folder is ours");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: the local copy",
                "was removed while ccdd has it open",
                "is lost when ccdd stops",
                "queries and updates work",
                "next, on beta:",
                "systemctl restart ccdd",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: the local copy",
                "was removed while ccdd has it open",
                "next:",
                "systemctl restart ccdd",
            ],
        ),
        cure: Some(|stage| {
            stage.nodes[BETA].kill();
            stage.nodes[BETA].start();
        }),
    },
    Situation {
        name: "The node file of one node is gone",
        cause: |stage| fs::remove_file(stage.beta().places().node_path()).expect("setup wrote it"),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "node: it is not there",
                "could not start again",
                "next, on beta: ccdadm setup --this beta",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "node: it is not there",
                "could not start again",
                "next: ccdadm setup --this beta",
            ],
        ),
        cure: Some(|stage| drop(stage.beta().adm(&["setup", "--this", "beta"]).done())),
    },
    Situation {
        name: "Others may read the authkey file of one node",
        cause: |stage| {
            let path = stage.beta().places().authkey_path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "others than its owner may read it (mode 0644)",
                "next, on beta: chmod 400",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "others than its owner may read it (mode 0644)",
                "next: chmod 400",
            ],
        ),
        cure: Some(|stage| {
            let path = stage.beta().places().authkey_path();
            fs::set_permissions(path, fs::Permissions::from_mode(0o400)).expect("the file is ours");
        }),
    },
    Situation {
        name: "The init database of one node is garbage",
        cause: |stage| fs::write(stage.beta().places().init_path(), "rubbish\n").expect("the folder is ours"),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd: line 1",
                "could not start again",
                "next, on beta: copy",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd: line 1",
                "could not start again",
                "next: copy",
            ],
        ),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().init_path());
            fs::copy(from, to).expect("the folder is ours");
        }),
    },
    Situation {
        name: "The folder with the files of one node is removed",
        cause: |stage| {
            let etc = &stage.beta().places().etc;
            fs::rename(etc, etc.with_extension("aside")).expect("the folder is ours");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd: No such file",
                "could not start again",
                "next, on beta: copy",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "init.ccd: No such file",
                "could not start again",
                "next: copy",
            ],
        ),
        cure: Some(|stage| {
            let etc = &stage.beta().places().etc;
            fs::rename(etc.with_extension("aside"), etc).expect("the folder is ours");
        }),
    },
    Situation {
        name: "Other users can write to the state folder",
        cause: |stage| {
            let mode = fs::Permissions::from_mode(0o777);
            fs::set_permissions(&stage.beta().places().state, mode).expect("the folder is ours");
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta: other users can replace what is in the state folder",
                "0777",
                "next, on beta: chown",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta: other users can replace what is in the state folder",
                "0777",
                "next: chown",
            ],
        ),
        cure: Some(|stage| {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&stage.beta().places().state, mode).expect("the folder is ours");
        }),
    },
    Situation {
        name: "One node is started with another init database",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            let path = stage.beta().places().init_path();
            let text = fs::read_to_string(&path).expect("setup wrote it");
            fs::write(&path, text.replace("lease_ms:1000", "lease_ms:1100")).expect("the folder is ours");
            stage.node_mut(BETA).start();
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: on alpha: beta is there, and there is no connection",
                "init",
                "queries and updates work",
            ],
        ),
        beta: seen(
            2,
            &[
                "NOT SERVING",
                "on beta: alpha is there, and there is no connection",
                "init",
            ],
        ),
        cure: None,
    },
    Situation {
        name: "The authkey of one node was changed, and not reloaded",
        cause: |stage| stage.give_another_key(BETA),
        alpha: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "authkey holds",
                "is in use",
                "next, on beta: systemctl reload ccdd",
            ],
        ),
        beta: seen(
            1,
            &[
                "serving, degraded: on beta:",
                "authkey holds",
                "is in use",
                "next: systemctl reload ccdd",
            ],
        ),
        cure: Some(|stage| {
            let [from, to] = [ALPHA, BETA].map(|node| stage.nodes[node].places().authkey_path());
            fs::remove_file(&to).expect("it is there");
            fs::copy(from, to).expect("the folder is ours");
        }),
    },
    Situation {
        name: "One node does not start, for its init database is damaged",
        cause: |stage| {
            stage.node_mut(BETA).kill();
            fs::write(stage.beta().places().init_path(), "CLUSTER:test\n").expect("the folder is ours");
            stage.beta().run_daemon().expect(100);
        },
        alpha: seen(
            1,
            &[
                "serving, degraded: without beta: nothing is heard of it",
                "queries and updates work",
            ],
        ),
        beta: seen(
            69,
            &["CCD-1101", "ccdd does not run, and cannot start", "init.ccd"],
        ),
        cure: None,
    },
];
