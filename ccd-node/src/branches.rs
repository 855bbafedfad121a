//! Branches that lost: kept as text beside the local copy, so that an operator can compare and bring back rows.

use ccd_client::files::write_whole;
use ccd_core::database::Database;
use std::fs;
use std::io;
use std::path::Path;

/// The newest so many are kept.
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
    drop_oldest(folder)
}

fn drop_oldest(folder: &Path) -> io::Result<()> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "ccd")
        {
            kept.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT_MAX);
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
        let folder = tempfile::tempdir().unwrap();
        for number in 0..KEPT_MAX + 3 {
            let path = folder.path().join(format!("1-{number}-abc.ccd"));
            fs::write(&path, "").unwrap();
            let age = std::time::Duration::from_secs(100 - number as u64);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
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
    }
}
