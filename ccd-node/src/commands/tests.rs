//! Real commands, on the worst of them.

use super::process::{Ended, run, stopping};
use super::*;
use ccd_core::database::{Database, Key, Op, Row, Update, Who};
use ccd_core::ids::{NodeId, RequestId};
use ccd_core::private::{PRIVATE_COLUMNS, PRIVATE_KEY};
use ccd_core::synchronization::{CommandName, Keyword, Operation, SYNC_COLUMNS, SYNC_KEY};
use ccd_core::time::Date;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_millis(400);
/// What the machine may take longer, with everything else that it does.
const SLACK: Duration = Duration::from_secs(5);

fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    path
}

fn ends(text: &str, limit: Duration) -> (Ended, Duration) {
    let folder = TempDir::new().expect("a folder");
    let program = script(folder.path(), "command", text);
    let (_stopper, stopped) = stopping().expect("a pipe");
    let begun = Instant::now();
    let ended = run(&program, &[], None, begun + limit, stopped).expect("it starts");
    (ended, begun.elapsed())
}

fn failed(how: &str, stderr: &str) -> Ended {
    Ended::Failed {
        how: how.into(),
        stderr: stderr.into(),
    }
}

#[test]
fn exit_code_0_agrees_and_anything_else_is_told_with_standard_error() {
    let long = Duration::from_secs(30);
    #[rustfmt::skip]
    let table = [
        ("exit 0",                                Ended::Agreed),
        ("echo said >&2; exit 0",                 Ended::Agreed),
        ("echo out; echo no room >&2; exit 3",    failed("exit code 3", "no room\n")),
        ("echo no room > /dev/stderr; exit 3",    failed("exit code 3", "no room\n")),
        ("kill -TERM $$",                         failed("ended by SIGTERM", "")),
        ("printf 'a\\033[2Jb\\200' >&2; exit 1",  failed("exit code 1", "a?[2Jb\u{fffd}")),
    ];
    for (text, expected) in table {
        assert_eq!(ends(text, long).0, expected, "{text}");
    }
}

#[test]
fn what_hangs_ignores_signals_or_forks_is_killed_at_its_time_with_its_whole_group() {
    let folder = TempDir::new().expect("a folder");
    let mark = folder.path().join("mark");
    let fork = format!("(sleep 2; touch {}) & sleep 60", mark.display());
    for text in [
        "sleep 60",
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        "echo half >&2; sleep 60 & sleep 60 & wait",
        &fork,
    ] {
        let (ended, took) = ends(text, LIMIT);
        assert!(matches!(ended, Ended::TimedOut { .. }), "{text}: {ended:?}");
        assert!(took >= LIMIT && took < LIMIT + SLACK, "{text}: {took:?}");
    }
    std::thread::sleep(Duration::from_millis(2_200));
    assert!(!mark.exists(), "a child of a killed command went on");
}

#[test]
fn what_a_command_leaves_behind_holds_up_nothing_and_is_killed() {
    let (ended, took) = ends("sleep 60 & exit 0", Duration::from_secs(30));
    assert_eq!(ended, Ended::Agreed);
    assert!(took < SLACK, "{took:?}");
    // Even if it left the group, with the pipe in its hands.
    let (ended, took) = ends("setsid sleep 8 & exit 4", Duration::from_secs(30));
    assert_eq!(ended, failed("exit code 4", ""));
    assert!(took < SLACK, "{took:?}");
}

#[test]
fn what_left_the_group_and_the_session_is_killed_with_the_rest() {
    let folder = TempDir::new().expect("a folder");
    let alive = |mark: &str| {
        let text = fs::read_to_string(folder.path().join(mark)).unwrap_or_default();
        let pids = text.split_ascii_whitespace().map(str::to_owned);
        pids.filter(|pid| Path::new("/proc").join(pid).exists())
            .collect::<Vec<_>>()
    };
    // Each writes the numbers of the processes that are to be gone.
    let escape = |mark: &str| {
        let path = folder.path().join(mark).display().to_string();
        format!(
            "setsid sh -c 'echo $$ >> {path}; trap \"\" TERM HUP INT; sleep 50 & echo $! >> {path}; sleep 60'"
        )
    };
    let ready = |mark: &str, lines: usize| {
        let path = folder.path().join(mark).display().to_string();
        format!("until [ $(wc -l < {path} || echo 0) -ge {lines} ]; do sleep 0.01; done 2> /dev/null")
    };
    let long = Duration::from_secs(30);
    let one = format!("{} & {}; exit 0", escape("one"), ready("one", 2));
    assert_eq!(ends(&one, long).0, Ended::Agreed);
    assert_eq!(alive("one"), Vec::<String>::new());
    // One that hangs, and whose child does as well.
    let hangs = format!("{} & {}; exec 2>&-; sleep 60", escape("hangs"), ready("hangs", 2));
    let (ended, took) = ends(&hangs, Duration::from_secs(2));
    assert!(matches!(ended, Ended::TimedOut { .. }), "{ended:?}");
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    assert_eq!(alive("hangs"), Vec::<String>::new());
    // Hundreds of them, in and out of the group.
    let each = format!(
        "setsid sh -c 'echo $$ >> {0}; sleep 60' & sleep 60 & echo $! >> {0}",
        folder.path().join("many").display()
    );
    let many = format!(
        "for i in $(seq 150); do {each}; done; {}; exit 5",
        ready("many", 300)
    );
    let (ended, took) = ends(&many, long);
    assert_eq!(ended, failed("exit code 5", ""));
    assert!(took < long, "{took:?}");
    // The machine may be slower than the daemon's patience; the next look finds the rest.
    let until = Instant::now() + SLACK;
    while !alive("many").is_empty() && Instant::now() < until {
        super::orphans::sweep(Instant::now() + SLACK);
    }
    assert_eq!(alive("many"), Vec::<String>::new());
}

#[test]
fn a_command_has_an_ordinary_priority_whatever_the_daemon_has() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("out");
    // A thread's own, and inherited by what it starts; only root may have a better one.
    let thread = std::thread::spawn({
        let text = format!(
            "{{ cut -d ' ' -f 19 /proc/$$/stat; cat /proc/$$/oom_score_adj; ulimit -S -n; }} > {}",
            out.display()
        );
        move || {
            // SAFETY: takes three numbers and touches no memory.
            let nicer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) };
            assert_eq!(nicer, 0);
            ends(&text, Duration::from_secs(30)).0
        }
    });
    let ended = thread.join().expect("no panic");
    let said = fs::read_to_string(&out).expect("it ran");
    // Who is not root may not go back to a better one.
    let nice = if nix::unistd::geteuid().is_root() {
        "0"
    } else {
        "7"
    };
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((ended, lines[0], lines[1]), (Ended::Agreed, nice, "0"));
    assert!(lines[2].parse::<u64>().is_ok_and(|count| count <= 1024), "{said}");
}

#[test]
fn a_flood_is_cut_off_and_what_is_told_of_it_is_bounded() {
    let (ended, took) = ends("yes flood >&2", Duration::from_secs(60));
    let Ended::Failed { how, stderr } = ended else {
        panic!("{ended:?}");
    };
    assert!(how.contains("wrote more than"), "{how}");
    assert!(
        stderr.starts_with("flood\nflood\n") && stderr.len() < 5_000,
        "{stderr}"
    );
    assert!(took < Duration::from_secs(30), "{took:?}");
    // Standard output is nobody's.
    let (ended, _) = ends("head -c 3000000 /dev/zero", Duration::from_secs(60));
    assert_eq!(ended, Ended::Agreed);
}

#[test]
fn a_command_is_stopped_when_its_answer_no_longer_counts() {
    let folder = TempDir::new().expect("a folder");
    let program = script(folder.path(), "command", "sleep 60");
    let (mut stopper, stopped) = stopping().expect("a pipe");
    stopper.stop();
    let begun = Instant::now();
    let ended = run(&program, &[], None, begun + Duration::from_secs(60), stopped);
    assert_eq!(ended.expect("it starts"), Ended::Stopped);
    assert!(begun.elapsed() < SLACK);
    // A word that comes too late goes nowhere.
    stopper.stop();
}

#[test]
fn a_command_gets_its_arguments_a_copy_of_the_database_and_a_clean_environment() {
    let folder = TempDir::new().expect("a folder");
    let etc = folder.path().join("etc");
    let sync_dir = etc.join("sync.d");
    for one in [&etc, &sync_dir] {
        fs::create_dir(one).expect("a folder in it");
        fs::set_permissions(one, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    }
    let out = folder.path().join("out");
    let text = format!(
        "{{ echo \"$#\"; for a in \"$@\"; do echo \"$a\"; done; tail -n 1 \"$3\" | cut -c 1-7; /usr/bin/env; pwd; }} > {}",
        out.display()
    );
    script(&sync_dir, "realloc", &text);
    let copies = folder.path().join("sync");
    let run = CommandRun {
        name: CommandName::new("realloc").expect("a name"),
        keyword: Keyword::Pre(Operation::Add),
        row: Some(String::from("MY_KEY:a b:$(x)")),
        database: Database::default(),
        before: Database::default(),
        nodes: 4,
        nodes_up: 3,
        me: NodeId::new(2).expect("a node"),
        limit: Duration::from_secs(30),
    };
    let (_stopper, stopped) = stopping().expect("a pipe");
    let ended = execute(&sync_dir, &copies, Ticket(7), &run, Instant::now(), stopped);
    assert_eq!(ended, Ok(()));
    let said = fs::read_to_string(&out).expect("it ran");
    let mut lines: Vec<&str> = said.lines().collect();
    let copy = copies.join("7.ccd").display().to_string();
    assert_eq!(
        lines.drain(..7).collect::<Vec<_>>(),
        ["6", "pre_add", "MY_KEY:a b:$(x)", &copy, "4", "3", "2"]
    );
    assert_eq!(lines.remove(0), "CCD_CHK");
    let mut environment: Vec<&str> = lines
        .iter()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    environment.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name));
    environment.sort_unstable();
    assert_eq!(environment, ["HOME", "LANG", "PATH"]);
    assert_eq!(lines.last(), Some(&"/"));
    assert!(!Path::new(&copy).exists(), "the copy is gone");
    // Without a row there is one argument less.
    let (_stopper, stopped) = stopping().expect("a pipe");
    let run = CommandRun { row: None, ..run };
    script(
        &sync_dir,
        "realloc",
        &format!("echo \"$# $1\" > {}", out.display()),
    );
    execute(&sync_dir, &copies, Ticket(8), &run, Instant::now(), stopped).expect("agrees");
    assert_eq!(fs::read_to_string(&out).expect("it ran"), "5 pre_add\n");
}

/// A database whose key `SECRET` is private if that is asked for, and has the command `shows`, as has `OPEN`.
fn database(is_private: bool) -> Database {
    let key = |name: &str| Key::new(name).expect("a key");
    let format = |name: &str, columns: &[&str]| Op::Format {
        key: key(name),
        columns: columns.iter().map(ToString::to_string).collect(),
    };
    let mut ops = vec![
        format(PRIVATE_KEY, &PRIVATE_COLUMNS),
        format(SYNC_KEY, &SYNC_COLUMNS),
    ];
    ops.extend(["SECRET", "OPEN"].map(|name| format(name, &["value"])));
    let mut rows = vec!["CCD_SYNC:SECRET:shows", "CCD_SYNC:OPEN:own"];
    if is_private {
        rows.push("CCD_PRIVATE:SECRET");
    }
    ops.extend(
        rows.into_iter()
            .map(|row| Op::Add(Row::parse_text(row).expect("a row"))),
    );
    let update = Update {
        request: RequestId {
            client: 1,
            sequence: 1,
        },
        who: Who::default(),
        date: Date::default(),
        reason: None,
        preconditions: Vec::new(),
        ops,
    };
    Database::default().admit(&update).expect("it is admitted").0
}

#[test]
fn a_row_is_on_standard_input_and_of_a_private_key_nowhere_else() {
    let folder = TempDir::new().expect("a folder");
    let sync_dir = folder.path().join("sync.d");
    fs::create_dir(&sync_dir).expect("a folder in it");
    for one in [folder.path(), &sync_dir] {
        fs::set_permissions(one, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    }
    let out = folder.path().join("out");
    let text = format!(
        "{{ echo \"$# $2\"; cat; tr '\\0' ' ' < /proc/$$/cmdline; tr '\\0' ' ' < /proc/$$/environ; }} > {}; \
         echo it was $2 >&2; exit 3",
        out.display()
    );
    script(&sync_dir, "shows", &text);
    let copies = folder.path().join("sync");
    let table = [
        ([true, true], "SECRET:hunter2", "6 -\nSECRET:hunter2\n", 1),
        // An update that ends it, or begins it.
        ([true, false], "SECRET:hunter2", "6 -\nSECRET:hunter2\n", 1),
        ([false, true], "SECRET:hunter2", "6 -\nSECRET:hunter2\n", 1),
        ([true, true], "OPEN:SECRET", "6 OPEN:SECRET\nOPEN:SECRET\n", 3),
        (
            [false, false],
            "SECRET:hunter2",
            "6 SECRET:hunter2\nSECRET:hunter2\n",
            3,
        ),
    ];
    for (ticket, (was_and_is_private, row, said, times)) in (1..).zip(table) {
        let is_private = was_and_is_private.contains(&true);
        let run = CommandRun {
            name: CommandName::new("shows").expect("a name"),
            keyword: Keyword::Pre(Operation::Add),
            row: Some(row.into()),
            before: database(was_and_is_private[0]),
            database: database(was_and_is_private[1]),
            nodes: 1,
            nodes_up: 1,
            me: NodeId::new(0).expect("a node"),
            limit: Duration::from_secs(30),
        };
        let (_stopper, stopped) = stopping().expect("a pipe");
        let ended = execute(&sync_dir, &copies, Ticket(ticket), &run, Instant::now(), stopped);
        let failure = ended.expect_err("it refuses");
        let found = fs::read_to_string(&out).expect("it ran");
        assert!(found.starts_with(said), "{found}");
        assert_eq!(found.matches(row).count(), times, "{found}");
        // The client hears everything; the log and the record of decisions not what may be a value.
        assert!(failure.to_string().contains("it was"), "{failure}");
        let told = failure.for_the_record(run.is_private());
        assert!(told.contains("exit code 3"), "{told}");
        assert_eq!(told.contains("it was"), !is_private, "{told}");
        assert_eq!(
            fs::read_dir(&copies).expect("it is there").count(),
            0,
            "nothing is left there"
        );
    }
}

#[test]
fn what_is_no_program_is_not_run_and_the_message_says_why() {
    let folder = TempDir::new().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    let sync_dir = folder.path().join("sync.d");
    fs::create_dir(&sync_dir).expect("a folder in it");
    fs::set_permissions(&sync_dir, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    fs::write(sync_dir.join("text"), "no program\n").expect("a file");
    fs::set_permissions(sync_dir.join("text"), fs::Permissions::from_mode(0o755)).expect("its mode");
    for (name, words) in [("text", "#!"), ("absent", "there is no")] {
        let run = CommandRun {
            name: CommandName::new(name).expect("a name"),
            keyword: Keyword::PostRollback,
            row: None,
            database: Database::default(),
            before: Database::default(),
            nodes: 1,
            nodes_up: 1,
            me: NodeId::new(0).expect("a node"),
            limit: LIMIT,
        };
        let (_stopper, stopped) = stopping().expect("a pipe");
        let ended = execute(
            &sync_dir,
            &folder.path().join("sync"),
            Ticket(1),
            &run,
            Instant::now(),
            stopped,
        );
        let Err(CommandFailure::NotRun { why }) = ended else {
            panic!("{ended:?}");
        };
        assert!(why.contains(words), "{why}");
    }
}
