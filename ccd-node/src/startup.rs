//! Everything that is checked and read before the daemon serves; each failure with its exit code.

use crate::clients::NameLookup;
use crate::decisions::Decisions;
use crate::descriptors;
use crate::fences;
use crate::locks::{self, Locks, RUN_FOLDER_MODE};
use crate::nodes;
use crate::peers::{Digest, Identity, Roster, Versions};
use crate::replicas::{self, LocalCopyError, RegionStore};
use ccd_client::files::{Authkeys, read_init, read_text, this_node};
use ccd_client::{CcdError, Exit, Places};
use ccd_core::database::RECORD_BYTES_MAX;
use ccd_core::ids::{Incarnation, NodeId, NodeSet, Replica};
use ccd_core::init::{ClusterInit, INIT_BYTES_MAX, InitFile};
use ccd_core::protocol::{IMAGE_CHUNK_BYTES, Settings};
use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;

/// Says to systemd: starting me again will not help before somebody changes something.
pub const DO_NOT_RESPAWN: u8 = 100;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct StartupError {
    pub exit_code: u8,
    pub text: String,
}

impl StartupError {
    /// Only a change of the configuration helps.
    pub(crate) fn configuration(error: impl Display) -> Self {
        let text = error.to_string();
        Self {
            exit_code: DO_NOT_RESPAWN,
            text,
        }
    }

    /// What is wrong with the files in `/etc/ccd`, with what the catalogue of messages says to try.
    fn files(error: CcdError) -> Self {
        let message = error.message();
        Self::configuration(format!("{message}: {error}; try: {}", message.action))
    }

    pub fn new(exit: Exit, text: impl Display) -> Self {
        let text = text.to_string();
        Self {
            exit_code: exit.code(),
            text,
        }
    }
}

/// What a daemon needs to run.
#[derive(Debug)]
pub struct Startup {
    pub places: Places,
    pub init: ClusterInit,
    pub me: NodeId,
    pub identity: Identity,
    /// Looking names up may take a while, and nothing waits for it.
    pub names: NameLookup,
    pub settings: Settings,
    pub decisions: Decisions,
    /// Whether the local copy was made, once it is there.
    pub local_copy: oneshot::Receiver<Result<bool, LocalCopyError>>,
    pub devices: Vec<(Replica, RegionStore)>,
    /// Between two background passes over the devices.
    pub scrub_every: Duration,
    /// The option that said which node this is; without it the node file did.
    pub node: Option<String>,
    /// Held for as long as the daemon lives.
    pub locks: Locks,
}

/// Reads the configuration, takes the state folder, and begins to make the local copy if there is none.
///
/// # Errors
/// With the exit code that the process is to end with.
pub fn prepare(places: Places, node: Option<&str>, scrub_every: Duration) -> Result<Startup, StartupError> {
    descriptors::check()?;
    let init = read_init(&places).map_err(StartupError::files)?;
    let keys = Authkeys::read(&places).map_err(StartupError::files)?;
    let me = this_node(&places, &init, node).map_err(StartupError::files)?.id;
    let names = NameLookup::begin(init.access().to_vec()).map_err(no_thread)?;
    fences::check(&init)?;
    make_folder(&places.state, 0o700)?;
    make_folder(&places.run, RUN_FOLDER_MODE)?;
    let locks = Locks::take(&places)?;
    let local_copy = replicas::begin_local_copy(&places, &init, me).map_err(no_thread)?;
    let decisions_path = places.decisions_path();
    let decisions = Decisions::open(&decisions_path).map_err(|error| {
        StartupError::new(
            Exit::Io,
            format!("cannot write {}: {error}", decisions_path.display()),
        )
    })?;
    let mut incarnation = [0; 8];
    replicas::random(&mut incarnation)
        .map_err(|error| StartupError::new(Exit::Io, format!("/dev/urandom: {error}")))?;
    let text = read_text(&places.init_path(), INIT_BYTES_MAX as u64).map_err(StartupError::files)?;
    let file = InitFile::parse(&text).map_err(StartupError::configuration)?;
    let staged = nodes::left_over(&places, &init);
    let roster = Roster {
        nodes: file.nodes,
        digest: Digest(file.digest),
        other: staged.as_ref().map(|staged| Digest(staged.digest)),
        added: NodeSet::EMPTY,
        servers: file.servers,
    };
    let options = init.options();
    let settings = Settings {
        me,
        cluster: init.id(),
        nodes: file.nodes,
        init: file,
        staged,
        devices: init.device_set(),
        incarnation: Incarnation(u64::from_le_bytes(incarnation)),
        host: crate::host::host(locks.state.file(), roster.servers.get(me)),
        heartbeat: options.heartbeat,
        lease: options.lease,
        fencing: options.fencing,
        disk_deadline: options.disk_deadline,
        propagation: options.propagation,
        update_propagation: options.update_propagation,
        sync_timeout: options.sync_timeout,
        image_chunk_bytes: IMAGE_CHUNK_BYTES,
        update_bytes_whole_max: RECORD_BYTES_MAX,
        content_bytes_max: u64::from(options.image_mib) << 20,
        read_budget: crate::reads::LOOP_BUDGET,
        update_budget: crate::update_workers::LOOP_BUDGET,
    };
    let identity = Identity {
        me,
        run: settings.incarnation,
        cluster: init.id(),
        roster: RefCell::new(roster),
        progress: Cell::default(),
        servers: Cell::default(),
        versions: Versions::OURS,
        keys: RefCell::new(keys),
    };
    let devices = init.devices().iter().map(|device| {
        let store = RegionStore::device(&init, device.role, &device.path, me);
        (Replica::Device(device.role), store)
    });
    let devices = devices.collect();
    Ok(Startup {
        places,
        me,
        identity,
        names,
        settings,
        decisions,
        local_copy,
        devices,
        scrub_every,
        node: node.map(str::to_owned),
        locks,
        init,
    })
}

fn no_thread(error: io::Error) -> StartupError {
    StartupError::new(Exit::Internal, format!("cannot start a thread: {error}"))
}

fn make_folder(path: &Path, mode: u32) -> Result<(), StartupError> {
    let parents = path.parent().map_or(Ok(()), |parent| {
        DirBuilder::new().recursive(true).mode(mode).create(parent)
    });
    let made = parents.and_then(|()| locks::make_folder(path, mode));
    made.map_err(|error| {
        StartupError::new(
            Exit::CannotCreate,
            format!(
                "cannot make the folder {}: {error}; make it, or name another with --state or --run",
                path.display()
            ),
        )
    })
}
