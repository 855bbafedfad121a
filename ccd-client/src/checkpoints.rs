//! Checkpoints in the state folder: database files with a name. `ccdadm checkpoint` writes those that people name, the daemon the
//! automatic ones; `ccdadm checkpoints` lists both, and `ccdadm restore --checkpoint` brings one back.
//!
//! Always holds: a file that is there is whole (it was written under another name before), and only automatic ones go by
//! themselves.

use crate::dates::date_text;
use crate::files;
use crate::places::Places;
use ccd_core::database::{ConsistencyRecord, Database, FileOrigin};
use ccd_core::init::check_name;
use ccd_core::time::Date;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// What the names of automatic ones begin with; no other's does.
pub const AUTOMATIC: &str = "auto-";

const SUFFIX: &str = ".ccd";

/// A consistency record is no longer than this.
const RECORD_BYTES_MAX: u64 = 1024;

/// One of them, as it is listed.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub name: String,
    pub path: PathBuf,
    /// When the file was written.
    pub saved: Date,
    pub bytes: u64,
    /// The file's last line; `None` if it is no consistency record.
    pub record: Option<ConsistencyRecord>,
}

impl Checkpoint {
    pub fn is_automatic(&self) -> bool {
        self.name.starts_with(AUTOMATIC)
    }
}

/// The name that an automatic one of this date gets: `auto-2026-11-26T06-15-00`.
pub fn automatic_name(date: Date) -> String {
    format!("{AUTOMATIC}{}", stamp(date))
}

/// `2026-11-26T06-15-00`
pub fn stamp(date: Date) -> String {
    let text = date_text(date);
    text.get(..19).unwrap_or(&text).replace(':', "-")
}

/// Where one of this name is, or would be.
///
/// # Errors
/// What is wrong with the name: it becomes that of a file.
pub fn path_of(places: &Places, name: &str) -> Result<PathBuf, String> {
    check_name(name)?;
    Ok(places.checkpoints_dir().join(format!("{name}{SUFFIX}")))
}

/// Saves a database, durable on return, in the place of what had the name.
///
/// # Errors
/// When the folder cannot be made or the file not written.
pub fn save(path: &Path, database: &Database, origin: &FileOrigin) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    files::write_whole(path, database.to_file_text(origin).as_bytes(), 0o600)
}

/// All of them, newest first.
///
/// # Errors
/// When the folder cannot be read; one that is not there holds none.
pub fn list(folder: &Path) -> io::Result<Vec<Checkpoint>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name
            .and_then(|name| name.strip_suffix(SUFFIX))
            .filter(|name| check_name(name).is_ok())
        else {
            continue;
        };
        let metadata = fs::metadata(&path)?;
        let since = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        found.push(Checkpoint {
            name: name.to_owned(),
            saved: Date(since.as_millis() as u64),
            bytes: metadata.len(),
            record: record_of(&path),
            path,
        });
    }
    found.sort_by(|one, other| (other.saved.0, &other.name).cmp(&(one.saved.0, &one.name)));
    Ok(found)
}

/// The record alone: a list of checkpoints does not read them all.
fn record_of(path: &Path) -> Option<ConsistencyRecord> {
    let mut file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(RECORD_BYTES_MAX)))
        .ok()?;
    let mut end = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut end).ok()?;
    let end = String::from_utf8_lossy(&end);
    ConsistencyRecord::parse_text(end.lines().last()?).ok()
}

/// Removes the oldest automatic ones but `keep`; returns their names.
///
/// # Errors
/// When one cannot be removed.
pub fn rotate(folder: &Path, keep: usize) -> io::Result<Vec<String>> {
    let automatic = list(folder)?.into_iter().filter(Checkpoint::is_automatic);
    let mut dropped = Vec::new();
    for checkpoint in automatic.skip(keep) {
        fs::remove_file(&checkpoint.path)?;
        dropped.push(checkpoint.name);
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::ClusterId;

    fn origin() -> FileOrigin {
        FileOrigin {
            cluster: ClusterId([7; 16]),
            name: "prod".to_owned(),
        }
    }

    fn places(folder: &Path) -> Places {
        Places {
            etc: folder.into(),
            state: folder.into(),
            run: folder.into(),
        }
    }

    #[test]
    fn the_oldest_automatic_ones_go_and_those_with_a_name_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let places = places(folder.path());
        let database = Database::default();
        for second in 0..5 {
            let path = path_of(&places, &automatic_name(Date(second * 1_000))).expect("it is a name");
            save(&path, &database, &origin()).expect("it is saved");
            let file = File::options().write(true).open(&path).expect("it is there");
            let time = UNIX_EPOCH + std::time::Duration::from_secs(second + 1);
            file.set_modified(time).expect("the file is ours");
        }
        let named = path_of(&places, "before-upgrade").expect("it is a name");
        save(&named, &database, &origin()).expect("it is saved");
        fs::write(places.checkpoints_dir().join("auto-broken.ccd"), "no record\n")
            .expect("the folder is ours");
        fs::write(places.checkpoints_dir().join(".hidden.ccd"), "").expect("the folder is ours");
        let dropped = rotate(&places.checkpoints_dir(), 3).expect("they can be removed");
        assert_eq!(
            dropped,
            [
                "auto-1970-01-01T00-00-02",
                "auto-1970-01-01T00-00-01",
                "auto-1970-01-01T00-00-00"
            ]
        );
        let left = list(&places.checkpoints_dir()).expect("it is there");
        let names: Vec<&str> = left.iter().map(|checkpoint| checkpoint.name.as_str()).collect();
        assert_eq!(names.len(), 4);
        assert!(names.contains(&"before-upgrade"));
        let records = left
            .iter()
            .filter(|checkpoint| checkpoint.record.is_some())
            .count();
        assert_eq!(records, 3, "{names:?}");
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let places = places(Path::new("/state"));
        for name in ["../x", "a/b", "", ".x", "-x", "a b"] {
            assert!(path_of(&places, name).is_err(), "{name:?}");
        }
        let path = path_of(&places, "a-1.b").expect("it is a name");
        assert_eq!(path, Path::new("/state/checkpoints/a-1.b.ccd"));
    }
}
