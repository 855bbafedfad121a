//! Request ids: one is applied once, belongs to its user, and names one content. Needs root.

use ccd_client::wire::{self, Ask, PREAMBLE, ToDaemon};
use ccd_client::{Applied, Client, Transaction, messages};
use ccd_core::client::{Request, RequestBody, UpdateRequest};
use ccd_core::database::{Key, Op, Row, Who};
use ccd_core::ids::RequestId;
use ccd_core::time::Date;
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, Shape, TestNode};
use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

/// May write one key.
const WRITER: User<'_> = User {
    uid: 2002,
    gid: 2002,
    groups: &[],
};

fn client(node: &TestNode) -> Client {
    Client::attach(node.places(), "process-test").expect("it runs")
}

fn add(key: &str, value: &str) -> Op {
    let key = Key::new(key).expect("a key");
    Op::Add(Row::new(key, [value.to_owned()]).expect("a row"))
}

fn transaction(key: &str, value: &str) -> Transaction {
    Transaction::of(vec![add(key, value)])
}

/// Sends what the first argument names to the socket of the second, and reads until nothing more comes.
const SEND: &str = "import socket, sys\n\
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2])\n\
    s.sendall(open(sys.argv[1], 'rb').read()); s.settimeout(3)\n\
    came = 0\n\
    try:\n\
    \x20 while True:\n\
    \x20   piece = s.recv(65536)\n\
    \x20   if not piece: break\n\
    \x20   came += len(piece)\n\
    except TimeoutError: pass\n\
    print(came)\n";

#[test]
fn an_id_that_another_user_has_submitted_before_is_still_free_for_its_owner() {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let init = File::options().append(true).open(node.places().init_path());
        init.and_then(|mut file| file.write_all(b"ACCESS:write:2002:MINE\n"))
            .expect("setup wrote it");
    }
    cluster.start_both();
    let door = Door::open(&cluster);
    let alpha = cluster.alpha();
    for name in ["MINE", "THEIRS"] {
        alpha.adm(&["format", name, "what"]).done();
    }
    let victim = client(alpha);
    let ids: Vec<RequestId> = (0..20).map(|_| victim.new_request()).collect();
    // As if the attacker had got hold of the ids themselves.
    let mut bytes = PREAMBLE.to_vec();
    for (id, request) in (1..).zip(&ids) {
        let update = UpdateRequest {
            request: *request,
            who: Who::default(),
            date: Date(0),
            reason: None,
            preconditions: Vec::new(),
            ops: vec![add("MINE", &id.to_string())],
            no_wait: false,
            dry_run: false,
            no_sync: false,
        };
        let body = Ask::Request(Request {
            timeout: Duration::from_secs(5),
            body: RequestBody::Update(update),
        });
        bytes.extend(wire::encode_request(&ToDaemon { id, body }).expect("it fits"));
    }
    let frames = cluster.folder().join("frames");
    fs::write(&frames, bytes).expect("the folder is ours");
    let socket = alpha.places().client_socket();
    let path = |path: &std::path::Path| path.to_str().expect("the path is ours").to_owned();
    let sent = door
        .command(WRITER, "python3", &["-c", SEND, &path(&frames), &path(&socket)])
        .output();
    let sent = sent.expect("python3 is there");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert_eq!(
        alpha.adm(&["query", "MINE"]).done().rows().len(),
        ids.len(),
        "the attacker's own updates"
    );
    for (number, request) in ids.iter().enumerate() {
        let done = victim.update_as(*request, transaction("THEIRS", &number.to_string()));
        assert!(matches!(done, Ok(Applied::Committed { .. })), "{done:?}");
        assert!(victim.outcome(*request).expect("it is answered").is_some());
    }
    assert_eq!(alpha.adm(&["query", "THEIRS"]).done().rows().len(), ids.len());
}

#[test]
fn the_same_update_is_applied_once_and_another_under_its_id_is_refused_and_alarmed() {
    let cluster = Cluster::start();
    let (alpha, beta) = (cluster.alpha(), cluster.beta());
    alpha.adm(&["format", "K", "what"]).done();
    let first = client(alpha);
    let request = first.new_request();
    first
        .update_as(request, transaction("K", "one"))
        .expect("it is new");
    // Asked again: by its own handle, and by another program of the same user on the other node.
    for again in [&first, &client(beta)] {
        let done = again.update_as(request, transaction("K", "one"));
        assert!(matches!(done, Ok(Applied::Committed { .. })), "{done:?}");
        assert!(again.outcome(request).expect("it is answered").is_some());
    }
    for other in [&first, &client(beta)] {
        let error = other
            .update_as(request, transaction("K", "two"))
            .expect_err("it is another update");
        assert_eq!(error.message().id, messages::REQUEST_REUSED.id, "{error}");
    }
    assert_eq!(alpha.adm(&["query", "K"]).done().rows(), ["K:one"]);
    let history = alpha
        .adm(&["history", "K", "--json", "--last", "1"])
        .done()
        .json();
    let public = history["request"].as_str().expect("it is text").to_owned();
    assert_eq!(public.len(), 8, "{public}");
    assert!(!request.to_string().contains(&public));
    let why = alpha.adm(&["why", "-c", "50"]).done();
    assert!(
        why.out.contains(&format!(
            "under request {public}, which was applied with other content"
        )),
        "{}",
        why.out
    );
}
