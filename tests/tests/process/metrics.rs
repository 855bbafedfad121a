//! What a node tells monitoring: `GET /metrics` on control.sock, and `ccdctl metrics`. Needs root.

use ccd_client::metrics::{Sample, samples};
use ccd_tests::process::cluster::{ALPHA, BETA, SECONDARY};
use ccd_tests::process::users::{Door, User};
use ccd_tests::process::{Cluster, Shape, TestNode, until};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Sends these bytes to control.sock and returns all that comes back.
fn say(node: &TestNode, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(node.places().control_socket()).expect("the daemon runs");
    let patience = Some(Duration::from_secs(30));
    stream
        .set_read_timeout(patience)
        .expect("a socket has a time-out");
    // It may hang up before it has taken everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn page(node: &TestNode) -> String {
    let answer = say(node, b"GET /metrics HTTP/1.1\r\nHost: ccd\r\nAccept: */*\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    body.to_owned()
}

/// The value of the one sample with this name and these labels among others.
fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let found: Vec<Sample> = samples(page)
        .into_iter()
        .filter(|sample| {
            sample.name == name
                && (labels.iter())
                    .all(|(label, text)| sample.labels.get(*label).is_some_and(|found| found == text))
        })
        .collect();
    assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}\n{page}");
    found[0].value
}

/// What any reader of the format relies on.
fn check_format(page: &str) {
    let mut families = Vec::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next().expect("a name").to_owned();
            assert!(
                !families.iter().any(|(known, _)| *known == name),
                "{name} comes twice"
            );
            families.push((name, ""));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and kind");
            let last = families.last_mut().expect("HELP comes first");
            assert_eq!(last.0, name);
            last.1 = match kind {
                "counter" => "counter",
                "gauge" => "gauge",
                "histogram" => "histogram",
                other => panic!("{other}"),
            };
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        } else {
            let (name, kind) = families.last().expect("a family comes first");
            let of_family = line.strip_prefix(name.as_str()).is_some_and(|rest| {
                rest.starts_with(['{', ' '])
                    || *kind == "histogram"
                        && ["_bucket{", "_sum{", "_count{"]
                            .iter()
                            .any(|end| rest.starts_with(end))
            });
            assert!(of_family, "{line:?} below {name}");
            assert!(
                line.rsplit_once(' ')
                    .is_some_and(|(_, value)| value.parse::<f64>().is_ok()),
                "{line:?}"
            );
        }
    }
    assert!(families.len() > 30, "{page}");
    let lines = page.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples(page).len(), lines, "each line is a sample");
}

#[test]
fn a_node_tells_what_it_is_and_what_it_did() {
    let mut cluster = Cluster::start();
    let alpha = cluster.alpha();
    let before = page(alpha);
    check_format(&before);
    alpha.adm(&["format", "METER", "what"]).done();
    for number in 0..10 {
        alpha.adm(&["add", "METER", &number.to_string()]).done();
        alpha.adm(&["query", "METER"]).done();
    }
    alpha.adm(&["add", "METER", "0"]).expect(108);
    let after = page(alpha);
    check_format(&after);
    let rise = |name: &str| value(&after, name, &[]) - value(&before, name, &[]);
    assert_eq!(rise("ccd_updates_committed_total"), 11.0);
    assert!(rise("ccd_queries_total") >= 10.0, "{after}");
    assert_eq!(rise("ccd_generation"), 11.0);
    assert_eq!(
        value(&after, "ccd_requests_refused_total", &[("reason", "wrong")]),
        1.0
    );
    // Nor what is refused beside the event loop, and what is not even begun.
    alpha.adm(&["branches", "show", "none"]).expect(105);
    assert_eq!(
        value(
            &page(alpha),
            "ccd_requests_refused_total",
            &[("reason", "not_kept")]
        ),
        1.0
    );
    assert_eq!(value(&after, "ccd_state", &[("state", "serving")]), 1.0);
    assert_eq!(value(&after, "ccd_mode", &[("mode", "paired")]), 1.0);
    assert_eq!(value(&after, "ccd_health", &[("health", "redundant")]), 1.0);
    assert_eq!(
        value(&after, "ccd_problems", &[("cause", "device_unusable")]),
        0.0
    );
    assert_eq!(value(&after, "ccd_is_master", &[]), 1.0);
    assert_eq!(value(&page(cluster.beta()), "ccd_is_master", &[]), 0.0);
    assert_eq!(value(&after, "ccd_node_member", &[("node", "beta")]), 1.0);
    assert_eq!(value(&after, "ccd_link_up", &[("node", "beta")]), 1.0);
    assert!(value(&after, "ccd_lease_seconds", &[("node", "alpha")]) > 0.0);
    for device in ["primary", "secondary"] {
        assert_eq!(value(&after, "ccd_device_in_sync", &[("device", device)]), 1.0);
        let beats = value(
            &after,
            "ccd_replica_heartbeat_seconds_count",
            &[("replica", device)],
        );
        assert!(beats >= 1.0, "{device}: {beats}");
    }
    let appends = value(
        &after,
        "ccd_replica_append_seconds_count",
        &[("replica", "local")],
    );
    assert!(appends >= 11.0, "{appends}");
    assert!(value(&after, "ccd_replica_append_seconds_sum", &[("replica", "local")]) > 0.0);
    assert!(value(&after, "ccd_replica_journal_used_ratio", &[("replica", "local")]) < 1.0);
    assert!(value(&after, "process_resident_memory_bytes", &[]) > 1e6);
    assert!(value(&after, "process_open_fds", &[]) > 5.0);
    // Its own connection.
    assert!(value(&after, "ccd_client_connections", &[]) >= 1.0);
    // The verb says the same.
    let printed = alpha.ctl(&["metrics"]).expect(0).out;
    check_format(&printed);
    let verb = alpha.ctl(&["metrics", "--json"]).expect(0).out;
    assert!(verb.contains("\"ccd_survives_loss\""), "{verb}");

    // Something is lost.
    cluster.devices[SECONDARY].fail();
    until("the secondary to be out", || {
        let now = page(cluster.alpha());
        match value(&now, "ccd_device_in_sync", &[("device", "secondary")]) {
            0.0 => Ok(()),
            _ => Err(now),
        }
    });
    // The other node knows it as well.
    until("both nodes to count it", || {
        for node in &cluster.nodes {
            let now = page(node);
            let counted = value(&now, "ccd_problems", &[("cause", "device_unusable")]);
            if counted < 1.0 || value(&now, "ccd_health", &[("health", "degraded")]) < 1.0 {
                return Err(now);
            }
        }
        Ok(())
    });
    assert!(
        value(
            &page(cluster.alpha()),
            "ccd_replica_failures_total",
            &[("replica", "secondary")]
        ) > 0.0
    );
    cluster.devices[SECONDARY].repair();
    cluster.nodes[BETA].kill();
    cluster.nodes[ALPHA].wait_for("serving solo");
    let alone = page(cluster.alpha());
    assert_eq!(value(&alone, "ccd_mode", &[("mode", "solo")]), 1.0);
    assert_eq!(value(&alone, "ccd_node_heard", &[("node", "beta")]), 0.0);
    assert_eq!(value(&alone, "ccd_survives_loss", &[("part", "alpha")]), 0.0);
    assert!(value(&alone, "ccd_decisions_total", &[("kind", "opened")]) >= 2.0);
    cluster.nodes[ALPHA].ctl(&["leave"]);
    let left = page(cluster.alpha());
    check_format(&left);
    assert_eq!(
        value(&left, "ccd_state", &[("state", "serving")]),
        value(&left, "ccd_is_master", &[])
    );
    cluster.nodes[ALPHA].kill();
    cluster.nodes[ALPHA].ctl(&["metrics"]).expect(69);
}

#[test]
fn whoever_may_not_ask_and_what_is_no_request_gets_no_page() {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let init = File::options().append(true).open(node.places().init_path());
        init.and_then(|mut file| file.write_all(b"ACCESS:read:2001:*\nACCESS:admin:2003:NONE\n"))
            .expect("setup wrote it");
    }
    cluster.start_both();
    let alpha = cluster.alpha();
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404 Not Found"),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "405 Method Not Allowed",
        ),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", "200 OK"),
        (b"GET http://ccd/metrics?x HTTP/1.1\n\n", "200 OK"),
    ] {
        let answer = say(alpha, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert_eq!(
            answer.contains("ccd_epoch"),
            request.starts_with(b"GET http"),
            "{answer}"
        );
    }
    // A head without an end, and one that comes a byte at a time while others are served.
    let mut endless = b"GET /metrics HTTP/1.1\r\n".to_vec();
    while endless.len() < 1 << 20 {
        endless.extend_from_slice(b"X-Filler: 0123456789012345678901234567890123456789\r\n");
    }
    let answer = say(alpha, &endless);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let mut slow = UnixStream::connect(alpha.places().control_socket()).expect("the daemon runs");
    slow.write_all(b"GET /met").expect("it is taken");
    let mut silent = UnixStream::connect(alpha.places().control_socket()).expect("the daemon runs");
    // What speaks neither protocol, and what speaks the other one.
    say(alpha, b"\0\0\0\0\0\0\0\0");
    say(alpha, b"xyzw");
    alpha.ctl(&["members"]).done();
    check_format(&page(alpha));
    slow.write_all(b"rics HTTP/1.1\r\n\r\n")
        .expect("it is waited for");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    silent
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .expect("it is waited for");
    answer.clear();
    silent.read_to_string(&mut answer).expect("it is answered");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");

    let door = Door::open(&cluster);
    let user = |uid| User {
        uid,
        gid: 2000,
        groups: &[],
    };
    door.ask(user(2001), "ccdctl", &["metrics"])
        .done()
        .shows("ccd_epoch");
    door.ask(user(2002), "ccdctl", &["metrics"])
        .expect(77)
        .says("no ACCESS row is for this user");
    let mode = alpha
        .places()
        .control_socket()
        .metadata()
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o666, "a row grants admin to somebody");
    cluster.wait_until_redundant();
}
