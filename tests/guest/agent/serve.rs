//! The agent: reads what the test asks, line by line, and does it; each command has a thread.
//!
//! It never ends while the guest runs, for the test knows what goes on by nothing else.

use anyhow::{Context, Result};
use ccd_tests::guest::wire::{Ask, PORT_NAME, Tell, line_of};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a child, and while nobody has the other end of the line.
const PAUSE: Duration = Duration::from_millis(5);

/// The line to the test.
#[derive(Clone, Debug)]
struct Telling(Arc<Mutex<File>>);

impl Telling {
    fn tell(&self, tell: &Tell) {
        let line = line_of(tell);
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The test's end is always open; if it is not, there is nobody to tell.
        if let Err(error) = port.write_all(line.as_bytes()) {
            eprintln!("agent: cannot tell the test: {error}");
        }
    }
}

pub fn serve() -> Result<()> {
    let path = port()?;
    let port = File::options().read(true).write(true).open(&path);
    let port = port.with_context(|| format!("cannot open {}", path.display()))?;
    let telling = Telling(Arc::new(Mutex::new(port.try_clone()?)));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Ends a line that a reset cut.
    telling
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .write_all(b"\n")?;
    telling.tell(&Tell::Hello {
        kernel: kernel.trim().to_owned(),
    });
    let mut lines = BufReader::new(port);
    let mut line = Vec::new();
    loop {
        // Nothing to read means that the other end is closed for now.
        if lines.read_until(b'\n', &mut line)? == 0 {
            thread::sleep(PAUSE);
            continue;
        }
        if !line.ends_with(b"\n") {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(ask) => {
                let telling = telling.clone();
                thread::spawn(move || answer(ask, &telling));
            }
            Err(error) => eprintln!("agent: {error}: {}", String::from_utf8_lossy(&line)),
        }
        line.clear();
    }
}

/// The device of the port with the agent's name.
fn port() -> Result<PathBuf> {
    let ports = "/sys/class/virtio-ports";
    for entry in fs::read_dir(ports).with_context(|| format!("cannot read {ports}"))? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT_NAME {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("no port in {ports} is called {PORT_NAME}")
}

fn answer(ask: Ask, telling: &Telling) {
    match ask {
        Ask::Run {
            id,
            words,
            input,
            deadline_ms,
        } => {
            let (code, out, err) = run(&words, input, Duration::from_millis(deadline_ms));
            telling.tell(&Tell::Ended { id, code, out, err });
        }
        Ask::Start { id, words } => {
            let (code, err) = start(id, &words, telling);
            let out = String::new();
            telling.tell(&Tell::Ended { id, code, out, err });
        }
    }
}

/// In a process group of its own, so that what it starts can be killed with it.
fn command(words: &[String]) -> Command {
    let mut command = Command::new(words.first().map_or("", String::as_str));
    command.args(words.iter().skip(1));
    command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(words: &[String], input: String, deadline: Duration) -> (i32, String, String) {
    let mut child = match command(words).stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return (127, String::new(), format!("cannot be started: {error}\n")),
    };
    let began = Instant::now();
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it all has what it wants.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let out = read_all(child.stdout.take());
    let err = read_all(child.stderr.take());
    let mut killed = String::new();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if began.elapsed() > deadline => {
                killed = format!("killed by the agent after {} s\n", deadline.as_secs());
                kill_all(&child);
                break child.wait().ok();
            }
            Ok(None) => thread::sleep(PAUSE),
            Err(_) => break None,
        }
    };
    // What a program left behind may hold the pipes; it has said what it had to say.
    (code_of(status), taken(&out), taken(&err) + &killed)
}

type Heard = Arc<(Mutex<(Vec<u8>, bool)>, std::sync::Condvar)>;

fn read_all(from: Option<impl Read + Send + 'static>) -> Heard {
    let heard: Heard = Arc::default();
    let hearing = heard.clone();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        if let Some(mut from) = from {
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                let mut heard = hearing.0.lock().unwrap_or_else(PoisonError::into_inner);
                heard.0.extend_from_slice(&bytes[..count]);
            }
        }
        hearing.0.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        hearing.1.notify_all();
    });
    heard
}

/// All there is, or what came until a little after the program's end if others hold the pipe.
fn taken(heard: &Heard) -> String {
    let guard = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = heard
        .1
        .wait_timeout_while(guard, Duration::from_millis(500), |(_, ended)| !*ended);
    let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&guard.0).into_owned()
}

fn start(id: u64, words: &[String], telling: &Telling) -> (i32, String) {
    let mut child = match command(words).stdin(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => return (127, format!("cannot be started: {error}")),
    };
    let pid = i32::try_from(child.id()).unwrap_or_default();
    telling.tell(&Tell::Started { id, pid });
    let readers = [
        child.stdout.take().map(|from| tell_lines(id, from, telling)),
        child.stderr.take().map(|from| tell_lines(id, from, telling)),
    ];
    let status = child.wait().ok();
    for reader in readers.into_iter().flatten() {
        // A thread that panicked has told all it could.
        let _ = reader.join();
    }
    (code_of(status), String::new())
}

fn tell_lines(id: u64, from: impl Read + Send + 'static, telling: &Telling) -> thread::JoinHandle<()> {
    let telling = telling.clone();
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            let text = String::from_utf8_lossy(&line).into_owned();
            telling.tell(&Tell::Line { id, text });
        }
    })
}

fn kill_all(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may be gone.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// As shells count: 128 and the signal.
fn code_of(status: Option<ExitStatus>) -> i32 {
    status.map_or(-1, |status| {
        status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal))
            .unwrap_or(-1)
    })
}
