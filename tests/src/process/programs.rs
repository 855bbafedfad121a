//! The programs of this build: where they are, and running one to its end.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the folder with the programs, if they are not beside the test.
pub const PROGRAMS_VARIABLE: &str = "CCD_PROGRAMS";

/// No program that is run to its end may take longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Where the programs of this build are: `cargo test` puts the test into `target/PROFILE/deps`.
///
/// # Panics
/// When they have not been built.
pub fn program(name: &str) -> PathBuf {
    let folder = match std::env::var_os(PROGRAMS_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let test = std::env::current_exe().expect("a process has a program");
            let deps = test.parent().expect("it is in a folder");
            deps.parent().expect("which is in target/PROFILE").to_owned()
        }
    };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there: cargo build --workspace --bins, or set {PROGRAMS_VARIABLE}",
        path.display()
    );
    path
}

/// A program that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    pub line: String,
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Finished {
    /// # Panics
    /// With everything that the program said, if it ended otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "$ {}\n{}{}exit code {}, expected {code}",
            self.line, self.out, self.err, self.code
        );
        self
    }

    #[track_caller]
    pub fn done(self) -> Self {
        self.expect(0)
    }

    /// The form of every error message: what failed and why, and what to try.
    ///
    /// # Panics
    /// If the message is not of that form, or does not say `word`.
    #[track_caller]
    pub fn says(self, word: &str) -> Self {
        assert!(
            self.err.contains(word),
            "$ {}\n{}does not say {word:?}",
            self.line,
            self.err
        );
        self
    }

    /// # Panics
    /// If the message names no next command.
    #[track_caller]
    pub fn says_what_to_try(self) -> Self {
        let has_id = self.err.contains("CCD-");
        let has_action = ["try:", "see ", "give ", "--", "`"]
            .iter()
            .any(|hint| self.err.contains(hint));
        assert!(
            has_id && has_action,
            "$ {}\n{}names no id or no next command",
            self.line,
            self.err
        );
        self
    }

    /// # Panics
    /// If the output does not contain `text`.
    #[track_caller]
    pub fn shows(self, text: &str) -> Self {
        assert!(
            self.out.contains(text),
            "$ {}\n{}does not show {text:?}",
            self.line,
            self.out
        );
        self
    }

    /// # Panics
    /// If it is no JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("$ {}\n{}: {error}", self.line, self.out))
    }

    pub fn rows(&self) -> Vec<&str> {
        self.out.lines().collect()
    }
}

/// Copies a program of the build into a folder, where users without rights can run it; returns where it is. Another process copies it: a
/// child that a test beside this one starts meanwhile would hold it open for writing for a moment, and what is open so cannot be run.
///
/// # Panics
/// When there is no room.
pub fn copy_program(name: &str, folder: &Path) -> PathBuf {
    let copied = folder.join(name);
    let words = [program(name), copied.clone()].map(|path| path.display().to_string());
    run("cp", &words.each_ref().map(String::as_str)).done();
    copied
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started, or takes longer than a minute: it is killed then.
pub fn run(program: impl AsRef<OsStr>, arguments: &[&str]) -> Finished {
    run_command(&mut command(program, arguments))
}

pub fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "CCD_ETC",
        "CCD_STATE",
        "CCD_RUN",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
    ] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// # Panics
/// As [`run`].
pub fn run_command(command: &mut Command) -> Finished {
    let line = line_of(command);
    let started = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("$ {line}\ncannot be started: {error}"));
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (out, err) = std::thread::scope(|scope| {
        let out = scope.spawn(|| read(out.as_mut().expect("it is a pipe")));
        let err = scope.spawn(|| read(err.as_mut().expect("it is a pipe")));
        while child.try_wait().expect("it is our child").is_none() {
            if started.elapsed() > DEADLINE {
                child.kill().expect("it is our child");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        (
            out.join().expect("reading is safe"),
            err.join().expect("reading is safe"),
        )
    });
    let status = child.wait().expect("it is our child");
    let took = started.elapsed();
    let code = status.code().unwrap_or(-1);
    assert!(
        took < DEADLINE,
        "$ {line}\n{out}{err}killed after {} s",
        DEADLINE.as_secs()
    );
    Finished {
        line,
        code,
        out,
        err,
        took,
    }
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
