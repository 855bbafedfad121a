//! The text form of the static rows: Fig. 6 without its consistency record, with comments.
//!
//! `KEY_fmt:col:col` defines a key, `KEY:val:val` is an entry; `#` starts a comment line. `%3A` and the like stand
//! for a separator, `%`, control and line-break bytes in a value.

use super::InitError;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{borrow::ToOwned, format};

/// Most bytes of an init database: static rows are few.
pub const INIT_BYTES_MAX: usize = 1 << 20;
/// DESIGN §4.
const ROW_CHARS_MAX: usize = 1024;
/// DESIGN §4.
const COLUMNS_MAX: usize = 32;

/// One static row, values decoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticRow {
    pub key: String,
    pub values: Vec<String>,
}

impl StaticRow {
    pub fn new<const N: usize>(key: &str, values: [&str; N]) -> Self {
        Self {
            key: key.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }
    }

    /// `KEY:val:val`, without a line break.
    pub fn to_line(&self) -> String {
        line(&self.key, &self.values)
    }
}

/// The columns of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticFormat {
    pub key: String,
    pub columns: Vec<String>,
}

impl StaticFormat {
    /// `KEY_fmt:col:col`, without a line break.
    pub fn to_line(&self) -> String {
        line(&format!("{}_fmt", self.key), &self.columns)
    }
}

/// What one line says, with its number (from 1).
pub(super) enum Line {
    Format(u32, StaticFormat),
    Row(u32, StaticRow),
}

/// Splits a text into its rows; every row is within the limits and every key well-formed.
pub(super) fn lines(text: &str) -> Result<Vec<Line>, InitError> {
    if text.len() > INIT_BYTES_MAX {
        return Err(InitError::new(
            None,
            "the file",
            format!("it has {} bytes, more than {INIT_BYTES_MAX}", text.len()),
        ));
    }
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        lines.push(parse_line(index as u32 + 1, line)?);
    }
    Ok(lines)
}

fn parse_line(number: u32, line: &str) -> Result<Line, InitError> {
    let fail = |what: &str, why: String| Err(InitError::new(Some(number), what, why));
    let chars = line.chars().count();
    if chars > ROW_CHARS_MAX {
        return fail(
            "the row",
            format!("it has {chars} characters, more than {ROW_CHARS_MAX}"),
        );
    }
    let mut fields = line.split(':');
    let key = fields.next().unwrap_or_default();
    let mut values = Vec::new();
    for field in fields {
        match unescape(field) {
            Ok(value) => values.push(value),
            Err(why) => return fail(&format!("value {field:?}"), why),
        }
    }
    if key == "CCD_CHK" {
        return fail(
            "the row CCD_CHK",
            "an init database has no consistency record; delete the line".to_owned(),
        );
    }
    if !key_is_well_formed(key) {
        return fail(
            &format!("key {key:?}"),
            "a key is a letter followed by letters, digits, '_', '.' and '-'".to_owned(),
        );
    }
    if values.is_empty() {
        return fail(
            &format!("key {key:?}"),
            "no ':' and value follows it; a row is KEY:value:value".to_owned(),
        );
    }
    if values.len() > COLUMNS_MAX {
        return fail(
            &format!("key {key:?}"),
            format!("the row has {} columns, more than {COLUMNS_MAX}", values.len()),
        );
    }
    Ok(match key.strip_suffix("_fmt") {
        Some(key) if key_is_well_formed(key) && !key.ends_with("_fmt") => Line::Format(
            number,
            StaticFormat {
                key: key.to_owned(),
                columns: values,
            },
        ),
        Some(_) => return fail(&format!("key {key:?}"), "no key ends in _fmt".to_owned()),
        None => Line::Row(
            number,
            StaticRow {
                key: key.to_owned(),
                values,
            },
        ),
    })
}

pub(super) fn key_is_well_formed(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn line(key: &str, values: &[String]) -> String {
    let mut line = key.to_string();
    for value in values {
        line.push(':');
        escape_into(value, &mut line);
    }
    line
}

fn must_be_escaped(c: char) -> bool {
    matches!(c, ':' | '%' | '\u{2028}' | '\u{2029}') || c.is_control()
}

fn escape_into(value: &str, line: &mut String) {
    for c in value.chars() {
        if must_be_escaped(c) {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                line.push_str(&format!("%{byte:02X}"));
            }
        } else {
            line.push(c);
        }
    }
}

fn unescape(field: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = tail
            .get(..2)
            .and_then(|digits| core::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let Some(decoded) = digits else {
            return Err(
                "'%' is not followed by two hexadecimal digits; write %25 for a percent sign".to_owned(),
            );
        };
        bytes.push(decoded);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "its %-encoded bytes are not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_comes_back_from_its_line(values in proptest::collection::vec(".{0,20}", 1..8)) {
            let row = StaticRow { key: "K".to_owned(), values };
            let line = row.to_line();
            prop_assume!(line.chars().count() <= ROW_CHARS_MAX);
            prop_assert!(!line.contains('\n') && !line.contains('\r'));
            match parse_line(1, &line) {
                Ok(Line::Row(1, parsed)) => prop_assert_eq!(parsed, row),
                _ => prop_assert!(false, "{} does not parse", line),
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let _ = lines(&text);
        }
    }
}
