//! One node: its folders, its daemon, and asking it.

use super::programs::{Finished, command, program, run_command};
use super::report::Report;
use super::until::until;
use ccd_client::Places;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

/// A node of a test cluster. Its daemon is killed when it is dropped.
#[derive(Debug)]
pub struct TestNode {
    pub name: &'static str,
    places: Places,
    folder: PathBuf,
    namespace: String,
    daemon: Option<Child>,
}

impl TestNode {
    pub fn new(name: &'static str, folder: PathBuf, namespace: &str) -> Self {
        Self {
            name,
            places: Places {
                etc: folder.join("etc"),
                state: folder.join("state"),
                run: folder.join("run"),
            },
            folder,
            namespace: namespace.to_owned(),
            daemon: None,
        }
    }

    /// Where all of its folders are, and its daemon runs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn places(&self) -> &Places {
        &self.places
    }

    /// `--etc … --state … --run …`
    pub fn folders(&self) -> [String; 6] {
        let text = |path: &Path| path.to_str().expect("the path is ours").to_owned();
        let Places { etc, state, run } = &self.places;
        ["--etc", &text(etc), "--state", &text(state), "--run", &text(run)].map(str::to_owned)
    }

    fn daemon_command(&self) -> std::process::Command {
        let ccdd = program("ccdd");
        let ccdd = ccdd.to_str().expect("programs have plain names");
        let folders = self.folders();
        let mut words = vec!["netns", "exec", &self.namespace, ccdd, "run", "--with-parent"];
        words.extend(folders.iter().map(String::as_str));
        let mut command = command("ip", &words);
        // A path below /proc/self/cwd is another one for each node.
        command.current_dir(&self.folder);
        command
    }

    /// Starts the daemon; its log is appended to the node's.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with these variables in its environment.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start_with(&mut self, variables: &[(&str, String)]) {
        assert!(self.daemon.is_none(), "{} runs already", self.name);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let log = log.expect("the folder is ours");
        let mut command = self.daemon_command();
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        // `ip netns exec` becomes the daemon: the process id is the daemon's.
        let daemon = command.stdout(Stdio::null()).stderr(log).spawn();
        self.daemon = Some(daemon.expect("ip can be started"));
    }

    /// Runs a daemon that is expected to end by itself.
    pub fn run_daemon(&self) -> Finished {
        run_command(&mut self.daemon_command())
    }

    pub fn pid(&self) -> Pid {
        let daemon = self
            .daemon
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run", self.name));
        Pid::from_raw(i32::try_from(daemon.id()).expect("a process id fits"))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        daemon.kill().expect("it is our child");
        daemon.wait().expect("it is our child");
    }

    /// SIGTERM, and waits until it has ended.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut daemon = self.daemon.take().expect("signal() found it");
        let (status, _) = until(&format!("{} to end", self.name), || match daemon.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        status
    }

    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is our child");
    }

    pub fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    pub fn adm(&self, words: &[&str]) -> Finished {
        self.ask("ccdadm", words)
    }

    pub fn ctl(&self, words: &[&str]) -> Finished {
        self.ask("ccdctl", words)
    }

    fn ask(&self, name: &str, words: &[&str]) -> Finished {
        let folders = self.folders();
        let mut all: Vec<&str> = folders.iter().map(String::as_str).collect();
        all.extend(words);
        run_command(&mut command(program(name), &all))
    }

    /// `ccdadm status --json`, or why there is none.
    pub fn status(&self) -> Result<Value, String> {
        self.report().map(|report| report.value().clone())
    }

    fn report(&self) -> Result<Report, String> {
        Report::read(&self.adm(&["status", "--json"]))
    }

    /// `serving paired`, `serving solo`, `waiting`, …; or why it cannot be asked.
    pub fn state(&self) -> String {
        self.report().map_or_else(|error| error, |report| report.state())
    }

    pub fn verdict(&self) -> String {
        self.report().unwrap_or_default().verdict()
    }

    /// Waits for a state as [`TestNode::state`] names it.
    pub fn wait_for(&self, state: &str) -> std::time::Duration {
        let (_, took) = until(&format!("{} to be {state}", self.name), || match self.state() {
            found if found == state => Ok(()),
            _ => Err(self.adm(&["status"]).out),
        });
        took
    }

    /// Waits for the exit code 0 of `ccdadm status`.
    pub fn wait_until_redundant(&self) -> std::time::Duration {
        let (_, took) = until(&format!("{} to be all redundant", self.name), || {
            let status = self.adm(&["status"]);
            if status.code == 0 {
                Ok(())
            } else {
                Err(status.out + &status.err)
            }
        });
        took
    }

    /// Waits until a command ends with 0.
    pub fn wait_until_done(&self, words: &[&str]) -> Finished {
        let (finished, _) = until(&format!("{} to do {words:?}", self.name), || {
            let finished = self.adm(words);
            if finished.code == 0 {
                Ok(finished)
            } else {
                Err(finished.err)
            }
        });
        finished
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of the log, for whoever looks at a failed test.
    pub fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("\nlast lines of {}'s log:", self.name);
        for line in &lines[lines.len().saturating_sub(200)..] {
            eprintln!("  {line}");
        }
    }

    /// The state folder is not there, as after `mv`.
    pub fn move_state_away(&self) {
        let state = &self.places.state;
        fs::rename(state, state.with_extension("aside")).expect("the folder is ours");
    }

    /// Waits until the daemon's log says so.
    pub fn wait_for_log(&self, text: &str) {
        until(&format!("{} to log {text:?}", self.name), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.kill();
    }
}
