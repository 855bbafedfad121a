//! Databases and updates for the tests of this folder.

use super::{Database, Key, Op, Record, Row, Update, Who};
use crate::ids::{Epoch, NodeId, NodeSet, RequestId};
use crate::time::Date;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

/// Rows 1 to 5 of Fig. 6.
pub const FIGURE_6: &str = "\
MY_KEY_fmt:clustname:number_nodes:network_type:node_names
MY_KEY:clust0:4:sci:foo,bar,moo,boo
MY_KEY:clust1:2:either:foo,bar
MY_KEY:clust2:3:sci:foo,bar,moo
MY_KEY:clust3:1::foo
";

/// `Apr 16 09h49m47 1997`, the date of Fig. 6, in milliseconds since 1970 UTC.
pub const FIGURE_6_DATE: Date = Date(861_184_187_000);

pub fn key(name: &str) -> Key {
    Key::new(name).expect("a good key")
}

pub fn row(text: &str) -> Row {
    Row::parse_text(text).expect("a good row")
}

/// An update with this number as its request's sequence.
pub fn update(sequence: u64, ops: Vec<Op>) -> Update {
    Update {
        request: RequestId { client: 1, sequence },
        who: Who::default(),
        date: FIGURE_6_DATE,
        reason: None,
        preconditions: vec![],
        ops,
    }
}

pub fn members(count: u8) -> NodeSet {
    (0..count).filter_map(NodeId::new).collect()
}

/// Admits one update and makes its record.
pub fn commit(database: &Database, update: Update) -> (Record, Database) {
    let (admitted, _) = database.admit(&update).expect("admitted");
    Record::updates(database, Epoch(7), admitted, vec![update], members(4))
}

/// The rows of Fig. 6 after one update by a cluster of four.
pub fn figure_6() -> Database {
    let columns = ["clustname", "number_nodes", "network_type", "node_names"]
        .map(String::from)
        .to_vec();
    let mut ops = vec![Op::Format {
        key: key("MY_KEY"),
        columns,
    }];
    ops.extend(FIGURE_6.lines().skip(1).map(|line| Op::Add(row(line))));
    commit(&Database::default(), update(1, ops)).1
}

/// Operations over few keys and values, so that they often meet; many of them are refused.
pub fn any_op() -> impl Strategy<Value = Op> {
    let any_key = prop_oneof![Just(key("A")), Just(key("A.b")), Just(key("Ab")), Just(key("B"))];
    let value = prop_oneof![
        3 => "[a-c]{0,2}",
        1 => Just(String::from(":%\n")),
        1 => "\\PC{0,6}",
        1 => Just("x".repeat(600)),
    ];
    let any_row = (any_key.clone(), proptest::collection::vec(value.clone(), 2..4))
        .prop_map(|(key, values)| Row { key, values });
    let columns = (1..4_usize).prop_map(|count| {
        ["x", "y", "z"][..count]
            .iter()
            .map(|c| String::from(*c))
            .collect()
    });
    let content = (
        proptest::collection::vec((any_key.clone(), columns), 0..3),
        proptest::collection::vec(any_row.clone(), 0..4),
    )
        .prop_map(|(formats, rows)| super::Content { formats, rows });
    let pattern = (any_key.clone(), proptest::collection::vec("[a-c*]{0,2}", 0..3))
        .prop_map(|(key, columns)| super::Pattern::positional(key, columns));
    prop_oneof![
        12 => any_row.prop_map(Op::Add),
        3 => pattern.prop_map(Op::Remove),
        6 => (any_key.clone(), 1..3_usize).prop_map(|(key, more)| Op::Format {
            key,
            columns: ["x", "y", "z"][..more + 1].iter().map(|c| String::from(*c)).collect(),
        }),
        1 => any_key.clone().prop_map(Op::RemoveFormat),
        1 => (any_key, content.clone()).prop_map(|(key, content)| Op::ReplaceKey { key, content, restore: crate::configuration::RestoreFlag::AllActive }),
        1 => content.prop_map(|content| Op::ReplaceAll {
            content,
            restore: crate::configuration::RestoreFlag::NotAllActive,
        }),
        1 => Just(Op::Purify),
    ]
}

/// A database that many updates made, some of them of several operations; and the record of each.
pub fn any_history() -> impl Strategy<Value = (Database, Vec<Record>)> {
    proptest::collection::vec(proptest::collection::vec(any_op(), 1..4), 0..40).prop_map(|transactions| {
        let mut database = Database::default();
        let mut records = Vec::new();
        for (sequence, ops) in (1..).zip(transactions) {
            let update = update(sequence, ops);
            let Ok((admitted, _)) = database.admit(&update) else {
                continue;
            };
            let (record, next) = Record::updates(&database, Epoch(7), admitted, vec![update], members(2));
            records.push(record);
            database = next;
        }
        (database, records)
    })
}
