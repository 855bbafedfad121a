//! `ccdd demo`: a whole two-node cluster on files, for somebody who has never seen one.
//!
//! ```text
//! story.rs    what is shown, and what each step must show
//! stage.rs    the folder, the two daemons, and their end
//! shell.rs    a command: printed, run, its output printed and checked
//! ```
//!
//! Needs nothing but this program: the others are links to it. No root, no device; about half a minute.

mod shell;
mod stage;
mod story;

use ccd_client::Exit;
use stage::Stage;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why the demo ended before its end.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("interrupted")]
    Interrupted,
    #[error("expected {expected}\n        got {got}")]
    Unexpected { expected: String, got: String },
    #[error("{what}: {source}")]
    System { what: String, source: std::io::Error },
}

impl Trouble {
    fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

/// Runs the demo; 0 only if every step showed what it must.
pub fn run(keep: bool) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    if let Err(error) = watch_for_interrupt(interrupted.clone()) {
        eprintln!("ccdd demo: cannot receive signals: {error}");
        return Exit::Internal.into();
    }
    let mut stage = match Stage::set(interrupted, keep) {
        Ok(stage) => stage,
        Err(trouble) => {
            eprintln!("ccdd demo: cannot begin: {trouble}");
            return Exit::CannotCreate.into();
        }
    };
    match story::tell(&mut stage) {
        Ok(()) => {
            if keep {
                stage.keep();
            }
            Exit::Done.into()
        }
        Err(trouble) => {
            eprintln!("\nFAILED  {trouble}");
            if !matches!(trouble, Trouble::Interrupted) {
                stage.print_logs();
            }
            Exit::No.into()
        }
    }
}

/// Ctrl-C ends the demo between two moments, so that it can clean up.
fn watch_for_interrupt(interrupted: Arc<AtomicBool>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("demo-interrupt".into())
        .spawn(move || {
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut interrupt), Ok(mut terminate)) =
                    (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
                else {
                    return;
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                interrupted.store(true, Ordering::Relaxed);
            });
        })?;
    Ok(())
}
