//! The init database, with nothing running: `ccd_attach_static`, `ccd_detach_static`, `ccd_query_static`,
//! `ccd_wildchar_static`.

use crate::arguments::{self, Place};
use crate::boundary::{Failure, OK, call};
use crate::handles::{self, Held, Kind};
use crate::requests::pattern;
use crate::rows::Rows;
use crate::session::{parse_wildcard, places};
use ccd_client::StaticDatabase;
use ccd_core::database::WILDCARD;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, PoisonError, RwLock};

/// `ccd_static_t`
#[derive(Debug)]
pub(crate) struct Initial {
    database: StaticDatabase,
    wildcard: RwLock<Option<char>>,
}

impl Kind for Initial {
    const NAME: &'static str = "ccd_static_t";

    fn held(this: Arc<Self>) -> Held {
        Held::Initial(this)
    }

    fn of(held: &Held) -> Option<&Arc<Self>> {
        match held {
            Held::Initial(initial) => Some(initial),
            _ => None,
        }
    }
}

/// Reads the init database of a folder; null: `CCD_ETC`, or else `/etc/ccd`.
///
/// # Safety
///
/// `folder` must be null or a text, `handle` null or writable for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_attach_static(folder: *const c_char, handle: *mut *mut c_void) -> c_int {
    call("ccd_attach_static", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::for_handle(handle, "handle") }?;
        // SAFETY: the caller's promise.
        let folder = unsafe { arguments::optional_path(folder, "folder") }?;
        let mut places = places();
        if let Some(folder) = folder {
            places.etc = folder;
        }
        let initial = Initial {
            database: StaticDatabase::attach(&places)?,
            wildcard: RwLock::new(Some(WILDCARD)),
        };
        place.store(handles::hold(initial));
        Ok(OK)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn ccd_detach_static(handle: *mut c_void) -> c_int {
    call("ccd_detach_static", || {
        handles::release::<Initial>(handle).map(|()| OK)
    })
}

/// The rows that match; see `requests::pattern` for how they are chosen.
///
/// # Safety
///
/// `key` must be null or a text; `columns` and `patterns` null or arrays of `count` texts or nulls; `rows` null or
/// writable for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_query_static(
    handle: *mut c_void,
    key: *const c_char,
    columns: *const *const c_char,
    patterns: *const *const c_char,
    count: usize,
    rows: *mut *mut c_void,
) -> c_int {
    call("ccd_query_static", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::for_handle(rows, "rows") }?;
        let initial = handles::find::<Initial>(handle)?;
        let wildcard = *initial.wildcard.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise.
        let pattern = unsafe { pattern(key, columns, patterns, count, wildcard) }?;
        let found = initial.database.query(&pattern).map_err(Failure::from)?;
        place.store(handles::hold(Rows::of(&found)));
        Ok(OK)
    })
}

/// As `ccd_wildchar`.
#[unsafe(no_mangle)]
pub extern "C" fn ccd_wildchar_static(handle: *mut c_void, character: u32) -> c_int {
    call("ccd_wildchar_static", || {
        let initial = handles::find::<Initial>(handle)?;
        let wildcard = parse_wildcard(character)?;
        *initial.wildcard.write().unwrap_or_else(PoisonError::into_inner) = wildcard;
        Ok(OK)
    })
}
