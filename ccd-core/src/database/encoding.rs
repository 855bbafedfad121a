//! How a value stands in a line of text: the separator, `%`, control and line-break characters are written as `%` and
//! two hexadecimal digits for each of their bytes. Everything else stands as it is.

use super::error::{RowError, shortened};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Stands between key and values; written `%3A` inside a value.
pub const SEPARATOR: char = ':';

/// Characters that are written as `%` and two hexadecimal digits for each byte.
pub(super) fn is_encoded(c: char) -> bool {
    matches!(c, SEPARATOR | '%' | '\u{2028}' | '\u{2029}') || c.is_control()
}

/// Appends a value as the text form writes it.
pub(super) fn push_encoded(text: &mut String, value: &str) {
    // Nearly every value; a look at its bytes alone, without branches in between.
    let is_plain = |byte: &u8| (b' '..0x7f).contains(byte) && *byte != b'%' && *byte != SEPARATOR as u8;
    if value
        .as_bytes()
        .iter()
        .fold(true, |plain, byte| plain & is_plain(byte))
    {
        text.push_str(value);
        return;
    }
    let mut rest = value;
    while let Some(start) = rest.find(is_encoded) {
        text.push_str(&rest[..start]);
        let mut after = rest[start..].chars();
        if let Some(encoded) = after.next() {
            for byte in encoded.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        rest = after.as_str();
    }
    text.push_str(rest);
}

/// Undoes [`push_encoded`].
pub(super) fn decoded(text: &str) -> Result<Cow<'_, str>, RowError> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let refused = || RowError::Escape {
        text: shortened(text),
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_first_chunk::<2>().ok_or_else(refused)?;
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let [high, low] = digits.map(digit);
            let (high, low) = (high.ok_or_else(refused)?, low.ok_or_else(refused)?);
            bytes.push((high << 4 | low) as u8);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn separator_percent_control_and_line_breaks_are_written_with_percent() {
        let table = [
            ("fe80::1", "fe80%3A%3A1"),
            ("100%", "100%25"),
            ("a\nb\r\t\0", "a%0Ab%0D%09%00"),
            ("\u{85}\u{2028}\u{2029}\u{7f}", "%C2%85%E2%80%A8%E2%80%A9%7F"),
            ("é, ü = ok", "é, ü = ok"),
            ("", ""),
        ];
        for (plain, text) in table {
            let mut written = String::new();
            push_encoded(&mut written, plain);
            assert_eq!(written, text);
            assert_eq!(decoded(text).as_deref(), Ok(plain));
        }
        assert_eq!(
            decoded("%3a%41").as_deref(),
            Ok(":A"),
            "small letters and needless encoding are read"
        );
        for bad in ["%", "%4", "%zz", "%+1", "a%C3b", "%FF"] {
            assert!(matches!(decoded(bad), Err(RowError::Escape { .. })), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_value_reads_back(plain in "\\PC{0,20}|[:%\\x00-\\x1f\u{80}-\u{9f}a]{0,20}") {
            let mut text = String::new();
            push_encoded(&mut text, &plain);
            prop_assert!(!text.chars().any(|c| c != '%' && is_encoded(c)));
            let read = decoded(&text).expect("decodes");
            prop_assert_eq!(&*read, plain.as_str());
        }
    }
}
