//! The text of an image, cut into tables as its lines come, without taking rows apart. Anything not canonical is refused.

use super::super::database::Table;
use super::super::lines::Bulk;
use super::super::row::{FORMAT_SUFFIX, ROW_CHARACTERS_MAX, Row, SEPARATOR};
use super::super::{ImageError, Key};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rpds::RedBlackTreeMapSync;

/// Bytes of the longest line, its line break not counted.
const LINE_BYTES_MAX: usize = 4 * ROW_CHARACTERS_MAX;

#[derive(Debug, Default)]
pub(in crate::database) struct TextReader {
    tables: RedBlackTreeMapSync<Key, Table>,
    current: Option<Rows>,
    /// The beginning of a line whose end has not come: at most so long as a line may be.
    partial: Vec<u8>,
}

/// The table under way.
#[derive(Debug)]
struct Rows {
    key: Key,
    table: Table,
    column_count: usize,
    lines: Bulk,
    /// The last line of the pieces before.
    last: String,
}

fn refused(line: &str) -> ImageError {
    ImageError(format!(
        "its line {:?} is not canonical",
        super::super::error::shortened(line)
    ))
}

fn checked(bytes: &[u8]) -> Result<&str, ImageError> {
    core::str::from_utf8(bytes).map_err(|_| ImageError("its text is not UTF-8".into()))
}

impl TextReader {
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), ImageError> {
        if !self.partial.is_empty() {
            let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at.saturating_add(1));
            let (head, after) = bytes.split_at(end);
            self.keep(head)?;
            if !head.ends_with(b"\n") {
                return Ok(());
            }
            let line = core::mem::take(&mut self.partial);
            self.take_lines(checked(&line)?)?;
            bytes = after;
        }
        let end = memchr::memrchr(b'\n', bytes).map_or(0, |at| at.saturating_add(1));
        let (lines, partial) = bytes.split_at(end);
        self.take_lines(checked(lines)?)?;
        self.keep(partial)
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), ImageError> {
        if self.partial.len().saturating_add(part.len()) > LINE_BYTES_MAX + 1 {
            return Err(ImageError(format!(
                "it has a line of more than {LINE_BYTES_MAX} bytes"
            )));
        }
        self.partial.extend_from_slice(part);
        Ok(())
    }

    /// Whole lines.
    fn take_lines(&mut self, mut text: &str) -> Result<(), ImageError> {
        while !text.is_empty() {
            if let Some(rows) = &mut self.current {
                text = rows.take(text)?;
            }
            if let Some((format, after)) = text.split_once('\n') {
                self.begin_table(format)?;
                text = after;
            }
        }
        Ok(())
    }

    fn begin_table(&mut self, format: &str) -> Result<(), ImageError> {
        let (name, columns) = format.split_once(SEPARATOR).ok_or_else(|| refused(format))?;
        let key = name
            .strip_suffix(FORMAT_SUFFIX)
            .and_then(|name| Key::new(name).ok());
        let key = key
            .filter(|key| self.current.as_ref().is_none_or(|rows| rows.key < *key))
            .ok_or_else(|| refused(format))?;
        let columns: Vec<String> = columns.split(SEPARATOR).map(String::from).collect();
        let table = Table::new(&key, &columns).map_err(|_| refused(format))?;
        self.end_table();
        self.current = Some(Rows {
            key,
            table,
            column_count: columns.len(),
            lines: Bulk::default(),
            last: String::new(),
        });
        Ok(())
    }

    fn end_table(&mut self) {
        if let Some(Rows {
            key,
            mut table,
            lines,
            ..
        }) = self.current.take()
        {
            table.lines = lines.finish();
            self.tables.insert_mut(key, table);
        }
    }

    pub fn finish(mut self) -> Result<RedBlackTreeMapSync<Key, Table>, ImageError> {
        if !self.partial.is_empty() {
            return Err(ImageError("its text does not end in a line break".into()));
        }
        self.end_table();
        Ok(self.tables)
    }
}

impl Rows {
    /// Takes the rows that the text begins with; returns what follows them.
    fn take<'a>(&mut self, text: &'a str) -> Result<&'a str, ImageError> {
        let (mut end, mut count) = (0, 0_u64);
        let mut last = self.last.as_str();
        for line_end in memchr::memchr_iter(b'\n', text.as_bytes()) {
            let line = &text[end..line_end];
            if !is_row_of(&self.key, line) {
                break;
            }
            if line <= last || !is_canonical(line, self.column_count) {
                return Err(refused(line));
            }
            last = line;
            end = line_end.saturating_add(1);
            count = count.saturating_add(1);
        }
        let (rows, after) = text.split_at(end);
        if !rows.is_empty() {
            self.last = last.into();
            self.lines.push(rows, count);
        }
        Ok(after)
    }
}

fn is_row_of(key: &Key, line: &str) -> bool {
    line.strip_prefix(key.as_str())
        .is_some_and(|values| values.starts_with(SEPARATOR))
}

/// Whether a row would be written just so.
fn is_canonical(line: &str, column_count: usize) -> bool {
    // Without branches, and with counts of one byte, which the compiler turns into vector instructions: images are long.
    let is_odd = |byte: u8| u8::from(byte.wrapping_sub(b' ') >= 0x7f - b' ') | u8::from(byte == b'%');
    let (mut odd, mut separators) = (0, 0_usize);
    for part in line.as_bytes().chunks(usize::from(u8::MAX)) {
        let mut count = 0_u8;
        for byte in part {
            odd |= is_odd(*byte);
            // At most as many as a chunk has bytes.
            count = count.wrapping_add(u8::from(*byte == SEPARATOR as u8));
        }
        separators = separators.saturating_add(count.into());
    }
    let plain = line.len() <= ROW_CHARACTERS_MAX && odd == 0;
    separators == column_count && (plain || Row::parse_text(line).is_ok_and(|row| row.to_text() == line))
}
