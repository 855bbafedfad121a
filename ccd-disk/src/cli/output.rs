//! Standard output of a verb: a table or lines for people, one JSON value for programs.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use std::io::{self, BufWriter, Stdout, Write};

/// Buffers what a verb prints; nothing of it panics when nobody reads.
#[derive(Debug)]
pub struct Output {
    to: BufWriter<Stdout>,
    json: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self {
            to: BufWriter::new(io::stdout()),
            json,
        }
    }

    /// The result as JSON, or, without `--json`, as `plain` prints it.
    pub fn result<T: Serialize>(
        &mut self,
        value: &T,
        plain: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.json {
            serde_json::to_writer_pretty(&mut self.to, value)?;
            self.to.write_all(b"\n")
        } else {
            plain(&mut self.to)
        }
    }

    /// Bytes as they are, with or without `--json`.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A table without lines, columns aligned.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
}

/// `value`, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
