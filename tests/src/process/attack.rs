//! An attack on a daemon's socket, by a script that runs as some user until it is told to end.

use super::users::{Door, User};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

/// A running attack. Killed when it is dropped.
#[derive(Debug)]
pub struct Attack {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Attack {
    /// Runs a Python script with the socket's path and these words; it says `ready` once it is at work.
    pub fn start(door: &Door, who: User<'_>, script: &str, socket: &Path, words: &[&str]) -> Self {
        let socket = socket.to_str().expect("the path is ours");
        let words = [&["-c", script, socket], words].concat();
        let mut command = door.command(who, "python3", &words);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("python3 is there");
        let says = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut attack = Self { child, says };
        assert_eq!(attack.line(), "ready", "{words:?}");
        attack
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("it says text");
        line.trim_end().to_owned()
    }

    /// Ends it. Returns what it says of itself.
    pub fn end(mut self) -> String {
        drop(self.child.stdin.take());
        self.line()
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
