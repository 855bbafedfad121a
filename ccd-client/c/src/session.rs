//! Being attached to the daemon of this machine: `ccd_attach`, `ccd_detach`, `ccd_control`, `ccd_wildchar`.

use crate::arguments::{self, PATH_BYTES_MAX, Place};
use crate::boundary::{Failure, OK, call};
use crate::handles::{self, Held, Kind};
use ccd_client::{Client, Freshness, Places, messages};
use ccd_core::configuration::Quorum;
use ccd_core::database::WILDCARD;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// `ccd_t`: attached, with settings that calls of all threads go by.
#[derive(Debug)]
pub(crate) struct Session(RwLock<Settings>);

/// What one call goes by, from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub client: Client,
    pub wildcard: Option<char>,
    pub freshness: Freshness,
    pub no_wait: bool,
}

/// Options of `ccd_control`, numbered as in `ccd.h`.
pub(crate) mod option {
    use std::ffi::c_int;

    pub(crate) const TIMEOUT_MS: c_int = 1;
    pub(crate) const RETRY: c_int = 2;
    pub(crate) const STALE: c_int = 3;
    pub(crate) const NO_WAIT: c_int = 4;
    pub(crate) const QUORUM: c_int = 5;
}

/// Longest time-out: a day.
const TIMEOUT_MS_MAX: c_long = 24 * 3600 * 1000;

impl Session {
    pub fn settings(&self) -> Settings {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Kind for Session {
    const NAME: &'static str = "ccd_t";

    fn held(this: Arc<Self>) -> Held {
        Held::Session(this)
    }

    fn of(held: &Held) -> Option<&Arc<Self>> {
        match held {
            Held::Session(session) => Some(session),
            _ => None,
        }
    }
}

/// The folders of the environment, or the standard ones; those alone in a program that runs with more rights than whoever
/// started it, whose environment is not to be trusted.
pub(crate) fn places() -> Places {
    // SAFETY: it takes a number and reads what the kernel gave the process.
    let is_privileged = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    if is_privileged {
        Places::standard()
    } else {
        Places::from_env()
    }
}

/// Attaches to the daemon whose sockets are in a folder; null: `CCD_RUN`, or else `/run/ccd`.
///
/// # Safety
///
/// `folder` and `program` must be null or texts, `handle` null or writable for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_attach(
    folder: *const c_char,
    program: *const c_char,
    handle: *mut *mut c_void,
) -> c_int {
    call("ccd_attach", || {
        // SAFETY: the caller's promise.
        let place = unsafe { Place::for_handle(handle, "handle") }?;
        // SAFETY: the caller's promise.
        let folder = unsafe { arguments::optional_path(folder, "folder") }?;
        // SAFETY: the caller's promise.
        let program = unsafe { arguments::optional_text(program, PATH_BYTES_MAX, "program") }?;
        let mut places = places();
        if let Some(folder) = folder {
            places.run = folder;
        }
        let settings = Settings {
            client: Client::attach(&places, &program.unwrap_or_else(this_program))?,
            wildcard: Some(WILDCARD),
            freshness: Freshness::Strict,
            no_wait: false,
        };
        place.store(handles::hold(Session(RwLock::new(settings))));
        Ok(OK)
    })
}

/// As the kernel calls it.
fn this_program() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    match name.trim_end() {
        "" => "libccd".to_owned(),
        name => name.to_owned(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ccd_detach(handle: *mut c_void) -> c_int {
    call("ccd_detach", || handles::release::<Session>(handle).map(|()| OK))
}

/// Sets an option. Only `QUORUM` asks the cluster.
///
/// # Safety
///
/// `cluster` must be null or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ccd_control(
    handle: *mut c_void,
    option: c_int,
    value: c_long,
    cluster: *const c_char,
) -> c_int {
    call("ccd_control", || {
        let session = handles::find::<Session>(handle)?;
        if option == option::TIMEOUT_MS {
            let timeout = parse_timeout(value)?;
            session.change(|settings| settings.client = settings.client.clone().with_timeout(timeout));
            return Ok(OK);
        }
        let is_on = match value {
            0 => false,
            1 => true,
            _ => return Err(Failure::argument("value", "is neither 0 nor 1")),
        };
        match option {
            option::RETRY => {
                session.change(|settings| settings.client = settings.client.clone().with_retry(is_on));
            }
            option::STALE => session.change(|settings| {
                settings.freshness = if is_on {
                    Freshness::Stale
                } else {
                    Freshness::Strict
                };
            }),
            option::NO_WAIT => session.change(|settings| settings.no_wait = is_on),
            option::QUORUM => {
                // SAFETY: the caller's promise.
                let cluster = unsafe { arguments::optional_text(cluster, PATH_BYTES_MAX, "cluster") }?;
                set_quorum(&session.settings().client, is_on, cluster.as_deref())?;
            }
            _ => return Err(Failure::argument("option", "is none that there is")),
        }
        Ok(OK)
    })
}

fn parse_timeout(value: c_long) -> Result<Duration, Failure> {
    u64::try_from(value)
        .ok()
        .filter(|value_ms| (1..=TIMEOUT_MS_MAX.unsigned_abs()).contains(value_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| Failure::argument("value", "is no time-out from 1 ms to a day"))
}

/// Turning quorum off overrides safety: it wants the cluster's name, as on the command line.
fn set_quorum(client: &Client, is_required: bool, cluster: Option<&str>) -> Result<(), Failure> {
    if !is_required || cluster.is_some() {
        let known = client.status()?.cluster_name;
        if cluster != Some(known.as_str()) {
            let given = cluster.map_or_else(
                || "no cluster was named".to_owned(),
                |given| format!("{given:?} was named"),
            );
            let why = format!("{given}, and this cluster has another name");
            return Err(Failure::new(&messages::WRONG_CLUSTER_NAME, why));
        }
    }
    client.set_quorum(if is_required {
        Quorum::Required
    } else {
        Quorum::Waived
    })?;
    Ok(())
}

/// Sets the character that matches any run of characters in patterns; 0: none does (patent: `ccd_wildchar`).
#[unsafe(no_mangle)]
pub extern "C" fn ccd_wildchar(handle: *mut c_void, character: u32) -> c_int {
    call("ccd_wildchar", || {
        let session = handles::find::<Session>(handle)?;
        let wildcard = parse_wildcard(character)?;
        session.change(|settings| settings.wildcard = wildcard);
        Ok(OK)
    })
}

/// A character's number; 0 is none.
pub(crate) fn parse_wildcard(character: u32) -> Result<Option<char>, Failure> {
    match character {
        0 => Ok(None),
        character => match char::from_u32(character) {
            Some(wildcard) => Ok(Some(wildcard)),
            None => Err(Failure::argument("character", "is no Unicode character")),
        },
    }
}
