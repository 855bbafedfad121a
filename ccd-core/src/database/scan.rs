//! A query that is evaluated piece by piece: each step does a bounded amount of work, and the answer is that of
//! [`Database::query`] on the version that it began with.
//!
//! What always holds: a scan shares the rows of its version and no later update changes them, so it may go on after the database
//! has moved on, on another thread. Called by the protocol for each query, and by the driver for those that take long.

use super::lines::Lines;
use super::pattern::Matcher;
use super::{Database, Key, OpError, Pattern, Row};
use crate::ids::Position;
use alloc::string::String;
use alloc::vec::Vec;

/// What it costs to make a row of a line, beside its bytes.
const ROW_COST: u64 = 64;

/// One query, and how far it has come.
#[derive(Clone, Debug)]
pub struct Scan {
    key: Key,
    position: Position,
    lines: Lines,
    matcher: alloc::sync::Arc<Matcher>,
    /// The last line that was looked at.
    last: Option<String>,
    ended: bool,
}

impl Database {
    /// Begins a query; nothing is looked at yet.
    ///
    /// # Errors
    /// When there is no such key, or the pattern does not fit its format.
    pub fn scan(&self, pattern: &Pattern) -> Result<Scan, OpError> {
        pattern.check()?;
        let table = self.table(&pattern.key)?;
        let matcher = Matcher::new(pattern, &table.columns)?;
        Ok(Scan {
            key: pattern.key.clone(),
            position: self.position(),
            lines: table.lines.clone(),
            matcher: alloc::sync::Arc::new(matcher),
            last: None,
            ended: false,
        })
    }
}

impl Scan {
    /// Of the version that is queried.
    pub fn position(&self) -> Position {
        self.position
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether every row of the key is looked at, and they are more than so much work.
    pub fn exceeds(&self, budget: u64) -> bool {
        let (prefix, whole) = self.matcher.prefix();
        let (measure, open) = (self.lines.measure(), self.matcher.open_columns() as u64);
        let looks_at_all = !whole && prefix.len() == self.key.as_str().len().saturating_add(1);
        let made = measure.rows.saturating_mul(ROW_COST);
        let read = measure.length_bytes.saturating_mul(open.saturating_add(1));
        looks_at_all && made.saturating_add(read) > budget
    }

    /// Looks at rows until so much work is done, roughly the bytes that are read, and hands out those that match, in byte order of
    /// their text. Returns whether all are done; each call looks at one row at least.
    pub fn go_on(&mut self, budget: u64, mut take: impl FnMut(Row)) -> bool {
        if self.ended {
            return true;
        }
        let (prefix, whole) = self.matcher.prefix();
        let last = self.last.take();
        let from = last.as_deref().unwrap_or(prefix);
        let mut left = budget;
        for line in self.lines.from(from) {
            if last.as_deref() == Some(line) {
                continue;
            }
            if !line.starts_with(prefix) {
                break;
            }
            let mut cost = self.matcher.cost(line);
            if self.matcher.matches(line) {
                cost = cost.saturating_add(ROW_COST).saturating_add(line.len() as u64);
                take(Row::from_stored(&self.key, line));
            }
            if whole {
                break;
            }
            left = left.saturating_sub(cost);
            if left == 0 {
                self.last = Some(String::from(line));
                return false;
            }
        }
        self.ended = true;
        // The rows may be the last of an old version.
        self.lines = Lines::default();
        true
    }

    /// Looks at all that is left.
    pub fn finish(mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        while !self.go_on(u64::MAX, |row| rows.push(row)) {}
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, key, row, update};
    use super::*;
    use crate::database::Op;
    use alloc::vec;
    use proptest::prelude::*;

    fn in_steps(database: &Database, pattern: &Pattern, budget: u64) -> Result<Vec<Row>, OpError> {
        let mut scan = database.scan(pattern)?;
        let mut rows = Vec::new();
        while !scan.go_on(budget, |row| rows.push(row)) {}
        assert!(scan.go_on(budget, |_| panic!("it has ended")));
        Ok(rows)
    }

    proptest! {
        #[test]
        fn a_query_in_steps_of_any_size_answers_as_one_at_once(
            (_, records) in any_history(),
            budget in prop_oneof![Just(0_u64), 1..500_u64, Just(u64::MAX)],
            columns in proptest::collection::vec("[ab*]{0,3}", 0..3),
            name in prop_oneof![Just("A"), Just("B"), Just("Ab"), Just("None")],
        ) {
            let pattern = Pattern::positional(key(name), columns);
            let mut database = Database::default();
            for record in &records {
                database = database.apply(record).expect("it applies");
                prop_assert_eq!(in_steps(&database, &pattern, budget), database.query(&pattern));
            }
        }

        #[test]
        fn a_step_looks_at_no_more_rows_than_its_budget_pays(
            count in 1..2000_usize, budget in 1..20_000_u64, pattern in prop_oneof![Just("*"), Just("*9"), Just("1*"), Just("*0*0*")],
        ) {
            let columns = vec![String::from("number")];
            let mut ops = vec![Op::Format { key: key("K"), columns }];
            ops.extend((0..count).map(|number| Op::Add(row(&alloc::format!("K:{number:05}")))));
            let (database, _) = Database::default().admit(&update(1, ops)).expect("admitted");
            let pattern = Pattern::positional(key("K"), [pattern]);
            let mut scan = database.scan(&pattern).expect("a good pattern");
            let mut rows = Vec::new();
            let mut steps = 1;
            while !scan.go_on(budget, |row| rows.push(row)) {
                steps += 1;
            }
            prop_assert_eq!(&rows, &database.query(&pattern).expect("a good pattern"));
            // A line costs more than 32, less than 256 here.
            prop_assert!(steps as u64 <= 1 + count as u64 * 256 / budget.min(256), "{} steps", steps);
        }
    }

    #[test]
    fn a_scan_goes_on_with_the_rows_that_it_began_with() {
        let columns = vec![String::from("number")];
        let mut ops = vec![Op::Format {
            key: key("K"),
            columns,
        }];
        ops.extend((0..500).map(|number| Op::Add(row(&alloc::format!("K:{number:05}")))));
        let (database, _) = Database::default().admit(&update(1, ops)).expect("admitted");
        let pattern = Pattern::all(key("K"));
        let mut scan = database.scan(&pattern).expect("a good pattern");
        assert!(scan.exceeds(1000) && !scan.exceeds(1_000_000));
        let before = database.query(&pattern).expect("a good pattern");
        let mut rows = Vec::new();
        assert!(!scan.go_on(1000, |row| rows.push(row)));
        let (after, _) = (database.admit(&update(2, vec![Op::Remove(pattern)]))).expect("admitted");
        drop(database);
        assert_eq!(after.row_count(), 0);
        rows.extend(scan.finish());
        assert_eq!(rows, before);
    }
}
