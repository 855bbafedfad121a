//! Pictures of fixed reports, as they are printed.

use super::super::fixture::{node, solo, whole};
use super::*;

fn drawn(report: &StatusReport, pen: Pen) -> String {
    let lines = picture(report, pen).into_iter().map(|line| {
        let line: String = line.into_iter().map(|piece| piece.text).collect();
        assert!(line.chars().count() <= COLUMNS_MAX, "{line}");
        assert_eq!(line, line.trim_end());
        line + "\n"
    });
    lines.collect()
}

#[test]
fn a_pair_writes_from_the_master_to_the_members() {
    let expected = "\
clients
   │
   ▼
alpha      this node, master: serving
   ├───▶ beta       serving      10.0.0.2:5640 up
   ├╌╌╌╌ primary    in sync
   └╌╌╌╌ secondary  in sync
";
    assert_eq!(drawn(&whole(2, true), Pen::UNICODE), expected);
    let plain = expected
        .replace("───▶", "--->")
        .replace("╌╌╌╌", "- - ")
        .replace('│', "|")
        .replace('▼', "v")
        .replace(['├', '└'], "+");
    assert_eq!(drawn(&whole(2, true), Pen::ASCII), plain);
    assert!(plain.is_ascii());
}

#[test]
fn a_member_hands_updates_to_the_master() {
    let mut report = whole(3, false);
    report.status.me = node(1);
    report.links = whole(3, false).links;
    report.links[0].node = node(0);
    assert_eq!(
        drawn(&report, Pen::UNICODE),
        "\
clients
   │
   ▼
beta       this node: serving
   │  10.0.0.2:5640
   ▼
alpha      master: serving
   ├───▶ beta       serving      this node
   └───▶ gamma      serving
"
    );
}

#[test]
fn a_solo_owner_writes_to_the_devices_that_are_left() {
    assert_eq!(
        drawn(&solo(), Pen::UNICODE),
        "\
clients
   │
   ▼
alpha      this node, owner: serving
   ├───▶ primary    in sync
   ├─ ✗  secondary  failed       no answer for 2000 ms
   └─ ✗  beta       absent       10.0.0.2:5640 down
"
    );
}

#[test]
fn a_node_that_does_not_serve_takes_nothing() {
    let mut report = whole(2, true);
    report.status.state = ServingState::Waiting;
    report.status.nodes[1].heard = false;
    report.status.nodes[1].serving = false;
    assert_eq!(
        drawn(&report, Pen::ASCII),
        "\
clients
   |
   X  no queries but stale ones, no updates
alpha      this node: waiting
   +-X-  beta       silent       10.0.0.2:5640 up
   +- -  primary    in sync
   +- -  secondary  in sync
"
    );
}

#[test]
fn long_names_and_errors_are_cut_at_the_edge() {
    let mut report = whole(2, true);
    report.node_names[1].name = "n".repeat(63);
    report.status.devices[0].usable = false;
    report.status.devices[0].error = Some("why ".repeat(40));
    let text = drawn(&report, Pen::UNICODE);
    assert!(text.contains('…'), "{text}");
}
