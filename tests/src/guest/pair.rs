//! Both nodes in one guest: a network namespace for each, and devices that each sees through its own path.

use super::machine::{Machine, Recipe};
use super::site::{Fencing, Folders, Shared, Site, Turn};
use std::ops::Deref;
use std::sync::Arc;

/// What the shared disks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Two disks of a LIO target, through an iSCSI initiator for each node.
    Scsi,
    /// Two exports of nbdkit, through an nbd device for each node.
    Nbd,
    /// Two loop devices, through a device-mapper device for each node.
    Mapper,
}

impl Storage {
    fn name(self) -> &'static str {
        match self {
            Self::Scsi => "scsi",
            Self::Nbd => "nbd",
            Self::Mapper => "mapper",
        }
    }

    /// What makes `/dev/shared/{alpha,beta}/{primary,secondary}` in the guest.
    fn script(self) -> &'static str {
        match self {
            Self::Scsi => {
                "target-up /run/primary.disk /run/secondary.disk && \
                 disks-login alpha 127.0.0.1 && disks-login beta 127.0.0.1"
            }
            Self::Nbd => "disks-nbd",
            Self::Mapper => "disks-mapper",
        }
    }
}

/// A guest with both nodes.
#[derive(Debug)]
pub struct Pair {
    site: Site,
    pub machine: Arc<Machine>,
    storage: Storage,
    folders: Folders,
}

static PAIR: Shared<Pair> = Shared::new();

impl Pair {
    /// The guest with this storage: the one that the last scenario used, or a new one.
    pub fn take(storage: Storage, fencing: Fencing) -> Turn<Self> {
        let pair = PAIR.take(
            |pair| pair.storage == storage && pair.site.fencing == fencing,
            || Self::boot(storage, fencing),
        );
        pair.wait_until_redundant();
        pair
    }

    fn boot(storage: Storage, fencing: Fencing) -> Self {
        let began = std::time::Instant::now();
        let folders = Folders::make(&format!("pair-{}-{fencing}", storage.name()));
        let recipe = Recipe {
            name: "pair",
            memory_mib: 640,
            disks: Vec::new(),
            cards: Vec::new(),
        };
        let machine = Machine::start(recipe, &folders.image, folders.sockets.path(), &folders.logs);
        machine.wait_for_boot(0);
        println!(
            "booted {} after {} ms",
            machine.kernel(),
            began.elapsed().as_millis()
        );
        machine.run(&["nodes-link"]).done();
        machine.sh(storage.script()).done();
        println!("disks after {} ms", began.elapsed().as_millis());
        let machine = Arc::new(machine);
        let site = Site::set_up([&machine, &machine], fencing, &folders.logs);
        println!("all redundant after {} ms", began.elapsed().as_millis());
        Self {
            site,
            machine,
            storage,
            folders,
        }
    }
}

impl Deref for Pair {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs of the guest that failed: {}", self.folders.logs.display());
        }
    }
}
