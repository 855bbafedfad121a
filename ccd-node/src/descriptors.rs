//! How many descriptors this process may have: raised once, for whoever shares them out (clients, watchers).

use crate::startup::StartupError;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// As many as clients and watchers can take together, and the daemon's own besides.
const WANTED: u64 = 65_536;
/// What a process usually has, and what is assumed if it cannot be asked.
const USUAL: u64 = 1024;

/// A daemon that serves nobody yet has some forty: replicas, threads' wake-ups, sockets, its history.
const NEEDED: usize = 64;

/// Raises the limit, and checks that there are as many as the daemon itself needs.
///
/// # Errors
/// When there are fewer.
pub fn check() -> Result<(), StartupError> {
    let limit = raise();
    if limit < NEEDED {
        return Err(StartupError::configuration(format!(
            "this process may open {limit} files, and needs {NEEDED} at least: raise LimitNOFILE= in the unit (`systemctl edit \
             ccdd`), or the hard limit (`ulimit -Hn`) of the shell that starts it"
        )));
    }
    Ok(())
}

/// Lets this process have as many as it may, and returns how many that are. Without it a service manager gives a thousand, for
/// programs that use select(). Asked again, it changes nothing.
pub fn raise() -> usize {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_else(|error| {
        tracing::warn!(%error, "how many descriptors there are cannot be asked");
        (USUAL, USUAL)
    });
    let wanted = hard.min(WANTED).max(soft);
    let got = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::debug!(%error, "the limit on descriptors stays");
            soft
        }
    };
    usize::try_from(got).unwrap_or(usize::MAX)
}
