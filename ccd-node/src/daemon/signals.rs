//! Signals, as words to the event loop. A task of its own waits for them, so that the loop looks at one inlet and not at
//! each signal after every update.

use crate::outlet::{self, Bell};
use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Words that wait for the loop. Each is acted upon at once, and a signal that comes meanwhile stays pending.
const WAITING_MAX: usize = 4;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// SIGTERM, SIGINT: leave the cluster and end.
    Leave,
    /// SIGHUP: read again what may change while it runs.
    Reload,
}

/// Takes these signals over from now on. Call inside the runtime.
///
/// # Errors
/// When the system does not let it.
pub fn listen(bell: &Bell) -> io::Result<mpsc::Receiver<Word>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (words, inlet) = outlet::channel(WAITING_MAX, bell);
    tokio::task::spawn_local(async move {
        loop {
            let word = tokio::select! {
                Some(()) = terminate.recv() => Word::Leave,
                Some(()) = interrupt.recv() => Word::Leave,
                Some(()) = hang_up.recv() => Word::Reload,
                else => return,
            };
            if words.send(word).await.is_err() {
                // The loop has ended.
                return;
            }
        }
    });
    Ok(inlet)
}
