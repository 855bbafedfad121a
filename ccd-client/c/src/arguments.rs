//! Pointers that C gives, to checked types, and results to where C wants them: the only place that trusts the caller.
//!
//! Always holds: nothing is read through a pointer that is null, misaligned or in the first page, and nothing beyond a
//! bound; an array is not looked at if its count is more than a row can have.

use crate::boundary::Failure;
use ccd_client::messages;
use ccd_core::database::{COLUMNS_MAX, Key};
use std::ffi::{c_char, c_void};
use std::path::PathBuf;

/// `CCD_TEXT_MAX`: most bytes of a key, a column, a value or a pattern: 1,024 characters of four bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;

/// Most bytes of a path, a program's name or a reason.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// `CCD_REQUEST_BYTES`: room for a request id and its NUL.
pub(crate) const REQUEST_BYTES: usize = 64;

/// Nothing is mapped below: what points there came of arithmetic on null.
const FIRST_PAGE_BYTES: usize = 4096;

/// Whether something of type `T` can be there at all.
fn check_pointer<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        Err(Failure::argument(name, "is null"))
    } else if pointer.addr() < FIRST_PAGE_BYTES || !pointer.is_aligned() {
        Err(Failure::argument(name, "is no address"))
    } else {
        Ok(())
    }
}

/// A text that must be there.
///
/// # Safety
///
/// `pointer` must be one that [`check_pointer`] can tell to be wrong, or be readable up to its NUL or `bytes_max` + 1 bytes.
pub(crate) unsafe fn text(pointer: *const c_char, bytes_max: usize, name: &str) -> Result<String, Failure> {
    check_pointer(pointer, name)?;
    // SAFETY: the caller's promise.
    let len = unsafe { libc::strnlen(pointer, bytes_max + 1) };
    if len > bytes_max {
        let why = format!("has no end within {bytes_max} bytes");
        return Err(Failure::argument(name, &why));
    }
    // SAFETY: so many bytes before the NUL were just read.
    let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) };
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Failure::new(&messages::NOT_UTF8, format!("{name} is not UTF-8")))?;
    Ok(text.to_owned())
}

/// A text that may be left out by a null pointer.
///
/// # Safety
///
/// As [`text`], unless it is null.
pub(crate) unsafe fn optional_text(
    pointer: *const c_char,
    bytes_max: usize,
    name: &str,
) -> Result<Option<String>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { text(pointer, bytes_max, name) }.map(Some)
}

/// A path that may be left out; it need not be UTF-8 for the system, but is for ccd.
///
/// # Safety
///
/// As [`optional_text`].
pub(crate) unsafe fn optional_path(pointer: *const c_char, name: &str) -> Result<Option<PathBuf>, Failure> {
    // SAFETY: the caller's promise.
    let text = unsafe { optional_text(pointer, PATH_BYTES_MAX, name) }?;
    match text {
        Some(text) if text.is_empty() => Err(Failure::argument(name, "is empty")),
        text => Ok(text.map(PathBuf::from)),
    }
}

/// # Safety
///
/// As [`text`].
pub(crate) unsafe fn key(pointer: *const c_char) -> Result<Key, Failure> {
    // SAFETY: the caller's promise.
    let text = unsafe { text(pointer, TEXT_BYTES_MAX, "key") }?;
    Key::new(&text).map_err(|error| Failure::new(&messages::KEY_BAD, error.to_string()))
}

/// An array of texts, of which each may be null.
///
/// # Safety
///
/// If `count` is at most [`COLUMNS_MAX`] and not 0, `pointer` must be one that [`check_pointer`] can tell to be wrong, or be
/// readable for `count` pointers, each as [`optional_text`] wants it.
pub(crate) unsafe fn optional_texts(
    pointer: *const *const c_char,
    count: usize,
    name: &str,
) -> Result<Vec<Option<String>>, Failure> {
    if count > COLUMNS_MAX {
        let why = format!("has {count} elements; a row has at most {COLUMNS_MAX}");
        return Err(Failure::argument(name, &why));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    check_pointer(pointer, name)?;
    // SAFETY: the caller's promise; it is aligned and not null.
    let pointers = unsafe { std::slice::from_raw_parts(pointer, count) };
    pointers
        .iter()
        .enumerate()
        .map(|(index, pointer)| {
            // SAFETY: the caller's promise for each element.
            unsafe { optional_text(*pointer, TEXT_BYTES_MAX, &format!("{name}[{index}]")) }
        })
        .collect()
}

/// An array of texts that must all be there.
///
/// # Safety
///
/// As [`optional_texts`].
pub(crate) unsafe fn texts(
    pointer: *const *const c_char,
    count: usize,
    name: &str,
) -> Result<Vec<String>, Failure> {
    // SAFETY: the caller's promise.
    let texts = unsafe { optional_texts(pointer, count, name) }?;
    let missing = |index| Failure::argument(&format!("{name}[{index}]"), "is null");
    let texts = texts.into_iter().enumerate();
    texts
        .map(|(index, text)| text.ok_or_else(|| missing(index)))
        .collect()
}

/// So many structures, of which the caller knows how many are too many.
///
/// # Safety
///
/// If `count` is not 0, `pointer` must be one that [`check_pointer`] can tell to be wrong, or be readable for `count` elements
/// until the call ends.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T], Failure> {
    if count == 0 {
        return Ok(&[]);
    }
    check_pointer(pointer, name)?;
    // SAFETY: the caller's promise; it is aligned and not null.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// So many bytes.
///
/// # Safety
///
/// If `len` is at most `bytes_max` and not 0, `pointer` must be one that [`check_pointer`] can tell to be wrong, or be
/// readable for `len` bytes.
pub(crate) unsafe fn bytes(
    pointer: *const c_char,
    len: usize,
    bytes_max: usize,
    name: &str,
) -> Result<Vec<u8>, Failure> {
    if len > bytes_max {
        let why = format!("has {len} bytes; at most {bytes_max} are taken");
        return Err(Failure::argument(name, &why));
    }
    if len == 0 {
        return Ok(Vec::new());
    }
    check_pointer(pointer, name)?;
    // SAFETY: the caller's promise; it is not null.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), len) }.to_vec())
}

/// Where a call stores a result. Nothing is stored unless the call goes well, but for handles, which become null.
#[derive(Debug)]
pub(crate) struct Place<T>(*mut T);

impl<T> Place<T> {
    /// # Safety
    ///
    /// `pointer` must be one that [`check_pointer`] can tell to be wrong, or be writable for one `T` until the call ends.
    pub unsafe fn required(pointer: *mut T, name: &str) -> Result<Self, Failure> {
        check_pointer(pointer, name)?;
        Ok(Self(pointer))
    }

    /// # Safety
    ///
    /// As [`Place::required`], unless it is null: then what is stored is dropped.
    pub unsafe fn optional(pointer: *mut T, name: &str) -> Result<Self, Failure> {
        if !pointer.is_null() {
            check_pointer(pointer, name)?;
        }
        Ok(Self(pointer))
    }

    pub fn store(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: promised when it was made; it is aligned and not null. What was there is C's and has no drop.
            unsafe { self.0.write(value) };
        }
    }
}

impl Place<*mut c_void> {
    /// For a handle: null until there is one.
    ///
    /// # Safety
    ///
    /// As [`Place::required`].
    pub unsafe fn for_handle(pointer: *mut *mut c_void, name: &str) -> Result<Self, Failure> {
        // SAFETY: the caller's promise.
        let place = unsafe { Self::required(pointer, name) }?;
        place.store(std::ptr::null_mut());
        Ok(place)
    }
}

/// A request id that comes in and goes out: [`REQUEST_BYTES`] bytes that hold one, or a NUL first.
#[derive(Debug)]
pub(crate) struct RequestPlace(*mut c_char);

impl RequestPlace {
    /// And what is in it, if anything.
    ///
    /// # Safety
    ///
    /// `pointer` must be null, or one that [`check_pointer`] can tell to be wrong, or be readable and writable for
    /// [`REQUEST_BYTES`] bytes until the call ends.
    pub unsafe fn new(pointer: *mut c_char, name: &str) -> Result<(Self, Option<String>), Failure> {
        // SAFETY: the caller's promise.
        let text = unsafe { optional_text(pointer, REQUEST_BYTES - 1, name) }?;
        Ok((Self(pointer), text.filter(|text| !text.is_empty())))
    }

    /// Writes an id that fits.
    pub fn store(&self, id: &str) {
        assert!(id.len() < REQUEST_BYTES, "32 digits, a dash and 20 digits");
        if !self.0.is_null() {
            // SAFETY: there is room for REQUEST_BYTES, which is more than the id and its NUL; it was checked not to be wrong.
            unsafe {
                std::ptr::copy_nonoverlapping(id.as_ptr(), self.0.cast(), id.len());
                self.0.add(id.len()).write(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::{null, null_mut, without_provenance, without_provenance_mut};

    fn id(failure: Failure) -> u16 {
        failure.message.id
    }

    #[test]
    fn a_text_has_an_end_within_its_bound_and_is_utf8() {
        for (bytes, expected) in [
            (&b"four\0"[..], Ok("four")),
            (b"\0", Ok("")),
            ("\u{e4}\u{f6}\0".as_bytes(), Ok("\u{e4}\u{f6}")),
            (b"fives", Err(messages::ARGUMENT_BAD.id)),
            (b"\xff\0", Err(messages::NOT_UTF8.id)),
        ] {
            // SAFETY: all are readable up to their NUL or for five bytes.
            let found = unsafe { text(bytes.as_ptr().cast(), 4, "it") };
            assert_eq!(found.as_deref().map_err(|failure| failure.message.id), expected);
        }
    }

    #[test]
    fn what_points_nowhere_is_refused_unread() {
        // SAFETY: all of these can be told to be wrong.
        unsafe {
            assert_eq!(id(text(null(), 4, "it").expect_err("null")), 1040);
            assert_eq!(id(text(without_provenance(8), 4, "it").expect_err("low")), 1040);
            assert_eq!(id(texts(null(), 1, "it").expect_err("null")), 1040);
            let odd = without_provenance(0x7000_0001);
            assert_eq!(id(texts(odd, 1, "it").expect_err("misaligned")), 1040);
            let far = without_provenance(0x7000_0000);
            assert_eq!(id(texts(far, 33, "it").expect_err("too many")), 1040);
            assert_eq!(texts(null(), 0, "it").expect("none is fine"), [""; 0]);
            assert_eq!(id(bytes(null(), 1, 4, "it").expect_err("null")), 1040);
            assert_eq!(
                id(bytes(without_provenance(8), 5, 4, "it").expect_err("long")),
                1040
            );
            assert_eq!(bytes(null(), 0, 4, "it").expect("none is fine"), [0; 0]);
            Place::<u64>::required(null_mut(), "it").expect_err("null");
            Place::<u64>::optional(without_provenance_mut(3), "it").expect_err("low");
            Place::<u64>::optional(null_mut(), "it")
                .expect("it may be left out")
                .store(7);
        }
    }

    #[test]
    fn a_null_among_values_is_named() {
        let pointers = [c"one".as_ptr(), null()];
        // SAFETY: both elements are null or end with a NUL.
        unsafe {
            let failure = texts(pointers.as_ptr(), 2, "values").expect_err("one is null");
            assert_eq!(failure.text, "values[1] is null");
            let found = optional_texts(pointers.as_ptr(), 2, "values").expect("they may be null");
            assert_eq!(found, [Some("one".to_owned()), None]);
        }
    }

    #[test]
    fn a_request_id_comes_and_goes() {
        let mut room = [0u8; REQUEST_BYTES];
        // SAFETY: there is as much room as promised.
        let (place, before) =
            unsafe { RequestPlace::new(room.as_mut_ptr().cast(), "request") }.expect("it is room");
        assert_eq!(before, None);
        place.store("abc-1");
        assert_eq!(&room[..6], b"abc-1\0");
        // SAFETY: as above.
        let (_, before) =
            unsafe { RequestPlace::new(room.as_mut_ptr().cast(), "request") }.expect("it is room");
        assert_eq!(before.as_deref(), Some("abc-1"));
    }
}
