//! The text form of the static rows: Fig. 6 without its consistency record, with comments.
//!
//! `KEY_fmt:col:col` defines a key, `KEY:val:val` is an entry; a line that starts with `#` is a comment. Rows and
//! formats obey the limits of `database/row.rs`.

use super::InitError;
use crate::database::{FORMAT_SUFFIX, Key, RECORD_KEY, Row, RowError, SEPARATOR, check_format};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Most bytes of an init database: static rows are few.
pub const INIT_BYTES_MAX: usize = 1 << 20;

/// What one line says.
pub(super) enum Line {
    Format(Key, Vec<String>),
    Row(Row),
}

/// Splits a text into its rows, each with the number of its line (from 1) and within the limits of every row.
pub(super) fn lines(text: &str) -> Result<Vec<(u32, Line)>, InitError> {
    if text.len() > INIT_BYTES_MAX {
        let why = format!("it has {} bytes, more than {INIT_BYTES_MAX}", text.len());
        return Err(InitError::new(None, "the file", why));
    }
    let mut lines = Vec::new();
    // Editors of other systems put a mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let number = (index as u32).saturating_add(1);
        if !line.trim().is_empty() && !line.starts_with('#') {
            lines.push((number, parse_line(number, line)?));
        }
    }
    Ok(lines)
}

fn parse_line(number: u32, line: &str) -> Result<Line, InitError> {
    let (key, rest) = match line.split_once(SEPARATOR) {
        Some((key, rest)) => (key, Some(rest)),
        None => (line, None),
    };
    let what = || format!("key {:?}", key.chars().take(80).collect::<String>());
    let fail = |why: String| InitError::new(Some(number), what(), why);
    if key == RECORD_KEY {
        let why = "an init database has no consistency record; delete the line";
        return Err(fail(why.to_owned()));
    }
    let refused = |error: RowError| fail(error.to_string());
    let Some(rest) = rest else {
        Key::new(key).map_err(|error| fail(error.to_string()))?;
        return Err(fail(
            "no ':' and value follows it; a row is KEY:value:value".to_owned(),
        ));
    };
    if let Some(key) = key.strip_suffix(FORMAT_SUFFIX) {
        let key = Key::new(key).map_err(|error| fail(error.to_string()))?;
        let columns: Vec<String> = rest.split(SEPARATOR).map(ToOwned::to_owned).collect();
        check_format(&key, &columns).map_err(refused)?;
        return Ok(Line::Format(key, columns));
    }
    Row::parse_text(line).map(Line::Row).map_err(refused)
}
