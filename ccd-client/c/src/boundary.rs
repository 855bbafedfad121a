//! What every call runs in. Called by all modules that export calls.
//!
//! Always holds: a call returns a code, whatever happens in it; the text of a thread's last failure stays where it is
//! until a call of the same thread fails again.

use ccd_client::CcdError;
use ccd_client::messages::{self, Message};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) const OK: c_int = 0;
/// `CCD_END`: there is no further row.
pub(crate) const END: c_int = 1;

/// Why a call was not done.
#[derive(Debug)]
pub(crate) struct Failure {
    pub message: &'static Message,
    /// What, on what, why.
    pub text: String,
}

impl Failure {
    pub fn new(message: &'static Message, text: impl Into<String>) -> Self {
        Self {
            message,
            text: text.into(),
        }
    }

    /// A wrong argument; `name` as the header has it.
    pub fn argument(name: &str, why: &str) -> Self {
        Self::new(&messages::ARGUMENT_BAD, format!("{name} {why}"))
    }

    pub fn code(&self) -> c_int {
        c_int::from(self.message.id)
    }
}

impl From<CcdError> for Failure {
    fn from(error: CcdError) -> Self {
        Self::new(error.message(), error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs a call's body: its code, or that of its failure, whose text is kept.
pub(crate) fn call(name: &str, body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    // What a panic may have left half done is behind locks that no panic breaks, or belonged to this call alone.
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(Failure::new(&messages::INTERNAL, text.unwrap_or_default()))
    });
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            keep(name, &failure);
            failure.code()
        }
    }
}

fn keep(name: &str, failure: &Failure) {
    let text = format!("{}: {name}: {}", failure.message, failure.text).replace('\0', "\\0");
    let text = CString::new(text).unwrap_or_default();
    // A thread that is ending has nobody left to read it.
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
}

/// The text of this thread's last failure; empty if there was none. Valid until the next one.
pub(crate) fn last_failure() -> *const c_char {
    const NONE: &CStr = c"";
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(NONE.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> String {
        LAST.with(|last| last.borrow().to_str().expect("it was UTF-8").to_owned())
    }

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let code = call("ccd_query", || panic!("row {}\0", 7));
        assert_eq!(code, c_int::from(messages::INTERNAL.id));
        assert_eq!(kept(), "CCD-1004: ccd_query: row 7\\0");
        assert_eq!(call("ccd_query", || panic!("plain")), 1004);
        assert_eq!(kept(), "CCD-1004: ccd_query: plain");
        assert_eq!(call("ccd_query", || std::panic::panic_any(7)), 1004);
    }

    #[test]
    fn the_text_of_a_failure_outlives_what_went_well() {
        let failed = || Err(Failure::argument("key", "is null"));
        assert_eq!(call("ccd_query", failed), 1040);
        assert_eq!(call("ccd_query", || Ok(END)), END);
        assert_eq!(kept(), "CCD-1040: ccd_query: key is null");
        let other = std::thread::spawn(kept).join().expect("it does not panic");
        assert_eq!(other, "", "another thread's failures are its own");
    }
}
