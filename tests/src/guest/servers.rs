//! Two servers and a storage target, a guest each: an interconnect between the servers, and a storage network from each to the
//! target, all of which can be cut.

use super::machine::{Card, Machine, Recipe};
use super::node::GuestNode;
use super::site::{ALPHA, BETA, Fencing, Folders, NAMES, Shared, Site, Turn};
use crate::process::run;
use std::fs::File;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cables, as [`Machine::cut`] names them at the servers' ends.
pub const INTERCONNECT: &str = "link";
pub const STORAGE: &str = "store";

const DISK_BYTES: u64 = 64 << 20;

/// A preemption that takes longer hangs: the target gives up a silent server after 8 s.
const PREEMPTION_MAX: Duration = Duration::from_secs(15);

/// Holds a node's local copy across boots.
const STATE_BYTES: u64 = 96 << 20;

/// Three guests, and a cluster on two of them.
#[derive(Debug)]
pub struct Servers {
    site: Site,
    pub target: Arc<Machine>,
    folders: Folders,
}

/// What becomes of registrations when the target restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Remembered,
    Forgotten,
}

static SERVERS: Shared<Servers> = Shared::new();

impl Servers {
    /// The guests that the last scenario used, or new ones.
    pub fn take(fencing: Fencing) -> Turn<Self> {
        let servers = SERVERS.take(|servers| servers.site.fencing == fencing, || Self::boot(fencing));
        servers.wait_until_redundant();
        servers
    }

    fn boot(fencing: Fencing) -> Self {
        let began = Instant::now();
        let folders = Folders::make(&format!("servers-{fencing}"));
        let disk = |name: &str, bytes: u64| -> PathBuf {
            let path = folders.sockets.path().join(name);
            let made = File::create(&path).and_then(|file| file.set_len(bytes));
            made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path
        };
        let target = Recipe {
            name: "target",
            memory_mib: 320,
            disks: vec![disk("p", DISK_BYTES), disk("s", DISK_BYTES)],
            cards: [ALPHA, BETA].map(|node| storage_card(node, true)).to_vec(),
        };
        let server = |node: usize| {
            let state = disk(NAMES[node], STATE_BYTES);
            let name = state.to_str().expect("the path is ours");
            run("mke2fs", &["-q", "-F", "-t", "ext4", name]).done();
            Recipe {
                name: NAMES[node],
                memory_mib: 320,
                disks: vec![state],
                cards: vec![link_card(node), storage_card(node, false)],
            }
        };
        let recipes = [target, server(ALPHA), server(BETA)];
        let machines = recipes.map(|recipe| {
            let sockets = folders.sockets.path();
            Arc::new(Machine::start(recipe, &folders.image, sockets, &folders.logs))
        });
        for machine in &machines {
            machine.wait_for_boot(0);
        }
        let [target, alpha, beta] = machines;
        println!(
            "booted {} after {} ms",
            target.kernel(),
            began.elapsed().as_millis()
        );
        serve_disks(&target, "");
        for (node, machine) in [&alpha, &beta].into_iter().enumerate() {
            connect(node, machine);
        }
        println!("disks after {} ms", began.elapsed().as_millis());
        let site = Site::set_up([&alpha, &beta], fencing, &folders.logs);
        println!("all redundant after {} ms", began.elapsed().as_millis());
        Self {
            site,
            target,
            folders,
        }
    }

    /// What is done on a server after each boot, before its daemon starts.
    pub fn connect(&self, node: usize) {
        connect(node, &self.nodes[node].machine);
    }

    /// The other node than this one.
    pub fn other(&self, node: usize) -> &GuestNode {
        &self.nodes[1 - node]
    }

    /// The target has been in a PREEMPT AND ABORT that does not end for longer than any command of a server that runs takes.
    pub fn hangs_in_preemption(&self) -> bool {
        let waits = || {
            let script = "for process in /proc/[0-9]*; do read -r name < $process/comm || continue; \
                 case $name in iscsi_trx) cat $process/stack;; esac; done 2> /dev/null";
            self.target.sh(script).done().out.contains("core_tmr_lun_reset")
        };
        let since = Instant::now();
        while since.elapsed() < PREEMPTION_MAX {
            if !waits() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        true
    }

    /// Restarts the target. The disks keep what was written; registrations are put back, as targetcli does it at its start, or
    /// are lost.
    pub fn reset_target(&self, memory: Memory) {
        let kept = self
            .target
            .sh("cd /var/target/pr && for file in *; do echo \"== $file\"; cat $file; done");
        let kept = kept.done().out;
        self.target.reset();
        match memory {
            Memory::Forgotten => serve_disks(&self.target, ""),
            Memory::Remembered => {
                let mut name = String::new();
                let mut text = String::new();
                for line in kept.lines().chain(["== "]) {
                    if let Some(next) = line.strip_prefix("== ") {
                        if !name.is_empty() {
                            self.target.put(&format!("/run/kept/{name}"), &text);
                        }
                        next.clone_into(&mut name);
                        text.clear();
                    } else {
                        text += line;
                        text.push('\n');
                    }
                }
                serve_disks(&self.target, "CCD_APTPL=/run/kept");
            }
        }
    }
}

fn storage_card(node: usize, at_target: bool) -> Card {
    let name = NAMES[node];
    let (target, server) = (format!("{name}.st"), format!("{name}.ss"));
    let (own, other) = if at_target {
        (target, server)
    } else {
        (server, target)
    };
    Card {
        cable: if at_target { NAMES[node] } else { STORAGE },
        number: u8::try_from(0x10 + 2 * node).expect("there are two") + u8::from(at_target),
        own,
        other,
    }
}

fn link_card(node: usize) -> Card {
    Card {
        cable: INTERCONNECT,
        number: u8::try_from(0x20 + node).expect("there are two"),
        own: format!("{}.l", NAMES[node]),
        other: format!("{}.l", NAMES[1 - node]),
    }
}

/// The target after a boot.
fn serve_disks(target: &Machine, setting: &str) {
    let script = format!(
        "card-up 11 10.78.0.1 && card-up 13 10.79.0.1 && {setting} target-up /dev/vda /dev/vdb alpha beta"
    );
    target.sh(&script).done();
}

/// A server after a boot.
fn connect(node: usize, machine: &Machine) {
    let name = NAMES[node];
    let (link, store, network) = if node == ALPHA {
        ("20", "10", "78")
    } else {
        ("21", "12", "79")
    };
    let address = super::site::ADDRESSES[node];
    let script = format!(
        "card-up {link} {address} && card-up {store} 10.{network}.0.2 && mkdir -p /srv/{name} && \
         mount -t ext4 /dev/vda /srv/{name} && disks-login {name} 10.{network}.0.1 && ln -s /dev/shared/{name} /dev/disks"
    );
    machine.sh(&script).done();
}

impl Deref for Servers {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs of the guests that failed: {}", self.folders.logs.display());
        }
    }
}
