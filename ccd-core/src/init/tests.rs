//! The table of what an init database may say, and what is said about the rest.

use super::*;
use alloc::string::ToString;
use proptest::prelude::*;

const PAIR: &str = "\
# made by hand
CLUSTER:prod:0123456789abcdef0123456789abcdef
NODE:0:alpha
NODE:1:beta
ADDRESS:alpha:10.0.0.1:
ADDRESS:alpha:fd00%3A%3A1:7000
ADDRESS:beta:10.0.0.2:
DEVICE:primary:/dev/disk/by-id/p
DEVICE:secondary:/dev/disk/by-id/s
OPTION:lease_ms:2000
";

fn with(change: &str) -> String {
    format!("{PAIR}{change}\n")
}

#[test]
fn a_pair_with_devices_is_read() {
    let init = ClusterInit::parse(PAIR).expect("it is well-formed");
    assert_eq!(init.name(), "prod");
    assert_eq!(init.id().to_string(), "0123456789abcdef0123456789abcdef");
    let alpha = init.node_named("alpha").expect("alpha is there");
    assert_eq!(init.node_named("0"), Some(alpha));
    assert_eq!(init.node_named("2"), None);
    let addresses: Vec<String> = alpha.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1:5640", "[fd00::1]:7000"]);
    assert_eq!(init.node_set().count(), 2);
    assert_eq!(init.device_set().count(), 2);
    assert_eq!(init.devices()[1].path, "/dev/disk/by-id/s");
    let options = init.options();
    assert_eq!(options.lease.as_millis(), 2000);
    assert_eq!(options.heartbeat.as_millis(), 100);
    assert_eq!(options.request_timeout.as_millis(), 5000);
    assert_eq!(options.disk_deadline.as_millis(), 2000);
    assert_eq!(
        (options.port, options.image_mib, options.journal_mib),
        (5640, 32, 8)
    );
    assert_eq!(options.fencing, Fencing::Scsi);
    assert_eq!(options.propagation, Propagation::Forward);
    assert_eq!(options.update_propagation, Propagation::Broadcast);
}

#[test]
fn every_wrong_row_is_refused_with_its_line_and_reason() {
    // What is added to PAIR as its line 11, and what the error must say.
    let table = [
        (
            "CLUSTER:other:0123456789abcdef0123456789abcdef",
            "line 11: the CLUSTER row: there is more than one",
        ),
        ("NODE:1:gamma", "another node has the number 1"),
        ("NODE:2:beta", "or this name"),
        ("NODE:32:gamma", "\"32\" is not between 0 and 31"),
        ("NODE:02:gamma", "\"02\" is not between 0 and 31"),
        ("NODE:-1:gamma", "is not between 0 and 31"),
        ("NODE:2:7up", "a name is a letter"),
        (
            "NODE:2:gamma:7",
            "its id \"7\" is not 16 lower-case hexadecimal digits",
        ),
        ("NODE:2:gamma:0000000000000000", "not all zero"),
        (
            "NODE:2:gamma:00000000000000AB",
            "is not 16 lower-case hexadecimal digits",
        ),
        ("NODE:2:a/b", "a name is a letter"),
        (
            "NODE:2",
            "line 11: the NODE row: it has 1 columns, and its format 3 (number, name, id)",
        ),
        (
            "ADDRESS:gamma:10.0.0.3:",
            "address \"10.0.0.3\" of node \"gamma\": there is no such node",
        ),
        ("ADDRESS:beta:example.org:", "it is not an IP address"),
        ("ADDRESS:beta:0.0.0.0:", "it is not the address of one node"),
        ("ADDRESS:beta:10.0.0.1:", "10.0.0.1:5640 is there twice"),
        ("ADDRESS:beta:10.0.0.3:0", "its port \"0\" is not between"),
        ("ADDRESS:beta:10.0.0.3:65536", "its port \"65536\" is not between"),
        ("ADDRESS:beta:10.0.0.3:x", "its port \"x\" is not between"),
        ("ADDRESS:beta:10.0.0.3", "it has 2 columns, and its format 3"),
        (
            "DEVICE:tertiary:/dev/x",
            "its role is neither primary nor secondary",
        ),
        ("DEVICE:primary:/dev/x", "there is another device of this role"),
        ("DEVICE:primary:x", "its path does not start with '/'"),
        (
            "OPTION:lease:1",
            "there is no such option; there are fencing, propagation, update_propagation, heartbeat_ms, lease_ms",
        ),
        ("OPTION:lease_ms:3000", "it is set twice"),
        ("OPTION:heartbeat_ms:9", "\"9\" is not a number from 10 to 10000"),
        ("OPTION:heartbeat_ms:+90", "is not a number from"),
        ("OPTION:heartbeat_ms:1s", "is not a number from"),
        (
            "OPTION:heartbeat_ms:501",
            "2000 ms is less than 4 heartbeats of 501 ms; set it to 2004 or more",
        ),
        (
            "OPTION:disk_deadline_ms:2501",
            "more than half of request_timeout_ms (5000)",
        ),
        ("OPTION:fencing:power", "\"power\" is neither scsi nor lease"),
        (
            "OPTION:propagation:ring",
            "\"ring\" is neither forward nor broadcast",
        ),
        (
            "OPTION:update_propagation:",
            "\"\" is neither forward nor broadcast",
        ),
        ("OPTION:port:0", "\"0\" is not a number from 1 to 65535"),
        ("OPTION:image_mib:99999", "is not a number from 1 to 1024"),
        (
            "ADDRESS:beta:fe80%3A%3A1:",
            "it is link-local: the same on every network",
        ),
        (
            "ADDRESS:beta:127.0.0.1:7000",
            "it is a loopback address, which no other machine reaches",
        ),
        (
            "ADDRESS:beta:%3A%3Affff%3A127.0.0.1:7000",
            "it is a loopback address, which no other machine reaches",
        ),
        ("NODE:1:beta", "row \"NODE:1:beta\": it is there twice"),
        ("SITE:x", "no SITE_fmt row before it"),
        ("NODE_fmt:name:number", "this key has the columns number:name:id"),
        ("SITE_fmt:a:a", "names the column a twice"),
        ("SITE_fmt:a:", "\"\" is no column name"),
        ("X_fmt_fmt:a", "ends in _fmt, which marks format rows"),
        (
            "ACCESS:append:alice:*",
            "line 11: the ACCESS row: its right \"append\" is none of read, write and admin",
        ),
        ("ACCESS:read::*", "it names nobody"),
        ("ACCESS:read:@:*", "it names nobody"),
        ("ACCESS:read:alice:", "its keys \"\" match none"),
        ("ACCESS:read:alice:A?", "its keys \"A?\" match none"),
        ("ACCESS:read:alice", "it has 2 columns, and its format 3"),
        ("CCD_CHK:a:b", "an init database has no consistency record"),
        ("1KEY:a", "must start with a letter"),
        ("just text", "only letters, digits"),
        ("NODE", "no ':' and value follows it"),
        (
            "OPTION:fencing:%zz",
            "a % is not followed by two hexadecimal digits",
        ),
        (
            "OPTION:fencing:%",
            "a % is not followed by two hexadecimal digits",
        ),
        (
            "OPTION:fencing:%ff",
            "a % is not followed by two hexadecimal digits",
        ),
    ];
    for (row, expected) in table {
        let error = ClusterInit::parse(&with(row)).expect_err(row).to_string();
        assert!(error.contains(expected), "{row}: {error}");
    }
    for (text, expected) in [
        ("", "the CLUSTER row: it is missing"),
        (
            "CLUSTER:1:0123456789abcdef0123456789abcdef",
            "line 1: cluster name \"1\"",
        ),
        ("CLUSTER:c:0123", "an id is 32 lower-case hexadecimal digits"),
        (
            "CLUSTER:c:0123456789ABCDEF0123456789abcdef",
            "an id is 32 lower-case",
        ),
        ("CLUSTER:c:00000000000000000000000000000000", "not all zero"),
        (
            "CLUSTER:c:0123456789abcdef0123456789abcdef",
            "the NODE rows: there is none",
        ),
        (
            "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a",
            "node \"a\": it has no ADDRESS row",
        ),
        (
            "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nADDRESS:a:::1\n",
            "it has 4 columns",
        ),
        (
            "CLUSTER:c:0123456789abcdef0123456789abcdef\nNODE:0:a\nADDRESS:a:10.0.0.1:\nOPTION:fencing:scsi",
            "scsi needs devices",
        ),
    ] {
        let error = ClusterInit::parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let only_secondary = PAIR.replace("DEVICE:primary:/dev/disk/by-id/p\n", "");
    let error = ClusterInit::parse(&only_secondary)
        .expect_err("no primary")
        .to_string();
    assert!(error.contains("there is no primary"), "{error}");
    let same = PAIR.replace("by-id/s", "by-id/p");
    assert!(
        ClusterInit::parse(&same)
            .expect_err("one device")
            .to_string()
            .contains("are the same")
    );
}

#[test]
fn rows_of_access_are_read_in_their_order_and_print_as_they_were() {
    let rows = [
        "ACCESS:write:balancer:BACK*",
        "ACCESS:read:@ops:*",
        "ACCESS:admin:*:APP",
    ];
    let init = ClusterInit::parse(&with(&rows.join("\n"))).expect("well-formed");
    let found: Vec<String> = init.access().iter().map(ToString::to_string).collect();
    assert_eq!(found, rows);
    assert_eq!(init.access()[1].subject, AccessSubject::Group("ops".to_string()));
    assert!(AccessRight::Read < AccessRight::Write && AccessRight::Write < AccessRight::Admin);
}

#[test]
fn limits_are_kept() {
    let long = with(&format!("SITE_fmt:a\nSITE:{}", "x".repeat(1020)));
    assert!(
        ClusterInit::parse(&long)
            .expect_err("long")
            .to_string()
            .contains("1025 characters")
    );
    let wide = with(&format!("SITE_fmt{}", ":c".repeat(33)));
    assert!(
        ClusterInit::parse(&wide)
            .expect_err("wide")
            .to_string()
            .contains("33 columns")
    );
    let huge = "#".repeat(INIT_BYTES_MAX + 1);
    assert!(ClusterInit::parse(&huge).is_err());
    let nodes: String = (0..33).map(|n| format!("NODE:{n}:n{n}\n")).collect();
    let crowded = format!("CLUSTER:c:0123456789abcdef0123456789abcdef\n{nodes}");
    assert!(ClusterInit::parse(&crowded).is_err());
}

#[test]
fn a_deadline_that_is_not_given_follows_the_request_timeout() {
    let init = ClusterInit::parse(&with("OPTION:request_timeout_ms:600")).expect("well-formed");
    assert_eq!(init.options().disk_deadline.as_millis(), 300);
}

#[test]
fn comments_and_order_leave_the_digest_alone_and_content_does_not() {
    let init = ClusterInit::parse(PAIR).expect("well-formed");
    let reordered: Vec<&str> = PAIR.lines().rev().collect();
    let again = ClusterInit::parse(&format!("# other\n\n{}\r\n", reordered.join("\n"))).expect("well-formed");
    assert_eq!(init.digest(), again.digest());
    assert_eq!(init.options(), again.options());
    let other = ClusterInit::parse(&with("OPTION:port:5641")).expect("well-formed");
    assert_ne!(init.digest(), other.digest());
    let own = ClusterInit::parse(&with("SITE_fmt:name\nSITE:here")).expect("well-formed");
    let own_more = ClusterInit::parse(&with("SITE_fmt:name\nSITE:here\nSITE:there")).expect("well-formed");
    assert_ne!(own.digest(), own_more.digest());
}

#[test]
fn the_text_form_comes_back() {
    let init = ClusterInit::parse(&with(
        "SITE_fmt:name:place\nSITE:a%3Ab:c%25d\nACCESS:write:@ops:*",
    ))
    .expect("well-formed");
    let again = ClusterInit::parse(&init.to_text()).expect("its own text is well-formed");
    assert_eq!(init.digest(), again.digest());
    assert_eq!(init.nodes(), again.nodes());
    assert!(init.to_text().contains("\nSITE:a%3Ab:c%25d\n"));
    assert!(init.to_text().starts_with("CLUSTER_fmt:name:id\nCLUSTER:prod:"));
}

proptest! {
    #[test]
    fn damaged_text_never_panics(at in 0..PAIR.len(), bytes in proptest::collection::vec(any::<char>(), 0..4)) {
        let mut text = PAIR.to_string();
        text.replace_range(at..at + 1, &bytes.iter().collect::<String>());
        let _ = ClusterInit::parse(&text);
    }
}

#[test]
fn a_cluster_on_one_machine_has_loopback_addresses_and_a_mark_in_front_is_no_part_of_the_file() {
    let text = "CLUSTER:lab:000102030405060708090a0b0c0d0e0f\nNODE:0:a\nNODE:1:b\nADDRESS:a:127.0.0.1:7001\nADDRESS:b:127.0.0.1:7002\n";
    let init = ClusterInit::parse(text).expect("all on one machine");
    assert_eq!(
        ClusterInit::parse(&alloc::format!("\u{feff}{text}")).as_ref(),
        Ok(&init)
    );
    let unsuited = |ip: &str| super::unsuited(ip.parse().expect("an address"));
    assert!(unsuited("169.254.7.1").is_some_and(|why| why.contains("link-local")));
    assert!(unsuited("10.0.0.1").is_none() && unsuited("127.0.0.1").is_none());
}

#[test]
fn a_node_may_have_the_id_of_its_server_and_files_without_are_as_before() {
    let text = |alpha: &str, format: &str| {
        format!(
            "CLUSTER:c:0123456789abcdef0123456789abcdef\n{format}NODE:0:a{alpha}\nNODE:1:b\nADDRESS:a:10.0.0.1:\nADDRESS:b:10.0.0.2:\n"
        )
    };
    let old = ClusterInit::parse(&text("", "")).unwrap();
    assert_eq!(old.servers(), Servers::default());
    assert!(
        old.to_text().contains("NODE_fmt:number:name\n"),
        "{}",
        old.to_text()
    );
    // What earlier releases compute of the same rows.
    assert_eq!(
        old.digest(),
        ClusterInit::parse(&text("", "NODE_fmt:number:name\n"))
            .unwrap()
            .digest()
    );
    for format in ["", "NODE_fmt:number:name\n", "NODE_fmt:number:name:id\n"] {
        let new = ClusterInit::parse(&text(":00000000000000ab", format)).unwrap();
        assert_eq!(new.node_named("a").unwrap().server, ServerId(0xab));
        assert_eq!(new.node_named("b").unwrap().server, ServerId::default());
        assert_ne!(new.digest(), old.digest());
        let again = ClusterInit::parse(&new.to_text()).unwrap();
        assert_eq!(again, new);
        assert_eq!(again.digest(), new.digest());
    }
}
