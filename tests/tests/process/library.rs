//! `libccd.so` as programs in C and Python use it: every call and every error against real daemons, under valgrind, with
//! threads, and with a daemon that is killed in between. Needs root, cc, pkg-config, valgrind and Python.

use ccd_client::messages as m;
use ccd_client::wire::{Fault, PREAMBLE, Told};
use ccd_core::client::Refusal;
use ccd_core::database::{Key, OpError, Pattern, Precondition, Row};
use ccd_core::ids::{Generation, Position, RequestId};
use ccd_tests::process::cluster::ALPHA;
use ccd_tests::process::library::{Answer, Library, scripted_daemon};
use ccd_tests::process::programs::{command, run_command};
use ccd_tests::process::{Cluster, TestNode};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A database file with the key HOST and one row, and the key OTHER; the database is empty again afterwards.
fn save(node: &TestNode, path: &Path) {
    node.adm(&["format", "HOST", "name", "address"]).done();
    node.adm(&["add", "HOST", "saved", "10.0.0.1"]).done();
    node.adm(&["format", "OTHER", "x"]).done();
    node.adm(&["checkpoint", text(path)]).done();
    node.adm(&["remove", "--yes", "HOST"]).done();
    node.adm(&["remove-format", "HOST"]).done();
    node.adm(&["remove-format", "OTHER"]).done();
}

#[test]
fn every_call_from_c_ends_as_the_header_says_without_a_memory_error() {
    let cluster = Cluster::start();
    let library = Library::install(cluster.folder());
    let program = library.compile("calls");
    let files = cluster.folder().join("files");
    fs::create_dir(&files).expect("the folder is ours");
    save(cluster.alpha(), &files.join("saved.ccd"));
    let alpha = cluster.alpha();
    let pid = alpha.pid().to_string();
    let places = alpha.places();
    let words = [text(&places.run), text(&places.etc), &pid, text(&files)];
    let ran = run_command(&mut Library::checked(&program, &words));
    ran.done().shows("every call ended as expected");
    assert_eq!(
        cluster.beta().adm(&["query", "HOST"]).done().rows(),
        ["HOST:late:x", "HOST:saved:10.0.0.1"],
        "what a stopped daemon left unknown was done once"
    );
    cluster.verify();
}

#[test]
fn every_call_from_python_with_threads() {
    let cluster = Cluster::start();
    let library = Library::install(cluster.folder());
    let places = cluster.alpha().places();
    let mut python = library.python(&["calls", text(&places.run), text(&places.etc)]);
    run_command(&mut python)
        .done()
        .shows("every call ended as expected");
}

/// `threads` of `tests/library`, until its standard input is closed.
struct Counting(Child);

impl Counting {
    fn start(mut command: std::process::Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut counting = Self(child.expect("it can be started"));
        let mut line = String::new();
        let mut out = BufReader::with_capacity(1, counting.0.stdout.as_mut().expect("it is a pipe"));
        out.read_line(&mut line).expect("a pipe can be read");
        assert_eq!(line, "ready\n");
        counting
    }

    /// The rows that the program believes to be there.
    fn end(mut self) -> Vec<String> {
        drop(self.0.stdin.take());
        let mut out = String::new();
        let mut stdout = self.0.stdout.take().expect("it is a pipe");
        stdout.read_to_string(&mut out).expect("a pipe can be read");
        let status = self.0.wait().expect("it is our child");
        assert!(status.success(), "{status}; its standard error says why");
        out.lines().map(str::to_owned).collect()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // It has ended if the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_daemon_killed_under_threads_of_c_loses_no_update_and_does_none_twice() {
    const THREADS: usize = 6;
    let mut cluster = Cluster::start();
    let library = Library::install(cluster.folder());
    let program = library.compile("threads");
    let run = cluster.alpha().places().run.clone();
    let counting = Counting::start(command(&program, &[text(&run), &THREADS.to_string()]));
    for _ in 0..3 {
        cluster.nodes[ALPHA].kill();
        cluster.nodes[ALPHA].start();
        cluster.wait_until_redundant();
    }
    let mut expected = counting.end();
    expected.sort();
    let found = cluster.beta().adm(&["query", "COUNT"]).done();
    assert_eq!(found.rows(), expected);
    assert_eq!(expected.len(), THREADS);
    assert!(expected.iter().all(|row| !row.ends_with(":0")), "{expected:?}");
    cluster.verify();
}

#[test]
fn threads_of_c_have_no_memory_error_when_the_daemon_is_killed() {
    let mut cluster = Cluster::start();
    let library = Library::install(cluster.folder());
    let program = library.compile("threads");
    let run = cluster.alpha().places().run.clone();
    let counting = Counting::start(Library::checked(&program, &[text(&run), "3"]));
    cluster.nodes[ALPHA].kill();
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    let expected = counting.end();
    let found = cluster.beta().adm(&["query", "COUNT"]).done();
    assert_eq!(found.rows(), expected);
}

/// Every refusal and fault, and the message whose number its code is.
fn refusals() -> Vec<(Told, m::Message)> {
    let key = Key::new("K").expect("it is a key");
    let row = || Box::new(Row::new(Key::new("K").expect("it is a key"), ["v"]).expect("it is a row"));
    let why = || "a reason".to_owned();
    let op = |error| Told::Refused(Refusal::Op(error));
    vec![
        (Told::Refused(Refusal::NotServing { why: why() }), m::NOT_SERVING),
        (Told::Refused(Refusal::NoQuorum { why: why() }), m::NO_QUORUM),
        (Told::Refused(Refusal::Busy), m::BUSY),
        (Told::Refused(Refusal::RolledBack { why: why() }), m::ROLLED_BACK),
        (Told::Refused(Refusal::TimedOut), m::TIMED_OUT),
        (Told::Refused(Refusal::Full { why: why() }), m::FULL),
        (Told::Refused(Refusal::Unsafe { why: why() }), m::UNSAFE),
        (op(OpError::NoSuchKey(key.clone())), m::NO_SUCH_KEY),
        (
            op(OpError::NoSuchRow {
                pattern: Box::new(Pattern::all(key.clone())),
            }),
            m::NO_SUCH_ROW,
        ),
        (op(OpError::RowExists { row: row() }), m::EXISTS),
        (
            op(OpError::KeyNotEmpty {
                key: key.clone(),
                rows: 7,
            }),
            m::KEY_NOT_EMPTY,
        ),
        (
            op(OpError::UnknownColumn {
                key,
                name: "x".into(),
                columns: vec!["c".into()],
            }),
            m::COLUMN_UNKNOWN,
        ),
        (
            op(OpError::PreconditionFailed {
                precondition: Box::new(Precondition::RowPresent(*row())),
                generation: Generation(7),
            }),
            m::PRECONDITION,
        ),
        (
            op(OpError::TransactionTooLarge { limit: 1, got: 2 }),
            m::REQUEST_TOO_LARGE,
        ),
        (Told::Failed(Fault::NotPermitted { why: why() }), m::NOT_PERMITTED),
        (Told::Failed(Fault::BadRequest { why: why() }), m::DAEMON_FAULT),
        (
            Told::Failed(Fault::TooLarge { bytes: 1 << 40 }),
            m::ANSWER_TOO_LARGE,
        ),
        (
            Told::Failed(Fault::RequestTooLarge { bytes: 2, max: 1 }),
            m::LARGER_THAN_REPLICAS,
        ),
        (
            op(OpError::OtherContent {
                request: RequestId::default(),
                generation: Generation(7),
            }),
            m::REQUEST_REUSED,
        ),
        (Told::Failed(Fault::Overloaded), m::DAEMON_OVERLOADED),
        (Told::Failed(Fault::Stopping), m::DAEMON_OVERLOADED),
        (Told::Failed(Fault::Internal { why: why() }), m::DAEMON_FAULT),
        // Something that answers another question.
        (Told::Done, m::DAEMON_FAULT),
    ]
}

#[test]
fn whatever_the_daemon_answers_comes_through_as_the_code_of_its_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = Library::install(folder.path());
    // The program asks and changes in turn: each answer is given to both.
    let mut script = Vec::new();
    let mut expected = Vec::new();
    for (told, message) in refusals() {
        script.extend([Answer::Say(told.clone()), Answer::Say(told)]);
        let line = format!("{} {}", message.id, u8::from(message.is_worth_retrying()));
        expected.extend([line.clone(), line]);
    }
    // A question is asked once more when the connection is lost; then that is its answer. The change is done meanwhile.
    script.extend([Answer::Hang, Answer::Hang]);
    script.push(Answer::Say(Told::Committed {
        position: Position::EMPTY,
        removed: Some(0),
    }));
    expected.extend([format!("{} 1", m::CONNECTION_LOST.id), "0 0".into()]);
    // A question whose answer is not known is nothing that the protocol has, but a code that programs know.
    script.push(Answer::Say(Told::Refused(Refusal::Unknown { why: "x".into() })));
    expected.push(format!("{} 0", m::UNKNOWN.id));
    let run = folder.path().join("run");
    scripted_daemon(&run, PREAMBLE, script);
    let count = expected.len().to_string();
    let ran = run_command(&mut library.python(&["answers", text(&run), &count])).done();
    assert_eq!(ran.rows(), expected);

    for (name, greeting) in [("newer", [b'c', b'c', b'd', 99]), ("other", *b"SSH-")] {
        let run = folder.path().join(name);
        scripted_daemon(&run, greeting, Vec::new());
        let ran = run_command(&mut library.python(&["answers", text(&run), "0"]));
        ran.expect(1)
            .says(&format!("{}, expected 0", m::OTHER_PROTOCOL.id));
    }
}

/// The calls that `ccd.h` declares.
fn declared(header: &str) -> BTreeSet<String> {
    let starts = ["int ccd_", "const char *ccd_"];
    let lines = header
        .lines()
        .filter(|line| starts.iter().any(|start| line.starts_with(start)));
    let names = lines.filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next());
    names.map(str::to_owned).collect()
}

#[test]
fn what_is_installed_is_what_the_header_declares_and_the_pages_describe() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = Library::install(folder.path());
    let usr = library.root().join("usr");
    let header = fs::read_to_string(usr.join("include/ccd.h")).expect("it is installed");
    let declared = declared(&header);
    assert_eq!(declared.len(), 26, "{declared:?}");

    let path = text(&library.path()).to_owned();
    let symbols = run_command(&mut command("nm", &["-D", "--defined-only", &path])).done();
    let exported: BTreeSet<String> = (symbols.out.lines())
        .filter_map(|line| line.rsplit(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(exported, declared, "exported, and declared in ccd.h");

    let dynamic = run_command(&mut command("readelf", &["-d", &path])).done();
    dynamic.shows("Library soname: [libccd.so.0]");
    assert_eq!(
        fs::read_link(library.path()).expect("it is a link"),
        Path::new("libccd.so.0")
    );
    for call in &declared {
        let page = usr.join(format!("share/man/man3/{call}.3"));
        let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(
            page.contains(&format!(".BI \"int {call}("))
                || page.contains(&format!(".BI \"const char *{call}(")),
            "no synopsis of {call}"
        );
    }
    let overview = fs::read_to_string(usr.join("share/man/man3/ccd.3")).expect("it is installed");
    let codes = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define CCD_E_"));
    for code in codes.filter_map(|line| line.split(' ').next()) {
        assert!(
            overview.contains(&format!("CCD_E_{code}")),
            "ccd(3) does not list CCD_E_{code}"
        );
    }
}

/// What stands between two texts.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("there is no {start:?}"));
    rest.split_once(end)
        .unwrap_or_else(|| panic!("there is no {end:?}"))
        .0
}

#[test]
fn the_examples_of_the_manual_and_the_readme_compile() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = Library::install(folder.path());
    let page = fs::read_to_string(library.root().join("usr/share/man/man3/ccd.3")).expect("it is installed");
    let example = between(&page, ".SH EXAMPLES\n.nf\n", ".fi\n").replace("\\e", "\\");
    let file = folder.path().join("manual.c");
    fs::write(&file, example).expect("the folder is ours");
    let manual = library.compile_file(&file);
    // There is no daemon here, and it says so.
    let ran = run_command(command(&manual, &[]).env("CCD_RUN", folder.path()));
    ran.expect(1).says("CCD-1101");

    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("it is there");
    let body = between(&readme, "```c\n", "```");
    let file = folder.path().join("readme.c");
    let program = format!(
        "#include <ccd.h>\n#include <stdio.h>\nint main(void)\n{{\n{body}return code != CCD_OK;\n}}\n"
    );
    fs::write(&file, program).expect("the folder is ours");
    library.compile_file(&file);
}
