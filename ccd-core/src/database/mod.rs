//! The database of Fig. 6: keys with formats, entries in columns, and the consistency record.
//!
//! ```text
//! row.rs        Key, Row, Pattern: checked once, at the edge; limits; separator encoding
//! update.rs     Op, Precondition, Update, Record: what a journal holds and what travels to the members
//! database.rs   Database: the persistent structure and how an update changes it
//! ```

#[allow(clippy::module_inception)]
mod database;
mod row;
mod update;

pub use database::{ApplyError, Content, Database, ImageError, OpError};
pub use row::{Key, Pattern, Row};
pub use update::{Op, Precondition, Record, RecordBody, Update, Who};
