//! The linearizability checker is itself checked: a table of small histories, good and bad, and random histories of
//! a store that is right, then made wrong in one place.

use ccd_tests::sim::Random;
use ccd_tests::sim::history::{Call, Cells, Heard, Instant, Operation};
use ccd_tests::sim::linear::{Verdict, check};

const APPLIED: Heard = Heard::Applied { removed: None };

/// From call to return on one line of time.
fn op(called: u64, returned: u64, call: Call, heard: Heard) -> Operation {
    Operation {
        object: 0,
        called: Instant(called),
        returned: Instant(returned),
        call,
        heard,
    }
}

fn add(value: u32) -> Call {
    Call::Add { cell: (0, value) }
}

fn replace(value: u32) -> Call {
    Call::Replace { cell: (0, value) }
}

fn exchange(from: u32, to: u32) -> Call {
    Call::Exchange {
        from: (0, from),
        to: (0, to),
    }
}

const READ: Call = Call::Read { register: Some(0) };

fn rows(values: &[u32]) -> Heard {
    Heard::Rows(values.iter().map(|value| (0, *value)).collect())
}

fn removed(count: u64) -> Heard {
    Heard::Applied { removed: Some(count) }
}

#[test]
fn good_histories_are_accepted() {
    let table: Vec<(&str, Vec<Operation>)> = vec![
        ("nothing happened", vec![]),
        (
            "one after the other",
            vec![op(1, 2, add(1), APPLIED), op(3, 4, READ, rows(&[1]))],
        ),
        (
            "a read beside a write sees it",
            vec![op(1, 5, add(1), APPLIED), op(2, 3, READ, rows(&[1]))],
        ),
        (
            "a read beside a write does not see it",
            vec![op(1, 5, add(1), APPLIED), op(2, 3, READ, rows(&[]))],
        ),
        (
            "two reads beside a write, the later sees it",
            vec![
                op(1, 9, add(1), APPLIED),
                op(2, 3, READ, rows(&[])),
                op(4, 5, READ, rows(&[1])),
            ],
        ),
        (
            "an unknown outcome never happens",
            vec![op(1, 0, add(1), Heard::Unknown), op(3, 4, READ, rows(&[]))],
        ),
        (
            "an unknown outcome happened",
            vec![op(1, 0, add(1), Heard::Unknown), op(3, 4, READ, rows(&[1]))],
        ),
        (
            "an unknown outcome happens long after",
            vec![
                op(1, 0, add(1), Heard::Unknown),
                op(3, 4, READ, rows(&[])),
                op(5, 6, add(2), APPLIED),
                op(7, 8, READ, rows(&[1, 2])),
            ],
        ),
        (
            "refused for good reason",
            vec![op(1, 2, replace(1), Heard::Refused), op(3, 4, READ, rows(&[]))],
        ),
        (
            "beside each other in either order",
            vec![
                op(1, 2, add(1), APPLIED),
                op(3, 9, replace(2), removed(1)),
                op(4, 8, replace(3), removed(1)),
                op(10, 11, READ, rows(&[2])),
            ],
        ),
        (
            "of two exchanges of one row the second is refused",
            vec![
                op(1, 2, add(1), APPLIED),
                op(3, 9, exchange(1, 2), APPLIED),
                op(4, 8, exchange(1, 3), Heard::Refused),
                op(10, 11, READ, rows(&[2])),
            ],
        ),
        (
            "a pair is added at once",
            vec![
                op(
                    1,
                    9,
                    Call::AddPair {
                        registers: (0, 1),
                        value: 5,
                    },
                    APPLIED,
                ),
                op(2, 3, Call::Read { register: None }, rows(&[])),
                op(
                    4,
                    5,
                    Call::Read { register: None },
                    Heard::Rows([(0, 5), (1, 5)].into()),
                ),
            ],
        ),
    ];
    for (name, history) in table {
        assert_eq!(check(&history), Verdict::Linearizable, "{name}");
    }
}

#[test]
fn bad_histories_are_rejected() {
    let table: Vec<(&str, Vec<Operation>)> = vec![
        (
            "an acked update is lost",
            vec![op(1, 2, add(1), APPLIED), op(3, 4, READ, rows(&[]))],
        ),
        ("a row out of nowhere", vec![op(1, 2, READ, rows(&[7]))]),
        (
            "a stale read",
            vec![
                op(1, 2, add(1), APPLIED),
                op(3, 4, replace(2), APPLIED),
                op(5, 6, READ, rows(&[2])),
                op(7, 8, READ, rows(&[1])),
            ],
        ),
        (
            "a write is seen and then not",
            vec![
                op(1, 9, add(1), APPLIED),
                op(2, 3, READ, rows(&[1])),
                op(4, 5, READ, rows(&[])),
            ],
        ),
        (
            "an unknown outcome happened and then did not",
            vec![
                op(1, 0, add(1), Heard::Unknown),
                op(3, 4, READ, rows(&[1])),
                op(5, 6, READ, rows(&[])),
            ],
        ),
        (
            "seen before it was asked for",
            vec![op(1, 2, READ, rows(&[1])), op(3, 4, add(1), APPLIED)],
        ),
        (
            "refused without reason",
            vec![op(1, 2, add(1), APPLIED), op(3, 4, replace(2), Heard::Refused)],
        ),
        (
            "both exchanges of one row are done",
            vec![
                op(1, 2, add(1), APPLIED),
                op(3, 9, exchange(1, 2), APPLIED),
                op(4, 8, exchange(1, 3), APPLIED),
            ],
        ),
        (
            "half a transaction",
            vec![
                op(
                    1,
                    2,
                    Call::AddPair {
                        registers: (0, 1),
                        value: 5,
                    },
                    APPLIED,
                ),
                op(3, 4, Call::Read { register: None }, Heard::Rows([(0, 5)].into())),
            ],
        ),
        (
            "a wrong count",
            vec![op(1, 2, add(1), APPLIED), op(3, 4, replace(2), removed(2))],
        ),
        (
            "two readers see two orders",
            vec![
                op(1, 20, add(1), APPLIED),
                op(1, 21, add(2), APPLIED),
                op(2, 3, READ, rows(&[1])),
                op(4, 5, READ, rows(&[2])),
            ],
        ),
    ];
    for (name, history) in table {
        assert!(
            matches!(check(&history), Verdict::Violation { object: 0, .. }),
            "{name}"
        );
    }
}

/// A store that does every operation at one moment between call and return; some answers get lost.
fn random_history(random: &mut Random, length: u64) -> Vec<Operation> {
    let mut cells = Cells::new();
    let mut history = Vec::new();
    for step in 1..=length {
        let (done, value) = (step * 100, step as u32);
        let call = match random.below(6) {
            0 | 1 => add(value),
            2 => replace(value),
            3 => exchange(random.below(u64::from(value) + 1) as u32, value),
            4 => Call::Clear { register: 0 },
            _ => READ,
        };
        let applied = call.apply(&cells);
        let is_read = call == READ;
        let heard = match &applied {
            _ if !is_read && random.chance(40) => Heard::Unknown,
            _ if is_read => Heard::Rows(call.answer(&cells)),
            Some((_, count)) => removed(*count),
            None => Heard::Refused,
        };
        let never = heard == Heard::Unknown && random.chance(500);
        if let Some((next, _)) = applied.filter(|_| !never) {
            cells = next;
        }
        history.push(op(
            done - random.below(300).min(done),
            done + random.below(300),
            call,
            heard,
        ));
    }
    // Instants are distinct in the simulator; equal ones here would only be more concurrent.
    history
}

#[test]
fn histories_of_a_store_that_is_right_are_accepted() {
    for seed in 0..200 {
        let history = random_history(&mut Random::new(seed), 80);
        assert_eq!(check(&history), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn a_changed_answer_is_found_in_a_long_history() {
    let mut tried = 0;
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut history = random_history(&mut random, 60);
        let reads = history
            .iter_mut()
            .filter(|op| matches!(&op.heard, Heard::Rows(rows) if !rows.is_empty()));
        let mut reads: Vec<_> = reads.collect();
        if reads.is_empty() {
            continue;
        }
        let chosen = random.below(reads.len() as u64) as usize;
        // A value that nobody ever wrote.
        reads[chosen].heard = rows(&[1_000_000]);
        tried += 1;
        assert!(
            matches!(check(&history), Verdict::Violation { .. }),
            "seed {seed}"
        );
    }
    assert!(tried > 100, "only {tried} histories had a row to change");
}
