//! The two sockets under their names: clients reach the daemon by `client.sock`, who controls it by `control.sock`.

use super::access::{AccessRules, READERS_GROUP};
use crate::file_id::FileId;
use ccd_core::init::AccessRight;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
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

/// Makes both sockets. The run folder's lock is held, so a socket that is there belongs to no live daemon.
///
/// # Errors
/// When the folder cannot be written.
pub fn bind(client_path: &Path, control_path: &Path, rules: &AccessRules) -> io::Result<Sockets> {
    Ok(Sockets {
        clients: Socket::bind(client_path, AccessRight::Read, rules)?,
        control: Socket::bind(control_path, AccessRight::Admin, rules)?,
    })
}

/// More names are known: those whom the rows name must reach the sockets.
pub(super) fn open_sockets(paths: &[PathBuf; 2], rules: &AccessRules) {
    for (path, right) in paths.iter().zip([AccessRight::Read, AccessRight::Admin]) {
        if let Err(error) = fs::set_permissions(path, Permissions::from_mode(mode(right, rules))) {
            tracing::warn!(%error, "{} keeps its permissions", path.display());
        }
        give_to_readers(path, rules);
    }
}

/// Whom a row names must reach the socket; what they may ask is then looked at for each request. Those who may read may collect
/// metrics on `control.sock`.
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
    /// Who must reach it.
    right: AccessRight,
    /// What was made under the name.
    made: Option<FileId>,
    look: Interval,
    /// That it cannot be made again has been said.
    is_said: bool,
}

impl Socket {
    fn bind(path: &Path, right: AccessRight, rules: &AccessRules) -> io::Result<Self> {
        let listener = listen(path, mode(right, rules))?;
        give_to_readers(path, rules);
        Ok(Self {
            listener,
            path: path.to_owned(),
            right,
            made: FileId::of(path),
            look: interval(BETWEEN_LOOKS),
            is_said: false,
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

    /// One whose name leads elsewhere is reached by nobody. Connections that stand stay.
    fn make_again_if_gone(&mut self, rules: &AccessRules) {
        if FileId::of(&self.path) == self.made {
            return;
        }
        let shown = self.path.display();
        if let Some(folder) = self.path.parent() {
            // What is wrong with it the socket's error says.
            let _ = fs::DirBuilder::new().mode(0o755).create(folder);
        }
        match listen(&self.path, mode(self.right, rules)) {
            Ok(listener) => {
                give_to_readers(&self.path, rules);
                tracing::warn!("{shown} was gone, and was made again");
                self.listener = listener;
                self.made = FileId::of(&self.path);
                self.is_said = false;
            }
            Err(error) if !self.is_said => {
                tracing::warn!(%error, "{shown} is gone, and cannot be made again; it is tried every few seconds");
                self.is_said = true;
            }
            Err(_) => {}
        }
    }
}

fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    remove_if_there(path)?;
    // Under another name until its permissions are right: nobody can connect before.
    let hidden = path.with_extension("new");
    remove_if_there(&hidden)?;
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, Permissions::from_mode(mode))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
