//! The thread that starts all guests of a test process.
//!
//! The kernel can kill a process when the *thread* that started it ends. Tests have threads of their own that end with the test, while
//! guests are shared by tests: so one thread starts them all, and ends with the process only, however that ends.

use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// No guest lives longer: a test that hangs leaves nothing behind.
const LIFE: Duration = Duration::from_secs(15 * 60);

type Started = std::io::Result<Child>;

/// A process that dies with the test, or when it is dropped.
#[derive(Debug)]
pub struct Kept {
    child: Arc<Mutex<Child>>,
}

/// Starts it.
///
/// # Panics
/// When it cannot be started.
pub fn keep(command: Command) -> Kept {
    static KEEPER: OnceLock<Sender<(Command, Sender<Started>)>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (asks, asked) = channel::<(Command, Sender<Started>)>();
        std::thread::spawn(move || {
            for (mut command, answer) in asked {
                // Whoever asked waits for it.
                let _ = answer.send(command.spawn());
            }
        });
        asks
    });
    let name = format!("{:?}", command.get_program());
    let (answer, answered) = channel();
    keeper.send((command, answer)).expect("the keeper does not end");
    let child = answered.recv().expect("the keeper answers");
    let child = child.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
    let child = Arc::new(Mutex::new(child));
    let watched = Arc::downgrade(&child);
    let deadline = Instant::now() + LIFE;
    std::thread::spawn(move || {
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_secs(1));
            if watched.strong_count() == 0 {
                return;
            }
        }
        if let Some(child) = watched.upgrade() {
            eprintln!("a guest has lived for {} s, and is killed", LIFE.as_secs());
            end(&child);
        }
    });
    Kept { child }
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

impl Kept {
    pub fn has_ended(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(child.try_wait(), Ok(None))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        end(&self.child);
    }
}
