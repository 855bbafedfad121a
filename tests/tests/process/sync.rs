//! Synchronization commands with real daemons: a veto, the ways in which a command misbehaves, and who may put one there.
//! Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, TestNode, until};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};

/// A command of this node, which writes down what it was told.
pub fn install(node: &TestNode, name: &str, text: &str) -> PathBuf {
    let sync_dir = node.places().sync_dir();
    fs::create_dir_all(&sync_dir).expect("the folder is ours");
    for folder in [&node.places().etc, &sync_dir] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let path = sync_dir.join(name);
    // One that runs is replaced, not written over.
    let new = sync_dir.join(format!("{name}.new"));
    let told = told_path(node);
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n{text}\n", told.display());
    fs::write(&new, script).expect("it is ours");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::rename(&new, &path).expect("it is ours");
    path
}

fn told_path(node: &TestNode) -> PathBuf {
    node.places().state.join("told")
}

/// The first words of what the node's commands were told, since this was last asked for.
pub fn told(node: &TestNode) -> Vec<String> {
    let text = fs::read_to_string(told_path(node)).unwrap_or_default();
    let words = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    text.lines().map(words).collect()
}

fn wait_until_told(cluster: &Cluster, expected: &[&str]) {
    for node in &cluster.nodes {
        until(&format!("{} to run {expected:?}", node.name), || {
            match told(node) {
                found if found == expected => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
    }
    forget(cluster);
}

pub fn forget(cluster: &Cluster) {
    for node in &cluster.nodes {
        let _ = fs::remove_file(told_path(node));
    }
}

/// What undoes one update while the next one is already refused elsewhere.
const SLOW_TO_UNDO: &str = "case $1 in post_rollback) sleep 0.2;; esac";

/// A pair whose key `MY_KEY` runs `realloc` on both nodes, and whose key `OTHER` runs nothing.
fn pair(text: &str) -> Cluster {
    let cluster = Cluster::start();
    for node in &cluster.nodes {
        install(node, "realloc", text);
    }
    let alpha = cluster.alpha();
    alpha.adm(&["format", "MY_KEY", "name", "value"]).done();
    alpha.adm(&["format", "OTHER", "name"]).done();
    alpha.adm(&["sync-command", "set", "MY_KEY", "realloc"]).done();
    cluster
}

fn generation(node: &TestNode) -> u64 {
    let status = node.status().expect("it runs");
    status["cluster"]["generation"].as_u64().expect("a number")
}

fn epoch(node: &TestNode) -> Value {
    node.status().expect("it runs")["cluster"]["epoch"].clone()
}

#[test]
fn a_command_is_set_shown_and_unset_and_runs_on_every_node_with_its_arguments() {
    let cluster = pair("tail -n 1 \"$3\" | cut -d: -f 1 >> $(dirname $0)/seen");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    beta.adm(&["sync-command", "show", "MY_KEY"])
        .done()
        .shows("realloc");
    beta.adm(&["sync-command", "show", "OTHER"])
        .expect(105)
        .says_what_to_try();
    let shown = beta.adm(&["sync-command", "show", "--json"]).done().json();
    assert_eq!(shown["commands"][0]["key"], "MY_KEY");
    for bad in ["../realloc", "/bin/true", "a b", ""] {
        alpha
            .adm(&["sync-command", "set", "MY_KEY", bad])
            .expect(65)
            .says_what_to_try();
    }
    // By hand, around the verb, it is refused as well.
    alpha.adm(&["add", "CCD_SYNC", "OTHER", "../x"]).expect(65);

    beta.adm(&["add", "MY_KEY", "a", "x y"]).done();
    for (index, node) in cluster.nodes.iter().enumerate() {
        until(&format!("{} to have run it twice", node.name), || {
            let lines = fs::read_to_string(told_path(node)).unwrap_or_default();
            let lines: Vec<&str> = lines.lines().collect();
            let [pre, post] = lines[..] else {
                return Err(format!("{lines:?}"));
            };
            let run = node.places().run.display().to_string();
            for (line, keyword) in [(pre, "pre_add"), (post, "post_add")] {
                assert!(
                    line.starts_with(&format!("{keyword} MY_KEY:a:x y {run}/sync/")),
                    "{line}"
                );
                assert!(line.ends_with(&format!(".ccd 2 2 {index}")), "{line}");
            }
            Ok(())
        });
        let seen = node.places().sync_dir().join("seen");
        until(
            "the database to be read before and after",
            || match fs::read_to_string(&seen).unwrap_or_default() {
                found if found == "CCD_CHK\nCCD_CHK\n" => Ok(()),
                found => Err(found),
            },
        );
        until("the copies to be gone", || {
            let left = fs::read_dir(node.places().run.join("sync"))
                .expect("it is there")
                .count();
            if left == 0 { Ok(()) } else { Err(left.to_string()) }
        });
    }
    forget(&cluster);
    alpha.adm(&["remove", "MY_KEY", "a"]).done();
    wait_until_told(&cluster, &["pre_remove", "post_remove"]);
    alpha.adm(&["add", "OTHER", "a"]).done();
    alpha.adm(&["add", "--no-sync", "MY_KEY", "b", "y"]).done();
    alpha.adm(&["sync-command", "unset", "MY_KEY"]).done();
    alpha
        .adm(&["sync-command", "unset", "MY_KEY"])
        .expect(105)
        .says_what_to_try();
    alpha.adm(&["add", "MY_KEY", "c", "z"]).done();
    for node in &cluster.nodes {
        assert_eq!(told(node), Vec::<String>::new(), "{}", node.name);
    }
    cluster.verify();
}

#[test]
fn a_veto_of_one_node_is_shown_with_what_it_said_and_changes_nothing() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    install(
        beta,
        "realloc",
        "case $1 in pre_*) echo \"no room for $2\" >&2; exit 7;; esac",
    );
    install(alpha, "realloc", SLOW_TO_UNDO);
    let before = generation(alpha);
    for node in [alpha, beta] {
        node.adm(&["add", "MY_KEY", "a", "x"])
            .expect(1)
            .says("node 1")
            .says("realloc")
            .says("exit code 7")
            .says("no room for MY_KEY:a:x")
            .says("CCD-1216")
            .says_what_to_try();
        // On the other node it may have been stopped before it said a word, or before it began: the `post_rollback` of the
        // update before may still have run there.
        until("the unfreeze", || match told(beta).last() {
            Some(last) if last == "post_rollback" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(told(beta), ["pre_add", "post_rollback"]);
        forget(&cluster);
    }
    assert_eq!(generation(alpha), before);
    alpha.adm(&["query", "MY_KEY"]).expect(1);
    beta.adm(&["why"]).done().shows("refused an update");
    // What does not touch the key goes on, and so does who asks for no commands.
    beta.adm(&["add", "OTHER", "a"]).done();
    beta.adm(&["add", "--no-sync", "MY_KEY", "a", "x"]).done();
    cluster.verify();
}

#[test]
fn a_command_that_hangs_forks_and_ignores_signals_is_killed_and_the_cluster_serves_on() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let mark = cluster.folder().join("mark");
    install(
        beta,
        "realloc",
        &format!(
            "case $1 in pre_*) ;; *) exit 0;; esac\ntrap '' TERM INT HUP\n\
             echo still waiting >&2\n(trap '' TERM; sleep 6; touch {}) &\nwhile :; do sleep 1; done",
            mark.display()
        ),
    );
    let before = epoch(alpha);
    for node in [alpha, beta] {
        let refused = node
            .adm(&["--timeout", "3", "add", "MY_KEY", "a", "x"])
            .expect(124)
            .says("node 1")
            .says("killed after")
            .says("still waiting")
            .says("CCD-1217")
            .says_what_to_try();
        assert!(refused.took.as_millis() < 4_000, "{:?}", refused.took);
        alpha.adm(&["add", "OTHER", node.name]).done();
        beta.adm(&["query", "OTHER"]).done();
    }
    // Nobody missed a heartbeat meanwhile.
    assert_eq!(epoch(alpha), before);
    std::thread::scope(|scope| {
        let hangs = scope.spawn(|| alpha.adm(&["--timeout", "4", "add", "MY_KEY", "b", "x"]));
        // Queries are answered while it hangs.
        until("the command to hang", || match told(beta).len() {
            5.. => Ok(()),
            found => Err(found.to_string()),
        });
        beta.adm(&["query", "OTHER"]).done();
        alpha.adm(&["add", "--no-wait", "OTHER", "late"]).expect(109);
        hangs.join().expect("it ends").expect(124);
    });
    alpha.adm(&["query", "MY_KEY"]).expect(1);
    // Long after the child would have made it.
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(!mark.exists(), "a child of a killed command went on");
    cluster.verify();
}

/// How many processes on this machine were started with this word.
fn processes_with(word: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("it is there").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .filter(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
        .count()
}

#[test]
fn what_a_command_starts_outside_of_its_group_ends_with_it_and_has_no_privileges_of_the_daemon() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let before = epoch(alpha);
    // A number of seconds that no other process of this machine sleeps.
    let word = format!("9{:08}", std::process::id());
    let escape = format!("setsid sh -c 'trap \"\" TERM HUP; sleep {word} & sleep {word}'");
    // Exits at once and leaves two hundred behind; hangs, silent, with one that escaped. Neither can be told by its end.
    for (text, code) in [
        (format!("for i in $(seq 100); do {escape} & done; sleep 1"), 0),
        (
            format!("{escape} & exec <&- >&- 2>&-; while :; do sleep 1; done"),
            124,
        ),
    ] {
        install(beta, "realloc", &format!("case $1 in pre_*) {text};; esac"));
        alpha
            .adm(&["--timeout", "8", "add", "MY_KEY", &code.to_string(), "x"])
            .expect(code);
        until("everything that it started to end", || {
            match processes_with(&word) {
                0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        });
        beta.wait_for_log("left processes behind outside of its group");
        alpha.adm(&["add", "OTHER", &code.to_string()]).done();
    }
    assert_eq!(epoch(alpha), before, "nobody missed a heartbeat meanwhile");
    assert_eq!(beta.adm(&["query", "MY_KEY"]).done().rows(), ["MY_KEY:0:x"]);
    cluster.verify();
}

#[test]
fn a_command_that_floods_is_cut_off() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    install(alpha, "realloc", "case $1 in pre_*) yes flood >&2;; esac");
    let refused = beta
        .adm(&["add", "MY_KEY", "a", "x"])
        .expect(1)
        .says("node 0")
        .says("wrote more than");
    assert!(refused.err.len() < 8_000, "{} bytes", refused.err.len());
    alpha.adm(&["add", "OTHER", "a"]).done();
    cluster.verify();
}

#[test]
fn a_file_that_others_could_have_written_or_that_is_not_there_is_never_run() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    install(alpha, "realloc", SLOW_TO_UNDO);
    let path = beta.places().sync_dir().join("realloc");
    // The node that refuses always began; on the other one the command of the update before may still run, and then that of
    // this update is never begun there.
    let unfrozen = || {
        let text = beta.log();
        text.matches("post_rollback of the synchronization command realloc failed")
            .count()
    };
    let refused = |words: &str| {
        let before = unfrozen();
        alpha
            .adm(&["add", "MY_KEY", "a", "x"])
            .expect(1)
            .says("node 1")
            .says(words)
            .says_what_to_try();
        until("the unfreeze on the node that refused", || match unfrozen() {
            now if now == before + 1 => Ok(()),
            now => Err(format!("{now}, and {before} before")),
        });
        assert_eq!(told(beta), Vec::<String>::new());
    };
    chown(&path, Some(65_534), None).expect("root may");
    refused("belongs to user 65534, not to root");
    chown(&path, Some(0), None).expect("root may");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("it is ours");
    refused("chmod go-w");
    fs::remove_file(&path).expect("it is ours");
    std::os::unix::fs::symlink("/bin/true", &path).expect("it is ours");
    refused("no regular file");
    fs::remove_file(&path).expect("it is ours");
    refused("there is no");
    install(beta, "realloc", "exit 0");
    alpha.adm(&["add", "MY_KEY", "a", "x"]).done();
    until("beta to run the one that is sound", || match told(beta) {
        found if found == ["pre_add", "post_add"] => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn transactions_dry_runs_and_restores_run_it_too() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let file = cluster.folder().join("transaction");
    fs::write(&file, "add MY_KEY:a:x\nadd MY_KEY:b:x\nadd OTHER:a\n").expect("it is ours");
    let file = file.to_str().expect("the path is ours");
    let before = generation(alpha);
    beta.adm(&["apply", "--dry-run", file]).done();
    wait_until_told(&cluster, &["pre_apply", "post_rollback"]);
    assert_eq!(generation(alpha), before, "nothing was changed");
    beta.adm(&["apply", file]).done();
    wait_until_told(&cluster, &["pre_apply", "post_apply"]);
    let saved = cluster.folder().join("saved.ccd");
    let saved = saved.to_str().expect("the path is ours");
    alpha.adm(&["checkpoint", saved]).done();
    alpha.adm(&["restore", "--yes", saved]).done();
    wait_until_told(&cluster, &["pre_restore", "post_restore"]);
    alpha.adm(&["restore", "--yes", "--key", "OTHER", saved]).done();
    alpha.adm(&["restore", "--yes", "--no-sync", saved]).done();
    alpha.adm(&["restore", "--yes", "--key", "MY_KEY", saved]).done();
    wait_until_told(&cluster, &["pre_restore", "post_restore"]);
    cluster.verify();
}

#[test]
fn a_survivor_runs_it_alone() {
    let mut cluster = pair("exit 0");
    cluster.nodes[BETA].kill();
    let alpha = cluster.alpha();
    alpha.wait_for("serving solo");
    alpha.adm(&["add", "MY_KEY", "a", "x"]).done();
    until("the command to have run", || {
        let lines = fs::read_to_string(told_path(alpha)).unwrap_or_default();
        let last = lines.lines().last().unwrap_or_default().to_owned();
        if last.starts_with("post_add") && last.ends_with(" 2 1 0") {
            Ok(())
        } else {
            Err(lines)
        }
    });
    install(alpha, "realloc", "echo not alone >&2; exit 1");
    cluster.nodes[ALPHA]
        .adm(&["add", "MY_KEY", "b", "x"])
        .expect(1)
        .says("not alone");
}

/// Looks at every process of the machine as a user that is not root, and counts where a word occurs.
struct Spy {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Spy {
    const SCRIPT: &str = "
import os, select, sys
word = os.read(0, 100).strip()
print('ready', flush=True)
seen = looks = 0
while not select.select([0], [], [], 0.01)[0]:
    looks += 1
    for process in os.listdir('/proc'):
        for name in ('cmdline', 'environ') if process.isdigit() else ():
            try:
                seen += word in open(f'/proc/{process}/{name}', 'rb').read()
            except OSError:
                pass
print(seen, looks, flush=True)
";

    fn start(door: &Door, word: &str) -> Self {
        let user = User {
            uid: 2001,
            gid: 2001,
            groups: &[],
        };
        let mut command = door.command(user, "python3", &["-c", Self::SCRIPT]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3 is there");
        // Not an argument: it would find itself.
        let mut input = child.stdin.take().expect("it is a pipe");
        input.write_all(word.as_bytes()).expect("it reads");
        let mut says = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut line = String::new();
        says.read_line(&mut line).expect("it says text");
        assert_eq!(line.trim_end(), "ready");
        child.stdin = Some(input);
        Self { child, says }
    }

    /// How often it saw the word.
    fn end(mut self) -> u64 {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it says text");
        self.child.wait().expect("it ends");
        let numbers: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        let [seen, looks] = numbers[..] else {
            panic!("{line}");
        };
        assert!(looks > 5, "it looked {looks} times");
        seen
    }
}

#[test]
fn a_value_of_a_private_key_is_in_no_list_of_processes_log_or_record_of_decisions() {
    let cluster = pair("exit 0");
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    let door = Door::open(&cluster);
    // It lasts, as a shell that has the row among its arguments; reads the row; and says it to its client, if it refuses.
    let text = "case $1 in pre_*) read -r row; sleep 1; echo \"$row\" >> $(dirname $0)/rows; \
                case $row in *refused*) echo \"not $row\" >&2; exit 1;; esac;; esac";
    for node in &cluster.nodes {
        install(node, "shows", text);
        install(node, "other", text);
    }
    for name in ["OPEN", "SECRET"] {
        alpha.adm(&["format", name, "name", "password"]).done();
    }
    alpha.adm(&["sync-command", "set", "OPEN", "other"]).done();
    alpha
        .adm(&["sync-command", "set", "--private", "SECRET", "shows"])
        .done();
    let shown = beta.adm(&["sync-command", "show", "--json"]).done().json();
    let private: Vec<(&str, bool)> = (shown["commands"].as_array().expect("a list").iter())
        .map(|one| (one["key"].as_str().unwrap_or_default(), one["private"] == true))
        .collect();
    assert_eq!(private, [("MY_KEY", false), ("OPEN", false), ("SECRET", true)]);
    let apply = |node: &TestNode, row: &str| {
        let path = cluster.folder().join("transaction");
        fs::write(&path, format!("add {row}\n")).expect("it is ours");
        node.adm(&["apply", path.to_str().expect("the path is ours")])
    };
    let before = "hunter1";
    let spy = Spy::start(&door, before);
    apply(alpha, &format!("OPEN:a:{before}")).done();
    assert!(spy.end() > 0, "whoever looks sees the values of other keys");
    let word = "hunter2";
    let spy = Spy::start(&door, word);
    apply(alpha, &format!("SECRET:a:{word}")).done();
    let refused = apply(beta, &format!("SECRET:refused:{word}"))
        .expect(1)
        .says("exit code 1")
        .says("CCD-1216");
    assert!(
        refused.err.contains(&format!("not SECRET:refused:{word}")),
        "its client hears what the command said: {}",
        refused.err
    );
    wait_until_rolled_back(&cluster);
    assert_eq!(spy.end(), 0, "somebody who is not root saw a value");
    for node in &cluster.nodes {
        let rows = fs::read_to_string(node.places().sync_dir().join("rows")).expect("it ran");
        assert!(rows.contains(&format!("SECRET:a:{word}\n")), "{rows}");
        let told = fs::read_to_string(told_path(node)).expect("it ran");
        assert!(told.contains("pre_add - ") && !told.contains(word), "{told}");
        let why = node.adm(&["why", "--count", "100"]).done().out;
        let (log, metrics) = (node.log(), node.ctl(&["metrics"]).done().out);
        for (what, text) in [("why", why), ("log", log), ("metrics", metrics)] {
            assert!(!text.contains(word), "{what}: {text}");
        }
    }
    // That it refused is known, and why not more.
    let logs = alpha.log() + &beta.log();
    assert!(logs.contains("the command is of a private key"), "{logs}");
    // Other keys are as they were: for what is no secret the words of the command help whoever looks.
    apply(beta, &format!("OPEN:refused:{before}")).expect(1);
    assert!(alpha.log().contains(before) || beta.log().contains(before));
    cluster.verify();
}

fn wait_until_rolled_back(cluster: &Cluster) {
    for node in &cluster.nodes {
        until(&format!("{} to roll back", node.name), || match told(node) {
            found if found.last().is_some_and(|word| word == "post_rollback") => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }
}
