//! Synchronization commands: which keys have one, what it is told, and how it ended (patent: "user defined synchronization
//! commands").
//!
//! The key `CCD_SYNC` holds them, one row a key: `CCD_SYNC:MY_KEY:realloc`. So they are the same on every node, change
//! by ordinary updates, and travel with checkpoints. The name is looked up by the daemon in `/etc/ccd/sync.d`; what
//! always holds is that it is plain: no path can be made of it.
//!
//! Called by the protocol (`freeze.rs`, `commands.rs`), by `database/admit.rs`, and by the programs that set commands.

use crate::database::{Database, Key, Op, Pattern, Row};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The key whose rows name the commands.
pub const SYNC_KEY: &str = "CCD_SYNC";

/// Its columns.
pub const SYNC_COLUMNS: [&str; 2] = ["key", "command"];

/// Longest name of a command, in characters.
pub const COMMAND_NAME_MAX: usize = 64;

/// Most different commands that one update runs: they share its time.
pub const COMMANDS_MAX: usize = 16;

/// Most bytes of a command's standard error that travel to the client.
pub const STDERR_BYTES_MAX: usize = 4096;

/// The name of a command in `sync.d`: a letter or digit, then letters, digits, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandName(String);

/// Why a text is no name of a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{shown:?} is no name of a synchronization command: it is a file in /etc/ccd/sync.d, named by a letter or digit and then \
     letters, digits, _ . and -, at most {COMMAND_NAME_MAX} in all"
)]
pub struct CommandNameError {
    shown: String,
}

impl CommandName {
    pub fn new(name: &str) -> Result<Self, CommandNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let good = name.len() <= COMMAND_NAME_MAX
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(plain);
        if good {
            Ok(Self(name.to_owned()))
        } else {
            let shown = name.chars().take(COMMAND_NAME_MAX).collect();
            Err(CommandNameError { shown })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CommandName {
    type Error = CommandNameError;
    fn try_from(name: String) -> Result<Self, CommandNameError> {
        Self::new(&name)
    }
}

impl From<CommandName> for String {
    fn from(name: CommandName) -> Self {
        name.0
    }
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What kind of update runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// One row is added.
    Add,
    /// Rows of one key are removed.
    Remove,
    /// A key or the whole database is restored.
    Restore,
    /// Everything else: transactions, and formats.
    Apply,
}

/// The first argument of a command: what is about to happen, or has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keyword {
    /// In the freeze.
    Pre(Operation),
    /// In the unfreeze, after a commit.
    Post(Operation),
    /// In the unfreeze: the update is not part of the database.
    PostRollback,
}

impl Keyword {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pre(Operation::Add) => "pre_add",
            Self::Pre(Operation::Remove) => "pre_remove",
            Self::Pre(Operation::Restore) => "pre_restore",
            Self::Pre(Operation::Apply) => "pre_apply",
            Self::Post(Operation::Add) => "post_add",
            Self::Post(Operation::Remove) => "post_remove",
            Self::Post(Operation::Restore) => "post_restore",
            Self::Post(Operation::Apply) => "post_apply",
            Self::PostRollback => "post_rollback",
        }
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The commands that an update runs, and what they are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summons {
    /// Each once, in order, however many of the update's keys name it.
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, COMMANDS_MAX>")]
    pub commands: Vec<CommandName>,
    pub operation: Operation,
    /// The row in text form, if the update adds or removes exactly one.
    pub row: Option<String>,
}

/// How a command did not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veto {
    pub command: CommandName,
    /// It was killed, or not heard of in time.
    pub timed_out: bool,
    /// How it ended, and its standard error.
    pub why: String,
}

/// Why the commands of an update cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SummonsError {
    #[error(
        "the update runs {got} different synchronization commands, at most {COMMANDS_MAX} are allowed; split it, or give --no-sync"
    )]
    TooMany { got: usize },
    #[error("the row {row} of {SYNC_KEY}: {why}")]
    BadRow { row: String, why: String },
}

/// The command of a key, if it has one.
///
/// # Errors
/// When the row that names it does not name a command: only a database from elsewhere can hold one.
pub fn command_of(database: &Database, key: &Key) -> Result<Option<CommandName>, SummonsError> {
    let Some(row) = database.first_row_of(SYNC_KEY, key.as_str()) else {
        return Ok(None);
    };
    named_in(&row).map(Some)
}

fn named_in(row: &Row) -> Result<CommandName, SummonsError> {
    let bad = |why: String| SummonsError::BadRow {
        row: row.to_text(),
        why,
    };
    let [_, command] = &row.values[..] else {
        return Err(bad("it has not the columns key and command".into()));
    };
    CommandName::new(command).map_err(|error| bad(alloc::format!("{error}")))
}

/// What this update runs; `None` if no key that it touches has a command, which is found out at once where none is set.
///
/// # Errors
/// When that cannot be told.
pub fn summons_of(database: &Database, ops: &[Op]) -> Result<Option<Summons>, SummonsError> {
    if !database.has_rows(SYNC_KEY) {
        return Ok(None);
    }
    let mut keys: BTreeSet<&Key> = BTreeSet::new();
    let mut commands = BTreeSet::new();
    for op in ops {
        match op {
            Op::Add(Row { key, .. })
            | Op::Remove(Pattern { key, .. })
            | Op::Format { key, .. }
            | Op::RemoveFormat(key)
            | Op::ReplaceKey { key, .. }
            | Op::LoadKey { key, .. } => {
                keys.insert(key);
            }
            Op::ReplaceAll { .. } | Op::LoadAll { .. } => {
                for row in database.rows_of(SYNC_KEY) {
                    commands.insert(named_in(&row)?);
                }
            }
            // It changes nothing: no row that breaks its format is ever there.
            Op::Purify => {}
        }
    }
    for key in keys {
        commands.extend(command_of(database, key)?);
    }
    if commands.is_empty() {
        return Ok(None);
    }
    if commands.len() > COMMANDS_MAX {
        return Err(SummonsError::TooMany { got: commands.len() });
    }
    let (operation, row) = match ops {
        [Op::Add(row)] => (Operation::Add, Some(row.to_text())),
        [Op::Remove(pattern)] => (Operation::Remove, only_row(database, pattern)),
        _ if ops.iter().any(is_restore) => (Operation::Restore, None),
        _ => (Operation::Apply, None),
    };
    Ok(Some(Summons {
        commands: commands.into_iter().collect(),
        operation,
        row,
    }))
}

fn is_restore(op: &Op) -> bool {
    matches!(
        op,
        Op::ReplaceKey { .. } | Op::ReplaceAll { .. } | Op::LoadKey { .. } | Op::LoadAll { .. }
    )
}

fn only_row(database: &Database, pattern: &Pattern) -> Option<String> {
    match &database.query(pattern).ok()?[..] {
        [row] => Some(row.to_text()),
        _ => None,
    }
}

/// Whether an update may change the rows of [`SYNC_KEY`].
pub(crate) fn touches_commands(ops: &[Op]) -> bool {
    ops.iter().any(|op| match op {
        Op::Add(Row { key, .. })
        | Op::Format { key, .. }
        | Op::ReplaceKey { key, .. }
        | Op::LoadKey { key, .. } => key.as_str() == SYNC_KEY,
        Op::ReplaceAll { .. } | Op::LoadAll { .. } => true,
        Op::Remove(_) | Op::RemoveFormat(_) | Op::Purify => false,
    })
}

/// Whether the commands that this database names are sound: the right columns, names that are names, one command a key.
/// Else the first row that is not, and why.
pub(crate) fn check_commands(database: &Database) -> Result<(), (String, String)> {
    let Ok(key) = Key::new(SYNC_KEY) else {
        return Ok(());
    };
    let Some(columns) = database.columns(&key) else {
        return Ok(());
    };
    if columns != SYNC_COLUMNS {
        let row = crate::database::format_text(&key, columns);
        let why = alloc::format!(
            "the key is reserved for synchronization commands, and its columns are {} and {}",
            SYNC_COLUMNS[0],
            SYNC_COLUMNS[1]
        );
        return Err((row, why));
    }
    let mut last = None;
    for row in database.rows_of(SYNC_KEY) {
        let of = row.values.first().cloned().unwrap_or_default();
        if let Err(error) = Key::new(&of) {
            return Err((row.to_text(), alloc::format!("{error}")));
        }
        if let Err(SummonsError::BadRow { row, why }) = named_in(&row) {
            return Err((row, why));
        }
        if last.as_ref() == Some(&of) {
            let why = "the key has a command already; see it with: ccdadm sync-command show".into();
            return Err((row.to_text(), why));
        }
        last = Some(of);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::RestoreFlag;
    use crate::database::{Content, Update};
    use crate::ids::RequestId;
    use alloc::string::ToString;
    use alloc::vec;

    fn key(name: &str) -> Key {
        Key::new(name).expect("a good key")
    }

    fn row(text: &str) -> Row {
        Row::parse_text(text).expect("a good row")
    }

    fn format(name: &str, columns: &[&str]) -> Op {
        Op::Format {
            key: key(name),
            columns: columns.iter().map(ToString::to_string).collect(),
        }
    }

    fn with(database: &Database, ops: Vec<Op>) -> Result<Database, crate::database::OpError> {
        let update = Update {
            request: RequestId {
                client: 1,
                sequence: database.position().stamp.generation.0 + 1,
            },
            who: crate::database::Who::default(),
            date: crate::time::Date::default(),
            reason: None,
            preconditions: Vec::new(),
            ops,
        };
        database.admit(&update).map(|(next, _)| next)
    }

    /// `A` runs one, `B` and `C` the same other one, `D` none.
    fn database() -> Database {
        let mut ops = vec![format(SYNC_KEY, &SYNC_COLUMNS)];
        ops.extend(["A", "B", "C", "D"].map(|name| format(name, &["x", "y"])));
        ops.extend(
            [
                "CCD_SYNC:A:first",
                "CCD_SYNC:B:other",
                "CCD_SYNC:C:other",
                "A:1:p",
                "A:1:q",
                "A:2:r",
            ]
            .map(|text| Op::Add(row(text))),
        );
        with(&Database::default(), ops).expect("admitted")
    }

    #[test]
    fn a_name_is_plain_bounded_and_never_a_path() {
        let long = "x".repeat(COMMAND_NAME_MAX);
        for good in ["a", "9", "re-alloc_2.sh", &long] {
            assert_eq!(
                CommandName::new(good).map(|name| name.to_string()),
                Ok(good.into())
            );
        }
        let longer = "x".repeat(COMMAND_NAME_MAX + 1);
        for bad in [
            "", ".", "..", ".hidden", "a/b", "/bin/sh", "../x", "-x", "a b", "a\n", "ä", "a\0", &longer,
        ] {
            assert!(CommandName::new(bad).is_err(), "{bad:?}");
            assert!(
                postcard::to_allocvec(bad)
                    .is_ok_and(|bytes| postcard::from_bytes::<CommandName>(&bytes).is_err()),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_update_runs_the_commands_of_the_keys_it_touches() {
        let content = Content {
            formats: vec![(key("A"), vec!["x".into(), "y".into()])],
            rows: Vec::new(),
        };
        let restore = RestoreFlag::AllActive;
        let add = |text: &str| Op::Add(row(text));
        let remove = |columns: &[&str]| Op::Remove(Pattern::positional(key("A"), columns.iter().copied()));
        let one_key = Op::ReplaceKey {
            key: key("B"),
            content: content.clone(),
            restore,
        };
        #[rustfmt::skip]
        type Line<'a> = (&'a str, Vec<Op>, &'a [&'a str], Option<Operation>, Option<&'a str>);
        let table: Vec<Line> = vec![
            ("a key without one", vec![add("D:1:1")], &[], None, None),
            ("nothing at all", vec![], &[], None, None),
            (
                "a row",
                vec![add("A:3:s")],
                &["first"],
                Some(Operation::Add),
                Some("A:3:s"),
            ),
            (
                "a row with a colon",
                vec![add("A:3:%3A")],
                &["first"],
                Some(Operation::Add),
                Some("A:3:%3A"),
            ),
            (
                "one row goes",
                vec![remove(&["2"])],
                &["first"],
                Some(Operation::Remove),
                Some("A:2:r"),
            ),
            (
                "two rows go",
                vec![remove(&["1"])],
                &["first"],
                Some(Operation::Remove),
                None,
            ),
            (
                "two rows come",
                vec![add("A:3:s"), add("A:4:t")],
                &["first"],
                Some(Operation::Apply),
                None,
            ),
            (
                "keys with one command",
                vec![add("B:1:1"), add("C:1:1")],
                &["other"],
                Some(Operation::Apply),
                None,
            ),
            (
                "keys with different ones",
                vec![add("C:1:1"), add("A:3:s")],
                &["first", "other"],
                Some(Operation::Apply),
                None,
            ),
            (
                "one with, one without",
                vec![add("D:1:1"), add("B:3:s")],
                &["other"],
                Some(Operation::Apply),
                None,
            ),
            (
                "a format",
                vec![format("A", &["x", "y"])],
                &["first"],
                Some(Operation::Apply),
                None,
            ),
            (
                "a key is restored",
                vec![one_key],
                &["other"],
                Some(Operation::Restore),
                None,
            ),
            (
                "all is restored",
                vec![Op::ReplaceAll { content, restore }],
                &["first", "other"],
                Some(Operation::Restore),
                None,
            ),
            ("purify changes nothing", vec![Op::Purify], &[], None, None),
        ];
        for (what, ops, commands, operation, text) in table {
            let found = summons_of(&database(), &ops).expect(what);
            let names: Vec<String> = found
                .iter()
                .flat_map(|summons| summons.commands.iter().map(ToString::to_string))
                .collect();
            assert_eq!(names, commands, "{what}");
            assert_eq!(
                found.as_ref().map(|summons| summons.operation),
                operation,
                "{what}"
            );
            assert_eq!(
                found.and_then(|summons| summons.row),
                text.map(String::from),
                "{what}"
            );
        }
    }

    #[test]
    fn a_row_that_names_no_command_is_not_admitted() {
        let base = database();
        for bad in [
            "CCD_SYNC:D:../x",
            "CCD_SYNC:D:",
            "CCD_SYNC:D:/bin/true",
            "CCD_SYNC::x",
            "CCD_SYNC:no key:x",
            "CCD_SYNC:A:second",
        ] {
            let refused = with(&base, vec![Op::Add(row(bad))]).expect_err(bad).to_string();
            assert!(refused.contains(bad), "{bad}: {refused}");
        }
        with(&base, vec![Op::Add(row("CCD_SYNC:D:x"))]).expect("a good one");
        let refused = with(&Database::default(), vec![format(SYNC_KEY, &["a"])]).expect_err("other columns");
        assert!(refused.to_string().contains("reserved"), "{refused}");
        let content = Content {
            formats: vec![(key(SYNC_KEY), vec!["key".into(), "command".into()])],
            rows: vec![row("CCD_SYNC:A:x/y")],
        };
        let restore = RestoreFlag::AllActive;
        assert!(with(&base, vec![Op::ReplaceAll { content, restore }]).is_err());
    }

    #[test]
    fn an_update_with_too_many_commands_is_refused() {
        let mut ops = vec![format(SYNC_KEY, &SYNC_COLUMNS)];
        for index in 0..=COMMANDS_MAX {
            ops.push(Op::Add(row(&alloc::format!("CCD_SYNC:K{index}:c{index}"))));
        }
        let database = with(&Database::default(), ops).expect("admitted");
        let ops: Vec<Op> = (0..=COMMANDS_MAX)
            .map(|index| Op::RemoveFormat(key(&alloc::format!("K{index}"))))
            .collect();
        let refused = summons_of(&database, &ops);
        assert_eq!(
            refused,
            Err(SummonsError::TooMany {
                got: COMMANDS_MAX + 1
            })
        );
        assert!(summons_of(&database, &ops[1..]).is_ok());
    }
}
