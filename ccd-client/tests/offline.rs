//! What `ccdadm` does with nothing running: setup, convert, purify, static queries, usage.

mod support;

use ccd_client::Places;
use ccd_client::files::Authkeys;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Ran, run};
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["p", "s"] {
            fs::write(folder.path().join(name), "").expect("it is written");
        }
        Self { folder }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("it is written");
        self.path(name).to_str().expect("UTF-8").to_owned()
    }
    fn ccdadm(&self, args: &[&str]) -> Ran {
        run("ccdadm", Some(self.folder.path()), args, "")
    }
    /// With a cluster of two nodes on two plain files, and `more`.
    fn setup(&self, more: &[&str]) -> Ran {
        let (p, s) = (self.path("p"), self.path("s"));
        let mut args = vec![
            "setup",
            "--cluster",
            "lab",
            "--node",
            "a=127.0.0.1:7001",
            "--node",
            "b=127.0.0.1",
        ];
        args.extend([
            "--primary",
            p.to_str().expect("UTF-8"),
            "--secondary",
            s.to_str().expect("UTF-8"),
        ]);
        args.extend(more);
        self.ccdadm(&args)
    }
}

const LEASE: [&str; 2] = ["--fencing", "lease"];

#[test]
fn setup_writes_init_database_key_and_node() {
    let bench = Bench::new();
    bench
        .setup(&["--fencing", "lease", "--option", "lease_ms=2000", "--this", "b"])
        .expect(0)
        .says("ccd-disk mkfs --role primary")
        .says("nothing stops a hung or foreign writer");
    let init = bench.read("init.ccd");
    for row in [
        "\nNODE:0:a\nNODE:1:b\n",
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
    let key = Authkeys::read(&places).expect("it is well-formed");
    assert_eq!(Authkeys::parse(&bench.read("authkey")), Ok(key));
    fs::set_permissions(places.authkey_path(), fs::Permissions::from_mode(0o440)).expect("it is ours");
    assert!(
        Authkeys::read(&places)
            .expect_err("others may read it")
            .to_string()
            .contains("0440")
    );
    assert_eq!(
        bench
            .ccdadm(&["query", "--static", "NODE", "name=b"])
            .expect(0)
            .stdout,
        "NODE:1:b\n"
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
        "NODE:2:c\n",
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

/// `ccdadm edit-init` with this editor, a shell command that finds the file in `$1`.
fn edit(bench: &Bench, editor: &str, args: &[&str]) -> Ran {
    let script = bench.write("editor", editor);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ccdadm"));
    for name in ["CCD_ETC", "CCD_STATE", "CCD_RUN"] {
        command.env(name, bench.folder.path());
    }
    let output = command
        .arg("edit-init")
        .args(args)
        .env_remove("VISUAL")
        .env("EDITOR", format!("sh {script}"))
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    Ran {
        code: output.status.code().expect("it was not killed"),
        stdout: String::from_utf8(output.stdout).expect("it writes UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("it writes UTF-8"),
    }
}

#[test]
fn edit_init_replaces_the_file_by_one_that_is_in_order() {
    let bench = Bench::new();
    bench.setup(&LEASE).expect(0);
    let own = "echo SITE_fmt:name:place >> $1; echo SITE:here:cellar >> $1; echo OPTION:lease_ms:3000 >> $1";
    let dry = edit(&bench, own, &["--dry-run"]).expect(0);
    assert_eq!(
        dry.stdout,
        "+ OPTION:lease_ms:3000\n+ SITE_fmt:name:place\n+ SITE:here:cellar\n"
    );
    assert!(!bench.read("init.ccd").contains("SITE"));
    edit(&bench, own, &[]).expect(0).says("next: stop the daemons");
    assert!(bench.read("init.ccd").ends_with("OPTION:lease_ms:3000\n"));
    let rows = bench.ccdadm(&["query", "--static", "SITE"]).expect(0);
    assert_eq!(rows.stdout, "SITE:here:cellar\n");
    bench
        .ccdadm(&["edit-init", "--check"])
        .expect(0)
        .says("is in order");
    let options = bench
        .ccdadm(&["edit-init", "--options", "--json"])
        .expect(0)
        .json();
    let mut listed = options["options"].as_array().expect("a list").iter();
    let lease = listed.find(|option| option["name"] == "lease_ms");
    assert_eq!(lease.expect("it is an option")["set"], "3000");
    bench
        .ccdadm(&["edit-init", "--options"])
        .expect(0)
        .says("40 to 120000");

    // A comment changes the file, and nothing that nodes compare.
    edit(&bench, "echo '# cellar' >> $1", &[])
        .expect(0)
        .says("the rows are the same");
    assert!(bench.read("init.ccd").ends_with("# cellar\n"));
    edit(&bench, "true", &[]).expect(0).says("nothing was changed");
    let mode = fs::metadata(bench.path("init.ccd"))
        .expect("it is there")
        .permissions();
    assert_eq!(mode.mode() & 0o7777, 0o644);
    assert!(!bench.path(".init.ccd.edit").exists());
}

#[test]
fn edit_init_leaves_the_file_as_it_is_if_the_new_one_is_wrong() {
    let bench = Bench::new();
    bench.setup(&LEASE).expect(0);
    let before = bench.read("init.ccd");
    for (editor, code, id, text) in [
        ("echo OPTION:lease_ms:7 >> $1", 65, "CCD-1020", "lease_ms"),
        ("echo OPTION:colour:red >> $1", 65, "CCD-1020", "colour"),
        ("echo SITE:here >> $1", 65, "CCD-1020", "line 15"),
        ("printf '\\377' >> $1", 65, "CCD-1033", "UTF-8"),
        ("head -c 2000000 /dev/zero > $1", 65, "CCD-1016", "larger"),
        (": > $1", 65, "CCD-1020", "CLUSTER"),
        ("rm $1", 66, "CCD-1010", "No such file"),
        ("sed -i s/:lab:/:live:/ $1", 107, "CCD-1019", "another cluster"),
        (
            "echo NODE:2:c >> $1; echo ADDRESS:c:127.0.0.1:7003 >> $1",
            107,
            "CCD-1019",
            "other nodes",
        ),
        ("exit 3", 74, "CCD-1018", "exit status: 3"),
    ] {
        edit(&bench, editor, &[]).expect_error(code, id, text);
        assert_eq!(bench.read("init.ccd"), before, "{editor}");
        assert!(!bench.path(".init.ccd.edit").exists(), "{editor}");
    }
    let bad = bench.write("bad", "CLUSTER:x\n");
    bench
        .ccdadm(&["edit-init", "--from", &bad])
        .expect_error(65, "CCD-1020", "line 1");
    bench
        .ccdadm(&["edit-init", "--from", "/nowhere"])
        .expect_error(66, "CCD-1010", "/nowhere");
    // Whoever changes the file meanwhile, or edits it too, is not overruled.
    let late = format!(
        "echo '# x' >> $1; echo '# y' >> {}",
        bench.path("init.ccd").display()
    );
    edit(&bench, &late, &[]).expect_error(109, "CCD-1017", "meanwhile");
    let nested = format!("{} edit-init", env!("CARGO_BIN_EXE_ccdadm"));
    edit(&bench, &nested, &[]).expect_error(74, "CCD-1018", "109");
    bench.write("init.ccd.next", &before);
    edit(&bench, "true", &[]).expect_error(109, "CCD-1017", "added or removed");
}

#[test]
fn edit_init_can_put_a_wrong_file_right() {
    let bench = Bench::new();
    bench.setup(&LEASE).expect(0);
    let good = bench.read("init.ccd");
    bench.write("init.ccd", &format!("{good}OPTION:lease_ms:7\n"));
    bench
        .ccdadm(&["edit-init", "--check"])
        .expect_error(65, "CCD-1020", "lease_ms");
    edit(&bench, "sed -i '/lease_ms:7/d' $1", &[]).expect(0);
    assert_eq!(bench.read("init.ccd"), good);
    let input = run(
        "ccdadm",
        Some(bench.folder.path()),
        &["edit-init", "--from", "-", "--json"],
        &format!("{good}OPTION:lease_ms:900\n"),
    );
    let done = input.expect(0).json();
    assert_eq!(done["added"][0], "OPTION:lease_ms:900");
    assert_eq!(
        (&done["changed"], &done["dry_run"]),
        (&true.into(), &false.into())
    );
    assert!(bench.read("init.ccd").ends_with(":900\n"));
}
