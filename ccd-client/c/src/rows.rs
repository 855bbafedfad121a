//! What queries answer: `ccd_query_next`, `ccd_free`.
//!
//! Always holds: the values that C is pointed at stay where they are until the result is freed.

use crate::arguments::Place;
use crate::boundary::{END, OK, call};
use crate::handles::{self, Held, Kind};
use ccd_core::database::Row;
use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `ccd_row_t`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CcdRow {
    columns: usize,
    values: *const *const c_char,
    lengths: *const usize,
}

/// `ccd_rows_t`: rows, and which comes next.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: Vec<Values>,
    next: AtomicUsize,
}

/// Values as C sees them: of a row, or the columns of a format.
#[derive(Debug)]
pub(crate) struct Values {
    values: Vec<*const c_char>,
    lengths: Vec<usize>,
    /// What `values` point into: each value with a NUL behind it.
    _text: Box<[u8]>,
}

// SAFETY: the pointers point into the boxed text beside them, which nobody changes as long as it is there.
unsafe impl Send for Values {}
// SAFETY: as above; there are only readers.
unsafe impl Sync for Values {}

impl Values {
    pub fn of(row: &[String]) -> Self {
        let mut text = Vec::with_capacity(row.iter().map(|value| value.len() + 1).sum());
        let mut starts = Vec::with_capacity(row.len());
        for value in row {
            starts.push(text.len());
            text.extend_from_slice(value.as_bytes());
            text.push(0);
        }
        let text = text.into_boxed_slice();
        let start = text.as_ptr().cast::<c_char>();
        Self {
            values: starts.iter().map(|offset| start.wrapping_add(*offset)).collect(),
            lengths: row.iter().map(String::len).collect(),
            _text: text,
        }
    }

    /// They point into this.
    pub fn as_c(&self) -> CcdRow {
        CcdRow {
            columns: self.values.len(),
            values: self.values.as_ptr(),
            lengths: self.lengths.as_ptr(),
        }
    }
}

impl Rows {
    pub fn of(rows: &[Row]) -> Self {
        Self {
            rows: rows.iter().map(|row| Values::of(&row.values)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Each row once, whichever threads ask.
    fn next(&self) -> Option<&Values> {
        let index = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (next < self.rows.len()).then_some(next + 1)
            });
        index.ok().map(|index| &self.rows[index])
    }
}

impl Kind for Rows {
    const NAME: &'static str = "ccd_rows_t";

    fn held(this: Arc<Self>) -> Held {
        Held::Rows(this)
    }

    fn of(held: &Held) -> Option<&Arc<Self>> {
        match held {
            Held::Rows(rows) => Some(rows),
            _ => None,
        }
    }
}

/// The next row of a result; [`END`] after the last.
///
/// # Safety
///
/// `row` must be null or be writable for a `ccd_row_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_query_next(rows: *mut c_void, row: *mut CcdRow) -> c_int {
    call("ccd_query_next", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::required(row, "row") }?;
        let rows = handles::find::<Rows>(rows)?;
        let Some(values) = rows.next() else {
            return Ok(END);
        };
        place.store(values.as_c());
        Ok(OK)
    })
}

/// Frees a result; null is none, and that is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ccd_free(rows: *mut c_void) -> c_int {
    call("ccd_free", || {
        if !rows.is_null() {
            handles::release::<Rows>(rows)?;
        }
        Ok(OK)
    })
}

#[cfg(test)]
impl CcdRow {
    /// A value that has no NUL in it.
    ///
    /// # Safety
    ///
    /// It must be one that a library has given out, with so many columns.
    pub(crate) unsafe fn text(&self, index: usize) -> String {
        // SAFETY: the caller's promise.
        let value = unsafe { std::ffi::CStr::from_ptr(*self.values.add(index)) };
        value.to_str().expect("it is UTF-8").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::database::Key;
    use std::ffi::CStr;

    fn row(values: &[&str]) -> Row {
        let key = Key::new("K").expect("it is a key");
        Row::new(key, values.iter().copied()).expect("it is a row")
    }

    #[test]
    fn rows_come_in_order_with_lengths_and_then_the_end() {
        let handle = handles::hold(Rows::of(&[row(&["one", ""]), row(&["a\0b", "c"])]));
        let mut seen = Vec::new();
        let mut row = CcdRow {
            columns: 0,
            values: std::ptr::null(),
            lengths: std::ptr::null(),
        };
        // SAFETY: `row` is a row.
        while unsafe { ccd_query_next(handle, &mut row) } == OK {
            for column in 0..row.columns {
                // SAFETY: there are so many values and lengths, and each value has that length and a NUL behind it.
                unsafe {
                    let value = *row.values.add(column);
                    let len = *row.lengths.add(column);
                    let bytes = std::slice::from_raw_parts(value.cast::<u8>(), len + 1);
                    assert_eq!(bytes[len], 0);
                    seen.push((
                        CStr::from_ptr(value).to_owned(),
                        String::from_utf8_lossy(&bytes[..len]).into_owned(),
                    ));
                }
            }
        }
        let seen: Vec<_> = seen
            .iter()
            .map(|(text, whole)| (text.to_str().expect("UTF-8"), whole.as_str()))
            .collect();
        assert_eq!(seen, [("one", "one"), ("", ""), ("a", "a\0b"), ("c", "c")]);
        // SAFETY: as above.
        let after_the_end = unsafe { ccd_query_next(handle, &mut row) };
        assert_eq!(after_the_end, END);
        assert_eq!(ccd_free(handle), OK);
        assert_eq!(ccd_free(handle), 1041);
        assert_eq!(ccd_free(std::ptr::null_mut()), OK);
    }
}
