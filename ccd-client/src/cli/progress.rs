//! A line that says that work goes on, and for how long: on a terminal, when it takes longer than a second.
//!
//! Always holds: it is on standard error, there is none without a terminal or with `--quiet`, and it is gone when the work ends.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Work that is done sooner shows nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the line is written anew.
const STEP: Duration = Duration::from_millis(200);

const MARKS: [char; 4] = ['|', '/', '-', '\\'];

/// Shows the line as long as it lives.
#[derive(Debug)]
pub(super) struct Progress {
    /// Dropped: the work has ended.
    working: Option<Sender<()>>,
    shower: Option<JoinHandle<()>>,
}

impl Progress {
    /// `doing` completes "cannot …", as for errors.
    pub fn of(doing: &str, is_wanted: bool) -> Self {
        let mut progress = Self {
            working: None,
            shower: None,
        };
        if is_wanted && io::stderr().is_terminal() {
            let (working, ended) = channel::<()>();
            let text: String = doing.chars().filter(|c| !c.is_control()).take(60).collect();
            let shower = std::thread::Builder::new()
                .name("progress".into())
                .spawn(move || {
                    let began = Instant::now();
                    let mut wait = PATIENCE;
                    let mut shown = false;
                    for mark in MARKS.iter().cycle() {
                        if ended.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                            break;
                        }
                        wait = STEP;
                        shown = true;
                        show(&line(&text, *mark, began.elapsed()));
                    }
                    if shown {
                        show("\r\x1b[K");
                    }
                });
            // Without a thread, the work is done all the same.
            progress.shower = shower.ok();
            progress.working = Some(working);
        }
        progress
    }
}

fn line(text: &str, mark: char, elapsed: Duration) -> String {
    format!("\r\x1b[K{mark} {text}: {} s", elapsed.as_secs())
}

fn show(text: &str) {
    let mut to = io::stderr();
    // A line that nobody can read is no reason to fail.
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.working.take();
        if let Some(shower) = self.shower.take() {
            // A panic there was printed there.
            let _ = shower.join();
        }
    }
}
