//! The media of the simulated world: devices in memory, and what happens to them.
//!
//! A device is shared: every node that reaches it has an open region of its own on it, as on a real shared disk (`store.rs`).
//! Faults are those of the way (this node's path) or of the device (everybody's paths).

use super::checkpoints::Checkpoints;
use super::moment::Moment;
use super::plan::Shape;
use super::random::Random;
use super::reservations::Reservations;
use super::server::replica;
use super::store::{Fault, Initiator, Path, PathBlocks, SECTOR_BYTES, Store};
use super::world::CLUSTER;
use ccd_core::ids::{DeviceRole, NodeId, Position};
use ccd_core::time::Date;
use ccd_disk::format::geometry::{CONTROL_BLOCKS, CONTROL_KINDS, END_BLOCKS};
use ccd_disk::{
    BLOCK_BYTES, Blocks, ExpectedIdentity, MemoryDevice, MkfsOptions, RegionId, ReplicaDriver, create,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How much every replica has room for.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The database may have so many bytes.
    pub content_bytes: u64,
    pub image_bytes: u64,
    pub journal_bytes: u64,
}

impl Room {
    /// So little that journals are full again and again.
    pub const TINY: Self = Self {
        content_bytes: 40 << 10,
        image_bytes: 64 << 10,
        journal_bytes: 64 << 10,
    };

    /// A tail of thousands of records fits.
    pub const ROOMY: Self = Self {
        content_bytes: 512 << 10,
        image_bytes: 1 << 20,
        journal_bytes: 20 << 20,
    };
}

/// Positions of branches that lost and were kept aside.
pub type Branches = Arc<Mutex<Vec<Position>>>;

/// What all media held at some moment.
#[derive(Clone, Debug)]
pub struct Relics {
    locals: Vec<MemoryDevice>,
    devices: Vec<MemoryDevice>,
}

/// All media, and what is wrong with them.
#[derive(Debug)]
pub struct Media {
    /// By node.
    locals: Vec<MemoryDevice>,
    /// Which node each server is, and how many nodes a device has areas for.
    nodes: Vec<NodeId>,
    areas: u32,
    /// Primary, then secondary.
    devices: Vec<MemoryDevice>,
    /// What a server sees in place of a shared device: by server and slot.
    separate: Arc<Mutex<BTreeMap<(usize, usize), MemoryDevice>>>,
    /// How many faults keep a device away from everybody.
    lost: [u32; 2],
    /// The same for one node's path: by node, then device.
    path_lost: Vec<[u32; 2]>,
    stalled: [Moment; 2],
    path_stalled: Vec<[Moment; 2]>,
    /// By device, then server.
    initiators: Vec<Vec<Initiator>>,
    /// Kept aside by each node.
    branches: Vec<Branches>,
    /// By node: its state folder has no room for a branch.
    full: Vec<Arc<AtomicBool>>,
    /// Some device was put back to an earlier state, or a server sees a copy of one.
    pub has_lost_writes: bool,
    /// How many devices were made anew.
    remade: u8,
    pub room: Room,
    pub checkpoints: Checkpoints,
}

impl Media {
    /// New regions for a new cluster.
    pub fn format(shape: Shape) -> Self {
        Self::format_with(shape, Room::TINY)
    }

    /// The same, with so much room in each.
    pub fn format_with(shape: Shape, room: Room) -> Self {
        let mut locals = Vec::new();
        for id in shape.node_set().iter() {
            let region = RegionId([0x10 + id.index() as u8; 16]);
            locals.push(formatted(
                &format!("local{id}"),
                &sized(MkfsOptions::local(CLUSTER, region, id), room),
            ));
        }
        let mut devices = Vec::new();
        for role in shape.device_set().iter() {
            let region = RegionId([0x80 + role as u8; 16]);
            let slot = super::server::slot(ccd_core::ids::Replica::Device(role));
            let options = MkfsOptions::device(CLUSTER, region, replica(slot), shape.nodes as u32);
            devices.push(formatted(role.name(), &sized(options, room)));
        }
        Self {
            locals,
            nodes: shape.node_set().iter().collect(),
            areas: shape.nodes as u32,
            devices,
            separate: Arc::default(),
            lost: [0; 2],
            path_lost: vec![[0; 2]; shape.nodes],
            stalled: [Moment::ZERO; 2],
            path_stalled: vec![[Moment::ZERO; 2]; shape.nodes],
            initiators: (0..shape.devices).map(|_| initiators(shape.nodes)).collect(),
            branches: (0..shape.nodes).map(|_| Branches::default()).collect(),
            full: (0..shape.nodes).map(|_| Arc::default()).collect(),
            has_lost_writes: false,
            remade: 0,
            room,
            checkpoints: Checkpoints::default(),
        }
    }

    /// A node's way to its replica; `None` if the cluster has no such device.
    pub fn store(&self, server: usize, slot: usize) -> Option<Store> {
        let medium = match slot.checked_sub(1) {
            None => &self.locals[server],
            Some(device) => self.devices.get(device)?,
        };
        let node = self.nodes[server];
        let identity = ExpectedIdentity {
            cluster: CLUSTER,
            replica: replica(slot),
            node,
        };
        let path = Path {
            fault: Arc::new(Mutex::new(Fault::None)),
            initiator: slot
                .checked_sub(1)
                .map(|device| self.initiators[device][server].clone()),
            begun_registered: Arc::new(Mutex::new(false)),
        };
        let (shared, way) = (medium.clone(), path.clone());
        let separate = self.separate.clone();
        let opener = move || {
            let separate = separate.lock().unwrap_or_else(PoisonError::into_inner);
            let medium = separate.get(&(server, slot)).unwrap_or(&shared);
            let blocks = PathBlocks {
                medium: medium.open(),
                path: way.clone(),
            };
            Ok(Box::new(blocks) as Box<dyn Blocks>)
        };
        let (branches, full) = (self.branches[server].clone(), self.full[server].clone());
        let keeper = move |database: &ccd_core::database::Database, _: &str| {
            if full.load(Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            branches
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(database.position());
            Ok(())
        };
        Some(Store {
            driver: ReplicaDriver::new(identity, Box::new(opener), Box::new(keeper)),
            path,
            checkpoints: self.checkpoints.clone(),
        })
    }

    /// A server's way to a device's reservation.
    pub fn initiator(&self, server: usize, role: DeviceRole) -> Option<&Initiator> {
        self.initiators.get(role as usize)?.get(server)
    }

    /// The server's machine starts anew: its sessions are others, and what was in flight belongs to the old ones.
    pub fn new_sessions(&mut self, server: usize) {
        for initiators in &mut self.initiators {
            let old = initiators[server].session.load(Ordering::Relaxed);
            initiators[server].session = Arc::new(AtomicU32::new(old + 1));
        }
    }

    /// One session is made anew under a running process.
    pub fn reconnect(&mut self, server: usize, role: DeviceRole) {
        self.initiators[role as usize][server].reconnect();
    }

    /// The branches that a node has kept aside.
    pub fn branches(&self, server: usize) -> Vec<Position> {
        self.branches[server]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on the node's state folder has no room for a branch, or has room again.
    pub fn fill_state_folder(&mut self, server: usize, is_full: bool) {
        self.full[server].store(is_full, Ordering::Relaxed);
    }

    /// The node's local copy is replaced by a new one.
    pub fn wipe_local(&mut self, server: usize) {
        self.wipe_local_to(server, self.room.image_bytes);
    }

    /// The same, with room for images of so many bytes.
    pub fn wipe_local_to(&mut self, server: usize, image_bytes_max: u64) {
        let node = self.nodes[server];
        let region = RegionId([0x40 + server as u8; 16]);
        self.locals[server] = formatted(
            &format!("local{node}"),
            &sized(
                MkfsOptions::local(CLUSTER, region, node),
                self.sized_to(image_bytes_max),
            ),
        );
    }

    /// A device is made anew, with all that it held gone.
    pub fn remake_device(&mut self, role: DeviceRole) {
        self.remake_device_to(role, self.room.image_bytes);
    }

    /// The same, with room for images of so many bytes.
    pub fn remake_device_to(&mut self, role: DeviceRole, image_bytes_max: u64) {
        self.devices[role as usize] = self.new_device(role, image_bytes_max);
    }

    /// The same on the disk that processes have the name of.
    pub fn remake_device_in_place(&mut self, role: DeviceRole) {
        let anew = self.new_device(role, self.room.image_bytes);
        self.devices[role as usize].overwrite(&anew);
    }

    /// The usual room, with images of so many bytes.
    fn sized_to(&self, image_bytes: u64) -> Room {
        Room {
            image_bytes,
            ..self.room
        }
    }

    /// Another region than any before it.
    fn new_device(&mut self, role: DeviceRole, image_bytes_max: u64) -> MemoryDevice {
        self.remade += 1;
        let region = RegionId([0xc0 + self.remade; 16]);
        let slot = replica(role as usize + 1);
        let options = MkfsOptions::device(CLUSTER, region, slot, self.areas);
        formatted(role.name(), &sized(options, self.sized_to(image_bytes_max)))
    }

    /// A server more, with a copy of this one's state folder and another initiator's way to the devices.
    pub fn copy_server(&mut self, server: usize) {
        let copy = self.locals.len();
        self.locals.push(self.locals[server].fork());
        self.nodes.push(self.nodes[server]);
        self.path_lost.push([0; 2]);
        self.path_stalled.push([Moment::ZERO; 2]);
        self.branches.push(Branches::default());
        self.full.push(Arc::default());
        for initiators in &mut self.initiators {
            let initiator = Initiator {
                server: copy,
                session: Arc::default(),
                target: initiators[server].target.clone(),
            };
            initiators.push(initiator);
        }
    }

    /// A server sees another disk in place of the shared one: a new region, or a copy of the shared one.
    pub fn separate(&mut self, server: usize, role: DeviceRole, is_copy: bool) {
        self.has_lost_writes = true;
        let slot = role as usize + 1;
        let medium = if is_copy {
            self.devices[slot - 1].fork()
        } else {
            self.new_device(role, self.room.image_bytes)
        };
        let mut separate = self.separate.lock().unwrap_or_else(PoisonError::into_inner);
        separate.insert((server, slot), medium);
    }

    pub fn share(&mut self, server: usize, role: DeviceRole) {
        let mut separate = self.separate.lock().unwrap_or_else(PoisonError::into_inner);
        separate.remove(&(server, role as usize + 1));
    }

    /// What all media hold now.
    pub fn relics(&self) -> Relics {
        let forks = |media: &[MemoryDevice]| media.iter().map(MemoryDevice::fork).collect();
        Relics {
            locals: forks(&self.locals),
            devices: forks(&self.devices),
        }
    }

    /// The node's local copy holds what it held then.
    pub fn set_back_local(&mut self, server: usize, relics: &Relics) {
        self.locals[server] = relics.locals[server].fork();
    }

    /// A device holds what it held then.
    pub fn set_back_device(&mut self, role: DeviceRole, relics: &Relics) {
        self.has_lost_writes = true;
        self.devices[role as usize] = relics.devices[role as usize].fork();
    }

    /// Below whoever uses it a device is cleared, or put back to what it held then.
    pub fn overwrite_device(&mut self, role: DeviceRole, relics: Option<&Relics>) {
        self.has_lost_writes = true;
        let device = &self.devices[role as usize];
        match relics {
            None => device.overwrite(&device.blank()),
            Some(relics) => device.overwrite(&relics.devices[role as usize]),
        }
    }

    pub fn overwrite_local(&mut self, server: usize, relics: &Relics) {
        self.locals[server].overwrite(&relics.locals[server]);
    }

    /// Somebody writes over its first block.
    pub fn scribble_on_device(&mut self, role: DeviceRole) {
        self.devices[role as usize].corrupt(0, |block| block.fill(0x5A));
    }

    /// The control blocks of one kind (`CONTROL_KINDS`) in a node's area are zeros.
    pub fn clear_control(&mut self, role: DeviceRole, node: NodeId, kind: &str) {
        self.has_lost_writes = true;
        let area = END_BLOCKS + node.index() as u64 * CONTROL_BLOCKS;
        let blocks =
            (CONTROL_KINDS.iter()).find_map(|(name, blocks)| (*name == kind).then(|| blocks.clone()));
        for block in blocks.expect("it is a kind of control block") {
            let offset = (area + block) * BLOCK_BYTES as u64;
            self.devices[role as usize].corrupt(offset, |block| block.fill(0));
        }
    }

    /// The first block that the node's local copy has used since then is corrupted.
    pub fn rot_local(&mut self, server: usize, since: &Relics) {
        let before = since.locals[server].used_blocks();
        let used = self.locals[server].used_blocks();
        let block = used.into_iter().find(|block| !before.contains(block));
        let offset = block.expect("something was written") * BLOCK_BYTES as u64;
        self.locals[server].corrupt(offset, |block| block.fill(0x5A));
    }

    pub fn fail_device_writes(&mut self, role: DeviceRole, fail: bool) {
        self.devices[role as usize].fail_writes(if fail { 0..4096 } else { 0..0 });
    }

    pub fn fail_local_writes(&mut self, server: usize, fail: bool) {
        self.locals[server].fail_writes(if fail { 0..4096 } else { 0..0 });
    }

    pub fn lose_device(&mut self, role: DeviceRole) {
        self.lost[role as usize] += 1;
    }

    pub fn return_device(&mut self, role: DeviceRole) {
        self.lost[role as usize] = self.lost[role as usize].saturating_sub(1);
    }

    pub fn lose_path(&mut self, server: usize, role: DeviceRole) {
        self.path_lost[server][role as usize] += 1;
    }

    pub fn return_path(&mut self, server: usize, role: DeviceRole) {
        let lost = &mut self.path_lost[server][role as usize];
        *lost = lost.saturating_sub(1);
    }

    pub fn stall_device(&mut self, role: DeviceRole, until: Moment) {
        self.stalled[role as usize] = until;
    }

    pub fn stall_path(&mut self, server: usize, role: DeviceRole, until: Moment) {
        self.path_stalled[server][role as usize] = until;
    }

    /// Everything works again.
    pub fn mend_all(&mut self) {
        self.lost = [0; 2];
        self.stalled = [Moment::ZERO; 2];
        self.path_lost.iter_mut().for_each(|lost| *lost = [0; 2]);
        self.path_stalled
            .iter_mut()
            .for_each(|stalled| *stalled = [Moment::ZERO; 2]);
    }

    /// When this medium answers this node again, if it does not now.
    pub fn stalled_until(&self, server: usize, slot: usize, now: Moment) -> Option<Moment> {
        let device = slot.checked_sub(1)?;
        let until = self.stalled[device].max(self.path_stalled[server][device]);
        (until > now).then_some(until)
    }

    pub fn is_lost(&self, server: usize, slot: usize) -> bool {
        slot.checked_sub(1)
            .is_some_and(|device| self.lost[device] + self.path_lost[server][device] > 0)
    }

    /// The power of a server's own disk fails: what was not flushed is lost, whole or in part.
    pub fn power_cut_local(&mut self, server: usize, torn: bool, chance: &mut Random) {
        power_cut(&self.locals[server], torn, chance);
    }

    pub fn power_cut_devices(&mut self, torn: bool, chance: &mut Random) {
        self.devices
            .iter()
            .for_each(|device| power_cut(device, torn, chance));
    }
}

fn initiators(servers: usize) -> Vec<Initiator> {
    let target = Arc::new(Mutex::new(Reservations::default()));
    (0..servers)
        .map(|server| Initiator {
            server,
            session: Arc::new(AtomicU32::new(0)),
            target: Arc::clone(&target),
        })
        .collect()
}

fn power_cut(medium: &MemoryDevice, torn: bool, chance: &mut Random) {
    let kept = chance.draw();
    let mut chance = chance.fork("power");
    medium.power_cut(SECTOR_BYTES, |write, _| {
        if torn {
            chance.chance(500)
        } else {
            kept >> (write % 64) & 1 == 1
        }
    });
}

fn sized(options: MkfsOptions, room: Room) -> MkfsOptions {
    MkfsOptions {
        image_bytes_max: room.image_bytes,
        journal_bytes: room.journal_bytes,
        ..options
    }
}

fn formatted(name: &str, options: &MkfsOptions) -> MemoryDevice {
    let bytes = options.len_bytes().expect("tiny regions are possible");
    assert_eq!(bytes % BLOCK_BYTES as u64, 0);
    let medium = MemoryDevice::new(name, bytes);
    let options = MkfsOptions {
        created: Date(0),
        ..options.clone()
    };
    create(Box::new(medium.open()), &options).expect("nothing fails yet");
    medium
}
