//! Errors as texts, and which of them pass: `ccd_perror`, `ccd_error_detail`, `ccd_retry_error`, `ccd_version`.

use crate::boundary::{END, OK, last_failure};
use ccd_client::messages;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::OnceLock;

const DONE: &CStr = c"done";
const NO_MORE: &CStr = c"there is no further row";
const NO_CODE: &CStr = c"this is no code of libccd";

/// Code and text of every entry of the catalogue, by code.
fn texts() -> &'static [(c_int, CString)] {
    static TEXTS: OnceLock<Vec<(c_int, CString)>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let text = |message: &&messages::Message| {
            let text = format!(
                "{message}: {} {} Try: {}",
                message.cause, message.effect, message.action
            );
            (c_int::from(message.id), CString::new(text).unwrap_or_default())
        };
        messages::ALL.iter().map(text).collect()
    })
}

/// What a code means (patent: `ccd_perror`). Never null; stays valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn ccd_perror(error: c_int) -> *const c_char {
    let text = match error {
        OK => DONE,
        END => NO_MORE,
        error => match texts().binary_search_by_key(&error, |(code, _)| *code) {
            Ok(index) => &texts()[index].1,
            Err(_) => NO_CODE,
        },
    };
    text.as_ptr()
}

/// What failed in this thread's last call that failed, on what and why. Never null; valid until the thread's next failure.
#[unsafe(no_mangle)]
pub extern "C" fn ccd_error_detail() -> *const c_char {
    last_failure()
}

/// 1 if the same call may succeed a moment later and repeating it is safe, 0 if not (patent: `ccd_retry_error`).
#[unsafe(no_mangle)]
pub extern "C" fn ccd_retry_error(error: c_int) -> c_int {
    let known = messages::ALL
        .iter()
        .find(|message| c_int::from(message.id) == error);
    c_int::from(known.is_some_and(|message| message.is_worth_retrying()))
}

/// The library's release.
#[unsafe(no_mangle)]
pub extern "C" fn ccd_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL in it"),
        };
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perror(error: c_int) -> String {
        // SAFETY: the texts are never freed.
        let text = unsafe { CStr::from_ptr(ccd_perror(error)) };
        text.to_str().expect("it is UTF-8").to_owned()
    }

    #[test]
    fn every_code_has_its_text() {
        for message in messages::ALL {
            let text = perror(message.id.into());
            assert!(
                text.starts_with(&format!("{message}: {}", message.cause)),
                "{text}"
            );
            assert!(text.ends_with(message.action), "{text}");
        }
        assert_eq!(perror(0), "done");
        assert_eq!(perror(1), "there is no further row");
        for unknown in [-1, 2, 999, 9999, c_int::MAX, c_int::MIN] {
            assert_eq!(perror(unknown), "this is no code of libccd");
        }
    }

    #[test]
    fn what_passes_is_worth_a_retry() {
        for (error, worth) in [
            (0, 0),
            (1, 0),
            (1101, 1),
            (1102, 0),
            (1105, 1),
            (1203, 1),
            (1206, 0),
            (1212, 0),
            (-7, 0),
        ] {
            assert_eq!(ccd_retry_error(error), worth, "{error}");
        }
    }
}
