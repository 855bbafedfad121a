//! Everything that is checked and read before the daemon serves; each failure with its exit code.

use crate::clients::NameLookup;
use crate::decisions::Decisions;
use crate::descriptors;
use crate::fences;
use crate::file_id::FileId;
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
use std::fs::{self, DirBuilder, File, TryLockError};
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
    for folder in [&places.state, &places.run] {
        make_folder(folder, if *folder == places.state { 0o700 } else { 0o755 })?;
    }
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
        host: crate::host::host(&locks.file, roster.servers.get(me)),
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
        epoch: Cell::default(),
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
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| {
            StartupError::new(
                Exit::CannotCreate,
                format!(
                    "cannot make the folder {}: {error}; make it, or name another with --state or --run",
                    path.display()
                ),
            )
        })
}

/// One daemon for each state folder and each run folder. The folders are locked themselves, because a file in them can be removed.
#[derive(Debug)]
pub struct Locks {
    /// Tells runs on one state folder from each other, and names the process.
    pub file: File,
    _folders: Vec<File>,
}

impl Locks {
    fn take(places: &Places) -> Result<Self, StartupError> {
        let path = places.state.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| unusable(&path, &error))?;
        let process = fs::read_to_string(&path).unwrap_or_default();
        let by = format!("another ccdd (process {})", process.trim());
        try_lock(&file, &path, || in_use(&by, "state", &places.state))?;
        // One folder may be all three; whoever edits the init database locks the one that it is in.
        let mut taken: Vec<FileId> = FileId::of(&places.etc).into_iter().collect();
        let mut folders = Vec::new();
        for (folder, option) in [(&places.state, "state"), (&places.run, "run")] {
            let id = FileId::of(folder);
            if id.is_some_and(|id| taken.contains(&id)) {
                continue;
            }
            let open = File::open(folder).map_err(|error| unusable(folder, &error))?;
            try_lock(&open, folder, || in_use("another ccdd", option, folder))?;
            taken.extend(id);
            folders.push(open);
        }
        fs::write(&path, format!("{}\n", std::process::id())).map_err(|error| unusable(&path, &error))?;
        Ok(Self {
            file,
            _folders: folders,
        })
    }
}

fn unusable(path: &Path, error: &io::Error) -> StartupError {
    StartupError::new(
        Exit::CannotCreate,
        format!("cannot use {}: {error}", path.display()),
    )
}

fn in_use(by: &str, option: &str, folder: &Path) -> StartupError {
    let text = format!(
        "{by} uses the {option} folder {}; stop it, or give this one its own with --{option}",
        folder.display()
    );
    StartupError::new(Exit::Busy, text)
}

fn try_lock(file: &File, path: &Path, in_use: impl FnOnce() -> StartupError) -> Result<(), StartupError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(in_use()),
        Err(TryLockError::Error(error)) => Err(unusable(path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_may_serve_for_all_and_no_two_daemons_share_a_state_or_run_folder() {
        let base = tempfile::tempdir().unwrap();
        let places = |etc: &str, state: &str, run: &str| {
            let [etc, state, run] = [etc, state, run].map(|name| base.path().join(name));
            for folder in [&etc, &state, &run] {
                fs::create_dir_all(folder).unwrap();
            }
            Places { etc, state, run }
        };
        let refused = |places: &Places| Locks::take(places).unwrap_err();
        let all_in_one = places("one", "one", "one");
        let one = Locks::take(&all_in_one).unwrap();
        // Whoever edits the init database there locks that folder.
        File::open(&all_in_one.etc).unwrap().try_lock().unwrap();
        assert!(refused(&all_in_one).text.contains("uses the state folder"));
        drop(one);
        drop(Locks::take(&all_in_one).unwrap());
        let _state_is_run = Locks::take(&places("e", "both", "both")).unwrap();
        let held = places("e", "s", "r");
        let _held = Locks::take(&held).unwrap();
        fs::remove_file(held.state.join("lock")).unwrap();
        for (other, option) in [
            (places("e", "s", "r2"), "--state"),
            (places("e", "s2", "r"), "--run"),
        ] {
            let error = refused(&other);
            assert!(
                error.exit_code == Exit::Busy as u8 && error.text.contains(option),
                "{}",
                error.text
            );
        }
    }
}
