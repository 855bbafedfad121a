//! One guest: a QEMU process under software emulation, its disks and network cards, its monitor and its agent.
//!
//! A guest ends with the test: QEMU is killed when its `Machine` is dropped, when the thread that keeps guests ends with the test's
//! process, and when it has lived too long. It reaches nothing but its disks' files and the sockets of its networks.

use super::agent::{Agent, Job, Silence};
use super::image::Image;
use super::keeper;
use super::qmp::Qmp;
use super::wire::PORT_NAME;
use crate::process::{Finished, until};
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// From QEMU's start to the agent's greeting; some 5 s on a machine with nothing else to do.
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// A card of a guest. Two cards with the names of each other's sockets are a cable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Of the cable, for [`Machine::cut`]: the guest knows the card by its number only.
    pub cable: &'static str,
    /// Last byte of the hardware address; the guest finds the card by it.
    pub number: u8,
    /// Sockets, in the folder of the guests.
    pub own: String,
    pub other: String,
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub name: &'static str,
    pub memory_mib: u32,
    /// Files that are its disks, in the order of `/dev/vda`, `/dev/vdb`, ….
    pub disks: Vec<PathBuf>,
    pub cards: Vec<Card>,
}

/// A guest that has booted.
#[derive(Debug)]
pub struct Machine {
    pub name: &'static str,
    recipe: Recipe,
    image: Image,
    folder: PathBuf,
    logs: PathBuf,
    power: Mutex<Power>,
}

/// What there is of a guest while it is switched on.
#[derive(Debug)]
struct Power {
    process: keeper::Kept,
    qmp: Qmp,
    agent: Agent,
}

impl Machine {
    /// Starts QEMU. `folder` is for sockets, and has a short name; `logs` is kept.
    ///
    /// # Panics
    /// When QEMU cannot be started.
    pub fn start(recipe: Recipe, image: &Image, folder: &Path, logs: &Path) -> Self {
        let power = power_on(&recipe, image, folder, logs);
        Self {
            name: recipe.name,
            recipe,
            image: image.clone(),
            folder: folder.to_owned(),
            logs: logs.to_owned(),
            power: Mutex::new(power),
        }
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agent(&self) -> Agent {
        self.power().agent.clone()
    }

    /// Waits for the agent.
    ///
    /// # Panics
    /// With the end of its console, when it does not boot.
    pub fn wait_for_boot(&self, before: u32) {
        let started = Instant::now();
        assert!(
            self.agent().wait_for_boot(before, BOOT_PATIENCE),
            "guest {} has not booted after {} s; its console is in {}:\n{}",
            self.name,
            started.elapsed().as_secs(),
            self.console().display(),
            self.last_of_console()
        );
    }

    /// What the kernel said last about disks: why a write was refused.
    pub fn print_refusals(&self) {
        let said =
            self.sh("dmesg | grep -E 'reservation conflict|critical nexus|Sense|FAILED Result' | tail -n 4");
        for line in said.out.lines() {
            println!("    {}'s kernel: {line}", self.name);
        }
    }

    fn console(&self) -> PathBuf {
        self.logs.join(format!("{}.console", self.name))
    }

    fn last_of_console(&self) -> String {
        let text = std::fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// `uname -r` in the guest.
    pub fn kernel(&self) -> String {
        self.agent().kernel()
    }

    /// Runs a program in the guest to its end.
    ///
    /// # Panics
    /// When the guest does not answer.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Finished {
        self.run_with(words, "")
    }

    /// With something on its standard input.
    ///
    /// # Panics
    /// When the guest does not answer.
    #[track_caller]
    pub fn run_with(&self, words: &[&str], input: &str) -> Finished {
        match self.agent().try_run(words, input) {
            Ok(finished) => finished,
            Err(silence) => panic!(
                "guest {}: {words:?}: {silence}; its console is in {}:\n{}",
                self.name,
                self.console().display(),
                self.last_of_console()
            ),
        }
    }

    /// Runs a line of shell.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Finished {
        self.run(&["sh", "-c", script])
    }

    /// As [`Machine::run`], for guests that may be reset meanwhile.
    pub fn try_run(&self, words: &[&str]) -> Result<Finished, Silence> {
        self.agent().try_run(words, "")
    }

    /// Writes a file there.
    #[track_caller]
    pub fn put(&self, path: &str, content: &str) {
        let script = format!("mkdir -p \"$(dirname {path})\" && cat > {path}");
        self.run_with(&["sh", "-c", &script], content).done();
    }

    /// Starts a program that goes on; what it says is kept in the log of this name.
    ///
    /// # Panics
    /// When the guest does not answer.
    #[track_caller]
    pub fn start_job(&self, words: &[&str], log: Option<&str>) -> Job {
        let log = log.map(|name| self.logs.join(name));
        let started = self.agent().start(words, log);
        started.unwrap_or_else(|silence| panic!("guest {}: {words:?}: {silence}", self.name))
    }

    fn qmp(&self, command: &str, arguments: serde_json::Value) {
        self.power().qmp.execute(command, &arguments);
    }

    /// The whole guest stands still: no instruction, no packet.
    pub fn pause(&self) {
        self.qmp("stop", json!({}));
    }

    pub fn resume(&self) {
        self.qmp("cont", json!({}));
    }

    /// The reset button. Returns when it has booted again; nothing runs there then but the agent.
    pub fn reset(&self) {
        let before = self.agent().boots();
        self.qmp("system_reset", json!({}));
        self.wait_for_boot(before);
    }

    /// Pulls the plug: QEMU ends at once.
    ///
    /// # Panics
    /// When it does not.
    pub fn quit(&self) {
        let mut power = self.power();
        power.qmp.send("quit", &json!({}));
        until(&format!("guest {} to be off", self.name), || {
            if power.process.has_ended() {
                Ok(())
            } else {
                Err("QEMU runs".to_owned())
            }
        });
    }

    /// Starts it again after [`Machine::quit`], with the same disks and cables, and waits until it has booted.
    pub fn power_on(&self) {
        let power = power_on(&self.recipe, &self.image, &self.folder, &self.logs);
        *self.power() = power;
        self.wait_for_boot(0);
    }

    /// Pulls a cable at this guest's end.
    pub fn cut(&self, cable: &str) {
        self.qmp("set_link", json!({"name": cable, "up": false}));
    }

    pub fn heal(&self, cable: &str) {
        self.qmp("set_link", json!({"name": cable, "up": true}));
    }
}

fn power_on(recipe: &Recipe, image: &Image, folder: &Path, logs: &Path) -> Power {
    let socket = |kind: &str| folder.join(format!("{}.{kind}", recipe.name));
    let (monitor, line) = (socket("monitor"), socket("agent"));
    for card in &recipe.cards {
        // QEMU binds it anew, and fails if it is there.
        let _ = std::fs::remove_file(folder.join(&card.own));
    }
    for path in [&monitor, &line] {
        let _ = std::fs::remove_file(path);
    }
    let mut command = command(recipe, image, folder, logs);
    command
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", monitor.display()));
    command.arg("-chardev").arg(format!(
        "socket,id=line,path={},server=on,wait=off",
        line.display()
    ));
    command.arg("-device").arg("virtio-serial-pci");
    command
        .arg("-device")
        .arg(format!("virtserialport,chardev=line,name={PORT_NAME}"));
    let errors = logs.join(format!("{}.qemu", recipe.name));
    let opened = std::fs::File::options().create(true).append(true).open(&errors);
    let opened = opened.unwrap_or_else(|error| panic!("{}: {error}", errors.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(opened);
    let process = keeper::keep(command);
    let said = || std::fs::read_to_string(&errors).unwrap_or_default();
    let (qmp, _) = until(&format!("QEMU's monitor of {}", recipe.name), || {
        assert!(!process.has_ended(), "QEMU ends: {}", said());
        Qmp::connect(&monitor).ok_or_else(said)
    });
    let (stream, _) = until(&format!("the line to {}", recipe.name), || {
        UnixStream::connect(&line).map_err(|error| error.to_string())
    });
    Power {
        process,
        qmp,
        agent: Agent::listen(recipe.name, stream),
    }
}

/// QEMU with one processor (a LIO target with more locks up on simultaneous PREEMPT AND ABORT), disks and cards.
fn command(recipe: &Recipe, image: &Image, folder: &Path, logs: &Path) -> Command {
    // The kernel kills QEMU when the thread that started it is gone.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m"]);
    command.arg(recipe.memory_mib.to_string());
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.arg("-kernel").arg(&image.kernel);
    command.arg("-initrd").arg(&image.initial);
    command.arg("-append").arg(format!(
        "console=ttyS0 panic=-1 mitigations=off tsc=reliable no_timer_check loglevel=6 rdinit={}",
        image.first
    ));
    let console = logs.join(format!("{}.console", recipe.name));
    command
        .arg("-chardev")
        .arg(format!("file,id=console,path={},append=on", console.display()));
    command.args(["-serial", "chardev:console"]);
    command.args(["-object", "rng-random,id=random,filename=/dev/urandom"]);
    command.args(["-device", "virtio-rng-pci,rng=random"]);
    for (index, disk) in recipe.disks.iter().enumerate() {
        // What QEMU has written is in the host's memory when the guest is killed, so a flush need not reach a real disk.
        command.arg("-drive").arg(format!(
            "if=none,id=disk{index},format=raw,cache=unsafe,file={}",
            disk.display()
        ));
        command
            .arg("-device")
            .arg(format!("virtio-blk-pci,drive=disk{index}"));
    }
    for card in &recipe.cards {
        command.arg("-netdev").arg(format!(
            "dgram,id={},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            card.cable,
            folder.join(&card.own).display(),
            folder.join(&card.other).display()
        ));
        command.arg("-device").arg(format!(
            "virtio-net-pci,netdev={},mac=52:54:00:00:00:{:02x},romfile=",
            card.cable, card.number
        ));
    }
    command
}
