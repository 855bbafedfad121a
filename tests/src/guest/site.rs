//! What a scenario gets: booted machines and a cluster of two nodes on them, set up as an administrator does it.
//!
//! Booting takes longer than most scenarios, so a site is kept for the next one, unless a scenario failed on it. A scenario
//! finds both nodes serving and everything redundant, and leaves it so.

use super::image::Image;
use super::machine::Machine;
use super::node::{GuestNode, device, until};
use super::root::target_folder;
use crate::process::cluster::FOLDER_VARIABLE;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;

/// How the cluster keeps a lost node from its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    Lease,
    Scsi,
}

impl fmt::Display for Fencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lease => "lease",
            Self::Scsi => "scsi",
        })
    }
}

pub const NAMES: [&str; 2] = ["alpha", "beta"];
pub const ALPHA: usize = 0;
pub const BETA: usize = 1;
pub const PRIMARY: usize = 0;
pub const SECONDARY: usize = 1;
pub const ROLES: [&str; 2] = ["primary", "secondary"];

/// Of the nodes, on the cable between them.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// Longer than the product's own default: emulated processors are slow, and share two real ones.
const LEASE_MS: u32 = 3000;

/// Longer than the default for the same reason; at most half the time that a request may take.
const DISK_DEADLINE_MS: u32 = 4000;

/// Machines and the two nodes on them.
#[derive(Debug)]
pub struct Site {
    pub nodes: [GuestNode; 2],
    pub fencing: Fencing,
    /// Console and daemon logs.
    pub logs: PathBuf,
}

/// Folders of one site: sockets and disks, gone with it; and logs, which stay.
#[derive(Debug)]
pub struct Folders {
    pub sockets: TempDir,
    pub logs: PathBuf,
    pub image: Image,
}

impl Folders {
    /// # Panics
    /// When they cannot be made.
    pub fn make(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::var_os(FOLDER_VARIABLE).map_or_else(std::env::temp_dir, Into::into);
        // Unix sockets have short names only.
        let sockets = tempfile::Builder::new().prefix("g").tempdir_in(base);
        let sockets = sockets.expect("a folder for sockets");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let logs = target_folder().join(format!("guest/logs/{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&logs).unwrap_or_else(|error| panic!("{}: {error}", logs.display()));
        println!("logs of these guests: {}", logs.display());
        let image = Image::build(sockets.path());
        Self { sockets, logs, image }
    }
}

impl Site {
    /// Sets up a cluster on machines that have [`device`] of both roles, and starts it.
    pub fn set_up(machines: [&Arc<Machine>; 2], fencing: Fencing, logs: &Path) -> Self {
        let nodes = [ALPHA, BETA].map(|node| GuestNode::new(NAMES[node], machines[node]));
        let site = Self {
            nodes,
            fencing,
            logs: logs.to_owned(),
        };
        let [alpha, beta] = &site.nodes;
        let node = |index: usize| format!("{}={}", NAMES[index], ADDRESSES[index]);
        let (first, second) = (node(ALPHA), node(BETA));
        let (primary, secondary) = (device(ROLES[PRIMARY]), device(ROLES[SECONDARY]));
        let (lease, fencing) = (format!("lease_ms={LEASE_MS}"), fencing.to_string());
        let deadline = format!("disk_deadline_ms={DISK_DEADLINE_MS}");
        let timeout = format!("request_timeout_ms={}", 2 * DISK_DEADLINE_MS);
        alpha
            .within(&[
                "ccdadm",
                "--etc",
                &format!("{}/etc", alpha.folder()),
                "setup",
                "--cluster",
                "test",
                "--node",
                &first,
                "--node",
                &second,
                "--primary",
                &primary,
                "--secondary",
                &secondary,
                "--fencing",
                &fencing,
                "--option",
                "image_mib=8",
                "--option",
                "journal_mib=2",
                "--option",
                &lease,
                "--option",
                &deadline,
                "--option",
                &timeout,
                "--this",
                "alpha",
            ])
            .done();
        for file in ["init.ccd", "authkey"] {
            let content = alpha
                .machine
                .run(&["cat", &format!("{}/etc/{file}", alpha.folder())]);
            let path = format!("{}/etc/{file}", beta.folder());
            beta.machine.put(&path, &content.done().out);
            beta.machine.run(&["chmod", "400", &path]).done();
        }
        beta.adm(&["setup", "--this", "beta"]).done();
        for role in ROLES {
            site.mkfs(role);
        }
        site.start_both();
        site
    }

    /// Makes the region of a device.
    pub fn mkfs(&self, role: &str) {
        let sizes = ["--image-mib", "8", "--journal-mib", "2"];
        let device = device(role);
        let words = [&["mkfs", "--role", role], &sizes[..], &[&device]].concat();
        self.nodes[ALPHA].disk(&words).done();
    }

    pub fn start_both(&self) {
        for node in &self.nodes {
            node.start();
        }
        self.wait_until_redundant();
    }

    pub fn alpha(&self) -> &GuestNode {
        &self.nodes[ALPHA]
    }

    pub fn beta(&self) -> &GuestNode {
        &self.nodes[BETA]
    }

    /// Waits until the pair is whole, as seen from both nodes.
    #[track_caller]
    pub fn wait_until_redundant(&self) {
        for node in &self.nodes {
            node.wait_until_redundant();
        }
    }

    /// Both copies hold the same, as `ccdadm verify` sees it.
    #[track_caller]
    pub fn verify(&self) {
        until("both copies to be the same", || {
            match self.alpha().adm(&["verify"]) {
                verified if verified.code == 0 => Ok(()),
                verified => Err(verified.out + &verified.err),
            }
        });
    }
}

/// Something that scenarios of one test program use one after the other.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Option<T>>);

/// A scenario's turn; its failure spoils what it used.
#[derive(Debug)]
pub struct Turn<T: 'static>(MutexGuard<'static, Option<T>>);

impl<T> Shared<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What the last scenario left, if it is `fit`; else made anew.
    pub fn take(&'static self, fit: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Turn<T> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !guard.as_ref().is_some_and(fit) {
            // What is not used any more goes first: its memory is needed.
            *guard = None;
            *guard = Some(make());
        }
        Turn(guard)
    }
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Turn<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it was made when the turn began")
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0 = None;
        }
    }
}
