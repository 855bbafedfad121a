//! Daemons that must not run, and nodes that must not meet. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::programs::{Finished, command, program, run_command};
use ccd_tests::process::{Cluster, Shape, never, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_second_daemon_on_the_same_state_folder_is_refused() {
    let cluster = Cluster::start();
    let pid = cluster.alpha().pid().to_string();
    let second = cluster.alpha().run_daemon().expect(109);
    second.says(&pid).says("--state");
    cluster.alpha().adm(&["status"]).done();
    cluster.wait_until_redundant();
}

/// `ccdd run` with the files of a node, and these folders.
fn run_beside(cluster: &Cluster, state: &Path, run: &Path) -> Finished {
    let words = [cluster.alpha().places().etc.as_path(), state, run]
        .map(|path| path.to_str().expect("the path is ours"));
    let [etc, state, run] = words;
    let words = ["run", "--etc", etc, "--state", state, "--run", run];
    run_command(&mut command(program("ccdd"), &words))
}

/// A lock file can be removed. A state folder is locked itself, and a socket in the run folder shows who listens on it.
#[test]
fn a_second_daemon_is_refused_although_somebody_removed_the_lock_files() {
    let cluster = Cluster::start();
    let places = cluster.alpha().places();
    let elsewhere = cluster.folder().join("elsewhere");
    // Its sockets are not taken by one with a state folder of its own.
    let second = run_beside(&cluster, &elsewhere, &places.run).expect(109);
    let find = format!("fuser -v {}", places.run_lock_path().display());
    second.says("run folder").says("--run").says(&find);
    for lock in [places.state_lock_path(), places.run_lock_path()] {
        fs::remove_file(lock).expect("it was made");
    }
    cluster.alpha().run_daemon().expect(109).says("--state");
    cluster
        .alpha()
        .wait_for_log("ccdd.lock was gone, and was made again");
    fs::remove_file(places.run_lock_path()).expect("it was made again");
    let second = run_beside(&cluster, &elsewhere, &places.run).expect(109);
    second.says("another process").says("--run");
    cluster.wait_until_redundant();
    cluster.alpha().adm(&["format", "K", "value"]).done();
    until("the lock of the state folder to be made again", || {
        let process = fs::read_to_string(places.state_lock_path()).unwrap_or_default();
        if process.trim() == cluster.alpha().pid().to_string() {
            Ok(())
        } else {
            Err(process)
        }
    });
}

#[test]
fn a_run_folder_that_somebody_removed_is_made_again_for_all_users_and_no_second_daemon_has_it() {
    let cluster = Cluster::start();
    let places = cluster.alpha().places();
    fs::remove_dir_all(&places.run).expect("the folder is ours");
    until("ccdadm to be answered", || {
        let status = cluster.alpha().adm(&["status"]);
        if status.code == 0 { Ok(()) } else { Err(status.err) }
    });
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&places.run), 0o755);
    assert_eq!(mode(&places.run_lock_path()), 0o600);
    // The socket alone does not tell: its name may lead elsewhere for some seconds.
    fs::remove_file(places.client_socket()).expect("it was made again");
    fs::remove_file(places.control_socket()).expect("it was made again");
    let second = run_beside(&cluster, &cluster.folder().join("elsewhere"), &places.run).expect(109);
    second.says("run folder").says("--run");
}

/// `flock` needs no more than permission to read.
#[test]
fn a_user_who_locks_all_that_they_can_open_keeps_no_daemon_from_starting() {
    let mut cluster = Cluster::start();
    cluster.nodes[ALPHA].kill();
    let places = cluster.alpha().places().clone();
    let open = [cluster.folder(), &cluster.folder().join("alpha")];
    for path in open
        .into_iter()
        .chain([&*places.etc, &*places.state, &*places.run])
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    }
    let script = "for path; do flock -n \"$path\" sleep 60 & done; wait";
    let mut user = Command::new("sh");
    user.arg("-c").arg(script).arg("sh");
    for folder in [&places.etc, &places.state, &places.run] {
        user.arg(folder);
        let inside = fs::read_dir(folder).expect("it is there").flatten();
        user.args(inside.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    user.uid(65534).gid(65534).process_group(0).stderr(Stdio::null());
    let mut user = user.spawn().expect("sh and flock are there");
    until("the run folder to be locked", || {
        match fs::File::open(&places.run).expect("it is there").try_lock() {
            Ok(()) => Err("it is free".to_owned()),
            Err(_) => Ok(()),
        }
    });
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    let file = places.init_path().display().to_string();
    cluster.alpha().adm(&["edit-init", "--from", &file]).done();
    let group = nix::unistd::Pid::from_raw(user.id().cast_signed());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    user.wait().expect("it was killed");
}

#[test]
fn sockets_that_somebody_removed_are_made_again_and_who_is_connected_stays() {
    let cluster = Cluster::start();
    let places = cluster.alpha().places();
    cluster.alpha().adm(&["format", "K", "value"]).done();
    let sockets = [places.client_socket(), places.control_socket()];
    for socket in &sockets {
        fs::remove_file(socket).expect("it was made");
    }
    until("ccdadm and ccdctl to be answered", || {
        let (query, metrics) = (
            cluster.alpha().adm(&["query", "K"]),
            cluster.alpha().ctl(&["metrics"]),
        );
        if (query.code, metrics.code) == (105, 0) || query.code == 1 && metrics.code == 0 {
            Ok(())
        } else {
            Err(query.err + &metrics.err)
        }
    });
    for socket in &sockets {
        assert_eq!(
            fs::metadata(socket).expect("it is there").permissions().mode() & 0o777,
            0o660
        );
    }
    cluster.alpha().wait_for_log("was gone, and was made again");
}

#[test]
fn a_node_with_another_key_is_refused_and_both_sides_say_so() {
    let mut cluster = Cluster::make(Shape::default());
    cluster.give_another_key(BETA);
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_for_log("authkey");
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
    // Corrected, it joins.
    cluster.nodes[BETA].kill();
    let key = cluster.beta().places().authkey_path();
    fs::remove_file(&key).expect("it was copied");
    fs::copy(cluster.alpha().places().authkey_path(), &key).expect("setup wrote it");
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_sides_say_so() {
    let mut cluster = Cluster::make(Shape {
        devices: 0,
        ..Shape::default()
    });
    let init = cluster.beta().places().init_path();
    let text = fs::read_to_string(&init).expect("setup wrote it");
    let id = text
        .lines()
        .find(|line| line.starts_with("CLUSTER:"))
        .expect("it has a cluster");
    let id = id.split(':').nth(2).expect("name and id").to_owned();
    let turned: String = id.chars().rev().collect();
    fs::write(&init, text.replace(&id, &turned)).expect("it can be written");
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_for_log("cluster");
        node.wait_for_log("refused");
    }
    assert!(
        !cluster.alpha().state().starts_with("serving"),
        "half a cluster serves"
    );
}

#[test]
fn nodes_with_different_init_databases_are_refused_and_both_sides_say_so() {
    let mut cluster = Cluster::make(Shape::default());
    let init = cluster.beta().places().init_path();
    let text = fs::read_to_string(&init).expect("setup wrote it");
    assert!(text.contains("image_mib:4"), "{text}");
    fs::write(&init, text.replace("image_mib:4", "image_mib:5")).expect("it can be written");
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_for_log("init");
        node.wait_for_log("refused");
    }
}

#[test]
fn a_daemon_without_its_configuration_says_what_is_missing_and_does_not_ask_to_be_started_again() {
    let cluster = Cluster::make(Shape::default());
    let places = cluster.nodes[ALPHA].places();
    for path in [places.node_path(), places.authkey_path(), places.init_path()] {
        let hidden = path.with_extension("hidden");
        fs::rename(&path, &hidden).expect("setup wrote it");
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("it has a name");
        cluster.alpha().run_daemon().expect(100).says(name);
        fs::rename(&hidden, &path).expect("it is there");
    }
    fs::write(places.node_path(), "gamma\n").expect("the folder is ours");
    cluster
        .alpha()
        .run_daemon()
        .expect(100)
        .says("gamma")
        .says("alpha");
}

#[test]
fn a_device_of_another_cluster_is_never_written() {
    let mut cluster = Cluster::make(Shape::default());
    let device = cluster.devices[0].name().to_owned();
    cluster
        .disk(&[
            "mkfs",
            "--role",
            "primary",
            "--cluster-id",
            "00112233445566778899aabbccddeeff",
            "--cluster-name",
            "foreign",
            "--force",
            "test",
            "--yes",
            "--image-mib",
            "4",
            "--journal-mib",
            "2",
            &device,
        ])
        .done();
    let before = fs::read(&device).expect("it can be read");
    for node in &mut cluster.nodes {
        node.start();
    }
    until("the status to say whose it is", || {
        let status = cluster.alpha().status()?;
        let error = status["devices"][0]["error"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if error.contains("cluster") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    never("a foreign region was written", Duration::from_secs(2), || {
        let now = fs::read(&device).expect("it can be read");
        (now != before).then(|| device.clone())
    });
}

#[test]
fn a_damaged_local_copy_is_replaced_from_the_other_node() {
    let mut cluster = Cluster::start();
    cluster.alpha().adm(&["format", "KEPT", "what"]).done();
    cluster.alpha().adm(&["add", "KEPT", "it"]).done();
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    fs::remove_file(cluster.beta().places().local_copy_path()).expect("the daemon made it");
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    cluster.beta().adm(&["query", "KEPT", "it"]).done();
    cluster.verify();
}
