//! Makes a region: what `ccd-disk mkfs` and a node that makes its local copy do.

use super::handle::Handle;
use crate::device::{Blocks, Buffer, RawDevice, sync_folder_of};
use crate::error::RegionError;
use crate::format::geometry::{END_BLOCKS, Geometry, IMAGE_BYTES_DEFAULT, JOURNAL_BYTES_DEFAULT, Slot};
use crate::format::header::{Identity, RegionId};
use crate::format::superblock::{LABEL_BYTES_MAX, Superblock};
use ccd_core::ids::{ClusterId, NodeId, Replica};
use ccd_core::time::Date;
use std::io;
use std::path::{Path, PathBuf};

/// What a region is to be.
#[derive(Clone, Debug)]
pub struct MkfsOptions {
    pub cluster: ClusterId,
    /// Random; two regions never have the same.
    pub region: RegionId,
    pub replica: Replica,
    /// The node of the first area: 0 for a device, the owner for a local copy.
    pub first_node: NodeId,
    /// Areas: the cluster's nodes for a device, 1 for a local copy.
    pub areas: u32,
    pub image_bytes_max: u64,
    pub journal_bytes: u64,
    pub twin: Option<RegionId>,
    /// The cluster's name; cut at 64 bytes.
    pub label: String,
    pub created: Date,
}

impl MkfsOptions {
    /// A shared device with one area for each of `nodes_count` nodes, of the default size.
    pub fn device(cluster: ClusterId, region: RegionId, replica: Replica, nodes_count: u32) -> Self {
        Self {
            cluster,
            region,
            replica,
            first_node: NodeId::new(0).expect("0 is a node number"),
            areas: nodes_count,
            image_bytes_max: IMAGE_BYTES_DEFAULT,
            journal_bytes: JOURNAL_BYTES_DEFAULT,
            twin: None,
            label: String::new(),
            created: Date::default(),
        }
    }

    /// The local copy of a node, of the default size.
    pub fn local(cluster: ClusterId, region: RegionId, node: NodeId) -> Self {
        Self {
            first_node: node,
            ..Self::device(cluster, region, Replica::Local, 1)
        }
    }

    /// The smallest useful size, for tests and simulations: images and journal of 64 KiB.
    #[must_use]
    pub fn tiny(self) -> Self {
        Self {
            image_bytes_max: 64 << 10,
            journal_bytes: 64 << 10,
            ..self
        }
    }

    /// How large a device or file must be for this, in bytes.
    pub fn len_bytes(&self) -> Result<u64, RegionError> {
        Ok(self.geometry(u64::MAX, "the device")?.blocks_needed() * crate::device::BLOCK_BYTES as u64)
    }

    fn superblock(&self, handle: &Handle) -> Result<Superblock, RegionError> {
        Ok(Superblock {
            identity: Identity {
                cluster: self.cluster,
                region: self.region,
                replica: self.replica,
            },
            geometry: self.geometry(handle.len_blocks(), &handle.name())?,
            twin: self.twin,
            label: self.label[..self.label.floor_char_boundary(LABEL_BYTES_MAX)].to_owned(),
            created: self.created,
            features_compatible: 0,
        })
    }

    pub(crate) fn geometry(&self, blocks: u64, device: &str) -> Result<Geometry, RegionError> {
        let image_blocks = Geometry::image_blocks_for(self.image_bytes_max);
        let journal_blocks = self.journal_bytes / crate::device::BLOCK_BYTES as u64;
        Geometry::new(blocks, self.first_node, self.areas, image_blocks, journal_blocks).map_err(|source| {
            RegionError::Geometry {
                device: device.to_owned(),
                source,
            }
        })
    }
}

/// Blocks zeroed between two calls of a progress function: 4 MiB.
const ZERO_STEP_BLOCKS: u64 = 1024;

/// Makes a region over whatever the device holds. Returns its superblock.
pub fn create(blocks: Box<dyn Blocks>, options: &MkfsOptions) -> Result<Superblock, RegionError> {
    create_with_progress(blocks, options, &mut |_, _| {})
}

/// The same; `progress` is told how many blocks of how many are done.
///
/// The order: old superblocks go first, everything else is zeroed (so no append has to allocate; of a file, images may the
/// first time), and only then the
/// new superblocks are written, the one at the end first: a device whose mkfs was cut off is no region.
pub fn create_with_progress(
    blocks: Box<dyn Blocks>,
    options: &MkfsOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Superblock, RegionError> {
    let mut handle = Handle::new(blocks);
    let superblock = options.superblock(&handle)?;
    let geometry = superblock.geometry;
    handle.zero(0, 1)?;
    handle.zero(geometry.last_block(), 1)?;
    handle.flush()?;
    let used = geometry.blocks_needed() - END_BLOCKS;
    let mut done = 0;
    while done < used {
        let images = (geometry.nodes())
            .flat_map(|node| Slot::ALL.map(|slot| geometry.slot(node, slot) + 1))
            .map(|first| first..first + u64::from(geometry.image_blocks));
        let next = images
            .filter(|image| image.end > done)
            .min_by_key(|image| image.start);
        let step = match next {
            Some(image) if image.contains(&done) => {
                handle.reserve_zeros(done, image.end - done)?;
                image.end - done
            }
            next => {
                let end = next.map_or(used, |image| image.start);
                let step = ZERO_STEP_BLOCKS.min(end - done);
                handle.zero(done, step)?;
                step
            }
        };
        done += step;
        progress(done, used);
    }
    handle.zero(geometry.blocks - END_BLOCKS, END_BLOCKS)?;
    handle.flush()?;
    label(&mut handle, &superblock)?;
    Ok(superblock)
}

/// Makes a region in a file that was made for it: all of it is the file's at once, so nothing later fails for want of room, and
/// reads as zeros; but nothing is written yet, so that a node that waits for its local copy waits for two blocks and one flush. A
/// crash before this returns may leave anything: the caller gives the file its name afterwards. The first write to each place takes
/// longer; whoever opens the region can see to the journal meanwhile
/// ([`Region::fill_journal_step`](super::Region::fill_journal_step)).
pub fn create_reserved(blocks: Box<dyn Blocks>, options: &MkfsOptions) -> Result<Superblock, RegionError> {
    let mut handle = Handle::new(blocks);
    let superblock = options.superblock(&handle)?;
    handle.reserve_zeros(0, superblock.geometry.blocks)?;
    for number in [superblock.geometry.last_block(), 0] {
        let mut block = Buffer::zeroed(1);
        *block.block_mut(0) = superblock.encode(number);
        handle.write_unflushed(number, &block)?;
    }
    handle.flush()?;
    Ok(superblock)
}

fn label(handle: &mut Handle, superblock: &Superblock) -> Result<(), RegionError> {
    for number in [superblock.geometry.last_block(), 0] {
        handle.write_block(number, &superblock.encode(number))?;
    }
    Ok(())
}

/// Makes a region in a new file of `len_bytes`, whole or not at all: a crash in between leaves a file named `….making`, which
/// the next attempt removes. Refuses a path that exists.
pub fn create_in_file(
    path: &Path,
    len_bytes: u64,
    options: &MkfsOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Superblock, RegionError> {
    let named = |doing| move |source| RegionError::io(doing, path.display().to_string(), source);
    if path.try_exists().map_err(named("look at"))? {
        return Err(named("create")(io::ErrorKind::AlreadyExists.into()));
    }
    let mut making = path.as_os_str().to_owned();
    making.push(".making");
    let making = PathBuf::from(making);
    match std::fs::remove_file(&making) {
        Err(failed) if failed.kind() != io::ErrorKind::NotFound => return Err(named("create")(failed)),
        _ => {}
    }
    let device = RawDevice::create_file(&making, len_bytes).map_err(named("create"))?;
    let made = create_with_progress(Box::new(device), options, progress).and_then(|superblock| {
        // Unlike a rename, a link never replaces what another process has made there meanwhile.
        std::fs::hard_link(&making, path).map_err(named("create"))?;
        Ok(superblock)
    });
    let removed = std::fs::remove_file(&making).map_err(named("create"));
    let superblock = made?;
    removed?;
    sync_folder_of(path).map_err(named("create"))?;
    Ok(superblock)
}
