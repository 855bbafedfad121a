//! The two devices of a resync: that they are a pair, that no daemon has them, and what they say.
//!
//! Always holds, while a [`Pair`] lives and is to be written: both devices are held exclusively, and the state folder's lock, so no
//! daemon of this node starts; and every other node's heartbeat stood still for more than a lease.

use super::super::progress::Watched;
use super::super::{Failure, Global, cluster, exit, open};
use super::ResyncArgs;
use crate::device::{Access, Blocks};
use crate::error::RegionError;
use crate::region::handle::Handle;
use crate::region::label::Label;
use crate::region::{ExpectedIdentity, Region};
use crate::resync::{Copy, Seen, see};
use ccd_core::configuration::BallotBlock;
use ccd_core::database::Database;
use ccd_core::ids::{ClusterId, DeviceRole, NodeId, Replica};
use ccd_core::init::ClusterInit;
use ccd_core::protocol::rules::Source;
use ccd_core::replica::Heartbeat;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As the protocol's default, where no init database says another.
const LEASE_DEFAULT: Duration = Duration::from_millis(1000);

/// One of the two.
#[derive(Debug)]
pub struct Device {
    pub path: PathBuf,
    pub role: DeviceRole,
    region: Region,
}

/// What every node says on a device that changes while a daemon runs.
type Signs = Vec<(NodeId, Option<Heartbeat>, Option<BallotBlock>)>;

/// Both devices, open.
#[derive(Debug)]
pub struct Pair {
    pub cluster: ClusterId,
    /// Whose server this is.
    pub node: NodeId,
    pub target: Device,
    pub twin: Device,
    init: Option<ClusterInit>,
    signs: [Signs; 2],
    /// Held until the end.
    _locks: Vec<File>,
}

/// Looks at the twin while the target is written.
#[derive(Debug)]
pub struct Watch<'a> {
    twin: &'a mut Device,
    signs: &'a Signs,
    init: Option<&'a ClusterInit>,
    cluster: ClusterId,
}

/// What a path's labels say.
struct Named {
    path: PathBuf,
    role: DeviceRole,
    cluster: ClusterId,
    region: crate::format::header::RegionId,
}

impl Pair {
    /// Opens both, to be written unless this is a rehearsal.
    pub fn open(global: &Global, args: &ResyncArgs) -> Result<Self, Failure> {
        let target = named(&args.path, true)?;
        let init = cluster::of(global).ok();
        let twin_path = match (&args.from, &init) {
            (Some(path), _) => path.clone(),
            (None, Some(init)) if init.id() == target.cluster => {
                let other = other_than(target.role);
                cluster::device_path(init, other).ok_or_else(|| unknown_twin(&args.path))?
            }
            _ => return Err(unknown_twin(&args.path)),
        };
        let twin = named(&twin_path, false)?;
        check_pair(&target, &twin)?;
        let init = init.filter(|init| init.id() == target.cluster);
        let node = own_node(global, args, init.as_ref())?;
        let locks = lock(global)?;
        let device = |named: &Named| -> Result<Device, Failure> {
            let raw = open(&named.path, global.access_to_write())?;
            let expected = ExpectedIdentity {
                cluster: named.cluster,
                replica: Replica::Device(named.role),
                node,
            };
            let region = Region::open(Box::new(Watched::new(global, raw)), expected)?;
            Ok(Device {
                path: named.path.clone(),
                role: named.role,
                region,
            })
        };
        Ok(Self {
            cluster: target.cluster,
            node,
            twin: device(&twin)?,
            target: device(&target)?,
            init,
            signs: [Vec::new(), Vec::new()],
            _locks: locks,
        })
    }

    /// Waits for more than a lease, in which nothing may change on either device.
    pub fn wait_for_quiet(&mut self, global: &Global) -> Result<(), Failure> {
        self.signs = [signs(&mut self.twin)?, signs(&mut self.target)?];
        let lease = self
            .init
            .as_ref()
            .map_or(LEASE_DEFAULT, |init| init.options().lease);
        if global.verbose {
            global.note(&format!(
                "waiting {} ms to see that no heartbeat moves",
                (lease + lease / 4).as_millis()
            ));
        }
        std::thread::sleep(lease + lease / 4);
        let init = self.init.as_ref();
        still_quiet(&mut self.twin, &self.signs[0], init, self.cluster)?;
        still_quiet(&mut self.target, &self.signs[1], init, self.cluster)
    }

    pub fn see_twin(&mut self) -> Result<(Seen, Database), Failure> {
        Ok(see(&mut self.twin.region, Source::Device(self.twin.role))?)
    }

    pub fn see_target(&mut self) -> Result<Seen, Failure> {
        Ok(see(&mut self.target.region, Source::Device(self.target.role))?.0)
    }

    /// This node's own copy, if it is there and can be read: what it says of votes can make certain what the devices cannot.
    pub fn see_local(&self, global: &Global) -> Result<Option<Seen>, Failure> {
        let path = global.state.join("local.region");
        if !path.exists() {
            return Ok(None);
        }
        let expected = ExpectedIdentity {
            cluster: self.cluster,
            replica: Replica::Local,
            node: self.node,
        };
        let seen = open(&path, Access::ReadOnly)
            .and_then(|device| Region::open(Box::new(Watched::new(global, device)), expected))
            .and_then(|mut region| see(&mut region, Source::Node(self.node)));
        match seen {
            Ok((seen, _)) => Ok(Some(seen)),
            // Its area would be written by somebody else.
            Err(RegionError::NoArea { first, .. }) => Err(Failure::new(
                exit::USAGE,
                format!(
                    "CCD-2140 {} is the copy of node {first}, and this server was said to be node {}; nothing was changed. Check --node                      and --state",
                    path.display(),
                    self.node
                ),
            )),
            Err(error) => {
                global.note(&format!("the local copy is left out: {error}"));
                Ok(None)
            }
        }
    }

    /// Whether what is to be written can be, and would then count.
    pub fn check_room(&mut self, copy: &Copy, image_bytes: u64) -> Result<(), Failure> {
        let region = &mut self.target.region;
        let max_bytes = region.image_bytes_max();
        if image_bytes > max_bytes {
            let device = self.target.path.display().to_string();
            return Err(RegionError::ImageTooLarge {
                device,
                image_bytes,
                max_bytes,
            }
            .into());
        }
        let damage = region.damage_elsewhere(copy.position.stamp)?;
        if damage.is_empty() {
            return Ok(());
        }
        let (path, role) = (self.target.path.display(), self.target.role);
        Err(Failure::new(
            exit::INTEGRITY,
            format!(
                "CCD-2136 the {role} {path} is damaged where only other nodes write ({}); nothing was changed. Start ccdd on all nodes, or \
                 make the region anew with `ccd-disk mkfs --role {role}`",
                damage.join("; ")
            ),
        ))
    }

    /// The target, and who looks whether a daemon has started meanwhile.
    pub fn for_writing(&mut self) -> (&mut Region, Watch<'_>) {
        let watch = Watch {
            twin: &mut self.twin,
            signs: &self.signs[0],
            init: self.init.as_ref(),
            cluster: self.cluster,
        };
        (&mut self.target.region, watch)
    }

    /// Reads back what was written.
    pub fn verify(&mut self, copy: &Copy) -> Result<(), Failure> {
        let seen = self.see_target()?;
        if seen.position == copy.position && seen.damage.is_none() {
            return Ok(());
        }
        let path = self.target.path.display();
        let found = seen.damage.unwrap_or_else(|| seen.position.to_string());
        Err(Failure::new(
            exit::IO,
            format!(
                "CCD-2139 {path} does not hold what was written: {found} in place of {}; check the device and `dmesg`, then repeat it",
                copy.position
            ),
        ))
    }
}

impl Watch<'_> {
    pub fn still_quiet(&mut self) -> Result<(), Failure> {
        still_quiet(self.twin, self.signs, self.init, self.cluster)
    }
}

fn signs(device: &mut Device) -> Result<Signs, Failure> {
    let areas = device.region.control()?;
    let signs = areas
        .into_iter()
        .map(|area| (area.node, area.heartbeat, area.ballot));
    Ok(signs.collect())
}

/// Compared for change only, never by clock.
fn still_quiet(
    device: &mut Device,
    before: &Signs,
    init: Option<&ClusterInit>,
    cluster: ClusterId,
) -> Result<(), Failure> {
    let now = signs(device)?;
    let Some((node, ..)) = now.iter().find(|sign| !before.contains(sign)) else {
        return Ok(());
    };
    let node = cluster::node_text(init, cluster, *node);
    Err(Failure::new(
        exit::BUSY,
        format!(
            "CCD-2130 the ccdd of {node} runs: its blocks on {} change. It brings devices back by itself (`ccdadm status`); to do it here, \
             stop ccdd on all nodes",
            device.path.display()
        ),
    ))
}

fn named(path: &Path, is_target: bool) -> Result<Named, Failure> {
    let mut handle = Handle::new(Box::new(open(path, Access::ReadOnly)?) as Box<dyn Blocks>);
    let label = Label::read(&mut handle).map_err(|error| match error {
        RegionError::NoRegion { .. } if is_target => Failure::new(
            exit::BAD_DATA,
            format!(
                "CCD-2138 {0} is no region, so there is nothing to bring up to date; make one first: `ccd-disk mkfs --role ROLE {0}`",
                path.display()
            ),
        ),
        error => error.into(),
    })?;
    let identity = label.superblock.identity;
    match identity.replica {
        Replica::Device(role) => Ok(Named {
            path: path.to_owned(),
            role,
            cluster: identity.cluster,
            region: identity.region,
        }),
        Replica::Local => Err(no_pair(format!(
            "{} is the local copy of a node, and no device; ccdd brings it up to date from the others",
            path.display()
        ))),
    }
}

fn check_pair(target: &Named, twin: &Named) -> Result<(), Failure> {
    let (one, other) = (target.path.display(), twin.path.display());
    if target.region == twin.region {
        return Err(no_pair(format!("{one} and {other} are one device")));
    }
    if target.cluster != twin.cluster {
        return Err(no_pair(format!(
            "{one} belongs to cluster {}, and {other} to cluster {}",
            target.cluster, twin.cluster
        )));
    }
    if target.role == twin.role {
        return Err(no_pair(format!("{one} and {other} are both the {}", twin.role)));
    }
    Ok(())
}

fn no_pair(why: String) -> Failure {
    Failure::new(
        exit::REFUSED,
        format!(
            "CCD-2131 these are no pair: {why}; nothing was changed. See `ccd-disk show`, and the DEVICE rows of init.ccd"
        ),
    )
}

fn unknown_twin(path: &Path) -> Failure {
    Failure::new(
        exit::USAGE,
        format!(
            "CCD-2137 which device is the twin of {} is not known: no init.ccd of its cluster names it; give --from PATH, or its folder \
             with --etc",
            path.display()
        ),
    )
}

fn other_than(role: DeviceRole) -> DeviceRole {
    match role {
        DeviceRole::Primary => DeviceRole::Secondary,
        DeviceRole::Secondary => DeviceRole::Primary,
    }
}

fn own_node(global: &Global, args: &ResyncArgs, init: Option<&ClusterInit>) -> Result<NodeId, Failure> {
    let unknown = || {
        Failure::new(
            exit::USAGE,
            format!(
                "CCD-2123 which node this server is, {} does not say; give --node NAME",
                global.etc.join("node").display()
            ),
        )
    };
    let Some(text) = &args.node else {
        return init
            .and_then(|init| cluster::own_node(global, init))
            .ok_or_else(unknown);
    };
    let by_number = text.parse().ok().and_then(NodeId::new);
    let by_name = || init.and_then(|init| init.node_named(text)).map(|node| node.id);
    by_number.or_else(by_name).ok_or_else(|| {
        Failure::new(
            exit::USAGE,
            format!("CCD-2122 there is no node {text:?}; give its number, or its name if init.ccd is there"),
        )
    })
}

/// The locks that a daemon holds as long as it runs: the file, and the folder itself if nobody else can open that, for the file may have
/// been removed. None: there is no state folder, so no daemon has run here.
fn lock(global: &Global) -> Result<Vec<File>, Failure> {
    let path = global.state.join("lock");
    let file = match File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
    {
        Err(missing)
            if missing.kind() == io::ErrorKind::NotFound && !global.dry_run && global.state.is_dir() =>
        {
            File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                // A user who could open it could lock it.
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened,
    };
    let mut locks = vec![file.map_err(|source| RegionError::io("open", path.display().to_string(), source))?];
    let folder = File::open(&global.state).and_then(|folder| Ok((folder.metadata()?.mode(), folder)));
    let (mode, folder) =
        folder.map_err(|source| RegionError::io("open", global.state.display().to_string(), source))?;
    if mode & 0o044 == 0 {
        locks.push(folder);
    }
    match locks.iter().try_for_each(File::try_lock) {
        Ok(()) => Ok(locks),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            exit::BUSY,
            format!(
                "CCD-2130 ccdd runs here, with the state folder {}. It brings devices back by itself (`ccdadm status`); to do it here, \
                 stop ccdd on all nodes",
                global.state.display()
            ),
        )),
        Err(TryLockError::Error(source)) => {
            Err(RegionError::io("lock", path.display().to_string(), source).into())
        }
    }
}
