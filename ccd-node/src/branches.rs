//! Branches that lost: kept as text beside the local copy, so that an operator can compare and bring back rows.

use ccd_client::files::write_whole;
use ccd_client::wire::BranchReport;
use ccd_core::database::Database;
use ccd_core::time::Date;
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// So many are kept: the one that came last, and those of the newest states.
const KEPT_MAX: usize = 8;

/// Writes one branch as `EPOCH-GENERATION-LINEAGE12.ccd`, durable on return, and drops the oldest beyond the limit.
///
/// # Errors
/// When the folder cannot be written.
pub fn keep(folder: &Path, database: &Database, reason: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let position = database.position();
    let stamp = position.stamp;
    let name = format!(
        "{}-{}-{:.12}.ccd",
        stamp.epoch, stamp.generation, position.lineage
    );
    let path = folder.join(name);
    write_whole(&path, database.to_text().as_bytes(), 0o600)?;
    tracing::warn!(path = %path.display(), "a branch was kept: {reason}");
    if let Err(error) = drop_oldest(folder, &path) {
        tracing::warn!(%error, "branches beyond the newest {KEPT_MAX} could not be removed");
    }
    Ok(())
}

/// Epoch and generation in the name of a branch. Dates say nothing: a clock may have gone back.
fn stamp_of(path: &Path) -> Option<(u64, u64)> {
    let mut parts = path.file_stem()?.to_str()?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The branches that are kept, newest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path) -> io::Result<Vec<BranchReport>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut branches = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".ccd")) else {
            continue;
        };
        let metadata = entry.metadata()?;
        let since = metadata
            .modified()?
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        branches.push(BranchReport {
            name: name.to_owned(),
            kept: Date(since.as_millis() as u64),
            bytes: metadata.len(),
        });
    }
    branches.sort_by(|one, other| (other.kept.0, &other.name).cmp(&(one.kept.0, &one.name)));
    Ok(branches)
}

/// The text of a branch; `None` if there is none of this name.
///
/// # Errors
/// When it cannot be read.
pub fn read(folder: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    // Only what is in the folder has a name: nothing that leads out of it.
    if !list(folder)?.iter().any(|branch| branch.name == name) {
        return Ok(None);
    }
    match fs::read(folder.join(format!("{name}.ccd"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// `newest` stays, whatever it holds.
fn drop_oldest(folder: &Path, newest: &Path) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_branch = path.extension().is_some_and(|extension| extension == "ccd");
        if is_branch && path != newest {
            kept.push((stamp_of(&path), path));
        }
    }
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(KEPT_MAX);
    for (_, path) in kept.into_iter().take(surplus) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_branches_are_kept() {
        let above = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir_in(above.path()).unwrap();
        for number in 0..KEPT_MAX + 3 {
            let path = folder.path().join(format!("1-{number}-abc.ccd"));
            fs::write(&path, "").unwrap();
            // The clock has gone back since.
            let ahead = std::time::Duration::from_secs(100 - number as u64);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() + ahead).unwrap();
        }
        keep(folder.path(), &Database::default(), "test").unwrap();
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), KEPT_MAX);
        assert_eq!(names[0], "0-0-000000000000.ccd");
        assert!(!names.contains(&"1-3-abc.ccd".to_owned()), "{names:?}");
        assert!(names.contains(&"1-4-abc.ccd".to_owned()), "{names:?}");
        let listed = list(folder.path()).unwrap();
        assert_eq!(listed.len(), KEPT_MAX);
        let text = read(folder.path(), "0-0-000000000000").unwrap().unwrap();
        assert_eq!(text, Database::default().to_text().as_bytes());
        fs::write(folder.path().join("../outside.ccd"), "secret").unwrap();
        for name in ["../outside", "1-9", "", "/etc/passwd"] {
            assert_eq!(read(folder.path(), name).unwrap(), None, "{name:?}");
        }
    }
}
