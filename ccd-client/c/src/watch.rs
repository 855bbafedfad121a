//! Watching: `ccd_watch`, `ccd_watch_fd`, `ccd_watch_next`, `ccd_watch_free`, `ccd_watch_end`.
//!
//! Always holds: nobody waits while holding the lock, so any thread may ask for the next event, and each event goes to one of
//! them; what an event points at stays where it is until that event is freed, also after the watch has ended.

use crate::arguments::{self, PATH_BYTES_MAX, Place};
use crate::boundary::{END, Failure, OK, call};
use crate::handles::{self, Held, Kind};
use crate::news::{CcdNews, News};
use crate::requests;
use crate::session::Session;
use ccd_client::{Watch, messages};
use ccd_core::database::Pattern;
use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `CCD_WATCH_MAX`: most keys of one watch.
pub(crate) const MATCHES_MAX: usize = ccd_client::wire::WATCH_PATTERNS_MAX;

/// `CCD_WATCH_ROWS`: the rows that there are come first.
pub(crate) const ROWS: c_uint = 1;

/// A thread that waits looks so often whether another has ended the watch.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// `ccd_match_t`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CcdMatch {
    key: *const c_char,
    columns: *const *const c_char,
    patterns: *const *const c_char,
    count: usize,
}

/// `ccd_watch_t`
#[derive(Debug)]
pub(crate) struct Watching {
    watch: Mutex<Watch>,
    /// The same for as long as this lives.
    descriptor: RawFd,
    ended: AtomicBool,
}

impl Kind for Watching {
    const NAME: &'static str = "ccd_watch_t";

    fn held(this: Arc<Self>) -> Held {
        Held::Watching(this)
    }

    fn of(held: &Held) -> Option<&Arc<Self>> {
        match held {
            Held::Watching(watching) => Some(watching),
            _ => None,
        }
    }
}

impl Watching {
    /// The next event; none if there is none within the time. No time: however long it takes.
    fn next(&self, timeout: Option<Duration>) -> Result<Option<News>, Failure> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if self.ended.load(Ordering::Acquire) {
                return Err(Failure::new(
                    &messages::HANDLE_BAD,
                    "another thread has ended the watch",
                ));
            }
            let event = self.watch.lock().unwrap_or_else(PoisonError::into_inner).poll()?;
            if let Some(event) = event {
                return Ok(Some(News::of(event)));
            }
            let left = deadline.map_or(LOOK_EVERY, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(None);
            }
            self.wait(left.min(LOOK_EVERY));
        }
    }

    fn wait(&self, time: Duration) {
        let mut descriptor = libc::pollfd {
            fd: self.descriptor,
            events: libc::POLLIN,
            revents: 0,
        };
        let millis = c_int::try_from(time.as_millis() + 1).unwrap_or(c_int::MAX);
        // SAFETY: it is one pollfd. The descriptor is that of the watch in `self`, which lives. How the wait ended does not
        // matter: the caller looks.
        unsafe { libc::poll(&mut descriptor, 1, millis) };
    }
}

/// The keys to watch, each with its patterns.
///
/// # Safety
///
/// `matches` must be null or readable for `count` elements, whose members are as `ccd_query` wants them.
unsafe fn patterns(
    matches: *const CcdMatch,
    count: usize,
    wildcard: Option<char>,
) -> Result<Vec<Pattern>, Failure> {
    if count > MATCHES_MAX {
        let why = format!("has {count} elements; a watch has at most {MATCHES_MAX}");
        return Err(Failure::argument("matches", &why));
    }
    // SAFETY: the caller's promise.
    let matches = unsafe { arguments::array(matches, count, "matches") }?;
    matches
        .iter()
        .map(|one| {
            // SAFETY: the caller's promise.
            unsafe { requests::pattern(one.key, one.columns, one.patterns, one.count, wildcard) }
        })
        .collect()
}

/// Begins to watch.
///
/// # Safety
///
/// `matches` must be null or readable for `count` elements as `ccd.h` describes them; `from` null or a text; `watch` null or
/// writable for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_watch(
    handle: *mut c_void,
    matches: *const CcdMatch,
    count: usize,
    from: *const c_char,
    flags: c_uint,
    watch: *mut *mut c_void,
) -> c_int {
    call("ccd_watch", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::for_handle(watch, "watch") }?;
        let settings = handles::find::<Session>(handle)?.settings();
        // SAFETY: the caller's promise.
        let patterns = unsafe { patterns(matches, count, settings.wildcard) }?;
        // SAFETY: the caller's promise.
        let from = unsafe { arguments::optional_text(from, PATH_BYTES_MAX, "from") }?;
        if flags & !ROWS != 0 {
            return Err(Failure::argument("flags", "has bits that mean nothing"));
        }
        let mut builder = settings.client.watch();
        for pattern in patterns {
            builder = builder.pattern(pattern);
        }
        builder = match (from, flags & ROWS != 0) {
            (None, false) => builder,
            (None, true) => builder.with_rows(),
            (Some(_), true) => {
                return Err(Failure::argument("from", "is given, and the rows of now as well"));
            }
            (Some(from), false) => {
                let parsed = from.parse();
                builder.from(
                    parsed.map_err(|_| Failure::argument("from", "is neither a generation nor a place"))?,
                )
            }
        };
        let watch = builder.start()?;
        place.store(handles::hold(Watching {
            descriptor: watch.descriptor().as_raw_fd(),
            watch: Mutex::new(watch),
            ended: AtomicBool::new(false),
        }));
        Ok(OK)
    })
}

/// The descriptor that is readable when there may be an event.
///
/// # Safety
///
/// `descriptor` must be null or writable for an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_watch_fd(watch: *mut c_void, descriptor: *mut c_int) -> c_int {
    call("ccd_watch_fd", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::required(descriptor, "descriptor") }?;
        place.store(handles::find::<Watching>(watch)?.descriptor);
        Ok(OK)
    })
}

/// The next event; [`END`] if there is none within the time.
///
/// # Safety
///
/// `news` must be null or writable for a `ccd_news_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_watch_next(watch: *mut c_void, timeout_ms: c_long, news: *mut CcdNews) -> c_int {
    call("ccd_watch_next", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::required(news, "news") }?;
        let watching = handles::find::<Watching>(watch)?;
        let timeout = match timeout_ms {
            -1 => None,
            millis => Some(Duration::from_millis(u64::try_from(millis).map_err(|_| {
                Failure::argument("timeout_ms", "is neither -1 nor a number of milliseconds")
            })?)),
        };
        let Some(event) = watching.next(timeout)? else {
            return Ok(END);
        };
        let event = Arc::new(event);
        let mut shown = event.as_c();
        shown.held = handles::hold_shared(event);
        place.store(shown);
        Ok(OK)
    })
}

/// Frees what an event points at. It is all zeros then, and freeing it again is fine.
///
/// # Safety
///
/// `news` must be null or be one that `ccd_watch_next` has stored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_watch_free(news: *mut CcdNews) -> c_int {
    call("ccd_watch_free", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::required(news, "news") }?;
        // SAFETY: the caller's promise; it was just found to be an address.
        let held = unsafe { (*news).held };
        if !held.is_null() {
            handles::release::<News>(held)?;
        }
        place.store(CcdNews::NONE);
        Ok(OK)
    })
}

/// Ends a watch. Threads that wait for its next event hear that it is gone.
#[unsafe(no_mangle)]
pub extern "C" fn ccd_watch_end(watch: *mut c_void) -> c_int {
    call("ccd_watch_end", || {
        let watching = handles::find::<Watching>(watch)?;
        handles::release::<Watching>(watch)?;
        watching.ended.store(true, Ordering::Release);
        Ok(OK)
    })
}
