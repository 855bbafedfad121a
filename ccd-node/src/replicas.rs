//! The node's replicas as the mirror drives them: the local copy, made on the first run, and the shared devices.

use ccd_client::Places;
use ccd_core::database::Database;
use ccd_core::ids::{DeviceRole, NodeId, Replica};
use ccd_core::init::{ClusterInit, Fencing};
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_disk::driver::{BranchKeeper, Opener};
use ccd_disk::region::{CheckpointBegun, CheckpointStep};
use ccd_disk::{
    Access, Blocks, ExpectedIdentity, MkfsOptions, RawDevice, Region, RegionError, RegionId, ReplicaDriver,
};
use ccd_mirror::{ImageWatch, Store, StoreStep};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use tokio::sync::oneshot;

use crate::branches;
use crate::clients::today;
use crate::file_id::OpenFile;

/// One replica of this node, on its thread.
pub struct RegionStore {
    driver: ReplicaDriver,
    image_watch: Option<ImageWatch>,
    checkpoint: Checkpoint,
    journal: Journal,
}

impl fmt::Debug for RegionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegionStore")
            .field("driver", &self.driver)
            .field("checkpoint", &self.checkpoint)
            .field("journal", &self.journal)
            .finish_non_exhaustive()
    }
}

/// Whether the journal may allocate when it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Settled,
    /// It is of a region that was just made and not read yet.
    New,
    /// It is being filled.
    Filling,
}

#[derive(Debug)]
enum Checkpoint {
    None,
    /// Begun, and nothing done.
    Asked(Database),
    /// The image is made on a thread of its own, so that no append waits for it.
    Encoding {
        database: Database,
        image: Receiver<Vec<u8>>,
    },
    /// A segment, or the image. The database is there for a segment that cannot be made.
    Writing(Database),
}

impl RegionStore {
    /// The node's own copy, and where it is noted which file that is; `is_new` if it has just been made.
    pub fn local(places: &Places, init: &ClusterInit, node: NodeId, is_new: bool) -> (Self, OpenFile) {
        let path = places.local_copy_path();
        let branches = places.branches_dir();
        let keeper: BranchKeeper =
            Box::new(move |database, reason| branches::keep(&branches, database, reason));
        let open_file = OpenFile::default();
        let opener = opener(path, |_| Ok(Access::Exclusive), open_file.clone());
        let store = Self::new(init, Replica::Local, node, opener, keeper);
        let journal = if is_new { Journal::New } else { Journal::Settled };
        (Self { journal, ..store }, open_file)
    }

    /// A shared device.
    pub fn device(init: &ClusterInit, role: DeviceRole, path: &str, node: NodeId) -> Self {
        let fencing = init.options().fencing;
        let access = move |path: &Path| access(path, fencing);
        let opener = opener(PathBuf::from(path), access, OpenFile::default());
        let keeper: BranchKeeper =
            Box::new(|_, _| Err(io::Error::other("branches are kept beside the local copy")));
        Self::new(init, Replica::Device(role), node, opener, keeper)
    }

    fn new(init: &ClusterInit, replica: Replica, node: NodeId, opener: Opener, keeper: BranchKeeper) -> Self {
        let cluster = init.id();
        let identity = ExpectedIdentity {
            cluster,
            replica,
            node,
        };
        Self {
            driver: ReplicaDriver::new(identity, opener, keeper),
            image_watch: None,
            checkpoint: Checkpoint::None,
            journal: Journal::Settled,
        }
    }
}

impl RegionStore {
    fn writing(
        &mut self,
        database: Database,
        done_bytes: u64,
        total_bytes: u64,
    ) -> Result<StoreStep, ReplicaError> {
        self.checkpoint = Checkpoint::Writing(database);
        Ok(StoreStep::More {
            done_bytes,
            total_bytes,
        })
    }

    /// As the driver executes it, and it is told how far it is.
    fn write_image(
        &mut self,
        database: &Database,
        watch: &ImageWatch,
    ) -> Result<ReplicaAnswer, ReplicaError> {
        let image = database.to_image();
        let region = self.driver.region()?;
        region.write_image_in_steps(database.position(), image, &mut |done_bytes, total_bytes| {
            watch(done_bytes, total_bytes);
            true
        })?;
        Ok(ReplicaAnswer::Written)
    }

    fn encode(&mut self, database: Database) -> Result<StoreStep, ReplicaError> {
        let (done, image) = sync_channel(1);
        let copy = database.clone();
        let encode = move || {
            // Nobody waits any more if the checkpoint was given up.
            let _ = done.send(copy.to_image());
        };
        let thread = std::thread::Builder::new().name("ccd-image".into()).spawn(encode);
        thread.map_err(|error| ReplicaError {
            kind: ReplicaErrorKind::Io,
            text: format!("no thread for making an image: {error}"),
        })?;
        self.checkpoint = Checkpoint::Encoding { database, image };
        Ok(StoreStep::NotYet)
    }
}

impl Store for RegionStore {
    fn region(&mut self) -> Option<&mut Region> {
        self.driver.region().ok()
    }

    fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        if matches!(op, ReplicaOp::Load) && self.journal == Journal::New {
            self.journal = Journal::Filling;
            self.driver.region()?.note_untouched();
        }
        match (op, self.image_watch.clone()) {
            (ReplicaOp::WriteImage { database }, Some(watch)) => self.write_image(&database, &watch),
            (op, _) => self.driver.execute(op),
        }
    }

    fn watch_images(&mut self, watch: ImageWatch) {
        self.image_watch = Some(watch);
    }

    fn has_idle_work(&self) -> bool {
        self.journal == Journal::Filling
    }

    fn idle_step(&mut self) -> bool {
        let filled = self.driver.region().map_err(|error| error.text);
        let filled = filled.and_then(|region| region.fill_journal_step().map_err(|error| error.to_string()));
        let more = filled.unwrap_or_else(|error| {
            // The region takes no more writes, as whoever asks for the next one hears.
            tracing::warn!("the journal of the new local copy was not filled: {error}");
            false
        });
        if !more {
            self.journal = Journal::Settled;
        }
        more
    }

    fn repair(&mut self, database: Database) -> Result<(), ReplicaError> {
        let expected = database.position();
        let region = self.driver.region()?;
        let got = region.own_position()?;
        if got != expected {
            return Err(ReplicaError {
                kind: ReplicaErrorKind::Damaged,
                text: format!("not repaired from a copy at {expected}: the replica stands at {got} now"),
            });
        }
        self.driver.execute(ReplicaOp::WriteImage { database }).map(drop)
    }

    fn begin_checkpoint(&mut self, database: Database) -> Result<(), ReplicaError> {
        self.checkpoint = Checkpoint::Asked(database);
        Ok(())
    }

    fn step_checkpoint(&mut self) -> Result<StoreStep, ReplicaError> {
        match std::mem::replace(&mut self.checkpoint, Checkpoint::None) {
            Checkpoint::None => Ok(StoreStep::Done),
            Checkpoint::Asked(database) => {
                let image_len_bytes = database.image_len_bytes();
                let begun = (self.driver.region()?).begin_checkpoint(database.position(), image_len_bytes)?;
                match begun {
                    CheckpointBegun::Nothing => Ok(StoreStep::Done),
                    CheckpointBegun::Segment => self.writing(database, 0, 0),
                    CheckpointBegun::ImageWanted => self.encode(database),
                }
            }
            Checkpoint::Encoding { database, image } => match image.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.checkpoint = Checkpoint::Encoding { database, image };
                    Ok(StoreStep::NotYet)
                }
                Err(TryRecvError::Disconnected) => Err(ReplicaError {
                    kind: ReplicaErrorKind::Damaged,
                    text: "making an image of the database failed".into(),
                }),
                Ok(image) => {
                    let total_bytes = image.len() as u64;
                    if self.driver.region()?.begin_image(database.position(), image)? {
                        self.writing(database, 0, total_bytes)
                    } else {
                        Ok(StoreStep::Done)
                    }
                }
            },
            Checkpoint::Writing(database) => match self.driver.region()?.checkpoint_step()? {
                CheckpointStep::More {
                    done_bytes,
                    total_bytes,
                } => self.writing(database, done_bytes, total_bytes),
                CheckpointStep::ImageWanted => self.encode(database),
                CheckpointStep::Done => Ok(StoreStep::Done),
            },
        }
    }

    /// The region itself drops a checkpoint when a whole image, a newer checkpoint or a new opening makes it void.
    fn abandon_checkpoint(&mut self) {
        self.checkpoint = Checkpoint::None;
    }
}

fn opener(
    path: PathBuf,
    access: impl Fn(&Path) -> io::Result<Access> + Send + 'static,
    open_file: OpenFile,
) -> Opener {
    Box::new(move || {
        let device = RawDevice::open(&path, access(&path)?)?;
        open_file.note(&device);
        Ok(Box::new(device) as Box<dyn Blocks>)
    })
}

/// Loop devices, in `Documentation/admin-guide/devices.txt` of the kernel.
const LOOP_MAJOR: u64 = 7;

/// A plain file or loop device stands for a shared disk between daemons of one machine, so the others must be able
/// to open it too. A real device is on several machines, and on each of them it is one daemon's alone.
fn access(path: &Path, fencing: Fencing) -> io::Result<Access> {
    let metadata = fs::metadata(path)?;
    let is_loop =
        metadata.file_type().is_block_device() && nix::sys::stat::major(metadata.rdev()) == LOOP_MAJOR;
    let stands_for_a_disk = metadata.is_file() || is_loop;
    Ok(if stands_for_a_disk && fencing == Fencing::Lease {
        Access::Shared
    } else {
        Access::Exclusive
    })
}

/// Why the local copy could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LocalCopyError {
    #[error("cannot make the local copy {}: {source}; is the file system full or read-only?", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot make the local copy: {0}")]
    Region(#[from] RegionError),
}

/// Makes the local copy if there is none, on a thread of its own: meanwhile the peers are met. Returns where it is told whether one
/// was made.
///
/// # Errors
/// When no thread can be started.
pub fn begin_local_copy(
    places: &Places,
    init: &ClusterInit,
    node: NodeId,
) -> io::Result<oneshot::Receiver<Result<bool, LocalCopyError>>> {
    let (done, made) = oneshot::channel();
    if places.local_copy_path().exists() {
        // Nobody is gone yet.
        let _ = done.send(Ok(false));
        return Ok(made);
    }
    let (places, init) = (places.clone(), init.clone());
    let make = move || {
        // The daemon may have ended for another reason.
        let _ = done.send(make_local_copy(&places, &init, node));
    };
    std::thread::Builder::new().name("ccd-make".into()).spawn(make)?;
    Ok(made)
}

/// Made under another name: a copy that is there is whole.
fn make_local_copy(places: &Places, init: &ClusterInit, node: NodeId) -> Result<bool, LocalCopyError> {
    let path = places.local_copy_path();
    let on_file = |source| LocalCopyError::File {
        path: path.clone(),
        source,
    };
    if path.try_exists().map_err(on_file)? {
        return Ok(false);
    }
    let unfinished = path.with_extension("region.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(on_file(error)),
        _ => {}
    }
    let mut region = [0; 16];
    random(&mut region).map_err(on_file)?;
    let options = MkfsOptions {
        image_bytes_max: u64::from(init.options().image_mib) << 20,
        journal_bytes: u64::from(init.options().journal_mib) << 20,
        label: init.name().to_owned(),
        created: today(),
        ..MkfsOptions::local(init.id(), RegionId(region), node)
    };
    let device = RawDevice::create_file(&unfinished, options.len_bytes()?).map_err(on_file)?;
    ccd_disk::create_reserved(Box::new(device), &options)?;
    fs::rename(&unfinished, &path).map_err(on_file)?;
    File::open(&places.state)
        .and_then(|folder| folder.sync_all())
        .map_err(on_file)?;
    Ok(true)
}

/// Fills the bytes with randomness of the kernel.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    use std::io::Read;
    File::open("/dev/urandom")?.read_exact(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::ClusterId;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_whole_image_is_written_as_the_driver_does_it_and_told_of_on_the_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("primary");
        let node = NodeId::new(0).expect("a node number");
        let id = ClusterId([7; 16]);
        let text = format!(
            "CLUSTER:prod:{id}\nNODE:0:alpha\nNODE:1:beta\nADDRESS:alpha:10.0.0.1:5640\nADDRESS:beta:10.0.0.2:5640\n\
             DEVICE:primary:{}\nOPTION:fencing:lease\n",
            path.display()
        );
        let init = ClusterInit::parse(&text).expect("it is an init database");
        let replica = Replica::Device(DeviceRole::Primary);
        let options = MkfsOptions::device(id, RegionId([1; 16]), replica, 2).tiny();
        let len_bytes = options.len_bytes().expect("it is small");
        ccd_disk::create_in_file(&path, len_bytes, &options, &mut |_, _| {}).expect("there is room");
        let name = path.to_str().expect("the path is ours");
        let mut store = RegionStore::device(&init, DeviceRole::Primary, name, node);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        store.watch_images(Arc::new(move |done_bytes, total_bytes| {
            tell.lock().expect("no panic").push((done_bytes, total_bytes));
        }));
        let database = Database::default();
        let image_len_bytes = database.image_len_bytes();
        let write = || ReplicaOp::WriteImage {
            database: database.clone(),
        };
        assert!(store.execute(write()).is_err(), "it is not open");
        store.execute(ReplicaOp::Open).expect("the region is there");
        store.execute(write()).expect("it fits");
        assert_eq!(
            *told.lock().expect("no panic"),
            [(image_len_bytes, image_len_bytes)]
        );
        let loaded = store.execute(ReplicaOp::Load).expect("it can be read");
        assert!(
            matches!(&loaded, ReplicaAnswer::Loaded(loaded) if loaded.heads == [(node, database.position())]),
            "{loaded:?}"
        );
    }
}
