//! The two sockets under their names: clients reach the daemon by `ccdd.sock`, operators and monitoring by `control.sock`.
//!
//! Always holds: a socket is made only while the run folder's lock is held, so no two daemons take the names from each other.

use super::access::{AccessRules, READERS_GROUP};
use crate::file_id::FileId;
use crate::locks::RunLock;
use ccd_core::init::AccessRight;
use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, interval};

/// How often it is looked whether a socket is still under its name.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Both sockets, ready to be served.
#[derive(Debug)]
pub struct Sockets {
    pub(super) clients: Socket,
    pub(super) control: Socket,
}

/// Makes both sockets. One that is there was left by a daemon that has ended.
///
/// # Errors
/// `AddrInUse` if a process listens on one that is there: a daemon whose lock file was removed. Others when the folder cannot be
/// written.
pub async fn bind(
    [client_path, control_path]: [PathBuf; 2],
    rules: &AccessRules,
    lock: &Rc<RefCell<RunLock>>,
) -> io::Result<Sockets> {
    for path in [&client_path, &control_path] {
        refuse_if_served(path).await?;
    }
    Ok(Sockets {
        clients: Socket::bind(client_path, AccessRight::Read, rules, lock)?,
        control: Socket::bind(control_path, AccessRight::Admin, rules, lock)?,
    })
}

async fn refuse_if_served(path: &Path) -> io::Result<()> {
    let is_served = match UnixStream::connect(path).await {
        Ok(_) => true,
        // Its queue of connections is full.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    if is_served {
        // By the folder: the kernel shows a socket under the name that it was bound to.
        let folder = path.parent().unwrap_or(path).display();
        let text = format!(
            "another process listens on {}: `ss -xlp | grep {folder}/` shows it; stop it",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    Ok(())
}

/// More names are known: the sockets are opened to the users that the rows name.
pub(super) fn open_sockets(paths: &[PathBuf; 2], rules: &AccessRules) {
    for (path, right) in paths.iter().zip([AccessRight::Read, AccessRight::Admin]) {
        if let Err(error) = fs::set_permissions(path, Permissions::from_mode(mode(right, rules))) {
            tracing::warn!(%error, "{} keeps its permissions", path.display());
        }
        give_to_readers(path, rules);
    }
}

/// A socket is open to all users if a row grants its right to anybody; each request is then checked by itself. Users with the right to
/// read may collect metrics on `control.sock`.
fn mode(right: AccessRight, rules: &AccessRules) -> u32 {
    if rules.grants_any(right) { 0o666 } else { 0o660 }
}

fn give_to_readers(path: &Path, rules: &AccessRules) {
    if let Some(gid) = rules.readers_gid()
        && let Err(error) = std::os::unix::fs::chown(path, None, Some(gid.as_raw()))
    {
        tracing::warn!(%error, "{} cannot be given to the group {READERS_GROUP}", path.display());
    }
}

/// One socket. As long as it is served it is there under its name.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Every user with this right can connect.
    right: AccessRight,
    /// The file that was made. Its number is given to no other file as long as the socket is open.
    made: FileId,
    lock: Rc<RefCell<RunLock>>,
    look: Interval,
    /// The last failure to make it again was logged.
    is_logged: bool,
}

impl Socket {
    fn bind(
        path: PathBuf,
        right: AccessRight,
        rules: &AccessRules,
        lock: &Rc<RefCell<RunLock>>,
    ) -> io::Result<Self> {
        let (listener, made) = listen(&path, mode(right, rules))?;
        give_to_readers(&path, rules);
        Ok(Self {
            listener,
            path,
            right,
            made,
            lock: lock.clone(),
            look: interval(BETWEEN_LOOKS),
            is_logged: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Meanwhile a socket that somebody removed is made again.
    pub async fn accept(&mut self, rules: impl Fn() -> Rc<AccessRules>) -> io::Result<UnixStream> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return Ok(accepted?.0),
                _ = self.look.tick() => self.make_again_if_gone(&rules()),
            }
        }
    }

    /// A socket whose name leads elsewhere is reached by nobody. Connections that stand stay.
    fn make_again_if_gone(&mut self, rules: &AccessRules) {
        let locked = self.lock.borrow_mut().keep();
        let shown = self.path.display();
        if FileId::of(&self.path) == Some(self.made) {
            match &locked {
                Ok(()) => self.is_logged = false,
                Err(error) if !self.is_logged => {
                    tracing::warn!(%error, "{shown} is there, but the lock beside it is gone: another ccdd could start with that folder");
                    self.is_logged = true;
                }
                Err(_) => {}
            }
            return;
        }
        match locked.and_then(|()| listen(&self.path, mode(self.right, rules))) {
            Ok((listener, made)) => {
                give_to_readers(&self.path, rules);
                tracing::warn!("{shown} was gone, and was made again");
                (self.listener, self.made) = (listener, made);
                self.is_logged = false;
            }
            Err(error) if !self.is_logged => {
                tracing::warn!(%error, "{shown} is gone, and cannot be made again; it is tried every few seconds");
                self.is_logged = true;
            }
            Err(_) => {}
        }
    }
}

/// Makes a socket under this name, in the place of the one that is there.
fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, FileId)> {
    remove_if_there(path)?;
    // Under another name until its permissions are right: nobody can connect before.
    let hidden = path.with_extension("new");
    remove_if_there(&hidden)?;
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, Permissions::from_mode(mode))?;
    let made = FileId::of(&hidden).ok_or_else(|| io::Error::other("it was removed at once"))?;
    fs::rename(&hidden, path)?;
    Ok((listener, made))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::Locks;
    use ccd_client::Places;
    use ccd_client::lock_file::LockFile;

    #[tokio::test]
    async fn a_socket_is_made_again_whenever_its_name_is_gone_and_only_by_the_holder_of_the_lock() {
        let base = tempfile::tempdir().unwrap();
        let places = Places {
            etc: base.path().into(),
            state: base.path().into(),
            run: base.path().join("run"),
        };
        fs::create_dir(&places.run).unwrap();
        let locks = Locks::take(&places).unwrap();
        let lock = Rc::new(RefCell::new(locks.run));
        let rules = AccessRules::of_numbers(&[]);
        let paths = || [places.client_socket(), places.control_socket()];
        let mut sockets = bind(paths(), &rules, &lock).await.unwrap();
        let socket = &mut sockets.clients;
        for _ in 0..3 {
            fs::remove_file(&socket.path).unwrap();
            socket.make_again_if_gone(&rules);
            assert_eq!(FileId::of(&socket.path), Some(socket.made));
        }
        // Another daemon has the folder that has the name now.
        fs::remove_dir_all(&places.run).unwrap();
        fs::create_dir(&places.run).unwrap();
        let theirs = LockFile::take(&places.run_lock_path()).unwrap();
        socket.make_again_if_gone(&rules);
        assert!(!socket.path.exists());
        drop(theirs);
        socket.make_again_if_gone(&rules);
        assert!(socket.path.exists() && lock.borrow().is_held());
        // Nor is one that a process listens on replaced by a daemon that starts.
        let error = bind(paths(), &rules, &lock).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("ss -xlp"), "{error}");
        drop(sockets);
        drop(bind(paths(), &rules, &lock).await.unwrap());
    }
}
