//! Running the programs, and what is expected of what they say.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Panics, showing everything, unless the program ended so.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "no {text:?} in {self:#?}"
        );
        self
    }

    /// An error has an id, what failed, why, and what to try.
    #[track_caller]
    pub fn expect_error(self, code: i32, id: &str, text: &str) -> Self {
        let ran = self.expect(code).says(text);
        assert!(
            ran.stderr.contains(&format!(": {id}: cannot ")),
            "no {id} in {ran:#?}"
        );
        assert!(ran.stderr.contains("\ntry: "), "nothing to try in {ran:#?}");
        ran
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:#?}"))
    }
}

/// Runs a program with all three folders in `folder`, and `input` on standard input.
pub fn run(program: &str, folder: Option<&Path>, args: &[&str], input: &str) -> Ran {
    let path = match program {
        "ccdadm" => env!("CARGO_BIN_EXE_ccdadm"),
        _ => env!("CARGO_BIN_EXE_ccdctl"),
    };
    let mut command = Command::new(path);
    for name in ["CCD_ETC", "CCD_STATE", "CCD_RUN"] {
        match folder {
            Some(folder) => command.env(name, folder),
            None => command.env_remove(name),
        };
    }
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that reads no input may be gone already.
    let _ = child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(input.as_bytes());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    Ran {
        code: status.code().expect("it was not killed"),
        stdout: String::from_utf8(stdout).expect("it writes UTF-8"),
        stderr: String::from_utf8(stderr).expect("it writes UTF-8"),
    }
}
