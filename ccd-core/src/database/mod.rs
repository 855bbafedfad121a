//! The database of Fig. 6: keys with formats, entries in columns, and the consistency record.
//!
//! ```text
//! error.rs      why a key, row, update, record or image is refused
//! encoding.rs   how a value stands in text
//! row.rs        Key, Row: limits, text form of one row
//! sizes.rs      sums of sizes, which have no end to go beyond
//! pattern.rs    Pattern: what query and remove match
//! lines.rs      the rows of one key: a persistent sorted set of text lines
//! outcomes.rs   which of the last updates were applied
//! database.rs   Database: formats, rows, position; queries
//! scan.rs       a query in steps of bounded work
//! update.rs     Op, Precondition, Update, Record: what a journal holds and what travels to the members
//! admit.rs      how an update changes a database
//! record.rs     records as bytes, and their lineage
//! image/        a whole version as bytes, written and read piece by piece
//! content_text.rs  formats and rows as checked text: a restore of any size
//! date.rs       dates as Fig. 6 writes them
//! consistency.rs  the consistency record
//! text.rs       a whole version as text: writing, reading, purify, convert
//! transaction.rs  the file of `ccdadm apply`
//! difference.rs what leads from one version to another
//! effects.rs    what an update did; adding such differences up, and inverting them
//! view.rs       what a watcher sees of it
//! ```

mod admit;
mod consistency;
mod content_text;
#[allow(clippy::module_inception)]
mod database;
mod date;
mod difference;
mod effects;
mod encoding;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
mod image;
mod lines;
mod outcomes;
mod pattern;
mod record;
mod row;
mod scan;
mod sizes;
mod text;
mod transaction;
mod update;
mod view;

pub use crate::bounded::at_most;
pub use admit::EXAMINED_MAX;
pub(crate) use admit::SyncRows;
pub use consistency::{ConsistencyRecord, FileOrigin, IntegrityError, Mismatch, Proof, RecordError};
pub use content_text::ContentText;
pub use database::{Content, Database};
pub use date::{date_text, parse_date};
pub use difference::{Difference, FormatChange};
pub use effects::{FormatEffect, KeyEffects};
pub use error::{
    ApplyError, BrokenRow, BrokenRows, ErrorClass, ImageError, KeyError, OpError, PROBLEMS_NAMED_MAX,
    RowError,
};
pub use image::{ImageReader, ImageWriter};
pub use outcomes::OUTCOMES_MAX;
pub use pattern::{NAMED_PATTERNS_PER_COLUMN_MAX, Pattern, WILDCARD};
pub use row::{
    COLUMNS_MAX, FORMAT_SUFFIX, Key, RECORD_KEY, ROW_CHARACTERS_MAX, Row, SEPARATOR, check_format,
    format_text, is_column_name,
};
pub use scan::Scan;
pub use text::{ParsedText, Purified, RecordCheck, TextError, convert_text, purify_text};
pub use transaction::{BrokenLine, LineError, Transaction, TransactionError};
pub use update::{
    OPERATIONS_MAX, Op, Precondition, RECORD_BATCH_BYTES_MAX, RECORD_BYTES_LARGEST, RECORD_BYTES_MAX, Record,
    RecordBody, Update, Who, at_most_operations_max, content_digest, loaded_bytes,
};
pub use view::View;
