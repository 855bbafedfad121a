//! Every verb of the programs against a running cluster, wrong input included: exit codes and messages of
//! INTERFACES. What needs no cluster is tested with each program. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::programs::{command, copy_program, program, run_command};
use ccd_tests::process::{Cluster, until};
use std::fs;
use std::process::Stdio;

#[test]
fn rows_and_formats_make_the_round_trip() {
    let cluster = Cluster::start();
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let columns = ["clustname", "number_nodes", "network_type", "node_names"];
    alpha.adm(&[&["format", "MY_KEY"], &columns[..]].concat()).done();
    // The same again is no error, with other columns it is.
    alpha.adm(&[&["format", "MY_KEY"], &columns[..]].concat()).done();
    alpha
        .adm(&["format", "MY_KEY", "other"])
        .expect(108)
        .says_what_to_try();
    alpha
        .adm(&["add", "MY_KEY", "clust0", "4", "sci", "foo,bar,moo,boo"])
        .done();
    alpha
        .adm(&["add", "MY_KEY", "clust0", "4", "sci", "foo,bar,moo,boo"])
        .expect(108)
        .says_what_to_try();
    beta.adm(&["add", "MY_KEY", "clust1", "2", "ether", "fd00::1 100%"])
        .done();
    let all = beta.adm(&["query", "MY_KEY"]).done();
    assert_eq!(
        all.rows(),
        [
            "MY_KEY:clust0:4:sci:foo,bar,moo,boo",
            "MY_KEY:clust1:2:ether:fd00%3A%3A1 100%25"
        ]
    );
    assert_eq!(
        alpha
            .adm(&["query", "MY_KEY", "clust*", "*", "sci"])
            .done()
            .rows()
            .len(),
        1
    );
    assert_eq!(
        alpha
            .adm(&["query", "MY_KEY", "network_type=ether"])
            .done()
            .rows()
            .len(),
        1
    );
    assert_eq!(
        alpha
            .adm(&["query", "--wildcard", "%", "MY_KEY", "clust%"])
            .done()
            .rows()
            .len(),
        2
    );
    assert_eq!(
        alpha.adm(&["query", "--exact", "MY_KEY", "clust*"]).expect(1).out,
        ""
    );
    let json = beta.adm(&["query", "--json", "MY_KEY", "clust1"]).done().json();
    assert!(json.to_string().contains("fd00::1 100%"), "{json}");
    assert!(beta.adm(&["keys"]).done().out.contains("MY_KEY"));

    alpha.adm(&["remove", "--dry-run", "MY_KEY", "clust0"]).done();
    assert_eq!(beta.adm(&["query", "MY_KEY"]).done().rows().len(), 2);
    beta.adm(&["remove", "MY_KEY", "clust0"]).done();
    beta.adm(&["remove", "MY_KEY", "clust0"])
        .expect(105)
        .says_what_to_try();
    alpha
        .adm(&["remove-format", "MY_KEY"])
        .expect(107)
        .says_what_to_try();
    alpha.adm(&["remove", "MY_KEY"]).expect(107).says_what_to_try();
    alpha.adm(&["remove", "--yes", "MY_KEY"]).done();
    alpha.adm(&["remove-format", "MY_KEY"]).done();
    beta.adm(&["query", "MY_KEY"]).expect(105).says_what_to_try();
    beta.adm(&["remove-format", "MY_KEY"])
        .expect(105)
        .says_what_to_try();
    cluster.verify();
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let cluster = Cluster::start();
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let apply = |text: &str| {
        let path = cluster.folder().join("transaction");
        fs::write(&path, text).expect("the folder is ours");
        alpha.adm(&["apply", path.to_str().expect("the path is ours")])
    };
    apply("format HOST:name:address\nadd HOST:web1:fd00%3A%3A1\nif row absent HOST:web2:10.0.0.2\n").done();
    assert_eq!(beta.adm(&["query", "HOST"]).done().out, "HOST:web1:fd00%3A%3A1\n");
    apply("add HOST:web2:10.0.0.2\nadd HOST:web1:fd00%3A%3A1\n")
        .expect(108)
        .says_what_to_try();
    apply("add HOST:web2:10.0.0.2\nadd NONE:x\n")
        .expect(105)
        .says_what_to_try();
    apply("add HOST:web2:10.0.0.2\nif row present HOST:web9:x\n")
        .expect(1)
        .says_what_to_try();
    apply("add HOST:web2:10.0.0.2:too:many\n")
        .expect(65)
        .says_what_to_try();
    apply("nonsense\n").expect(65).says_what_to_try().says("1");
    assert_eq!(
        beta.adm(&["query", "HOST"]).done().rows().len(),
        1,
        "half a transaction was applied"
    );
    let generation = beta.status().expect("it runs")["cluster"]["generation"]
        .as_u64()
        .expect("a number");
    alpha
        .adm(&[
            "add",
            "--if-generation",
            &(generation + 5).to_string(),
            "HOST",
            "web2",
            "x",
        ])
        .expect(1);
    alpha
        .adm(&[
            "add",
            "--if-generation",
            &generation.to_string(),
            "HOST",
            "web2",
            "x",
        ])
        .done();
    beta.adm(&["apply", "/nowhere"]).expect(66).says_what_to_try();
}

#[test]
fn a_saved_database_is_restored_whole_or_by_key() {
    let cluster = Cluster::start();
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    for key in ["ONE", "TWO"] {
        alpha.adm(&["format", key, "what"]).done();
        alpha.adm(&["add", key, "before"]).done();
    }
    let saved = cluster.folder().join("saved.ccd");
    let saved = saved.to_str().expect("the path is ours");
    beta.adm(&["checkpoint", saved]).done();
    beta.adm(&["checkpoint", saved]).expect(108).says_what_to_try();
    beta.adm(&["checkpoint", "--yes", saved]).done();
    let text = fs::read_to_string(saved).expect("it was written");
    let last = text.lines().last().expect("it has lines");
    assert!(last.starts_with("CCD_CHK:") && last.contains(":0,1:"), "{last}");
    assert_eq!(beta.adm(&["checkpoint", "-"]).done().out, text);

    for key in ["ONE", "TWO"] {
        alpha.adm(&["add", key, "after"]).done();
    }
    alpha.adm(&["restore", saved]).expect(107).says_what_to_try();
    alpha.adm(&["restore", "--yes", "--key", "ONE", saved]).done();
    assert_eq!(beta.adm(&["query", "ONE"]).done().out, "ONE:before\n");
    assert_eq!(beta.adm(&["query", "TWO"]).done().rows().len(), 2);
    alpha
        .adm(&["restore", "--yes", "--key", "NONE", saved])
        .expect(105)
        .says_what_to_try();
    alpha.adm(&["restore", "--dry-run", saved]).done();
    alpha.adm(&["restore", "--yes", saved]).done();
    assert_eq!(beta.adm(&["query", "TWO"]).done().out, "TWO:before\n");

    fs::write(saved, text.replace("before", "beFore")).expect("the folder is ours");
    alpha
        .adm(&["restore", "--yes", saved])
        .expect(104)
        .says_what_to_try();
    let rows: String = text
        .lines()
        .filter(|line| !line.starts_with("CCD_CHK"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(saved, rows).expect("the folder is ours");
    alpha
        .adm(&["restore", "--yes", saved])
        .expect(65)
        .says_what_to_try();
    cluster.verify();
}

#[test]
fn status_says_what_single_loss_the_cluster_would_survive() {
    let mut cluster = Cluster::start();
    let status = cluster.beta().status().expect("it runs");
    for part in ["node 0", "node 1", "primary", "secondary"] {
        assert_eq!(status["survives"][part], true, "{part}: {status}");
    }
    for pointer in [
        "/cluster/name",
        "/cluster/id",
        "/cluster/state",
        "/cluster/mode",
        "/cluster/epoch",
        "/cluster/generation",
        "/cluster/lineage",
        "/cluster/master",
        "/cluster/quorum",
        "/nodes/0/id",
        "/nodes/0/name",
        "/nodes/0/state",
        "/nodes/0/stamp",
        "/nodes/0/lease_ms",
        "/devices/0/role",
        "/devices/0/path",
        "/devices/0/state",
        "/devices/0/fencing",
        "/devices/0/keys",
        "/devices/0/in_sync",
    ] {
        assert!(
            !status
                .pointer(pointer)
                .unwrap_or(&serde_json::Value::Null)
                .is_null(),
            "no {pointer}: {status}"
        );
    }
    cluster
        .alpha()
        .adm(&["status"])
        .done()
        .shows("all redundant")
        .shows("survives the loss of");
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    let alone = cluster.alpha().adm(&["status"]).expect(1);
    alone.shows("degraded");
    let survives = &cluster.alpha().status().expect("it runs")["survives"];
    assert_eq!(
        (&survives["node 0"], &survives["primary"]),
        (&false.into(), &true.into()),
        "{survives}"
    );
    let why = cluster.alpha().adm(&["why"]).done();
    assert!(why.out.contains("solo"), "{}", why.out);
    let json = cluster.alpha().adm(&["why", "--json", "-c", "1"]).done().json();
    assert_eq!(json["node"], 0, "{json}");
    cluster.nodes[ALPHA].kill();
    cluster.alpha().adm(&["status"]).expect(69).says_what_to_try();
}

#[test]
fn members_leave_join_and_take_over_by_command() {
    let cluster = Cluster::start();
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let members = beta.ctl(&["members", "--json"]).done().json();
    assert_eq!(
        (&members["nodes"][0]["member"], &members["nodes"][1]["member"]),
        (&true.into(), &true.into())
    );
    beta.ctl(&["leave", "--dry-run"]).done();
    assert_eq!(beta.state(), "serving paired");
    beta.ctl(&["leave"]).done();
    alpha.wait_for("serving solo");
    assert_eq!(beta.state(), "left");
    assert_eq!(
        alpha.ctl(&["members", "--json"]).done().json()["nodes"][1]["member"],
        false
    );
    beta.ctl(&["takeover", "--force"]).expect(64);
    beta.ctl(&["takeover", "--force", "--cluster", "wrong"])
        .expect(107)
        .says_what_to_try();
    assert_eq!(beta.state(), "left");
    beta.ctl(&["join"]).done();
    cluster.wait_until_redundant();
    cluster.verify();
}

#[test]
fn an_operator_may_overrule_the_votes_and_it_is_recorded() {
    let mut cluster = Cluster::start();
    cluster.alpha().adm(&["format", "KEPT", "what"]).done();
    cluster.alpha().adm(&["add", "KEPT", "it"]).done();
    for device in &cluster.devices {
        device.fail();
    }
    until("the pair to go on without devices", || {
        let status = cluster.alpha().status()?;
        let lost = (0..2).all(|role| status["devices"][role]["in_sync"] == false);
        if lost {
            Ok(())
        } else {
            Err(status["devices"].to_string())
        }
    });
    cluster.nodes[BETA].kill();
    until("alpha to stop", || match cluster.alpha().state() {
        state if state.starts_with("serving") => Err(state),
        _ => Ok(()),
    });
    for device in &cluster.devices {
        device.repair();
    }
    let refused = cluster.alpha().ctl(&["takeover"]);
    assert!([2, 106, 107].contains(&refused.code), "{refused:?}");
    refused.says_what_to_try();
    cluster
        .alpha()
        .ctl(&["takeover", "--force", "--cluster", "test"])
        .done();
    cluster.alpha().wait_for("serving solo");
    cluster.alpha().adm(&["query", "KEPT", "it"]).done();
    cluster.alpha().adm(&["add", "KEPT", "more"]).done();
    let why = cluster.alpha().adm(&["why", "-c", "20"]).done();
    assert!(why.out.contains("operator"), "{}", why.out);
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    cluster.beta().adm(&["query", "KEPT", "more"]).done();
    cluster.verify();
}

#[test]
fn regions_can_be_looked_at_while_the_daemons_run_and_not_be_destroyed() {
    let cluster = Cluster::start();
    cluster.alpha().adm(&["format", "MY_KEY", "what"]).done();
    let device = cluster.devices[0].name();
    assert!(cluster.disk(&["show", device]).done().out.contains("primary"));
    cluster.disk(&["show", "--json", device]).done().json();
    cluster.disk(&["heartbeats", device]).done();
    let refused = cluster.disk(&["mkfs", "--yes", "--role", "primary", device]);
    assert!([107, 108, 109].contains(&refused.code), "{refused:?}");
    refused.says_what_to_try();
    cluster.wait_until_redundant();
    cluster.disk(&["show", "/dev/null"]).expect(65).says_what_to_try();
    cluster.disk(&["show", "/nowhere"]).expect(66).says_what_to_try();
    cluster.disk(&["mkfs", device]).expect(64);
}

#[test]
fn an_offline_node_leaves_a_database_that_can_be_read_from_its_local_copy_and_the_devices() {
    let mut cluster = Cluster::start();
    cluster.alpha().adm(&["format", "MY_KEY", "what"]).done();
    cluster.alpha().adm(&["add", "MY_KEY", "paired"]).done();
    cluster.nodes[BETA].terminate();
    cluster.alpha().wait_for("serving solo");
    cluster.alpha().adm(&["add", "MY_KEY", "solo"]).done();
    cluster.nodes[ALPHA].terminate();
    for device in &cluster.devices {
        cluster.disk(&["check", device.name()]).done();
        let dump = cluster.disk(&["dump", device.name()]).done();
        assert!(dump.out.contains("MY_KEY:paired\nMY_KEY:solo\n"), "{}", dump.out);
        assert!(
            dump.out
                .lines()
                .last()
                .is_some_and(|last| last.starts_with("CCD_CHK:")),
            "{}",
            dump.out
        );
    }
    let copy = cluster.beta().places().local_copy_path();
    let copy = cluster
        .disk(&["dump", copy.to_str().expect("the path is ours")])
        .done();
    assert!(copy.out.contains("MY_KEY:paired\n"), "{}", copy.out);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let cluster = Cluster::start();
    cluster.alpha().adm(&["format", "BIG", "number"]).done();
    let rows: String = (0..5000).map(|number| format!("add BIG:{number}\n")).collect();
    let path = cluster.folder().join("transaction");
    fs::write(&path, rows).expect("the folder is ours");
    cluster
        .alpha()
        .adm(&["apply", path.to_str().expect("the path is ours")])
        .done();
    let mut words = cluster.beta().folders().to_vec();
    words.extend(["query".to_owned(), "BIG".to_owned()]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut query = command(program("ccdadm"), &words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be started");
    drop(query.stdout.take());
    let status = query.wait().expect("it is our child");
    assert!(status.success(), "{status}");
}

#[test]
fn a_user_without_rights_reads_and_changes_nothing() {
    let cluster = Cluster::start();
    cluster.alpha().adm(&["format", "MY_KEY", "what"]).done();
    // The folder of the test is root's alone; the socket's own permissions are what is tested.
    let [folder, run] = [cluster.folder().to_owned(), cluster.alpha().places().run.clone()];
    for path in [&folder, &run, &folder.join("alpha")] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, open).expect("the folder is ours");
    }
    let ccdadm = copy_program("ccdadm", &folder);
    let words = [
        "--run",
        run.to_str().expect("the path is ours"),
        "query",
        "MY_KEY",
    ];
    let mut query = command(&ccdadm, &words);
    std::os::unix::process::CommandExt::uid(&mut query, 65534);
    std::os::unix::process::CommandExt::gid(&mut query, 65534);
    run_command(&mut query).expect(77).says_what_to_try();
}
