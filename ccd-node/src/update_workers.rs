//! Updates that take long to work out, beside the event loop: one thread for updates, one after the other, in the order in which the
//! node asks, and one at a low priority for dry runs, which no update waits for.
//!
//! A node asks for one update as master, one as member and one dry run at a time, so little ever waits. What is worked out is dropped
//! here as well, if it is the last of an old version.

use crate::history::be_nice;
use crate::outlet::Bell;
use ccd_client::Exit;
use ccd_core::protocol::{Event, Ticket, Work};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use tokio::sync::mpsc;

/// How much of an update the event loop works out itself, in values that are compared (an operation counts as eight): some
/// two milliseconds, or two thousand operations.
pub const LOOP_BUDGET: u64 = 16_384;

/// The loop's side. The threads end with it.
#[derive(Debug)]
pub struct UpdateWorkers {
    updates: std_mpsc::Sender<(Ticket, Work)>,
    dry_runs: std_mpsc::Sender<(Ticket, Work)>,
}

impl UpdateWorkers {
    /// Starts the threads. What they have worked out comes through the channel.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(bell: &Bell) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let (done, inlet) = mpsc::unbounded_channel();
        let updates = start("ccdd-update", || (), done.clone(), bell.clone())?;
        let dry_runs = start("ccdd-dry-run", be_nice, done, bell.clone())?;
        Ok((Self { updates, dry_runs }, inlet))
    }

    pub fn begin(&self, ticket: Ticket, work: Work) {
        let to_thread = if work.is_dry_run() {
            &self.dry_runs
        } else {
            &self.updates
        };
        // The thread ends with this side only.
        let _ = to_thread.send((ticket, work));
    }
}

fn start(
    name: &str,
    prepare: impl FnOnce() + Send + 'static,
    done: mpsc::UnboundedSender<Event>,
    bell: Bell,
) -> std::io::Result<std_mpsc::Sender<(Ticket, Work)>> {
    let (to_thread, works) = std_mpsc::channel::<(Ticket, Work)>();
    let run = move || {
        prepare();
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
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(to_thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::database::{Database, Key, Op, Pattern, Update, Who};
    use ccd_core::ids::RequestId;
    use ccd_core::protocol::Worked;
    use ccd_core::time::Date;

    fn update(ops: Vec<Op>) -> Update {
        let request = RequestId {
            client: 1,
            sequence: 1,
        };
        Update {
            request,
            who: Who::default(),
            date: Date::default(),
            reason: None,
            preconditions: vec![],
            ops,
        }
    }

    #[tokio::test]
    async fn an_update_is_worked_out_while_dry_runs_that_came_before_it_still_wait() {
        let key = Key::new("K").unwrap();
        let columns = vec![String::from("number")];
        let mut ops = vec![Op::Format {
            key: key.clone(),
            columns,
        }];
        ops.extend((0..20_000).map(|number| {
            Op::Add(ccd_core::database::Row::new(key.clone(), [format!("{number:05}")]).unwrap())
        }));
        let (database, _) = Database::default().admit(&update(ops)).unwrap();
        let removal = Box::new(Update {
            request: RequestId {
                client: 1,
                sequence: 2,
            },
            ..update(vec![Op::Remove(Pattern::positional(key, ["*7*7*"]))])
        });
        let (works, mut inlet) = UpdateWorkers::start(&Bell::default()).unwrap();
        const DRY_RUNS: u64 = 50;
        for ticket in 0..DRY_RUNS {
            let (database, update) = (database.clone(), removal.clone());
            works.begin(Ticket(ticket), Work::DryRun { database, update });
        }
        let update = removal;
        works.begin(Ticket(DRY_RUNS), Work::Admit { database, update });
        let mut before = 0;
        loop {
            match inlet.recv().await.unwrap() {
                Event::Worked {
                    worked: Worked::Admitted(_),
                    ..
                } => break,
                _ => before += 1,
            }
        }
        assert!(before < DRY_RUNS / 2, "it waited for {before} dry runs");
    }
}
