//! Tests only: `ccd.h` says what the library does.

use crate::arguments::{REQUEST_BYTES, TEXT_BYTES_MAX};
use crate::news::{CcdEffect, CcdNews, effect, kind};
use crate::requests::CcdApplied;
use crate::rows::CcdRow;
use crate::session::option;
use crate::watch::{self, CcdMatch};
use ccd_client::messages;
use ccd_core::database::COLUMNS_MAX;
use std::collections::BTreeMap;

const HEADER: &str = include_str!("../ccd.h");

/// `#define NAME VALUE`
fn defines() -> BTreeMap<&'static str, &'static str> {
    let lines = HEADER.lines().filter_map(|line| line.strip_prefix("#define "));
    let words = lines.map(|line| line.split_whitespace());
    words
        .filter_map(|mut words| Some((words.next()?, words.next()?)))
        .collect()
}

/// The code that bears a message's number: `CCD_E_NO_KEY` for 1210.
fn code_of(number: u16) -> Option<&'static str> {
    let number = number.to_string();
    let mut codes = defines().into_iter();
    codes
        .find(|(name, value)| name.starts_with("CCD_E_") && **value == *number)
        .map(|(name, _)| name)
}

#[test]
fn constants_are_those_of_the_library() {
    let defines = defines();
    for (name, value) in [
        ("CCD_OK", crate::boundary::OK.to_string()),
        ("CCD_END", crate::boundary::END.to_string()),
        ("CCD_TEXT_MAX", TEXT_BYTES_MAX.to_string()),
        ("CCD_COLUMNS_MAX", COLUMNS_MAX.to_string()),
        ("CCD_REQUEST_BYTES", REQUEST_BYTES.to_string()),
        ("CCD_TIMEOUT_MS", option::TIMEOUT_MS.to_string()),
        ("CCD_RETRY", option::RETRY.to_string()),
        ("CCD_STALE", option::STALE.to_string()),
        ("CCD_NO_WAIT", option::NO_WAIT.to_string()),
        ("CCD_QUORUM", option::QUORUM.to_string()),
        ("CCD_NO_SYNC", option::NO_SYNC.to_string()),
        ("CCD_WATCH_MAX", watch::MATCHES_MAX.to_string()),
        ("CCD_WATCH_ROWS", format!("{}u", watch::ROWS)),
        ("CCD_NEWS_BEGAN", kind::BEGAN.to_string()),
        ("CCD_NEWS_ROWS", kind::ROWS.to_string()),
        ("CCD_NEWS_ROWS_ANEW", kind::ROWS_ANEW.to_string()),
        ("CCD_NEWS_ROWS_END", kind::ROWS_END.to_string()),
        ("CCD_NEWS_CHANGE", kind::CHANGE.to_string()),
        ("CCD_NEWS_PROGRESS", kind::PROGRESS.to_string()),
        ("CCD_NEWS_MISSED", kind::MISSED.to_string()),
        ("CCD_NEWS_DIVERGED", kind::DIVERGED.to_string()),
        ("CCD_NEWS_AWAY", kind::AWAY.to_string()),
        ("CCD_NEWS_BACK", kind::BACK.to_string()),
        ("CCD_EFFECT_ADDED", effect::ADDED.to_string()),
        ("CCD_EFFECT_REMOVED", effect::REMOVED.to_string()),
        ("CCD_EFFECT_FORMAT_MADE", effect::FORMAT_MADE.to_string()),
        ("CCD_EFFECT_FORMAT_REMOVED", effect::FORMAT_REMOVED.to_string()),
        ("CCD_EFFECT_FORMAT_CHANGED", effect::FORMAT_CHANGED.to_string()),
        ("CCD_EFFECT_MANY", effect::MANY.to_string()),
        ("CCD_INTERFACE", env!("CCD_INTERFACE").to_owned()),
        ("CCD_VERSION", format!("{:?}", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(defines.get(name), Some(&value.as_str()), "{name}");
    }
}

#[test]
fn every_code_is_a_message_and_has_a_number_of_its_own() {
    let defines = defines();
    let codes: Vec<_> = defines
        .iter()
        .filter(|(name, _)| name.starts_with("CCD_E_"))
        .collect();
    assert!(codes.len() > 40);
    for (name, number) in &codes {
        messages::find(number).unwrap_or_else(|| panic!("{name}: there is no message {number}"));
    }
    for (one, other) in [
        ("CCD_E_NO_KEY", messages::NO_SUCH_KEY),
        ("CCD_E_HANDLE", messages::HANDLE_BAD),
        ("CCD_E_ARGUMENT", messages::ARGUMENT_BAD),
        ("CCD_E_UNKNOWN", messages::UNKNOWN),
    ] {
        assert_eq!(code_of(other.id), Some(one));
    }
}

#[test]
fn what_a_request_can_end_in_has_a_code() {
    let last = messages::COMMAND_TIMED_OUT.id;
    for message in messages::ALL {
        if (messages::DAEMON_NOT_REACHABLE.id..=last).contains(&message.id) {
            assert!(code_of(message.id).is_some(), "{message} has no code in ccd.h");
        }
    }
}

#[test]
fn structures_are_laid_out_as_c_does_it() {
    // size_t, pointer, pointer; uint64_t, int64_t: no padding on any 64-bit machine.
    assert_eq!((size_of::<CcdRow>(), align_of::<CcdRow>()), (24, 8));
    assert_eq!((size_of::<CcdApplied>(), align_of::<CcdApplied>()), (16, 8));
    assert_eq!((size_of::<CcdMatch>(), align_of::<CcdMatch>()), (32, 8));
    // An int and four bytes of padding, a pointer, a row.
    assert_eq!((size_of::<CcdEffect>(), align_of::<CcdEffect>()), (40, 8));
    // Two ints, four numbers of 64 bits, two of 32, seven of the size of a pointer.
    assert_eq!((size_of::<CcdNews>(), align_of::<CcdNews>()), (104, 8));
}
