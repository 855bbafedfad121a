//! Asking a daemon as another user: with a copy of the programs that everybody may run, and folders that everybody may
//! enter.

use super::Cluster;
use super::programs::{Finished, command, copy_program, run_command};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Somebody who is not root. Needs no entry in the machine's lists of users.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
}

/// A cluster's first node, as other users see it.
#[derive(Debug)]
pub struct Door {
    folder: PathBuf,
    run: PathBuf,
}

impl Door {
    /// Opens the folders of the test on the way to the node's sockets, and no more.
    ///
    /// # Panics
    /// When the folders are not ours.
    pub fn open(cluster: &Cluster) -> Self {
        let (folder, run) = (cluster.folder().to_owned(), cluster.alpha().places().run.clone());
        for path in [&folder, &folder.join("alpha"), &run] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("the folder is ours");
        }
        for name in ["ccdadm", "ccdctl"] {
            copy_program(name, &folder);
        }
        Self { folder, run }
    }

    /// A command that runs a program of the test's folder, or of the system, as this user.
    pub fn command(&self, user: User<'_>, name: &str, words: &[&str]) -> std::process::Command {
        let own = self.folder.join(name);
        let path = if own.exists() { own } else { PathBuf::from(name) };
        let path = path.to_str().expect("the path is ours");
        let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
        let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
        let groups = groups.join(",");
        let mut all = vec!["--reuid", &uid, "--regid", &gid];
        if groups.is_empty() {
            all.push("--clear-groups");
        } else {
            all.extend(["--groups", &groups]);
        }
        all.push(path);
        all.extend(words);
        let mut command = command("setpriv", &all);
        // Not those of root's own folder.
        command
            .env("CCD_RUN", &self.run)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs `ccdadm` or `ccdctl` to its end.
    pub fn ask(&self, user: User<'_>, name: &str, words: &[&str]) -> Finished {
        run_command(&mut self.command(user, name, words))
    }
}
