//! From the name of a synchronization command to its file.
//!
//! The name comes from the database, the file from whoever may write `sync.d`: root alone. Nothing else in between: no path, no
//! symbolic link, no file or folder that others could have changed. Looked at before every run, as files come and go.

use ccd_core::synchronization::CommandName;
use nix::unistd::geteuid;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Permission bits that let group or others write.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission to execute.
const EXECUTE: u32 = 0o111;

/// Why a command is not run.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("there is no {} on this node; put it there, or `ccdadm sync-command unset` the key", path.display())]
    Missing { path: PathBuf },
    #[error("{} cannot be looked at: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no {expected}; put one there in its place", path.display())]
    Kind { path: PathBuf, expected: &'static str },
    #[error("{} belongs to user {got}, not to {}; chown it to {allowed}", path.display(), whose(*allowed))]
    Owner { path: PathBuf, got: u32, allowed: u32 },
    #[error("{} may be written by others than its owner; chmod go-w it", path.display())]
    Writable { path: PathBuf },
    #[error("{} may not be executed; chmod +x it", path.display())]
    NotExecutable { path: PathBuf },
}

fn whose(uid: u32) -> String {
    if uid == 0 {
        String::from("root")
    } else {
        format!("root or user {uid}, as which the daemon runs")
    }
}

/// The file that a name stands for, if it may be run.
pub fn find(sync_dir: &Path, name: &CommandName) -> Result<PathBuf, LookupError> {
    let path = sync_dir.join(name.as_str());
    // A user who may change a folder may change the files in it.
    for folder in sync_dir.parent().into_iter().chain([sync_dir]) {
        let found = look(folder, &path)?;
        if !found.is_dir() {
            return Err(LookupError::Kind {
                path: folder.to_owned(),
                expected: "folder",
            });
        }
        check_owner(folder, &found)?;
    }
    let found = look(&path, &path)?;
    if !found.is_file() {
        return Err(LookupError::Kind {
            path,
            expected: "regular file",
        });
    }
    check_owner(&path, &found)?;
    if found.mode() & EXECUTE == 0 {
        return Err(LookupError::NotExecutable { path });
    }
    Ok(path)
}

/// Links are not followed.
fn look(path: &Path, wanted: &Path) -> Result<Metadata, LookupError> {
    fs::symlink_metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LookupError::Missing {
            path: wanted.to_owned(),
        },
        _ => LookupError::Unreadable {
            path: path.to_owned(),
            source,
        },
    })
}

fn check_owner(path: &Path, found: &Metadata) -> Result<(), LookupError> {
    let allowed = geteuid().as_raw();
    if found.uid() != 0 && found.uid() != allowed {
        return Err(LookupError::Owner {
            path: path.to_owned(),
            got: found.uid(),
            allowed,
        });
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(LookupError::Writable {
            path: path.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use tempfile::TempDir;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode can be set");
    }

    /// A folder as `/etc/ccd`, with a command in its `sync.d`.
    fn folders() -> (TempDir, PathBuf, CommandName) {
        let etc = TempDir::new().expect("a folder");
        mode(etc.path(), 0o755);
        let sync_dir = etc.path().join("sync.d");
        fs::create_dir(&sync_dir).expect("a folder in it");
        mode(&sync_dir, 0o755);
        let file = sync_dir.join("realloc");
        fs::write(&file, "#!/bin/sh\n").expect("a file in that");
        mode(&file, 0o755);
        (etc, sync_dir, CommandName::new("realloc").expect("a name"))
    }

    #[test]
    fn a_file_of_the_daemons_own_user_in_a_folder_of_its_own_is_found() {
        let (_etc, sync_dir, name) = folders();
        assert_eq!(
            find(&sync_dir, &name).expect("it may be run"),
            sync_dir.join("realloc")
        );
    }

    #[test]
    fn what_others_could_have_put_there_is_refused_and_the_message_says_what_to_do() {
        type Spoil = fn(&Path);
        let table: [(&str, Spoil, &str); 9] = [
            (
                "no file",
                |dir| fs::remove_file(dir.join("realloc")).unwrap(),
                "there is no",
            ),
            (
                "no folder",
                |dir| fs::rename(dir, dir.with_extension("x")).unwrap(),
                "there is no",
            ),
            (
                "a writable file",
                |dir| mode(&dir.join("realloc"), 0o775),
                "chmod go-w",
            ),
            ("a writable folder", |dir| mode(dir, 0o777), "chmod go-w"),
            (
                "a writable folder above",
                |dir| mode(dir.parent().unwrap(), 0o777),
                "chmod go-w",
            ),
            (
                "not to be executed",
                |dir| mode(&dir.join("realloc"), 0o644),
                "chmod +x",
            ),
            (
                "a folder in its place",
                |dir| {
                    fs::remove_file(dir.join("realloc")).unwrap();
                    fs::create_dir(dir.join("realloc")).unwrap();
                },
                "no regular file",
            ),
            (
                "a link",
                |dir| {
                    fs::remove_file(dir.join("realloc")).unwrap();
                    symlink("/bin/true", dir.join("realloc")).unwrap();
                },
                "no regular file",
            ),
            (
                "a linked folder",
                |dir| {
                    fs::rename(dir, dir.with_extension("x")).unwrap();
                    symlink(dir.with_extension("x"), dir).unwrap();
                },
                "no folder",
            ),
        ];
        for (what, spoil, words) in table {
            let (_etc, sync_dir, name) = folders();
            spoil(&sync_dir);
            let refused = find(&sync_dir, &name).expect_err(what).to_string();
            assert!(refused.contains(words), "{what}: {refused}");
        }
    }

    #[test]
    fn a_strangers_file_or_folder_is_refused() {
        if !geteuid().is_root() {
            // Only root can give a file away; there the daemon's own user is the check above.
            return;
        }
        for which in ["sync.d/realloc", "sync.d", "."] {
            let (etc, sync_dir, name) = folders();
            chown(etc.path().join(which), Some(65_534), None).expect("root may");
            let refused = find(&sync_dir, &name).expect_err(which).to_string();
            assert!(
                refused.contains("belongs to user 65534, not to root"),
                "{which}: {refused}"
            );
        }
    }
}
