//! Updates that take long to work out, beside the event loop: one thread, one after the other, in the order in which the node asks.
//!
//! A node asks for one as master and one as member at a time, so little ever waits. What is worked out is dropped here as well, if
//! it is the last of an old version.

use crate::outlet::Bell;
use ccd_client::Exit;
use ccd_core::protocol::{Event, Ticket, Work};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use tokio::sync::mpsc;

/// How much of an update the event loop works out itself, in values that are compared (an operation counts as eight): some
/// two milliseconds, or two thousand operations.
pub const LOOP_BUDGET: u64 = 16_384;

/// The loop's side. The thread ends with it.
#[derive(Debug)]
pub struct Works {
    to_thread: std_mpsc::Sender<(Ticket, Work)>,
}

impl Works {
    /// Starts the thread. What it has worked out comes through the channel.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(bell: &Bell) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let (to_thread, works) = std_mpsc::channel::<(Ticket, Work)>();
        let (done, inlet) = mpsc::unbounded_channel();
        let bell = bell.clone();
        let run = move || {
            while let Ok((ticket, work)) = works.recv() {
                let Ok(worked) = catch_unwind(AssertUnwindSafe(|| work.run())) else {
                    // The node would wait for it for ever, and large updates with it.
                    tracing::error!("an update could not be worked out (see above): ccdd ends");
                    std::process::exit(Exit::Internal.code().into());
                };
                if done.send(Event::Worked { ticket, worked }).is_err() {
                    return;
                }
                bell.notify_one();
            }
        };
        std::thread::Builder::new()
            .name("ccdd-update".to_owned())
            .spawn(run)?;
        Ok((Self { to_thread }, inlet))
    }

    pub fn begin(&self, ticket: Ticket, work: Work) {
        // The thread ends with this side only.
        let _ = self.to_thread.send((ticket, work));
    }
}
