//! One daemon for each state folder and each run folder.
//!
//! Each folder has a lock file that only its owner can open (`lock_file.rs` of ccd-client says why). Root can remove a lock file, so
//! the daemon looks every few seconds whether it is still there, and makes and locks it again: the run folder's before a socket is
//! made there (`clients/sockets.rs`), the state folder's with the other files (`surroundings.rs`). A state folder that only its owner
//! can open is locked itself as well, which holds from the first moment on. Taken by `startup.rs`.

use crate::file_id::FileId;
use crate::startup::StartupError;
use ccd_client::lock_file::{LockError, LockFile};
use ccd_client::{Exit, Places};
use ccd_core::problem::{Cause, Problem};
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permissions of a run folder: every user may have rights in the database, so every user can reach the sockets.
pub const RUN_FOLDER_MODE: u32 = 0o755;

/// Held for as long as the daemon lives.
#[derive(Debug)]
pub struct Locks {
    pub state: StateLock,
    pub run: RunLock,
}

impl Locks {
    /// # Errors
    /// When another process holds one of them, or a lock file cannot be made.
    pub fn take(places: &Places) -> Result<Self, StartupError> {
        Ok(Self {
            state: StateLock::take(places)?,
            run: RunLock::take(places)?,
        })
    }
}

/// The lock on a state folder.
#[derive(Debug)]
pub struct StateLock {
    /// Tells runs on one state folder from each other, and holds the number of the process.
    lock: LockFile,
    folder: PathBuf,
    id: Option<FileId>,
    /// The folder itself, locked. `None`: others can open it, and so could lock it.
    _closed: Option<File>,
}

impl StateLock {
    fn take(places: &Places) -> Result<Self, StartupError> {
        let (path, folder) = (places.state_lock_path(), &places.state);
        let process = fs::read_to_string(&path).unwrap_or_default();
        let by = match process.trim() {
            "" => "another process".to_owned(),
            process => format!("another ccdd (process {process})"),
        };
        let lock = LockFile::take(&path).map_err(|error| refusal(error, &by, "state", folder))?;
        let closed = lock_closed(folder).map_err(|error| match error {
            TryLockError::WouldBlock => in_use(&by, "state", folder, folder),
            TryLockError::Error(error) => unusable(folder, &error),
        })?;
        write_process(&lock).map_err(|error| unusable(&path, &error))?;
        Ok(Self {
            lock,
            folder: folder.clone(),
            id: FileId::of(folder),
            _closed: closed,
        })
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        self.lock.file()
    }

    /// Makes and locks the file again if it was removed. Returns what is wrong if that cannot be done.
    pub fn keep(&mut self) -> Option<Problem> {
        // A folder that is gone, or another one, is told of otherwise.
        let is_own_folder = self.id.is_some() && FileId::of(&self.folder) == self.id;
        if self.lock.is_in_place() || !is_own_folder {
            return None;
        }
        let path = self.lock.path().to_owned();
        let error = match take_again(&mut self.lock).and_then(|()| {
            write_process(&self.lock).map_err(|source| LockError::Io {
                path: path.clone(),
                source,
            })
        }) {
            Ok(()) => {
                tracing::warn!("the lock {} was gone, and was made again", path.display());
                return None;
            }
            Err(error) => error,
        };
        let text = format!(
            "the lock of the state folder was removed, and cannot be taken again: {error}: another ccdd could start with this folder"
        );
        Some(Problem::new(Cause::StateFolder, text).next(format!("fuser -v {}", path.display())))
    }
}

/// The lock on a run folder: its holder makes the sockets there, and no other daemon does.
#[derive(Debug)]
pub struct RunLock {
    lock: LockFile,
    folder: PathBuf,
}

impl RunLock {
    fn take(places: &Places) -> Result<Self, StartupError> {
        let lock = LockFile::take(&places.run_lock_path())
            .map_err(|error| refusal(error, "another process", "run", &places.run))?;
        write_process(&lock).map_err(|error| unusable(lock.path(), &error))?;
        Ok(Self {
            lock,
            folder: places.run.clone(),
        })
    }

    /// Whether no other daemon can have the folder that has the name now.
    pub fn is_held(&self) -> bool {
        self.lock.is_in_place()
    }

    /// Makes and locks the file again if it was removed, and the folder if that was.
    ///
    /// # Errors
    /// When another daemon has the folder by now, or it cannot be written.
    pub fn keep(&mut self) -> io::Result<()> {
        if self.is_held() {
            return Ok(());
        }
        make_folder(&self.folder, RUN_FOLDER_MODE)?;
        let shown = self.lock.path().display().to_string();
        take_again(&mut self.lock)
            .map_err(|error| io::Error::other(format!("{error}; fuser -v {shown} shows the process")))?;
        tracing::warn!("the lock {shown} was gone, and was made again");
        write_process(&self.lock)
    }
}

fn take_again(lock: &mut LockFile) -> Result<(), LockError> {
    match LockFile::take(lock.path()) {
        Ok(taken) => *lock = taken,
        // It has been put back meanwhile: it is this process that holds it.
        Err(LockError::Held { .. }) if lock.is_in_place() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn write_process(lock: &LockFile) -> io::Result<()> {
    lock.file().set_len(0)?;
    lock.file()
        .write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
}

/// Locks a folder that only its owner can open.
fn lock_closed(folder: &Path) -> Result<Option<File>, TryLockError> {
    let open = File::open(folder).map_err(TryLockError::Error)?;
    let mode = open.metadata().map_err(TryLockError::Error)?.mode();
    if mode & 0o044 != 0 {
        return Ok(None);
    }
    open.try_lock()?;
    Ok(Some(open))
}

/// Makes a folder, with these permissions whatever the umask is; one that is there stays as it is.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn refusal(error: LockError, by: &str, option: &str, folder: &Path) -> StartupError {
    match error {
        LockError::Held { path } => in_use(by, option, folder, &path),
        LockError::Io { path, source } => unusable(&path, &source),
    }
}

fn unusable(path: &Path, error: &io::Error) -> StartupError {
    StartupError::new(
        Exit::CannotCreate,
        format!("cannot lock {}: {error}", path.display()),
    )
}

fn in_use(by: &str, option: &str, folder: &Path, locked: &Path) -> StartupError {
    let text = format!(
        "{by} uses the {option} folder {}: `fuser -v {}` shows the process that holds its lock; stop it, or give this ccdd a folder of \
         its own with --{option}",
        folder.display(),
        locked.display()
    );
    StartupError::new(Exit::Busy, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(base: &Path, [etc, state, run]: [&str; 3]) -> Places {
        let [etc, state, run] = [etc, state, run].map(|name| base.join(name));
        for (folder, mode) in [(&etc, 0o755), (&run, 0o755), (&state, 0o700)] {
            fs::create_dir_all(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
        }
        Places { etc, state, run }
    }

    fn refused(places: &Places) -> StartupError {
        let error = Locks::take(places).unwrap_err();
        assert_eq!(error.exit_code, Exit::Busy as u8, "{}", error.text);
        error
    }

    #[test]
    fn one_folder_may_serve_for_all_and_no_two_daemons_share_a_state_or_run_folder() {
        let base = tempfile::tempdir().unwrap();
        let places = |names| places(base.path(), names);
        let all_in_one = places(["one"; 3]);
        let one = Locks::take(&all_in_one).unwrap();
        // Editing the init database there needs another lock.
        drop(LockFile::take(&all_in_one.init_lock_path()).unwrap());
        assert!(refused(&all_in_one).text.contains("uses the state folder"));
        drop(one);
        drop(Locks::take(&all_in_one).unwrap());
        let _state_is_run = Locks::take(&places(["e", "both", "both"])).unwrap();
        let held = places(["e", "s", "r"]);
        let _held = Locks::take(&held).unwrap();
        for (names, option, lock) in [
            (["e", "s", "r2"], "--state", held.state_lock_path()),
            (["e", "s2", "r"], "--run", held.run_lock_path()),
        ] {
            let text = refused(&places(names)).text;
            let find = format!("fuser -v {}", lock.display());
            assert!(text.contains(option) && text.contains(&find), "{text}");
        }
    }

    #[test]
    fn a_removed_lock_file_lets_no_second_daemon_use_a_state_folder_that_is_also_the_folder_of_the_files() {
        let base = tempfile::tempdir().unwrap();
        for names in [["e", "s", "r"], ["one", "one", "r2"]] {
            let places = places(base.path(), names);
            let _held = Locks::take(&places).unwrap();
            fs::remove_file(places.state_lock_path()).unwrap();
            assert!(refused(&places).text.contains("--state"));
        }
    }

    #[test]
    fn a_user_who_locks_what_is_open_to_all_keeps_no_daemon_from_starting() {
        let base = tempfile::tempdir().unwrap();
        let places = places(base.path(), ["e", "s", "r"]);
        fs::set_permissions(&places.state, Permissions::from_mode(0o755)).unwrap();
        let theirs = [&places.etc, &places.state, &places.run].map(|folder| {
            let open = File::open(folder).unwrap();
            open.try_lock_shared().unwrap();
            open
        });
        let _held = Locks::take(&places).unwrap();
        drop(LockFile::take(&places.init_lock_path()).unwrap());
        drop(theirs);
        // All that is locked there is closed to others.
        let _held = refused(&places);
        for path in [places.state_lock_path(), places.run_lock_path()] {
            let mode = fs::metadata(&path).unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
    }

    #[test]
    fn locks_that_somebody_removed_are_taken_again_and_no_two_daemons_have_one() {
        let base = tempfile::tempdir().unwrap();
        let places = places(base.path(), ["e", "s", "r"]);
        let mut ours = Locks::take(&places).unwrap();
        fs::remove_file(places.state_lock_path()).unwrap();
        fs::remove_dir_all(&places.run).unwrap();
        assert!(!ours.run.is_held());
        assert_eq!(ours.state.keep(), None);
        ours.run.keep().unwrap();
        assert!(ours.run.is_held());
        let mode = fs::metadata(&places.run).unwrap().mode();
        assert_eq!(mode & 0o777, RUN_FOLDER_MODE);
        let process = fs::read_to_string(places.state_lock_path()).unwrap();
        assert_eq!(process.trim(), std::process::id().to_string());
        // Another daemon is faster.
        for path in [places.state_lock_path(), places.run_lock_path()] {
            fs::remove_file(&path).unwrap();
        }
        let theirs = (
            LockFile::take(&places.state_lock_path()).unwrap(),
            LockFile::take(&places.run_lock_path()).unwrap(),
        );
        let problem = ours.state.keep().unwrap();
        assert_eq!(problem.cause, Cause::StateFolder);
        assert!(problem.text.contains("another process holds"), "{}", problem.text);
        let error = ours.run.keep().unwrap_err().to_string();
        assert!(error.contains("fuser -v"), "{error}");
        assert!(!ours.run.is_held());
        drop(theirs);
        ours.run.keep().unwrap();
    }
}
