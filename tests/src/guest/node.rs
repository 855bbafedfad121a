//! One node whose daemon runs in a guest: started, killed and asked, as an administrator of that guest would.

use super::agent::Job;
use super::machine::Machine;
use crate::process::{Finished, Report, until_within};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long anything may take that a test waits for in a guest: emulated processors are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks: each costs a good part of a second of an emulated processor that daemons want, too.
const PAUSE: Duration = Duration::from_millis(400);

/// Waits until `condition` gives something, and returns it and how long it took.
///
/// # Panics
/// With what was waited for, and what `condition` saw last, when [`PATIENCE`] is over.
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    until_within(PATIENCE, PAUSE, what, condition)
}

/// A node of a test cluster in guests.
#[derive(Debug)]
pub struct GuestNode {
    pub name: &'static str,
    pub machine: Arc<Machine>,
    daemon: Mutex<Option<Job>>,
}

impl GuestNode {
    pub fn new(name: &'static str, machine: &Arc<Machine>) -> Self {
        Self {
            name,
            machine: machine.clone(),
            daemon: Mutex::new(None),
        }
    }

    /// Has `etc`, `state` and `run` of the node, in its guest.
    pub fn folder(&self) -> String {
        format!("/srv/{}", self.name)
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Job>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `PROGRAM --etc … --state … --run … WORDS`
    fn words(&self, program: &str, words: &[&str]) -> Vec<String> {
        let folder = self.folder();
        let mut all = vec![program.to_owned()];
        for place in ["etc", "state", "run"] {
            all.extend([format!("--{place}"), format!("{folder}/{place}")]);
        }
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all
    }

    /// Starts the daemon. What it says is in the log of its name.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&self) {
        self.start_with(&[]);
    }

    /// With more words for `ccdd run`.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_with(&self, more: &[&str]) {
        let mut daemon = self.daemon();
        assert!(
            daemon.as_ref().is_none_or(|job| job.ended().is_some()),
            "{} runs already",
            self.name
        );
        let folder = self.folder();
        let places = ["etc", "state", "run"].map(|place| format!("{folder}/{place}"));
        // Whoever wants to know more sets it for the test.
        let level = std::env::var("CCD_LOG").unwrap_or_else(|_| "info".to_owned());
        let level = format!("CCD_LOG={level}");
        let mut words = vec!["in-node", self.name, "env", &level, "ccdd", "run"];
        for (flag, place) in ["--etc", "--state", "--run"].iter().zip(&places) {
            words.extend([*flag, place.as_str()]);
        }
        words.extend(more);
        *daemon = Some(
            self.machine
                .start_job(&words, Some(&format!("{}.log", self.name))),
        );
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// SIGTERM, and waits until it has ended.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// The daemon stands still.
    pub fn stop(&self) {
        self.tell("STOP");
    }

    pub fn resume(&self) {
        self.tell("CONT");
    }

    fn tell(&self, signal: &str) {
        let pid = self.daemon().as_ref().map_or(0, Job::pid);
        assert!(pid > 0, "{} does not run", self.name);
        self.machine
            .run(&["kill", &format!("-{signal}"), &pid.to_string()])
            .done();
    }

    fn signal(&self, signal: &str) {
        let Some(job) = self.daemon().take() else { return };
        if job.ended().is_none() {
            let pid = job.pid().to_string();
            self.machine.run(&["kill", &format!("-{signal}"), &pid]).done();
            let ended = job.wait_for_end(PATIENCE);
            assert!(ended.is_some(), "{} does not end", self.name);
        }
    }

    /// The daemon is gone because its guest is.
    pub fn forget(&self) {
        *self.daemon() = None;
    }

    pub fn adm(&self, words: &[&str]) -> Finished {
        self.ask("ccdadm", words)
    }

    pub fn ctl(&self, words: &[&str]) -> Finished {
        self.ask("ccdctl", words)
    }

    fn ask(&self, program: &str, words: &[&str]) -> Finished {
        let all = self.words(program, words);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        self.machine.run(&all)
    }

    /// Something that sees the devices as this node's daemon does.
    pub fn within(&self, words: &[&str]) -> Finished {
        self.machine.run(&[&["in-node", self.name], words].concat())
    }

    /// `ccd-disk`, seeing the devices as this node's daemon does.
    pub fn disk(&self, words: &[&str]) -> Finished {
        let mut all = vec!["ccd-disk"];
        all.extend(words);
        let folder = self.folder();
        let places = ["etc", "state", "run"].map(|place| format!("{folder}/{place}"));
        for (flag, place) in ["--etc", "--state", "--run"].iter().zip(&places) {
            all.extend([*flag, place.as_str()]);
        }
        self.within(&all)
    }

    /// One direct write to a device through this node's own path, by something that asks nobody: `written`, or what the
    /// disk says.
    pub fn poke(&self, role: &str) -> String {
        let device = device(role);
        let poked = self.within(&["ccd-guest", "poke", &device]).done();
        println!("{}: a write to its {role}: {}", self.name, poked.out.trim());
        poked.out.trim().to_owned()
    }

    /// Something in this node's guest that writes to the device again and again, whatever the daemon knows.
    pub fn stranger(&self, role: &str) -> Stranger {
        let device = device(role);
        let words = [
            "in-node",
            self.name,
            "ccd-guest",
            "poke",
            "--every-ms",
            "50",
            &device,
        ];
        let job = self
            .machine
            .start_job(&words, Some(&format!("{}.pokes", self.name)));
        Stranger {
            name: self.name,
            machine: self.machine.clone(),
            job,
        }
    }

    pub fn report(&self) -> Result<Report, String> {
        Report::read(&self.adm(&["status", "--json"]))
    }

    /// `serving paired`, `serving solo`, `waiting`, …; or why it cannot be asked.
    pub fn state(&self) -> String {
        self.report().map_or_else(|error| error, |report| report.state())
    }

    pub fn verdict(&self) -> String {
        self.report().unwrap_or_default().verdict()
    }

    /// Waits for a state as [`GuestNode::state`] names it.
    #[track_caller]
    pub fn wait_for(&self, state: &str) -> Duration {
        self.wait_until(&format!("to be {state}"), |report| report.state() == state)
    }

    /// Waits until its status is so.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Report) -> bool) -> Duration {
        let what = format!("{} {what}", self.name);
        let (_, took) = until(&what, || match self.report()? {
            report if is_so(&report) => Ok(()),
            report => Err(report.value().to_string()),
        });
        took
    }

    /// Waits until the device of this role (0 is the primary) is in sync, or is not, while the node serves.
    #[track_caller]
    pub fn wait_for_sync(&self, role: usize, expected: bool) -> Duration {
        self.wait_until(&format!("to have device {role} in sync: {expected}"), |report| {
            report.is_serving() && report.is_in_sync(role) == expected
        })
    }

    /// Waits for the exit code 0 of `ccdadm status`.
    #[track_caller]
    pub fn wait_until_redundant(&self) -> Duration {
        let what = format!("{} to be all redundant", self.name);
        let (_, took) = until(&what, || {
            let status = self.adm(&["status"]);
            if status.code == 0 {
                Ok(())
            } else {
                Err(status.out + &status.err)
            }
        });
        took
    }

    /// What it decided since it was last started, and when: the steps of a takeover.
    pub fn print_decisions(&self, from: usize) {
        for line in self
            .log()
            .lines()
            .skip(from)
            .filter(|line| line.contains("INFO") || line.contains("WARN"))
        {
            let line: String = line.chars().skip(11).take(220).collect();
            println!("    {}: {line}", self.name);
        }
    }

    /// What the daemon said since its last start.
    pub fn log(&self) -> String {
        self.daemon().as_ref().map_or_else(String::new, Job::text)
    }

    /// Waits until the daemon's log says so.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        self.wait_for_log_after(0, text);
    }

    /// Waits until the daemon's log says so after that many lines.
    #[track_caller]
    pub fn wait_for_log_after(&self, lines: usize, text: &str) {
        let what = format!("{} to log {text:?}", self.name);
        let (line, _) = until(&what, || {
            let log = self.log();
            let line = log.lines().skip(lines).find(|line| line.contains(text));
            line.map(str::to_owned).ok_or(log)
        });
        println!("{}: {line}", self.name);
    }
}

/// A writer that asks nobody.
#[derive(Debug)]
pub struct Stranger {
    name: &'static str,
    machine: Arc<Machine>,
    job: Job,
}

impl Stranger {
    /// Waits until it is at work.
    #[track_caller]
    pub fn wait_until_written(&self) {
        self.wait_for(&format!("the disk to take {}'s writes", self.name), "written");
    }

    /// Waits until a disk refuses its writes because of a reservation.
    #[track_caller]
    pub fn wait_until_refused(&self) {
        let conflict = format!("errno {}", nix::libc::EBADE);
        let what = format!("the disk to refuse {}'s writes", self.name);
        let line = self.wait_for(&what, &conflict);
        println!("{}: a write by something that asks nobody: {line}", self.name);
    }

    #[track_caller]
    fn wait_for(&self, what: &str, words: &str) -> String {
        let (line, _) = until(what, || {
            let text = self.job.text();
            let line = text.lines().find(|line| line.contains(words));
            line.map(str::to_owned).ok_or(text)
        });
        line
    }

    /// Ends it, and says what became of its writes, each change once.
    pub fn end(self) -> String {
        let _ = self.machine.run(&["kill", &self.job.pid().to_string()]);
        self.job.text()
    }
}

/// The path of the device of a role, the same on every node.
pub fn device(role: &str) -> String {
    format!("/dev/disks/{role}")
}
