//! Keys that are private: their values are kept from whoever may not read them, also where that is not the daemon's to grant: in
//! lists of processes, in logs, in records of decisions.
//!
//! The key `CCD_PRIVATE` names them, one row a key: `CCD_PRIVATE:MY_KEY`. So they are the same on every node, change by ordinary
//! updates, and travel with checkpoints. Private or not, who may read a key is for ACCESS rows to say.
//!
//! Called by whoever runs synchronization commands and tells of them, and by the program that sets the rows.

use crate::database::{Database, Key, Row};
use crate::synchronization::{CommandName, SYNC_KEY};

/// The key whose rows name the private ones.
pub const PRIVATE_KEY: &str = "CCD_PRIVATE";

/// Its columns.
pub const PRIVATE_COLUMNS: [&str; 1] = ["key"];

/// Whether this key is private. A key of that name with more columns counts by its first one: better too many than too few.
pub fn is_private(database: &Database, key: &str) -> bool {
    if !database.has_rows(PRIVATE_KEY) {
        return false;
    }
    let row = Key::new(PRIVATE_KEY)
        .ok()
        .and_then(|own| Row::new(own, [key]).ok());
    row.is_some_and(|row| database.contains(&row)) || database.first_row_of(PRIVATE_KEY, key).is_some()
}

/// Whether this row, in text form, is of a private key.
pub fn is_private_row(database: &Database, row: &str) -> bool {
    let key = row.split_once(':').map_or(row, |(key, _)| key);
    is_private(database, key)
}

/// Whether a synchronization command belongs to a private key. What it writes may hold values of that key.
pub fn serves_private(database: &Database, command: &CommandName) -> bool {
    database.has_rows(PRIVATE_KEY)
        && database.rows_of(SYNC_KEY).any(|row| match &row.values[..] {
            [key, name] => name == command.as_str() && is_private(database, key),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Op, Update, Who};
    use crate::ids::RequestId;
    use crate::synchronization::SYNC_COLUMNS;
    use crate::time::Date;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn database(private: &[&str], columns: &[&str]) -> Database {
        let key = |name: &str| Key::new(name).expect("a good key");
        let format = |name: &str, columns: &[&str]| Op::Format {
            key: key(name),
            columns: columns.iter().map(ToString::to_string).collect(),
        };
        let row = |text: &str| Op::Add(Row::parse_text(text).expect("a good row"));
        let mut ops = Vec::from([format(SYNC_KEY, &SYNC_COLUMNS), format(PRIVATE_KEY, columns)]);
        ops.extend(["PASSWORDS", "OPEN", "PASS"].map(|name| format(name, &["name"])));
        ops.extend(
            [
                "CCD_SYNC:PASSWORDS:shared",
                "CCD_SYNC:OPEN:shared",
                "CCD_SYNC:PASS:own",
            ]
            .map(row),
        );
        ops.extend(private.iter().map(|text| row(text)));
        let update = Update {
            request: RequestId {
                client: 1,
                sequence: 1,
            },
            who: Who::default(),
            date: Date::default(),
            reason: None,
            preconditions: Vec::new(),
            ops,
        };
        Database::default().admit(&update).expect("admitted").0
    }

    #[test]
    fn a_key_is_private_if_a_row_says_so_and_so_are_its_rows_and_what_its_command_writes() {
        let command = |name: &str| CommandName::new(name).expect("a name");
        let table = [
            (Database::default(), [false; 3]),
            (database(&[], &PRIVATE_COLUMNS), [false; 3]),
            (
                database(&["CCD_PRIVATE:PASS"], &PRIVATE_COLUMNS),
                [false, true, false],
            ),
            (
                database(&["CCD_PRIVATE:PASSWORDS"], &PRIVATE_COLUMNS),
                [true, false, true],
            ),
            (
                database(&["CCD_PRIVATE:PASSWORDS:of the pool"], &["key", "why"]),
                [true, false, true],
            ),
        ];
        for (index, (database, [passwords, pass, shared])) in table.into_iter().enumerate() {
            assert_eq!(is_private(&database, "PASSWORDS"), passwords, "{index}");
            assert_eq!(is_private(&database, "PASS"), pass, "{index}");
            assert!(!is_private(&database, "OPEN"), "{index}");
            assert_eq!(is_private_row(&database, "PASSWORDS:a:b"), passwords, "{index}");
            assert!(!is_private_row(&database, "OPEN:PASSWORDS"), "{index}");
            assert_eq!(serves_private(&database, &command("shared")), shared, "{index}");
            assert_eq!(serves_private(&database, &command("own")), pass, "{index}");
        }
    }
}
