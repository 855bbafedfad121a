//! QEMU's monitor: one command at a time, as JSON lines over a Unix socket.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers at once, or it hangs.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// `None` while nobody listens there.
    ///
    /// # Panics
    /// When something other than QEMU's monitor answers.
    pub fn connect(path: &Path) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("the time is not zero");
        let mut qmp = Self {
            lines: BufReader::new(stream),
        };
        let greeting = qmp.next();
        assert!(greeting["QMP"].is_object(), "{greeting} is no greeting of QEMU");
        qmp.execute("qmp_capabilities", &json!({}));
        Some(qmp)
    }

    /// Runs a command, and returns what it returned.
    ///
    /// # Panics
    /// When QEMU refuses it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.send(command, arguments);
        loop {
            let answer = self.next();
            if !answer["return"].is_null() {
                return answer["return"].clone();
            }
            assert!(answer["error"].is_null(), "QEMU refuses {command}: {answer}");
            // Whatever else it says are events.
        }
    }

    /// Sends a command that QEMU may not live to answer.
    pub fn send(&mut self, command: &str, arguments: &Value) {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        let sent = self.lines.get_mut().write_all(line.as_bytes());
        sent.unwrap_or_else(|error| panic!("QEMU does not take {command}: {error}"));
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        read.unwrap_or_else(|error| panic!("QEMU's monitor does not answer: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("QEMU says {line:?}: {error}"))
    }
}
