//! Asking and changing the database: `ccd_query`, `ccd_add_unique`, `ccd_remove`, `ccd_format`, `ccd_remove_fmt`,
//! `ccd_restore`, `ccd_transact`.

use crate::arguments::{self, PATH_BYTES_MAX, Place, RequestPlace};
use crate::boundary::{Failure, OK, call};
use crate::handles;
use crate::rows::Rows;
use crate::session::{Session, Settings};
use ccd_client::{Applied, Transaction, backup, messages};
use ccd_core::database::{self, Op, Pattern, RECORD_BYTES_MAX, Row};
use ccd_core::ids::RequestId;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;

/// `ccd_applied_t`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CcdApplied {
    generation: u64,
    removed: i64,
}

/// `CCD_DRY_RUN`: say what would happen, change nothing.
const DRY_RUN: c_uint = 1;

/// A removal that only remembers to have been done does not know of how many rows.
const NOT_KNOWN: i64 = -1;

/// Which rows a call means: the pattern of each column, by position, or by name if `columns` is not null. A null pattern
/// matches anything, and so does a column that has none.
///
/// # Safety
///
/// `key` must be null or a text; `columns` and `patterns` null or arrays of `count` texts or nulls.
pub(crate) unsafe fn pattern(
    key: *const c_char,
    columns: *const *const c_char,
    patterns: *const *const c_char,
    count: usize,
    wildcard: Option<char>,
) -> Result<Pattern, Failure> {
    // SAFETY: the caller's promise.
    let key = unsafe { arguments::key(key) }?;
    // SAFETY: the caller's promise.
    let patterns = unsafe { arguments::optional_texts(patterns, count, "patterns") }?;
    let mut pattern = Pattern::all(key).with_wildcard(wildcard);
    if columns.is_null() {
        pattern.columns = patterns;
    } else {
        // SAFETY: the caller's promise.
        let columns = unsafe { arguments::texts(columns, count, "columns") }?;
        let named = columns.into_iter().zip(patterns);
        pattern.named = named
            .filter_map(|(column, pattern)| Some((column, pattern?)))
            .collect();
    }
    Ok(pattern)
}

/// The rows that match.
///
/// # Safety
///
/// As [`pattern`]; `rows` must be null or writable for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_query(
    handle: *mut c_void,
    key: *const c_char,
    columns: *const *const c_char,
    patterns: *const *const c_char,
    count: usize,
    rows: *mut *mut c_void,
) -> c_int {
    call("ccd_query", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::for_handle(rows, "rows") }?;
        let settings = handles::find::<Session>(handle)?.settings();
        // SAFETY: the caller's promise.
        let pattern = unsafe { pattern(key, columns, patterns, count, settings.wildcard) }?;
        let found = settings.client.query(pattern, settings.freshness)?;
        place.store(handles::hold(Rows::of(&found.rows)));
        Ok(OK)
    })
}

/// Adds a row that is not there yet.
///
/// # Safety
///
/// `key` must be null or a text, `values` null or an array of `count` texts or nulls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_add_unique(
    handle: *mut c_void,
    key: *const c_char,
    values: *const *const c_char,
    count: usize,
) -> c_int {
    call("ccd_add_unique", || {
        let settings = handles::find::<Session>(handle)?.settings();
        // SAFETY: the caller's promise.
        let (key, values) = unsafe { (arguments::key(key)?, arguments::texts(values, count, "values")?) };
        let row =
            Row::new(key, values).map_err(|error| Failure::new(&messages::ROW_BAD, error.to_string()))?;
        change(&settings, Op::Add(row)).map(|_| OK)
    })
}

/// Removes all rows that match, of which there must be one.
///
/// # Safety
///
/// As [`pattern`]; `removed` must be null or writable for an `int64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_remove(
    handle: *mut c_void,
    key: *const c_char,
    columns: *const *const c_char,
    patterns: *const *const c_char,
    count: usize,
    removed: *mut i64,
) -> c_int {
    call("ccd_remove", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::optional(removed, "removed") }?;
        let settings = handles::find::<Session>(handle)?.settings();
        // SAFETY: the caller's promise.
        let pattern = unsafe { pattern(key, columns, patterns, count, settings.wildcard) }?;
        let applied = change(&settings, Op::Remove(pattern))?;
        place.store(applied.removed);
        Ok(OK)
    })
}

/// Defines a key.
///
/// # Safety
///
/// `key` must be null or a text, `columns` null or an array of `count` texts or nulls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_format(
    handle: *mut c_void,
    key: *const c_char,
    columns: *const *const c_char,
    count: usize,
) -> c_int {
    call("ccd_format", || {
        let settings = handles::find::<Session>(handle)?.settings();
        // SAFETY: the caller's promise.
        let (key, columns) = unsafe { (arguments::key(key)?, arguments::texts(columns, count, "columns")?) };
        change(&settings, Op::Format { key, columns }).map(|_| OK)
    })
}

/// Removes a key that has no rows.
///
/// # Safety
///
/// `key` must be null or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_remove_fmt(handle: *mut c_void, key: *const c_char) -> c_int {
    call("ccd_remove_fmt", || {
        let settings = handles::find::<Session>(handle)?.settings();
        // SAFETY: the caller's promise.
        let key = unsafe { arguments::key(key) }?;
        change(&settings, Op::RemoveFormat(key)).map(|_| OK)
    })
}

/// Replaces a key, or everything if it is null, by what a database file holds.
///
/// # Safety
///
/// `key` and `file` must be null or texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_restore(handle: *mut c_void, key: *const c_char, file: *const c_char) -> c_int {
    call("ccd_restore", || {
        let settings = handles::find::<Session>(handle)?.settings();
        let key = match key.is_null() {
            true => None,
            // SAFETY: the caller's promise.
            false => Some(unsafe { arguments::key(key) }?),
        };
        // SAFETY: the caller's promise.
        let file = unsafe { arguments::text(file, PATH_BYTES_MAX, "file") }?;
        let backup = backup::Backup::read(Path::new(&file))
            .map_err(|error| Failure::new(error.message(), error.to_string()))?;
        let report = settings.client.status()?;
        if let Some(why) = backup.foreign_to(report.cluster_id, &report.cluster_name) {
            let why = format!("{file}: {why}");
            return Err(Failure::new(&messages::FOREIGN_CHECKPOINT, why));
        }
        let op = match key {
            None => backup.restore_all(),
            Some(key) => backup.restore_key(key).ok_or_else(|| {
                let why = format!("{file} has no such key");
                Failure::new(&messages::NO_SUCH_KEY, why)
            })?,
        };
        change(&settings, op).map(|_| OK)
    })
}

/// Applies a transaction in the form of `ccdadm apply`, whole or not at all. See `ccd.h` for `request`.
///
/// # Safety
///
/// `text` must be null or readable for `length` bytes; `reason` null or a text; `request` null or readable and writable for
/// `CCD_REQUEST_BYTES`; `applied` null or writable for a `ccd_applied_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_transact(
    handle: *mut c_void,
    text: *const c_char,
    length: usize,
    flags: c_uint,
    reason: *const c_char,
    request: *mut c_char,
    applied: *mut CcdApplied,
) -> c_int {
    call("ccd_transact", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::optional(applied, "applied") }?;
        let settings = handles::find::<Session>(handle)?.settings();
        if flags & !DRY_RUN != 0 {
            return Err(Failure::argument("flags", "has bits that mean nothing"));
        }
        // SAFETY: the caller's promise.
        let (text, reason) = unsafe {
            (
                arguments::bytes(text, length, RECORD_BYTES_MAX, "text")?,
                arguments::optional_text(reason, PATH_BYTES_MAX, "reason")?,
            )
        };
        let database::Transaction { preconditions, ops } = database::Transaction::parse(&text)
            .map_err(|error| Failure::new(&messages::TRANSACTION_BAD, error.to_string()))?;
        // SAFETY: the caller's promise.
        let (request_place, given) = unsafe { RequestPlace::new(request, "request") }?;
        let id: RequestId = match given {
            Some(given) => given
                .parse()
                .map_err(|_| Failure::argument("request", "holds no request id"))?,
            None => settings.client.new_request(),
        };
        // Before anything is sent: a program that keeps it in memory that outlives it may crash from here on.
        request_place.store(&id.to_string());
        let transaction = Transaction {
            preconditions,
            reason,
            no_wait: settings.no_wait,
            no_sync: settings.no_sync,
            dry_run: flags & DRY_RUN != 0,
            ..Transaction::of(ops)
        };
        place.store(outcome(settings.client.update_as(id, transaction)?));
        Ok(OK)
    })
}

/// One operation, whole or not at all.
fn change(settings: &Settings, op: Op) -> Result<CcdApplied, Failure> {
    let transaction = Transaction {
        no_wait: settings.no_wait,
        no_sync: settings.no_sync,
        ..Transaction::of(vec![op])
    };
    Ok(outcome(settings.client.update(transaction)?))
}

fn outcome(applied: Applied) -> CcdApplied {
    let count = |removed: u64| i64::try_from(removed).unwrap_or(i64::MAX);
    match applied {
        Applied::Committed { generation, removed } => CcdApplied {
            generation: generation.0,
            removed: removed.map_or(NOT_KNOWN, count),
        },
        Applied::WouldApply { removed } => CcdApplied {
            generation: 0,
            removed: count(removed),
        },
    }
}
