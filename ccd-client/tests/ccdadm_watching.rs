//! What is shown on a terminal and in a pipe: `ccdadm status --watch`, `--picture`, and that long work goes on.

mod support;

use ccd_core::problem::{Cause, Problem};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Fake, Trick};

/// A watch that has not done something after so long will not do it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a terminal is told when the screen that the view was drawn on goes.
const SCREEN_LEFT: &str = "\x1b[?1049l";

fn ccdadm(fake: &Fake, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ccdadm"));
    for name in ["CCD_ETC", "CCD_STATE", "CCD_RUN"] {
        command.env(name, fake.folder.path());
    }
    command.env("LC_ALL", "C.UTF-8").args(words);
    command
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"))
}

/// A watch on a terminal of its own.
struct OnTerminal {
    child: Child,
    terminal: File,
    seen: String,
}

impl OnTerminal {
    fn start(fake: &Fake) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        let copy = || Stdio::from(slave.try_clone().expect("a copy"));
        let child = ccdadm(fake, &["status", "--watch", "--interval", "100ms"])
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .expect("the program starts");
        Self {
            child,
            terminal: File::from(master),
            seen: String::new(),
        }
    }

    /// Reads what is drawn until it has the text.
    fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            assert!(began.elapsed() < PATIENCE, "no {text:?} in {:?}", self.seen);
            // The other end goes with the program, and reading then fails.
            match self.terminal.read(&mut bytes) {
                Ok(count) => self.seen += &String::from_utf8_lossy(&bytes[..count]),
                Err(error) => panic!("{error}: no {text:?} in {:?}", self.seen),
            }
        }
    }

    fn end(mut self) -> i32 {
        self.wait_for(SCREEN_LEFT);
        self.child
            .wait()
            .expect("it ends")
            .code()
            .expect("it was not killed")
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // One that ended is no more to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_live_view_is_left_by_q_and_by_signals_with_the_terminal_as_it_was() {
    let fake = Fake::start();
    let mut view = OnTerminal::start(&fake);
    for text in ["all redundant", "clients", "alpha", "1997-04-16", "q quits"] {
        view.wait_for(text);
    }
    view.terminal.write_all(b"q").expect("a key is pressed");
    assert_eq!(view.end(), 0);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut view = OnTerminal::start(&fake);
        view.wait_for("q quits");
        kill(pid(&view.child), signal).expect("it runs");
        assert_eq!(view.end(), 0, "{signal}");
    }
}

#[test]
fn a_live_view_outlives_its_daemon_and_says_that_it_is_gone() {
    let fake = Fake::start();
    let mut view = OnTerminal::start(&fake);
    view.wait_for("q quits");
    fake.stop();
    view.wait_for("CCD-1101");
    view.terminal.write_all(b"q").expect("a key is pressed");
    assert_eq!(view.end(), 69);
}

#[test]
fn in_a_pipe_the_status_is_printed_at_each_change_and_at_no_update() {
    let fake = Fake::start();
    let mut child = ccdadm(&fake, &["status", "--watch", "--interval", "20ms"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut verdict = || loop {
        let line = lines.next().expect("it goes on").expect("it is text");
        if line.starts_with("prod: ") {
            return line;
        }
    };
    assert_eq!(verdict(), "prod: serving, all redundant");
    // Updates alone are no news.
    fake.ccdadm(&["format", "KEY", "a"]).expect(0);
    fake.with(|state| state.status.status.position.stamp.generation.0 += 1);
    fake.with(|state| {
        state.status.status.devices[1].in_sync = false;
        state.status.status.problems = vec![Problem::new(Cause::DeviceOut, "without the secondary")];
    });
    assert_eq!(
        verdict(),
        "prod: serving, degraded: without the secondary; queries and updates work, and would go on after any single loss"
    );
    kill(pid(&child), Signal::SIGTERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn a_picture_is_drawn_on_request_and_where_no_terminal_is_it_is_left_out() {
    let fake = Fake::start();
    let arrow = "├───▶ beta       serving      10.0.0.2:5640 up, 1 of 2 links up";
    let plain = fake.ccdadm(&["status"]).expect(0);
    assert!(!plain.stdout.contains("clients"), "{plain:#?}");
    let output = ccdadm(&fake, &["status", "--picture"]).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("it is text");
    assert!(text.starts_with("prod: serving, all redundant\n"), "{text}");
    assert!(text.contains(arrow), "{text}");
    let output = ccdadm(&fake, &["status", "--picture", "always"])
        .env("LC_ALL", "C")
        .output();
    let text = String::from_utf8(output.expect("it runs").stdout).expect("it is text");
    assert!(text.is_ascii() && text.contains("+---> beta"), "{text}");
    fake.ccdadm(&["status", "--picture", "sometimes"]).expect(64);
    fake.ccdadm(&["status", "--interval", "5s"])
        .expect(64)
        .says("--watch");
}

/// What a terminal shows of a verb whose daemon does not answer.
fn hanging(words: &[&str]) -> String {
    let fake = Fake::start();
    fake.trick(Trick::Hang);
    let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
    let mut child = ccdadm(&fake, words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(slave))
        .spawn()
        .expect("the program starts");
    let mut seen = Vec::new();
    // Ends with an error when nobody has the other end any more.
    let _ = File::from(master).read_to_end(&mut seen);
    assert_eq!(child.wait().expect("it ends").code(), Some(124));
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn long_work_is_shown_on_a_terminal_and_the_line_is_gone_in_the_end() {
    let seen = hanging(&["verify", "--timeout", "1s"]);
    assert!(seen.contains("verify the copies: 1 s"), "{seen:?}");
    let (_, after) = seen.rsplit_once("\r\x1b[K").expect("it was removed");
    assert!(after.starts_with("ccdadm: CCD-1105"), "{seen:?}");
    let seen = hanging(&["verify", "--timeout", "1s", "--quiet"]);
    assert!(seen.starts_with("ccdadm: CCD-1105"), "{seen:?}");
}
