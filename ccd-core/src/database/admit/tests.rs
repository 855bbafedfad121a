//! What an update may and may not do: each rule of the database by name, and the same as properties of histories.

use super::*;
use crate::configuration::RestoreFlag;
use crate::database::NAMED_PATTERNS_PER_COLUMN_MAX;
use crate::database::fixture::{any_history, any_op, commit, figure_6, key, members, row, update};
use crate::ids::{Epoch, Generation};
use alloc::vec;
use proptest::prelude::*;

fn admitted(database: &Database, ops: Vec<Op>) -> Result<(Database, u64), OpError> {
    database.admit(&update(1000 + database.position.stamp.generation.0, ops))
}

fn refused(ops: Vec<Op>) -> OpError {
    admitted(&figure_6(), ops).expect_err("must be refused")
}

fn content(text: &str) -> Content {
    let mut content = Content::default();
    for line in text.lines() {
        match line.split_once("_fmt:") {
            Some((name, columns)) => {
                content
                    .formats
                    .push((key(name), columns.split(':').map(String::from).collect()));
            }
            None => content.rows.push(row(line)),
        }
    }
    content
}

#[test]
fn add_unique_refuses_a_row_equal_to_an_existing_one() {
    let there = row("MY_KEY:clust1:2:either:foo,bar");
    assert_eq!(
        refused(vec![Op::Add(there.clone())]),
        OpError::RowExists { row: Box::new(there) }
    );
    let new = row("MY_KEY:clust1:2:either:foo,bar,moo");
    let expected = OpError::RowExists {
        row: Box::new(new.clone()),
    };
    assert_eq!(
        refused(vec![Op::Add(new.clone()), Op::Add(new)]),
        expected,
        "nor one of the same transaction"
    );
}

#[test]
fn an_entry_has_exactly_the_columns_of_its_format_and_a_column_may_be_empty() {
    for (text, got) in [("MY_KEY:a:b:c", 3), ("MY_KEY:a:b:c:d:", 5), ("MY_KEY", 0)] {
        let expected = RowError::ColumnCount {
            key: key("MY_KEY"),
            expected: 4,
            got,
        };
        assert_eq!(
            refused(vec![Op::Add(row(text))]),
            OpError::Row(expected),
            "{text}"
        );
    }
    assert!(admitted(&figure_6(), vec![Op::Add(row("MY_KEY::::"))]).is_ok());
    assert_eq!(
        refused(vec![Op::Add(row("NONE:a"))]),
        OpError::NoSuchKey(key("NONE"))
    );
}

#[test]
fn an_over_long_row_is_refused_even_if_it_was_not_made_by_its_constructor() {
    let mut long = row("MY_KEY:a:b:c:");
    long.values[3] = "x".repeat(1020);
    let expected = RowError::TooLong {
        key: key("MY_KEY"),
        limit: 1024,
        got: 1033,
    };
    assert_eq!(refused(vec![Op::Add(long)]), OpError::Row(expected));
    let wide = Row {
        key: key("MY_KEY"),
        values: vec!["x".into(); 40],
    };
    let expected = RowError::TooManyColumns {
        key: key("MY_KEY"),
        limit: 32,
        got: 40,
    };
    assert_eq!(refused(vec![Op::Add(wide)]), OpError::Row(expected));
}

#[test]
fn remove_takes_all_matching_rows_and_refuses_if_there_are_none() {
    let pattern = Pattern::positional(key("MY_KEY"), ["*", "*", "sci"]);
    let (after, removed) = admitted(&figure_6(), vec![Op::Remove(pattern.clone())]).expect("admitted");
    assert_eq!((removed, after.row_count()), (2, 2));
    let again = admitted(&after, vec![Op::Remove(pattern.clone())]);
    assert_eq!(
        again.expect_err("gone"),
        OpError::NoSuchRow {
            pattern: Box::new(pattern)
        }
    );
    let exact = Pattern::exact(&row("MY_KEY:clust3:1::foo"));
    assert_eq!(
        admitted(&figure_6(), vec![Op::Remove(exact)])
            .expect("admitted")
            .1,
        1
    );
    assert_eq!(
        refused(vec![Op::Remove(Pattern::all(key("NONE")))]),
        OpError::NoSuchKey(key("NONE"))
    );
}

#[test]
fn format_refuses_another_format_and_remove_format_a_key_with_rows() {
    let same = figure_6().columns(&key("MY_KEY")).expect("a format").to_vec();
    let other = vec![String::from("x")];
    assert!(
        admitted(
            &figure_6(),
            vec![Op::Format {
                key: key("MY_KEY"),
                columns: same.clone()
            }]
        )
        .is_ok()
    );
    let expected = OpError::KeyExists {
        key: key("MY_KEY"),
        expected: same,
        got: other.clone(),
    };
    assert_eq!(
        refused(vec![Op::Format {
            key: key("MY_KEY"),
            columns: other.clone()
        }]),
        expected
    );
    let expected = OpError::KeyNotEmpty {
        key: key("MY_KEY"),
        rows: 4,
    };
    assert_eq!(refused(vec![Op::RemoveFormat(key("MY_KEY"))]), expected);
    let emptied = vec![
        Op::Remove(Pattern::all(key("MY_KEY"))),
        Op::RemoveFormat(key("MY_KEY")),
    ];
    let (after, _) = admitted(&figure_6(), emptied).expect("admitted");
    assert!(after.keys().is_empty());
    assert_eq!((after.length_bytes(), after.checksum()), (0, 0));
    let missing = admitted(&after, vec![Op::RemoveFormat(key("MY_KEY"))]);
    assert_eq!(missing.expect_err("gone"), OpError::NoSuchKey(key("MY_KEY")));
}

#[test]
fn a_transaction_is_applied_whole_or_not_at_all() {
    let before = figure_6();
    let ops = vec![
        Op::Add(row("MY_KEY:clust9:1::foo")),
        Op::Add(row("MY_KEY:clust9:1")),
    ];
    assert!(admitted(&before, ops).is_err());
    assert_eq!(before, figure_6());
}

#[test]
fn preconditions_are_checked_before_anything_is_applied() {
    let there = row("MY_KEY:clust0:4:sci:foo,bar,moo,boo");
    let absent = row("MY_KEY:clust0:5:sci:foo");
    let no_key = row("NONE:a");
    let table = [
        (Precondition::Generation(Generation(1)), true),
        (Precondition::Generation(Generation(2)), false),
        (Precondition::RowPresent(there.clone()), true),
        (Precondition::RowPresent(absent.clone()), false),
        (Precondition::RowPresent(no_key.clone()), false),
        (Precondition::RowAbsent(there), false),
        (Precondition::RowAbsent(absent), true),
        (Precondition::RowAbsent(no_key), true),
    ];
    for (precondition, holds) in table {
        let update = Update {
            preconditions: vec![precondition.clone()],
            ..update(99, vec![Op::Purify])
        };
        let outcome = figure_6().admit(&update).map(|_| ());
        let generation = Generation(1);
        let failed = OpError::PreconditionFailed {
            precondition: Box::new(precondition),
            generation,
        };
        assert_eq!(outcome, if holds { Ok(()) } else { Err(failed) });
    }
}

#[test]
fn restore_replaces_all_or_one_key() {
    let new = content("NEW_fmt:a\nMY_KEY_fmt:a:b\nMY_KEY:1:2\nNEW:x\n");
    let all = Op::ReplaceAll {
        content: new.clone(),
        restore: RestoreFlag::NotAllActive,
    };
    let (after, removed) = admitted(&figure_6(), vec![all]).expect("admitted");
    assert_eq!(
        (removed, after.row_count(), after.restore_flag()),
        (4, 2, RestoreFlag::NotAllActive)
    );
    assert_eq!(
        after.content(),
        content("MY_KEY_fmt:a:b\nNEW_fmt:a\nMY_KEY:1:2\nNEW:x\n")
    );

    let one = Op::ReplaceKey {
        restore: RestoreFlag::NotAllActive,
        key: key("NEW"),
        content: new.clone(),
    };
    let (after, removed) = admitted(&figure_6(), vec![one]).expect("admitted");
    assert_eq!((removed, after.row_count()), (0, 5));
    let gone = Op::ReplaceKey {
        restore: RestoreFlag::NotAllActive,
        key: key("MY_KEY"),
        content: Content::default(),
    };
    let (after, removed) = admitted(&after, vec![gone.clone()]).expect("admitted");
    assert_eq!((removed, after.row_count()), (4, 1));
    assert_eq!(
        admitted(&after, vec![gone]).expect_err("gone"),
        OpError::NoSuchKey(key("MY_KEY"))
    );
}

#[test]
fn restore_refuses_rows_that_break_their_format_and_names_them() {
    let mut bad = content("K_fmt:a:b\nK_fmt:c\nK:1\nK:1:2\nNONE:1\nK:1:2\n");
    bad.rows.extend((0..50).map(|_| row("K:1:2:3")));
    let restore = Op::ReplaceAll {
        content: bad,
        restore: RestoreFlag::AllActive,
    };
    let OpError::BrokenContent(broken) = refused(vec![restore]) else {
        panic!("another error")
    };
    assert_eq!((broken.total, broken.first.len()), (54, 20));
    assert_eq!(broken.first[0].problem, RowError::FormatTwice { key: key("K") });
    assert_eq!(
        broken.first[1].problem,
        RowError::ColumnCount {
            key: key("K"),
            expected: 2,
            got: 1
        }
    );
    assert_eq!(broken.first[2].problem, RowError::NoFormat { key: key("NONE") });
}

#[test]
fn a_row_that_stands_twice_is_refused_by_restore() {
    let restore = Op::ReplaceKey {
        restore: RestoreFlag::NotAllActive,
        key: key("K"),
        content: content("K_fmt:a\nK:1\nK:2\nK:1\n"),
    };
    let OpError::BrokenContent(broken) = refused(vec![restore]) else {
        panic!("another error")
    };
    assert_eq!((broken.total, &*broken.first[0].row), (1, "K:1"));
}

#[test]
fn a_request_is_applied_once() {
    let again = figure_6().admit(&update(1, vec![Op::Purify]));
    let request = RequestId {
        client: 1,
        sequence: 1,
    };
    assert_eq!(
        again.expect_err("again"),
        OpError::AlreadyApplied {
            request,
            generation: Generation(1)
        }
    );
    assert_eq!(figure_6().outcome(request), Some(Generation(1)));
    assert_eq!(
        figure_6().outcome(RequestId {
            client: 1,
            sequence: 2
        }),
        None
    );
}

#[test]
fn a_transaction_is_bounded_in_bytes_and_in_operations() {
    let reason = Some("x".repeat(RECORD_BATCH_BYTES_MAX));
    let large = Update {
        reason,
        ..update(99, vec![])
    };
    assert!(matches!(
        figure_6().admit(&large),
        Err(OpError::TransactionTooLarge { .. })
    ));
    let many = update(99, vec![Op::Purify; OPERATIONS_MAX + 1]);
    assert!(matches!(
        figure_6().admit(&many),
        Err(OpError::TooManyOperations { .. })
    ));
}

/// A key with so many rows, one column each.
fn rows_of_one_column(count: usize) -> Database {
    let columns = vec![String::from("number")];
    let mut ops = vec![Op::Format {
        key: key("K"),
        columns,
    }];
    ops.extend((0..count).map(|number| Op::Add(row(&alloc::format!("K:{number:05}")))));
    Database::default().admit(&update(1, ops)).expect("admitted").0
}

#[test]
fn a_column_has_few_patterns_in_what_is_asked_for_and_any_number_in_a_journal() {
    let patterns = |count| (0..count).fold(Pattern::all(key("K")), |all, _| all.by_name("number", "*1*"));
    let database = rows_of_one_column(20);
    let many = patterns(NAMED_PATTERNS_PER_COLUMN_MAX + 1);
    let refused = OpError::TooManyPatterns {
        key: key("K"),
        name: String::from("number"),
        limit: 4,
        got: 5,
    };
    assert_eq!(database.query(&many), Err(refused.clone()));
    let removal = |pattern| update(2, vec![Op::Remove(pattern)]);
    assert_eq!(database.admit(&removal(many.clone())), Err(refused));
    let (admitted, removed) = database.admit(&removal(patterns(4))).expect("admitted");
    assert_eq!(removed, 11);
    let (record, _) = Record::updates(&database, Epoch(7), admitted, vec![removal(many)], members(4));
    assert_eq!(database.apply(&record).map(|after| after.row_count()), Ok(9));
}

#[test]
fn a_transaction_examines_a_bounded_number_of_rows_unless_it_has_one_pattern() {
    let database = rows_of_one_column(5000);
    let scan = |suffix: usize| Op::Remove(Pattern::positional(key("K"), [alloc::format!("*{suffix:03}")]));
    // Each compares 5,000 values, and counts twice that: the line and the value.
    let scans = |count| update(2, (0..count).map(scan).collect());
    assert_eq!(
        database.admit(&scans(400)).map(|(_, removed)| removed),
        Ok(5 * 400)
    );
    let refused = database.admit(&scans(401));
    assert!(matches!(refused, Err(OpError::TooMuchExamined { got, .. }) if got > EXAMINED_MAX));
    let exact = |number: usize| Op::Remove(Pattern::positional(key("K"), [alloc::format!("{number:05}")]));
    let each = update(2, (0..5000).map(exact).collect());
    assert_eq!(database.admit(&each).map(|(_, removed)| removed), Ok(5000));
    // Rows that the transaction itself adds count as well.
    let added = (5000..7000).map(|number| Op::Add(row(&alloc::format!("K:{number:05}"))));
    let grown = update(2, added.chain((0..300).map(scan)).collect());
    assert!(matches!(
        database.admit(&grown),
        Err(OpError::TooMuchExamined { .. })
    ));
}

proptest! {
    #[test]
    fn what_was_admitted_to_an_earlier_version_and_moved_is_what_would_be_admitted_now(
        (_, records) in any_history(),
        ops in proptest::collection::vec(any_op(), 0..4),
        between in 0..4_usize,
    ) {
        let mut versions = vec![Database::default()];
        for record in &records {
            let next = versions.last().expect("one").apply(record).expect("it applies");
            versions.push(next);
        }
        let asked = update(1_000_000, ops);
        for version in &versions {
            if let Some(named) = version.with_rows_named(&asked) {
                prop_assert_eq!(version.admit(&named), version.admit(&asked));
                let is_exact = |op: &Op| !matches!(op, Op::Remove(pattern) if pattern.wildcard.is_some());
                prop_assert!(named.ops.iter().all(is_exact));
            }
        }
        for pair in versions.windows(between + 1) {
            let (base, tip) = (&pair[0], &pair[between]);
            if let Ok((after, removed)) = base.admit(&asked)
                && let Some(moved) = tip.with_moved(base, &after, &asked)
            {
                prop_assert_eq!(tip.admit(&asked), Ok((moved, removed)));
            }
        }
    }
}

#[test]
fn an_update_is_moved_past_updates_of_other_keys() {
    let base = figure_6();
    let removal = update(
        2,
        vec![Op::Remove(Pattern::positional(key("MY_KEY"), ["clust0"]))],
    );
    let (after, removed) = base.admit(&removal).expect("admitted");
    let columns = vec![String::from("number")];
    let other = vec![
        Op::Format {
            key: key("K"),
            columns,
        },
        Op::Add(row("K:1")),
    ];
    let (tip, _) = base.admit(&update(3, other)).expect("admitted");
    let moved = tip
        .with_moved(&base, &after, &removal)
        .expect("another key changed");
    assert_eq!(tip.admit(&removal), Ok((moved, removed)));
    let same = vec![Op::Add(row("MY_KEY:clust9:1::foo"))];
    let (tip, _) = base.admit(&update(3, same)).expect("admitted");
    assert_eq!(
        tip.with_moved(&base, &after, &removal),
        None,
        "its own key changed"
    );
}

#[test]
fn a_removal_of_everything_and_of_most_leaves_the_same_as_one_by_one() {
    let database = rows_of_one_column(3000);
    for pattern in ["*", "*1*", "0*", "*7", "00012"] {
        let pattern = Pattern::positional(key("K"), [pattern]);
        let rows = database.query(&pattern).expect("a good pattern");
        let exact = rows.iter().map(|row| Op::Remove(Pattern::exact(row))).collect();
        let (one_by_one, _) = database.admit(&update(2, exact)).expect("admitted");
        let (at_once, removed) =
            (database.admit(&update(2, vec![Op::Remove(pattern.clone())]))).expect("admitted");
        assert_eq!((&at_once, removed), (&one_by_one, rows.len() as u64), "{pattern}");
        assert!(at_once.is_whole());
    }
}

#[test]
fn apply_refuses_a_record_of_another_position_and_a_rollback() {
    let (record, after) = commit(&figure_6(), update(2, vec![Op::Purify]));
    assert!(matches!(
        Database::default().apply(&record),
        Err(ApplyError::NotNext { .. })
    ));
    let rollback = Record::rollback(after.position(), figure_6().position());
    assert_eq!(after.apply(&rollback), Err(ApplyError::IsRollback));
}

#[test]
fn opening_a_configuration_changes_only_the_epoch() {
    let before = figure_6();
    let after = before
        .apply(&Record::open(before.position(), Epoch(9)))
        .expect("applies");
    assert_eq!(
        after.position().stamp,
        Stamp {
            epoch: Epoch(9),
            generation: Generation(1)
        }
    );
    assert_eq!(after.position().lineage, before.position().lineage);
    assert_eq!(
        Database {
            position: before.position(),
            ..after
        },
        before
    );
}

#[test]
fn a_round_of_several_updates_has_a_generation_for_each() {
    let before = figure_6();
    let updates = vec![
        update(2, vec![Op::Add(row("MY_KEY:a:::"))]),
        update(3, vec![Op::Add(row("MY_KEY:b:::"))]),
    ];
    let first = before.admit(&updates[0]).expect("admitted").0;
    let second = first.admit(&updates[1]).expect("admitted").0;
    let (record, after) = Record::updates(&before, Epoch(8), second, updates, members(2));
    assert_eq!(
        after.position().stamp,
        Stamp {
            epoch: Epoch(8),
            generation: Generation(3)
        }
    );
    assert_eq!(
        after.outcome(RequestId {
            client: 1,
            sequence: 2
        }),
        Some(Generation(2))
    );
    assert_eq!(
        after.outcome(RequestId {
            client: 1,
            sequence: 3
        }),
        Some(Generation(3))
    );
    assert_eq!(after.members(), members(2));
    assert_eq!(before.apply(&record), Ok(after));
}

proptest! {
    #[test]
    fn applying_the_records_gives_the_masters_database((database, records) in any_history()) {
        let mut replica = Database::default();
        for record in &records {
            let travelled = Record::decode(&record.bytes()).expect("decodes");
            replica = replica.apply(&travelled).expect("applies");
        }
        prop_assert_eq!(replica.to_image(), database.to_image());
        prop_assert_eq!(&replica, &database);
    }

    #[test]
    fn length_and_checksum_kept_up_are_those_counted_anew((database, _) in any_history()) {
        prop_assert!(database.counts_agree());
        prop_assert_eq!(database.row_count(), database.rows().count() as u64);
    }

    #[test]
    fn a_refused_transaction_changes_nothing_and_an_admitted_one_all(
        (database, _) in any_history(),
        ops in proptest::collection::vec(any_op(), 1..6),
    ) {
        let before = database.to_image();
        let mut step_by_step = Ok(database.clone());
        for (sequence, op) in (1000..).zip(&ops) {
            let one = update(sequence, vec![op.clone()]);
            step_by_step = step_by_step.and_then(|database: Database| Ok(database.admit(&one)?.0));
        }
        match (database.admit(&update(999, ops)), step_by_step) {
            (Ok((whole, _)), Ok(steps)) => prop_assert_eq!(whole.content(), steps.content()),
            (Err(whole), Err(steps)) => prop_assert_eq!(whole, steps),
            (whole, steps) => prop_assert!(false, "{:?} but {:?}", whole, steps),
        }
        prop_assert_eq!(database.to_image(), before);
    }

    #[test]
    fn no_row_ever_stands_twice_or_breaks_its_format((database, _) in any_history()) {
        let rows: Vec<_> = database.rows().collect();
        for pair in rows.windows(2) {
            prop_assert!(pair[0] != pair[1]);
        }
        for row in rows {
            prop_assert_eq!(database.columns(&row.key).map(<[_]>::len), Some(row.values.len()));
        }
    }
}
