//! What `ccdadm` does with nothing running: setup, convert, purify, static queries, usage.

mod support;

use ccd_client::Places;
use ccd_client::files::{Authkeys, read_init, this_node};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Bench, LEASE, run};

#[test]
fn setup_writes_init_database_key_and_node() {
    let bench = Bench::new();
    bench
        .setup(&["--fencing", "lease", "--option", "lease_ms=2000", "--this", "b"])
        .expect(0)
        .says("ccd-disk mkfs --role primary")
        .says("next: ccdadm setup --this NAME, on every other node")
        .says("nothing stops a hung or foreign writer");
    let init = bench.read("init.ccd");
    for row in [
        "\nNODE:0:a:",
        "\nNODE:1:b:",
        "ADDRESS:a:127.0.0.1:7001\nADDRESS:b:127.0.0.1:\n",
        "OPTION:lease_ms:2000\n",
    ] {
        assert!(init.contains(row), "{init}");
    }
    assert_eq!(bench.read("node"), "b\n");
    let mode = |name| {
        fs::metadata(bench.path(name))
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!((mode("authkey"), mode("init.ccd")), (0o400, 0o644));
    let folder = bench.folder.path().to_owned();
    let places = Places {
        etc: folder.clone(),
        state: folder.clone(),
        run: folder,
    };
    let cluster = read_init(&places).expect("it is well-formed");
    let this = || this_node(&places, &cluster, None);
    assert_eq!(this().expect("it was given").name, "b");
    fs::remove_file(places.node_path()).expect("setup wrote it");
    let unsaid = this().expect_err("nothing says which node this is");
    assert!(unsaid.to_string().ends_with("there are 0 a, 1 b"), "{unsaid}");
    assert_eq!(
        unsaid.message().action,
        "ccdadm setup --this NAME, with a name from the NODE rows"
    );
    let key = Authkeys::read(&places).expect("it is well-formed");
    assert_eq!(Authkeys::parse(&bench.read("authkey")), Ok(key));
    fs::set_permissions(places.authkey_path(), fs::Permissions::from_mode(0o440)).expect("it is ours");
    assert!(
        Authkeys::read(&places)
            .expect_err("others may read it")
            .to_string()
            .contains("0440")
    );
    let found = bench
        .ccdadm(&["query", "--static", "NODE", "name=b"])
        .expect(0)
        .stdout;
    let server = found.strip_prefix("NODE:1:b:").map(str::trim_end);
    assert!(
        server.is_some_and(|id| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())),
        "{found}"
    );
    bench.ccdadm(&["query", "--static", "NODE", "c"]).expect(1);
    bench
        .ccdadm(&["query", "--static", "NONE"])
        .expect_error(105, "CCD-1210", "NONE");
    bench
        .ccdadm(&["keys", "--static"])
        .expect(0)
        .says("OPTION   2     name value\n");
}

#[test]
fn setup_of_a_cluster_that_exists_is_refused_unless_it_is_the_same() {
    let bench = Bench::new();
    bench.setup(&LEASE).expect(0);
    let (init, key) = (bench.read("init.ccd"), bench.read("authkey"));
    bench
        .setup(&LEASE)
        .expect_error(108, "CCD-1021", "init.ccd exists");
    assert_eq!(bench.read("init.ccd"), init);
    bench.write(
        "init.ccd",
        &format!("{init}SITE_fmt:name\nSITE:here\nACCESS:write:@ops:*\n"),
    );
    bench
        .setup(&["--fencing", "lease", "--force", "--option", "port=7000"])
        .expect(0);
    let after = bench.read("init.ccd");
    assert_eq!(bench.read("authkey"), key);
    let id = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("CLUSTER:"))
            .map(str::to_owned)
    };
    assert_eq!(id(&after), id(&init));
    for row in ["SITE:here\n", "ACCESS:write:@ops:*\n", "OPTION:port:7000\n"] {
        assert!(after.contains(row), "{after}");
    }
    bench
        .ccdadm(&["setup", "--force", "--cluster", "other", "--node", "a=10.0.0.1"])
        .expect_error(107, "CCD-1003", "\"lab\"");
    bench.ccdadm(&["setup", "--this", "b"]).expect(0);
    assert_eq!(bench.read("node"), "b\n");
    bench.ccdadm(&["setup", "--this", "1"]).expect(0);
    assert_eq!(bench.read("node"), "b\n");
    bench
        .ccdadm(&["setup", "--this", "c"])
        .expect_error(65, "CCD-1024", "0 a, 1 b");
}

#[test]
fn a_dry_run_of_setup_writes_nothing() {
    let bench = Bench::new();
    bench
        .setup(&["--fencing", "lease", "--dry-run"])
        .expect(0)
        .says("DEVICE:primary:");
    assert!(!bench.path("init.ccd").exists() && !bench.path("authkey").exists());
    let document = bench
        .setup(&["--fencing", "lease", "--dry-run", "--json"])
        .expect(0)
        .json();
    assert_eq!(document["nodes"][1]["addresses"][0], "127.0.0.1:5640");
}

#[test]
fn setup_refuses_what_is_no_cluster() {
    let bench = Bench::new();
    bench.setup(&[]).expect_error(65, "CCD-1025", "a plain file");
    bench
        .setup(&["--fencing", "scsi"])
        .expect_error(65, "CCD-1025", "a plain file");
    let p = bench.path("p");
    let p = p.to_str().expect("UTF-8");
    let two = [
        "setup",
        "--cluster",
        "lab",
        "--node",
        "a=10.0.0.1",
        "--node",
        "b=10.0.0.2",
    ];
    let table: [(&[&str], i32, &str); 16] = [
        (
            &["--primary", p, "--secondary", p, "--fencing", "lease"],
            64,
            "the same",
        ),
        (&["--primary", "relative", "--fencing", "lease"], 64, "absolute"),
        (
            &["--primary", "/dev/null", "--fencing", "lease"],
            64,
            "neither a block device",
        ),
        (&["--node", "c"], 64, "NAME=ADDRESS"),
        (&["--node", "c=no such host"], 64, "no IP address"),
        (&["--node", "c=10.0.0.3:0"], 64, "port"),
        (&["--node", "c=10.0.0.3:99999"], 64, "port"),
        (&["--node", "c=10.0.0.1"], 64, "twice"),
        (&["--node", "9=10.0.0.3"], 64, "a name is a letter"),
        (&["--node", "a=10.0.0.1"], 64, "twice"),
        (&["--option", "lease=1"], 64, "there are fencing, propagation"),
        (&["--option", "lease_ms"], 64, "NAME=VALUE"),
        (&["--option", "lease_ms=300"], 64, "4 heartbeats"),
        (&["--option", "lease_ms=soon"], 64, "not a number"),
        (&["--option", "port=1", "--option", "port=2"], 64, "twice"),
        (&["--this", "c"], 65, "0 a, 1 b"),
    ];
    for (more, code, text) in table {
        let args: Vec<&str> = two.iter().chain(more).copied().collect();
        let ran = bench.ccdadm(&args).expect(code).says(text);
        assert!(ran.stderr.contains("\ntry: "), "{ran:#?}");
    }
    bench.ccdadm(&["setup"]).expect_error(64, "CCD-1026", "--cluster");
    bench
        .ccdadm(&["setup", "--this", "a"])
        .expect_error(66, "CCD-1010", "init.ccd");
    for usage in [
        &["setup", "--cluster", "lab"] as &[&str],
        &["setup", "--node", "a=10.0.0.1"],
        &[
            "setup",
            "--cluster",
            "lab",
            "--node",
            "a=10.0.0.1",
            "--fencing",
            "lease",
        ],
        &[
            "setup",
            "--cluster",
            "lab",
            "--node",
            "a=10.0.0.1",
            "--secondary",
            "/x",
        ],
        &[
            "setup",
            "--cluster",
            "lab",
            "--node",
            "a=10.0.0.1",
            "--primary",
            "/x",
            "--fencing",
            "power",
        ],
    ] {
        bench.ccdadm(usage).expect(64);
    }
    assert!(!bench.path("init.ccd").exists());
    let args: Vec<&str> = two.iter().copied().chain(["--etc", "/proc/none"]).collect();
    bench.ccdadm(&args).expect_error(73, "CCD-1013", "/proc/none");
}

#[test]
fn addresses_of_every_kind_are_understood() {
    let bench = Bench::new();
    bench
        .ccdadm(&[
            "setup",
            "--cluster",
            "web",
            "--node",
            "a=10.0.0.1",
            "--node",
            "a=fd00::1",
            "--node",
            "b=[fd00::2]:7000",
            "--node",
            "b=[fd00::3]",
            "--node",
            "c=10.0.0.3:1",
        ])
        .expect(0);
    let init = bench.read("init.ccd");
    for row in [
        "ADDRESS:a:10.0.0.1:\nADDRESS:a:fd00%3A%3A1:\n",
        "ADDRESS:b:fd00%3A%3A2:7000\nADDRESS:b:fd00%3A%3A3:\n",
        "ADDRESS:c:10.0.0.3:1\n",
        "NODE:2:c:",
    ] {
        assert!(init.contains(row), "{init}");
    }
}

#[test]
fn a_wrong_init_database_names_the_line() {
    let bench = Bench::new();
    bench.write("init.ccd", "# comment\nNODE:0\n");
    bench
        .ccdadm(&["keys", "--static"])
        .expect_error(65, "CCD-1020", "line 2: the NODE row");
    fs::write(bench.path("init.ccd"), b"\xff\xfe").expect("it is written");
    bench
        .ccdadm(&["keys", "--static"])
        .expect_error(65, "CCD-1033", "init.ccd");
}

const ROWS: &str = "# by hand\nK_fmt:a:b\nK:1:2\nK:3:%3A\n";

#[test]
fn convert_makes_a_database_file() {
    let bench = Bench::new();
    let rows = bench.write("rows", ROWS);
    let out = bench.path("out");
    let out = out.to_str().expect("UTF-8");
    bench.ccdadm(&["convert", "--dry-run", &rows, out]).expect(0);
    assert!(!Path::new(out).exists());
    bench
        .ccdadm(&["convert", "-v", &rows, out])
        .expect(0)
        .says("3 formats and rows");
    let text = bench.read("out");
    assert!(text.starts_with("K_fmt:a:b\nK:1:2\nK:3:%3A\nCCD_CHK:"), "{text}");
    bench.ccdadm(&["purify", out]).expect(0);
    bench
        .ccdadm(&["convert", &rows, out])
        .expect_error(108, "CCD-1014", "exists");
    bench.ccdadm(&["convert", "--yes", &rows, out]).expect(0);
    let piped = run("ccdadm", Some(bench.folder.path()), &["convert", "-", "-"], ROWS).expect(0);
    assert!(piped.stdout.contains("\nCCD_CHK:"));
    let bad = bench.write("bad", "K_fmt:a:b\nK:1\nL:1\n");
    bench
        .ccdadm(&["convert", &bad, "-"])
        .expect_error(65, "CCD-1030", "line 2: K:1")
        .says("line 3: L:1");
    bench
        .ccdadm(&["convert", "/none", "-"])
        .expect_error(66, "CCD-1010", "/none");
    bench
        .ccdadm(&["convert", &rows, "/none/out"])
        .expect_error(73, "CCD-1013", "/none/out");
}

#[test]
fn purify_lists_and_drops_rows_that_break_their_format() {
    let bench = Bench::new();
    let text = "K_fmt:a:b\nK:1:2\nK:1\nL:1\nK:1:2\n";
    let file = bench.write("file", text);
    let ran = bench.ccdadm(&["purify", &file]).expect(1);
    assert_eq!(ran.stdout.lines().count(), 3, "{ran:#?}");
    assert_eq!(
        bench.ccdadm(&["purify", "--json", &file]).expect(1).json()["broken"][0]["line"],
        3
    );
    bench
        .ccdadm(&["purify", "--drop", &file])
        .expect_error(107, "CCD-1002", "3 rows");
    bench.ccdadm(&["purify", "--drop", "--dry-run", &file]).expect(1);
    assert_eq!(bench.read("file"), text);
    bench.ccdadm(&["purify", "--drop", "--yes", &file]).expect(0);
    let pure = bench.read("file");
    assert!(pure.starts_with("K_fmt:a:b\nK:1:2\nCCD_CHK:"), "{pure}");
    bench.ccdadm(&["purify", &file]).expect(0);
    bench.write("file", &pure.replace("K:1:2", "K:1:3"));
    bench
        .ccdadm(&["purify", &file])
        .expect_error(104, "CCD-1031", "file");
    bench
        .ccdadm(&["purify", "/none"])
        .expect_error(66, "CCD-1010", "/none");
}

#[test]
fn wrong_usage_is_64_and_help_is_not() {
    for args in [
        &["frobnicate"] as &[&str],
        &["query"],
        &["query", "K", "--stale", "--static"],
        &["query", "K", "--wildcard", "ab"],
        &["add", "K"],
        &["status", "--timeout", "soon"],
        &["status", "-q", "-v"],
        &["status", "--frob"],
        &["why", "-c", "x"],
    ] {
        let ran = run("ccdadm", None, args, "").expect(64);
        assert!(ran.stderr.starts_with("ccdadm: CCD-1001: "), "{ran:#?}");
        assert_eq!(ran.stdout, "");
    }
    run("ccdadm", None, &[], "").expect(64).says("Usage:");
    run("ccdctl", None, &["frob"], "")
        .expect(64)
        .says("ccdctl: CCD-1001: ");
    for verb in [
        "status",
        "query",
        "add",
        "remove",
        "format",
        "remove-format",
        "keys",
        "apply",
        "checkpoint",
        "restore",
        "verify",
        "convert",
        "purify",
        "why",
        "setup",
        "explain",
    ] {
        run("ccdadm", None, &[verb, "--help"], "")
            .expect(0)
            .says("Examples:");
    }
    run("ccdadm", None, &["--version"], "").expect(0).says("ccdadm ");
    run("ccdctl", None, &["takeover", "--help"], "")
        .expect(0)
        .says("Examples:");
}

#[test]
fn messages_are_explained_and_completions_generated() {
    run("ccdadm", None, &["explain", "CCD-1101"], "")
        .expect(0)
        .says("cause:  No daemon listens");
    run("ccdadm", None, &["explain"], "").expect(0).says("CCD-1305");
    run("ccdadm", None, &["explain", "CCD-9999"], "").expect_error(64, "CCD-1001", "no such message");
    for shell in ["bash", "zsh", "fish"] {
        run("ccdadm", None, &["completions", shell], "")
            .expect(0)
            .says("remove-format");
        run("ccdctl", None, &["completions", shell], "")
            .expect(0)
            .says("takeover");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ccdadm"))
        .args(["explain", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
