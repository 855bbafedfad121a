//! The log, which goes to standard error: a line each, with its time; or, where systemd's journal takes it, with its priority in the form of
//! `sd-daemon(3)`, which the journal takes off again.

use std::io::{self, Stderr, Write};
use std::os::unix::fs::MetadataExt;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Begins to log what `CCD_LOG` says, or everything from `info` on.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_env("CCD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say so on standard error, which cannot be written, and end the thread.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_target(false);
    if is_journal() {
        // The journal adds the time, and keeps the level as the priority.
        log.without_time()
            .with_level(false)
            .with_writer(Priorities)
            .init();
    } else {
        log.with_writer(io::stderr).init();
    }
}

/// Says why the daemon ends, or does not start.
pub fn failure(text: &str) {
    let text = format!("ccdd: {text}\n");
    let line = if is_journal() {
        with_priority(priority(Level::ERROR), text.as_bytes())
    } else {
        text.into_bytes()
    };
    // There is nobody else to tell.
    let _ = io::stderr().write_all(&line);
}

/// Standard error is what systemd's journal reads, as `systemd.exec(5)` says how to find out.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let place = |metadata: std::fs::Metadata| format!("{}:{}", metadata.dev(), metadata.ino());
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|metadata| place(metadata) == stream)
}

/// Puts the priority before each line.
struct Priorities;

struct Line {
    priority: &'static str,
    stderr: Stderr,
}

impl MakeWriter<'_> for Priorities {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        line(Level::INFO)
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> Line {
        line(*metadata.level())
    }
}

fn line(level: Level) -> Line {
    Line {
        priority: priority(level),
        stderr: io::stderr(),
    }
}

/// The numbers of `syslog(3)`.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

impl Write for Line {
    /// All of an event comes at once; each line of it is one of the journal.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stderr.write_all(&with_priority(self.priority, bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stderr.flush()
    }
}

fn with_priority(priority: &str, bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines
        .flat_map(|line| [priority.as_bytes(), line].concat())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_priority() {
        assert_eq!(
            with_priority(priority(Level::WARN), b"one\n two\n"),
            b"<4>one\n<4> two\n"
        );
        assert_eq!(with_priority("<6>", b""), b"");
    }
}
