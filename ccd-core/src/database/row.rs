//! Keys and rows: what one may look like, and its text form with the separator encoding.
//!
//! Clients, files and peers hand these in. A [`Key`] is checked when it is made, also when it is decoded. A
//! [`Row`] holds plain values; whether it fits (columns, length) is checked against a format when it is added.

pub use super::encoding::SEPARATOR;
use super::encoding::{decoded, is_encoded, push_encoded};
use super::error::{KeyError, RowError};
use super::sizes::total;
use alloc::borrow::{Cow, ToOwned};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Most columns of a row or format; the key is not counted.
pub const COLUMNS_MAX: usize = 32;

/// Most columns that are decoded: more than there can be, so that who has a few too many hears why.
pub(crate) const COLUMNS_DECODED_MAX: usize = 2 * COLUMNS_MAX;

/// Most characters of a row or format in text form: key, separators and values as written (`%3A` counts
/// three), without the line break. Characters, not bytes: a row can take up to four times as many bytes.
pub const ROW_CHARACTERS_MAX: usize = 1024;

/// Ends the key of a format row.
pub const FORMAT_SUFFIX: &str = "_fmt";

/// The key of the consistency record.
pub const RECORD_KEY: &str = "CCD_CHK";

/// The name of a kind of rows: `[A-Za-z][A-Za-z0-9_.-]*`, not ending in `_fmt`, not `CCD_CHK`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Key(String);

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Key {
    pub fn new(name: &str) -> Result<Self, KeyError> {
        Self::check(name)?;
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(name: &str) -> Result<(), KeyError> {
        let first = name.chars().next().ok_or(KeyError::Empty)?;
        if name.len() > ROW_CHARACTERS_MAX {
            return Err(KeyError::TooLong {
                limit: ROW_CHARACTERS_MAX as u64,
                got: name.chars().count() as u64,
            });
        }
        if !first.is_ascii_alphabetic() {
            return Err(KeyError::Start {
                name: name.to_owned(),
                got: first,
            });
        }
        if let Some(got) = name.chars().find(|c| !is_name_character(*c)) {
            return Err(KeyError::Character {
                name: name.to_owned(),
                got,
            });
        }
        if name.ends_with(FORMAT_SUFFIX) {
            return Err(KeyError::FormatSuffix {
                name: name.to_owned(),
            });
        }
        if name == RECORD_KEY {
            return Err(KeyError::Reserved);
        }
        Ok(())
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;
    fn try_from(name: String) -> Result<Self, KeyError> {
        Self::check(&name)?;
        Ok(Self(name))
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl core::str::FromStr for Key {
    type Err = KeyError;
    fn from_str(name: &str) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl core::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Whether a column may be called this: `[A-Za-z_][A-Za-z0-9_.-]*`.
pub fn is_column_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(is_name_character)
}

/// Checks the columns of a format: number, names, no name twice, length of the format row.
pub fn check_format(key: &Key, columns: &[String]) -> Result<(), RowError> {
    if columns.is_empty() {
        return Err(RowError::NoColumns { key: key.clone() });
    }
    check_column_count(key, columns.len())?;
    for (index, name) in columns.iter().enumerate() {
        if !is_column_name(name) {
            return Err(RowError::ColumnName {
                key: key.clone(),
                name: super::error::shortened(name),
            });
        }
        if columns.iter().take(index).any(|earlier| earlier == name) {
            return Err(RowError::ColumnTwice {
                key: key.clone(),
                name: name.clone(),
            });
        }
    }
    check_text_length(key, &format_text(key, columns))
}

pub(super) fn check_column_count(key: &Key, got: usize) -> Result<(), RowError> {
    if got > COLUMNS_MAX {
        return Err(RowError::TooManyColumns {
            key: key.clone(),
            limit: COLUMNS_MAX as u64,
            got: got as u64,
        });
    }
    Ok(())
}

pub(super) fn check_text_length(key: &Key, text: &str) -> Result<(), RowError> {
    // A text has at most as many characters as bytes, so most rows are not counted at all.
    if text.len() > ROW_CHARACTERS_MAX {
        let got = text.chars().count();
        if got > ROW_CHARACTERS_MAX {
            let (limit, got) = (ROW_CHARACTERS_MAX as u64, got as u64);
            return Err(RowError::TooLong {
                key: key.clone(),
                limit,
                got,
            });
        }
    }
    Ok(())
}

/// `KEY_fmt:col:col`, without a line break.
pub fn format_text(key: &Key, columns: &[String]) -> String {
    let mut text = String::new();
    text.push_str(key.as_str());
    text.push_str(FORMAT_SUFFIX);
    for name in columns {
        text.push(SEPARATOR);
        text.push_str(name);
    }
    text
}

/// One entry: a key and a value for each column of its format. Values are plain, not encoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row {
    pub key: Key,
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, COLUMNS_DECODED_MAX>")]
    pub values: Vec<String>,
}

impl Row {
    /// A row within the limits of every row; whether it fits its key's format only a database knows.
    pub fn new<V: Into<String>>(key: Key, values: impl IntoIterator<Item = V>) -> Result<Self, RowError> {
        let row = Self {
            key,
            values: values.into_iter().map(Into::into).collect(),
        };
        row.checked_text()?;
        Ok(row)
    }

    /// Parses `KEY:val:val`. Values are decoded; control characters and `%3a` in small letters are accepted.
    pub fn parse_text(text: &str) -> Result<Self, RowError> {
        Self::parse_canonical(text).map(|(row, _)| row)
    }

    /// The row and its text form, which is mostly the text itself.
    pub(super) fn parse_canonical(text: &str) -> Result<(Self, Cow<'_, str>), RowError> {
        let mut parts = text.split(SEPARATOR);
        let key = Key::new(parts.next().unwrap_or(""))?;
        let values = decoded_values(&key, parts)?;
        let row = Self { key, values };
        let plain = |c: char| c == SEPARATOR || !is_encoded(c);
        let canonical = if text.chars().all(plain) {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(row.to_text())
        };
        check_text_length(&row.key, &canonical)?;
        Ok((row, canonical))
    }

    /// `KEY:val:val`, encoded, without a line break.
    pub fn to_text(&self) -> String {
        let bytes = total(self.values.iter().map(|value| total([value.len(), 1])));
        let bytes = total([self.key.as_str().len(), bytes]);
        let mut text = String::with_capacity(bytes);
        text.push_str(self.key.as_str());
        for value in &self.values {
            text.push(SEPARATOR);
            push_encoded(&mut text, value);
        }
        text
    }

    /// The text form, if the row is within the limits.
    pub(super) fn checked_text(&self) -> Result<String, RowError> {
        check_column_count(&self.key, self.values.len())?;
        let text = self.to_text();
        check_text_length(&self.key, &text)?;
        Ok(text)
    }

    /// Takes a line that a database holds apart; lines in there are known to be good.
    pub(super) fn from_stored(key: &Key, line: &str) -> Self {
        let bytes = line.as_bytes();
        // Counted first: a vector that grows is moved.
        let mut values = Vec::with_capacity(bytes.iter().filter(|byte| **byte == SEPARATOR as u8).count());
        let has_escapes = memchr::memchr(b'%', bytes).is_some();
        let mut rest = &line[key.as_str().len()..];
        while let Some(after) = rest.strip_prefix(SEPARATOR) {
            let end = memchr::memchr(SEPARATOR as u8, after.as_bytes()).unwrap_or(after.len());
            let value = &after[..end];
            values.push(if has_escapes {
                decoded(value).unwrap_or_default().into_owned()
            } else {
                value.to_owned()
            });
            rest = &after[end..];
        }
        Self {
            key: key.clone(),
            values,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// Decodes the values of a line, stopping before more of them are made than a row may have.
pub(super) fn decoded_values<'a>(
    key: &Key,
    parts: impl Iterator<Item = &'a str> + Clone,
) -> Result<Vec<String>, RowError> {
    check_column_count(key, parts.clone().count())?;
    parts.map(|part| decoded(part).map(Cow::into_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;
    use proptest::prelude::*;

    fn key() -> Key {
        Key::new("MY_KEY").expect("a good key")
    }

    #[test]
    fn a_key_is_letters_digits_underscore_dot_and_dash_and_not_reserved() {
        let long = "K".repeat(ROW_CHARACTERS_MAX + 1);
        let table: &[(&str, bool)] = &[
            ("MY_KEY", true),
            ("a", true),
            ("a.b-c_9", true),
            ("CCD_CHK2", true),
            ("fmt", true),
            ("", false),
            ("9a", false),
            ("_a", false),
            ("a b", false),
            ("a:b", false),
            ("a\n", false),
            ("é", false),
            ("aé", false),
            ("a_fmt", false),
            ("CCD_CHK", false),
            (&long, false),
        ];
        for (name, good) in table {
            assert_eq!(Key::new(name).is_ok(), *good, "{name:?}");
        }
    }

    #[test]
    fn a_key_is_checked_when_it_is_decoded_too() {
        let bytes = postcard::to_allocvec("a:b").expect("encodes");
        assert!(postcard::from_bytes::<Key>(&bytes).is_err());
        let bytes = postcard::to_allocvec(&key()).expect("encodes");
        assert_eq!(postcard::from_bytes::<Key>(&bytes), Ok(key()));
    }

    #[test]
    fn a_row_has_at_most_32_columns() {
        assert!(Row::new(key(), vec!["x"; 32]).is_ok());
        let refused = Row::new(key(), vec!["x"; 33]);
        assert_eq!(
            refused,
            Err(RowError::TooManyColumns {
                key: key(),
                limit: 32,
                got: 33
            })
        );
        let refused = Row::parse_text(&format!("MY_KEY{}", ":x".repeat(33)));
        assert_eq!(
            refused,
            Err(RowError::TooManyColumns {
                key: key(),
                limit: 32,
                got: 33
            })
        );
    }

    #[test]
    fn a_row_has_at_most_1024_characters_in_text_form() {
        // "MY_KEY:" takes 7.
        assert!(Row::new(key(), ["x".repeat(1017)]).is_ok());
        assert!(
            Row::new(key(), ["é".repeat(1017)]).is_ok(),
            "characters, not bytes"
        );
        let refused = Row::new(key(), ["x".repeat(1018)]);
        assert_eq!(
            refused,
            Err(RowError::TooLong {
                key: key(),
                limit: 1024,
                got: 1025
            })
        );
        let refused = Row::new(key(), [":".repeat(340)]);
        assert_eq!(
            refused,
            Err(RowError::TooLong {
                key: key(),
                limit: 1024,
                got: 1027
            }),
            "as written"
        );
    }

    #[test]
    fn an_ipv6_address_can_be_a_value() {
        let row = Row::parse_text("ADDRESS:0:fe80%3A%3A1").expect("parses");
        assert_eq!(row.values, ["0", "fe80::1"]);
        assert_eq!(row.to_text(), "ADDRESS:0:fe80%3A%3A1");
    }

    #[test]
    fn a_format_names_each_column_once_and_sensibly() {
        let check = |names: &[&str]| {
            check_format(
                &key(),
                &names.iter().map(|name| String::from(*name)).collect::<Vec<_>>(),
            )
        };
        assert_eq!(check(&["clustname", "number_nodes", "_x.y-z9"]), Ok(()));
        assert_eq!(check(&[]), Err(RowError::NoColumns { key: key() }));
        assert_eq!(
            check(&["a", "b", "a"]),
            Err(RowError::ColumnTwice {
                key: key(),
                name: "a".into()
            })
        );
        for bad in ["", "9", "a b", "a:b", "a=b", "é", "-a"] {
            assert_eq!(
                check(&[bad]),
                Err(RowError::ColumnName {
                    key: key(),
                    name: bad.into()
                })
            );
        }
        assert!(matches!(
            check(&["c"; 33]),
            Err(RowError::TooManyColumns { got: 33, .. })
        ));
        assert!(matches!(
            check(&[&"c".repeat(1100)]),
            Err(RowError::TooLong { .. })
        ));
    }

    proptest! {
        #[test]
        fn a_row_reads_back_from_its_text(values in proptest::collection::vec("\\PC{0,12}|[:%\\x00-\\x1f]{0,8}", 0..32)) {
            let row = Row { key: key(), values };
            if let Ok(text) = row.checked_text() {
                prop_assert!(!text.contains(['\n', '\r', '\0']));
                prop_assert_eq!(Row::parse_text(&text), Ok(row.clone()));
                prop_assert_eq!(Row::from_stored(&row.key, &text), row);
            }
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,64}|[A-Z:%0-9a-f\\n]{0,64}") {
            if let Ok(row) = Row::parse_text(&text) {
                prop_assert_eq!(Row::parse_text(&row.to_text()), Ok(row));
            }
        }
    }
}
