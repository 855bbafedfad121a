//! CCDLIB for C and whatever can call C: `libccd.so`, described by `ccd.h` and the manual pages of section 3.
//!
//! ```text
//!   boundary     every call runs in it: panics and errors become codes, texts are kept for the thread
//!   arguments    pointers to checked types, and results to pointers: all that trusts the caller is there
//!   handles      the numbers that C holds in place of pointers, and what they stand for
//!     ↑
//!   errors       ccd_perror, ccd_error_detail, ccd_retry_error, ccd_version
//!   rows         ccd_query_next, ccd_free
//!   initial      ccd_attach_static, ccd_detach_static, ccd_query_static, ccd_wildchar_static
//!   session      ccd_attach, ccd_detach, ccd_control, ccd_wildchar
//!   requests     ccd_query, ccd_add_unique, ccd_remove, ccd_format, ccd_remove_fmt, ccd_restore, ccd_transact
//!   news         what comes of a watch, as C sees it
//!   watch        ccd_watch, ccd_watch_fd, ccd_watch_next, ccd_watch_free, ccd_watch_end
//! ```
//!
//! Always holds: no panic leaves a call; a handle is never dereferenced, so a wrong one is an error and no crash; what a
//! pointer must point at is said in `ccd.h`, and what can be checked of it (null, misaligned, in the first page, no end
//! within the bound, not UTF-8) is.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("ccd.h promises 64-bit sizes");

mod arguments;
mod boundary;
mod errors;
mod handles;
mod initial;
mod news;
mod requests;
mod rows;
mod session;
mod watch;

#[cfg(test)]
mod header;
