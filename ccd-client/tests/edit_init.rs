//! `ccdadm edit-init`: what an editor leaves is checked before it replaces the init database.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use support::{Bench, LEASE, Ran, run};

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
fn edit_init_waits_for_no_lock_that_any_user_could_take_and_leaves_no_file_behind() {
    let bench = Bench::new();
    bench.setup(&LEASE).expect(0);
    // Whoever can read a folder or file can lock it.
    let theirs = [bench.folder.path().to_owned(), bench.path("init.ccd")].map(|path| {
        let open = fs::File::open(path).expect("it is there");
        open.try_lock().expect("it is free");
        open
    });
    edit(&bench, "echo '# cellar' >> $1", &[]).expect(0);
    drop(theirs);
    let lock = bench.path(".init.ccd.lock");
    assert!(!lock.exists());
    // Two editors exclude each other, and the second one is told how to find the first.
    let script = format!(
        "stat -c %a {lock} >&2; EDITOR=true {} edit-init; echo second $? >&2",
        env!("CARGO_BIN_EXE_ccdadm"),
        lock = lock.display()
    );
    let first = edit(&bench, &script, &[]).expect(0);
    for part in ["600\n", "second 109\n", "CCD-1017", "fuser -v "] {
        assert!(first.stderr.contains(part), "{part:?} is not in {}", first.stderr);
    }
    assert!(!lock.exists());
    // What writes nothing needs no turn.
    let _held = ccd_client::lock_file::LockFile::take(&lock).expect("it is free");
    let file = bench.path("init.ccd").display().to_string();
    bench
        .ccdadm(&["edit-init", "--dry-run", "--from", &file])
        .expect(0);
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
