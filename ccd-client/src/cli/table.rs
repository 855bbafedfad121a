//! Tables and dates for people.

pub(super) use crate::dates::date_text;
use comfy_table::{ContentArrangement, Table, presets};

/// Columns under a heading, two blanks apart, no lines drawn and no blanks at the end.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heading.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_blanks_at_the_end() {
        let text = table(
            &["KEY", "ROWS"],
            vec![
                vec!["A".to_owned(), "1".to_owned()],
                vec!["LONG".to_owned(), "22".to_owned()],
            ],
        );
        assert_eq!(text, "KEY   ROWS\nA     1\nLONG  22");
    }
}
